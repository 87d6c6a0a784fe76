"""Text from data on a line of a terminal or a log."""

from __future__ import annotations

import logging
import re

# Characters that terminals obey (C0, DEL, C1), that turn the direction of text or are invisible,
# and that are no characters: lone surrogates, U+FFFE, U+FFFF. White space is apart.
CONTROLS = (
    "\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e"
    "\\u2060-\\u206f\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\ufffe\\uffff"
)
"""Control characters, for a set of a regular expression."""

LINE_BREAK = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]")
"""What ends a line for some reader, and tabs."""

_CONTROL = re.compile(f"[{CONTROLS}]")
_LINE_BREAKS = re.compile(rf" *{LINE_BREAK.pattern}\s*")

# Commands in the log of a CI system: `::error title=...::` at the start of a line, which wrapping
# may make of any place, and `##[error]` anywhere (actions/runner, ActionCommand.cs); `##vso[...]`
# of Azure Pipelines.
_COMMAND = re.compile(r"::(?=[A-Za-z-]+(?: |::))|(?<=#)#(?=(?:vso)?\[)")


def one_line(text: str) -> str:
    r"""Text on one line that terminals and logs only show; control characters become `\x1b`."""
    flat = text if text.isprintable() else _LINE_BREAKS.sub(" ", text)
    return without_commands(visible(flat.strip()))


def visible(text: str) -> str:
    """Text with codes for control characters; white space stays."""
    return text if text.isprintable() else _CONTROL.sub(code, text)


def without_commands(text: str) -> str:
    """Text in which a CI system finds no command."""
    return _COMMAND.sub(lambda found: code(found) + found[0][1:], text)


def code(found: re.Match[str]) -> str:
    r"""Return the first character of a match as its code, such as `\x1b`."""
    number = ord(found[0][0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class OneLineFormatter(logging.Formatter):
    """Format log messages, which may name files and samples, on one line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message without a traceback, which the logging package appends."""
        return one_line(super().formatMessage(record))
