"""A number is rounded once and halves up, in every table, by hand and by exact arithmetic."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from cosmos_eval.results.compare import MetricTest, to_cells
from cosmos_eval.results.gate import reports
from cosmos_eval.results.gate.baseline import Key
from cosmos_eval.results.gate.check import Finding
from cosmos_eval.results.table import TableOptions
from cosmos_eval.results.text import difference_text, percent, round_metric, rounded
from cosmos_eval.stats.paired import independent_difference
from cosmos_eval.tasks import metric_of


@pytest.mark.parametrize(
    ("value", "decimals", "factor", "expected"),
    [
        (0.6705, 1, 100, "67.1"),  # the float is 67.04999...
        (0.7835, 1, 100, "78.4"),
        (0.78345, 2, 100, "78.35"),
        (0.78345, 1, 100, "78.3"),  # not 78.4, which is 78.35 rounded again
        (-0.6705, 1, 100, "-67.1"),
        (0.125, 2, 1, "0.13"),
        (2.5, 0, 1, "3"),
        (Decimal("0.11345"), 2, 100, "11.35"),
        (np.float64(0.6705), 1, 100, "67.1"),
        (1, 1, 100, "100.0"),
    ],
)
def test_halves_are_rounded_up(value, decimals, factor, expected):
    assert str(rounded(value, decimals, factor)) == expected


def test_rounding_is_exact_arithmetic_on_the_written_digits():
    rng = np.random.default_rng(0)
    values = [*rng.random(2000).tolist(), *(rng.integers(0, 20001, 2000) / 20000).tolist()]
    for value in values:
        units = math.floor(Fraction(repr(value)) * 1000 + Fraction(1, 2))  # in tenths of a percent
        assert percent(value) == Decimal(units) / 10


def test_numbers_that_are_not_finite_stay():
    assert TableOptions().format_number(float("inf"), 100) == "Infinity"
    assert rounded(float("nan"), 1).is_nan()


def test_metrics_of_unknown_tasks_have_up_to_four_decimals():
    unknown = metric_of("elsewhere", "hits")
    values = {0.5: "0.5", 0.12345: "0.1235", 100.0: "100.0", 2.00005: "2.0001"}
    assert {value: str(round_metric(unknown, value)) for value in values} == values


def test_compare_and_check_round_as_the_leaderboard_does():
    difference = independent_difference(0.78345, 0.67, 0.01, 100)
    cells = to_cells(MetricTest("d", "p", "cls", "acc1", difference, detectable=0.010005))
    assert (cells["A"], cells["B"], cells["detectable"]) == ("78.35", "67.00", "1.00")
    assert cells["A - B [95%]"].startswith("+11.35 [+")
    finding = Finding(Key("m", "d", "p"), "cls", "acc1", difference, detectable=0.01005)
    checked = reports.to_cells(finding)
    assert (checked["new"], checked["baseline"]) == ("78.35", "67.00")
    assert checked["detectable"] == "1.01"
    assert checked["change [95%]"] == cells["A - B [95%]"]
    one_decimal = to_cells(
        MetricTest("d", "p", "cls", "acc1", difference), TableOptions(decimals=1, intervals=False)
    )
    assert (one_decimal["A"], one_decimal["A - B"]) == (str(percent(0.78345)), "+11.3")
    assert difference_text(0.78345, 0.67) == "+11.3"
