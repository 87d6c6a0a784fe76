"""What every task does with folders of images before a model is loaded. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from cosmos_eval.types import Part, Protocol, RunOptions, UsageError

ADVICE = "; see `cosmos-eval data doctor "
"""The start of the advice in errors about the number of samples."""


def data_path(protocol: Protocol, options: RunOptions, parts: tuple[str, ...] | str) -> Path:
    """A file or folder of a data set, below its own root or the user's data root.

    Of several places the first that is there. Raises UsageError that says what was expected.
    """
    places = (parts,) if isinstance(parts, str) else parts
    root = protocol.root or options.data_root
    if root is None:
        holds = " or ".join(places)
        raise UsageError(f"{protocol.dataset}: give --data-root DIR, the folder that holds {holds}")
    paths = [Path(root) / place for place in places]
    for path in paths:
        if path.exists():
            return path
    expected = " or ".join(map(str, paths))
    raise UsageError(f"{protocol.dataset}: expected {expected}, which is not there")


class FolderWalk:
    """Walk through folders, following links, and refuse to enter the same folder twice.

    One object covers a whole data set: a folder that two classes share has no class of its own.
    """

    def __init__(self, root: Path) -> None:
        self._entered: dict[tuple[int, int], str] = {}
        self._enter(str(root))

    def files(self, folder: Path) -> Iterator[tuple[str, list[str]]]:
        """Yield `folder` and every folder below it, each with the names of its files, unsorted.

        Raises UsageError for a folder that was entered before, such as by a link to a parent, and
        for one that cannot be read.
        """
        for parent, _, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
            self._enter(parent)
            yield parent, names

    def _enter(self, folder: str) -> None:
        status = os.stat(folder)
        first = self._entered.setdefault((status.st_dev, status.st_ino), folder)
        if first != folder:
            raise UsageError(
                f"{folder} is the same folder as {first}, by a link: its images would be read "
                "twice; remove the link"
            )


def require_distinct_folders(root: Path) -> None:
    """Raise UsageError where links below `root` lead to a folder twice, or a folder is unreadable.

    For readers that follow links on their own.
    """
    for _ in FolderWalk(root).files(root):
        pass


def folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what a folder holds, unsorted. Raises UsageError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        _refuse_unreadable(error)


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise UsageError(f"cannot read folder {error.filename}: {error.strerror}") from error


def fingerprint(items: Sequence[object]) -> str:
    """SHA-256 of a list of texts and numbers, in hexadecimal; order counts."""
    return hashlib.sha256(json.dumps(list(items), ensure_ascii=True).encode()).hexdigest()


def wrong_counts(
    protocol: Protocol, options: RunOptions, where: object, parts: Iterable[Part]
) -> Iterator[str]:
    """Yield what is wrong with the numbers of samples in `where`, of a known data set.

    Fewer than known are accepted with `options.allow_partial`, and any number with a limit.
    """
    for part in parts if options.limit is None else ():
        if part.found > part.known:
            yield (
                f"{where} has {part.found} {part.unit}, more than the {part.known} of "
                f"{protocol.dataset}"
            )
        elif part.found < part.known and not options.allow_partial:
            yield f"{where} has {part} of {protocol.dataset}"


def require_counts(
    protocol: Protocol, options: RunOptions, where: object, parts: Iterable[Part]
) -> None:
    """Raise UsageError, with advice, for the first fault of `wrong_counts`."""
    fault = next(wrong_counts(protocol, options, where, parts), None)
    if fault is not None:
        raise UsageError(f"{protocol.dataset}: {fault}{advice(protocol, options)}")


def advice(protocol: Protocol, options: RunOptions) -> str:
    """The end of an error about a known data set that is not complete: what to do."""
    part = "" if options.allow_partial else "the samples found with --partial, "
    return f"{ADVICE}{protocol.dataset}`, or measure {part}the first N with --limit N"


def parts_of(**counts: tuple[int, int | None]) -> list[Part]:
    """Numbers of samples found and known, by unit, where they are known."""
    return [
        Part(found, known, unit) for unit, (found, known) in counts.items() if known is not None
    ]


def shortfall(parts: Iterable[Part]) -> Part | None:
    """The first number of samples that is less than known."""
    return next((part for part in parts if part.found < part.known), None)


def limit_notes(options: RunOptions, samples: str = "images") -> tuple[str, ...]:
    """The note of a result that covers the first samples only."""
    return () if options.limit is None else (f"at most {options.limit} {samples} were measured",)


def truncation_notes(truncated: int, captions: int) -> tuple[str, ...]:
    """The note of a result some of whose captions were cut."""
    if not truncated:
        return ()
    return (f"{truncated} of {captions} captions did not fit the model's context and were cut",)
