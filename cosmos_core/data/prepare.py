"""`cosmos-train prepare`: training shards of an img2dataset folder and DreamLIP's captions."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from webdataset import TarWriter

from cosmos_core.data.download import Download, list_sources, read_source
from cosmos_core.data.dreamlip import CaptionFile, Captions
from cosmos_core.utils.files import errors_of, replacing, require_writable, write_atomically

MANIFEST = "prepared.json"
_FORMAT = 1

_log = logging.getLogger(__name__)


class PreparedReport(NamedTuple):
    """What came of the images and captions.

    `samples` images have captions and lie in `shards` tars, `written` of which this call wrote;
    `images_without_captions` have no row or only empty captions; `captions_without_image` are rows;
    `unreadable_images` lack the record that tells their URL.
    """

    samples: int
    shards: int
    written: int
    images_without_captions: int
    captions_without_image: int
    unreadable_images: int


def prepare(
    images: Path, captions: Path, output: Path, *, shard_size: int = 10_000
) -> PreparedReport:
    """Join images and captions by URL and write them as tars of `shard_size` samples.

    `images` is a folder that img2dataset wrote, `captions` one of DreamLIP's files. The same inputs
    give the same bytes. A tar gets its name when it is whole: a call that was killed is repeated
    and writes what is missing. Raises ValueError for inputs that do not fit, and where `output`
    holds shards of others.
    """
    if shard_size < 1:
        raise ValueError(f"a shard size of {shard_size}; at least 1 sample a shard")
    if output.resolve() == images.resolve() or images.resolve() in output.resolve().parents:
        raise ValueError(f"{output}: lies in the folder of the images; choose one outside")
    sources = list_sources(images)
    counts = _Counts()
    with CaptionFile(captions) as table:
        _claim(output, _manifest(sources, captions, shard_size))
        with _Shards(output, shard_size) as shards:
            for download, found in _join(sources, table, counts):
                shards.add(download, found)
        return PreparedReport(
            samples=shards.samples,
            shards=-(-shards.samples // shard_size),
            written=shards.written,
            images_without_captions=counts.without_captions,
            captions_without_image=table.unused,
            unreadable_images=counts.unreadable,
        )


@dataclass
class _Counts:
    without_captions: int = 0
    unreadable: int = 0


def _join(
    sources: list[Path], table: CaptionFile, counts: _Counts
) -> Iterator[tuple[Download, Captions]]:
    for download in itertools.chain.from_iterable(map(read_source, sources)):
        if download.url is None:
            counts.unreadable += 1
        elif captions := table.find(download.url):
            yield download, captions
        else:
            counts.without_captions += 1


class _Shards:
    """Writes samples to one tar after another, and passes over tars that are there already."""

    def __init__(self, output: Path, size: int) -> None:
        self._output, self._size = output, size
        self._tar: TarWriter | None = None
        self._writing = ExitStack()
        self.samples = self.written = 0

    def __enter__(self) -> _Shards:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish()
        elif self._tar is not None:
            with suppress(OSError):  # such as the full disk that led here
                self._tar.close()
        self._writing.__exit__(kind, error, trace)

    def add(self, download: Download, captions: Captions) -> None:
        if self.samples % self._size == 0:
            self._begin()
        if self._tar is not None:
            record = {"url": download.url, "key": download.key, **captions}
            sample = {
                "__key__": f"{self.samples:09d}",
                download.suffix: download.read(),
                "json": json.dumps(record, ensure_ascii=False).encode(errors="replace"),
            }
            with errors_of(self._path):
                self._tar.write(sample)
        self.samples += 1
        if self.samples % self._size == 0:
            self._finish()

    def _begin(self) -> None:
        self._path = self._output / f"{self.samples // self._size:05d}.tar"
        if not self._path.exists():
            file = self._writing.enter_context(replacing(self._path))
            self._tar = TarWriter(file, user="", group="", mtime=0)

    def _finish(self) -> None:
        """Give the tar in hand, if any, its name once it is on the disk."""
        if self._tar is None:
            return
        with errors_of(self._path):
            self._tar.close()
            self._writing.close()
        self._tar = None
        self.written += 1
        _log.info("wrote %s", self._path)


def _manifest(sources: list[Path], captions: Path, shard_size: int) -> str:
    """What decides the shards, as text: the names and sizes of the inputs, and the shard size."""
    inputs = [
        (path.name, len(list(path.iterdir())) if path.is_dir() else path.stat().st_size)
        for path in sources
    ]
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    content = {
        "format": _FORMAT,
        "images": digest,
        "captions": [captions.name, captions.stat().st_size],
        "shard_size": shard_size,
    }
    return json.dumps(content) + "\n"


def _claim(output: Path, manifest: str) -> None:
    """Make the folder, or find that its shards are of the same inputs."""
    require_writable(output)
    path = output / MANIFEST
    if path.exists():
        if path.read_text(encoding="utf-8") != manifest:
            raise ValueError(
                f"{output}: holds shards of other inputs or of another size; choose another folder"
            )
    elif any(output.glob("*.tar")):
        raise ValueError(f"{output}: holds other shards; choose another folder")
    else:
        write_atomically(path, manifest.encode())
