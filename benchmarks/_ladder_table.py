"""The tables of benchmarks/scenes2_ladder.py: rungs, steps between them, and the paper's figures.

The interval of a rung is Student's over its trainings. The interval of a step is over seeds and
images, as `cosmos-eval compare --group` has it. Neither is corrected for the number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from _family import Comparison, Family, Side, Trainings, read_family
from _family_tests import Outcome, SideResults, StudyTests, metric_values, results_by_side
from scipy.stats import t as student_t
from study_claims import complete_seeds, wrap

from cosmos_eval.results.identity import training_of
from cosmos_eval.results.leaderboard.entries import read_published_entries
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.text import markdown_table

FAMILY = Path(__file__).parent / "scenes2" / "family.yaml"
# The metrics of the ladder by their titles in the study's family; the paper has the first two.
PAPER_METRICS = ("R@1 image to text", "R@1 text to image")
METRICS = (
    *PAPER_METRICS,
    "accuracy on small things",
    "suppression",
    "accuracy on siblings",
    "acc1",
)
_FEWEST_TRAININGS = 2  # of a rung, for an interval


class Rung(NamedTuple):
    """A rung of the ladder."""

    # What the rung adds to the one below.
    name: str
    # The name of the paper's rung among published numbers.
    paper_model: str
    # The definition, in one line.
    definition: str


class RungTrainings(NamedTuple):
    """A rung, and where its results are."""

    rung: Rung
    # The name of the trainings' group in results, without the hash of the recipe; empty: unknown.
    group: str
    # The folders of the results of each measured training.
    folders: Sequence[Path]


class Ladder(NamedTuple):
    """The rungs of a ladder, from the lowest one up, with their results."""

    rungs: Sequence[Rung]
    # The metrics and the tests of all steps.
    family: Family
    # The results of complete trainings.
    results: SideResults
    # The seeds of the complete trainings of each rung, by its name.
    seeds: Mapping[str, Sequence[int]]
    # The figures of the paper in percent, by rung and metric.
    paper: Mapping[Side, float]


class Step(NamedTuple):
    """A step from a rung to the next one, in one metric."""

    difference: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        """True if the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def sign_text(self, paper_step: float) -> str:
        """Return whether a step has the sign of the paper's: "same", "opposite, not shown", ..."""
        if self.difference == 0:
            return "none, not shown"
        sign = "same" if self.difference * paper_step > 0 else "opposite"
        return sign if self.is_shown else f"{sign}, not shown"


Steps = Mapping[Side, Step]
"""The steps up to a rung, by the rung and the metric."""


def read_ladder(trainings: Sequence[RungTrainings], seeds: Sequence[int]) -> Ladder:
    """Read the results of a ladder.

    Args:
        trainings: The rungs, from the lowest one up.
        seeds: The seeds that each rung should have.

    Raises:
        UsageError: For results that were edited, or that cannot be compared with each other.
    """
    family = _ladder_family(trainings, seeds)
    paths = []
    for rung_trainings in trainings:
        for folder in rung_trainings.folders:
            paths += result_paths(folder)
    results = results_by_side(family, read_stored(paths))
    rungs = [rung_trainings.rung for rung_trainings in trainings]
    seeds_by_rung = {rung.name: sorted(complete_seeds(rung.name, results)) for rung in rungs}
    complete_results = {}
    for side, results_by_seed in results.items():
        rung_seeds = seeds_by_rung[side.method]
        complete_results[side] = {seed: results_by_seed[seed] for seed in rung_seeds}
    return Ladder(rungs, family, complete_results, seeds_by_rung, paper_figures(rungs))


def _ladder_family(trainings: Sequence[RungTrainings], seeds: Sequence[int]) -> Family:
    """Return a family with the study's metrics, in which each rung is compared with the next one.

    Args:
        trainings: The rungs, from the lowest one up.
        seeds: The seeds that each rung should have.
    """
    study = read_family(FAMILY)
    methods = {}
    for rung_trainings in trainings:
        group = rung_trainings.group or "unknown"
        methods[rung_trainings.rung.name] = Trainings(group=group, seeds=[*seeds])
    names = [*methods]
    differences = []
    for lower, upper in pairwise(names):
        differences.append(Comparison(a=upper, b=[lower], metrics=[*METRICS]))
    tests = study.tests.model_copy(
        update={"differences": differences, "metric_differences": [], "equivalences": []}
    )
    metrics = {title: study.metrics[title] for title in METRICS}
    return study.model_copy(
        update={"methods": methods, "metrics": metrics, "tests": tests, "failed": []}
    )


