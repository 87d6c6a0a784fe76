"""324 damaged inputs, the same in every run; `benchmarks/fuzz.py` tries thousands of others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from support.fuzzed_inputs import KINDS
from support.fuzzing import Fuzzer

pytestmark = pytest.mark.slow  # starts processes of its own

CASES = {"images": 30, "tars": 40, "checkpoint": 20, "baseline": 18}
OTHERS = 8


def test_there_are_300_cases_or_more():
    assert sum(CASES.get(name, OTHERS) for name in KINDS) >= 300


@pytest.mark.parametrize("name", KINDS)
def test_a_right_number_or_one_line(name: str, tmp_path: Path):
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from hypothesis.configuration import set_hypothesis_home_dir

    # It keeps tables of characters even without its database; they are not to be in the tree.
    set_hypothesis_home_dir(tempfile.gettempdir())
    fuzzer = Fuzzer(KINDS[name], tmp_path)

    @settings(
        max_examples=CASES.get(name, OTHERS),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def run(rng: Random) -> None:
        fuzzer.case(rng)

    run()
