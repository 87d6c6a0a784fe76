"""Laws of scale: the error of a training method as a function of its budget, with intervals.

The law is error = E + A * C^-alpha for a budget C, such as samples or FLOPs, with E, A, alpha >= 0
(Hoffmann et al. 2022, arXiv 2203.15556, approach 3, with one variable). E is the error that no
budget removes. Errors are 1 - metric for fractions, or the metric itself if lower is better.

Fit. For a given exponent the law is linear in E and A: both are solved exactly, and only the
exponent is searched (variable projection, Golub and Pereyra 1973, SIAM Journal on Numerical
Analysis 10). So there are no starting points and no local optima. Budgets are weighted by their
number of trainings over the variance of one.

Variance. Trainings of one budget differ by seed. Their variance is pooled over the budgets: it is
taken to be proportional to e (1 - e) for fractions, and to e^2 for other errors e. If the errors
of one seed agree over budgets, as in cooldowns of one run, their correlation is estimated. Images
move all trainings at once (`image_covariance` in stats.groups).

Intervals are percentiles of a parametric bootstrap. Each replicate draws the images once for all
trainings of all methods, the variance between seeds by chi-squared, and a seed for each training,
and is fitted with the weights of the simulated law. With three seeds, resampling the seeds
themselves would make the intervals too narrow. An estimate of E cannot fall below 0, so replicates
of a law with E > 0 are biased if the true E is 0. If E = 0 fits the data, too, it is also
simulated, and the interval covers both. Predictions also cover a law with E < 0 if the errors seem
to fall that fast, as curves in the shape of an S do before they flatten. Simulations of the
coverage are in benchmarks/scaling.md.

Shapes: B budgets, S trainings of all methods, R replicates, K exponents.
"""

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import fdtrc, ndtr, ndtri, stdtr, stdtrit

from cosmos_eval.stats.estimates import Ints, Values
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.types import Interval

METHOD = "parametric bootstrap over seeds and images"
IMAGES_ONLY = "parametric bootstrap over images"
LEAST_BUDGETS = 4
"""The fewest budgets that a law is fitted to. A law has three parameters, so that three budgets
would fit every law exactly and show none."""
LEAST_RANGE = 4.0
"""The least ratio of the largest fitted budget to the smallest. Over a smaller range, E and alpha
cannot be told apart."""
MOST_EXTRAPOLATION = 4.0
"""The largest budget that is predicted, as a multiple of the largest fitted one. At this budget,
five budgets with three seeds give an interval about as wide as the error that it predicts
(benchmarks/scaling.md)."""
MISFIT = 0.05
"""The p-value below which trainings do not follow the law."""

GREATEST_EXPONENT = 4.0
"""The greatest alpha that is searched. It stands for all greater ones."""

Floor = Literal["bounded", "zero", "free"]
"""Whether E is at least 0, is 0, or may be negative, which no law allows."""

SHOWN = 0.975
"""The share of replicates that must fall, cross or lie below for this to count as shown."""
RESAMPLES = 2000

_NEGATIVE_FLOOR_LEVEL = 0.25  # predictions allow for E < 0 if the p-value of E >= 0 is below it
_LEAST_EXPONENT = 0.01
_EXPONENTS = np.geomspace(_LEAST_EXPONENT, GREATEST_EXPONENT, 60)
_ZOOM_POINTS = 9  # exponents of each refinement, which divides their distance by 4
_ZOOMS, _REPLICATE_ZOOMS = 10, 3  # refinements of the law, and of replicates
_CROSSING_POINTS = 129  # budgets at which two laws are compared
_BEFORE_RANGE, _AFTER_RANGE = -math.inf, math.inf  # places of crossings that are not in the range
_TINY = 1e-12


class Law(NamedTuple):
    """The law error = floor + drop * (budget / smallest)^-exponent, or R of them.

    Fields of type Any are numbers, or arrays (R,) with one element for each replicate.
    """

    # E, the error that no budget removes.
    floor: Any
    # The error at the smallest budget above E.
    drop: Any
    # alpha.
    exponent: Any
    # The smallest budget.
    smallest: float

    @property
    def scale(self) -> Any:
        """A of the law E + A * C^-alpha."""
        return self.drop * self.smallest**self.exponent

    def error_at(self, budget: Any) -> Any:
        """Return the error at a budget. Budgets (P, 1) give errors (P, R)."""
        return self.floor + self.drop * (budget / self.smallest) ** -np.asarray(self.exponent)


