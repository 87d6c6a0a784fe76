"""Text from data on a line of a terminal or a log."""

from __future__ import annotations

import logging
import re

_LINE_BREAKS = re.compile(r" *[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")
# Characters that terminals obey (C0, DEL, C1), that turn the direction of text or are invisible,
# and that are no characters: lone surrogates, U+FFFE, U+FFFF.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
# What CI systems take for commands: `::error ...::` and `##[error]`.
_COMMAND = re.compile(r"::(?=[A-Za-z-]+(?: |::))|(?<=#)#(?=(?:vso)?\[)")


def one_line(text: str) -> str:
    r"""Text on one line that terminals and logs only show; control characters become `\x1b`.

    `cosmos_eval.escaping.one_line` is the same; the packages do not import each other here.
    """
    shown = _CONTROL.sub(_code, _LINE_BREAKS.sub(" ", text).strip())
    return _COMMAND.sub(lambda found: _code(found) + found[0][1:], shown)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0][0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class OneLineFormatter(logging.Formatter):
    """Format log messages, which may name files and samples, on one line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message without a traceback, which the logging package appends."""
        return one_line(super().formatMessage(record))
