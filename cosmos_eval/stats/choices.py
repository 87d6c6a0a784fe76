"""Choices by the highest score: the best classes of images, their confidence, caption selection.

Tie rules: of classes with the same score, the class that is listed first wins. A right caption or
image must score strictly higher than all wrong ones: a model that gives all pairs the same score is
always wrong. Scores are sums of D products in the same order, so that equal features tie.

Pairs are scored as in Winoground (Thrush et al. 2022, arXiv 2204.03162, section 3.2), with images
i0, i1 and their captions c0, c1:
text:   s(c0, i0) > s(c1, i0) and s(c1, i1) > s(c0, i1)
image:  s(c0, i0) > s(c0, i1) and s(c1, i1) > s(c1, i0)
group:  both
Shapes: N images or items, C classes, I images, T captions, D embedding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.class_means import LeftOut, jackknife_or_likelihood
from cosmos_eval.stats.estimates import (
    Features,
    FunctionOfWeights,
    Ints,
    Values,
    first_equal,
    mean_of_known,
    ratio,
    require_finite,
)
from cosmos_eval.types import Interval

Score = Callable[[Ints, Ints], NDArray[np.float32]]
"""Maps indices of images (K,) and of captions (K,) to their scores (K,)."""

TOP = 5
PAIRS = 10
_BLOCK_BYTES = 64 << 20  # of float32 scores or products


def top_classes(image_features: Features, class_embeddings: Features, k: int = TOP) -> Ints:
    """Return the min(k, C) best classes of images, the best class first, (N, min(k, C)).

    Scores are the products of images (N, D) with classes (C, D). Raises ValueError for features
    that are not finite.
    """
    best = np.empty((len(image_features), min(k, len(class_embeddings))), np.int64)
    for start, scores in _score_blocks(image_features, class_embeddings):
        rows = np.arange(len(scores))
        # For a small k, repeated maxima are faster than a sort. argmax takes the first of equals.
        for place in range(best.shape[1]):
            best_class = scores.argmax(axis=1)
            best[start + rows, place] = best_class
            scores[rows, best_class] = -np.inf
    return best


def top_confidences(
    image_features: Features, class_embeddings: Features, scale: float
) -> NDArray[np.float32]:
    """Return the probability of the best class of each image, (N,).

    It is the largest value of softmax(scale * image_features @ class_embeddings.T), for images
    (N, D) and classes (C, D). Raises ValueError for features that are not finite.
    """
    confidences = np.empty(len(image_features), np.float32)
    for start, scores in _score_blocks(image_features, class_embeddings):
        scores -= scores.max(axis=1, keepdims=True)
        confidences[start : start + len(scores)] = 1 / np.exp(scale * scores).sum(axis=1)
    return confidences


def _score_blocks(
    image_features: Features, class_embeddings: Features
) -> Iterator[tuple[int, Features]]:
    """Yield the scores of blocks of images with all classes, and the index of the first image.

    The blocks together are image_features @ class_embeddings.T. BLAS may round equal columns
    differently: the scores of equal classes are made equal.
    """
    require_finite(image_features, class_embeddings)
    first = first_equal(class_embeddings)
    repeated = np.flatnonzero(first != np.arange(len(first)))
    images_at_once = max(1, _BLOCK_BYTES // (4 * len(class_embeddings)))
    for start in range(0, len(image_features), images_at_once):
        scores = image_features[start : start + images_at_once] @ class_embeddings.T
        scores[:, repeated] = scores[:, first[repeated]]
        yield start, scores


def class_scores(image_features: Features, class_embeddings: Features) -> Features:
    """Return the products (N, C) of images (N, D) with classes (C, D).

    Raises ValueError for features that are not finite.
    """
    blocks = _score_blocks(image_features, class_embeddings)
    return np.concatenate([scores for _, scores in blocks])


class ConfusedPair(NamedTuple):
    """How many `images` of class `true` were given class `predicted` instead."""

    true: int
    predicted: int
    images: int


def confusion_pairs(labels: Ints, predicted: Ints, k: int = PAIRS) -> list[ConfusedPair]:
    """Return the k most frequent mistakes in labels (N,) and predictions (N,).

    The most frequent mistake comes first. Equally frequent mistakes are sorted by their true class,
    then by their predicted class.
    """
    mistakes = np.stack([labels, predicted], axis=1)[labels != predicted]
    pairs, counts = np.unique(mistakes, axis=0, return_counts=True)
    # np.unique sorts by true and predicted class, which a stable sort keeps among equals.
    order = np.argsort(-counts, kind="stable")[:k]
    confused_pairs = []
    for index in order:
        true, predicted_class = pairs[index]
        confused_pairs.append(ConfusedPair(int(true), int(predicted_class), int(counts[index])))
    return confused_pairs


def macro_f1(labels: Ints, predicted: Ints) -> FunctionOfWeights:
    """Return the mean F1 score of predictions (N,) over the classes that occur in labels (N,).

    It is `sklearn.metrics.f1_score(..., average="macro", labels=np.unique(labels))`, as in WILDS
    (github.com/p-lambda/wilds, wilds/common/metrics/all_metrics.py, F1).
    """
    samples = np.stack([labels, predicted], axis=1)
    return FunctionOfWeights(samples, _macro_f1, macro_f1_interval)


def _macro_f1(samples: Ints) -> Callable[[Values], Values]:
    """Return the function of weights (R, N) to macro F1 (R,); `samples` (N, 2) as in `macro_f1`."""
    from scipy.sparse import csr_array

    true, predicted = samples.T
    classes = np.unique(true)[:, None]
    # (C, N): whether a sample is labelled as a class, predicted as a class, and both.
    is_labelled, is_predicted = csr_array(true == classes), csr_array(predicted == classes)
    is_hit = csr_array((true == classes) & (true == predicted))

    def macro_f1_of_weights(weights: Values) -> Values:
        drawn = np.ascontiguousarray(weights.T)
        labelled = is_labelled @ drawn  # (C, R)
        scores = ratio(2 * (is_hit @ drawn), (labelled + is_predicted @ drawn) * (labelled > 0))
        return mean_of_known(scores)

    return macro_f1_of_weights


def macro_f1_interval(samples: Ints, level: float) -> Interval:
    """Return the interval of macro F1 of samples (N, 2): labels and predictions.

    A sample changes the scores of two classes at most: its true class and the predicted class. An
    F1 score counts as a share of (labelled + predicted) / 2 samples of its class.
    """
    numbers = np.unique(samples, return_inverse=True)[1].reshape(samples.shape)
    (true, predicted), n_classes = numbers.T, int(numbers.max()) + 1
    is_right = true == predicted
    labelled = np.bincount(true, minlength=n_classes)
    n_predicted = np.bincount(predicted, minlength=n_classes)
    right = np.bincount(true[is_right], minlength=n_classes)
    score = _f1_scores(right, labelled, n_predicted)
    is_present = labelled > 0
    # The scores of each sample's two classes without the sample.
    score_of_true = _f1_scores(
        right[true] - is_right, labelled[true] - 1, n_predicted[true] - is_right
    )
    score_of_predicted = _f1_scores(
        right[predicted], labelled[predicted], n_predicted[predicted] - 1
    )
    change_of_predicted = np.where(is_right, 0, score_of_predicted - score[predicted])
    changes = score_of_true - score[true] + change_of_predicted
    classes_without_sample = is_present.sum() - (labelled[true] == 1)
    without_sample = ratio(score.sum() + changes, classes_without_sample)
    mean = LeftOut(
        value=float(score[is_present].mean()),
        without_sample=without_sample,
        right=right[is_present].astype(np.float64),
        samples=(labelled + n_predicted)[is_present] / 2,
    )
    return jackknife_or_likelihood(mean, level)


def _f1_scores(right: Ints, labelled: Ints, predicted: Ints) -> Values:
    """Return F1 scores from numbers of samples, 0 for classes without labelled samples."""
    return np.nan_to_num(ratio(2 * right, (labelled + predicted) * (labelled > 0)))


class PairHits(NamedTuple):
    """The right ones among pairs of two images and two captions."""

    # (N,): whether each image scores highest with its caption.
    text: NDArray[np.bool_]
    # (N,): whether each caption scores highest with its image.
    image: NDArray[np.bool_]


def single_hits(
    score: Score, image_of_item: Ints, captions_of_item: Sequence[Ints], right: Ints | int = 1
) -> NDArray[np.bool_]:
    """Return which items are right, (N,): the image scores all right captions above all wrong ones.

    `image_of_item` (N,) holds the index of each item's image, and `captions_of_item` the indices of
    its two or more captions. The first ones are right; `right` (N,) says how many.
    """
    lengths = np.array([len(captions) for captions in captions_of_item])
    starts = np.cumsum(lengths) - lengths
    scores = score(np.repeat(image_of_item, lengths), np.concatenate(captions_of_item))
    place = np.arange(len(scores)) - np.repeat(starts, lengths)
    is_right = place < np.repeat(np.broadcast_to(right, lengths.shape), lengths)
    lowest_right = np.minimum.reduceat(np.where(is_right, scores, np.inf), starts)
    highest_wrong = np.maximum.reduceat(np.where(is_right, -np.inf, scores), starts)
    return lowest_right > highest_wrong


def pair_hits(score: Score, images_of_item: Ints, captions_of_item: Ints) -> PairHits:
    """Return the hits of pairs, from the indices of their images (N, 2) and captions (N, 2)."""
    images = np.repeat(images_of_item, 2, axis=1).ravel()
    captions = np.tile(captions_of_item, (1, 2)).ravel()
    s = score(images, captions).reshape(-1, 2, 2)  # s[:, image, caption]
    return PairHits(
        text=(s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0]),
        image=(s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1]),
    )


def jaccard_indices(score: Score, items: Sequence[tuple[int, Ints, NDArray[np.bool_]]]) -> Values:
    """Return the Jaccard index of the right and the chosen images of each item, (N,).

    An item is the index of a caption, the indices of images (n,), and which of them are right (n,).
    As many images as are right are chosen: those that score highest with the caption. If scores are
    equal, wrong images are chosen first.
    """
    indices = []
    for caption, images, is_right in items:
        scores = score(images, np.full(len(images), caption))
        n_right = is_right.sum()
        chosen = np.lexsort((is_right, -scores))[:n_right]
        hits = is_right[chosen].sum()
        indices.append(hits / (2 * n_right - hits))
    return np.array(indices)


def text_hits(features: Features, captions_of_item: Sequence[Ints], right: Ints) -> list[bool]:
    """Return which items have right captions that are closer to each other than to wrong ones.

    The first captions of an item are right; `right` (N,) says how many, two or more. All products
    of two right captions must be above all products of a right and a wrong caption. `features`
    (T, D) belong to all captions.
    """
    hits = []
    for captions, n_right in zip(captions_of_item, right, strict=True):
        scores = (features[captions[:n_right], None] * features[captions]).sum(axis=-1)
        scores_of_right = scores[:, :n_right][np.triu_indices(n_right, 1)]
        hits.append(bool(scores_of_right.min() > scores[:, n_right:].max()))
    return hits


def expected_hits(values: Values, things_of_item: Sequence[Ints], right: Ints) -> Values:
    """Return the probability that the right things of an item have the highest values, (N,).

    `values` (T,) belong to all things. The first things of an item are right; `right` (N,) says how
    many. Things of equal values are in random order: if all n values are equal, the probability
    is the chance level, one in C(n, r) for r right things. A thing that an item has twice counts
    once. If a thing is both right and wrong, the probability is 0.
    """
    probabilities = []
    for things, n_right in zip(things_of_item, right, strict=True):
        right_things, wrong_things = np.unique(things[:n_right]), np.unique(things[n_right:])
        probabilities.append(_probability_of_first(values, right_things, wrong_things))
    return np.array(probabilities)


def _probability_of_first(values: Values, right_things: Ints, wrong_things: Ints) -> float:
    """Return the probability that all right things come before all wrong ones, by their values."""
    lowest_right, highest_wrong = values[right_things].min(), values[wrong_things].max()
    if lowest_right != highest_wrong or np.isin(right_things, wrong_things).any():
        return float(lowest_right > highest_wrong)
    tied_right = (values[right_things] == lowest_right).sum()
    tied_wrong = (values[wrong_things] == highest_wrong).sum()
    return 1 / math.comb(tied_right + tied_wrong, tied_right)


def products(images: Features, captions: Features) -> Score:
    """Return the score by products of the features of images (I, D) and captions (T, D).

    They are not computed by a matrix product, which may sum its columns in different orders. Raises
    ValueError for features that are not finite.
    """
    require_finite(images, captions)
    return _Products(images, captions)


class _Products:
    """A score: products of features of images (I, D) and captions (T, D)."""

    def __init__(self, images: Features, captions: Features) -> None:
        self.images = images
        self.captions = captions

    def __call__(self, image_indices: Ints, caption_indices: Ints) -> NDArray[np.float32]:
        """Return the products (K,) of pairs of images (K,) and captions (K,), by their indices."""
        pairs_at_once = max(1, _BLOCK_BYTES // (4 * self.images.shape[1]))
        blocks = []
        for start in range(0, len(image_indices), pairs_at_once):
            images = self.images[image_indices[start : start + pairs_at_once]]
            captions = self.captions[caption_indices[start : start + pairs_at_once]]
            blocks.append((images * captions).sum(axis=1))
        return np.concatenate(blocks)
