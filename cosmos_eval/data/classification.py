"""A classification set on the disk: classes, images and labels. Imports no torch by itself."""

import contextlib
import shlex
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

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

# As in clip_benchmark/datasets/imagenetv2.py, URLS.
_IMAGENETV2 = (
    "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
    "imagenetv2-matched-frequency.tar.gz"
)


def open_data(protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """List the images of every class, or those found of a partial set.

    Raise UsageError for any fault.
    """
    return _list_data(protocol, options).require(protocol, options)


def survey(
    protocol: ClassificationProtocol, options: RunOptions, progress: OnProgress
) -> folders.Survey:
    """Count the test images, and list all faults of the set."""
    try:
        listing = _list_data(protocol, options)
        listing_survey = listing.surveyed(protocol, options)
        faults = (*listing_survey.faults, *_prompt_faults(protocol, listing.data))
        return replace(listing_survey, faults=faults)
    except UsageError as error:
        return folders.Survey(faults=(str(error),), remedy=_remedy(protocol, options))


def _remedy(protocol: ClassificationProtocol, options: RunOptions) -> str | None:
    """Return the command or the page that completes a set which cannot be listed."""
    root = shlex.quote(str(options.data_root))
    if protocol.class_list == "imagenet1k" and can_prepare("imagenet", options.data_root):
        return f"cosmos-eval data prepare imagenet --data-root {root}"
    if _can_fetch(protocol) and options.data_root is not None:
        return f"cosmos-eval run --dataset {protocol.dataset} --data-root {root} --download"
    return folders.remedy_of(protocol)


def require_choice(protocol: ClassificationProtocol, _: RunOptions, data: ClassData) -> None:
    """Raise UsageError for data of a single class, which leave nothing to choose."""
    for fault in _choice_faults(protocol, data):
        raise UsageError(f"{protocol.dataset}: {fault}")


def require_prompts(protocol: ClassificationProtocol, _: RunOptions, data: ClassData) -> None:
    """Raise UsageError for data of a single class, and for classes without names for prompts."""
    for fault in _prompt_faults(protocol, data):
        raise UsageError(f"{protocol.dataset}: {fault}")


def _prompt_faults(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    """Yield the faults of data that are to be classified by prompts."""
    yield from _choice_faults(protocol, data)
    yield from unnamed_classes(protocol, data)


def _choice_faults(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    """Yield a fault for data of a single class, unless images have several labels each."""
    if len(data.classes) == 1 and data.labels.ndim == 1:
        yield f"{protocol.folder} has one class, {data.classes[0]}: a choice needs two or more"


def sample_list_hash(data: ClassData) -> str:
    """Return the SHA-256 of the names of the images, in hexadecimal."""
    return folders.fingerprint(data.names)


def fetch(protocol: ClassificationProtocol, options: RunOptions) -> None:
    """Download the set unless it is there or has no known download.

    Raise UsageError if the download fails.
    """
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
    _fetch_imagenetv2(protocol, root)


def _can_fetch(protocol: ClassificationProtocol) -> bool:
    """Return whether torchvision or this module can download the set."""
    if protocol.torchvision is not None:
        set_name = protocol.torchvision.partition("/")[0]
        return set_name != "stanford_cars"  # its page no longer exists
    return protocol.dataset == "imagenetv2" and protocol.root is None


def _fetch_imagenetv2(protocol: ClassificationProtocol, root: Path) -> None:
    """Download and unpack ImageNet-V2 below `root`. Raise UsageError if that fails."""
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        # torchvision prints on standard output, which belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            download_and_extract_archive(_IMAGENETV2, str(root))
    except (OSError, EOFError, RuntimeError, tarfile.TarError) as error:
        archive = root / _IMAGENETV2.rpartition("/")[2]
        raise UsageError(
            f"{protocol.dataset}: cannot download or unpack {_IMAGENETV2}: {error}; remove "
            f"{archive} if it is there, and try again"
        ) from error


def _list_data(protocol: ClassificationProtocol, options: RunOptions) -> folders.Listing[ClassData]:
    """List classes and images with all faults. Raise UsageError if they cannot be read."""
    _check_class_list(protocol)
    _check_groups(protocol)
    folder, data = _read_data(protocol, options)
    if protocol.group_file is not None:
        group_file = folders.root_of(protocol, options, protocol.group_file) / protocol.group_file
        data = _with_groups(protocol, folder, data, group_file)
    missing_files = _missing_files(protocol, data)
    if options.allow_partial and 0 < len(missing_files) < len(data.images):
        present_indices = [index for index in range(len(data.images)) if index not in missing_files]
        data = data.select(present_indices)
        missing_files = {}
    n_images = len(data.images)
    counts = folders.compare_counts(images=(n_images, protocol.n_images))
    # A limit takes images from the classes in turn. Images with several labels are one class here.
    class_of_image = data.labels if data.labels.ndim == 1 else np.zeros(n_images, np.int64)
    chosen_indices = folders.choose_in_turn(class_of_image, options.limit)
    chosen_data = data.select(chosen_indices.tolist())
    return folders.Listing(
        data=chosen_data._replace(found_samples=folders.first_shortfall(counts)),
        path=folder,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(_faults(protocol, folder, data, list(missing_files.values()))),
            folder=str(folder),
            expected=protocol.n_images or n_images,
            images=n_images - len(missing_files),
            n_classes=len(data.classes),
        ),
    )


def _check_class_list(protocol: ClassificationProtocol) -> None:
    """Raise UsageError for an unknown class list, or for one beside names of classes."""
    if protocol.class_list is None:
        return
    if protocol.class_names:
        raise UsageError(f"{protocol.dataset}: give class_names or class_list, not both")
    if protocol.class_list not in CLASS_LISTS:
        nearest_lists = nearest(protocol.class_list, list(CLASS_LISTS))
        raise UsageError(
            f"{protocol.dataset}: unknown class list '{protocol.class_list}'; "
            f"known: {nearest_lists}"
        )


def _check_groups(protocol: ClassificationProtocol) -> None:
    """Raise UsageError for fields about groups of images that contradict each other."""
    metadata, group_keys = protocol.metadata, folders.as_tuple(protocol.group_keys)
    if metadata:
        if protocol.group_file is not None or protocol.layout != "webdataset":
            raise UsageError(
                f"{protocol.dataset}: `metadata` name numbers in webdataset archives, without a "
                "`group_file`"
            )
        for key in group_keys:
            if key not in metadata:
                raise UsageError(
                    f"{protocol.dataset}: `metadata` has no `{key}` for `group_keys`: "
                    f"{', '.join(metadata)}"
                )
    elif group_keys and "worst_group_acc5" in protocol.metrics and protocol.group_file is None:
        raise UsageError(
            f"{protocol.dataset}: worst_group_acc5 needs groups: give `group_file`, or "
            "`metadata` of archives"
        )


def _read_data(protocol: ClassificationProtocol, options: RunOptions) -> tuple[Path, ClassData]:
    """Return the folder of a set, and its images in the layout of the protocol.

    Raise UsageError if the set is missing or in another layout.
    """
    try:
        folder = find_folder(protocol, options)
        if protocol.torchvision is not None:
            root = folders.root_of(protocol, options, folder.name)
            return folder, read_torchvision(protocol, root)
    except UsageError as error:
        raise UsageError(f"{error}{_download_advice(protocol)}") from error
    if isinstance(protocol, MultilabelProtocol) and protocol.layout != "webdataset":
        return folder, _read_multilabel_list(protocol, options, folder)
    if protocol.layout == "webdataset":
        data = read_webdataset(folder, protocol)
    elif protocol.layout == "objectnet":
        data = read_objectnet(folder)
    else:
        data = read_folders(folder, protocol, options)
    if protocol.class_names:
        _require_same_classes(protocol, folder, data.classes)
    return folder, data


def _download_advice(protocol: ClassificationProtocol) -> str:
    """Return the end of an error about a missing set: where to get it, or nothing."""
    if protocol.download is None or protocol.repository is not None:
        return ""
    if _can_fetch(protocol):
        return f"; --download fetches it, or get it from {protocol.download}"
    return f"; get it from {protocol.download} (--download cannot)"


def _read_multilabel_list(
    protocol: MultilabelProtocol, options: RunOptions, folder: Path
) -> ClassData:
    """Read a list of images with several classes each.

    The classes are the keys of `class_names`, or else all classes in the list. Raise UsageError
    for any fault.
    """
    if protocol.annotations is None:
        raise UsageError(f"{protocol.dataset}: give `annotations`, or `layout: webdataset`")
    root = folders.root_of(protocol, options, protocol.annotations)
    path = root / protocol.annotations
    classes_by_image: dict[str, list[str]] = {}
    with faults_of(f"{protocol.dataset}: {path}: "):
        for image, record, location in _image_records(path, protocol):
            classes_by_image[image] = _parse_classes(record, protocol.label_key, location)
    listed_classes = set(chain.from_iterable(classes_by_image.values()))
    _check_listed_classes(protocol, path, listed_classes)
    classes = list(protocol.class_names) or sorted(listed_classes)
    samples = []
    for image, image_classes in classes_by_image.items():
        samples.append((image, ImageFile(folder / image), np.isin(classes, image_classes)))
    return make_data(classes, samples)


def _check_listed_classes(
    protocol: MultilabelProtocol, path: Path, listed_classes: set[str]
) -> None:
    """Raise UsageError for classes that are separated by commas or that `class_names` lacks."""
    if not listed_classes:
        raise UsageError(f"{protocol.dataset}: {path} lists no image with a class")
    for name in sorted(listed_classes):
        # A name may hold a comma, but not the names of other classes.
        comma_separated = [text.strip() for text in name.split(",")]
        if len(comma_separated) > 1 and not listed_classes.isdisjoint(comma_separated):
            raise UsageError(
                f"{protocol.dataset}: {path}: '{name}' names classes: write "
                f"'{' | '.join(comma_separated)}'"
            )
    if not protocol.class_names:
        return
    for name in sorted(listed_classes - set(protocol.class_names)):
        raise UsageError(
            f"{protocol.dataset}: class_names lacks {name} of {path}; "
            f"nearest: {nearest(name, list(protocol.class_names))}"
        )


def _parse_classes(record: Any, key: str, location: str) -> list[str]:
    """Return the classes in a field, which is a list, or text such as `a|b`.

    Raise FileError for a missing field and for any other value.
    """
    value = record.get(key) if isinstance(record, dict) else None
    names = value or []  # an image may have no class
    if isinstance(names, str):
        names = names.split("|")
    is_text = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if value is None or not is_text:
        raise FileError(f"{location}: `{key}` must be classes, such as a|b, not {shortened(value)}")
    return [name.strip() for name in names]


def _with_groups(
    protocol: ClassificationProtocol, folder: Path, data: ClassData, path: Path
) -> ClassData:
    """Return the data with the group of each image, which the file at `path` lists.

    Raise UsageError if the file does not list exactly the images of the data.
    """
    group_by_image: dict[str, str] = {}
    with faults_of(f"{protocol.dataset}: `group_file`: {path}: "):
        for image, record, location in _image_records(path, protocol):
            keys = folders.as_tuple(protocol.group_keys)
            group_by_image[image] = ", ".join(_parse_text(record, key, location) for key in keys)
    for name in data.names:
        if name not in group_by_image:
            raise UsageError(f"{protocol.dataset}: {path} gives image {name} of {folder} no group")
    unknown_images = sorted(group_by_image.keys() - set(data.names))
    if unknown_images:
        raise UsageError(
            f"{protocol.dataset}: {path} lists {len(unknown_images)} images that {folder} does not "
            f"have, first: {unknown_images[0]}; nearest: {nearest(unknown_images[0], data.names)}"
        )
    return data.grouped([group_by_image[name] for name in data.names])


def _image_records(path: Path, protocol: ClassificationProtocol) -> Iterator[tuple[str, Any, str]]:
    """Yield the image, the record and its location for every entry of a file.

    Raise FileError for an image that is listed twice.
    """
    images = set()
    for location, record in read_records(path):
        image = _parse_text(record, protocol.image_key, location)
        if image in images:
            raise FileError(f"{location}: image {image} is listed twice")
        images.add(image)
        yield image, record, location


def _parse_text(record: Any, key: str, location: str) -> str:
    """Return a field that is text or a whole number. Raise FileError for any other value."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise FileError(f"{location}: `{key}` must be text or a whole number, not {shortened(value)}")


def _require_same_classes(
    protocol: ClassificationProtocol, folder: Path, classes: Sequence[str]
) -> None:
    """Raise UsageError unless `class_names` names exactly the classes of the data."""
    named_classes = list(protocol.class_names)
    for name in classes:
        if name not in named_classes:
            raise UsageError(
                f"{protocol.dataset}: class {name} of {folder} has no name in class_names; "
                f"nearest: {nearest(name, named_classes)}"
            )
    for name in named_classes:
        if name not in classes:
            raise UsageError(f"{protocol.dataset}: {folder} has no class {name}")


def _missing_files(protocol: ClassificationProtocol, data: ClassData) -> dict[int, Path]:
    """Return the missing files of the data by the index of the image.

    Only lists of torchvision and of users name images that may be missing.
    """
    is_user_list = isinstance(protocol, MultilabelProtocol) and protocol.layout != "webdataset"
    if protocol.torchvision is None and not is_user_list:
        return {}
    missing_files = {}
    for index, image in enumerate(data.images):
        if isinstance(image, ImageFile) and not image.path.is_file():
            missing_files[index] = image.path
    return missing_files


def _faults(
    protocol: ClassificationProtocol, folder: Path, data: ClassData, missing_files: Sequence[Path]
) -> Iterator[str]:
    """Yield the faults of listed data, except a wrong number of images."""
    if missing_files:
        page = f"; from: {protocol.download}" if protocol.download else ""
        yield (
            f"{len(missing_files)} of {len(data.images)} {split_of(protocol)} images are not "
            f"there, the first: {missing_files[0]}{page}{folders.similar_file(missing_files[0])}"
        )
    yield from _class_count_faults(protocol, folder, data)
    yield from template_faults(templates_of(protocol, data))
    yield from _label_faults(protocol, folder, data)


def _whole_set_page(protocol: ClassificationProtocol) -> str:
    """Return the end of an error about a set of other classes, or nothing."""
    return f"; get the whole set from {protocol.download}" if protocol.download else ""


def _class_count_faults(
    protocol: ClassificationProtocol, folder: Path, data: ClassData
) -> Iterator[str]:
    """Yield a fault if the set or its class list has another number of classes."""
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    n_expected = protocol.n_classes if class_list is None else class_list.n_classes
    if n_expected in (None, len(data.classes)) or is_subset_of_list(protocol, data.classes):
        return
    kind = "" if class_list is None else f" {class_list.classes} of {protocol.class_list}"
    differences = class_differences(protocol, data.classes)
    yield (
        f"{folder} has {len(data.classes)} classes, not the {n_expected}{kind}{differences}"
        f"{_whole_set_page(protocol)}"
    )


def _label_faults(protocol: ClassificationProtocol, folder: Path, data: ClassData) -> Iterator[str]:
    """Yield a fault for the first image whose label is not the index of a class."""
    if data.labels.ndim != 1:
        return
    n_classes = len(data.classes)
    invalid_indices = np.flatnonzero((data.labels < 0) | (data.labels >= n_classes))
    if len(invalid_indices):
        first = invalid_indices[0]
        yield (
            f"{folder} gives {data.names[first]} the class number {data.labels[first] + 1}, "
            f"but has {n_classes} classes{_whole_set_page(protocol)}"
        )
