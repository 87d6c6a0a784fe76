"""Text and JSON from users and data: safe lines for terminals and logs, strict parsing."""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

# Characters that terminals obey (C0, DEL, C1), that turn the direction of text or are invisible,
# and that are no characters: lone surrogates, U+FFFE, U+FFFF. White space is apart.
CONTROLS = (  # control characters, for a set of a regular expression
    "\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e"
    "\\u2060-\\u206f\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\ufffe\\uffff"
)

LINE_BREAK = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]")  # for some reader; and tabs

_CONTROL = re.compile(f"[{CONTROLS}]")
_LINE_BREAKS = re.compile(rf" *{LINE_BREAK.pattern}\s*")

# Commands in a CI system's log: `::error title=...::` at a line's start, which wrapping may make of
# any place, `##[error]` anywhere (actions/runner, ActionCommand.cs), Azure Pipelines' `##vso[...]`.
_COMMAND = re.compile(r"::(?=[A-Za-z-]+(?: |::))|(?<=#)#(?=(?:vso)?\[)")

# github.com/zyf0619sjtu/DreamLIP training/data.py at 84e073a, CsvDataset.split_caption. LoTLIP's
# dataloaders (github.com/wuw2019/LoTLIP) and FLAIR (github.com/ExplainableML/flair) have it too.
_SENTENCE_END = re.compile(r"\n|</s>|[.]")

# The escapes of a JSON text that may spell half a character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 60  # characters of a name in an error message


def one_line(text: str) -> str:
    r"""Return text on one line that terminals only show; control characters become `\x1b`."""
    flat = text if text.isprintable() else _LINE_BREAKS.sub(" ", text)
    return without_commands(visible(flat.strip()))


def visible(text: str) -> str:
    """Replace control characters by codes; white space stays."""
    return text if text.isprintable() else _CONTROL.sub(code, text)


def without_commands(text: str) -> str:
    """Escape what a CI system would read as a command."""
    return _COMMAND.sub(lambda found: code(found) + found[0][1:], text)


def code(found: re.Match[str]) -> str:
    r"""Return the first character of a match as its code, such as `\x1b`."""
    number = ord(found[0][0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names of a list for a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def split_sentences(text: str) -> list[str]:
    """Split a text into stripped sentences without full stops; leave out blank ones."""
    return [stripped for part in _SENTENCE_END.split(text) if (stripped := part.strip())]


class OneLineFormatter(logging.Formatter):
    """Format log messages, which may name files and samples, on one line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message without a traceback, which the logging package appends."""
        return one_line(super().formatMessage(record))


def parse_json(content: str | bytes) -> Any:
    """Parse JSON strictly; bytes are UTF-8, UTF-16 or UTF-32. Raises ValueError. Python also
    accepts NaN and infinities, names given twice (the last one counts), and characters that no text
    can hold; all of them are refused here, and so is deep nesting."""
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    try:
        found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _SURROGATE.search(text):
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(n for n, count in Counter(name for name, _ in pairs).items() if count > 1)
        shown = repr(repeated if len(repeated) <= _SHOWN else f"{repeated[:_SHOWN]}...")
        raise ValueError(f"name {shown} is given twice in one object")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
