"""`python benchmarks/coverage.py [SECTION ...] [--quick] [--json]`: do intervals and tests hold?

Simulated studies, of which the truth is known: how often 95% intervals hold it, and how often tests
err and find. One Markdown table per section, in percent; all sections without a name.
`--quick` has fewer studies and ends within 60 seconds on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, expit, logit, stdtrit

from cosmos_eval.results.compare import MetricTest, adjust_p_values
from cosmos_eval.results.gate.check import ALPHA
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import close_pairs, p_value_of, rank_entries
from cosmos_eval.results.text import markdown_table
from cosmos_eval.stats.calibration import BINS, calibration_error
from cosmos_eval.stats.choices import macro_f1 as stats_macro_f1
from cosmos_eval.stats.estimates import Estimate, FunctionOfSums, GroupMean, Mean, Values
from cosmos_eval.stats.groups import GroupDifference, group_difference, image_covariance
from cosmos_eval.stats.intervals import (
    BOOTSTRAP,
    CLUSTER_BOOTSTRAP,
    intervals,
    jackknife,
    percentiles,
    resample,
    statistic_of,
    wilson,
)
from cosmos_eval.stats.paired import (
    PairedDifference,
    differences,
    matched_shares,
    mcnemar,
)
from cosmos_eval.stats.precision import mean_average_precision
from cosmos_eval.stats.segmentation import Areas, mean_iou
from cosmos_eval.types import Interval

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import _coverage_ranks as of_ranks
from support.groups import Design, rejected, trainings

Row = dict[str, str]
"""The cells of a table by the title of their column."""

CAPTIONS = 5  # of an image
NUMBERS = (100, 500, 5000)  # of images
SIZES = ((1, 3), (1, 5), (1, 10), (2, 2))  # new trainings, and those in the baseline


def main() -> None:
    """Simulate and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("section", nargs="*", help=f"any of: {', '.join(SECTIONS)}")
    arguments.add_argument("--json", action="store_true", help="print a JSON object")
    arguments.add_argument("--quick", action="store_true", help="end within 60 seconds")
    given = arguments.parse_args()
    if unknown := [name for name in given.section if name not in SECTIONS]:
        arguments.error(f"no section {', '.join(unknown)}: name any of {', '.join(SECTIONS)}")
    tables = {name: list(SECTIONS[name](given.quick)) for name in given.section or SECTIONS}
    if given.json:
        print(json.dumps(tables, indent=2))
        return
    for name, rows in tables.items():
        texts = sum(1 for cell in rows[0].values() if cell[-1:].isalpha())
        cells = (row.values() for row in rows)
        print(f"{name}\n\n{markdown_table(rows[0], cells, n_text_columns=max(1, texts))}")


def percent(share: float) -> str:
    """A share, or a list of what is true, in percent."""
    return f"{100 * share:.1f}"


class Sets(NamedTuple):
    """Label maps: `common` and `rare` are the shares of images with the most and the least frequent
    class; those between fall off as a power of their rank, as in ADE20K."""

    name: str
    images: int
    classes: int
    common: float
    rare: float


LABEL_MAPS = (
    Sets("10 classes in 150 images each", 500, 10, 0.3, 0.3),
    Sets("10 classes in 20 images each", 200, 10, 0.1, 0.1),
    Sets("10 classes in 250 to 10 images", 500, 10, 0.5, 0.02),
    Sets("20 classes in 50 to 2 images", 100, 20, 0.5, 0.02),
    Sets("150 classes in 1,200 to 5 images", 2000, 150, 0.6, 0.0025),
)


def miou(quick: bool) -> Iterator[Row]:
    """Intervals of mIoU: of its expected value at this number of images, and of its value on the
    population that the images are drawn from, which differ where a class is in few images."""
    for label_maps in LABEL_MAPS:
        yield from _miou(label_maps, 60 if quick else 1000, 200 if quick else 2000)


