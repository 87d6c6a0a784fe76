"""A caption selection set on the disk (docs/caption-selection.md). Imports no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.selection_layouts import Chosen, Item, Picture, read_items
from cosmos_eval.data.sources import CroppedImage, ImageFile, ImageSource, PixelFile
from cosmos_eval.types import FoundSamples, RunOptions, SelectionProtocol, UsageError


class SelectionData(NamedTuple):
    """Every distinct image and caption once, and N items that refer to them by index."""

    # The I images by their paths below the image folder.
    pictures: tuple[Picture, ...]
    # The I images.
    images: tuple[ImageSource, ...]
    # The distinct captions, each in the protocol's template.
    captions: tuple[str, ...]
    # For each item, the indices of its images, the correct one first.
    images_of_item: list[NDArray[np.int64]]
    # For each item, the indices of its captions, the correct ones first.
    captions_of_item: list[NDArray[np.int64]]
    # (N,) how many captions of each item are correct.
    n_correct_of_item: NDArray[np.int64]
    # The sorted names of the S subsets.
    subsets: tuple[str, ...]
    # (N,) the index of each item's subset.
    subset_of_item: NDArray[np.int64]
    # (S,) whether a subset counts in the mean over subsets.
    averaged: NDArray[np.bool_]
    # (N,) the number of each item's group by the kind of group, "pair" or "set". It is -1 if the
    # group is incomplete. Kinds that the file lacks are left out.
    groups: Mapping[str, NDArray[np.int64]]
    # Whether items choose captions, images or both.
    chosen: Chosen
    # How many items there are, if a known set is incomplete.
    found_samples: FoundSamples | None = None


def open_data(protocol: SelectionProtocol, options: RunOptions) -> SelectionData:
    """Read all items, or those with images if the options allow a partial set.

    Raise UsageError for any fault.
    """
    return list_data(protocol, options).require(protocol, options)


def list_data(protocol: SelectionProtocol, options: RunOptions) -> folders.Listing[SelectionData]:
    """List items and images with all faults. Raise UsageError if the items cannot be read."""
    list_path, listed_items = _read_items(protocol, options)
    image_folder, faults = _locate_image_folder(protocol, options, list_path)
    items = listed_items
    if options.allow_partial and protocol.is_published:
        # If no item is complete, keep all of them, so that a missing image is reported.
        items = _items_with_images(listed_items, image_folder) or listed_items
    data = _make_data(protocol, options, image_folder, items, listed_items)
    files = dict.fromkeys(picture.file for picture in data.pictures)  # boxes share a file
    paths = [image_folder / file for file in files]
    missing_files = [path for path in paths if not path.is_file()]
    if missing_files and not faults:
        faults.append(
            f"{len(missing_files)} of the {len(paths)} images of {list_path} are not there, first: "
            f"{missing_files[0]}{_download_page(protocol)}{folders.similar_file(missing_files[0])}"
        )
    n_known = protocol.n_items
    if n_known is None and protocol.is_published:
        n_known = len(listed_items)  # the whole list is expected
    counts = folders.compare_counts(items=(len(items), n_known))
    return folders.Listing(
        data=data._replace(found_samples=folders.first_shortfall(counts)),
        path=list_path,
        counts=_subset_counts(protocol, items) or counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(image_folder),
            expected=len(paths),
            images=len(paths) - len(missing_files),
            expected_items=n_known or len(items),
            items=len(items),
        ),
    )


def _read_items(protocol: SelectionProtocol, options: RunOptions) -> tuple[Path, list[Item]]:
    """Return the file or folder of the items, and all its items. Raise UsageError for faults."""
    if protocol.template.count("{}") != 1:
        raise UsageError(f"template '{protocol.template}' must hold '{{}}' exactly once")
    try:
        list_path = folders.find_path(protocol, options, protocol.annotations, "items")
    except UsageError as error:
        raise UsageError(f"{error}{_download_page(protocol)}") from None
    items = read_items(protocol, list_path)
    if not items:
        raise UsageError(f"{list_path} holds no items")
    for item in items:
        _check_item(item, items[0], protocol)
    _check_subsets(protocol, items, list_path)
    return list_path, items


def _locate_image_folder(
    protocol: SelectionProtocol, options: RunOptions, list_path: Path
) -> tuple[Path, list[str]]:
    """Return the folder of the images, and the faults of its location.

    If it is missing, return the path of the list, below which no image will be found.
    """
    try:
        return folders.find_path(protocol, options, protocol.images, "images"), []
    except UsageError as error:
        fault = str(error).removeprefix(f"{protocol.dataset}: ")
        return list_path, [f"{fault}{_download_page(protocol)}"]


def _download_page(protocol: SelectionProtocol) -> str:
    """Return the end of an error that names the page of the set's files, or nothing."""
    return f"; from: {protocol.download}" if protocol.download else ""


def _check_item(item: Item, first: Item, protocol: SelectionProtocol) -> None:
    """Raise UsageError for an item that leaves no choice, or has another form than the first item.

    Unless the data set is published, also raise it for an item that cannot be solved: a caption is
    both correct and wrong, or both images are the same.
    """
    correct_captions = set(item.captions[: item.n_correct])
    wrong_captions = set(item.captions[item.n_correct :])
    if not wrong_captions and item.chosen == "captions":
        raise UsageError(f"{item.location} has no wrong caption: give it a `negative`")
    if item.chosen != first.chosen:
        raise UsageError(
            f"{item.location} chooses other things than {first.location}: make two sets"
        )
    if protocol.is_published:
        return  # a published set is measured as it is: items that cannot be solved count as wrong
    ambiguous = correct_captions & wrong_captions
    if ambiguous:
        raise UsageError(
            f"{item.location}: {ambiguous.pop()!r} is the right caption and a wrong one"
        )
    if len(set(item.pictures)) != len(item.pictures):
        raise UsageError(f"{item.location}: both images are {item.pictures[0].file}")


