"""What the benchmarks share: order of rounds, medians, ratios, targets, and the printed list."""

import itertools
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "_report.py"
bench = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_every_round_runs_all_functions_and_warmup_is_not_counted():
    calls = []
    ticks = itertools.count()  # each function takes one tick, less what it skips
    functions = {
        "slow": lambda: (calls.append("slow"), next(ticks), next(ticks)),
        "fast": lambda: calls.append("fast"),
    }
    seconds = bench.interleave(functions, rounds=3, warmup=1, clock=lambda: next(ticks))
    assert calls == ["slow", "fast"] * 4
    assert seconds == {"slow": ((3, 3, 3),), "fast": ((1, 1, 1),)}


def test_ratios_are_of_the_same_round():
    slow, fast = bench.Spread((6.0, 20.0, 9.0)), bench.Spread((3.0, 5.0, 3.0))
    ratio = slow.over(fast)
    assert ratio.rounds == (2.0, 4.0, 3.0)
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 2.0, 4.0)
    assert fast.per(15).rounds == (5.0, 3.0, 5.0)


@pytest.mark.parametrize(
    ("value", "bound", "met"),
    [
        (1.3, {"at_least": 1.3}, True),
        (1.29, {"at_least": 1.3}, False),
        (0.8, {"at_most": 0.8}, True),
        (0.81, {"at_most": 0.8}, False),
        (5.0, {}, None),
    ],
)
def test_targets_are_met_at_their_bounds(value, bound, met):
    line = bench.measurement("name", value, "x", **bound)
    assert (line.value, line.target, line.met) == (value, next(iter(bound.values()), None), met)


def test_json_is_a_list_of_the_agreed_keys(capsys):
    spread = bench.Spread((1.0, 2.0, 4.0))
    lines = [bench.measurement("speed", spread, "x", at_least=1.5), bench.measurement("t", 3, "s")]
    bench.report("title", lines, as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"name": "speed", "value": 2.0, "unit": "x", "target": 1.5, "met": True},
        {"name": "t", "value": 3, "unit": "s", "target": None, "met": None},
    ]


def test_table_shows_median_spread_and_target(capsys):
    line = bench.measurement("speed", bench.Spread((1.0, 2.0, 4.0)), "x", at_least=2.5)
    bench.report("title", [line], as_json=False)
    row = next(text for text in capsys.readouterr().out.splitlines() if "speed" in text)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells == ["speed", "2", "x", "1 to 4", "2.5", "NO"]
