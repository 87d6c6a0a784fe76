"""The decision, metric by metric.

A metric regressed where the paired interval of new minus baseline lies below minus the tolerance,
at a level that holds for all metrics of the baseline together: Holm's step-down over one-sided
tests at 2.5%, so that an adjusted p-value of that much implies a 95% interval below it. Metrics of
one data set depend on each other, for which Holm's correction allows. Without the baseline's
samples the standard error is that of two independent results, from their intervals: more than the
paired one, so that small regressions are missed, not made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scipy.special import ndtri

from cosmos_eval.results.compare import Sampled, differences_of, mismatches, setting
from cosmos_eval.results.gate.baseline import (
    Baseline,
    Entry,
    Key,
    described,
    read_baseline,
    result_key,
    write_baseline,
)
from cosmos_eval.results.text import is_share, lower_is_better
from cosmos_eval.stats.paired import PairedDifference, holm, independent_difference
from cosmos_eval.types import ResultRow, Samples, UsageError

ALPHA = 0.025
"""One-sided probability of a false alarm on any metric of a whole check."""

Status = Literal["regression", "better", "no change shown"]


class Measured(NamedTuple):
    """A new result, its samples, and its file."""

    path: Path
    row: ResultRow
    samples: Samples


class Problem(NamedTuple):
    """Why something could not be decided: where it is, and what is wrong."""

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
    metric: str
    change: PairedDifference
    adjusted: float
    detectable: float | None

    @property
    def status(self) -> Status:
        """What is decided; `better` is by the 95% interval of this metric alone."""
        if self.adjusted <= ALPHA:
            return "regression"
        loss = _gain(self.change, self.metric).flipped()
        return "better" if loss.p_below(0) <= ALPHA else "no change shown"


class Report(NamedTuple):
    """What a check found out; `tolerance` is the baseline's, None where it could not be read."""

    baseline: Path
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    tolerance: float | None = None

    @property
    def regressions(self) -> list[Finding]:
        """The metrics that regressed."""
        return [finding for finding in self.findings if finding.status == "regression"]

    @property
    def status(self) -> int:
        """Exit status: 1 a regression is shown, 2 something cannot be decided, 0 neither."""
        if self.regressions:
            return 1
        return 2 if self.problems or not self.findings else 0

    @property
    def verdict(self) -> str:
        """The outcome in a line."""
        total = len(self.findings)
        if self.regressions:
            return f"regression shown: {len(self.regressions)} of {total} metrics"
        if self.status == 2:
            count = len(self.problems)
            return f"cannot decide, for {count} reason{'s' if count > 1 else ''}"
        return f"no regression shown, of {total} metrics"


class _Pair(NamedTuple):
    """A metric before the correction for many."""

    key: Key
    metric: str
    change: PairedDifference


def undecided(baseline: Path, problems: Sequence[Problem]) -> Report:
    """The report where nothing could be compared."""
    return Report(baseline, (), tuple(problems))


def examine(
    results: Sequence[Measured],
    baseline: Baseline,
    *,
    strict: bool = False,
    problems: Sequence[Problem] = (),
) -> Report:
    """Check new results against a baseline; `problems` are those of reading the results."""
    found = list(problems)
    by_key: dict[Key, Measured] = {}
    for result in results:
        key = result_key(result.row)
        if key in by_key:
            message = f"a second result of {described(key)}, beside {by_key[key].path}"
            found.append(Problem(str(result.path), message))
        by_key.setdefault(key, result)
        found += [Problem(str(result.path), fault) for fault in _faults(result, strict=strict)]
    found += _unmatched(by_key, baseline)
    pairs: list[_Pair] = []
    for entry in baseline.entries:
        if entry.key in by_key:
            try:
                pairs += _pairs(by_key[entry.key], entry, baseline)
            except ValueError as error:
                found.append(Problem(described(entry.key), str(error)))
    found += _missing_metrics(by_key, baseline)
    notes = [*_unchecked_metrics(by_key, baseline), *_without_hash(baseline)]
    findings = _findings(pairs, baseline)
    return Report(baseline.path, findings, tuple(found), tuple(notes), baseline.tolerance)


def replace_baseline(
    path: Path,
    results: Sequence[Measured],
    problems: Sequence[Problem],
    *,
    strict: bool,
    reason: str,
    tolerance: float,
    keep_samples: bool,
) -> list[dict[str, str]]:
    """Make results the baseline in a file, which then holds nothing else; return what changed.

    Raises UsageError for results that a check could not use, and where the file is no baseline.
    """
    wrong = [str(problem) for problem in problems]
    wrong += [f"{one.path}: {line}" for one in results for line in _faults(one, strict=strict)]
    if wrong or not results:
        raise UsageError(f"no baseline of such results: {'; '.join(wrong)}")
    before = {entry.key for entry in read_baseline(path).entries} if path.exists() else set()
    after = write_baseline(
        path,
        [(one.row, one.samples) for one in results],
        reason=reason,
        tolerance=tolerance,
        keep_samples=keep_samples,
    )
    return [
        {"result": described(key), "change": _change(key in before, key in after)}
        for key in sorted(before | after)
    ]


def _change(before: bool, after: bool) -> str:
    return ("replaced" if after else "removed") if before else "added"


