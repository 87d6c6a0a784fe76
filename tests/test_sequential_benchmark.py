"""benchmarks/sequential.py: its replays are the package's sequences, at many looks at once."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from cosmos_eval.stats.estimates import GroupMean
from cosmos_eval.stats.paired import by_class
from cosmos_eval.stats.sequential import BoundedSequence, decide

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "sequential.py"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("margin", [None, 0.04])
@pytest.mark.parametrize("difference", [-0.05, 0.0, 0.05])
def test_replays_are_the_answers_of_sequences(benchmark, margin, difference):
    signs = benchmark["SIGNS"]
    shares = benchmark["shares_of_signs"](difference, 0.1)
    counts = np.random.default_rng(0).multinomial(50, shares, (5, 60))
    sums = counts.cumsum(1).astype(float)
    answers = benchmark["answers_of_counts"](sums, signs, -1, 1, margin)
    for replay in range(5):
        sequence = BoundedSequence(-1, 1)
        look, answer = 60, decide(sequence, 0.05, margin)
        for index in range(60):
            sequence.update(np.repeat(signs, counts[replay, index]))
            answer = decide(sequence, 0.05, margin)
            if answer != "undecided":
                look = index
                break
        assert (answers.look[replay], answers.decision[replay]) == (look, answer)


def test_recall_per_class_is_that_of_the_paired_test(benchmark):
    looks = np.array([20, 600, 4000])
    z = benchmark["z_of_recall"](3, looks, 10, 0.01)
    # The same draws.
    rng = np.random.default_rng(3)
    classes = rng.choice(10, 4000, p=[0.11] * 9 + [0.01])
    uniform = rng.random(4000)
    effects = np.array([0.5 / 9] * 9 + [-0.5])
    discordance = np.maximum(0.1, np.abs(effects))
    only_a = uniform < ((discordance + effects) / 2)[classes]
    only_b = uniform > 1 - ((discordance - effects) / 2)[classes]
    for index, n in enumerate(looks):
        a, b = GroupMean(only_a[:n], classes[:n]), GroupMean(only_b[:n], classes[:n])
        paired = by_class(a, b)
        assert z[index] == pytest.approx(paired.difference / paired.error)


def test_wrong_answers_by_hand(benchmark):
    decisions = np.array(["undecided", "A better", "B better"])
    is_wrong = benchmark["is_wrong"]
    assert is_wrong(decisions, np.array([True, False, True]))
    assert is_wrong(decisions[:2], np.array([True, True]))
    assert is_wrong(decisions[2:], np.array([False]))
    assert not is_wrong(decisions[:2], np.array([True, False]))
