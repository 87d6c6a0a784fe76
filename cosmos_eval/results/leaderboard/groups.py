"""Groups of trainings, which differ only in their seeds: the means of their metrics."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval._version import __version__
from cosmos_eval.results.captions import (
    TEST_METHODS,
    measured_sentence,
    methods_sentence,
    sizes_sentence,
)
from cosmos_eval.results.groups import estimate_moments_of_results, require_distinct
from cosmos_eval.results.identity import group_label, training_of
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.table import BY_RANK, USUAL, Table, TableOptions, table_of_records
from cosmos_eval.results.text import interval_text, metric_text
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import Interval

_NOTES = (
    "Mean of all trainings of a group; its interval covers seeds and images.",
    "Seed sd: the standard deviation of the metric between trainings, without the part by images.",
    "Image se: the standard error of the mean by the draw of images, for these trainings.",
    "With one training the interval covers only images, and another seed may give another number.",
)


class GroupMean(NamedTuple):
    """A metric of all trainings of a group on one data set, and its mean."""

    # The label of the group.
    group: str
    task: str
    dataset: str
    protocol: str
    metric: str
    # The seeds of the trainings; None for an unknown seed.
    seeds: tuple[int | None, ...]
    # The metric of each training.
    values: tuple[float, ...]
    # The estimate of the mean, as a difference from 0.
    estimate: GroupDifference

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation of the metric between seeds; None for a single training."""
        return self.estimate.groups[0].seed_sd

    @property
    def metric_record(self) -> Metric:
        """The metric's definition: its unit, its bounds, and whether higher is better."""
        return metric_of(self.task, self.metric)

    @property
    def loss(self) -> float:
        """The mean, negated if higher is better, so that lower is always better."""
        return -self.estimate.a if self.metric_record.higher_is_better else self.estimate.a

    @property
    def interval(self) -> Interval:
        """The interval of the mean, within the values that the metric can have."""
        return self.metric_record.within(self.estimate.interval())

    def cells(self, options: TableOptions) -> dict[str, str]:
        """Return the mean as a row of a table, by column title.

        Fractions are in percent. The standard deviation between seeds is "-" for a single training.
        """
        metric = self.metric_record
        factor = metric.factor  # 100 for fractions, else 1
        seed_sd = "-"
        if self.seed_sd is not None:
            seed_sd = options.format_number(self.seed_sd, factor)
        interval_cell = ""
        if options.intervals:
            interval_cell = interval_text(metric, self.interval._asdict(), options.decimals)
        return {
            "group": self.group,
            "data set": self.dataset,
            "protocol": self.protocol,
            "metric": metric.label or self.metric,
            "trainings": str(len(self.seeds)),
            "mean": metric_text(metric, self.estimate.a, options.decimals),
            "seed sd": seed_sd,
            "image se": options.format_number(self.estimate.image_error, factor),
            "95% interval": interval_cell,
        }

    def record(self) -> dict[str, Any]:
        """Return the mean as a record for JSON, in which metrics are fractions."""
        record = self._asdict()
        del record["estimate"]
        record["trainings"] = len(self.seeds)
        record["mean"] = self.estimate.a
        record["seed_sd"] = self.seed_sd
        record["image_error"] = self.estimate.image_error
        record.update(self.interval._asdict())
        return record


def group_means(entries: Iterable[Entry]) -> list[GroupMean]:
    """Return the mean of each headline metric of each group of trainings on each data set.

    The means are sorted by protocol, data set and group. A model that states no group is a group
    with a single training.

    Raises:
        UsageError: For a training that occurs twice, if the trainings of a group were measured with
            different settings, and for samples that are missing or do not give the metrics.
    """
    entries_by_group: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        if entry.stored is not None and entry.is_ranked:
            group = group_label(entry.stored.row) or entry.model
            # Trainings with other settings belong here too, and are refused below.
            key = (entry.protocol, entry.stored.data_version, group)
            entries_by_group.setdefault(key, []).append(entry)

    means: list[GroupMean] = []
    for (_, _, group), group_entries in sorted(entries_by_group.items()):
        means += _means_of_group(group, group_entries)
    return means


