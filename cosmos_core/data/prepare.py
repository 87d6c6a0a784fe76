"""`cosmos-train prepare`: make training shards of an img2dataset folder and DreamLIP's captions.

The captions are the files `*_3long_3short_1raw_captions_url.csv` of
huggingface.co/datasets/qidouxiong619/dreamlip_long_captions. A row holds the URL of an image, in
the column `Image Path`, and seven captions of one or more sentences each. The largest file has
30 GB. Memory holds 17 bytes per row, and the captions of one shard.
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
from collections.abc import Callable, Iterator, Sequence
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
_FORMAT = 1  # the version of the format of the manifest
Captions = dict[str, list[str]]  # key as in DreamLIP's releases -> sentences
_ReadFile = Callable[[], bytes]  # returns the content of a file

_log = logging.getLogger(__name__)


class PreparedReport(NamedTuple):
    """The numbers of samples and shards in the output folder, and of inputs that were left out."""

    # Images with captions. Each is a sample.
    samples: int = 0
    # Shards in the output folder.
    shards: int = 0
    # Shards that this call wrote. The others existed already.
    written: int = 0
    # Images whose URL has no row in the caption file, or only empty captions.
    images_without_captions: int = 0
    # Rows of the caption file whose URL belongs to none of the images.
    captions_without_image: int = 0
    # Images without a record that states their URL.
    unreadable_images: int = 0


def prepare(
    images: Path, captions: Path, output: Path, *, shard_size: int = 10_000
) -> PreparedReport:
    """Join images and captions by URL, and write them as tars (shards) for training.

    The same inputs give the same bytes. If a call was killed, the next call writes the missing
    tars.

    Args:
        images: A folder that img2dataset wrote.
        captions: One of DreamLIP's CSV files.
        output: The folder of the tars to write.
        shard_size: The number of samples in each tar. The last one may have fewer.

    Returns:
        The numbers of samples and shards, and of inputs that were left out.

    Raises:
        ValueError: If the inputs do not fit, if no image has captions, or if `output` holds shards
            of other inputs.
    """
    if shard_size < 1:
        raise ValueError(f"a shard size of {shard_size}; at least 1 sample per shard")
    if output.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"{output}: lies in the folder of the images; choose one outside")
    if not captions.is_file():
        raise ValueError(f"{captions}: no such file; give one of DreamLIP's CSV files")
    sources = list_sources(images)
    n_written_shards = 0
    with captions.open("rb") as file:
        caption_file = CaptionFile(file)
        _claim_output(output, sources, captions, shard_size)
        join = _CaptionJoin(sources, caption_file)
        samples = join.captioned_images()
        for shard_number in itertools.count():
            shard_samples = list(itertools.islice(samples, shard_size))
            if not shard_samples:
                break
            path = output / f"{shard_number:05d}.tar"
            # Shards are written atomically, so a shard that exists is complete.
            if not path.exists():
                _write_shard(path, shard_samples, first_number=shard_number * shard_size)
                n_written_shards += 1
        if join.n_samples == 0:
            (output / MANIFEST).unlink()  # so that the folder can be used for other inputs
            raise ValueError(
                f"no image of {images} has captions in {captions}: URLs without captions: "
                f"{join.n_images_without_captions}, images without a URL: "
                f"{join.n_unreadable_images}; give the CSV file that the images were downloaded by"
            )
        return PreparedReport(
            samples=join.n_samples,
            shards=math.ceil(join.n_samples / shard_size),
            written=n_written_shards,
            images_without_captions=join.n_images_without_captions,
            captions_without_image=caption_file.n_unused_rows,
            unreadable_images=join.n_unreadable_images,
        )


class _CaptionedImage(NamedTuple):
    """An image and its captions."""

    image: DownloadedImage
    captions: Captions


class _CaptionJoin:
    """Joins images and captions by URL, and counts the images with and without captions.

    The counts grow while `captioned_images` is read.
    """

    def __init__(self, sources: list[Path], caption_file: CaptionFile) -> None:
        """Prepare to join the images in tars or folders with the captions of a file."""
        self._sources = sources
        self._caption_file = caption_file
        self.n_samples = 0
        self.n_images_without_captions = 0
        self.n_unreadable_images = 0

    def captioned_images(self) -> Iterator[_CaptionedImage]:
        """Yield the images that have captions, with these captions, in the order of the sources."""
        for source in self._sources:
            for image in read_source(source):
                if image.url is None:
                    self.n_unreadable_images += 1
                    continue
                captions = self._caption_file.find(image.url)
                if captions:
                    self.n_samples += 1
                    yield _CaptionedImage(image, captions)
                else:
                    self.n_images_without_captions += 1


def _write_shard(path: Path, samples: Sequence[_CaptionedImage], first_number: int) -> None:
    """Write samples as a tar that appears at `path` when it is complete.

    The files of a sample are, for example, 000000012.jpg and 000000012.json. The JSON record holds
    the URL, img2dataset's key and the captions.

    Args:
        path: The tar to write.
        samples: The images and their captions.
        first_number: The number of the first sample, which is its name in the tar. The others have
            the numbers after it.
    """
    with ExitStack() as stack:
        # A temporary file, which becomes `path` when the stack is closed without an error.
        file = stack.enter_context(replacing(path))
        tar = TarWriter(file, user="", group="", mtime=0)
        # If an error ends the block, the tar is closed before its file is removed.
        stack.callback(_close_quietly, tar)
        for number, (image, captions) in enumerate(samples, start=first_number):
            image_content = image.read()
            record = {"url": image.url, "key": image.key, **captions}
            json_content = json.dumps(record, ensure_ascii=False).encode(errors="replace")
            tar_sample = {
                "__key__": f"{number:09d}",
                image.suffix: image_content,
                "json": json_content,
            }
            with errors_of(path):
                tar.write(tar_sample)
        with errors_of(path):
            tar.close()
            stack.close()
    _log.info("wrote %s", path)


def _close_quietly(tar: TarWriter) -> None:
    """Close a tar, and ignore an OSError.

    If the disk is full, an earlier write has already reported it.
    """
    with suppress(OSError):
        tar.close()


def _claim_output(output: Path, sources: list[Path], captions: Path, shard_size: int) -> None:
    """Create the output folder, and write a manifest of the inputs into it.

    The manifest states the names and sizes of the inputs. If the folder has the same manifest, an
    earlier call is continued.

    Args:
        output: The folder.
        sources: The tars or folders of images.
        captions: The CSV file of captions.
        shard_size: The number of samples in each shard.

    Raises:
        ValueError: If the folder has a manifest of other inputs, or shards without a manifest.
    """
    # Describe the inputs.
    names_and_sizes = []
    for source in sources:
        # The size of a folder is its number of files, and the size of a tar its number of bytes.
        size = len(list(source.iterdir())) if source.is_dir() else source.stat().st_size
        names_and_sizes.append((source.name, size))
    content = {
        "format": _FORMAT,
        "images": hashlib.sha256(json.dumps(names_and_sizes).encode()).hexdigest(),
        "captions": [captions.name, captions.stat().st_size],
        "shard_size": shard_size,
    }
    manifest = json.dumps(content) + "\n"

    # Compare them with the manifest in the folder, or write it.
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


class DownloadedImage(NamedTuple):
    """An image that img2dataset wrote."""

    # The name of its file without the extension.
    key: str
    # None if it has no record that states the URL.
    url: str | None
    # The extension of its file, such as "jpg".
    suffix: str
    # Returns the content of its file.
    read: _ReadFile


def list_sources(images: Path) -> list[Path]:
    """Return the tars in a folder that img2dataset wrote, sorted by name.

    Without tars, return the subfolders, into which img2dataset's output format `files` writes the
    images. All tars are read once to check them.

    Raises:
        ValueError: If there are neither tars nor subfolders, or if a tar is damaged.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; give the one that img2dataset wrote")
    tars = sorted(images.glob("*.tar"))
    sources = tars or sorted(path for path in images.iterdir() if path.is_dir())
    if not sources:
        raise ValueError(f"{images}: neither tars nor folders, which img2dataset writes")
    for tar in tars:
        # Reading to the end raises ValueError if the tar is damaged.
        for _ in _list_files(tar):
            pass
    return sources


