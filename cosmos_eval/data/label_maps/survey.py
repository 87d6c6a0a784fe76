"""What of a segmentation set is on the disk, and all that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.label_maps.absent import Fault, Kind, missing_images, missing_masks
from cosmos_eval.data.label_maps.constants import check_constants
from cosmos_eval.data.label_maps.read import (
    Sample,
    displayed_size,
    list_data,
    load_label,
    require_declared,
    require_same_size,
)
from cosmos_eval.data.layouts import find_root, needed_parts
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.types import LabelMapProtocol, OnProgress, Progress, RunOptions, UsageError


class Survey(NamedTuple):
    """Files found and expected, and the faults.

    `labels` are the lowest and the highest class found, as the files have them; None where no
    label map was read or none has a labelled pixel.
    """

    root: Path
    expected: int
    images: int
    masks: int
    labels: tuple[int, int] | None
    faults: tuple[Fault, ...]


def survey(protocol: LabelMapProtocol, options: RunOptions, progress: OnProgress) -> Survey:
    """Look for every file, at the headers of images and at every pixel of label maps.

    Raises UsageError where there is nothing to look at: no such folders, or no image.
    """
    check_constants(protocol)
    root = find_root(protocol, options.data_root, needed_parts(protocol))
    samples = list_data(protocol, options).samples
    expected = len(samples) if protocol.n_images is None else protocol.n_images
    with_image = [sample for sample in samples if sample.image.is_file()]
    with_mask = [sample for sample in samples if sample.mask.is_file()]
    both = [sample for sample in with_image if sample.mask.is_file()]
    looks = _look_at(both, protocol, options, progress)
    return Survey(
        root=root,
        expected=expected,
        images=len(with_image),
        masks=len(with_mask),
        labels=_label_range([look.present for look in looks], protocol),
        faults=(
            *missing_images(samples, protocol, root, expected),
            *missing_masks(samples, protocol),
            *_joined(look.faults for look in looks),
        ),
    )


class _Look(NamedTuple):
    """Which of the 256 values a label map holds, as loaded, and what is wrong, by kind."""

    present: NDArray[np.bool_]
    faults: Mapping[Kind, str]


def _look_at(
    samples: Sequence[Sample],
    protocol: LabelMapProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> list[_Look]:
    one = partial(_look, protocol=protocol)
    found = prefetch(samples, one, workers=options.workers, window=4 * options.workers)
    looks = []
    for done, look in enumerate(found, start=1):
        looks.append(look)
        progress(Progress("look", done, len(samples)))
    return looks


def _look(sample: Sample, protocol: LabelMapProtocol) -> _Look:
    try:
        label = load_label(sample)
    except UsageError as error:
        return _Look(np.zeros(256, np.bool_), {"unreadable": str(error)})
    checks: Mapping[Kind, Callable[[], None]] = {
        "labels": lambda: require_declared(label, sample, protocol),
        "sizes": lambda: require_same_size(sample, displayed_size(sample.image), label),
    }
    faults: dict[Kind, str] = {}
    for kind, check in checks.items():
        try:
            check()
        except UsageError as error:
            faults[kind] = str(error)
    return _Look(np.bincount(label.ravel(), minlength=256) > 0, faults)


def _label_range(
    present: Sequence[NDArray[np.bool_]], protocol: LabelMapProtocol
) -> tuple[int, int] | None:
    if not present:
        return None
    values = np.flatnonzero(np.logical_or.reduce(present))
    classes = values[values != protocol.ignore_index] + protocol.reduce_zero_label
    return (int(classes[0]), int(classes[-1])) if len(classes) else None


def _joined(faults: Iterable[Mapping[Kind, str]]) -> Iterable[Fault]:
    """The first text of every kind and how many more there are."""
    texts: dict[Kind, list[str]] = {}
    for of_sample in faults:
        for kind, text in of_sample.items():
            texts.setdefault(kind, []).append(text)
    for kind, found in texts.items():
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield Fault(kind, f"{found[0]}{more}")
