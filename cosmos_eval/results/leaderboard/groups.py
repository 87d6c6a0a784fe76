"""Groups of trainings: the mean of several seeds, with an interval over seeds and images."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results.groups import moments_of, require_distinct
from cosmos_eval.results.identity import group_label, training_of
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.table import BY_RANK, USUAL, Table, View, of_records
from cosmos_eval.results.text import bounds, shown_text
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.tasks import Metric, metric_of
from cosmos_eval.types import Interval

_NOTES = (
    "Mean of all trainings of a group; its interval covers seeds and images.",
    "Seed sd: the standard deviation of the metric between trainings, without that of images.",
    "Image se: the standard error of the mean by the draw of images, for these trainings.",
    "With one training the interval covers images alone, and another seed may give another number.",
)


class GroupMean(NamedTuple):
    """A metric of the trainings of one recipe: their seeds and values, and in `found` the mean."""

    group: str
    task: str
    dataset: str
    protocol: str
    metric: str
    seeds: tuple[int | None, ...]
    values: tuple[float, ...]
    found: GroupDifference

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation by seeds, which one training does not show."""
        return self.found.groups[0].seed_sd

    @property
    def of(self) -> Metric:
        return metric_of(self.task, self.metric)

    @property
    def loss(self) -> float:
        return -self.found.a if self.of.higher_is_better else self.found.a

    @property
    def interval(self) -> Interval:
        """The mean's, within the values that the metric can have."""
        return self.of.within(self.found.interval())

    def cells(self, view: View) -> dict[str, str]:
        """Return a row of the table: percent for fractions, `-` for what one training lacks."""
        metric, interval = self.of, self.interval._asdict()
        return {
            "group": self.group,
            "data set": self.dataset,
            "protocol": self.protocol,
            "metric": metric.label or self.metric,
            "trainings": str(len(self.seeds)),
            "mean": shown_text(metric, self.found.a, view.decimals),
            "seed sd": "-" if self.seed_sd is None else view.fixed(metric.factor * self.seed_sd),
            "image se": view.fixed(metric.factor * self.found.image_error),
            "95% interval": bounds(metric, interval, view.decimals) if view.intervals else "",
        }

    def record(self) -> dict[str, Any]:
        """Return the mean as JSON holds it, as a fraction."""
        numbers = {"trainings": len(self.seeds), "mean": self.found.a, "seed_sd": self.seed_sd}
        ends = {"image_error": self.found.image_error, **self.interval._asdict()}
        return {k: v for k, v in self._asdict().items() if k != "found"} | numbers | ends


def group_means(entries: Iterable[Entry]) -> list[GroupMean]:
    """Return headline metrics by group of trainings; a model without a group is one of its own.
    Raises UsageError where a training is there twice, where trainings of a group were measured by
    other settings, and for samples that are missing or do not give the metrics."""
    groups: dict[tuple[str, str, str], list[tuple[Entry, Stored]]] = {}
    for entry in entries:
        if entry.stored is not None and entry.is_ranked:
            key = (entry.protocol, entry.dataset, group_label(entry.stored.row) or entry.model)
            groups.setdefault(key, []).append((entry, entry.stored))
    return [mean for key in sorted(groups) for mean in _means(key[2], groups[key])]


def _means(group: str, members: Sequence[tuple[Entry, Stored]]) -> Iterator[GroupMean]:
    entry, results = members[0][0], [stored for _, stored in members]
    require_distinct(results)
    seeds = tuple(training_of(one.row).get("seed") for one in results)
    shown = headlines_of(entry)
    found = moments_of(results, read_samples, shown)
    for name in shown:
        if one := found.get(name):
            mean, values = one.mean(np.arange(len(results))), tuple(one.values.tolist())
            where = (entry.task, entry.dataset, entry.protocol)
            yield GroupMean(group, *where, name, seeds, values, mean)


def group_table(
    means: Sequence[GroupMean], view: View = USUAL, section: Sequence[str] = ()
) -> Table:
    """Return the table of groups, with percent for fractions."""
    ordered = sorted(means, key=partial(_position, means, view.sort))
    table = of_records(
        [mean.cells(view) for mean in ordered], section=section, texts=4 - len(section)
    )
    return table._replace(title="Groups of trainings (%)", notes=_NOTES, label="groups")


def _position(means: Sequence[GroupMean], sort: str, of: GroupMean) -> tuple[Any, ...]:
    """Return the place of a group among those of its data set: by name, or from the best down, by
    the mean, over its metrics or the one that `sort` names, of how many groups are better."""
    same = [m for m in means if (m.protocol, m.dataset) == (of.protocol, of.dataset)]
    own = [m for m in same if m.group == of.group and sort in (BY_RANK, m.metric)]
    better = [sum(o.metric == m.metric and o.loss < m.loss for o in same) for m in own]
    return of.protocol, of.dataset, fmean(better) if better else 0.0, of.group
