"""Cues with candidate images, as WinoGAViL lists them. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.readers import (
    FileError,
    parse_list,
    read_records,
    report_faults_at,
    shortened,
)
from cosmos_eval.data.sources import ImageFile, ImageSource, open_image_place
from cosmos_eval.types import AssociationProtocol, FoundSamples, RunOptions, UsageError


class AssociationData(NamedTuple):
    """The items of an association set: cues, each with candidate images.

    Some of the candidates are associated with the cue. Every distinct image and prompt is stored
    once, and items refer to them by index.
    """

    # Names of the I images, as the file has them.
    names: tuple[str, ...]
    # The I images.
    images: tuple[ImageSource, ...]
    # The prompts of the cues.
    captions: tuple[str, ...]
    # For each item: the index of its prompt, the indices of its n candidate images (n,), and
    # whether each candidate is associated with the cue (n,).
    items: tuple[tuple[int, NDArray[np.int64], NDArray[np.bool_]], ...]
    # How many items are in the file, if the complete data set has more.
    found_samples: FoundSamples | None = None


class _Item(NamedTuple):
    """An item of the file: a prompt, and n candidate images for it."""

    # The cue in a prompt, such as `A snow`.
    prompt: str
    # Names of the candidate images.
    candidates: list[str]
    # (n,) whether each candidate is associated with the cue.
    is_associated: NDArray[np.bool_]


def open_data(protocol: AssociationProtocol, options: RunOptions) -> AssociationData:
    """Return the items of an association set, with their images and prompts.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first items. `allow_partial` accepts a file with fewer items
            than the complete data set.

    Raises:
        UsageError: If anything else is wrong with the data set.
    """
    return list_data(protocol, options).checked_data(protocol, options)


def list_data(
    protocol: AssociationProtocol, options: RunOptions
) -> folders.Listing[AssociationData]:
    """Return the items of a data set, together with everything wrong with them.

    Missing images and a wrong number of items are recorded in the listing and not raised.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first items.

    Raises:
        UsageError: If the items cannot be read.
    """
    list_path = folders.data_path(protocol, options, protocol.annotations, "items")
    image_place = folders.data_path(protocol, options, protocol.images, "images")
    all_items = _read_items(list_path)
    items = all_items[: options.limit]

    # Find every distinct image.
    index_by_image = folders.number_distinct(name for item in items for name in item.candidates)
    files = [name + protocol.image_suffix for name in index_by_image]
    images, missing_files = _locate_images(image_place, files)
    faults = []
    if missing_files:
        faults.append(folders.missing_images_fault(protocol, list_path, missing_files, len(files)))
    counts = folders.compare_counts(items=(len(all_items), protocol.n_items))
    data = _make_data(items, index_by_image, images)
    return folders.Listing(
        data=data._replace(found_samples=folders.find_shortfall(counts)),
        path=list_path,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(image_place),
            expected=len(files),
            images=len(files) - len(missing_files),
            expected_items=protocol.n_items or len(all_items),
            items=len(all_items),
        ),
    )


def _make_data(
    items: Sequence[_Item], index_by_image: Mapping[str, int], images: Sequence[ImageSource]
) -> AssociationData:
    """Return the data of items in which every image and prompt is stored once.

    Args:
        items: The items, which name their candidate images.
        index_by_image: The index of each image in `images`, by the name of the image.
        images: The images.
    """
    index_by_prompt = folders.number_distinct(item.prompt for item in items)
    numbered_items = []
    for item in items:
        candidates = np.array([index_by_image[name] for name in item.candidates])
        numbered_items.append((index_by_prompt[item.prompt], candidates, item.is_associated))
    return AssociationData(
        names=tuple(index_by_image),
        images=tuple(images),
        captions=tuple(index_by_prompt),
        items=tuple(numbered_items),
    )


def _read_items(path: Path) -> list[_Item]:
    """Return the items of a file. Raise UsageError for a broken item or an empty file."""
    items = []
    with report_faults_at(f"{path}: "):
        for location, record in read_records(path):
            items.append(_parse_item(record, location))
    if not items:
        raise UsageError(f"{path} holds no items")
    return items


def _parse_item(record: Any, location: str) -> _Item:
    """Return the item of a record.

    The prompt of the cue `Snow` is `A snow`, and the prompt of `Ice` is `An ice`, as in DataComp's
    eval_utils/wino_eval.py (get_clip_prompt).

    Args:
        record: A record such as
            `{"cue": "Snow", "candidates": ["a", "b", "c"], "associations": ["b"]}`.
        location: The place of the record in its file, such as `line 3`.

    Raises:
        FileError: If a field is missing or wrong. The message begins with the location.
    """
    fields = record if isinstance(record, dict) else {}
    cue = fields.get("cue")
    if not isinstance(cue, str) or not cue.strip():
        raise FileError(f"{location}: `cue` must be text, not {shortened(cue)}")

    candidates = _parse_names(fields.get("candidates"), "candidates", location)
    associations = _parse_names(fields.get("associations"), "associations", location)
    is_associated = np.isin(candidates, associations)  # (n,)
    if not is_associated.any():
        raise FileError(f"{location}: none of `associations` is among the candidates")
    article = "An" if cue[0].lower() in "aeiou" else "A"
    return _Item(f"{article} {cue.lower()}", candidates, is_associated)


def _parse_names(value: Any, key: str, location: str) -> list[str]:
    """Return the names of images in a field of a record.

    Args:
        value: The value of the field: a list such as `["a", "b"]`, or the text of such a list.
        key: The name of the field, for the error message.
        location: The place of the record in its file, such as `line 3`.

    Raises:
        FileError: If the value is anything else, or if a name is blank.
    """
    names = parse_list(value)
    are_names = isinstance(names, list) and all(
        isinstance(name, str) and name.strip() for name in names
    )
    if not are_names:
        raise FileError(f"{location}: `{key}` must be a list of names, not {shortened(names)}")
    return list(names)


def _locate_images(place: Path, files: Sequence[str]) -> tuple[list[ImageSource], list[Path]]:
    """Return the source of every image file, and the paths of those that are missing.

    Args:
        place: The path of the folder or of the zip file that holds the images.
        files: The names of the image files, such as `snow.jpg`.

    Returns:
        One source for each image, and the paths of missing images. The source of a missing image is
        a file that does not exist.
    """
    image_place = open_image_place(place)
    images: list[ImageSource] = []
    missing_files = []
    for file in files:
        image = image_place.find(file)
        if image is None:
            image = ImageFile(place / file)
            missing_files.append(place / file)
        images.append(image)
    return images, missing_files
