"""Explain a wrong number by faults: predicted numbers, their errors, and probabilities.

A few samples are measured with and without a fault. The number of the whole set under the fault is
the right number of the whole set plus the mean difference on these samples. Explanations are then
weighed by Bayes' rule.

- The error of a difference adds half a sample to each cell of the table of right and wrong (Agresti
  and Min 2005, Statistics in Medicine 24), and has the correction for a finite population (Cochran
  1977, "Sampling Techniques", section 2.6).
- Explanations tie if the ratio of their probabilities is below 3, which is "not worth more than a
  bare mention" (Kass and Raftery 1995, Journal of the American Statistical Association 90).
- A rank among few items is carried over to all items by a beta-binomial distribution (Skellam 1948,
  Journal of the Royal Statistical Society B 10).

Shapes: n samples, H explanations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, ndtr

from cosmos_eval.stats.estimates import Ints, Values

SINGLE, PAIR, OTHER_SAMPLES, ELSE = 0.65, 0.2, 0.1, 0.05
"""Prior probabilities: one fault, two faults, other samples or something else made the number."""
TIE_RATIO = 3.0
"""Explanations tie with the best one if it is less than this many times as probable."""
_GROUPS = 8  # of samples that the jackknife leaves out
# The share of the correction for unseen rivals that counts as its standard error. Intervals of
# predictions then hold in simulations and on scenes (benchmarks/diagnose.md).
_MODEL_ERROR = 0.3
_Z95 = 1.96  # the quantile 97.5% of the normal distribution
_LARGEST_LOG = 12.0  # bound of the logarithms of the parameters of a beta distribution


class Outcomes(NamedTuple):
    """The contributions of n samples to a metric."""

    # (n,): 1 for a hit and 0 for a miss; or the probability of a hit.
    values: Values
    # If a distribution was fitted to the samples: (G,) the mean of the values of a fit without
    # each group of samples, of which group g has the samples g, g + G, g + 2 G, ...
    means_without_group: Values | None = None
    # By how much the fit changed the mean of the values.
    correction: float = 0.0


class Prediction(NamedTuple):
    """The number that a metric would have under a fault, as a fraction."""

    value: float
    # The standard error of the value.
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval within [0, 1], from the standard error."""
        half_width = _Z95 * self.error
        return max(0.0, self.value - half_width), min(1.0, self.value + half_width)


def predict(
    whole_value: float, right: Values, faulty: Outcomes, n_whole: int, noise: float = 0.0
) -> Prediction:
    """Return the number of a whole set under a fault, from a random part of its samples.

    Args:
        whole_value: The number of the whole set without the fault.
        right: (n,), what each sample of the part contributes to the number without the fault. The
            mean over the whole set is the number.
        faulty: The outcomes of the same samples with the fault.
        n_whole: The number of samples of the whole set.
        noise: The standard deviation of the number by precision, which is added to the error.

    Example:
        Without the fault, 80% of 100 samples are right. If 5 of 10 samples are right with the
        fault, which all are right without it, the prediction is 0.8 - 0.5 = 0.3.
    """
    n = len(right)
    share_not_drawn = 1 - n / n_whole
    variance = _variance_of_mean(right, faulty) * share_not_drawn
    # An outcome between 0 and 1 is the probability of a hit, which is drawn once in the whole set.
    chances = np.clip(faulty.values, 0, 1)
    variance_of_draws = float((chances * (1 - chances)).mean()) / n_whole
    model_error = _MODEL_ERROR * faulty.correction
    return Prediction(
        value=whole_value + float((faulty.values - right).mean()),
        error=math.sqrt(variance + variance_of_draws + model_error**2 + noise**2),
    )


def _variance_of_mean(right: Values, faulty: Outcomes) -> float:
    """Return the variance of the mean difference of outcomes, with and without a fault.

    If a distribution was fitted to the samples, it is the jackknife's, which leaves out groups of
    samples and fits again (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", 11).
    """
    changes = faulty.values - right
    n = len(changes)
    # Half a sample in each of four cells: the changes +1 and -1 with a half, 0 with one.
    mean_square = (float((changes**2).sum()) + 1) / (n + 2)
    variance = (mean_square - (float(changes.sum()) / (n + 2)) ** 2) / n
    if faulty.means_without_group is None:
        return variance
    n_groups = len(faulty.means_without_group)
    groups = np.arange(n) % n_groups
    right_means = [right[groups != group].mean() for group in range(n_groups)]
    differences = faulty.means_without_group - np.array(right_means)
    squares = (differences - differences.mean()) ** 2
    return float((n_groups - 1) / n_groups * squares.sum()) + 0.25 / n**2


def precision_noise(exact: Values, rounded: Values, n_whole: int) -> float:
    """Return the standard deviation of a number by rounding: another precision, device or library.

    A sample whose outcome changes does so in either direction. The share of such samples is
    estimated with Jeffreys's prior, so that it is never 0.

    Args:
        exact: (n,), what each sample contributes to the number.
        rounded: (n,), the same in a lower precision.
        n_whole: The number of samples of the whole set.
    """
    share_changed = (float(((rounded - exact) ** 2).sum()) + 0.5) / (len(exact) + 1)
    return math.sqrt(share_changed / n_whole)


