"""Ranks and recalls: solved by hand, by plain loops, by CLIP Benchmark, and as recorded."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from support.results import retrieval_metrics

from cosmos_eval.stats import retrieval
from cosmos_eval.stats.estimates import first_equal
from cosmos_eval.stats.retrieval import retrieval_ranks

PARITY = Path(__file__).parents[2] / "parity"


def ranks_by_loops(scores: np.ndarray, positive: np.ndarray) -> list[int]:
    """The tie rule word for word: equals of the best positive count as above it."""
    ranks = []
    for row, own in zip(scores, positive, strict=True):
        best = max(row[own])
        ranks.append(1 + sum(value >= best for value in row[~own]))
    return ranks


def test_solved_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    # Rows are scores of a text with the three images; the third text ties with a wrong image.
    texts = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0.3], [0.5, 0.5, 0.1], [0, 0, 0.7]], np.float32)
    ranks = retrieval_ranks(images, texts, [0, 0, 1, 2])
    assert ranks.text_to_image.tolist() == [1, 3, 2, 1]
    assert ranks.image_to_text.tolist() == [1, 2, 1]
    assert retrieval_metrics(ranks) == {
        "image_to_text_R@1": pytest.approx(2 / 3),
        "image_to_text_R@5": 1.0,
        "image_to_text_R@10": 1.0,
        "image_to_text_mean_rank": pytest.approx(4 / 3),
        "image_to_text_median_rank": 1.0,
        "text_to_image_R@1": 0.5,
        "text_to_image_R@5": 1.0,
        "text_to_image_R@10": 1.0,
        "text_to_image_mean_rank": 1.75,
        "text_to_image_median_rank": 1.5,
    }


def test_a_constant_model_is_ranked_last() -> None:
    ranks = retrieval_ranks(
        np.ones((4, 2), np.float32), np.ones((6, 2), np.float32), [0, 1, 2, 3, 3, 3]
    )
    assert ranks.text_to_image.tolist() == [4] * 6
    assert ranks.image_to_text.tolist() == [6, 6, 6, 4]


@pytest.mark.parametrize("block_bytes", [1, 4 * 37 * 3, 64 << 20])
def test_equals_loops_with_many_ties(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(3)
    owner = rng.permutation(np.concatenate([np.arange(11), rng.integers(0, 11, 26)]))
    # Small whole numbers: every product is exact, and many are equal.
    images = rng.integers(-2, 3, (11, 4)).astype(np.float32)
    texts = rng.integers(-2, 3, (37, 4)).astype(np.float32)
    ranks = retrieval_ranks(images, texts, owner)
    positive = owner[:, None] == np.arange(11)
    assert ranks.text_to_image.tolist() == ranks_by_loops(texts @ images.T, positive)
    assert ranks.image_to_text.tolist() == ranks_by_loops(images @ texts.T, positive.T)


def test_equals_clip_benchmark_without_ties() -> None:
    from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k

    rng = np.random.default_rng(4)
    owner = np.concatenate([np.arange(50), rng.integers(0, 50, 150)])
    images = rng.normal(size=(50, 8)).astype(np.float32)
    texts = images[owner] + rng.normal(size=(200, 8)).astype(np.float32)
    metrics = retrieval_metrics(retrieval_ranks(images, texts, owner))
    scores = torch.from_numpy(texts @ images.T)
    positive = torch.from_numpy(owner[:, None] == np.arange(50))
    for k in (1, 5, 10):
        to_image = (recall_at_k(scores, positive, k) > 0).double().mean().item()
        to_text = (recall_at_k(scores.T, positive.T, k) > 0).double().mean().item()
        assert metrics[f"text_to_image_R@{k}"] == pytest.approx(to_image, abs=1e-12)
        assert metrics[f"image_to_text_R@{k}"] == pytest.approx(to_text, abs=1e-12)


def test_a_positive_is_not_outranked_by_itself() -> None:
    rng = np.random.default_rng(5)
    images = rng.normal(size=(701, 96)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    metrics = retrieval_metrics(retrieval_ranks(images, images, np.arange(701)))
    assert metrics["text_to_image_R@1"] == metrics["image_to_text_R@1"] == 1.0


def test_equals_in_other_blocks_tie() -> None:
    rng = np.random.default_rng(6)
    once = rng.normal(size=(601, 96)).astype(np.float32)
    once /= np.linalg.norm(once, axis=1, keepdims=True)
    images = np.concatenate([once, once])
    ranks = retrieval_ranks(images, images, np.arange(1202))
    assert ranks.text_to_image.tolist() == ranks.image_to_text.tolist() == [2] * 1202


def test_equal_features_tie_however_their_scores_are_rounded() -> None:
    one = np.random.default_rng(7).normal(size=(2, 512)).astype(np.float32)
    images, texts = np.repeat(one[:1], 1000, axis=0), np.repeat(one[1:], 5000, axis=0)
    ranks = retrieval_ranks(images, texts, np.arange(5000) // 5)
    assert set(ranks.image_to_text.tolist()) == {4996}
    assert set(ranks.text_to_image.tolist()) == {1000}


def test_equal_rows_are_found_without_a_copy_of_all() -> None:
    rng = np.random.default_rng(9)
    features = rng.normal(size=(5_000, 512)).astype(np.float32)
    features[rng.integers(0, 5_000, 300)] = features[rng.integers(0, 5_000, 300)]
    tracemalloc.start()
    first = first_equal(features)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < features.nbytes / 4
    # A second implementation: a sort of the rows, of which np.unique keeps the first ones.
    _, starts, group = np.unique(features, axis=0, return_index=True, return_inverse=True)
    assert 4_600 < len(starts) < 4_800
    assert first.tolist() == starts[group.ravel()].tolist()


def test_the_whole_score_matrix_is_never_there() -> None:
    rng = np.random.default_rng(8)
    images = rng.normal(size=(3000, 16)).astype(np.float32)
    owner = np.arange(9000) % 3000
    texts = images[owner]
    tracemalloc.start()
    retrieval_ranks(images, texts, owner)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(images) * len(texts) * 4 / 10


def test_recorded_metrics() -> None:
    features = np.load(PARITY / "retrieval.npz")
    recorded = json.loads((PARITY / "retrieval.json").read_text())
    ranks = retrieval_ranks(
        features["image_features"], features["text_features"], features["image_of_text"]
    )
    metrics = retrieval_metrics(ranks)
    # The record's means went through float32.
    assert {name: np.float32(value) for name, value in metrics.items()} == {
        name: np.float32(value) for name, value in recorded.items()
    }


@pytest.mark.parametrize(
    ("owner", "message"),
    [([0, 0, 1], "image numbers"), ([0, 0, 0, 0], "needs a text"), ([0, 1, 2, 3], "needs a text")],
)
def test_unmatched_images_and_texts(owner: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(np.ones((3, 2), np.float32), np.ones((4, 2), np.float32), owner)


def test_features_that_are_not_finite() -> None:
    broken = np.array([[np.nan, 1], [1, 0]], np.float32)
    with pytest.raises(ValueError, match="NaN"):
        retrieval_ranks(broken, np.eye(2, dtype=np.float32), [0, 1])
