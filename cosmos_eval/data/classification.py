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
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.altered_images import corrupt_images, write_wrong_classes
from cosmos_eval.data.class_folders import (
    describe_skipped_files,
    find_folder,
    is_subset_of_list,
    read_folders,
    read_objectnet,
    read_severities,
    read_webdataset,
)
from cosmos_eval.data.class_names import (
    ClassData,
    class_names,
    describe_class_differences,
    make_data,
    template_faults,
    templates_of,
    unnamed_class_faults,
)
from cosmos_eval.data.class_tables import read_class_table
from cosmos_eval.data.coop_splits import read_coop_split
from cosmos_eval.data.frames import open_video_folder
from cosmos_eval.data.prepare import can_prepare
from cosmos_eval.data.readers import FileError, read_records, report_faults_at, shortened
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.data.torchvision_sets import download_torchvision, read_torchvision, split_name
from cosmos_eval.data.translations import translate_classes
from cosmos_eval.data.video_lists import read_videos
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import (
    ClassificationProtocol,
    MultilabelProtocol,
    OnProgress,
    RunOptions,
    UsageError,
    nearest,
)

# The address of ImageNet-V2, as in clip_benchmark/datasets/imagenetv2.py (URLS).
_IMAGENETV2_URL = (
    "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
    "imagenetv2-matched-frequency.tar.gz"
)