def is_explained_by_precision(
    value: float, known_value: float, half_width: float, noise: float
) -> bool:
    """Return whether rounding and precision explain the difference of two numbers.

    Args:
        value: The number that was measured.
        known_value: The number that is known, rounded.
        half_width: Half of a unit of its last digit.
        noise: The standard deviation of the number by precision.
    """
    return abs(value - known_value) <= half_width + _Z95 * noise


def is_chance(value: float, chance: float, n: int, half_width: float = 0.0) -> bool:
    """Return whether a number of n samples may be that of guessing.

    Args:
        value: The number.
        chance: The expected number of guesses.
        n: The number of samples.
        half_width: Half of a unit of the last digit of the number, if it was rounded.
    """
    error = math.sqrt(chance * (1 - chance) / n)
    return abs(value - chance) <= half_width + _Z95 * error


def predict_other_samples(whole_value: float, right: Values, n_whole: int) -> Prediction:
    """Return the number on as many other samples of the same kind.

    Both the number and that of the whole set vary with their samples.

    Args:
        whole_value: The number of the whole set.
        right: (n,), what each sample of a part contributes to it.
        n_whole: The number of samples of the whole set.
    """
    return Prediction(whole_value, float(right.std()) * math.sqrt(2 / n_whole))


def log_likelihoods(
    predictions: Sequence[Prediction], known_value: float, half_width: float
) -> Values:
    """Return the log-probability (H,) of a rounded number under each prediction.

    It is the probability that a normal variable rounds to the known number. It is not below that of
    ten standard errors, so that all explanations can be compared.
    """
    values = np.array([prediction.value for prediction in predictions])
    errors = np.array([max(prediction.error, 1e-6) for prediction in predictions])
    distances = np.abs(known_value - values)  # the normal distribution is symmetric
    upper = ndtr(-(distances - half_width) / errors)
    lower = ndtr(-(distances + half_width) / errors)
    log_probabilities: Values = np.log(np.maximum(upper - lower, 1e-23))
    return log_probabilities


def log_likelihoods_of_hits(outcomes: NDArray[np.float64], hits: Values, slip: float) -> Values:
    """Return the log-probability (H,) of the hits of each sample under each explanation.

    Args:
        outcomes: (H, n), the probability of a hit of each sample under each explanation.
        hits: (n,), 1 for a sample that is known to be right, and 0 for one that is wrong. Means
            over the captions of an image lie between.
        slip: The share of samples whose outcome is random, by small differences of the code.
    """
    chances = slip / 2 + (1 - slip) * np.clip(outcomes, 0, 1)
    log_probabilities: Values = (hits * np.log(chances) + (1 - hits) * np.log(1 - chances)).sum(
        axis=1
    )
    return log_probabilities


def log_likelihood_of_unknown(right: Values, hits: Values) -> float:
    """Return the log-probability of the hits of each sample under a fault that is not known.

    Such a fault leaves a share of the samples right that were right, and makes a share of the
    others right. Both shares are equally likely to be any number in [0, 1].

    Args:
        right: (n,), the outcome of each sample without a fault.
        hits: (n,), as in `log_likelihoods_of_hits`.
    """
    log_probability = 0.0
    for is_of_kind in (right >= 0.5, right < 0.5):
        n_samples, n_hits = float(is_of_kind.sum()), float(hits[is_of_kind].sum())
        log_probability += float(betaln(n_hits + 1, n_samples - n_hits + 1))
    return log_probability


def prior_probabilities(n_faults: Ints) -> Values:
    """Return the prior probability (H,) of each explanation; something else has ELSE.

    All explanations by one fault are equally probable, and so are all by two faults.

    Args:
        n_faults: (H,), the number of faults: 1 or 2, and 0 for other samples.

    Example:
        Other samples, two faults and their pair, [0, 1, 1, 2], have 0.1, 0.325, 0.325 and 0.2.
    """
    priors = np.zeros(len(n_faults))
    for n, prior in enumerate((OTHER_SAMPLES, SINGLE, PAIR)):
        is_of_kind = n_faults == n
        priors[is_of_kind] = prior / max(int(is_of_kind.sum()), 1)
    return priors


def probabilities(
    log_likelihood: Values, n_faults: Ints, log_likelihood_of_else: float
) -> tuple[Values, float]:
    """Return the probability of each explanation, and of something else, by Bayes' rule.

    Args:
        log_likelihood: (H,), of what is known under each explanation.
        n_faults: (H,), the number of faults: 1 or 2, and 0 for other samples.
        log_likelihood_of_else: The same under something else.

    Returns:
        The probabilities (H,) of the explanations, and that of something else. They sum to 1.
    """
    log_weights = np.log(prior_probabilities(n_faults)) + log_likelihood
    log_weight_of_else = math.log(ELSE) + log_likelihood_of_else
    largest = max(float(log_weights.max()), log_weight_of_else)
    weights = np.exp(log_weights - largest)
    weight_of_else = math.exp(log_weight_of_else - largest)
    total = float(weights.sum()) + weight_of_else
    return weights / total, weight_of_else / total


