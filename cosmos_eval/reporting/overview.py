"""Rank models by their means over shared data sets, with intervals of the differences."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from cosmos_eval.results.labels import count_models
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.suite import Row, SuiteScore, entry_of, suite_score
from cosmos_eval.results.store import ReadSamples
from cosmos_eval.results.text import exact_difference, interval_text, metric_text
from cosmos_eval.stats.paired import difference_of_draws
from cosmos_eval.tasks import metric_of, usable_task
from cosmos_eval.types import Suite, SuiteMember


class MeanDifference(NamedTuple):
    """The mean of one model minus the mean of another one, and the ends of its paired 95% interval.

    All three are in percentage points if the mean is a fraction.
    """

    difference: float
    low: float
    high: float


class Overview(NamedTuple):
    """The ranking of models by their mean score, the best first."""

    # The data sets that the mean is taken over, such as "suite NAME" or "protocol NAME".
    scope: str
    score: SuiteScore
    # The mean of each model's ranks on the single data sets.
    average_ranks: dict[str, float]
    # One line for each data set that is not in the mean, with the reason.
    exclusions: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the models that were measured on all data sets."""
        return tuple(row for row in self.score.rows if row.model in self.average_ranks)

    @property
    def equals(self) -> list[str]:
        """The models that may be as good as the first one: their ranks include rank 1."""
        return [row.model for row in self.rows[1:] if row.ranks and row.ranks[0] == 1]

    def mean(self, row: Row) -> str:
        """Return the mean of a row as text, in percent if it is a fraction.

        Return "" if the row has no mean.
        """
        return metric_text(self.score.metric, row.mean.value) if row.mean else ""

    def interval(self, row: Row) -> str:
        """Return the interval of the mean of a row as text, such as "[67.1, 70.3]"; "" without."""
        interval = row.mean.interval if row.mean else None
        return interval_text(self.score.metric, interval and interval._asdict())

    def difference(self, a: str, b: str) -> MeanDifference | None:
        """Return the mean of model A minus the mean of model B, with its interval.

        `a` and `b` are the names of the models. Return None if one of them has no mean.
        """
        means = {row.model: row.mean for row in self.rows}
        mean_a = means.get(a)
        mean_b = means.get(b)
        if mean_a is None or mean_b is None:
            return None
        # The differences of resampled means, from the same draws for both models.
        changes = mean_a.resampled_values - mean_b.resampled_values
        changes = changes[~np.isnan(changes)]
        difference = difference_of_draws(mean_a.value, mean_b.value, changes, self.score.clusters)
        interval = difference.interval()
        factor = self.score.metric.factor
        return MeanDifference(
            difference=float(factor * exact_difference(difference.a, difference.b)),
            low=factor * interval.low,
            high=factor * interval.high,
        )


def overview_of(
    entries: Sequence[Entry], read_samples: ReadSamples, suite: Suite | None
) -> Overview | None:
    """Rank models by their mean over several data sets.

    Args:
        entries: The entries of leaderboards, which are results or published numbers. Only results
            are ranked.
        read_samples: Reads the samples of a result, the stored arrays that its metrics are computed
            from, by the path of the result.
        suite: The data sets and metrics that the mean is taken over. By default, these are the main
            metrics on data sets that models share, under the protocol that has the most of them,
            see `choose_members`.

    Returns:
        The ranking, or None unless two models share a data set.

    Raises:
        UsageError: Samples are missing, or do not give the metrics.
    """
    ranked_entries = [entry for entry in entries if entry.is_ranked and entry.stored]
    if suite is not None:
        scope = f"suite {suite.name}"
    else:
        protocol, members = _choose_protocol(ranked_entries)
        scope = f"protocol {protocol}"
        suite = Suite(
            name="",
            models=(),
            names=(),
            protocols=(),
            members=members,
            left_out={},
            source="",
        )
    if not suite.members:
        return None
    score = suite_score(suite, ranked_entries, read_samples)
    models = [row.model for row in score.rows if row.mean and row.mean.interval]
    if len(models) < 2:
        return None
    ranks_of_members = [_rank_models(member, models, ranked_entries) for member in suite.members]
    average_ranks = np.mean(ranks_of_members, axis=0).tolist()
    return Overview(
        scope=scope,
        score=score,
        average_ranks=dict(zip(models, average_ranks, strict=True)),
        exclusions=explain_exclusions(suite, ranked_entries),
    )


def _choose_protocol(entries: Sequence[Entry]) -> tuple[str, tuple[SuiteMember, ...]]:
    """Return the protocol with the most data sets to rank models by, and these data sets.

    A member of a suite is a data set with some of its metrics. Without entries, the name of the
    protocol is empty.
    """
    best_protocol = ""
    best_members: tuple[SuiteMember, ...] = ()
    for protocol in sorted({entry.protocol for entry in entries}):
        members = choose_members(entries, protocol)
        is_first_protocol = best_protocol == ""
        if is_first_protocol or len(members) > len(best_members):
            best_protocol = protocol
            best_members = members
    return best_protocol, best_members


