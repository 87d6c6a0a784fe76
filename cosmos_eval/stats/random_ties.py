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
    """Return whether the order of ties decides, for any query, if a correct item comes first.

    `chances` (Q,) are the probabilities of one direction in `RandomTies`. For example, the order
    decides nothing for [0, 1, 1], and decides the second query of [0, 0.5, 1].
    """
    return bool(np.any((chances > 0) & (chances < 1)))


def random_ties(
    ranks: RetrievalRanks,
    image_features: Features,
    text_features: Features,
    image_of_text: NDArray[np.integer],
) -> RandomTies:
    """Return, for each query, the probability that a correct item comes first if ties are random.

    Args:
        ranks: The result of `retrieval_ranks` for the same features.
        image_features: (N, D), the embeddings of the images.
        text_features: (M, D), the embeddings of the texts.
        image_of_text: (M,), the index of each text's image.

    Example:
        The correct text of an image has the same features as one wrong text, and all other texts
        score lower. Then the rank of the image is 2, and its probability is 1 / 2.
    """
    n_images, n_texts = len(image_features), len(text_features)
    # The index of the first text, or image, with the same features, (M,) and (N,). For example,
    # [0, 1, 0] means that text 2 has the features of text 0.
    first_text = first_equal(text_features)
    first_image = first_equal(image_features)

    # (M,): the score of each text with its own image, the product of their features.
    scores = np.empty(n_texts, np.float32)
    for start in range(0, n_texts, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        features_of_image = image_features[image_of_text[rows]]
        scores[rows] = np.einsum("md,md->m", text_features[rows], features_of_image)

    # Find the best correct text of each image, (N,): in texts that are sorted by image, then by
    # score, it is the last text of the image. For example, the images [0, 0, 1] and scores
    # [0.3, 0.2, 0.5] give the order [1, 0, 2]. In this order, the last texts of images 0 and 1 are
    # at the places 1 and 2, and the best texts are [0, 2].
    order = np.lexsort((scores, image_of_text))
    images_in_order = image_of_text[order]
    end_of_image = np.searchsorted(images_in_order, np.arange(n_images), side="right")
    best_text = order[end_of_image - 1]

    # Images as queries: count the texts that are equal to the best correct text of the image, and
    # those of them that are correct themselves.
    first_best_text = first_text[best_text]
    n_texts_by_first = np.bincount(first_text, minlength=n_texts)
    n_equal_texts = n_texts_by_first[first_best_text]
    is_best = first_text == first_best_text[image_of_text]
    n_correct_texts = np.bincount(image_of_text[is_best], minlength=n_images)

    # Texts as queries: count the images that are equal to the text's image, its only correct one.
    n_images_by_first = np.bincount(first_image, minlength=n_images)
    n_equal_images = n_images_by_first[first_image][image_of_text]
    n_correct_images = np.ones_like(n_equal_images)
    return RandomTies(
        image_to_text=_chance_of_first(ranks.image_to_text, n_equal_texts, n_correct_texts),
        text_to_image=_chance_of_first(ranks.text_to_image, n_equal_images, n_correct_images),
    )


def _chance_of_first(ranks: Ints, n_equal: Ints, n_correct: Ints) -> Values:
    """Return the probability that a correct item comes first if ties are in random order, (Q,).

    In `ranks`, wrong items rank above equal correct ones. So the rank of a query is
    1 + n_equal - n_correct if no other item is better. Then the probability is n_correct / n_equal.
    If another item is better, the rank is higher, and the probability is 0.

    Args:
        ranks: (Q,), the rank of the best correct item of each query.
        n_equal: (Q,), the number of items that are equal to the best correct item, itself included.
        n_correct: (Q,), the number of these equal items that are correct.

    Example:
        One of three items that are equal is correct. The rank is 1 + 3 - 1 = 3 if no other item is
        better, and the probability is 1 / 3.
    """
    no_item_is_better = ranks == 1 + n_equal - n_correct
    return np.where(no_item_is_better, n_correct / n_equal, 0.0)