class Ladder(NamedTuple):
    """The trainings of one method at B budgets, which rise."""

    # (B,), in samples or FLOPs.
    budgets: Values
    # The errors of the trainings of each budget.
    errors: tuple[Values, ...]
    # The seeds of the trainings of each budget. Trainings of unknown seed have negative numbers,
    # which all differ.
    seeds: tuple[Ints, ...]
    # (B,), True if the law is fitted to the budget. Other budgets are held out.
    is_fitted: Any
    # True if errors are fractions, whose variance is proportional to e (1 - e).
    are_fractions: bool = True

    @property
    def counts(self) -> Ints:
        """The number of trainings of each budget, (B,)."""
        return np.array([len(errors) for errors in self.errors])

    @property
    def means(self) -> Values:
        """The mean error of each budget, (B,)."""
        return np.array([errors.mean() for errors in self.errors])

    @property
    def fitted_budgets(self) -> Values:
        """The budgets that the law is fitted to, (number of fitted budgets,)."""
        budgets: Values = self.budgets[self.is_fitted]
        return budgets

    @property
    def has_same_seeds(self) -> bool:
        """True if all fitted budgets have trainings of the same seeds, as cooldowns of runs do."""
        fitted_indices = np.flatnonzero(self.is_fitted)
        first_seeds = set(self.seeds[fitted_indices[0]].tolist())
        return all(set(self.seeds[index].tolist()) == first_seeds for index in fitted_indices)

    def variance_shape(self, errors: Any) -> Any:
        """Return the variance between seeds at these errors, up to a common factor."""
        if self.are_fractions:
            inside = np.clip(errors, 1e-3, 1 - 1e-3)
            return inside * (1 - inside)
        return np.maximum(errors, _TINY) ** 2


class SeedSpread(NamedTuple):
    """How much trainings of one budget differ, pooled over the fitted budgets."""

    # The variance between trainings, divided by `Ladder.variance_shape`. It includes changes by the
    # draw of the images that only one training has.
    factor: float
    # The correlation of the errors of one seed at two budgets.
    correlation: float
    # The degrees of freedom of `factor`; 0 if no budget has two trainings.
    dof: float
    # The degrees of freedom of the variance of differences between budgets, by which laws are
    # tested. With the same seeds at all budgets, this is factor * (1 - correlation), the mean
    # square of the interaction of seed and budget. 0 if no budget has two trainings.
    test_dof: float


class Replicates(NamedTuple):
    """Simulated errors under other seeds and images if a law is true, and their fits."""

    # The law that is simulated.
    truth: Law
    # The laws that are fitted to the replicates, (R,) each.
    laws: Law
    # (R, B), the mean errors of all budgets, held-out ones included.
    means: Values
    # (R,), the change of the error of the largest fitted budget by the draw of the images.
    image_changes: Values
    # (R,), the factors of the variance between trainings, see `SeedSpread.factor`.
    factors: Values


