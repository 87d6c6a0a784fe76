"""Modules of benchmarks/, imported for a test and forgotten after it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@contextmanager
def import_benchmarks(*names: str) -> Iterator[tuple[ModuleType, ...]]:
    """Import these modules; at the end, forget what was imported of their folder.

    What was imported of it before is kept, with all that it imports: modules that import each
    other are never a mixture of two imports.
    """
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        try:
            yield tuple(importlib.import_module(name) for name in names)
        finally:
            for name in set(sys.modules) - before:
                if (BENCHMARKS / f"{name}.py").is_file():
                    del sys.modules[name]