def open_data(protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """Return the images of a classification data set, with their labels and classes.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps that many images, taken from the classes in turn, each of them with
            all severities of a corruption. `allow_partial` leaves out images whose files are
            missing.

    Returns:
        The data. If the protocol alters images, they are the altered ones: with a written word, or
        five versions of each image with the severities of a corruption.

    Raises:
        UsageError: If anything else is wrong with the data set.
    """
    _require_one_alteration(protocol)
    data = _list_data(protocol, options).checked_data(protocol, options)
    if protocol.typographic:
        return write_wrong_classes(data, class_names(protocol, data), protocol.dataset)
    if protocol.corruption is not None:
        return corrupt_images(data, protocol.corruption)
    return data


def _require_one_alteration(protocol: ClassificationProtocol) -> None:
    """Raise UsageError if images would be altered twice: with severities, corrupted or written on.

    No metric tells the two alterations apart.
    """
    alterations = []
    if protocol.layout == "severities":
        alterations.append("`layout: severities`")
    if protocol.corruption is not None:
        alterations.append("`corruption`")
    if protocol.typographic:
        alterations.append("`typographic`")
    if len(alterations) > 1:
        raise UsageError(f"{protocol.dataset}: give only one of {', '.join(alterations)}")


def survey(
    protocol: ClassificationProtocol,
    options: RunOptions,
    progress: OnProgress,
    *,
    has_prompts: bool = True,
) -> folders.Survey:
    """Return the number of images, and everything that is wrong with the data set.

    Args:
        protocol: The data set and how it is measured.
        options: The options of the command, such as --data-root.
        progress: Not used, because only paths are listed. All functions that survey data have it.
        has_prompts: True if prompts must tell the classes of the images apart.
    """
    try:
        listing = _list_data(protocol, options)
        listing_survey = listing.complete_survey(protocol, options)
        prompt_faults = _prompt_faults(protocol, listing.data) if has_prompts else ()
        return replace(listing_survey, faults=(*listing_survey.faults, *prompt_faults))
    except UsageError as error:
        return folders.Survey(faults=(str(error),), remedy=_find_remedy(protocol, options))


def _find_remedy(protocol: ClassificationProtocol, options: RunOptions) -> str | None:
    """Return the command that completes a data set, or the page that its files come from.

    The command either moves images that are already on the disk, or downloads the data set.

    Example:
        `cosmos-eval run --dataset imagenetv2 --data-root data --download`
    """
    root = shlex.quote(str(options.data_root))
    if protocol.class_list == "imagenet1k" and can_prepare("imagenet", options.data_root):
        return f"cosmos-eval data prepare imagenet --data-root {root}"
    if _can_fetch(protocol) and options.data_root is not None:
        return f"cosmos-eval run --dataset {protocol.dataset} --data-root {root} --download"
    return folders.remedy_of(protocol)


def require_choice(protocol: ClassificationProtocol, _: RunOptions, data: ClassData) -> None:
    """Raise UsageError for data of a single class, which leaves nothing to choose."""
    for fault in _choice_faults(protocol, data):
        raise UsageError(f"{protocol.dataset}: {fault}")


def require_prompts(protocol: ClassificationProtocol, _: RunOptions, data: ClassData) -> None:
    """Raise UsageError if prompts cannot tell the classes of the data apart.

    This holds for a single class, and for classes that are called by WordNet ids or numbers.
    """
    for fault in _prompt_faults(protocol, data):
        raise UsageError(f"{protocol.dataset}: {fault}")


def _prompt_faults(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    """Yield the reasons why images cannot be classified by prompts of their classes."""
    yield from _choice_faults(protocol, data)
    yield from unnamed_class_faults(protocol, data)


def _choice_faults(protocol: ClassificationProtocol, data: ClassData) -> Iterator[str]:
    """Yield a fault if there is only one class, unless images have several labels each."""
    has_one_class = len(data.classes) == 1
    has_several_labels = data.labels.ndim > 1
    if has_one_class and not has_several_labels:
        yield f"{protocol.folder} has one class, {data.classes[0]}: a choice needs two or more"


def sample_list_hash(data: ClassData) -> str:
    """Return the SHA-256 of the names of the images, in hexadecimal."""
    return folders.fingerprint(data.names)


def fetch(protocol: ClassificationProtocol, options: RunOptions) -> None:
    """Download the data set unless it is on the disk already.

    Do nothing if no download is known. Raise UsageError if the download fails.
    """
    # The Hugging Face hub.
    folders.fetch_repository(protocol, options)

    # torchvision, or the page of ImageNet-V2.
    if not _can_fetch(protocol):
        return
    root = Path(str(options.data_root))
    if protocol.torchvision is not None:
        download_torchvision(protocol, root)
        return
    try:
        find_folder(protocol, options)
    except UsageError:
        _fetch_imagenetv2(protocol, root)


def _can_fetch(protocol: ClassificationProtocol) -> bool:
    """Return whether torchvision or this module can download the data set."""
    if protocol.torchvision is not None:
        # "stanford_cars/train" names the training images of Stanford Cars, whose download page no
        # longer exists.
        set_name = protocol.torchvision.partition("/")[0]
        return set_name != "stanford_cars"
    return protocol.dataset == "imagenetv2" and protocol.root is None


def _fetch_imagenetv2(protocol: ClassificationProtocol, root: Path) -> None:
    """Download and unpack ImageNet-V2 below `root`. Raise UsageError if that fails."""
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        # torchvision prints on standard output, which belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            download_and_extract_archive(_IMAGENETV2_URL, str(root))
    except (OSError, EOFError, RuntimeError, tarfile.TarError) as error:
        archive = root / _IMAGENETV2_URL.rpartition("/")[2]
        raise UsageError(
            f"{protocol.dataset}: cannot download or unpack {_IMAGENETV2_URL}: {error}; remove "
            f"{archive} if it is there, and try again"
        ) from error


def _list_data(protocol: ClassificationProtocol, options: RunOptions) -> folders.Listing[ClassData]:
    """Return the classes and images of a data set, together with everything wrong with them.

    Missing images and wrong numbers are recorded in the listing and not raised.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` and `allow_partial` choose images, as in `open_data`.

    Raises:
        UsageError: If classes and images cannot be listed at all.
    """
    _check_class_list(protocol)
    _check_groups(protocol)
    folder, data = _read_data(protocol, options)
    if protocol.group_file is not None:
        group_file = folders.root_of(protocol, options, protocol.group_file) / protocol.group_file
        data = _with_groups(protocol, folder, data, group_file)

    # Leave out missing images if that is allowed and some images are there.
    missing_file_by_index = _find_missing_files(protocol, data)
    are_some_missing = 0 < len(missing_file_by_index) < len(data.images)
    if options.allow_partial and are_some_missing:
        all_indices = range(len(data.images))
        data = data.select([index for index in all_indices if index not in missing_file_by_index])
        missing_file_by_index = {}
    n_images = len(data.images)
    counts = folders.compare_counts(images=(n_images, protocol.n_images))

    chosen_data = data.select(_choose_images(data, options.limit).tolist())
    missing_files = list(missing_file_by_index.values())
    return folders.Listing(
        data=chosen_data._replace(found_samples=folders.find_shortfall(counts)),
        path=folder,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(_list_faults(protocol, folder, data, missing_files)),
            folder=str(folder),
            expected=protocol.n_images or n_images,
            images=n_images - len(missing_files),
            n_classes=len(data.classes),
            note=describe_skipped_files(data.skipped_files),
        ),
    )


def _choose_images(data: ClassData, limit: int | None) -> NDArray[np.int64]:
    """Return the indices of the images that a limit keeps, which it takes from the classes in turn.

    All versions of an image, such as the severities of a corruption, are kept together. If images
    have several labels, all of them count as one class, so that the first images are kept.
    """
    if data.origins is not None:
        _, first_versions = np.unique(data.origins, return_index=True)
        kept_images = folders.choose_in_turn(data.labels[first_versions], limit)
        return np.flatnonzero(np.isin(data.origins, data.origins[first_versions[kept_images]]))
    class_of_image = data.labels if data.labels.ndim == 1 else np.zeros(len(data.images), np.int64)
    return folders.choose_in_turn(class_of_image, limit)


def _check_class_list(protocol: ClassificationProtocol) -> None:
    """Raise UsageError for an unknown class list, and for a list with `class_names` beside it."""
    if protocol.class_list is None:
        return
    if protocol.class_names:
        raise UsageError(f"{protocol.dataset}: give class_names or class_list, not both")
    if protocol.class_list not in CLASS_LISTS:
        nearest_lists = nearest(protocol.class_list, list(CLASS_LISTS))
        raise UsageError(
            f"{protocol.dataset}: unknown class list '{protocol.class_list}'; "
            f"nearest: {nearest_lists}"
        )


def _check_groups(protocol: ClassificationProtocol) -> None:
    """Raise UsageError if the protocol's fields about groups of images contradict each other.

    Groups of images, such as regions, come from a `group_file`, or from numbers in webdataset
    archives. The field `metadata` has the names of these numbers. The field `group_keys` says
    which values make the name of a group, such as `region` and `year`.
    """
    metadata = protocol.metadata
    group_keys = folders.as_tuple(protocol.group_keys)
    has_group_file = protocol.group_file is not None
    needs_groups = bool(group_keys) and "worst_group_acc5" in protocol.metrics

    if metadata:
        if has_group_file or protocol.layout != "webdataset":
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
    elif needs_groups and not has_group_file:
        raise UsageError(
            f"{protocol.dataset}: worst_group_acc5 needs groups: give `group_file`, or "
            "`metadata` of archives"
        )


def _read_data(protocol: ClassificationProtocol, options: RunOptions) -> tuple[Path, ClassData]:
    """Return the folder of a data set, and its classes and images.

    They are read by torchvision, from a list of images with several labels, from webdataset
    archives, or from class folders, as the protocol says. Raise UsageError if the data set is
    missing or has another layout.
    """
    # Find the folder. If torchvision knows the data set, it reads it.
    try:
        folder = find_folder(protocol, options)
        if protocol.torchvision is not None:
            root = folders.root_of(protocol, options, folder.name)
            return folder, read_torchvision(protocol, root)
    except UsageError as error:
        raise UsageError(f"{error}{_download_advice(protocol)}") from error

    # Read the layout of all other data sets. Tables and lists of several labels name the classes.
    if protocol.table is not None:
        return folder, read_class_table(protocol, protocol.table, folder)
    if isinstance(protocol, MultilabelProtocol) and protocol.layout != "webdataset":
        return folder, _read_multilabel_list(protocol, options, folder)
    data = _read_layout(folder, protocol, options)
    if protocol.names_in_order:
        data = data._replace(prompts=protocol.names_in_order)
    if protocol.class_names:
        _require_same_classes(protocol, folder, data.classes)
    if protocol.translation is not None:
        data = translate_classes(data, protocol.translation)
    return folder, data


def _read_layout(folder: Path, protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """Return the classes and images in a folder, one class for each image.

    Args:
        folder: The folder.
        protocol: Names the layout, or a file that lists the images.
        options: The options of the command, such as --data-root.

    Raises:
        UsageError: If the folder has another layout.
    """
    if protocol.split_file is not None:
        return read_coop_split(folder, protocol, options)
    if protocol.video_list:
        list_path = folders.data_path(protocol, options, protocol.video_list, "videos")
        return read_videos(list_path, open_video_folder(folder, protocol.frames))
    if protocol.layout == "webdataset":
        return read_webdataset(folder, protocol)
    if protocol.layout == "objectnet":
        return read_objectnet(folder)
    if protocol.layout == "severities":
        return read_severities(folder, protocol, options)
    return read_folders(folder, protocol, options)


def _download_advice(protocol: ClassificationProtocol) -> str:
    """Return the end of an error about a missing data set, which says where to get it.

    Return an empty text if no page is known, and for data sets on the Hugging Face hub, whose
    errors name the hub already.

    Example:
        "; --download fetches it, or get it from https://..."
    """
    if protocol.download is None or protocol.repository is not None:
        return ""
    if _can_fetch(protocol):
        return f"; --download fetches it, or get it from {protocol.download}"
    return f"; get it from {protocol.download} (--download cannot)"


def _read_multilabel_list(
    protocol: MultilabelProtocol, options: RunOptions, folder: Path
) -> ClassData:
    """Read the file that lists the images in a folder with several classes for each.

    The classes are the keys of the protocol's `class_names`, or else all classes in the list,
    sorted. The label of an image is a row of truth values, one for each class.

    Args:
        protocol: Names the file (`annotations`) and the keys of its records.
        options: The options of the command, such as --data-root.
        folder: The folder of the images.

    Raises:
        UsageError: If the list cannot be read.
    """
    if protocol.annotations is None:
        raise UsageError(f"{protocol.dataset}: give `annotations`, or `layout: webdataset`")
    root = folders.root_of(protocol, options, protocol.annotations)
    path = root / protocol.annotations
    classes_by_image: dict[str, list[str]] = {}
    with report_faults_at(f"{protocol.dataset}: {path}: "):
        for image, record, location in _read_image_records(path, protocol):
            classes_by_image[image] = _parse_classes(record, protocol.label_key, location)

    listed_classes = set(chain.from_iterable(classes_by_image.values()))
    _check_listed_classes(protocol, path, listed_classes)

    classes = list(protocol.class_names) or sorted(listed_classes)
    samples = []
    for image, image_classes in classes_by_image.items():
        has_class = np.isin(classes, image_classes)  # (C,)
        samples.append((image, ImageFile(folder / image), has_class))
    return make_data(classes, samples)


def _check_listed_classes(
    protocol: MultilabelProtocol, path: Path, listed_classes: set[str]
) -> None:
    """Raise UsageError if a list of images has no classes, or has wrong ones.

    A class is wrong if it is in fact several classes, such as `cat, dog` instead of `cat | dog`, or
    if the protocol's `class_names` lack it.

    Args:
        protocol: The data set, and the names of its classes if the user stated them.
        path: The path of the list, for error messages.
        listed_classes: All classes in the list.
    """
    if not listed_classes:
        raise UsageError(f"{protocol.dataset}: {path} lists no image with a class")

    # The name of a class may have a comma: "fox, red". But "cat, dog" are two classes if "cat" is
    # listed as a class too.
    for name in sorted(listed_classes):
        possible_classes = [text.strip() for text in name.split(",")]
        are_classes = not listed_classes.isdisjoint(possible_classes)
        if len(possible_classes) > 1 and are_classes:
            raise UsageError(
                f"{protocol.dataset}: {path}: '{name}' names classes: write "
                f"'{' | '.join(possible_classes)}'"
            )

    if not protocol.class_names:
        return
    for name in sorted(listed_classes - set(protocol.class_names)):
        raise UsageError(
            f"{protocol.dataset}: class_names lacks {name} of {path}; "
            f"nearest: {nearest(name, list(protocol.class_names))}"
        )


def _parse_classes(record: Any, key: str, location: str) -> list[str]:
    """Return the names of classes in a field of a record.

    Args:
        record: A record such as `{"image": "1.jpg", "label": "cat | dog"}`.
        key: The key of the field. Its value is a text with classes that are separated by `|`, or a
            list of classes.
        location: The place of the record in its file, such as `line 3`.

    Raises:
        FileError: If the record lacks the field, or if the field has any other value. The message
            begins with the location.

    Example:
        Both `"cat | dog"` and `["cat", "dog"]` give `["cat", "dog"]`, and `""` gives `[]`.
    """
    value = record.get(key) if isinstance(record, dict) else None
    names = value or []
    if isinstance(names, str):
        names = names.split("|")
    are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if value is None or not are_texts:
        raise FileError(f"{location}: `{key}` must be classes, such as a|b, not {shortened(value)}")
    return [name.strip() for name in names]


def _with_groups(
    protocol: ClassificationProtocol, folder: Path, data: ClassData, path: Path
) -> ClassData:
    """Return the data with the group of each image, such as its region and year.

    The name of a group joins the values of the protocol's `group_keys`: it is `Europe, 2015` for
    the keys `region` and `year`.

    Args:
        protocol: The keys of the file.
        folder: The folder of the images, for error messages.
        data: The data without groups.
        path: The path of the file that lists the group of each image.

    Raises:
        UsageError: If the file does not list exactly the images of the data.
    """
    group_keys = folders.as_tuple(protocol.group_keys)
    group_by_image: dict[str, str] = {}
    with report_faults_at(f"{protocol.dataset}: `group_file`: {path}: "):
        for image, record, location in _read_image_records(path, protocol):
            group_values = [_parse_text(record, key, location) for key in group_keys]
            group_by_image[image] = ", ".join(group_values)

    # The file must list exactly the images of the data.
    for name in data.names:
        if name not in group_by_image:
            raise UsageError(f"{protocol.dataset}: {path} gives image {name} of {folder} no group")
    unknown_images = sorted(group_by_image.keys() - set(data.names))
    if unknown_images:
        raise UsageError(
            f"{protocol.dataset}: {path} lists {len(unknown_images)} images that {folder} does not "
            f"have, first: {unknown_images[0]}; nearest: {nearest(unknown_images[0], data.names)}"
        )
    return data.with_groups([group_by_image[name] for name in data.names])


def _read_image_records(
    path: Path, protocol: ClassificationProtocol
) -> Iterator[tuple[str, Any, str]]:
    """Yield the image's name, the record and its location for every entry of a file.

    Raise FileError for an image that is listed twice.

    Args:
        path: The path of a table or a JSON file.
        protocol: Its `image_key` is the key of the image's name in a record.

    Example:
        `("1.jpg", {"image": "1.jpg", "label": "cat | dog"}, "line 2")`. The location is for error
        messages.
    """
    listed_images = set()
    for location, record in read_records(path):
        image = _parse_text(record, protocol.image_key, location)
        if image in listed_images:
            raise FileError(f"{location}: image {image} is listed twice")
        listed_images.add(image)
        yield image, record, location


def _parse_text(record: Any, key: str, location: str) -> str:
    """Return a field of a record as text, if it is text or a whole number.

    Raise FileError, which begins with `location`, if it is missing, blank or another value.
    """
    value = record.get(key) if isinstance(record, dict) else None
    is_text_or_int = isinstance(value, str | int) and not isinstance(value, bool)
    if is_text_or_int and str(value).strip():
        return str(value)
    raise FileError(f"{location}: `{key}` must be text or a whole number, not {shortened(value)}")


def _require_same_classes(
    protocol: ClassificationProtocol, folder: Path, classes: Sequence[str]
) -> None:
    """Raise UsageError unless the protocol's `class_names` name exactly the classes of the data.

    Args:
        protocol: `class_names` are the names of classes in prompts, by the classes of the data.
        folder: The folder of the data set, for error messages.
        classes: The classes of the data, for example the names of folders.
    """
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


def _find_missing_files(protocol: ClassificationProtocol, data: ClassData) -> dict[int, Path]:
    """Return the paths of missing image files, by the indices of the images in the data.

    Images can only be missing if a list names them: torchvision's, CoOp's, of videos, a table, or a
    user's list of images with several labels. Other images were found by looking into folders or
    archives.
    """
    is_user_list = isinstance(protocol, MultilabelProtocol) and protocol.layout != "webdataset"
    lists = (protocol.torchvision, protocol.table, protocol.split_file, protocol.video_list)
    if not any(lists) and not is_user_list:
        return {}
    missing_file_by_index = {}
    for index, image in enumerate(data.images):
        # The source of a missing video is the path of its folder, which is no file either.
        if isinstance(image, ImageFile) and not image.path.is_file():
            missing_file_by_index[index] = image.path
    return missing_file_by_index


def _list_faults(
    protocol: ClassificationProtocol, folder: Path, data: ClassData, missing_files: Sequence[Path]
) -> Iterator[str]:
    """Yield everything that is wrong with the listed data, except a wrong number of images.

    Args:
        protocol: The data set and how it is measured.
        folder: The folder of the data set, for the messages.
        data: The classes and all listed images.
        missing_files: The paths of listed images that do not exist.
    """
    if missing_files:
        page = folders.download_page(protocol)
        similar = folders.describe_similar_file(missing_files[0])
        yield (
            f"{len(missing_files)} of {len(data.images)} {split_name(protocol)} images are not "
            f"there, the first: {missing_files[0]}{page}{similar}"
        )
    yield from _class_count_faults(protocol, folder, data)
    yield from template_faults(templates_of(protocol, data))
    yield from _label_faults(protocol, folder, data)


def _format_whole_set_page(protocol: ClassificationProtocol) -> str:
    """Return the end of an error about wrong classes, which names the page of the whole set.

    Return an empty text if no page is known.
    """
    return f"; get the whole set from {protocol.download}" if protocol.download else ""


def _class_count_faults(
    protocol: ClassificationProtocol, folder: Path, data: ClassData
) -> Iterator[str]:
    """Yield a fault if the data do not have the number of classes that the protocol expects.

    The protocol's class list states the number, or else its `n_classes`. A user's data may have
    a subset of the classes of a list.

    Example:
        "data/food-101 has 100 classes, not the 101; get the whole set from https://..."
    """
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    n_expected = protocol.n_classes
    if class_list is not None and protocol.translation is None:
        n_expected = class_list.n_classes
    has_expected_number = n_expected is None or n_expected == len(data.classes)
    if has_expected_number or is_subset_of_list(protocol, data.classes):
        return
    kind = "" if class_list is None else f" {class_list.classes} of {protocol.class_list}"
    differences = describe_class_differences(protocol, data.classes)
    yield (
        f"{folder} has {len(data.classes)} classes, not the {n_expected}{kind}{differences}"
        f"{_format_whole_set_page(protocol)}"
    )


def _label_faults(protocol: ClassificationProtocol, folder: Path, data: ClassData) -> Iterator[str]:
    """Yield a fault if the label of an image is not the index of a class.

    The fault names the first such image.
    """
    if data.labels.ndim != 1:  # several labels for each image
        return
    n_classes = len(data.classes)
    is_invalid = (data.labels < 0) | (data.labels >= n_classes)
    if is_invalid.any():
        first = int(is_invalid.argmax())
        yield (
            f"{folder} gives {data.names[first]} the class number {data.labels[first] + 1}, "
            f"but has {n_classes} classes{_format_whole_set_page(protocol)}"
        )
