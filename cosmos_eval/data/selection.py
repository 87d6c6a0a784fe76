"""A caption selection set on the disk (docs/caption-selection.md). Imports no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import asked_objects, folders
from cosmos_eval.data.regions import make_region
from cosmos_eval.data.selection_layouts import Chosen, Item, Picture, read_items
from cosmos_eval.data.sources import ImageFile, ImageSource, PixelFile
from cosmos_eval.types import FoundSamples, RunOptions, SelectionProtocol, UsageError


class SelectionData(NamedTuple):
    """The N items of a caption selection set.

    An item is a question: which caption belongs to this image, or which image to this caption?
    Every distinct image and caption is stored once, and items refer to them by index.
    """

    # The I distinct images, by their paths below the image folder.
    pictures: tuple[Picture, ...]
    # The sources of the I images.
    images: tuple[ImageSource, ...]
    # The distinct captions, each in the protocol's template.
    captions: tuple[str, ...]
    # For each item, the indices of its images, the correct ones first.
    images_of_item: list[NDArray[np.int64]]
    # For each item, the indices of its captions, the correct ones first.
    captions_of_item: list[NDArray[np.int64]]
    # (N,) how many captions, or images, of each item are correct.
    n_correct_of_item: NDArray[np.int64]
    # The sorted names of the S subsets.
    subsets: tuple[str, ...]
    # (N,) the index of each item's subset.
    subset_of_item: NDArray[np.int64]
    # (S,) whether each subset counts in the mean over subsets.
    counts_in_mean: NDArray[np.bool_]
    # For each kind of group of items that the file has, "pair" or "set": (N,) the number of each
    # item's group. It is -1 if the item has no group, or if items of its group are missing.
    groups: Mapping[str, NDArray[np.int64]]
    # The kind of choice: among captions, among images, or among both.
    chosen: Chosen
    # What the items state about the objects that they ask about, as arrays (N,) by the names of
    # `asked_objects.FIELDS`; empty if they do not.
    asked: Mapping[str, NDArray[Any]]
    # How many items can be measured, if the complete data set has more.
    found_samples: FoundSamples | None = None


def select_items(data: SelectionData, items: NDArray[np.integer]) -> SelectionData:
    """Return the data with only some items (n,), in their order, and with what these refer to.

    Subsets stay the same. Groups of items are left out, since some of their items may be missing.
    """
    images_of_item = [data.images_of_item[item] for item in items]
    captions_of_item = [data.captions_of_item[item] for item in items]
    images, images_of_item = _renumber(images_of_item)
    captions, captions_of_item = _renumber(captions_of_item)
    return data._replace(
        pictures=tuple(data.pictures[image] for image in images),
        images=tuple(data.images[image] for image in images),
        captions=tuple(data.captions[caption] for caption in captions),
        images_of_item=images_of_item,
        captions_of_item=captions_of_item,
        n_correct_of_item=data.n_correct_of_item[items],
        subset_of_item=data.subset_of_item[items],
        groups={},
        asked={name: array[items] for name, array in data.asked.items()},
    )


def _renumber(
    indices_of_item: list[NDArray[np.int64]],
) -> tuple[list[int], list[NDArray[np.int64]]]:
    """Return the distinct indices of all items, sorted, and the indices as places among these.

    For example, [[7, 2], [2]] gives [2, 7] and [[1, 0], [0]].
    """
    distinct, places = np.unique(np.concatenate(indices_of_item), return_inverse=True)
    ends = np.cumsum([len(indices) for indices in indices_of_item])
    return distinct.tolist(), np.split(places, ends[:-1])


def open_data(protocol: SelectionProtocol, options: RunOptions) -> SelectionData:
    """Return the items of a caption selection set, with their images and captions.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps that many items, taken from the subsets in turn. `allow_partial`
            leaves out items of a published data set whose images are missing.

    Raises:
        UsageError: If anything else is wrong with the data set.
    """
    return list_data(protocol, options).checked_data(protocol, options)


def list_data(protocol: SelectionProtocol, options: RunOptions) -> folders.Listing[SelectionData]:
    """Return the items of a data set, together with everything wrong with them.

    Missing images and wrong numbers of items are recorded in the listing and not raised.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` and `allow_partial` choose items, as in `open_data`.

    Raises:
        UsageError: If the items cannot be read.
    """
    list_path, listed_items = _read_items(protocol, options)
    # `faults` is empty, or says that the folder of the images is missing.
    image_folder, faults = _locate_image_folder(protocol, options, list_path)

    items = listed_items
    if options.allow_partial and protocol.is_published:
        # If no item is complete, keep all of them, so that a missing image is reported.
        items = _items_with_images(listed_items, image_folder) or listed_items
    data = _make_data(protocol, options, image_folder, items, listed_items)

    image_paths, missing_paths = _find_image_files(data, image_folder)
    if missing_paths and not faults:
        faults.append(
            folders.missing_images_fault(protocol, list_path, missing_paths, len(image_paths))
        )

    # A published list without a known number of items is complete.
    n_expected = protocol.n_items
    if n_expected is None and protocol.is_published:
        n_expected = len(listed_items)
    counts = folders.compare_counts(items=(len(items), n_expected))
    return folders.Listing(
        data=data._replace(found_samples=folders.find_shortfall(counts)),
        path=list_path,
        counts=_compare_subset_counts(protocol, items) or counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(image_folder),
            expected=len(image_paths),
            images=len(image_paths) - len(missing_paths),
            expected_items=n_expected or len(items),
            items=len(items),
        ),
    )


def _find_image_files(data: SelectionData, image_folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the paths of all image files of the data, and the paths that do not exist.

    Several pictures may be boxes of the same file, which is listed once.
    """
    files = dict.fromkeys(picture.file for picture in data.pictures)
    image_paths = [image_folder / file for file in files]
    missing_paths = [path for path in image_paths if not path.is_file()]
    return image_paths, missing_paths


def _read_items(protocol: SelectionProtocol, options: RunOptions) -> tuple[Path, list[Item]]:
    """Return the path of the file or folder that lists the items, and all items in it.

    Raise UsageError if the file is missing or broken, or if an item is not a valid question.
    """
    if protocol.template.count("{}") != 1:
        raise UsageError(f"template '{protocol.template}' must hold '{{}}' exactly once")
    list_path = folders.data_path(protocol, options, protocol.annotations, "items")
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
    """Return the folder of the images, and a list with the fault if it is missing.

    Args:
        protocol: The data set, which names the folder.
        options: The options of the command, such as --data-root.
        list_path: The path of the list of items. It is returned in place of a missing folder. No
            image will be found below it.
    """
    try:
        return folders.data_path(protocol, options, protocol.images, "images"), []
    except UsageError as error:
        return list_path, [str(error).removeprefix(f"{protocol.dataset}: ")]


def _check_item(item: Item, first_item: Item, protocol: SelectionProtocol) -> None:
    """Raise UsageError for an item that is not a valid question.

    Every item needs a wrong answer, and must have the same form as the first item of the file. In a
    user's data set, an item must also be solvable: no caption is both correct and wrong, and no
    image occurs twice. A published data set is measured as it is. Items in it that cannot be solved
    count as wrong.

    Args:
        item: The item: an image with captions, a caption with images, or two of both.
        first_item: The first item of the file.
        protocol: Says whether the data set is published.
    """
    correct_captions = set(item.captions[: item.n_correct])
    wrong_captions = set(item.captions[item.n_correct :])
    if not wrong_captions and item.chosen == "captions":
        raise UsageError(f"{item.location} has no wrong caption: give it a `negative`")
    if item.chosen != first_item.chosen:
        raise UsageError(
            f"{item.location} chooses other things than {first_item.location}: make two sets"
        )

    # Check that an item of a user's data set can be solved.
    if protocol.is_published:
        return

    ambiguous_captions = correct_captions & wrong_captions
    if ambiguous_captions:
        raise UsageError(
            f"{item.location}: {ambiguous_captions.pop()!r} is the right caption and a wrong one"
        )
    has_repeated_image = len(set(item.pictures)) < len(item.pictures)
    if has_repeated_image:
        raise UsageError(f"{item.location}: both images are {item.pictures[0].file}")


def _check_subsets(protocol: SelectionProtocol, items: Sequence[Item], path: Path) -> None:
    """Raise UsageError if some items have no subset, or if a known data set has other subsets.

    Args:
        protocol: The data set. `subset_items` has the names of its subsets if it is known.
        items: All items of the data set. An item without a subset has the empty subset name.
        path: The file of the items, for error messages.
    """
    n_items_by_subset = Counter(item.subset for item in items)
    only_some_have_subset = "" in n_items_by_subset and len(n_items_by_subset) > 1
    if only_some_have_subset:
        raise UsageError(
            f"{path}: {n_items_by_subset['']} items have no `{protocol.subset_key}`, the others "
            "have one"
        )

    expected_subsets = protocol.subset_items.keys()
    if not expected_subsets:
        return
    missing_or_unexpected = sorted(n_items_by_subset.keys() ^ expected_subsets)
    if missing_or_unexpected:
        name = missing_or_unexpected[0]
        article = "no" if name in expected_subsets else "a"
        raise UsageError(
            f"{protocol.dataset}: {path} has {article} subset {name!r}; the data set has: "
            f"{', '.join(expected_subsets)}"
        )


def _items_with_images(items: Sequence[Item], image_folder: Path) -> list[Item]:
    """Return the items that have all of their images on the disk."""
    complete_items = []
    for item in items:
        if all((image_folder / picture.file).is_file() for picture in item.pictures):
            complete_items.append(item)
    return complete_items


def _compare_subset_counts(
    protocol: SelectionProtocol, items: Sequence[Item]
) -> list[FoundSamples]:
    """Return how many items each subset has, and how many it should have.

    Only subsets whose size the protocol states are compared.

    Example:
        `[FoundSamples(666, 666, "items of swap_att"), ...]`
    """
    n_items_by_subset = Counter(item.subset for item in items)
    counts = []
    for name, n_expected in protocol.subset_items.items():
        counts.append(FoundSamples(n_items_by_subset[name], n_expected, f"items of {name}"))
    return counts


def _make_data(
    protocol: SelectionProtocol,
    options: RunOptions,
    image_folder: Path,
    items: Sequence[Item],
    listed_items: Sequence[Item],
) -> SelectionData:
    """Return the data of the chosen items, with every image and caption stored once.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` chooses that many items, taken from the subsets in turn.
        image_folder: The folder of the images.
        items: All items that can be measured.
        listed_items: All items of the file, which show whether a pair or a set of items is
            complete.
    """
    # Choose items. `subsets` (S,) are the sorted names of the subsets.
    subsets, subset_of_item, subset_sizes = np.unique(
        [item.subset for item in items], return_inverse=True, return_counts=True
    )
    chosen_indices = folders.choose_in_turn(subset_of_item, options.limit)
    chosen_items = [items[index] for index in chosen_indices]

    pictures, images_of_item = _number_values([item.pictures for item in chosen_items])
    captions, captions_of_item = _number_values([item.captions for item in chosen_items])

    # Subsets count in the mean over subsets unless the protocol leaves them out or they are small.
    is_left_out = np.isin(subsets, protocol.left_out)
    is_large_enough = subset_sizes >= protocol.smallest
    return SelectionData(
        pictures=tuple(pictures),
        images=tuple(_make_source(protocol, image_folder, picture) for picture in pictures),
        captions=tuple(protocol.template.replace("{}", caption) for caption in captions),
        images_of_item=images_of_item,
        captions_of_item=captions_of_item,
        n_correct_of_item=np.array([item.n_correct for item in chosen_items]),
        subsets=tuple(subsets.tolist()),
        subset_of_item=subset_of_item[chosen_indices],
        counts_in_mean=~is_left_out & is_large_enough,
        groups=_number_groups(chosen_items, listed_items),
        chosen=chosen_items[0].chosen,
        asked=asked_objects.make_arrays([item.asked for item in chosen_items]),
    )


def _number_values(
    values_of_items: Sequence[Sequence[Any]],
) -> tuple[list[Any], list[NDArray[np.int64]]]:
    """Return the distinct values of all items, and for each item the indices of its values.

    Args:
        values_of_items: For each item, a sequence of values such as captions.

    Example:
        `[["a", "b"], ["b", "c"]]` gives the values `["a", "b", "c"]` and the indices
        `[[0, 1], [1, 2]]`.
    """
    index_by_value = folders.number_distinct(chain.from_iterable(values_of_items))
    indices_of_items = []
    for values in values_of_items:
        indices_of_items.append(np.array([index_by_value[value] for value in values]))
    return list(index_by_value), indices_of_items


def _make_source(protocol: SelectionProtocol, image_folder: Path, picture: Picture) -> ImageSource:
    """Return the image source of a picture: a file of the image folder, or a box of the file."""
    path = image_folder / picture.file
    whole_image = PixelFile(path) if path.suffix == ".npy" else ImageFile(path)
    if picture.box is None:
        return whole_image
    return make_region(whole_image, picture.box, protocol)


def _number_groups(
    items: Sequence[Item], listed_items: Sequence[Item]
) -> dict[str, NDArray[np.int64]]:
    """Return the number of each item's pair (N,) and of its set (N,), if the file has any.

    A pair or a set is a group of items that only count as correct together. The number is -1 if an
    item belongs to no group, or if its group is incomplete.

    Args:
        items: The N items that are measured.
        listed_items: All items of the file. A group is incomplete if some of its listed items are
            not measured.

    Returns:
        The numbers (N,) by the keys "pair" and "set", which are left out if no item has one.
    """
    groups = {}
    listed_pairs = [item.pair for item in listed_items]
    if any(listed_pairs):
        groups["pair"] = _number_complete_groups([item.pair for item in items], listed_pairs)
    listed_sets = [item.set for item in listed_items]
    if any(listed_sets):
        groups["set"] = _number_complete_groups([item.set for item in items], listed_sets)
    return groups


def _number_complete_groups(names: Sequence[str], listed_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each item's group (N,), or -1 if the item has no complete group.

    Args:
        names: The name of the group of each of the N items that are measured. It is empty for an
            item without a group.
        listed_names: The same for all items in the file.

    Example:
        The names `["a", "a", "b", ""]` give `[0, 0, -1, -1]` if the file has two items of `a` and
        two of `b`: one item of `b` is missing.
    """
    n_items_by_name = Counter(name for name in names if name)
    n_listed_by_name = Counter(listed_names)
    complete_names = []
    for name, n_items in n_items_by_name.items():
        if n_items == n_listed_by_name[name]:
            complete_names.append(name)

    number_by_name = folders.number_distinct(complete_names)
    return np.array([number_by_name.get(name, -1) for name in names])
