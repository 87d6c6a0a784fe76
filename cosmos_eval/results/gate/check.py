"""Check new results against a baseline, metric by metric.

A metric has regressed if the paired interval of new minus baseline lies below minus the tolerance,
at a level that holds for all gated metrics together: Holm's step-down over one-sided tests at 2.5%.
Metrics that are not gated are for information. Results that cannot be compared are a problem, and
never pass. Without the baseline's samples two results are taken to be independent, and the standard
error follows from their intervals. It is larger than the paired one, so that small regressions are
missed, not made up.

New trainings of a recipe of which the baseline has several trainings are compared with all of
these: the difference of both means, whose error covers seeds and images. Seeds are taken to vary
new trainings as much as the trainings of the baseline, so that a single new training can be tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import ndtri

from cosmos_eval.results.compare import (
    Measurement,
    differences_of,
    has_content,
    measurement_of,
    require_same_settings,
    setting,
)
from cosmos_eval.results.gate.baseline import (
    Baseline,
    Entry,
    Key,
    Problem,
    baseline_samples,
    faults_of,
    read_baseline,
    result_key,
    without_former,
)
from cosmos_eval.results.groups import moments, require_distinct
from cosmos_eval.results.identity import group_label
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import list_results
from cosmos_eval.results.verify import Verdict, Verified, read_verified
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.paired import PairedDifference, holm, independent_difference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import UsageError

_HASH = 8  # characters of a hash that is shown
_LEAST_TRAININGS = 4  # of both sides: the variance by seeds then has two degrees of freedom
ALPHA = 0.025
"""One-sided probability of a false alarm on any gated metric of a whole check."""

Change = PairedDifference | GroupDifference
"""A metric of new results minus the same metric of the baseline."""


class Case(NamedTuple):
    """Results that are compared on one data set.

    Either one result of the baseline is compared with a new one, or several trainings of the
    baseline with new trainings of the same group.
    """

    # The `model` of the key is the model, or the group of trainings.
    key: Key
    entries: list[Entry]
    results: list[Verified]

    @property
    def is_group(self) -> bool:
        return len(self.entries) > 1

    @property
    def task(self) -> str:
        return str(self.entries[0].setting["task"])

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """The settings of all results, the baseline's first."""
        settings = [entry.setting for entry in self.entries]
        settings += [setting(result.row) for result in self.results]
        return settings

    def require_same_settings(self) -> None:
        """Raise ValueError if any two results were measured by different settings."""
        try:
            require_same_settings(self.settings)
        except ValueError as error:
            raise ValueError(f"measured otherwise than the baseline: {error}") from error


