"""Text from data as text of each output format, in which nothing of it is interpreted.

Names of models, data sets, classes and files come from users, from downloads and from results of
other people. Each writer passes them through the function of its format: `one_line` for terminals,
error lines and XML (whose library escapes the rest), `html_value` in templates of web pages, and
the others as their names say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Characters that terminals obey (C0, DEL, C1), that turn the direction of text or are invisible,
# and that are no characters: lone surrogates, U+FFFE, U+FFFF. White space is apart.
_CONTROLS = (
    "\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e"
    "\\u2060-\\u206f\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\ufffe\\uffff"
)
_CONTROL = re.compile(f"[{_CONTROLS}]")
_NOT_IN_JSON = re.compile(rf"[{_CONTROLS}\u2028\u2029]|(?<=#)#(?=(?:vso)?\[)")
_LINE_BREAK = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]")
_LINE_BREAKS = re.compile(rf" *{_LINE_BREAK.pattern}\s*")

# Commands in the log of a CI system: `::error title=...::` at the start of a line, which wrapping
# may make of any place, and `##[error]` anywhere (actions/runner, ActionCommand.cs); `##vso[...]`
# of Azure Pipelines.
_COMMAND = re.compile(r"::(?=[A-Za-z-]+(?: |::))|(?<=#)#(?=(?:vso)?\[)")

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
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "`": r"\textasciigrave{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "]": "{]}",
        "*": "{*}",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
    }
)


def one_line(text: str) -> str:
    r"""Text on one line that terminals and logs only show; control characters become `\x1b`."""
    flat = text if text.isprintable() else _LINE_BREAKS.sub(" ", text)
    return _without_commands(_visible(flat.strip()))


def markdown_text(text: str) -> str:
    """Text that GitHub's Markdown shows as it is, also in a cell of a table."""
    return _MARKDOWN.sub(_markdown_escaped, one_line(text))


def _markdown_escaped(found: re.Match[str]) -> str:
    return _ENTITIES.get(found[0], f"{found[0][:-1]}\\{found[0][-1]}")


def markdown_code(text: str) -> str:
    """Text as code of Markdown, between more backticks than it has in a row."""
    flat = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{flat}{space}{fence}"


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is."""
    flat = one_line(text).translate(_LATEX)
    return flat.replace("--", "-{}-").replace("--", "-{}-")  # two in a row would become a dash


def csv_text(text: str) -> str:
    r"""Text as a cell on one line that no spreadsheet takes for a formula.

    What begins like one, or with an apostrophe, gets an apostrophe in front: whoever drops that
    has the text again. Control characters and line breaks become `\x0a`; spaces stay.
    """
    flat = _without_commands(_visible(_LINE_BREAK.sub(_code, text)))
    return f"'{flat}" if flat.lstrip().startswith(_FORMULA) or flat.startswith("'") else flat


def json_text(content: Any, **form: Any) -> str:
    """JSON that terminals only show, of the same content; `form` as for `json.dumps`."""
    text = json.dumps(content, **{"ensure_ascii": False, **form})
    return _NOT_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def script_json(content: Any) -> str:
    """JSON that may be inside an HTML script element, of texts that a page may show.

    Raises ValueError for NaN.
    """
    text = json_text(_shown(content), separators=(",", ":"), allow_nan=False)
    # What would end the element, or begin a comment or a tag in it.
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})


def html_value(value: Any) -> Any:
    """A value that a template of a web page shows; the template escapes HTML by itself."""
    return _visible(value) if type(value) is str else value


def annotation(kind: str, title: str, message: str) -> str:
    """A workflow command of GitHub Actions, which shows a message as an annotation.

    The escaping is that of github.com/actions/toolkit, packages/core/src/command.ts.
    """
    data, name = (one_line(text).replace("%", "%25") for text in (message, title))
    return f"::{kind} title={name.replace(':', '%3A').replace(',', '%2C')}::{data}"


def _visible(text: str) -> str:
    """Text with codes for control characters; white space stays."""
    return text if text.isprintable() else _CONTROL.sub(_code, text)


def _without_commands(text: str) -> str:
    return _COMMAND.sub(lambda found: _code(found) + found[0][1:], text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0][0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _shown(content: Any) -> Any:
    """The same content with texts as a page shows them."""
    if isinstance(content, Mapping):
        return {html_value(key): _shown(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_shown(value) for value in content]
    return html_value(content)