def paper_figures(rungs: Sequence[Rung]) -> dict[Side, float]:
    """Return the paper's R@1 on COCO in percent, second-hand, by rung and metric."""
    metrics = read_family(FAMILY).metrics
    entries = {entry.model: entry for entry in read_published_entries()}
    figures = {}
    for rung in rungs:
        for title in PAPER_METRICS:
            value = entries[rung.paper_model].metrics[metrics[title].metric]
            figures[Side(rung.name, title)] = round(100 * value, 2)
    return figures


def measured_steps(ladder: Ladder) -> Steps:
    """Return the steps between rungs that both have two trainings or more."""
    comparisons = []
    for comparison in ladder.family.tests.differences:
        rungs = (comparison.a, *comparison.b)
        if all(len(ladder.seeds[rung]) >= _FEWEST_TRAININGS for rung in rungs):
            comparisons.append(comparison)
    if not comparisons:
        return {}
    methods = {}
    for name, trainings in ladder.family.methods.items():
        methods[name] = trainings.model_copy(update={"seeds": [*ladder.seeds[name]]})
    tests = ladder.family.tests.model_copy(update={"differences": comparisons})
    family = ladder.family.model_copy(update={"methods": methods, "tests": tests})
    outcomes = StudyTests(family, ladder.results).outcomes()
    return {outcome.test.a: _step(outcome) for outcome in outcomes}


def _step(outcome: Outcome) -> Step:
    """Return the step that an outcome tests."""
    return Step(outcome.difference, outcome.low, outcome.high)


def paper_step(ladder: Ladder, side: Side) -> float:
    """Return the paper's step up to a rung, in points.

    Args:
        ladder: The ladder.
        side: A rung above the lowest one, and one of PAPER_METRICS.
    """
    names = [rung.name for rung in ladder.rungs]
    lower = Side(names[names.index(side.method) - 1], side.metric)
    return round(ladder.paper[side] - ladder.paper[lower], 2)


def report(
    trainings: Sequence[RungTrainings], seeds: Sequence[int], learning_rate_note: str
) -> Iterator[str]:
    """Yield the lines of the ladder in Markdown: verdict, rungs, steps and notes.

    Args:
        trainings: The rungs, from the lowest one up.
        seeds: The seeds that each rung should have.
        learning_rate_note: A note on the learning rate.

    Raises:
        UsageError: For results that were edited, or that cannot be compared with each other.
    """
    ladder = read_ladder(trainings, seeds)
    steps = measured_steps(ladder)
    n_planned = len(seeds) * len(trainings)
    n_complete = sum(len(rung_seeds) for rung_seeds in ladder.seeds.values())
    is_interim = n_complete < n_planned
    yield f"# {'INTERIM: ' if is_interim else ''}What each part of COSMOS brings on scenes\n"
    if is_interim:
        yield wrap(f"{n_complete} of {n_planned} trainings are complete.")
    else:
        for sentence in verdict(ladder, steps):
            yield wrap(sentence)
    yield f"\n## Rungs\n\n{rungs_table(ladder)}"
    yield f"## Steps\n\n{steps_table(ladder, steps)}"
    yield "## Notes\n"
    for note in notes(ladder, seeds, learning_rate_note):
        yield wrap(note)


def verdict(ladder: Ladder, steps: Steps) -> Iterator[str]:
    """Yield which steps of R@1 are shown, beside the paper's, if no training is missing.

    Example:
        "R@1 image to text: shown with the paper's sign: text augmentation; with the opposite sign:
        none; not shown: image augmentation, cross-attention. The largest step is text augmentation,
        also the paper's."
    """
    for title in PAPER_METRICS:
        sides = [side for side in steps if side.metric == title]
        rungs_of_sign: dict[str, list[str]] = {"same": [], "opposite": [], "not shown": []}
        for side in sides:
            sign = "not shown"
            if steps[side].is_shown:
                sign = steps[side].sign_text(paper_step(ladder, side))
            rungs_of_sign[sign].append(side.method)
        same = ", ".join(rungs_of_sign["same"]) or "none"
        opposite = ", ".join(rungs_of_sign["opposite"]) or "none"
        not_shown = ", ".join(rungs_of_sign["not shown"]) or "none"
        largest = max(sides, key=lambda side: steps[side].difference)
        paper_largest = max(sides, key=lambda side: paper_step(ladder, side))
        beside = "also the paper's" if largest == paper_largest else f"not {paper_largest.method}"
        yield (
            f"{title}: shown with the paper's sign: {same}; with the opposite sign: {opposite}; "
            f"not shown: {not_shown}. The largest step is {largest.method}, {beside}."
        )


