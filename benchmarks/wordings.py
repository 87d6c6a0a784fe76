"""`python benchmarks/wordings.py`: coverage of intervals over images, wordings and seeds.

Every row simulates studies whose truth is known. A study has S trainings of different seeds, 500
images and W wordings. A training is right about an image with a wording if a latent sum exceeds 0.
The sum has a level, effects of the image, the wording and the seed, two interactions and a
residual. All effects are normal. The truth is an integral over the normal distributions. The table
has in percent how often 95% intervals contain it, and the mean of each variance component divided
by its truth.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import ndtr

from cosmos_eval.stats.wordings import WordedValues, components, mean_over_wordings
from cosmos_eval.types import Interval

Values = NDArray[np.float64]

IMAGES = 500
LEVEL = 0.84  # of the latent sum: about 70% of the images are right
WORDINGS = (3, 5, 10, 20)
SEEDS = (1, 3, 5)
RATIOS = {"none": 0.0, "some": 0.1, "dominating": 0.5}  # standard deviation of wordings
_STUDIES, _QUICK_STUDIES = 1000, 40
# In a population in which few wordings break a model: their share, and their effect.
_BROKEN_SHARE, _BROKEN_SHIFT = 0.05, -2.5
# An integral over a standard normal distribution is the weighted sum of the values at the nodes.
_NODES, _WEIGHTS = hermegauss(80)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


Row = dict[str, object]
"""The cells of a table by the title of their column."""


class Effects(NamedTuple):
    """The standard deviations of the effects on the latent sum of one model."""

    image: float
    wording: float
    seed: float
    image_wording: float = 0.5
    image_seed: float = 0.5
    residual: float = 0.5

    def variance_without(self, *names: str) -> float:
        """Return the sum of the variances of all effects but the named ones."""
        return sum(sd**2 for name, sd in self._asdict().items() if name not in names)


def share_variance(effects: Effects, *names: str) -> float:
    """Return the variance over the named effects of the expected share of right images."""
    sd = math.sqrt(sum(getattr(effects, name) ** 2 for name in names))
    shares = ndtr((LEVEL + sd * _NODES) / math.sqrt(effects.variance_without(*names)))
    mean = float(_WEIGHTS @ shares)
    return float(_WEIGHTS @ np.square(shares - mean))


def simulate(
    rng: np.random.Generator,
    effects: Effects,
    shared: tuple[Values, Values],
    n_seeds: int,
    level: float = LEVEL,
) -> WordedValues:
    """Return the shares of right images of S trainings with W wordings.

    Args:
        rng: The random generator.
        effects: The standard deviations of the effects.
        shared: The effects of the images (C,) and of the wordings (W,), which two models share.
        n_seeds: The number of trainings.
        level: The level of the latent sum.
    """
    images, wordings = shared
    n_images, n_wordings = len(images), len(wordings)
    latent = level + images + wordings[:, None]  # (W, C)
    latent = latent + effects.image_wording * rng.standard_normal((n_wordings, n_images))
    seeds = effects.seed * rng.standard_normal((n_seeds, 1, 1))
    seeds = seeds + effects.image_seed * rng.standard_normal((n_seeds, 1, n_images))
    residuals = effects.residual * rng.standard_normal((n_seeds, n_wordings, n_images))
    hits = (latent + seeds + residuals > 0).astype(np.float64)  # (S, W, C)
    # The jackknife of a mean: (x - mean) / (n - 1), scaled by the square root of (n - 1) / n.
    values = hits.mean(axis=2)
    deviations = -(hits - values[..., None]) / math.sqrt(n_images * (n_images - 1))
    return WordedValues(values, deviations)


def true_components(effects: Effects, n_seeds: int) -> dict[str, float]:
    """Return the true variance components by factor, of means over IMAGES images.

    A single training does not tell its interactions with images from effects of the images.
    """
    image_effects = effects
    if n_seeds == 1:
        pooled_sd = math.hypot(effects.image, effects.image_seed)
        image_effects = effects._replace(image=pooled_sd, image_seed=0.0)
    return {
        "images": share_variance(image_effects, "image") / IMAGES,
        "wording": share_variance(effects, "wording"),
        "seeds": share_variance(effects, "seed"),
    }


def simulate_pair(
    rng: np.random.Generator, effects: Effects, n_wordings: int, n_seeds: int
) -> tuple[WordedValues, WordedValues]:
    """Return two equally good models, with half of the effects of images and wordings shared."""
    images_a = effects.image * rng.standard_normal(IMAGES)
    images_b = (images_a + effects.image * rng.standard_normal(IMAGES)) / math.sqrt(2)
    wordings_a = effects.wording * rng.standard_normal(n_wordings)
    wordings_b = (wordings_a + effects.wording * rng.standard_normal(n_wordings)) / math.sqrt(2)
    a = simulate(rng, effects, (images_a, wordings_a), n_seeds)
    b = simulate(rng, effects, (images_b, wordings_b), n_seeds)
    return a, b


def coverage_row(name: str, n_wordings: int, n_seeds: int, n_studies: int) -> Row:
    """Return the row of one cell: a number of wordings and seeds, and the size of their effects."""
    rng = np.random.default_rng([list(RATIOS).index(name), n_wordings, n_seeds])
    # One training has no seeds to compare: its interval speaks of this training.
    effects = Effects(image=1.0, wording=RATIOS[name], seed=0.2 if n_seeds > 1 else 0.0)
    truth = float(ndtr(LEVEL / math.sqrt(effects.variance_without())))
    true_variances = true_components(effects, n_seeds)

    totals = Totals(Counter(), dict.fromkeys(true_variances, 0.0))
    for _ in range(n_studies):
        a, b = simulate_pair(rng, effects, n_wordings, n_seeds)
        add_study(totals, a, b, truth, true_variances)

    row: Row = {"wording effect": name, "W": n_wordings, "S": n_seeds}
    for column in ("interval", "difference", "images only"):
        row[column] = f"{100 * totals.n_held[column] / n_studies:.1f}"
    for factor, variance in true_variances.items():
        is_estimated = factor != "seeds" or n_seeds > 1
        row[factor] = f"{100 * totals.n_held[factor] / n_studies:.1f}" if is_estimated else ""
        row[f"{factor} / truth"] = ""
        if is_estimated and variance > 1e-12:
            mean_variance = totals.variances[factor] / n_studies
            row[f"{factor} / truth"] = f"{mean_variance / variance:.2f}"
    return row


class Totals(NamedTuple):
    """Sums over the studies of one cell."""

    # How many intervals contain the truth, by column of the table.
    n_held: Counter[str]
    # The sums of the estimated variance components, by factor.
    variances: dict[str, float]


def add_study(
    totals: Totals,
    a: WordedValues,
    b: WordedValues,
    truth: float,
    true_variances: Mapping[str, float],
) -> None:
    """Add a study of two equally good models, with this true value and true variances by factor."""
    mean = mean_over_wordings(a)
    half = 1.96 * math.sqrt(mean.images_only.variance)
    totals.n_held["interval"] += contains(mean.interval(), truth)
    totals.n_held["images only"] += abs(mean.mean - truth) <= half
    totals.n_held["difference"] += contains(mean_over_wordings(a, b).interval(), 0.0)
    for factor, component in components(a)._asdict().items():
        if component is not None:
            is_held = component.low <= true_variances[factor] <= component.high
            totals.n_held[factor] += is_held
            totals.variances[factor] += component.variance


def contains(interval: Interval, truth: float) -> bool:
    """Return whether an interval contains the truth."""
    return interval.low <= truth <= interval.high


def broken_row(n_wordings: int, n_studies: int) -> Row:
    """Return a row of a population in which one of 20 wordings breaks the model.

    Its mean over wordings is then far from normal.
    """
    rng = np.random.default_rng(n_wordings)
    effects = Effects(image=1.0, wording=0.1, seed=0.0)
    total_sd = math.sqrt(effects.variance_without())
    usual = float(ndtr(LEVEL / total_sd))
    broken = float(ndtr((LEVEL + _BROKEN_SHIFT) / total_sd))
    truth = (1 - _BROKEN_SHARE) * usual + _BROKEN_SHARE * broken
    n_held, n_without = 0, 0
    for _ in range(n_studies):
        is_broken = rng.random(n_wordings) < _BROKEN_SHARE
        wordings = 0.1 * rng.standard_normal(n_wordings) + _BROKEN_SHIFT * is_broken
        a = simulate(rng, effects, (rng.standard_normal(IMAGES), wordings), n_seeds=1)
        n_held += contains(mean_over_wordings(a).interval(), truth)
        n_without += not is_broken.any()
    return {
        "W": n_wordings,
        "interval": f"{100 * n_held / n_studies:.1f}",
        "studies without a broken wording": f"{100 * n_without / n_studies:.1f}",
    }


def coverage(n_studies: int) -> Iterator[Row]:
    """Yield the rows of all sizes of effects, numbers of wordings and numbers of seeds."""
    for name in RATIOS:
        for n_wordings in WORDINGS:
            for n_seeds in SEEDS:
                yield coverage_row(name, n_wordings, n_seeds, n_studies)


def print_table(rows: list[Row]) -> None:
    """Print rows as a Markdown table."""
    print(f"| {' | '.join(rows[0])} |")
    print(f"|{' --- |' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |", flush=True)
    print()


def main() -> None:
    """Print the tables of all cells, and of a population with a few broken wordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer studies")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    n_studies = _QUICK_STUDIES if arguments.quick else _STUDIES
    tables = {
        "coverage": list(coverage(n_studies)),
        "broken": [broken_row(n_wordings, n_studies) for n_wordings in WORDINGS],
    }
    if arguments.json:
        print(json.dumps(tables))
        return
    for rows in tables.values():
        print_table(rows)


if __name__ == "__main__":
    main()
