"""Text and JSON from users and data: safe lines for terminals and logs, strict parsing."""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
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

# Escapes in a JSON text that may stand for half a character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_NAME_LENGTH = 60  # in an error message


def one_line(text: str) -> str:
    r"""Return text on one line that is safe in a terminal: control characters become `\x1b`."""
    flat = text if text.isprintable() else _LINE_BREAKS.sub(" ", text)
    return without_commands(visible(flat.strip()))


def visible(text: str) -> str:
    """Replace control characters by their codes; white space stays."""
    return text if text.isprintable() else _CONTROL.sub(code, text)


def without_commands(text: str) -> str:
    """Escape text that a CI system would read as a command."""
    return _COMMAND.sub(_escape_first_character, text)


def _escape_first_character(match: re.Match[str]) -> str:
    """Return a match with its first character replaced by its code."""
    return code(match) + match[0][1:]


def code(match: re.Match[str]) -> str:
    r"""Return the first character of a match as its code, such as `\x1b`."""
    number = ord(match[0][0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first `most` names of a list for a message, and how many more there are."""
    text = ", ".join(names[:most])
    if len(names) > most:
        text += f" and {len(names) - most} more"
    return text


def split_sentences(text: str) -> list[str]:
    """Split a text into stripped sentences without full stops; leave out blank ones."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text)]
    return [sentence for sentence in sentences if sentence]


class OneLineFormatter(logging.Formatter):
    """Format log messages, which may name files and samples, on one line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message without a traceback, which the logging package appends."""
        return one_line(super().formatMessage(record))


def parse_json(content: str | bytes) -> Any:
    """Parse JSON strictly; bytes are UTF-8, UTF-16 or UTF-32. Raises ValueError.

    Python's parser also accepts NaN and infinities, names that are given twice (the last one
    counts), and characters that no text can hold. They are refused here, and so is deep nesting.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_object_of_distinct_names
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _SURROGATE.search(text):
        # Raises UnicodeEncodeError, a ValueError, for half a character.
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _object_of_distinct_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError if a name is given twice."""
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    counts = Counter(name for name, _ in pairs)
    repeated_name = next(name for name, count in counts.items() if count > 1)
    if len(repeated_name) > _MAX_NAME_LENGTH:
        repeated_name = f"{repeated_name[:_MAX_NAME_LENGTH]}..."
    raise ValueError(f"name {repeated_name!r} is given twice in one object")


def _refuse_constant(constant: str) -> NoReturn:
    """Raise ValueError for NaN, Infinity or -Infinity in JSON."""
    raise ValueError(f"{constant} is no number")