class FittedLadder(NamedTuple):
    """A law that was fitted to the trainings of a method, with its replicates."""

    ladder: Ladder
    law: Law
    spread: SeedSpread
    # Replicates of the fitted law and, if E = 0 fits as well, of the best law with E = 0.
    replicates: tuple[Replicates, ...]
    # The p-value of the mean errors if they follow a law, of two tests with Bonferroni's
    # correction: any deviation from laws whose E may be negative (F), and errors that fall faster
    # than any law with E >= 0, as near a steep step (t, one-sided). None without trainings of
    # several seeds.
    misfit_p: float | None
    # Replicates of the best fit with E < 0, if the errors seem to fall faster than any law with
    # E >= 0, by chance or because they follow no law. They widen predictions. None otherwise.
    steeper: Replicates | None

    @property
    def _predictive_replicates(self) -> list[Replicates]:
        """The replicates that predictions are based on."""
        return [*self.replicates, *([] if self.steeper is None else [self.steeper])]

    @property
    def method(self) -> str:
        """The name of the method of the intervals."""
        return METHOD if self.spread.dof > 0 else IMAGES_ONLY

    @property
    def falls(self) -> bool:
        """True if the error is shown to fall with the budget: alpha's interval is above 0."""
        return self.parameter_interval("exponent").low > 1.01 * _LEAST_EXPONENT

    def parameter_interval(self, name: str) -> Interval:
        """Return the interval of "floor", "scale" or "exponent" over seeds and images.

        The exponent of a replicate that does not fall is 0.
        """
        values = []
        for replicates in self.replicates:
            laws = replicates.laws
            value = getattr(laws, name)
            if name == "exponent":
                value = np.where(laws.drop > 0, value, 0.0)
            values.append(value)
        return self._interval(values)

    def mean_interval(self, budget: float) -> Interval:
        """Return the interval of the mean error at a budget, over other seeds and images."""
        return self._error_interval(
            [item.laws.error_at(budget) for item in self._predictive_replicates]
        )

    def held_out_interval(self, index: int) -> Interval:
        """Return the interval that predicts the measured mean of a held-out budget.

        The measured mean is over as many trainings as the budget has, on the same images.

        Args:
            index: The index of the budget.
        """
        budget = self.ladder.budgets[index]
        values = []
        for item in self._predictive_replicates:
            errors_of_prediction = item.laws.error_at(budget) - item.means[:, index]
            values.append(item.truth.error_at(budget) + errors_of_prediction)
        return self._error_interval(values)

    def training_interval(self, budget: float, *, seed: int = 0) -> Interval:
        """Return the interval that predicts one new training at a budget, on the same images.

        The images are taken to move its error as they move the largest fitted budget.
        """
        random = np.random.default_rng(seed)
        values = []
        for item in self._predictive_replicates:
            true_error = item.truth.error_at(budget)
            variances = item.factors * self.ladder.variance_shape(true_error)
            changes = np.sqrt(variances) * random.standard_normal(len(variances))
            values.append(item.laws.error_at(budget) - item.image_changes + changes)
        return self._error_interval(values)

    def _error_interval(self, values: Sequence[Values]) -> Interval:
        """Return the interval of an error, which is at most 1 for fractions."""
        interval = self._interval(values)
        if not self.ladder.are_fractions:
            return interval
        return interval._replace(low=min(1.0, interval.low), high=min(1.0, interval.high))

    def _interval(self, values: Sequence[Values]) -> Interval:
        """Return the smallest interval that holds the 95% intervals of several simulated laws."""
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        ends = np.array([np.quantile(replicate_values, tails) for replicate_values in values])
        low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
        return Interval(max(0.0, low), high, self.method, LEVEL)


def fit_law(budgets: Values, errors: Values, weights: Values, *, floor: Floor = "bounded") -> Law:
    """Return the laws that fit R rows of errors with the least weighted sum of squares.

    Args:
        budgets: (B,), which rise.
        errors: (R, B), the mean errors of each replicate.
        weights: (B,), the weight of each budget.
        floor: "bounded" if E is at least 0, "zero" if E is 0, "free" if E may be negative.

    Returns:
        The laws, with arrays (R,).

    Example:
        Errors of 0.6, 0.35, 0.225 and 0.1625 at budgets of 1, 2, 4 and 8 give E = 0.1, A = 0.5 and
        alpha = 1.
    """
    log_ratios = np.log(budgets / budgets[0])
    rows = np.arange(len(errors))
    # The best of a grid of exponents, which is the same for all replicates: (K, B).
    log_exponents = np.log(_EXPONENTS)
    powers = np.exp(-np.exp(log_exponents)[:, None] * log_ratios)
    floors, drops, gains = _solve_linear(errors, weights, powers, floor=floor)
    best = gains.argmax(axis=1)
    log_best = log_exponents[best]

    # The best of finer and finer grids around the best exponent of each replicate: (R, K, B).
    step = log_exponents[1] - log_exponents[0]
    for _ in range(_ZOOMS if len(errors) == 1 else _REPLICATE_ZOOMS):
        near_exponents = log_best[:, None] + step * np.linspace(-1, 1, _ZOOM_POINTS)
        near_exponents = near_exponents.clip(log_exponents[0], log_exponents[-1])
        powers = np.exp(-np.exp(near_exponents)[..., None] * log_ratios)
        floors, drops, gains = _solve_linear(errors, weights, powers, floor=floor)
        best = gains.argmax(axis=1)
        log_best = near_exponents[rows, best]
        step *= 2 / (_ZOOM_POINTS - 1)
    return Law(
        floor=floors[rows, best],
        drop=drops[rows, best],
        exponent=np.exp(log_best),
        smallest=float(budgets[0]),
    )


