"""Scores of pairs: each as if scored by itself, cached, resumed, by several processes, refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.sharing import together

from cosmos_eval.data.sources import ImageFile
from cosmos_eval.embedding import pairs
from cosmos_eval.embedding.embed import TooManyError
from cosmos_eval.embedding.pairs import PairScores, score_pairs
from cosmos_eval.models.encoder import PairScorer
from cosmos_eval.types import Progress, RunOptions, UsageError

N_IMAGES, N_TEXTS = 7, 11


@pytest.fixture
def scorer(colour_encoder):
    """Return a model that scores a mean colour by the letters of a text, and counts its inputs."""

    class Scorer(type(colour_encoder)):
        pair_score = "distance"

        def __init__(self) -> None:
            self.images = self.texts = self.pairs = 0

        def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
            return torch.tensor([[len(text)] for text in texts])

        def image_parts(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            self.images += len(images)
            return images.mean(dim=(2, 3)), images.amax(dim=(1, 2, 3))

        def text_parts(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
            self.texts += len(tokens)
            return (tokens[:, 0].float(),)

        def pair_scores(self, images, texts) -> torch.Tensor:
            (mean, largest), (length,) = images, texts
            self.pairs += len(mean) * len(length)
            return largest[:, None] - (mean.sum(dim=1)[:, None] - length).abs()

    return Scorer()


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    """Write seven images; the last is a copy of the second in another file."""
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        pixels = np.full((4, 6, 3), rng.integers(0, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "6.png").write_bytes((tmp_path / "1.png").read_bytes())
    return [ImageFile(tmp_path / f"{i}.png") for i in range(N_IMAGES)]


TEXTS = ["x" * (1 + n) for n in range(N_TEXTS - 1)] + ["xxx"]  # the last is equal to the third
# For each text, the indices of the images that it is scored with.
CANDIDATES = [np.array([3, 0]), np.array([], int), np.array([6]), np.array([1, 2])]
CANDIDATES += [np.arange(N_IMAGES)] * 6 + [np.array([1, 4])]


def score_by_itself(image: ImageFile, text: str) -> float:
    pixels = np.asarray(image.decode(image.read()), float)
    return pixels.max() - abs(pixels.mean(axis=(0, 1)).sum() - len(text))


def assert_scores_of_all_candidates(pair_scores: PairScores, images: Sequence[ImageFile]) -> None:
    for text_index, image_indices in enumerate(CANDIDATES):
        if len(image_indices) == 0:
            continue
        scores = pair_scores(image_indices, np.full_like(image_indices, text_index))
        expected = [score_by_itself(images[i], TEXTS[text_index]) for i in image_indices]
        np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize(("block", "shard", "at_once"), [(2048, 64, 512), (3, 2, 2), (1, 1, 1)])
def test_every_pair_is_scored_as_if_by_itself(scorer, images, block, shard, at_once, monkeypatch):
    assert isinstance(scorer, PairScorer)
    monkeypatch.setattr(pairs, "IMAGES_PER_BLOCK", block)
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", shard)
    monkeypatch.setattr(pairs, "_IMAGES_AT_ONCE", at_once)
    steps: list[Progress] = []
    options = RunOptions(batch_size=2)
    pair_scores = score_pairs(scorer, images, TEXTS, CANDIDATES, options, steps.append)
    assert_scores_of_all_candidates(pair_scores, images)
    # Two texts and two images (1 and 6) are equal: a pair of these is scored once.
    different_pairs = set()
    for text, image_indices in zip(TEXTS, CANDIDATES, strict=True):
        for image_index in image_indices:
            different_pairs.add((text, 1 if image_index == 6 else image_index))
    pairs_done = [step.done for step in steps if step.phase == "pairs"]
    assert pairs_done == sorted(pairs_done)
    assert pairs_done[-1] == len(different_pairs)
    image_steps = [step for step in steps if step.phase == "images for pairs"]
    assert sum(step.done == step.total for step in image_steps) == math.ceil(6 / block)
    assert scorer.pairs == len(different_pairs)
    assert scorer.images == 6
    score = pair_scores(np.array([1]), np.array([2]))
    assert score == pair_scores(np.array([6]), np.array([10]))


def test_cached_scores_need_no_model(scorer, images, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", 4)
    options = RunOptions(cache=str(tmp_path / "cache"))
    score_pairs(scorer, images, TEXTS, CANDIDATES, options)
    pairs_before = scorer.pairs
    cached_scores = score_pairs(scorer, images, TEXTS, CANDIDATES, options, max_missing=0)
    assert_scores_of_all_candidates(cached_scores, images)
    assert scorer.pairs == pairs_before
    with pytest.raises(TooManyError, match=r"of \d+ pairs are not cached"):
        score_pairs(scorer, images, ["new", *TEXTS[1:]], CANDIDATES, options, max_missing=5)
    scorer.pair_score = "another"
    with pytest.raises(TooManyError):
        score_pairs(scorer, images, TEXTS, CANDIDATES, options, max_missing=0)


def test_a_stopped_run_goes_on_where_it_ended(scorer, images, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", 2)
    options = RunOptions(cache=str(tmp_path / "cache"))
    original_pair_scores = scorer.pair_scores

    def stop_after_20_pairs(images, texts) -> torch.Tensor:
        if scorer.pairs > 20:
            raise KeyboardInterrupt
        return original_pair_scores(images, texts)

    scorer.pair_scores = stop_after_20_pairs
    with pytest.raises(KeyboardInterrupt):
        score_pairs(scorer, images, TEXTS, CANDIDATES, options)
    pairs_of_stopped_run = scorer.pairs
    scorer.pair_scores = original_pair_scores
    resumed_scores = score_pairs(scorer, images, TEXTS, CANDIDATES, options)
    assert_scores_of_all_candidates(resumed_scores, images)
    uninterrupted = type(scorer)()
    score_pairs(uninterrupted, images, TEXTS, CANDIDATES, RunOptions())
    assert uninterrupted.pairs <= scorer.pairs < pairs_of_stopped_run + uninterrupted.pairs


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_score_the_same(scorer, images, size, monkeypatch):
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", 2)
    monkeypatch.setattr(pairs, "IMAGES_PER_BLOCK", 4)
    expected = score_pairs(scorer, images, TEXTS, CANDIDATES, RunOptions())

    def score_in_a_process(distributed) -> PairScores:
        options = replace(RunOptions(), distributed=distributed)
        return score_pairs(type(scorer)(), images, TEXTS, CANDIDATES, options)

    for pair_scores in together(size, score_in_a_process):
        np.testing.assert_array_equal(pair_scores.scores.toarray(), expected.scores.toarray())


def test_scores_that_are_not_finite_or_of_another_shape_are_refused(scorer, images):
    original_pair_scores = scorer.pair_scores

    def nan_for_four_letters(images, texts) -> torch.Tensor:
        (length,) = texts
        return torch.where(length == 4, torch.nan, original_pair_scores(images, texts))

    def without_texts(images, texts) -> torch.Tensor:
        return original_pair_scores(images, texts)[:, 0]

    scorer.pair_scores = nan_for_four_letters
    with pytest.raises(UsageError, match=r"not finite .* for 'xxxx' with .*1\.png"):
        score_pairs(scorer, images, TEXTS, CANDIDATES, RunOptions())
    scorer.pair_scores = without_texts
    with pytest.raises(UsageError, match=r"`pair_scores` returns \(2,\) for 2 images and one text"):
        score_pairs(scorer, images, TEXTS, CANDIDATES, RunOptions())


def test_an_image_that_changes_meanwhile_is_refused(scorer, images, monkeypatch):
    hash_image_files = pairs.embed.hash_image_files

    def change_an_image_after_hashing(*arguments):
        hashes = hash_image_files(*arguments)
        Image.new("RGB", (4, 6)).save(images[2].path)
        return hashes

    monkeypatch.setattr(pairs.embed, "hash_image_files", change_an_image_after_hashing)
    with pytest.raises(UsageError, match=r"2\.png has changed"):
        score_pairs(scorer, images, TEXTS, CANDIDATES, RunOptions())
