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

from cosmos_eval.data.readers import path_of
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.reporting import write_file
from cosmos_eval.reporting.attention import compute, describe, figure
from cosmos_eval.results.text import html_templates
from cosmos_eval.types import Attention, MapName, ModelSpec, Precision, UsageError, Weights

_WIDE_PANEL, _NARROW_PANEL = 20, 14  # widths of an image on the page, in rem


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

    The result has a tuple `views`: one view for the mean of all heads, or one view for each head.
    The `map` of a view has the values of the patches (h, w), whose meaning depends on `kind`. Its
    `caption` has the shares of words, padding, start and end of the text, or is None for
    similarity.

    Args:
        image: A file, or an image in memory.
        text: The text to look for.
        model: A name, a checkpoint or a model of another library, as for `--model`.
        kind: The kind of map, such as "cross-attention". By default, it is the model's usual kind.
        heads: "mean" for the mean of all heads, or "each" for one map for each head.
        attention: The form of the last block for similarity.
        arch: The architecture, for checkpoints that do not state their own.
        weights: The weights of a checkpoint that has several.
        device: The device, or "auto".
        precision: The precision of the model.
        out: A .png, .svg or .html file that the maps are also drawn to.

    Raises:
        UsageError: for bad input.
    """
    if not isinstance(model, str):
        raise UsageError(
            f"a model must be a name such as 'scenes-cosmos', not {type(model).__name__}"
        )
    options = compute.AttendOptions(
        kind=kind, heads=heads, attention=attention, device=device, precision=precision
    )
    spec = parse_model_spec(model, arch=arch, weights=weights)
    if not isinstance(image, Image.Image):
        image = path_of(image, "image")
    pairs = compute.image_with_texts(image, [text])
    rows = draw(pairs, [spec], options, None if out is None else path_of(out, "out"))
    return rows[0].looks[0]


def draw(
    pairs: Sequence[compute.Pair],
    specs: Sequence[ModelSpec],
    options: compute.AttendOptions,
    out: Path | None,
) -> list[compute.Row]:
    """Return the attention of every model on every pair of image and text, one row per pair.

    Args:
        pairs: The pairs of image and text.
        specs: The models.
        options: The kind of maps, and how models are run.
        out: A file that the rows are also drawn to. Its suffix decides the format.

    Raises:
        UsageError: The input is bad. If possible, this is found before any model is loaded.
    """
    if out is not None:
        _require_picture_name(out, pairs)
    names = [spec.text for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--model {name} is given twice")
    rows = compute.compute_rows(pairs, specs, options)
    if out is not None:
        encode_rows = FORMATS[out.suffix.lower()]
        write_file(out, encode_rows(rows))
    return rows


def _require_picture_name(out: Path, pairs: Sequence[compute.Pair]) -> None:
    """Raise UsageError if a picture of the pairs cannot be written to `out`.

    The suffix must be one of `FORMATS`, such as ".png". The file must not be a folder or the image
    of one of the pairs.
    """
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {out}: name a file that ends with {', '.join(FORMATS)}")
    if out.is_dir():
        raise UsageError(f"--output {out} is a folder: name a file")
    image_files = {Path(pair.source.name).resolve() for pair in pairs}
    if out.resolve() in image_files:
        raise UsageError(f"--output {out} is the image itself: name another file")


def to_html(rows: Sequence[compute.Row]) -> bytes:
    """Return a web page of all rows, in UTF-8.

    A row is a pair of image and text, with the attention of all models on it. The page has a slider
    for the opacity of maps, and a choice between heads if maps have several.
    """
    environment = html_templates("cosmos_eval.reporting.attention")
    environment.globals["describe"] = describe
    environment.globals["data_uri"] = _encode_data_uri
    environment.globals["map_uri"] = _encode_map_uri
    # A look is the attention of one model on a pair, and a view the map of one of its heads.
    looks = [look for row in rows for look in row.looks]
    titles = [describe.title(look) for look in looks]
    # A reader can choose between heads of models whose heads have a map each.
    head_names = []
    for look in looks:
        if len(look.views) > 1:
            head_names += [view.head for view in look.views]
    has_few_maps = len(rows[0].looks) < 3
    page = environment.get_template("page.html").render(
        rows=rows,
        map_titles=list(dict.fromkeys(titles)),
        has_words=describe.has_words(looks),
        word_levels=[*figure.LEVELS.items(), ("plain", figure.PLAIN)],
        head_names=list(dict.fromkeys(head_names)),
        colour_gradient=_css_gradient(),
        opacity=round(100 * figure.OPACITY),
        panel_width=_WIDE_PANEL if has_few_maps else _NARROW_PANEL,
    )
    return page.encode()


def _css_gradient() -> str:
    """Return the colours of map values from 0 to 1 for CSS: "#433e85, ..., #fde725"."""
    colours = figure.colour_map()(np.arange(0, 256, 15), bytes=True)  # every 15th of 256
    return ", ".join(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue, _ in colours)


def _encode_map_uri(row: compute.Row, view: compute.View) -> str:
    """Return a map in colours as a data URI, for a page.

    The picture has half the width and height of the image. Maps are smooth, so they lose no detail.

    Args:
        row: The pair of image and text, with the image as it is drawn.
        view: The map of one head, or of the mean of all heads.
    """
    width, height = row.picture.size
    half_size = ((width + 1) // 2, (height + 1) // 2)
    return _encode_data_uri(figure.draw_map(view, half_size))


def _encode_data_uri(image: Image.Image) -> str:
    """Return an image as a data URI that holds it as JPEG: "data:image/jpeg;base64,..."."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


FORMATS = {".png": figure.to_png, ".svg": figure.to_svg, ".html": to_html}
"""The function that returns a file's bytes from rows, by the suffix of the file."""
