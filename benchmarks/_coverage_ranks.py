"""Simulations of `coverage.py` about retrieval, probes and suites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

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


def percent(shares: Sequence[bool] | Values) -> str:
    return f"{100 * float(np.mean(shares)):.1f}"


def held(intervals_of_studies: Sequence[Interval], truth: float) -> str:
    """Return how many intervals hold the truth, in percent."""
    return percent([one.low <= truth <= one.high for one in intervals_of_studies])


def points(intervals_of_studies: Sequence[Interval]) -> str:
    """Return how many intervals have no width, in percent."""
    return percent([one.high - one.low < 1e-9 for one in intervals_of_studies])


def interval_of(estimate: Estimate, seed: int, method: str = "") -> Interval:
    return intervals({"": estimate}, seed=seed, resamples=300, methods={"": method})[""]


def lengths(quick: bool) -> Iterator[Row]:
    """Intervals of the recall of captions of one length: images with some captions of it, whose
    probabilities of being found are from a Beta distribution with a correlation of 0.3."""
    for images, captions in ((100, 1), (120, 2), (500, 5)):
        for truth in (0.5, 0.95, 0.99, 0.998):
            words = np.tile([5] * captions + [9] * captions, images)
            image_of_text = np.repeat(np.arange(images), 2 * captions)
            scale, cut = 1 / 0.3 - 1, np.zeros(len(words), bool)
            wilsons, bootstraps = [], []
            for seed in range(10 if quick else 200):
                rng = np.random.default_rng(seed)
                ease = rng.beta(truth * scale, (1 - truth) * scale, images)
                hits = rng.random(len(words)) < ease[image_of_text]
                recall = length_bins(words, cut, hits, image_of_text)[0].recall
                wilsons.append(interval_of(recall, seed))
                bootstraps.append(interval_of(recall, seed, CLUSTER_BOOTSTRAP))
            yield {
                "recall": f"{100 * truth:g}%",
                "images": str(images),
                "captions each": str(captions),
                "bootstrap: held": held(bootstraps, truth),
                "a point": points(bootstraps),
                "ours: held": held(wilsons, truth),
                "a point ": points(wilsons),
            }


def draw_ranks(rng: np.random.Generator, shape: tuple[int, int], tail: float) -> Values:
    """Return ranks (images, captions) of a log-normal distribution; those of an image correlate by
    0.3. `tail` is the standard deviation of the logarithm, by which the mean logarithm falls."""
    normal = np.sqrt(0.7) * rng.normal(size=shape) + np.sqrt(0.3) * rng.normal(size=(shape[0], 1))
    return np.ceil(np.exp(tail * normal - 1))


def mean_rank(quick: bool) -> Iterator[Row]:
    """Intervals of mean ranks with tails like those of the bundled models (1.0) and heavier."""
    for tail in (1.0, 1.5, 2.0, 2.5):
        truth = float(draw_ranks(np.random.default_rng(99), (1_000_000, 1), tail).mean())
        for images, captions in ((100, 1), (500, 1), (500, 5)):
            clusters = np.repeat(np.arange(images), captions)
            halls, bootstraps = [], []
            for seed in range(10 if quick else 200):
                ranks = draw_ranks(np.random.default_rng(seed), (images, captions), tail).ravel()
                halls.append(interval_of(MeanRank(ranks, clusters), seed))
                bootstraps.append(interval_of(MeanRank(ranks, clusters), seed, CLUSTER_BOOTSTRAP))
            yield {
                "mean rank": f"{truth:.2f}",
                "log sd": f"{tail:g}",
                "images": str(images),
                "captions each": str(captions),
                "bootstrap: held": held(bootstraps, truth),
                "ours: held": held(halls, truth),
            }


def few_shots(quick: bool) -> Iterator[Row]:
    """Intervals of the mean accuracy over draws of training images, for all draws: test images are
    as hard as Beta(1.5, 1.5) says, and draws differ by a standard deviation in points."""
    images = 1000
    for draw_sd in (0.0, 0.01, 0.03):
        for draws in (2, 3, 10):
            students, bootstraps = [], []
            for seed in range(10 if quick else 200):
                rng = np.random.default_rng(seed)
                ease = rng.beta(1.5, 1.5, (images, 1)) + draw_sd * rng.normal(size=(1, draws))
                mean = CrossedMean(rng.random((images, draws)) < ease)
                students.append(interval_of(mean, seed))
                bootstraps.append(interval_of(mean, seed, CROSSED_BOOTSTRAP))
            yield {
                "images": f"{images:,}",
                "sd of draws": f"{100 * draw_sd:g}",
                "draws": str(draws),
                "bootstrap: held": held(bootstraps, 0.5),
                "ours: held": held(students, 0.5),
            }


def probe(quick: bool) -> Iterator[Row]:
    """Wilson's interval of a linear classifier (nearest class mean) of 10 classes in 16 dimensions:
    of its accuracy on all images, and of the mean accuracy over other training sets."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(10, 16)) * 0.5
    labels = rng.integers(10, size=20_000)
    everything = means[labels] + rng.normal(size=(20_000, 16))
    for per_class in (5, 20, 100):
        for n_test in (500, 5000):
            made, truths = [], []
            for seed in range(30 if quick else 300):
                rng = np.random.default_rng(seed)
                fitted = means + rng.normal(size=means.shape) / np.sqrt(per_class)
                scores = everything @ fitted.T - np.square(fitted).sum(axis=1) / 2
                right = scores.argmax(axis=1) == labels
                truths.append(float(right.mean()))
                made.append(wilson(int(rng.binomial(n_test, truths[-1])), n_test))
            own = [one.low <= truth <= one.high for one, truth in zip(made, truths, strict=True)]
            yield {
                "training images per class": str(per_class),
                "test images": f"{n_test:,}",
                "sd of training sets": f"{100 * np.std(truths):.1f}",
                "this training set: held": percent(own),
                "new training sets: held": held(made, float(np.mean(truths))),
            }


def neighbours(quick: bool) -> Iterator[Row]:
    """Suites of K equally good models on three sets of 300 images: how often the p-value of the
    first and second is 5% at most, and the mean share of resamples in which the first is above."""
    for models in (2, 3, 5, 20):
        p_values, shares = [], []
        for seed in range(10 if quick else 100 if models == 20 else 400):
            hits = np.random.default_rng(seed).random((3, models, 300)) < 0.7
            draws = np.zeros((models, 200))
            for number, of_set in enumerate(hits):
                several: dict[str, Estimate] = {str(i): Proportion(h) for i, h in enumerate(of_set)}
                drawn, _ = suites.resample(several, seed=3 * seed + number, resamples=200)
                draws += np.stack([drawn[str(i)] for i in range(models)]) / 3
            values = hits.mean(axis=(0, 2)).tolist()
            first, second = np.argsort(values)[:-3:-1]
            pair = [draws[first], draws[second]]
            standing, _ = suites.standings([values[first], values[second]], pair, 300)
            p_values.append(standing.p_next)
            above = np.sign(np.round(pair[0] - pair[1], 12))
            shares.append(float((above + 1).mean() / 2))
        yield {
            "equal models": str(models),
            "p (next) at most 5%": percent([p is not None and p <= 0.05 for p in p_values]),
            "mean share of resamples above": percent(np.array(shares)),
        }
