"""Every two models on every data set: differences of the same samples, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from cosmos_eval.report.sets import Sampled, Set
from cosmos_eval.results.compare import (
    MetricTest,
    all_differences,
    metric_test,
    mismatches,
    require_own,
    setting,
)
from cosmos_eval.results.leaderboard import Entry, Pair, Ties, close_pairs
from cosmos_eval.stats.paired import PairedDifference, holm
from cosmos_eval.tasks import known_tasks, task_named
from cosmos_eval.types import CosmosEvalError

Models = tuple[str, str]
"""Two models by their labels, in alphabetical order."""


class Found(NamedTuple):
    """What was found of two models on one data set: the difference of metrics, or an obstacle."""

    models: Models
    protocol: str
    dataset: str
    task: str
    differences: Mapping[str, PairedDifference]
    obstacle: str = ""


class Versus(NamedTuple):
    """Two models on all data sets that both have results of; obstacles are a line each."""

    models: Models
    tests: tuple[MetricTest, ...]
    obstacles: tuple[str, ...]

    def wins(self, side: str) -> int:
        """How many tests show model `A` (the first) or `B` to be the better one."""
        return sum(test.better == side for test in self.tests)


def compare_set(one: Set) -> list[Found]:
    """Every two models of a set. Those of other samples or settings have an obstacle instead."""
    split = _split(one)
    found = [_obstacle(one, apart.a, apart.b, apart.why) for apart in split.apart]
    found += [pair for alike in split.alike for pair in _compare_alike(one, alike)]
    # One model measured in two ways is not compared with itself.
    return [pair for pair in found if len(set(pair.models)) == 2]


def versus(found: Sequence[Found]) -> list[Versus]:
    """What was found, model pair by model pair, with Holm's correction over a pair's headlines."""
    pairs: dict[Models, list[Found]] = {}
    for one in sorted(found, key=lambda one: (one.models, one.protocol, one.dataset)):
        pairs.setdefault(one.models, []).append(one)
    return [_versus(models, several) for models, several in pairs.items()]


def ties_of(found: Sequence[Found], entries: Sequence[Entry]) -> Ties:
    """Whether the interval of each close pair's difference covers 0, where they were compared."""
    known = {(one.models, one.protocol, one.dataset): one.differences for one in found}
    # Tables may call a model more than it is called where models are compared.
    model = {entry.key: entry.stored.model for entry in entries if entry.stored is not None}
    ties = {}
    for pair in close_pairs(entries):
        first, second = sorted((model[pair.best], model[pair.other]))
        differences = known.get(((first, second), pair.best.protocol, pair.best.dataset), {})
        if pair.metric in differences:
            interval = differences[pair.metric].interval()
            ties[Pair(pair.best, pair.other, pair.metric)] = interval.low <= 0 <= interval.high
    return ties


class _Apart(NamedTuple):
    a: Sampled
    b: Sampled
    why: str


class _Split(NamedTuple):
    """Results in parts that can be compared within, and why two of different parts cannot."""

    alike: list[list[Sampled]]
    apart: list[_Apart]


def _split(one: Set) -> _Split:
    parts: list[list[Sampled]] = []
    apart: list[_Apart] = []
    for result in one.results:
        own: list[Sampled] | None = None
        for part in parts:
            why = _why_apart(one.task, part[0], result)
            if why:
                apart += [_Apart(other, result, why) for other in part]
            else:
                own = part
        if own is None:
            parts.append([result])
        else:
            own.append(result)
    return _Split(parts, apart)


def _why_apart(task: str, a: Sampled, b: Sampled) -> str:
    """What two results have not alike that they should; empty where they can be compared."""
    found = mismatches(setting(a.stored.row), setting(b.stored.row))
    if found:
        return "; ".join(map(str, found))
    try:
        known = task_named(task)
        known.require_same_truth(known.derive(a.samples), known.derive(b.samples))
    except (CosmosEvalError, ValueError) as error:
        return str(error)
    except KeyError as error:
        return f"samples that lack {error} are not of this task"
    return ""


def _compare_alike(one: Set, results: Sequence[Sampled]) -> list[Found]:
    pairs = list(combinations(range(len(results)), 2))
    try:
        differences = all_differences(one.task, [r.samples for r in results], without_slow=True)
    except (CosmosEvalError, ValueError) as error:
        return [_obstacle(one, results[a], results[b], str(error)) for a, b in pairs]
    found = []
    for (a, b), of_pair in differences.items():
        why = _not_own(results[a], of_pair, "a") or _not_own(results[b], of_pair, "b")
        if why:
            found.append(_obstacle(one, results[a], results[b], why))
        else:
            models = (results[a].model, results[b].model)
            found.append(Found(models, one.protocol, one.dataset, one.task, of_pair))
    return found


def _not_own(result: Sampled, differences: Mapping[str, PairedDifference], side: str) -> str:
    """Which metric is not what its samples give; empty where all that were computed are."""
    row = result.stored.row
    try:
        for name in differences:
            if name in row.metrics:
                require_own(name, row.metrics[name], getattr(differences[name], side))
    except ValueError as error:
        return f"{result.model}: {error}"
    return ""


def _obstacle(one: Set, a: Sampled, b: Sampled, why: str) -> Found:
    first, second = sorted((a.model, b.model))
    return Found((first, second), one.protocol, one.dataset, one.task, {}, why)


def _versus(models: Models, found: Sequence[Found]) -> Versus:
    tests = [test for one in found for test in _tests(one)]
    decisive = [test for test in tests if test.adjusted is not None]
    adjusted = iter(holm([test.difference.p_value for test in decisive]))
    final = (t if t.adjusted is None else t._replace(adjusted=next(adjusted)) for t in tests)
    obstacles = (f"{o.dataset} ({o.protocol}): {o.obstacle}" for o in found if o.obstacle)
    return Versus(models, tuple(final), tuple(obstacles))


def _tests(one: Found) -> list[MetricTest]:
    """Tests of the metrics that tables show, before adjustment."""
    known = known_tasks()
    if one.task not in known:
        return []
    return [
        metric_test(one.dataset, one.protocol, one.task, name, one.differences[name])
        for name in known[one.task].headlines
        if name in one.differences
    ]
