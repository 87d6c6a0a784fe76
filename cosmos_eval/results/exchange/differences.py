"""Compare models of which at least one was measured by another tool, so that nothing is tested."""

from collections.abc import Collection, Mapping, Sequence

from cosmos_core.utils.text import first_of
from cosmos_eval.results.compare import (
    Comparison,
    UntestedDifference,
    common_keys,
    keys_text,
    require_unedited,
)
from cosmos_eval.results.exchange.datacomp import metrics_with_mean
from cosmos_eval.results.exchange.record import ImportedResult
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.types import UsageError

AnyResult = StoredResult | ImportedResult
_SETTINGS_NOTE = (
    "the settings of imported results are unknown: their images, prompts and precision may differ"
)


def compare_without_samples(a: Sequence[AnyResult], b: Sequence[AnyResult]) -> Comparison:
    """Compare two models by their metrics, without samples.

    Args:
        a: The results of model A, at least one.
        b: The results of model B.

    Returns:
        The differences of metrics that both have on the same data set under the same protocol.

    Raises:
        UsageError: For an edited result, and if both models have no metric in common.
    """
    results_a, results_b = _results_by_key(a), _results_by_key(b)
    keys, _ = common_keys(results_a, results_b)
    notes = [
        *_unpaired_note("A", results_a.keys() - results_b.keys()),
        *_unpaired_note("B", results_b.keys() - results_a.keys()),
    ]
    differences: list[UntestedDifference] = []
    uncompared_metrics: list[str] = []
    for key in keys:
        differences += _differences_of_pair(results_a[key], results_b[key], key)
        metrics_of_both = [_metrics_of(results[key]) for results in (results_a, results_b)]
        for metric in sorted(metrics_of_both[0].keys() ^ metrics_of_both[1].keys()):
            uncompared_metrics.append(f"{metric} of {key[0]}")
    if not differences:
        raise UsageError(f"no metric that both have; not compared: {first_of(uncompared_metrics)}")
    notes.append(_SETTINGS_NOTE)
    if uncompared_metrics:
        metrics = first_of(uncompared_metrics)
        notes.append(f"not compared, since only one of both has it: {metrics}")
    return Comparison(
        a=a[0].model, b=b[0].model, tests=(), notes=tuple(notes), untested=tuple(differences)
    )


def _differences_of_pair(
    a: AnyResult, b: AnyResult, key: tuple[str, str]
) -> list[UntestedDifference]:
    """Return the differences of the metrics that two results have in common, primary ones first.

    Args:
        a: The result of model A.
        b: The result of model B.
        key: The data set and the protocol of both.
    """
    dataset, protocol = key
    task = a.task if isinstance(a, ImportedResult) else a.row.task
    metrics_a, metrics_b = _metrics_of(a), _metrics_of(b)
    differences = []
    for metric, value in metrics_a.items():
        if metric in metrics_b:
            difference = UntestedDifference(
                dataset=dataset,
                protocol=protocol,
                task=task,
                metric=metric,
                a=value,
                b=metrics_b[metric],
            )
            differences.append(difference)
    return sorted(differences, key=lambda difference: not difference.metric_record.primary)


def _unpaired_note(side: str, keys: Collection[tuple[str, str]]) -> list[str]:
    """Return a note on data sets that only one side has, or an empty list if there are none."""
    return [f"not compared: only {side} has {keys_text(keys)}"] if keys else []


def _results_by_key(results: Sequence[AnyResult]) -> dict[tuple[str, str], AnyResult]:
    """Return results by their data set and protocol. Raises UsageError for an edited result."""
    results_by_key = {}
    for result in results:
        if isinstance(result, StoredResult):
            require_unedited(result)
            key = (result.row.dataset, result.row.protocol)
        else:
            key = (result.dataset, result.protocol)
        results_by_key[key] = result
    return results_by_key


def _metrics_of(result: AnyResult) -> Mapping[str, float]:
    """Return the metrics of a result, with the mean recall of DataComp's data sets."""
    if isinstance(result, ImportedResult):
        return result.metrics
    return metrics_with_mean(result.row)
