"""How probable it is that labels are wrong, from the answers of several models.

Models that err alike look like wrong labels: in both cases, many models give the same answer, which
is not the label. The two are told apart by the distribution of the number of agreeing models.

- If the label is wrong, the image is a usual image of another class. The number of models that
  share the most frequent answer then has the same distribution as for all images.
- If the label is right, the number m of models that share the most frequent wrong answer follows a
  beta-binomial distribution, whose two parameters say how often models err and how much alike.

A mixture of both is fitted to the counts of m by maximum likelihood. Its interval follows from the
profile likelihood. The method assumes that wrong labels fall on all other classes equally often,
and that errors which all models share are not more frequent than the errors which some of them
share suggest. If images fool all models alike, both assumptions fail, and right labels look wrong.
If no such mixture fits the counts, as for models of very different strength,
`LabelErrors.is_fitting` is false.

Shapes: K models, N items, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, chdtrc, gammaln

from cosmos_eval.stats.estimates import Ints, Values

FEWEST_MODELS = 3
"""With fewer models, the distribution of shared errors cannot be estimated."""
FEWEST_ITEMS = 100
"""With fewer items, the interval of the share of wrong labels says nothing."""

# The interval has all shares whose log-likelihood is less than this below the greatest one: half of
# the 95% quantile of chi-squared with one degree of freedom.
_DROP = 1.92
# The shares of wrong labels that are tried.
_WRONG_SHARES = np.concatenate([[0.0], np.geomspace(2e-4, 0.5, 120)])
_ERROR_RATES = np.geomspace(1e-3, 0.8, 40)  # mean share of models with the shared wrong answer
_CONCENTRATIONS = np.geomspace(0.02, 100, 40)  # small: models err alike
# How far each finer grid reaches around the best point of the grid before, as a factor.
_GRID_REACHES = (1.25, 1.12, 1.06, 1.03, 1.01)
_TINY = 1e-300
_LEAST_FIT = 0.01  # a smaller p-value of the fit says that the mixture is wrong
_LEAST_EXPECTED = 5  # the expected number of items in a cell of the test of the fit
_N_PARAMETERS = 3  # the share of wrong labels, and two of the beta-binomial distribution


class Agreement(NamedTuple):
    """The answers of K models to N items, relative to the labels."""

    # (N,) the number of models that give the label.
    right: Ints
    # (N,) the wrong answer that most models give. If several are equally frequent, it is the lowest
    # one. It is -1 if all models give the label.
    answer: Ints
    # (N,) the number of models that give this answer.
    votes: Ints


class LabelErrors(NamedTuple):
    """The estimated share of wrong labels, and the probability of each item's label to be wrong."""

    # The estimated share of wrong labels, and its 95% interval by the profile likelihood.
    rate: float
    low: float
    high: float
    # (N,) the probability that each item's label is wrong, at `rate`.
    probability: Values
    # (N,) the same at the ends of the interval.
    probability_low: Values
    probability_high: Values
    # (K + 1,) the expected number of right labels that are contradicted by a wrong answer which
    # exactly k models share, for k from 0 to K.
    expected_by_votes: Values
    # The p-value of the mixture's fit to the counts of agreeing models (`fit_p_value`).
    fit: float

    @property
    def is_fitting(self) -> bool:
        """True if the mixture fits the counts of agreeing models.

        If it does not fit, neither the share nor the probabilities have a meaning.
        """
        return self.fit >= _LEAST_FIT

    @property
    def is_suspect(self) -> NDArray[np.bool_]:
        """(N,) true for labels that are more probably wrong than right."""
        return self.probability > 0.5


