"""Choices by the highest score: the best classes of images, their confidence, caption selection.

Tie rules: of classes with the same score, the class that is listed first wins. A correct caption
or image must score strictly higher than all wrong ones: a model that gives all pairs the same score
is always wrong. Scores are sums of D products in the same order, so that equal features tie.

Two images i0, i1 and their captions c0, c1 are scored as in Winoground (Thrush et al. 2022, arXiv
2204.03162, section 3.2), where s(c, i) is the score of a caption and an image:
text:   s(c0, i0) > s(c1, i0) and s(c1, i1) > s(c0, i1)
image:  s(c0, i0) > s(c0, i1) and s(c1, i1) > s(c1, i0)
group:  both
Shapes: N images or items, C classes, I images, T captions, D embedding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.class_means import MeanWithoutEach, jackknife_or_likelihood
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
"""Maps indices of images (K,) and of captions (K,) to the scores of these K pairs, (K,)."""

TOP = 5
PAIRS = 10
_BLOCK_BYTES = 64 << 20  # of float32 scores or products


def top_classes(image_features: Features, class_embeddings: Features, k: int = TOP) -> Ints:
    """Return the indices of the k best classes of each image, the best class first, (N, k).

    The score of an image and a class is the product of their features. If classes have the same
    score, the one that is listed first is better.

    Args:
        image_features: (N, D), the embeddings of the images.
        class_embeddings: (C, D), the embeddings of the classes.
        k: The number of classes to return. If there are fewer classes, all of them are returned.

    Raises:
        ValueError: Features are NaN or infinite.

    Example:
        An image with the scores [0.1, 0.3, 0.2] has the two best classes [1, 2].
    """
    n_best = min(k, len(class_embeddings))
    best_classes = np.empty((len(image_features), n_best), np.int64)
    for start, scores in _score_blocks(image_features, class_embeddings):
        rows = np.arange(len(scores))
        # For a small k, repeated maxima are faster than a sort. argmax takes the first of equals.
        for rank in range(n_best):
            best_class = scores.argmax(axis=1)
            best_classes[start + rows, rank] = best_class
            scores[rows, best_class] = -np.inf  # so that the next best class is found
    return best_classes


def top_confidences(
    image_features: Features, class_embeddings: Features, scale: float
) -> NDArray[np.float32]:
    """Return the probability of the best class of each image, (N,).

    It is softmax(scale * image_features @ class_embeddings.T).max(axis=1).

    Args:
        image_features: (N, D), the embeddings of the images.
        class_embeddings: (C, D), the embeddings of the classes.
        scale: The model's logit scale, by which scores are multiplied, such as 100.

    Raises:
        ValueError: Features are NaN or infinite.
    """
    confidences = np.empty(len(image_features), np.float32)
    for start, scores in _score_blocks(image_features, class_embeddings):
        # With the best score at 0, the numerator of the softmax, exp(scale * best score), is 1.
        scores -= scores.max(axis=1, keepdims=True)
        denominators = np.exp(scale * scores).sum(axis=1)
        confidences[start : start + len(scores)] = 1 / denominators
    return confidences


def top_scores(image_features: Features, class_embeddings: Features) -> Features:
    """Return the highest score of each of N images with any of C classes, (N,).

    The score of an image and a class is the product of their features, (N, D) and (C, D). Raises
    ValueError for features that are not finite.
    """
    blocks = _score_blocks(image_features, class_embeddings)
    return np.concatenate([scores.max(axis=1) for _, scores in blocks])


def count_shared_best(image_features: Features, class_embeddings: Features) -> int:
    """Return the number of images whose highest score is shared by several classes.

    The score of an image and a class is the product of their features, (N, D) and (C, D): images
    with the scores [0.3, 0.3, 0.1] and [0.3, 0.2, 0.2] count as 1. Raises ValueError for features
    that are not finite.
    """
    n_shared = 0
    for _, scores in _score_blocks(image_features, class_embeddings):
        is_best = scores == scores.max(axis=1, keepdims=True)
        n_shared += int(np.count_nonzero(is_best.sum(axis=1) > 1))
    return n_shared


def _score_blocks(
    image_features: Features, class_embeddings: Features
) -> Iterator[tuple[int, Features]]:
    """Compute image_features @ class_embeddings.T, (N, C), a block of images at a time.

    A matrix product may round equal columns differently. Therefore, classes with equal features get
    the scores of the first of them.

    Args:
        image_features: (N, D), the embeddings of the images.
        class_embeddings: (C, D), the embeddings of the classes.

    Yields:
        For each block of n images, the index of its first image, and its scores with all classes,
        (n, C).

    Raises:
        ValueError: Features are NaN or infinite.
    """
    require_finite(image_features, class_embeddings)
    # The index of the first class with the same features, (C,).
    first_equal_class = first_equal(class_embeddings)
    is_repeated = first_equal_class != np.arange(len(first_equal_class))
    repeated_classes = np.flatnonzero(is_repeated)
    images_at_once = max(1, _BLOCK_BYTES // (4 * len(class_embeddings)))  # a score has 4 bytes
    for start in range(0, len(image_features), images_at_once):
        scores = image_features[start : start + images_at_once] @ class_embeddings.T
        scores[:, repeated_classes] = scores[:, first_equal_class[repeated_classes]]
        yield start, scores


def class_scores(image_features: Features, class_embeddings: Features) -> Features:
    """Return the scores (N, C) of N images with C classes: the products of their features.

    Classes with equal features have equal scores, to the last bit.

    Args:
        image_features: (N, D), the embeddings of the images.
        class_embeddings: (C, D), the embeddings of the classes.

    Raises:
        ValueError: Features are NaN or infinite.
    """
    blocks = _score_blocks(image_features, class_embeddings)
    return np.concatenate([scores for _, scores in blocks])


class ConfusedPair(NamedTuple):
    """A mistake: images of one class for which another class is predicted."""

    # The index of the true class.
    true: int
    # The index of the predicted class.
    predicted: int
    # The number of images.
    images: int


def confusion_pairs(labels: Ints, predicted: Ints, k: int = PAIRS) -> list[ConfusedPair]:
    """Return the k most frequent mistakes, the most frequent first.

    Equally frequent mistakes are sorted by their true class, then by their predicted class.

    Args:
        labels: (N,), the index of each image's true class.
        predicted: (N,), the index of each image's predicted class.
        k: The largest number of mistakes to return.

    Example:
        >>> confusion_pairs(np.array([0, 0, 1, 1]), np.array([2, 2, 1, 0]))
        [ConfusedPair(true=0, predicted=2, images=2), ConfusedPair(true=1, predicted=0, images=1)]
    """
    # One row for each wrong prediction: the true class and the predicted class.
    mistakes = np.stack([labels, predicted], axis=1)[labels != predicted]
    # np.unique sorts by true and predicted class. The stable sort keeps this order among equals.
    distinct_mistakes, n_images = np.unique(mistakes, axis=0, return_counts=True)
    most_frequent_first = np.argsort(-n_images, kind="stable")
    confused_pairs = []
    for index in most_frequent_first[:k]:
        true_class, predicted_class = distinct_mistakes[index]
        confused_pairs.append(
            ConfusedPair(
                true=int(true_class),
                predicted=int(predicted_class),
                images=int(n_images[index]),
            )
        )
    return confused_pairs


def macro_f1(labels: Ints, predicted: Ints) -> FunctionOfWeights:
    """Return the mean F1 score of predictions over the classes that occur in labels.

    The F1 score of a class is 2 hits / (labelled + predicted), where hits, labelled and predicted
    are numbers of samples. For example, the labels [0, 0, 1] with the predictions [0, 1, 1] have
    2 / (2 + 1) for class 0, and 2 / (1 + 2) for class 1. The mean is
    `sklearn.metrics.f1_score(..., average="macro", labels=np.unique(labels))`, as in WILDS
    (github.com/p-lambda/wilds, wilds/common/metrics/all_metrics.py, F1).

    Args:
        labels: (N,), the index of each sample's true class.
        predicted: (N,), the index of each sample's predicted class.

    Returns:
        An estimate: the arrays that the value, its interval and paired tests are computed from.
    """
    samples = np.stack([labels, predicted], axis=1)
    return FunctionOfWeights(samples, _WeightedMacroF1, macro_f1_interval)


class _WeightedMacroF1:
    """A function that computes macro F1 in several resamples at once, from weights of samples."""

    def __init__(self, samples: Ints) -> None:
        """Find the samples that belong to each of C classes.

        The classes are those that occur in labels. `samples` (N, 2) holds the label and the
        predicted class of each sample.
        """
        from scipy.sparse import csr_array

        labels, predicted = samples.T
        classes = np.unique(labels)[:, None]  # (C, 1)
        # (C, N): True if a sample has the class as its label, as its prediction, and as both.
        self._is_labelled = csr_array(labels == classes)
        self._is_predicted = csr_array(predicted == classes)
        self._is_hit = csr_array((labels == classes) & (labels == predicted))

    def __call__(self, weights: Values) -> Values:
        """Return the macro F1 scores (R,) of R resamples.

        A class without drawn samples is left out of the mean.

        Args:
            weights: (R, N) says how often each sample is drawn in each resample.
        """
        weights_of_samples = np.ascontiguousarray(weights.T)  # (N, R)
        # The numbers of drawn samples of each class, (C, R).
        n_labelled = self._is_labelled @ weights_of_samples
        n_predicted = self._is_predicted @ weights_of_samples
        n_hits = self._is_hit @ weights_of_samples
        # A denominator of 0 makes the score of a class without drawn samples NaN.
        denominator = np.where(n_labelled > 0, n_labelled + n_predicted, 0)
        return mean_of_known(ratio(2 * n_hits, denominator))


def macro_f1_interval(samples: Ints, level: float) -> Interval:
    """Return the interval of macro F1 by the jackknife or the likelihood, whichever is wider.

    The jackknife needs macro F1 without each sample. Leaving out a sample changes the F1 scores of
    two classes at most: its true class and its predicted class. For the likelihood, the F1 score of
    a class counts as the share of hits among (labelled + predicted) / 2 samples.

    Args:
        samples: (N, 2), the label and the predicted class of each sample.
        level: The probability that the interval contains the true value.
    """
    # Number the classes 0, ..., C - 1, and count the samples of each.
    class_indices = np.unique(samples, return_inverse=True)[1].reshape(samples.shape)
    label, predicted = class_indices.T  # (N,) each
    n_classes = int(class_indices.max()) + 1
    is_hit = label == predicted
    n_labelled = np.bincount(label, minlength=n_classes)
    n_predicted = np.bincount(predicted, minlength=n_classes)
    n_hits = np.bincount(label[is_hit], minlength=n_classes)
    f1 = _f1_scores(n_hits, n_labelled, n_predicted)

    # (N,): how much the F1 score of the sample's true class changes without the sample.
    f1_of_true_class = _f1_scores(
        n_hits[label] - is_hit, n_labelled[label] - 1, n_predicted[label] - is_hit
    )
    change_of_true_class = f1_of_true_class - f1[label]
    # (N,): how much the F1 score of another, wrongly predicted class changes without the sample.
    f1_of_predicted_class = _f1_scores(
        n_hits[predicted], n_labelled[predicted], n_predicted[predicted] - 1
    )
    change_of_predicted_class = np.where(is_hit, 0, f1_of_predicted_class - f1[predicted])
    changes = change_of_true_class + change_of_predicted_class

    # Without the only sample of a class, there is one class less to average over.
    has_samples = n_labelled > 0
    is_only_sample_of_class = n_labelled[label] == 1
    n_classes_without_sample = has_samples.sum() - is_only_sample_of_class
    mean = MeanWithoutEach(
        value=float(f1[has_samples].mean()),
        without_sample=ratio(f1.sum() + changes, n_classes_without_sample),
        right=n_hits[has_samples].astype(np.float64),
        samples=(n_labelled + n_predicted)[has_samples] / 2,
    )
    return jackknife_or_likelihood(mean, level)


def _f1_scores(n_hits: Ints, n_labelled: Ints, n_predicted: Ints) -> Values:
    """Return 2 hits / (labelled + predicted) for each class, and 0 for a class without labels.

    For example, 3 hits of 4 labelled and 5 predicted samples have the F1 score 6 / 9.

    Args:
        n_hits: (C,), the number of samples of each class that are predicted as this class.
        n_labelled: (C,), the number of samples whose label is the class.
        n_predicted: (C,), the number of samples that are predicted as the class.
    """
    denominator = np.where(n_labelled > 0, n_labelled + n_predicted, 0)
    return np.nan_to_num(ratio(2 * n_hits, denominator))


class PairHits(NamedTuple):
    """The hits among N items, which have two images and two captions each."""

    # (N,): True if each image scores higher with its own caption than with the other one.
    text: NDArray[np.bool_]
    # (N,): True if each caption scores higher with its own image than with the other one.
    image: NDArray[np.bool_]


def single_hits(
    score: Score,
    image_of_item: Ints,
    captions_of_item: Sequence[Ints],
    n_correct: Ints | int = 1,
    *,
    is_one_enough: bool = False,
    ties_are_hits: bool = False,
) -> NDArray[np.bool_]:
    """Return whether each item's image scores all correct captions above all wrong ones, (N,).

    In plain terms, an item is a hit if

        scores = score([image] * len(captions), captions)
        scores[:n_correct].min() > scores[n_correct:].max()

    Args:
        score: Maps the indices (K,) of images and (K,) of captions to the scores (K,) of the pairs.
        image_of_item: (N,), the index of each item's image.
        captions_of_item: For each item, the indices of its captions, correct ones first.
        n_correct: The number of correct captions of each item (N,), or one number for all items.
        is_one_enough: True if one correct caption above all wrong ones is a hit.
        ties_are_hits: True if it is also a hit that a wrong caption scores as high.
    """
    n_captions = np.array([len(captions) for captions in captions_of_item])
    n_correct_of_item = np.broadcast_to(n_correct, n_captions.shape)

    # Score the captions of all items, one item after the other.
    images = np.repeat(image_of_item, n_captions)
    scores = score(images, np.concatenate(captions_of_item))

    # Two items with 2 and 3 captions start at the places [0, 2] of all scores. The places of their
    # captions in their items are [0, 1, 0, 1, 2].
    starts = np.cumsum(n_captions) - n_captions
    place_in_item = np.arange(len(scores)) - np.repeat(starts, n_captions)
    is_correct = place_in_item < np.repeat(n_correct_of_item, n_captions)
    # reduceat takes the minimum, or maximum, from each start to the next one.
    if is_one_enough:
        deciding = np.maximum.reduceat(np.where(is_correct, scores, -np.inf), starts)
    else:
        deciding = np.minimum.reduceat(np.where(is_correct, scores, np.inf), starts)
    highest_wrong = np.maximum.reduceat(np.where(is_correct, -np.inf, scores), starts)
    is_higher = np.greater_equal if ties_are_hits else np.greater
    return is_higher(deciding, highest_wrong)


def pair_hits(
    score: Score, images_of_item: Ints, captions_of_item: Ints, *, ties_are_hits: bool = False
) -> PairHits:
    """Return the hits of N items with two images and two captions each.

    The first caption describes the first image, and the second caption the second image.

    Args:
        score: Maps the indices (K,) of images and (K,) of captions to the scores (K,) of the pairs.
        images_of_item: (N, 2), the indices of each item's images.
        captions_of_item: (N, 2), the indices of each item's captions.
        ties_are_hits: True if equal scores count as higher.

    Example:
        An item has the scores [[0.9, 0.2], [0.3, 0.4]], with images as rows. Each image scores its
        own caption higher than the other one (0.9 > 0.2 and 0.4 > 0.3), and each caption its own
        image (0.9 > 0.3 and 0.4 > 0.2): both `text` and `image` are True.
    """
    # The four pairs of each item: (i0, c0), (i0, c1), (i1, c0), (i1, c1).
    images = np.repeat(images_of_item, 2, axis=1).ravel()
    captions = np.tile(captions_of_item, (1, 2)).ravel()
    scores = score(images, captions).reshape(-1, 2, 2)  # scores[item, image, caption]
    i0_c0 = scores[:, 0, 0]
    i0_c1 = scores[:, 0, 1]
    i1_c0 = scores[:, 1, 0]
    i1_c1 = scores[:, 1, 1]
    is_higher = np.greater_equal if ties_are_hits else np.greater
    return PairHits(
        text=is_higher(i0_c0, i0_c1) & is_higher(i1_c1, i1_c0),
        image=is_higher(i0_c0, i1_c0) & is_higher(i1_c1, i0_c1),
    )


def jaccard_indices(score: Score, items: Sequence[tuple[int, Ints, NDArray[np.bool_]]]) -> Values:
    """Return the Jaccard index of the correct and the chosen images of each item, (N,).

    If m images of an item are correct, the m images that score highest with its caption are chosen.
    If scores are equal, wrong images are chosen first. With h hits among the chosen images, the
    Jaccard index is h / (2 m - h). For example, 2 hits of 3 correct images give 2 / 4.

    Args:
        score: Maps the indices (K,) of images and (K,) of captions to the scores (K,) of the pairs.
        items: For each item, the index of its caption, the indices of its n images (n,), and
            whether each of these images is correct (n,).
    """
    jaccard_of_items = []
    for caption, images, is_correct in items:
        scores = score(images, np.full(len(images), caption))
        n_correct = is_correct.sum()
        # Sort by falling score, and wrong images before correct ones of the same score. (The last
        # key of lexsort is the first one to sort by.)
        best_first = np.lexsort((is_correct, -scores))
        chosen = best_first[:n_correct]
        n_hits = is_correct[chosen].sum()
        n_in_union = 2 * n_correct - n_hits
        jaccard_of_items.append(n_hits / n_in_union)
    return np.array(jaccard_of_items)


def text_hits(features: Features, captions_of_item: Sequence[Ints], n_correct: Ints) -> list[bool]:
    """Return whether each item's correct captions are closer to each other than to wrong ones.

    The score of two captions is the product of their features. An item is a hit if all scores of
    two correct captions are above all scores of a correct and a wrong caption.

    Args:
        features: (T, D), the embeddings of all captions.
        captions_of_item: For each item, the indices of its captions, correct ones first.
        n_correct: (N,), the number of correct captions of each item, two or more.
    """
    hits = []
    for captions, n_correct_captions in zip(captions_of_item, n_correct, strict=True):
        # The scores of the correct captions (rows) with all captions of the item (columns).
        correct_features = features[captions[:n_correct_captions]]
        scores = (correct_features[:, None] * features[captions]).sum(axis=-1)
        # The pairs above the diagonal: each pair of two correct captions once.
        pairs_of_correct = np.triu_indices(n_correct_captions, 1)
        scores_of_correct = scores[:, :n_correct_captions][pairs_of_correct]
        scores_with_wrong = scores[:, n_correct_captions:]
        hits.append(bool(scores_of_correct.min() > scores_with_wrong.max()))
    return hits


def expected_hits(
    values: Values,
    candidates_of_item: Sequence[Ints],
    n_correct: Ints,
    *,
    is_one_enough: bool = False,
) -> Values:
    """Return the probability that each item's correct candidates have the highest values, (N,).

    Candidates are sorted by their values, the highest first. Candidates with equal values are in
    random order. So if all n values of an item are equal, the probability is the chance level
    1 / C(n, r) for r correct candidates: 1 / 4 for 1 of 4. A candidate that an item has twice
    counts once. If a candidate is both correct and wrong, the probability is 0.

    Args:
        values: (T,), the value of each candidate, such as a score of a caption.
        candidates_of_item: For each item, the indices of its candidates, correct ones first.
        n_correct: (N,), the number of correct candidates of each item.
        is_one_enough: True if one correct candidate above all wrong ones is enough. The chance
            level is then r / n.

    Example:
        An item has a correct candidate of the value 3, and wrong ones of the values 3, 3 and 1. The
        correct candidate comes first of three that are tied, with the probability
        1 / C(3, 1) = 1 / 3.
    """
    probabilities = []
    for candidates, n_correct_candidates in zip(candidates_of_item, n_correct, strict=True):
        correct = np.unique(candidates[:n_correct_candidates])
        wrong = np.unique(candidates[n_correct_candidates:])
        correct_values = values[correct]
        wrong_values = values[wrong]
        deciding = correct_values.max() if is_one_enough else correct_values.min()
        highest_wrong = wrong_values.max()

        is_tied = deciding == highest_wrong
        if deciding > highest_wrong:
            probability = 1.0
        elif not is_tied or np.isin(correct, wrong).any():
            probability = 0.0
        else:
            # Some correct and wrong candidates are tied. In random order, a correct one must come
            # first, or all of them: one of C(tied, tied correct) ways to place them.
            n_tied_correct = (correct_values == deciding).sum()
            n_tied = n_tied_correct + (wrong_values == highest_wrong).sum()
            if is_one_enough:
                probability = n_tied_correct / n_tied
            else:
                probability = 1 / math.comb(n_tied, n_tied_correct)
        probabilities.append(probability)
    return np.array(probabilities)


def products(images: Features, captions: Features) -> Score:
    """Return a function that scores pairs by the products of image and caption features.

    A matrix product may sum its columns in different orders, so that equal features would not tie.
    Therefore, the function multiplies element by element, and sums in the same order for all pairs.

    Args:
        images: (I, D), the embeddings of all images.
        captions: (T, D), the embeddings of all captions.

    Returns:
        A function that maps the indices (K,) of images and (K,) of captions to the scores (K,) of
        these K pairs: (images[image_indices] * captions[caption_indices]).sum(axis=1).

    Raises:
        ValueError: Features are NaN or infinite.
    """
    require_finite(images, captions)
    return _Products(images, captions)


@dataclass(frozen=True)
class _Products:
    """A function that scores pairs of an image and a caption by the product of their features."""

    # (I, D): the embeddings of all images.
    images: Features
    # (T, D): the embeddings of all captions.
    captions: Features

    def __call__(self, image_indices: Ints, caption_indices: Ints) -> NDArray[np.float32]:
        """Return the scores (K,) of K pairs of an image and a caption.

        To bound memory, the products are computed for a block of pairs at a time. In plain terms:

            (self.images[image_indices] * self.captions[caption_indices]).sum(axis=1)

        Args:
            image_indices: (K,), the index of each pair's image.
            caption_indices: (K,), the index of each pair's caption.
        """
        pairs_at_once = max(1, _BLOCK_BYTES // (4 * self.images.shape[1]))
        blocks = []
        for start in range(0, len(image_indices), pairs_at_once):
            pairs = slice(start, start + pairs_at_once)
            images = self.images[image_indices[pairs]]
            captions = self.captions[caption_indices[pairs]]
            blocks.append((images * captions).sum(axis=1))
        return np.concatenate(blocks)
