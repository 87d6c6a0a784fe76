"""The page: templates filled with everything that is shown; nothing of it is run or loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cosmos_core.utils.files import write_atomically
from cosmos_eval._version import __version__
from cosmos_eval.report.assets import policy, program_of_page, style_sheet
from cosmos_eval.report.charts import program, specifications
from cosmos_eval.report.classes import class_tables
from cosmos_eval.report.content import Content
from cosmos_eval.report.data import model_names, page_data
from cosmos_eval.report.gallery import Gallery
from cosmos_eval.report.origins import Origin, origin_of
from cosmos_eval.report.pictures import Album, fitting, gallery_view, has_examples, size_of
from cosmos_eval.report.summary import summary_of
from cosmos_eval.report.tables import Anchors, anchors_of, board_view
from cosmos_eval.report.wins import wins_of
from cosmos_eval.results.leaderboard import shortened
from cosmos_eval.results.text import html_templates, html_value, script_json
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

LIMIT = 5_000_000
"""Bytes that a page has at most, unless its tables alone have more."""

_NAME_PARTS = re.compile(r"[^/_:.-]{1,16}[/_:.-]*|[/_:.-]+")
# Tables of more classes are closed at first, and not printed.
_FEW_CLASSES = 40


NO_PICTURES = Gallery()

_TOO_LARGE = "no pictures: the tables alone take {:.1f} MB"


class Page(NamedTuple):
    """A page as bytes of UTF-8, and a line for each thing that it could not show."""

    content: bytes
    notes: tuple[str, ...]


def to_page(content: Content, gallery: Gallery = NO_PICTURES) -> Page:
    """The page, the same bytes for the same input, with as many pictures as LIMIT allows."""
    page, chosen = _rendered(content, gallery), gallery
    room = LIMIT - len(page) + size_of(gallery)
    while len(page) > LIMIT and has_examples(chosen):
        chosen = fitting(gallery, room)
        page = _rendered(content, chosen)
        room -= max(len(page) - LIMIT, LIMIT // 100)
    too_large = [] if len(page) <= LIMIT else [_TOO_LARGE.format(len(page) / 1e6)]
    return Page(page, (*content.notes, *chosen.notes, *too_large))


def require_page_name(path: Path) -> None:
    """Raise UsageError for a file that browsers would not take for a page."""
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"--out {path}: a page is written, so end its name in .html")


def write_page(path: Path, page: Page) -> None:
    """Write a page, whole or not at all. Raises UsageError where it cannot be written."""
    try:
        write_atomically(path, page.content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def room_for_pictures(content: Content) -> int:
    """How many bytes of pictures fit on a page, roughly: base64 takes a third more, markup some."""
    return max(0, (LIMIT - len(_rendered(content, NO_PICTURES))) * 7 // 10)


def _rendered(content: Content, gallery: Gallery) -> bytes:
    tables = class_tables(content.results)
    anchors = anchors_of(content.entries)
    charts = program()
    style, script = style_sheet(), program_of_page()
    shown = gallery_view(gallery)
    models = model_names(content)
    names = shortened([*models, *(entry.model for entry in content.entries)])
    text = (
        _environment()
        .get_template("page.html")
        .render(
            policy=policy(style, (script, charts.text)),
            style=style,
            script=script,
            charts=charts,
            data=script_json({**page_data(content, tables), "charts": specifications()}),
            version=__version__,
            summary=summary_of(content.results),
            notes=[*content.notes, *shown.notes],
            boards=[board_view(board, anchors) for board in content.boards],
            models=models,
            short=lambda model: names.get(model, model),
            wins=wins_of(content.pairs, models),
            tables=tables,
            few=_FEW_CLASSES,
            confusions=content.confusions,
            gallery=shown,
            has_examples=has_examples(gallery),
            picture=Album(),
            origins=_origins(content, anchors),
        )
    )
    return text.encode()


def _environment() -> Environment:
    environment = html_templates("cosmos_eval.report", "templates")
    environment.filters.update(step=_step, breakable=_breakable)
    return environment


def _breakable(name: str) -> Markup:
    """A name that may be broken behind its separators and in long words, escaped."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in _NAME_PARTS.findall(html_value(name)))


def _step(percent: float | None) -> str:
    """A number in percent as the class that draws a bar of its length."""
    return "" if percent is None else f"w{min(100, max(0, round(percent)))}"


def _origins(content: Content, anchors: Anchors) -> Sequence[tuple[str, list[Origin]]]:
    """Provenance by model, each in the order of protocols and data sets."""
    by_model: dict[str, list[Origin]] = {}
    for entry in content.entries:
        origin = origin_of(entry, entry.stored, anchors)
        by_model.setdefault(entry.model, []).append(origin)
    return sorted(by_model.items())
