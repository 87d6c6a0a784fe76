"""Style sheet and scripts of a page, and the policy that lets these texts alone be used."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

# Read in this order, into one function.
_SCRIPTS = (
    *("common", "theme", "tables", "filters", "origins"),
    *("compare", "charts", "pictures", "slider", "paper"),
)


def style_sheet() -> str:
    """The style sheet, with a class for the length of every bar of whole percent."""
    lengths = "".join(f".w{step}{{--w:{step}%}}" for step in range(101))
    return _read("page.css") + lengths + "\n"


def program_of_page() -> str:
    """All scripts in one function, so that the page's window has no names of theirs."""
    parts = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def policy(style: str, scripts: Sequence[str]) -> str:
    """What a browser may run and load: these texts, and pictures that the page holds."""
    hashes = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return files("cosmos_eval.report").joinpath("static", name).read_text("utf-8")
