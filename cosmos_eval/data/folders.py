"""Paths, counts of samples and faults that the data sets of all tasks share. Imports no torch."""

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.types import LabelMapProtocol, Part, Protocol, RunOptions, UsageError

Data = TypeVar("Data")
Paths = tuple[str, ...] | str

ADVICE = "; see `cosmos-eval data doctor "
"""The start of the advice in errors about the number of samples."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is on the disk of a data set; counts are None where they were not determined."""

    faults: tuple[str, ...] = ()  # one line each
    remedy: str | None = None  # the command or the page that mends them
    folder: str | None = None
    expected: int | None = None  # images
    images: int | None = None
    expected_captions: int | None = None
    captions: int | None = None
    expected_items: int | None = None
    items: int | None = None
    label_maps: int | None = None
    mask_suffix: str | None = None
    labels: tuple[int, int] | None = None  # the lowest and the highest found, as files have them
    classes: tuple[int, int] | None = None  # what they may be
    n_classes: int | None = None


def remedy_of(protocol: Protocol) -> str | None:
    """Return the command or the page that a data set's files come from."""
    if protocol.repository is None:
        return protocol.download
    named = f"--dataset {protocol.dataset} --protocol {protocol.family}"
    return f"cosmos-eval run {named} --download"


def fetch_repository(protocol: Protocol, _: RunOptions) -> None:
    """Download what the cache lacks of a set's repository, if it has one. Raises UsageError."""
    if protocol.repository is not None:
        from cosmos_eval.data.hub import fetch_dataset  # which imports the hub's client

        fetch_dataset(protocol)


def several(paths: Paths) -> tuple[str, ...]:
    """Return one path or several as a tuple."""
    return (paths,) if isinstance(paths, str) else paths


def exist_in(root: Path, *stated: Paths) -> bool:
    """Return whether of each stated paths one exists below a root."""
    return all(any((root / path).exists() for path in several(paths)) for paths in stated)


def beside(path: Path) -> str:
    """Return the end of a message about a file that is missing: the file of another suffix that is
    there, or nothing."""
    stems = dict.fromkeys((path.name, path.stem))
    found = (p for stem in stems for p in sorted(path.parent.glob(f"{glob.escape(stem)}.*")))
    first = next(found, None)
    return "" if first is None else f"; there is {first.name}"


def root_of(protocol: Protocol, options: RunOptions, holds: Paths) -> Path:
    """Return the folder of all paths of a set. Raises UsageError where the user must give it."""
    if protocol.repository is not None:
        from cosmos_eval.data.hub import dataset_folder  # which imports the hub's client

        return dataset_folder(protocol)
    root = protocol.root or options.data_root
    if root is None:
        names = " or ".join(several(holds))
        raise UsageError(f"{protocol.dataset}: give --data-root DIR, the folder that holds {names}")
    return Path(root)


def data_path(protocol: Protocol, options: RunOptions, paths: Paths, what: str = "data") -> Path:
    """Return the first existing path of a set. Raises UsageError that says where it should be."""
    root = root_of(protocol, options, paths)
    for path in several(paths):
        if (root / path).exists():
            return root / path
    raise missing_path(protocol, root, several(paths), what)


def missing_path(protocol: Protocol, root: Path, paths: Sequence[str], what: str) -> UsageError:
    """Return the error for a data set of which none of `paths` exists below `root`."""
    if len(paths) == 1:
        return UsageError(f"{protocol.dataset}: expected {root / paths[0]}, which is not there")
    listed = ", ".join(paths)
    names = dict.fromkeys(PurePosixPath(path).name for path in paths)
    folders = dict.fromkeys(str(PurePosixPath(path).parent) for path in paths)
    # In short where every file name is combined with every folder.
    if len(names) * len(folders) == len(paths) and folders.keys() != {"."}:
        listed = f"{', '.join(names)} in {', '.join(folders)}"
    return UsageError(f"{protocol.dataset}: no {what} below {root}: looked for {listed}")


