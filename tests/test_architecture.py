"""docs/architecture.md names modules, functions and layers that exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text("utf-8")
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
