"""Options that several commands share: former spellings, columns of tables, contradictions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import cosmos_eval

RESULTS = Path(__file__).parents[3] / "results"


def test_former_spellings(command, tmp_path):
    """`--json` is short for `--format json`, and `--out` the former name of `--output`."""
    listed = command("list", "suites", "--format", "json").out
    assert listed == command("list", "suites", "--json").out
    assert listed.startswith("[")
    ended = command("leaderboard", RESULTS, "--format", "csv", "--out", "board.csv")
    assert (ended.status, ended.err.splitlines()[0]) == (0, "note: --out is now called --output")
    assert (tmp_path / "board.csv").read_text("utf-8").startswith("model,task")


@pytest.mark.slow
def test_options_of_tables_reach_a_comparison(command):
    models = ("--model", "scenes-cosmos", "--model", "scenes-clip")
    every = json.loads(command("compare", RESULTS, RESULTS, *models, "--json").out)
    chosen = json.loads(
        command("compare", RESULTS, *models, "--metrics", "mIoU,acc1", "--json").out
    )
    expected_tests = [test for test in every["tests"] if test["metric"] in ("mIoU", "acc1")]
    assert chosen["tests"] == expected_tests  # with Holm's p-values among all tests
    options = ("--decimals", "3", "--no-intervals", "--sort", "A - B")
    shown = command("compare", RESULTS, *models, *options, "--metrics", "acc1,acc5,mIoU").out
    differences = [float(number) for number in re.findall(r"(?<= )[+-]\d+\.\d{3}(?= )", shown)]
    tests = [test for test in every["tests"] if test["metric"] in ("acc1", "acc5", "mIoU")]
    expected = sorted(100 * test["difference"] for test in tests)
    assert differences == pytest.approx(expected, abs=0.0006)
    assert "[" not in shown.partition("─")[2]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("check", "", "--baseline", "b.json"), ""),
        (("check", ".", "--baseline", ""), " of --baseline"),
        (("check", ".", "--baseline="), " of --baseline"),
        (("verify", ""), ""),
        (("compare", ".", ""), ""),
        (("leaderboard", ""), ""),
        (("export", ""), ""),
        (("report", "", "--output", "a.html"), ""),
        (("plot", "compare", ""), ""),
        (("run", "--output", ""), " of --output"),
        (("run", "--data-root="), " of --data-root"),
        (("data", "doctor", "--data-root", ""), " of --data-root"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(words, option, command):
    ended = command(*words)
    assert (ended.status, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert f"the value{option} is empty (a variable that is not set?)" in line


def test_an_empty_path_is_refused_in_python():
    for call in (
        lambda: cosmos_eval.check("", baseline="b.json"),
        lambda: cosmos_eval.check(".", baseline=""),
        lambda: cosmos_eval.evaluate("scenes-clip", "scenes-cls", output=""),
        lambda: cosmos_eval.evaluate("scenes-clip", "voc20", data_root=""),
    ):
        with pytest.raises(cosmos_eval.UsageError, match=r" is empty: write \. for the current"):
            call()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "leaderboard {} --suite robustness --published --sort acc1",
            "--sort acc1: give model or rank, or add",
        ),
        (
            "leaderboard {} --suite robustness --published --metrics acc1",
            "need --members with --suite",
        ),
        (
            "leaderboard {} --sort acc7",
            "--sort acc7: give model, rank or a metric of the tables; nearest: acc1, ",
        ),
        (
            "reproduce {} --sort publish",
            "--sort publish: give a column of the table; nearest: published",
        ),
        ("reproduce {} --metrics acc", "no metric is called 'acc'; nearest: acc"),
        ("compare {}", "Missing argument 'B': name it, or give --model or --group twice"),
        ("compare {} {} --plan", "--plan and --same-seeds need --group, given twice"),
        ("compare {} {} --power 0.9", "--difference and --power go with --plan"),
        ("compare {} {} --difference 2", "--difference and --power go with --plan"),
        ("overlap a.tar --dataset scenes-cls --cosine 0.9", "name their --model SPEC"),
        (
            "run --dataset cifar10 imagenet1k --task cls",
            "(imagenet1k): repeat --dataset for each value (see --hel",
        ),
        ("run cifar10 --task cls", "(cifar10) (see --help)"),
        ("segment a.png --classes cat,,dog", "--classes 'cat,,dog' has an empty name"),
        ("run --transfer", "--transfer changes nothing without --tuned FILE"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, message, command):
    ended = command(*words.replace("{}", str(RESULTS)).split())
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
