"""Zero-shot semantic segmentation: classes named by text, patches compared with the names.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import label_map_checks, label_maps
from cosmos_eval.data.folders import Survey
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats import segmentation as stats
from cosmos_eval.stats.estimates import FunctionOfSums, Ints
from cosmos_eval.tasks.arrays import MOST_CELLS, SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.ordered import OrderedMeasurement
from cosmos_eval.tasks.task import NAME, Task

_MOST_PIXELS = 2**31  # of an image

# Stored arrays of N images, C classes and G groups, beside the fields of SparseConfusion.
CLASSES = "classes"  # (C,) names
GROUPS = "groups"  # (G,) names of the groups of classes that have a mean IoU of their own
MEMBERS = "members"  # (G, C) whether a class belongs to a group
# Fields of SparseConfusion are one array each, with an entry per count.
ARRAYS = (
    SampleArray(NAME, "text", ("images",)),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(GROUPS, "text", ("groups",)),
    SampleArray(MEMBERS, "truth value", ("groups", "classes")),
    SampleArray("image", "whole number", ("counts",), least=0, below="images"),
    SampleArray("pair", "whole number", ("counts",), least=0),
    SampleArray("pixels", "whole number", ("counts",), least=0, most=_MOST_PIXELS),
)
# Derived arrays: the Areas of every image, and its labelled pixels (N, C).
AREAS = "areas"
LABELLED = "labelled pixels of the label maps"

# Fields of a protocol that change the number, beside class names, prompts and templates.
_CONSTANTS = (
    *("short_side", "long_side", "window", "stride", "scale", "prob_thd", "area_thd"),
    *("reduce_zero_label", "ignore_index", "mean", "std"),
)


# The areas of a class are its intersection, labelled and predicted pixels. All metrics are computed
# from the areas, summed over all images.


def _mean_iou(samples: Derived) -> FunctionOfSums:
    """Return mIoU: the mean over the classes of intersection over union."""
    return FunctionOfSums(samples[AREAS], stats.mean_iou, jackknife=True)


def _mean_accuracy(samples: Derived) -> FunctionOfSums:
    """Return mAcc: the mean over the classes of the fraction of correct pixels of the class."""
    return FunctionOfSums(samples[AREAS], stats.mean_accuracy, jackknife=True)


def _pixel_accuracy(samples: Derived) -> FunctionOfSums:
    """Return aAcc: the fraction of all labelled pixels whose prediction is correct."""
    return FunctionOfSums(samples[AREAS], stats.pixel_accuracy, jackknife=True)


def _mean_iou_of_class_group(samples: Derived, group_name: str) -> FunctionOfSums | None:
    """Return the mean IoU over the classes of a group, or None without a group of this name."""
    group_names = samples[GROUPS].tolist()
    if group_name not in group_names:
        return None
    is_member = samples[MEMBERS][group_names.index(group_name)]
    member_classes = np.flatnonzero(is_member)
    mean_iou_of_members = partial(stats.mean_iou, members=member_classes)
    return FunctionOfSums(samples[AREAS], mean_iou_of_members, jackknife=True)


def _mean_iou_of_things(samples: Derived) -> FunctionOfSums | None:
    """Return the mean IoU over classes that can be counted, such as cars, if they are a group."""
    return _mean_iou_of_class_group(samples, "things")


def _mean_iou_of_stuff(samples: Derived) -> FunctionOfSums | None:
    """Return the mean IoU over classes that cannot be counted, such as sky, if they are a group."""
    return _mean_iou_of_class_group(samples, "stuff")


def _class_group_names(samples: Derived) -> list[str]:
    """Return the names of the groups of classes that have a mean IoU of their own."""
    names: list[str] = samples[GROUPS].tolist()
    return names


class Segmentation(Task):
    """Zero-shot semantic segmentation."""

    protocol: type[types.Protocol] = types.SegmentationProtocol
    metrics: Sequence[Metric] = (
        Metric("mIoU", _mean_iou, primary=True),
        Metric("mAcc", _mean_accuracy),
        Metric("aAcc", _pixel_accuracy),
        Metric("mIoU_things", _mean_iou_of_things, label="mIoU things", headline=True),
        Metric("mIoU_stuff", _mean_iou_of_stuff, label="mIoU stuff", headline=True),
        Metric("mIoU_*", _mean_iou_of_class_group, members=_class_group_names),
    )
    truth = (NAME, CLASSES, GROUPS, MEMBERS, LABELLED)
    checked = label_map_checks.CHECKED
    arrays = ARRAYS
    names_hash = "samples"
    seconds = 2.0
    by_image = True
    shares_pass = True

    def open_data(
        self, protocol: types.SegmentationProtocol, options: types.RunOptions
    ) -> LabelMaps:
        """List the images of a data set and their label maps."""
        return label_maps.open_data(protocol, options)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.SegmentationProtocol],
        data: Sequence[LabelMaps],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        Each image is encoded once, segmented by the prompts of each protocol, and compared with the
        label map of each.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured. They have the same
                images, which a model sees in the same way.
            data: The images and label maps of each protocol, from `open_data`.
            options: The options of the run.
            progress: Called with the number of images that are measured.
        """
        from cosmos_eval.tasks.segmentation.evaluate import measure_data

        return measure_data(encoder, protocols, options, progress, data)

    def data_hashes(
        self, protocol: Any, data: LabelMaps, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images with their label maps, and of their names."""
        from cosmos_eval.tasks.label_maps import data_hashes

        return data_hashes(data.samples, options)

    def in_order(
        self,
        encoder: Encoder,
        protocol: types.SegmentationProtocol,
        data: LabelMaps,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> OrderedMeasurement:
        """Return a measurement that takes the images in a random order."""
        from cosmos_eval.tasks.segmentation.evaluate import OrderedLabelMaps

        return OrderedLabelMaps(encoder, protocol, data, options, progress)

    def take(self, samples: types.Samples, indices: Ints) -> types.Samples:
        """Return the arrays of some images, which are numbered again in the order of `indices`.

        The confusion counts of all images are in three arrays with an entry for each count that is
        not zero (`stats.SparseConfusion`): `image` is the index of the count's image, `pair` its
        true and predicted class, and `pixels` the count. The counts of the taken images are
        returned, sorted by image.

        Args:
            samples: The stored arrays of N images.
            indices: (n,), the indices of the images to take.

        Example:
            Of the images a, b and c with the counts `image` = [0, 1, 2, 2], the images [2, 0] are
            taken. They are c and a. The two counts of c and the count of a are returned, with
            `image` = [0, 0, 1].
        """
        # (N,), the new index of each image, -1 if it is not taken. In the example: [1, -1, 0].
        new_index_of_image = np.full(len(samples[NAME]), -1)
        new_index_of_image[indices] = np.arange(len(indices))

        # The new index of each count's image, [1, -1, 0, 0], and the indices of the counts of the
        # taken images, first [0, 2, 3], and then sorted by image, [2, 3, 0].
        new_image_of_count = new_index_of_image[samples["image"]]
        taken_counts = np.flatnonzero(new_image_of_count >= 0)
        order = np.argsort(new_image_of_count[taken_counts], kind="stable")
        taken_counts = taken_counts[order]
        return {
            **samples,
            NAME: samples[NAME][indices],
            "image": new_image_of_count[taken_counts].astype(samples["image"].dtype),
            "pair": samples["pair"][taken_counts],
            "pixels": samples["pixels"][taken_counts],
        }

    def join(self, shards: Sequence[types.Samples]) -> types.Samples:
        """Return the arrays of all images of several shards."""
        images = []
        n_images = 0
        for samples in shards:
            images.append(samples["image"] + np.int32(n_images))
            n_images += len(samples[NAME])
        return {
            **shards[0],
            NAME: np.concatenate([samples[NAME] for samples in shards]),
            "image": np.concatenate(images),
            "pair": np.concatenate([samples["pair"] for samples in shards]),
            "pixels": np.concatenate([samples["pixels"] for samples in shards]),
        }

    def image_pass(
        self, protocol: types.SegmentationProtocol, options: types.RunOptions, data: LabelMaps
    ) -> Hashable:
        """Return everything that decides what a model sees of the images, to compare protocols.

        Protocols with the same images, resize, windows, normalisation and form of attention are
        measured together, since they can share the patch embeddings.
        """
        return (
            protocol.short_side,
            protocol.long_side,
            protocol.window,
            protocol.stride,
            protocol.mean,
            protocol.std,
            options.attention or protocol.attention,
            *(sample.image for sample in data.samples),
        )

    def derive(self, samples: types.Samples) -> Derived:
        """Add the areas of each of C classes in each of N images, and the labelled pixels (N, C).

        The areas of a class are its intersection, labelled and predicted pixels, each (N, C). They
        are sums of the stored confusion counts.
        """
        confusion = stats.SparseConfusion(
            image=samples["image"], pair=samples["pair"], pixels=samples["pixels"]
        )
        areas = stats.areas_of_images(confusion, len(samples[NAME]), len(samples[CLASSES]))
        return {**samples, AREAS: areas, LABELLED: areas.labelled}

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for class numbers without a class, and for too many images and classes.

        The true and the predicted class of a pixel are stored as one number, true * C + predicted
        for C classes, which is below C * C.
        """
        pairs = samples["pair"]
        n_images, n_classes = len(samples[NAME]), len(samples[CLASSES])
        n_pairs = n_classes**2
        if len(pairs) and pairs.max() >= n_pairs:
            raise ValueError(f"`pair` holds {pairs.max()}, and {n_classes} classes have {n_pairs}")
        if n_images * n_classes > MOST_CELLS:
            raise ValueError(
                f"{n_images:,} images by {n_classes:,} classes are more than can be read"
            )

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the IoU and the accuracy of every class over all images, by its name.

        The IoU is None if no pixel of the class is labelled or predicted, and the accuracy is None
        if none is labelled.
        """
        areas_of_images = self.derive(samples)[AREAS]
        areas = stats.Areas(
            intersection=areas_of_images.intersection.sum(axis=0),
            labelled=areas_of_images.labelled.sum(axis=0),
            predicted=areas_of_images.predicted.sum(axis=0),
        )
        ious, accuracies = stats.class_scores(areas)
        metrics_by_class: dict[str, dict[str, float | None]] = {}
        for index, name in enumerate(samples[CLASSES].tolist()):
            iou, accuracy = float(ious[index]), float(accuracies[index])
            metrics_by_class[name] = {
                "IoU": None if math.isnan(iou) else iou,
                "Acc": None if math.isnan(accuracy) else accuracy,
            }
        return metrics_by_class

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with one row per image, as arrays (N,) by the names of the columns.

        The columns are the pixel accuracy, and the mean IoU of the classes that occur in the image.
        """
        areas = self.derive(samples)[AREAS]
        return {"pixel_accuracy": stats.pixel_accuracy(areas), "mIoU": stats.mean_iou(areas)}

    def class_sizes(self, samples: types.Samples) -> Ints:
        """Return the number of images in which each of C classes is labelled, (C,)."""
        return np.count_nonzero(self.derive(samples)[LABELLED], axis=0)

    def mistakes(self, samples: types.Samples) -> types.Mistakes:
        """Count the pixels of each true class for which each other class was predicted."""
        classes = samples[CLASSES].tolist()

        # Sum the stored counts to a confusion matrix, true classes x predicted classes. A pair of
        # classes is stored as its place in the flattened matrix, true * C + predicted.
        n_pixels_of_pair = np.zeros(len(classes) ** 2, np.int64)
        np.add.at(n_pixels_of_pair, samples["pair"], samples["pixels"])
        confusion = n_pixels_of_pair.reshape(len(classes), -1)
        totals = confusion.sum(axis=1)

        # Leave out the correct pixels, which are on the diagonal.
        np.fill_diagonal(confusion, 0)
        true_classes, predicted_classes = np.nonzero(confusion)
        return types.Mistakes(
            unit="pixels",
            classes=classes,
            true=true_classes,
            predicted=predicted_classes,
            amounts=confusion[true_classes, predicted_classes],
            totals=totals,
        )

    def upgrade(self, samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
        """Add classes and groups of classes to the samples of a result of format version 1.

        Version 1 did not store them. They are taken from the protocol that the result names.

        Args:
            samples: The stored arrays by name.
            record: The JSON record of the result.

        Raises UsageError if the protocol does not exist any more, and ValueError if its classes
        have changed.
        """
        from cosmos_eval.protocols import find_known  # which takes longer than reading a result

        protocol = find_known(record["dataset"], record["protocol"])
        if not isinstance(protocol, types.SegmentationProtocol):
            raise ValueError("no segmentation protocol")
        class_names_hash = hashlib.sha256(json.dumps(protocol.class_names).encode()).hexdigest()
        if class_names_hash != record["provenance"]["hashes"].get("class_names"):
            raise ValueError("other classes")
        return {**samples, **class_arrays(protocol)}

    def check(
        self, protocol: types.SegmentationProtocol, options: types.RunOptions, data: LabelMaps
    ) -> None:
        """Read every label map. Raises UsageError for one that does not fit the protocol."""
        label_map_checks.check(protocol, options, data)

    def survey(
        self,
        protocol: types.SegmentationProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        """Check every image and label map, and report missing and damaged files."""
        return label_map_checks.survey(protocol, options, progress)

    def decode(self, source: ImageFile) -> Any:
        """Read and decode an image by OpenCV, as it is decoded for the measurement."""
        from cosmos_eval.tasks.segmentation.pictures import decode  # which imports OpenCV

        return decode(source.path)

    def is_there(self, protocol: types.SegmentationProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the images and label maps of a data set."""
        return label_map_checks.is_there(protocol, root)

    def n_samples(self, protocol: types.SegmentationProtocol) -> int | None:
        """Return the number of images of the complete data set, or None if it is unknown."""
        return protocol.n_images

    def attention(self, protocol: types.SegmentationProtocol) -> types.Attention:
        """Return the form of attention that the protocol prescribes for the last block."""
        return protocol.attention


def class_arrays(protocol: types.SegmentationProtocol) -> dict[str, NDArray[Any]]:
    """Return the stored arrays that describe the C classes and the G groups of classes, by name.

    They are the names of the classes (C,) and of the groups (G,), and whether each group holds each
    class (G, C).

    Example:
        If the classes are `cat` and `sky`, and the group `things` holds `cat`, then the arrays are
        {"classes": ["cat", "sky"], "groups": ["things"], "members": [[True, False]]}.
    """
    classes, groups = protocol.class_names, protocol.groups
    is_member = np.zeros((len(groups), len(classes)), dtype=np.bool_)
    for index, members in enumerate(groups.values()):
        is_member[index] = [name in members for name in classes]
    return {
        CLASSES: np.array(classes),
        GROUPS: np.array(list(groups), dtype=np.str_),
        MEMBERS: is_member,
    }


def constants(protocol: types.SegmentationProtocol, attention: types.Attention) -> dict[str, Any]:
    """Return the constants that decide the numbers of a protocol, by name, to be hashed.

    Class names, prompts and templates are hashed apart.

    Args:
        protocol: The data set, its prompts, and how images are resized and segmented.
        attention: The form of attention that the images are encoded with. It may be another one
            than the protocol's.
    """
    values = {name: getattr(protocol, name) for name in _CONSTANTS}
    # Without windows, the stride has no effect, so that its value must not change the hash.
    if protocol.window is None:
        values["stride"] = None
    # Without refinement, the name is left out, so that older results keep their hash.
    if protocol.refinement is not None:
        values["refinement"] = protocol.refinement
    values["attention"] = attention
    return values


def shared_prompts(protocol: types.SegmentationProtocol) -> tuple[str, ...]:
    """Return a note for each prompt that several classes share.

    A pixel that fits such a prompt best is always given the first of these classes.

    Example:
        ("prompt 'person' belongs to man and woman: man always wins with it",)
    """
    classes_by_prompt = defaultdict[str, list[str]](list)
    for class_name, prompts in zip(protocol.class_names, protocol.queries, strict=True):
        distinct_prompts = dict.fromkeys(prompts)
        for prompt in distinct_prompts:
            classes_by_prompt[prompt].append(class_name)
    notes = []
    for prompt, class_names in classes_by_prompt.items():
        if len(class_names) > 1:
            notes.append(
                f"prompt '{prompt}' belongs to {' and '.join(class_names)}: "
                f"{class_names[0]} always wins with it"
            )
    return tuple(notes)


def require_segmentation(protocol: types.Protocol) -> types.SegmentationProtocol:
    """Return a segmentation protocol as it is. Raises UsageError for a protocol of another task."""
    is_zero_shot = protocol.task == types.SegmentationProtocol.task
    if not (isinstance(protocol, types.SegmentationProtocol) and is_zero_shot):
        raise types.UsageError(
            f"{protocol.dataset} is not a segmentation data set: name one, such as voc20"
        )
    return protocol


TASK = Segmentation()
