"""Rank models by their means over shared data sets, with intervals of the differences."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.suite import Row, SuiteScore, entry_of, suite_score
from cosmos_eval.results.store import ReadSamples
from cosmos_eval.results.text import metric_text
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

    # What the mean is taken over, such as "suite NAME".
    scope: str
    score: SuiteScore
    # The mean of each model's ranks on the single data sets.
    average_ranks: dict[str, float]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the models that were measured on all data sets."""
        return tuple(row for row in self.score.rows if row.model in self.average_ranks)

    @property
    def equals(self) -> list[str]:
        """The models that may be as good as the first one: their ranks include the first."""
        return [row.model for row in self.rows[1:] if row.ranks and row.ranks[0] == 1]

    def mean(self, row: Row) -> str:
        """Return the mean as text, in percent if it is a fraction; empty if there is none."""
        return metric_text(self.score.metric, row.mean.value) if row.mean else ""

    def difference(self, a: str, b: str) -> MeanDifference | None:
        """Return the mean of model A minus the mean of model B; None if one of them has no mean."""
        means = {row.model: row.mean for row in self.rows}
        mean_a, mean_b = means.get(a), means.get(b)
        if mean_a is None or mean_b is None:
            return None
        draws = mean_a.drawn - mean_b.drawn
        draws = draws[~np.isnan(draws)]
        difference = difference_of_draws(mean_a.value, mean_b.value, draws, self.score.clusters)
        interval = difference.interval()
        factor = self.score.metric.factor
        return MeanDifference(
            factor * difference.difference, factor * interval.low, factor * interval.high
        )


def overview_of(
    entries: Sequence[Entry], read_samples: ReadSamples, suite: Suite | None
) -> Overview | None:
    """Rank models by the score of a suite.

    Without a suite, the score is the mean of the main metrics over data sets that models share, see
    `choose_members`. Returns None unless two models share a data set. Raises UsageError if samples
    are missing or do not give the metrics.
    """
    ranked_entries = [entry for entry in entries if entry.is_ranked and entry.stored]
    if suite is not None:
        scope = f"suite {suite.name}"
    else:
        protocol, members = _choose_protocol(ranked_entries)
        suite = Suite(
            name="", models=(), names=(), protocols=(), members=members, left_out={}, source=""
        )
        scope = f"protocol {protocol}"
    if not suite.members:
        return None
    score = suite_score(suite, ranked_entries, read_samples)
    models = [row.model for row in score.rows if row.mean and row.mean.interval]
    if len(models) < 2:
        return None
    ranks = [_ranks_on(member, models, ranked_entries) for member in suite.members]
    average_ranks = np.mean(ranks, axis=0).tolist()
    return Overview(scope, score, dict(zip(models, average_ranks, strict=True)))


def _choose_protocol(entries: Sequence[Entry]) -> tuple[str, tuple[SuiteMember, ...]]:
    """Return the protocol with the most data sets to rank models by, and these data sets."""
    best_protocol = ""
    best_members: tuple[SuiteMember, ...] = ()
    for protocol in sorted({entry.protocol for entry in entries}):
        members = choose_members(entries, protocol)
        if not best_protocol or len(members) > len(best_members):
            best_protocol, best_members = protocol, members
    return best_protocol, best_members


def choose_members(entries: Sequence[Entry], protocol: str) -> tuple[SuiteMember, ...]:
    """Choose the data sets of a protocol, with their main metrics, to rank models by.

    Data sets are sorted by how many models were measured on them, and the first n are chosen. The
    number n maximizes n times the number of models that have all n data sets: the amount of numbers
    that the ranking rests on. If no two models share a data set, none is chosen. Data sets whose
    main metrics are not fractions, or are better if lower, are left out.
    """
    models_by_member: dict[SuiteMember, set[str]] = {}
    for entry in entries:
        if entry.protocol == protocol:
            metrics = _main_fractions(entry)
            if metrics:
                member = SuiteMember(entry.task, entry.dataset, protocol, metrics)
                models_by_member.setdefault(member, set()).add(entry.model)
    members_by_coverage = sorted(
        models_by_member, key=lambda member: (-len(models_by_member[member]), member)
    )
    best_members: list[SuiteMember] = []
    most_numbers = 0
    for n_members in range(1, len(members_by_coverage) + 1):
        members = members_by_coverage[:n_members]
        shared_models = set.intersection(*(models_by_member[member] for member in members))
        n_numbers = n_members * len(shared_models)
        if len(shared_models) >= 2 and n_numbers > most_numbers:
            best_members, most_numbers = members, n_numbers
    return tuple(sorted(best_members))


def _main_fractions(entry: Entry) -> tuple[str, ...]:
    """Return the main metrics of an entry; none unless all are fractions, better if higher."""
    task = usable_task(entry.task)
    if task is None:
        return ()
    metrics = [metric for metric in task.metrics if metric.primary and metric.name in entry.metrics]
    if not all(metric.unit == "fraction" and metric.higher_is_better for metric in metrics):
        return ()
    return tuple(metric.name for metric in metrics)


def _ranks_on(member: SuiteMember, models: Sequence[str], entries: Iterable[Entry]) -> list[float]:
    """Return the rank of each model on one data set, from 1. Equal models share their mean rank."""
    entries_by_model: dict[str, list[Entry]] = {model: [] for model in models}
    for entry in entries:
        if entry.model in entries_by_model:
            entries_by_model[entry.model].append(entry)
    means = []
    for model_entries in entries_by_model.values():
        member_entry = entry_of(member, model_entries)
        assert member_entry is not None  # the models have all data sets
        means.append(np.mean([member_entry.metrics[name] for name in member.metrics]))
    if metric_of(member.task, member.metrics[0]).higher_is_better:
        means = [-mean for mean in means]
    # Rounding makes numbers equal that differ only by the order of their sums.
    return rankdata(np.round(means, 12)).tolist()