def _solve_linear(
    errors: Values, weights: Values, powers: Values, *, floor: Floor
) -> tuple[Values, Values, Values]:
    """Return the best floors and drops for each replicate and exponent. Drops are at least 0.

    Args:
        errors: (R, B).
        weights: (B,).
        powers: (K, B) or (R, K, B), the falling part of the law at each budget, 1 at the smallest.
        floor: See `fit_law`.

    Returns:
        The floors, the drops, and by how much they reduce the weighted sum of squares, (R, K) each.
    """
    weighted = errors * weights
    sum_weights = weights.sum()
    sum_errors = weighted.sum(axis=1)[:, None]
    sum_powers = powers @ weights
    sum_squares = powers**2 @ weights
    if powers.ndim == 2:
        sum_products = weighted @ powers.T
    else:
        sum_products = (powers @ weighted[:, :, None])[:, :, 0]

    drops = sum_products / sum_squares
    floors = np.zeros_like(drops)
    if floor != "zero":
        determinant = sum_weights * sum_squares - sum_powers**2
        free_drops = (sum_weights * sum_products - sum_powers * sum_errors) / determinant
        free_floors = (sum_errors - free_drops * sum_powers) / sum_weights
        is_falling = free_drops > 0
        free_drops = np.where(is_falling, free_drops, 0.0)
        free_floors = np.where(is_falling, free_floors, sum_errors / sum_weights)
        is_allowed = (free_floors >= 0) | (floor == "free")
        drops = np.where(is_allowed, free_drops, drops)
        floors = np.where(is_allowed, free_floors, floors)
    gains = floors * sum_errors + drops * sum_products
    return floors, drops, gains


def fit_ladders(
    ladders: Sequence[Ladder], covariance: Values, *, seed: int = 0, resamples: int = RESAMPLES
) -> list[FittedLadder]:
    """Fit a law to each method, with replicates that draw the same images for all of them.

    Args:
        ladders: The methods.
        covariance: (S, S), the covariance of the errors of all trainings over other draws of the
            images. The trainings are in the order of the methods, and within a method in the order
            of its budgets.
        seed: The seed of the bootstrap.
        resamples: The number R of replicates.

    Raises:
        ValueError: If a method has fewer than four fitted budgets, or less than a range of 4 x.
    """
    for ladder in ladders:
        require_enough_budgets(ladder.fitted_budgets)
    random = np.random.default_rng(seed)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    root = eigenvectors * np.sqrt(np.maximum(eigenvalues, 0))
    all_changes = random.standard_normal((resamples, len(covariance))) @ root.T  # (R, S)
    fitted_ladders = []
    start = 0
    for ladder in ladders:
        end = start + int(ladder.counts.sum())
        fitted_ladders.append(
            _fit_ladder(ladder, covariance[start:end, start:end], all_changes[:, start:end], random)
        )
        start = end
    return fitted_ladders


def require_several_budgets(count: int) -> None:
    """Raise ValueError if a law cannot be fitted to this number of budgets."""
    if count < LEAST_BUDGETS:
        noun = "budget" if count == 1 else "budgets"
        raise ValueError(
            f"{count} {noun}, and a law with three parameters needs {LEAST_BUDGETS} or more"
        )


def require_enough_budgets(budgets: Values) -> None:
    """Raise ValueError unless a law can be fitted to the budgets (B,), which rise."""
    require_several_budgets(len(budgets))
    ratio = budgets[-1] / budgets[0]
    if ratio < LEAST_RANGE:
        raise ValueError(
            f"the largest budget is {ratio:.3g} x the smallest, and a law needs {LEAST_RANGE:g} x"
        )


def _fit_ladder(
    ladder: Ladder, image_covariance: Values, image_changes: Values, random: np.random.Generator
) -> FittedLadder:
    """Fit a law to a method and to its replicates.

    Args:
        ladder: The method, with S trainings.
        image_covariance: (S, S), the covariance of their errors by the draw of the images.
        image_changes: (R, S), the changes of their errors in each replicate's draw of the images.
        random: The generator of the draws of seeds.
    """
    law = _fit_means(ladder)
    spread = _measure_spread(ladder, law)
    interaction_variance = _image_interaction_variance(ladder, image_covariance)
    covariance_of_means = _covariance_of_means(
        ladder, law, spread, image_covariance, interaction_variance
    )
    replicates = []
    for truth in _plausible_laws(ladder, law, spread, covariance_of_means):
        replicates.append(
            _simulate(ladder, truth, spread, interaction_variance, image_changes, random)
        )
    free_law = _fit_means(ladder, floor="free")
    negative_floor_p = _negative_floor_p(ladder, law, free_law, spread, covariance_of_means)
    steeper = None
    if negative_floor_p < _NEGATIVE_FLOOR_LEVEL:
        steeper = _simulate(
            ladder, free_law, spread, interaction_variance, image_changes, random, floor="free"
        )
    misfit_p = _misfit_p(ladder, free_law, spread, covariance_of_means, negative_floor_p)
    return FittedLadder(ladder, law, spread, tuple(replicates), misfit_p, steeper)


