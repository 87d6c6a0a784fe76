"""The score of a suite: the mean over its members of every model that has them all, with ranks."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
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
from cosmos_eval.results.leaderboard.entries import MEAN_RECALL, Entry, Source
from cosmos_eval.results.store import Read, read_samples
from cosmos_eval.results.table import BY_NAME, BY_RANK, USUAL, Cell, Head, Table, View
from cosmos_eval.results.text import ends, p_value_text, shown_text
from cosmos_eval.stats import suites
from cosmos_eval.stats.estimates import Estimate, Ints, Values
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.tasks import Metric, metric_of, task_named
from cosmos_eval.types import Interval, Suite, SuiteMember, UsageError

_ABSENT = "-"
_TITLES = ("rank", "mean", "members", "p (next)")
_COMMON_TITLES = ("mean over common members",)

_OF_GROUPS = (
    "Group: the mean of all of its trainings. Its interval, ranks and p-value cover seeds "
    "and images; it has the members that all of its trainings have.",
    "1 training: they cover images alone, and another seed may give another mean.",
)

Results = Mapping[SuiteMember, Stored]
"""The results of a model that count."""


class Mean(NamedTuple):
    """A mean over members, and of measured ones its interval and its resampled values (R,)."""

    value: float
    interval: Interval | None = None
    drawn: Values = np.empty(0)

    def within(self, metric: Metric) -> "Mean":
        """Cut the interval off at the values that the metric can have."""
        return self._replace(interval=self.interval and metric.within(self.interval))


_Between = Callable[[str, str], GroupDifference]


class Row(NamedTuple):
    """A model's mean over all members, None where it lacks one, and over those that all models
    have, None unless a model lacks one. `ranks`, and `p_next`, the p-value of the difference from
    the next row, are of models that have all members. The model may be a group of `trainings`."""

    model: str
    present: int
    mean: Mean | None = None
    ranks: tuple[int, int] | None = None
    p_next: float | None = None
    common: Mean | None = None
    source: Source = "measured"
    url: str = ""
    trainings: int | None = None


class SuiteScore(NamedTuple):
    """The rows of a suite from the best mean down, then those of models that lack members, then
    published ones. `common` are the members that all models have, empty if that is not of interest;
    `metric` is one of a member, of which all have the unit and direction; `clusters` is the least
    number of clusters that a member was resampled by."""

    suite: Suite
    metric: Metric
    common: tuple[SuiteMember, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    clusters: int = 0

    def table(self, view: View = USUAL) -> Table:
        """Return the table: percent for fractions, `-` for what is not there. Raises UsageError for
        an order that it does not have."""
        if view.sort not in ("", BY_NAME, BY_RANK) and not view.members:
            raise UsageError(f"--sort {view.sort}: give {BY_NAME} or {BY_RANK}, or add --members")
        unit = " (%)" if self.metric.unit == "fraction" else ""
        source = ("source",) if self.has_published else ()
        names = ("group", *source, "trainings") if self.has_groups else ("model", *source)
        titles = (*names, *_TITLES, *(_COMMON_TITLES if self.common else ()))
        order = sorted(self.rows, key=lambda row: row.model if view.sort == BY_NAME else "")
        rows = tuple(self._cells(row, view) for row in order)
        title, label = f"Suite {self.suite.name}{unit}", f"suite-{self.suite.name}"
        heads = tuple(map(Head, titles))
        return Table(title, heads, rows, len(names), self.notes, label=label)

    @property
    def has_groups(self) -> bool:
        return any(row.trainings is not None for row in self.rows)

    @property
    def has_published(self) -> bool:
        return any(row.source != "measured" for row in self.rows)

    def _cells(self, row: Row, view: View) -> tuple[Cell, ...]:
        ranks = "-".join(map(str, dict.fromkeys(row.ranks or [_ABSENT])))
        p_next = _ABSENT if row.p_next is None else p_value_text(row.p_next)
        mean, *common = (
            _cell(self.metric, one, view)
            for one in (row.mean, *([row.common] if self.common else []))
        )
        source = (row.source,) if self.has_published else ()
        size = (str(row.trainings or _ABSENT),) if self.has_groups else ()
        names = map(Cell, (row.model, *source, *size, ranks))
        return (*names, mean, *map(Cell, (self.suite.present(row.present), p_next)), *common)

    def record(self) -> dict[str, Any]:
        """Return the table as JSON holds it, as fractions."""
        models = [
            {**row._asdict(), "mean": _plain(row.mean), "common": _plain(row.common)}
            for row in self.rows
        ]
        if not self.has_groups:
            for model in models:
                del model["trainings"]
        members, common = (
            [m._asdict() for m in some] for some in (self.suite.members, self.common)
        )
        named = {"suite": self.suite.name, "members": members, "common_members": common}
        left_out = {"left_out": self.suite.left_out} if self.suite.left_out else {}
        return {**named, **left_out, "models": models, "notes": self.notes}


def _cell(metric: Metric, mean: Mean | None, view: View) -> Cell:
    if mean is None:
        return Cell(_ABSENT)
    interval = mean.interval._asdict() if mean.interval and view.intervals else None
    shown = shown_text(metric, mean.value, view.decimals)
    return Cell(shown, ends(metric, mean.value, interval, view.decimals))


def _plain(mean: Mean | None) -> dict[str, Any] | None:
    return mean and {"value": mean.value, **(mean.interval._asdict() if mean.interval else {})}


def suite_score(
    suite: Suite,
    entries: Sequence[Entry],
    read: Read = read_samples,
    *,
    by_group: bool = False,
) -> SuiteScore:
    """Return the table of a suite, of models or of groups of trainings. Raises UsageError without a
    number of any member, and where the samples of a result are missing or do not give its metrics,
    a training is there twice, or those of a group were measured by other settings."""
    members = suite.members
    single, published = _results(members, entries), _published(members, entries)
    if not single and not published:
        which = "no complete and unedited result of any member"
        raise UsageError(f"suite {suite.name}: {which}, which are {_listed(members)}")
    drawn, clusters = _draw(single, read) if single else ({}, 0)
    groups = _groups(single, by_group=by_group)
    # The members that all trainings of a group have, with the results of the first.
    found = {
        group: {m: one for m, one in single[first].items() if all(m in single[o] for o in others)}
        for group, (first, *others) in groups.items()
    }

    def means_over(some: Sequence[SuiteMember]) -> tuple[dict[str, Mean], _Between | None]:
        means, between = _means(single, drawn, some, clusters), None
        if by_group and means:
            means, between = _of_groups(groups, means, clusters)
        return {name: mean.within(metric) for name, mean in means.items()}, between

    metric = metric_of(members[0].task, members[0].metrics[0])
    means, between = means_over(members)
    rows, close = _ranked(means, metric, len(members), clusters, between)
    lacking = sorted(found.keys() - means.keys())
    rows += [Row(model, len(found[model])) for model in lacking]
    shared = [m for m in members if all(m in results for results in found.values())]
    common = shared if lacking and len(found) > 1 else []
    if common:
        of_common, _ = means_over(common)
        rows = [row._replace(common=of_common[row.model]) for row in rows]
    if by_group:
        rows = [row._replace(trainings=len(groups[row.model])) for row in rows]
    notes = (
        *_meanings(suite, common, is_ranked=len(means) > 1),
        *(_OF_GROUPS if by_group else ()),
        *close,
        *(
            f"Not ranked: {m} lacks {_listed(x for x in members if x not in found[m])}."
            for m in lacking
        ),
        *_exceptions(members, single, entries),
        *(f"Published: {url}." for url in dict.fromkeys(row.url for row in published)),
    )
    sign = -1 if metric.higher_is_better else 1
    rows += sorted(published, key=lambda row: (sign * row.mean.value if row.mean else 0, row.model))
    return SuiteScore(suite, metric, tuple(common), tuple(rows), notes, clusters)


def _groups(single: Mapping[str, Results], *, by_group: bool) -> dict[str, list[str]]:
    """Return the models of every group; a model that states none is one of its own."""
    groups: dict[str, list[str]] = {}
    for model, results in single.items():
        (first, *_) = results.values()
        groups.setdefault((by_group and group_label(first.row)) or model, []).append(model)
    for models in groups.values():
        require_distinct([next(iter(single[model].values())) for model in models])
        for model in models[1:]:
            for member in single[model].keys() & single[models[0]].keys():
                require_comparable(single[models[0]][member], single[model][member])
    return groups


def _of_groups(
    groups: Mapping[str, Sequence[str]], means: Mapping[str, Mean], clusters: int
) -> tuple[dict[str, Mean], _Between]:
    """Return the means over trainings of those groups whose every training has a mean, and the
    differences of two, with intervals over images and seeds."""
    index = {model: number for number, model in enumerate(means)}
    drawn = np.stack([mean.drawn for mean in means.values()])
    known = drawn[:, ~np.isnan(drawn).any(axis=0)]
    covariance = np.atleast_2d(np.cov(known)) * clusters / (clusters - 1)
    moments = Moments(np.array([mean.value for mean in means.values()]), covariance, clusters)
    found: dict[str, Mean] = {}
    of: dict[str, Ints] = {}
    for group, models in groups.items():
        if all(model in means for model in models):
            of[group] = some = np.array([index[model] for model in models])
            one = moments.mean(some)
            several = Mean(one.a, one.interval(), drawn[some].mean(axis=0))
            found[group] = several if len(models) > 1 else means[models[0]]
    return found, lambda a, b: moments.difference(of[a], of[b])


def _published(members: Sequence[SuiteMember], entries: Iterable[Entry]) -> list[Row]:
    """Return the rows of models of which others published all members."""
    by_key = {(e.model, *e[1:4]): e for e in entries if e.source == "published" and not e.stored}
    rows = []
    for model in dict.fromkeys(key[0] for key in by_key):
        found = [by_key.get((model, *member[:3])) for member in members]
        values = [e and _published_value(m, e) for m, e in zip(members, found, strict=True)]
        urls = {entry.url for entry in found if entry}
        if None not in values:
            mean = Mean(float(_mean([value for value in values if value is not None], members)))
            row = Row(model, len(members), mean, source="published", url=", ".join(sorted(urls)))
            rows.append(row)
    return rows


def _published_value(member: SuiteMember, entry: Entry) -> float | None:
    if all(name in entry.metrics for name in member.metrics):
        return float(np.mean([entry.metrics[name] for name in member.metrics]))
    return entry.metrics.get(MEAN_RECALL)


def _results(
    members: Sequence[SuiteMember], entries: Iterable[Entry]
) -> dict[str, dict[SuiteMember, Stored]]:
    """Return the results of members by model, in the order of the suite."""
    ranked = [entry for entry in entries if entry.is_ranked and entry.stored]
    found: dict[str, dict[SuiteMember, Stored]] = {}
    for model in sorted({entry.model for entry in ranked}):
        of_model = [entry for entry in ranked if entry.model == model]
        for member in members:
            entry = entry_of(member, of_model)
            if entry and entry.stored and all(n in entry.metrics for n in member.metrics):
                found.setdefault(model, {})[member] = entry.stored
    return found


def entry_of(member: SuiteMember, entries: Iterable[Entry]) -> Entry | None:
    """Return a model's entry of a member, whose data set may be the label of a column. Raises
    UsageError for two, on other files of the data set."""
    fitting = [
        entry
        for entry in entries
        if (entry.task, entry.protocol) == (member.task, member.family)
        and member.dataset in (entry.dataset, entry.dataset_name)
    ]
    if len(fitting) > 1:
        raise UsageError(
            f"{fitting[0].model} has several results of {member.dataset}, on other data: "
            f"{', '.join(entry.dataset for entry in fitting)}: keep one of them"
        )
    return fitting[0] if fitting else None


def _draw(
    found: Mapping[str, Results], read: Read
) -> tuple[dict[str, dict[SuiteMember, Values]], int]:
    """Return values (R,) of every model and member, and the smallest number of clusters. What has
    the same list of samples is resampled in the same draws."""
    by_list: dict[str, list[tuple[str, SuiteMember, Stored]]] = {}
    for model, results in found.items():
        for member, stored in results.items():
            by_list.setdefault(_sample_list(stored), []).append((model, member, stored))
    drawn: dict[str, dict[SuiteMember, Values]] = {model: {} for model in found}
    sizes = []
    for samples, alike in by_list.items():
        estimates = {
            f"{index} {name}": estimate
            for index, (_, member, stored) in enumerate(alike)
            for name, estimate in _estimates(member, stored, read).items()
        }
        seed = int(hashlib.sha256(samples.encode()).hexdigest()[:16], 16)
        try:
            values, size = suites.resample(estimates, seed=seed)
        except ValueError as error:
            raise UsageError(f"{alike[0][2].path}: {error}") from error
        sizes.append(size)
        for index, (model, member, _) in enumerate(alike):
            several = [values[f"{index} {name}"] for name in member.metrics]
            drawn[model][member] = np.mean(several, axis=0)
    return drawn, min(sizes)


def _sample_list(stored: Stored) -> str:
    """Return the hash of the list of samples, with the notes on the data that tell columns of one
    data set apart; without a hash a text that no other result has."""
    recorded = setting(stored.row)
    for name in SAMPLE_LISTS:
        if recorded.get(name):
            return ", ".join([recorded[name], *stored.data_notes])
    return str((stored.model, stored.row.dataset, stored.row.protocol))


def _estimates(member: SuiteMember, stored: Stored, read: Read) -> dict[str, Estimate]:
    task, samples = task_named(member.task), read(stored.path)
    try:
        known = task.estimates(task.derive(samples))
        for name in member.metrics:
            own = known[name].value if name in known else None
            require_metric_of_samples(name, stored.row.metrics[name], own)
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(f"{stored.path}: {error} (`cosmos-eval verify` shows more)") from error
    return {name: known[name] for name in member.metrics}


def _means(
    found: Mapping[str, Results],
    drawn: Mapping[str, Mapping[SuiteMember, Values]],
    members: Sequence[SuiteMember],
    clusters: int,
) -> dict[str, Mean]:
    """Return the means over members of the models that have them all."""
    means = {}
    for model, results in found.items():
        if all(member in results for member in members):
            values = [np.mean([results[m].row.metrics[n] for n in m.metrics]) for m in members]
            draws = _mean([drawn[model][member] for member in members], members)
            mean = float(_mean(values, members))
            means[model] = Mean(mean, suites.interval_of(mean, draws, clusters), draws)
    return means


def _mean(values: Sequence[Any], members: Sequence[SuiteMember]) -> Values:
    weighted: Values = np.average(values, axis=0, weights=[member.weight for member in members])
    return weighted


def _ranked(
    means: Mapping[str, Mean],
    metric: Metric,
    members: int,
    clusters: int,
    between: _Between | None,
) -> tuple[list[Row], list[str]]:
    """Return rows from the best mean down, and a warning of neighbours that may be equally good."""
    sign = 1 if metric.higher_is_better else -1
    order = sorted(means, key=lambda model: (-sign * means[model].value, model))
    values = [sign * means[model].value for model in order]
    drawn = [sign * means[model].drawn for model in order]
    signed = between and partial(_signed, between, order, sign)
    standings = suites.standings(values, drawn, clusters, signed) if len(order) > 1 else []
    rows = [Row(model, members, means[model]) for model in order]
    for index, standing in enumerate(standings):
        rows[index] = rows[index]._replace(ranks=standing.ranks, p_next=standing.p_next)
    close = [
        f"{index + 1} and {index + 2} ({order[index]}, {order[index + 1]})"
        for index, standing in enumerate(standings)
        if index + 1 in standing.tied
    ]
    warning = (
        "Warning: neighbours that cannot be told apart, since the interval of the paired "
        f"difference, corrected for the number of pairs, covers 0: ranks {'; '.join(close)}."
    )
    return rows, [warning] if close else []


def _signed(between: _Between, order: Sequence[str], sign: int, a: int, b: int) -> GroupDifference:
    return between(*(order[a], order[b])[::sign])


def _listed(members: Iterable[SuiteMember]) -> str:
    return ", ".join(f"{member.dataset} ({member.family})" for member in members)


def _meanings(suite: Suite, common: Sequence[SuiteMember], *, is_ranked: bool) -> Iterator[str]:
    members, lacking = suite.members, suite.left_out
    metrics = dict.fromkeys(member.metrics for member in members)
    of = (
        f"{' and '.join(names)} of {_listed(m for m in members if m.metrics == names)}"
        for names in metrics
    )
    number = suite.present(len(members)) if lacking else f"all {len(members)}"
    yield f"Mean: over {number} members, {'; '.join(of)}."
    if parts := [member for member in members if member.weight < 1]:
        yield f"Counted in part, as several of them are one: {_listed(parts)}."
    if lacking:
        yield f"Left out: {'; '.join(f'{name}: {why}' for name, why in lacking.items())}."
    yield (
        "95% interval: by resampling within every member; members are independent unless they have "
        "the same list of samples."
    )
    if is_ranked:
        yield (
            "Rank: the ranks that a model can have by the intervals of paired differences; those "
            "of all models hold at once with 95%."
        )
        yield (
            "p (next): the two-sided p-value of the paired difference from the next row, not "
            "corrected for the number of pairs."
        )
    if common:
        yield f"Common members ({len(common)} of {len(members)}): {_listed(common)}."


def _exceptions(
    members: Sequence[SuiteMember], found: Mapping[str, Results], entries: Sequence[Entry]
) -> Iterator[str]:
    def is_unlike(member: SuiteMember) -> bool:
        several = (results[member] for results in found.values() if member in results)
        return len(set(map(_sample_list, several))) > 1

    if unlike := _listed(filter(is_unlike, members)):
        why = "lists of samples, or their content, differ or are not recorded"
        yield f"Not paired, since {why}: {unlike}."
    sets = {(member.dataset, member.family) for member in members}
    if any((e.dataset_name, e.protocol) in sets and e.stored and not e.is_ranked for e in entries):
        yield "Not counted: results of a part of the samples only, and edited ones."
