"""Attention maps: image attention conditioned on a text, text attention conditioned on an image.

Models of COSMOS have both as weights of their cross-attention. Other models show the similarity of
a text to every patch, and every output says so.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.report import write_file
from cosmos_eval.report.attention import compute, describe, figure
from cosmos_eval.results.text import html_templates
from cosmos_eval.types import Attention, MapName, ModelSpec, Precision, UsageError, Weights


def attend(
    image: str | Path | Image.Image,
    text: str,
    model: str = "scenes-cosmos",
    *,
    kind: MapName | None = None,
    heads: compute.Heads = "mean",
    attention: Attention | None = None,
    arch: str | None = None,
    weights: Weights = "teacher",
    device: str = "auto",
    precision: Precision = "fp32",
    out: str | Path | None = None,
) -> compute.Look:
    """Return the attention of a model on an image, given a text, and on the text, given the image.

    Each of the result's views, one or one per head, has `map` (h, w), the values of the patches by
    `kind`, and `caption`, the shares of words, padding, start and end of text (None for
    similarity). `out` also draws them to a file. Raises UsageError for bad input.
    """
    options = compute.AttendOptions(
        kind=kind, heads=heads, attention=attention, device=device, precision=precision
    )
    spec = parse_model_spec(model, arch=arch, weights=weights)
    pairs = compute.image_with_texts(Path(image) if isinstance(image, str) else image, [text])
    (row,) = draw(pairs, [spec], options, None if out is None else Path(out))
    return row.looks[0]


def draw(
    pairs: Sequence[compute.Pair],
    specs: Sequence[ModelSpec],
    options: compute.AttendOptions,
    out: Path | None,
) -> list[compute.Row]:
    """Compute the attention of models on every pair, and draw it to `out` if given. Raises
    UsageError for bad input, where possible before any model is loaded."""
    if out is not None:
        _require_writable(out, pairs)
    names = [spec.text for spec in specs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--model {repeated[0]} is given twice")
    rows = compute.compute_rows(pairs, specs, options)
    if out is not None:
        write_file(out, FORMATS[out.suffix.lower()](rows))
    return rows


def _require_writable(out: Path, pairs: Sequence[compute.Pair]) -> None:
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {out}: name a file that ends with {', '.join(FORMATS)}")
    if out.is_dir():
        raise UsageError(f"--output {out} is a folder: name a file")
    if out.resolve() in {Path(pair.source.name).resolve() for pair in pairs}:
        raise UsageError(f"--output {out} is the image itself: name another file")


def to_html(rows: Sequence[compute.Row]) -> bytes:
    """Return a page with a slider for the opacity of maps and, if there are several, all heads."""
    environment = html_templates("cosmos_eval.report.attention")
    environment.globals |= {"describe": describe, "data_uri": _data_uri, "map_uri": _map_uri}
    looks = [look for row in rows for look in row.looks]
    several = [look for look in looks if len(look.views) > 1]
    steps = figure.colour_map()(np.arange(0, 256, 15), bytes=True)
    page = environment.get_template("page.html").render(
        kinds=list(dict.fromkeys(describe.title(look) for look in looks)),
        levels=[*figure.LEVELS.items(), ("plain", figure.PLAIN)],
        looks=looks,
        heads=list(dict.fromkeys(view.head for look in several for view in look.views)),
        gradient=", ".join("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in steps),
        opacity=round(100 * figure.OPACITY),
        panel=20 if len(rows[0].looks) < 3 else 14,
        rows=rows,
    )
    return page.encode()


def _map_uri(row: compute.Row, view: compute.View) -> str:
    # Half the size of the picture: a map has no detail that would be lost.
    width, height = ((side + 1) // 2 for side in row.picture.size)
    return _data_uri(figure.coloured(view, (width, height)))


def _data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


FORMATS = {".png": figure.to_png, ".svg": figure.to_svg, ".html": to_html}
"""The function that draws rows to a file's bytes, by the suffix of the file."""
