"""Paths, numbers of samples and faults that the data sets of all tasks share. Imports no torch."""

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.types import (
    DepthProbeProtocol,
    FoundSamples,
    LabelMapProtocol,
    Protocol,
    RunOptions,
    UsageError,
)

Data = TypeVar("Data")
Paths = tuple[str, ...] | str
"""One path or several alternatives, relative to the folder of a data set."""

ADVICE = "; see `cosmos-eval data doctor "
"""The start of the advice in errors about the number of samples."""


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """How many samples a data set should have, and how many are on the disk.

    A number is None if the task does not count this kind of sample.
    """

    # How many images there should be, and how many there are.
    expected: int | None = None
    images: int | None = None
    # The same for captions.
    expected_captions: int | None = None
    captions: int | None = None
    # The same for the items of a caption selection set.
    expected_items: int | None = None
    items: int | None = None
    label_maps: int | None = None
    n_classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Survey(SampleCounts):
    """The report of `cosmos-eval data doctor` about a data set: its files and their faults."""

    # One line for each fault.
    faults: tuple[str, ...] = ()
    # The command that repairs the data set, or the page that the files come from.
    remedy: str | None = None
    # The folder of the images.
    folder: str | None = None
    # The end of the file names of label maps, such as `.png`.
    mask_suffix: str | None = None
    # The lowest and the highest value in the label maps, as the files have them.
    labels: tuple[int, int] | None = None
    # The lowest and the highest value that the protocol allows.
    classes: tuple[int, int] | None = None
    # What is not a fault, but changes how numbers are read; empty for most data sets.
    note: str = ""


def remedy_of(protocol: Protocol) -> str | None:
    """Return the command that downloads a data set, or the page that its files come from.

    Only data sets with a repository on the Hugging Face hub can be downloaded by a command. Return
    None if the page is not known either.

    Example:
        `cosmos-eval run --dataset NAME --protocol NAME --download`
    """
    if protocol.repository is None:
        return protocol.download
    data_set_options = f"--dataset {protocol.dataset} --protocol {protocol.protocol_name}"
    return f"cosmos-eval run {data_set_options} --download"


def download_page(protocol: Protocol) -> str:
    """Return the end of an error about missing files, which names the page that they come from.

    Return an empty text if no page is known.

    Example:
        "; from: https://cocodataset.org/#download"
    """
    return f"; from: {protocol.download}" if protocol.download else ""


def fetch_repository(protocol: Protocol, _: RunOptions) -> None:
    """Download the files of a data set's repository that are not in the cache yet.

    Do nothing for a data set without a repository on the Hugging Face hub. The second argument is
    not used: it gives all functions that download data the same signature. Raise UsageError if the
    download fails.
    """
    if protocol.repository is not None:
        from cosmos_eval.data.hub import fetch_dataset  # imports huggingface_hub, which is slow

        fetch_dataset(protocol)


def as_tuple(paths: Paths) -> tuple[str, ...]:
    """Return a tuple of paths: `"a"` becomes `("a",)`, and a tuple stays as it is."""
    return (paths,) if isinstance(paths, str) else paths


def all_exist(root: Path, *required_paths: Paths) -> bool:
    """Return whether all required files exist below `root`.

    Args:
        root: The folder of the data set.
        *required_paths: Paths below it. Each is one path, or a tuple of alternatives of which one
            must exist.

    Example:
        `all_exist(root, "list.json", ("val2017", "val2017.zip"))` needs the list, and the folder or
        the zip file.
    """
    for paths in required_paths:
        alternatives = [root / path for path in as_tuple(paths)]
        if not any(path.exists() for path in alternatives):
            return False
    return True


def describe_similar_file(path: Path) -> str:
    """Return the end of a message about a missing file, which names a similar file.

    The similar file lies in the same folder and has another suffix. The result is empty if the file
    does not exist.

    Example:
        If `1.jpg` is missing, the result is `; there is 1.jpg.gz` or `; there is 1.png`.
    """
    for name_without_suffix in (path.name, path.stem):
        similar_paths = sorted(path.parent.glob(f"{glob.escape(name_without_suffix)}.*"))
        if similar_paths:
            return f"; there is {similar_paths[0].name}"
    return ""


