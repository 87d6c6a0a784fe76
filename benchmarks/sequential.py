"""`python benchmarks/sequential.py [SECTION ...] [--quick] [--json]`: does stopping early hold?

Comparisons of two models that stop when the answer is known are replayed. The truth is known, too:
how often are they wrong, and how many images do they need? There is one Markdown table per section.
Without a section, all are printed. `--quick` has fewer replays and ends within 60 seconds.

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
    """Replay the sections that the command line names, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", nargs="*", help=f"any of: {', '.join(SECTIONS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--quick", action="store_true", help="end within 60 seconds")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.section if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}: name any of {', '.join(SECTIONS)}")
    names = arguments.section or list(SECTIONS)
    if arguments.json:
        tables = {name: list(SECTIONS[name](arguments.quick)) for name in names}
        print(json.dumps(tables, indent=2))
        return
    for name in names:
        rows = list(SECTIONS[name](arguments.quick))
        cells = (row.values() for row in rows)
        print(f"{name}\n\n{markdown_table(rows[0], cells, n_text_columns=1)}", flush=True)


def percent(share: float) -> str:
    """Return a share in percent, such as "5.0" for 0.05."""
    return f"{100 * share:.1f}"


class Answers(NamedTuple):
    """The answers of R replays."""

    # (R,): the index of the look that gave the answer, and the number of looks without an answer.
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
    """Return the answers of `decide` from the counts of differences after each look.

    Args:
        counts: (R, L, V), how often each difference occurred up to the look.
        values: (V,), the differences that occur.
        low: The lower bound of the differences.
        high: The upper bound of the differences.
        margin: The margin of "same"; None if this answer is not sought.
    """
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
    """Yield how often answers about equal models are wrong, with a look every 32 images.

    Beside the sequence is McNemar's test, at every look and at the last one. The models of the last
    row are one point apart, so that "same" is wrong for a margin of one point.
    """
    replays, n_looks = (200, 200) if quick else (2000, 1563)
    for discordance in (0.02, 0.1, 0.3):
        rejects_by_chunk = []
        for begin in range(0, replays, _CHUNK):
            rng = np.random.default_rng(begin)
            size = (_CHUNK, n_looks)
            counts = rng.multinomial(32, shares_of_signs(0, discordance), size).cumsum(1)
            rejects_by_chunk.append(mcnemar_rejects(counts[..., 2], counts[..., 0]))
        rejects = np.concatenate(rejects_by_chunk)  # (R, L)
        answers, _ = replay(shares_of_signs(0, discordance), SIGNS, 32, n_looks, replays)
        yield {
            "models": f"equal, differ on {percent(discordance)}% of the images",
            "looks": str(n_looks),
            "wrong, sequence": percent(1 - answers.share("undecided")),
            "wrong, McNemar at every look": percent(rejects.any(1).mean()),
            "wrong, McNemar once": percent(rejects[:, -1].mean()),
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
    """Yield the number of images until the answer, by true difference and number of images."""
    replays = 100 if quick else 2000
    for n, shard in ((500, 25), (5000, 50), (50_000, 250)):
        for points in (1, 2, 5, 10):
            discordance = max(0.1, 0.015 * points)
            shares = shares_of_signs(points / 100, discordance)
            answers, totals = replay(shares, SIGNS, shard, n // shard, replays)
            only_b, only_a = totals[:, 0], totals[:, 2]
            is_found = mcnemar_rejects(only_a, only_b) & (only_a > only_b)
            power = percent(is_found.mean())
            yield decision_row(f"{points}", n, shard, answers, "A better", power)
        for margin in (1, 2, 5):
            shares = shares_of_signs(0, 0.1)
            answers, totals = replay(shares, SIGNS, shard, n // shard, replays, margin / 100)
            power = percent(is_equivalent(totals, margin / 100).mean())
            yield decision_row(f"0, margin {margin}", n, shard, answers, "same", power)


def is_equivalent(totals: Values, margin: float) -> NDArray[np.bool_]:
    """Return whether the 95% interval of the difference is within the margin, by totals (R, 3)."""
    n = totals.sum(1)
    mean = (totals[:, 2] - totals[:, 0]) / n
    error = np.sqrt(((totals[:, 2] + totals[:, 0]) / n - mean**2) / n)
    return np.abs(mean) + ndtri(1 - ALPHA / 2) * error < margin


def decision_row(label: str, n: int, shard: int, answers: Answers, truth: str, power: str) -> Row:
    """Return how often the answer was right and wrong, and after which share of n images.

    Args:
        label: The true difference.
        n: The number of images of the set.
        shard: The number of images between two looks.
        answers: The answers of the replays.
        truth: The right answer.
        power: How often the test of all images gives the right answer, in percent.
    """
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
        for score in SCORES:
            scores_a = score.of_images(read_arrays(a, score.dataset))
            scores_b = score.of_images(read_arrays(b, score.dataset))
            label = f"{a} - {b}, {score.dataset} {score.metric}"
            yield StoredPair(label, scores_a - scores_b)


def read_arrays(model: str, dataset: str) -> dict[str, NDArray]:
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


class Score(NamedTuple):
    """A score of each image of a data set."""

    dataset: str
    # The name of the score in tables.
    metric: str
    # The function from a result's arrays to the scores (N,).
    of_images: Callable[[dict[str, NDArray]], Values]


SCORES = (
    Score("scenes-cls", "acc1", hits_of_classes),
    Score("scenes-retrieval-small", "R@1", hits_of_captions),
    Score("scenes-select", "accuracy by image", mean_choices),
    Score("scenes-loc", "mass by image", mean_masses),
)


def stored(quick: bool) -> Iterator[Row]:
    """Yield replays of stored pairs of models, whose 5,000 images are drawn with replacement.

    The differences are taken as they are, and again after centring them to a mean of 0.
    """
    replays = 100 if quick else 2000
    shard, n_looks = 50, 100
    for pair in stored_pairs():
        values, counts = np.unique(pair.values, return_counts=True)
        shares = counts / counts.sum()
        truth = float(values @ shares)
        right, wrong = ("A better", "B better") if truth > 0 else ("B better", "A better")
        answers, totals = replay(shares, values, shard, n_looks, replays)
        bounds = (-1 - truth, 1 - truth)
        centred, _ = replay(shares, values - truth, shard, n_looks, replays, bounds=bounds)
        median = float(np.median((answers.look + 1) * shard))
        power = z_rejects(totals, values, np.sign(truth)).mean()
        yield {
            "pair": pair.label,
            "difference": f"{100 * truth:+.1f}",
            "right": percent(answers.share(right)),
            "wrong": percent(answers.share(wrong)),
            "median images": "-" if median > shard * n_looks else f"{median:,.0f}",
            "fixed-n test: right": percent(power),
            "centred to 0: wrong": percent(1 - centred.share("undecided")),
        }


def z_rejects(totals: Values, values: Values, sign: float) -> NDArray[np.bool_]:
    """Return whether the 95% interval of a mean, times a sign, is above 0, by counts (R, V)."""
    n = totals.sum(1)
    mean = totals @ values / n
    error = np.sqrt((totals @ values**2 / n - mean**2) / n)
    return sign * mean > ndtri(1 - ALPHA / 2) * error


def sets(quick: bool) -> Iterator[Row]:
    """Yield how often any answer about several data sets is wrong, corrected and not."""
    replays = 100 if quick else 2000
    for label, points, is_one_set in (
        ("5 sets, all differences 0", (0, 0, 0, 0, 0), False),
        ("5 sets, differences 0, 0, 0, 4, 4", (0, 0, 0, 4, 4), False),
        ("5 times the same set, difference 0", (0, 0, 0, 0, 0), True),
        ("20 sets, all differences 0", (0,) * 20, False),
    ):
        is_equal = np.array(points) == 0
        any_wrong_corrected, any_wrong_single, found_corrected, found_single = [], [], [], []
        for seed in range(replays):
            log_e = final_log_e_values(seed, np.array(points) / 100, is_one_set)
            sequences = {str(k): Evidence(*above_below) for k, above_below in enumerate(log_e)}
            answers = correct_over_sets(sequences, ALPHA)
            corrected = np.array([answers[name].decision for name in sequences])
            single = np.array([decide(sequence, ALPHA) for sequence in sequences.values()])
            any_wrong_corrected.append(is_wrong(corrected, is_equal))
            any_wrong_single.append(is_wrong(single, is_equal))
            found_corrected.extend(corrected[~is_equal] == "A better")
            found_single.extend(single[~is_equal] == "A better")
        yield {
            "sets of 5,000 images": label,
            "any wrong, corrected": percent(float(np.mean(any_wrong_corrected))),
            "any wrong, not corrected": percent(float(np.mean(any_wrong_single))),
            "found, corrected": percent(float(np.mean(found_corrected))) if any(points) else "",
            "found, not corrected": percent(float(np.mean(found_single))) if any(points) else "",
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
    """Yield the number of images until the answer with and without control variates."""
    replays = 10 if quick else 200
    for label, ability, n_controls, n in (
        ("1.6, the baseline", 0.06, 1, 20_000),
        ("1.6, the baseline and 2 models", 0.06, 3, 20_000),
        ("4.0, the baseline and 2 models", 0.15, 3, 20_000),
        ("4.0, the baseline and 2 models", 0.15, 3, 200_000),
        ("0, the baseline and 2 models", 0.0, 3, 20_000),
    ):
        runs = [replay_with_controls(seed, ability, n_controls, n) for seed in range(replays)]
        plain = np.array([run.plain for run in runs])
        exact_means = np.array([run.exact_means for run in runs])
        own_means = np.array([run.own_means for run in runs])
        yield {
            "difference, controls": label,
            "images": f"{n:,}",
            "variance ratio": f"{np.mean([run.variance_ratio for run in runs]):.2f}",
            "median images: no controls": _median_images(plain),
            "means known": _median_images(exact_means),
            "means of these images": _median_images(own_means),
            "decided: no controls": percent(np.isfinite(plain).mean()),
            "decided: means known": percent(np.isfinite(exact_means).mean()),
            "decided: means of these images": percent(np.isfinite(own_means).mean()),
        }


def _median_images(images: Values) -> str:
    """Return the median of numbers of images; "-" if it is infinite."""
    median = float(np.median(images))
    return f"{median:,.0f}" if np.isfinite(median) else "-"


class ControlledReplay(NamedTuple):
    """Three kinds of comparisons of the same two models.

    All but the first field are numbers of images until the answer, infinity without an answer.
    """

    # The variance with controls divided by the variance without.
    variance_ratio: float
    # Without controls.
    plain: float
    # With controls whose means are known exactly.
    exact_means: float
    # With controls whose means are computed from these images.
    own_means: float


def replay_with_controls(
    seed: int, ability: float, n_controls: int, n: int, shard: int = 100
) -> ControlledReplay:
    """Replay comparisons of a new model with a baseline, with and without control variates.

    Each image has a difficulty for all models, with which their outcomes correlate by 0.9. The
    outcomes of the baseline and the new model correlate with it by 0.95.

    Args:
        seed: The seed of the random numbers.
        ability: By how much the latent mean of the new model is above the one of the baseline.
        n_controls: The number of controls: the baseline, and other stored models.
        n: The number of images.
        shard: The number of images between two looks.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    # The latent mean of each stored model, and its correlation with the difficulty.
    skills = ((0.5, 0.95), (0.3, 0.9), (0.6, 0.9))[:n_controls]
    controls = np.column_stack([draw_hits(rng, difficulty, *skill) for skill in skills])
    changes = draw_hits(rng, difficulty, 0.5 + ability, 0.95) - controls[:, 0]
    true_means = np.array([ndtr(mean) for mean, _ in skills])
    exact = Adjustment(ControlMeans(true_means, np.zeros(n_controls)))
    estimated = Adjustment(control_means(controls, ALPHA / 10))
    plain = _images_until_answer(changes, controls, None, ALPHA, shard)
    exact_means = _images_until_answer(changes, controls, exact, ALPHA, shard)
    own_means = _images_until_answer(changes, controls, estimated, 0.9 * ALPHA, shard)
    # The ratio is known after the images were adjusted.
    return ControlledReplay(exact.variance_ratio(), plain, exact_means, own_means)


def draw_hits(
    rng: np.random.Generator, difficulty: Values, mean: float, correlation: float
) -> Values:
    """Return whether a model gets images right, (N,), from their difficulty (N,)."""
    noise = rng.normal(size=len(difficulty))
    skill = mean + correlation * difficulty + np.sqrt(1 - correlation**2) * noise
    return (skill > 0).astype(np.float64)


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
    # (R, L): difference / standard error; 0 if it is not computed.
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
    """Return z of the difference of mean recalls per class after each look, (L,).

    It is computed as in `by_class`.

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
    # (L, C): images of each class up to a look, and those that only A and only B gets right.
    sizes = is_of_class.astype(np.float64).cumsum(0)[looks - 1]
    gained = (is_of_class * only_a[:, None]).cumsum(0)[looks - 1]
    lost = (is_of_class * only_b[:, None]).cumsum(0)[looks - 1]
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
        a, b = (FunctionOfSums(first_areas(areas, n), mean_iou) for areas in models)
        changes = sums_without_each(a) - sums_without_each(b)
        changes = changes[~np.isnan(changes)]
        error = np.sqrt((len(changes) - 1) * changes.var())
        z[index] = (a.value - b.value) / error if error > 0 else 0.0
    return z


def first_areas(areas: Areas, n: int) -> Areas:
    """Return the areas of the first n images."""
    return Areas(*(pixels[:n] for pixels in areas))


def z_of_map(seed: int, looks: Values, rarest: float) -> Values:
    """Return z of the difference of mAP by the paired bootstrap at some looks up to 4,000, else 0.

    The looks are every 100 images up to 1,000, and every 500 from there on. Four classes are in 20%
    of the images, and the last one in a share of `rarest`. Scores are normal, and higher for images
    of the class. B ranks the rarest class much better, and A all others a little better.
    """
    rng = np.random.default_rng(seed)
    shares = np.array([0.2, 0.2, 0.2, 0.2, rarest])
    labels = rng.random((4000, 5)) < shares
    common = brentq(mean_gap, 1, 5, args=(rarest,))
    noise = rng.normal(size=(4000, 5))
    scores = []
    for shifts in ((common, common, common, common, 0.5), (1.5, 1.5, 1.5, 1.5, 2.5)):
        model_noise = rng.normal(size=noise.shape)
        model_scores = labels * np.array(shifts) + np.sqrt(0.7) * noise
        scores.append(model_scores + np.sqrt(0.3) * model_noise)
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
    """Yield how often answers about equal models are wrong, by the order of the images.

    There are 10 classes of 500 images, in random order or sorted by class. A is 4 points better in
    the first five classes, and 4 points worse in the others.
    """
    replays = 40 if quick else 400
    for label in ("random order", "sorted by class"):
        is_decided = []
        for seed in range(replays):
            rng = np.random.default_rng(seed)
            better = rng.choice(SIGNS, 2500, p=shares_of_signs(0.04, 0.1))
            worse = rng.choice(SIGNS, 2500, p=shares_of_signs(-0.04, 0.1))
            signs = np.concatenate([better, worse])
            if label == "random order":
                rng.shuffle(signs)
            shards = signs.reshape(100, 50)
            counts = np.stack([(shards == sign).sum(1) for sign in SIGNS], axis=1).cumsum(0)
            answers = answers_of_counts(counts[None].astype(float), SIGNS, -1, 1)
            is_decided.append(answers.decision[0] != "undecided")
        yield {"images": label, "wrong": percent(float(np.mean(is_decided)))}


def seconds(quick: bool) -> Iterator[Row]:
    """Yield the CPU time of one look, also as a share of encoding 32 images by ViT-B/32."""
    encoding = _seconds_of_encoding()
    rng = np.random.default_rng(0)
    signs = rng.choice(SIGNS, 50_000, p=shares_of_signs(0, 0.1))
    reals = np.clip(rng.normal(0, 0.2, 50_000), -1, 1)
    for n in (5000,) if quick else (5000, 50_000):
        for kind, values in (("signs", signs), ("real values", reals)):
            yield _seconds_row(f"{kind}, {n:,} images", _bounded_look(values[:n]), encoding)
    yield _seconds_row("mIoU of 150 classes, 5,000 images", _miou_look(rng), encoding)


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


def _miou_look(rng: np.random.Generator) -> float:
    """Return the CPU seconds of an update and an answer about mIoU."""
    shape = (5000, 150)
    models = []
    for _ in range(2):
        areas = Areas(rng.exponential(1000, shape), rng.exponential(1000, shape), rng.random(shape))
        models.append({"mIoU": FunctionOfSums(areas, mean_iou, jackknife=True)})
    begin = time.process_time()
    sequence = AsymptoticSequence()
    sequence.update(differences(models)(0, 1)["mIoU"])
    decide(sequence, ALPHA, 0.01)
    return time.process_time() - begin


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
    """Return the seconds of a look, and their share of the seconds of encoding 32 images."""
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
"""The functions that replay, by the name of the section.

Each yields the rows of a table, from few replays if its argument `quick` is true.
"""


if __name__ == "__main__":
    main()
