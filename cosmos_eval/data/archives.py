"""Samples in webdataset's tar archives, listed once and read at random. Imports no torch.

The members of a sample stand together under one key: `0001.jpg`, `0001.cls`, `0001.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cosmos_core.data.tar import TarError, TarReader, split_name
from cosmos_eval.data.readers import FileError, read_text
from cosmos_eval.data.sources import ArchiveMember
from cosmos_eval.types import UsageError

# Of a sample's image; those that CLIP Benchmark's webdataset_builder.py and builder.py read.
_IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
_MOST_DIGITS = 6


class ArchiveSample(NamedTuple):
    """A key and its members by their extension in lower case."""

    archive: Path
    key: str
    members: Mapping[str, ArchiveMember]

    @property
    def name(self) -> str:
        """The name in error messages."""
        return f"{self.archive}:{self.key}"

    def image(self) -> ArchiveMember:
        """Return the sample's image. Raises UsageError where it has none."""
        for extension in _IMAGE_EXTENSIONS:
            if extension in self.members:
                return self.members[extension]
        raise UsageError(f"{self.name} has no image ({', '.join(_IMAGE_EXTENSIONS)})")

    def text(self, extension: str) -> str:
        """Return a member as UTF-8 text. Raises UsageError where it is missing or is no text."""
        if extension not in self.members:
            known = ", ".join(self.members)
            raise UsageError(f"{self.name} has no .{extension}, only {known}")
        content = self.members[extension].read()
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.name}.{extension} is not UTF-8 text") from error
        if "\0" in text:  # as in a tar of which a part is overwritten with zeros
            raise UsageError(f"{self.name}.{extension} has zero bytes, which are no text")
        return text


def open_archives(archives: Sequence[Path]) -> list[ArchiveSample]:
    """List all samples of some archives, in their order; only headers are read.

    Raises UsageError for an archive that is missing, damaged, compressed or without samples, and
    for a sample with two files of one extension.
    """
    if not archives:
        raise UsageError("no samples in no archives")
    return [sample for archive in archives for sample in _samples(archive)]


def _samples(archive: Path) -> list[ArchiveSample]:
    samples = []
    for key, group in groupby(_members(archive), key=lambda part: part[0]):
        members: dict[str, ArchiveMember] = {}
        for _, extension, member in group:
            if extension in members:
                raise UsageError(f"{archive}:{key} has two files .{extension}; keep one of them")
            members[extension] = member
        samples.append(ArchiveSample(archive, key, members))
    if not samples:
        raise UsageError(f"no samples in {archive}")
    return samples


def _members(archive: Path) -> Iterator[tuple[str, str, ArchiveMember]]:
    """Yield the key, the extension and the member of each file that belongs to a sample."""
    if archive.exists() and not archive.is_file():
        raise UsageError(f"{archive} is a folder, a pipe or a device, not a tar archive")
    try:
        with archive.open("rb") as file:
            for member in TarReader(file):
                if (found := split_name(member.name)) is not None:
                    yield *found, ArchiveMember(archive, *member)
    except FileNotFoundError as error:
        raise UsageError(f"{archive} is not there") from error
    except TarError as error:
        raise UsageError(f"{archive}: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {archive}: {error.strerror}") from error


def numbered_archives(folder: Path) -> list[Path]:
    """Return 0.tar, 1.tar... of a folder in CLIP Benchmark's layout, by its nshards.txt.

    Raises UsageError where that is no number from 1 to a million.
    """
    path = folder / "nshards.txt"
    count = read_stated(path)
    if not count.isdecimal() or not count.strip("0") or len(count) > _MOST_DIGITS:
        raise UsageError(f"{path} must hold the number of archives, not {count[:40]!r}")
    return [folder / f"{number}.tar" for number in range(int(count))]


def read_stated(path: Path) -> str:
    """Read a text file of CLIP Benchmark's layout. Raises UsageError where it cannot be read."""
    try:
        return read_text(path).strip()
    except FileError as error:
        raise UsageError(
            f"cannot read {path}, which CLIP Benchmark's layout has: {error}"
        ) from error
