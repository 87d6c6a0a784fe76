"""Detection of outliers by a score that is higher for inliers: AUROC, FPR95 and their intervals.

The levels of a set of scores are its distinct scores, sorted from the highest. A threshold accepts
all images of its level and of the levels before it. For example:

    scores   0.9  0.8  0.8  0.5
    inlier   yes  yes  no   no       AUROC: (2 + 1.5) / 4, since one pair of four is a tie
    level    0    1    1    2

Shapes: N images, R resamples, L levels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Features, FunctionOfWeights, Values, ratio
from cosmos_eval.stats.intervals import share_interval
from cosmos_eval.types import Interval

RECALL = 0.95
"""The share of inliers that the threshold of FPR95 accepts."""


def auroc(scores: Features, is_inlier: NDArray[np.bool_]) -> FunctionOfWeights:
    """Return the probability that an inlier scores higher than an outlier; ties count one half.

    It is `sklearn.metrics.roc_auc_score(is_inlier, scores)`.

    Args:
        scores: (N,), the score of each image, higher for inliers.
        is_inlier: (N,), whether each image is an inlier.
    """
    return FunctionOfWeights(np.stack([scores, is_inlier], axis=1), _Auroc, auroc_interval)


def fpr_at_recall(scores: Features, is_inlier: NDArray[np.bool_]) -> FunctionOfWeights:
    """Return the share of outliers that are accepted if 95% of the inliers are: FPR95.

    The threshold is the distinct score whose share of accepted inliers is closest to 95%, and of
    several such scores the lowest one, as in `fpr_and_fdr_at_recall` of
    github.com/deeplearning-wisc/MCM, utils/detection_util.py, commit ea7130f.

    Args:
        scores: (N,), the score of each image, higher for inliers.
        is_inlier: (N,), whether each image is an inlier.
    """
    return FunctionOfWeights(np.stack([scores, is_inlier], axis=1), _FprAtRecall)


class _Accepted(NamedTuple):
    """The numbers of drawn images that each of L thresholds accepts, (R, L) each."""

    inliers: Values
    outliers: Values


class _Levels:
    """Counts the images that each threshold accepts, in several resamples at once."""

    def __init__(self, samples: Features) -> None:
        """Sort the images by their scores.

        `samples` (N, 2) holds the score of each image, and 1 for an inlier or 0 for an outlier.
        """
        scores, is_inlier = samples.T
        self.order = np.argsort(-scores, kind="stable")
        self.is_inlier = is_inlier[self.order] > 0
        sorted_scores = scores[self.order]
        # The position of the last image of each level, (L,).
        self.ends = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True))

    def accepted(self, weights: Values) -> _Accepted:
        """Return how many drawn inliers and outliers each threshold accepts.

        `weights` (R, N) says how often each image is drawn in each resample.
        """
        sorted_weights = weights[:, self.order]
        inliers = np.cumsum(sorted_weights * self.is_inlier, axis=1)[:, self.ends]
        outliers = np.cumsum(sorted_weights * ~self.is_inlier, axis=1)[:, self.ends]
        return _Accepted(inliers, outliers)


class _Auroc(_Levels):
    """A function that maps weights (R, N) to AUROCs (R,)."""

    def __call__(self, weights: Values) -> Values:
        """Return the AUROC of each resample; NaN without inliers or without outliers."""
        inliers, outliers = self.accepted(weights)
        outliers_at_level = np.diff(outliers, axis=1, prepend=0)
        inliers_before = np.pad(inliers[:, :-1], ((0, 0), (1, 0)))
        # An outlier is below all inliers of the levels before, and ties with those of its level.
        won = (outliers_at_level * (inliers_before + inliers) / 2).sum(axis=1)
        return ratio(won, inliers[:, -1] * outliers[:, -1])


class _FprAtRecall(_Levels):
    """A function that maps weights (R, N) to shares of accepted outliers (R,)."""

    def __call__(self, weights: Values) -> Values:
        """Return FPR95 of each resample; NaN without inliers or without outliers."""
        inliers, outliers = self.accepted(weights)
        recall = ratio(inliers, np.broadcast_to(inliers[:, -1:], inliers.shape))
        distance = np.abs(recall - RECALL)
        # Thresholds below the first one that accepts all inliers do not count.
        accepts_all = inliers == inliers[:, -1:]
        distance[:, 1:][accepts_all[:, :-1]] = np.inf
        n_levels = distance.shape[1]
        chosen_level = n_levels - 1 - np.argmin(distance[:, ::-1], axis=1)
        accepted_outliers = np.take_along_axis(outliers, chosen_level[:, None], axis=1)[:, 0]
        n_outliers = np.where(inliers[:, -1] > 0, outliers[:, -1], 0)
        return ratio(accepted_outliers, n_outliers)


def auroc_interval(samples: Features, level: float) -> Interval:
    """Return Wilson's interval of AUROC, with the number of samples that DeLong's variance gives.

    An image's placement is the share of images of the other kind on the right side of it (ties: one
    half). With the variances of the placements of n inliers and m outliers, DeLong et al. 1988
    (Biometrics 44) have
        variance = var(inliers) / n + var(outliers) / m,
    and the effective number of samples is AUROC * (1 - AUROC) / variance, but at most n + m. It is
    the smaller one of n and m if all pairs are in the right order, or all in the wrong one.

    Args:
        samples: (N, 2), the score of each image, and 1 for an inlier or 0 for an outlier.
        level: The probability that the interval contains the population's value.
    """
    scores, labels = samples.T
    inlier_scores, outlier_scores = np.sort(scores[labels > 0]), np.sort(scores[labels == 0])
    placements = []
    for these_scores, other_scores in (
        (inlier_scores, outlier_scores),
        (-outlier_scores[::-1], -inlier_scores[::-1]),
    ):
        below = np.searchsorted(other_scores, these_scores, "left")
        at_most = np.searchsorted(other_scores, these_scores, "right")
        placements.append((below + at_most) / 2 / len(other_scores))
    share = float(placements[0].mean())
    n_inliers, n_outliers = len(inlier_scores), len(outlier_scores)
    variance = 0.0
    for values in placements:
        if len(values) > 1:
            variance += float(values.var(ddof=1)) / len(values)
    effective_n = float(min(n_inliers, n_outliers))
    if 0 < share < 1 and variance:
        effective_n = min(share * (1 - share) / variance, n_inliers + n_outliers)
    return share_interval(share, effective_n, "wilson, effective n", level)