def agreement(answers: Ints, labels: Ints) -> Agreement:
    """Count for each item how many models give the label, and how many share a wrong answer.

    Args:
        answers: (K, N), the answer of each model to each item: a whole number from 0, or the item's
            label.
        labels: (N,), the labels. If there are several right answers, -1 may stand for all of them.

    Returns:
        For each item: the number of models that give the label; the most frequent wrong answer,
        which is the lowest of several, and -1 if all models are right; and the number of models
        that give this answer.

    Example:
        The answers 2, 2, 1 and 0 of four models to an item with the label 0 give right = 1,
        answer = 2 and votes = 2.
    """
    is_wrong = answers != labels
    # (K, N): how many models give the answer of each model, 0 if it is the label.
    votes = np.stack([(answers == answers_of_model).sum(axis=0) for answers_of_model in answers])
    votes = np.where(is_wrong, votes, 0)
    most_votes = votes.max(axis=0)
    is_most_frequent = is_wrong & (votes == most_votes)
    lowest_answers = np.where(is_most_frequent, answers, np.iinfo(np.int64).max).min(axis=0)
    return Agreement(
        right=(~is_wrong).sum(axis=0),
        answer=np.where(most_votes > 0, lowest_answers, -1),
        votes=most_votes,
    )


def estimate_label_errors(
    agreed: Agreement, labels: Ints, n_classes: int, n_models: int
) -> LabelErrors:
    """Estimate the share of wrong labels, and the probability of each label to be wrong.

    By Bayes' rule, the label of an item with m agreeing models is wrong with the probability

        e T(m) / (e T(m) + (1 - e) F(m) w)

    e is the share of wrong labels. T and F are the distributions of m for wrong and for right
    labels. w says how much more often models confuse this label with this answer than they confuse
    two classes on average (`_confusion_weights`).

    Args:
        agreed: The agreement of the models.
        labels: (N,), the labels.
        n_classes: The number C of classes. It is 2 for a choice that is either right or wrong.
        n_models: The number K of models.

    Raises:
        ValueError: For fewer than FEWEST_MODELS models or FEWEST_ITEMS items.
    """
    if n_models < FEWEST_MODELS or len(labels) < FEWEST_ITEMS:
        raise ValueError(
            f"wrong labels need {FEWEST_MODELS} models and {FEWEST_ITEMS} items, not {n_models} "
            f"and {len(labels)}"
        )
    n_items_by_votes = np.bincount(agreed.votes, minlength=n_models + 1)
    # T(m): how many models give the most frequent answer to an item, which may be the label.
    n_models_with_top_answer = np.maximum(agreed.right, agreed.votes)
    votes_if_wrong = np.bincount(n_models_with_top_answer, minlength=n_models + 1) / len(labels)
    grid = _Grid.of_all_pairs(n_models, _ERROR_RATES, _CONCENTRATIONS)
    fits = []
    for wrong_share in _WRONG_SHARES.tolist():
        fits.append(_fit_right_labels(n_items_by_votes, votes_if_wrong, wrong_share, grid))

    best_fit = max(fits, key=lambda fit: fit.log_likelihood)
    likely_fits = [fit for fit in fits if fit.log_likelihood > best_fit.log_likelihood - _DROP]
    weights = _confusion_weights(agreed, labels, n_classes, n_models)
    return LabelErrors(
        rate=best_fit.wrong_share,
        low=likely_fits[0].wrong_share,
        high=likely_fits[-1].wrong_share,
        probability=best_fit.probabilities(agreed.votes, weights),
        probability_low=likely_fits[0].probabilities(agreed.votes, weights),
        probability_high=likely_fits[-1].probabilities(agreed.votes, weights),
        expected_by_votes=len(labels) * (1 - best_fit.wrong_share) * best_fit.votes_if_right,
        fit=fit_p_value(n_items_by_votes, len(labels) * best_fit.mixture),
    )


