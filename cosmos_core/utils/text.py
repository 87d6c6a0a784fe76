"""Safe lines for terminals and logs, strict parsing of JSON, and rounded numbers as text."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NoReturn

# Control characters, for a set of a regular expression: those that terminals obey (C0, DEL, C1),
# that turn the direction of text or are invisible, and codes that are not characters (lone
# surrogates, U+FFFE, U+FFFF). White space is not among them.
CONTROLS = (
    "\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e"
    "\\u2060-\\u206f\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\ufffe\\uffff"
)

# Characters that some program takes for a line break, and tabs.
LINE_BREAK = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]")

_CONTROL = re.compile(f"[{CONTROLS}]")
_LINE_BREAKS = re.compile(rf" *{LINE_BREAK.pattern}\s*")

# Commands in the log of a CI system: `::error title=...::` at the start of a line, which may be
# anywhere once lines are wrapped, `##[error]` anywhere (actions/runner, ActionCommand.cs), and
# `##vso[...]` of Azure Pipelines.
_COMMAND = re.compile(r"::(?=[A-Za-z-]+(?: |::))|(?<=#)#(?=(?:vso)?\[)")

# github.com/zyf0619sjtu/DreamLIP training/data.py at 84e073a, CsvDataset.split_caption. LoTLIP's
# dataloaders (github.com/wuw2019/LoTLIP) and FLAIR (github.com/ExplainableML/flair) have it too.
_SENTENCE_END = re.compile(r"\n|</s>|[.]")

# Escapes in a JSON text that may stand for half of a surrogate pair.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_NAME_LENGTH = 60  # in an error message
_FEW_NAMES = 15  # that a message lists if none of them is similar to an unknown name


def one_line(text: str) -> str:
    r"""Return a text as one line that is safe in a terminal and in the log of a CI system.

    Line breaks and tabs become blanks, control characters become codes such as `\x1b`, and
    commands of CI systems, such as `::error ::`, are escaped.

    Example::

        "a\nb\x1b[2J" -> r"a b\x1b[2J"  (a blank, and a backslash in place of Escape)
    """
    # A printable text has no line breaks and no control characters.
    line = text if text.isprintable() else _LINE_BREAKS.sub(" ", text)
    return escape_commands(escape_controls(line.strip()))


def escape_controls(text: str) -> str:
    r"""Return a text with its control characters replaced by codes such as `\x1b`.

    White space stays, and so do line breaks.
    """
    return text if text.isprintable() else _CONTROL.sub(escape_code, text)


def escape_commands(text: str) -> str:
    r"""Return a text in which nothing is a command for the log of a CI system.

    The first character of a command is replaced by its code: "::error title=a::b" ->
    r"\x3a:error title=a::b".
    """
    return _COMMAND.sub(_escape_first_character, text)


def _escape_first_character(match: re.Match[str]) -> str:
    r"""Return the text of a match with its first character as a code: "::" -> r"\x3a:"."""
    return escape_code(match) + match[0][1:]


def escape_code(match: re.Match[str]) -> str:
    r"""Return the code of the first character of a match, such as `\x1b` or `\u200b`."""
    code_point = ord(match[0][0])
    return f"\\x{code_point:02x}" if code_point < 0x100 else f"\\u{code_point:04x}"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names of a list for a message, and how many more there are.

    Args:
        names: All names.
        most: How many names the message may contain.

    Example::

        first_of(["a", "b", "c", "d", "e"], most=3) -> "a, b, c and 2 more"
    """
    text = ", ".join(names[:most])
    if len(names) > most:
        text += f" and {len(names) - most} more"
    return text


def nearest(name: str, known_names: Iterable[str]) -> str:
    """Return the known names that are most similar to an unknown one, separated by commas.

    `nearest_names` chooses them: `nearest("VOC20", ["voc21", "dtd", "voc20"])` gives
    `voc20, voc21`.
    """
    return ", ".join(nearest_names(name, known_names))


