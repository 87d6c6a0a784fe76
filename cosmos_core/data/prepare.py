"""`cosmos-train prepare`: training shards of an img2dataset folder and DreamLIP's captions. Those
are the files `*_3long_3short_1raw_captions_url.csv` of
huggingface.co/datasets/qidouxiong619/dreamlip_long_captions: per image a URL, `Image Path`, and
seven texts of one or more sentences. The largest has 30 GB; memory holds 17 bytes per row."""

from __future__ import annotations

import ast
import csv
import hashlib
import itertools
import json
import logging
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from webdataset import TarWriter

from cosmos_core.data.samples import DREAMLIP_KEYS, IMAGE_SUFFIXES
from cosmos_core.data.tar import Member, TarError, TarReader, require_one_file, split_name
from cosmos_core.utils.files import errors_of, replacing, require_writable, write_atomically
from cosmos_core.utils.text import split_sentences

MANIFEST = "prepared.json"
URL_COLUMN = "Image Path"
_FORMAT = 1
Captions = dict[str, list[str]]
_Read = Callable[[], bytes]

_log = logging.getLogger(__name__)


class PreparedReport(NamedTuple):
    """Counts: images with captions, tars, tars that this call wrote, and what has been left out."""

    samples: int = 0
    shards: int = 0
    written: int = 0
    images_without_captions: int = 0  # no row, or only empty captions
    captions_without_image: int = 0  # rows
    unreadable_images: int = 0  # no record that states their URL


def prepare(
    images: Path, captions: Path, output: Path, *, shard_size: int = 10_000
) -> PreparedReport:
    """Join images and captions by URL and write them as tars of `shard_size` samples. `images` is a
    folder that img2dataset wrote, `captions` one of DreamLIP's files. The same inputs give the same
    bytes; a call after a killed one writes what is missing. Raises ValueError for inputs that do
    not fit, and where `output` holds shards of others."""
    if shard_size < 1:
        raise ValueError(f"a shard size of {shard_size}; at least 1 sample per shard")
    if output.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{output}: lies in the folder of the images; choose one outside")
    sources, counts = list_sources(images), Counter[str]()
    with captions.open("rb") as file:
        table = CaptionFile(file)
        _claim(output, sources, captions, shard_size)
        samples = enumerate(_join(sources, table, counts))
        for shard, group in itertools.groupby(samples, key=lambda sample: sample[0] // shard_size):
            path = output / f"{shard:05d}.tar"
            if not path.exists():
                _write_shard(path, group)
                counts["written"] += 1
        shards = -(-counts["samples"] // shard_size)
        return PreparedReport(**counts, shards=shards, captions_without_image=table.unused)


def _join(
    sources: list[Path], table: CaptionFile, counts: Counter[str]
) -> Iterator[tuple[DownloadedImage, Captions]]:
    for image in itertools.chain.from_iterable(map(read_source, sources)):
        if image.url is None:
            counts["unreadable_images"] += 1
        elif captions := table.find(image.url):
            counts["samples"] += 1
            yield image, captions
        else:
            counts["images_without_captions"] += 1


def _write_shard(
    path: Path, samples: Iterable[tuple[int, tuple[DownloadedImage, Captions]]]
) -> None:
    with ExitStack() as stack:
        tar = TarWriter(stack.enter_context(replacing(path)), user="", group="", mtime=0)
        stack.callback(_close_quietly, tar)
        for number, (image, captions) in samples:
            content, record = image.read(), {"url": image.url, "key": image.key, **captions}
            text = json.dumps(record, ensure_ascii=False).encode(errors="replace")
            with errors_of(path):
                tar.write({"__key__": f"{number:09d}", image.suffix: content, "json": text})
        with errors_of(path):
            tar.close()
            stack.close()
    _log.info("wrote %s", path)


def _close_quietly(tar: TarWriter) -> None:
    with suppress(OSError):  # such as the full disk that led here
        tar.close()


def _claim(output: Path, sources: list[Path], captions: Path, shard_size: int) -> None:
    """Create the output folder, or check that its shards are of the same inputs and size."""
    inputs = [(p.name, len([*p.iterdir()]) if p.is_dir() else p.stat().st_size) for p in sources]
    content = {
        "format": _FORMAT,
        "images": hashlib.sha256(json.dumps(inputs).encode()).hexdigest(),
        "captions": [captions.name, captions.stat().st_size],
        "shard_size": shard_size,
    }
    require_writable(output)
    path, manifest = output / MANIFEST, json.dumps(content) + "\n"
    if path.exists():
        if path.read_text(encoding="utf-8") != manifest:
            raise ValueError(
                f"{output}: holds shards of other inputs or of another size; choose another folder"
            )
    elif any(output.glob("*.tar")):
        raise ValueError(f"{output}: holds other shards; choose another folder")
    else:
        write_atomically(path, manifest.encode())


class DownloadedImage(NamedTuple):
    """An image that img2dataset wrote: its key, its URL where its record states it, its bytes."""

    key: str
    url: str | None
    suffix: str
    read: _Read


def list_sources(images: Path) -> list[Path]:
    """Return the tars in a folder of img2dataset, or else its folders (format `files`), by name.
    Raises ValueError where it has none, and for a damaged tar."""
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; give the one that img2dataset wrote")
    tars = sorted(images.glob("*.tar"))
    sources = tars or sorted(path for path in images.iterdir() if path.is_dir())
    if not sources:
        raise ValueError(f"{images}: neither tars nor folders, which img2dataset writes")
    for tar in tars:
        deque(_files(tar), maxlen=0)
    return sources


def read_source(source: Path) -> Iterator[DownloadedImage]:
    """Yield the images of a tar or a folder."""
    samples: dict[str, dict[str, _Read]] = {}
    for name, read in _files(source):
        if (parts := split_name(name)) is not None:
            samples.setdefault(parts[0], {})[parts[1]] = read
    for key, found in samples.items():
        suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in found), None)
        if suffix is not None:
            yield DownloadedImage(key, _url(found.get("json")), suffix, found[suffix])


