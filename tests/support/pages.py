"""The commands that README.md and the pages of docs/ tell people to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))


class Typed(NamedTuple):
    """A command on a page, which may set environment variables before its words."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """The program and its arguments."""
        words = self.line.split()
        while words and re.match("[A-Z_]+=", words[0]):
            del words[0]
        return words

    @property
    def arguments(self) -> list[str]:
        """The arguments as a shell hands them over."""
        return shlex.split(self.line)[1 + len(self.line.split()) - len(self.words) :]


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def typed() -> list[Typed]:
    """Every line of every block of shell commands."""
    return [
        Typed(page.name, line)
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
    ]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures, without other sites and comments."""
    shown = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.S)
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"`[^`]*`", "", shown))
