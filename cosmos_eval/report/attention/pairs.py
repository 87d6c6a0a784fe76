"""What is to be looked at: an image and texts, or a CSV file of both."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cosmos_eval.data.readers import FileError, MissingFileError, read_text
from cosmos_eval.data.sources import ImageArray, ImageSource, ShownImage, as_shown
from cosmos_eval.report.attention.records import Pair
from cosmos_eval.types import UsageError

COLUMNS = ("image", "text")


def asked(image: Path | None, texts: Sequence[str], file: Path | None) -> list[Pair]:
    """Pairs as they are typed: an image and texts, or a CSV file. Raises UsageError otherwise."""
    if file is not None:
        if image is not None or texts:
            raise UsageError(f"--csv {file} names images and texts: leave IMAGE and --text out")
        return pairs_in(file)
    if image is None or not texts:
        missing = "an IMAGE" if image is None else "what to look for with --text TEXT"
        raise UsageError(f"say {missing}, or --csv FILE with columns {' and '.join(COLUMNS)}")
    return pairs_of(image, texts)


def pairs_of(image: Path | Image.Image, texts: Sequence[str]) -> list[Pair]:
    """An image with each text. Raises UsageError where one is blank or the image no image."""
    for text in texts:
        _require_text(text, "--text")
    if isinstance(image, Path):
        source: ImageSource = ShownImage(image)
        source.decode(source.read())
        return [Pair(image.name, source, text) for text in texts]
    source = ImageArray("image", np.asarray(as_shown(image)))
    return [Pair("image", source, text) for text in texts]


def pairs_in(file: Path) -> list[Pair]:
    """The rows of a CSV file with columns `image` and `text`; images are relative to the file.

    All are read once here: better now than after many others. Raises UsageError that names the
    file, and the row where it is one's fault.
    """
    pairs = []
    for line, row in _rows(file):
        where = f"{file} line {line}"
        name, text = row["image"] or "", row["text"] or ""
        _require_text(text, f"{where}, column text")
        if not name.strip():
            raise UsageError(f"{where}, column image: no file is named")
        source = ShownImage(file.parent / name)
        try:
            source.decode(source.read())
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        pairs.append(Pair(name, source, text))
    if not pairs:
        raise UsageError(f"{file} has no rows: one an image and text, below {','.join(COLUMNS)}")
    return pairs


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows with the number of the line where each ends."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        names = reader.fieldnames or ()
        if missing := [name for name in COLUMNS if name not in names]:
            raise UsageError(
                f"{file} has no column {' and no column '.join(missing)}: its first line must "
                f"name {' and '.join(COLUMNS)}, separated by commas"
            )
        return [(reader.line_num, row) for row in reader]
    except MissingFileError as error:
        raise UsageError(f"no such file: {file}") from error
    except (FileError, csv.Error) as error:
        raise UsageError(f"cannot read {file} as CSV in UTF-8: {error}") from error


def _require_text(text: str, where: str) -> None:
    if not text.strip():
        raise UsageError(f"{where} is empty: say what to look for")
