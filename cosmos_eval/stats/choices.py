"""What scores highest: the best classes of every image, their confidence, and caption selection.

Tie rules: of classes that score the same, the one listed first wins. Of captions or images, what
is right must score strictly higher than everything wrong: a model that gives every pair one score
is always wrong. Scores are sums of D products in the same order, so that equal features tie.
Shapes: N images or items, C classes, I images, T captions, D embedding. Scores of pairs as in
Winoground (Thrush et al. 2022, arXiv 2204.03162, section 3.2), with images i0, i1 and their
captions c0, c1: text: s(c0, i0) > s(c1, i0) and s(c1, i1) > s(c0, i1); image: s(c0, i0) > s(c0, i1)
and s(c1, i1) > s(c1, i0); group: both.
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
"""Indices of images (K,) and captions (K,) -> scores (K,)."""

TOP = 5
PAIRS = 10
_BLOCK_BYTES = 64 << 20  # of float32 scores or products


def top_classes(image_features: Features, class_embeddings: Features, k: int = TOP) -> Ints:
    """Return the min(k, C) best classes of (N, D) images by product with (C, D), best first. Raises
    ValueError for features that are not finite."""
    best = np.empty((len(image_features), min(k, len(class_embeddings))), np.int64)
    for start, scores in _score_blocks(image_features, class_embeddings):
        rows = np.arange(len(scores))
        # A maximum per pass is faster than a sort for few k, and argmax takes the first of equals.
        for place in range(best.shape[1]):
            best[start + rows, place] = found = scores.argmax(axis=1)
            scores[rows, found] = -np.inf
    return best


def top_confidences(
    image_features: Features, class_embeddings: Features, scale: float
) -> NDArray[np.float32]:
    """Return the probability (N,) of the best class of (N, D) images: the softmax over classes of
    `scale` times the product with (C, D). Raises ValueError for features that are not finite."""
    found = np.empty(len(image_features), np.float32)
    for start, scores in _score_blocks(image_features, class_embeddings):
        scores -= scores.max(axis=1, keepdims=True)
        found[start : start + len(scores)] = 1 / np.exp(scale * scores).sum(axis=1)
    return found


def _score_blocks(
    image_features: Features, class_embeddings: Features
) -> Iterator[tuple[int, Features]]:
    """Yield the scores of blocks of images with all classes, and the index of a block's first."""
    require_finite(image_features, class_embeddings)
    first = first_equal(class_embeddings)
    twins = np.flatnonzero(first != np.arange(len(first)))
    at_once = max(1, _BLOCK_BYTES // (4 * len(class_embeddings)))
    for start in range(0, len(image_features), at_once):
        scores = image_features[start : start + at_once] @ class_embeddings.T
        scores[:, twins] = scores[:, first[twins]]  # BLAS may round equal columns differently
        yield start, scores


def class_scores(image_features: Features, class_embeddings: Features) -> Features:
    """Return the products (N, C) of (N, D) images with (C, D). Raises ValueError for features that
    are not finite."""
    blocks = _score_blocks(image_features, class_embeddings)
    return np.concatenate([scores for _, scores in blocks])


class ConfusedPair(NamedTuple):
    """How many `images` of class `true` were given class `predicted` instead."""

    true: int
    predicted: int
    images: int


def confusion_pairs(labels: Ints, predicted: Ints, k: int = PAIRS) -> list[ConfusedPair]:
    """Return the k most frequent mistakes of (N,) labels and predictions, most frequent first. Of
    equally frequent ones the lower true class, then the lower predicted class comes first."""
    mistakes = np.stack([labels, predicted], axis=1)[labels != predicted]
    pairs, counts = np.unique(mistakes, axis=0, return_counts=True)
    # np.unique sorts by true and predicted class, which a stable sort keeps among equals.
    order = np.argsort(-counts, kind="stable")[:k]
    return [ConfusedPair(*map(int, (*pairs[i], counts[i]))) for i in order]


def macro_f1(labels: Ints, predicted: Ints) -> FunctionOfWeights:
    """Return the mean over the classes that labels (N,) hold of the F1 scores of predictions (N,):
    `sklearn.metrics.f1_score(..., average="macro", labels=np.unique(labels))`, as WILDS has it
    (github.com/p-lambda/wilds, wilds/common/metrics/all_metrics.py, F1)."""
    samples = np.stack([labels, predicted], axis=1)
    return FunctionOfWeights(samples, _macro_f1, macro_f1_interval)


def _macro_f1(samples: Ints) -> Callable[[Values], Values]:
    from scipy.sparse import csr_array

    true, predicted = samples.T
    classes = np.unique(true)[:, None]
    of_true, of_predicted = csr_array(true == classes), csr_array(predicted == classes)
    hits = csr_array((true == classes) & (true == predicted))

    def function(weights: Values) -> Values:
        drawn = np.ascontiguousarray(weights.T)
        labelled = of_true @ drawn  # (C, R)
        scores = ratio(2 * (hits @ drawn), (labelled + of_predicted @ drawn) * (labelled > 0))
        return mean_of_known(scores)

    return function


def macro_f1_interval(samples: Ints, level: float) -> Interval:
    """Return the interval of macro F1. A sample changes the scores of two classes at most: its own
    and the predicted one. Of the samples that a score is a share of, half are those of the class,
    half those predicted."""
    numbers = np.unique(samples, return_inverse=True)[1].reshape(samples.shape)
    (true, predicted), n_classes = numbers.T, int(numbers.max()) + 1
    is_right = true == predicted
    labelled = np.bincount(true, minlength=n_classes)
    taken = np.bincount(predicted, minlength=n_classes)
    right = np.bincount(true[is_right], minlength=n_classes)

    def scores(right: Ints, labelled: Ints, taken: Ints) -> Values:
        return np.nan_to_num(ratio(2 * right, (labelled + taken) * (labelled > 0)))

    score = scores(right, labelled, taken)
    present = labelled > 0
    of_true = scores(right[true] - is_right, labelled[true] - 1, taken[true] - is_right)
    of_predicted = scores(right[predicted], labelled[predicted], taken[predicted] - 1)
    changes = of_true - score[true] + np.where(is_right, 0, of_predicted - score[predicted])
    classes_without_sample = present.sum() - (labelled[true] == 1)
    without_sample = ratio(score.sum() + changes, classes_without_sample)
    halves = (labelled + taken)[present] / 2
    value = float(score[present].mean())
    mean = LeftOut(value, without_sample, right[present].astype(np.float64), halves)
    return jackknife_or_likelihood(mean, level)


class PairHits(NamedTuple):
    """Whether each image of a pair finds its caption, each caption its image: (N,) each."""

    text: NDArray[np.bool_]
    image: NDArray[np.bool_]


def single_hits(
    score: Score, image_of_item: Ints, captions_of_item: Sequence[Ints], right: Ints | int = 1
) -> NDArray[np.bool_]:
    """Return whether an item's image scores each of its first captions, of which `right` (N,) says
    how many, higher than all others, (N,). `image_of_item` (N,) and `captions_of_item`, two or more
    an item, are indices of both."""
    lengths = np.array([len(some) for some in captions_of_item])
    starts = np.cumsum(lengths) - lengths
    scores = score(np.repeat(image_of_item, lengths), np.concatenate(captions_of_item))
    place = np.arange(len(scores)) - np.repeat(starts, lengths)
    is_right = place < np.repeat(np.broadcast_to(right, lengths.shape), lengths)
    lowest = np.minimum.reduceat(np.where(is_right, scores, np.inf), starts)
    return lowest > np.maximum.reduceat(np.where(is_right, -np.inf, scores), starts)


def pair_hits(score: Score, images_of_item: Ints, captions_of_item: Ints) -> PairHits:
    """Return the hits of pairs: (N, 2) indices of images and of captions."""
    rows = np.repeat(images_of_item, 2, axis=1).ravel()
    columns = np.tile(captions_of_item, (1, 2)).ravel()
    s = score(rows, columns).reshape(-1, 2, 2)  # s[:, image, caption]
    return PairHits(
        text=(s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0]),
        image=(s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1]),
    )


