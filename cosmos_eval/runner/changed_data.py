"""Find existing results whose data have changed since they were measured. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_core.utils.distributed import SINGLE_PROCESS
from cosmos_eval.results.identity import CONTENT
from cosmos_eval.runner.plan import (
    Pair,
    Plan,
    Result,
    ShowProgress,
    open_dataset,
    pair_of,
    show_no_progress,
)
from cosmos_eval.runner.preview import data_state
from cosmos_eval.tasks import task_for
from cosmos_eval.types import Progress, Protocol, RunOptions, UsageError


def mark_changed_data(
    existing: Mapping[Pair, Result], plan: Plan, show_progress: ShowProgress = show_no_progress
) -> dict[Pair, Result]:
    """Return existing results, with an error for each that was measured on other data.

    All files of their data sets are read. Results stay as they are, with a note, if their data are
    not on the disk, if their task cannot hash data, or if they are of an older version that records
    no hash of the files.

    Args:
        existing: The results, some of which may have an error already.
        plan: The plan that they belong to.
        show_progress: Is called for each data set before it is read, and with notes.
    """
    marked = dict(existing)
    options = replace(plan.options, distributed=SINGLE_PROCESS, download=False)
    for n_done, protocol in enumerate(plan.protocols):
        results = _valid_results(existing, plan, protocol)
        if not results:
            continue
        progress = Progress("read", n_done, len(plan.protocols))
        show_progress("data of existing results", progress)
        try:
            hashes = _hash_data(protocol, options)
        except Exception as error:
            # The results are measured again, and the run then raises or reports the error.
            for result in results:
                marked[result.pair] = Result(result.pair, path=result.path, error=error)
            continue
        if not hashes or not all(_has_content_hash(result) for result in results):
            note = f"{protocol.dataset}: existing results stay, but their data cannot be compared"
            show_progress("data", progress._replace(note=note))
        for result in results:
            difference = _find_difference(result, hashes, protocol)
            if difference is not None:
                marked[result.pair] = Result(result.pair, path=result.path, error=difference)
    return marked


def _valid_results(existing: Mapping[Pair, Result], plan: Plan, protocol: Protocol) -> list[Result]:
    """Return the existing results of the plan's models by a protocol that have no error."""
    results = []
    for spec in plan.specs:
        result = existing.get(pair_of(spec, protocol))
        if result is not None and result.error is None:
            results.append(result)
    return results


def _hash_data(protocol: Protocol, options: RunOptions) -> Mapping[str, str]:
    """Return the hashes of a data set that results record, by name.

    They are empty if the data are not on the disk, or if the task cannot hash them. Raises
    UsageError for data that are there but cannot be read.
    """
    is_there = data_state(protocol, options) == "there"
    if not is_there or options.streams(protocol):
        return {}
    dataset = open_dataset(protocol, options, check=False)
    return task_for(protocol).data_hashes(dataset.protocol, dataset.data, options)


def _has_content_hash(result: Result) -> bool:
    """Return whether a result records a hash of the files that were measured."""
    assert result.row is not None  # only failed results have none
    return bool(result.row.provenance["hashes"].get(CONTENT))


def _find_difference(
    result: Result, hashes: Mapping[str, str], protocol: Protocol
) -> UsageError | None:
    """Return an error that names the recorded hashes of a result that are others now, or None.

    Args:
        result: The result.
        hashes: The hashes of the data as they are now.
        protocol: The protocol of the data set.
    """
    assert result.row is not None  # only failed results have none
    changed_names = []
    for name, sha256 in hashes.items():
        recorded_sha256 = result.row.provenance["hashes"].get(name)  # older results lack some
        if recorded_sha256 and recorded_sha256 != sha256:
            changed_names.append(name.replace("_", " "))
    if not changed_names:
        return None
    words = ", ".join(changed_names)
    return UsageError(
        f"{result.path} was measured on other data than {protocol.dataset} has now ({words})"
    )