def find_root(
    protocol: LabelMapProtocol, data_root: str | None, parts: Sequence[str] | None = None
) -> Path:
    """Return the folder that holds all `parts` of a set: the root or the usual folder below it.

    Without `parts`, images, label maps and the list of names. Raises UsageError naming the missing.
    """
    needed = parts or [p for p in (protocol.images, protocol.masks, protocol.split) if p]
    base = protocol.root or data_root
    usual = protocol.usual_folder or ""
    if base is None:
        either = f", or {usual} with them" if usual else ""
        holds = f"{', '.join(needed)}{either}"
        raise UsageError(f"{protocol.dataset}: give --data-root DIR that holds {holds}")
    missing: list[Path] = []
    for folder in dict.fromkeys([Path(base), Path(base) / usual]):
        absent = [folder / part for part in needed if not (folder / part).exists()]
        if not absent:
            return folder
        missing.append(absent[0])
    expected = " or ".join(map(str, missing))
    raise UsageError(f"{protocol.dataset}: expected {expected}, which is not there")


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all below it, also by links, with names of files, or raise UsageError."""
    entered: dict[tuple[int, int], str] = {}
    for folder, _, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        status = os.stat(folder)
        first = entered.setdefault((status.st_dev, status.st_ino), folder)
        if first != folder:
            raise UsageError(
                f"{folder} is the same folder as {first}, by a link: its images would be read "
                "twice; remove the link"
            )
        yield Path(folder), names


def folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder, unsorted. Raises UsageError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        _refuse_unreadable(error)


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise UsageError(f"cannot read folder {error.filename}: {error.strerror}") from error


def fingerprint(items: Sequence[object]) -> str:
    """Return the SHA-256 of a list of texts and numbers, in hexadecimal; order counts."""
    return hashlib.sha256(json.dumps(list(items), ensure_ascii=True).encode()).hexdigest()


def content_hash(sha256s: Iterable[bytes], labels: NDArray[Any] | None = None) -> str:
    """Return the SHA-256 of the SHA-256s (32 bytes each) of what was measured, in the order of the
    samples, and of labels where no file holds them; in hexadecimal."""
    digest = hashlib.sha256(b"".join(sha256s))
    if labels is not None:
        digest.update(json.dumps(labels.tolist()).encode())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[Data]):
    """Data as their files list them: how complete they are, and what is wrong with them."""

    data: Data
    where: Path
    parts: Sequence[Part]  # the numbers of samples found and known, which `where` has
    survey: Survey = Survey()  # what was found, and faults other than numbers of samples

    def require(self, protocol: Protocol, options: RunOptions) -> Data:
        """Return the data. Raises UsageError for the first fault."""
        for fault in self._faults(protocol, options):
            raise UsageError(f"{protocol.dataset}: {fault}")
        return self.data

    def surveyed(self, protocol: Protocol, options: RunOptions) -> Survey:
        """Return what was found, with all faults and the page that the set comes from."""
        faults = tuple(self._faults(protocol, options))
        return replace(self.survey, faults=faults, remedy=remedy_of(protocol) if faults else None)

    def _faults(self, protocol: Protocol, options: RunOptions) -> Iterator[str]:
        yield from self.survey.faults
        end = advice(protocol, options)
        for part in self.parts if options.limit is None else ():
            if part.found > part.known:
                more = f"more than the {part.known} of {protocol.dataset}"
                yield f"{self.where} has {part.found} {part.unit}, {more}{end}"
            elif part.found < part.known and not options.allow_partial:
                yield f"{self.where} has {part} of {protocol.dataset}{end}"


def advice(protocol: Protocol, options: RunOptions) -> str:
    """Return the end of an error about an incomplete known data set: what to do."""
    part = "" if options.allow_partial else "the samples found with --partial, "
    return f"{ADVICE}{protocol.dataset}`, or measure {part}the first N with --limit N"


def index(things: Iterable[Any]) -> dict[Any, int]:
    """Return distinct things with their indices, in the order of the first of each."""
    return {thing: number for number, thing in enumerate(dict.fromkeys(things))}


def parts_of(**counts: tuple[int, int | None]) -> list[Part]:
    """Return the numbers of samples found and known, by unit, where they are known."""
    return [Part(found, n, unit) for unit, (found, n) in counts.items() if n is not None]


def shortfall(parts: Sequence[Part]) -> Part | None:
    """Return the first number of samples that is less than known."""
    return next((part for part in parts if part.found < part.known), None)


def in_turn(groups: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Return the sorted indices of the first of every group, then the second, ... up to a limit."""
    order = np.argsort(groups, kind="stable")
    turn = np.empty_like(groups)
    turn[order] = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])
    return np.sort(np.lexsort((groups, turn))[:limit])
