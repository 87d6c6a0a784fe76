"""Simulations of `coverage.py` about retrieval, probes and suites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats import suites
from cosmos_eval.stats.estimates import CrossedMean, Estimate, MeanRank, Proportion, Values
from cosmos_eval.stats.intervals import (
    CLUSTER_BOOTSTRAP,
    CROSSED_BOOTSTRAP,
    intervals,
    wilson,
)
from cosmos_eval.stats.lengths import length_bins
from cosmos_eval.types import Interval

Row = dict[str, str]
"""The cells of a table by the title of their column."""

STUDIES, QUICK_STUDIES = 200, 10
CORRELATION = 0.3  # of the captions of one image
N_SETS, N_IMAGES = 3, 300  # of a suite


def percent(shares: Sequence[bool] | Values) -> str:
    """Return the mean of shares, or the share of true values, in percent."""
    return f"{100 * float(np.mean(shares)):.1f}"


def contains(interval: Interval, truth: float) -> bool:
    """Return whether an interval contains the truth."""
    return bool(interval.low <= truth <= interval.high)


def coverage_of(study_intervals: Sequence[Interval], truth: float) -> str:
    """Return how many intervals contain the truth, in percent."""
    return percent([contains(interval, truth) for interval in study_intervals])


def share_of_points(study_intervals: Sequence[Interval]) -> str:
    """Return how many intervals have no width, in percent."""
    return percent([interval.high - interval.low < 1e-9 for interval in study_intervals])


def interval_of(estimate: Estimate, seed: int, method: str = "") -> Interval:
    """Return the interval of one estimate by a method; "" is the method of the package."""
    return intervals({"": estimate}, seed=seed, resamples=300, methods={"": method})[""]


def lengths(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of the recall of captions of one length.

    Each image has several captions of two lengths. The probability that they are found is from a
    Beta distribution.
    """
    n_studies = QUICK_STUDIES if quick else STUDIES
    truths = (0.5, 0.95, 0.99, 0.998)
    for (images, captions), truth in product(((100, 1), (120, 2), (500, 5)), truths):
        words = np.tile([5] * captions + [9] * captions, images)
        is_cut = np.zeros(len(words), bool)
        image_of_text = np.repeat(np.arange(images), 2 * captions)
        scale = 1 / CORRELATION - 1
        our_intervals, bootstrap_intervals = [], []
        for seed in range(n_studies):
            rng = np.random.default_rng(seed)
            chances = rng.beta(truth * scale, (1 - truth) * scale, images)
            hits = rng.random(len(words)) < chances[image_of_text]
            recall = length_bins(words, is_cut, hits, image_of_text)[0].recall
            our_intervals.append(interval_of(recall, seed))
            bootstrap_intervals.append(interval_of(recall, seed, CLUSTER_BOOTSTRAP))
        yield {
            "recall": f"{100 * truth:g}%",
            "images": str(images),
            "captions each": str(captions),
            "bootstrap: held": coverage_of(bootstrap_intervals, truth),
            "a point": share_of_points(bootstrap_intervals),
            "ours: held": coverage_of(our_intervals, truth),
            "a point ": share_of_points(our_intervals),
        }


def draw_ranks(rng: np.random.Generator, shape: tuple[int, int], log_sd: float) -> Values:
    """Return ranks (images, captions) of a log-normal distribution.

    Args:
        rng: The random generator.
        shape: The numbers of images, and of captions of each.
        log_sd: The standard deviation of the logarithm. The tail is heavier if it is larger.
    """
    of_captions = np.sqrt(1 - CORRELATION) * rng.normal(size=shape)
    of_images = np.sqrt(CORRELATION) * rng.normal(size=(shape[0], 1))
    return np.ceil(np.exp(log_sd * (of_captions + of_images) - 1))