def read_source(source: Path) -> Iterator[DownloadedImage]:
    """Yield the images in a tar or a folder, with the URLs that their JSON records state.

    The image `000012.jpg` has the record `000012.json`. Its URL is None without a record.
    """
    # For each key, the functions that read its files, by the extensions of the files.
    readers_by_key: dict[str, dict[str, _ReadFile]] = {}
    for name, read in _list_files(source):
        key_and_suffix = split_name(name)
        if key_and_suffix is not None:
            key, suffix = key_and_suffix
            readers_by_key.setdefault(key, {})[suffix] = read

    for key, reader_by_suffix in readers_by_key.items():
        image_suffixes = [suffix for suffix in IMAGE_SUFFIXES if suffix in reader_by_suffix]
        if not image_suffixes:
            continue
        url = None
        if "json" in reader_by_suffix:
            url = _read_url(reader_by_suffix["json"])
        suffix = image_suffixes[0]
        yield DownloadedImage(key, url, suffix, reader_by_suffix[suffix])


def _read_url(read_record: _ReadFile) -> str | None:
    """Return the URL that a JSON record states, or None if the record is damaged or has no URL.

    Args:
        read_record: A function that returns the content of the record's file.
    """
    try:
        record = json.loads(read_record())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(record, dict):
        return None
    url = record.get("url")
    return url if isinstance(url, str) else None


