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
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.special import ndtri

from cosmos_eval.results.compare import Measurement, differences_of, measurement_of
from cosmos_eval.results.gate.baseline import (
    Baseline,
    Entry,
    Key,
    Problem,
    baseline_samples,
    drop_renamed_results,
    drop_superseded_results,
    read_baseline,
    result_key,
    result_problems,
)
from cosmos_eval.results.groups import estimate_moments, require_distinct
from cosmos_eval.results.identity import group_label, training_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.settings import (
    differing_conditions,
    has_content,
    require_same_settings,
    setting_of_result,
)
from cosmos_eval.results.store import list_results
from cosmos_eval.results.table import frame_of_records, table_of_records, to_html
from cosmos_eval.results.verify import VerifiedResult, read_verified
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.paired import PairedDifference, holm, independent_difference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from cosmos_eval.results.decisions import SequentialDifference

# The brackets at the end of a label, which may hold further brackets.
_LAST_BRACKETS = re.compile(r" \((?:[^()]|\([^()]*\))*\)$")
_HASH_LENGTH = 8  # characters of a hash that is shown
_UNDECIDED = "one image decides whether there is a value of"
_LEAST_TRAININGS = 4  # in total: the variance between seeds then has two degrees of freedom
ALPHA = 0.025
"""The probability of a false alarm on any gated metric of a whole check, by one-sided tests."""

Change: TypeAlias = "PairedDifference | GroupDifference | SequentialDifference"
"""A metric of new results minus the same metric of the baseline."""


class Case(NamedTuple):
    """Results of the baseline and new results that are compared on one data set.

    Either one result of the baseline is compared with a new one, or several trainings of the
    baseline with new trainings of the same group.
    """

    # The model or the group of trainings, the data set and the protocol.
    key: Key
    # The results of the baseline.
    entries: list[Entry]
    # The new results.
    results: list[VerifiedResult]

    @property
    def is_group(self) -> bool:
        """True if groups of trainings are compared, not two results."""
        return len(self.entries) > 1

    @property
    def task(self) -> str:
        """The name of the task that was measured."""
        return str(self.entries[0].setting["task"])

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """The setting of each result, from `setting_of_result`, the baseline's first."""
        settings = [entry.setting for entry in self.entries]
        settings += [setting_of_result(result.row) for result in self.results]
        return settings

    @property
    def baseline_metrics(self) -> set[str]:
        """The names of the metrics that any result of the baseline has."""
        return {name for entry in self.entries for name in entry.metrics}

    @property
    def result_metrics(self) -> set[str]:
        """The names of the metrics that all new results have."""
        names = set(self.results[0].row.metrics)
        for result in self.results[1:]:
            names &= set(result.row.metrics)
        return names

    def require_same_settings(self) -> None:
        """Raise ValueError if any two results were measured with different settings.

        The precision and the kind of weights count too. Results are matched by labels, which state
        both, but the name of a model may look as if it did.
        """
        try:
            require_same_settings(self.settings)
        except ValueError as error:
            raise ValueError(f"measured otherwise than the baseline: {error}") from error
        for entry in self.entries:
            for result in self.results:
                require_same_label_settings(entry, result.row)


def require_same_label_settings(entry: Entry, row: ResultRow) -> None:
    """Raise ValueError if a result has another precision or kind of weights than the baseline's.

    For an entry of an older version, which records neither, they follow from its label.
    """
    conditions = {"weights": row.model["weights"], "precision": row.provenance["precision"]}
    for name, value in conditions.items():
        if entry.conditions is not None and entry.conditions[name] != value:
            raise ValueError(
                f"measured otherwise than the baseline: {name} is {entry.conditions[name]} and "
                f"{value}"
            )