def mean_rank(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of the mean rank.

    The tails of the ranks are as heavy as the bundled models' (1.0), or heavier.
    """
    n_studies = QUICK_STUDIES if quick else STUDIES
    for log_sd in (1.0, 1.5, 2.0, 2.5):
        truth = float(draw_ranks(np.random.default_rng(99), (1_000_000, 1), log_sd).mean())
        for images, captions in ((100, 1), (500, 1), (500, 5)):
            clusters = np.repeat(np.arange(images), captions)
            our_intervals, bootstrap_intervals = [], []
            for seed in range(n_studies):
                ranks = draw_ranks(np.random.default_rng(seed), (images, captions), log_sd)
                estimate = MeanRank(ranks.ravel(), clusters)
                our_intervals.append(interval_of(estimate, seed))
                bootstrap_intervals.append(interval_of(estimate, seed, CLUSTER_BOOTSTRAP))
            yield {
                "mean rank": f"{truth:.2f}",
                "log sd": f"{log_sd:g}",
                "images": str(images),
                "captions each": str(captions),
                "bootstrap: held": coverage_of(bootstrap_intervals, truth),
                "ours: held": coverage_of(our_intervals, truth),
            }


def few_shots(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of the mean accuracy over draws of training images.

    The truth is the mean accuracy over all draws. Test images have a probability to be right, from
    a Beta(1.5, 1.5) distribution, and draws change it by a standard deviation of some points.
    """
    n_studies = QUICK_STUDIES if quick else STUDIES
    images = 1000
    for draw_sd, draws in product((0.0, 0.01, 0.03), (2, 3, 10)):
        our_intervals, bootstrap_intervals = [], []
        for seed in range(n_studies):
            rng = np.random.default_rng(seed)
            chances = rng.beta(1.5, 1.5, (images, 1)) + draw_sd * rng.normal(size=(1, draws))
            estimate = CrossedMean(rng.random((images, draws)) < chances)
            our_intervals.append(interval_of(estimate, seed))
            bootstrap_intervals.append(interval_of(estimate, seed, CROSSED_BOOTSTRAP))
        yield {
            "images": f"{images:,}",
            "sd of draws": f"{100 * draw_sd:g}",
            "draws": str(draws),
            "bootstrap: held": coverage_of(bootstrap_intervals, 0.5),
            "ours: held": coverage_of(our_intervals, 0.5),
        }


def probe(quick: bool) -> Iterator[Row]:
    """Yield the coverage of Wilson's interval of the accuracy of a linear classifier.

    The classifier chooses the nearest of 10 class means in 16 dimensions. There are two truths: its
    accuracy on all images, and the mean accuracy over other training sets.
    """
    rng = np.random.default_rng(0)
    class_means = rng.normal(size=(10, 16)) * 0.5
    labels = rng.integers(10, size=20_000)
    features = class_means[labels] + rng.normal(size=(20_000, 16))
    for per_class, n_test in product((5, 20, 100), (500, 5000)):
        study_intervals, accuracies = [], []
        for seed in range(30 if quick else 300):
            rng = np.random.default_rng(seed)
            noise = rng.normal(size=class_means.shape) / np.sqrt(per_class)
            fitted_means = class_means + noise
            scores = features @ fitted_means.T - np.square(fitted_means).sum(axis=1) / 2
            accuracy = float((scores.argmax(axis=1) == labels).mean())
            accuracies.append(accuracy)
            study_intervals.append(wilson(int(rng.binomial(n_test, accuracy)), n_test))
        is_held = [
            contains(interval, accuracy)
            for interval, accuracy in zip(study_intervals, accuracies, strict=True)
        ]
        yield {
            "training images per class": str(per_class),
            "test images": f"{n_test:,}",
            "sd of training sets": f"{100 * np.std(accuracies):.1f}",
            "this training set: held": percent(is_held),
            "new training sets: held": coverage_of(study_intervals, float(np.mean(accuracies))),
        }


def neighbours(quick: bool) -> Iterator[Row]:
    """Yield how the first and the second of equally good models compare in a suite.

    The columns are how often their p-value is 5% at most, and the mean share of resamples in which
    the first one is above the second one.
    """
    for n_models in (2, 3, 5, 20):
        p_values, shares_above = [], []
        for seed in range(number_of_suites(n_models, quick)):
            hits = np.random.default_rng(seed).random((N_SETS, n_models, N_IMAGES)) < 0.7
            means = hits.mean(axis=(0, 2)).tolist()
            resampled = resample_means(hits, seed)
            second, first = np.argsort(means)[-2:]
            first_two = [resampled[first], resampled[second]]
            standing, _ = suites.standings([means[first], means[second]], first_two, N_IMAGES)
            p_values.append(standing.p_next)
            # Equal means are half above.
            above = np.sign(np.round(resampled[first] - resampled[second], 12))
            shares_above.append(float((above + 1).mean() / 2))
        yield {
            "equal models": str(n_models),
            "p (next) at most 5%": percent([p is not None and p <= 0.05 for p in p_values]),
            "mean share of resamples above": percent(np.array(shares_above)),
        }


def number_of_suites(n_models: int, quick: bool) -> int:
    """Return how many suites are simulated: fewer of many models, which take long."""
    if quick:
        return QUICK_STUDIES
    return 100 if n_models == 20 else 400


def resample_means(hits: NDArray[np.bool_], seed: int) -> Values:
    """Return resampled mean accuracies (models, R) over sets from hits (sets, models, images)."""
    n_sets, n_models, _ = hits.shape
    means = np.zeros((n_models, 200))
    for number, hits_of_set in enumerate(hits):
        estimates: dict[str, Estimate] = {}
        for model, model_hits in enumerate(hits_of_set):
            estimates[str(model)] = Proportion(model_hits)
        resampled, _ = suites.resample(estimates, seed=n_sets * seed + number, resamples=200)
        means += np.stack([resampled[str(model)] for model in range(n_models)]) / n_sets
    return means