def _covariance_of_means(
    ladder: Ladder,
    law: Law,
    spread: SeedSpread,
    image_covariance: Values,
    interaction_variance: Values,
) -> Values:
    """Return the covariance (B, B) of the mean errors of budgets over seeds and images.

    Seeds give the mean error of budget i a variance of v_i / k_i, for the variance v_i of one
    training and k_i trainings. If all fitted budgets have the same seeds, each of these adds a
    covariance of correlation * sqrt(v_i v_j) / (k_i k_j) for the budgets i and j. Otherwise seeds
    count as independent: differences between budgets then seem more uncertain than they are. With
    unequal seeds, 1 - correlation is known too poorly, and true laws would be rejected too often.

    Args:
        ladder: The method, with S trainings.
        law: Its law, by which the variance between seeds depends on the budget.
        spread: How much trainings of one budget differ.
        image_covariance: (S, S), the covariance of their errors by the draw of the images.
        interaction_variance: (B,), see `_image_interaction_variance`.
    """
    shapes = ladder.variance_shape(law.error_at(ladder.budgets))
    seed_variances = np.maximum(0, spread.factor * shapes - interaction_variance)
    seed_deviations = np.sqrt(seed_variances)[_budget_indices(ladder)]  # (S,)
    seeds = np.concatenate(ladder.seeds)
    correlation = spread.correlation if ladder.has_same_seeds else 0.0
    correlations = np.where(seeds[:, None] == seeds, correlation, 0.0)
    np.fill_diagonal(correlations, 1.0)
    seed_covariance = correlations * np.outer(seed_deviations, seed_deviations)
    averages = _averaging_matrix(ladder)
    covariance_of_means: Values = averages.T @ (image_covariance + seed_covariance) @ averages
    return covariance_of_means + _TINY * np.eye(len(ladder.counts))


def _plausible_laws(
    ladder: Ladder, law: Law, spread: SeedSpread, covariance_of_means: Values
) -> list[Law]:
    """Return the fitted law and, if E = 0 does not fit significantly worse, the best such law."""
    if law.floor == 0:
        return [law]
    floorless_law = _fit_means(ladder, floor="zero")
    deviation = _deviation(ladder, law, covariance_of_means)
    floorless_deviation = _deviation(ladder, floorless_law, covariance_of_means)
    quantile = (
        stdtrit(spread.test_dof, (1 + LEVEL) / 2) if spread.test_dof else ndtri((1 + LEVEL) / 2)
    )
    if floorless_deviation - deviation < quantile**2:
        return [law, floorless_law]
    return [law]


def _negative_floor_p(
    ladder: Ladder, law: Law, free_law: Law, spread: SeedSpread, covariance_of_means: Values
) -> float:
    """Return the one-sided p-value of E >= 0. It is small if errors fall faster than such laws.

    Args:
        ladder: The method.
        law: The best law with E >= 0.
        free_law: The best fit whose E may be negative. If it is not, the p-value is 1.
        spread: How much trainings of one budget differ.
        covariance_of_means: (B, B), see `_covariance_of_means`.
    """
    if free_law.floor >= 0:
        return 1.0
    deviation = _deviation(ladder, law, covariance_of_means)
    free_deviation = _deviation(ladder, free_law, covariance_of_means)
    distance = math.sqrt(max(0.0, deviation - free_deviation))
    return float(stdtr(spread.test_dof, -distance) if spread.test_dof else ndtr(-distance))


