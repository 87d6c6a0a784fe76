"""A classification set on the disk -> classes, images and labels. Imports no torch by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.classification.fetch import how_to_get
from cosmos_eval.data.classification.folders import find_folder, read_folders
from cosmos_eval.data.classification.names import class_differences
from cosmos_eval.data.classification.types import ClassData
from cosmos_eval.data.classification.webdataset import read_webdataset
from cosmos_eval.data.images import fingerprint, parts_of, require_counts, shortfall, wrong_counts
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import ClassificationProtocol, Part, RunOptions, UsageError, nearest


class Survey(NamedTuple):
    """What there is of a set: test images listed, and how many of them are there.

    `faults` says, one line each, why it cannot be measured.
    """

    folder: Path
    listed: int
    images: int
    faults: tuple[str, ...]


def open_data(protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """List the images of every class; none is decoded.

    Raises UsageError for a missing folder, another layout, a class without images, classes that
    are not the protocol's, images that are not there, and another number of images than it has,
    unless there is a limit. With `options.allow_partial`, the images of a known set that are there.
    """
    folder, data = _find(protocol, options)
    missing = _missing(protocol, data)
    if options.allow_partial and 0 < len(missing) < len(data.images):
        there = [i for i in range(len(data.images)) if i not in missing]
        data, missing = _chosen(data, there), {}
    for fault in _faults(protocol, folder, data, missing):
        raise UsageError(fault)
    require_counts(protocol, options, folder, _counts(protocol, data))
    return _chosen(data, _limited(data.labels, options.limit).tolist())


def part(protocol: ClassificationProtocol, options: RunOptions) -> Part | None:
    """The number of images of a known data set where some are missing, else None.

    Raises UsageError as `open_data` does.
    """
    return shortfall(_counts(protocol, open_data(protocol, options)))


def survey(protocol: ClassificationProtocol, options: RunOptions) -> Survey:
    """Count the test images, and list all that is wrong with them.

    Raises UsageError where they cannot be listed.
    """
    folder, data = _find(protocol, options)
    missing = _missing(protocol, data)
    wrong = wrong_counts(protocol, options, folder, _counts(protocol, data))
    return Survey(
        folder=folder,
        listed=len(data.images),
        images=len(data.images) - len(missing),
        faults=(*_faults(protocol, folder, data, missing), *wrong),
    )


def sample_list_hash(data: ClassData) -> str:
    """SHA-256 of the images' names, in hexadecimal."""
    return fingerprint(data.names)


def _find(protocol: ClassificationProtocol, options: RunOptions) -> tuple[Path, ClassData]:
    """Find the set's folder, and list all of its images and classes."""
    _require_one_kind_of_names(protocol)
    try:
        folder = find_folder(protocol, options)
    except UsageError as error:
        raise UsageError(f"{error}{how_to_get(protocol)}") from None
    data = _read(protocol, folder, options)
    if protocol.class_names and protocol.torchvision is None:
        _require_named(protocol, folder, data.classes)
    return folder, data


def _read(protocol: ClassificationProtocol, folder: Path, options: RunOptions) -> ClassData:
    if protocol.torchvision is not None:
        from cosmos_eval.data.classification.torchvision import read_torchvision

        return read_torchvision(protocol, Path(str(protocol.root or options.data_root)))
    if protocol.layout == "webdataset":
        return read_webdataset(folder)
    return read_folders(folder, protocol, options)


def _require_one_kind_of_names(protocol: ClassificationProtocol) -> None:
    if protocol.class_list is None:
        return
    if protocol.class_names:
        raise UsageError(f"{protocol.dataset}: give class_names or class_list, not both")
    if protocol.class_list not in CLASS_LISTS:
        known = nearest(protocol.class_list, list(CLASS_LISTS))
        raise UsageError(
            f"{protocol.dataset}: unknown class list '{protocol.class_list}'; known: {known}"
        )


def _require_named(
    protocol: ClassificationProtocol, folder: Path, classes: tuple[str, ...]
) -> None:
    """The classes must be exactly those that the protocol names."""
    known = list(protocol.class_names)
    for name in classes:
        if name not in known:
            raise UsageError(
                f"{protocol.dataset}: class {name} of {folder} has no name in class_names; "
                f"nearest: {nearest(name, known)}"
            )
    for name in known:
        if name not in classes:
            raise UsageError(f"{protocol.dataset}: {folder} has no class {name}")


def _class_faults(protocol: ClassificationProtocol, folder: Path, data: ClassData) -> Iterator[str]:
    """Yield a line about another number of classes, and one about a label that is no class."""
    listed = CLASS_LISTS.get(protocol.class_list or "")
    expected = protocol.n_classes if listed is None else listed.n_classes
    if expected not in (None, len(data.classes)):
        what = "" if listed is None else f" {listed.classes} of {protocol.class_list}"
        yield (
            f"{protocol.dataset}: {folder} has {len(data.classes)} classes, not the {expected}"
            f"{what}{class_differences(protocol, data.classes)}{_from_page(protocol)}"
        )
    beyond = np.flatnonzero((data.labels < 0) | (data.labels >= len(data.classes)))
    if len(beyond):
        yield (
            f"{protocol.dataset}: {folder} gives {data.names[beyond[0]]} the class number "
            f"{data.labels[beyond[0]] + 1}, but has {len(data.classes)} classes"
            f"{_from_page(protocol)}"
        )


def _from_page(protocol: ClassificationProtocol) -> str:
    return f"; get the whole set from {protocol.download}" if protocol.download else ""


def _faults(
    protocol: ClassificationProtocol, folder: Path, data: ClassData, missing: Mapping[int, Path]
) -> Iterator[str]:
    """Yield a line about images that are not there, and about other classes than the set has."""
    if missing:
        yield (
            f"{protocol.dataset}: {len(missing)} of {len(data.images)} test images are not there, "
            f"the first: {next(iter(missing.values()))}; from: {protocol.download}"
        )
    yield from _class_faults(protocol, folder, data)


def _counts(protocol: ClassificationProtocol, data: ClassData) -> list[Part]:
    return parts_of(images=(len(data.images), protocol.n_images))


def _missing(protocol: ClassificationProtocol, data: ClassData) -> dict[int, Path]:
    """List the images that the files of one of torchvision's sets name and that are not there."""
    if protocol.torchvision is None:
        return {}
    images = enumerate(data.images)
    files = {index: image.path for index, image in images if isinstance(image, ImageFile)}
    return {index: path for index, path in files.items() if not path.is_file()}


def _chosen(data: ClassData, indices: Sequence[int]) -> ClassData:
    return data._replace(
        names=tuple(data.names[i] for i in indices),
        images=tuple(data.images[i] for i in indices),
        labels=data.labels[indices],
    )


def _limited(labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Numbers of the images to measure: the first of every class, then the second, ..."""
    by_class = np.argsort(labels, kind="stable")
    in_order = labels[by_class]
    turn = np.empty_like(by_class)
    turn[by_class] = np.arange(len(labels)) - np.searchsorted(in_order, in_order)
    return np.sort(np.lexsort((labels, turn))[:limit])