def _check_subsets(protocol: SelectionProtocol, items: Sequence[Item], path: Path) -> None:
    """Raise UsageError if items lack a subset, or if a published set has other subsets."""
    counts = Counter(item.subset for item in items)
    if "" in counts and len(counts) > 1:
        raise UsageError(
            f"{path}: {counts['']} items have no `{protocol.subset_key}`, the others have one"
        )
    expected = protocol.subset_items
    if not expected:
        return
    for name in sorted(counts.keys() ^ expected.keys()):
        article = "no" if name in expected else "a"
        raise UsageError(
            f"{protocol.dataset}: {path} has {article} subset {name!r}; the data set has: "
            f"{', '.join(expected)}"
        )


def _items_with_images(items: Sequence[Item], image_folder: Path) -> list[Item]:
    """Return the items that have all of their images on the disk."""
    complete_items = []
    for item in items:
        if all((image_folder / picture.file).is_file() for picture in item.pictures):
            complete_items.append(item)
    return complete_items


def _subset_counts(protocol: SelectionProtocol, items: Sequence[Item]) -> list[FoundSamples]:
    """Return the numbers of items of every subset whose size is known."""
    counts = Counter(item.subset for item in items)
    return [
        FoundSamples(counts[name], expected, f"items of {name}")
        for name, expected in protocol.subset_items.items()
    ]


def _make_data(
    protocol: SelectionProtocol,
    options: RunOptions,
    image_folder: Path,
    items: Sequence[Item],
    listed_items: Sequence[Item],
) -> SelectionData:
    """Return the data of up to `options.limit` items, which refer to images and captions by index.

    `listed_items` are all items of the file. They tell which pairs and sets are complete.
    """
    subsets, subset_of_item, subset_sizes = np.unique(
        [item.subset for item in items], return_inverse=True, return_counts=True
    )
    chosen_indices = folders.choose_in_turn(subset_of_item, options.limit)
    items = [items[index] for index in chosen_indices]
    pictures, images_of_item = _number_values([item.pictures for item in items])
    captions, captions_of_item = _number_values([item.captions for item in items])
    is_left_out = np.isin(subsets, protocol.left_out)
    return SelectionData(
        pictures=tuple(pictures),
        images=tuple(_image_source(image_folder, picture) for picture in pictures),
        captions=tuple(protocol.template.replace("{}", caption) for caption in captions),
        images_of_item=images_of_item,
        captions_of_item=captions_of_item,
        n_correct_of_item=np.array([item.n_correct for item in items]),
        subsets=tuple(subsets.tolist()),
        subset_of_item=subset_of_item[chosen_indices],
        averaged=~is_left_out & (subset_sizes >= protocol.smallest),
        groups=_number_groups(items, listed_items),
        chosen=items[0].chosen,
    )


def _number_values(
    values_of_items: Sequence[Sequence[Any]],
) -> tuple[list[Any], list[NDArray[np.int64]]]:
    """Return the distinct values of all items, and the indices of each item's values in them.

    `[["a", "b"], ["b", "c"]]` gives `["a", "b", "c"]` and `[[0, 1], [1, 2]]`.
    """
    index_by_value = folders.number_distinct(chain.from_iterable(values_of_items))
    indices_of_items = []
    for values in values_of_items:
        indices_of_items.append(np.array([index_by_value[value] for value in values]))
    return list(index_by_value), indices_of_items


def _image_source(image_folder: Path, picture: Picture) -> ImageSource:
    """Return the source of a picture: an image file or an array, or a box of it."""
    path = image_folder / picture.file
    image = PixelFile(path) if path.suffix == ".npy" else ImageFile(path)
    return image if picture.box is None else CroppedImage(image, picture.box)


def _number_groups(
    items: Sequence[Item], listed_items: Sequence[Item]
) -> dict[str, NDArray[np.int64]]:
    """Return the number of each item's pair (N,) and set (N,), if the file has any.

    The number is -1 if an item belongs to no group, and if some of the `listed_items` of its group
    are not among the items.
    """
    groups = {}
    if any(item.pair for item in listed_items):
        names, listed_names = [item.pair for item in items], [item.pair for item in listed_items]
        groups["pair"] = _number_complete_groups(names, listed_names)
    if any(item.set for item in listed_items):
        names, listed_names = [item.set for item in items], [item.set for item in listed_items]
        groups["set"] = _number_complete_groups(names, listed_names)
    return groups


def _number_complete_groups(names: Sequence[str], listed_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each item's group (N,), or -1 if the group is incomplete.

    `names` holds the group of each of the N items that are measured, `listed_names` the group of
    every item in the file. An item with an empty name belongs to no group.
    """
    sizes = Counter(name for name in names if name)
    listed_sizes = Counter(listed_names)
    complete_names = [name for name in sizes if sizes[name] == listed_sizes[name]]
    number_by_name = folders.number_distinct(complete_names)
    return np.array([number_by_name.get(name, -1) for name in names])
