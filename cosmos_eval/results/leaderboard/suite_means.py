"""Means of models, or of groups of trainings, over members of a suite, with their intervals."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.protocols.languages import language_of, languages_overlap
from cosmos_eval.results.compare import require_comparable, require_metric_of_samples
from cosmos_eval.results.groups import Moments, require_distinct
from cosmos_eval.results.identity import group_label
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.settings import SAMPLE_LISTS, setting_of_result
from cosmos_eval.results.store import ReadSamples
from cosmos_eval.stats import suites
from cosmos_eval.stats.estimates import Estimate, Ints, Values
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.tasks import Metric, task_named
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import Interval, SuiteMember, UsageError

ModelResults = Mapping[SuiteMember, StoredResult]
"""The results of a model that count in its mean, by member of the suite."""


class Mean(NamedTuple):
    """A mean over the members of a suite."""

    value: float
    # The interval of the mean; None for published numbers.
    interval: Interval | None = None
    # The values (R,) that the mean has in R resampled test sets; empty for published numbers.
    resampled_values: Values = np.empty(0)

    def within(self, metric: Metric) -> "Mean":
        """Return the mean with an interval that does not exceed the bounds of a metric.

        For an accuracy, these are 0 and 1: the interval from 0.95 to 1.02 ends at 1.
        """
        if self.interval is None:
            return self
        return self._replace(interval=metric.within(self.interval))


class GroupDifferences(NamedTuple):
    """The differences between groups of trainings, whose errors cover images and seeds."""

    # The means of all trainings over the suite, with their covariance.
    moments: Moments
    # The indices of the trainings of each group in `moments`.
    indices: dict[str, Ints]

    def difference(self, a: str, b: str) -> GroupDifference:
        """Return the mean of the group called `a` minus the mean of the group called `b`."""
        return self.moments.difference(self.indices[a], self.indices[b])


class SuiteMeans:
    """The means of models over a suite, which is a list of data sets, called its members.

    The results are resampled once for all means: the samples of every test set are drawn R times
    with replacement, and the metrics are computed again for each draw.

    Attributes:
        groups: The models by group of trainings. Without groups, each model is its own group.
        clusters: The least number of independent clusters of images over all members.
    """

    def __init__(
        self,
        results: Mapping[str, ModelResults],
        read: ReadSamples,
        *,
        by_group: bool,
        is_harmonic: bool = False,
    ) -> None:
        """Resample the results of all models.

        Args:
            results: The results that count in the means, by model and member.
            read: A function that returns the per-sample arrays of a result file.
            by_group: True if the trainings of a group have a common mean.
            is_harmonic: True for the harmonic mean of the metrics' means over all members.

        Raises:
            UsageError: For samples that are missing or do not give the metrics, for a training that
                occurs twice, and if the trainings of a group were measured with different settings.
        """
        self._results = results
        self._by_group = by_group
        self._is_harmonic = is_harmonic
        # The values (M, R) of M metrics in R resampled test sets, by model and member.
        self._resampled_values: Mapping[str, Mapping[SuiteMember, Values]] = {}
        self.clusters = 0
        if results:
            self._resampled_values, self.clusters = _resample_all(results, read)
        self.groups = _models_by_group(results, by_group=by_group)

    def members_of(self, group: str) -> list[SuiteMember]:
        """Return the members of the suite of which all models of a group have a result."""
        first_model, *other_models = self.groups[group]
        members = []
        for member in self._results[first_model]:
            if all(member in self._results[model] for model in other_models):
                members.append(member)
        return members

    def means_over(
        self, members: Sequence[SuiteMember], metric: Metric
    ) -> tuple[dict[str, Mean], GroupDifferences | None]:
        """Return the mean over some members of every group that has all of them, by group.

        Args:
            members: The members of the suite.
            metric: A metric of the suite, at whose bounds intervals end.

        Returns:
            The means by group, and the differences between groups of trainings, which are None if
            groups are single models.
        """
        means = self._model_means(members)
        differences = None
        if self._by_group and means:
            means, differences = self._group_means(means)
        bounded_means = {group: mean.within(metric) for group, mean in means.items()}
        return bounded_means, differences

    def _model_means(self, members: Sequence[SuiteMember]) -> dict[str, Mean]:
        """Return the weighted mean over members of each model that has all of them, by model.

        The interval of the mean follows from the values that the mean has in the resampled test
        sets.
        """
        means = {}
        for model, results in self._results.items():
            has_all_members = all(member in results for member in members)
            if not has_all_members:
                continue

            # Collect the metrics of each member, and their values in the resampled test sets.
            member_values = []
            resampled_member_values = []
            for member in members:
                metrics = results[member].row.metrics
                member_values.append(np.array([metrics[name] for name in member.metrics]))
                resampled_member_values.append(self._resampled_values[model][member])  # (M, R)

            value = float(mean_over(member_values, members, is_harmonic=self._is_harmonic))
            resampled_values = mean_over(  # (R,)
                resampled_member_values, members, is_harmonic=self._is_harmonic
            )
            interval = suites.interval_of(value, resampled_values, self.clusters)
            means[model] = Mean(value, interval, resampled_values)
        return means

    def _group_means(
        self, model_means: Mapping[str, Mean]
    ) -> tuple[dict[str, Mean], GroupDifferences]:
        """Return the means of groups whose trainings all have a mean, and the groups' differences.

        The interval of a single training covers only images. The interval of several trainings
        covers seeds and images.

        Args:
            model_means: The means of single trainings, by the label of the model.
        """
        model_indices = {model: index for index, model in enumerate(model_means)}

        # Estimate the covariance between the means of models from the resampled values. A resampled
        # test set may lack a class, so that a metric has no value in it.
        resampled_values = np.stack([mean.resampled_values for mean in model_means.values()])
        has_all_values = ~np.isnan(resampled_values).any(axis=0)  # (R,), from (models, R)
        covariance = np.atleast_2d(np.cov(resampled_values[:, has_all_values]))
        covariance = covariance * self.clusters / (self.clusters - 1)
        values = np.array([mean.value for mean in model_means.values()])
        moments = Moments(values, covariance, self.clusters)

        means: dict[str, Mean] = {}
        indices: dict[str, Ints] = {}
        for group, models in self.groups.items():
            has_all_means = all(model in model_means for model in models)
            if not has_all_means:
                continue
            group_indices = np.array([model_indices[model] for model in models])
            indices[group] = group_indices
            if len(models) == 1:
                means[group] = model_means[models[0]]
            else:
                # The mean of the group, as a difference from 0.
                group_mean = moments.mean(group_indices)
                group_resampled_values = resampled_values[group_indices].mean(axis=0)  # (R,)
                means[group] = Mean(group_mean.a, group_mean.interval(), group_resampled_values)
        return means, GroupDifferences(moments, indices)


def weighted_mean(values: Sequence[Any], members: Sequence[SuiteMember]) -> Values:
    """Return the mean of the values of members, weighted by the weights of the members.

    Args:
        values: One value per member. A value may be an array, such as the values (R,) in R
            resampled test sets.
        members: The members of the suite, with their weights.
    """
    weights = [member.weight for member in members]
    mean: Values = np.average(values, axis=0, weights=weights)
    return mean


def mean_over(
    values: Sequence[Values], members: Sequence[SuiteMember], *, is_harmonic: bool
) -> Values:
    """Return the mean of the metrics of members over the members of a suite.

    It is the mean over members of the mean of a member's metrics, or the harmonic mean over metrics
    of the mean of a metric over the members.

    Args:
        values: The values of the M metrics of each member, (M,) or (M, R).
        members: The members of the suite, with their weights.
        is_harmonic: True if the harmonic mean is returned. All members then have the same metrics.

    Example:
        Two members have the accuracies [0.4, 0.8] and [0.8, 0.8] on base and on new classes. Their
        mean is 0.7. The harmonic mean of 0.6 and 0.8 is 0.686.
    """
    if not is_harmonic:
        return weighted_mean([member_values.mean(axis=0) for member_values in values], members)
    means = weighted_mean(values, members)
    with np.errstate(divide="ignore"):  # a mean of 0 makes the harmonic mean 0
        harmonic_mean: Values = len(means) / (1 / means).sum(axis=0)
    return harmonic_mean


def _models_by_group(
    results: Mapping[str, ModelResults], *, by_group: bool
) -> dict[str, list[str]]:
    """Return the names of the models in every group of trainings, by group.

    A model whose group is unknown is its own group.

    Args:
        results: The results that count in the means, by model and member.
        by_group: True if the trainings of a group have a common mean. Otherwise every model is its
            own group.

    Raises:
        UsageError: For a training that occurs twice, and for different settings in a group.
    """
    # All results of a model state the same training, so any of them names its group.
    first_results = {model: next(iter(results[model].values())) for model in results}
    groups: dict[str, list[str]] = {}
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
    stored: StoredResult


def _resample_all(
    results: Mapping[str, ModelResults], read: ReadSamples
) -> tuple[dict[str, dict[SuiteMember, Values]], int]:
    """Resample the results of all models.

    Results with the same list of samples are resampled together, by the same random draws, so that
    differences between models are paired.

    Args:
        results: The results that count in the means, by model and member. There is at least one.
        read: A function that returns the per-sample arrays of a result file.

    Returns:
        The values (M, R) of the M metrics of a member in R resampled test sets, by model and
        member, and the least number of clusters that a test set was resampled by.
    """
    # Group the results by their samples.
    results_by_sample_list: dict[str, list[_MemberResult]] = {}
    for model, model_results in results.items():
        for member, stored in model_results.items():
            member_result = _MemberResult(model, member, stored)
            results_by_sample_list.setdefault(sample_list_key(stored), []).append(member_result)

    # Lists of samples that overlap are resampled together.
    lists_by_images: dict[str, list[list[_MemberResult]]] = {}
    for sample_list_text, member_results in results_by_sample_list.items():
        images_text = _overlapping_images_key(member_results[0].stored) or sample_list_text
        lists_by_images.setdefault(images_text, []).append(member_results)

    resampled_values: dict[str, dict[SuiteMember, Values]] = {model: {} for model in results}
    cluster_counts = []
    for images_text, sample_lists in lists_by_images.items():
        values_of_lists, n_clusters = _resample_together(sample_lists, images_text, read)
        cluster_counts.append(n_clusters)
        for member_results, list_values in zip(sample_lists, values_of_lists, strict=True):
            for member_result, values in zip(member_results, list_values, strict=True):
                resampled_values[member_result.model][member_result.member] = values
    return resampled_values, min(cluster_counts)


def _resample_together(
    sample_lists: Sequence[Sequence[_MemberResult]], images_text: str, read: ReadSamples
) -> tuple[list[list[Values]], int]:
    """Resample results that have the same list of samples, or lists that overlap.

    Args:
        sample_lists: For each list of samples, the results of several models, or of several
            members, on it.
        images_text: A text that no other samples have. It seeds the random draws.
        read: A function that returns the per-sample arrays of a result file.

    Returns:
        The values (M, R) of the member's M metrics in R resampled test sets, for every result of
        every list, and the least number of clusters that were drawn.

    Raises:
        UsageError: If the samples cannot be resampled.
    """
    text_hash = hashlib.sha256(images_text.encode()).hexdigest()
    seed = int(text_hash[:16], 16)
    estimates = [_estimates_of_list(member_results, read) for member_results in sample_lists]
    try:
        if len(sample_lists) == 1:
            metrics_of_list, n_clusters = suites.resample(estimates[0], seed=seed)
            metrics_of_lists = [metrics_of_list]
        else:
            names = [_image_names(member_results, read) for member_results in sample_lists]
            metrics_of_lists, n_clusters = suites.resample_overlapping(estimates, names, seed=seed)
    except ValueError as error:
        raise UsageError(f"{sample_lists[0][0].stored.path}: {error}") from error
    values = []
    for member_results, metrics_of_list in zip(sample_lists, metrics_of_lists, strict=True):
        values.append(_values_of_results(member_results, metrics_of_list))
    return values, n_clusters


def _estimates_of_list(
    member_results: Sequence[_MemberResult], read: ReadSamples
) -> dict[str, Estimate]:
    """Return the estimates of all metrics of results on the same samples.

    Their names are such as "0 recall@1", in which 0 is the index of the result.
    """
    estimates: dict[str, Estimate] = {}
    for index, (_, member, stored) in enumerate(member_results):
        for name, estimate in _member_estimates(member, stored, read).items():
            estimates[f"{index} {name}"] = estimate
    return estimates


def _values_of_results(
    member_results: Sequence[_MemberResult], resampled_metrics: Mapping[str, Values]
) -> list[Values]:
    """Return the values (M, R) of each result from those by the names of `_estimates_of_list`."""
    values = []
    for index, member_result in enumerate(member_results):
        metric_names = member_result.member.metrics
        metric_values = [resampled_metrics[f"{index} {name}"] for name in metric_names]  # of (R,)
        values.append(np.stack(metric_values))
    return values


def _image_names(member_results: Sequence[_MemberResult], read: ReadSamples) -> list[str]:
    """Return the names of the N images that results on the same samples have.

    Raises:
        UsageError: If the result does not record them.
    """
    path = member_results[0].stored.path
    samples = read(path)
    if NAME not in samples:
        raise UsageError(f"{path} has no names of images, which its interval needs: run it again")
    names: list[str] = samples[NAME].tolist()
    return names


def _overlapping_images_key(stored: StoredResult) -> str | None:
    """Return a text that is equal for results in languages that share some of their images.

    It ends with the notes that tell versions of a data set apart, because other images may have the
    same names. Return None for other results.

    Example:
        "babel-imagenet" for the results of `babel-imagenet-de` and `babel-imagenet-fr`.
    """
    language = language_of(stored.row.dataset)
    if language is None or not languages_overlap(language.language_set):
        return None
    return ", ".join([language.language_set, *stored.data_notes])


def sample_list_key(stored: StoredResult) -> str:
    """Return a text that is equal for results on the same samples, and differs for others.

    Results in several languages on the same images are on the same samples. Otherwise, it is the
    hash of the list of samples, followed by the notes that tell versions of a data set apart. For a
    result that records no hash, it is the model, the data set and the protocol, so no other result
    has the same text.
    """
    setting = setting_of_result(stored.row)
    image_hash = setting.get("hashes.content")
    if image_hash and language_of(stored.row.dataset) is not None:
        return ", ".join([image_hash, *stored.data_notes])
    for field in SAMPLE_LISTS:
        sample_list_hash = setting.get(field)
        if sample_list_hash:
            return ", ".join([sample_list_hash, *stored.data_notes])
    return str((stored.model, stored.row.dataset, stored.row.protocol))


def _member_estimates(
    member: SuiteMember, stored: StoredResult, read: ReadSamples
) -> dict[str, Estimate]:
    """Return the estimates of a member's metrics from the samples of a result, by name.

    An estimate is a metric that can be resampled.

    Args:
        member: The member of the suite, which names its task and metrics.
        stored: The result of a model for the member.
        read: A function that returns the per-sample arrays of a result file.

    Raises:
        UsageError: If the samples do not give the stored metrics.
    """
    task = task_named(member.task)
    samples = read(stored.path)
    try:
        estimates = task.estimates(task.derive(samples))
        for name in member.metrics:
            computed = estimates[name].value if name in estimates else None
            require_metric_of_samples(name, stored.row.metrics[name], computed)
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(f"{stored.path}: {error} (`cosmos-eval verify` shows more)") from error
    return {name: estimates[name] for name in member.metrics}