def _list_files(source: Path) -> Iterator[tuple[str, _ReadFile]]:
    """Yield the name of each file in a tar or a folder, and a function that returns its content.

    Files in a folder are sorted by name.

    Raises:
        ValueError: If a tar is damaged.
    """
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
    """Return the content of a file in a tar.

    Args:
        source: The tar.
        member: The name, the offset and the size of the file in the tar.

    Raises:
        ValueError: If the content reaches into the next file, as in a damaged tar.
    """
    with source.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    try:
        require_one_file(content)
    except TarError as error:
        raise ValueError(f"{source}: {member.name}: {error}") from error
    return content


class CaptionFile:
    """A CSV file of DreamLIP's captions, in which the captions of an image are found by its URL.

    If several rows have the same URL, the first one counts. The file is read once at the start.
    Then memory holds only the hash of each URL and the offset of its row. Raises ValueError for a
    file that is not CSV, that lacks columns, or that has paths in place of URLs.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read a file once, and keep the hash of the URL and the byte offset of each row.

        Raises:
            ValueError: If the file is not CSV, lacks columns, or has paths in place of URLs.
        """
        self._file = file
        url_hashes = array("Q")  # integers of 64 bits
        row_offsets = array("Q")
        rows = csv.reader(_read_lines(file, 0))
        try:
            header = next(rows, [])
            self._url_column, self._column_by_key = self._find_columns(header)
            # The lines are not read ahead, so this is where the next row begins.
            offset = file.tell()
            for row in rows:
                if len(row) > self._url_column:
                    url = row[self._url_column]
                    is_first_row = len(url_hashes) == 0
                    if is_first_row and "://" not in url:
                        raise ValueError(
                            f"{file.name}: {URL_COLUMN!r} holds {url!r}, not a URL; paths of "
                            "another download do not state which image is meant: take the file "
                            "*_captions_url.csv"
                        )
                    url_hashes.append(_hash_url(url))
                    row_offsets.append(offset)
                offset = file.tell()
        except csv.Error as error:
            raise ValueError(f"{file.name}, line {rows.line_num}: {error}") from error

        # Sort the rows by hash, for a binary search. A stable sort keeps the order of the file
        # among rows of the same URL.
        order = np.argsort(url_hashes, kind="stable")
        self._url_hashes = np.array(url_hashes)[order]
        self._row_offsets = np.array(row_offsets)[order]
        self._is_used = np.zeros(len(order), dtype=bool)

    @property
    def n_unused_rows(self) -> int:
        """The number of rows whose URL was not given to `find` so far."""
        return int(np.count_nonzero(~self._is_used))

    def find(self, url: str) -> Captions | None:
        """Return the captions of the image with a URL.

        Returns:
            The sentences of each caption by DreamLIP's key, such as {"raw_caption": ["A dog"],
            "longIB_captions": ["a brown dog", "it runs"]}, without empty captions. None if no row
            of the file has the URL.
        """
        url_hash = _hash_url(url)
        # The rows with this hash follow each other, because rows are sorted by hash.
        first = int(np.searchsorted(self._url_hashes, url_hash, "left"))
        end = int(np.searchsorted(self._url_hashes, url_hash, "right"))
        self._is_used[first:end] = True
        for offset in self._row_offsets[first:end]:
            row = next(csv.reader(_read_lines(self._file, int(offset))))
            # Two URLs can have the same hash, so the URL itself is compared.
            if row[self._url_column] == url:
                return self._captions_in_row(row)
        return None

    def _captions_in_row(self, row: list[str]) -> Captions:
        """Return the captions in a row by their keys, without empty captions.

        Args:
            row: The cells of the row. It may lack its last cells, which count as empty.
        """
        captions: Captions = {}
        for key, column in self._column_by_key.items():
            if column < len(row):
                sentences = read_cell(row[column])
                if sentences:
                    captions[key] = sentences
        return captions

    def _find_columns(self, header: list[str]) -> tuple[int, dict[str, int]]:
        """Return the index of the column of URLs, and the index of each caption column by its key.

        For example, the header `["Image Path", "raw_caption"]` gives `(0, {"raw_caption": 1})`.

        Raises:
            ValueError: If the column of URLs or all caption columns are missing.
        """
        # Files that Excel saves begin with a byte order mark.
        names = [name.strip().removeprefix("\ufeff") for name in header]
        column_by_key = {key: names.index(key) for key in DREAMLIP_KEYS if key in names}
        if URL_COLUMN not in names or not column_by_key:
            raise ValueError(
                f"{self._file.name}: not DreamLIP's captions: its columns are {', '.join(names)}; "
                f"needed: {URL_COLUMN!r} and any of {', '.join(DREAMLIP_KEYS)}"
            )
        return names.index(URL_COLUMN), column_by_key


