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
    """How many samples a data set should have, and how many are on the disk; None: not counted."""

    expected: int | None = None  # images
    images: int | None = None
    expected_captions: int | None = None
    captions: int | None = None
    expected_items: int | None = None
    items: int | None = None
    label_maps: int | None = None
    n_classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Survey(SampleCounts):
    """The files of a data set on the disk, and all that is wrong with them."""

    # One line for each fault.
    faults: tuple[str, ...] = ()
    # The command that mends the faults, or the page that the files come from.
    remedy: str | None = None
    # The folder of the images.
    folder: str | None = None
    # The end of the names of label maps.
    mask_suffix: str | None = None
    # The lowest and the highest value in the label maps, as the files have them.
    labels: tuple[int, int] | None = None
    # The lowest and the highest value that the protocol allows.
    classes: tuple[int, int] | None = None


def remedy_of(protocol: Protocol) -> str | None:
    """Return the command that downloads a data set, or the page that its files come from."""
    if protocol.repository is None:
        return protocol.download
    data_set = f"--dataset {protocol.dataset} --protocol {protocol.protocol_name}"
    return f"cosmos-eval run {data_set} --download"


def fetch_repository(protocol: Protocol, _: RunOptions) -> None:
    """Download the files of a data set's repository that the cache lacks, if it has a repository.

    Raise UsageError if the download fails.
    """
    if protocol.repository is not None:
        from cosmos_eval.data.hub import fetch_dataset  # which imports the hub's client

        fetch_dataset(protocol)


def as_tuple(paths: Paths) -> tuple[str, ...]:
    """Return one path or several as a tuple."""
    return (paths,) if isinstance(paths, str) else paths


def all_exist(root: Path, *required: Paths) -> bool:
    """Return whether all required files exist below `root`.

    An argument of several alternative paths is satisfied if one of them exists.
    """
    for paths in required:
        alternatives = [root / path for path in as_tuple(paths)]
        if not any(path.exists() for path in alternatives):
            return False
    return True


def similar_file(path: Path) -> str:
    """Return the end of a message about a missing file, or an empty text.

    It is `; there is NAME` if the folder has a file of the same name with another suffix.
    """
    for stem in (path.name, path.stem):
        for similar in sorted(path.parent.glob(f"{glob.escape(stem)}.*")):
            return f"; there is {similar.name}"
    return ""


def root_of(protocol: Protocol, options: RunOptions, contents: Paths) -> Path:
    """Return the folder that all paths of a data set are relative to.

    Raise UsageError if the user must name it; the message says that it holds `contents`.
    """
    if protocol.repository is not None:
        from cosmos_eval.data.hub import dataset_folder  # which imports the hub's client

        return dataset_folder(protocol)
    root = protocol.root or options.data_root
    if root is None:
        names = " or ".join(as_tuple(contents))
        raise UsageError(f"{protocol.dataset}: give --data-root DIR, the folder that holds {names}")
    return Path(root)


def data_path(protocol: Protocol, options: RunOptions, paths: Paths, kind: str = "data") -> Path:
    """Return the first of `paths` that exists. Raise UsageError if none does.

    `kind` says in the message what the path should hold, such as `images`.
    """
    root = root_of(protocol, options, paths)
    for path in as_tuple(paths):
        if (root / path).exists():
            return root / path
    raise missing_path_error(protocol, root, as_tuple(paths), kind)


def missing_path_error(
    protocol: Protocol, root: Path, paths: Sequence[str], kind: str
) -> UsageError:
    """Return the error for a data set that has none of `paths` below `root`."""
    if len(paths) == 1:
        return UsageError(f"{protocol.dataset}: expected {root / paths[0]}, which is not there")
    names = list(dict.fromkeys(PurePosixPath(path).name for path in paths))
    parents = list(dict.fromkeys(str(PurePosixPath(path).parent) for path in paths))
    # If every file name is combined with every folder, list both instead of all the paths.
    has_all_combinations = len(names) * len(parents) == len(paths)
    if has_all_combinations and parents != ["."]:
        candidates = f"{', '.join(names)} in {', '.join(parents)}"
    else:
        candidates = ", ".join(paths)
    return UsageError(f"{protocol.dataset}: no {kind} below {root}: looked for {candidates}")


