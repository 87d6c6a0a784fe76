"""The page: templates filled with all content and pictures; it loads and runs nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval._version import __version__
from cosmos_eval.report import tables
from cosmos_eval.report.content import Content, scores
from cosmos_eval.report.gallery.records import KINDS, Gallery, Picture
from cosmos_eval.results.labels import shortened
from cosmos_eval.results.text import html_templates, html_value, script_json
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from markupsafe import Markup

LIMIT = 5_000_000
"""Bytes of a page at most, unless its tables alone have more."""

NO_PICTURES = Gallery()

# Scripts in their order, which become one function.
_SCRIPTS = (
    *("common", "theme", "tables", "filters", "origins"),
    *("compare", "charts", "pictures", "slider", "paper"),
)
_NAME_PARTS = re.compile(r"[^/_:.-]{1,16}[/_:.-]*|[/_:.-]+")
# Tables of more classes are closed at first, and not printed.
_FEW_CLASSES = 40


class Page(NamedTuple):
    """A page as bytes of UTF-8, and one line for each thing that it does not show."""

    content: bytes
    notes: tuple[str, ...]


def to_page(content: Content, gallery: Gallery = NO_PICTURES) -> Page:
    """Write a page with as many rounds of examples as LIMIT allows; equal input, equal bytes."""
    rounds, chosen = gallery.rounds, gallery
    page = _rendered(content, chosen)
    while len(page) > LIMIT and rounds:
        rounds -= 1
        chosen = gallery.limited(rounds)
        page = _rendered(content, chosen)
    notes = [*content.notes, *chosen.notes]
    if len(page) > LIMIT:
        notes.append(f"no pictures: the tables alone take {len(page) / 1e6:.1f} MB")
    return Page(page, tuple(notes))


def require_page_name(path: Path) -> None:
    """Raise UsageError for a file that browsers would not take for a page."""
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"--out {path}: a page is written, so end its name in .html")


def room_for_pictures(content: Content) -> int:
    """Return about how many bytes of pictures fit on a page, as base64 and with their markup."""
    return max(0, (LIMIT - len(_rendered(content, NO_PICTURES))) * 7 // 10)


class Program(NamedTuple):
    """JavaScript as it runs, and as a page carries it (gzip, then base64), and its versions."""

    text: str
    packed: str
    versions: str


@cache
def program() -> Program:
    """Bundle Vega, Vega-Lite and Vega-Embed as `window.vegaEmbed`; vl-convert has their files."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Its names must not become the page's.
    text = f"(() => {{{bundle}\n}})();"
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    vega, embed = vl_convert.get_vega_version(), vl_convert.get_vega_embed_version()
    lite = vl_convert.get_vegalite_versions()[-1]
    return Program(text, packed, f"Vega {vega}, Vega-Lite {lite}, Vega-Embed {embed}")


class Album:
    """The pictures of a page, each of which is carried once."""

    def __init__(self) -> None:
        self._names: dict[Picture, str] = {}

    def __call__(self, picture: Picture) -> tuple[str, str]:
        """Return the id of a picture, and its address at the first place that shows it."""
        if picture in self._names:
            return self._names[picture], ""
        name = self._names[picture] = f"picture-{len(self._names) + 1}"
        content = base64.b64encode(picture.content).decode()
        return name, f"data:{picture.media_type};base64,{content}"


def _rendered(content: Content, gallery: Gallery) -> bytes:
    of_classes = tables.class_tables(content.results)
    charts = program()
    style, script = _style_sheet(), _script()
    models = content.models
    names = shortened([*models, *(entry.model for entry in content.entries)])
    sections = {kind: gallery.sections(kind) for kind in KINDS}
    data = {**tables.page_data(content, of_classes), "charts": json.loads(_static("charts.json"))}
    environment = html_templates("cosmos_eval.report", "templates")
    environment.filters.update(step=_step, breakable=_breakable)
    environment.globals.update(figures_of=tables.figures_of)
    template = environment.get_template("page.html")
    return template.render(
        policy=_policy(style, (script, charts.text)),
        style=style,
        script=script,
        charts=charts,
        data=script_json(data),
        version=__version__,
        summary=tables.summary_of(content.results),
        notes=[*content.notes, *gallery.notes],
        boards=[tables.board_view(board) for board in content.boards],
        models=models,
        short=lambda model: names.get(model, model),
        scores=scores(content.pairs, models),
        tables=of_classes,
        few=_FEW_CLASSES,
        mistakes=content.mistakes,
        gallery=sections,
        has_examples=any(sections.values()),
        picture=Album(),
        anchors={entry.key: f"entry-{n}" for n, entry in enumerate(content.entries, start=1)},
        entries=content.entries,
    ).encode()


def _style_sheet() -> str:
    """Return the style sheet, with a class for the length of every bar of whole percent."""
    lengths = "".join(f".w{step}{{--w:{step}%}}" for step in range(101))
    return _static("page.css") + lengths + "\n"


def _script() -> str:
    """Return all scripts in one function, so that they leave no names in the page's window."""
    parts = "\n".join(_static(f"{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Allow a browser these texts, pictures that the page holds, and nothing else."""
    hashes = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _static(name: str) -> str:
    return files("cosmos_eval.report").joinpath("static", name).read_text("utf-8")


def _breakable(name: str) -> Markup:
    """Escape a name, with possible line breaks behind its separators and in long words."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in _NAME_PARTS.findall(html_value(name)))


def _step(percent: float | None) -> str:
    """Return the class that draws a bar of a length in percent."""
    return "" if percent is None else f"w{min(100, max(0, round(percent)))}"