def _url(read: _Read | None) -> str | None:
    with suppress(json.JSONDecodeError, UnicodeDecodeError):
        match json.loads(read()) if read else None:
            case {"url": str(url)}:
                return url
    return None


def _files(source: Path) -> Iterator[tuple[str, _Read]]:
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.is_file())
        yield from ((path.name, path.read_bytes) for path in paths)
        return
    try:
        with source.open("rb") as file:
            for member in TarReader(file):
                yield member.name, partial(_read, source, member)
    except TarError as error:
        raise ValueError(f"{source}: {error}") from error


def _read(source: Path, member: Member) -> bytes:
    with source.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    try:
        require_one_file(content)
    except TarError as error:
        raise ValueError(f"{source}: {member.name}: {error}") from error
    return content


class CaptionFile:
    """The rows of DreamLIP's captions by URL, the first of rows with one URL. Raises ValueError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        hashes, offsets = array("Q"), array("Q")
        rows = csv.reader(_lines(file, 0))
        try:
            self._url, self._columns = self._read_header(next(rows, []))
            offset = file.tell()
            for row in rows:
                if len(row) > self._url:
                    if not hashes:
                        self._require_url(row[self._url])
                    hashes.append(_hash(row[self._url]))
                    offsets.append(offset)
                offset = file.tell()
        except csv.Error as error:
            raise ValueError(f"{file.name}, line {rows.line_num}: {error}") from error
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._offsets = np.array(hashes)[order], np.array(offsets)[order]
        self._used = np.zeros(len(order), dtype=bool)

    @property
    def unused(self) -> int:
        """Rows whose URL `find` has not been called with."""
        return int(np.count_nonzero(~self._used))

    def find(self, url: str) -> Captions | None:
        """Return an image's captions, lists of sentences without empty ones; None without a row."""
        first, end = (int(np.searchsorted(self._hashes, _hash(url), s)) for s in ("left", "right"))
        self._used[first:end] = True
        for offset in self._offsets[first:end]:
            row = next(csv.reader(_lines(self._file, int(offset))))
            if row[self._url] == url:
                cells = {k: row[column] for k, column in self._columns.items() if column < len(row)}
                return {key: found for key, cell in cells.items() if (found := read_cell(cell))}
        return None

    def _read_header(self, header: list[str]) -> tuple[int, dict[str, int]]:
        names = [name.strip().removeprefix("\ufeff") for name in header]
        columns = {key: names.index(key) for key in DREAMLIP_KEYS if key in names}
        if URL_COLUMN not in names or not columns:
            raise ValueError(
                f"{self._file.name}: not DreamLIP's captions: its columns are {', '.join(names)}; "
                f"needed: {URL_COLUMN!r} and any of {', '.join(DREAMLIP_KEYS)}"
            )
        return names.index(URL_COLUMN), columns

    def _require_url(self, cell: str) -> None:
        if "://" not in cell:
            raise ValueError(
                f"{self._file.name}: {URL_COLUMN!r} holds {cell!r}, not a URL; paths of another "
                "download do not state which image is meant: take the file *_captions_url.csv"
            )


def _lines(file: BinaryIO, offset: int) -> Iterator[str]:
    """Yield the lines from an offset; csv.reader takes no more than a row needs."""
    file.seek(offset)
    while line := file.readline():
        yield line.decode("utf-8", "replace")


def read_cell(cell: str) -> list[str]:
    """Return the sentences of a caption: a text, or, in files derived from DreamLIP's, a list."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return split_sentences(cell)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return [stripped for part in value if (stripped := part.strip())]
    return split_sentences(cell)


def _hash(url: str) -> int:
    digest = hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
