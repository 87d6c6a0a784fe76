"""Names that do harm where they are taken for more than text, and how they are to be shown."""

from __future__ import annotations

import re
from typing import NamedTuple


class Hostile(NamedTuple):
    """A name, and its text on one line of a terminal; None: the name itself."""

    name: str
    text: str | None = None

    @property
    def shown(self) -> str:
        """The name on one line of a terminal, in XML, Markdown and LaTeX."""
        return self.name if self.text is None else self.text


HOSTILE = (
    Hostile("<script>alert(1)</script><img src=x onerror=alert(2)>"),
    Hostile('"\' onmouseover="alert(3)" x=\''),
    Hostile("</script><!--<style>&amp;&lt;"),
    Hostile("{{7*7}}{% raw %}${8*8}#{9*9}"),
    Hostile("a\n::error title=b::7", r"a \x3a:error title=b::7"),
    Hostile("::add-mask::8", r"\x3a:add-mask::8"),
    Hostile(
        "e ##[error]f ##vso[task.setvariable]g", r"e #\x23[error]f #\x23vso[task.setvariable]g"
    ),
    Hostile("\x1b[31mh\x1b]0;i\x07\x1b[2J", r"\x1b[31mh\x1b]0;i\x07\x1b[2J"),
    Hostile("j\x9b31mk\x7f\x00\x08\x90l", r"j\x9b31mk\x7f\x00\x08\x90l"),
    Hostile(
        "\u202em\u2066n\u2069o\u200bp\ufeffq\ufffe", r"\u202em\u2066n\u2069o\u200bp\ufeffq\ufffe"
    ),
    Hostile("r\u2028s\u2029t\rv\r\nw\tx", "r s t v w x"),
    Hostile("[red]a[/red] [/nothing] :smile: [link=http://b]c[/link] \\[d]"),
    Hostile("\\input{/etc/passwd}\\\\ $e_1^2$ %f #g &h ~i {j} `k' --l [m] *n"),
    Hostile("o|p `q` [r](http://s) ![t](u) **v** __w__ ~~x~~ <http://y> https://z www.a.b"),
    Hostile("# c"),
    Hostile("- d"),
    Hostile("12. e"),
    Hostile("> f"),
    Hostile('=cmd|"/C calc"!A0,g;h'),
    Hostile("+1+1"),
    Hostile("-2+3"),
    Hostile("@SUM(A1:A9)"),
    Hostile("\t=1+1", "=1+1"),
    Hostile("\r=2+2", "=2+2"),
    Hostile("'=3+3"),
    Hostile("__class__ é 漢字 👩\u200d🔬"),
)
"""Names of every kind; all are different, and so are their texts."""

# What terminals obey and what is no line of its own; `\n` ends lines.
_NOT_TEXT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# actions/runner, ActionCommand.cs: TryParseV2 and TryParse; Azure Pipelines has `##vso[`.
_COMMAND = re.compile(r"(?m)^\s*::[^:\n]*?::|##(?:vso)?\[")


def assert_only_text(output: str, commands: int = 0) -> None:
    """No control characters in what was printed, and not more commands than expected."""
    assert _NOT_TEXT.findall(output) == []
    assert len(_COMMAND.findall(output)) == commands
