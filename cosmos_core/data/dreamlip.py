"""DreamLIP's caption files, found by URL: one pass over the file, then reads anywhere in it.

The files are `*_3long_3short_1raw_captions_url.csv` of
huggingface.co/datasets/qidouxiong619/dreamlip_long_captions: a header, then a row an image with its
URL, named `Image Path`, and seven captions, each a text of one or more sentences. The largest has
30 GB; memory holds 17 bytes a row.
"""

from __future__ import annotations

import ast
import csv
import hashlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cosmos_core.data.captions import DREAMLIP_KEYS, split_sentences

URL_COLUMN = "Image Path"
Captions = dict[str, list[str]]


class CaptionFile:
    """The rows of a caption file by the URL of their image; of rows with one URL, the first.

    A context manager. Raises ValueError where the file is not DreamLIP's.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("rb")
        try:
            self._url, self._columns = self._read_header()
            hashes, places = self._scan()
        except BaseException:
            self._file.close()
            raise
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._places = hashes[order], places[order]
        self._used = np.zeros(len(order), dtype=bool)

    def __enter__(self) -> CaptionFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def unused(self) -> int:
        """Rows whose URL `find` has not been asked for."""
        return int(np.count_nonzero(~self._used))

    def find(self, url: str) -> Captions | None:
        """An image's captions, lists of sentences, empty ones left out; None without a row."""
        wanted = _hash(url)
        first = int(np.searchsorted(self._hashes, wanted, side="left"))
        end = int(np.searchsorted(self._hashes, wanted, side="right"))
        self._used[first:end] = True
        for place in self._places[first:end]:
            row = next(csv.reader(_Lines(self._file, int(place))))
            if row[self._url] == url:
                cells = {k: row[column] for k, column in self._columns.items() if column < len(row)}
                return {key: found for key, cell in cells.items() if (found := read_cell(cell))}
        return None

    def _read_header(self) -> tuple[int, dict[str, int]]:
        """The column of the URL, and those of the captions."""
        rows = csv.reader(_Lines(self._file, 0))
        names = [name.strip().removeprefix("\ufeff") for name in next(rows, [])]
        columns = {key: names.index(key) for key in DREAMLIP_KEYS if key in names}
        if URL_COLUMN not in names or not columns:
            raise ValueError(
                f"{self._path}: not DreamLIP's captions: its columns are {', '.join(names)}; "
                f"needed: {URL_COLUMN!r} and any of {', '.join(DREAMLIP_KEYS)}"
            )
        url = names.index(URL_COLUMN)
        first = next(rows, None)
        if first is not None and "://" not in first[url]:
            raise ValueError(
                f"{self._path}: {URL_COLUMN!r} holds {first[url]!r}, not a URL; paths of another "
                "download do not tell which image is meant: take the file *_captions_url.csv"
            )
        return url, columns

    def _scan(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Hash of the URL and place in the file of every row."""
        hashes, places = array("Q"), array("Q")
        lines = _Lines(self._file, 0)
        rows = csv.reader(lines)
        try:
            next(rows)
            place = lines.place
            for row in rows:
                if len(row) > self._url:
                    hashes.append(_hash(row[self._url]))
                    places.append(place)
                place = lines.place
        except csv.Error as error:
            raise ValueError(f"{self._path}, line {rows.line_num}: {error}") from error
        return np.array(hashes, np.uint64), np.array(places, np.uint64)


class _Lines:
    """The lines of a file from a place in it; csv.reader takes no more than a row needs."""

    def __init__(self, file: BinaryIO, place: int) -> None:
        self._file, self.place = file, place
        file.seek(place)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.place += len(line)
        return line.decode("utf-8", "replace")


def read_cell(cell: str) -> list[str]:
    """The sentences of a caption: a text, or, as in files made from these, a list's literal."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return split_sentences(cell)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return [stripped for part in value if (stripped := part.strip())]
    return split_sentences(cell)


def _hash(url: str) -> int:
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "big")
