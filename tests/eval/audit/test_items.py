"""Words, copies and discrimination of items, against solved cases and plain forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from cosmos_eval.stats.items import (
    bag_of_words,
    bag_of_words_chance,
    contradictions,
    discrimination,
    number_equal,
    repeats,
)


def test_words_count_without_order_case_and_punctuation():
    assert bag_of_words("A cat, a dog.") == bag_of_words("a DOG; a cat")
    assert bag_of_words("A cat, a dog.") == {("a", 2), ("cat", 1), ("dog", 1)}
    assert bag_of_words("the cat's dog") != bag_of_words("the dog's cat")
    assert bag_of_words("a a cat") != bag_of_words("a cat")
    assert bag_of_words("schöne Straße") == {("schöne", 1), ("straße", 1)}


def chance_by_enumeration(captions: list[str], n_right: int) -> float:
    """The share of orders of captions, by bags and then at random, that put right ones first.

    A perfect model without word order gives bags of right captions a higher score. Within a bag all
    orders are equally probable.
    """
    bags = [bag_of_words(caption) for caption in captions]
    right_bags = set(bags[:n_right])
    n_good = 0
    orders = list(itertools.permutations(range(len(captions))))
    for order in orders:
        # A tie is broken by the order: the right caption must come before the wrong one.
        n_good += all(
            order.index(right) < order.index(wrong)
            for right in range(n_right)
            for wrong in range(n_right, len(captions))
            if bags[wrong] in right_bags and bags[wrong] == bags[right]
        )
    return n_good / len(orders)


@pytest.mark.parametrize(
    ("captions", "n_right", "expected"),
    [
        (["a cat on a mat", "a mat on a cat"], 1, 1 / 2),
        (["a cat on a mat", "a cat on a hat"], 1, 1.0),
        (["x y", "y x", "y x."], 1, 1 / 3),
        (["x y", "two", "y x"], 2, 1 / 2),
        (["x y", "Y x", "y x"], 2, 1 / 3),
        (["x y", "z w", "y x", "w z"], 2, 1 / 4),
    ],
)
def test_chance_of_a_model_without_word_order(captions, n_right, expected):
    assert bag_of_words_chance(captions, n_right) == pytest.approx(expected)
    assert chance_by_enumeration(captions, n_right) == pytest.approx(expected)


def test_copies_are_numbered_repeated_and_contradicted():
    assert number_equal(["a", "b", "a"]).tolist() == [0, 1, 0]
    assert repeats(np.array([4, 7, 4, 4])).tolist() == [False, False, True, True]
    copies, labels = np.array([3, 3, 9, 9, 5]), np.array([5, 6, 5, 5, 1])
    assert contradictions(copies, labels).tolist() == [True, True, False, False, False]


def test_discrimination_is_a_difference_of_accuracies_on_other_items():
    hits = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]], bool)
    values = discrimination(hits)
    assert math.isnan(values[0])
    assert math.isnan(values[3])
    # Item 1: models 0 and 1 solve it, with 2/3 and 1/3 of the others; model 2 has 2/3.
    assert values[1] == pytest.approx((2 / 3 + 1 / 3) / 2 - 2 / 3)
    assert values[2] == pytest.approx((2 / 3 + 1 / 3) / 2 - 2 / 3)
