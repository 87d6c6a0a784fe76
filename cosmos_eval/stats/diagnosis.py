"""Explain a wrong number by faults: predicted numbers, their errors, and probabilities.

The number is the value of a metric on a whole data set. A subset of its samples is measured with
and without a fault. The number under the fault is predicted as the number without the fault plus
the mean difference on these samples. Bayes' rule then gives the probability of each explanation.

- The error of a difference adds half a sample to each cell of the table of right and wrong (Agresti
  and Min 2005, Statistics in Medicine 24), and has the correction for a finite population (Cochran
  1977, "Sampling Techniques", section 2.6).
- Explanations tie if the ratio of their probabilities is below 3, which is "not worth more than a
  bare mention" (Kass and Raftery 1995, Journal of the American Statistical Association 90).
- In retrieval, a rank among the items of the subset is carried over to all items by a beta-binomial
  distribution (Skellam 1948, Journal of the Royal Statistical Society B 10).

Shapes: n samples of the subset, H explanations.
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
"""Prior probabilities of what made the number: one fault, two faults, other samples (the right ones
were not measured), or something that is not in the catalogue."""
TIE_RATIO = 3.0
"""Explanations tie with the best one if it is less than this many times as probable."""
_GROUPS = 8  # the number of groups of samples, each of which the jackknife leaves out once
# The standard error of the correction for unseen rivals, as a share of the correction. With it, the
# intervals of predictions hold in simulations and on scenes (benchmarks/diagnose.md).
_MODEL_ERROR = 0.3
_Z95 = 1.96  # the quantile 97.5% of the normal distribution
_LARGEST_LOG = 12.0  # bound of the logarithms of the parameters of a beta distribution


class Outcomes(NamedTuple):
    """The contributions of n samples to a metric."""

    # (n,): 1 for a hit and 0 for a miss; or the probability of a hit.
    values: Values
    # (G,) for the jackknife: the mean of the values if one of G groups of samples is left out and
    # the distribution is fitted again. Group g has the samples g, g + G, g + 2 G and so on. None if
    # no distribution was fitted.
    means_without_group: Values | None = None
    # By how much the fitted distribution changed the mean of the values.
    correction: float = 0.0


class Prediction(NamedTuple):
    """The predicted value of a metric under a fault, as a fraction."""

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
    """Predict the number of a whole set under a fault, from a random subset of its samples.

    Args:
        whole_value: The number of the whole set without the fault.
        right: (n,), the contribution of each sample of the subset to the number without the fault.
            The number is the mean contribution over the whole set.
        faulty: The outcomes of the same samples with the fault.
        n_whole: The number of samples of the whole set.
        noise: The standard deviation of the number due to precision. It is added to the error.

    Example:
        Without the fault, 80% of 100 samples are right, among them all 10 samples of the subset.
        With the fault, 5 of these 10 are right. The prediction is 0.8 + (0.5 - 1.0) = 0.3.
    """
    n = len(right)
    share_not_drawn = 1 - n / n_whole
    variance = _variance_of_mean(right, faulty) * share_not_drawn
    # An outcome between 0 and 1 is the probability of a hit, and each hit is a random draw.
    chances = np.clip(faulty.values, 0, 1)
    variance_of_draws = float((chances * (1 - chances)).mean()) / n_whole
    model_error = _MODEL_ERROR * faulty.correction
    return Prediction(
        value=whole_value + float((faulty.values - right).mean()),
        error=math.sqrt(variance + variance_of_draws + model_error**2 + noise**2),
    )


def _variance_of_mean(right: Values, faulty: Outcomes) -> float:
    """Return the variance of the mean difference between outcomes with and without a fault.

    If a distribution was fitted to the outcomes, the variance is computed by the jackknife, which
    leaves out one group of samples at a time and fits again (Efron and Tibshirani 1993, "An
    Introduction to the Bootstrap", chapter 11).

    Args:
        right: (n,), the outcomes without the fault.
        faulty: The outcomes with the fault.
    """
    changes = faulty.values - right
    n = len(changes)
    # Half a sample is added to each cell of the table of right and wrong, with and without the
    # fault. These are half a change of +1, half a change of -1, and one change of 0.
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
    """Return the standard deviation of a number due to another precision, device or library.

    Some samples change their outcome, in either direction with the same probability. Their share is
    estimated with Jeffreys's prior, so that it is never 0.

    Args:
        exact: (n,), the contribution of each sample to the number.
        rounded: (n,), the same in another precision.
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
        noise: The standard deviation of the number due to precision.
    """
    return abs(value - known_value) <= half_width + _Z95 * noise


def is_chance(value: float, chance: float, n: int, half_width: float = 0.0) -> bool:
    """Return whether a number may be the one of a model that guesses.

    Args:
        value: The number.
        chance: The expected number of a model that guesses.
        n: The number of samples.
        half_width: Half of a unit of the last digit of the number, if it was rounded.
    """
    error = math.sqrt(chance * (1 - chance) / n)
    return abs(value - chance) <= half_width + _Z95 * error


def predict_other_samples(whole_value: float, right: Values, n_whole: int) -> Prediction:
    """Predict the number on a set of other samples of the same kind and of the same size.

    The standard error contains a factor of sqrt(2), since both sets are random draws of samples.

    Args:
        whole_value: The number of the whole set.
        right: (n,), the contribution of each sample of the subset to this number.
        n_whole: The number of samples of the whole set.
    """
    return Prediction(whole_value, float(right.std()) * math.sqrt(2 / n_whole))


def log_likelihoods(
    predictions: Sequence[Prediction], known_value: float, half_width: float
) -> Values:
    """Return the log-probability (H,) of a rounded number under each prediction.

    The probability is the one that a normal variable, with the value and the error of the
    prediction, rounds to the known number. It is at least 1e-23, the probability of about ten
    standard errors, so that its logarithm is finite.

    Args:
        predictions: H predictions.
        known_value: The known number, rounded.
        half_width: Half of a unit of its last digit.
    """
    values = np.array([prediction.value for prediction in predictions])
    errors = np.array([max(prediction.error, 1e-6) for prediction in predictions])
    distances = np.abs(known_value - values)  # the normal distribution is symmetric
    upper = ndtr(-(distances - half_width) / errors)
    lower = ndtr(-(distances + half_width) / errors)
    log_probabilities: Values = np.log(np.maximum(upper - lower, 1e-23))
    return log_probabilities


def log_likelihoods_of_hits(outcomes: NDArray[np.float64], hits: Values, slip: float) -> Values:
    """Return the log-probability (H,) of the known hits of all samples under each explanation.

    Args:
        outcomes: (H, n), the probability of a hit of each sample under each explanation.
        hits: (n,), 1 for a sample that is known to be right, and 0 for one that is wrong. Values
            between are means over the captions of an image.
        slip: The share of samples whose outcome is random, due to small differences of the code.
    """
    chances = slip / 2 + (1 - slip) * np.clip(outcomes, 0, 1)
    log_probabilities: Values = (hits * np.log(chances) + (1 - hits) * np.log(1 - chances)).sum(
        axis=1
    )
    return log_probabilities


def log_likelihood_of_unknown(right: Values, hits: Values) -> float:
    """Return the log-probability of the known hits of all samples under an unknown fault.

    Such a fault leaves a share of the right samples right, and turns a share of the wrong samples
    into right ones. Both shares have a uniform distribution on [0, 1].

    Args:
        right: (n,), the outcome of each sample without a fault.
        hits: (n,), the known hits, see `log_likelihoods_of_hits`.
    """
    log_probability = 0.0
    for is_selected in (right >= 0.5, right < 0.5):
        n_samples, n_hits = float(is_selected.sum()), float(hits[is_selected].sum())
        log_probability += float(betaln(n_hits + 1, n_samples - n_hits + 1))
    return log_probability


def prior_probabilities(n_faults: Ints) -> Values:
    """Return the prior probability (H,) of each explanation.

    All explanations by one fault are equally probable, and so are all explanations by two faults.
    The probabilities sum to 1 - ELSE.

    Args:
        n_faults: (H,), the number of faults: 1 or 2, and 0 for other samples.

    Example:
        The explanations are other samples, two faults and their pair. [0, 1, 1, 2] gives [0.1,
        0.325, 0.325, 0.2].
    """
    priors = np.zeros(len(n_faults))
    for n, prior in enumerate((OTHER_SAMPLES, SINGLE, PAIR)):
        has_n_faults = n_faults == n
        priors[has_n_faults] = prior / max(int(has_n_faults.sum()), 1)
    return priors


def probabilities(
    log_likelihood: Values, n_faults: Ints, log_likelihood_of_else: float
) -> tuple[Values, float]:
    """Return the probability of each explanation, and of something else, by Bayes' rule.

    Args:
        log_likelihood: (H,), the log-probability of the known number or hits under each of them.
        n_faults: (H,), the number of faults: 1 or 2, and 0 for other samples.
        log_likelihood_of_else: The same under something else.

    Returns:
        The probabilities (H,) of the explanations, and the probability of something else. All of
        them sum to 1.
    """
    log_weights = np.log(prior_probabilities(n_faults)) + log_likelihood
    log_weight_of_else = math.log(ELSE) + log_likelihood_of_else
    largest = max(float(log_weights.max()), log_weight_of_else)
    weights = np.exp(log_weights - largest)
    weight_of_else = math.exp(log_weight_of_else - largest)
    total = float(weights.sum()) + weight_of_else
    return weights / total, weight_of_else / total


def count_tied(probabilities_in_order: Sequence[float]) -> int:
    """Return how many explanations tie with the most probable one, itself included.

    Args:
        probabilities_in_order: The probabilities of all explanations, the greatest one first.

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

    The rivals of a query are the wrong items. Only the rivals in the subset were seen. Each rival
    is better than the right item with a probability that differs from query to query. These
    probabilities have a beta distribution, which is fitted to the numbers of better rivals among
    the seen ones. Given this number, the number of better rivals among the unseen ones has a
    beta-binomial distribution.

    Args:
        n_better: (Q,), how many of the seen rivals are better than the right item of each query.
        sample_of_query: (Q,), the sample that each query belongs to, from 0 to n - 1.
        n_rivals: The number of rivals of each query that were seen.
        n_rivals_whole: The number of rivals in the whole gallery.
        k: The number of places that count as a hit.

    Returns:
        The sum of the probabilities of each sample's queries, divided by the mean number of queries
        per sample. If all rivals were seen, the probabilities are 0 or 1, and nothing is fitted.
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
        is_in_other_group = sample_of_query % _GROUPS != group
        chances_without = _chances_of_hits(n_better[is_in_other_group], n_rivals, n_rivals_whole, k)
        means_without_group.append(chances_without.mean())
    values = np.bincount(sample_of_query, weights=chances, minlength=n_samples)
    return Outcomes(
        values=values / queries_per_sample,
        means_without_group=np.array(means_without_group),
        correction=float(is_hit.mean() - chances.mean()),
    )


def _chances_of_hits(n_better: Ints, n_rivals: int, n_rivals_whole: int, k: int) -> Values:
    """Return the probability that each query is a hit, (Q,), see `expected_hits`.

    With the fitted beta distribution (a, b), r = `n_rivals` seen rivals, m = `n_better` better ones
    among them, and u = `n_rivals_whole` - r unseen rivals:

        P(j unseen rivals are better)
            = C(u, j) B(j + a + m, u - j + b + r - m) / B(a + m, b + r - m)

    It is summed over all j < k - m. Queries with the same m share their result.
    """
    n_unseen = n_rivals_whole - n_rivals
    counts, query_counts = np.unique(n_better, return_counts=True)
    a, b = _fit_beta(counts, query_counts, n_rivals)
    # (counts, k): the probability of each number of better rivals among the unseen ones.
    n_better_unseen = np.arange(min(k, n_unseen + 1))
    # log C(u, j), by C(u, j) = 1 / ((u + 1) B(u - j + 1, j + 1))
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
        counts: The distinct numbers of successes among `n_trials`. They are beta-binomial.
        weights: How often each of these numbers occurs.
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
