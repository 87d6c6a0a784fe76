"""Escape texts for each output format, so that nothing in them is interpreted.

Names come from users, downloads and other people's results. `one_line` is for terminals, errors and
XML, whose library does the rest, and `html_value` for templates of web pages. Also numbers as
tables show them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

from cosmos_core.utils.text import (
    CONTROLS,
    LINE_BREAK,
    escape_code,
    escape_commands,
    escape_controls,
)
from cosmos_core.utils.text import one_line as one_line

if TYPE_CHECKING:
    from jinja2 import Environment

    from cosmos_eval.tasks import Metric

_NOT_IN_JSON = re.compile(rf"[{CONTROLS}\u2028\u2029]|(?<=#)#(?=(?:vso)?\[)")

# A cell that begins with one of these is a formula for spreadsheets, in either width.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

# Characters that have a meaning in Markdown, GitHub's mathematics or HTML. An underscore between
# letters has none. Also characters that turn text into links, and that begin a heading or a list.
_MARKDOWN = re.compile(
    r"[\\`*\[\]|<>&$~]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\."
    r"|^(?:[#=]|[+-](?=[ +-]|$)|\d{1,9}[.)](?= |$))"
)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", ":": "&#58;", ".": "&#46;"}

# Characters that have a meaning in LaTeX: its ten special ones, characters that its usual font
# lacks, and brackets and asterisks, which are options after the end of a line.
_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "{}$&#%_"}
    | {character: f"{{{character}}}" for character in "[]*"}
    | {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "`": r"\textasciigrave{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
    }
)


def markdown_text(text: str) -> str:
    """Return text that GitHub's Markdown shows as it is, also in a cell of a table."""
    return _MARKDOWN.sub(_escaped_for_markdown, one_line(text))


def _escaped_for_markdown(match: re.Match[str]) -> str:
    """Return an entity of HTML, or put a backslash before the last character."""
    matched = match[0]
    return _ENTITIES.get(matched, f"{matched[:-1]}\\{matched[-1]}")


def markdown_code(text: str) -> str:
    """Return text as inline code of Markdown.

    It stands between more backticks than the text has in a row: "a`b" -> "`` a`b ``".
    """
    line = one_line(text)
    longest_run = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest_run + 1)
    space = " " if longest_run else ""
    return f"{fence}{space}{line}{space}{fence}"


def markdown_table(
    header: Iterable[str], rows: Iterable[Iterable[str]], n_text_columns: int
) -> str:
    """Return a table whose cells are Markdown.

    The first `n_text_columns` columns are set left, and the others, which hold numbers, right.
    """
    titles = list(header)
    alignments = ["---"] * n_text_columns + ["--:"] * (len(titles) - n_text_columns)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (titles, alignments, *rows))


def latex_text(text: str) -> str:
    """Return text with escapes by which LaTeX prints exactly its characters."""
    line = one_line(text).translate(_LATEX)
    return line.replace("--", "-{}-").replace("--", "-{}-")  # two in a row would become a dash


def csv_text(text: str) -> str:
    r"""Return text as a cell on one line that no spreadsheet takes for a formula.

    Text that begins like a formula, or with an apostrophe, gets an apostrophe in front. Control
    characters and line breaks become `\x0a`; spaces stay.
    """
    line = escape_commands(escape_controls(LINE_BREAK.sub(escape_code, text)))
    is_formula = line.lstrip().startswith(_FORMULA) or line.startswith("'")
    return f"'{line}" if is_formula else line


def json_text(content: Any, **form: Any) -> str:
    """Return content as JSON in which control characters are escaped.

    Terminals and CI logs then show it and interpret nothing. `form` are arguments of `json.dumps`.
    """
    text = json.dumps(content, **({"ensure_ascii": False} | form))
    return _NOT_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def script_json(content: Any) -> str:
    """Return JSON that may be inside an HTML script element. Raises ValueError for NaN."""
    text = json_text(_visible_content(content), separators=(",", ":"), allow_nan=False)
    # Escape the characters that could end the element, or begin a comment or a tag in it.
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"})


