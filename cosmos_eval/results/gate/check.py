"""The decision, metric by metric; what cannot be compared is a problem, never passes. A metric
regressed where the paired interval of new minus baseline lies below minus the tolerance, at a level
that holds for all gated metrics together: Holm's step-down over one-sided tests at 2.5%. Metrics
that are not gated are for information. Without the baseline's samples the standard error is that of
two independent results, from their intervals: more than the paired one, so that small regressions
are missed, not made up.

New trainings of a recipe of which the baseline has several are compared with all of these: the
difference of both means, whose error covers seeds and images. Seeds are taken to vary new trainings
as they vary those of the baseline, so that one new training can be tested."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import ndtri

from cosmos_eval.results.compare import differences_of, has_content, mismatches, setting
from cosmos_eval.results.gate import baseline as baselines
from cosmos_eval.results.gate.baseline import Baseline, Entry, Key, Problem, faults_of, result_key
from cosmos_eval.results.groups import Moments, moments, require_distinct
from cosmos_eval.results.identity import group_label, model_label, model_sha256
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import list_results
from cosmos_eval.results.verify import Verdict, Verified, read_verified
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.paired import PairedDifference, holm, independent_difference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import UsageError

_HASH = 8  # characters of a hash that is shown
_FEWEST = 4  # trainings, which leave the variance by seeds two degrees of freedom
ALPHA = 0.025
"""One-sided probability of a false alarm on any gated metric of a whole check."""


class Cohort(NamedTuple):
    """The trainings of a group on one data set: those of a baseline, and new ones; the model of the
    key is the group."""

    key: Key
    entries: list[Entry]
    results: list[Verified]

    @property
    def task(self) -> str:
        return str(self.entries[0].setting["task"])

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """The settings of all trainings, the baseline's first."""
        of_baseline = [entry.setting for entry in self.entries]
        return [*of_baseline, *(setting(result.row) for result in self.results)]


