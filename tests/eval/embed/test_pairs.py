"""Scores of pairs: as of one pair alone, cached, resumed, by several processes, refused."""

from __future__ import annotations

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
    """Scores the distance of the mean colour to the number of letters of a text; counts calls."""

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
    """Seven images; the last is the second once more, in another file."""
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        pixels = np.full((4, 6, 3), rng.integers(0, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "6.png").write_bytes((tmp_path / "1.png").read_bytes())
    return [ImageFile(tmp_path / f"{i}.png") for i in range(N_IMAGES)]


TEXTS = ["x" * (1 + n) for n in range(N_TEXTS - 1)] + ["xxx"]  # the third once more
WANTED = [np.array(some, int) for some in ([3, 0], [], [6], [1, 2], [0, 1, 2, 3, 4, 5, 6])]
WANTED += [np.arange(N_IMAGES)] * 5 + [np.array([1, 4])]


def expected(image: ImageFile, text: str) -> float:
    pixels = np.asarray(image.decode(image.read()), float)
    return pixels.max() - abs(pixels.mean(axis=(0, 1)).sum() - len(text))


def check(found: PairScores, images: Sequence[ImageFile]) -> None:
    for text, some in (one for one in enumerate(WANTED) if len(one[1])):
        scores = found(some, np.full_like(some, text))
        alone = [expected(images[i], TEXTS[text]) for i in some]
        np.testing.assert_allclose(scores, alone, atol=1e-4)


@pytest.mark.parametrize(("block", "shard", "at_once"), [(2048, 64, 512), (3, 2, 2), (1, 1, 1)])
def test_equal_to_every_pair_alone(scorer, images, block, shard, at_once, monkeypatch):
    assert isinstance(scorer, PairScorer)
    monkeypatch.setattr(pairs, "IMAGES_PER_BLOCK", block)
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", shard)
    monkeypatch.setattr(pairs, "_IMAGES_AT_ONCE", at_once)
    steps: list[Progress] = []
    options = RunOptions(batch_size=2)
    found = score_pairs(scorer, images, TEXTS, WANTED, options, steps.append)
    check(found, images)
    total = len({(TEXTS[t], 1 if i == 6 else i) for t, some in enumerate(WANTED) for i in some})
    scored = [step.done for step in steps if step.phase == "pairs"]
    assert scored == sorted(scored)
    assert scored[-1] == total
    loaded = [step for step in steps if step.phase == "images for pairs"]
    assert sum(step.done == step.total for step in loaded) == -(-6 // block)
    # Two texts and two images are equal: a pair of theirs is scored once.
    assert scorer.pairs == total
    assert scorer.images == 6
    assert found(np.array([1]), np.array([2])) == found(np.array([6]), np.array([10]))


def test_cached_scores_need_no_model(scorer, images, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", 4)
    options = RunOptions(cache=str(tmp_path / "cache"))
    score_pairs(scorer, images, TEXTS, WANTED, options)
    before = scorer.pairs
    check(score_pairs(scorer, images, TEXTS, WANTED, options, max_missing=0), images)
    assert scorer.pairs == before
    with pytest.raises(TooManyError, match=r"of \d+ pairs are not cached"):
        score_pairs(scorer, images, ["new", *TEXTS[1:]], WANTED, options, max_missing=5)
    scorer.pair_score = "another"
    with pytest.raises(TooManyError):
        score_pairs(scorer, images, TEXTS, WANTED, options, max_missing=0)


def test_a_killed_run_goes_on_where_it_ended(scorer, images, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", 2)
    options = RunOptions(cache=str(tmp_path / "cache"))
    score = scorer.pair_scores

    def ended(images, texts) -> torch.Tensor:
        if scorer.pairs > 20:
            raise KeyboardInterrupt
        return score(images, texts)

    scorer.pair_scores = ended
    with pytest.raises(KeyboardInterrupt):
        score_pairs(scorer, images, TEXTS, WANTED, options)
    first, scorer.pair_scores = scorer.pairs, score
    check(score_pairs(scorer, images, TEXTS, WANTED, options), images)
    alone = type(scorer)()
    score_pairs(alone, images, TEXTS, WANTED, RunOptions())
    assert alone.pairs <= scorer.pairs < first + alone.pairs


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_score_the_same(scorer, images, size, monkeypatch):
    monkeypatch.setattr(pairs, "TEXTS_PER_SHARD", 2)
    monkeypatch.setattr(pairs, "IMAGES_PER_BLOCK", 4)
    alone = score_pairs(scorer, images, TEXTS, WANTED, RunOptions())

    def act(distributed) -> PairScores:
        own = replace(RunOptions(), distributed=distributed)
        return score_pairs(type(scorer)(), images, TEXTS, WANTED, own)

    for found in together(size, act):
        np.testing.assert_array_equal(found.scores.toarray(), alone.scores.toarray())


def test_scores_that_are_not_finite_or_of_another_shape(scorer, images):
    score = scorer.pair_scores
    scorer.pair_scores = lambda i, t: torch.where(t[0] == 4, torch.nan, score(i, t))
    with pytest.raises(UsageError, match=r"not finite .* for 'xxxx' with .*1\.png"):
        score_pairs(scorer, images, TEXTS, WANTED, RunOptions())
    scorer.pair_scores = lambda i, t: score(i, t)[:, 0]
    with pytest.raises(UsageError, match=r"`pair_scores` returns \(2,\) for 2 images and one text"):
        score_pairs(scorer, images, TEXTS, WANTED, RunOptions())


def test_an_image_that_changes_meanwhile_is_refused(scorer, images, monkeypatch):
    keys = pairs.embed.hash_image_files

    def changing(*given):
        found = keys(*given)
        Image.new("RGB", (4, 6)).save(images[2].path)
        return found

    monkeypatch.setattr(pairs.embed, "hash_image_files", changing)
    with pytest.raises(UsageError, match=r"2\.png has changed"):
        score_pairs(scorer, images, TEXTS, WANTED, RunOptions())
