"""Stored results for the commands that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.rows import make_row

from cosmos_eval.results.store import write_result


@pytest.fixture
def make_result() -> Callable[[Path], Path]:
    """Write the plain result into a folder."""
    return lambda folder: write_result(folder, make_row(), {"x": np.arange(3)})
