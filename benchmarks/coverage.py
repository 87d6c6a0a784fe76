"""`python benchmarks/coverage.py [SECTION ...] [--quick] [--json]`: do intervals and tests hold?

Studies are simulated, so that the truth is known: how often do 95% intervals contain it, how often
do tests find a difference of equal models, and how often a true difference? There is one Markdown
table per section, in percent. Without a section, all are printed. `--quick` has fewer studies and
ends within 60 seconds on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
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
import _coverage_ranks as ranks
from support.groups import Design, Rejected, rejected, trainings

Row = dict[str, str]
"""The cells of a table by the title of their column."""

CAPTIONS = 5  # of an image
IMAGE_COUNTS = (100, 500, 5000)
GATE_TRAININGS = ((1, 3), (1, 5), (1, 10), (2, 2))  # new trainings, and those in the baseline
GATE_LOSSES = (0.0, 0.01, 0.02, 0.05)
STUDIES_PER_BLOCK = 100  # studies that share their resamples
CORRELATION = 0.3  # of the captions of one image


def main() -> None:
    """Simulate the sections that the command line names, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", nargs="*", help=f"any of: {', '.join(SECTIONS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--quick", action="store_true", help="end within 60 seconds")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.section if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}: name any of {', '.join(SECTIONS)}")
    names = arguments.section or list(SECTIONS)
    tables = {name: list(SECTIONS[name](arguments.quick)) for name in names}
    if arguments.json:
        print(json.dumps(tables, indent=2))
        return
    for name, rows in tables.items():
        n_texts = sum(1 for cell in rows[0].values() if cell[-1:].isalpha())
        cells = (row.values() for row in rows)
        print(f"{name}\n\n{markdown_table(rows[0], cells, n_text_columns=max(1, n_texts))}")


def percent(share: float) -> str:
    """Return a share in percent, such as "95.0" for 0.95."""
    return f"{100 * share:.1f}"


def marked(share: float, n_studies: int) -> str:
    """Return a coverage in percent, with a mark if it is two standard errors below 95%."""
    standard_error = np.sqrt(0.95 * 0.05 / n_studies)
    return percent(share) + ("†" if share < 0.95 - 2 * standard_error else "")


def contains(interval: Interval, truth: float) -> bool:
    """Return whether an interval contains the truth, up to rounding."""
    return bool(interval.low - 1e-9 <= truth <= interval.high + 1e-9)


def coverage_of(study_intervals: Sequence[Interval], truth: float) -> float:
    """Return the share of studies whose interval contains the truth."""
    return float(np.mean([contains(interval, truth) for interval in study_intervals]))


def interval_of(estimate: Estimate, seed: int, resamples: int, method: str) -> Interval:
    """Return the interval of one estimate by a method; "" is the method of the package."""
    methods = {"": method}
    return intervals({"": estimate}, seed=seed, resamples=resamples, methods=methods)[""]


class LabelMaps(NamedTuple):
    """A population of images whose classes are labelled by pixels.

    The shares of images that have a class fall off from the most to the least frequent class, as a
    power of the rank, as in ADE20K.
    """

    name: str
    # The number of images of a study.
    images: int
    classes: int
    # The share of images that have the most frequent class.
    common: float
    # The share of images that have the least frequent class.
    rare: float


LABEL_MAPS = (
    LabelMaps("10 classes in 150 images each", 500, 10, 0.3, 0.3),
    LabelMaps("10 classes in 20 images each", 200, 10, 0.1, 0.1),
    LabelMaps("10 classes in 250 to 10 images", 500, 10, 0.5, 0.02),
    LabelMaps("20 classes in 50 to 2 images", 100, 20, 0.5, 0.02),
    LabelMaps("150 classes in 1,200 to 5 images", 2000, 150, 0.6, 0.0025),
)


def miou(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of mIoU.

    There are two truths: the expected mIoU at the number of images of a study, and the mIoU of the
    population that the images are drawn from. They differ if a class is in few images.
    """
    n_studies, resamples = (60, 200) if quick else (1000, 2000)
    for label_maps in LABEL_MAPS:
        yield from miou_rows(label_maps, n_studies, resamples)


def miou_rows(label_maps: LabelMaps, n_studies: int, resamples: int) -> Iterator[Row]:
    """Yield a row per method for one population."""
    percentile_intervals, bootstrap_t_intervals, jackknife_intervals = [], [], []
    values, totals = [], []
    for seed in range(n_studies):
        areas = draw_areas(np.random.default_rng(seed), label_maps)
        estimate = FunctionOfSums(areas, mean_iou, jackknife=True)
        values.append(estimate.value)
        totals.append(Areas(*(pixels.sum(0) for pixels in areas)))
        weights = np.ones(label_maps.images, int)
        statistic = statistic_of({"": estimate})
        (resampled,) = resample([statistic], weights, seed=seed, resamples=resamples)
        percentile_intervals.append(percentiles(resampled[""], BOOTSTRAP))
        bootstrap_t_intervals.append(
            bootstrap_t_interval(estimate.value, resampled[""], label_maps.images)
        )
        jackknife_intervals.append(jackknife(estimate) or Interval(0, 0, "none", 0))
    expected = float(np.mean(values))
    population = float(mean_iou(Areas(*np.sum(totals, axis=0))))
    for method, study_intervals in (
        ("percentile bootstrap", percentile_intervals),
        ("bootstrap t", bootstrap_t_intervals),
        ("jackknife t", jackknife_intervals),
    ):
        yield {
            "mIoU": label_maps.name,
            "method": method,
            "expected mIoU": f"{100 * expected:.2f}",
            "held": percent(coverage_of(study_intervals, expected)),
            "population's": f"{100 * population:.2f}",
            "held ": percent(coverage_of(study_intervals, population)),
        }


def draw_areas(rng: np.random.Generator, label_maps: LabelMaps) -> Areas:
    """Return the areas (images, classes) of one model."""
    return draw_models(rng, label_maps, 1)[0]


def draw_models(rng: np.random.Generator, label_maps: LabelMaps, n_models: int) -> list[Areas]:
    """Return the areas (images, classes) of equally good models on the same images.

    If an image has a class, the number of its pixels is exponentially distributed with a mean of
    about 1,000. Each image has a quality from a Beta(4, 2) distribution, and each class an ease
    from 0.3 to 1. A model finds the share quality * ease of the pixels, plus noise of its own. It
    wrongly predicts each class about half as often as the class occurs, in 30% of images at most.
    """
    shape = (label_maps.images, label_maps.classes)
    class_ranks = np.arange(1, label_maps.classes + 1)
    power = np.log(label_maps.rare / label_maps.common) / np.log(label_maps.classes)
    presence = label_maps.common * class_ranks**power
    ease = np.random.default_rng(0).uniform(0.3, 1, label_maps.classes)
    labelled = draw_pixels(rng, shape, presence, 1000)
    quality = rng.beta(4, 2, (label_maps.images, 1)) * ease
    models = []
    for _ in range(n_models):
        shares = np.clip(quality + rng.normal(0, 0.1, shape), 0, 1)
        intersection = (labelled * shares).astype(np.int64)
        wrong = draw_pixels(rng, shape, np.minimum(0.3, 0.002 + presence / 2), 300)
        models.append(Areas(intersection, labelled, intersection + wrong))
    return models


def draw_pixels(
    rng: np.random.Generator, shape: tuple[int, int], presence: Values, mean: float
) -> NDArray[np.int64]:
    """Return numbers of pixels (images, classes).

    Args:
        rng: The random generator.
        shape: The numbers of images and classes.
        presence: (classes,) the share of images that have each class. Other images have 0 pixels.
        mean: The mean number of pixels in an image that has the class.
    """
    pixels = 1 + rng.exponential(mean, shape).astype(np.int64)
    return np.where(rng.random(shape) < presence, pixels, 0)


def bootstrap_t_interval(value: float, resampled: Values, n: int) -> Interval:
    """Return value -+ t * standard error, by the resampled values (R,) of n images."""
    half = float(stdtrit(n - 1, 0.975) * resampled.std(ddof=1))
    return Interval(value - half, value + half, "bootstrap t", 0.95)


def recall(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of recall, with one or five captions per image.

    One caption per image is also the case of recall from image to text.
    """
    truths = (0.002, 0.5, 0.95, 0.99, 0.998, 0.9995)
    for images, truth, captions in product((500, 5000), truths, (1, CAPTIONS)):
        yield recall_row(images, truth, captions, n_blocks=2 if quick else 20)


def recall_row(images: int, truth: float, captions: int, n_blocks: int) -> Row:
    """Return the coverage in blocks of studies that share resamples.

    An image has a probability that its captions are found, from a Beta distribution.
    """
    clusters = np.repeat(np.arange(images), captions)
    bootstrap_intervals: list[Interval] = []
    wilson_intervals: list[Interval] = []
    for seed in range(n_blocks):
        rng = np.random.default_rng(seed)
        scale = 1 / CORRELATION - 1
        shape = (STUDIES_PER_BLOCK, images)
        chances = rng.beta(truth * scale, (1 - truth) * scale, shape)
        hits = rng.random((STUDIES_PER_BLOCK, len(clusters))) < chances[:, clusters]
        estimates = {
            str(study): Mean(study_hits, clusters) for study, study_hits in enumerate(hits)
        }
        for method, study_intervals in (
            (CLUSTER_BOOTSTRAP, bootstrap_intervals),
            ("", wilson_intervals),
        ):
            methods = dict.fromkeys(estimates, method)
            by_study = intervals(estimates, seed=seed, resamples=1000, methods=methods)
            study_intervals += by_study.values()
    return {
        "recall": f"{100 * truth:g}%",
        "images": f"{images:,}",
        "captions each": str(captions),
        f"{CLUSTER_BOOTSTRAP}: held": percent(coverage_of(bootstrap_intervals, truth)),
        "a point": percent(share_of_points(bootstrap_intervals)),
        "Wilson: held": percent(coverage_of(wilson_intervals, truth)),
        "a point ": percent(share_of_points(wilson_intervals)),
    }


def share_of_points(study_intervals: Sequence[Interval]) -> float:
    """Return the share of intervals whose ends are equal."""
    return float(np.mean([interval.low == interval.high for interval in study_intervals]))


def class_recall(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of the mean recall per class.

    Either all classes are equally hard, or all misses are in the class with the fewest images, if
    this class can have so many.
    """
    sizes = {
        "10 of 50": np.full(10, 50),
        "100 of 5": np.full(100, 5),
        "20 of 100 to 2": np.geomspace(100, 2, 20).astype(int),
    }
    n_studies = 20 if quick else 300
    for name, class_sizes in sizes.items():
        n_classes = len(class_sizes)
        for truth in (0.5, 0.95, 0.99, 0.999):
            row = {"images per class": name, "misses": "all classes alike"}
            yield row | class_recall_cells(class_sizes, np.full(n_classes, truth), n_studies)
            misses_of_rarest = (1 - truth) * n_classes
            if misses_of_rarest <= 1:
                recalls = np.ones(n_classes)
                recalls[-1] = 1 - misses_of_rarest
                row = {"images per class": name, "misses": "the rarest class alone"}
                yield row | class_recall_cells(class_sizes, recalls, n_studies)


def class_recall_cells(class_sizes: NDArray[np.int64], recalls: Values, n_studies: int) -> Row:
    """Return the coverage for classes with these numbers of images and recalls, (classes,) each."""
    classes = np.repeat(np.arange(len(class_sizes)), class_sizes)
    bootstrap_intervals, our_intervals = [], []
    for seed in range(n_studies):
        hits = np.random.default_rng(seed).random(len(classes)) < recalls[classes]
        estimate = GroupMean(hits, classes)
        bootstrap_intervals.append(interval_of(estimate, seed, 500, BOOTSTRAP))
        our_intervals.append(interval_of(estimate, seed, 500, ""))
    truth = float(recalls.mean())
    is_point = [interval.high - interval.low < 1e-9 for interval in bootstrap_intervals]
    return {
        "mean recall": f"{100 * truth:.1f}%",
        f"{BOOTSTRAP}: held": marked(coverage_of(bootstrap_intervals, truth), n_studies),
        "ours: held": marked(coverage_of(our_intervals, truth), n_studies),
        "bootstrap: a point": percent(float(np.mean(is_point))),
    }


class Study(NamedTuple):
    """Samples of a population."""

    estimate: Estimate
    # The value on the population, which the interval should contain. If it is None, the mean value
    # of all studies is the truth: what is expected of so many samples.
    truth: float | None


def before_and_after(
    draw: Callable[[np.random.Generator], Study], n_studies: int, former_method: str = BOOTSTRAP
) -> Row:
    """Return the coverage and mean width of intervals by a former method and by today's.

    Args:
        draw: A function that draws a study.
        n_studies: The number of studies by today's method. The former one has a third of it.
        former_method: The name of the former method.
    """
    studies = [draw(np.random.default_rng(seed)) for seed in range(n_studies)]
    expected = float(np.mean([study.estimate.value for study in studies]))
    truths = [expected if study.truth is None else study.truth for study in studies]
    row = {"value": f"{100 * expected:.1f}", "truth": f"{100 * np.mean(truths):.1f}"}
    for title, method, n in (("bootstrap", former_method, n_studies // 3), ("ours", "", n_studies)):
        is_held, widths = [], []
        for seed in range(n):
            interval = interval_of(studies[seed].estimate, seed, 300, method)
            is_held.append(contains(interval, truths[seed]))
            widths.append(interval.high - interval.low)
        row[f"{title}: held"] = marked(float(np.mean(is_held)), n)
        row[f"{title}: width"] = percent(float(np.mean(widths)))
    return row


def worst_group(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of the lowest accuracy of groups of 200 images.

    One group has the lowest accuracy, and all others are some points above it, or equal to it.
    """
    for n_groups, gap, lowest in product((2, 5, 20), (0.0, 0.05, 0.2), (0.5, 0.95)):
        if lowest + gap <= 1:
            accuracies = np.append(np.full(n_groups - 1, lowest + gap), lowest)
            design = GroupDesign(accuracies, np.full(n_groups, 200))
            row = {"groups": str(n_groups), "others above it": f"{100 * gap:g} points"}
            yield row | before_and_after(design.draw, 9 if quick else 600)


class GroupDesign(NamedTuple):
    """Groups of images."""

    # (groups,) the probability that an image of the group is right.
    accuracies: Values
    # (groups,) the number of images.
    images: NDArray[np.int64]

    def draw(self, rng: np.random.Generator) -> Study:
        """Draw a study of the lowest accuracy."""
        groups_of_images = np.repeat(np.arange(len(self.images)), self.images)
        hits = rng.random(len(groups_of_images)) < self.accuracies[groups_of_images]
        estimate = GroupMean(hits, groups_of_images, lowest=True)
        return Study(estimate, float(self.accuracies.min()))


def calibration(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of the population's expected calibration error.

    A model is calibrated, it is too sure by some points, or its confidences have a wrong
    temperature.
    """
    models: Mapping[str, Callable[[Values], Values]] = {
        "calibrated": np.asarray,
        "5 points too sure": accuracy_5_points_lower,
        "15 points too sure": accuracy_15_points_lower,
        "temperature off by 1.7": accuracy_of_other_temperature,
    }
    beta_parameters = {"from 0 to 1": (1, 1), "mostly near 1": (12, 0.4)}
    for confidences, (a, b) in beta_parameters.items():
        for (name, accuracy), images in product(models.items(), (100, 1000)):
            row = {"confidences": confidences, "model": name, "images": f"{images:,}"}
            design = CalibrationDesign(a, b, accuracy, images)
            yield row | before_and_after(design.draw, 3 if quick else 210)


def accuracy_5_points_lower(confidences: Values) -> Values:
    """Return accuracies 5 points below the confidences."""
    return np.maximum(0, confidences - 0.05)


def accuracy_15_points_lower(confidences: Values) -> Values:
    """Return accuracies 15 points below the confidences."""
    return np.maximum(0, confidences - 0.15)


def accuracy_of_other_temperature(confidences: Values) -> Values:
    """Return accuracies whose log odds are 0.6 times the log odds of the confidences."""
    return np.asarray(expit(0.6 * logit(confidences)))


class CalibrationDesign(NamedTuple):
    """Images whose confidence is random, and whose accuracy depends on the confidence."""

    # The parameters of the Beta distribution of confidences.
    a: float
    b: float
    # The function from confidences to accuracies.
    accuracy: Callable[[Values], Values]
    images: int

    def draw(self, rng: np.random.Generator) -> Study:
        """Draw a study of the calibration error."""
        confidences = np.clip(rng.beta(self.a, self.b, self.images), 0.02, 0.9999)
        hits = rng.random(self.images) < self.accuracy(confidences)
        estimate = calibration_error(confidences.astype(np.float32), hits)
        return Study(estimate, self.true_error())

    def true_error(self) -> float:
        """Return the calibration error of the population, by 20,000 quantiles of confidences."""
        grid = (np.arange(20_000) + 0.5) / 20_000
        confidences = np.clip(betaincinv(self.a, self.b, grid), 0.02, 0.9999)
        gaps = self.accuracy(confidences) - confidences
        bins = np.ceil(confidences * BINS).astype(int)
        return float(np.abs(np.bincount(bins, gaps)).sum() / len(grid))


def average_precision(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of mAP.

    The shares of images that have a class fall off from `common` to `rare`. Scores are normal, and
    higher by `lead` standard deviations on average if the image has the class.
    """
    leads = (1.0, 2.5, 5.0)
    for common, rare in ((0.1, 0.1), (0.3, 0.004)):
        for lead in leads:
            yield average_precision_row(500, 20, common, rare, lead, 3 if quick else 150)
    for lead in leads[:1] if quick else leads:
        yield average_precision_row(1000, 80, 0.3, 0.001, lead, 3 if quick else 90)


def average_precision_row(
    images: int, classes: int, common: float, rare: float, lead: float, n_studies: int
) -> Row:
    """Return the coverage for one population."""
    presence = np.geomspace(common, rare, classes)
    leads = lead * np.random.default_rng(0).uniform(0.6, 1.4, classes)
    design = PrecisionDesign(images, presence, leads)
    name = f"{classes} in {images * common:g} to {images * rare:g} of {images:,} images"
    row = {"classes": name, "higher by": f"{lead:g} sd"}
    return row | before_and_after(design.draw, n_studies)


class PrecisionDesign(NamedTuple):
    """Images with several labels each, and scores of all classes."""

    images: int
    # (classes,) the share of images that have the class.
    presence: Values
    # (classes,) by how many standard deviations scores of images that have the class are higher.
    leads: Values

    def draw(self, rng: np.random.Generator) -> Study:
        """Draw a study of mAP, whose truth is its expected value."""
        shape = (self.images, len(self.presence))
        labels = rng.random(shape) < self.presence
        scores = rng.normal(size=shape) + self.leads * labels
        return Study(mean_average_precision(scores, labels), None)


def macro_f1(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of macro F1.

    The frequencies of classes fall off from 1 to `rare`. A wrong prediction is any class, with a
    probability by its frequency.
    """
    for images, classes, rare in (
        (200, 10, 1),
        (500, 10, 0.05),
        (500, 100, 0.01),
        (2000, 20, 0.01),
    ):
        for accuracy in (0.5, 0.9, 0.99):
            row = {"images": f"{images:,}", "classes": str(classes), "rarest": f"{rare:g}"}
            design = ClassDesign(images, np.geomspace(1, rare, classes), accuracy)
            yield row | before_and_after(design.draw_f1, 6 if quick else 300)


class ClassDesign(NamedTuple):
    """Images of classes that are not equally frequent and not equally hard."""

    images: int
    # (classes,) relative to each other.
    frequencies: Values
    # The mean over classes.
    accuracy: float
    # Whether the recall falls off with the frequency; else it is random.
    rare_are_hard: bool = False

    def draw_f1(self, rng: np.random.Generator) -> Study:
        """Draw a study of macro F1, whose truth is its expected value."""
        labels, hits = self.draw_labels_and_hits(rng)
        wrong_classes = rng.choice(len(self.frequencies), self.images, p=self.shares)
        predictions = np.where(hits, labels, wrong_classes)
        return Study(stats_macro_f1(labels, predictions), None)

    def draw_recall(self, rng: np.random.Generator) -> Study:
        """Draw a study of the mean recall of the classes that have images in it."""
        labels, hits = self.draw_labels_and_hits(rng)
        truth = float(self.recalls[np.unique(labels)].mean())
        return Study(GroupMean(hits, labels), truth)

    def draw_labels_and_hits(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Draw the class of each image, and whether it is predicted, (images,) each."""
        labels = rng.choice(len(self.frequencies), self.images, p=self.shares)
        return labels, rng.random(self.images) < self.recalls[labels]

    @property
    def shares(self) -> Values:
        """The share of images of each class, (classes,)."""
        return self.frequencies / self.frequencies.sum()

    @property
    def recalls(self) -> Values:
        """The probability that an image of each class is right, (classes,)."""
        spread = 0.9 * min(self.accuracy, 1 - self.accuracy)
        recalls = self.accuracy + spread * np.linspace(1, -1, len(self.frequencies))
        shuffled: Values = np.random.default_rng(0).permutation(recalls)
        return recalls if self.rare_are_hard else shuffled


def absent_classes(quick: bool) -> Iterator[Row]:
    """Yield the coverage of intervals of the mean recall if many classes have no image.

    The truth is the mean recall of the classes that have images, and, in the last column, of all
    classes.
    """
    n_studies = 6 if quick else 300
    for images, classes, power in ((100, 100, 0), (60, 50, 1), (200, 100, 1)):
        frequencies = 1 / np.arange(1, classes + 1) ** power
        for accuracy, rare_are_hard in product((0.5, 0.9, 0.98), (False, True)):
            design = ClassDesign(images, frequencies, accuracy, rare_are_hard)
            absent_share = float(np.mean((1 - design.shares) ** images))
            row = {
                "classes": f"{classes:,}",
                "images": f"{images:,}",
                "without images": f"{100 * absent_share:.0f}%",
                "rare classes": "harder" if rare_are_hard else "as hard",
            }
            row |= before_and_after(design.draw_recall, n_studies, "bootstrap or likelihood")
            row["ours: held of all classes"] = coverage_of_all_classes(design, n_studies)
            yield row


def coverage_of_all_classes(design: ClassDesign, n_studies: int) -> str:
    """Return how often intervals contain the mean recall of all classes, also those without images.

    The samples are drawn by `draw_recall` and show nothing of the classes without images.
    """
    truth = float(design.recalls.mean())
    is_held = []
    for seed in range(n_studies):
        study = design.draw_recall(np.random.default_rng(seed))
        interval = intervals({"": study.estimate})[""]
        is_held.append(contains(interval, truth))
    return marked(float(np.mean(is_held)), n_studies)


class PairedErrors(NamedTuple):
    """False alarms of tests at 5%, which find a difference of two equal models."""

    # By the bootstrap of earlier versions.
    bootstrap: bool
    # By `compare`.
    compare: bool


def paired(quick: bool) -> Iterator[Row]:
    """Yield type I errors at 5% of two equally good models on the same images.

    The metrics are mIoU with rare classes, and the mean recall per class. The tests are `compare`
    and the bootstrap of earlier versions.
    """
    n_studies = 50 if quick else 500
    for images, classes in ((10, 10), (30, 20), (60, 20)):
        label_maps = LabelMaps("", images, classes, 0.5, 1 / images)
        errors = [miou_errors(label_maps, seed) for seed in range(n_studies)]
        yield paired_row(
            f"mIoU, {classes} classes in {images // 2} to 1 of {images} images", errors
        )
    sizes = {
        "100 classes of 1 or 2": np.tile([1, 2], 50),
        "20 classes of 100 to 2": np.geomspace(100, 2, 20).astype(int),
        "10 classes of 50": np.full(10, 50),
    }
    for (name, class_sizes), truth in product(sizes.items(), (0.5, 0.95, 0.99)):
        errors = [class_recall_errors(class_sizes, truth, seed) for seed in range(n_studies)]
        yield paired_row(f"recall {100 * truth:g}%, {name}", errors)


def paired_row(name: str, errors: Sequence[PairedErrors]) -> Row:
    """Return the shares of studies in which tests find a difference."""
    means = PairedErrors(*np.mean(errors, axis=0))
    return {
        "equal models": name,
        "bootstrap": percent(means.bootstrap),
        "compare": percent(means.compare),
    }


def miou_errors(label_maps: LabelMaps, seed: int) -> PairedErrors:
    """Return whether two equal models are told apart by mIoU."""
    models = draw_models(np.random.default_rng(seed), label_maps, 2)
    return PairedErrors(
        bootstrap=differ([FunctionOfSums(areas, mean_iou) for areas in models]),
        compare=differ([FunctionOfSums(areas, mean_iou, jackknife=True) for areas in models]),
    )


def class_recall_errors(
    class_sizes: NDArray[np.int64], mean_recall: float, seed: int
) -> PairedErrors:
    """Return whether two equal models are told apart by their mean recall per class.

    Each image has a probability to be right, from a Beta distribution.
    """
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(class_sizes)), class_sizes)
    chances = rng.beta(2 * mean_recall, 2 * (1 - mean_recall), len(classes))
    models = rng.random((2, len(classes))) < chances
    clusters = np.arange(len(classes))  # each image is one
    return PairedErrors(
        bootstrap=differ([GroupMean(hits, classes, clusters) for hits in models]),
        compare=differ([GroupMean(hits, classes) for hits in models]),
    )


def differ(estimates: Sequence[Estimate]) -> bool:
    """Return whether the paired test of two models finds a difference at 5%."""
    compare = differences([{"": estimate} for estimate in estimates], resamples=500)
    return bool(compare(0, 1)[""].p_value <= 0.05)


class PlaceErrors(NamedTuple):
    """Errors of a leaderboard of equally good models."""

    # Whether a pair with the best model differs by an uncorrected test at 5%.
    uncorrected: bool
    # Whether any model is neither marked as best nor as tied.
    any_lost: bool
    # Whether the first model is not.
    first_lost: bool
    # Whether the ranks of any model are not all ranks.
    wrong_rank: bool


def places(quick: bool) -> Iterator[Row]:
    """Yield errors of leaderboards of equally good models on the same 1,000 images.

    A model of a right leaderboard is marked as best or tied, and may have all ranks. Each image has
    a probability to be right, from a Beta(2, 1) distribution.
    """
    n_studies = 200 if quick else 2000
    for n_models in (2, 3, 5, 20):
        errors = [place_errors(n_models, seed) for seed in range(n_studies)]
        means = PlaceErrors(*np.mean(errors, axis=0))
        yield {
            "equal models": str(n_models),
            "some loses, pairs at 5%": percent(means.uncorrected),
            "some loses": percent(means.any_lost),
            "a given one loses": percent(means.first_lost),
            "a rank is wrong": percent(means.wrong_rank),
        }


def place_errors(n_models: int, seed: int) -> PlaceErrors:
    """Return the errors of one leaderboard."""
    rng = np.random.default_rng(seed)
    hits = rng.random((n_models, 1000)) < rng.beta(2, 1, 1000)
    entries = [entry_of(str(model), model_hits) for model, model_hits in enumerate(hits)]
    p_values = {}
    for pair in close_pairs(entries):
        difference = mcnemar(hits[int(pair.best.model)], hits[int(pair.other.model)])
        p_values[pair] = p_value_of("cls", "acc1", difference)
    ranks_of_models = list(rank_entries(entries, p_values).values())
    is_lost = [not rank.best and not rank.tie for rank in ranks_of_models]
    return PlaceErrors(
        # The p-values are one-sided.
        uncorrected=min(p_values.values(), default=1.0) <= 0.025,
        any_lost=any(is_lost),
        first_lost=is_lost[0],
        wrong_rank=any(rank.ranks != (1, n_models) for rank in ranks_of_models),
    )


def entry_of(model: str, hits: NDArray[np.bool_]) -> Entry:
    """Return the entry of a model in a leaderboard from its hits (images,)."""
    interval = wilson(int(hits.sum()), len(hits))
    metrics = {"acc1": float(hits.mean())}
    return Entry(model, "cls", "set", "cosmos", metrics, {"acc1": interval._asdict()}, "measured")


def power(quick: bool) -> Iterator[Row]:
    """Yield how often `compare` finds a true difference of the size that it says it can detect.

    There are several sets of 1,000 images, and models differ on 10% of the images. On one set, one
    model is truly better. The p-values are corrected by Holm's method.
    """
    rng = np.random.default_rng(0)
    n_studies = 500 if quick else 5000
    for n_sets in (1, 5, 20):
        difference = matched_shares(800, 50, 50, 1000)
        tests = adjust_p_values(
            MetricTest(str(number), "cosmos", "cls", "acc1", difference) for number in range(n_sets)
        )
        detectable = {
            "alone": difference.detectable() or 0.0,
            "corrected": tests[0].detectable or 0.0,
        }
        row = {"sets": str(n_sets)}
        for name, size in detectable.items():
            shares = [(0.1 + size) / 2, (0.1 - size) / 2, 0.9]
            is_found = [finds_difference(rng, shares, n_sets) for _ in range(n_studies)]
            row[f"detectable, {name}"] = f"{100 * size:.2f}"
            row[f"found, {name}"] = percent(float(np.mean(is_found)))
        yield row


def finds_difference(rng: np.random.Generator, shares: Sequence[float], n_sets: int) -> bool:
    """Return whether model A is found to be better on the first set, and models differ only there.

    Args:
        rng: The random generator.
        shares: The shares of images of the first set that only A gets right, that only B does, and
            others.
        n_sets: The number of sets.
    """
    equal_counts = rng.multinomial(1000, [0.05, 0.05, 0.9], n_sets - 1)
    tests = []
    for only_a, only_b, _ in [rng.multinomial(1000, shares), *equal_counts]:
        difference = matched_shares(0, only_a, only_b, 1000)
        tests.append(MetricTest("", "cosmos", "cls", "acc1", difference))
    return adjust_p_values(tests)[0].better == "A"


def gate(quick: bool) -> Iterator[Row]:
    """Yield how often `check` finds a regression if every headline metric lost so many points.

    There is one metric per set. The first rows are checks of two models, the others of new
    trainings of a recipe against several trainings in the baseline.
    """
    yield from gate_rows_of_models(200 if quick else 2000)
    yield from gate_rows_of_trainings(10 if quick else 400)


def gate_rows_of_models(n_studies: int) -> Iterator[Row]:
    """Yield rows of two models, which differ on 10% of the images."""
    rng = np.random.default_rng(0)
    for images, n_metrics in product((500, 5000), (5, 20)):
        row = {"check": "two models", "images": f"{images:,}", "headline metrics": str(n_metrics)}
        for loss in GATE_LOSSES:
            shares = [(0.1 - loss) / 2, (0.1 + loss) / 2, 0.9]
            alarms = [is_alarm(rng, shares, images, n_metrics) for _ in range(n_studies)]
            row[f"{100 * loss:g} points lost"] = percent(float(np.mean(alarms)))
        yield row


def gate_rows_of_trainings(n_studies: int) -> Iterator[Row]:
    """Yield rows of new trainings, whose seeds have a standard deviation of one point.

    In the last design, seeds do not vary, and 99.8% of the images are right.
    """
    designs = {}
    for n_new, n_baseline in GATE_TRAININGS:
        name = f"{n_new} new against {n_baseline}"
        designs[name] = Design((n_new, n_baseline), 500, (0.01, 0.01))
    designs["1 new against 3, at 99.8%"] = Design((1, 3), 500, (0, 0), share=0.998)
    for (name, design), n_metrics in product(designs.items(), (5, 20)):
        row = {"check": name, "images": "500", "headline metrics": str(n_metrics)}
        for loss in GATE_LOSSES:
            rng = np.random.default_rng(0)
            design_with_loss = design._replace(difference=-loss)
            alarms = [
                alarms_of_trainings(rng, design_with_loss, n_metrics).trainings
                for _ in range(n_studies)
            ]
            row[f"{100 * loss:g} points lost"] = percent(float(np.mean(alarms)))
        yield row


def is_alarm(
    rng: np.random.Generator, shares: Sequence[float], images: int, n_metrics: int
) -> bool:
    """Return whether a check of two models finds a regression.

    Args:
        rng: The random generator.
        shares: The shares of images that only the new model gets right, that only the baseline
            does, and others.
        images: The number of images of each metric.
        n_metrics: The number of metrics.
    """
    counts = rng.multinomial(images, shares, n_metrics)
    changes = [matched_shares(0, only_new, only_old, images) for only_new, only_old, _ in counts]
    return is_regression(changes)


class Alarms(NamedTuple):
    """Regressions that a check of new trainings against trainings in the baseline finds."""

    # Whether it finds one by all trainings.
    trainings: bool
    # Whether it finds one by the first training of both sides, compared as two models.
    two_models: bool


def retrained(quick: bool) -> Iterator[Row]:
    """Yield how often `check` finds a regression of the accuracy on one to five sets.

    New trainings of a recipe are compared with several trainings in the baseline, and every
    accuracy lost so many points. Without a loss, the first trainings of both are also compared as
    two models. Seeds have a standard deviation of some points.
    """
    n_studies = 10 if quick else 300
    # Images of each set, sets, and the standard deviation of seeds in points.
    cases = ((500, 1, 0), (500, 1, 1), (5000, 1, 1), (5000, 5, 1), (5000, 5, 2))
    for (images, n_sets, sd), k in product(cases, ((1, 3), (1, 5), (3, 5))):
        row = {
            "images": f"{images:,}",
            "sets": str(n_sets),
            "seed sd": str(sd),
            "new trainings": str(k[0]),
            "in the baseline": str(k[1]),
        }
        design = Design(k, images, (sd / 100, sd / 100))
        for loss in (0.0, 0.02, 0.05):
            rng = np.random.default_rng(0)
            design_with_loss = design._replace(difference=-loss)
            alarms = [alarms_of_trainings(rng, design_with_loss, n_sets) for _ in range(n_studies)]
            means = Alarms(*np.mean(alarms, axis=0))
            row[f"{100 * loss:g} points lost"] = percent(means.trainings)
            if loss == 0:
                row["as two models"] = percent(means.two_models)
        yield row


def alarms_of_trainings(rng: np.random.Generator, design: Design, n_sets: int) -> Alarms:
    """Return whether a check finds a regression; the new trainings are A of the design."""
    n_new = design.k[0]
    seeds = list(design.draw_seeds(rng))
    changes_of_trainings, changes_of_models = [], []
    for _ in range(n_sets):
        estimates = trainings(design, rng, seeds)
        values = np.array([estimate.value for estimate in estimates])
        covariance, n = image_covariance(estimates)
        changes_of_trainings.append(
            group_difference(values[:n_new], values[n_new:], covariance, n, pooled=True)
        )
        changes_of_models.append(mcnemar(estimates[0].hits, estimates[n_new].hits))
    return Alarms(is_regression(changes_of_trainings), is_regression(changes_of_models))


def is_regression(changes: Sequence[PairedDifference | GroupDifference]) -> bool:
    """Return whether the first step of Holm's method finds a regression; others need the first."""
    level = 1 - 2 * ALPHA / len(changes)
    return any(change.interval(level).high < 0 for change in changes)


class MethodsDesign(NamedTuple):
    """Trainings of two equally good methods."""

    name: str
    # Its `sd` is relative: (1, 0.25) if the seeds of B vary a quarter as much as those of A.
    design: Design
    # The numbers of trainings of A and B.
    sizes: Sequence[tuple[int, int]]


def methods_designs() -> list[MethodsDesign]:
    """Return the designs of the section `groups`."""
    same_sizes = [(k, k) for k in (2, 3, 5, 10)]
    other_sizes = [(2, 10), (3, 10)]
    designs = [
        MethodsDesign(f"accuracy, {n:,} images", Design((0, 0), n, (1, 1)), same_sizes)
        for n in IMAGE_COUNTS
    ]
    quarter = Design((0, 0), 500, (1, 0.25))
    skewed = Design((0, 0), 500, (1, 1), skewed=True)
    ceiling = Design((0, 0), 500, (1, 1), share=0.998)
    miou_design = Design((0, 0), 200, (1, 1), metric="mIoU")
    return [
        *designs,
        MethodsDesign(
            "seeds of B vary a quarter, 500 images", quarter, [*same_sizes, *other_sizes]
        ),
        MethodsDesign(
            "seeds of B vary a quarter, 5,000 images", quarter._replace(n=5000), other_sizes
        ),
        MethodsDesign("skewed seeds, 500 images", skewed, same_sizes),
        MethodsDesign("99.8% right, 500 images", ceiling, same_sizes),
        MethodsDesign("mIoU, 200 images", miou_design, same_sizes),
    ]


def groups(quick: bool) -> Iterator[Row]:
    """Yield type I errors of two equally good methods with k trainings each.

    Seeds have a standard deviation of some points. The coverage of intervals is 100% less the
    error. The last two columns are at one point: tests by images only, and of one training each.
    """
    n_studies = 30 if quick else 1000
    for name, design, sizes in methods_designs():
        for k in sizes:
            errors: dict[float, Rejected] = {}
            for points in (0, 0.5, 1, 2):
                sd = (points / 100 * design.sd[0], points / 100 * design.sd[1])
                errors[points] = rejected(design._replace(k=k, sd=sd), n_studies)
            row = {"equal methods": name, "k": str(k[0]) if k[0] == k[1] else f"{k[0]} / {k[1]}"}
            for points, shares in errors.items():
                row[f"seed sd {points:g}"] = percent(shares.groups)
            row["images alone"] = percent(errors[1].images_alone)
            row["one training each"] = percent(errors[1].one_each)
            yield row


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
    "lengths": ranks.lengths,
    "mean_rank": ranks.mean_rank,
    "few_shots": ranks.few_shots,
    "probe": ranks.probe,
    "neighbours": ranks.neighbours,
}
"""The functions that simulate, by the name of the section.

Each yields the rows of a table, from few studies if its argument `quick` is true.
"""

if __name__ == "__main__":
    main()