def jaccard_indices(score: Score, items: Sequence[tuple[int, Ints, NDArray[np.bool_]]]) -> Values:
    """Return the Jaccard indices (N,) of the images that are right and as many that score highest
    with the caption of an item: its index, those of images (n,), and which are right (n,). Of equal
    scores those that are wrong come first."""
    found = []
    for cue, images, right in items:
        scores = score(images, np.full(len(images), cue))
        chosen = np.lexsort((right, -scores))[: right.sum()]
        hits = right[chosen].sum()
        found.append(hits / (2 * right.sum() - hits))
    return np.array(found)


def text_hits(features: Features, captions_of_item: Sequence[Ints], right: Ints) -> list[bool]:
    """Return whether an item's `right` first captions, two or more, are all closer to each other
    than to its other ones, by products of (T, D)."""

    def hit(captions: Ints, n: int) -> bool:
        s = (features[captions[:n], None] * features[captions]).sum(axis=-1)
        return bool(s[:, :n][np.triu_indices(n, 1)].min() > s[:, n:].max())

    return [hit(some, n) for some, n in zip(captions_of_item, right, strict=True)]


def expected_hits(values: Values, things_of_item: Sequence[Ints], right: Ints) -> Values:
    """Return how probable it is that an item's `right` first things have the highest of values
    (T,), equal ones in random order, (N,): with equal values of all the chance level, one in C(n,
    r). What an item has twice counts once; where a thing is right and wrong, it is 0."""

    def probability(good: Ints, bad: Ints) -> float:
        lowest, highest = values[good].min(), values[bad].max()
        if lowest != highest or np.isin(good, bad).any():
            return float(lowest > highest)
        tied = (values[good] == lowest).sum()
        return 1 / math.comb(tied + (values[bad] == highest).sum(), tied)

    items = zip(things_of_item, right, strict=True)
    return np.array([probability(np.unique(some[:n]), np.unique(some[n:])) for some, n in items])


def products(images: Features, captions: Features) -> Score:
    """Return the scores by products of (I, D) with (T, D) features: not a matrix product, whose
    columns may be summed in different orders. Raises ValueError for features not finite."""
    require_finite(images, captions)

    def score(rows: Ints, columns: Ints) -> NDArray[np.float32]:
        at_once = max(1, _BLOCK_BYTES // (4 * images.shape[1]))
        blocks = [slice(a, a + at_once) for a in range(0, len(rows), at_once)]
        found = [(images[rows[some]] * captions[columns[some]]).sum(axis=1) for some in blocks]
        return np.concatenate(found)

    return score
