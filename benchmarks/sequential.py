"""`python benchmarks/sequential.py [SECTION ...] [--quick] [--json]`: does stopping early hold?

Replays of comparisons of two models that stop when the answer is known. The truth is known, too:
how often they are wrong, and how many images they need. One Markdown table per section; all
sections without a name. `--quick` has fewer replays and ends within 60 seconds.

Shapes: R replays, L looks, V distinct differences, K data sets.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, ndtr, ndtri

from cosmos_eval.results.text import markdown_table
from cosmos_eval.stats.control_variates import Adjustment, ControlMeans, control_means
from cosmos_eval.stats.estimates import FunctionOfSums, Values
from cosmos_eval.stats.jackknife import sums_without_each
from cosmos_eval.stats.paired import differences
from cosmos_eval.stats.precision import mean_average_precision
from cosmos_eval.stats.segmentation import Areas, mean_iou
from cosmos_eval.stats.sequential import (
    AsymptoticSequence,
    BoundedSequence,
    correct_over_sets,
    decide,
    log_gains,
    log_mixture,
)

Row = dict[str, str]
"""The cells of a table by the title of their column."""

ALPHA = 0.05
SIGNS = np.array([-1.0, 0.0, 1.0])
RESULTS = Path(__file__).parents[1] / "results"
STARTS = (20, 100, 200, 500, 1000, 2000)
_CHUNK = 100  # replays that are computed at once


def main() -> None:
    """Replay and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("section", nargs="*", help=f"any of: {', '.join(SECTIONS)}")
    arguments.add_argument("--json", action="store_true", help="print a JSON object")
    arguments.add_argument("--quick", action="store_true", help="end within 60 seconds")
    options = arguments.parse_args()
    unknown = [name for name in options.section if name not in SECTIONS]
    if unknown:
        arguments.error(f"no section {', '.join(unknown)}: name any of {', '.join(SECTIONS)}")
    names = options.section or list(SECTIONS)
    if options.json:
        tables = {name: list(SECTIONS[name](options.quick)) for name in names}
        print(json.dumps(tables, indent=2))
        return
    for name in names:
        rows = list(SECTIONS[name](options.quick))
        cells = (row.values() for row in rows)
        print(f"{name}\n\n{markdown_table(rows[0], cells, n_text_columns=1)}", flush=True)


def percent(share: float) -> str:
    """Return a share in percent, such as "5.0" for 0.05."""
    return f"{100 * share:.1f}"


class Answers(NamedTuple):
    """The answers of R replays: at which look, and which."""

    # (R,): the index of the look, and the number of looks if there is no answer.
    look: NDArray[np.int64]
    # (R,): "A better", "B better", "same" or "undecided".
    decision: NDArray[np.str_]

    def share(self, decision: str) -> float:
        """Return the share of replays with this answer."""
        return float((self.decision == decision).mean())


def first_look(log_e: Values, alpha: float) -> NDArray[np.int64]:
    """Return the first look (R,) whose log e-value (R, L) rejects, or L."""
    rejects = log_e >= -np.log(alpha)
    return np.where(rejects.any(1), rejects.argmax(1), rejects.shape[1])


def log_e_values(counts: Values, values: Values, mean: float, low: float) -> Values:
    """Return log e-values (R, L) against "the mean is at most `mean`" from counts (R, L, V)."""
    return log_mixture(counts @ log_gains(values, mean, low))


def answers_of_counts(
    counts: Values, values: Values, low: float, high: float, margin: float | None = None
) -> Answers:
    """Return the answers of `decide` from the counts (R, L, V) of values (V,) after each look."""
    n_looks = counts.shape[1]
    above = first_look(log_e_values(counts, values, 0.0, low), ALPHA / 2)
    below = first_look(log_e_values(counts, -values, 0.0, -high), ALPHA / 2)
    same = np.full(len(counts), n_looks)
    if margin is not None:
        same = np.maximum(
            first_look(log_e_values(counts, values, -margin, low), ALPHA / 2),
            first_look(log_e_values(counts, -values, -margin, -high), ALPHA / 2),
        )
    look = np.minimum(np.minimum(above, below), same)
    names = np.array(["A better", "B better", "same"])
    decision = names[np.stack([above, below, same]).argmin(0)]
    return Answers(look, np.where(look == n_looks, "undecided", decision))