def _miou(label_maps: Sets, studies: int, resamples: int) -> Iterator[Row]:
    found: dict[str, list[Interval]] = {"percentile bootstrap": [], "bootstrap t": [], "ours": []}
    values, totals = [], []
    for seed in range(studies):
        areas = draw_areas(np.random.default_rng(seed), label_maps)
        estimate = FunctionOfSums(areas, mean_iou, jackknife=True)
        values.append(estimate.value)
        totals.append(Areas(*(part.sum(0) for part in areas)))
        weights = np.ones(label_maps.images, int)
        (drawn,) = resample([statistic_of({"": estimate})], weights, seed=seed, resamples=resamples)
        found["percentile bootstrap"].append(percentiles(drawn[""], BOOTSTRAP))
        found["bootstrap t"].append(around(estimate.value, drawn[""], label_maps.images))
        found["ours"].append(jackknife(estimate) or Interval(0, 0, "none", 0))
    expected = float(np.mean(values))
    population = float(mean_iou(Areas(*np.sum(totals, axis=0))))
    for method, made in found.items():
        yield {
            "mIoU": label_maps.name,
            "method": "jackknife t" if method == "ours" else method,
            "expected mIoU": f"{100 * expected:.2f}",
            "held": percent(held(made, expected)),
            "population's": f"{100 * population:.2f}",
            "held ": percent(held(made, population)),
        }


def draw_areas(rng: np.random.Generator, label_maps: Sets) -> Areas:
    """Areas (images, classes) of one model."""
    return draw_models(rng, label_maps, 1)[0]


def draw_models(rng: np.random.Generator, label_maps: Sets, models: int) -> list[Areas]:
    """Areas (images, classes) of equally good models.

    Where a class is, its pixels are exponentially distributed about 1,000. An image has a quality
    from Beta(4, 2), by which pixels of all its classes are found, of classes from 0.3 to all of
    that, which every model disturbs by itself. A class is seen where it is not half as often as it
    is.
    """
    _, images, classes, common, rare = label_maps
    shape, ranks = (images, classes), np.arange(1, classes + 1)
    presence = common * ranks ** (np.log(rare / common) / np.log(classes))
    ease = np.random.default_rng(0).uniform(0.3, 1, classes)
    labelled = _pixels(rng, shape, presence, 1000)
    quality = rng.beta(4, 2, (images, 1)) * ease
    areas = []
    for _ in range(models):
        shares = np.clip(quality + rng.normal(0, 0.1, shape), 0, 1)
        intersection = (labelled * shares).astype(np.int64)
        seen = intersection + _pixels(rng, shape, np.minimum(0.3, 0.002 + presence / 2), 300)
        areas.append(Areas(intersection, labelled, seen))
    return areas


def _pixels(
    rng: np.random.Generator, shape: tuple[int, int], presence: Values, mean: float
) -> NDArray[np.int64]:
    pixels = 1 + rng.exponential(mean, shape).astype(np.int64)
    return np.where(rng.random(shape) < presence, pixels, 0)


def around(value: float, drawn: Values, n: int) -> Interval:
    """The value -+ t times the bootstrap's standard error."""
    half = float(stdtrit(n - 1, 0.975) * drawn.std(ddof=1))
    return Interval(value - half, value + half, "bootstrap t", 0.95)


def held(made: list[Interval], truth: float) -> float:
    """The share of intervals that hold the truth, up to a rounding."""
    return float(np.mean([one.low - 1e-9 <= truth <= one.high + 1e-9 for one in made]))


def recall(quick: bool) -> Iterator[Row]:
    """Intervals of recall, image to text and text to image: images with five captions each, whose
    probabilities of being found are from a Beta distribution with a correlation of 0.3."""
    for images in (500, 5000):
        for truth in (0.002, 0.5, 0.95, 0.99, 0.998, 0.9995):
            for captions in (1, CAPTIONS):
                yield _recall(images, truth, captions, 2 if quick else 20)