def html_value(value: Any) -> Any:
    """Return a value for a template of a web page, which escapes HTML by itself."""
    return escape_controls(value) if type(value) is str else value


def annotation(kind: str, title: str, message: str) -> str:
    """Return a workflow command of GitHub Actions, which shows a message as an annotation.

    The escaping follows github.com/actions/toolkit, packages/core/src/command.ts.
    """
    escaped_message = one_line(message).replace("%", "%25")
    escaped_title = one_line(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped_title}::{escaped_message}"


def _visible_content(content: Any) -> Any:
    """Return content of JSON whose texts have no control characters."""
    if isinstance(content, Mapping):
        return {html_value(name): _visible_content(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_visible_content(value) for value in content]
    return html_value(content)


def html_templates(package: str, folder: str = ".") -> Environment:
    """Return the HTML templates in a folder of a package; undefined names are errors."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        finalize=html_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def percent(fraction: float, decimals: int | None = None) -> Decimal:
    """Return percent with one decimal, or with `decimals`, half up as people round: 0.6705 -> 67.1.

    The shortest text of the float is rounded, since 0.6705 itself is a little less.
    """
    return _rounded(Decimal(repr(fraction)) * 100, 1 if decimals is None else decimals)


def _rounded(value: Decimal, decimals: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)


def shown(metric: Metric, value: float, decimals: int | None = None) -> Decimal:
    """Return a metric as tables show it: a fraction in percent, ranks and ratios in hundredths.

    With `decimals` all units have as many.
    """
    if metric.unit == "fraction":
        return percent(value, decimals)
    if metric.unit == "unknown" and decimals is None:
        return Decimal(repr(round(value, 4)))
    return _rounded(Decimal(repr(value)), 2 if decimals is None else decimals)


def shown_text(metric: Metric, value: float, decimals: int | None = None) -> str:
    """Return a metric as text as tables show it: `67.1`, or `1.91x` for a ratio."""
    return f"{shown(metric, value, decimals)}{'x' if metric.unit == 'ratio' else ''}"


def ends(
    metric: Metric, value: float, interval: Mapping[str, Any] | None, decimals: int | None = None
) -> tuple[str, ...]:
    """Return how far an interval reaches above and below a value, as tables show it.

    Usually these are two texts, such as ("1.8", "2.0"). They are one text if both distances differ
    by at most one unit of the last digit: ("1.9",). If the value lies outside the interval, they
    are the interval in brackets: ("[90.1, 92.3]",). Without an interval they are empty.
    """
    if interval is None:
        return ()
    low = shown(metric, interval["low"], decimals)
    middle = shown(metric, value, decimals)
    high = shown(metric, interval["high"], decimals)
    above, below = high - middle, middle - low
    if min(above, below) < 0:
        return (f"[{low}, {high}]",)
    unit = Decimal(1).scaleb(int(middle.as_tuple().exponent))
    if abs(above - below) <= unit:
        return (str(max(above, below)),)
    return str(above), str(below)


def bounds(metric: Metric, interval: Mapping[str, Any] | None, decimals: int | None = None) -> str:
    """Return an interval of a metric, `[12.5, 50.0]`; empty without one."""
    if interval is None:
        return ""
    low = shown(metric, interval["low"], decimals)
    high = shown(metric, interval["high"], decimals)
    return f"[{low}, {high}]"


def exact_difference(fraction: float, other: float) -> Decimal:
    """Return the exact difference of two fractions as they are written: 0.3 - 0.2 is 0.1."""
    return Decimal(repr(fraction)) - Decimal(repr(other))


def difference(fraction: float, other: float, decimals: int | None = None) -> str:
    """Return by how many percentage points a fraction is above another, as `+0.4`."""
    points = percent(float(exact_difference(fraction, other)), decimals)
    return f"{points:+}" if points else f"{abs(points)}"


def p_value_text(value: float) -> str:
    """Return a p-value with two digits, or "<1e-06": a bootstrap cannot tell smaller ones apart."""
    return f"{value:.2g}" if value >= 1e-6 else "<1e-06"
