"""How often 95% intervals hold what they are of, in studies that are simulated.

A study draws its images from one population, whose value is known, and makes an interval of it.
Studies lie side by side, one a column, and share the resamples of a block.
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
    """Of Wilson's interval of `n` images, each of which is right with probability `share`."""
    right = np.random.default_rng(n).binomial(n, share, studies)
    holds = {count: _holds(wilson(count, n), share) for count in set(right.tolist())}
    return float(np.mean([holds[count] for count in right.tolist()]))


def cluster_coverage(images: int, *, blocks: int, by_image: bool = True) -> float:
    """Of the interval of recall, whose clusters are images or else single captions.

    Images have five captions and a difficulty p of their own, from the Beta(1, 1.5) distribution:
    each caption of the image is found with probability p. The recall of all images is 0.4.
    """
    held = []
    for block in range(blocks):
        rng = np.random.default_rng(block)
        p = rng.beta(1, 1.5, (images, 1, BLOCK))
        found = (rng.random((images, CAPTIONS, BLOCK)) < p).reshape(-1, BLOCK)
        captions = np.arange(len(found))
        clusters = captions // CAPTIONS if by_image else captions
        estimates = {str(n): Mean(column, clusters) for n, column in enumerate(found.T)}
        made = intervals(estimates, seed=block, resamples=RESAMPLES)
        held += [_holds(interval, 0.4) for interval in made.values()]
    return float(np.mean(held))


def miou_coverage(images: int, presence: float, *, blocks: int) -> float:
    """Of the jackknife of mIoU over ten classes, each in a share `presence` of the images.

    Where a class is, its pixels are exponentially distributed about 1,000; an image has a quality
    from Beta(4, 2), by which pixels of all its classes are found, of the first class half as often
    as of the last; a class is seen where it is not in 0.3 of the images, in about 300 pixels.
    """
    many = _areas(np.random.default_rng(0), 20_000, 20, presence)
    true = float(mean_iou(Areas(*(part.sum((0, 1)) for part in many))))
    # A study is a group of classes, so that one call makes the intervals of all.
    groups = [np.arange(n * CLASSES, (n + 1) * CLASSES) for n in range(BLOCK)]
    held = []
    for block in range(1, blocks + 1):
        drawn = _areas(np.random.default_rng(block), images, BLOCK, presence)
        flat = Areas(*(part.reshape(images, -1) for part in drawn))
        estimates = {
            str(n): FunctionOfSums(flat, partial(mean_iou, members=members), jackknife=True)
            for n, members in enumerate(groups)
        }
        made = intervals(estimates, seed=block, resamples=RESAMPLES)
        held += [_holds(interval, true) for interval in made.values()]
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
