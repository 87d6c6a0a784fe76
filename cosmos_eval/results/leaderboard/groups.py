"""Groups of trainings: the mean of several seeds, with an interval over seeds and images."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.results.compare import mismatches, require_own, setting
from cosmos_eval.results.labels import Stored, variants
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.leaderboard.facts import ModelTable
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.text import bounds, shown_text
from cosmos_eval.stats.estimates import Estimate
from cosmos_eval.stats.groups import GroupDifference, group_difference, image_covariance
from cosmos_eval.tasks import metric_of, task_named
from cosmos_eval.types import UsageError

_TITLES = (
    "group",
    "data set",
    "protocol",
    "metric",
    "trainings",
    "mean",
    "seed sd",
    "95% interval",
)
_NOTES = (
    "Mean of all trainings of a group; its interval covers seeds and images.",
    "Seed sd: the standard deviation of the metric between trainings, without that of images.",
    "1 training: the interval covers images alone, and another seed may give another number.",
)


class GroupMean(NamedTuple):
    """A metric of the trainings of one recipe; `found` is their mean less 0."""

    group: str
    task: str
    dataset: str
    protocol: str
    metric: str
    seeds: tuple[int | None, ...]
    found: GroupDifference

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation by seeds, which one training does not show."""
        variance = self.found.groups[0].seed_variance
        return None if variance is None else math.sqrt(variance)

    def texts(self) -> tuple[str, ...]:
        """Return a row of the table: percent for fractions, `-` for what one training lacks."""
        metric, k = metric_of(self.task, self.metric), len(self.seeds)
        return (
            *(self.group, self.dataset, self.protocol, metric.label or self.metric),
            f"{k} training{'s' * (k > 1)}",
            shown_text(metric, self.found.a),
            "-" if self.seed_sd is None else f"{metric.factor * self.seed_sd:.2f}",
            bounds(metric, self.found.interval()._asdict()),
        )

    def record(self) -> dict[str, Any]:
        """Return the mean as JSON holds it, as a fraction."""
        numbers = {"trainings": len(self.seeds), "mean": self.found.a}
        ends = {"seed_sd": self.seed_sd, **self.found.interval()._asdict()}
        return {k: v for k, v in self._asdict().items() if k != "found"} | numbers | ends


def group_means(entries: Iterable[Entry]) -> list[GroupMean]:
    """Return headline metrics by group of trainings; a model without a group is one of its own.
    Raises UsageError where a training is there twice, where trainings of a group were measured by
    other settings, and for samples that are missing or do not give the metrics."""
    groups: dict[tuple[str, str, str], list[tuple[Entry, Stored]]] = {}
    for entry in entries:
        if entry.stored is not None and entry.is_ranked:
            name = _group_of(entry, entry.stored)
            key = (entry.protocol, entry.dataset, name)
            groups.setdefault(key, []).append((entry, entry.stored))
    return [mean for key in sorted(groups) for mean in _means(key[2], groups[key])]


def _group_of(entry: Entry, stored: Stored) -> str:
    group = stored.row.model.get("training", {}).get("group")
    words = variants(stored.row)
    return entry.model if group is None else f"{group} ({', '.join(words)})" if words else group


def _means(group: str, members: Sequence[tuple[Entry, Stored]]) -> Iterator[GroupMean]:
    entry, results = members[0][0], [stored for _, stored in members]
    _require_trainings(results)
    task = task_named(entry.task)
    estimates = [task.estimates(task.derive(read_samples(one.path))) for one in results]
    seeds = tuple(one.row.model.get("training", {}).get("seed") for one in results)
    for name in headlines_of(entry):
        own = [some[name] for some in estimates if name in some]
        if len(own) == len(results) == sum(name in one.row.metrics for one in results):
            found = _mean(name, results, own)
            if found is not None:
                yield GroupMean(
                    group, entry.task, entry.dataset, entry.protocol, name, seeds, found
                )


def _mean(
    name: str, results: Sequence[Stored], estimates: Sequence[Estimate]
) -> GroupDifference | None:
    """Return the mean less 0, which has no variance; None where an image decides whether it is."""
    values = np.array([one.row.metrics[name] for one in results])
    try:
        for value, estimate in zip(values, estimates, strict=True):
            require_own(name, value, estimate.value)
        moments = image_covariance(estimates)
        if moments is None or not np.isfinite(moments[0]).all():
            return None
        return group_difference(values, np.zeros(1), np.pad(moments[0], (0, 1)), moments[1])
    except ValueError as error:
        raise UsageError(f"{results[0].path}: {error}") from error


def _require_trainings(results: Sequence[Stored]) -> None:
    """Raise UsageError for weights or a seed that count twice, and for other settings."""
    seen: dict[str, Stored] = {}
    for one in results:
        seed = one.row.model.get("training", {}).get("seed")
        named = None if seed is None else f"seed {seed}"
        for same in filter(None, (one.row.model["weights_sha256"], named)):
            if (other := seen.setdefault(same, one)) is not one:
                both = f"{other.path} and {one.path}"
                raise UsageError(f"{both} are of one training by its seed or weights: keep one")
        if one is not results[0] and (
            found := mismatches(setting(results[0].row), setting(one.row))
        ):
            both = f"{results[0].path} and {one.path}"
            raise UsageError(f"{both} are of one group, but differ: {'; '.join(found)}")


def group_tables(means: Sequence[GroupMean]) -> list[ModelTable]:
    """Return the table of groups, with percent for fractions."""
    rows = tuple(mean.texts() for mean in means)
    return [ModelTable(_TITLES, 4, rows, _NOTES, "Groups of trainings (%)")] if rows else []
