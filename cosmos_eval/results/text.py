"""Text from data as text of each output format, in which nothing of it is interpreted. Names come
from users, downloads and other people's results. `one_line` is for terminals, errors and XML, whose
library escapes the rest, `html_value` for templates of web pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

from cosmos_core.utils.text import CONTROLS, LINE_BREAK, code, visible, without_commands
from cosmos_core.utils.text import one_line as one_line

if TYPE_CHECKING:
    from jinja2 import Environment

    from cosmos_eval.tasks import Metric

_NOT_IN_JSON = re.compile(rf"[{CONTROLS}\u2028\u2029]|(?<=#)#(?=(?:vso)?\[)")

# A cell that begins with one of these is a formula for spreadsheets, in either width.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

# What Markdown, GitHub's mathematics or HTML would read as more than a character; an underscore
# between letters is one. Also what turns text into links, and what begins a heading or a list.
_MARKDOWN = re.compile(
    r"[\\`*\[\]|<>&$~]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\."
    r"|^(?:[#=]|[+-](?=[ +-]|$)|\d{1,9}[.)](?= |$))"
)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", ":": "&#58;", ".": "&#46;"}

# What LaTeX reads as more than a character: its ten special ones, those that its usual font lacks,
# and what would be an option after a line's end.
_LATEX = str.maketrans(
    {
        **{character: rf"\{character}" for character in "{}$&#%_"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "`": r"\textasciigrave{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        **{character: f"{{{character}}}" for character in "[]*"},
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
    }
)


def markdown_text(text: str) -> str:
    """Text that GitHub's Markdown shows as it is, also in a cell of a table."""

    def escaped(found: re.Match[str]) -> str:
        return _ENTITIES.get(found[0], f"{found[0][:-1]}\\{found[0][-1]}")

    return _MARKDOWN.sub(escaped, one_line(text))


def markdown_code(text: str) -> str:
    """Return text as code of Markdown, between more backticks than it has in a row."""
    flat = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{flat}{space}{fence}"


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]], texts: int) -> str:
    """Return a table of cells of Markdown, which are numbers after the first `texts`."""
    titles = list(header)
    marks = ["---"] * texts + ["--:"] * (len(titles) - texts)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (titles, marks, *rows))


def latex_text(text: str) -> str:
    """Return text that LaTeX sets as it is."""
    flat = one_line(text).translate(_LATEX)
    return flat.replace("--", "-{}-").replace("--", "-{}-")  # two in a row would become a dash


def csv_text(text: str) -> str:
    r"""Return text as a cell on one line that no spreadsheet takes for a formula. What begins like
    one, or with an apostrophe, gets an apostrophe in front. Control characters and line breaks
    become `\x0a`; spaces stay."""
    flat = without_commands(visible(LINE_BREAK.sub(code, text)))
    return f"'{flat}" if flat.lstrip().startswith(_FORMULA) or flat.startswith("'") else flat


def json_text(content: Any, **form: Any) -> str:
    """Return JSON that terminals only show; `form` as for `json.dumps`."""
    text = json.dumps(content, **{"ensure_ascii": False, **form})
    return _NOT_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def script_json(content: Any) -> str:
    """Return JSON that may be inside an HTML script element. Raises ValueError for NaN."""
    text = json_text(_shown(content), separators=(",", ":"), allow_nan=False)
    # What would end the element, or begin a comment or a tag in it.
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})


def html_value(value: Any) -> Any:
    """Return a value for a template of a web page, which escapes HTML by itself."""
    return visible(value) if type(value) is str else value


def annotation(kind: str, title: str, message: str) -> str:
    """Return a workflow command of GitHub Actions, which shows a message as an annotation. The
    escaping is that of github.com/actions/toolkit, packages/core/src/command.ts."""
    data, name = (one_line(text).replace("%", "%25") for text in (message, title))
    return f"::{kind} title={name.replace(':', '%3A').replace(',', '%2C')}::{data}"


def _shown(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {html_value(key): _shown(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_shown(value) for value in content]
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
    """Return percent, half up as people round: 0.6705 -> 67.1. The shortest text of the float is
    rounded, since 0.6705 itself is a little less."""
    digits = Decimal(1).scaleb(-1 if decimals is None else -decimals)
    return (Decimal(repr(fraction)) * 100).quantize(digits, ROUND_HALF_UP)


def shown(metric: Metric, value: float, decimals: int | None = None) -> Decimal:
    """Return a metric as tables show it: a fraction in percent, ranks and ratios in hundredths.
    `decimals` are those of all units."""
    if metric.unit == "fraction":
        return percent(value, decimals)
    if metric.unit == "unknown" and decimals is None:
        return Decimal(repr(round(value, 4)))
    digits = Decimal(1).scaleb(-2 if decimals is None else -decimals)
    return Decimal(repr(value)).quantize(digits, ROUND_HALF_UP)


def shown_text(metric: Metric, value: float, decimals: int | None = None) -> str:
    """Return the same as text: `67.1`, or `1.91x` of a ratio."""
    return f"{shown(metric, value, decimals)}{'x' if metric.unit == 'ratio' else ''}"


def ends(
    metric: Metric, value: float, interval: Mapping[str, Any] | None, decimals: int | None = None
) -> tuple[str, ...]:
    """Return by how much an interval reaches above and below a value, as shown: one text where
    these differ by a unit of the last digit at most, the interval where it lacks the value."""
    if interval is None:
        return ()
    low, own, high = (
        shown(metric, one, decimals) for one in (interval["low"], value, interval["high"])
    )
    above, below = high - own, own - low
    if min(above, below) < 0:
        return (f"[{low}, {high}]",)
    unit = Decimal(1).scaleb(int(own.as_tuple().exponent))
    return (str(max(above, below)),) if abs(above - below) <= unit else (str(above), str(below))


def bounds(metric: Metric, interval: Mapping[str, Any] | None, decimals: int | None = None) -> str:
    """Return an interval of a metric, `[12.5, 50.0]`; empty where there is none."""
    if interval is None:
        return ""
    low, high = (shown(metric, interval[end], decimals) for end in ("low", "high"))
    return f"[{low}, {high}]"


def exact_difference(fraction: float, other: float) -> Decimal:
    """Subtract the shortest texts of two fractions: 0.3 - 0.2 is 0.1."""
    return Decimal(repr(fraction)) - Decimal(repr(other))


def difference(fraction: float, other: float, decimals: int | None = None) -> str:
    """Return by how many percentage points a fraction is above another, as `+0.4`."""
    points = percent(float(exact_difference(fraction, other)), decimals)
    return f"{points:+}" if points else f"{abs(points)}"


def p_value_text(value: float) -> str:
    """Return a p-value in two digits; below 0.000001 a bootstrap does not distinguish them."""
    return f"{value:.2g}" if value >= 1e-6 else "<1e-06"
