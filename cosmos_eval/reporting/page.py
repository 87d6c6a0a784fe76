"""Write the page: templates filled with all content and pictures, without links to other files."""

from __future__ import annotations

import base64
import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_eval._version import __version__
from cosmos_eval.reporting import groups, tables
from cosmos_eval.reporting.content import Content, ModelPair
from cosmos_eval.reporting.contents import section_links
from cosmos_eval.reporting.gallery.records import KINDS, Gallery, Picture
from cosmos_eval.reporting.gallery.samples import MOST_SAMPLES
from cosmos_eval.reporting.models import cost_rows
from cosmos_eval.results.labels import shorten_names
from cosmos_eval.results.leaderboard.facts import model_table
from cosmos_eval.results.leaderboard.labs import lab_table
from cosmos_eval.results.leaderboard.task_tables import capitalized_title
from cosmos_eval.results.pages import TABLE_SCRIPTS, join_scripts, read_static, security_policy
from cosmos_eval.results.text import html_templates, html_value, percent, rounded, script_json
from cosmos_eval.tasks import known_tasks
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from markupsafe import Markup

LIMIT = 5_000_000
"""The most bytes of a page, unless its tables without any picture have more."""

NO_PICTURES = Gallery()

# The files of the scripts, in the order in which they run.
_SCRIPTS = (
    "common",
    "data",
    "theme",
    "sections",
    "tables",
    "filters",
    "dialogs",
    "origins",
    "counts",
    "compare",
    "charts",
    "samples",
    "pictures",
    "slider",
    "paper",
    "state",
)
_NAME_PIECES = re.compile(r"[^/_:.-]{1,16}[/_:.-]*|[/_:.-]+")
# Tables with more classes are not printed.
_FEW_CLASSES = 40


class Page(NamedTuple):
    """A page as a file."""

    # The HTML in UTF-8.
    content: bytes
    # One line for each thing that the page does not show.
    notes: tuple[str, ...]


def to_page(content: Content, gallery: Gallery = NO_PICTURES) -> Page:
    """Return a page with as many examples as LIMIT allows, as HTML.

    Examples come in rounds: each round adds one example, or a few small ones, to every section. The
    page has as many whole rounds as fit. Equal input gives equal bytes.

    Args:
        content: Everything that the page states without pictures.
        gallery: Examples with pictures.
    """
    # Try all rounds, then one round less, and so on down to a page without examples.
    for n_rounds in range(gallery.rounds, -1, -1):
        limited_gallery = gallery.limited(n_rounds)
        html = _render(content, limited_gallery)
        if len(html) <= LIMIT:
            break
    notes = [*content.notes, *limited_gallery.notes]
    if len(html) > LIMIT:
        notes.append(f"no pictures: the tables alone take {len(html) / 1e6:.1f} MB")
    return Page(html, tuple(notes))


def require_page_name(path: Path) -> None:
    """Raise UsageError for a file name that browsers would not open as a page."""
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"--output {path}: a page is written, so end its name in .html")