class Finding(NamedTuple):
    """How a metric of new results has changed from the baseline, and what that means."""

    # The model or the group of trainings, the data set and the protocol.
    key: Key
    task: str
    metric: str
    # The new value, `a`, minus the baseline's value, `b`.
    change: Change
    # The one-sided p-value of a regression, corrected by Holm; None for a metric that is not gated.
    adjusted: float | None = None
    # The least loss that the test finds with a probability of 80%.
    detectable: float | None = None

    @property
    def metric_record(self) -> Metric:
        """The metric's definition: its unit, its bounds, and whether higher is better."""
        return metric_of(self.task, self.metric)

    @property
    def gain(self) -> Change:
        """The change with a sign by which positive means better."""
        return self.change if self.metric_record.higher_is_better else self.change.flipped()

    @property
    def status(self) -> Literal["regression", "worse, not gated", "better", "no change shown"]:
        """The decision on the metric.

        Only a gated metric can be a regression, by its corrected p-value. Other decisions follow
        from the 95% interval of this metric, without correction for the number of metrics.
        """
        if self.adjusted is None:
            is_worse = self.gain.p_below(0) <= ALPHA
            if is_worse:
                return "worse, not gated"
        elif self.adjusted <= ALPHA:
            return "regression"
        is_better = self.gain.flipped().p_below(0) <= ALPHA
        return "better" if is_better else "no change shown"


class Report(NamedTuple):
    """The outcome of a check of new results against a baseline."""

    # The file of the baseline.
    baseline: Path
    # The metrics that were compared.
    findings: tuple[Finding, ...]
    # Why something could not be decided.
    problems: tuple[Problem, ...]
    # What a reader should know about the results, one line each.
    notes: tuple[str, ...] = ()
    # The tolerance of the baseline; None if the baseline could not be read.
    tolerance: float | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """The metrics as a table, one row each, with the numbers that `check --json` prints.

        `baseline`, `new`, `change`, its 95% interval `low` to `high`, and `detectable` are in the
        unit of the metric, which is a fraction for shares.
        """
        from cosmos_eval.results.gate.reports import to_records

        return frame_of_records(to_records(self)["findings"])

    def _repr_html_(self) -> str:
        """Return the table that notebooks show: the verdict, all metrics, problems and notes."""
        from cosmos_eval.results.gate.reports import to_cells

        table = table_of_records(
            [to_cells(finding) for finding in self.findings],
            section=("model", "data set", "protocol"),
            n_text_columns=2,
        )
        problems = [f"cannot decide: {problem}" for problem in self.problems]
        return to_html([table._replace(title=self.verdict, notes=(*problems, *self.notes))])

    @property
    def regressions(self) -> list[Finding]:
        """The gated metrics that became worse."""
        return [finding for finding in self.findings if finding.status == "regression"]

    @property
    def gated_findings(self) -> list[Finding]:
        """The metrics that can fail the check."""
        return [finding for finding in self.findings if finding.adjusted is not None]

    @property
    def gated(self) -> int:
        """The number of metrics that can fail the check."""
        return len(self.gated_findings)

    @property
    def status(self) -> int:
        """The exit status: 1 for a regression, else 2 if anything is undecided, else 0.

        A check without any gated metric decides nothing, so its status is 2.
        """
        if self.regressions:
            return 1
        is_undecided = len(self.problems) > 0 or self.gated == 0
        return 2 if is_undecided else 0

    @property
    def verdict(self) -> str:
        """The outcome in one line, such as "no regression shown, of 12 metrics"."""
        n_problems = len(self.problems)
        n_ungated = len(self.findings) - self.gated
        metric_counts = f"{self.gated} metrics"
        if n_ungated:
            metric_counts += f" ({n_ungated} more for information)"
        if self.status == 0:
            return f"no regression shown, of {metric_counts}"
        if self.status == 1:
            return f"regression shown: {len(self.regressions)} of {metric_counts}"
        plural = "s" if n_problems > 1 else ""
        return f"cannot decide, for {n_problems} reason{plural}"


