"""Localisation: how much of a map of a class's name falls on the class.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import label_map_checks, label_maps
from cosmos_eval.data.folders import Survey
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats import localisation as stats
from cosmos_eval.stats.estimates import FunctionOfSums, GroupMean, Values, means_of_groups
from cosmos_eval.stats.suppression import GroupHits, share_difference, share_of_a, share_of_b
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric, Unit
from cosmos_eval.tasks.task import NAME, Task
from cosmos_eval.types import (
    Attention,
    LocalisationProtocol,
    Measurement,
    OnProgress,
    RunOptions,
    Samples,
)

# Stored arrays of N images, C classes, and P pairs of an image and a class in it.
PIXELS = "image_pixels"  # (N,)
LABELLED = "labelled_pixels"  # (N,) pixels with a label
CLASSES = "classes"  # (C,) names
OBJECTS = "objects"  # (C,) whether a class is an object, and not stuff such as grass
BOUNDS = "bounds"  # (2,) the least fraction of an image that a medium, and a large, thing covers
IMAGE = "image"  # (P,) index of the image of a pair
CLASS = "class"  # (P,) index of the class of a pair
THING = "thing_pixels"  # (P,) pixels of the class
# Fields of stats.localisation.MapScores, (P,) float32.
MASS = "mass"
HIT = "hit"
AUC = "auc"
OTHER_NAMES = "other_names"
SCORES = (MASS, HIT, AUC, OTHER_NAMES)
_MOST_PIXELS = 2**31  # of an image
ARRAYS = (
    SampleArray(NAME, "text", ("images",)),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(OBJECTS, "truth value", ("classes",), optional=True),
    SampleArray(BOUNDS, "number", (2,), least=0, most=1),
    SampleArray(PIXELS, "whole number", ("images",), least=1, most=_MOST_PIXELS),
    SampleArray(LABELLED, "whole number", ("images",), least=0, most=_MOST_PIXELS),
    SampleArray(IMAGE, "whole number", ("pairs",), least=0, below="images"),
    SampleArray(CLASS, "whole number", ("pairs",), least=0, below="classes"),
    SampleArray(THING, "whole number", ("pairs",), least=1, most=_MOST_PIXELS),
    SampleArray(MASS, "number", ("pairs",), least=0, most=1),
    SampleArray(HIT, "number", ("pairs",), least=0, most=1),
    SampleArray(AUC, "number", ("pairs",), least=0, most=1),
    SampleArray(OTHER_NAMES, "number", ("pairs",), least=0, most=1, may_be_nan=True),
)
SUMS = "sums"  # derived: stats.localisation.Sums of every image
ROLES = "roles"  # derived: stats.suppression.GroupHits of every image


def _areas_of_things(samples: Samples) -> NDArray[np.float64]:
    """Return the area of the thing, (P,), for each of P pairs of an image and a thing in it.

    It is a fraction of the labelled pixels of the image.
    """
    labelled_pixels = samples[LABELLED][samples[IMAGE]]
    return np.divide(samples[THING], labelled_pixels)


@dataclass(frozen=True)
class _SizeEstimate:
    """Computes a metric from the samples, for the things of one size or for all things."""

    # Computes the metric (...,) from sums (...,) over pairs of an image and a thing in it.
    compute_metric: Callable[[stats.Sums], Values]
    # An index of `stats.SIZES`; None: all things.
    size: int | None

    def __call__(self, samples: Derived) -> FunctionOfSums:
        """Return the estimate of the metric from samples with the derived sums."""
        return FunctionOfSums(samples[SUMS], self.value)

    def value(self, sums: stats.Sums) -> Values:
        """Return the metric (...,) of the things of this size from sums (..., sizes)."""
        return self.compute_metric(stats.of_size(self.size, sums))


def _metrics() -> Iterator[Metric]:
    """Yield the metrics of all things, and then the metrics of small, medium and large things.

    Tables show only metrics of all things, and not their area, which is the same for all models.
    """
    unit_by_name: dict[str, Unit] = {}
    for name in stats.METRICS:
        unit_by_name[name] = "ratio" if "_over_" in name else "fraction"
    for name, compute_metric in stats.METRICS.items():
        is_area = name == "area"
        label = name.replace("_over_", " / ").replace("_", " ")  # "mass_over_area" -> "mass / area"
        yield Metric(
            name,
            _SizeEstimate(compute_metric, size=None),
            unit_by_name[name],
            label="" if is_area else label,
            headline=not is_area,
            primary=name in ("attention_mass", "AUC"),
        )
    for size, size_name in enumerate(stats.SIZES):
        for name, compute_metric in stats.METRICS.items():
            estimate = _SizeEstimate(compute_metric, size)
            yield Metric(f"{name}_{size_name}", estimate, unit_by_name[name])
    yield Metric("pointing_game_by_class", _pointing_game_by_class, later=True)
    for name, share_of_hits in (
        ("pointing_game_dominant", share_of_a),
        ("pointing_game_others", share_of_b),
    ):
        yield Metric(name, _RoleEstimate(share_of_hits))
    yield Metric("suppression", _suppression, unit="difference", higher_is_better=False)


@dataclass(frozen=True)
class _RoleEstimate:
    """Computes the hit rate of dominant objects, or of the other objects of the same images."""

    # Computes the rate (...,) from sums (...,) over images.
    share_of_hits: Callable[[GroupHits], Values]

    def __call__(self, samples: Derived) -> FunctionOfSums | None:
        """Return the estimate, or None for samples that do not say which classes are objects."""
        if ROLES not in samples:
            return None
        return FunctionOfSums(samples[ROLES], self.share_of_hits)


def _suppression(samples: Derived) -> FunctionOfSums | None:
    """Return the suppression: the hit rate of dominant objects, less the rate of other objects.

    Return None for samples that do not say which classes are objects, and without images of several
    objects.
    """
    return share_difference(samples[ROLES]) if ROLES in samples else None


def _count_hits_by_role(samples: Samples) -> GroupHits:
    """Return the hits of the dominant object (A) and of the other objects (B) of each image.

    The dominant object is the one with the most pixels, and the first of several of them. Objects
    that are alone in their image do not count.
    """
    is_object = samples[OBJECTS][samples[CLASS]].astype(bool)
    images, n_images = samples[IMAGE], len(samples[NAME])
    n_objects = np.bincount(images[is_object], minlength=n_images)
    # lexsort sorts by its last key first, so that the first pair of an image is its largest object.
    order = np.lexsort((-samples[THING], ~is_object, images))
    _, first_places = np.unique(images[order], return_index=True)
    is_largest = np.zeros(len(images), bool)
    is_largest[order[first_places]] = True
    counts = is_object & (n_objects[images] > 1)
    hits: list[NDArray[np.float64]] = []
    for has_role in (counts & is_largest, counts & ~is_largest):
        for values in (has_role * samples[HIT].astype(np.float64), has_role):
            sums = np.bincount(images, weights=values, minlength=n_images)
            hits.append(sums.astype(np.float64))
    return GroupHits(*hits)


def _pointing_game_by_class(samples: Derived) -> GroupMean | None:
    """Return the mean over the classes of the fraction of hits, or None without things.

    A hit is a map whose highest point lies on its thing.
    """
    hits = samples[HIT].astype(np.float64)
    if not len(hits):
        return None
    return GroupMean(hits, samples[CLASS], samples[IMAGE])


class Localisation(Task):
    """Maps of class names over images, compared with label maps."""

    protocol = LocalisationProtocol
    metrics = tuple(_metrics())
    truth = (NAME, PIXELS, LABELLED, CLASSES, BOUNDS, IMAGE, CLASS, THING)
    checked = label_map_checks.CHECKED
    arrays = ARRAYS
    names_hash = "samples"

    def open_data(self, protocol: LocalisationProtocol, options: RunOptions) -> LabelMaps:
        """List the images of a data set and their label maps."""
        return label_maps.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[LocalisationProtocol],
        data: Sequence[LabelMaps],
        options: RunOptions,
        progress: OnProgress,
    ) -> Iterator[Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        The maps of all classes over the images are scored by the label maps.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured.
            data: The images and label maps of each protocol, from `open_data`.
            options: The options of the run.
            progress: Called with the progress.

        Raises UsageError for a model without the requested kind of map, and for damaged images.
        """
        from cosmos_eval.tasks.localisation.evaluate import measure_data

        for protocol, labelled_images in zip(protocols, data, strict=True):
            yield from measure_data(encoder, protocol, options, progress, labelled_images)

    def data_hashes(
        self, protocol: LocalisationProtocol, data: LabelMaps, options: RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images with their label maps, and of their names."""
        from cosmos_eval.tasks.label_maps import data_hashes

        return data_hashes(data.samples, options)

    def image_pass(
        self, protocol: LocalisationProtocol, options: RunOptions, data: LabelMaps
    ) -> Hashable:
        """Return the names of the data set and of the protocol, so that no two keys are equal.

        Every protocol is therefore measured by itself: protocols do not share any computation.
        """
        return protocol.dataset, protocol.protocol_name

    def derive(self, samples: Samples) -> Derived:
        """Add the sums of scores over the things of each size in each image, (N, sizes) each.

        With the bounds 0.01 and 0.1, a thing is small (0) if it covers less than 1% of its image,
        large (2) if it covers 10% or more, and otherwise medium (1). Also add the hits of dominant
        and of other objects, if the samples say which classes are objects.
        """
        # Each of these arrays (P,) has an entry for each pair of an image and a thing in it.
        fraction_of_image = samples[THING] / samples[PIXELS][samples[IMAGE]]
        size_of_pair = np.searchsorted(samples[BOUNDS], fraction_of_image, side="right")
        scores = stats.MapScores(
            mass=samples[MASS].astype(np.float64),
            hit=samples[HIT].astype(np.float64),
            auc=samples[AUC].astype(np.float64),
            other_names=samples[OTHER_NAMES].astype(np.float64),
        )
        pairs = stats.Pairs(samples[IMAGE], size_of_pair, _areas_of_things(samples), scores)
        derived = {**samples, SUMS: stats.sums_of_images(pairs, len(samples[NAME]))}
        if OBJECTS in samples:
            derived[ROLES] = _count_hits_by_role(samples)
        return derived

    def require_same_truth(self, first: Derived, second: Derived) -> None:
        """Raise ValueError unless two results have the same images, label maps and objects.

        Results of older versions do not say which classes are objects, and are compared without.
        """
        super().require_same_truth(first, second)
        have_objects = OBJECTS in first and OBJECTS in second
        if have_objects and not np.array_equal(first[OBJECTS], second[OBJECTS]):
            raise ValueError(f"`{OBJECTS}` of the samples differs")

    def require_consistent(self, samples: Samples) -> None:
        """Raise ValueError for numbers of pixels that contradict each other.

        A thing cannot have more pixels than its image has labelled ones, and an image cannot have
        more labelled pixels than pixels.
        """
        if (samples[LABELLED] > samples[PIXELS]).any():
            raise ValueError(f"`{LABELLED}` holds more than `{PIXELS}`")
        if (samples[THING] > samples[LABELLED][samples[IMAGE]]).any():
            raise ValueError(f"`{THING}` holds more than `{LABELLED}` of its image")

    def per_class(self, samples: Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the mean scores of the maps of every class, and the number of its images."""
        columns = {
            "attention_mass": samples[MASS],
            "area": _areas_of_things(samples),
            "pointing_game": samples[HIT],
            "AUC": samples[AUC],
        }
        return means_of_groups(samples[CLASSES].tolist(), samples[CLASS], columns, "images")

    def columns(self, samples: Samples) -> Mapping[str, Any]:
        """Return a table with a row per image and class in it, as arrays (P,) by column names."""
        columns = {
            "image": samples[NAME][samples[IMAGE]],
            "class": samples[CLASSES][samples[CLASS]],
        }
        for name in (THING, *SCORES):
            columns[name] = samples[name]
        return columns

    def check(self, protocol: LocalisationProtocol, options: RunOptions, data: LabelMaps) -> None:
        """Read every label map. Raises UsageError for one that does not fit the protocol."""
        label_map_checks.check(protocol, options, data)

    def survey(
        self, protocol: LocalisationProtocol, options: RunOptions, progress: OnProgress
    ) -> Survey:
        """Check every image and label map, and report missing and damaged files."""
        return label_map_checks.survey(protocol, options, progress)

    def is_there(self, protocol: LocalisationProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the images and label maps of a data set."""
        return label_map_checks.is_there(protocol, root)

    def n_samples(self, protocol: LocalisationProtocol) -> int | None:
        """Return the number of images of the complete data set, or None if it is unknown."""
        return protocol.n_images

    def attention(self, protocol: LocalisationProtocol) -> Attention:
        """Return the form of attention that the protocol prescribes for the last block."""
        return protocol.attention


TASK = Localisation()
