"""R@1 of queries whose right item has equal items, such as a caption that several images have.

`stats.retrieval` ranks wrong items that tie with the right item above it. If ties were in random
order, the right item would come first with a probability that follows from its rank and from the
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
    """The probability of each query that a right item ranks first if ties are in random order."""

    # (N,) of images as queries.
    image_to_text: Values
    # (M,) of texts as queries.
    text_to_image: Values


def decide_any(chances: Values) -> bool:
    """Return whether the order of ties decides if any query (Q,) finds a right item first."""
    return bool(np.any((chances > 0) & (chances < 1)))


def random_ties(
    ranks: RetrievalRanks,
    image_features: Features,
    text_features: Features,
    image_of_text: NDArray[np.integer],
) -> RandomTies:
    """Return how probably queries of images (N, D) and texts (M, D) find a right item first.

    `ranks` is the result of `retrieval_ranks` for the same features. Let g items, p of them right,
    be equal to the best right item. If no other item ranks above, the rank is 1 + g - p, and a
    right item comes first with probability p / g. Otherwise, the probability is 0.
    """
    first_text, first_image = first_equal(text_features), first_equal(image_features)
    best_text = _best_right_text(image_features, text_features, image_of_text)
    best_first = first_text[best_text]
    equal_texts = np.bincount(first_text, minlength=len(text_features))[best_first]
    is_best = first_text == best_first[image_of_text]
    right_texts = np.bincount(image_of_text[is_best], minlength=len(image_features))
    equal_images = np.bincount(first_image, minlength=len(image_features))[first_image]
    equal_images = equal_images[image_of_text]
    return RandomTies(
        image_to_text=_chance_of_first(ranks.image_to_text, equal_texts, right_texts),
        text_to_image=_chance_of_first(
            ranks.text_to_image, equal_images, np.ones_like(equal_images)
        ),
    )


def _chance_of_first(ranks: Ints, equal: Ints, right: Ints) -> Values:
    """Return the probability that a right item comes first, (Q,).

    `equal` items, `right` of them right, are equal to the best right item of each query.
    """
    return np.where(ranks == 1 + equal - right, right / equal, 0.0)


def _best_right_text(
    image_features: Features, text_features: Features, image_of_text: NDArray[np.integer]
) -> Ints:
    """Return the index of the text of each image that scores highest with the image, (N,)."""
    scores = np.empty(len(text_features), np.float32)
    for start in range(0, len(text_features), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        right_images = image_features[image_of_text[rows]]
        scores[rows] = np.einsum("md,md->m", text_features[rows], right_images)
    order = np.lexsort((scores, image_of_text))  # by image, then by score
    last = np.searchsorted(image_of_text[order], np.arange(len(image_features)), side="right") - 1
    return order[last]