def replay(
    shares: Values,
    values: Values,
    shard: int,
    n_looks: int,
    replays: int,
    margin: float | None = None,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> tuple[Answers, Values]:
    """Return the answers of replays, and the counts (R, V) of all samples.

    Args:
        shares: (V,), the probability of each value.
        values: (V,), the differences that occur.
        shard: The number of samples between two looks.
        n_looks: The number of looks.
        replays: The number of replays.
        margin: The margin of "same".
        bounds: The bounds of the differences.
    """
    looks, decisions, totals = [], [], []
    for begin in range(0, replays, _CHUNK):
        rng = np.random.default_rng(begin)
        size = (min(_CHUNK, replays - begin), n_looks)
        counts = rng.multinomial(shard, shares, size).cumsum(1).astype(np.float64)
        answers = answers_of_counts(counts, values, *bounds, margin)
        looks.append(answers.look)
        decisions.append(answers.decision)
        totals.append(counts[:, -1])
    answers = Answers(np.concatenate(looks), np.concatenate(decisions))
    return answers, np.concatenate(totals)


def shares_of_signs(difference: float, discordance: float) -> Values:
    """Return the probabilities (3,) of -1, 0 and 1."""
    return np.array([discordance - difference, 2 - 2 * discordance, discordance + difference]) / 2


def mcnemar_rejects(only_a: Values, only_b: Values) -> NDArray[np.bool_]:
    """Return whether McNemar's exact test finds a difference at 5%."""
    fewer, changed = np.minimum(only_a, only_b), only_a + only_b
    return 2 * bdtr(fewer, changed.astype(np.int64), 0.5) <= ALPHA


def errors(quick: bool) -> Iterator[Row]:
    """Wrong answers of equal models with a look every 32 images, and of the fixed-n test."""
    replays, n_looks = (200, 200) if quick else (2000, 1563)
    for discordance in (0.02, 0.1, 0.3):
        rejects = []
        for begin in range(0, replays, _CHUNK):
            rng = np.random.default_rng(begin)
            size = (_CHUNK, n_looks)
            counts = rng.multinomial(32, shares_of_signs(0, discordance), size).cumsum(1)
            rejects.append(mcnemar_rejects(counts[..., 2], counts[..., 0]))
        fixed = np.concatenate(rejects)
        equal, _ = replay(shares_of_signs(0, discordance), SIGNS, 32, n_looks, replays)
        yield {
            "models": f"equal, differ on {percent(discordance)}% of the images",
            "looks": str(n_looks),
            "wrong, sequence": percent(1 - equal.share("undecided")),
            "wrong, McNemar at every look": percent(fixed.any(1).mean()),
            "wrong, McNemar once": percent(fixed[:, -1].mean()),
        }
    margin = 0.01
    shares = shares_of_signs(margin, 0.1)
    answers, _ = replay(shares, SIGNS, 32, n_looks, replays, margin)
    yield {
        "models": "1 point apart, margin 1 point, differ on 10.0%",
        "looks": str(n_looks),
        "wrong, sequence": percent(answers.share("same") + answers.share("B better")),
        "wrong, McNemar at every look": "",
        "wrong, McNemar once": "",
    }


def decisions(quick: bool) -> Iterator[Row]:
    """Images until the answer, by true difference and number of images."""
    replays = 100 if quick else 2000
    for n, shard in ((500, 25), (5000, 50), (50_000, 250)):
        for points in (1, 2, 5, 10):
            discordance = max(0.1, 0.015 * points)
            shares = shares_of_signs(points / 100, discordance)
            answers, totals = replay(shares, SIGNS, shard, n // shard, replays)
            power = mcnemar_rejects(totals[:, 2], totals[:, 0]) & (totals[:, 2] > totals[:, 0])
            yield decision_row(f"{points}", n, shard, answers, "A better", percent(power.mean()))
        for margin in (1, 2, 5):
            shares = shares_of_signs(0, 0.1)
            answers, totals = replay(shares, SIGNS, shard, n // shard, replays, margin / 100)
            power = equivalent(totals, margin / 100)
            label = f"0, margin {margin}"
            yield decision_row(label, n, shard, answers, "same", percent(power.mean()))


def equivalent(totals: Values, margin: float) -> NDArray[np.bool_]:
    """Return whether the 95% interval of the difference is within the margin, by totals (R, 3)."""
    n = totals.sum(1)
    mean = (totals[:, 2] - totals[:, 0]) / n
    error = np.sqrt(((totals[:, 2] + totals[:, 0]) / n - mean**2) / n)
    return np.abs(mean) + ndtri(1 - ALPHA / 2) * error < margin


def decision_row(label: str, n: int, shard: int, answers: Answers, truth: str, power: str) -> Row:
    """Return how often the answer was right and wrong, and after which share of n images."""
    wrong = (answers.decision != truth) & (answers.decision != "undecided")
    median = float(np.median((answers.look + 1) * shard)) / n
    return {
        "difference": label,
        "images": f"{n:,}",
        "right": percent(answers.share(truth)),
        "wrong": percent(wrong.mean()),
        "median share of images": "all" if median > 1 else percent(median),
        "fixed-n test: right": power,
    }


class StoredPair(NamedTuple):
    """The differences of two stored models on the same images."""

    label: str
    # (N,): a difference within [-1, 1] for each image.
    values: Values


def stored_pairs() -> Iterator[StoredPair]:
    """Yield pairs of the stored models of scenes: hits, recalls, and means of items by image."""
    models = ("scenes-cosmos", "scenes-clip", "scenes-clip-long")
    pairs = (("scenes-cosmos", "scenes-clip"), ("scenes-cosmos", "scenes-clip-long"), models[1:])
    for a, b in pairs:
        for dataset, metric, score in SCORES:
            scores_a, scores_b = score(samples(a, dataset)), score(samples(b, dataset))
            yield StoredPair(f"{a} - {b}, {dataset} {metric}", scores_a - scores_b)


def samples(model: str, dataset: str) -> dict[str, NDArray]:
    """Return the stored arrays of a model on a data set under its main protocol."""
    protocol = "localisation" if dataset.startswith("scenes-loc") else "scenes"
    (path,) = RESULTS.glob(f"{model}__{dataset}__{protocol}.*.npz")
    with np.load(path) as archive:
        return dict(archive)


def hits_of_classes(arrays: dict[str, NDArray]) -> Values:
    """Return whether each image's first class is right."""
    return (arrays["top5"][:, 0] == arrays["labels"]).astype(np.float64)


def hits_of_captions(arrays: dict[str, NDArray]) -> Values:
    """Return whether each image's first caption is right."""
    return (arrays["image_to_text_rank"] == 1).astype(np.float64)


def mean_choices(arrays: dict[str, NDArray]) -> Values:
    """Return the share of each image's items that are right."""
    _, cluster = np.unique(arrays["cluster"], return_inverse=True)
    return np.bincount(cluster, arrays["correct"]) / np.bincount(cluster)


def mean_masses(arrays: dict[str, NDArray]) -> Values:
    """Return the mean attention mass of each image's things, a real value."""
    return np.bincount(arrays["image"], arrays["mass"]) / np.bincount(arrays["image"])


SCORES: tuple[tuple[str, str, Callable[[dict[str, NDArray]], Values]], ...] = (
    ("scenes-cls", "acc1", hits_of_classes),
    ("scenes-retrieval-small", "R@1", hits_of_captions),
    ("scenes-select", "accuracy by image", mean_choices),
    ("scenes-loc", "mass by image", mean_masses),
)


def stored(quick: bool) -> Iterator[Row]:
    """Stored pairs, 5,000 images drawn with replacement, as they are and centred to 0."""
    replays = 100 if quick else 2000
    shard, n_looks = 50, 100
    for pair in stored_pairs():
        values, counts = np.unique(pair.values, return_counts=True)
        shares = counts / counts.sum()
        truth = float(values @ shares)
        answers, totals = replay(shares, values, shard, n_looks, replays)
        moved = values - truth
        bounds = (-1 - truth, 1 - truth)
        centred, _ = replay(shares, moved, shard, n_looks, replays, bounds=bounds)
        right = "A better" if truth > 0 else "B better"
        median = float(np.median((answers.look + 1) * shard))
        yield {
            "pair": pair.label,
            "difference": f"{100 * truth:+.1f}",
            "right": percent(answers.share(right)),
            "wrong": percent(answers.share("B better" if truth > 0 else "A better")),
            "median images": "-" if median > shard * n_looks else f"{median:,.0f}",
            "fixed-n test: right": percent(z_rejects(totals, values, np.sign(truth)).mean()),
            "centred to 0: wrong": percent(1 - centred.share("undecided")),
        }


def z_rejects(totals: Values, values: Values, sign: float) -> NDArray[np.bool_]:
    """Return whether the 95% interval of a mean by counts (R, V) has 0 below sign * the mean."""
    n = totals.sum(1)
    mean = totals @ values / n
    error = np.sqrt((totals @ values**2 / n - mean**2) / n)
    return sign * mean > ndtri(1 - ALPHA / 2) * error


def sets(quick: bool) -> Iterator[Row]:
    """Any wrong answer of several data sets: corrected and not."""
    replays = 100 if quick else 2000
    for label, points, is_one_set in (
        ("5 sets, all differences 0", (0, 0, 0, 0, 0), False),
        ("5 sets, differences 0, 0, 0, 4, 4", (0, 0, 0, 4, 4), False),
        ("5 times the same set, difference 0", (0, 0, 0, 0, 0), True),
        ("20 sets, all differences 0", (0,) * 20, False),
    ):
        corrected, uncorrected, found, single = [], [], [], []
        for seed in range(replays):
            log_e = final_log_e_values(seed, np.array(points) / 100, is_one_set)
            sequences = {str(k): Evidence(*both) for k, both in enumerate(log_e)}
            answers = correct_over_sets(sequences, ALPHA)
            chosen = np.array([answers[str(k)].decision for k in range(len(points))])
            alone = np.array([decide(sequence, ALPHA) for sequence in sequences.values()])
            is_equal = np.array(points) == 0
            corrected.append(is_wrong(chosen, is_equal))
            uncorrected.append(is_wrong(alone, is_equal))
            found.append((chosen[~is_equal] == "A better").mean() if any(points) else np.nan)
            single.append((alone[~is_equal] == "A better").mean() if any(points) else np.nan)
        yield {
            "sets of 5,000 images": label,
            "any wrong, corrected": percent(float(np.mean(corrected))),
            "any wrong, not corrected": percent(float(np.mean(uncorrected))),
            "found, corrected": percent(float(np.mean(found))) if any(points) else "",
            "found, not corrected": percent(float(np.mean(single))) if any(points) else "",
        }


class Evidence(NamedTuple):
    """The greatest log e-values of a replay against a difference of at most, and at least, 0."""

    above: float
    below: float

    def log_e_above(self, mean: float) -> float:
        """Return the log e-value against a difference of at most 0."""
        return max(0.0, self.above)

    def log_e_below(self, mean: float) -> float:
        """Return the log e-value against a difference of at least 0."""
        return max(0.0, self.below)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Raise, since a replay has no interval."""
        raise NotImplementedError


def final_log_e_values(seed: int, differences: Values, is_one_set: bool) -> Values:
    """Return the greatest log e-values (K, 2) of K sets with a look every 50 of 5,000 images."""
    rng = np.random.default_rng(seed)
    counts = [rng.multinomial(50, shares_of_signs(d, 0.1), 100) for d in differences]
    if is_one_set:
        counts = [counts[0]] * len(differences)
    sums = np.array(counts).cumsum(1).astype(np.float64)
    above = log_e_values(sums, SIGNS, 0.0, -1.0).max(1)
    below = log_e_values(sums, -SIGNS, 0.0, -1.0).max(1)
    return np.stack([above, below], axis=1)


def is_wrong(decisions: NDArray[np.str_], is_equal: NDArray[np.bool_]) -> bool:
    """Return whether any answer is wrong: any for equal models, "B better" for others."""
    wrong = np.where(is_equal, decisions != "undecided", decisions == "B better")
    return bool(wrong.any())


def controls(quick: bool) -> Iterator[Row]:
    """Images until the answer with and without control variates."""
    replays = 10 if quick else 200
    for label, ability, n_controls, n in (
        ("1.6, the baseline", 0.06, 1, 20_000),
        ("1.6, the baseline and 2 models", 0.06, 3, 20_000),
        ("4.0, the baseline and 2 models", 0.15, 3, 20_000),
        ("4.0, the baseline and 2 models", 0.15, 3, 200_000),
        ("0, the baseline and 2 models", 0.0, 3, 20_000),
    ):
        runs = [_controlled(seed, ability, n_controls, n) for seed in range(replays)]
        ratios, plain, exact, own_set = (np.array(column) for column in zip(*runs, strict=True))
        yield {
            "difference, controls": label,
            "images": f"{n:,}",
            "variance ratio": f"{np.mean(ratios):.2f}",
            "median images: no controls": _median_images(plain),
            "means known": _median_images(exact),
            "means of these images": _median_images(own_set),
            "decided: no controls": percent(np.isfinite(plain).mean()),
            "decided: means known": percent(np.isfinite(exact).mean()),
            "decided: means of these images": percent(np.isfinite(own_set).mean()),
        }


def _median_images(images: Values) -> str:
    median = float(np.median(images))
    return f"{median:,.0f}" if np.isfinite(median) else "-"


def _controlled(
    seed: int, ability: float, n_controls: int, n: int, shard: int = 100
) -> tuple[float, float, float, float]:
    """Return the variance ratio, and the images until the answer of three kinds of comparisons.

    They are without controls, with controls of exactly known means, and with means by these images.
    An image has a difficulty that all models share, with a correlation of 0.9. The baseline and the
    new model share more, 0.95.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)

    def hits(mean: float, correlation: float) -> Values:
        noise = rng.normal(size=n)
        skill = mean + correlation * difficulty + np.sqrt(1 - correlation**2) * noise
        return (skill > 0).astype(np.float64)

    skills = ((0.5, 0.95), (0.3, 0.9), (0.6, 0.9))[:n_controls]
    stored_hits = np.column_stack([hits(*skill) for skill in skills])
    changes = hits(0.5 + ability, 0.95) - stored_hits[:, 0]
    true_means = np.array([ndtr(mean) for mean, _ in skills])
    exact = Adjustment(ControlMeans(true_means, np.zeros(n_controls)))
    own_set = Adjustment(control_means(stored_hits, ALPHA / 10))
    images = (
        _images_until_answer(changes, stored_hits, None, ALPHA, shard),
        _images_until_answer(changes, stored_hits, exact, ALPHA, shard),
        _images_until_answer(changes, stored_hits, own_set, 0.9 * ALPHA, shard),
    )
    return exact.variance_ratio(), *images


def _images_until_answer(
    changes: Values, controls: Values, adjustment: Adjustment | None, alpha: float, shard: int
) -> float:
    """Return the number of images at the first answer, or infinity."""
    reach = 0.0 if adjustment is None else adjustment.reach
    sequence = BoundedSequence(-1 - reach, 1 + reach)
    for begin in range(0, len(changes), shard):
        chunk = slice(begin, begin + shard)
        if adjustment is None:
            sequence.update(changes[chunk])
        else:
            sequence.update(*adjustment.adjust(changes[chunk], controls[chunk]))
        if decide(sequence, alpha) != "undecided":
            return begin + shard
    return np.inf


class Looks(NamedTuple):
    """The looks of R replays of a comparison of equal models."""

    # (L,): the number of samples.
    n: Values
    # (R, L): difference / standard error, 0 where there is none.
    z: Values


class Simulation(NamedTuple):
    """A metric of two equally good models."""

    label: str
    # The function that takes a seed, the looks (L,) and `arguments`, and returns z (L,).
    simulate: Callable[..., Values]
    arguments: tuple[float, ...]


def simulations() -> list[Simulation]:
    """Return the metrics of the section `asymptotic`."""
    return [
        Simulation("accuracy, models differ on 10% of the images", z_of_signs, (0.1,)),
        Simulation("accuracy, models differ on 1% of the images", z_of_signs, (0.01,)),
        Simulation("ratio of sums, log-normal sizes", z_of_ratio, ()),
        Simulation("recall of 10 classes, the rarest 5%", z_of_recall, (10, 0.05)),
        Simulation("recall of 10 classes, the rarest 2%", z_of_recall, (10, 0.02)),
        Simulation("recall of 10 classes, the rarest 1%", z_of_recall, (10, 0.01)),
        Simulation("recall of 10 classes, the rarest 0.5%", z_of_recall, (10, 0.005)),
        Simulation("recall of 50 classes, the rarest 0.5%", z_of_recall, (50, 0.005)),
        Simulation("mIoU of 10 classes, the rarest 5%", z_of_miou, (10, 0.05)),
        Simulation("mIoU of 10 classes, the rarest 1%", z_of_miou, (10, 0.01)),
        Simulation("mIoU of 20 classes, the rarest 0.5%", z_of_miou, (20, 0.005)),
        Simulation("mAP of 5 classes, the rarest 2%", z_of_map, (0.02,)),
        Simulation("mAP of 5 classes, the rarest 1%", z_of_map, (0.01,)),
    ]


def asymptotic(quick: bool) -> Iterator[Row]:
    """Wrong answers of asymptotic sequences of equal models by the number of samples at the start.

    There is a look every 20 images, up to 6,000 images. mIoU and mAP have fewer looks.
    """
    replays = 10 if quick else 2000
    looks = np.arange(20, 6001, 20)
    is_late = looks >= 500
    for label, simulate, arguments in simulations():
        z = np.array([simulate(seed, looks, *arguments) for seed in range(replays)])
        row = {"metric": label, "replays": f"{replays:,}"}
        for start in STARTS:
            row[f"start {start:,}"] = percent(wrong_share(Looks(looks, z), start))
        is_outside = np.abs(z[:, is_late]) > ndtri(1 - ALPHA / 2)
        row["95% interval at every look from 500"] = percent(is_outside.any(1).mean())
        yield row


def wrong_share(looks: Looks, start: int) -> float:
    """Return the share of replays with "A better" or "B better" at any look after the start."""
    sequence = AsymptoticSequence(start)
    is_late = looks.n >= start
    log_e = sequence.log_e_of(np.abs(looks.z[:, is_late]), looks.n[is_late])
    return float((log_e.max(1) >= -np.log(ALPHA / 2)).mean())


def z_of_signs(seed: int, looks: Values, discordance: float) -> Values:
    """Return z of a mean of signs after each look, (L,)."""
    rng = np.random.default_rng(seed)
    signs = rng.choice(SIGNS, looks[-1], p=shares_of_signs(0, discordance))
    return z_of_sums(np.cumsum(signs)[looks - 1], np.cumsum(signs**2)[looks - 1], looks)


def z_of_sums(sums: Values, squares: Values, n: Values) -> Values:
    """Return mean / standard error from sums and sums of squares, and 0 where nothing varies."""
    variance = (squares / n - (sums / n) ** 2) / n
    return np.divide(sums / n, np.sqrt(variance), out=np.zeros(len(n)), where=variance > 0)


def z_of_ratio(seed: int, looks: Values) -> Values:
    """Return z of a difference of two ratios with the same denominator, by influence values."""
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(0, 1.5, looks[-1])
    quality = rng.beta(4, 2, looks[-1])
    shares_a = np.clip(quality + rng.normal(0, 0.1, looks[-1]), 0, 1)
    shares_b = np.clip(quality + rng.normal(0, 0.1, looks[-1]), 0, 1)
    changes = sizes * (shares_a - shares_b)
    z = []
    for n in looks:
        ratio = changes[:n].sum() / sizes[:n].sum()
        influence = changes[:n] - ratio * sizes[:n]  # divided by the mean size, as is the ratio
        z.append(changes[:n].sum() / np.sqrt(n * influence.var()))
    return np.array(z)


def effects_of_classes(n_classes: int, gap: float) -> Values:
    """Return the difference A - B of each class, (C,): 0 on average, and -gap for the last one."""
    effects = np.full(n_classes, gap / (n_classes - 1))
    effects[-1] = -gap
    return effects


def z_of_recall(seed: int, looks: Values, n_classes: int, rarest: float) -> Values:
    """Return z of the difference of mean recalls per class after each look, as `by_class` does.

    B is 50 points better in the rarest class, and A is a little better in all others, so that their
    means are equal. Models differ on 10% of the images of a class, or as much as they have to.
    """
    rng = np.random.default_rng(seed)
    frequencies = np.full(n_classes, (1 - rarest) / (n_classes - 1))
    frequencies[-1] = rarest
    effects = effects_of_classes(n_classes, 0.5)
    discordance = np.maximum(0.1, np.abs(effects))
    classes = rng.choice(n_classes, looks[-1], p=frequencies)
    uniform = rng.random(looks[-1])
    only_a = uniform < ((discordance + effects) / 2)[classes]
    only_b = uniform > 1 - ((discordance - effects) / 2)[classes]
    is_of_class = classes[:, None] == np.arange(n_classes)
    sizes, gained, lost = (
        (is_of_class * column[:, None]).cumsum(0)[looks - 1]  # (L, C)
        for column in (np.ones(looks[-1]), only_a, only_b)
    )
    n_seen = (sizes > 0).sum(1)
    weights = np.divide(1, n_seen[:, None] * sizes, out=np.zeros(sizes.shape), where=sizes > 0)
    net = gained - lost
    difference = (weights * net).sum(1)
    squares = gained + lost - 2 * difference[:, None] * net + sizes * difference[:, None] ** 2
    variance = (weights**2 * squares).sum(1) + (weights**2 * sizes).sum(1) / looks
    return difference / np.sqrt(variance)


def z_of_miou(seed: int, looks: Values, n_classes: int, rarest: float) -> Values:
    """Return z of the difference of mIoU after each look by the paired jackknife.

    From the twentieth look on, it is computed after every tenth one, and 0 at the others. The first
    class is in half of the images, and the last one in a share of `rarest`. A finds 40% less of the
    pixels of the rarest class than B, and a little more of all others.
    """
    rng = np.random.default_rng(seed)
    ranks = np.arange(1, n_classes + 1)
    presence = 0.5 * ranks ** (np.log(rarest / 0.5) / np.log(n_classes))
    shape = (int(looks[-1]), n_classes)
    effects = effects_of_classes(n_classes, 0.4)
    labelled = rng.exponential(1000, shape) * (rng.random(shape) < presence)
    wrong = rng.exponential(300, shape) * (rng.random(shape) < presence)
    quality = 0.4 + 0.2 * rng.beta(4, 2, (shape[0], 1))
    models = []
    for sign in (1, -1):
        shares = quality + sign * effects / 2 + rng.uniform(-0.1, 0.1, shape)
        intersection = labelled * shares
        models.append(Areas(intersection, labelled, intersection + wrong))
    z = np.zeros(len(looks))
    for index in (*range(19), *range(19, len(looks), 10)):
        n = int(looks[index])
        a, b = (FunctionOfSums(Areas(*(term[:n] for term in m)), mean_iou) for m in models)
        changes = sums_without_each(a) - sums_without_each(b)
        changes = changes[~np.isnan(changes)]
        error = np.sqrt((len(changes) - 1) * changes.var())
        z[index] = (a.value - b.value) / error if error > 0 else 0.0
    return z


def z_of_map(seed: int, looks: Values, rarest: float) -> Values:
    """Return z of the difference of mAP by the paired bootstrap at some looks up to 4,000, else 0.

    The looks are every 100 images up to 1,000, and every 500 from there on. Four classes are in 20%
    of the images, and the last one in a share of `rarest`. Scores are normal, and higher for images
    of the class. B ranks the rarest class much better, and A all others a little better.
    """
    rng = np.random.default_rng(seed)
    shares = np.array([0.2, 0.2, 0.2, 0.2, rarest])
    labels = rng.random((4000, 5)) < shares
    common = brentq(lambda shift: mean_gap(shift, rarest), 1, 5)
    noise = rng.normal(size=(4000, 5))
    scores = []
    for shifts in ((common, common, common, common, 0.5), (1.5, 1.5, 1.5, 1.5, 2.5)):
        own_noise = rng.normal(size=noise.shape)
        scores.append(labels * np.array(shifts) + np.sqrt(0.7) * noise + np.sqrt(0.3) * own_noise)
    z = np.zeros(len(looks))
    for n in (*range(100, 1000, 100), *range(1000, 4001, 500)):
        models = [{"mAP": mean_average_precision(model[:n], labels[:n])} for model in scores]
        paired = differences(models, resamples=100)(0, 1).get("mAP")
        if paired is not None and paired.error > 0:
            z[np.searchsorted(looks, n)] = paired.difference / paired.error
    return z


def mean_gap(shift: float, rarest: float) -> float:
    """Return mAP of A minus mAP of B on the population, if A's common classes have this shift."""
    gap_of_common = population_precision(shift, 0.2) - population_precision(1.5, 0.2)
    gap_of_rarest = population_precision(0.5, rarest) - population_precision(2.5, rarest)
    return 4 * gap_of_common + gap_of_rarest


def population_precision(shift: float, share: float) -> float:
    """Return the average precision of normal scores, which are `shift` higher for the class."""
    recall = (np.arange(2000) + 0.5) / 2000
    wrong = ndtr(ndtri(recall) - shift)  # the share of other images that are retrieved
    return float((share * recall / (share * recall + (1 - share) * wrong)).mean())


def order(quick: bool) -> Iterator[Row]:
    """Equal models on images in random order and sorted by class: 10 classes of 500 images.

    A is 4 points better in the first five classes, and 4 points worse in the others.
    """
    replays = 40 if quick else 400
    for label in ("random order", "sorted by class"):
        answers = []
        for seed in range(replays):
            rng = np.random.default_rng(seed)
            better = rng.choice(SIGNS, 2500, p=shares_of_signs(0.04, 0.1))
            worse = rng.choice(SIGNS, 2500, p=shares_of_signs(-0.04, 0.1))
            signs = np.concatenate([better, worse])
            if label == "random order":
                rng.shuffle(signs)
            shards = signs.reshape(100, 50)
            counts = np.stack([(shards == sign).sum(1) for sign in SIGNS], axis=1).cumsum(0)
            answers.append(answers_of_counts(counts[None].astype(float), SIGNS, -1, 1))
        wrong = np.mean([a.decision[0] != "undecided" for a in answers])
        yield {"images": label, "wrong": percent(float(wrong))}


def seconds(quick: bool) -> Iterator[Row]:
    """CPU time of one look, and its share of the time of encoding 32 images by ViT-B/32."""
    encoding = _seconds_of_encoding()
    rng = np.random.default_rng(0)
    signs = rng.choice(SIGNS, 50_000, p=shares_of_signs(0, 0.1))
    reals = np.clip(rng.normal(0, 0.2, 50_000), -1, 1)
    counts = {"5,000": 5000} if quick else {"5,000": 5000, "50,000": 50_000}
    for label, n in counts.items():
        for kind, values in (("signs", signs), ("real values", reals)):
            yield _seconds_row(f"{kind}, {label} images", _bounded_look(values[:n]), encoding)
    areas = [
        Areas(*(rng.exponential(1000, (5000, 150)) for _ in range(2)), rng.random((5000, 150)))
        for _ in range(2)
    ]
    models = [{"mIoU": FunctionOfSums(a, mean_iou, jackknife=True)} for a in areas]
    begin = time.process_time()
    sequence = AsymptoticSequence()
    sequence.update(differences(models)(0, 1)["mIoU"])
    decide(sequence, ALPHA, 0.01)
    look = time.process_time() - begin
    yield _seconds_row("mIoU of 150 classes, 5,000 images", look, encoding)


def _bounded_look(values: Values) -> float:
    """Return the mean CPU seconds of an update, an answer and an interval of the last 20 looks."""
    sequence = BoundedSequence(-1, 1)
    sequence.update(values[: -20 * 32])
    decide(sequence, ALPHA, 0.01)
    sequence.interval(ALPHA)
    begin = time.process_time()
    for shard in values[-20 * 32 :].reshape(20, 32):
        sequence.update(shard)
        decide(sequence, ALPHA, 0.01)
        sequence.interval(ALPHA)
    return (time.process_time() - begin) / 20


def _seconds_of_encoding() -> float:
    """Return the CPU seconds of a forward pass of ViT-B/32 over 32 images, the median of 3."""
    import open_clip
    import torch

    model = open_clip.create_model("ViT-B-32").eval()
    images = torch.zeros(32, 3, 224, 224)
    rounds = []
    with torch.inference_mode():
        for _ in range(4):
            begin = time.process_time()
            model.encode_image(images)
            rounds.append(time.process_time() - begin)
    return float(np.median(rounds[1:]))


def _seconds_row(label: str, look: float, encoding: float) -> Row:
    return {
        "look": label,
        "CPU milliseconds": f"{1000 * look:.2f}",
        "of encoding 32 images, %": f"{100 * look / encoding:.2f}",
    }


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "errors": errors,
    "decisions": decisions,
    "stored": stored,
    "sets": sets,
    "controls": controls,
    "asymptotic": asymptotic,
    "order": order,
    "seconds": seconds,
}


if __name__ == "__main__":
    main()
