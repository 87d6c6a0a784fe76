"""Escape texts for each output format, so that nothing in them is interpreted, and format numbers.

Names come from users, downloads and other people's results. `one_line` is for terminals, errors and
XML, whose library does the rest, and `html_value` for templates of web pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from cosmos_core.utils.text import (
    CONTROLS,
    LINE_BREAK,
    escape_code,
    escape_commands,
    escape_controls,
)
from cosmos_core.utils.text import one_line as one_line
from cosmos_core.utils.text import percent as percent
from cosmos_core.utils.text import rounded as rounded

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
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "−": "$-$",
    }
)
_MOST_DECIMALS = 4  # of a difference in percentage points


def markdown_text(text: str) -> str:
    """Escape a text so that GitHub's Markdown shows exactly its characters, also in tables.

    Example: "a*b" -> "a\\*b", "a<b" -> "a&lt;b".
    """
    return _MARKDOWN.sub(_escape_markdown_match, one_line(text))


def _escape_markdown_match(match: re.Match[str]) -> str:
    """Return the escaped form of the special characters that were found in a text.

    It is the HTML entity if there is one, or else the characters with a backslash before the last
    one. There are several characters only at the beginning of a numbered list: "1." -> "1\\.".
    """
    characters = match[0]
    if characters in _ENTITIES:
        return _ENTITIES[characters]
    digits, special_character = characters[:-1], characters[-1]
    return f"{digits}\\{special_character}"


def markdown_code(text: str) -> str:
    """Return a text as inline code of Markdown.

    The text stands between more backticks than it has in a row: "a`b" -> "`` a`b ``".
    """
    line = one_line(text)
    longest_run = 0
    for backticks in re.findall("`+", line):
        longest_run = max(longest_run, len(backticks))
    fence = "`" * (longest_run + 1)
    space = " " if longest_run > 0 else ""
    return f"{fence}{space}{line}{space}{fence}"


def markdown_table(
    header: Iterable[str], rows: Iterable[Iterable[str]], n_text_columns: int
) -> str:
    """Return a table in Markdown from cells that are Markdown already.

    Args:
        header: The titles of the columns.
        rows: The cells of each row.
        n_text_columns: The number of columns with texts, which come first and are set left. The
            other columns have numbers, and are set right.
    """
    titles = list(header)
    n_number_columns = len(titles) - n_text_columns
    alignments = ["---"] * n_text_columns + ["--:"] * n_number_columns
    lines = []
    for cells in (titles, alignments, *rows):
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def latex_text(text: str) -> str:
    """Escape a text so that LaTeX prints exactly its characters: "a_b" -> "a\\_b"."""
    line = one_line(text).translate(_LATEX)
    # LaTeX prints two hyphens in a row as a dash. The second replacement separates those that the
    # first one leaves in a longer row: "---" -> "-{}--" -> "-{}-{}-".
    return line.replace("--", "-{}-").replace("--", "-{}-")


def csv_text(text: str) -> str:
    r"""Return a text as a cell on one line that no spreadsheet takes for a formula.

    A text that begins like a formula, or with an apostrophe, gets an apostrophe in front: "=1+1" ->
    "'=1+1". Line breaks and control characters become codes such as `\x0a`. Spaces stay.
    """
    line = LINE_BREAK.sub(escape_code, text)
    line = escape_commands(escape_controls(line))
    is_like_formula = line.lstrip().startswith(_FORMULA)
    needs_apostrophe = is_like_formula or line.startswith("'")
    return f"'{line}" if needs_apostrophe else line


def json_text(content: Any, **form: Any) -> str:
    """Return content as JSON in which control characters are escaped, and other letters are not.

    Terminals and CI logs then show the text and interpret nothing in it.

    Args:
        content: The content, which `json.dumps` can write.
        form: Further arguments of `json.dumps`, such as `indent`.
    """
    form.setdefault("ensure_ascii", False)
    text = json.dumps(content, **form)
    return _NOT_IN_JSON.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    r"""Return the JSON escape of a single character that was found in a text: `\u001b`."""
    return f"\\u{ord(match[0]):04x}"


def script_json(content: Any) -> str:
    """Return content as JSON that can stand inside a script element of an HTML page.

    Raises ValueError for NaN and infinity.
    """
    text = json_text(_visible_content(content), separators=(",", ":"), allow_nan=False)
    # Escape the characters that could end the element, or begin a comment or a tag in it.
    return re.sub("[<>&]", _json_escape, text)


def html_value(value: Any) -> Any:
    """Return a value for a template of a web page, with control characters of texts made visible.

    The template itself escapes the characters of HTML.
    """
    return escape_controls(value) if type(value) is str else value


def annotation(kind: str, title: str, message: str) -> str:
    """Return a workflow command by which GitHub Actions shows a message as an annotation.

    The escaping follows github.com/actions/toolkit, packages/core/src/command.ts.

    Args:
        kind: "error" or "notice".
        title: The title of the annotation.
        message: The message, which is shown on one line.

    Example:
        annotation("notice", "check", "no regression") -> "::notice title=check::no regression"
    """
    escaped_message = one_line(message).replace("%", "%25")
    escaped_title = one_line(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped_title}::{escaped_message}"


def _visible_content(content: Any) -> Any:
    """Return JSON content in which control characters of all texts are made visible."""
    if isinstance(content, Mapping):
        return {html_value(name): _visible_content(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_visible_content(value) for value in content]
    return html_value(content)


def html_templates(package: str, folder: str = ".") -> Environment:
    """Return an environment that loads the HTML templates in a folder of a package.

    Values are escaped. A name that is not defined raises an error.
    """
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


def round_metric(metric: Metric, value: float, decimals: int | None = None) -> Decimal:
    """Return the value of a metric as tables show it, rounded.

    Args:
        metric: The metric, whose unit decides on percent and on the usual number of decimals.
        value: The value in the unit of the metric.
        decimals: The digits after the point. None stands for one digit of a percentage, two digits
            of ranks, ratios and other numbers, and up to four digits for metrics of unknown tasks.

    Example:
        The accuracy 0.6705 -> 67.1, the mean rank 12.345 -> 12.35.
    """
    if metric.in_percent:
        return percent(value, decimals)
    if metric.unit == "unknown" and decimals is None:
        return Decimal(repr(float(rounded(value, 4))))  # without zeros at the end
    return rounded(value, 2 if decimals is None else decimals)


def metric_text(metric: Metric, value: float, decimals: int | None = None) -> str:
    """Return the value of a metric as text in tables: "67.1", or "1.91x" for a ratio."""
    unit = "x" if metric.unit == "ratio" else ""
    return f"{round_metric(metric, value, decimals)}{unit}"


def interval_ends(
    metric: Metric, value: float, interval: Mapping[str, Any] | None, decimals: int | None = None
) -> tuple[str, ...]:
    """Return how far an interval reaches above and below a value, as texts for tables.

    Args:
        metric: The metric, whose unit decides on percent and on the usual number of decimals.
        value: The value in the unit of the metric.
        interval: The interval with the keys `low` and `high`, or None.
        decimals: The digits after the point; None for the usual digits of the metric.

    Returns:
        - ("1.8", "2.0") if it reaches from 2.0 below the value to 1.8 above it
        - ("1.9",) if it reaches equally far on both sides, up to one unit of the last digit
        - ("[90.1, 92.3]",), the interval itself, if the value lies outside
        - () without an interval
    """
    if interval is None:
        return ()
    low = round_metric(metric, interval["low"], decimals)
    rounded_value = round_metric(metric, value, decimals)
    high = round_metric(metric, interval["high"], decimals)
    above = high - rounded_value
    below = rounded_value - low
    is_outside = above < 0 or below < 0
    if is_outside:
        return (f"[{low}, {high}]",)

    n_decimals = -int(rounded_value.as_tuple().exponent)
    last_digit_unit = Decimal(1).scaleb(-n_decimals)  # 0.1 for 67.1
    is_symmetric = abs(above - below) <= last_digit_unit
    if is_symmetric:
        return (str(max(above, below)),)
    return str(above), str(below)


def interval_text(
    metric: Metric, interval: Mapping[str, Any] | None, decimals: int | None = None
) -> str:
    """Return the interval of a metric as text, such as "[12.5, 50.0]"; empty without one."""
    if interval is None:
        return ""
    low = round_metric(metric, interval["low"], decimals)
    high = round_metric(metric, interval["high"], decimals)
    return f"[{low}, {high}]"


def exact_difference(fraction: float, other: float) -> Decimal:
    """Return the difference of two fractions without errors of floats: 0.3 - 0.2 = 0.1."""
    return Decimal(repr(float(fraction))) - Decimal(repr(float(other)))


def difference_text(fraction: float, other: float, decimals: int | None = None) -> str:
    """Return a fraction minus another one in percentage points, such as "+0.4" or "-1.2".

    Zero has no sign: "0.0".
    """
    points = percent(exact_difference(fraction, other), decimals)
    if points == 0:
        return f"{abs(points)}"  # -0.0 without its sign
    return f"{points:+}"


def difference_and_interval(difference: float, interval: tuple[float, float]) -> str:
    """Return the difference of two fractions and its interval in percentage points.

    There is one digit after the point, and more if an end would be rounded to 0 that is not 0.

    Example:
        difference_and_interval(0.0421, (0.0112, 0.0731)) -> "+4.2 [1.1, 7.3]"
        difference_and_interval(0.0421, (0.0002, 0.0731)) -> "+4.21 [0.02, 7.31]"
    """
    decimals = 1
    while decimals < _MOST_DECIMALS and any(
        end != 0 and round(100 * end, decimals) == 0 for end in interval
    ):
        decimals += 1
    low, high = (f"{100 * end:.{decimals}f}" for end in interval)
    return f"{100 * difference:+.{decimals}f} [{low}, {high}]"


def decided_line(
    dataset: str,
    decision: str,
    difference: float,
    interval: tuple[float, float] | None,
    n_samples: int,
    n_all_samples: int,
    unit: str,
) -> str:
    """Return what is known about two models on a data set after a part of its samples.

    Args:
        dataset: The name of the data set.
        decision: The answer, such as "A better".
        difference: A - B as a fraction.
        interval: The interval of A - B; None if there is none yet.
        n_samples: The number of samples that were measured.
        n_all_samples: The number of samples of the data set.
        unit: The noun for samples, such as "images".

    Example:
        "scenes-cls: A better, +4.2 [1.1, 7.3], after 256 of 1,000 images (26%)"
    """
    numbers = "no interval"
    if interval is not None:
        numbers = difference_and_interval(difference, interval)
    share = f"{n_samples / n_all_samples:.0%}"
    counts = f"after {n_samples:,} of {n_all_samples:,} {unit} ({share})"
    return f"{dataset}: {decision}, {numbers}, {counts}"


def p_value_text(value: float) -> str:
    """Return a p-value with two digits, such as "0.031", or "<1e-06" if it is smaller.

    A bootstrap cannot tell smaller p-values apart.
    """
    return f"{value:.2g}" if value >= 1e-6 else "<1e-06"
