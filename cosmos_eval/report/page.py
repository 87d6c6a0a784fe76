"""The page: templates filled with all content and pictures; it loads and runs nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval._version import __version__
from cosmos_eval.report import groups, tables
from cosmos_eval.report.content import Content
from cosmos_eval.report.gallery.records import KINDS, Gallery, Picture
from cosmos_eval.report.gallery.samples import MOST
from cosmos_eval.report.models import cost_rows
from cosmos_eval.results.labels import shortened
from cosmos_eval.results.leaderboard.facts import model_table
from cosmos_eval.results.text import html_templates, html_value, script_json
from cosmos_eval.tasks import known_tasks
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from markupsafe import Markup

LIMIT = 5_000_000
"""Bytes of a page at most, unless its tables alone have more."""

NO_PICTURES = Gallery()

# In the order in which they run.
_SCRIPTS = (
    *("common", "theme", "tables", "filters", "origins"),
    *("compare", "charts", "samples", "pictures", "slider", "paper", "state"),
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
    for rounds in reversed(range(gallery.rounds + 1)):
        shown = gallery.limited(rounds)
        page = _rendered(content, shown)
        if len(page) <= LIMIT:
            break
    notes = [*content.notes, *shown.notes]
    if len(page) > LIMIT:
        notes.append(f"no pictures: the tables alone take {len(page) / 1e6:.1f} MB")
    return Page(page, tuple(notes))


def require_page_name(path: Path) -> None:
    """Raise UsageError for a file that browsers would not take for a page."""
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"--output {path}: a page is written, so end its name in .html")


def room_for_pictures(content: Content) -> int:
    """Return about how many bytes of pictures fit on a page, as base64 and with their markup."""
    return max(0, (LIMIT - len(_rendered(content, NO_PICTURES))) * 6 // 10)


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


def _album() -> Callable[[Picture], tuple[str, str]]:
    """Return a function of pictures, each of which the page carries once. It returns the id of a
    picture, and its address at the first place that shows it."""
    names: dict[Picture, str] = {}

    def place(picture: Picture) -> tuple[str, str]:
        address = "" if picture in names else picture.address
        return names.setdefault(picture, f"picture-{len(names) + 1}"), address

    return place


def _rendered(content: Content, gallery: Gallery) -> bytes:
    of_classes = tables.class_tables(content.results)
    charts, models, facts = program(), content.models, model_table(content.entries)
    # A class for the length of every bar of whole percent.
    lengths = "".join(f".w{step}{{--w:{step}%}}" for step in range(101))
    style = f"{_static('page.css')}{lengths}\n"
    # One function, so that scripts leave no names in the page's window.
    scripts = "\n".join(_static(f"{name}.js") for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{scripts}}})();\n'
    names = shortened([*models, *(entry.model for entry in content.entries)])
    sections = {kind: gallery.sections(kind) for kind in KINDS}
    data = {**tables.page_data(content, of_classes), "charts": json.loads(_static("charts.json"))}
    pairs = {pair.models: pair for pair in content.pairs}
    environment = html_templates("cosmos_eval.report", "templates")
    task_name = [*known_tasks(), "other"].__getitem__
    environment.filters.update(
        step=_step, breakable=_breakable, signed=_signed, task_name=task_name
    )
    environment.globals.update(figures_of=tables.figures_of, bars_of=tables.bars_of)
    template = environment.get_template("page.html")
    return template.render(
        policy=_policy(style, script, charts.text),
        style=style,
        script=script,
        charts=charts,
        data=script_json(data),
        version=__version__,
        **groups.template_values(content.groups),
        summary=tables.summary_of(content.results),
        notes=[*content.notes, *gallery.notes],
        content=content,
        models=models,
        short=lambda model: names.get(model, model),
        compared=sorted({name for pair in content.pairs if pair.decisive for name in pair.models}),
        pair_of=lambda *models: pairs.get(tuple(sorted(models))),
        tables=of_classes,
        few=_FEW_CLASSES,
        facts=facts,
        facts_by_model={
            row[0].text: {
                head.title: cell.text for head, cell in zip(facts.heads, row, strict=True)
            }
            for row in facts.rows
        },
        overview_bars=content.overview and tables.overview_bars(content.overview),
        cost_rows=cost_rows,
        gallery=sections,
        has_examples=any(found for kind, found in sections.items() if kind != "samples"),
        most=MOST,
        numbers={model: number for number, model in enumerate(models)},
        picture=_album(),
        anchors={entry.key: f"entry-{n}" for n, entry in enumerate(content.entries, start=1)},
    ).encode()


def _policy(*texts: str) -> str:
    """Allow a browser a style sheet and scripts, pictures that the page holds, and nothing else."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    style, *scripts = (f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; img-src data:; style-src {style}; script-src {' '.join(scripts)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _static(name: str) -> str:
    return files("cosmos_eval.report").joinpath("static", name).read_text("utf-8")


def _breakable(name: str) -> Markup:
    """Escape a name, with possible line breaks behind its separators and in long words."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in _NAME_PARTS.findall(html_value(name)))


def _signed(number: float) -> str:
    return f"{number:+.1f}".replace("-", "\N{MINUS SIGN}")


def _step(percent: float | None) -> str:
    """Return the class that draws a bar of a length in percent."""
    return "" if percent is None else f"w{min(100, max(0, round(percent)))}"
