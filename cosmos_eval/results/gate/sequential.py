"""Check results of runs that stopped, and whole results, by confidence sequences.

A run that stopped when its answer was known has no interval for a fixed number of samples. Its
samples are compared with the samples of the baseline in the random order in which they were
measured: after each look at the data (`results.decisions`). The samples of a whole result are read
in this order, too. Only one metric of each data set is judged, the one that decides when a run
stops.

The null hypothesis is that the difference, new minus baseline, is -tolerance or more. A metric has
regressed if its sequence rejects this hypothesis. The one-sided tests at 2.5% are corrected by
Holm's step-down method, and their p-values hold at all looks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.results.decisions import (
    ASYMPTOTIC,
    SequentialDifference,
    Shards,
    begin_looks,
    cut_into_shards,
    deciding_estimate,
    shards_of_stopped,
    stored_shards,
    units_of,
)
from cosmos_eval.results.gate.baseline import (
    Entry,
    Problem,
    baseline_samples,
    drop_renamed_results,
    drop_superseded_results,
    read_baseline,
    result_problems,
)
from cosmos_eval.results.gate.check import (
    ALPHA,
    Case,
    Finding,
    Report,
    condition_notes,
    decide_findings,
    match_results,
    require_same_label_settings,
)
from cosmos_eval.results.identity import STOPPED, is_stopped
from cosmos_eval.results.settings import make_setting, require_same_settings
from cosmos_eval.results.verify import VerifiedResult
from cosmos_eval.stats.sequential import Decision, decide
from cosmos_eval.tasks import Task, task_named
from cosmos_eval.types import Samples, UsageError

METHODS = {"bounded": "exact sequence", ASYMPTOTIC: "asymptotic sequence"}
"""The names of the methods in reports."""


class _Judged(NamedTuple):
    """The finding on a result, and a note that says when a run could have stopped."""

    finding: Finding
    note: str


def check_sequentially(
    results: Sequence[VerifiedResult],
    path: Path,
    *,
    strict: bool = False,
    problems: Sequence[Problem] = (),
) -> Report:
    """Check new results, of runs that stopped or of whole ones, against a baseline.

    Args:
        results: The new results, which were verified, see `check.read_results`.
        path: The JSON file of the baseline.
        strict: True if results that were measured with edited code, or from an unknown commit, are
            problems too.
        problems: The problems of results that could not be read.

    Returns:
        The outcome, with one finding for each data set.

    Raises:
        UsageError: If the baseline cannot be read or was edited.
    """
    baseline = read_baseline(path)
    results, notes = drop_renamed_results(results)
    results, notes_on_stopped = drop_superseded_results(results)
    notes += notes_on_stopped
    # A run that stopped has another name than a whole run. To match it with the baseline's whole
    # run, the record that it stopped is removed, and is put back before the result is judged.
    stopped_rows = {result.path: result.row for result in results if is_stopped(result.row)}
    results_to_match = [_without_stop(result) for result in results]
    cases = match_results(baseline, results_to_match)
    all_problems = [*problems, *cases.problems, *result_problems(results_to_match, strict=strict)]
    all_problems += cases.unmatched()
    for case in cases.groups:
        message = "--sequential judges single results, and the baseline has several trainings"
        all_problems.append(Problem(str(case.key), message))

    findings = []
    n_sets = len(cases.entries) + len(cases.groups)
    for case in cases.pairs:
        result = case.results[0]
        if result.path in stopped_rows:
            result = result._replace(row=stopped_rows[result.path])
        try:
            judged = _judge(case, result, path, baseline.tolerance, n_sets)
        except (ValueError, KeyError, UsageError) as error:
            all_problems.append(Problem(str(case.key), str(error)))
            continue
        findings.append(judged.finding)
        notes.append(judged.note)

    notes += condition_notes(cases.pairs)
    # Data sets of the baseline without a finding count as tests that show nothing.
    decided_findings = tuple(decide_findings(findings, baseline.tolerance, n_sets))
    return Report(path, decided_findings, tuple(all_problems), tuple(notes), baseline.tolerance)


def _without_stop(result: VerifiedResult) -> VerifiedResult:
    """Return a result without the record that its run stopped early."""
    provenance = {name: value for name, value in result.row.provenance.items() if name != STOPPED}
    return result._replace(row=replace(result.row, provenance=provenance))


def _judge(
    case: Case, result: VerifiedResult, path: Path, tolerance: float, n_sets: int
) -> _Judged:
    """Compare a result with the baseline's entry, after each look at the samples.

    Args:
        case: The entry of the baseline.
        result: The new result. If its run stopped, the result has the record of this.
        path: The JSON file of the baseline.
        tolerance: The tolerated loss, as a fraction.
        n_sets: The number of data sets of the baseline, for which the note is corrected.

    Raises:
        ValueError: If the result was measured otherwise than the baseline, or cannot be judged.
    """
    entry = case.entries[0]
    entry_samples = baseline_samples(path, entry)
    if entry_samples is None:
        raise ValueError("--sequential needs samples, which --metrics-only left out")
    _require_same_settings(result, entry)
    task = task_named(case.task)
    units = units_of(task, entry_samples)
    evidence = begin_looks(task, units)
    if units.method == ASYMPTOTIC and result.row.n_samples < units.start:
        raise ValueError(
            f"task {task.name} is judged by an asymptotic sequence, which begins at "
            f"{units.start:,} {task.sample_noun}, and there are {result.row.n_samples:,}"
        )

    # A sequence keeps the evidence of all looks for those bounds that it was asked for before.
    for bound in {0.0, -tolerance}:
        evidence.sequence.log_e_below(bound)
        evidence.sequence.log_e_above(-bound)
    answer: Decision = "undecided"
    n_needed = 0
    new_shards: list[Samples] = []
    baseline_shards: list[Samples] = []
    for new_shard, baseline_shard, unit_of_sample in _shards(task, result, entry_samples):
        new_shards.append(new_shard)
        baseline_shards.append(baseline_shard)
        has_look = evidence.add(new_shard, baseline_shard, unit_of_sample)
        if has_look and answer == "undecided":
            answer = decide(evidence.sequence, 2 * ALPHA / n_sets)
            n_needed = evidence.n_samples

    metric = task.deciding_metric
    assert metric is not None  # `units_of` requires it
    change = SequentialDifference(
        a=deciding_estimate(task, task.join(new_shards)).value,
        b=deciding_estimate(task, task.join(baseline_shards)).value,
        units=evidence.n_samples,
        method=METHODS[units.method],
        sequence=evidence.sequence,
    )
    counts = f"{evidence.n_samples:,} of {units.n_samples:,} {task.sample_noun}"
    note = f"{case.key}: {metric.name} of {counts}, undecided"
    if answer != "undecided":
        winner = "new" if answer == "A better" else "baseline"
        note = (
            f"{case.key}: {metric.name} of {counts}, {winner} better was known after {n_needed:,}"
        )
    return _Judged(Finding(case.key, case.task, metric.name, change), note)


def _shards(task: Task, result: VerifiedResult, entry_samples: Samples) -> Iterator[Shards]:
    """Yield the samples of a result and of the baseline, in the shards between two looks.

    Args:
        task: The task of the data set.
        result: The new result, of a whole run or of one that stopped.
        entry_samples: The arrays of the baseline's entry.

    Raises:
        ValueError: If the run that stopped had other units than the baseline.
    """
    units = units_of(task, entry_samples)
    if not is_stopped(result.row):
        yield from stored_shards(task, units, result.samples, entry_samples)
        return
    record = result.row.provenance[STOPPED]
    shards = cut_into_shards(units, record["seed"])
    stopped = shards_of_stopped(task, units.n_units, record["seed"], result.samples)
    for shard, (samples, _, unit_of_sample) in zip(shards, stopped, strict=False):
        if len(shard.samples) != len(unit_of_sample):
            raise ValueError("the run that stopped had other units than the baseline")
        yield samples, task.take(entry_samples, shard.samples), shard.units


def _require_same_settings(result: VerifiedResult, entry: Entry) -> None:
    """Raise ValueError if a result was measured otherwise than an entry of the baseline.

    For a run that stopped, the number of samples of the whole data set is compared, since the run
    has measured only some of them.
    """
    row = result.row
    n_samples = row.n_samples
    if is_stopped(row):
        n_samples = row.provenance[STOPPED]["samples"]
    provenance = _without_stop(result).row.provenance
    setting = make_setting(row.task, row.dataset, row.protocol, n_samples, provenance)
    try:
        require_same_settings([entry.setting, setting])
    except ValueError as error:
        raise ValueError(f"measured otherwise than the baseline: {error}") from error
    require_same_label_settings(entry, row)
