"""Files of captions with a record a line: tables, JSON lines, CLIP Benchmark's Flickr list.

Imports no torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.data.readers import FileError, parse_json, read_text
from cosmos_eval.data.retrieval.records import (
    Captioned,
    Keys,
    captioned,
    merged,
    require_distinct,
    texts,
    the_one,
)
from cosmos_eval.types import RetrievalProtocol, UsageError


def read_table(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """A table with a header, its columns separated by tabs or commas, as the header shows.

    The suffix does not tell: OpenCLIP's .csv files are separated by tabs.
    """
    return merged(_rows(path, Keys.of(protocol)))


def _rows(path: Path, keys: Keys) -> Iterator[Captioned]:
    content = _text(path)
    separator = "\t" if "\t" in content.partition("\n")[0] else ","
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    try:
        header = next(rows, [])
        require_distinct(header, f"{path}, line 1: column")
        columns = Keys(*((the_one(names, header, f"{path}, line 1"),) for names in keys))
        for row in filter(None, rows):
            where = f"{path}, line {rows.line_num}"
            yield captioned(_record(header, row, where), columns, where)
    except csv.Error as error:
        raise UsageError(f"{path}, line {rows.line_num}: {error}") from error


def _record(header: list[str], row: list[str], where: str) -> dict[str, str]:
    if len(row) != len(header):
        raise UsageError(
            f"{where}: {len(row)} fields, but the header has {len(header)}; "
            "a caption that holds the separator stands in double quotes"
        )
    return dict(zip(header, row, strict=True))


def read_json_lines(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """A JSON record a line."""
    return merged(_json_lines(path, Keys.of(protocol)))


def _json_lines(path: Path, keys: Keys) -> Iterator[Captioned]:
    for where, line in _lines(path):
        try:
            record = parse_json(line)
        except FileError as error:
            raise UsageError(f"{where}: {error}") from error
        yield captioned(record, keys, where)


def read_flickr_list(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """Read a header, then `IMAGE.jpg,caption` lines, as in CLIP Benchmark's and Kaggle's lists.

    Where every caption is one CSV field, the file is CSV, as pandas writes it, and captions that
    hold commas or quotes lose the quotes around them. Else a caption is all that follows the image.
    clip_benchmark/datasets/flickr.py always reads the latter and keeps the quotes of CSV.
    Raises UsageError for a file of which some lines are the one and some the other.
    """
    pairs = [(line, _csv_field(line.caption)) for line in _flickr_lines(path)]
    free = [line for line, field in pairs if field is None]
    quoted = [line for line, field in pairs if field not in (None, line.caption)]
    if free and quoted:
        raise UsageError(
            f"{free[0].where}: the caption holds a comma or a quote and is no CSV field, but that "
            f"of {quoted[0].where.rpartition(', ')[2]} is; write all lines as CSV"
        )
    return merged(
        Captioned(line.image, texts(line.caption if free else field, line.where))
        for line, field in pairs
    )


class _FlickrLine(NamedTuple):
    where: str
    image: str
    caption: str


def _flickr_lines(path: Path) -> Iterator[_FlickrLine]:
    for number, (where, line) in enumerate(_lines(path)):
        image, suffix, caption = line.partition(".jpg,")
        if number == 0:
            if suffix:
                raise UsageError(f"{where}: must be a header, not an image")
        elif not (image and suffix):
            raise UsageError(f"{where}: expected IMAGE.jpg,caption")
        else:
            yield _FlickrLine(where, image + ".jpg", caption)


def _csv_field(text: str) -> str | None:
    """Return the content of a text that is one CSV field, None where it is none or several."""
    try:
        fields = next(csv.reader([text], strict=True)) or [""]
    except csv.Error:
        return None
    return fields[0] if len(fields) == 1 else None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that hold anything, each with what errors call it."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except FileError as error:
        raise UsageError(f"{path} {error}") from error
