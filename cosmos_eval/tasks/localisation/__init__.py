"""Localisation: how much of a map of a class's name falls on the class.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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


def _areas(samples: Samples) -> NDArray[np.float64]:
    """Return the fraction (P,) of the labelled pixels of the image that each thing covers."""
    return np.divide(samples[THING], samples[LABELLED][samples[IMAGE]])


def _metric_of_size(
    name: str, size: int | None, function: Callable[[stats.Sums], Values]
) -> Metric:
    """Return a metric of things of one size, an index of `stats.SIZES`, or of all things if None.

    `function` computes the metric `name` from the sums of images. Only metrics of all things are
    shown in tables.
    """

    def value_of_size(sums: stats.Sums) -> Values:
        return function(stats.of_size(size, sums))

    def estimate(samples: Derived) -> FunctionOfSums:
        return FunctionOfSums(samples[SUMS], value_of_size)

    unit: Unit = "ratio" if "_over_" in name else "fraction"
    if size is not None:
        return Metric(f"{name}_{stats.SIZES[size]}", estimate, unit)
    if name == "area":
        return Metric(name, estimate, unit)
    return Metric(
        name,
        estimate,
        unit,
        label=name.replace("_over_", " / ").replace("_", " "),
        headline=True,
        primary=name in ("attention_mass", "AUC"),
    )


def _metrics() -> Iterator[Metric]:
    """Yield the metrics of all things, and then the metrics of each size."""
    for size in (None, *range(len(stats.SIZES))):
        for name, function in stats.METRICS.items():
            yield _metric_of_size(name, size, function)
    yield Metric("pointing_game_by_class", _pointing_by_class, later=True)


def _pointing_by_class(samples: Derived) -> GroupMean | None:
    hits = samples[HIT].astype(np.float64)
    return GroupMean(hits, samples[CLASS], samples[IMAGE]) if len(hits) else None


class Localisation(Task):
    """Maps of class names over images, compared with label maps."""

    protocol = LocalisationProtocol
    metrics = tuple(_metrics())
    truth = (NAME, PIXELS, LABELLED, CLASSES, BOUNDS, IMAGE, CLASS, THING)
    checked = label_map_checks.CHECKED
    arrays = ARRAYS
    names_hash = "samples"

    def open_data(self, protocol: LocalisationProtocol, options: RunOptions) -> LabelMaps:
        return label_maps.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[LocalisationProtocol],
        data: Sequence[LabelMaps],
        options: RunOptions,
        progress: OnProgress,
    ) -> Iterator[Measurement]:
        """Yield a measurement per protocol, and store finished shards until then.

        Raises UsageError for a model without the requested kind of map, and for damaged images.
        """
        from cosmos_eval.tasks.localisation.evaluate import measure_data

        for protocol, labelled_images in zip(protocols, data, strict=True):
            yield from measure_data(encoder, protocol, options, progress, labelled_images)

    def image_pass(
        self, protocol: LocalisationProtocol, options: RunOptions, data: LabelMaps
    ) -> Hashable:
        """Return the data set and the protocol: every protocol_name is measured by itself."""
        return protocol.dataset, protocol.protocol_name

    def derive(self, samples: Samples) -> Derived:
        """Add the sums over the pairs of every image, (N, sizes)."""
        # The size of a thing is the number of bounds that it reaches: 0 small, 1 medium, 2 large.
        fraction_of_image = samples[THING] / samples[PIXELS][samples[IMAGE]]
        size = np.searchsorted(samples[BOUNDS], fraction_of_image, side="right")
        scores = stats.MapScores(*(samples[name].astype(np.float64) for name in SCORES))
        pairs = stats.Pairs(samples[IMAGE], size, _areas(samples), scores)
        return {**samples, SUMS: stats.sums_of_images(pairs, len(samples[NAME]))}

    def require_consistent(self, samples: Samples) -> None:
        """Raise ValueError for pixels that do not fit into each other.

        A thing lies within the labelled pixels of its image, and these lie within the image.
        """
        if (samples[LABELLED] > samples[PIXELS]).any():
            raise ValueError(f"`{LABELLED}` holds more than `{PIXELS}`")
        if (samples[THING] > samples[LABELLED][samples[IMAGE]]).any():
            raise ValueError(f"`{THING}` holds more than `{LABELLED}` of its image")

    def per_class(self, samples: Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return means over the pairs of every class, and the number of its images."""
        columns = {
            "attention_mass": samples[MASS],
            "area": _areas(samples),
            "pointing_game": samples[HIT],
            "AUC": samples[AUC],
        }
        return means_of_groups(samples[CLASSES].tolist(), samples[CLASS], columns, "images")

    def columns(self, samples: Samples) -> Mapping[str, Any]:
        """Return one row per image and class in it."""
        columns = {
            "image": samples[NAME][samples[IMAGE]],
            "class": samples[CLASSES][samples[CLASS]],
        }
        for name in (THING, *SCORES):
            columns[name] = samples[name]
        return columns

    def check(self, protocol: LocalisationProtocol, options: RunOptions, data: LabelMaps) -> None:
        label_map_checks.check(protocol, options, data)

    def survey(
        self, protocol: LocalisationProtocol, options: RunOptions, progress: OnProgress
    ) -> Survey:
        return label_map_checks.survey(protocol, options, progress)

    def is_there(self, protocol: LocalisationProtocol, root: Path) -> bool:
        return label_map_checks.is_there(protocol, root)

    def n_samples(self, protocol: LocalisationProtocol) -> int | None:
        return protocol.n_images

    def attention(self, protocol: LocalisationProtocol) -> Attention:
        return protocol.attention


TASK = Localisation()
