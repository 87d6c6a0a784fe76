"""Zero-shot classification of annotated boxes, by crops or by pooled features of patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import boxes as box_data
from cosmos_eval.data.class_names import ClassData
from cosmos_eval.data.folders import Survey, all_exist, fingerprint
from cosmos_eval.data.user_yaml import PROTOCOL_NAME as USER_PROTOCOL
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.choices import TOP
from cosmos_eval.stats.estimates import Features, GroupMean, Ints, Mean, means_of_groups
from cosmos_eval.tasks import classification
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.classification import (
    CLASSES,
    CONFIDENCE,
    GROUP,
    GROUPS,
    HITS,
    LABELS,
    SHOWN,
    TOP5,
    displayed_names,
)
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.ordered import EmbeddedMeasurement, require_crops
from cosmos_eval.tasks.task import NAME

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import ImageEmbedder

# Stored arrays of N boxes and C classes, beside those of classification.
IMAGE = "image"  # (N,) the number of the box's image, from 0 in the order of their first boxes
AREA = "area"  # (N,) the fraction of its image that the box covers
BOUNDS = "bounds"  # (2,) the least fractions of a medium and of a large box
ARRAYS = (
    SampleArray(LABELS, "whole number", ("boxes",), least=0, below="classes"),
    SampleArray(TOP5, "whole number", ("boxes", TOP), least=-1, below="classes"),
    SampleArray(CONFIDENCE, "number", ("boxes",), least=0, most=1),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(SHOWN, "text", ("classes",), optional=True),
    SampleArray(IMAGE, "whole number", ("boxes",), least=0),
    SampleArray(AREA, "number", ("boxes",), least=0, most=1),
    SampleArray(BOUNDS, "number", (2,), least=0, most=1),
    SampleArray(GROUP, "whole number", ("boxes",), least=0, below="groups", optional=True),
    SampleArray(GROUPS, "text", ("groups",), optional=True),
    SampleArray(NAME, "text", ("boxes",), optional=True),
)
SIZES = ("small", "medium", "large")


def _are_hits(samples: Derived, n_predictions: int) -> NDArray[np.bool_]:
    """Return whether the label is among the first predictions for each box, (N,)."""
    hits: NDArray[np.bool_] = samples[HITS][:, :n_predictions].any(axis=1)
    return hits


@dataclass(frozen=True)
class _Accuracy:
    """Computes the fraction of boxes whose label is among the first predictions."""

    # 1 or 5.
    n_predictions: int
    # An index of SIZES; None: boxes of all sizes.
    size: int | None = None

    def __call__(self, samples: Derived) -> Mean | None:
        """Return the accuracy, or None without boxes, or with fewer classes than predictions."""
        if len(samples[CLASSES]) < self.n_predictions:
            return None
        is_chosen = np.ones(len(samples[LABELS]), bool)
        if self.size is not None:
            is_chosen = np.searchsorted(samples[BOUNDS], samples[AREA], side="right") == self.size
        if not is_chosen.any():
            return None
        return Mean(_are_hits(samples, self.n_predictions)[is_chosen], samples[IMAGE][is_chosen])


@dataclass(frozen=True)
class _ClassMean:
    """Computes the mean over classes of the accuracy on the boxes of each class."""

    # 1 or 5.
    n_predictions: int

    def __call__(self, samples: Derived, group: str = "") -> GroupMean | None:
        """Return the mean over the classes of a group, such as "stuff", or over all classes.

        Return None if there are fewer classes than predictions.
        """
        if len(samples[CLASSES]) < self.n_predictions:
            return None
        is_chosen = np.ones(len(samples[LABELS]), bool)
        if group:
            is_chosen = samples[GROUP] == samples[GROUPS].tolist().index(group)
        return GroupMean(
            _are_hits(samples, self.n_predictions)[is_chosen],
            samples[LABELS][is_chosen],
            samples[IMAGE][is_chosen],
        )


def _groups_with_boxes(samples: Derived) -> Sequence[str]:
    """Return the names of the groups, things or stuff, that have boxes."""
    if GROUP not in samples:
        return ()
    return [str(name) for name in samples[GROUPS][np.unique(samples[GROUP])]]


def _metrics() -> Iterator[Metric]:
    """Yield the metrics in the order of tables.

    `mean_per_class_recall` and `mean_per_class_acc5` are `macc1` and `macc5` of CLIPSelf
    (src/training/zero_shot.py), which it reports for things and for stuff.
    """
    yield Metric("mean_per_class_recall", _ClassMean(1), label="mean over classes", primary=True)
    yield Metric("mean_per_class_acc5", _ClassMean(5))
    yield Metric("acc1", _Accuracy(1), headline=True)
    yield Metric("acc5", _Accuracy(5))
    for size, name in enumerate(SIZES):
        is_shown = name == "small"
        label = "acc1 of small" if is_shown else ""
        yield Metric(f"acc1_{name}", _Accuracy(1, size), label=label, headline=is_shown)
    yield Metric("mean_per_class_recall_*", _ClassMean(1), members=_groups_with_boxes)
    yield Metric("mean_per_class_acc5_*", _ClassMean(5), members=_groups_with_boxes)


class Boxes(classification.ClassTask):
    """Zero-shot classification of annotated boxes with one class each."""

    protocol = types.BoxesProtocol
    metrics = tuple(_metrics())
    truth = (LABELS, IMAGE, AREA, BOUNDS)
    checked = "boxes, classes, and that every image is there"
    arrays = ARRAYS
    resamples = True

    def open_data(self, protocol: Any, options: types.RunOptions) -> ClassData:
        """List the boxes of a data set and their labels.

        If `options.limit` is set, the first box of every class is kept, then the second box of
        every class, and so on. Raises UsageError for data that are missing or inconsistent.
        """
        return box_data.open_data(protocol, options)

    def survey(
        self, protocol: Any, options: types.RunOptions, progress: types.OnProgress
    ) -> Survey:
        """Count the images that have boxes, and report missing ones and other faults."""
        return box_data.list_data(protocol, options).complete_survey(protocol, options)

    def is_there(self, protocol: Any, root: Path) -> bool:
        """Return whether the folder `root` holds the file of the boxes and the image folder."""
        return all_exist(root, protocol.annotations, protocol.images)

    def n_samples(self, protocol: Any) -> int | None:
        """Return the number of boxes of the complete data set, or None if it is unknown."""
        n_boxes: int | None = protocol.n_boxes
        return n_boxes

    def attention(self, protocol: Any) -> types.Attention | None:
        """Return the form of attention of pooled features, or None for crops."""
        attention: types.Attention | None = protocol.pooled_attention
        return attention

    def hashes(self, protocol: Any, data: ClassData, options: types.RunOptions) -> dict[str, str]:
        """Return the hashes of the boxes, of the prompts, and of how features are made.

        The bounds of sizes are hashed if a user's file states others than the defaults, so that
        other results keep their hashes. Those of known data sets belong to their protocols.
        """
        from cosmos_eval.embedding.regions import hash_constants

        hashes = super().hashes(protocol, data, options)
        hashes.update(hash_constants(protocol, options))
        bounds = (protocol.small, protocol.large)
        has_unusual_bounds = bounds != (types.BoxesProtocol.small, types.BoxesProtocol.large)
        if has_unusual_bounds and protocol.protocol_name.startswith(USER_PROTOCOL):
            hashes["small_and_large"] = fingerprint(bounds)
        return hashes

    def embedder(self, protocol: Any, image_embedder: ImageEmbedder) -> ImageEmbedder:
        """Return the embedder of boxes: of crops, or of pooled features."""
        from cosmos_eval.embedding.regions import region_embedder

        return region_embedder(image_embedder, protocol)

    def in_order(
        self,
        encoder: Encoder,
        protocol: Any,
        data: ClassData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> EmbeddedMeasurement:
        """Return a measurement that takes crops in any order.

        Raises UsageError for a protocol that pools features.
        """
        require_crops(protocol)
        return super().in_order(encoder, protocol, data, options, progress)

    def make_samples(
        self,
        protocol: types.BoxesProtocol,
        data: ClassData,
        image_features: Features,
        class_embeddings: Features,
    ) -> types.Samples:
        """Predict five classes of every box, and return them with labels, images and areas.

        Args:
            protocol: The protocol that is measured.
            data: N labelled boxes.
            image_features: The features (N, D) of the boxes.
            class_embeddings: The embeddings (C, D) of the classes.
        """
        assert data.image_of_box is not None
        assert data.area_of_box is not None
        samples = dict(
            classification.TASK.make_samples(protocol, data, image_features, class_embeddings)
        )
        samples[IMAGE] = data.image_of_box
        samples[AREA] = data.area_of_box
        samples[BOUNDS] = np.array([protocol.small, protocol.large])
        return samples

    def derive(self, samples: types.Samples) -> Derived:
        """Add the array HITS (N, 5): True where a prediction is the label."""
        return classification.TASK.derive(samples)

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for boxes without a prediction, and for groups without names."""
        classification.TASK.require_consistent(samples)

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the recall and the number of boxes of every class, by its displayed name."""
        is_correct = samples[TOP5][:, 0] == samples[LABELS]
        return means_of_groups(
            displayed_names(samples), samples[LABELS], {"recall": is_correct}, "boxes"
        )

    def class_sizes(self, samples: types.Samples) -> Ints:
        """Return the number of boxes of each of C classes, (C,)."""
        return np.bincount(samples[LABELS], minlength=len(samples[CLASSES]))

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with one row per box: the columns of classification, and the area."""
        columns = dict(classification.TASK.columns(samples))
        columns[AREA] = samples[AREA]
        return columns


TASK = Boxes()