def room_for_pictures(content: Content) -> int:
    """Return about how many bytes of pictures fit on a page, beside its text and tables."""
    n_free_bytes = LIMIT - len(_render(content, NO_PICTURES))
    # Base64 and markup make a picture larger: about 60% of the page's bytes are the picture.
    return max(0, n_free_bytes * 6 // 10)


class Program(NamedTuple):
    """The program that draws charts."""

    # JavaScript as it runs.
    text: str
    # The same as a page carries it: gzip, then base64.
    packed: str
    # The names and versions of the libraries in it.
    versions: str


@cache
def program() -> Program:
    """Return the JavaScript program that draws charts: Vega with Vega-Lite.

    It defines one name in the page's window, the function `vegaEmbed`.
    """
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Inside a function, so that the bundle defines no names in the page.
    text = f"(() => {{{bundle}\n}})();"
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()

    vega_version = vl_convert.get_vega_version()
    lite_version = vl_convert.get_vegalite_versions()[-1]
    embed_version = vl_convert.get_vega_embed_version()
    versions = f"Vega {vega_version}, Vega-Lite {lite_version}, Vega-Embed {embed_version}"
    return Program(text, packed, versions)


class _Album:
    """Gives every picture an id, so that the page carries its content once."""

    def __init__(self) -> None:
        """Start without any picture."""
        self._id_by_content: dict[bytes, str] = {}

    def place(self, picture: Picture) -> tuple[str, str]:
        """Return the id of a picture, such as "picture-1", and its address.

        The address is a data URI, which holds the content of the picture. It is empty if the
        picture was placed before.
        """
        if picture.content in self._id_by_content:
            return self._id_by_content[picture.content], ""
        picture_id = f"picture-{len(self._id_by_content) + 1}"
        self._id_by_content[picture.content] = picture_id
        return picture_id, picture.address


class _ModelNames:
    """Looks up short names and comparisons of models, for templates."""

    def __init__(self, content: Content) -> None:
        """Shorten the names of all models, and list the comparisons by the names of both models."""
        entry_names = [entry.model for entry in content.entries]
        self._short_names = shorten_names([*content.models, *entry_names])
        self._pairs = {pair.models: pair for pair in content.pairs}

    def short(self, model: str) -> str:
        """Return the name of a model as the page writes it: long paths are shortened."""
        return self._short_names.get(model, model)

    def pair_of(self, model: str, other_model: str) -> ModelPair | None:
        """Return the comparison of two models in either order, or None if there is none."""
        first_model, second_model = sorted((model, other_model))
        return self._pairs.get((first_model, second_model))


def _render(content: Content, gallery: Gallery) -> bytes:
    """Return the page with all content and all pictures of the gallery, as HTML in UTF-8."""
    # The style sheet, with a class for the length of a bar of each whole percent.
    bar_lengths = "".join(f".w{percent}{{--w:{percent}%}}" for percent in range(101))
    style = f"{read_static('cosmos_eval.reporting', 'page.css')}{bar_lengths}\n"

    script = join_scripts(_read_script(name) for name in _SCRIPTS)
    chart_program = program()

    # The data that the scripts draw from.
    class_tables = tables.class_tables(content.results)
    data = tables.page_data(content, class_tables)
    data["charts"] = json.loads(read_static("cosmos_eval.reporting", "charts.json"))

    # The HTML id of each leaderboard entry, which other parts of the page link to.
    anchors = {}
    for number, entry in enumerate(content.entries, start=1):
        anchors[entry.key] = f"entry-{number}"

    # Jinja's environment, with the filters and functions that the templates use.
    environment = html_templates("cosmos_eval.reporting", "templates")
    environment.filters["step"] = _bar_class
    environment.filters["breakable"] = _escape_breakable
    environment.filters["signed"] = _format_signed
    environment.filters["percent"] = percent
    environment.filters["rounded"] = rounded
    environment.filters["task_name"] = _task_name
    environment.globals["capitalized_title"] = capitalized_title
    environment.globals["figures_of"] = tables.figures_of
    environment.globals["bars_of"] = tables.bars_of
    environment.globals["cost_rows"] = cost_rows
    html = environment.get_template("page.html").render(
        policy=security_policy(style, script, chart_program.text),
        style=style,
        script=script,
        charts=chart_program,
        data=script_json(data),
        version=__version__,
        summary=tables.summary_of(content.results),
        notes=[*content.notes, *gallery.notes],
        content=content,
        tables=class_tables,
        contents=section_links(content, class_tables, gallery),
        few_classes=_FEW_CLASSES,
        overview_bars=tables.overview_bars(content.overview) if content.overview else None,
        anchors=anchors,
        lab_table=lab_table(content.labs),
        **groups.template_values(content.groups),
        **_model_values(content),
        **_gallery_values(gallery),
    )
    return html.encode()


def _model_values(content: Content) -> dict[str, Any]:
    """Return the variables of the page's templates that are about models.

    - `models`: the names of the models that were measured here.
    - `numbers`: the index of each of them by name.
    - `short`, `pair_of`: functions that return a short name, and the comparison of two models.
    - `compared`: the names of the models of which any comparison can show the better one.
    - `facts`, `facts_by_model`: facts such as parameters, as a table and by model and title.
    """
    names = _ModelNames(content)

    # The table of facts, such as parameters and GFLOPs, and the same facts by model and title: for
    # example, facts_by_model["model-a"]["GFLOPs"].
    facts = model_table(content.entries)
    titles = [head.title for head in facts.heads]
    facts_by_model = {}
    for row in facts.rows:
        texts = [cell.text for cell in row]
        model = texts[0]  # the first column
        facts_by_model[model] = dict(zip(titles, texts, strict=True))

    compared_models: set[str] = set()
    for pair in content.pairs:
        if pair.decisive:
            compared_models.update(pair.models)
    return {
        "models": content.models,
        "numbers": {model: index for index, model in enumerate(content.models)},
        "short": names.short,
        "pair_of": names.pair_of,
        "compared": sorted(compared_models),
        "facts": facts,
        "facts_by_model": facts_by_model,
    }


def _gallery_values(gallery: Gallery) -> dict[str, Any]:
    """Return the variables of the page's templates that are about examples with pictures.

    - `gallery`: the sections of the page by kind of example, such as "retrieval".
    - `has_examples`: whether there are any examples besides samples.
    - `most_samples`: the most samples of a data set that are shown.
    - `confused_classes`: the classes that any model takes a sample of another class for.
    - `picture`: the function that returns the id and the address of a picture.
    """
    sections_by_kind = {kind: gallery.sections(kind) for kind in KINDS}
    confused_classes: set[str] = set()
    for sample in gallery.samples:
        confused_classes.update(outcome.taken_for for outcome in sample.outcomes.values())
    confused_classes.discard("")  # of samples that are not taken for another class
    has_examples = any(sections_by_kind[kind] for kind in KINDS if kind != "samples")
    return {
        "gallery": sections_by_kind,
        "has_examples": has_examples,
        "most_samples": MOST_SAMPLES,
        "confused_classes": sorted(confused_classes),
        "picture": _Album().place,
    }


def _task_name(task_index: int) -> str:
    """Return the title of the task with an index, such as "Retrieval".

    The index after the last task stands for tasks that are not known here: "Other".
    """
    return capitalized_title([[*known_tasks(), "other"][task_index]])


def _read_script(name: str) -> str:
    """Return the text of a script, which is shared with other pages or of this page only."""
    package = "cosmos_eval.results" if name in TABLE_SCRIPTS else "cosmos_eval.reporting"
    return read_static(package, f"{name}.js")


def _escape_breakable(name: str) -> Markup:
    """Escape a name for HTML, and allow line breaks after its separators and in long words.

    For example, "ViT-B/16" becomes "ViT-<wbr>B/<wbr>16". Words are broken after 16 characters.
    """
    from markupsafe import Markup, escape

    pieces = _NAME_PIECES.findall(html_value(name))
    return Markup("<wbr>").join(escape(piece) for piece in pieces)


def _format_signed(number: float) -> str:
    """Return a number as text with its sign and one decimal: 1.25 -> "+1.3".

    Zero has no sign: "0.0".
    """
    value = rounded(number, 1)
    if value == 0:
        return f"{abs(value)}"
    return f"{value:+}".replace("-", "\N{MINUS SIGN}")


def _bar_class(percent: float | None) -> str:
    """Return the CSS class of a bar with a length in percent: 42.3 -> "w42".

    Lengths are limited to 0 to 100. Return "" for None.
    """
    if percent is None:
        return ""
    whole_percent = min(100, max(0, round(percent)))
    return f"w{whole_percent}"