def find_root(
    protocol: LabelMapProtocol, data_root: str | None, required: Sequence[str] | None = None
) -> Path:
    """Return the folder that holds all `required` paths: the data root or the usual folder in it.

    `required` defaults to the images, the label maps and the list of names. Raise UsageError that
    names the missing paths.
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
    missing_paths: list[str] = []
    for folder in dict.fromkeys([Path(root), Path(root) / usual_folder]):
        absent_paths = [folder / path for path in required if not (folder / path).exists()]
        if not absent_paths:
            return folder
        missing_paths.append(str(absent_paths[0]))
    expected = " or ".join(missing_paths)
    raise UsageError(f"{protocol.dataset}: expected {expected}, which is not there")


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all folders below it, each with the names of its files. Follow links.

    Raise UsageError for a folder that cannot be read or that is reached twice.
    """
    first_paths: dict[tuple[int, int], str] = {}
    for folder, _, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        status = os.stat(folder)
        first_path = first_paths.setdefault((status.st_dev, status.st_ino), folder)
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
    """Return the SHA-256 of a list of texts and numbers, in hexadecimal. The order matters."""
    return hashlib.sha256(json.dumps(list(items), ensure_ascii=True).encode()).hexdigest()


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
    """The data that a set's files list, before it is known whether they may be measured."""

    data: Data
    # The file or folder that lists the samples, which error messages name.
    path: Path
    # The numbers of samples in the list and in the complete set.
    counts: Sequence[FoundSamples]
    # What is on the disk, and all faults except wrong numbers of samples.
    survey: Survey = field(default_factory=Survey)

    def require(self, protocol: Protocol, options: RunOptions) -> Data:
        """Return the data. Raise UsageError for the first fault."""
        for fault in self._faults(protocol, options):
            raise UsageError(f"{protocol.dataset}: {fault}")
        return self.data

    def surveyed(self, protocol: Protocol, options: RunOptions) -> Survey:
        """Return the survey with all faults and, if there are any, with their remedy."""
        faults = tuple(self._faults(protocol, options))
        return replace(self.survey, faults=faults, remedy=remedy_of(protocol) if faults else None)

    def _faults(self, protocol: Protocol, options: RunOptions) -> Iterator[str]:
        """Yield the faults of the survey, and wrong numbers of samples.

        With a limit, numbers are not checked. With a partial set, samples may be missing.
        """
        yield from self.survey.faults
        if options.limit is not None:
            return
        for count in self.counts:
            if count.n_found > count.n_expected:
                yield (
                    f"{self.path} has {count.n_found} {count.unit}, more than the "
                    f"{count.n_expected} of {protocol.dataset}{advice(protocol, options)}"
                )
            elif count.n_found < count.n_expected and not options.allow_partial:
                yield f"{self.path} has {count} of {protocol.dataset}{advice(protocol, options)}"


def advice(protocol: Protocol, options: RunOptions) -> str:
    """Return the end of an error about an incomplete data set, which says what to do."""
    partial = "" if options.allow_partial else "the samples found with --partial, "
    return f"{ADVICE}{protocol.dataset}`, or measure {partial}the first N with --limit N"


def number_distinct(values: Iterable[Any]) -> dict[Any, int]:
    """Map every distinct value to its number 0, 1, 2..., in the order of first occurrence."""
    return {value: number for number, value in enumerate(dict.fromkeys(values))}


def known_counts(**found_and_known: tuple[int, int | None]) -> list[FoundSamples]:
    """Return the counts of samples of sets whose complete number is known.

    The name of an argument is a unit. Its value is the number of samples on the disk and in the
    complete set, such as `images=(499, 500)`. Units whose complete number is None are left out.
    """
    counts = []
    for unit, (n_found, n_known) in found_and_known.items():
        if n_known is not None:
            counts.append(FoundSamples(n_found, n_known, unit))
    return counts


def first_shortfall(counts: Sequence[FoundSamples]) -> FoundSamples | None:
    """Return the first count that is less than the number in the complete set, or None."""
    for count in counts:
        if count.n_found < count.n_expected:
            return count
    return None


def choose_in_turn(groups: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Return the sorted indices of up to `limit` samples, taken from all groups in turn.

    `groups` (N,) holds the group of each sample. The first sample of every group is taken, then the
    second of every group, and so on. For groups [0, 0, 0, 1, 1] and a limit of 3, the order is
    0, 3, 1, 4, 2, and the result is [0, 1, 3].
    """
    # Sorting by group puts the samples of a group side by side. The position of a sample within its
    # group (0, 1, 2, ...) is then its place minus the place of the first sample of the group.
    order_by_group = np.argsort(groups, kind="stable")
    sorted_groups = groups[order_by_group]
    group_starts = np.searchsorted(sorted_groups, sorted_groups)
    position_in_group = np.empty_like(groups)
    position_in_group[order_by_group] = np.arange(len(groups)) - group_starts
    order_in_turn = np.lexsort((groups, position_in_group))  # by position, then by group
    return np.sort(order_in_turn[:limit])