def read_results(places: Sequence[Path]) -> tuple[list[VerifiedResult], list[Problem]]:
    """Read the new results in files and folders, and verify them.

    Args:
        places: Files of results, and folders that hold results.

    Returns:
        The results whose metrics and intervals follow from their samples, and a problem for each
        other result and for each folder that cannot be read.
    """
    results: list[VerifiedResult] = []
    problems: list[Problem] = []
    for place in places:
        files, faults = list_results(place)
        problems += [Problem(str(place), fault) for fault in faults]
        for file in files:
            result = read_verified(file)
            if isinstance(result, VerifiedResult):
                results.append(result)
            else:
                reason = "; ".join(result.differences) or result.obstacle
                problems.append(Problem(result.path, reason))
    return results, problems


def check_results(
    results: Sequence[VerifiedResult],
    path: Path,
    *,
    strict: bool = False,
    problems: Sequence[Problem] = (),
) -> Report:
    """Check new results against a baseline, and return the outcome.

    Args:
        results: The new results, whose metrics were verified, see `read_results`.
        path: The JSON file of the baseline.
        strict: True if results that were measured with edited code, or from an unknown commit, are
            problems too.
        problems: The problems of results that could not be read, see `read_results`.

    Raises:
        UsageError: If the baseline cannot be read or was edited.
    """
    baseline = read_baseline(path)
    results, notes = drop_renamed_results(results)
    results, notes_on_stopped = drop_superseded_results(results)
    notes += notes_on_stopped
    cases = match_results(baseline, results)
    all_cases = [*cases.pairs, *cases.groups]
    all_problems = [*problems, *cases.problems, *result_problems(results, strict=strict)]
    all_problems += cases.unmatched()

    # Compare the metrics of each result of the baseline that has a new result.
    findings: list[Finding] = []
    for case in all_cases:
        try:
            find = _group_findings if case.is_group else _pair_findings
            case_findings, case_problems = find(case, path)
            findings += case_findings
            all_problems += case_problems
        except (ValueError, UsageError) as error:
            all_problems.append(Problem(str(case.key), str(error)))

        # Metrics of the baseline that a result lacks are problems, and new metrics are only noted.
        for name in sorted(case.baseline_metrics - case.result_metrics):
            message = f"the result lacks {name}, which the baseline has"
            all_problems.append(Problem(str(case.key), message))
        new_metrics = sorted(case.result_metrics - case.baseline_metrics)
        if new_metrics:
            notes.append(f"{case.key}: not in the baseline: {', '.join(new_metrics)}")

    # Add notes on what the comparisons cannot show.
    notes += _model_notes(cases.results, baseline)
    notes += _training_notes(cases.pairs)
    notes += _length_notes(cases.groups)
    notes += _content_notes(all_cases)
    notes += condition_notes(all_cases)
    if baseline.schema_version == 1:
        notes.append(f"{path} has version 1 and no hash of itself: write it with --update")
    decided_findings = _decide_gated(findings, cases, baseline)
    return Report(path, decided_findings, tuple(all_problems), tuple(notes), baseline.tolerance)


class Cases(NamedTuple):
    """The results of a baseline, matched with new results."""

    # Groups of which the baseline has several trainings and the new results have others.
    groups: list[Case]
    # The other results of the baseline.
    entries: list[Entry]
    # The other new results, by the key of the entry that they are compared with.
    results: dict[Key, VerifiedResult]
    # New results that must not be compared.
    problems: list[Problem]

    @property
    def pairs(self) -> list[Case]:
        """The cases that compare one result of the baseline with one new result."""
        pairs = []
        for entry in self.entries:
            if entry.key in self.results:
                new_result = self.results[entry.key]
                pairs.append(Case(entry.key, [entry], [new_result]))
        return pairs

    def unmatched(self) -> Iterator[Problem]:
        """Yield a problem for each result without a partner, in the baseline or among new results.

        The problem of a result of the baseline names the new models that were measured on the same
        data set, since the model may have been renamed.
        """
        baseline_keys = {entry.key for entry in self.entries}
        keys_without_entry = [key for key in self.results if key not in baseline_keys]
        keys_without_result = sorted(baseline_keys - self.results.keys())

        for key in keys_without_result:
            models_on_same_data = []
            for new_key in keys_without_entry:
                if new_key.dataset == key.dataset and new_key.protocol == key.protocol:
                    models_on_same_data.append(new_key.model)
            hint = ""
            if models_on_same_data:
                hint = f"; there is one of {', '.join(models_on_same_data)}"
            yield Problem(str(key), f"the baseline has it, the results have not{hint}")

        for key in keys_without_entry:
            yield Problem(str(key), "is not in the baseline: leave it out, or add it with --update")