def explain_exclusions(suite: Suite, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return one line for each data set that is not in the mean over a suite, with the reason.

    Args:
        suite: The data sets of the mean. Its name is empty if they were chosen by `choose_members`.
        entries: The entries of all models that could be ranked.

    Example:
        ("coco (karpathy): measured for 1 of 4 models",)
    """
    member_sets = {(member.task, member.dataset, member.protocol) for member in suite.members}
    mean_protocols = {member.protocol for member in suite.members}
    n_models = count_models(entry.stored for entry in entries if entry.stored)
    entries_by_set: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        entries_by_set.setdefault((entry.task, entry.dataset, entry.protocol), []).append(entry)
    lines = []
    for data_set, entries_of_set in sorted(entries_by_set.items()):
        if data_set in member_sets:
            continue
        _, dataset, protocol = data_set
        if suite.name:
            reason = f"not in suite {suite.name}"
        elif protocol not in mean_protocols:
            reason = "another protocol than the mean"
        elif not _main_fractions(entries_of_set[0]):
            reason = "its main metrics are not shares of which more is better"
        else:
            n_models_of_set = count_models(entry.stored for entry in entries_of_set if entry.stored)
            reason = f"measured for {n_models_of_set} of {n_models} models"
        lines.append(f"{dataset} ({protocol}): {reason}")
    return tuple(lines)


def choose_members(entries: Sequence[Entry], protocol: str) -> tuple[SuiteMember, ...]:
    """Choose the data sets of a protocol, with their main metrics, to rank models by.

    Data sets are sorted by how many models were measured on them, and the first n are chosen. The
    number n maximizes n times the number of models that have all n data sets: the number of values
    that the ranking rests on. If no two models share a data set, none is chosen. Data sets whose
    main metrics are not fractions, or are better if lower, are left out.

    Args:
        entries: The results of all models, as entries of leaderboards.
        protocol: The name of the protocol.

    Example:
        Three data sets that two models share (6 values) win over one data set that five models
        share (5 values).
    """
    # The models that were measured on each data set.
    models_by_member: dict[SuiteMember, set[str]] = {}
    for entry in entries:
        if entry.protocol == protocol:
            metrics = _main_fractions(entry)
            if metrics:
                member = SuiteMember(entry.task, entry.dataset, protocol, metrics)
                models_by_member.setdefault(member, set()).add(entry.model)
    # The data sets with the most models come first.
    sorted_members = sorted(
        models_by_member, key=lambda member: (-len(models_by_member[member]), member)
    )

    best_members: list[SuiteMember] = []
    most_values = 0
    shared_models = {entry.model for entry in entries}
    for n_members, member in enumerate(sorted_members, start=1):
        # The models that have all of the first n data sets.
        shared_models = shared_models & models_by_member[member]
        n_values = n_members * len(shared_models)
        if len(shared_models) >= 2 and n_values > most_values:
            best_members = sorted_members[:n_members]
            most_values = n_values
    return tuple(sorted(best_members))


def _main_fractions(entry: Entry) -> tuple[str, ...]:
    """Return the names of the main metrics of an entry of a leaderboard.

    Return () unless all of them are fractions that are better if higher.
    """
    task = usable_task(entry.task)
    if task is None:
        return ()
    metrics = [metric for metric in task.metrics if metric.primary and metric.name in entry.metrics]
    if not all(metric.unit == "fraction" and metric.higher_is_better for metric in metrics):
        return ()
    return tuple(metric.name for metric in metrics)


def _rank_models(
    member: SuiteMember, models: Sequence[str], entries: Iterable[Entry]
) -> list[float]:
    """Return the rank of each model on a data set of a suite, from 1 for the best.

    Models are ranked by the mean of the data set's metrics. Equal models share their mean rank.

    Args:
        member: The data set, and the names of its metrics.
        models: The names of the models. All of them were measured on the data set.
        entries: The results of all models, as entries of leaderboards.

    Example:
        Three models with the means [0.7, 0.9, 0.7] have the ranks [2.5, 1, 2.5].
    """
    entries_by_model: dict[str, list[Entry]] = {model: [] for model in models}
    for entry in entries:
        if entry.model in entries_by_model:
            entries_by_model[entry.model].append(entry)
    means = []
    for entries_of_model in entries_by_model.values():
        entry_on_member = entry_of(member, entries_of_model)
        assert entry_on_member is not None  # the models have all data sets
        means.append(np.mean([entry_on_member.metrics[name] for name in member.metrics]))
    # The lowest number has rank 1.
    if metric_of(member.task, member.metrics[0]).higher_is_better:
        means = [-mean for mean in means]
    # Rounding makes numbers equal that differ only by the order of their sums.
    values = np.round(means, 12)
    n_lower = (values < values[:, None]).sum(axis=1)
    n_equal = (values == values[:, None]).sum(axis=1)  # with the number itself
    ranks: list[float] = (n_lower + (n_equal + 1) / 2).tolist()
    return ranks