def rungs_table(ladder: Ladder) -> str:
    """Return a table of the rungs: the mean of each metric with its interval over trainings."""
    header = ["rung", "seeds", *METRICS, "TFLOPs", *[f"paper: {title}" for title in PAPER_METRICS]]
    rows = []
    for rung in ladder.rungs:
        prefix = "+ " if rung != ladder.rungs[0] else ""
        seeds_text = ", ".join(str(seed) for seed in ladder.seeds[rung.name])
        cells = [f"{prefix}{rung.name}", seeds_text]
        for title in METRICS:
            results_of_side = ladder.results[Side(rung.name, title)]
            metric = ladder.family.metrics[title]
            cells.append(mean_text(metric_values(results_of_side, metric)))
        cells.append(_flops_text(ladder, rung))
        cells += [f"{ladder.paper[Side(rung.name, title)]:.1f}" for title in PAPER_METRICS]
        rows.append(cells)
    return markdown_table(header, rows, n_text_columns=2)


def mean_text(values: Sequence[float]) -> str:
    """Return the mean of trainings and its 95% interval by Student's t; empty without values.

    Example:
        For [40, 50, 60], the mean is 50, its error 10 / sqrt(3), and the quantile of t with two
        degrees of freedom 4.303: "50.0 [25.2, 74.8]". For [40] it is "40.0".
    """
    if not values:
        return ""
    center = mean(values)
    if len(values) < _FEWEST_TRAININGS:
        return f"{center:.1f}"
    half_width = student_t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{center:.1f} [{center - half_width:.1f}, {center + half_width:.1f}]"


def _flops_text(ladder: Ladder, rung: Rung) -> str:
    """Return the mean TFLOPs of the trainings of a rung; empty if they are unknown."""
    results = ladder.results[Side(rung.name, METRICS[0])].values()
    flops: list[float] = []
    for result in results:
        training_flops = training_of(result.row).get("flops")
        if training_flops is None:
            return ""
        flops.append(training_flops)
    return f"{mean(flops) / 1e12:.0f}" if flops else ""


def steps_table(ladder: Ladder, steps: Steps) -> str:
    """Return a table of the steps with their intervals, beside the paper's steps of R@1."""
    header = ["step"]
    for title in METRICS:
        header.append(title)
        if title in PAPER_METRICS:
            header += ["paper", "sign"]
    rows = []
    for rung in ladder.rungs[1:]:
        cells = [f"+ {rung.name}"]
        for title in METRICS:
            side = Side(rung.name, title)
            cells += _step_cells(steps.get(side), side, ladder)
        rows.append(cells)
    return markdown_table(header, rows, n_text_columns=1)


def _step_cells(step: Step | None, side: Side, ladder: Ladder) -> list[str]:
    """Return the cells of a step: the difference, and for R@1 the paper's and its sign."""
    text = f"{step.difference:+.1f} [{step.low:+.1f}, {step.high:+.1f}]" if step else ""
    if side.metric not in PAPER_METRICS:
        return [text]
    paper_difference = paper_step(ladder, side)
    sign_text = step.sign_text(paper_difference) if step else ""
    return [text, f"{paper_difference:+.1f}", sign_text]


def notes(ladder: Ladder, seeds: Sequence[int], learning_rate_note: str) -> Iterator[str]:
    """Yield the notes on a ladder.

    Args:
        ladder: The ladder.
        seeds: The seeds that each rung should have.
        learning_rate_note: A note on the learning rate.
    """
    for rung in ladder.rungs:
        yield f"{rung.name}: {rung.definition}."
    yield (
        "Raw captions name the dominant thing only, and captions of test scenes small things, too. "
        "So rungs with raw captions alone cannot tell many test scenes apart, and that captions "
        "bring most follows from the data."
    )
    yield (
        f"{learning_rate_note} Each rung has the seeds {', '.join(map(str, seeds))}, and as many "
        "samples. A rung with more views has more FLOPs."
    )
    yield (
        "Rungs: mean and 95% interval over seeds (Student's t, which may pass 0 or 100). Steps: "
        "points, with 95% intervals "
        "over seeds and images (docs/comparing.md), not corrected for the number of steps. "
        "Suppression: accuracy on the dominant thing minus accuracy on small things. Not shown: "
        "the interval includes 0."
    )
    yield (
        "Paper: R@1 on COCO of ViT-B/16 trained on CC3M, Table 5 of arXiv 2412.01814 as others "
        "quote it (second-hand). Only signs and order compare with scenes."
    )