def missing_images_fault(
    protocol: Protocol, list_path: Path, missing_files: Sequence[Path], n_images: int
) -> str:
    """Return the fault of a data set that lacks images, with the page that they come from.

    Args:
        protocol: The data set.
        list_path: The file that lists the images.
        missing_files: The paths of the images that are not there, at least one.
        n_images: The number of images in the list.

    Example:
        "3 of the 500 images of items.json are not there, first: images/1.jpg; from: https://..."
    """
    first_missing = missing_files[0]
    return (
        f"{len(missing_files)} of the {n_images} images of {list_path} are not there, "
        f"first: {first_missing}{download_page(protocol)}{describe_similar_file(first_missing)}"
    )


def root_of(protocol: Protocol, options: RunOptions, contents: Paths) -> Path:
    """Return the folder that all paths of a data set are relative to.

    It is the cached snapshot of the data set's repository on the Hugging Face hub, or else the
    `root` of the protocol, or else the folder that the user named with --data-root.

    Args:
        protocol: The data set and how it is measured.
        options: The options of the command, such as --data-root.
        contents: A path that the folder must hold, or alternatives, for the error message.

    Raises:
        UsageError: If the user has to name the folder.
    """
    if protocol.repository is not None:
        from cosmos_eval.data.hub import dataset_folder  # imports huggingface_hub, which is slow

        return dataset_folder(protocol)
    root = protocol.root or options.data_root
    if root is None:
        names = " or ".join(as_tuple(contents))
        raise UsageError(f"{protocol.dataset}: give --data-root DIR, the folder that holds {names}")
    return Path(root)


def data_path(protocol: Protocol, options: RunOptions, paths: Paths, kind: str = "data") -> Path:
    """Return the first of several alternative paths of a data set that exists.

    Args:
        protocol: The data set and how it is measured.
        options: The options of the command, such as --data-root.
        paths: One path, or several alternatives, relative to the folder of the data set.
        kind: The name of the files in the error message, for example `images`.

    Raises:
        UsageError: If none of the paths exists.
    """
    root = root_of(protocol, options, paths)
    for path in as_tuple(paths):
        if (root / path).exists():
            return root / path
    raise missing_path_error(protocol, root, as_tuple(paths), kind)


def missing_path_error(
    protocol: Protocol, root: Path, paths: Sequence[str], kind: str
) -> UsageError:
    """Return the error for a data set that has none of several alternative paths.

    If every file name occurs in every folder, the message lists names and folders instead of paths.

    Args:
        protocol: The data set.
        root: The folder that the paths are relative to.
        paths: The alternatives, none of which exists.
        kind: The name of the files in the message, for example `captions`.

    Example:
        The paths `a/1.json`, `b/1.json`, `a/2.json` and `b/2.json` are listed as
        `1.json, 2.json in a, b`.
    """
    if len(paths) == 1:
        return UsageError(
            f"{protocol.dataset}: expected {root / paths[0]}, which is not there"
            f"{download_page(protocol)}"
        )

    # Dictionaries remove duplicates and keep the order.
    names = list(dict.fromkeys(PurePosixPath(path).name for path in paths))
    parents = list(dict.fromkeys(str(PurePosixPath(path).parent) for path in paths))
    has_all_combinations = len(names) * len(parents) == len(paths)
    has_folders = parents != ["."]
    if has_all_combinations and has_folders:
        listed_paths = f"{', '.join(names)} in {', '.join(parents)}"
    else:
        listed_paths = ", ".join(paths)
    return UsageError(
        f"{protocol.dataset}: no {kind} below {root}: looked for {listed_paths}"
        f"{download_page(protocol)}"
    )


