"""Tip-Adapter's cache against its formula, image by image."""

from __future__ import annotations

import numpy as np
import pytest
from support.coop import tip_logits
from support.probes import make_features

from cosmos_eval.tasks.probe import cache
from cosmos_eval.tasks.probe.cache import CacheModel, Constants, zero_shot_classes

KEYS, KEY_LABELS = make_features(28, spread=2.0)
IMAGES, LABELS = make_features(90, seed=1, spread=2.0)
CLASSES = make_features(7, seed=2, spread=2.0)[0]
MODEL = CacheModel(CLASSES, KEYS, KEY_LABELS, "cpu")


def plain_classes(alpha: float, beta: float) -> np.ndarray:
    return tip_logits(IMAGES, CLASSES, KEYS, KEY_LABELS, alpha, beta).argmax(axis=1)


@pytest.mark.parametrize("constants", [(1.17, 1.0), (3.0, 12.0), (50.0, 0.1), (0.0, 5.0)])
def test_classes_are_those_of_the_formula(constants):
    predicted = MODEL.predict(IMAGES, Constants(*constants))
    assert np.array_equal(predicted, plain_classes(*constants))
    if constants[0] == 0:
        assert np.array_equal(predicted, zero_shot_classes(IMAGES, CLASSES))


def test_images_are_compared_block_by_block(monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 32)
    monkeypatch.setattr(cache, "SEARCH_BLOCK", 32)
    assert np.array_equal(MODEL.predict(IMAGES, Constants(3.0, 12.0)), plain_classes(3.0, 12.0))
    blocks = MODEL.search(IMAGES, LABELS, 7, 50)
    monkeypatch.undo()
    assert MODEL.search(IMAGES, LABELS, 7, 50) == blocks
    assert np.array_equal(zero_shot_classes(IMAGES, CLASSES), (IMAGES @ CLASSES.T).argmax(axis=1))


def test_candidates_are_those_of_search_hp():
    """With search_scale [12, 5] and search_step [200, 20]: steps of 0.0595 and 0.245."""
    betas, alphas = cache.candidates(12, cache.BETAS), cache.candidates(5, cache.ALPHAS)
    assert (len(betas), len(alphas)) == (200, 20)
    assert betas[:2] == pytest.approx([0.1, 0.1595])
    assert betas[-1] == pytest.approx(11.9405)
    assert alphas[-1] == pytest.approx(4.755)


def test_the_first_best_constants_are_chosen(monkeypatch):
    """Plain loops, beta outside, of which only a better accuracy replaces the best."""
    monkeypatch.setattr(cache, "BETAS", 5)
    monkeypatch.setattr(cache, "ALPHAS", 4)
    best_accuracy, best = 0.0, None
    for beta in [i * (7 - 0.1) / 5 + 0.1 for i in range(5)]:
        for alpha in [i * (50 - 0.1) / 4 + 0.1 for i in range(4)]:
            accuracy = (plain_classes(alpha, beta) == LABELS).mean()
            if accuracy > best_accuracy:
                best_accuracy, best = accuracy, (alpha, beta)
    assert MODEL.search(IMAGES, LABELS, 7, 50) == pytest.approx(best)
    assert best_accuracy > (zero_shot_classes(IMAGES, CLASSES) == LABELS).mean()