def _read_lines(file: BinaryIO, offset: int) -> Iterator[str]:
    """Yield the lines of a file from a byte offset on.

    The file is not read ahead. So `file.tell()` is the end of the row that a `csv.reader` of these
    lines has returned last.

    Args:
        file: The file, which is open in binary mode.
        offset: The position of the first line in bytes.
    """
    file.seek(offset)
    while True:
        line = file.readline()
        if not line:
            return
        yield line.decode("utf-8", "replace")


def read_cell(cell: str) -> list[str]:
    """Return the sentences of a caption in a cell of the CSV file, without empty ones.

    A caption is a text, which is split into sentences. In files that others derived from DreamLIP's
    it is the code of a Python list, whose sentences keep their full stops.

    Example::

        "A dog. It runs." -> ["A dog", "It runs"]
        "['A dog.', 'It runs.']" -> ["A dog.", "It runs."]
    """
    looks_like_list = cell.startswith("[") and cell.endswith("]")
    if looks_like_list:
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return split_sentences(cell)
        if isinstance(value, list) and all(isinstance(sentence, str) for sentence in value):
            sentences = [sentence.strip() for sentence in value]
            return [sentence for sentence in sentences if sentence]
    return split_sentences(cell)


def _hash_url(url: str) -> int:
    """Return a hash of a URL, an integer of 64 bits, which is the same in any process."""
    digest = hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
