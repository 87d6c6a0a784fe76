"""Paths, numbers of samples and faults that the data sets of all tasks share. Imports no torch."""

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.types import FoundSamples, LabelMapProtocol, Protocol, RunOptions, UsageError

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


def remedy_of(protocol: Protocol) -> str | None:
    """Return the command that downloads a data set, or the page that its files come from.

    Only data sets with a repository on the Hugging Face hub can be downloaded by a command. Return
    None if the page is not known either.
    """
    if protocol.repository is None:
        return protocol.download
    data_set_options = f"--dataset {protocol.dataset} --protocol {protocol.protocol_name}"
    return f"cosmos-eval run {data_set_options} --download"


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

    Each argument is one path, or a tuple of alternatives of which one must exist:
    `all_exist(root, "list.json", ("val2017", "val2017.zip"))` needs the list, and the folder or the
    zip file.
    """
    for paths in required_paths:
        alternatives = [root / path for path in as_tuple(paths)]
        if not any(path.exists() for path in alternatives):
            return False
    return True


def describe_similar_file(path: Path) -> str:
    """Return the end of a message about a missing file, which names a similar file.

    The similar file lies in the same folder and has another suffix. If `1.jpg` is missing, the
    result is `; there is 1.jpg.gz` or `; there is 1.png`. It is empty without such a file.
    """
    for stem in (path.name, path.stem):
        similar_paths = sorted(path.parent.glob(f"{glob.escape(stem)}.*"))
        if similar_paths:
            return f"; there is {similar_paths[0].name}"
    return ""


def root_of(protocol: Protocol, options: RunOptions, contents: Paths) -> Path:
    """Return the folder that all paths of a data set are relative to.

    It is the cached snapshot of the data set's repository on the Hugging Face hub, or else the
    `root` of the protocol, or else the folder that the user named with --data-root. Raise
    UsageError if the user has to name it. The message then says that the folder must hold
    `contents`.
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

    Raise UsageError if none exists. Its message calls the missing files by `kind`, for example
    `images`.
    """
    root = root_of(protocol, options, paths)
    for path in as_tuple(paths):
        if (root / path).exists():
            return root / path
    raise missing_path_error(protocol, root, as_tuple(paths), kind)


def missing_path_error(
    protocol: Protocol, root: Path, paths: Sequence[str], kind: str
) -> UsageError:
    """Return the error for a data set that has none of the alternative `paths` below `root`.

    If every file name is combined with every folder, list names and folders instead of all paths:
    `a/1.json`, `b/1.json`, `a/2.json` and `b/2.json` become `1.json, 2.json in a, b`.
    """
    if len(paths) == 1:
        return UsageError(f"{protocol.dataset}: expected {root / paths[0]}, which is not there")
    # Dictionaries remove duplicates and keep the order.
    names = list(dict.fromkeys(PurePosixPath(path).name for path in paths))
    parents = list(dict.fromkeys(str(PurePosixPath(path).parent) for path in paths))
    has_all_combinations = len(names) * len(parents) == len(paths)
    if has_all_combinations and parents != ["."]:
        candidates = f"{', '.join(names)} in {', '.join(parents)}"
    else:
        candidates = ", ".join(paths)
    return UsageError(f"{protocol.dataset}: no {kind} below {root}: looked for {candidates}")


def find_root(
    protocol: LabelMapProtocol, data_root: str | None, required: Sequence[str] | None = None
) -> Path:
    """Return the folder that holds all `required` paths of a data set with label maps.

    It is the root of the data set (`protocol.root` or `data_root`), or the folder below it where
    MMSegmentation's documentation keeps the data set (`protocol.usual_folder`). By default, the
    required paths are the images, the label maps and the list of image names. Raise UsageError that
    names the first missing path in either folder.
    """
    if not required:
        required = [path for path in (protocol.images, protocol.masks, protocol.split) if path]
    root = protocol.root or data_root
    usual_folder = protocol.usual_folder or ""
    if root is None:
        contents = ", ".join(required)
        if usual_folder:
            contents += f", or {usual_folder} with them"
        raise UsageError(f"{protocol.dataset}: give --data-root DIR that holds {contents}")
    # Without a usual folder, both candidates are the same and are looked at once.
    candidate_folders = dict.fromkeys([Path(root), Path(root) / usual_folder])
    first_missing_paths: list[str] = []
    for folder in candidate_folders:
        missing_paths = [folder / path for path in required if not (folder / path).exists()]
        if not missing_paths:
            return folder
        first_missing_paths.append(str(missing_paths[0]))
    expected = " or ".join(first_missing_paths)
    raise UsageError(f"{protocol.dataset}: expected {expected}, which is not there")


def walk_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all folders below it, each with the names of its files.

    Links to folders are followed. Raise UsageError for a folder that cannot be read, and for a
    folder that is reached twice by a link, which would be endless if the link leads upwards.
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
    """Return the SHA-256 of a list of texts and numbers, in hexadecimal.

    The list is hashed as JSON, so that its order matters.
    """
    text = json.dumps(list(items), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(sha256s: Iterable[bytes], labels: NDArray[Any] | None = None) -> str:
    """Return the SHA-256 of the content that was measured, in hexadecimal.

    `sha256s` are the SHA-256s of the images or files, 32 bytes each, in the order of the samples.
    `labels` are hashed as well if no file holds them.
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
        for fault in self._faults(protocol, options):
            raise UsageError(f"{protocol.dataset}: {fault}")
        return self.data

    def complete_survey(self, protocol: Protocol, options: RunOptions) -> Survey:
        """Return the survey with all faults, and if there are any, with their remedy."""
        faults = tuple(self._faults(protocol, options))
        remedy = remedy_of(protocol) if faults else None
        return replace(self.survey, faults=faults, remedy=remedy)

    def _faults(self, protocol: Protocol, options: RunOptions) -> Iterator[str]:
        """Yield the faults of the survey, and then wrong numbers of samples.

        With `options.limit`, the numbers are not checked. With `options.allow_partial`, samples may
        be missing, but there must not be more than in the complete data set.
        """
        yield from self.survey.faults
        if options.limit is not None:
            return
        for count in self.counts:
            if count.n_found > count.n_expected:
                yield (
                    f"{self.path} has {count.n_found} {count.unit}, more than the "
                    f"{count.n_expected} of {protocol.dataset}{format_advice(protocol, options)}"
                )
            elif count.n_found < count.n_expected and not options.allow_partial:
                advice = format_advice(protocol, options)
                yield f"{self.path} has {count} of {protocol.dataset}{advice}"


