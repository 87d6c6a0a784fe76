"""What models look at: image attention conditioned on a text, text attention on an image.

Models of COSMOS have it as the weights of their cross-attention; others show how similar a text is
to every patch, which is said wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from cosmos_core.utils.files import write_atomically
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.report.attention.html import to_html
from cosmos_eval.report.attention.json import to_records
from cosmos_eval.report.attention.layout import page
from cosmos_eval.report.attention.maps import look
from cosmos_eval.report.attention.pairs import asked, pairs_of
from cosmos_eval.report.attention.png import to_png
from cosmos_eval.report.attention.records import (
    CaptionShares,
    Heads,
    Kind,
    Look,
    Looking,
    Pair,
    Row,
    View,
    WordShare,
)
from cosmos_eval.report.attention.svg import to_svg
from cosmos_eval.report.attention.tables import described, notes, weighed
from cosmos_eval.types import Attention, ModelSpec, Precision, UsageError, Weights

__all__ = [
    "CaptionShares",
    "Heads",
    "Kind",
    "Look",
    "Looking",
    "Pair",
    "Row",
    "View",
    "WordShare",
    "asked",
    "attend",
    "described",
    "draw",
    "notes",
    "to_records",
    "weighed",
]

_TITLE = "What the models look at"

_WRITERS: dict[str, Callable[[Sequence[Row]], bytes]] = {
    ".png": lambda rows: to_png(page(rows)),
    ".svg": lambda rows: to_svg(page(rows), _TITLE),
    ".html": lambda rows: to_html(rows, _TITLE).encode(),
}
"""A picture of rows, by the suffix of its file."""


def attend(
    image: str | Path | Image.Image,
    text: str,
    model: str = "scenes-cosmos",
    *,
    kind: Kind | None = None,
    heads: Heads = "mean",
    attention: Attention | None = None,
    arch: str | None = None,
    weights: Weights = "teacher",
    device: str = "auto",
    precision: Precision = "fp32",
    out: str | Path | None = None,
) -> Look:
    """What a model looks at in an image, given a text, and in the text, given the image.

    Of the views of what is returned, one or one a head, `map` (h, w) holds the weights or cosines
    of the patches, `caption` the shares of words, padding, start and end of text, None for
    similarity. With `out` it is drawn to a file as well. Raises UsageError for bad input.
    """
    looking = Looking(
        kind=kind, heads=heads, attention=attention, device=device, precision=precision
    )
    spec = parse_model_spec(model, arch=arch, weights=weights)
    pairs = pairs_of(Path(image) if isinstance(image, str) else image, [text])
    (row,) = draw(pairs, [spec], looking, None if out is None else Path(out))
    return row.looks[0]


def draw(
    pairs: Sequence[Pair], specs: Sequence[ModelSpec], looking: Looking, out: Path | None
) -> list[Row]:
    """What models look at in every pair, drawn to a file where one is named.

    Raises UsageError for bad input: before any model is loaded for what can be known by then.
    """
    if out is not None:
        _require_writable(out, pairs)
    names = [spec.text for spec in specs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--model {repeated[0]} is given twice")
    rows = look(pairs, specs, looking)
    if out is not None:
        _write(rows, out)
    return rows


def _require_writable(out: Path, pairs: Sequence[Pair]) -> None:
    if out.suffix.lower() not in _WRITERS:
        raise UsageError(f"--out {out}: name a file that ends with {', '.join(_WRITERS)}")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name a file")
    if out.resolve() in {Path(pair.source.name).resolve() for pair in pairs}:
        raise UsageError(f"--out {out} is the image itself: name another file")


def _write(rows: Sequence[Row], out: Path) -> None:
    content = _WRITERS[out.suffix.lower()](rows)
    try:
        write_atomically(out, content)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