def fit_p_value(observed: Ints, expected: Values) -> float:
    """Return the p-value of Pearson's chi-squared test that counts are as expected.

    Neighbouring cells are joined until at least five items are expected in each. Three degrees of
    freedom are subtracted for the fitted parameters, but at least one remains.

    Args:
        observed: (M,), the observed counts.
        expected: (M,), the expected counts, which were fitted.
    """
    observed_cells, expected_cells = [0.0], [0.0]
    for n_observed, n_expected in zip(observed.tolist(), expected.tolist(), strict=True):
        if expected_cells[-1] >= _LEAST_EXPECTED:
            observed_cells.append(0.0)
            expected_cells.append(0.0)
        observed_cells[-1] += n_observed
        expected_cells[-1] += n_expected
    if len(expected_cells) > 1 and expected_cells[-1] < _LEAST_EXPECTED:
        observed_cells[-2] += observed_cells.pop()
        expected_cells[-2] += expected_cells.pop()
    deviations = np.array(observed_cells) - np.array(expected_cells)
    chi_squared = float((deviations**2 / np.array(expected_cells)).sum())
    degrees = max(1, len(expected_cells) - 1 - _N_PARAMETERS)
    return float(chdtrc(degrees, chi_squared))


class _Fit(NamedTuple):
    """The mixture that fits best for a given share of wrong labels."""

    log_likelihood: float
    # The share of wrong labels.
    wrong_share: float
    # (K + 1,) the distribution of the number of agreeing models if the label is right.
    votes_if_right: Values
    # (K + 1,) the same if the label is wrong.
    votes_if_wrong: Values

    @property
    def mixture(self) -> Values:
        """(K + 1,) the distribution of the number of agreeing models over all items."""
        return _mixtures(self.votes_if_right, self.votes_if_wrong, self.wrong_share)

    def probabilities(self, votes: Ints, weights: Values) -> Values:
        """Return the probability (N,) that each label is wrong. It is 0 if all models give it.

        Args:
            votes: (N,), the number of models that share a wrong answer.
            weights: (N,), from `_confusion_weights`.
        """
        likelihood_if_wrong = self.wrong_share * self.votes_if_wrong[votes]
        likelihood_if_right = (1 - self.wrong_share) * self.votes_if_right[votes] * weights
        total = likelihood_if_wrong + likelihood_if_right + _TINY
        return np.where(votes > 0, likelihood_if_wrong / total, 0.0)


def _mixtures(votes_if_right: Values, votes_if_wrong: Values, wrong_share: float) -> Values:
    """Return the distribution of the number of agreeing models over right and wrong labels.

    Args:
        votes_if_right: (..., K + 1), one or several distributions for right labels.
        votes_if_wrong: (K + 1,), the distribution for wrong labels.
        wrong_share: The share of wrong labels.
    """
    return (1 - wrong_share) * votes_if_right + wrong_share * votes_if_wrong


class _Grid(NamedTuple):
    """Beta-binomial distributions on a grid of G points. A point is a pair of parameters."""

    # (G,), the mean share of successes, and the concentration. The smaller the concentration is,
    # the more often all trials of an item end alike.
    means: Values
    concentrations: Values
    # (G, K + 1), the distributions of the number of successes.
    distributions: Values

    @classmethod
    def of_all_pairs(cls, n: int, means: Values, concentrations: Values) -> _Grid:
        """Return the distributions of n trials for each mean with each concentration."""
        mean_table, concentration_table = np.meshgrid(means, concentrations, indexing="ij")
        grid_means, grid_concentrations = mean_table.ravel(), concentration_table.ravel()
        distributions = _beta_binomials(n, grid_means, grid_concentrations)
        return cls(grid_means, grid_concentrations, distributions)

    def refined(self, point: int, reach: float) -> _Grid:
        """Return a grid of 5 x 5 points around a point. Means are at most 0.99.

        For example, a reach of 1.21 multiplies both parameters of the point by 1/1.21, 1/1.1, 1,
        1.1 and 1.21.

        Args:
            point: The index of the point.
            reach: The largest factor between a parameter of the new grid and of the point.
        """
        factors = reach ** np.linspace(-1, 1, 5)
        means = np.minimum(self.means[point] * factors, 0.99)
        concentrations = self.concentrations[point] * factors
        n_trials = self.distributions.shape[1] - 1
        return _Grid.of_all_pairs(n_trials, means, concentrations)