def _recall(images: int, truth: float, captions: int, blocks: int) -> Row:
    """Of blocks of 100 studies, which share resamples."""
    found: dict[str, list[Interval]] = {CLUSTER_BOOTSTRAP: [], "": []}
    clusters = np.repeat(np.arange(images), captions)
    for seed in range(blocks):
        rng = np.random.default_rng(seed)
        scale = 1 / 0.3 - 1
        chance = rng.beta(truth * scale, (1 - truth) * scale, (100, images))
        hits = rng.random((100, len(clusters))) < chance[:, clusters]
        estimates = {str(n): Mean(some, clusters) for n, some in enumerate(hits)}
        for method, made in found.items():
            methods = dict.fromkeys(estimates, method)
            made += intervals(estimates, seed=seed, resamples=1000, methods=methods).values()
    row = {"recall": f"{100 * truth:g}%", "images": f"{images:,}", "captions each": str(captions)}
    for method, made in found.items():
        name = method or made[0].method
        row[f"{name}: held" if method else "Wilson: held"] = percent(held(made, truth))
        points = np.mean([one.low == one.high for one in made])
        row["a point" if method else "a point "] = percent(float(points))
    return row


def class_recall(quick: bool) -> Iterator[Row]:
    """Intervals of the mean recall per class: classes that are all as hard, or of which the one
    with the fewest images has all misses."""
    sizes = {
        "10 of 50": np.full(10, 50),
        "100 of 5": np.full(100, 5),
        "20 of 100 to 2": np.geomspace(100, 2, 20).astype(int),
    }
    for name, images in sizes.items():
        for truth in (0.5, 0.95, 0.99, 0.999):
            for is_one in (False, True):
                recalls = np.full(len(images), truth)
                if is_one and (1 - truth) * len(images) > 1:
                    continue
                if is_one:
                    recalls[:] = 1
                    recalls[-1] = 1 - (1 - truth) * len(images)
                label = "the rarest class alone" if is_one else "all classes alike"
                row = {"images per class": name, "misses": label}
                yield {**row, **_class_recall(images, recalls, 20 if quick else 300)}


def _class_recall(images: NDArray[np.int64], recalls: Values, studies: int) -> Row:
    found: dict[str, list[Interval]] = {BOOTSTRAP: [], "": []}
    classes = np.repeat(np.arange(len(images)), images)
    for seed in range(studies):
        hits = np.random.default_rng(seed).random(len(classes)) < recalls[classes]
        for method, made in found.items():
            estimate, methods = {"": GroupMean(hits, classes)}, {"": method}
            made.append(intervals(estimate, seed=seed, resamples=500, methods=methods)[""])
    row = {"mean recall": f"{100 * recalls.mean():.1f}%"}
    for method, made in found.items():
        row[f"{method or 'ours'}: held"] = marked(held(made, float(recalls.mean())), studies)
    points = np.mean([one.high - one.low < 1e-9 for one in found[BOOTSTRAP]])
    return {**row, "bootstrap: a point": percent(float(points))}


class Study(NamedTuple):
    """Samples of a population, whose estimate is to be held, and its value there."""

    estimate: Estimate
    truth: float


