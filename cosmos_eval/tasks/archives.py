"""Samples in webdataset's tar archives, found once and read at random. Imports no torch.

A sample is what stands together under one key: `0001.jpg`, `0001.cls`, `0001.txt`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.sources import ArchiveMember
from cosmos_eval.types import UsageError

IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
"""Of a sample's image; those that CLIP Benchmark's webdataset_builder.py and builder.py read."""


_MOST_DIGITS = 6


class ArchiveSample(NamedTuple):
    """A key and its members by their extension in lower case."""

    archive: Path
    key: str
    members: Mapping[str, ArchiveMember]

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.archive}:{self.key}"

    def image(self) -> ArchiveMember:
        """The sample's image. Raises UsageError where it has none."""
        for extension in IMAGE_EXTENSIONS:
            if extension in self.members:
                return self.members[extension]
        raise UsageError(f"{self.name} has no image ({', '.join(IMAGE_EXTENSIONS)})")

    def text(self, extension: str) -> str:
        """A member as UTF-8 text. Raises UsageError where it is missing or is no text."""
        if extension not in self.members:
            known = ", ".join(self.members)
            raise UsageError(f"{self.name} has no .{extension}, only {known}")
        try:
            return self.members[extension].read().decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.name}.{extension} is not UTF-8 text") from error


def open_archives(archives: Sequence[Path]) -> list[ArchiveSample]:
    """All samples of some archives, in their order; only headers are read.

    Raises UsageError for an archive that is missing, damaged, compressed or without samples.
    """
    samples = [sample for archive in archives for sample in _samples(archive)]
    if not samples:
        raise UsageError(f"no samples in {', '.join(map(str, archives[:3])) or 'no archives'}")
    return samples


def numbered_archives(folder: Path, count: str) -> list[Path]:
    """Return 0.tar, 1.tar... of a folder, as many as its nshards.txt says.

    Raises UsageError where that is no number from 1 to a million.
    """
    if not count.isdecimal() or not count.strip("0") or len(count) > _MOST_DIGITS:
        stated = folder / "nshards.txt"
        raise UsageError(f"{stated} must hold the number of archives, not {count[:40]!r}")
    return [folder / f"{number}.tar" for number in range(int(count))]


def _samples(archive: Path) -> Iterator[ArchiveSample]:
    from webdataset.tariterators import base_plus_ext

    parts = ((*base_plus_ext(member.member), member) for member in _members(archive))
    named = ((key, str(extension).lower(), member) for key, extension, member in parts if key)
    for key, group in groupby(named, key=lambda part: part[0]):
        yield ArchiveSample(archive, key, {extension: member for _, extension, member in group})


def _members(archive: Path) -> Iterable[ArchiveMember]:
    if archive.exists() and not archive.is_file():
        raise UsageError(f"{archive} is a folder, a pipe or a device, not a tar archive")
    try:
        with tarfile.open(archive, "r:") as tar:
            return [
                ArchiveMember(archive, info.name, info.offset_data, info.size)
                for info in tar
                if info.isfile()
            ]
    except FileNotFoundError as error:
        raise UsageError(f"{archive} is not there") from error
    except (OSError, tarfile.TarError) as error:
        raise UsageError(
            f"{archive} is no uncompressed tar archive, or damaged ({error}); "
            "fetch or unpack it again"
        ) from error
