"""A result to vary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.rows import make_row

from cosmos_eval.results.record import ResultRow


@pytest.fixture(name="make_row")
def make_row_fixture() -> Callable[..., ResultRow]:
    return make_row