def match_results(baseline: Baseline, results: Sequence[VerifiedResult]) -> Cases:
    """Match each new result with the result, or the group, of the baseline to compare it with.

    A second result of the same model on the same data set is a problem.

    Args:
        baseline: The baseline.
        results: The new results, whose metrics were verified.
    """
    # Match groups of trainings first.
    groups, problems = match_groups(baseline, results)
    grouped_keys = {entry.key for case in groups for entry in case.entries}
    grouped_paths = {result.path for case in groups for result in case.results}

    # Match all others one by one.
    entries = [entry for entry in baseline.results if entry.key not in grouped_keys]
    results_by_key: dict[Key, VerifiedResult] = {}
    for result in results:
        if result.path in grouped_paths:
            continue
        key = _matching_key(baseline, result)
        first = results_by_key.setdefault(key, result)
        if first is not result:
            message = f"a second result of {key}, beside {first.path}"
            problems.append(Problem(str(result.path), message))
    return Cases(groups, entries, results_by_key, problems)


def match_groups(
    baseline: Baseline, results: Iterable[VerifiedResult]
) -> tuple[list[Case], list[Problem]]:
    """Return the groups of trainings that are compared as a whole, and problems of their results.

    In such a group, the baseline has several trainings, and the new results have at least one new
    training, whose weights the baseline does not have. A result of the group that repeats a
    training of the baseline is a problem.

    Args:
        baseline: The baseline.
        results: The new results, whose metrics were verified.

    Returns:
        The groups, each with its results in the baseline and its new results, and the problems.
    """
    groups: list[Case] = []
    problems: list[Problem] = []
    for case in _collect_groups(baseline, results):
        baseline_weights = {entry.weights_sha256 for entry in case.entries}
        repeated_results = []
        for result in case.results:
            if result.row.model["weights_sha256"] in baseline_weights:
                repeated_results.append(result)
        has_new_trainings = len(repeated_results) < len(case.results)
        if case.is_group and has_new_trainings:
            groups.append(case)
            for result in repeated_results:
                message = "is a training of the baseline: check it apart from others"
                problems.append(Problem(str(result.path), message))
    return groups, problems


def _collect_groups(baseline: Baseline, results: Iterable[VerifiedResult]) -> list[Case]:
    """Return each group of trainings in the baseline, with the new results of the same group.

    The key of a group has its name in place of the label of a model. A group may have a single
    training, and no new results.
    """
    cases: dict[Key, Case] = {}
    for entry in baseline.results:
        if entry.training:
            group_key = entry.key._replace(model=entry.training["group"])
            cases.setdefault(group_key, Case(group_key, [], [])).entries.append(entry)
    for result in results:
        group_key = Key(group_label(result.row) or "", result.row.dataset, result.row.protocol)
        if group_key in cases:
            cases[group_key].results.append(result)
    return list(cases.values())


def _matching_key(baseline: Baseline, result: VerifiedResult) -> Key:
    """Return the key of the baseline's entry that a new result is compared with.

    An entry is a result of the baseline. Its key is the label of the model, the data set and the
    protocol. It is the entry with the key of the new result, or else the last entry of the same
    model under another name. Without such an entry, the key of the new result is returned.
    """
    key = result_key(result.row)
    if any(entry.key == key for entry in baseline.results):
        return key
    # The name itself may end with brackets, which are no settings.
    name = result.stored.identity.name
    key_without_name = _key_without_name(key._replace(model=key.model.removeprefix(name)))
    for entry in reversed(baseline.results):
        is_same_model = not entry.model_hashes.isdisjoint(result.stored.identity.hashes)
        if is_same_model and _key_without_name(entry.key) == key_without_name:
            return entry.key
    return key