def _misfit_p(
    ladder: Ladder,
    free_law: Law,
    spread: SeedSpread,
    covariance_of_means: Values,
    negative_floor_p: float,
) -> float | None:
    """Return the p-value of the mean errors if they follow a law, see `FittedLadder.misfit_p`.

    Deviations are measured from the best fit whose E may be negative. Those from a law with E = 0
    would also count the distance to E < 0, which is `negative_floor_p`, and so reject true laws
    with E = 0 too often.

    Args:
        ladder: The method.
        free_law: The best fit whose E may be negative.
        spread: How much trainings of one budget differ.
        covariance_of_means: (B, B), see `_covariance_of_means`.
        negative_floor_p: See `_negative_floor_p`.
    """
    if spread.test_dof == 0:
        return None
    free_dof = len(ladder.fitted_budgets) - 3
    deviation = _deviation(ladder, free_law, covariance_of_means)
    any_p = float(fdtrc(free_dof, spread.test_dof, deviation / free_dof))
    return min(1.0, 2 * any_p, 2 * negative_floor_p)


def _simulate(
    ladder: Ladder,
    truth: Law,
    spread: SeedSpread,
    interaction_variance: Values,
    image_changes: Values,
    random: np.random.Generator,
    floor: Floor = "bounded",
) -> Replicates:
    """Draw replicates of a method's trainings under a law, and fit laws to them.

    Args:
        ladder: The method.
        truth: The law that the replicates follow.
        spread: How much trainings of one budget differ.
        interaction_variance: (B,), see `_image_interaction_variance`.
        image_changes: (R, S), the changes of the errors by the draw of the images.
        random: The generator of the draws of seeds.
        floor: The laws that are fitted, see `fit_law`.
    """
    n_replicates = len(image_changes)
    averages = _averaging_matrix(ladder)
    true_errors = truth.error_at(ladder.budgets)
    factors = np.zeros(n_replicates)
    if spread.dof > 0:
        # The estimated variance is distributed like the true one * chi-squared / dof.
        factors = spread.factor * spread.dof / random.chisquare(spread.dof, n_replicates)
    variances = factors[:, None] * ladder.variance_shape(true_errors)  # (R, B)
    # The variance between seeds contains the noise of single images. `image_changes` has it
    # already, so it is subtracted.
    variances = variances - interaction_variance
    deviations = np.sqrt(np.maximum(0, variances))
    draws = _draw_seeds(ladder, spread.correlation, n_replicates, random)  # (R, S)
    changes = image_changes + deviations[:, _budget_indices(ladder)] * draws
    means = true_errors + changes @ averages
    weights = _weights(ladder, truth)
    fitted_means = means[:, ladder.is_fitted]
    laws = fit_law(ladder.fitted_budgets, fitted_means, weights, floor=floor)
    largest = np.flatnonzero(ladder.is_fitted)[-1]
    return Replicates(truth, laws, means, (image_changes @ averages)[:, largest], factors)


def _fit_means(ladder: Ladder, *, floor: Floor = "bounded") -> Law:
    """Return the law of a method's mean errors. Its fields are numbers.

    The weights follow from the errors. They are computed from the mean errors first, and again from
    the law.
    """
    means = ladder.means[None, ladder.is_fitted]
    weights = (ladder.counts / ladder.variance_shape(ladder.means))[ladder.is_fitted]
    for _ in range(2):
        laws = fit_law(ladder.fitted_budgets, means, weights, floor=floor)
        law = Law(float(laws.floor[0]), float(laws.drop[0]), float(laws.exponent[0]), laws.smallest)
        weights = _weights(ladder, law)
    return law


def _weights(ladder: Ladder, law: Law) -> Values:
    """Return the weights of the fitted budgets: trainings over the variance of one by the law."""
    shapes = ladder.variance_shape(law.error_at(ladder.fitted_budgets))
    weights: Values = ladder.counts[ladder.is_fitted] / shapes
    return weights


def _measure_spread(ladder: Ladder, law: Law) -> SeedSpread:
    """Return the variance between the trainings of a budget, and the correlation of a seed's.

    The variance is pooled over all fitted budgets with several trainings.
    """
    sum_squares = 0.0
    dofs: list[int] = []  # the degrees of freedom of each budget
    # Standardised deviations from the mean of their budget, by seed.
    deviations_by_seed: dict[int, list[float]] = {}
    for index in np.flatnonzero(ladder.is_fitted):
        errors = ladder.errors[index]
        k = len(errors)
        if k < 2:
            continue
        shape = float(ladder.variance_shape(law.error_at(ladder.budgets[index])))
        deviations = (errors - errors.mean()) / math.sqrt(shape)
        sum_squares += float(deviations @ deviations)
        dofs.append(k - 1)
        unbiased = deviations * math.sqrt(k / (k - 1))
        for seed, deviation in zip(ladder.seeds[index].tolist(), unbiased, strict=True):
            deviations_by_seed.setdefault(seed, []).append(float(deviation))
    if not dofs:
        return SeedSpread(factor=0.0, correlation=0.0, dof=0.0, test_dof=0.0)

    factor = sum_squares / sum(dofs)
    products = []
    for deviations_of_seed in deviations_by_seed.values():
        products += [a * b for a, b in combinations(deviations_of_seed, 2)]
    correlation = 0.0
    if products and factor > 0:
        correlation = min(1.0, max(0.0, float(np.mean(products)) / factor))
    # Correlated variances are worth fewer independent ones.
    dof = sum(dofs) / (1 + (len(dofs) - 1) * correlation**2)
    test_dof = float(sum(dofs[1:])) if ladder.has_same_seeds else dof
    return SeedSpread(factor, correlation, dof, test_dof)


