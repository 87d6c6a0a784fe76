"""`python benchmarks/scaling.py [SECTION ...] [--quick] [--json]`: do laws of scale hold?

Ladders of trainings are simulated, so that their law is known. How often do 95% intervals hold the
truth? How often is a crossing shown if two methods do not cross? How far may curves be extrapolated
that do not follow a power law? `--ladder DIR` instead prints the laws of stored results, with the
largest budget held out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from cosmos_eval.results.text import markdown_table
from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.scaling import (
    MISFIT,
    FittedLadder,
    Ladder,
    find_crossing,
    fit_ladders,
    fit_law,
    refusal_of_prediction,
)

Row = dict[str, str]
"""The cells of a table by the title of their column."""

IMAGES = 500
SMALLEST = 10_000.0  # the smallest budget; each further budget is twice as large
RESAMPLES = 500
AGREEMENT = 0.5  # the correlation of the difficulty of an image for two trainings
STUDIES, QUICK_STUDIES = 100, 8  # of each law
FACTORS = (2, 4, 8, 16)  # of extrapolation: budgets divided by the largest fitted one


class Truth(NamedTuple):
    """A law of scale: floor + drop * (budget / SMALLEST) ** -exponent."""

    # E, the error that no budget goes below.
    floor: float
    # The error above E at the smallest budget.
    drop: float
    # alpha.
    exponent: float

    def errors_at(self, budgets: Values) -> Values:
        """Return the errors at budgets, of the same shape."""
        errors: Values = self.floor + self.drop * (budgets / SMALLEST) ** -self.exponent
        return errors


LAWS = (Truth(0.05, 0.6, 0.5), Truth(0.02, 0.4, 0.8), Truth(0.2, 0.5, 0.35), Truth(0.0, 0.7, 0.4))


class Design(NamedTuple):
    """How trainings are drawn."""

    # The number of trainings at each budget, of different seeds.
    k: int = 3
    # The standard deviation by seeds, in units of sqrt(e (1 - e)).
    seed_sd: float = 0.06
    # Whether the standard deviation is 0.35 * `seed_sd` at all errors instead.
    is_constant: bool = False
    # The correlation of the errors of one seed at two budgets, as in cooldowns of one run.
    correlation: float = 0.0
    n_budgets: int = 5

    @property
    def budgets(self) -> Values:
        """The budgets (B,)."""
        budgets: Values = SMALLEST * 2.0 ** np.arange(self.n_budgets)
        return budgets


def draw_wrong(
    methods: Sequence[Values], design: Design, random: np.random.Generator
) -> list[NDArray[np.bool_]]:
    """Draw which images the trainings of methods get wrong, (B, k, n) for each method.

    Args:
        methods: The true errors (B,) of each method.
        design: How trainings are drawn.
        random: The generator.
    """
    difficulty = random.standard_normal(IMAGES)
    wrong = []
    for errors in methods:
        shape = (len(errors), design.k)
        seeds = np.sqrt(design.correlation) * random.standard_normal((1, design.k))
        seeds = seeds + np.sqrt(1 - design.correlation) * random.standard_normal(shape)
        sd = design.seed_sd * (0.35 if design.is_constant else np.sqrt(errors * (1 - errors)))
        chances = np.clip(errors[:, None] + np.reshape(sd, (-1, 1)) * seeds, 5e-4, 1 - 5e-4)
        luck = np.sqrt(AGREEMENT) * difficulty
        luck = luck + np.sqrt(1 - AGREEMENT) * random.standard_normal((*shape, IMAGES))
        wrong.append(ndtr(luck) < chances[..., None])
    return wrong


def fit(
    wrong: Sequence[NDArray[np.bool_]], design: Design, held_out: int = 0, seed: int = 0
) -> list[FittedLadder]:
    """Fit laws to drawn trainings.

    Args:
        wrong: (B, k, n) for each method, True for images that a training gets wrong.
        design: How they were drawn.
        held_out: How many of the largest budgets are held out.
        seed: The seed of the bootstrap.
    """
    trainings = np.concatenate([images.reshape(-1, IMAGES) for images in wrong])
    covariance = np.cov(trainings) / IMAGES
    is_fitted = np.arange(design.n_budgets) < design.n_budgets - held_out
    ladders = []
    for images in wrong:
        ladders.append(
            Ladder(
                budgets=design.budgets,
                errors=tuple(images.mean(axis=-1)),
                seeds=(np.arange(design.k),) * design.n_budgets,
                is_fitted=is_fitted,
            )
        )
    return fit_ladders(ladders, covariance, seed=seed, resamples=RESAMPLES)


class Shares:
    """Counts how often statements were true."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: bool | float) -> None:
        """Add an observation."""
        self._values.setdefault(name, []).append(float(value))

    def percent(self, name: str) -> str:
        """Return the mean of the observations in percent; empty if there are none."""
        values = self._values.get(name)
        return f"{100 * float(np.mean(values)):.1f}" if values else ""

    def median(self, name: str) -> str:
        """Return the median of the observations in percent; empty if there are none."""
        values = self._values.get(name)
        return f"{100 * float(np.median(values)):.1f}" if values else ""


