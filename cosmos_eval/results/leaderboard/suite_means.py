"""Means of models, or of groups of trainings, over members of a suite, with their intervals."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results.compare import (
    SAMPLE_LISTS,
    require_comparable,
    require_metric_of_samples,
    setting,
)
from cosmos_eval.results.groups import Moments, require_distinct
from cosmos_eval.results.identity import group_label
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.store import Read
from cosmos_eval.stats import suites
from cosmos_eval.stats.estimates import Estimate, Ints, Values
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.tasks import Metric, task_named
from cosmos_eval.types import Interval, SuiteMember, UsageError

Results = Mapping[SuiteMember, Stored]
"""The results of a model that count in the mean."""


class Mean(NamedTuple):
    """A mean over members."""

    value: float
    # The interval, of a mean of measured results.
    interval: Interval | None = None
    # The resampled values (R,), of a mean of measured results.
    drawn: Values = np.empty(0)

    def within(self, metric: Metric) -> "Mean":
        """Cut the interval off at the values that the metric can have."""
        if self.interval is None:
            return self
        return self._replace(interval=metric.within(self.interval))


class GroupDifferences(NamedTuple):
    """Differences of two groups, whose errors cover images and seeds."""

    # The mean over members of every training.
    moments: Moments
    # The indices of the trainings of each group.
    indices: dict[str, Ints]

    def difference(self, a: str, b: str) -> GroupDifference:
        """Return the mean of group A minus the mean of group B."""
        return self.moments.difference(self.indices[a], self.indices[b])


class SuiteMeans:
    """The measured results of a suite, which are resampled once for all means.

    Attributes:
        groups: The models by group of trainings. Without groups each model is its own group.
        clusters: The least number of clusters that a member was resampled by.
    """

    def __init__(self, results: Mapping[str, Results], read: Read, *, by_group: bool) -> None:
        """Resample the results of all models.

        Raises UsageError for samples that are missing or do not give the metrics, for a training
        that occurs twice, and if the trainings of a group were measured by different settings.
        """
        self._results = results
        self._by_group = by_group
        self._draws: Mapping[str, Mapping[SuiteMember, Values]] = {}
        self.clusters = 0
        if results:
            self._draws, self.clusters = _resample_all(results, read)
        self.groups = _models_by_group(results, by_group=by_group)

    def members_of(self, group: str) -> list[SuiteMember]:
        """Return the members that all models of a group have."""
        first_model, *other_models = self.groups[group]
        return [
            member
            for member in self._results[first_model]
            if all(member in self._results[model] for model in other_models)
        ]

    def over(
        self, members: Sequence[SuiteMember], metric: Metric
    ) -> tuple[dict[str, Mean], GroupDifferences | None]:
        """Return the mean over members of every group that has all of them, by group.

        Also returns the differences of groups of trainings, or None for single models. Intervals
        are cut off at the bounds of `metric`.
        """
        means = self._model_means(members)
        differences = None
        if self._by_group and means:
            means, differences = self._group_means(means)
        return {name: mean.within(metric) for name, mean in means.items()}, differences

    def _model_means(self, members: Sequence[SuiteMember]) -> dict[str, Mean]:
        """Return the means over members of the models that have all of them."""
        means = {}
        for model, results in self._results.items():
            if not all(member in results for member in members):
                continue
            values = []
            for member in members:
                metrics = results[member].row.metrics
                values.append(np.mean([metrics[name] for name in member.metrics]))
            draws = weighted_mean([self._draws[model][member] for member in members], members)
            mean = float(weighted_mean(values, members))
            means[model] = Mean(mean, suites.interval_of(mean, draws, self.clusters), draws)
        return means

    def _group_means(
        self, model_means: Mapping[str, Mean]
    ) -> tuple[dict[str, Mean], GroupDifferences]:
        """Return the means of the groups whose every training has a mean, and their differences."""
        model_indices = {model: index for index, model in enumerate(model_means)}
        draws = np.stack([mean.drawn for mean in model_means.values()])  # (models, R)
        is_known = ~np.isnan(draws).any(axis=0)  # draws in which every model has a value
        covariance = np.atleast_2d(np.cov(draws[:, is_known]))
        covariance = covariance * self.clusters / (self.clusters - 1)
        values = np.array([mean.value for mean in model_means.values()])
        moments = Moments(values, covariance, self.clusters)
        means: dict[str, Mean] = {}
        indices: dict[str, Ints] = {}
        for group, models in self.groups.items():
            if not all(model in model_means for model in models):
                continue
            group_indices = np.array([model_indices[model] for model in models])
            indices[group] = group_indices
            if len(models) == 1:
                means[group] = model_means[models[0]]
            else:
                mean = moments.mean(group_indices)
                group_draws = draws[group_indices].mean(axis=0)
                means[group] = Mean(mean.a, mean.interval(), group_draws)
        return means, GroupDifferences(moments, indices)


def weighted_mean(values: Sequence[Any], members: Sequence[SuiteMember]) -> Values:
    """Return the mean of the values of members, by their weights."""
    weights = [member.weight for member in members]
    mean: Values = np.average(values, axis=0, weights=weights)
    return mean


def _models_by_group(results: Mapping[str, Results], *, by_group: bool) -> dict[str, list[str]]:
    """Return the models of every group of trainings.

    A model that states no group is its own group; without `by_group` every model is. Raises
    UsageError for a training that occurs twice, and for different settings within a group.
    """
    groups: dict[str, list[str]] = {}
    first_results = {model: next(iter(results[model].values())) for model in results}
    for model, result in first_results.items():
        group = group_label(result.row) if by_group else None
        groups.setdefault(group or model, []).append(model)
    for models in groups.values():
        require_distinct([first_results[model] for model in models])
        first_model = models[0]
        for model in models[1:]:
            for member in results[model].keys() & results[first_model].keys():
                require_comparable(results[first_model][member], results[model][member])
    return groups


class _MemberResult(NamedTuple):
    """The result of a model for one member of the suite."""

    model: str
    member: SuiteMember
    stored: Stored


def _resample_all(
    results: Mapping[str, Results], read: Read
) -> tuple[dict[str, dict[SuiteMember, Values]], int]:
    """Return resampled values (R,) by model and member, and the least number of clusters.

    Results with the same list of samples are resampled together, by the same random draws.
    """
    results_by_sample_list: dict[str, list[_MemberResult]] = {}
    for model, model_results in results.items():
        for member, stored in model_results.items():
            member_result = _MemberResult(model, member, stored)
            results_by_sample_list.setdefault(sample_list(stored), []).append(member_result)
    resampled: dict[str, dict[SuiteMember, Values]] = {model: {} for model in results}
    cluster_counts = []
    for samples, member_results in results_by_sample_list.items():
        values, n_clusters = _resample_together(member_results, samples, read)
        cluster_counts.append(n_clusters)
        for member_result, member_values in zip(member_results, values, strict=True):
            resampled[member_result.model][member_result.member] = member_values
    return resampled, min(cluster_counts)


def _resample_together(
    member_results: Sequence[_MemberResult], samples: str, read: Read
) -> tuple[list[Values], int]:
    """Resample results that have the same list of samples, whose hash is `samples`.

    Returns the mean of the member's metrics in each draw (R,) for every result, and the number of
    clusters. Raises UsageError if the samples cannot be resampled.
    """
    estimates: dict[str, Estimate] = {}
    for index, (_, member, stored) in enumerate(member_results):
        for name, estimate in _estimates(member, stored, read).items():
            estimates[f"{index} {name}"] = estimate
    seed = int(hashlib.sha256(samples.encode()).hexdigest()[:16], 16)
    try:
        draws, n_clusters = suites.resample(estimates, seed=seed)
    except ValueError as error:
        raise UsageError(f"{member_results[0].stored.path}: {error}") from error
    values = []
    for index, member_result in enumerate(member_results):
        metric_draws = [draws[f"{index} {name}"] for name in member_result.member.metrics]
        values.append(np.mean(metric_draws, axis=0))
    return values, n_clusters


def sample_list(stored: Stored) -> str:
    """Return a text that is equal for results on the same samples.

    It is the hash of the list of samples, with the notes that tell versions of a data set apart. A
    result without a hash has a text that no other result has.
    """
    fields = setting(stored.row)
    for name in SAMPLE_LISTS:
        if fields.get(name):
            return ", ".join([fields[name], *stored.data_notes])
    return str((stored.model, stored.row.dataset, stored.row.protocol))


def _estimates(member: SuiteMember, stored: Stored, read: Read) -> dict[str, Estimate]:
    """Return the estimates of a member's metrics from the samples of a result.

    Raises UsageError if the samples do not give the stored metrics.
    """
    task, samples = task_named(member.task), read(stored.path)
    try:
        estimates = task.estimates(task.derive(samples))
        for name in member.metrics:
            computed = estimates[name].value if name in estimates else None
            require_metric_of_samples(name, stored.row.metrics[name], computed)
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(f"{stored.path}: {error} (`cosmos-eval verify` shows more)") from error
    return {name: estimates[name] for name in member.metrics}
