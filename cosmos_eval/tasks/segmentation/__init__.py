"""Zero-shot semantic segmentation: classes named by text, patches compared with the names.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data.label_map_checks import CHECKED, check, is_there, survey
from cosmos_eval.data.label_maps import LabelMaps, open_data
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats import segmentation as stats
from cosmos_eval.stats.estimates import FunctionOfSums
from cosmos_eval.tasks.arrays import MOST_CELLS, SampleArray
from cosmos_eval.tasks.task import NAME, Derived, Metric, Task

_MOST_PIXELS = 2**31  # of an image

# Beside the fields of SparseConfusion.
CLASSES = "classes"  # (C,) names
GROUPS = "groups"  # (G,) names of groups of classes whose mean IoU is reported
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
AREAS = "areas"  # derived: cosmos_eval.stats.segmentation.Areas of every image
LABELLED = "labelled pixels of the label maps"  # (N, C) derived

# Constants of a protocol that change the number, beside names, prompts and templates.
_CONSTANTS = (
    *("short_side", "long_side", "window", "stride", "scale", "prob_thd", "area_thd"),
    *("reduce_zero_label", "ignore_index", "mean", "std"),
)


def derive(samples: types.Samples) -> Derived:
    """Add the areas of every image, the truth about them, and the members of groups."""
    sparse = stats.SparseConfusion(*(samples[field] for field in stats.SparseConfusion._fields))
    areas = stats.areas_of_images(sparse, len(samples[NAME]), len(samples[CLASSES]))
    return {**samples, AREAS: areas, LABELLED: areas.labelled}


def _require_known_classes(samples: types.Samples) -> None:
    """Raise ValueError for classes that have no name, and more areas than memory holds."""
    images, classes, pairs = len(samples[NAME]), len(samples[CLASSES]), samples["pair"]
    if len(pairs) and pairs.max() >= classes**2:
        raise ValueError(f"`pair` holds {pairs.max()}, and {classes} classes have {classes**2}")
    if images * classes > MOST_CELLS:
        raise ValueError(f"{images:,} images by {classes:,} classes are more than can be read")


def group_iou(samples: Derived, group: str) -> FunctionOfSums | None:
    """Mean IoU of the classes of a group; None where there is no such group."""
    groups = samples[GROUPS].tolist()
    if group not in groups:
        return None
    members = np.flatnonzero(samples[MEMBERS][groups.index(group)])
    return _of_areas(partial(stats.mean_iou, members=members), samples)


def _of_areas(function: Callable[[stats.Areas], stats.Values], samples: Derived) -> FunctionOfSums:
    return FunctionOfSums(samples[AREAS], function, jackknife=True)


def per_class(samples: types.Samples) -> dict[str, dict[str, float | None]]:
    """IoU and accuracy of every class, None where it does not occur."""
    total = stats.Areas(*(part.sum(0) for part in derive(samples)[AREAS]))
    scores = [
        [None if np.isnan(score) else score for score in part.tolist()]
        for part in stats.class_scores(total)
    ]
    of_class = zip(samples[CLASSES].tolist(), *scores, strict=True)
    return {name: {"IoU": iou, "Acc": accuracy} for name, iou, accuracy in of_class}


def columns(samples: types.Samples) -> dict[str, Any]:
    """Accuracy of the pixels of every image, and mean IoU of the classes in it."""
    areas = derive(samples)[AREAS]
    return {"pixel_accuracy": stats.pixel_accuracy(areas), "mIoU": stats.mean_iou(areas)}


def mistakes(samples: types.Samples) -> types.Mistakes:
    """What pixels of every class were taken for."""
    classes = samples[CLASSES].tolist()
    pixels = np.zeros(len(classes) ** 2, np.int64)
    np.add.at(pixels, samples["pair"], samples["pixels"])
    square = pixels.reshape(len(classes), -1)
    totals = square.sum(axis=1)
    np.fill_diagonal(square, 0)
    true, taken_for = np.nonzero(square)
    return types.Mistakes("pixels", classes, true, taken_for, square[true, taken_for], totals)


def upgrade(samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
    """Add classes and groups of the known protocol. Raises UsageError and ValueError for others."""
    from cosmos_eval.protocols import find_known  # which takes longer than reading a result

    protocol = find_known(record["dataset"], record["protocol"])
    if not isinstance(protocol, types.SegmentationProtocol):
        raise ValueError("no segmentation protocol")
    names = hashlib.sha256(json.dumps(protocol.class_names).encode()).hexdigest()
    if names != record["provenance"]["hashes"].get("class_names"):
        raise ValueError("other classes")
    return {**samples, **class_arrays(protocol)}


def class_arrays(protocol: types.SegmentationProtocol) -> dict[str, NDArray[Any]]:
    """Return the arrays to store that name the classes and their groups."""
    classes, groups = protocol.class_names, protocol.groups
    members = [[name in some for name in classes] for some in groups.values()]
    return {
        CLASSES: np.array(classes),
        GROUPS: np.array(list(groups), dtype=np.str_),
        MEMBERS: np.array(members, dtype=np.bool_).reshape(len(groups), len(classes)),
    }


METRICS = (
    Metric("mIoU", partial(_of_areas, stats.mean_iou), primary=True),
    Metric("mAcc", partial(_of_areas, stats.mean_accuracy)),
    Metric("aAcc", partial(_of_areas, stats.pixel_accuracy)),
    Metric("mIoU_things", partial(group_iou, group="things"), label="mIoU things", headline=True),
    Metric("mIoU_stuff", partial(group_iou, group="stuff"), label="mIoU stuff", headline=True),
    Metric("mIoU_*", group_iou, members=lambda samples: samples[GROUPS].tolist()),
)


def constants(protocol: types.SegmentationProtocol, attention: types.Attention) -> dict[str, Any]:
    """Return the constants of a protocol that define its numbers, and the form of attention."""
    found = {name: getattr(protocol, name) for name in _CONSTANTS}
    if protocol.window is None:
        found["stride"] = None  # it has no effect, so that its value must not change the hash
    if protocol.refinement is not None:  # else left out, so that older results keep their hash
        found["refinement"] = protocol.refinement
    return {**found, "attention": attention}


def shared_prompts(protocol: types.SegmentationProtocol) -> tuple[str, ...]:
    """Return one note per prompt of several classes: the first class wins wherever it is best."""
    owners = defaultdict(list)
    for name, prompts in zip(protocol.class_names, protocol.queries, strict=True):
        for prompt in dict.fromkeys(prompts):
            owners[prompt].append(name)
    return tuple(
        f"prompt '{prompt}' belongs to {' and '.join(names)}: {names[0]} always wins with it"
        for prompt, names in owners.items()
        if len(names) > 1
    )


def image_pass(
    protocol: types.SegmentationProtocol, options: types.RunOptions, data: LabelMaps
) -> Hashable:
    """Return what a model sees: protocols of equal keys are evaluated in one pass over images."""
    size = (protocol.short_side, protocol.long_side, protocol.window, protocol.stride)
    attention = options.attention or protocol.attention
    images = (sample.image for sample in data.samples)
    return (*size, protocol.mean, protocol.std, attention, *images)


def measure(
    encoder: Encoder,
    protocols: Sequence[types.SegmentationProtocol],
    options: types.RunOptions,
    progress: types.OnProgress,
    data: Sequence[LabelMaps] | None = None,
) -> Iterator[types.Measurement]:
    """Segment every image once and compare with each protocol's label maps, in their order."""
    from cosmos_eval.tasks.segmentation.evaluate import measure_data

    opened = data or [open_data(protocol, options) for protocol in protocols]
    return measure_data(encoder, protocols, options, progress, opened)


def _decode(source: ImageFile) -> Any:
    from cosmos_eval.tasks.segmentation.pictures import decode  # which imports OpenCV

    return decode(source.path)


def require_segmentation(protocol: types.Protocol) -> types.SegmentationProtocol:
    """Return a protocol of this task. Raises UsageError for one of another."""
    if not isinstance(protocol, types.SegmentationProtocol):
        raise types.UsageError(
            f"{protocol.dataset} is no segmentation data set: name one, such as voc20"
        )
    return protocol


TASK = Task(
    protocol=types.SegmentationProtocol,
    metrics=METRICS,
    truth=(NAME, CLASSES, GROUPS, MEMBERS, LABELLED),
    arrays=ARRAYS,
    require_consistent=_require_known_classes,
    names_hash="samples",
    by_image=True,
    open_data=open_data,
    check=check,
    checked=CHECKED,
    seconds=2.0,
    measure_together=measure,
    image_pass=image_pass,
    derive=derive,
    per_class=per_class,
    mistakes=mistakes,
    upgrade=upgrade,
    columns=columns,
    survey=survey,
    decode=_decode,
    is_there=is_there,
    n_samples=lambda protocol: protocol.n_images,
    attention=lambda protocol: protocol.attention,
)
