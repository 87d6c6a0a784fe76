"""AUROC and FPR95: against scikit-learn and plain loops, with ties, resamples and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from cosmos_eval.stats.detection import auroc, auroc_interval, fpr_at_recall
from cosmos_eval.stats.intervals import intervals


def made_up(n_inliers: int, n_outliers: int, seed: int, ties: bool = False, shift: float = 1):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(shift, 1, n_inliers), rng.normal(0, 1, n_outliers)])
    scores = (np.round(scores, 0 if ties else 6)).astype(np.float32)
    is_inlier = np.arange(n_inliers + n_outliers) < n_inliers
    order = rng.permutation(len(scores))
    return scores[order], is_inlier[order]


def fpr_by_sklearn(scores, is_inlier) -> float:
    """The threshold whose recall is closest to 95%, of equal ones the lowest."""
    fpr, tpr, _ = roc_curve(is_inlier, scores, drop_intermediate=False)
    fpr, tpr = fpr[1:], tpr[1:]  # without the threshold above all scores
    first_of_all = int((tpr == 1).argmax())
    distance = np.abs(tpr[: first_of_all + 1] - 0.95)
    return float(fpr[np.flatnonzero(distance == distance.min())[-1]])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n_inliers", "n_outliers"), [(200, 90), (37, 61), (20, 3), (1, 1)])
def test_values_equal_scikit_learns(n_inliers, n_outliers, ties):
    for seed in range(10):
        scores, is_inlier = made_up(n_inliers, n_outliers, seed, ties)
        assert auroc(scores, is_inlier).value == pytest.approx(roc_auc_score(is_inlier, scores))
        expected = fpr_by_sklearn(scores, is_inlier)
        assert fpr_at_recall(scores, is_inlier).value == pytest.approx(expected)


def test_solved_by_hand():
    # Inliers 9, 8, 8 and outliers 8, 5: six pairs, of which two are ties.
    scores, is_inlier = np.array([9, 8, 8, 8, 5.0]), np.array([1, 1, 0, 1, 0], bool)
    assert auroc(scores, is_inlier).value == pytest.approx((4 + 2 / 2) / 6)
    # All inliers are accepted at 8, and with them one of two outliers.
    assert fpr_at_recall(scores, is_inlier).value == 1 / 2


@pytest.mark.parametrize("ties", [False, True])
def test_weights_repeat_samples(ties):
    scores, is_inlier = made_up(60, 50, 3, ties)
    weights = np.random.default_rng(0).multinomial(110, np.full(110, 1 / 110), 5).astype(float)
    for estimate, plain in (
        (auroc(scores, is_inlier), lambda s, i: roc_auc_score(i, s)),
        (fpr_at_recall(scores, is_inlier), fpr_by_sklearn),
    ):
        values = estimate.prepare(estimate.samples)(weights)
        for value, row in zip(values, weights.astype(int), strict=True):
            repeated = np.repeat(scores, row), np.repeat(is_inlier, row)
            assert value == pytest.approx(plain(*repeated))
        one_kind = np.where(is_inlier, weights, 0)
        assert np.isnan(estimate.prepare(estimate.samples)(one_kind)).all()


def test_variance_of_auroc_is_delongs():
    """DeLong's variance by a plain double loop over pairs."""
    scores, is_inlier = made_up(30, 20, 1, ties=True)
    inliers, outliers = scores[is_inlier], scores[~is_inlier]
    wins = np.array([[(a > b) + (a == b) / 2 for b in outliers] for a in inliers])
    variance = wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / 20
    share = wins.mean()
    n = share * (1 - share) / variance
    z2 = 1.959964**2
    centre, half = share + z2 / (2 * n), np.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n))
    interval = auroc_interval(np.stack([scores, is_inlier], axis=1), 0.95)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-4)


def test_intervals_cover():
    """95% intervals contain the population's value in about 95% of draws."""
    from scipy.stats import norm

    truth = {"auroc": norm.cdf(1.5 / np.sqrt(2)), "fpr95": norm.cdf(1.645 - 1.5)}
    hits = dict.fromkeys(truth, 0)
    for seed in range(100):
        scores, is_inlier = made_up(150, 100, seed, shift=1.5)
        estimates = {"auroc": auroc(scores, is_inlier), "fpr95": fpr_at_recall(scores, is_inlier)}
        for name, interval in intervals(estimates, seed=seed, resamples=300).items():
            hits[name] += interval.low <= truth[name] <= interval.high
    assert all(88 <= count <= 100 for count in hits.values()), hits
    # Perfect separation is no certainty.
    perfect = intervals({"auroc": auroc(np.arange(40.0), np.arange(40) >= 20)})["auroc"]
    assert perfect.high == 1
    assert 0.8 < perfect.low < 0.9