def count_tied(probabilities_in_order: Sequence[float]) -> int:
    """Return how many explanations tie with the first, itself included.

    Example:
        For the probabilities [0.4, 0.3, 0.1], the result is 2, since 0.3 is more than a third of
        0.4, and 0.1 is not.
    """
    if not probabilities_in_order:
        return 0
    least = probabilities_in_order[0] / TIE_RATIO
    return sum(probability > least for probability in probabilities_in_order)


def expected_hits(
    n_better: Ints, sample_of_query: Ints, n_rivals: int, n_rivals_whole: int, k: int
) -> Outcomes:
    """Return the probability that each query has its item among the first k of a larger gallery.

    A rival is better than the item of a query with a probability that differs from query to query.
    These probabilities have a beta distribution, which is fitted to the counts. Given its own
    count, a query's number of better rivals among those that were not seen is beta-binomial.

    Args:
        n_better: (Q,), how many of the rivals seen are better than the query's own item.
        sample_of_query: (Q,), the sample that each query belongs to, from 0 to n - 1.
        n_rivals: The number of rivals of each query that were seen.
        n_rivals_whole: The number of rivals in the whole gallery.
        k: The number of places that count as a hit.

    Returns:
        The mean probability of each sample's queries, as a share of the mean number of queries. If
        all rivals were seen, probabilities are 0 or 1, and nothing is fitted.
    """
    is_hit = (n_better < k).astype(np.float64)
    n_samples = int(sample_of_query.max()) + 1
    queries_per_sample = len(n_better) / n_samples
    if n_rivals_whole <= n_rivals:
        hits = np.bincount(sample_of_query, weights=is_hit, minlength=n_samples)
        return Outcomes(hits / queries_per_sample)

    chances = _chances_of_hits(n_better, n_rivals, n_rivals_whole, k)
    means_without_group = []
    for group in range(_GROUPS):
        n_better_of_others = n_better[sample_of_query % _GROUPS != group]
        chances_of_others = _chances_of_hits(n_better_of_others, n_rivals, n_rivals_whole, k)
        means_without_group.append(chances_of_others.mean())
    values = np.bincount(sample_of_query, weights=chances, minlength=n_samples)
    return Outcomes(
        values / queries_per_sample,
        np.array(means_without_group),
        float(is_hit.mean() - chances.mean()),
    )


def _chances_of_hits(n_better: Ints, n_rivals: int, n_rivals_whole: int, k: int) -> Values:
    """Return the probability of a hit of each query, (Q,), as `expected_hits` explains it."""
    n_unseen = n_rivals_whole - n_rivals
    counts, query_counts = np.unique(n_better, return_counts=True)
    a, b = _fit_beta(counts, query_counts, n_rivals)
    # The probability of each number of better rivals among the unseen, (counts, k).
    n_better_unseen = np.arange(min(k, n_unseen + 1))
    log_ways = -betaln(n_unseen - n_better_unseen + 1, n_better_unseen + 1) - math.log(n_unseen + 1)
    a_of_count, b_of_count = (a + counts)[:, None], (b + n_rivals - counts)[:, None]
    log_chances = betaln(n_better_unseen + a_of_count, n_unseen - n_better_unseen + b_of_count)
    chances = np.exp(log_ways + log_chances - betaln(a_of_count, b_of_count))
    is_hit = n_better_unseen < k - counts[:, None]
    chance_of_count: Values = (chances * is_hit).sum(axis=1)
    return chance_of_count[np.searchsorted(counts, n_better)]


def _fit_beta(counts: Ints, weights: Ints, n_trials: int) -> tuple[float, float]:
    """Return the parameters of the beta distribution under which counts are most likely.

    Args:
        counts: Distinct numbers of successes among `n_trials`, which are beta-binomial.
        weights: How often each of them occurs.
        n_trials: The number of trials.
    """

    def negative_log_likelihood(logarithms: NDArray[np.float64]) -> float:
        a, b = np.exp(np.clip(logarithms, -_LARGEST_LOG, _LARGEST_LOG))
        terms = betaln(counts + a, n_trials - counts + b) - betaln(a, b)
        return -float((weights * terms).sum())

    mean = float((counts * weights).sum() + 0.5) / (weights.sum() * n_trials + 1)
    start = np.log([max(mean, 1e-4), 1.0])
    options = {"maxiter": 200, "xatol": 0.01, "fatol": 0.01}  # of the logarithms
    fit = minimize(negative_log_likelihood, start, method="Nelder-Mead", options=options)
    a, b = np.exp(np.clip(fit.x, -_LARGEST_LOG, _LARGEST_LOG)).tolist()
    return a, b