def _fit_right_labels(
    n_items_by_votes: Ints, votes_if_wrong: Values, wrong_share: float, grid: _Grid
) -> _Fit:
    """Return the mixture that fits best for a given share of wrong labels, by maximum likelihood.

    The number of agreeing models follows the mixture

        (1 - wrong_share) * votes_if_right + wrong_share * votes_if_wrong

    in which only the two parameters of the beta-binomial distribution `votes_if_right` are unknown.
    The most likely point of a coarse grid of both parameters is found first. Then finer and finer
    grids around the most likely point so far are searched.

    Args:
        n_items_by_votes: (K + 1,), the number of items with k agreeing models, for k from 0 to K.
        votes_if_wrong: (K + 1,), the distribution of the number of agreeing models for wrong
            labels.
        wrong_share: The share of wrong labels.
        grid: The coarse grid.
    """
    log_likelihoods = _log_likelihoods(grid, n_items_by_votes, votes_if_wrong, wrong_share)
    best_point = int(log_likelihoods.argmax())
    for reach in _GRID_REACHES:
        grid = grid.refined(best_point, reach)
        log_likelihoods = _log_likelihoods(grid, n_items_by_votes, votes_if_wrong, wrong_share)
        best_point = int(log_likelihoods.argmax())
    return _Fit(
        log_likelihood=float(log_likelihoods[best_point]),
        wrong_share=wrong_share,
        votes_if_right=grid.distributions[best_point],
        votes_if_wrong=votes_if_wrong,
    )


def _log_likelihoods(
    grid: _Grid, n_items_by_votes: Ints, votes_if_wrong: Values, wrong_share: float
) -> Values:
    """Return the log-likelihood of the observed votes for each point of a grid, (G,).

    `n_items_by_votes`, `votes_if_wrong` and `wrong_share` are as in `_fit_right_labels`.
    """
    mixtures = _mixtures(grid.distributions, votes_if_wrong, wrong_share)
    log_likelihoods: Values = np.log(mixtures + _TINY) @ n_items_by_votes
    return log_likelihoods


def _beta_binomials(n: int, means: Values, concentrations: Values) -> Values:
    """Return beta-binomial distributions of n trials, (G, n + 1).

    Args:
        n: The number of trials.
        means: (G,), the mean shares of successes, which are a / (a + b).
        concentrations: (G,), a + b. The smaller it is, the more often all trials end alike.
    """
    a = (means * concentrations)[:, None]
    b = ((1 - means) * concentrations)[:, None]
    m = np.arange(n + 1)
    log_choices = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)
    distributions: Values = np.exp(log_choices + betaln(m + a, n - m + b) - betaln(a, b))
    return distributions


def _confusion_weights(
    agreed: Agreement, labels: Ints, n_classes: int, n_models: int
) -> NDArray[np.float64]:
    """Return for each item how often models confuse its label with its answer, (N,).

    The confusions are the items that some, but not all models answer wrongly.

        weight = share of the pair (label, answer) among the confusions / its even share

    The even share is the one that the pair would have if the answers fell on all other classes
    equally often. So that no weight is 0, as many evenly distributed items as there are confusions
    are added before, but at most one per pair of classes.

    Args:
        agreed: The agreement of the models.
        labels: (N,), the labels.
        n_classes: The number C of classes.
        n_models: The number K of models.
    """
    is_confused = (agreed.votes > 0) & (agreed.votes < n_models)
    _, pair_of_item = np.unique(labels * n_classes + agreed.answer, return_inverse=True)
    n_confused_by_pair = np.bincount(pair_of_item, weights=is_confused)
    share_of_label = np.bincount(labels, minlength=n_classes) / len(labels)
    even_share_of_item = share_of_label[labels] / (n_classes - 1)
    n_added = max(1.0, min(float(is_confused.sum()), n_classes * (n_classes - 1.0)))
    n_with_added = n_confused_by_pair[pair_of_item] + n_added * even_share_of_item
    weights: Values = n_with_added / (is_confused.sum() + n_added) / even_share_of_item
    return weights
