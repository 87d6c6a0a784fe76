"""benchmarks/scale.py: what it counts is what it says."""

import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return runpy.run_path(str(SCRIPT))


def test_the_peak_of_tensors_by_hand(benchmark):
    with benchmark["Peak"]() as peak:
        first = torch.empty(1000, dtype=torch.uint8)
        first.view(10, 100)  # has no storage of its own
        del first
        torch.empty(1500, dtype=torch.uint8)
    assert (peak.bytes, peak.largest) == (0, 1500)


def test_a_loss_in_chunks_takes_a_tenth_of_the_plain_one(benchmark):
    _, chunked, narrow = benchmark["_loss_lines"]()
    gathered = 30 * 32_768 * 512 * 4 / 1e9  # features of all processes
    assert gathered < chunked.value < 1.3 * gathered
    assert narrow.value < 0.7 * chunked.value