def _budget_indices(ladder: Ladder) -> Ints:
    """Return the index of the budget of each training, (S,)."""
    return np.repeat(np.arange(len(ladder.budgets)), ladder.counts)


def _averaging_matrix(ladder: Ladder) -> Values:
    """Return the matrix (S, B) whose product with errors (R, S) gives the means of budgets."""
    one_hot = _budget_indices(ladder)[:, None] == np.arange(len(ladder.budgets))
    return one_hot / ladder.counts


def _image_interaction_variance(ladder: Ladder, image_covariance: Values) -> Values:
    """Return for each budget how much the draw of the images moves one training only, (B,).

    It is the variance of the interaction of training and image, `Trainings.rest_variance` in
    stats.groups. It is 0 for a budget with one training.
    """
    variances = np.zeros(len(ladder.budgets))
    budget_indices = _budget_indices(ladder)
    for index, k in enumerate(ladder.counts):
        if k > 1:
            is_inside = budget_indices == index
            block = image_covariance[np.ix_(is_inside, is_inside)]
            mean_covariance = (block.sum() - np.trace(block)) / (k * (k - 1))
            variances[index] = max(0.0, np.trace(block) / k - mean_covariance)
    return variances


def _deviation(ladder: Ladder, law: Law, covariance_of_means: Values) -> float:
    """Return the squared distance r' V^-1 r of the mean errors from a law, in standard errors.

    Args:
        ladder: The method.
        law: The law.
        covariance_of_means: (B, B), the covariance V of the mean errors over seeds and images.
    """
    is_fitted = np.flatnonzero(ladder.is_fitted)
    residuals = (ladder.means - law.error_at(ladder.budgets))[is_fitted]
    covariance = covariance_of_means[np.ix_(is_fitted, is_fitted)]
    return float(residuals @ np.linalg.solve(covariance, residuals))


def _draw_seeds(
    ladder: Ladder, correlation: float, resamples: int, random: np.random.Generator
) -> Values:
    """Return standard normal draws (R, S), correlated between trainings of the same seed."""
    _, seed_index = np.unique(np.concatenate(ladder.seeds), return_inverse=True)
    seed_draws = random.standard_normal((resamples, int(seed_index.max()) + 1))[:, seed_index]
    training_draws = random.standard_normal((resamples, len(seed_index)))
    draws: Values = (
        math.sqrt(correlation) * seed_draws + math.sqrt(1 - correlation) * training_draws
    )
    return draws


class Crossing(NamedTuple):
    """The crossing of the laws of two methods A and B, within the budgets that both have."""

    # The range of budgets that is searched.
    low_budget: float
    high_budget: float
    # The last budget of the range at which the laws cross; None if they do not cross in it.
    budget: float | None
    # The ends of the 95% interval of the budget; None where it reaches beyond the range.
    low: float | None
    high: float | None
    # The method with the lower error at the largest budget, "A" or "B", by the fitted laws.
    lower_at_end: str
    # The least share of replicates that cross in the same direction, over the simulated laws.
    share_crossing: float
    # The least share of replicates in which `lower_at_end` is lower at all budgets of the range.
    share_below: float

    @property
    def crosses(self) -> bool:
        """True if a crossing is shown."""
        return self.budget is not None and self.share_crossing >= SHOWN

    @property
    def is_below(self) -> bool:
        """True if `lower_at_end` is shown to be lower at all budgets of the range."""
        return self.share_below >= SHOWN


