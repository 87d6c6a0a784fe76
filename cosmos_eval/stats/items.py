"""Facts about the items of a benchmark: their words, copies, and how models answer them.

Shapes: K models, N items.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Ints, Values

_WORD = re.compile(r"[\w']+")


def bag_of_words(text: str) -> frozenset[tuple[str, int]]:
    """Return the words of a text in lower case, each with how often it occurs.

    Words are runs of letters, digits and apostrophes, so that neither punctuation nor the order
    counts.

    Example:
        "A cat, a dog." and "a dog; a cat" both give {("a", 2), ("cat", 1), ("dog", 1)}.
    """
    return frozenset(Counter(_WORD.findall(text.lower())).items())


def bag_of_words_chance(captions: Sequence[str], n_right: int) -> float:
    """Return the probability that a model without word order ranks all right captions first.

    Captions with the same words have the same score for such a model, and their order is random.
    Right and wrong captions with different words are ranked correctly. The probability is therefore
    1 unless a wrong caption has the words of a right one.

    Args:
        captions: The captions of an item, the right ones first.
        n_right: How many captions are right.

    Example:
        For ["a cat on a mat", "a mat on a cat"] with one right caption it is 1/2.
    """
    bags = [bag_of_words(caption) for caption in captions]
    n_right_by_bag = Counter(bags[:n_right])
    n_wrong_by_bag = Counter(bags[n_right:])
    probability = 1.0
    for bag, n_right_of_bag in n_right_by_bag.items():
        n_of_bag = n_right_of_bag + n_wrong_by_bag[bag]
        probability /= comb(n_of_bag, n_right_of_bag)
    return probability


def number_equal(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number the distinct keys from 0 in the order of their first occurrence.

    Return the number (N,) of each key.

    Example:
        ["a", "b", "a"] gives [0, 1, 0].
    """
    number_by_key: dict[Hashable, int] = {}
    return np.array([number_by_key.setdefault(key, len(number_by_key)) for key in keys], np.int64)


def repeats(copy_of: Ints) -> NDArray[np.bool_]:
    """Return whether each item is a copy of an earlier one, (N,).

    Args:
        copy_of: (N,), a number for each item. Items with the same number are copies of each other.

    Example:
        [4, 7, 4, 4] gives [False, False, True, True].
    """
    _, first_items = np.unique(copy_of, return_index=True)
    is_repeat = np.ones(len(copy_of), bool)
    is_repeat[first_items] = False
    return is_repeat


def contradictions(copy_of: Ints, answers: Ints) -> NDArray[np.bool_]:
    """Return whether each item has a copy with another right answer, (N,).

    Args:
        copy_of: (N,), a number for each item. Items with the same number are copies of each other.
        answers: (N,), the right answers, such as labels.

    Example:
        Copies [0, 0, 1, 1] with the labels [5, 6, 5, 5] give [True, True, False, False].
    """
    _, set_of_item = np.unique(copy_of, return_inverse=True)
    # The lowest and the highest answer in each set of copies. They differ in a contradiction.
    lowest = np.full(set_of_item.max() + 1, np.iinfo(np.int64).max)
    highest = np.full(set_of_item.max() + 1, np.iinfo(np.int64).min)
    np.minimum.at(lowest, set_of_item, answers)
    np.maximum.at(highest, set_of_item, answers)
    is_contradicted: NDArray[np.bool_] = (lowest != highest)[set_of_item]
    return is_contradicted


def discrimination(hits: NDArray[np.bool_]) -> Values:
    """Return for each item how much better the models are that solve it, (N,).

        discrimination = mean accuracy of the models that solve the item
                         - mean accuracy of the models that do not

    The accuracies are on all other items. It is NaN for an item that no model or every model
    solves.

    Args:
        hits: (K, N), whether each model solves each item.
    """
    n_models, n_items = hits.shape
    accuracy_on_others = (hits.sum(axis=1, keepdims=True) - hits) / max(1, n_items - 1)
    n_solving = hits.sum(axis=0)
    is_mixed = (n_solving > 0) & (n_solving < n_models)
    sum_of_solving = np.where(hits, accuracy_on_others, 0.0).sum(axis=0)
    sum_of_failing = np.where(hits, 0.0, accuracy_on_others).sum(axis=0)
    differences = np.full(n_items, np.nan)
    differences[is_mixed] = sum_of_solving[is_mixed] / n_solving[is_mixed]
    differences[is_mixed] -= sum_of_failing[is_mixed] / (n_models - n_solving[is_mixed])
    return differences
