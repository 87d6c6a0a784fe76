"""Ties by the samples that lie beside real result files."""

import numpy as np
import pytest
from support.rows import make_row, write_result

from cosmos_eval.results.leaderboard import ranking
from cosmos_eval.results.leaderboard.entries import entries_of
from cosmos_eval.results.leaderboard.ranking import find_ties
from cosmos_eval.results.leaderboard.writers import Leaderboard, to_markdown
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.table import TableOptions
from cosmos_eval.types import UsageError

N = 200
SAME_LIST = {"hashes": {"sample_list": "1" * 64}}
# One-sided, of the normal distribution beyond 1.507 and 3.086 standard errors.
NEAR, APART = pytest.approx(0.0659, abs=5e-4), pytest.approx(0.00101, abs=2e-5)
CLOSE = {"acc1": {"low": 0.5, "high": 0.7, "method": "wilson", "level": 0.95}}


CLASSES = np.array(["a", "b"])


@pytest.fixture
def board(tmp_path):
    """Three models: the second misses 3 images more than the best, the third 10 more; nothing else.

    Agresti and Min's interval is (b - c) / (N + 2) +- 1.96 times its error: 0.015 +- 0.019, which
    covers 0, and 0.050 +- 0.031, which does not.
    """
    labels = np.zeros(N, np.int64)
    for model, hits in (("best", 120), ("near", 117), ("apart", 110)):
        top5 = np.where(np.arange(N) < hits, 0, 1)[:, None]
        row = make_row(
            SAME_LIST, {"spec": model}, metrics={"acc1": hits / N}, intervals=CLOSE, n_samples=N
        )
        write_result(tmp_path, row, {"labels": labels, "top5": top5, "classes": CLASSES})
    return tmp_path


def reported(folder, rule):
    entries = entries_of(read_stored(result_paths(folder)))
    ties = find_ties(entries, rule)
    return {pair.other.model: tied for pair, tied in ties.items()}, to_markdown(
        Leaderboard(entries, ties, options=TableOptions(ranks=True))
    )


@pytest.mark.parametrize("rule", ["auto", "paired"])
def test_samples_tell_apart_what_intervals_do_not(board, rule):
    ties, text = reported(board, rule)
    assert ties == {"near": NEAR, "apart": APART}
    assert "| near | 58.5† +11.5/-8.5 (1-3) |" in text
    assert "| apart | 55.0 +15.0/-5.0 (2-3) |" in text
    assert "† tied with the best: a test of the difference on the same samples" in text


def test_intervals_alone_read_no_samples(board):
    for archive in board.glob("*.npz"):
        archive.unlink()
    ties, text = reported(board, "intervals")
    assert ties == {}
    assert "| near | 58.5‡ +11.5/-8.5 (1-3) |" in text
    assert "| apart | 55.0‡ +15.0/-5.0 (1-3) |" in text


def test_pairs_without_samples_fall_back_or_are_refused(board):
    next(board.glob("near*.npz")).unlink()
    ties, text = reported(board, "auto")
    assert ties == {"apart": APART}
    assert "| near | 58.5‡" in text
    with pytest.raises(UsageError, match=r"near.*cannot be read"):
        reported(board, "paired")


@pytest.mark.parametrize(
    ("provenance", "label", "message"),
    [
        ({"hashes": {}}, 0, "hashes.sample_list is 1+ and missing"),
        (SAME_LIST, 1, "`labels` of the samples differs"),
    ],
)
def test_samples_of_other_images_are_not_compared(board, provenance, label, message):
    figures = {"metrics": {"acc1": 0.585}, "intervals": CLOSE, "n_samples": N}
    labels = np.full(N, label)
    row = make_row(provenance, {"spec": "near"}, **figures)
    write_result(board, row, {"labels": labels, "top5": labels[:, None], "classes": CLASSES})
    assert reported(board, "auto")[0] == {"apart": APART}
    with pytest.raises(UsageError, match=message):
        reported(board, "paired")


def test_a_result_on_another_list_of_samples_is_in_another_column(board):
    row = make_row(
        {"hashes": {"sample_list": "2" * 64}},
        {"spec": "near"},
        metrics={"acc1": 0.585},
        intervals=CLOSE,
        n_samples=N,
    )
    labels = np.zeros(N, np.int64)
    write_result(board, row, {"labels": labels, "top5": labels[:, None], "classes": CLASSES})
    ties, text = reported(board, "paired")
    assert ties == {"apart": APART}
    assert "(sample list 22222222)" in text


def test_many_close_pairs_are_left_to_intervals_unless_asked_for(board, monkeypatch):
    monkeypatch.setattr(ranking, "_MOST_PAIRS", 1)
    assert reported(board, "auto")[0] == {}
    assert len(reported(board, "paired")[0]) == 2