def coverage(quick: bool) -> Iterator[Row]:
    """Yield how often intervals hold the truth, the largest of five budgets held out."""
    designs = {
        "3 seeds": Design(),
        "8 seeds": Design(k=8),
        "3 seeds, same sd at all errors": Design(is_constant=True),
        "3 seeds, cooldowns of one run (correlation 0.7)": Design(correlation=0.7),
        "3 seeds, hardly different": Design(seed_sd=0.01),
        "1 seed (intervals over images only)": Design(k=1),
    }
    for number, (label, design) in enumerate(designs.items()):
        shares = Shares()
        n_studies = QUICK_STUDIES if quick else STUDIES
        for truth in LAWS:
            random = np.random.default_rng([number, int(1000 * truth.drop)])
            for study in range(n_studies if number < 2 else n_studies // 2):
                errors = truth.errors_at(design.budgets)
                wrong = draw_wrong([errors], design, random)
                _add_coverage(shares, truth, wrong, design, study)
        columns = ("measured mean", "mean", "one training", "alpha", "E", "seeds resampled: mean")
        yield (
            {"design": label}
            | {name: shares.percent(name) for name in columns}
            | {"misfit": shares.percent("misfit")}
        )


def _add_coverage(
    shares: Shares, truth: Truth, wrong: list[NDArray[np.bool_]], design: Design, study: int
) -> None:
    """Add whether the intervals of one study hold the truth."""
    (fitted,) = fit(wrong, design, held_out=1, seed=study)
    largest = float(design.budgets[-1])
    true_error = float(truth.errors_at(design.budgets)[-1])
    errors = wrong[0].mean(axis=-1)
    truths = {
        "measured mean": (fitted.held_out_interval(design.n_budgets - 1), errors[-1].mean()),
        "mean": (fitted.mean_interval(largest), true_error),
        "one training": (fitted.training_interval(largest), errors[-1, 0]),
        "alpha": (fitted.parameter_interval("exponent"), truth.exponent),
        "E": (fitted.parameter_interval("floor"), truth.floor),
    }
    for name, (interval, value) in truths.items():
        shares.add(name, interval.low <= value <= interval.high)
    if study % 4 == 0 and design == Design():  # which takes long
        low, high = _resampled_interval(wrong[0], design, largest, study)
        shares.add("seeds resampled: mean", low <= true_error <= high)
    if fitted.misfit_p is not None:
        shares.add("misfit", fitted.misfit_p < MISFIT)


def _resampled_interval(
    wrong: NDArray[np.bool_], design: Design, budget: float, seed: int
) -> tuple[float, float]:
    """Return the percentile interval of the error at a budget if seeds and images are resampled."""
    random = np.random.default_rng(seed)
    n_fitted = design.n_budgets - 1
    counts = random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), RESAMPLES)  # (R, n)
    errors = wrong[:n_fitted].reshape(-1, IMAGES) @ counts.T / IMAGES  # (S, R)
    errors = errors.reshape(n_fitted, design.k, RESAMPLES)
    chosen = random.integers(0, design.k, (n_fitted, design.k, RESAMPLES))
    means = np.take_along_axis(errors, chosen, axis=1).mean(axis=1).T  # (R, B)
    centre = means.mean(axis=0)
    weights = 1 / np.clip(centre * (1 - centre), 1e-3, None)
    laws = fit_law(design.budgets[:n_fitted], means, weights)
    low, high = np.quantile(laws.error_at(budget), [0.025, 0.975])
    return float(low), float(high)


def crossing(quick: bool) -> Iterator[Row]:
    """Yield how often a crossing of two methods is shown, and how often its interval holds it."""
    slow = Truth(0.05, 0.6, 0.5)
    pairs = {
        "cross in the middle": (slow, Truth(0.02, 0.8, 0.83)),
        "cross between the two largest budgets": (slow, Truth(0.02, 0.8, 0.62)),
        "the same law": (slow, slow),
        "meet at the largest budget": (slow, Truth(0.0, 0.8, 0.5)),
        "parallel, 10% apart": (slow, Truth(0.15, 0.6, 0.5)),
    }
    design = Design()
    for number, (label, (a, b)) in enumerate(pairs.items()):
        shares = Shares()
        random = np.random.default_rng([7, number])
        budgets = np.geomspace(design.budgets[0], design.budgets[-1], 10_001)
        is_b_lower = b.errors_at(budgets) < a.errors_at(budgets)
        does_cross = bool(is_b_lower[-1] and not is_b_lower[0])
        true_budget = float(budgets[np.argmax(is_b_lower)]) if does_cross else np.nan
        for study in range(QUICK_STUDIES if quick else STUDIES):
            errors = [truth.errors_at(design.budgets) for truth in (a, b)]
            fitted = fit(draw_wrong(errors, design, random), design, seed=study)
            result = find_crossing(*fitted)
            shares.add("shown", result.crosses)
            shares.add("one below", result.is_below)
            if result.crosses and does_cross:
                low = result.low or 0.0
                high = result.high or np.inf
                shares.add("holds", low <= true_budget <= high)
        yield {
            "two methods": label,
            "crossing shown": shares.percent("shown"),
            "interval holds it": shares.percent("holds"),
            "one shown below everywhere": shares.percent("one below"),
        }