def _key_without_name(key: Key) -> tuple[str, str, str]:
    """Return the fields of a key without the name of the model.

    The words in the last brackets behind the name, which say how the settings differ from the
    defaults, still count.

    Example:
        (" (bf16)", "coco", "karpathy") for the model "clip (B/16) (bf16)".
    """
    last_brackets = _LAST_BRACKETS.search(key.model)
    setting_words = last_brackets.group() if last_brackets else ""
    return setting_words, key.dataset, key.protocol


def _group_findings(case: Case, path: Path) -> tuple[list[Finding], list[Problem]]:
    """Return one finding, or one problem, for each metric of a group of trainings.

    A finding holds the change of the metric: the mean of the new trainings minus the mean of the
    baseline's trainings, with its error.

    Args:
        case: The trainings of the baseline and the new trainings on one data set.
        path: The JSON file of the baseline.

    Raises:
        ValueError: As `group_changes` does.
        UsageError: As `group_changes` does.
    """
    findings = []
    problems = []
    for name, change in group_changes(case, path).items():
        if change is None:
            problems.append(Problem(str(case.key), f"{_UNDECIDED} {name}"))
        else:
            findings.append(Finding(case.key, case.task, name, change))
    return findings, problems


def group_changes(case: Case, path: Path) -> dict[str, GroupDifference | None]:
    """Return the mean metrics of new trainings minus the baseline's mean metrics, by name.

    Args:
        case: The trainings of the baseline and the new trainings on one data set.
        path: The JSON file of the baseline.

    Returns:
        The changes. The change is None for a metric of which a single image decides whether it has
        a value.

    Raises:
        ValueError: For too few trainings, for different settings, and for samples that are missing
            or do not give the metrics.
        UsageError: For a training that occurs twice.
    """
    if len(case.results) + len(case.entries) < _LEAST_TRAININGS:
        raise ValueError(
            "two trainings in the baseline and a new one do not show how much seeds vary: give "
            "another of either, or three in the baseline"
        )
    require_distinct([result.stored for result in case.results])
    case.require_same_settings()

    # Collect the metrics and samples of all trainings, the new ones first.
    measurements = [measurement_of(result.row, result.samples) for result in case.results]
    for entry in case.entries:
        samples = baseline_samples(path, entry)
        if samples is None:
            raise ValueError("trainings are compared by samples, which --metrics-only left out")
        measurements.append(Measurement(entry.setting, entry.metrics, samples))

    n_new = len(case.results)
    new_indices = np.arange(n_new)
    baseline_indices = np.arange(n_new, len(measurements))
    changes: dict[str, GroupDifference | None] = {}
    for name, metric_moments in estimate_moments(measurements).items():
        if metric_moments is None:
            changes[name] = None
        else:
            changes[name] = metric_moments.difference(new_indices, baseline_indices, pooled=True)
    return changes


def _pair_findings(case: Case, path: Path) -> tuple[list[Finding], list[Problem]]:
    """Return one finding, or one problem, for each metric that both results have.

    A finding holds the change of the metric: the new value minus the value of the baseline, with
    its error. If the baseline has no samples, the error follows from both intervals, otherwise from
    the paired samples.

    Args:
        case: The result of the baseline and the new result.
        path: The JSON file of the baseline.

    Raises:
        ValueError: For different settings, and if the baseline's samples were changed.
    """
    result, entry = case.results[0], case.entries[0]
    entry_samples = baseline_samples(path, entry)
    case.require_same_settings()

    # Reference metrics, which only help to read the others, are not compared.
    metric_names = []
    for name in entry.metrics:
        is_reference = metric_of(case.task, name).reference
        if name in result.row.metrics and not is_reference:
            metric_names.append(name)

    changes: Mapping[str, Change]
    if entry_samples is None:
        changes = {name: _independent_change(result.row, entry, name) for name in metric_names}
    else:
        new_measurement = measurement_of(result.row, result.samples)
        baseline_measurement = Measurement(entry.setting, entry.metrics, entry_samples)
        changes = differences_of(new_measurement, baseline_measurement)
    findings = []
    problems = []
    for name in metric_names:
        if name in changes:
            findings.append(Finding(entry.key, case.task, name, changes[name]))
        else:
            problems.append(Problem(str(case.key), f"{_UNDECIDED} {name}"))
    return findings, problems


