"""The metrics of results that can be audited: those that say which model solves which item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.results.identity import is_stopped
from cosmos_eval.results.labels import StoredResult, distinct_results
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.settings import require_same_settings, setting_of_result
from cosmos_eval.results.store import read_samples
from cosmos_eval.stats.estimates import Mean, Proportion
from cosmos_eval.tasks import Metric, Task, task_named
from cosmos_eval.tasks.retrieval import IMAGE_OF_TEXT
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import Samples, UsageError, wording_name


@dataclass(frozen=True)
class AuditedMetric:
    """A metric of several models on the same items, each of which a model solves or not."""

    # The results of K models on one data set under one protocol.
    results: tuple[StoredResult, ...]
    # The stored arrays of each result.
    samples: tuple[Samples, ...]
    # The name of the metric, such as "acc1".
    metric: str
    # The estimate of each model, the mean of N truth values.
    estimates: tuple[Proportion | Mean, ...]

    @property
    def row(self) -> ResultRow:
        """The row of the first result. It is used for fields that all results share."""
        return self.results[0].row

    @property
    def name(self) -> str:
        """The data set, the protocol and the metric, such as "scenes-cls, scenes, acc1"."""
        return f"{self.results[0].dataset}, {self.row.protocol}, {self.metric}"

    @property
    def models(self) -> list[str]:
        """The labels of the models."""
        return [result.label for result in self.results]

    @property
    def record(self) -> Metric:
        """The definition of the metric."""
        return task_named(self.row.task).metric(self.metric)

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """(K, N), true for the items that a model solves."""
        return np.stack([_values_of(estimate) for estimate in self.estimates])

    @property
    def n_items(self) -> int:
        """The number N of items."""
        return int(self.hits.shape[1])

    @cached_property
    def item_names(self) -> list[str]:
        """(N,) the names of the items.

        An item is named after its image. If captions are the items, the name of the image is
        followed by the number of the caption among the image's captions. The second caption of
        "000001.jpg" is "000001.jpg#1". The names are empty if results of old versions lack them.
        """
        samples = self.samples[0]
        names = [str(name) for name in samples.get(NAME, ())]
        if len(names) == self.n_items and not self.has_captions_as_items:
            return names
        if self.has_captions_as_items and names:
            image_of_text = samples[IMAGE_OF_TEXT]
            # The images of captions are sorted: [0, 0, 1, 1, 1] gives the numbers [0, 1, 0, 1, 2].
            first_text_of_image = np.searchsorted(image_of_text, image_of_text)
            numbers = np.arange(self.n_items) - first_text_of_image
            caption_names = []
            for image, number in zip(image_of_text.tolist(), numbers.tolist(), strict=True):
                caption_names.append(f"{names[image]}#{number}")
            return caption_names
        return [""] * self.n_items

    @property
    def has_captions_as_items(self) -> bool:
        """True if the items are captions, as in retrieval of images by captions."""
        return self.row.task == "retrieval" and self.metric.startswith("text_to_image")


def read_metrics(results: Iterable[StoredResult]) -> tuple[list[AuditedMetric], list[str]]:
    """Read the samples of results, and return the metrics that can be audited.

    A metric can be audited if it is primary and is the share of solved items, as accuracy and R@1.

    Args:
        results: The results. They may have several data sets and protocols.

    Returns:
        The metrics, and notes on the results and data sets that are not audited.

    Raises:
        UsageError: For edited results, results without samples, and results of one data set and
            protocol with different samples or settings.
    """
    whole_results, notes = _choose_whole_results(distinct_results(results))
    results_by_set: dict[tuple[Any, ...], list[StoredResult]] = {}
    for result in whole_results:
        if result.is_edited:
            raise UsageError(f"{result.path}: {result.fault} (`cosmos-eval verify` shows more)")
        results_by_set.setdefault(_key_of_set(result), []).append(result)

    metrics: list[AuditedMetric] = []
    sets_not_audited: dict[str, None] = {}
    for set_results in results_by_set.values():
        row = set_results[0].row
        set_metrics = _metrics_of_set(task_named(row.task), set_results)
        metrics += set_metrics
        if not set_metrics:
            sets_not_audited[row.dataset] = None
    if sets_not_audited:
        names = ", ".join(sorted(sets_not_audited))
        notes.append(f"not audited: {names}: their metrics are not shares of solved items")
    return metrics, notes


def _choose_whole_results(
    results: Iterable[StoredResult],
) -> tuple[list[StoredResult], list[str]]:
    """Leave out results of runs that stopped early, and results with other wordings.

    Returns:
        The results that remain, and notes on how many were left out.
    """
    chosen_results = []
    n_stopped = n_reworded = 0
    for result in results:
        if is_stopped(result.row):
            n_stopped += 1
        elif wording_name(result.row.protocol):
            n_reworded += 1
        else:
            chosen_results.append(result)
    notes = []
    if n_stopped:
        notes.append(f"not audited: results of runs that stopped early: {n_stopped}")
    if n_reworded:
        notes.append(f"not audited: results with other wordings: {n_reworded}")
    return chosen_results, notes


def _key_of_set(result: StoredResult) -> tuple[Any, ...]:
    """Return a key that is the same for all results that are compared with each other."""
    row = result.row
    provenance = row.provenance
    return row.task, row.dataset, row.protocol, provenance["limit"], provenance.get("partial")


def _metrics_of_set(task: Task, results: Sequence[StoredResult]) -> list[AuditedMetric]:
    """Return the audited metrics of results on one data set.

    Args:
        task: The task of the results.
        results: The results. If the first one has no metric that can be audited, the samples of the
            others are not read.

    Raises:
        UsageError: If the results have different samples or settings.
    """
    first_samples = read_samples(results[0].path)
    metric_names = _auditable_metrics(task, first_samples)
    if not metric_names:
        return []
    name = f"{results[0].row.dataset} ({results[0].row.protocol})"
    try:
        require_same_settings(setting_of_result(result.row) for result in results)
        other_samples = [read_samples(result.path) for result in results[1:]]
        samples = (first_samples, *other_samples)
        estimates_of_results = task.compared_estimates(samples, metric_names)
    except ValueError as error:
        raise UsageError(f"{name} cannot be audited: {error}") from error
    audited_metrics = []
    for metric_name in metric_names:
        estimates: list[Proportion | Mean] = []
        for estimates_by_name in estimates_of_results:
            estimate = estimates_by_name[metric_name]
            if isinstance(estimate, Proportion | Mean):
                estimates.append(estimate)
        audited_metrics.append(
            AuditedMetric(tuple(results), samples, metric_name, tuple(estimates))
        )
    return audited_metrics


def _auditable_metrics(task: Task, samples: Samples) -> list[str]:
    """Return the names of the primary metrics of a task that are the share of solved items."""
    estimates = task.estimates(task.derive(samples))
    names = []
    for metric in task.metrics:
        estimate = estimates.get(metric.name)
        if not metric.primary or not metric.higher_is_better:
            continue
        if isinstance(estimate, Proportion | Mean) and _values_of(estimate).dtype == np.bool_:
            names.append(metric.name)
    return names


def _values_of(estimate: Proportion | Mean) -> NDArray[Any]:
    """Return the values of an estimate, one per item, (N,)."""
    return estimate.hits if isinstance(estimate, Proportion) else estimate.values
