"""The documentation names modules, functions and layers that exist."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
_NAME = re.compile(r"\bcosmos_(?:eval|core)(?:\.[A-Za-z_]\w*)+")
NAMES_BY_PAGE = {
    path.name: sorted(set(_NAME.findall(path.read_text("utf-8"))))
    for path in (
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    )
}
NAMES = sorted(set(re.findall(r"`(cosmos_(?:eval|core)(?:\.\w+)+)`", PAGE)))


def resolve(name: str) -> Any:
    """Import the longest module of a dotted name and follow its attributes."""
    parts = name.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[stop:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(f"{name} does not exist")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_page_exist(name):
    assert callable(resolve(name)), name


@pytest.mark.parametrize("page", [page for page, names in NAMES_BY_PAGE.items() if names])
def test_names_of_all_pages_exist(page):
    for name in NAMES_BY_PAGE[page]:
        resolve(name)


def test_the_picture_has_the_layers_that_are_checked():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    picture = PAGE.split("```")[1]
    for contract in contracts["contracts"]:
        for layer in contract.get("layers", []):
            for package in layer.split(" | "):
                name = package.partition(".")[2]
                assert re.search(rf"\b{name}\b", picture), package
