"""The decision, metric by metric; what cannot be compared is a problem, never passes.

A metric regressed where the paired interval of new minus baseline lies below minus the tolerance,
at a level that holds for all metrics together: Holm's step-down over one-sided tests at 2.5%.
Without the baseline's samples the standard error is that of two independent results, from their
intervals: more than the paired one, so that small regressions are missed, not made up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from scipy.special import ndtri

from cosmos_eval.results.compare import differences_of, mismatches, setting
from cosmos_eval.results.gate.baseline import (
    Baseline,
    Entry,
    Key,
    baseline_samples,
    read_baseline,
    result_key,
    write_baseline,
)
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import list_results
from cosmos_eval.results.verify import Verdict, Verified, read_verified
from cosmos_eval.stats.paired import PairedDifference, holm, independent_difference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import Samples, UsageError

ALPHA = 0.025
"""One-sided probability of a false alarm on any metric of a whole check."""

Status = Literal["regression", "better", "no change shown"]


class Problem(NamedTuple):
    """Why something could not be decided."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class Finding(NamedTuple):
    """A metric of a new result and of the baseline.

    `change` is new (its `a`) minus baseline (its `b`); `adjusted` is Holm's one-sided p-value of a
    regression, and `detectable` the loss that this check finds with a probability of 80%.
    """

    key: Key
    task: str
    metric: str
    change: PairedDifference
    adjusted: float = 1.0
    detectable: float | None = None

    @property
    def record(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def status(self) -> Status:
        """The decision; `better` is by the 95% interval of this metric alone."""
        if self.adjusted <= ALPHA:
            return "regression"
        return "better" if self._gain().flipped().p_below(0) <= ALPHA else "no change shown"

    def _gain(self) -> PairedDifference:
        return self.change if self.record.higher_is_better else self.change.flipped()

    def p_regression(self, tolerance: float) -> float:
        """Return the one-sided p-value of a loss beyond the tolerance, for this metric alone."""
        return self._gain().p_below(-self._margin(tolerance))

    def decided(self, adjusted: float, tolerance: float, total: int) -> Finding:
        """Return the finding with its p-value among `total` metrics."""
        least = self.change.detectable(alpha=2 * ALPHA / total)
        detectable = None if least is None else least + self._margin(tolerance)
        return self._replace(adjusted=adjusted, detectable=detectable)

    def _margin(self, tolerance: float) -> float:
        """Return the tolerated loss: absolute for fractions, relative for ranks and ratios."""
        return tolerance * (1.0 if self.record.unit == "fraction" else self.change.b)


class Report(NamedTuple):
    """The outcome of a check; `tolerance` is the baseline's, None where it could not be read."""

    baseline: Path
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    tolerance: float | None = None

    @property
    def regressions(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == "regression"]

    @property
    def status(self) -> int:
        """Exit status: 1 a regression is shown, 2 something cannot be decided, 0 neither."""
        if self.regressions:
            return 1
        return 2 if self.problems or not self.findings else 0

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        total = len(self.findings)
        if self.regressions:
            return f"regression shown: {len(self.regressions)} of {total} metrics"
        if self.status == 2:
            count = len(self.problems)
            return f"cannot decide, for {count} reason{'s' if count > 1 else ''}"
        return f"no regression shown, of {total} metrics"


def read_results(places: Sequence[Path]) -> tuple[list[Verified], list[Problem]]:
    """Read results whose figures follow from their samples; report what is wrong with others."""
    found: list[Verified] = []
    problems: list[Problem] = []
    for place in places:
        files, faults = list_results(place)
        problems += [Problem(str(place), fault) for fault in faults]
        for result in map(read_verified, files):
            if isinstance(result, Verdict):
                wrong = "; ".join(result.differences) or result.obstacle
                problems.append(Problem(result.path, wrong))
            else:
                found.append(result)
    return found, problems


def examine(
    results: Sequence[Verified],
    path: Path,
    *,
    strict: bool = False,
    problems: Sequence[Problem] = (),
) -> Report:
    """Check results, and problems of reading them. Raises UsageError for a faulty baseline."""
    baseline = read_baseline(path)
    found = list(problems)
    by_key: dict[Key, Verified] = {}
    for result in results:
        key = result_key(result.row)
        if key in by_key:
            message = f"a second result of {key}, beside {by_key[key].path}"
            found.append(Problem(str(result.path), message))
        by_key.setdefault(key, result)
    found += _faults(results, strict=strict)
    found += _unmatched(by_key, baseline)
    notes, findings = [], []
    for entry in baseline.results:
        if entry.key not in by_key:
            continue
        where, metrics = str(entry.key), by_key[entry.key].row.metrics
        try:
            findings += _compare(by_key[entry.key], entry, baseline_samples(path, entry))
        except ValueError as error:
            found.append(Problem(where, str(error)))
        for name in sorted(entry.metrics.keys() - metrics.keys()):
            found.append(Problem(where, f"the result lacks {name}, which the baseline has"))
        if new := sorted(metrics.keys() - entry.metrics.keys()):
            notes.append(f"{where}: not in the baseline: {', '.join(new)}")
    if baseline.schema_version == 1:
        notes.append(f"{path} is of version 1 and has no hash of itself: write it with --update")
    decided = tuple(_decide(findings, baseline))
    return Report(path, decided, tuple(found), tuple(notes), baseline.tolerance)


def _faults(results: Iterable[Verified], *, strict: bool) -> Iterator[Problem]:
    for result in results:
        row, path = result.row, str(result.path)
        if row.model["random"]:
            yield Problem(path, "is of random weights, which measure nothing")
        if strict and "record_sha256" not in row.provenance:
            message = "is of version 1, without a hash that --strict could trust its commit by"
            yield Problem(path, message)
        elif strict and row.provenance["commit"] is None:
            yield Problem(path, "does not state its commit, which --strict requires")
        elif strict and row.provenance["dirty"] is not False:
            yield Problem(path, "is of edited code (dirty), which --strict refuses")


def _unmatched(by_key: Mapping[Key, Verified], baseline: Baseline) -> Iterator[Problem]:
    entries = {entry.key for entry in baseline.results}
    without_entry = [key for key in by_key if key not in entries]
    for key in sorted(entries - by_key.keys()):
        near = [other[0] for other in without_entry if other[1:] == key[1:]]
        hint = f"; there is one of {', '.join(near)}" if near else ""
        yield Problem(str(key), f"the baseline has it, the results have not{hint}")
    message = "is not in the baseline: leave it out, or add it with --update"
    yield from (Problem(str(key), message) for key in without_entry)


def _compare(result: Verified, entry: Entry, samples: Samples | None) -> list[Finding]:
    if differing := mismatches(entry.setting, setting(result.row)):
        raise ValueError(f"measured otherwise than the baseline: {'; '.join(differing)}")
    shared = [name for name in entry.metrics if name in result.row.metrics]
    task, new = result.row.task, (result.row.metrics, result.samples)
    if samples is None:
        changes = {name: _independent(result.row, entry, name) for name in shared}
    else:
        changes = differences_of(task, new, (entry.metrics, samples))
    return [Finding(entry.key, task, name, changes[name]) for name in shared]


def _independent(row: ResultRow, entry: Entry, metric: str) -> PairedDifference:
    if metric not in row.intervals or metric not in entry.intervals:
        raise ValueError(f"{metric} has no interval, and the baseline no samples")
    ends = row.intervals[metric], entry.intervals[metric]
    errors = ((e["high"] - e["low"]) / (2 * ndtri((1 + e["level"]) / 2)) for e in ends)
    values = row.metrics[metric], entry.metrics[metric]
    return independent_difference(*values, math.hypot(*errors), row.n_samples)


def _decide(findings: Sequence[Finding], baseline: Baseline) -> Iterator[Finding]:
    """Correct for all metrics of the baseline, also those that were not compared."""
    total = sum(len(entry.metrics) for entry in baseline.results)
    p_values = [finding.p_regression(baseline.tolerance) for finding in findings]
    adjusted = holm([*p_values, *[1.0] * (total - len(findings))])
    for finding, p in zip(findings, adjusted, strict=False):
        yield finding.decided(p, baseline.tolerance, total)


def replace_baseline(
    path: Path,
    results: Sequence[Verified],
    problems: Sequence[Problem],
    *,
    strict: bool = False,
    reason: str,
    tolerance: float = 0.0,
    keep_samples: bool = True,
) -> list[dict[str, str]]:
    """Make results the whole baseline in a file; return what changed.

    Raises UsageError for results that a check could not use, and where the file is no baseline.
    """
    wrong = [*map(str, problems), *map(str, _faults(results, strict=strict))]
    if wrong or not results:
        raise UsageError(f"no baseline of such results: {'; '.join(wrong)}")
    pairs = [(one.row, one.samples) for one in results]
    return write_baseline(
        path, pairs, reason=reason, tolerance=tolerance, keep_samples=keep_samples
    )