def find_crossing(a: FittedLadder, b: FittedLadder) -> Crossing:
    """Return where the laws of two methods cross.

    Both must have been fitted by one call of `fit_ladders`, so that replicates share their images.

    Raises:
        ValueError: If the methods have no common range of budgets.
    """
    low_budget = float(max(a.ladder.fitted_budgets[0], b.ladder.fitted_budgets[0]))
    high_budget = float(min(a.ladder.fitted_budgets[-1], b.ladder.fitted_budgets[-1]))
    if low_budget >= high_budget:
        raise ValueError("the budgets of the two methods do not overlap")
    budgets = np.geomspace(low_budget, high_budget, _CROSSING_POINTS)
    differences = (a.law.error_at(budgets) - b.law.error_at(budgets))[None]
    is_a_lower = bool(differences[0, -1] < 0)
    sign = 1.0 if is_a_lower else -1.0  # the fitted difference * sign ends below 0
    (fitted_place,) = _crossing_places(sign * differences)

    shares_crossing, shares_below, ends = [], [], []
    for replicates_a, replicates_b in product(a.replicates, b.replicates):
        errors_a = replicates_a.laws.error_at(budgets[:, None]).T
        errors_b = replicates_b.laws.error_at(budgets[:, None]).T
        places = _crossing_places(sign * (errors_a - errors_b))
        shares_crossing.append(float(np.isfinite(places).mean()))
        shares_below.append(float((places == _BEFORE_RANGE).mean()))
        ends.append(np.quantile(places, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest"))
    low_place = min(float(low) for low, _ in ends)
    high_place = max(float(high) for _, high in ends)

    return Crossing(
        low_budget=low_budget,
        high_budget=high_budget,
        budget=_budget_at(float(fitted_place), low_budget, high_budget),
        low=_budget_at(low_place, low_budget, high_budget),
        high=_budget_at(high_place, low_budget, high_budget),
        lower_at_end="A" if is_a_lower else "B",
        share_crossing=min(shares_crossing),
        share_below=min(shares_below),
    )


def _budget_at(place: float, low_budget: float, high_budget: float) -> float | None:
    """Return the budget at a place from 0 to 1 of a range; None for a place outside of it.

    Example: the place 0.5 of the range from 100 to 400 is 200.
    """
    if place in (_BEFORE_RANGE, _AFTER_RANGE):
        return None
    return float(low_budget * (high_budget / low_budget) ** place)


def _crossing_places(differences: Values) -> Values:
    """Return where differences fall below 0 for good.

    Args:
        differences: (R, P), at P places that divide the range evenly.

    Returns:
        The places (R,) from 0 to 1. A place is `_BEFORE_RANGE` if the difference is below 0
        everywhere, and `_AFTER_RANGE` if it is not below 0 at the end.

    Example:
        The differences [3, 1, -1] cross at the place 0.75.
    """
    n_steps = differences.shape[1] - 1
    # The last point at which the difference is not below 0; -1 if there is none.
    last_points = np.where(differences >= 0, np.arange(n_steps + 1), -1).max(axis=1)
    places = np.where(last_points == -1, _BEFORE_RANGE, _AFTER_RANGE)
    crosses = (last_points >= 0) & (last_points < n_steps)
    rows, points = np.flatnonzero(crosses), last_points[crosses]
    values, next_values = differences[rows, points], differences[rows, points + 1]
    # Between both points, the difference is taken to be a straight line.
    places[crosses] = (points + values / (values - next_values)) / n_steps
    return places


def refusal_of_prediction(fitted: FittedLadder, budget: float, interval: Interval) -> str:
    """Return why the error at a budget is not predicted; empty if it is.

    Args:
        fitted: The law of the method.
        budget: The budget.
        interval: The interval of the mean error at the budget.
    """
    budgets = fitted.ladder.fitted_budgets
    if fitted.misfit_p is not None and fitted.misfit_p < MISFIT:
        return f"the trainings deviate from the law (p = {fitted.misfit_p:.1g})"
    if not fitted.falls:
        return "no law shown: the interval of alpha includes 0"
    if budget > MOST_EXTRAPOLATION * budgets[-1] * (1 + 1e-9):
        ratio = budget / budgets[-1]
        return (
            f"{ratio:.3g} x the largest fitted budget, and predictions reach to "
            f"{MOST_EXTRAPOLATION:g} x"
        )
    if budget < budgets[0]:
        return "the budget is below the smallest fitted one"
    means = fitted.ladder.means[fitted.ladder.is_fitted]
    if interval.high - interval.low > means.max() - means.min():
        return "the interval is wider than the range of the measured errors"
    return ""
