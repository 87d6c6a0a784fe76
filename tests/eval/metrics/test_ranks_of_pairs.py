"""Candidates by embeddings, and their ranks by scores of pairs: by hand, and by plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_eval.stats import retrieval
from cosmos_eval.stats.retrieval import (
    Candidates,
    RetrievalRanks,
    best_candidates,
    ranks_of_pairs,
    retrieval_ranks,
)

OWNER = np.array([0, 0, 1, 2])


def test_candidates_solved_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0.3], [0.5, 0.5, 0.1], [0, 0, 0.7]], np.float32)
    found = best_candidates(images, texts, 2)
    assert found.texts.tolist() == [[0, 2], [1, 2], [1, 3]]
    # The first two images tie for the third text, all but the last for the fourth.
    assert found.images.tolist() == [[0, 1], [1, 2], [0, 1], [0, 2]]
    assert best_candidates(images, texts, 9).images.tolist() == [[0, 1, 2]] * 4


@pytest.mark.parametrize("block_bytes", [1, 4 * 37 * 3, 64 << 20])
def test_candidates_equal_a_stable_sort(block_bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(1)
    images = rng.integers(-2, 3, (23, 4)).astype(np.float32)  # exact products, many ties
    texts = rng.integers(-2, 3, (37, 4)).astype(np.float32)
    found = best_candidates(images, texts, 5)
    for items, scores in ((found.texts, images @ texts.T), (found.images, texts @ images.T)):
        order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        np.testing.assert_array_equal(items, np.sort(order, axis=1))


def test_ranks_solved_by_hand() -> None:
    """Text 1 has not its image among its candidates, image 2 none of its texts."""
    candidates = Candidates(
        texts=np.array([[0, 1, 3], [0, 2, 3], [0, 1, 2]]),
        images=np.array([[0, 1], [1, 2], [0, 1], [1, 2]]),
    )
    scores = np.array([[0.5, 0.1, 0.2, 0.6], [0.4, 0.3, 0.3, 0.3], [0.9, 0.9, 0.9, 0.3]])
    first = RetrievalRanks(np.array([7, 7, 4]), np.array([7, 3, 7, 7]))
    found = ranks_of_pairs(candidates, lambda i, t: scores[i, t], OWNER, first)
    # Of texts 1 and 0 of image 0 the better one counts; image 1 ties with text 3, after text 0.
    assert found.image_to_text.tolist() == [2, 3, 4]
    # Text 3's image ties with image 1.
    assert found.text_to_image.tolist() == [1, 3, 1, 2]


def ranks_by_loops(scores: np.ndarray, first: np.ndarray, own: np.ndarray, k: int) -> list[int]:
    """The k first by `first`, sorted anew; a tie counts against the right items."""
    ranks = []
    for query, right in enumerate(own):
        order = np.argsort(-first[query], kind="stable")
        top, rest = order[:k], order[k:]
        if right[top].any():
            best = scores[query, top][right[top]].max()
            ranks.append(1 + sum(scores[query, i] >= best for i in top if not right[i]))
        else:
            best = first[query, rest][right[rest]].max()
            ranks.append(1 + sum(first[query, i] >= best for i in order if not right[i]))
    return ranks


@pytest.mark.parametrize("block_bytes", [1, 1000, 64 << 20])
@pytest.mark.parametrize("k", [1, 4, 40])
def test_ranks_equal_loops_with_many_ties(k, block_bytes, monkeypatch) -> None:
    rng = np.random.default_rng(k)
    images = rng.integers(-2, 3, (11, 4)).astype(np.float32)
    owner = np.sort(np.concatenate([np.arange(11), rng.integers(0, 11, 12)]))
    texts = rng.integers(-2, 3, (len(owner), 4)).astype(np.float32)
    scores = rng.integers(0, 4, (11, len(owner))).astype(np.float32)
    first = retrieval_ranks(images, texts, owner)
    candidates = best_candidates(images, texts, k)
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", block_bytes)
    found = ranks_of_pairs(candidates, lambda i, t: scores[i, t], owner, first)
    own, products = owner == np.arange(11)[:, None], images @ texts.T
    assert found.image_to_text.tolist() == ranks_by_loops(scores, products, own, k)
    assert found.text_to_image.tolist() == ranks_by_loops(scores.T, products.T, own.T, k)


def test_a_constant_score_ranks_right_candidates_last() -> None:
    every = Candidates(np.tile(np.arange(4), (3, 1)), np.tile(np.arange(3), (4, 1)))
    first = RetrievalRanks(np.ones(3, int), np.ones(4, int))
    found = ranks_of_pairs(every, lambda i, t: np.zeros(np.broadcast(i, t).shape), OWNER, first)
    assert (found.image_to_text.tolist(), found.text_to_image.tolist()) == ([3, 4, 4], [3] * 4)
