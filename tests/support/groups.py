"""Simulated trainings of two methods that are equally good, and how often tests find a difference.

Every study draws its own images and trainings. An image has a difficulty, and is easier for one
method. A training is better or worse by its seed. Both give the probability that the training gets
the image right, by which the outcome is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from cosmos_eval.stats.estimates import Estimate, FunctionOfSums, Proportion, Values
from cosmos_eval.stats.groups import GroupDifference, group_difference, image_covariance
from cosmos_eval.stats.segmentation import Areas, mean_iou

CLASSES = 10


class Design(NamedTuple):
    """Studies that compare trainings of two methods, A and B, on the same images."""

    # The numbers of trainings of A and B.
    k: tuple[int, int]
    # The number of images.
    n: int
    # The standard deviations, as fractions, by which the seeds of A and B change the probability
    # that an image is right; for mIoU, the probability that a pixel is found.
    sd: tuple[float, float]
    # Whether what seeds change has a long tail, instead of a normal distribution.
    skewed: bool = False
    # "accuracy" or "mIoU".
    metric: str = "accuracy"
    # The true difference of A and B.
    difference: float = 0.0
    # The probability that each image is right, or 0 for images that are not equally hard.
    share: float = 0.0

    def draw_seeds(self, rng: np.random.Generator) -> Iterator[Values]:
        """Draw what seeds add to the expected values of the trainings of A and B, (k, 1) each."""
        for k, sd in zip(self.k, self.sd, strict=True):
            shape = (k, 1)
            tail = rng.exponential(1, shape) - 1 if self.skewed else rng.standard_normal(shape)
            yield sd * tail


class Rejected(NamedTuple):
    """Fractions of studies in which the true difference lies outside a 95% interval.

    If the true difference is 0, they are rates of type I errors.
    """

    # The interval of both groups of trainings.
    groups: float
    # The interval of the same trainings by the error of images only.
    images_alone: float
    # The interval of one training of each method.
    one_each: float


def rejected(design: Design, studies: int, seed: int = 0) -> Rejected:
    """Simulate studies, and return the fractions in which each test rejects the true difference."""
    rng, k = np.random.default_rng(seed), design.k[0]
    rejections = []
    for _ in range(studies):
        values, covariance, n = _moments(trainings(design, rng))
        of_groups = group_difference(values[:k], values[k:], covariance, n)
        first_trainings = np.array([0, k])  # the first one of each method
        covariance_of_first = covariance[np.ix_(first_trainings, first_trainings)]
        of_one = group_difference(*values[first_trainings, None], covariance_of_first, n)
        low, high = of_groups.interval()[:2]
        rejections.append(
            (
                not low <= design.difference <= high,
                _is_outside(of_groups, design.difference),
                _is_outside(of_one, design.difference),
            )
        )
    return Rejected(*np.mean(rejections, axis=0).tolist())


def _is_outside(estimate: GroupDifference, true: float) -> bool:
    """Return whether the true difference is outside the interval by the error of images only."""
    half_width = t.ppf(0.975, estimate.units - 1) * estimate.image_error
    return bool(abs(estimate.difference - true) > half_width)


def rejected_splits(estimates: Sequence[Estimate]) -> float:
    """Return the fraction of all splits of one method's trainings into two halves for which the
    test finds a difference. The halves differ by chance only."""
    values, covariance, n = _moments(estimates)
    rejections = []
    for first_half in combinations(range(len(values)), len(values) // 2):
        second_half = [number for number in range(len(values)) if number not in first_half]
        order = np.array([*first_half, *second_half])
        difference = group_difference(
            values[list(first_half)], values[second_half], covariance[np.ix_(order, order)], n
        )
        rejections.append(difference.p_value <= 0.05)
    return float(np.mean(rejections))


def _moments(estimates: Iterable[Estimate]) -> tuple[Values, Values, int]:
    """Return the values of estimates, their covariance by images, and the number of images."""
    estimates = list(estimates)
    values = np.array([estimate.value for estimate in estimates])
    return values, *image_covariance(estimates)


def trainings(
    design: Design, rng: np.random.Generator, seeds: Sequence[Values] = ()
) -> list[Estimate]:
    """Draw the trainings of A, followed by the trainings of B, on images of this study.

    `seeds` is what the seeds add to the probabilities of both methods, or empty to draw that, too.
    """
    draw = _areas if design.metric == "mIoU" else _hits
    return draw(_expected(design, rng, seeds), rng)


def _expected(design: Design, rng: np.random.Generator, seeds: Sequence[Values]) -> Values:
    """Draw the probabilities (S, n) with which trainings get images right.

    The images are hard or easy, with a mean probability of 0.54, and each image is easier for one
    of the methods.
    """
    of_images, easier = 0.15 + 0.7 * rng.beta(0.5, 0.4, design.n), 0.05
    if design.share:
        of_images, easier = np.full(design.n, design.share), 0.0
    probabilities = []
    for of_seeds, sign in zip(seeds or design.draw_seeds(rng), (1, -1), strict=True):
        of_method = rng.uniform(-easier, easier, design.n) + sign * design.difference / 2
        probabilities.append(of_images + of_method + of_seeds)
    return np.clip(np.concatenate(probabilities), 0, 1)


def _hits(expected: Values, rng: np.random.Generator) -> list[Estimate]:
    return [Proportion(hits) for hits in rng.random(expected.shape) < expected]


def _areas(expected: Values, rng: np.random.Generator) -> list[Estimate]:
    """Draw the areas of each training. Classes are in 50% to 2% of the images, and each class is
    predicted wrongly in 10% of them."""
    n = expected.shape[1]
    labelled = _pixels(rng, (n, CLASSES), np.geomspace(0.5, 0.02, CLASSES), 1000)
    estimates = []
    for quality in expected:
        intersection = rng.binomial(labelled, quality[:, None])
        wrong = _pixels(rng, (n, CLASSES), 0.1, 100)
        areas = Areas(intersection, labelled, intersection + wrong)
        estimates.append(FunctionOfSums(areas, mean_iou))
    return estimates


def _pixels(
    rng: np.random.Generator, shape: tuple[int, int], presence: Values | float, mean: float
) -> NDArray[np.int64]:
    pixels = rng.exponential(mean, shape).astype(np.int64)
    return np.where(rng.random(shape) < presence, pixels, 0)