def _faults(result: Measured, *, strict: bool) -> list[str]:
    """What is wrong with a result by itself, a line each."""
    row = result.row
    found = []
    if row.model["random"]:
        found.append("is of random weights, which measure nothing")
    bounds = [some[end] for some in row.intervals.values() for end in ("low", "high")]
    if not all(map(math.isfinite, bounds)):
        found.append("has an interval that is not finite")
    if strict and "record_sha256" not in row.provenance:
        found.append("is of version 1, without a hash that --strict could trust its commit by")
    elif strict and row.provenance["commit"] is None:
        found.append("does not say its commit, as --strict wants")
    elif strict and row.provenance["dirty"] is not False:
        found.append("is of edited code (dirty), which --strict refuses")
    return found


def _unmatched(by_key: Mapping[Key, Measured], baseline: Baseline) -> list[Problem]:
    """Entries without a result and results without an entry; what may be meant is told."""
    entries = {entry.key for entry in baseline.entries}
    lone_results = [key for key in by_key if key not in entries]
    found = []
    for key in sorted(entries - set(by_key)):
        near = [other[0] for other in lone_results if other[1:] == key[1:]]
        hint = f"; there is one of {', '.join(near)}" if near else ""
        message = f"the baseline has it, the results have not{hint}"
        found.append(Problem(described(key), message))
    for key in lone_results:
        message = "is not in the baseline: leave it out, or add it with --update"
        found.append(Problem(described(key), message))
    return found


def _pairs(result: Measured, entry: Entry, baseline: Baseline) -> list[_Pair]:
    """The metrics of an entry that a result has as well. Raises ValueError."""
    differing = mismatches(entry.setting, setting(result.row))
    if differing:
        fields = "; ".join(map(str, differing))
        raise ValueError(f"measured otherwise than the baseline: {fields}")
    changes = _changes(result, entry, baseline)
    shared = [name for name in entry.metrics if name in result.row.metrics]
    return [_Pair(entry.key, name, changes[name]) for name in shared]


def _changes(result: Measured, entry: Entry, baseline: Baseline) -> Mapping[str, PairedDifference]:
    """New minus baseline of every metric of an entry."""
    samples = baseline.samples_of(entry)
    if samples is None:
        return {
            name: _independent(result.row, entry, name)
            for name in entry.metrics
            if name in result.row.metrics
        }
    new, old = Sampled(result.row.metrics, result.samples), Sampled(entry.metrics, samples)
    return differences_of(result.row.task, new, old)


def _independent(row: ResultRow, entry: Entry, metric: str) -> PairedDifference:
    """The difference of two results as if they were of different samples."""
    try:
        errors = [_standard_error(some.intervals[metric]) for some in (row, entry)]
    except KeyError as error:
        raise ValueError(f"{metric} has no interval, and the baseline no samples") from error
    values = row.metrics[metric], entry.metrics[metric]
    return independent_difference(*values, math.hypot(*errors), row.n_samples)


def _standard_error(interval: Mapping[str, Any]) -> float:
    width = interval["high"] - interval["low"]
    return float(width / (2 * ndtri((1 + interval["level"]) / 2)))


def _findings(pairs: Sequence[_Pair], baseline: Baseline) -> tuple[Finding, ...]:
    """Decisions, corrected for all metrics of the baseline, also those that were not compared."""
    total = sum(len(entry.metrics) for entry in baseline.entries)
    p_values = [_p_regression(pair, baseline.tolerance) for pair in pairs]
    adjusted = holm([*p_values, *[1.0] * (total - len(pairs))])
    return tuple(
        Finding(*pair, adjusted=p, detectable=_detectable(pair, baseline.tolerance, total))
        for pair, p in zip(pairs, adjusted, strict=False)
    )


def _p_regression(pair: _Pair, tolerance: float) -> float:
    return _gain(pair.change, pair.metric).p_below(-_margin(pair, tolerance))


def _detectable(pair: _Pair, tolerance: float, total: int) -> float | None:
    least = pair.change.detectable(alpha=2 * ALPHA / total)
    return None if least is None else least + _margin(pair, tolerance)


def _margin(pair: _Pair, tolerance: float) -> float:
    """Tolerated loss: of what is no share a share of it."""
    return tolerance * (1.0 if is_share(pair.metric) else pair.change.b)


def _gain(change: PairedDifference, metric: str) -> PairedDifference:
    """The change, positive where the metric is better."""
    return change.flipped() if lower_is_better(metric) else change


def _missing_metrics(by_key: Mapping[Key, Measured], baseline: Baseline) -> list[Problem]:
    return [
        Problem(described(entry.key), f"the result lacks {name}, which the baseline has")
        for entry in baseline.entries
        if entry.key in by_key
        for name in entry.metrics
        if name not in by_key[entry.key].row.metrics
    ]


def _without_hash(baseline: Baseline) -> list[str]:
    if baseline.version > 1:
        return []
    return [f"{baseline.path} is of version 1 and has no hash of itself: write it with --update"]


def _unchecked_metrics(by_key: Mapping[Key, Measured], baseline: Baseline) -> list[str]:
    notes = []
    for entry in baseline.entries:
        if entry.key in by_key:
            new = sorted(set(by_key[entry.key].row.metrics) - set(entry.metrics))
            if new:
                notes.append(f"{described(entry.key)}: not in the baseline: {', '.join(new)}")
    return notes