def _means_of_group(group: str, entries: Sequence[Entry]) -> Iterator[GroupMean]:
    """Yield the mean of each headline metric of a group on one data set.

    A metric of which a single image decides whether it has a value is left out.

    Args:
        group: The label of the group.
        entries: The entries of the group's trainings on the data set.
    """
    results = [entry.stored for entry in entries if entry.stored is not None]
    require_distinct(results)
    seeds = tuple(training_of(result.row).get("seed") for result in results)
    all_trainings = np.arange(len(results))

    first_entry = entries[0]
    headlines = headlines_of(first_entry)
    moments_by_metric = estimate_moments_of_results(results, read_samples, headlines)
    for name in headlines:
        moments = moments_by_metric.get(name)
        if moments is not None:
            yield GroupMean(
                group=group,
                task=first_entry.task,
                dataset=first_entry.dataset,
                protocol=first_entry.protocol,
                metric=name,
                seeds=seeds,
                values=tuple(moments.values.tolist()),
                estimate=moments.mean(all_trainings),
            )


def group_table(
    means: Sequence[GroupMean], options: TableOptions = USUAL, section: Sequence[str] = ()
) -> Table:
    """Return the table of the means of groups of trainings, with fractions in percent.

    Args:
        means: The means.
        options: The order of the rows on each data set, and the form of the numbers.
        section: The titles of columns whose values become headings, such as "data set".
    """
    sorted_means = sorted(means, key=lambda mean: _row_sort_key(mean, means, options.sort))
    records = [mean.cells(options) for mean in sorted_means]
    n_name_columns = 4 - len(section)  # group, data set, protocol and metric
    table = table_of_records(records, section=section, n_text_columns=n_name_columns)
    notes = list(_NOTES)
    if options.caption:
        notes += _caption_notes(means)
    return table._replace(title="Groups of trainings (%)", notes=tuple(notes), label="groups")


def _caption_notes(means: Sequence[GroupMean]) -> Iterator[str]:
    """Yield the sentences of a paper: numbers of samples, methods of intervals, the version."""
    yield sizes_sentence((mean.dataset, mean.estimate.units) for mean in means)
    methods = []
    for mean in means:
        method = TEST_METHODS[mean.estimate.method]
        methods.append((mean.metric_record.label or mean.metric, method))
    yield methods_sentence("95% intervals", methods)
    protocols = [mean.protocol for mean in means]
    yield measured_sentence([__version__], protocols, "seeds and test images")


def _row_sort_key(
    mean: GroupMean, means: Sequence[GroupMean], sort: str
) -> tuple[str, str, float, str]:
    """Return the sort key of a row: protocol, data set, number of better groups, name of the group.

    Args:
        mean: The mean in the row: a metric of a group on a data set.
        means: All means of the table.
        sort: The rule that decides which groups are better: "rank" for all metrics of the data set,
            whose numbers of better groups are averaged, or the name of one metric. Otherwise the
            number of better groups is 0, so that groups are in alphabetical order.
    """
    means_on_data_set = []
    for other_mean in means:
        if other_mean.protocol == mean.protocol and other_mean.dataset == mean.dataset:
            means_on_data_set.append(other_mean)

    # Count the better groups by each metric of this group that decides.
    better_counts = []
    for group_mean in means_on_data_set:
        is_deciding = sort in (BY_RANK, group_mean.metric)
        if group_mean.group == mean.group and is_deciding:
            n_better = 0
            for other_mean in means_on_data_set:
                is_same_metric = other_mean.metric == group_mean.metric
                if is_same_metric and other_mean.loss < group_mean.loss:
                    n_better += 1
            better_counts.append(n_better)
    mean_n_better = fmean(better_counts) if better_counts else 0.0
    return mean.protocol, mean.dataset, mean_n_better, mean.group
