"""Which model is better, by how much, and how sure that is: means over shared data sets."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.suite import Row, SuiteScore, entry_of, suite_score
from cosmos_eval.results.store import Read
from cosmos_eval.results.text import shown_text
from cosmos_eval.stats.paired import difference_of_draws
from cosmos_eval.tasks import metric_of, usable_task
from cosmos_eval.types import Suite, SuiteMember


class Overview(NamedTuple):
    """Ranked models, the best first: the score, and the mean of each model's ranks on its members.
    `scope` names what the mean is over."""

    scope: str
    score: SuiteScore
    average_ranks: dict[str, float]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of models that have all members."""
        return tuple(row for row in self.score.rows if row.model in self.average_ranks)

    @property
    def equals(self) -> list[str]:
        """The models that are not told apart from the first one."""
        return [row.model for row in self.rows[1:] if row.ranks and row.ranks[0] == 1]

    def mean(self, row: Row) -> str:
        """Return the mean as text: in percent, if it is a fraction."""
        return shown_text(self.score.metric, row.mean.value) if row.mean else ""

    def difference(self, a: str, b: str) -> tuple[float, float, float] | None:
        """Return the mean of a model minus that of another one, and the ends of its paired 95%
        interval, in percentage points of fractions; None without both means."""
        means = {row.model: row.mean for row in self.rows}
        of_a, of_b = means.get(a), means.get(b)
        if of_a is None or of_b is None:
            return None
        drawn = of_a.drawn - of_b.drawn
        found = difference_of_draws(
            of_a.value, of_b.value, drawn[~np.isnan(drawn)], self.score.clusters
        )
        factor, interval = self.score.metric.factor, found.interval()
        return factor * found.difference, factor * interval.low, factor * interval.high


def overview_of(entries: Sequence[Entry], read: Read, suite: Suite | None) -> Overview | None:
    """Rank models by the score of a suite, or else by the mean of main metrics over the data sets
    of a protocol that most models have; None without two models and a common data set. Raises
    UsageError where samples are missing or do not give the metrics."""
    ranked = [entry for entry in entries if entry.is_ranked and entry.stored]
    chosen, scope = suite, f"suite {suite.name}" if suite else ""
    if chosen is None:
        families = sorted({entry.protocol for entry in ranked})
        found = [(members_of(ranked, family), family) for family in families]
        members, family = max(found, key=lambda one: len(one[0]), default=((), ""))
        chosen, scope = Suite("", (), (), (), members, {}, ""), f"protocol {family}"
    if not chosen.members:
        return None
    score = suite_score(chosen, ranked, read)
    complete = [row.model for row in score.rows if row.mean and row.mean.interval]
    if len(complete) < 2:
        return None
    ranks = np.mean([*_ranks(chosen.members, complete, ranked)], axis=0)
    return Overview(scope, score, dict(zip(complete, ranks.tolist(), strict=True)))


def members_of(entries: Sequence[Entry], family: str) -> tuple[SuiteMember, ...]:
    """Return data sets of a family with their main metrics, if these are fractions of which more is
    better: as many as give the most numbers of models that have them all."""
    have: dict[SuiteMember, set[str]] = {}
    for entry in (entry for entry in entries if entry.protocol == family):
        task = usable_task(entry.task)
        primary = [metric for metric in task.metrics if metric.primary] if task else []
        metrics = [metric for metric in primary if metric.name in entry.metrics]
        if metrics and all(m.unit == "fraction" and m.higher_is_better for m in metrics):
            names = tuple(metric.name for metric in metrics)
            member = SuiteMember(entry.task, entry.dataset, family, names)
            have.setdefault(member, set()).add(entry.model)
    order = sorted(have, key=lambda member: (-len(have[member]), member))
    choices = [tuple(sorted(order[:n])) for n in range(1, len(order) + 1)]
    sizes = [len(some) * len(set.intersection(*map(have.__getitem__, some))) for some in choices]
    shared = [size for size, some in zip(sizes, choices, strict=True) if size >= 2 * len(some)]
    return choices[sizes.index(max(shared))] if shared else ()


def _ranks(
    members: Sequence[SuiteMember], models: Sequence[str], entries: Sequence[Entry]
) -> Iterator[list[float]]:
    """Yield the ranks of models on each member; equal ones share the mean of their ranks."""
    of_model = {model: [entry for entry in entries if entry.model == model] for model in models}
    for member in members:
        sign = -1 if metric_of(member.task, member.metrics[0]).higher_is_better else 1
        of_member = (entry_of(member, of_model[model]) for model in models)
        values = [
            sign * np.mean([entry.metrics[name] for name in member.metrics])
            for entry in of_member
            if entry is not None  # the models have all members
        ]
        yield rankdata(np.round(values, 12)).tolist()
