"""Files made one by one, each whole or not there, and only those that are not there yet."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_core.utils.files import write_atomically
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import require_lossless
from cosmos_eval.types import OnProgress, Progress, UsageError

Label = NDArray[np.uint8]

IGNORE = 255
"""Pixels without a label, in label maps."""

# Modes of PIL whose pixels are 8-bit indices.
_INDEXED = ("L", "P")


class LabelMap(NamedTuple):
    """A label map to be made.

    `make` returns (H, W) class indices below `n_classes` and IGNORE; it raises UsageError that
    names an original it cannot use.
    """

    target: Path
    n_classes: int
    make: Callable[[], Label]


class Work(NamedTuple):
    """What a set needs: label maps, and text files that are written when all maps are there."""

    maps: Sequence[LabelMap]
    lists: Mapping[Path, str] = {}


class Counts(NamedTuple):
    """How many files were made (or moved to where they belong), and how many were there already."""

    made: int
    kept: int


def execute(work: Work, *, workers: int, progress: OnProgress) -> Counts:
    """Make every label map that is not there and whole, in `workers` threads; then the lists."""
    made = 0
    write = prefetch(work.maps, _write, workers=workers, window=4 * workers)
    for done, is_new in enumerate(write, start=1):
        made += is_new
        progress(Progress("label maps", done, len(work.maps)))
    for path, text in work.lists.items():
        _publish(path, text.encode())
    return Counts(made, len(work.maps) - made)


def _write(wanted: LabelMap) -> bool:
    """Whether the label map had to be made."""
    if _is_whole(wanted):
        return False
    content = io.BytesIO()
    Image.fromarray(wanted.make()).save(content, format="PNG")
    _publish(wanted.target, content.getvalue())
    return True


def _publish(path: Path, content: bytes) -> None:
    """Write a file at once. Raises UsageError where that cannot be done."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _is_whole(wanted: LabelMap) -> bool:
    try:
        with Image.open(wanted.target) as image:
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError):  # missing or damaged; SyntaxError: a broken PNG
        return False
    declared = (values < wanted.n_classes) | (values == IGNORE)
    return image.mode in _INDEXED and bool(declared.all())


class Table(NamedTuple):
    """Class indices `index_of[value]` of an original's values, -1 for values it cannot hold."""

    index_of: NDArray[np.int16]
    suffix: str


def make_table(suffix: str, pairs: dict[int, int]) -> Table:
    """The table of originals that end in `suffix`, from value to class index."""
    index_of = np.full(256, -1, np.int16)
    index_of[list(pairs)] = list(pairs.values())
    return Table(index_of, suffix)


def translated(
    targets: Sequence[Path], target_suffix: str, tables: Sequence[Table], n_classes: int
) -> Work:
    """Label maps whose originals lie beside them under another suffix, the first that is there.

    Raises UsageError that names the first missing original of a target that is missing as well.
    """
    maps = []
    for target in targets:
        stem = target.name.removesuffix(target_suffix)
        originals = [target.with_name(f"{stem}{table.suffix}") for table in tables]
        pairs = zip(originals, tables, strict=True)
        there = next((pair for pair in pairs if pair[0].is_file()), None)
        if there is None and not target.is_file():
            raise UsageError(f"{originals[0]} is missing")
        make = partial(_translate, *(there or (originals[0], tables[0])))
        maps.append(LabelMap(target, n_classes, make))
    return Work(maps)


def _translate(original: Path, table: Table) -> Label:
    """The original's values through the table."""
    try:
        with Image.open(original) as image:
            require_lossless(image, original)
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read {original}: {error}; fetch it again") from error
    if mode not in _INDEXED:
        raise UsageError(f"{original} is no map of 8-bit values (PIL mode {mode})")
    indices = table.index_of[values]
    if (indices < 0).any():
        raise UsageError(f"{original} holds {values[indices < 0][0]}, which is no label there")
    return indices.astype(np.uint8)
