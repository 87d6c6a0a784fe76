"""Simulated trainings of two methods that are equally good, and how often tests find a difference.

Studies draw images and trainings anew. An image has a difficulty, and is easier for one method; a
training is better or worse by its seed; what it gets right is then drawn for each image.
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
    """Studies of k trainings of A and B on n images, whose seeds change the expected value by a
    standard deviation of `sd` (as a fraction): normally, or with a long tail (`skewed`). `metric`
    is accuracy or mIoU, of which sd is that of the share of pixels found. `share` is how probably
    each image is right, 0 for images that are not equally hard."""

    k: tuple[int, int]
    n: int
    sd: tuple[float, float]
    skewed: bool = False
    metric: str = "accuracy"
    difference: float = 0.0
    share: float = 0.0

    def draw_seeds(self, rng: np.random.Generator) -> Iterator[Values]:
        """Draw what seeds add to the expected values of the trainings of A and B, (k, 1) each."""
        for k, sd in zip(self.k, self.sd, strict=True):
            shape = (k, 1)
            tail = rng.exponential(1, shape) - 1 if self.skewed else rng.standard_normal(shape)
            yield sd * tail


class Rejected(NamedTuple):
    """Shares of studies in which the true difference lay outside the 95% interval: of the groups,
    of the same trainings with an error by images alone, and of one training each."""

    groups: float
    images_alone: float
    one_each: float


def rejected(design: Design, studies: int, seed: int = 0) -> Rejected:
    """Simulate; without a difference the shares are type I errors."""
    rng, k = np.random.default_rng(seed), design.k[0]
    found = []
    for _ in range(studies):
        values, covariance, n = _moments(trainings(design, rng))
        of_groups = group_difference(values[:k], values[k:], covariance, n)
        pick = np.array([0, k])
        of_one = group_difference(*values[pick, None], covariance[np.ix_(pick, pick)], n)
        low, high = of_groups.interval()[:2]
        found.append(
            (
                not low <= design.difference <= high,
                _is_outside(of_groups, design.difference),
                _is_outside(of_one, design.difference),
            )
        )
    return Rejected(*np.mean(found, axis=0).tolist())


def _is_outside(found: GroupDifference, true: float) -> bool:
    half = t.ppf(0.975, found.units - 1) * found.image_error
    return bool(abs(found.difference - true) > half)


def rejected_splits(estimates: Sequence[Estimate]) -> float:
    """Return in which share of all splits of one method's trainings into two halves, which differ
    by chance alone, the test finds a difference."""
    values, covariance, n = _moments(estimates)
    found = []
    for half in combinations(range(len(values)), len(values) // 2):
        order = np.array([*half, *(one for one in range(len(values)) if one not in half)])
        both = np.split(values[order], [len(half)])
        difference = group_difference(*both, covariance[np.ix_(order, order)], n)
        found.append(difference.p_value <= 0.05)
    return float(np.mean(found))


def _moments(estimates: Iterable[Estimate]) -> tuple[Values, Values, int]:
    several = list(estimates)
    return np.array([one.value for one in several]), *image_covariance(several)


def trainings(
    design: Design, rng: np.random.Generator, seeds: Sequence[Values] = ()
) -> list[Estimate]:
    """Draw the trainings of A, then those of B, on images of their own; `seeds` are what these add,
    drawn if not given."""
    draw = _areas if design.metric == "mIoU" else _hits
    return draw(_expected(design, rng, seeds), rng)


def _expected(design: Design, rng: np.random.Generator, seeds: Sequence[Values]) -> Values:
    """Draw how probably trainings get images right (S, n); on average 0.54 of hard and easy ones,
    of which each is easier for one method."""
    image, easier = 0.15 + 0.7 * rng.beta(0.5, 0.4, design.n), 0.05
    if design.share:
        image, easier = np.full(design.n, design.share), 0.0
    parts = []
    for added, sign in zip(seeds or design.draw_seeds(rng), (1, -1), strict=True):
        method = rng.uniform(-easier, easier, design.n) + sign * design.difference / 2
        parts.append(image + method + added)
    return np.clip(np.concatenate(parts), 0, 1)


def _hits(expected: Values, rng: np.random.Generator) -> list[Estimate]:
    return [Proportion(hits) for hits in rng.random(expected.shape) < expected]


def _areas(expected: Values, rng: np.random.Generator) -> list[Estimate]:
    """Classes are in 50% to 2% of the images; all are seen where they are not in 10%."""
    n = expected.shape[1]
    labelled = _pixels(rng, (n, CLASSES), np.geomspace(0.5, 0.02, CLASSES), 1000)
    found = []
    for quality in expected:
        intersection = rng.binomial(labelled, quality[:, None])
        wrong = _pixels(rng, (n, CLASSES), 0.1, 100)
        areas = Areas(intersection, labelled, intersection + wrong)
        found.append(FunctionOfSums(areas, mean_iou))
    return found


def _pixels(
    rng: np.random.Generator, shape: tuple[int, int], presence: Values | float, mean: float
) -> NDArray[np.int64]:
    pixels = rng.exponential(mean, shape).astype(np.int64)
    return np.where(rng.random(shape) < presence, pixels, 0)
