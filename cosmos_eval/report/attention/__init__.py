"""Draw attention maps: where a model looks in an image given a text, and in a text given an image.

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

    The result has one view, or one per head. Each view has `map` (h, w), the values of the patches
    by `kind`, and `caption`, the shares of words, padding, start and end of text (None for
    similarity). With `out`, the maps are also drawn to a file. Raises UsageError for bad input.
    """
    options = compute.AttendOptions(
        kind=kind, heads=heads, attention=attention, device=device, precision=precision
    )
    spec = parse_model_spec(model, arch=arch, weights=weights)
    if isinstance(image, str):
        image = Path(image)
    pairs = compute.image_with_texts(image, [text])
    rows = draw(pairs, [spec], options, None if out is None else Path(out))
    return rows[0].looks[0]


def draw(
    pairs: Sequence[compute.Pair],
    specs: Sequence[ModelSpec],
    options: compute.AttendOptions,
    out: Path | None,
) -> list[compute.Row]:
    """Compute the attention of models on every pair, and draw it to `out` if given.

    Raises UsageError for bad input, if possible before any model is loaded.
    """
    if out is not None:
        _require_picture_name(out, pairs)
    names = [spec.text for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--model {name} is given twice")
    rows = compute.compute_rows(pairs, specs, options)
    if out is not None:
        draw_rows = FORMATS[out.suffix.lower()]
        write_file(out, draw_rows(rows))
    return rows


def _require_picture_name(out: Path, pairs: Sequence[compute.Pair]) -> None:
    """Raise UsageError for a file that cannot become the picture."""
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {out}: name a file that ends with {', '.join(FORMATS)}")
    if out.is_dir():
        raise UsageError(f"--output {out} is a folder: name a file")
    if out.resolve() in {Path(pair.source.name).resolve() for pair in pairs}:
        raise UsageError(f"--output {out} is the image itself: name another file")


def to_html(rows: Sequence[compute.Row]) -> bytes:
    """Return a page with a slider for the opacity of maps, and a choice between heads."""
    environment = html_templates("cosmos_eval.report.attention")
    environment.globals["describe"] = describe
    environment.globals["data_uri"] = _data_uri
    environment.globals["map_uri"] = _map_uri
    looks = [look for row in rows for look in row.looks]
    heads: list[str] = []
    for look in looks:
        if len(look.views) > 1:
            heads += [view.head for view in look.views]
    page = environment.get_template("page.html").render(
        kinds=list(dict.fromkeys(describe.title(look) for look in looks)),
        levels=[*figure.LEVELS.items(), ("plain", figure.PLAIN)],
        looks=looks,
        heads=list(dict.fromkeys(heads)),
        gradient=_gradient(),
        opacity=round(100 * figure.OPACITY),
        panel=20 if len(rows[0].looks) < 3 else 14,
        rows=rows,
    )
    return page.encode()


def _gradient() -> str:
    """Return the colours of maps from 0 to 1 as CSS lists them."""
    steps = figure.colour_map()(np.arange(0, 256, 15), bytes=True)
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue, _ in steps]
    return ", ".join(colours)


def _map_uri(row: compute.Row, view: compute.View) -> str:
    """Return a map as the address of an image with half the sides of the row's picture.

    Maps are smooth, so that they lose no detail.
    """
    width, height = row.picture.size
    return _data_uri(figure.coloured(view, ((width + 1) // 2, (height + 1) // 2)))


def _data_uri(image: Image.Image) -> str:
    """Return an image as an address that holds all of it."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


FORMATS = {".png": figure.to_png, ".svg": figure.to_svg, ".html": to_html}
"""The function that draws rows to a file's bytes, by the suffix of the file."""
