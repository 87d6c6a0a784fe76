"""Which caption is chosen: solved by hand, by plain loops, and for a model that is constant."""

from __future__ import annotations

import numpy as np
import pytest
from support.results import metrics_of

from cosmos_eval.stats import choices
from cosmos_eval.stats.choices import pair_hits, products, single_hits
from cosmos_eval.stats.estimates import means_of_groups

EYE = np.eye(3, dtype=np.float32)


def test_single_images_solved_by_hand() -> None:
    # Scores of each caption with the three images.
    captions = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0.5], [0.9, 0.5, 0.5]], np.float32)
    hits = single_hits(
        products(EYE, captions),
        np.array([0, 0, 1, 2, 2]),
        [np.array(candidates) for candidates in ([0, 1], [0, 2], [1, 0, 2], [2, 0], [1, 0, 2])],
    )
    # The second item is a tie, and so is the last, with one of its two wrong captions.
    assert hits.tolist() == [True, False, True, True, False]
    hits_and_ties = single_hits(
        products(EYE, captions),
        np.array([0, 0, 2, 0]),
        [np.array(captions) for captions in ([0, 1], [0, 2], [1, 0, 2], [1, 0])],
        ties_are_hits=True,
    )
    assert hits_and_ties.tolist() == [True, True, True, False]


def test_images_that_score_highest_with_several_classes() -> None:
    # Scores of the three images with each class.
    classes = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0.5], [0.9, 0.5, 0.5]], np.float32)
    # The first image ties in classes 0 and 2, the second has a best class, the third ties in 1, 2.
    assert choices.count_shared_best(EYE, classes) == 2
    assert choices.count_shared_best(EYE[1:2], classes) == 0
    assert choices.count_shared_best(EYE, classes[:2]) == 0
    assert choices.count_shared_best(np.ones((7, 5), np.float32), np.ones((3, 5), np.float32)) == 7


@pytest.mark.parametrize("width", [1, 5, 513])
def test_a_constant_model_is_always_wrong(width: int) -> None:
    rng = np.random.default_rng(0)
    images = np.tile(rng.normal(size=width).astype(np.float32), (7, 1))
    captions = np.tile(rng.normal(size=width).astype(np.float32), (13, 1))
    several = [np.array([0, *range(1, 2 + i)]) for i in range(7)]
    assert not single_hits(products(images, captions), np.arange(7), several).any()
    two = np.array([[0, 1], [3, 5]])
    assert not np.any(pair_hits(products(images, captions), two, two))


