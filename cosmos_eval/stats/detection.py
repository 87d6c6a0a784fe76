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

    The placement of an inlier is the share of outliers that score lower, and the placement of an
    outlier is the share of inliers that score higher; ties count one half. AUROC is the mean
    placement of the inliers. With n inliers and m outliers, DeLong et al. 1988 (Biometrics 44) have
        variance of AUROC = variance of inlier placements / n + variance of outlier placements / m.
    A share of N independent samples has the variance AUROC * (1 - AUROC) / N. So AUROC is as exact
    as a share of
        effective number of samples = AUROC * (1 - AUROC) / variance of AUROC.
    It is n + m at most. If all pairs are in the right order, or all in the wrong one, the variance
    is 0, and the smaller one of n and m is used.

    Args:
        samples: (N, 2), the score of each image, and 1 for an inlier or 0 for an outlier.
        level: The probability that the interval contains the population's value.

    Example:
        The inliers score 0.9 and 0.6, and the outliers 0.7 and 0.5. The placements are 1 and 1/2 of
        the inliers, 1/2 and 1 of the outliers, and AUROC is 3/4.
    """
    scores, labels = samples.T
    inlier_scores, outlier_scores = scores[labels > 0], scores[labels == 0]
    inlier_placements = _placements(inlier_scores, outlier_scores)
    # With the signs, the inliers that score higher than an outlier are lower.
    outlier_placements = _placements(-outlier_scores, -inlier_scores)
    area = float(inlier_placements.mean())
    variance = _variance_of_mean(inlier_placements) + _variance_of_mean(outlier_placements)

    n_inliers, n_outliers = len(inlier_scores), len(outlier_scores)
    if 0 < area < 1 and variance:
        effective_n = min(area * (1 - area) / variance, n_inliers + n_outliers)
    else:
        effective_n = float(min(n_inliers, n_outliers))
    return share_interval(area, effective_n, "wilson, effective n", level)


def _placements(scores: Features, other_scores: Features) -> Values:
    """Return for each score, from the lowest to the highest, the share of other scores below it.

    Ties count one half.

    Example:
        Among the other scores 0.6 and 0.9, none is below the score 0.5, and one is below 0.7. The
        scores [0.7, 0.5] therefore give [0, 1/2].
    """
    sorted_scores, sorted_others = np.sort(scores), np.sort(other_scores)
    n_below = np.searchsorted(sorted_others, sorted_scores, "left")
    n_at_most = np.searchsorted(sorted_others, sorted_scores, "right")
    placements: Values = (n_below + n_at_most) / 2 / len(other_scores)
    return placements


def _variance_of_mean(values: Values) -> float:
    """Return the variance of the mean of independent values. It counts as 0 for a single value."""
    if len(values) < 2:
        return 0.0
    return float(values.var(ddof=1)) / len(values)