def _independent_change(row: ResultRow, entry: Entry, metric: str) -> PairedDifference:
    """Return the change of a metric without samples, as if both results were independent.

    The standard error of a result is half the width of its interval, divided by the normal quantile
    of its level, which is 1.96 for 95%. The error of the change is the root of the sum of squares.

    Args:
        row: The new result.
        entry: The result of the baseline.
        metric: The name of the metric, which both have.

    Raises:
        ValueError: If an interval is missing.
    """
    if metric not in row.intervals or metric not in entry.intervals:
        raise ValueError(f"{metric} has no interval, and the baseline no samples")
    standard_errors = []
    for interval in (row.intervals[metric], entry.intervals[metric]):
        half_width = (interval["high"] - interval["low"]) / 2
        quantile = ndtri((1 + interval["level"]) / 2)
        standard_errors.append(half_width / quantile)
    error_of_change = math.hypot(*standard_errors)
    return independent_difference(
        row.metrics[metric], entry.metrics[metric], error_of_change, row.n_samples
    )


def _decide_gated(
    findings: Sequence[Finding], cases: Cases, baseline: Baseline
) -> tuple[Finding, ...]:
    """Return all findings with their detectable losses, and with p-values of gated metrics.

    Gated metrics can fail the check. Their p-values are corrected for the number of all gated
    metrics in the baseline, even if some of them could not be compared.

    Args:
        findings: The changes of all metrics that could be compared.
        cases: The results of the baseline, matched with new results.
        baseline: The baseline, which says which metrics are gated.
    """
    # Find the gated metrics of each result, or group, of the baseline.
    gated_metrics = {entry.key: baseline.gated_metrics(entry) for entry in cases.entries}
    for case in cases.groups:
        gated_metrics[case.key] = baseline.gated_metrics(case.entries[0])
    n_gated = sum(len(names) for names in gated_metrics.values())

    # Decide on the gated metrics together.
    gated_findings = []
    for finding in findings:
        if finding.metric in gated_metrics[finding.key]:
            gated_findings.append(finding)
    decided_findings = {}
    for finding in decide_findings(gated_findings, baseline.tolerance, n_gated):
        decided_findings[finding.key, finding.metric] = finding

    # Return all metrics in their former order.
    all_findings = []
    for finding in findings:
        decided_finding = decided_findings.get((finding.key, finding.metric))
        if decided_finding is None:
            detectable = finding.change.detectable(2 * ALPHA)
            decided_finding = finding._replace(detectable=detectable)
        all_findings.append(decided_finding)
    return tuple(all_findings)


def decide_findings(findings: Sequence[Finding], tolerance: float, total: int) -> Iterator[Finding]:
    """Yield findings on gated metrics with their corrected p-values and detectable losses.

    Gated metrics are those that can fail a check. A p-value is one-sided: it is small if the loss
    is certainly greater than the tolerated loss. It is corrected by Holm's method for the number of
    gated metrics. The detectable loss is the least one that the test finds with a probability of
    80%.

    Args:
        findings: The changes of gated metrics.
        tolerance: The tolerated loss, which is absolute for fractions, and relative to the baseline
            for ranks and ratios.
        total: The number of gated metrics, including those without a finding.
    """
    # Test each metric for a loss that is greater than the tolerated loss.
    tolerated_losses = []
    p_values = []
    for finding in findings:
        is_absolute = finding.metric_record.in_percent
        baseline_value = abs(finding.change.b)
        tolerated_loss = tolerance if is_absolute else tolerance * baseline_value
        tolerated_losses.append(tolerated_loss)
        p_values.append(finding.gain.p_below(-tolerated_loss))

    # Gated metrics without a finding count in Holm's correction as tests that show nothing.
    n_missing = total - len(findings)
    p_values += [1.0] * n_missing
    adjusted_p_values = holm(p_values)[: len(findings)]

    for finding, loss, p_value in zip(findings, tolerated_losses, adjusted_p_values, strict=True):
        # The strictest level of Holm's method, for a two-sided test.
        detectable = finding.change.detectable(alpha=2 * ALPHA / total)
        if detectable is not None:
            detectable += loss
        yield finding._replace(adjusted=p_value, detectable=detectable)


