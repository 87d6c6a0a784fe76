"""`cosmos-train prepare`: make training shards of an img2dataset folder and DreamLIP's captions.

The captions are the files `*_3long_3short_1raw_captions_url.csv` of
huggingface.co/datasets/qidouxiong619/dreamlip_long_captions. They have a URL, `Image Path`, and
seven texts of one or more sentences per image. The largest file has 30 GB; memory holds 17 bytes
per row.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import itertools
import json
import logging
import math
from array import array
from collections import Counter
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
_ReadFile = Callable[[], bytes]

_log = logging.getLogger(__name__)


class PreparedReport(NamedTuple):
    """Numbers of written and omitted samples."""

    samples: int = 0  # images with captions
    shards: int = 0
    written: int = 0  # shards that this call wrote
    images_without_captions: int = 0  # no row, or only empty captions
    captions_without_image: int = 0  # rows of the caption file
    unreadable_images: int = 0  # no record that states their URL


def prepare(
    images: Path, captions: Path, output: Path, *, shard_size: int = 10_000
) -> PreparedReport:
    """Join images and captions by URL, and write them as tars of `shard_size` samples.

    `images` is a folder that img2dataset wrote, `captions` one of DreamLIP's files. The same inputs
    give the same bytes. A call after a killed one writes the missing tars. Raises ValueError for
    inputs that do not fit, and if `output` holds shards of other inputs.
    """
    if shard_size < 1:
        raise ValueError(f"a shard size of {shard_size}; at least 1 sample per shard")
    if output.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{output}: lies in the folder of the images; choose one outside")
    sources = list_sources(images)
    counts = Counter[str]()
    with captions.open("rb") as file:
        caption_file = CaptionFile(file)
        _claim(output, sources, captions, shard_size)
        samples = enumerate(_join(sources, caption_file, counts))
        for shard, shard_samples in itertools.groupby(
            samples, key=lambda numbered_sample: numbered_sample[0] // shard_size
        ):
            path = output / f"{shard:05d}.tar"
            # A shard that exists is complete, and its samples are passed over.
            if not path.exists():
                _write_shard(path, shard_samples)
                counts["written"] += 1
        return PreparedReport(
            samples=counts["samples"],
            shards=math.ceil(counts["samples"] / shard_size),
            written=counts["written"],
            images_without_captions=counts["images_without_captions"],
            captions_without_image=caption_file.unused,
            unreadable_images=counts["unreadable_images"],
        )


def _join(
    sources: list[Path], caption_file: CaptionFile, counts: Counter[str]
) -> Iterator[tuple[DownloadedImage, Captions]]:
    """Yield the images that have captions, in order, and count them and the others."""
    for source in sources:
        for image in read_source(source):
            if image.url is None:
                counts["unreadable_images"] += 1
                continue
            captions = caption_file.find(image.url)
            if captions:
                counts["samples"] += 1
                yield image, captions
            else:
                counts["images_without_captions"] += 1


def _write_shard(
    path: Path, samples: Iterable[tuple[int, tuple[DownloadedImage, Captions]]]
) -> None:
    """Write numbered samples as a tar, atomically."""
    with ExitStack() as stack:
        tar = TarWriter(stack.enter_context(replacing(path)), user="", group="", mtime=0)
        stack.callback(_close_quietly, tar)
        for number, (image, captions) in samples:
            content = image.read()
            record = {"url": image.url, "key": image.key, **captions}
            json_content = json.dumps(record, ensure_ascii=False).encode(errors="replace")
            with errors_of(path):
                tar.write({"__key__": f"{number:09d}", image.suffix: content, "json": json_content})
        with errors_of(path):
            tar.close()
            stack.close()
    _log.info("wrote %s", path)


def _close_quietly(tar: TarWriter) -> None:
    with suppress(OSError):  # the disk may be full, which is reported already
        tar.close()


def _claim(output: Path, sources: list[Path], captions: Path, shard_size: int) -> None:
    """Create the output folder, or check that its shards have the same inputs and size."""
    inputs = []
    for source in sources:
        size = len(list(source.iterdir())) if source.is_dir() else source.stat().st_size
        inputs.append((source.name, size))
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
    """An image that img2dataset wrote."""

    key: str
    url: str | None  # None if its record does not state it
    suffix: str
    read: _ReadFile


def list_sources(images: Path) -> list[Path]:
    """Return the tars in a folder of img2dataset, or else its folders (format `files`), by name.

    Raises ValueError if there are neither, and for a damaged tar.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; give the one that img2dataset wrote")
    tars = sorted(images.glob("*.tar"))
    sources = tars or sorted(path for path in images.iterdir() if path.is_dir())
    if not sources:
        raise ValueError(f"{images}: neither tars nor folders, which img2dataset writes")
    for tar in tars:
        for _ in _files(tar):  # raises for damage
            pass
    return sources


