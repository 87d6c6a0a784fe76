"""Groups of trainings: the mean of several seeds, with an interval over seeds and images."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results.groups import moments_of, require_distinct
from cosmos_eval.results.identity import group_label, training_of
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.table import BY_RANK, USUAL, Table, View, of_records
from cosmos_eval.results.text import bounds, shown_text
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
    """A metric of the trainings of one recipe, and its mean."""

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
        """The standard deviation between seeds; None for one training, which does not show it."""
        return self.estimate.groups[0].seed_sd

    @property
    def metric_record(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def loss(self) -> float:
        """The mean, negative if higher is better."""
        return -self.estimate.a if self.metric_record.higher_is_better else self.estimate.a

    @property
    def interval(self) -> Interval:
        """The interval of the mean, within the values that the metric can have."""
        return self.metric_record.within(self.estimate.interval())

    def cells(self, view: View) -> dict[str, str]:
        """Return a row of the table by column title, with fractions in percent.

        The standard deviation between seeds is `-` for a single training.
        """
        metric, interval = self.metric_record, self.interval._asdict()
        return {
            "group": self.group,
            "data set": self.dataset,
            "protocol": self.protocol,
            "metric": metric.label or self.metric,
            "trainings": str(len(self.seeds)),
            "mean": shown_text(metric, self.estimate.a, view.decimals),
            "seed sd": "-" if self.seed_sd is None else view.fixed(metric.factor * self.seed_sd),
            "image se": view.fixed(metric.factor * self.estimate.image_error),
            "95% interval": bounds(metric, interval, view.decimals) if view.intervals else "",
        }

    def record(self) -> dict[str, Any]:
        """Return the mean as JSON holds it, as a fraction."""
        record = self._asdict()
        del record["estimate"]
        record["trainings"] = len(self.seeds)
        record["mean"] = self.estimate.a
        record["seed_sd"] = self.seed_sd
        record["image_error"] = self.estimate.image_error
        return record | self.interval._asdict()


def group_means(entries: Iterable[Entry]) -> list[GroupMean]:
    """Return the means of headline metrics by group of trainings and data set.

    A model that states no group is a group of its own. Raises UsageError for a training that occurs
    twice, if the trainings of a group were measured by different settings, and for samples that are
    missing or do not give the metrics.
    """
    # By protocol, data set and group.
    entries_by_group: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        if entry.stored is not None and entry.is_ranked:
            group = group_label(entry.stored.row) or entry.model
            key = (entry.protocol, entry.dataset, group)
            entries_by_group.setdefault(key, []).append(entry)
    means: list[GroupMean] = []
    for key in sorted(entries_by_group):
        _, _, group = key
        means += _means(group, entries_by_group[key])
    return means


def _means(group: str, entries: Sequence[Entry]) -> Iterator[GroupMean]:
    """Yield the means of the headline metrics of a group's entries on one data set."""
    entry = entries[0]
    results = [entry.stored for entry in entries if entry.stored is not None]
    require_distinct(results)
    seeds = tuple(training_of(result.row).get("seed") for result in results)
    headlines = headlines_of(entry)
    metrics = moments_of(results, read_samples, headlines)
    for name in headlines:
        moments = metrics.get(name)
        if moments is not None:
            yield GroupMean(
                group=group,
                task=entry.task,
                dataset=entry.dataset,
                protocol=entry.protocol,
                metric=name,
                seeds=seeds,
                values=tuple(moments.values.tolist()),
                estimate=moments.mean(np.arange(len(results))),
            )


def group_table(
    means: Sequence[GroupMean], view: View = USUAL, section: Sequence[str] = ()
) -> Table:
    """Return the table of groups of trainings, with fractions in percent.

    Rows are sorted by data set, then by name or by `view.sort`. The values of the columns that
    `section` names become headings.
    """
    ordered = sorted(means, key=lambda mean: _position(mean, means, view.sort))
    table = of_records(
        [mean.cells(view) for mean in ordered], section=section, n_text_columns=4 - len(section)
    )
    return table._replace(title="Groups of trainings (%)", notes=_NOTES, label="groups")


def _position(
    mean: GroupMean, means: Sequence[GroupMean], sort: str
) -> tuple[str, str, float, str]:
    """Return the sort key of a row: by protocol and data set, then from the best group down.

    If rows are sorted by rank, the place of a group is the number of better groups, in the mean
    over all metrics. If they are sorted by a metric, it is the number of better groups in this
    metric. Otherwise groups are in the order of their names.
    """
    means_on_data_set = [
        other for other in means if (other.protocol, other.dataset) == (mean.protocol, mean.dataset)
    ]
    counts = []
    for group_mean in means_on_data_set:
        if group_mean.group == mean.group and sort in (BY_RANK, group_mean.metric):
            n_better = sum(
                other.metric == group_mean.metric and other.loss < group_mean.loss
                for other in means_on_data_set
            )
            counts.append(n_better)
    return mean.protocol, mean.dataset, fmean(counts) if counts else 0.0, mean.group