LARGEST = float(Design().budgets[-1])
"""The largest budget that is fitted in the section `extrapolation`."""


def power_law(budgets: Values) -> Values:
    """Return errors that follow a law."""
    return Truth(0.05, 0.6, 0.5).errors_at(budgets)


def logistic(budgets: Values) -> Values:
    """Return errors whose log odds fall by 0.6 if the budget doubles."""
    errors: Values = expit(1.0 - 0.6 * np.log2(budgets / SMALLEST))
    return errors


def slow_logistic(budgets: Values) -> Values:
    """Return errors whose log odds fall by 0.5 if the budget doubles, and which start higher."""
    errors: Values = expit(1.5 - 0.5 * np.log2(budgets / SMALLEST))
    return errors


def broken_power_law(budgets: Values) -> Values:
    """Return errors of an exponent that falls from 0.6 to 0.3 at the largest fitted budget."""
    errors = 0.7 * (budgets / SMALLEST) ** -0.6
    bend = (1 + (budgets / LARGEST) ** 2) ** (0.3 / 2)
    bent: Values = errors * bend
    return bent


CURVES: dict[str, tuple[Callable[[Values], Values], Design]] = {
    "law, E = 0.05, alpha = 0.5": (power_law, Design()),
    "straight line in log odds, 73 to 20%": (logistic, Design()),
    "straight line in log odds, 82 to 38%": (slow_logistic, Design()),
    "exponent falls from 0.6 to 0.3": (broken_power_law, Design()),
    "82 to 38%, cooldowns of one run (correlation 0.7)": (slow_logistic, Design(correlation=0.7)),
}
"""The section `extrapolation`: true curves, functions from budgets to errors, and designs."""


def extrapolation(quick: bool) -> Iterator[Row]:
    """Yield how often the mean error beyond five fitted budgets is inside the interval."""
    for number, (label, (curve, design)) in enumerate(CURVES.items()):
        shares = Shares()
        random = np.random.default_rng([9, number])
        for study in range(QUICK_STUDIES if quick else STUDIES):
            (fitted,) = fit(draw_wrong([curve(design.budgets)], design, random), design, seed=study)
            shares.add("misfit", (fitted.misfit_p or 1) < MISFIT)
            for factor in FACTORS:
                _add_prediction(shares, fitted, curve, factor)
        row = {"true curve": label, "misfit": shares.percent("misfit")}
        for factor in FACTORS:
            row[f"{factor} x"] = shares.percent(f"holds {factor}")
        for factor in FACTORS:
            row[f"width {factor} x"] = shares.median(f"width {factor}")
        row["E >= 0 only: 2 x"] = shares.percent("bounded 2")
        yield row


def _add_prediction(
    shares: Shares, fitted: FittedLadder, curve: Callable[[Values], Values], factor: int
) -> None:
    """Add whether the interval at `factor` times the largest budget holds the error of a curve.

    Nothing is added if the prediction is refused. The limit of 4 times the largest budget does not
    count as a reason.
    """
    budget = factor * LARGEST
    interval = fitted.mean_interval(budget)
    if refusal_of_prediction(fitted, min(budget, 4 * LARGEST), interval):
        return
    error = float(curve(np.array([budget]))[0])
    shares.add(f"holds {factor}", interval.low <= error <= interval.high)
    shares.add(f"width {factor}", (interval.high - interval.low) / error)
    bounded = fitted._replace(steeper=None).mean_interval(budget)
    shares.add(f"bounded {factor}", bounded.low <= error <= bounded.high)


def print_ladder(folder: Path) -> None:
    """Print the laws of stored results, with the largest budget of each method held out."""
    from cosmos_eval import scaling
    from cosmos_eval.results.laws import budget_records

    report = scaling(folder, hold_out="largest")
    rows = []
    for laws in report.laws:
        for record in budget_records(laws):
            rows.append({"dataset": laws.dataset, "metric": laws.metric} | record)
    print("\n".join(report.headlines), end="\n\n")
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows], n_text_columns=3))


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "coverage": coverage,
    "crossing": crossing,
    "extrapolation": extrapolation,
}


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", nargs="*", choices=[[], *SECTIONS])
    parser.add_argument("--quick", action="store_true", help="few studies")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--ladder", type=Path, help="a folder of results of trainings")
    arguments = parser.parse_args()
    if arguments.ladder is not None:
        print_ladder(arguments.ladder)
        return
    names = arguments.section or list(SECTIONS)
    if arguments.json:
        json.dump({name: list(SECTIONS[name](arguments.quick)) for name in names}, sys.stdout)
        return
    for name in names:
        rows = []
        for row in SECTIONS[name](arguments.quick):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
        cells = (row.values() for row in rows)
        print(f"{name}\n\n{markdown_table(rows[0], cells, n_text_columns=1)}", flush=True)


if __name__ == "__main__":
    main()
