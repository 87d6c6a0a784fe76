"""Recall by the length of captions: bins solved by hand, and what results store."""

from __future__ import annotations

import numpy as np
import pytest
from support.models import retrieval_samples
from support.rows import make_row

from cosmos_eval.results.leaderboard.board import make_boards
from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.results.leaderboard.ranking import rank_entries
from cosmos_eval.stats.intervals import intervals, wilson
from cosmos_eval.stats.lengths import length_bins
from cosmos_eval.tasks import retrieval

FIGURES = ("image_to_text_R@1", "text_to_image_R@1")


def bins_of(captions_of_length: dict[int, int]):
    """Return the bins of shuffled captions, one per image.

    Captions of an even number of words are hits, and captions of more than 60 words are cut.

    Args:
        captions_of_length: The number of captions of each number of words.
    """
    words = np.repeat([*captions_of_length], [*captions_of_length.values()])
    words = np.random.default_rng(0).permutation(words)
    return length_bins(words, words > 60, words % 2 == 0, np.arange(len(words)))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        # Bins end where they have 100 captions; what is left belongs to the last one.
        ({5: 60, 6: 40, 9: 100, 30: 99}, {"5-6 words": 100, "9-30 words": 199}),
        ({5: 99, 7: 1, 8: 100, 9: 100}, {"5-7 words": 100, "8 words": 100, "9 words": 100}),
        # A length is never divided.
        ({5: 1, 6: 500, 7: 1, 8: 500}, {"5-6 words": 501, "7-8 words": 501}),
        # At most eight bins: an eighth of 1,616 is 202.
        (dict.fromkeys(range(1, 17), 101), {f"{i}-{i + 1} words": 202 for i in range(1, 16, 2)}),
        # One bin is none.
        ({5: 199}, {}),
        ({5: 99, 6: 99}, {}),
        ({}, {}),
    ],
)
def test_lengths_and_sizes_of_bins(lengths, expected):
    assert {length_bin.name: length_bin.captions for length_bin in bins_of(lengths)} == expected


def test_figures_of_bins():
    """40 of 100 captions of 5 or 6 words are hits, and 25 of 100 of 61 or 62, which are cut."""
    first, second = bins_of({5: 60, 6: 40, 61: 75, 62: 25})
    assert (first.recall.value, first.cut) == (0.4, 0)
    assert (second.recall.value, second.cut) == (0.25, 1)


def test_intervals_count_images_and_not_their_captions():
    """Four copies of each caption are all right or all wrong, and do not narrow the intervals."""

    def intervals_of_copies(copies: int):
        bins = length_bins(
            np.repeat([5, 9], 100 * copies),
            np.zeros(200 * copies, bool),
            np.repeat(np.arange(200) % 2 == 0, copies),
            np.repeat(np.arange(200), copies),
        )
        return intervals({length_bin.name: length_bin.recall for length_bin in bins})

    of_four_copies = intervals_of_copies(4)
    for name, interval in intervals_of_copies(1).items():
        assert interval[:2] == pytest.approx(wilson(50, 100)[:2])
        assert of_four_copies[name][:2] == pytest.approx(interval[:2])


def test_intervals_near_100_percent_cover_the_recall():
    """200 studies of 120 images with two captions of 5 words and two of 9.

    The captions of an image are missed together, and the recall is 99%. A percentile bootstrap
    covers it in 87% of the studies and is often a point.
    """
    words, image_of_text = np.tile([5, 5, 9, 9], 120), np.repeat(np.arange(120), 4)
    covered, points = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hits = rng.random(480) < rng.beta(2.31, 0.0233, 120)[image_of_text]
        bins = length_bins(words, np.zeros(480, bool), hits, image_of_text)
        estimates = {length_bin.name: length_bin.recall for length_bin in bins}
        for interval in intervals(estimates, resamples=400).values():
            covered.append(interval.low <= 0.99 <= interval.high)
            points.append(interval.low == interval.high)
    assert 0.93 <= np.mean(covered) <= 0.98
    assert not any(points)


def samples_of(n: int, cut: float):
    rng = np.random.default_rng(1)
    words = rng.integers(5, 200, n)
    ranks = rng.integers(1, 4, n)
    return {
        "image_to_text_rank": ranks,
        "text_to_image_rank": ranks,
        "image_of_text": np.arange(n),
        "words": words,
        "cut": words > np.quantile(words, 1 - cut) if cut else np.zeros(n, bool),
    }


def test_a_result_has_the_share_cut_and_figures_of_bins():
    samples = samples_of(400, cut=0.25)
    figures = retrieval.TASK.figures(samples, seed=0)
    assert figures.metrics["captions_cut"] == samples["cut"].mean()
    assert samples["cut"].mean() == pytest.approx(0.25, abs=0.01)
    assert len(figures.per_class) == 3
    for name, figures_of_bin in figures.per_class.items():
        low, high = map(int, name.removesuffix(" words").split("-"))
        in_bin = (samples["words"] >= low) & (samples["words"] <= high)
        assert figures_of_bin == {
            "text_to_image_R@1": (samples["text_to_image_rank"][in_bin] == 1).mean(),
            "captions_cut": samples["cut"][in_bin].mean(),
            "captions": in_bin.sum(),
        }


def test_results_of_older_versions_have_no_lengths():
    samples = retrieval_samples(0.5, np.random.default_rng(0))
    older = {name: array for name, array in samples.items() if name not in ("words", "cut")}
    figures = retrieval.TASK.figures(older, seed=0)
    assert figures.per_class == {}
    assert "captions_cut" not in figures.metrics


def entries_with(**cut: float):
    rows = [
        make_row(
            task="retrieval",
            dataset="docci",
            model={"spec": name},
            metrics={**dict.fromkeys(FIGURES, 0.5), "captions_cut": share},
            intervals={},
        )
        for name, share in cut.items()
    ]
    return entries_of_rows(rows)


def test_the_share_cut_is_shown_where_it_is_not_0_and_never_ranked():
    (board,) = make_boards(entries_with(a=0.0, b=0.0))
    assert [column.metric for column in board.columns] == [*FIGURES]
    assert not any("cut" in note for note in board.notes)
    entries = entries_with(a=0.931, b=0.0)
    (board,) = make_boards(entries)
    assert [column.title for column in board.columns][-1] == "captions cut"
    assert [(row.cells[-1].value, row.cells[-1].best) for row in board.rows] == [
        ("93.1", False),
        ("0.0", False),
    ]
    assert any(note.startswith("Captions cut: ") for note in board.notes)
    assert {metric for _, metric in rank_entries(entries)} == {*FIGURES}


def test_recall_of_random_ties_stands_beside_recall():
    """A column of its own where some result has ties, and a note; it is never ranked."""
    entries = entries_with(a=0.0, b=0.0)
    name = "image_to_text_R@1_random_ties"
    tied = entries[0]._replace(metrics={**entries[0].metrics, name: 0.625})
    (board,) = make_boards([tied, entries[1]])
    assert [column.metric for column in board.columns] == [FIGURES[0], name, FIGURES[1]]
    assert [row.cells[1].value for row in board.rows] == ["62.5", ""]
    assert board.columns[1].title == "image to text R@1, random ties"
    assert any(note.startswith("Random ties: ") for note in board.notes)
    assert {metric for _, metric in rank_entries([tied, entries[1]])} == {*FIGURES}
    (plain,) = make_boards(entries)
    assert not any(note.startswith("Random ties: ") for note in plain.notes)
