"""Attention maps: image attention conditioned on a text, text attention conditioned on an image.

Models of COSMOS have both as weights of their cross-attention. Other models show the similarity of
a text to every patch, and every output says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cosmos_core.utils.files import write_atomically
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.report.attention.compute import compute_rows, image_with_texts
from cosmos_eval.report.attention.figure import to_png, to_svg
from cosmos_eval.report.attention.html import to_html
from cosmos_eval.report.attention.records import AttendOptions, Heads, Kind, Look, Pair, Row
from cosmos_eval.types import Attention, ModelSpec, Precision, UsageError, Weights

FORMATS = {".png": to_png, ".svg": to_svg, ".html": to_html}
"""The function that draws rows to a file's bytes, by the suffix of the file."""


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
    """Return the attention of a model on an image, given a text, and on the text, given the image.

    Each of the result's views, one or one per head, has `map` (h, w), the weights or cosines of the
    patches, and `caption`, the shares of words, padding, start and end of text (None for
    similarity). `out` also draws them to a file. Raises UsageError for bad input.
    """
    options = AttendOptions(
        kind=kind, heads=heads, attention=attention, device=device, precision=precision
    )
    spec = parse_model_spec(model, arch=arch, weights=weights)
    pairs = image_with_texts(Path(image) if isinstance(image, str) else image, [text])
    (row,) = draw(pairs, [spec], options, None if out is None else Path(out))
    return row.looks[0]


def draw(
    pairs: Sequence[Pair], specs: Sequence[ModelSpec], options: AttendOptions, out: Path | None
) -> list[Row]:
    """Compute the attention of models on every pair, and draw it to `out` if given.

    Raises UsageError for bad input, where possible before any model is loaded.
    """
    if out is not None:
        _require_writable(out, pairs)
    names = [spec.text for spec in specs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--model {repeated[0]} is given twice")
    rows = compute_rows(pairs, specs, options)
    if out is not None:
        try:
            write_atomically(out, FORMATS[out.suffix.lower()](rows))
        except OSError as error:
            raise UsageError(f"cannot write {out}: {error.strerror}") from error
    return rows


def _require_writable(out: Path, pairs: Sequence[Pair]) -> None:
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {out}: name a file that ends with {', '.join(FORMATS)}")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name a file")
    if out.resolve() in {Path(pair.source.name).resolve() for pair in pairs}:
        raise UsageError(f"--out {out} is the image itself: name another file")