def find_root(
    protocol: LabelMapProtocol | DepthProbeProtocol,
    data_root: str | None,
    required: Sequence[str] | None = None,
) -> Path:
    """Return the folder that holds all required paths of a data set with label or depth maps.

    It is the root of the data set (`protocol.root` or `data_root`), or the folder below it where
    MMSegmentation's documentation keeps the data set (`protocol.usual_folder`).

    Args:
        protocol: The data set and how it is measured.
        data_root: The folder that the user named with --data-root, or None.
        required: Paths that must exist in the folder. By default, these are the images, the label
            maps and the list of image names; for depth maps, both lists.

    Raises:
        UsageError: If neither folder holds all paths. The message names the first missing path in
            each of them.
    """
    if isinstance(protocol, DepthProbeProtocol):
        required = [protocol.train, protocol.test]
    elif not required:
        required = [path for path in (protocol.images, protocol.masks, protocol.split) if path]
    root = protocol.root or data_root
    usual_folder = protocol.usual_folder or ""
    if root is None:
        contents = ", ".join(required)
        if usual_folder:
            contents += f", or {usual_folder} with them"
        raise UsageError(f"{protocol.dataset}: give --data-root DIR that holds {contents}")

    # If there is no usual folder, both candidates are the same. A dictionary holds it once.
    candidate_folders = dict.fromkeys([Path(root), Path(root) / usual_folder])
    first_missing_paths: list[str] = []
    for folder in candidate_folders:
        missing_paths = [folder / path for path in required if not (folder / path).exists()]
        if not missing_paths:
            return folder
        first_missing_paths.append(str(missing_paths[0]))
    expected = " or ".join(first_missing_paths)
    raise UsageError(
        f"{protocol.dataset}: expected {expected}, which is not there{download_page(protocol)}"
    )


