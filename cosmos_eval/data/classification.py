"""A classification set on the disk: classes, images and labels. Imports no torch by itself."""

import contextlib
import shlex
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cosmos_eval.data import folders
from cosmos_eval.data.class_folders import (
    find_folder,
    is_subset_of_list,
    read_folders,
    read_objectnet,
    read_webdataset,
)
from cosmos_eval.data.class_names import (
    ClassData,
    class_differences,
    make_data,
    template_faults,
    templates_of,
    unnamed_classes,
)
from cosmos_eval.data.prepare import can_prepare
from cosmos_eval.data.readers import FileError, faults_of, read_records, shortened
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.data.torchvision_sets import download_torchvision, read_torchvision, split_of
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import (
    ClassificationProtocol,
    MultilabelProtocol,
    OnProgress,
    RunOptions,
    UsageError,
    nearest,
)

_Value = TypeVar("_Value")

# clip_benchmark/datasets/imagenetv2.py, URLS.
_IMAGENETV2 = (
    "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
    "imagenetv2-matched-frequency.tar.gz"
)


def open_data(protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """List every class's images, or the partial set allowed. Raises UsageError for any fault."""
    return _list(protocol, options).require(protocol, options)


def survey(
    protocol: ClassificationProtocol, options: RunOptions, progress: OnProgress
) -> folders.Survey:
    """Count the test images, and list all that is wrong with them."""
    try:
        listing = _list(protocol, options)
        found = listing.surveyed(protocol, options)
        return replace(found, faults=(*found.faults, *_prompt_faults(protocol, listing.data)))
    except UsageError as error:
        remedy, root = folders.remedy_of(protocol), shlex.quote(str(options.data_root))
        if protocol.class_list == "imagenet1k" and can_prepare("imagenet", options.data_root):
            remedy = f"cosmos-eval data prepare imagenet --data-root {root}"
        elif _can_fetch(protocol) and options.data_root is not None:
            remedy = f"cosmos-eval run --dataset {protocol.dataset} --data-root {root} --download"
        return folders.Survey(faults=(str(error),), remedy=remedy)


def require_choice(protocol: ClassificationProtocol, _: RunOptions, data: ClassData) -> None:
    """Raise UsageError for data of one class, of which there is nothing to choose."""
    for fault in _choice_faults(protocol, data):
        raise UsageError(f"{protocol.dataset}: {fault}")


def require_prompts(protocol: ClassificationProtocol, _: RunOptions, data: ClassData) -> None:
    """Raise UsageError for data of one class, and for classes without names for prompts."""
    for fault in _prompt_faults(protocol, data):
        raise UsageError(f"{protocol.dataset}: {fault}")


def _prompt_faults(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    yield from _choice_faults(protocol, data)
    yield from unnamed_classes(protocol, data)


def _choice_faults(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    if len(data.classes) == 1 and data.labels.ndim == 1:
        yield f"{protocol.folder} has one class, {data.classes[0]}: a choice needs two or more"


def sample_list_hash(data: ClassData) -> str:
    """Return the SHA-256 of the images' names, in hexadecimal."""
    return folders.fingerprint(data.names)


def fetch(protocol: ClassificationProtocol, options: RunOptions) -> None:
    """Download the set unless it is there or cannot be. Raises UsageError where that fails."""
    folders.fetch_repository(protocol, options)
    if not _can_fetch(protocol):
        return
    root = Path(str(options.data_root))
    if protocol.torchvision is not None:
        download_torchvision(protocol, root)
        return
    with contextlib.suppress(UsageError):
        find_folder(protocol, options)
        return
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        with contextlib.redirect_stdout(sys.stderr):
            download_and_extract_archive(_IMAGENETV2, str(root))
    except (OSError, EOFError, RuntimeError, tarfile.TarError) as error:
        archive = root / _IMAGENETV2.rpartition("/")[2]
        raise UsageError(
            f"{protocol.dataset}: cannot download or unpack {_IMAGENETV2}: {error}; remove "
            f"{archive} if it is there, and try again"
        ) from error


def _can_fetch(protocol: ClassificationProtocol) -> bool:
    if protocol.torchvision is not None:
        return protocol.torchvision.partition("/")[0] != "stanford_cars"  # whose page is gone
    return protocol.dataset == "imagenetv2" and protocol.root is None


def _list(protocol: ClassificationProtocol, options: RunOptions) -> folders.Listing[ClassData]:
    _require_one_kind_of_names(protocol)
    _require_known_groups(protocol)
    folder, data = _find(protocol, options)
    if protocol.group_file is not None:
        file = folders.root_of(protocol, options, protocol.group_file) / protocol.group_file
        data = _with_groups(protocol, folder, data, file)
    # Lists of torchvision and of users name images that may not be there.
    is_listed = protocol.torchvision is not None or _list_of(protocol) is not None
    listed = data.images if is_listed else ()
    files = {i: image.path for i, image in enumerate(listed) if isinstance(image, ImageFile)}
    missing = {i: path for i, path in files.items() if not path.is_file()}
    if options.allow_partial and 0 < len(missing) < len(data.images):
        data = data.select([i for i in range(len(data.images)) if i not in missing])
        missing = {}
    n_images = len(data.images)
    parts = folders.parts_of(images=(n_images, protocol.n_images))
    classes = data.labels if data.labels.ndim == 1 else np.zeros(n_images, np.int64)
    kept = data.select(folders.in_turn(classes, options.limit).tolist())
    return folders.Listing(
        data=kept._replace(part=folders.shortfall(parts)),
        where=folder,
        parts=parts,
        survey=folders.Survey(
            faults=tuple(_faults(protocol, folder, data, list(missing.values()))),
            folder=str(folder),
            expected=protocol.n_images or n_images,
            images=n_images - len(missing),
            n_classes=len(data.classes),
        ),
    )


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


def _require_known_groups(protocol: ClassificationProtocol) -> None:
    known, fault = protocol.metadata, ""
    if known and (protocol.group_file is not None or protocol.layout != "webdataset"):
        fault = "`metadata` are those of webdataset archives, without a `group_file`"
    elif unknown := [key for key in folders.several(protocol.group_keys) if key not in known]:
        if known:
            fault = f"`metadata` has no `{unknown[0]}` for `group_keys`: {', '.join(known)}"
        elif "worst_group_acc5" in protocol.metrics and protocol.group_file is None:
            fault = "worst_group_acc5 needs groups: give `group_file`, or `metadata` of archives"
    if fault:
        raise UsageError(f"{protocol.dataset}: {fault}")


def _find(protocol: ClassificationProtocol, options: RunOptions) -> tuple[Path, ClassData]:
    try:
        folder = find_folder(protocol, options)
        if protocol.torchvision is not None:
            root = folders.root_of(protocol, options, folder.name)
            return folder, read_torchvision(protocol, root)
    except UsageError as error:
        page = None if protocol.repository else protocol.download
        how = f"; get it from {page} (--download cannot)" if page else ""
        if page and _can_fetch(protocol):
            how = f"; --download fetches it, or get it from {page}"
        raise UsageError(f"{error}{how}") from error
    if (annotations := _list_of(protocol)) is not None:
        path = folders.root_of(protocol, options, annotations) / annotations
        return folder, _read_list(protocol, folder, path)
    if protocol.layout == "webdataset":
        data = read_webdataset(folder, protocol)
    elif protocol.layout == "objectnet":
        data = read_objectnet(folder)
    else:
        data = read_folders(folder, protocol, options)
    if protocol.class_names:
        _require_named(protocol, folder, data.classes)
    return folder, data


def _list_of(protocol: ClassificationProtocol) -> str | None:
    """Return the file that lists images with several classes each, where there is one."""
    if not isinstance(protocol, MultilabelProtocol) or protocol.layout == "webdataset":
        return None
    if protocol.annotations is None:
        raise UsageError(f"{protocol.dataset}: give `annotations`, or `layout: webdataset`")
    return protocol.annotations


def _read_list(protocol: ClassificationProtocol, folder: Path, path: Path) -> ClassData:
    """Read images and the classes of each; classes are those of `class_names`, or else listed."""
    with faults_of(f"{protocol.dataset}: {path}: "):
        listed = _by_image(path, protocol, partial(_classes, protocol))
    found = {name for names in listed.values() for name in names}
    for name in sorted(one for one in found if {*map(str.strip, one.split(","))} & (found - {one})):
        parts = " | ".join(map(str.strip, name.split(",")))
        raise UsageError(f"{protocol.dataset}: {path}: '{name}' names classes: write '{parts}'")
    if not found:
        raise UsageError(f"{protocol.dataset}: {path} lists no image with a class")
    classes = list(protocol.class_names) or sorted(found)
    for name in sorted(found - set(classes)):
        near = nearest(name, classes)
        raise UsageError(f"{protocol.dataset}: class_names lacks {name} of {path}; nearest: {near}")
    samples = (
        (image, ImageFile(folder / image), np.isin(classes, names))
        for image, names in listed.items()
    )
    return make_data(classes, samples)


def _classes(protocol: ClassificationProtocol, record: Any, where: str) -> list[str]:
    key = getattr(protocol, "label_key", "")
    value = record.get(key) if isinstance(record, dict) else None
    names = value.split("|") if isinstance(value, str) and value else value or []
    if value is None or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise FileError(f"{where}: `{key}` must be classes, such as a|b, not {shortened(value)}")
    return [name.strip() for name in names]


def _with_groups(
    protocol: ClassificationProtocol, folder: Path, data: ClassData, path: Path
) -> ClassData:
    keys = folders.several(protocol.group_keys)
    with faults_of(f"{protocol.dataset}: `group_file`: {path}: "):
        groups = _by_image(
            path, protocol, lambda record, at: ", ".join(_field(record, key, at) for key in keys)
        )
    for name in (name for name in data.names if name not in groups):
        raise UsageError(f"{protocol.dataset}: {path} gives image {name} of {folder} no group")
    if unknown := sorted(groups.keys() - set(data.names)):
        near = nearest(unknown[0], data.names)
        raise UsageError(
            f"{protocol.dataset}: {path} lists {len(unknown)} images that {folder} does not have, "
            f"first: {unknown[0]}; nearest: {near}"
        )
    return data.grouped([groups[name] for name in data.names])


def _by_image(
    path: Path, protocol: ClassificationProtocol, value: Callable[[Any, str], _Value]
) -> dict[str, _Value]:
    """Return the value of each listed image's record and its place. Raises FileError."""
    found: dict[str, _Value] = {}
    for where, record in read_records(path):
        image = _field(record, protocol.image_key, where)
        if image in found:
            raise FileError(f"{where}: image {image} is listed twice")
        found[image] = value(record, where)
    return found


def _field(record: Any, key: str, where: str) -> str:
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise FileError(f"{where}: `{key}` must be text or a whole number, not {shortened(value)}")


def _require_named(protocol: ClassificationProtocol, folder: Path, classes: Sequence[str]) -> None:
    known = list(protocol.class_names)
    for name in (name for name in classes if name not in known):
        raise UsageError(
            f"{protocol.dataset}: class {name} of {folder} has no name in class_names; "
            f"nearest: {nearest(name, known)}"
        )
    for name in (name for name in known if name not in classes):
        raise UsageError(f"{protocol.dataset}: {folder} has no class {name}")


def _faults(
    protocol: ClassificationProtocol, folder: Path, data: ClassData, missing: Sequence[Path]
) -> Iterator[str]:
    n_classes = len(data.classes)
    page = f"; get the whole set from {protocol.download}" if protocol.download else ""
    if missing:
        yield (
            f"{len(missing)} of {len(data.images)} {split_of(protocol)} images are not there, "
            f"the first: {missing[0]}{page.replace('get the whole set from', 'from:')}"
            f"{folders.beside(missing[0])}"
        )
    listed = CLASS_LISTS.get(protocol.class_list or "")
    expected = protocol.n_classes if listed is None else listed.n_classes
    if expected not in (None, n_classes) and not is_subset_of_list(protocol, data.classes):
        what = "" if listed is None else f" {listed.classes} of {protocol.class_list}"
        differences = class_differences(protocol, data.classes)
        yield f"{folder} has {n_classes} classes, not the {expected}{what}{differences}{page}"
    yield from template_faults(templates_of(protocol, data))
    labels = data.labels if data.labels.ndim == 1 else np.zeros(0, np.int64)
    for index in np.flatnonzero((labels < 0) | (labels >= n_classes))[:1]:
        yield (
            f"{folder} gives {data.names[index]} the class number {data.labels[index] + 1}, "
            f"but has {n_classes} classes{page}"
        )
