"""The decision, metric by metric; what cannot be compared is a problem, never passes. A metric
regressed where the paired interval of new minus baseline lies below minus the tolerance, at a level
that holds for all gated metrics together: Holm's step-down over one-sided tests at 2.5%. Metrics
that are not gated are for information. Without the
baseline's samples the standard error is that of two independent results, from their intervals: more
than the paired one, so that small regressions are missed, not made up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from scipy.special import ndtri

from cosmos_eval.results.compare import differences_of, mismatches, setting
from cosmos_eval.results.gate import baseline as baselines
from cosmos_eval.results.gate.baseline import Baseline, Entry, Key, Problem, faults_of, result_key
from cosmos_eval.results.labels import model_label, model_sha256
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import list_results
from cosmos_eval.results.verify import Verdict, Verified, read_verified
from cosmos_eval.stats.paired import PairedDifference, holm, independent_difference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import Samples

_HASH = 8  # characters of a hash that is shown
ALPHA = 0.025
"""One-sided probability of a false alarm on any gated metric of a whole check."""


class Finding(NamedTuple):
    """A metric of a new result and of the baseline. `change` is new (its `a`) minus baseline (its
    `b`); `adjusted` is Holm's one-sided p-value of a regression, None where the metric is not
    gated, and `detectable` the loss that its test finds with a probability of 80%."""

    key: Key
    task: str
    metric: str
    change: PairedDifference
    adjusted: float | None = None
    detectable: float | None = None

    @property
    def record(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def gain(self) -> PairedDifference:
        return self.change if self.record.higher_is_better else self.change.flipped()

    @property
    def status(self) -> Literal["regression", "worse, not gated", "better", "no change shown"]:
        """The decision; all but a regression are by the 95% interval of this metric alone."""
        if self.adjusted is not None and self.adjusted <= ALPHA:
            return "regression"
        if self.adjusted is None and self.gain.p_below(0) <= ALPHA:
            return "worse, not gated"
        return "better" if self.gain.flipped().p_below(0) <= ALPHA else "no change shown"


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
    def gated(self) -> int:
        """The number of metrics that can fail the check."""
        return sum(finding.adjusted is not None for finding in self.findings)

    @property
    def status(self) -> int:
        """Exit status: 1 a regression is shown, 2 something cannot be decided, 0 neither."""
        if self.regressions:
            return 1
        return 2 if self.problems or not self.gated else 0

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        count, others = len(self.problems), len(self.findings) - self.gated
        total = f"{self.gated} metrics{f' ({others} more for information)' if others else ''}"
        return (
            f"no regression shown, of {total}",
            f"regression shown: {len(self.regressions)} of {total}",
            f"cannot decide, for {count} reason{'s' if count > 1 else ''}",
        )[self.status]


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
    baseline = baselines.read_baseline(path)
    results, notes = baselines.without_former(results)
    found, findings = list(problems), []
    by_key: dict[Key, Verified] = {}
    for result in results:
        first = by_key.setdefault(key := _key_in(baseline, result.row), result)
        if first is not result:
            message = f"a second result of {key}, beside {first.path}"
            found.append(Problem(str(result.path), message))
    found += [*faults_of(results, strict=strict), *_unmatched(by_key, baseline)]
    for entry in (entry for entry in baseline.results if entry.key in by_key):
        where, metrics = str(entry.key), by_key[entry.key].row.metrics
        try:
            samples = baselines.baseline_samples(path, entry)
            findings += _compare(by_key[entry.key], entry, samples)
        except ValueError as error:
            found.append(Problem(where, str(error)))
        for name in sorted(entry.metrics.keys() - metrics.keys()):
            found.append(Problem(where, f"the result lacks {name}, which the baseline has"))
        if new := sorted(metrics.keys() - entry.metrics.keys()):
            notes.append(f"{where}: not in the baseline: {', '.join(new)}")
    notes += _states(by_key, baseline)
    if baseline.schema_version == 1:
        notes.append(f"{path} is of version 1 and has no hash of itself: write it with --update")
    gated = {entry.key: baseline.gated_metrics(entry) for entry in baseline.results}
    total = sum(map(len, gated.values()))  # also those not compared
    tested = [finding for finding in findings if finding.metric in gated[finding.key]]
    decided = iter([*decide(tested, baseline.tolerance, total)])
    shown = tuple(
        next(decided)
        if finding.metric in gated[finding.key]
        else finding._replace(detectable=finding.change.detectable(2 * ALPHA))
        for finding in findings
    )
    return Report(path, shown, tuple(found), tuple(notes), baseline.tolerance)


def _key_in(baseline: Baseline, row: ResultRow) -> Key:
    """Return the key of a result, or that of the same model under another name in the baseline."""
    own, sha256 = result_key(row), model_sha256(row)
    words = own.model.partition(" (")[2]  # what differs from the defaults
    alike = [
        entry.key
        for entry in baseline.results
        if entry.model_sha256 == sha256
        and entry.key[1:] == own[1:]
        and entry.model.partition(" (")[2] == words
    ]
    is_known = own in (entry.key for entry in baseline.results)
    return own if is_known or len(alike) != 1 else alike[0]


def _states(by_key: Mapping[Key, Verified], baseline: Baseline) -> list[str]:
    """Return a note per model on its weights then and now, and on its name in the results."""
    notes = []
    for entry in (entry for entry in baseline.results if entry.key in by_key):
        row, then = by_key[entry.key].row, entry.weights_sha256[:_HASH]
        now, name = str(row.model["weights_sha256"])[:_HASH], model_label(row)
        called = "" if name == entry.model else f", called {name} in the results"
        weights = f"{then}, as in the baseline" if now == then else f"{now}, in the baseline {then}"
        notes.append(f"{entry.model}: weights {weights}{called}")
    return list(dict.fromkeys(notes))


def _unmatched(by_key: Mapping[Key, Verified], baseline: Baseline) -> Iterator[Problem]:
    entries = {entry.key for entry in baseline.results}
    without_entry = [key for key in by_key if key not in entries]
    for key in sorted(entries - by_key.keys()):
        near = [other.model for other in without_entry if other[1:] == key[1:]]
        hint = f"; there is one of {', '.join(near)}" if near else ""
        yield Problem(str(key), f"the baseline has it, the results have not{hint}")
    message = "is not in the baseline: leave it out, or add it with --update"
    yield from (Problem(str(key), message) for key in without_entry)


def _compare(result: Verified, entry: Entry, samples: Samples | None) -> list[Finding]:
    if differing := mismatches(entry.setting, setting(result.row)):
        raise ValueError(f"measured otherwise than the baseline: {'; '.join(differing)}")
    task, new = result.row.task, (result.row.metrics, result.samples)
    shared = [name for name in entry.metrics if name in result.row.metrics]
    shared = [name for name in shared if not metric_of(task, name).reference]
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


def decide(findings: Sequence[Finding], tolerance: float, total: int) -> Iterator[Finding]:
    """Yield gated findings with their p-values and detectable losses among `total`. The tolerance
    is absolute for fractions, relative for ranks and ratios."""
    losses = [tolerance * (1.0 if f.record.unit == "fraction" else f.change.b) for f in findings]
    p_values = [f.gain.p_below(-loss) for f, loss in zip(findings, losses, strict=True)]
    adjusted = holm([*p_values, *[1.0] * (total - len(findings))])
    for finding, loss, p in zip(findings, losses, adjusted, strict=False):
        least = finding.change.detectable(alpha=2 * ALPHA / total)
        yield finding._replace(adjusted=p, detectable=None if least is None else least + loss)
