"""R@1 with equals in random order: by hand, and by trying all orders of duplicates."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from cosmos_eval.stats.random_ties import count_decided, random_ties
from cosmos_eval.stats.retrieval import retrieval_ranks


def chances_of(images, texts, image_of_text):
    arrays = np.array(images, np.float32), np.array(texts, np.float32)
    owner = np.array(image_of_text)
    return random_ties(retrieval_ranks(*arrays, owner), *arrays, owner)


def test_a_caption_that_two_images_have():
    """Both images have "a"; the second also has "b", with which it scores lower; "c" is alone."""
    a, b, c = [1, 0, 0], [0, 0.6, 0], [0, 0, 1]
    images = [[1, 0, 0], [0.9, 0.2, 0], [0, 0, 1]]
    chances = chances_of(images, [a, a, b, c], [0, 1, 1, 2])
    assert chances.image_to_text.tolist() == [0.5, 0.5, 1]
    # "a" prefers the first image, whichever of both it belongs to.
    assert chances.text_to_image.tolist() == [1, 0, 1, 1]
    assert [count_decided(one) for one in chances] == [2, 0]


def test_a_caption_that_an_image_has_twice():
    """Two of three copies are right, and nothing is above them."""
    chances = chances_of(np.eye(2), [[1, 0], [1, 0], [1, 0], [0, 1]], [0, 0, 1, 1])
    assert chances.image_to_text.tolist() == [pytest.approx(2 / 3), 1]


def test_an_image_that_is_there_twice():
    chances = chances_of([[1, 0], [1, 0], [0, 1]], [[1, 0], [1, 0.1], [0, 1]], [0, 1, 2])
    assert chances.text_to_image.tolist() == [0.5, 0.5, 1]


def test_a_better_wrong_item_decides():
    chances = chances_of(np.eye(2), [[0.5, 1], [0.5, 1], [1, 0]], [0, 1, 1])
    assert chances.image_to_text.tolist() == [0, 0.5]


def test_a_constant_model_is_as_good_as_chance():
    chances = chances_of(np.ones((4, 2)), np.ones((6, 2)), [0, 1, 2, 3, 3, 3])
    assert chances.image_to_text == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert chances.text_to_image == pytest.approx([1 / 4] * 6)


def test_it_is_the_mean_over_all_orders():
    """Of five texts with one of three features, every order is tried; the first best counts."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        images = rng.normal(size=(3, 4)).astype(np.float32)
        texts = rng.normal(size=(3, 4)).astype(np.float32)[rng.integers(3, size=5)]
        owner = np.array([0, 1, 2, *rng.integers(3, size=2)])
        scores = images @ texts.T
        hits = np.zeros(3)
        orders = [list(order) for order in permutations(range(5))]
        for order in orders:
            hits += owner[order][scores[:, order].argmax(axis=1)] == np.arange(3)
        expected = hits / len(orders)
        assert chances_of(images, texts, owner).image_to_text == pytest.approx(expected)


def test_without_equals_it_is_recall():
    rng = np.random.default_rng(1)
    images, texts = rng.normal(size=(40, 8)), rng.normal(size=(9000, 8))
    owner = np.concatenate([np.arange(40), rng.integers(0, 40, 8960)])
    arrays = images.astype(np.float32), texts.astype(np.float32)
    ranks = retrieval_ranks(*arrays, owner)
    for chances, of_queries in zip(random_ties(ranks, *arrays, owner), ranks, strict=True):
        assert np.array_equal(chances, of_queries == 1)
        assert count_decided(chances) == 0
