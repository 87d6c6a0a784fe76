"""The file of a family of tests: every test that the text on a study may draw on.

The file is written before the trainings. `benchmarks/scenes2/family.yaml` explains the keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timezone
from math import comb
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field

from cosmos_eval.data.readers import CONFIG, FileError, Text, parse, read_yaml, report_faults_at
from cosmos_eval.types import nearest

_NotEmpty = Field(min_length=1)
_Seeds = Annotated[list[int], _NotEmpty]


class Trainings(BaseModel):
    """The trainings of a method."""

    model_config = CONFIG

    # The name of the group in results, with or without the hash of the recipe at its end.
    group: Text
    seeds: _Seeds


class Metric(BaseModel):
    """A metric, and the results that have it."""

    model_config = CONFIG

    dataset: Text
    # The protocol, without the hash of a search: `tuned` stands for `tuned-4073c4510f72`.
    protocol: Text
    metric: Text
    # Settings that differ from the protocol, as labels name them, such as `crossmodal`.
    variants: list[Text] = []


class StudyMetric(Metric):
    """A metric that tests compare."""

    # How the paper expects the first method to differ from the second one.
    expected: Literal["higher", "lower"]


class Comparison(BaseModel):
    """Tests of one method against others, in several metrics."""

    model_config = CONFIG

    a: Text
    b: Annotated[list[Text], _NotEmpty]
    metrics: Annotated[list[Text], _NotEmpty]


class MetricComparison(BaseModel):
    """A test of two metrics of the same trainings."""

    model_config = CONFIG

    method: Text
    a: Text
    b: Text


class Margin(BaseModel):
    """The difference below which methods are called equally good."""

    model_config = CONFIG

    points: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    reason: Text

    @property
    def unit(self) -> str:
        """The word "point" or "points"."""
        return "point" if self.points == 1 else "points"


class Failure(BaseModel):
    """A training that ended without a model."""

    model_config = CONFIG

    method: Text
    seed: int
    reason: Text


class Side(NamedTuple):
    """One side of a test: a metric of the trainings of a method, both by their titles."""

    method: str
    metric: str


class PlannedTest(NamedTuple):
    """A test that a family states."""

    a: Side
    b: Side
    # True for a test that the sides differ by less than the margin, false for one that they differ.
    is_equivalence: bool

    @property
    def is_paired(self) -> bool:
        """True if both sides have the same trainings."""
        return self.a.method == self.b.method

    @property
    def comparison(self) -> str:
        """The two sides, such as "COSMOS minus CLIP" or "COSMOS: mIoU, values minus mIoU"."""
        if self.is_paired:
            return f"{self.a.method}: {self.a.metric} minus {self.b.metric}"
        return f"{self.a.method} minus {self.b.method}"


class Tests(BaseModel):
    """The tests of a study, which Holm's correction covers together."""

    model_config = CONFIG

    # The probability with which any test may be significant by chance.
    level: Annotated[float, Field(gt=0, lt=1)]
    # The p-values that decide: of the exact permutation test over trainings, or of the test over
    # seeds and images that `cosmos-eval compare --group` prints.
    decides: Literal["permutation", "seeds and images"]
    differences: Annotated[list[Comparison], _NotEmpty]
    metric_differences: list[MetricComparison] = []
    equivalences: list[Comparison] = []
    # Needed if there are equivalences.
    margin: Margin | None = None


class Family(BaseModel):
    """A study, and all tests that a text on it may draw on."""

    model_config = CONFIG

    title: Text
    # The time at which the tests were stated, in ISO 8601 with a time zone.
    stated: Text
    methods: Annotated[dict[Text, Trainings], _NotEmpty]
    # Seeds with which a protocol or settings were chosen. Tests are repeated without them.
    settings_chosen_with_seeds: list[int]
    metrics: Annotated[dict[Text, StudyMetric], _NotEmpty]
    tests: Tests
    rules: list[Text]
    exploratory: list[Text]
    failed: list[Failure] = []

    @property
    def time(self) -> datetime:
        """The time at which the tests were stated, in UTC."""
        return datetime.fromisoformat(self.stated).astimezone(timezone.utc)

    def planned_tests(self) -> list[PlannedTest]:
        """Return all tests: differences of methods, of metrics, and then equivalences."""
        tests = [*_expand(self.tests.differences, is_equivalence=False)]
        for comparison in self.tests.metric_differences:
            a = Side(comparison.method, comparison.a)
            b = Side(comparison.method, comparison.b)
            tests.append(PlannedTest(a, b, is_equivalence=False))
        return [*tests, *_expand(self.tests.equivalences, is_equivalence=True)]

    def require_margin(self) -> Margin:
        """Return the margin of equivalence, which a family with equivalences has."""
        assert self.tests.margin is not None
        return self.tests.margin

    def seeds_of(self, method: str) -> list[int]:
        """Return the seeds of a method's trainings that did not fail, in increasing order."""
        failed_seeds = {failure.seed for failure in self.failed if failure.method == method}
        return sorted(set(self.methods[method].seeds) - failed_seeds)