def _model_notes(results: Mapping[Key, VerifiedResult], baseline: Baseline) -> list[str]:
    """Return one note for each model, which compares its weights and its name with the baseline's.

    Args:
        results: The new results, by the key of the entry that they are compared with.
        baseline: The baseline.

    Example:
        "clip: weights 1a2b3c4d, in the baseline 5e6f7a8b, called clip-2 in the results"
    """
    notes = []
    for entry in baseline.results:
        if entry.key not in results:
            continue
        result = results[entry.key]
        weights = str(result.row.model["weights_sha256"])[:_HASH_LENGTH]
        baseline_weights = entry.weights_sha256[:_HASH_LENGTH]
        if weights == baseline_weights:
            note = f"{entry.model}: weights {weights}, as in the baseline"
        else:
            note = f"{entry.model}: weights {weights}, in the baseline {baseline_weights}"
        identity = result.stored.identity
        has_other_hash = not entry.model_hashes & identity.hashes
        if weights == baseline_weights and entry.model_hashes and has_other_hash:
            note += ", but with another architecture, preprocessing or code"
        label = identity.label
        if label != entry.model:
            note += f", called {label} in the results"
        notes.append(note)
    return list(dict.fromkeys(notes))


def _training_notes(pairs: Iterable[Case]) -> list[str]:
    """Return a list with one note on models whose weights differ from the single baseline training.

    The list is empty if all models have the weights of the baseline.
    """
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


def _length_notes(groups: Iterable[Case]) -> list[str]:
    """Return a list with a note on each group whose trainings saw different numbers of samples.

    A checkpoint of an unfinished training would otherwise count as another seed.
    """
    notes = []
    for case in groups:
        counts = {(entry.training or {}).get("samples") for entry in case.entries}
        counts |= {training_of(result.row).get("samples") for result in case.results}
        stated_counts = sorted(count for count in counts if count is not None)
        if len(stated_counts) > 1:
            texts = [f"{count:,}" for count in stated_counts]
            notes.append(f"{case.key.model}: its trainings saw {' and '.join(texts)} samples")
    return list(dict.fromkeys(notes))


def _content_notes(cases: Iterable[Case]) -> list[str]:
    """Return a list with one note on the data sets whose images may differ from the baseline's.

    They have the same names of images, but a result records no hash of the images themselves. The
    list is empty if all results record it.
    """
    keys = []
    for case in cases:
        all_have_content = all(has_content(setting) for setting in case.settings)
        if not all_have_content:
            keys.append(str(case.key))
    if not keys:
        return []
    return [
        "the content of the images was not compared, since the baseline or a result does not "
        f"record it (older versions did not): {', '.join(keys)}"
    ]


def condition_notes(cases: Iterable[Case]) -> list[str]:
    """Return one note for each condition in which results differ from the baseline.

    See `settings.CONDITIONS`. Baselines of older versions record none of them.

    Example:
        "device is cpu and cuda (baseline and new): clip on coco (karpathy)"
    """
    keys_by_difference: dict[str, list[str]] = {}
    for case in cases:
        for entry in case.entries:
            for result in case.results:
                if entry.conditions is None:
                    continue
                for difference in differing_conditions(entry.conditions, result.row.provenance):
                    keys_by_difference.setdefault(difference, []).append(str(case.key))
    notes = []
    for difference, keys in keys_by_difference.items():
        notes.append(f"{difference} (baseline and new): {', '.join(dict.fromkeys(keys))}")
    return notes