def walk_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all folders below it, each with the names of its files.

    Links to folders are followed.

    Raises:
        UsageError: If a folder cannot be read, and if a link leads to a folder that was walked
            already. A link that leads upwards would otherwise be followed endlessly.

    Example:
        `(Path("images"), ["1.jpg", "2.jpg"])`, then `(Path("images/cats"), ["3.jpg"])`.
    """
    # Device and inode identify a folder, also under another path.
    first_path_by_identity: dict[tuple[int, int], str] = {}
    for folder, _, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        first_path = first_path_by_identity.setdefault(identity, folder)
        if first_path != folder:
            raise UsageError(
                f"{folder} is the same folder as {first_path}, by a link: its images would be read "
                "twice; remove the link"
            )
        yield Path(folder), names


def folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder, unsorted. Raise UsageError if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        _refuse_unreadable(error)


def _refuse_unreadable(error: OSError) -> NoReturn:
    """Raise UsageError for a folder that cannot be read."""
    raise UsageError(f"cannot read folder {error.filename}: {error.strerror}") from error


def fingerprint(items: Sequence[object]) -> str:
    """Return the SHA-256 of a list, in hexadecimal.

    The list is hashed as JSON: items are texts, numbers, or lists of them, and their order matters.
    """
    text = json.dumps(list(items), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(sha256s: Iterable[bytes], labels: NDArray[Any] | None = None) -> str:
    """Return the SHA-256 of all images and labels that were measured, in hexadecimal.

    Args:
        sha256s: The SHA-256s of the images or files, 32 bytes each, in the order of the samples.
        labels: The labels of the samples, if none of these files holds them.
    """
    digest = hashlib.sha256(b"".join(sha256s))
    if labels is not None:
        digest.update(json.dumps(labels.tolist()).encode())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[Data]):
    """The samples that the files of a data set list, and everything that is wrong with them.

    A run needs data without faults (`checked_data`). The doctor reports all faults
    (`complete_survey`).
    """

    # The data set in the form of its task, such as `RetrievalData`.
    data: Data
    # The file or folder that lists the samples, for error messages.
    path: Path
    # How many samples the list has, and how many the complete data set has.
    counts: Sequence[FoundSamples]
    # The files on the disk, and all faults except wrong numbers of samples.
    survey: Survey = field(default_factory=Survey)

    def checked_data(self, protocol: Protocol, options: RunOptions) -> Data:
        """Return the data, or raise UsageError with the first fault."""
        faults = self._list_faults(protocol, options)
        if faults:
            raise UsageError(f"{protocol.dataset}: {faults[0]}")
        return self.data

    def complete_survey(self, protocol: Protocol, options: RunOptions) -> Survey:
        """Return the survey with all faults, and if there are any, with the advice against them."""
        faults = self._list_faults(protocol, options)
        remedy = remedy_of(protocol) if faults else None
        return replace(self.survey, faults=tuple(faults), remedy=remedy)

    def _list_faults(self, protocol: Protocol, options: RunOptions) -> list[str]:
        """Return the faults of the survey, and then one fault for each wrong number of samples.

        With --limit (`options.limit`), the numbers are not checked. With --partial
        (`options.allow_partial`), samples may be missing, but there must not be more than in the
        complete data set.
        """
        faults = list(self.survey.faults)
        if options.limit is not None:
            return faults

        for count in self.counts:
            if count.n_found > count.n_expected:
                numbers = f"{count.n_found} {count.unit}, more than the {count.n_expected}"
            elif count.n_found < count.n_expected and not options.allow_partial:
                numbers = str(count)  # such as "499 of 500 images"
            else:
                continue
            advice = format_advice(protocol, options)
            faults.append(f"{self.path} has {numbers} of {protocol.dataset}{advice}")
        return faults


def format_advice(protocol: Protocol, options: RunOptions) -> str:
    """Return the end of an error about an incomplete data set, which says what to do.

    If the user has given --partial already (`options.allow_partial`), it is not advised again.

    Example:
        "; see `cosmos-eval data doctor flickr30k`, or measure the samples found with --partial, the
        first N with --limit N"
    """
    partial_option = "" if options.allow_partial else "the samples found with --partial, "
    return f"{ADVICE}{protocol.dataset}`, or measure {partial_option}the first N with --limit N"


def number_distinct(values: Iterable[Any]) -> dict[Any, int]:
    """Number the distinct values from 0, in the order of their first occurrence.

    Example:
        `["b", "a", "b"]` gives `{"b": 0, "a": 1}`.
    """
    number_by_value: dict[Any, int] = {}
    for value in values:
        if value not in number_by_value:
            number_by_value[value] = len(number_by_value)
    return number_by_value


def compare_counts(**found_and_expected: tuple[int, int | None]) -> list[FoundSamples]:
    """Return how many samples are on the disk, and how many the complete data set has.

    Args:
        **found_and_expected: For each unit of samples, such as `images`: the number on the disk,
            and the number in the complete data set. If the latter is None, which means that it is
            not known, the unit is left out.

    Example:
        `compare_counts(images=(499, 500), captions=(2500, None))` gives
        `[FoundSamples(499, 500, "images")]`.
    """
    counts = []
    for unit, (n_found, n_expected) in found_and_expected.items():
        if n_expected is not None:
            counts.append(FoundSamples(n_found, n_expected, unit))
    return counts


def find_shortfall(counts: Sequence[FoundSamples]) -> FoundSamples | None:
    """Return the first count that lacks samples, or None if all are complete."""
    for count in counts:
        if count.n_found < count.n_expected:
            return count
    return None


def choose_in_turn(class_of_sample: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Return the sorted indices of up to `limit` samples, taken from all classes in turn.

    First the first sample of every class is taken, then the second sample of every class, and so
    on, until there are enough.

    Args:
        class_of_sample: The class of each sample, (N,).
        limit: How many samples to take. None takes all of them.

    Example:
        If the classes are [0, 0, 0, 1, 1], the samples are taken in the order 0, 3, 1, 4, 2. With
        `limit=3`, the result is [0, 1, 3].
    """
    # Number the samples of each class: classes [0, 0, 0, 1, 1] give positions [0, 1, 2, 0, 1].
    n_samples_by_class: Counter[int] = Counter()
    position_in_class = np.empty(len(class_of_sample), np.int64)
    for sample_index, class_index in enumerate(class_of_sample.tolist()):
        position_in_class[sample_index] = n_samples_by_class[class_index]
        n_samples_by_class[class_index] += 1

    # Sort by position, and samples of the same position by class.
    order_in_turn = np.lexsort((class_of_sample, position_in_class))
    return np.sort(order_in_turn[:limit])