def before_and_after(
    draw: Callable[[np.random.Generator], Study], studies: int, former: str = BOOTSTRAP
) -> Row:
    """How often intervals by the former method and today's hold the truth, and how wide they are.
    Without a truth (NaN) it is the mean value of all studies: what is expected of so many samples.
    """
    drawn = [draw(np.random.default_rng(seed)) for seed in range(studies)]
    expected = float(np.mean([study.estimate.value for study in drawn]))
    truths = [expected if np.isnan(study.truth) else study.truth for study in drawn]
    row = {"value": f"{100 * expected:.1f}", "truth": f"{100 * np.mean(truths):.1f}"}
    for title, method, count in (("bootstrap", former, studies // 3), ("ours", "", studies)):
        made = [
            intervals({"": study.estimate}, seed=seed, resamples=300, methods={"": method})[""]
            for seed, study in enumerate(drawn[:count])
        ]
        holds = [held([ends], truth) for ends, truth in zip(made, truths[:count], strict=True)]
        row[f"{title}: held"] = marked(float(np.mean(holds)), count)
        row[f"{title}: width"] = percent(float(np.mean([ends.high - ends.low for ends in made])))
    return row


def marked(share: float, studies: int) -> str:
    """A coverage in percent, with a mark if it is two standard errors below 95%."""
    return percent(share) + ("†" if share < 0.95 - 2 * np.sqrt(0.95 * 0.05 / studies) else "")


def worst_group(quick: bool) -> Iterator[Row]:
    """Intervals of the lowest accuracy of groups of 200 images: of equal groups, and of groups of
    which one is so many points below the others."""
    for n_groups in (2, 5, 20):
        for lead in (0.0, 0.05, 0.2):
            for lowest in (0.5, 0.95):
                if lowest + lead <= 1:
                    shares = np.append(np.full(n_groups - 1, lowest + lead), lowest)
                    row = {"groups": str(n_groups), "others above it": f"{100 * lead:g} points"}
                    design = _GroupDesign(shares, np.full(n_groups, 200))
                    yield {**row, **before_and_after(design.lowest, 9 if quick else 600)}


class _GroupDesign(NamedTuple):
    """Groups with these shares of hits and numbers of images."""

    shares: Values
    images: NDArray[np.int64]

    def lowest(self, rng: np.random.Generator) -> Study:
        group = np.repeat(np.arange(len(self.images)), self.images)
        hits = rng.random(len(group)) < self.shares[group]
        return Study(GroupMean(hits, group, lowest=True), float(self.shares.min()))


def calibration(quick: bool) -> Iterator[Row]:
    """Intervals of the expected calibration error of the population. A model is calibrated, too
    sure by some points, or its confidences are those of another temperature."""
    models: Mapping[str, Callable[[Values], Values]] = {
        "calibrated": np.asarray,
        "5 points too sure": _less_by_5_points,
        "15 points too sure": _less_by_15_points,
        "temperature off by 1.7": _of_another_temperature,
    }
    for confidences, (a, b) in {"from 0 to 1": (1, 1), "mostly near 1": (12, 0.4)}.items():
        for name, accuracy in models.items():
            for images in (100, 1000):
                row = {"confidences": confidences, "model": name, "images": f"{images:,}"}
                design = _CalibrationDesign(a, b, accuracy, images)
                yield {**row, **before_and_after(design.study, 3 if quick else 210)}


def _less_by_5_points(confidences: Values) -> Values:
    return np.maximum(0, confidences - 0.05)


def _less_by_15_points(confidences: Values) -> Values:
    return np.maximum(0, confidences - 0.15)


def _of_another_temperature(confidences: Values) -> Values:
    return np.asarray(expit(0.6 * logit(confidences)))


class _CalibrationDesign(NamedTuple):
    """Images whose confidence is from a Beta distribution, and whose accuracy depends on it."""

    a: float
    b: float
    accuracy: Callable[[Values], Values]
    images: int

    def study(self, rng: np.random.Generator) -> Study:
        confidences = self.confidences(rng, self.images)
        hits = rng.random(self.images) < self.accuracy(confidences)
        estimate = calibration_error(confidences.astype(np.float32), hits)
        return Study(estimate, self.truth())

    def confidences(self, rng: np.random.Generator, n: int) -> Values:
        return np.clip(rng.beta(self.a, self.b, n), 0.02, 0.9999)

    def truth(self) -> float:
        grid = (np.arange(20_000) + 0.5) / 20_000
        confidences = np.clip(betaincinv(self.a, self.b, grid), 0.02, 0.9999)
        gaps = self.accuracy(confidences) - confidences
        bins = np.ceil(confidences * BINS).astype(int)
        return float(np.abs(np.bincount(bins, gaps)).sum() / len(grid))


def average_precision(quick: bool) -> Iterator[Row]:
    """Intervals of mAP of classes whose shares of images fall off from the first to the second
    number. Scores are normal, higher by some standard deviations where an image has a class."""
    for images, classes, common, rare in ((500, 20, 0.1, 0.1), (500, 20, 0.3, 0.004)):
        for lead in (1.0, 2.5, 5.0):
            yield _average_precision(images, classes, common, rare, lead, 3 if quick else 150)
    for lead in (1.0,) if quick else (1.0, 2.5, 5.0):
        yield _average_precision(1000, 80, 0.3, 0.001, lead, 3 if quick else 90)


def _average_precision(
    images: int, classes: int, common: float, rare: float, lead: float, studies: int
) -> Row:
    leads = lead * np.random.default_rng(0).uniform(0.6, 1.4, classes)

    def draw(rng: np.random.Generator) -> Study:
        labels = rng.random((images, classes)) < np.geomspace(common, rare, classes)
        scores = rng.normal(size=(images, classes)) + leads * labels
        return Study(mean_average_precision(scores, labels), np.nan)

    name = f"{classes} in {images * common:g} to {images * rare:g} of {images:,} images"
    return {"classes": name, "higher by": f"{lead:g} sd", **before_and_after(draw, studies)}


def macro_f1(quick: bool) -> Iterator[Row]:
    """Intervals of macro F1 of classes whose frequencies fall off, down to a share of the first's.
    Wrong predictions are of other classes by their frequency."""
    for images, classes, rare in (
        (200, 10, 1),
        (500, 10, 0.05),
        (500, 100, 0.01),
        (2000, 20, 0.01),
    ):
        for accuracy in (0.5, 0.9, 0.99):
            row = {"images": f"{images:,}", "classes": str(classes), "rarest": f"{rare:g}"}
            design = _ClassDesign(images, np.geomspace(1, rare, classes), accuracy)
            yield {**row, **before_and_after(design.f1, 6 if quick else 300)}


class _ClassDesign(NamedTuple):
    """Images of classes with these relative frequencies and mean accuracy."""

    images: int
    frequencies: Values
    accuracy: float
    rare_are_hard: bool = False

    def f1(self, rng: np.random.Generator) -> Study:
        labels, hits = self.labels_and_hits(rng)
        others = rng.choice(len(self.frequencies), self.images, p=self.shares)
        predicted = np.where(hits, labels, others)
        return Study(stats_macro_f1(labels, predicted), np.nan)

    def recall_of_present(self, rng: np.random.Generator) -> Study:
        labels, hits = self.labels_and_hits(rng)
        truth = float(self.recalls[np.unique(labels)].mean())
        return Study(GroupMean(hits, labels), truth)

    def labels_and_hits(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        labels = rng.choice(len(self.frequencies), self.images, p=self.shares)
        return labels, rng.random(self.images) < self.recalls[labels]

    @property
    def shares(self) -> Values:
        return self.frequencies / self.frequencies.sum()

    @property
    def recalls(self) -> Values:
        spread = 0.9 * min(self.accuracy, 1 - self.accuracy)
        recalls = self.accuracy + spread * np.linspace(1, -1, len(self.frequencies))
        shuffled: Values = np.random.default_rng(0).permutation(recalls)
        return recalls if self.rare_are_hard else shuffled


def absent_classes(quick: bool) -> Iterator[Row]:
    """Intervals of the mean recall per class if many classes have no image: of the classes that
    have any, and of all."""
    for images, classes, power in ((100, 100, 0), (60, 50, 1), (200, 100, 1)):
        for accuracy in (0.5, 0.9, 0.98):
            for rare_are_hard in (False, True):
                frequencies = 1 / np.arange(1, classes + 1) ** power
                design = _ClassDesign(images, frequencies, accuracy, rare_are_hard)
                absent = float(np.mean((1 - design.shares) ** images))
                row = {
                    "classes": f"{classes:,}",
                    "images": f"{images:,}",
                    "without images": f"{100 * absent:.0f}%",
                    "rare classes": "harder" if rare_are_hard else "as hard",
                }
                studies, former = 6 if quick else 300, "bootstrap or likelihood"
                row |= before_and_after(design.recall_of_present, studies, former)
                row["ours: held of all classes"] = _held_of_all(design, studies)
                yield row


def _held_of_all(design: _ClassDesign, studies: int) -> str:
    """How often intervals hold the mean recall of all classes, with images or without."""
    truth, holds = float(design.recalls.mean()), []
    for seed in range(studies):
        study = design.recall_of_present(np.random.default_rng(seed))
        holds.append(held([*intervals({"": study.estimate}).values()], truth))
    return marked(float(np.mean(holds)), studies)


def paired(quick: bool) -> Iterator[Row]:
    """Type I errors at 5% of two equally good models on the same images, by `compare` and by the
    bootstrap of earlier versions: mIoU with rare classes, and the mean recall per class."""
    studies = 50 if quick else 500
    for images, classes in ((10, 10), (30, 20), (60, 20)):
        label_maps = Sets("", images, classes, 0.5, 1 / images)
        errors = [_miou_errors(label_maps, seed) for seed in range(studies)]
        yield _paired_row(
            f"mIoU, {classes} classes in {images // 2} to 1 of {images} images", errors
        )
    sizes = {
        "100 classes of 1 or 2": np.tile([1, 2], 50),
        "20 classes of 100 to 2": np.geomspace(100, 2, 20).astype(int),
        "10 classes of 50": np.full(10, 50),
    }
    for name, images_of in sizes.items():
        for share in (0.5, 0.95, 0.99):
            errors = [_class_recall_errors(images_of, share, seed) for seed in range(studies)]
            yield _paired_row(f"recall {100 * share:g}%, {name}", errors)


def _paired_row(name: str, errors: Sequence[tuple[bool, bool]]) -> Row:
    former, now = np.mean(errors, axis=0)
    return {"equal models": name, "bootstrap": percent(former), "compare": percent(now)}


def _miou_errors(label_maps: Sets, seed: int) -> tuple[bool, bool]:
    models = draw_models(np.random.default_rng(seed), label_maps, 2)
    return _is_told_apart(
        [FunctionOfSums(areas, mean_iou) for areas in models],
        [FunctionOfSums(areas, mean_iou, jackknife=True) for areas in models],
    )


def _class_recall_errors(images: NDArray[np.int64], recall: float, seed: int) -> tuple[bool, bool]:
    """Images are found with a probability of their own, from a Beta distribution."""
    rng, classes = np.random.default_rng(seed), np.repeat(np.arange(len(images)), images)
    chance = rng.beta(2 * recall, 2 * (1 - recall), len(classes))
    models = rng.random((2, len(classes))) < chance
    owner = np.arange(len(classes))
    return _is_told_apart(
        [GroupMean(hits, classes, owner) for hits in models],
        [GroupMean(hits, classes) for hits in models],
    )


def _is_told_apart(former: Sequence[Estimate], now: Sequence[Estimate]) -> tuple[bool, bool]:
    found = []
    for both in (former, now):
        compare = differences([{"": estimate} for estimate in both], resamples=500)
        found.append(compare(0, 1)[""].p_value <= 0.05)
    return found[0], found[1]


def places(quick: bool) -> Iterator[Row]:
    """Boards of K equally good models on the same 1,000 images: who loses the best one's company,
    and whose ranks are not all that they can have. A model gets an image with a probability that
    depends on the image, from a Beta(2, 1) distribution."""
    for models in (2, 3, 5, 20):
        errors = np.array([_place_errors(models, n) for n in range(200 if quick else 2000)])
        shares = [percent(share) for share in errors.mean(axis=0)]
        rules = ("some loses, pairs at 5%", "some loses", "a given one loses", "a rank is wrong")
        yield {"equal models": str(models), **dict(zip(rules, shares, strict=True))}


def _place_errors(models: int, seed: int) -> tuple[bool, bool, bool, bool]:
    rng = np.random.default_rng(seed)
    hits = rng.random((models, 1000)) < rng.beta(2, 1, 1000)
    entries = [_entry(str(n), some) for n, some in enumerate(hits)]
    ties = {
        pair: p_value_of("cls", "acc1", mcnemar(*(hits[int(key.model)] for key in pair[:2])))
        for pair in close_pairs(entries)
    }
    ranks = rank_entries(entries, ties)
    lost = [not rank.best and not rank.tie for rank in ranks.values()]
    wrong = any(rank.ranks != (1, models) for rank in ranks.values())
    return min(ties.values(), default=1.0) <= 0.025, any(lost), lost[0], wrong


def _entry(model: str, hits: NDArray[np.bool_]) -> Entry:
    intervals = {"acc1": wilson(int(hits.sum()), len(hits))._asdict()}
    return Entry(model, "cls", "set", "cosmos", {"acc1": float(hits.mean())}, intervals, "measured")


def power(quick: bool) -> Iterator[Row]:
    """`compare` on several sets of 1,000 images, of which models differ on 10%: how often the
    difference of one of them that is stated as detectable makes a model better, by Holm."""
    rng, studies = np.random.default_rng(0), 500 if quick else 5000
    for sets in (1, 5, 20):
        pair = [matched_shares(800, 50, 50, 1000)] * sets
        tests = adjust_p_values(
            MetricTest(str(n), "cosmos", "cls", "acc1", d) for n, d in enumerate(pair)
        )
        stated = {"alone": pair[0].detectable() or 0.0, "corrected": tests[0].detectable or 0.0}
        row = {"sets": str(sets)}
        for name, size in stated.items():
            shares = [(0.1 + size) / 2, (0.1 - size) / 2, 0.9]
            found = [_is_found(rng, shares, sets) for _ in range(studies)]
            row |= {f"detectable, {name}": f"{100 * size:.2f}", f"found, {name}": ""}
            row[f"found, {name}"] = percent(float(np.mean(found)))
        yield row


def _is_found(rng: np.random.Generator, shares: list[float], sets: int) -> bool:
    equal = rng.multinomial(1000, [0.05, 0.05, 0.9], sets - 1)
    counts = [rng.multinomial(1000, shares), *equal]
    differences = [matched_shares(0, only_a, only_b, 1000) for only_a, only_b, _ in counts]
    found = adjust_p_values(MetricTest("", "cosmos", "cls", "acc1", one) for one in differences)
    return found[0].better == "A"


def gate(quick: bool) -> Iterator[Row]:
    """`check` of headline metrics, one per set: how often it finds a regression if every metric
    lost so much. Of two models, which differ on 10% of the images; and of new trainings of a recipe
    against several in the baseline, whose seeds have a standard deviation of one point, or none
    beside images of which 99.8% are right."""
    rng, studies = np.random.default_rng(0), 200 if quick else 2000
    losses = (0.0, 0.01, 0.02, 0.05)
    for images in (500, 5000):
        for metrics in (5, 20):
            row = {"check": "two models", "images": f"{images:,}", "headline metrics": str(metrics)}
            for loss in losses:
                shares = [(0.1 - loss) / 2, (0.1 + loss) / 2, 0.9]
                found = [_alarm(rng, shares, images, metrics) for _ in range(studies)]
                row[f"{100 * loss:g} points lost"] = percent(float(np.mean(found)))
            yield row
    designs = {
        f"{new} new against {old}": Design((new, old), 500, (0.01, 0.01)) for new, old in SIZES
    }
    designs["1 new against 3, at 99.8%"] = Design((1, 3), 500, (0, 0), share=0.998)
    for name, design in designs.items():
        for metrics in (5, 20):
            row = {"check": name, "images": "500", "headline metrics": str(metrics)}
            for loss in losses:
                rng, lossy = np.random.default_rng(0), design._replace(difference=-loss)
                found = [_retrained(rng, lossy, metrics)[0] for _ in range(10 if quick else 400)]
                row[f"{100 * loss:g} points lost"] = percent(float(np.mean(found)))
            yield row


def _alarm(rng: np.random.Generator, shares: list[float], images: int, metrics: int) -> bool:
    counts = rng.multinomial(images, shares, metrics)
    changes = [matched_shares(0, only_a, only_b, images) for only_a, only_b, _ in counts]
    return _regressed(changes)


def retrained(quick: bool) -> Iterator[Row]:
    """`check` of the accuracy on one to five sets by new trainings of a recipe, which has several
    in the baseline: how often it finds a regression if every accuracy lost so much, and without a
    loss where the first of both are compared as two models. Seeds have a standard deviation of some
    points."""
    studies = 10 if quick else 300
    for images, sets, sd in ((500, 1, 0), (500, 1, 1), (5000, 1, 1), (5000, 5, 1), (5000, 5, 2)):
        for new, old in ((1, 3), (1, 5), (3, 5)):
            row = {"images": f"{images:,}", "sets": str(sets), "seed sd": str(sd)}
            row |= {"new trainings": str(new), "in the baseline": str(old)}
            design = Design((new, old), images, (sd / 100, sd / 100))
            for loss in (0.0, 0.02, 0.05):
                rng = np.random.default_rng(0)
                lossy = design._replace(difference=-loss)
                found = [_retrained(rng, lossy, sets) for _ in range(studies)]
                of_group, of_two = np.mean(found, axis=0)
                row[f"{100 * loss:g} points lost"] = percent(of_group)
                row.setdefault("as two models", percent(of_two))
            yield row


def _retrained(rng: np.random.Generator, design: Design, sets: int) -> tuple[bool, bool]:
    new, seeds = design.k[0], list(design.draw_seeds(rng))
    of_groups, of_models = [], []
    for _ in range(sets):
        drawn = trainings(design, rng, seeds)
        values = np.array([one.value for one in drawn])
        covariance, n = image_covariance(drawn)
        both = values[:new], values[new:]
        of_groups.append(group_difference(*both, covariance, n, pooled=True))
        of_models.append(mcnemar(drawn[0].hits, drawn[new].hits))
    return _regressed(of_groups), _regressed(of_models)


def _regressed(changes: Sequence[PairedDifference | GroupDifference]) -> bool:
    """Whether the first step of Holm's finds a regression; others need it."""
    level = 1 - 2 * ALPHA / len(changes)
    return any(change.interval(level).high < 0 for change in changes)


def groups(quick: bool) -> Iterator[Row]:
    """Type I errors of two equally good methods with k trainings each, whose seeds have a standard
    deviation of some points; 100% less that is the coverage of intervals. Beside them, at one
    point: tests by images alone, and of one training each."""
    same_sizes = [(k, k) for k in (2, 3, 5, 10)]
    few_and_many = [(2, 10), (3, 10)]
    kinds = {f"accuracy, {n:,} images": (Design((0, 0), n, (1, 1)), same_sizes) for n in NUMBERS}
    quarter = Design((0, 0), 500, (1, 0.25))
    kinds["seeds of B vary a quarter, 500 images"] = quarter, [*same_sizes, *few_and_many]
    kinds["seeds of B vary a quarter, 5,000 images"] = quarter._replace(n=5000), few_and_many
    kinds["skewed seeds, 500 images"] = Design((0, 0), 500, (1, 1), skewed=True), same_sizes
    kinds["99.8% right, 500 images"] = Design((0, 0), 500, (1, 1), share=0.998), same_sizes
    kinds["mIoU, 200 images"] = Design((0, 0), 200, (1, 1), metric="mIoU"), same_sizes
    for name, (kind, sizes) in kinds.items():
        for k in sizes:
            found = {
                sd: rejected(
                    kind._replace(k=k, sd=(sd / 100 * kind.sd[0], sd / 100 * kind.sd[1])),
                    30 if quick else 1000,
                )
                for sd in (0, 0.5, 1, 2)
            }
            yield {
                "equal methods": name,
                "k": str(k[0]) if k[0] == k[1] else f"{k[0]} / {k[1]}",
                **{f"seed sd {sd:g}": percent(one.groups) for sd, one in found.items()},
                "images alone": percent(found[1].images_alone),
                "one training each": percent(found[1].one_each),
            }


SECTIONS: Mapping[str, Callable[[bool], Iterator[Row]]] = {
    "groups": groups,
    "retrained": retrained,
    "miou": miou,
    "paired": paired,
    "recall": recall,
    "class_recall": class_recall,
    "absent_classes": absent_classes,
    "worst_group": worst_group,
    "calibration": calibration,
    "average_precision": average_precision,
    "macro_f1": macro_f1,
    "places": places,
    "power": power,
    "gate": gate,
    "lengths": of_ranks.lengths,
    "mean_rank": of_ranks.mean_rank,
    "few_shots": of_ranks.few_shots,
    "probe": of_ranks.probe,
    "neighbours": of_ranks.neighbours,
}
"""What the command simulates by name: each yields the rows of its table, few studies if quick."""

if __name__ == "__main__":
    main()
