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

# The image that each of four texts belongs to.
IMAGE_OF_TEXT = np.array([0, 0, 1, 2])


def test_candidates_solved_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0.3], [0.5, 0.5, 0.1], [0, 0, 0.7]], np.float32)
    candidates = best_candidates(images, texts, 2)
    assert candidates.texts.tolist() == [[0, 2], [1, 2], [1, 3]]
    # The first two images tie for the third text, and for the second place of the fourth text.
    assert candidates.images.tolist() == [[0, 1], [1, 2], [0, 1], [0, 2]]
    assert best_candidates(images, texts, 9).images.tolist() == [[0, 1, 2]] * 4


@pytest.mark.parametrize("block_bytes", [1, 4 * 37 * 3, 64 << 20])
def test_candidates_equal_a_stable_sort(block_bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(1)
    images = rng.integers(-2, 3, (23, 4)).astype(np.float32)  # exact products, many ties
    texts = rng.integers(-2, 3, (37, 4)).astype(np.float32)
    candidates = best_candidates(images, texts, 5)
    for indices, products in (
        (candidates.texts, images @ texts.T),
        (candidates.images, texts @ images.T),
    ):
        best_five = np.argsort(-products, axis=1, kind="stable")[:, :5]
        np.testing.assert_array_equal(indices, np.sort(best_five, axis=1))


class ScoreTable:
    """Scores of pairs of an image and a text, looked up in a table (images, texts)."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def __call__(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return self.scores[images, texts]


def test_ranks_solved_by_hand() -> None:
    """The image of text 1 is not among its candidates, nor are the texts of image 2."""
    candidates = Candidates(
        texts=np.array([[0, 1, 3], [0, 2, 3], [0, 1, 2]]),
        images=np.array([[0, 1], [1, 2], [0, 1], [1, 2]]),
    )
    scores = np.array([[0.5, 0.1, 0.2, 0.6], [0.4, 0.3, 0.3, 0.3], [0.9, 0.9, 0.9, 0.3]])
    embedding_ranks = RetrievalRanks(np.array([7, 7, 4]), np.array([7, 3, 7, 7]))
    ranks = ranks_of_pairs(candidates, ScoreTable(scores), IMAGE_OF_TEXT, embedding_ranks)
    # Of texts 0 and 1 of image 0, the better one counts. The text of image 1 comes after text 0
    # and ties with text 3.
    assert ranks.image_to_text.tolist() == [2, 3, 4]
    # The image of text 3 ties with image 1.
    assert ranks.text_to_image.tolist() == [1, 3, 1, 2]


def ranks_by_loops(
    scores: np.ndarray, products: np.ndarray, is_right: np.ndarray, k: int
) -> list[int]:
    """Return the rank of the best right item of each query. A tie counts against it.

    The k items of the highest products are sorted again by their scores. If none of them is right,
    the rank by the products stays.

    Args:
        scores: The score (queries, items) of each pair.
        products: The product (queries, items) of the embeddings of each pair.
        is_right: Whether each item belongs to the query, (queries, items).
        k: The number of candidates of a query.
    """
    ranks = []
    for query_scores, query_products, right in zip(scores, products, is_right, strict=True):
        order = np.argsort(-query_products, kind="stable")
        candidates, other_items = order[:k], order[k:]
        if right[candidates].any():
            best_right = query_scores[candidates][right[candidates]].max()
            ahead = [query_scores[i] >= best_right for i in candidates if not right[i]]
        else:
            best_right = query_products[other_items][right[other_items]].max()
            ahead = [query_products[i] >= best_right for i in order if not right[i]]
        ranks.append(1 + sum(ahead))
    return ranks


@pytest.mark.parametrize("block_bytes", [1, 1000, 64 << 20])
@pytest.mark.parametrize("k", [1, 4, 40])
def test_ranks_equal_loops_with_many_ties(k, block_bytes, monkeypatch) -> None:
    rng = np.random.default_rng(k)
    images = rng.integers(-2, 3, (11, 4)).astype(np.float32)
    image_of_text = np.sort(np.concatenate([np.arange(11), rng.integers(0, 11, 12)]))
    n_texts = len(image_of_text)
    texts = rng.integers(-2, 3, (n_texts, 4)).astype(np.float32)
    scores = rng.integers(0, 4, (11, n_texts)).astype(np.float32)
    embedding_ranks = retrieval_ranks(images, texts, image_of_text)
    candidates = best_candidates(images, texts, k)
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", block_bytes)
    ranks = ranks_of_pairs(candidates, ScoreTable(scores), image_of_text, embedding_ranks)
    is_right = image_of_text == np.arange(11)[:, None]
    products = images @ texts.T
    assert ranks.image_to_text.tolist() == ranks_by_loops(scores, products, is_right, k)
    assert ranks.text_to_image.tolist() == ranks_by_loops(scores.T, products.T, is_right.T, k)


def test_a_constant_score_ranks_right_candidates_last() -> None:
    """All texts are candidates of all images, and the other way around."""
    candidates = Candidates(
        texts=np.tile(np.arange(4), (3, 1)), images=np.tile(np.arange(3), (4, 1))
    )
    embedding_ranks = RetrievalRanks(np.ones(3, int), np.ones(4, int))
    constant = ScoreTable(np.zeros((3, 4)))
    ranks = ranks_of_pairs(candidates, constant, IMAGE_OF_TEXT, embedding_ranks)
    assert ranks.image_to_text.tolist() == [3, 4, 4]
    assert ranks.text_to_image.tolist() == [3] * 4
