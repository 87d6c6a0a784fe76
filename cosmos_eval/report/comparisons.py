"""Every two models on every data set: differences on the same samples, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cosmos_eval.results.compare import (
    MetricTest,
    all_differences,
    metric_test,
    mismatches,
    require_own,
    setting,
)
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import Pair, Ties, close_pairs
from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.paired import PairedDifference, holm
from cosmos_eval.tasks import known_tasks, task_named
from cosmos_eval.types import CosmosEvalError, Samples, UsageError

Read = Callable[[Path], Samples]
"""Returns the per-sample arrays of a result file; raises UsageError where there are none."""

Models = tuple[str, str]
"""Two models by their labels, in alphabetical order."""


class Sampled(NamedTuple):
    """A result and its samples."""

    stored: Stored
    samples: Samples

    @property
    def row(self) -> ResultRow:
        return self.stored.row

    @property
    def model(self) -> str:
        return self.stored.model


class ResultSet(NamedTuple):
    """The results of a data set by one protocol, by model; notes on those without samples."""

    protocol: str
    dataset: str
    task: str
    results: tuple[Sampled, ...]
    notes: tuple[str, ...]


class Comparison(NamedTuple):
    """The differences of two models on one data set by metric, or an obstacle."""

    models: Models
    protocol: str
    dataset: str
    task: str
    differences: Mapping[str, PairedDifference]
    obstacle: str


class ModelPair(NamedTuple):
    """Tests of two models on all data sets that both were measured on, and obstacles."""

    models: Models
    tests: tuple[MetricTest, ...]
    obstacles: tuple[str, ...]

    def wins(self, model: str) -> int:
        """Count the tests that show one of the two models to be better."""
        side = "A" if model == self.models[0] else "B"
        return sum(test.better == side for test in self.tests)


class Score(NamedTuple):
    """Tests that a model won and lost against another one, of all tests of the two."""

    won: int
    lost: int
    tests: int


def result_sets(results: Sequence[Stored], read: Read) -> Iterator[ResultSet]:
    """Yield results by protocol and data set; samples are read when a set is reached."""
    groups: dict[tuple[str, str], list[Stored]] = {}
    for one in sorted(results, key=lambda one: one.model):
        groups.setdefault((one.row.protocol, one.row.dataset), []).append(one)
    for (protocol, dataset), group in sorted(groups.items()):
        sampled, notes = [], []
        for stored in group:
            try:
                sampled.append(Sampled(stored, read(stored.path)))
            except UsageError as error:
                notes.append(f"not compared with others: {error}")
        yield ResultSet(protocol, dataset, group[0].row.task, tuple(sampled), tuple(notes))


def compare_set(one: ResultSet) -> list[Comparison]:
    """Compare every two models of a set. Those of other samples or settings have an obstacle."""
    parts: list[list[Sampled]] = []  # results that can be compared with each other
    found: list[Comparison] = []
    for result in one.results:
        own: list[Sampled] | None = None
        for part in parts:
            why = _why_apart(one.task, part[0], result)
            if why:
                found += [_comparison(one, other, result, obstacle=why) for other in part]
            else:
                own = part
        if own is None:
            parts.append([result])
        else:
            own.append(result)
    found += [pair for part in parts for pair in _compare_part(one, part)]
    # One model measured in two ways is not compared with itself.
    return [pair for pair in found if len(set(pair.models)) == 2]


def _why_apart(task: str, a: Sampled, b: Sampled) -> str:
    """State what keeps two results from being compared; empty where nothing does."""
    found = mismatches(setting(a.row), setting(b.row))
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


def _compare_part(one: ResultSet, results: Sequence[Sampled]) -> list[Comparison]:
    pairs = list(combinations(results, 2))
    try:
        differences = all_differences(one.task, [r.samples for r in results], without_slow=True)
    except (CosmosEvalError, ValueError) as error:
        return [_comparison(one, *pair, obstacle=str(error)) for pair in pairs]
    found = []
    for pair, of_pair in zip(pairs, differences.values(), strict=True):
        why = _not_own(pair[0], of_pair, "a") or _not_own(pair[1], of_pair, "b")
        found.append(_comparison(one, *pair, {} if why else of_pair, why))
    return found


def _not_own(result: Sampled, differences: Mapping[str, PairedDifference], side: str) -> str:
    """Name a metric that is not what its samples give; empty where all are."""
    try:
        for name in differences:
            if name in result.row.metrics:
                require_own(name, result.row.metrics[name], getattr(differences[name], side))
    except ValueError as error:
        return f"{result.model}: {error}"
    return ""


def _comparison(
    one: ResultSet,
    a: Sampled,
    b: Sampled,
    differences: Mapping[str, PairedDifference] = MappingProxyType({}),
    obstacle: str = "",
) -> Comparison:
    first, second = sorted((a.model, b.model))
    return Comparison((first, second), one.protocol, one.dataset, one.task, differences, obstacle)


def pair_models(found: Sequence[Comparison]) -> list[ModelPair]:
    """Group comparisons by models, with Holm's correction over the decisive tests of a pair."""
    pairs: dict[Models, list[Comparison]] = {}
    for one in sorted(found, key=lambda one: (one.models, one.protocol, one.dataset)):
        pairs.setdefault(one.models, []).append(one)
    return [_model_pair(models, several) for models, several in pairs.items()]


def _model_pair(models: Models, found: Sequence[Comparison]) -> ModelPair:
    tests = [test for one in found for test in _tests(one)]
    decisive = [test for test in tests if test.adjusted is not None]
    adjusted = iter(holm([test.difference.p_value for test in decisive]))
    final = (t if t.adjusted is None else t._replace(adjusted=next(adjusted)) for t in tests)
    obstacles = (f"{o.dataset} ({o.protocol}): {o.obstacle}" for o in found if o.obstacle)
    return ModelPair(models, tuple(final), tuple(obstacles))


def _tests(one: Comparison) -> list[MetricTest]:
    """Return tests of the metrics that tables show, before adjustment."""
    known = known_tasks()
    if one.task not in known:
        return []
    return [
        metric_test(one.dataset, one.protocol, one.task, name, one.differences[name])
        for name in known[one.task].headlines
        if name in one.differences
    ]


def ties_of(found: Sequence[Comparison], entries: Sequence[Entry]) -> Ties:
    """Tell whether the interval of each close pair's difference covers 0, if compared."""
    known = {(one.models, one.protocol, one.dataset): one.differences for one in found}
    # Tables may call a model more than its name where models are compared.
    model = {entry.key: entry.stored.model for entry in entries if entry.stored is not None}
    ties = {}
    for pair in close_pairs(entries):
        first, second = sorted((model[pair.best], model[pair.other]))
        differences = known.get(((first, second), pair.best.protocol, pair.best.dataset), {})
        if pair.metric in differences:
            interval = differences[pair.metric].interval()
            ties[Pair(pair.best, pair.other, pair.metric)] = interval.low <= 0 <= interval.high
    return ties


def scores(pairs: Sequence[ModelPair], models: Sequence[str]) -> dict[str, list[Score | None]]:
    """Return the score of every model against each model, None where nothing was compared."""
    known = {pair.models: pair for pair in pairs}
    return {
        model: [_score(known.get((min(model, o), max(model, o))), model, o) for o in models]
        for model in models
    }


def _score(pair: ModelPair | None, model: str, other: str) -> Score | None:
    if pair is None or model == other:
        return None
    decisive = sum(test.adjusted is not None for test in pair.tests)
    return Score(pair.wins(model), pair.wins(other), decisive)