def _expand(comparisons: list[Comparison], *, is_equivalence: bool) -> Iterator[PlannedTest]:
    """Yield a test for each second method and metric of comparisons."""
    for comparison in comparisons:
        for b in comparison.b:
            for metric in comparison.metrics:
                yield PlannedTest(Side(comparison.a, metric), Side(b, metric), is_equivalence)


def read_family(path: Path) -> Family:
    """Read the file of a family of tests.

    Raises:
        UsageError: If something in the file is missing, unknown or repeated. The message names the
            file.
    """
    with report_faults_at(f"{path}: "):
        family = parse(Family, read_yaml(path, "title: A study"))
        _check_time(family.stated)
        _check_names(family)
        _check_tests(family)
    return family


def _check_time(stated: str) -> None:
    """Raise FileError unless a text is a time in ISO 8601 with a time zone."""
    example = "2026-11-29T19:00:00+00:00"
    try:
        has_zone = datetime.fromisoformat(stated).tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone:
        raise FileError(f"`stated` must be a time with its zone, such as {example}, not {stated!r}")


def _check_names(family: Family) -> None:
    """Raise FileError for a method or a metric that the family does not describe."""
    for test in family.planned_tests():
        for side in (test.a, test.b):
            _require_known(side.method, family.methods, "method")
            _require_known(side.metric, family.metrics, "metric")
    for failure in family.failed:
        _require_known(failure.method, family.methods, "method")
        if failure.seed not in family.methods[failure.method].seeds:
            raise FileError(f"`failed`: {failure.method} has no seed {failure.seed}")


def _require_known(name: str, known_names: Mapping[str, object], kind: str) -> None:
    """Raise FileError, which names the nearest known name, for a name that is not known."""
    if name not in known_names:
        raise FileError(f"unknown {kind} {name!r}; nearest: {nearest(name, known_names)}")


def _check_tests(family: Family) -> None:
    """Raise FileError for repeated tests and seeds, and for metrics that cannot be compared."""
    if family.tests.equivalences and family.tests.margin is None:
        raise FileError("`tests.equivalences` need `tests.margin`")
    tests = family.planned_tests()
    for test in tests:
        if tests.count(test) > 1:
            raise FileError(f"{test.comparison}, {test.a.metric}, is stated twice")
        a, b = family.metrics[test.a.metric], family.metrics[test.b.metric]
        if (a.dataset, a.metric) != (b.dataset, b.metric):
            raise FileError(f"{test.comparison}: the metrics belong to different samples")
    for title, trainings in family.methods.items():
        if len(set(trainings.seeds)) < len(trainings.seeds):
            raise FileError(f"`methods.{title}.seeds` repeats a seed")


def least_p_value(test: PlannedTest, n_a: int, n_b: int) -> float:
    """Return the least p-value that a permutation test over trainings can have.

    There are C(n_a + n_b, n_a) ways to divide the trainings among the methods, or 2^n ways to
    exchange the metrics of n trainings. A test of a difference is two-sided, which doubles the
    p-value.

    Example:
        8 and 8 trainings: 2 / 12870. 5 and 3: 2 / 56. Two metrics of 5 trainings: 2 / 32.
    """
    n_divisions = 2**n_a if test.is_paired else comb(n_a + n_b, n_a)
    return (1 if test.is_equivalence else 2) / n_divisions


def seeds_text(seeds: Collection[int]) -> str:
    """Return seeds as a text, such as "seeds 0, 3 and 5"; "seed 5" for a single one."""
    *first, last = [str(seed) for seed in sorted(seeds)]
    return f"seeds {', '.join(first)} and {last}" if first else f"seed {last}"