def nearest_names(name: str, known_names: Iterable[str]) -> list[str]:
    """Return up to three known names that are most similar to an unknown one, the nearest first.

    Capital letters do not matter. If no name is similar, all names are returned if they are few,
    and the three least different ones otherwise.
    """
    import difflib

    name_by_lower_case = {known_name.lower(): known_name for known_name in known_names}
    lower_name = name.lower()
    matches = difflib.get_close_matches(lower_name, name_by_lower_case, n=3, cutoff=0.4)
    if not matches and len(name_by_lower_case) <= _FEW_NAMES:
        matches = list(name_by_lower_case)
    elif not matches:
        matches = difflib.get_close_matches(lower_name, name_by_lower_case, n=3, cutoff=0.0)
    return [name_by_lower_case[match] for match in matches]


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences without their full stops, and without white space at the ends.

    Sentences also end at line breaks and at `</s>`. Empty sentences are left out.

    Example::

        "A dog. It runs." -> ["A dog", "It runs"]
    """
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text)]
    return [sentence for sentence in sentences if sentence]


class OneLineFormatter(logging.Formatter):
    """A formatter of log messages that puts each on one line, which is safe in a terminal.

    Messages may hold names of files and samples, with any characters in them.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message of a record on one line.

        The logging package appends the traceback, if there is one, as further lines.
        """
        return one_line(super().formatMessage(record))


def parse_json(content: str | bytes) -> Any:
    """Parse JSON more strictly than Python's own parser.

    Args:
        content: The JSON as a text, or as bytes in UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: If the JSON is invalid or nested very deeply, or if it has one of three things
            that Python's parser accepts: NaN or an infinity, a name that is given twice in an
            object, and half of a surrogate pair, which cannot be written as text.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_object_of_distinct_names
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _SURROGATE.search(text):
        # Raises UnicodeEncodeError, a ValueError, for half of a surrogate pair.
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _object_of_distinct_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary.

    Args:
        pairs: The names and values of the object, in the order of the text.

    Raises:
        ValueError: If a name is given twice. The error states the name.
    """
    values = dict(pairs)
    if len(values) == len(pairs):
        return values

    # At least one name is given twice.
    counts = Counter(name for name, _ in pairs)
    repeated_name = next(name for name, count in counts.items() if count > 1)
    if len(repeated_name) > _MAX_NAME_LENGTH:
        repeated_name = f"{repeated_name[:_MAX_NAME_LENGTH]}..."
    raise ValueError(f"name {repeated_name!r} is given twice in one object")


def _refuse_constant(constant: str) -> NoReturn:
    """Raise ValueError for `NaN`, `Infinity` or `-Infinity`, which the JSON parser has found."""
    raise ValueError(f"{constant} is no number")


def rounded(value: float | Decimal, decimals: int, factor: int = 1) -> Decimal:
    """Return a number times a factor with `decimals` digits after the point.

    Halves are rounded away from zero, as people do: 67.05 -> 67.1 for one digit. For that, the
    shortest decimal text of a float is rounded, since the float 67.05 itself is a little less. All
    tables, pages and pictures use this function, so that a number is the same everywhere.

    Args:
        value: The number. NaN and infinity are returned as they are.
        decimals: The digits after the point.
        factor: The number that it is multiplied by, without errors of floats.
    """
    exact_value = value if isinstance(value, Decimal) else Decimal(repr(float(value)))
    if not exact_value.is_finite():
        return exact_value
    last_digit_unit = Decimal(1).scaleb(-decimals)  # 0.01 for two digits
    return (exact_value * factor).quantize(last_digit_unit, ROUND_HALF_UP)


def percent(fraction: float | Decimal, decimals: int | None = None) -> Decimal:
    """Return a fraction as percent with `decimals` digits after the point, by default one.

    Example: 0.6705 -> 67.1
    """
    return rounded(fraction, 1 if decimals is None else decimals, factor=100)