def format_advice(protocol: Protocol, options: RunOptions) -> str:
    """Return the end of an error about an incomplete data set, which says what to do.

    It is, for example: `; see `cosmos-eval data doctor flickr30k`, or measure the samples found
    with --partial, the first N with --limit N`.
    """
    partial_option = "" if options.allow_partial else "the samples found with --partial, "
    return f"{ADVICE}{protocol.dataset}`, or measure {partial_option}the first N with --limit N"


def number_distinct(values: Iterable[Any]) -> dict[Any, int]:
    """Return the number of every distinct value, counted from 0 in the order of first occurrence.

    `["b", "a", "b"]` gives `{"b": 0, "a": 1}`.
    """
    number_by_value: dict[Any, int] = {}
    for value in values:
        if value not in number_by_value:
            number_by_value[value] = len(number_by_value)
    return number_by_value


def compare_counts(**found_and_expected: tuple[int, int | None]) -> list[FoundSamples]:
    """Return how many samples are on the disk, and how many the complete data set has.

    The name of an argument is a unit, and its value holds both numbers: `images=(499, 500)` gives
    `[FoundSamples(499, 500, "images")]`. A unit is left out if the second number is None, which
    means that it is not known.
    """
    counts = []
    for unit, (n_found, n_expected) in found_and_expected.items():
        if n_expected is not None:
            counts.append(FoundSamples(n_found, n_expected, unit))
    return counts


def find_shortfall(counts: Sequence[FoundSamples]) -> FoundSamples | None:
    """Return the first count of which samples are missing, or None if all are complete."""
    for count in counts:
        if count.n_found < count.n_expected:
            return count
    return None


def choose_in_turn(class_of_sample: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Return the sorted indices of up to `limit` samples, taken from all classes in turn.

    `class_of_sample` (N,) holds the class of each sample. First the first sample of every class is
    taken, then the second sample of every class, and so on, until there are `limit` samples (None:
    all of them). For classes [0, 0, 0, 1, 1], the samples are taken in the order 0, 3, 1, 4, 2.
    With a limit of 3, the result is [0, 1, 3].
    """
    # Sorting by class puts the samples of a class side by side. The position of a sample within its
    # class (0, 1, 2, ...) is then its place minus the place of the first sample of the class.
    order_by_class = np.argsort(class_of_sample, kind="stable")
    sorted_classes = class_of_sample[order_by_class]
    class_starts = np.searchsorted(sorted_classes, sorted_classes)
    position_in_class = np.empty_like(class_of_sample)
    position_in_class[order_by_class] = np.arange(len(class_of_sample)) - class_starts
    # Sort by position, and samples of the same position by class.
    order_in_turn = np.lexsort((class_of_sample, position_in_class))
    return np.sort(order_in_turn[:limit])