@pytest.mark.parametrize("block_bytes", [1, 4 * 4 * 9, 64 << 20])
def test_hits_equal_loops_with_many_ties(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(3)
    # Small whole numbers: every product is exact, and many are equal.
    images = rng.integers(-2, 3, (11, 4)).astype(np.float32)
    captions = rng.integers(-2, 3, (17, 4)).astype(np.float32)
    scores = images @ captions.T
    image = rng.integers(0, 11, 60)
    candidates = [rng.permutation(17)[: rng.integers(2, 6)] for _ in range(60)]
    expected = []
    for i, (right, *wrong) in zip(image, candidates, strict=True):
        expected.append(all(scores[i, right] > scores[i, caption] for caption in wrong))
    assert single_hits(products(images, captions), image, candidates).tolist() == expected
    two_images = np.array([rng.permutation(11)[:2] for _ in range(60)])
    two_captions = np.array([rng.permutation(17)[:2] for _ in range(60)])
    hits = pair_hits(products(images, captions), two_images, two_captions)
    for n, ((i, j), (a, b)) in enumerate(zip(two_images, two_captions, strict=True)):
        assert hits.text[n] == (scores[i, a] > scores[i, b] and scores[j, b] > scores[j, a])
        assert hits.image[n] == (scores[i, a] > scores[j, a] and scores[j, b] > scores[i, b])


def test_metrics_and_subsets_by_hand() -> None:
    correct = np.array([True, True, False, True, False, False])
    subset = np.array([0, 0, 0, 2, 3, 3])
    by_subset = means_of_groups(["a", "b", "c", "d"], subset, {"accuracy": correct}, "items")
    accuracies = [means["accuracy"] for means in by_subset.values()]
    assert accuracies == [pytest.approx(2 / 3), None, 1, 0]
    averaged = np.array([True, True, True, False])
    samples = {
        "correct": correct,
        "text_correct": correct | (subset == 3),
        "image_correct": correct,
        "subset": subset,
        "averaged": averaged,
        "cluster": np.array([0, 0, 1, 2, 3, 4]),
    }
    assert metrics_of("select", samples) == {
        "accuracy": 0.5,
        "text_score": pytest.approx(5 / 6),
        "image_score": 0.5,
        "group_score": 0.5,
        # The second subset is empty, the fourth is left out.
        "mean_subset_accuracy": pytest.approx(5 / 6),
    }
    del samples["text_correct"], samples["image_correct"]
    halves = {"subset": np.array([0, 0, 0, 2, 2, 2]), "averaged": np.array([True] * 3)}
    assert metrics_of("select", {**samples, **halves}) == {"accuracy": 0.5}
    alone = {"subset": np.zeros(6, int), "averaged": np.array([True])}
    assert metrics_of("select", {**samples, **alone}) == {"accuracy": 0.5}


def test_features_that_are_not_finite() -> None:
    broken = np.where(EYE == 1, np.nan, EYE)
    with pytest.raises(ValueError, match="NaN"):
        single_hits(products(EYE, broken), np.array([0]), [np.array([0, 1])])
    with pytest.raises(ValueError, match="NaN"):
        pair_hits(products(broken, EYE), np.array([[0, 1]]), np.array([[0, 1]]))


@pytest.mark.parametrize(
    ("captions", "text", "image"),
    [
        ([[9, 2], [1, 8]], True, True),
        ([[3, 4], [2, 5]], True, False),  # the second image scores higher with both captions
        ([[3, 2], [4, 5]], False, True),  # the second caption scores higher with both images
        ([[1, 8], [9, 2]], False, False),
        ([[5, 5], [5, 5]], False, False),
        ([[2, 0], [0, 3]], True, True),
        ([[5, 2], [5, 8]], False, True),
        ([[2, 0], [2, 3]], False, True),  # both captions fit the first image equally well
        ([[3, 2], [0, 2]], False, True),  # ... the second image
        ([[2, 2], [0, 3]], True, False),  # both images fit the first caption equally well
        ([[3, 0], [2, 2]], True, False),  # ... the second caption
    ],
)
def test_pairs_solved_by_hand(captions: list[list[int]], text: bool, image: bool) -> None:
    """Rows are captions, columns their scores with two images; a tie is a miss."""
    first_and_second = np.array([[0, 1]])
    score = products(np.eye(2, dtype=np.float32), np.array(captions, np.float32))
    hits = pair_hits(score, first_and_second, first_and_second)
    assert (hits.text.tolist(), hits.image.tolist()) == ([text], [image])


@pytest.mark.parametrize(
    ("captions", "text", "image"),
    [
        ([[9, 2], [1, 8]], True, True),
        ([[5, 5], [5, 5]], True, True),
        ([[2, 0], [2, 3]], True, True),  # both captions fit the first image equally well
        ([[2, 2], [3, 3]], False, True),  # the second caption is better for both images
    ],
)
def test_pairs_with_ties_as_hits(captions: list[list[int]], text: bool, image: bool) -> None:
    """Rows are captions, columns their scores with two images."""
    score = products(np.eye(2, dtype=np.float32), np.array(captions, np.float32))
    item = np.array([[0, 1]])
    hits = pair_hits(score, item, item, ties_are_hits=True)
    assert (hits.text.tolist(), hits.image.tolist()) == ([text], [image])