def read_source(source: Path) -> Iterator[DownloadedImage]:
    """Yield the images of a tar or a folder."""
    files_by_key: dict[str, dict[str, _ReadFile]] = {}
    for name, read in _files(source):
        key_and_suffix = split_name(name)
        if key_and_suffix is not None:
            key, suffix = key_and_suffix
            files_by_key.setdefault(key, {})[suffix] = read
    for key, files in files_by_key.items():
        for suffix in IMAGE_SUFFIXES:
            if suffix in files:
                yield DownloadedImage(key, _url(files.get("json")), suffix, files[suffix])
                break


def _url(read_record: _ReadFile | None) -> str | None:
    """Return the URL in a JSON record; None if there is none."""
    if read_record is None:
        return None
    try:
        record = json.loads(read_record())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    url = record.get("url") if isinstance(record, dict) else None
    return url if isinstance(url, str) else None


def _files(source: Path) -> Iterator[tuple[str, _ReadFile]]:
    """Yield the name of each file in a tar or a folder, and a function that reads it."""
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.is_file():
                yield path.name, path.read_bytes
        return
    try:
        with source.open("rb") as file:
            for member in TarReader(file):
                yield member.name, partial(_read_member, source, member)
    except TarError as error:
        raise ValueError(f"{source}: {error}") from error


def _read_member(source: Path, member: Member) -> bytes:
    """Read a file in a tar."""
    with source.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    try:
        require_one_file(content)
    except TarError as error:
        raise ValueError(f"{source}: {member.name}: {error}") from error
    return content


class CaptionFile:
    """The rows of DreamLIP's captions by URL; of rows with the same URL the first one.

    Raises ValueError for a file that has other columns, or that is not CSV.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # The hash of the URL, and the offset in the file, of each row.
        hashes, offsets = array("Q"), array("Q")
        rows = csv.reader(_lines(file, 0))
        try:
            self._url_column, self._caption_columns = self._read_header(next(rows, []))
            offset = file.tell()
            for row in rows:
                if len(row) > self._url_column:
                    url = row[self._url_column]
                    if not hashes:
                        self._require_url(url)
                    hashes.append(_hash(url))
                    offsets.append(offset)
                offset = file.tell()
        except csv.Error as error:
            raise ValueError(f"{file.name}, line {rows.line_num}: {error}") from error
        order = np.argsort(hashes, kind="stable")
        self._hashes = np.array(hashes)[order]
        self._offsets = np.array(offsets)[order]
        self._is_used = np.zeros(len(order), dtype=bool)

    @property
    def unused(self) -> int:
        """The number of rows whose URL was not given to `find`."""
        return int(np.count_nonzero(~self._is_used))

    def find(self, url: str) -> Captions | None:
        """Return the captions of an image as lists of sentences, without empty ones.

        Return None if no row has the URL.
        """
        url_hash = _hash(url)
        first = int(np.searchsorted(self._hashes, url_hash, "left"))
        end = int(np.searchsorted(self._hashes, url_hash, "right"))
        self._is_used[first:end] = True
        for offset in self._offsets[first:end]:
            row = next(csv.reader(_lines(self._file, int(offset))))
            if row[self._url_column] == url:  # else another URL has the same hash
                return self._captions_in_row(row)
        return None

    def _captions_in_row(self, row: list[str]) -> Captions:
        captions: Captions = {}
        for key, column in self._caption_columns.items():
            if column < len(row):
                sentences = read_cell(row[column])
                if sentences:
                    captions[key] = sentences
        return captions

    def _read_header(self, header: list[str]) -> tuple[int, dict[str, int]]:
        """Return the column of the URL, and the columns of the captions by their keys."""
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
    """Yield the lines from an offset on. A csv.reader reads no more lines than its row needs."""
    file.seek(offset)
    while True:
        line = file.readline()
        if not line:
            return
        yield line.decode("utf-8", "replace")


def read_cell(cell: str) -> list[str]:
    """Return the sentences of a caption: a text, or a list in files derived from DreamLIP's."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return split_sentences(cell)
        if isinstance(value, list) and all(isinstance(sentence, str) for sentence in value):
            sentences = [sentence.strip() for sentence in value]
            return [sentence for sentence in sentences if sentence]
    return split_sentences(cell)


def _hash(url: str) -> int:
    digest = hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