class Finding(NamedTuple):
    """A metric of a new result and of the baseline."""

    key: Key
    task: str
    metric: str
    # The new value, `a`, minus the baseline's, `b`.
    change: Change
    # Holm's one-sided p-value of a regression; None for a metric that is not gated.
    adjusted: float | None = None
    # The loss that the test finds with a probability of 80%.
    detectable: float | None = None

    @property
    def record(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def gain(self) -> Change:
        """The change, positive for a better metric."""
        return self.change if self.record.higher_is_better else self.change.flipped()

    @property
    def status(self) -> Literal["regression", "worse, not gated", "better", "no change shown"]:
        """The decision; all but a regression are by the 95% interval of this metric only."""
        if self.adjusted is not None and self.adjusted <= ALPHA:
            return "regression"
        if self.adjusted is None and self.gain.p_below(0) <= ALPHA:
            return "worse, not gated"
        return "better" if self.gain.flipped().p_below(0) <= ALPHA else "no change shown"


class Report(NamedTuple):
    """The outcome of a check."""

    # The file of the baseline.
    baseline: Path
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    # The tolerance of the baseline; None if the baseline could not be read.
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
        """The exit status: 1 if a regression is shown, 2 if something is undecided, 0 otherwise."""
        if self.regressions:
            return 1
        return 2 if self.problems or not self.gated else 0

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        n_problems, n_ungated = len(self.problems), len(self.findings) - self.gated
        total = f"{self.gated} metrics"
        if n_ungated:
            total += f" ({n_ungated} more for information)"
        if self.status == 0:
            return f"no regression shown, of {total}"
        if self.status == 1:
            return f"regression shown: {len(self.regressions)} of {total}"
        return f"cannot decide, for {n_problems} reason{'s' if n_problems > 1 else ''}"


def read_results(places: Sequence[Path]) -> tuple[list[Verified], list[Problem]]:
    """Read results whose figures follow from their samples; report the faults of others."""
    results: list[Verified] = []
    problems: list[Problem] = []
    for place in places:
        files, faults = list_results(place)
        problems += [Problem(str(place), fault) for fault in faults]
        for file in files:
            result = read_verified(file)
            if isinstance(result, Verified):
                results.append(result)
            else:
                problems.append(_problem_of(result))
    return results, problems


def _problem_of(verdict: Verdict) -> Problem:
    """Return the problem of a result that was not verified."""
    return Problem(verdict.path, "; ".join(verdict.differences) or verdict.obstacle)


def examine(
    results: Sequence[Verified],
    path: Path,
    *,
    strict: bool = False,
    problems: Sequence[Problem] = (),
) -> Report:
    """Return the outcome of checking results against the baseline in the file `path`.

    `problems` are the faults of results that could not be read. `strict` refuses results of edited
    code or of an unknown commit. Raises UsageError for a faulty baseline.
    """
    baseline = read_baseline(path)
    results, notes = without_former(results)
    cases = match(baseline, results)
    all_problems = [*problems, *cases.problems, *faults_of(results, strict=strict)]
    all_problems += cases.unmatched()
    findings: list[Finding] = []
    for case in (*cases.pairs, *cases.groups):
        try:
            findings += _group_findings(case, path) if case.is_group else _pair_findings(case, path)
        except (ValueError, UsageError) as error:
            all_problems.append(Problem(str(case.key), str(error)))
        missing_metrics, new_metrics = _metrics_of_one_side(case)
        for name in missing_metrics:
            message = f"the result lacks {name}, which the baseline has"
            all_problems.append(Problem(str(case.key), message))
        if new_metrics:
            notes.append(f"{case.key}: not in the baseline: {', '.join(new_metrics)}")
    notes += _model_notes(cases.results, baseline)
    notes += _training_notes(cases.pairs)
    notes += _content_notes([*cases.pairs, *cases.groups])
    if baseline.schema_version == 1:
        notes.append(f"{path} has version 1 and no hash of itself: write it with --update")
    decided = _decide_gated(findings, cases, baseline)
    return Report(path, decided, tuple(all_problems), tuple(notes), baseline.tolerance)


class Cases(NamedTuple):
    """The results of a baseline, matched with new results."""

    # Groups of which the baseline has several trainings and the new results have others.
    groups: list[Case]
    # The other results of the baseline.
    entries: list[Entry]
    # The other new results, by the key of the entry that they are compared with.
    results: dict[Key, Verified]
    # New results that must not be compared.
    problems: list[Problem]

    @property
    def pairs(self) -> list[Case]:
        """One result of the baseline and a new one each."""
        return [
            Case(entry.key, [entry], [self.results[entry.key]])
            for entry in self.entries
            if entry.key in self.results
        ]

    def unmatched(self) -> Iterator[Problem]:
        """Yield a problem for each result that only the baseline has, or only the new results."""
        entry_keys = {entry.key for entry in self.entries}
        keys_without_entry = [key for key in self.results if key not in entry_keys]
        for key in sorted(entry_keys - self.results.keys()):
            models_on_same_data = [
                other.model
                for other in keys_without_entry
                if (other.dataset, other.protocol) == (key.dataset, key.protocol)
            ]
            hint = ""
            if models_on_same_data:
                hint = f"; there is one of {', '.join(models_on_same_data)}"
            yield Problem(str(key), f"the baseline has it, the results have not{hint}")
        for key in keys_without_entry:
            yield Problem(str(key), "is not in the baseline: leave it out, or add it with --update")


def match(baseline: Baseline, results: Sequence[Verified]) -> Cases:
    """Match each new result with the result of the baseline that it is compared with."""
    groups, problems = groups_of(baseline, results)
    grouped_keys = {entry.key for case in groups for entry in case.entries}
    grouped_paths = {result.path for case in groups for result in case.results}
    entries = [entry for entry in baseline.results if entry.key not in grouped_keys]
    results_by_key: dict[Key, Verified] = {}
    for result in results:
        if result.path in grouped_paths:
            continue
        key = _matching_key(baseline, result)
        first = results_by_key.setdefault(key, result)
        if first is not result:
            message = f"a second result of {key}, beside {first.path}"
            problems.append(Problem(str(result.path), message))
    return Cases(groups, entries, results_by_key, problems)


def groups_of(baseline: Baseline, results: Iterable[Verified]) -> tuple[list[Case], list[Problem]]:
    """Return the groups whose trainings in the baseline are compared with new trainings.

    The baseline must have several trainings of the group, and the results at least one new one: a
    result with other weights than any of the baseline's. In such a group, a result with the weights
    of a training of the baseline is a problem. Problems are the second return value.
    """
    cases: dict[Key, Case] = {}  # by the name of the group, the data set and the protocol
    for entry in baseline.results:
        if entry.training:
            key = entry.key._replace(model=entry.training["group"])
            cases.setdefault(key, Case(key, [], [])).entries.append(entry)
    for result in results:
        key = Key(group_label(result.row) or "", result.row.dataset, result.row.protocol)
        if key in cases:
            cases[key].results.append(result)
    groups: list[Case] = []
    problems: list[Problem] = []
    for case in cases.values():
        weights = {entry.weights_sha256 for entry in case.entries}
        repeated = [
            result for result in case.results if result.row.model["weights_sha256"] in weights
        ]
        has_new_trainings = len(repeated) < len(case.results)
        if case.is_group and has_new_trainings:
            groups.append(case)
            for result in repeated:
                message = "is a training of the baseline: check it apart from others"
                problems.append(Problem(str(result.path), message))
    return groups, problems


def _matching_key(baseline: Baseline, result: Verified) -> Key:
    """Return the key of the entry that a result is compared with.

    The entry has the same model, though perhaps under another name. A result without such an entry
    has its own key.
    """
    key = result_key(result.row)
    if any(entry.key == key for entry in baseline.results):
        return key
    key_without_name = _key_without_name(key, result.stored.identity.sha256)
    for entry in reversed(baseline.results):
        if _key_without_name(entry.key, entry.model_sha256) == key_without_name:
            return entry.key
    return key


def _key_without_name(key: Key, model_sha256: str | None) -> tuple[str | None, ...]:
    """Return a key with the hash of the model in place of its name."""
    variants = key.model.partition(" (")[2]  # "clip (student, bf16)" -> "student, bf16)"
    return model_sha256, variants, key.dataset, key.protocol


def _metrics_of_one_side(case: Case) -> tuple[list[str], list[str]]:
    """Return two lists: the metrics that only the baseline has, and that only all results have."""
    baseline_metrics = {name for entry in case.entries for name in entry.metrics}
    result_metrics = set(case.results[0].row.metrics)
    for result in case.results[1:]:
        result_metrics &= set(result.row.metrics)
    return sorted(baseline_metrics - result_metrics), sorted(result_metrics - baseline_metrics)


def _group_findings(case: Case, path: Path) -> list[Finding]:
    """Return a finding per metric of a group of trainings.

    Raises ValueError or UsageError as `group_changes` does, and ValueError for a metric whose value
    depends on a single image.
    """
    changes = group_changes(case, path)
    unknown = [name for name, change in changes.items() if change is None]
    if unknown:
        raise ValueError(f"one image decides whether there is a value of {', '.join(unknown)}")
    return [
        Finding(case.key, case.task, name, change)
        for name, change in changes.items()
        if change is not None
    ]


def group_changes(case: Case, path: Path) -> dict[str, GroupDifference | None]:
    """Return the metrics of new trainings minus the metrics of the baseline's trainings.

    `path` is the file of the baseline. A metric is None if one image decides whether it has a
    value. Raises ValueError or UsageError for a training that occurs twice, for different settings,
    and for samples that are missing or do not give the metrics.
    """
    if len(case.results) + len(case.entries) < _LEAST_TRAININGS:
        raise ValueError(
            "two trainings in the baseline and a new one do not show how much seeds vary: give "
            "another of either, or three in the baseline"
        )
    require_distinct([result.stored for result in case.results])
    case.require_same_settings()
    measurements = [measurement_of(result.row, result.samples) for result in case.results]
    for entry in case.entries:
        samples = baseline_samples(path, entry)
        if samples is None:
            raise ValueError("trainings are compared by samples, which --metrics-only left out")
        measurements.append(Measurement(entry.setting, entry.metrics, samples))
    indices = np.arange(len(measurements))
    new_indices, baseline_indices = np.split(indices, [len(case.results)])
    changes: dict[str, GroupDifference | None] = {}
    for name, metric_moments in moments(measurements).items():
        if metric_moments is None:
            changes[name] = None
        else:
            changes[name] = metric_moments.difference(new_indices, baseline_indices, pooled=True)
    return changes


def _pair_findings(case: Case, path: Path) -> list[Finding]:
    """Return a finding per metric of one new result.

    Raises ValueError for different settings, and for samples of the baseline that were changed.
    """
    result, entry = case.results[0], case.entries[0]
    samples = baseline_samples(path, entry)
    case.require_same_settings()
    names = [
        name
        for name in entry.metrics
        if name in result.row.metrics and not metric_of(case.task, name).reference
    ]
    changes: Mapping[str, Change]
    if samples is None:
        changes = {name: _independent_change(result.row, entry, name) for name in names}
    else:
        new = measurement_of(result.row, result.samples)
        changes = differences_of(new, Measurement(entry.setting, entry.metrics, samples))
    return [Finding(entry.key, case.task, name, changes[name]) for name in names]


def _independent_change(row: ResultRow, entry: Entry, metric: str) -> PairedDifference:
    """Return the change of a metric by the intervals of both results, without samples.

    Each standard error is half the width of the interval over the normal quantile of its level.
    """
    if metric not in row.intervals or metric not in entry.intervals:
        raise ValueError(f"{metric} has no interval, and the baseline no samples")
    errors = []
    for interval in (row.intervals[metric], entry.intervals[metric]):
        half_width = (interval["high"] - interval["low"]) / 2
        errors.append(half_width / ndtri((1 + interval["level"]) / 2))
    error = math.hypot(*errors)
    return independent_difference(row.metrics[metric], entry.metrics[metric], error, row.n_samples)


def _decide_gated(
    findings: Sequence[Finding], cases: Cases, baseline: Baseline
) -> tuple[Finding, ...]:
    """Return all findings with their detectable losses, and p-values if their metric is gated."""
    gated_metrics = {entry.key: baseline.gated_metrics(entry) for entry in cases.entries}
    for case in cases.groups:
        gated_metrics[case.key] = baseline.gated_metrics(case.entries[0])
    total = sum(len(names) for names in gated_metrics.values())  # also of those not compared
    gated = [finding for finding in findings if finding.metric in gated_metrics[finding.key]]
    decided = {
        (finding.key, finding.metric): finding
        for finding in decide(gated, baseline.tolerance, total)
    }
    all_findings = []
    for finding in findings:
        if (finding.key, finding.metric) in decided:
            all_findings.append(decided[finding.key, finding.metric])
        else:
            detectable = finding.change.detectable(2 * ALPHA)
            all_findings.append(finding._replace(detectable=detectable))
    return tuple(all_findings)


def decide(findings: Sequence[Finding], tolerance: float, total: int) -> Iterator[Finding]:
    """Yield gated findings with their p-values and detectable losses.

    `total` is the number of gated metrics, also of those without a finding. The tolerance is
    absolute for fractions, and relative to the baseline for ranks and ratios.
    """
    tolerated_losses = []
    p_values = []
    for finding in findings:
        scale = 1.0 if finding.record.unit == "fraction" else abs(finding.change.b)
        tolerated_losses.append(tolerance * scale)
        p_values.append(finding.gain.p_below(-tolerance * scale))
    # Gated metrics without a finding count in Holm's correction as tests that show nothing.
    p_values += [1.0] * (total - len(findings))
    adjusted_p_values = holm(p_values)[: len(findings)]
    for finding, loss, p_value in zip(findings, tolerated_losses, adjusted_p_values, strict=True):
        detectable = finding.change.detectable(alpha=2 * ALPHA / total)
        if detectable is not None:
            detectable += loss
        yield finding._replace(adjusted=p_value, detectable=detectable)


def _model_notes(results: Mapping[Key, Verified], baseline: Baseline) -> list[str]:
    """Return a note per model on its weights now and in the baseline, and on its name."""
    notes = []
    for entry in baseline.results:
        if entry.key not in results:
            continue
        result = results[entry.key]
        weights = str(result.row.model["weights_sha256"])[:_HASH]
        baseline_weights = entry.weights_sha256[:_HASH]
        if weights == baseline_weights:
            note = f"{entry.model}: weights {weights}, as in the baseline"
        else:
            note = f"{entry.model}: weights {weights}, in the baseline {baseline_weights}"
        label = result.stored.identity.label
        notes.append(note if label == entry.model else f"{note}, called {label} in the results")
    return list(dict.fromkeys(notes))


def _training_notes(pairs: Iterable[Case]) -> list[str]:
    """Return a note on the new trainings that are compared with a single training."""
    keys = []
    for case in pairs:
        weights = case.results[0].row.model["weights_sha256"]
        if weights != case.entries[0].weights_sha256:
            keys.append(str(case.key))
    if not keys:
        return []
    return [
        "one training in the baseline: changes are those between these two trainings, and "
        f"another seed may give others: {', '.join(keys)}"
    ]


def _content_notes(cases: Iterable[Case]) -> list[str]:
    """Return a note on the data sets that may have other images under the same names."""
    keys = [
        str(case.key) for case in cases if not all(has_content(fields) for fields in case.settings)
    ]
    if not keys:
        return []
    return [
        "the content of the images was not compared, since the baseline or a result does not "
        f"record it (older versions did not): {', '.join(keys)}"
    ]
