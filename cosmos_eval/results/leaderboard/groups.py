"""Groups of trainings: the mean of several seeds, with an interval over seeds and images."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results.groups import moments_of, require_distinct
from cosmos_eval.results.labels import Stored, training_of, variants
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.leaderboard.facts import ModelTable
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.text import bounds, shown_text
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.tasks import Metric, metric_of

_TITLES = (
    *("group", "data set", "protocol", "metric"),
    *("trainings", "mean", "seed sd", "image se", "95% interval"),
)
_NOTES = (
    "Mean of all trainings of a group; its interval covers seeds and images.",
    "Seed sd: the standard deviation of the metric between trainings, without that of images.",
    "Image se: the standard error of the mean by the draw of images, for these trainings.",
    "1 training: the interval covers images alone, and another seed may give another number.",
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

    def texts(self) -> tuple[str, ...]:
        """Return a row of the table: percent for fractions, `-` for what one training lacks."""
        metric, k = self.of, len(self.seeds)
        return (
            *(self.group, self.dataset, self.protocol, metric.label or self.metric),
            f"{k} training{'s' * (k > 1)}",
            shown_text(metric, self.found.a),
            "-" if self.seed_sd is None else f"{metric.factor * self.seed_sd:.2f}",
            f"{metric.factor * self.found.image_error:.2f}",
            bounds(metric, self.found.interval()._asdict()),
        )

    def record(self) -> dict[str, Any]:
        """Return the mean as JSON holds it, as a fraction."""
        numbers = {"trainings": len(self.seeds), "mean": self.found.a, "seed_sd": self.seed_sd}
        ends = {"image_error": self.found.image_error, **self.found.interval()._asdict()}
        return {k: v for k, v in self._asdict().items() if k != "found"} | numbers | ends


def group_means(entries: Iterable[Entry]) -> list[GroupMean]:
    """Return headline metrics by group of trainings; a model without a group is one of its own.
    Raises UsageError where a training is there twice, where trainings of a group were measured by
    other settings, and for samples that are missing or do not give the metrics."""
    groups: dict[tuple[str, str, str], list[tuple[Entry, Stored]]] = {}
    for entry in entries:
        if entry.stored is not None and entry.is_ranked:
            key = (entry.protocol, entry.dataset, group_of(entry, entry.stored))
            groups.setdefault(key, []).append((entry, entry.stored))
    return [mean for key in sorted(groups) for mean in _means(key[2], groups[key])]


def group_of(entry: Entry, stored: Stored) -> str:
    """Return the name of a result's group, or of its model, with what differs from the defaults."""
    group, words = training_of(stored.row).get("group"), ", ".join(variants(stored.row))
    return entry.model if group is None else f"{group} ({words})" if words else group


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


def group_tables(means: Sequence[GroupMean]) -> list[ModelTable]:
    """Return the table of groups, with percent for fractions."""
    rows = tuple(mean.texts() for mean in means)
    return [ModelTable(_TITLES, 4, rows, _NOTES, "Groups of trainings (%)")] if rows else []
