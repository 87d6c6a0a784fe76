"""R@1 of queries whose correct item ties with equal items, such as images with the same caption.

`stats.retrieval` ranks wrong items that tie with the correct item above it. If ties were in random
order, the correct item would come first with a probability that follows from its rank and from the
number of equal items.
Shapes: N images, M texts, D embedding.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Features, Ints, Values, first_equal
from cosmos_eval.stats.retrieval import RetrievalRanks

_ROWS_AT_ONCE = 4096  # bounds the memory for features of each text's image


class RandomTies(NamedTuple):
    """For each query, the probability that a correct item ranks first if ties are random."""

    # (N,) of images as queries.
    image_to_text: Values
    # (M,) of texts as queries.
    text_to_image: Values


def decide_any(chances: Values) -> bool:
    """Return whether the order of ties decides for any query if a correct item comes first.

    `chances` (Q,) are probabilities of `RandomTies`: it decides if one is neither 0 nor 1.
    """
    return bool(np.any((chances > 0) & (chances < 1)))


def random_ties(
    ranks: RetrievalRanks,
    image_features: Features,
    text_features: Features,
    image_of_text: NDArray[np.integer],
) -> RandomTies:
    """Return the probability of each query that a correct item comes first.

    Queries are images (N, D) and texts (M, D). `ranks` is the result of `retrieval_ranks` for the
    same features. Let g items be equal to the best correct item, p of them correct themselves. If
    no other item ranks above them, the rank is 1 + g - p, and a correct item comes first with
    probability p / g. Otherwise, the probability is 0.
    """
    first_text, first_image = first_equal(text_features), first_equal(image_features)
    best_text = _best_correct_text(image_features, text_features, image_of_text)
    # Equal texts have the same index in `first_text`: the index of the first of them.
    first_best_text = first_text[best_text]
    n_equal_texts = np.bincount(first_text, minlength=len(text_features))[first_best_text]
    is_best = first_text == first_best_text[image_of_text]
    n_correct_texts = np.bincount(image_of_text[is_best], minlength=len(image_features))
    n_equal_to_image = np.bincount(first_image, minlength=len(image_features))[first_image]
    n_equal_images = n_equal_to_image[image_of_text]
    n_correct_images = np.ones_like(n_equal_images)  # a text has a single image
    return RandomTies(
        image_to_text=_chance_of_first(ranks.image_to_text, n_equal_texts, n_correct_texts),
        text_to_image=_chance_of_first(ranks.text_to_image, n_equal_images, n_correct_images),
    )


def _chance_of_first(ranks: Ints, n_equal: Ints, n_correct: Ints) -> Values:
    """Return the probability that a correct item comes first, (Q,).

    `n_equal` (Q,) items are equal to the best correct item of each query, and `n_correct` (Q,) of
    these are correct.
    """
    return np.where(ranks == 1 + n_equal - n_correct, n_correct / n_equal, 0.0)


def _best_correct_text(
    image_features: Features, text_features: Features, image_of_text: NDArray[np.integer]
) -> Ints:
    """Return the index of the best correct text of each image, (N,), by the highest score."""
    scores = np.empty(len(text_features), np.float32)
    for start in range(0, len(text_features), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        correct_images = image_features[image_of_text[rows]]
        scores[rows] = np.einsum("md,md->m", text_features[rows], correct_images)
    # Texts sorted by image, then by score: the best text of an image is the last of its texts.
    order = np.lexsort((scores, image_of_text))
    images = np.arange(len(image_features))
    last_place = np.searchsorted(image_of_text[order], images, side="right") - 1
    return order[last_place]