class Finding(NamedTuple):
    """A metric of a new result and of the baseline. `change` is new (its `a`) minus baseline (its
    `b`); `adjusted` is Holm's one-sided p-value of a regression, None where the metric is not
    gated, and `detectable` the loss that its test finds with a probability of 80%."""

    key: Key
    task: str
    metric: str
    change: PairedDifference | GroupDifference
    adjusted: float | None = None
    detectable: float | None = None

    @property
    def record(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def gain(self) -> PairedDifference | GroupDifference:
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
    cohorts, mixed = cohorts_of(baseline, results)
    found, findings = [*problems, *mixed], []
    apart = {id(one) for cohort in cohorts for one in (*cohort.entries, *cohort.results)}
    by_key: dict[Key, Verified] = {}
    for result in (result for result in results if id(result) not in apart):
        first = by_key.setdefault(key := _key_in(baseline, result.row), result)
        if first is not result:
            message = f"a second result of {key}, beside {first.path}"
            found.append(Problem(str(result.path), message))
    single = [entry for entry in baseline.results if id(entry) not in apart]
    found += [*faults_of(results, strict=strict), *_unmatched(by_key, single)]
    pairs = [Cohort(e.key, [e], [by_key[e.key]]) for e in single if e.key in by_key]
    for case in (*pairs, *cohorts):
        where = str(case.key)
        try:
            findings += _of_group(case, path) if len(case.entries) > 1 else _of_one(case, path)
        except (ValueError, UsageError) as error:
            found.append(Problem(where, str(error)))
        known = {name for entry in case.entries for name in entry.metrics}
        metrics = set.intersection(*({*one.row.metrics} for one in case.results))
        for name in sorted(known - metrics):
            found.append(Problem(where, f"the result lacks {name}, which the baseline has"))
        if new := sorted(metrics - known):
            notes.append(f"{where}: not in the baseline: {', '.join(new)}")
    notes += _states(by_key, baseline)
    notes += _trainings_note(pairs)
    notes += _content_note([*pairs, *cohorts])
    if baseline.schema_version == 1:
        notes.append(f"{path} is of version 1 and has no hash of itself: write it with --update")
    entries = {**{entry.key: entry for entry in single}, **{c.key: c.entries[0] for c in cohorts}}
    gated = {key: baseline.gated_metrics(entry) for key, entry in entries.items()}
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


def cohorts_of(
    baseline: Baseline, results: Iterable[Verified]
) -> tuple[list[Cohort], list[Problem]]:
    """Return the groups of which a baseline has several trainings and results have others. Results
    of the same weights as the baseline's are not of other trainings, and compared one by one."""
    groups: dict[Key, Cohort] = {}
    for entry in baseline.results:
        if entry.training:
            key = entry.key._replace(model=entry.training["group"])
            groups.setdefault(key, Cohort(key, [], [])).entries.append(entry)
    for result in results:
        row = result.row
        key = Key(group_label(row) or "", row.dataset, row.protocol)
        if key in groups:
            groups[key].results.append(result)
    found: list[Cohort] = []
    problems: list[Problem] = []
    for cohort in groups.values():
        known = {entry.weights_sha256 for entry in cohort.entries}
        again = [one for one in cohort.results if one.row.model["weights_sha256"] in known]
        if len(cohort.entries) > 1 and len(again) < len(cohort.results):
            found.append(cohort)
            problems += (
                Problem(str(one.path), "is a training of the baseline: check it apart from others")
                for one in again
            )
    return found, problems


def changes_of(cohort: Cohort, path: Path) -> Mapping[str, GroupDifference | None]:
    """Return every metric of new trainings minus that of the baseline's in `path`; None where one
    image decides whether it has a value. Raises ValueError, or UsageError, for trainings that are
    there twice, other settings, and samples that are missing or do not give the metrics."""
    if len(cohort.results) + len(cohort.entries) < _FEWEST:
        raise ValueError(
            "two trainings in the baseline and a new one do not show how much seeds vary: give "
            "another of either, or three in the baseline"
        )
    require_distinct([Stored(one.path, one.row) for one in cohort.results])
    for first, second in combinations(cohort.settings, 2):  # not each one records its content
        if differing := mismatches(first, second):
            raise ValueError(f"measured otherwise than the baseline: {'; '.join(differing)}")
    several = [(one.row.metrics, one.samples) for one in cohort.results]
    for entry in cohort.entries:
        samples = baselines.baseline_samples(path, entry)
        if samples is None:
            raise ValueError("trainings are compared by samples, which --metrics-only left out")
        several.append((entry.metrics, samples))
    indices = np.split(np.arange(len(several)), [len(cohort.results)])
    found: Mapping[str, Moments | None] = moments(cohort.task, several)
    return {name: one and one.difference(*indices, pooled=True) for name, one in found.items()}


def _key_in(baseline: Baseline, row: ResultRow) -> Key:
    """Return the key of a result, or that of the same model under another name in the baseline."""

    def nameless(key: Key, sha256: str | None) -> tuple[str | None, ...]:
        return sha256, key.model.partition(" (")[2], *key[1:]  # with what differs from the defaults

    own = result_key(row)
    keys = {nameless(entry.key, entry.model_sha256): entry.key for entry in baseline.results}
    is_known = any(entry.key == own for entry in baseline.results)
    return own if is_known else keys.get(nameless(own, model_sha256(row)), own)


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


def _trainings_note(cases: Iterable[Cohort]) -> Iterator[str]:
    """Note where a new training is compared with one other."""
    differ = [
        str(case.key)
        for case in cases
        if case.entries[0].weights_sha256 != case.results[0].row.model["weights_sha256"]
    ]
    if differ:
        yield (
            f"one training in the baseline: changes are those between these two trainings, and "
            f"another seed may give others: {', '.join(differ)}"
        )


def _content_note(cases: Iterable[Cohort]) -> Iterator[str]:
    """Note which data sets may have other images under the same names."""
    keys = [str(case.key) for case in cases if not all(map(has_content, case.settings))]
    if keys:
        yield (
            "the content of the images was not compared, since the baseline or a result does not "
            f"record it (older versions did not): {', '.join(keys)}"
        )


def _unmatched(by_key: Mapping[Key, Verified], single: Iterable[Entry]) -> Iterator[Problem]:
    entries = {entry.key for entry in single}
    without_entry = [key for key in by_key if key not in entries]
    for key in sorted(entries - by_key.keys()):
        near = [other.model for other in without_entry if other[1:] == key[1:]]
        hint = f"; there is one of {', '.join(near)}" if near else ""
        yield Problem(str(key), f"the baseline has it, the results have not{hint}")
    message = "is not in the baseline: leave it out, or add it with --update"
    yield from (Problem(str(key), message) for key in without_entry)


def _of_group(cohort: Cohort, path: Path) -> list[Finding]:
    task, changes = cohort.task, changes_of(cohort, path)
    if lone := ", ".join(name for name, change in changes.items() if change is None):
        raise ValueError(f"one image decides whether there is a value of {lone}")
    return [Finding(cohort.key, task, name, change) for name, change in changes.items() if change]


def _of_one(case: Cohort, path: Path) -> list[Finding]:
    (result,), (entry,) = case.results, case.entries
    samples = baselines.baseline_samples(path, entry)
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
    scales = [1.0 if f.record.unit == "fraction" else abs(f.change.b) for f in findings]
    losses = [tolerance * scale for scale in scales]
    p_values = [f.gain.p_below(-loss) for f, loss in zip(findings, losses, strict=True)]
    adjusted = holm([*p_values, *[1.0] * (total - len(findings))])
    for finding, loss, p in zip(findings, losses, adjusted, strict=False):
        least = finding.change.detectable(alpha=2 * ALPHA / total)
        yield finding._replace(adjusted=p, detectable=None if least is None else least + loss)
