"""How often 95% intervals contain the true value, in simulated studies.

A study draws its images from one population, whose true value is known, and computes an interval.
Each study is a column of the arrays. All studies of a block share their resamples.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import FunctionOfSums, Mean
from cosmos_eval.stats.intervals import intervals, wilson
from cosmos_eval.stats.segmentation import Areas, mean_iou
from cosmos_eval.types import Interval

BLOCK = 100  # studies that share resamples
RESAMPLES = 1000
CAPTIONS = 5  # of an image
CLASSES = 10


def wilson_coverage(n: int, share: float, *, studies: int) -> float:
    """Return the coverage of Wilson's interval for `n` images.

    Each image is right with probability `share`.
    """
    right = np.random.default_rng(n).binomial(n, share, studies)
    holds = {count: _holds(wilson(count, n), share) for count in set(right.tolist())}
    return float(np.mean([holds[count] for count in right.tolist()]))


def cluster_coverage(images: int, *, blocks: int, by_image: bool = True) -> float:
    """Return the coverage of the interval of recall, clustered by images or by single captions.

    Each image has five captions and a probability p from the Beta(1, 1.5) distribution, with which
    each of its captions is retrieved. The expected recall is 0.4.
    """
    held = []
    for block in range(blocks):
        rng = np.random.default_rng(block)
        p = rng.beta(1, 1.5, (images, 1, BLOCK))
        is_retrieved = (rng.random((images, CAPTIONS, BLOCK)) < p).reshape(-1, BLOCK)
        captions = np.arange(len(is_retrieved))
        clusters = captions // CAPTIONS if by_image else captions
        estimates = {str(n): Mean(column, clusters) for n, column in enumerate(is_retrieved.T)}
        interval_by_study = intervals(estimates, seed=block, resamples=RESAMPLES)
        held += [_holds(interval, 0.4) for interval in interval_by_study.values()]
    return float(np.mean(held))


def miou_coverage(images: int, presence: float, *, blocks: int) -> float:
    """Return the coverage of the jackknife of mIoU over ten classes.

    Each class is in a fraction `presence` of the images. Its number of pixels there is
    exponentially distributed with mean 1,000. An image has a quality from Beta(4, 2), which is the
    probability that pixels of its classes are found; it is halved for the first class, and rises
    to the whole quality for the last. In 0.3 of the images, a class is predicted wrongly on about
    300 pixels.
    """
    areas_of_many_images = _areas(np.random.default_rng(0), 20_000, 20, presence)
    true = float(mean_iou(Areas(*(area.sum((0, 1)) for area in areas_of_many_images))))
    # A study is a group of classes, so that one call makes the intervals of all.
    groups = [np.arange(n * CLASSES, (n + 1) * CLASSES) for n in range(BLOCK)]
    held = []
    for block in range(1, blocks + 1):
        drawn = _areas(np.random.default_rng(block), images, BLOCK, presence)
        flat = Areas(*(area.reshape(images, -1) for area in drawn))
        estimates = {
            str(n): FunctionOfSums(flat, partial(mean_iou, members=members), jackknife=True)
            for n, members in enumerate(groups)
        }
        interval_by_study = intervals(estimates, seed=block, resamples=RESAMPLES)
        held += [_holds(interval, true) for interval in interval_by_study.values()]
    return float(np.mean(held))


def _areas(rng: np.random.Generator, images: int, studies: int, presence: float) -> Areas:
    """Areas (images, studies, classes)."""
    shape = (images, studies, CLASSES)
    labelled = _pixels(rng, shape, presence, 1000)
    quality = rng.beta(4, 2, (images, studies, 1)) * np.linspace(0.5, 1, CLASSES)
    intersection = rng.binomial(labelled, quality)
    return Areas(intersection, labelled, intersection + _pixels(rng, shape, 0.3, 300))


def _pixels(
    rng: np.random.Generator, shape: tuple[int, ...], presence: float, mean: float
) -> NDArray[np.int64]:
    pixels = rng.exponential(mean, shape).astype(np.int64)
    return np.where(rng.random(shape) < presence, pixels, 0)


def _holds(interval: Interval, true: float) -> bool:
    return interval.low <= true <= interval.high
