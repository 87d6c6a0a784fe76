"""Which close results their samples tell apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from cosmos_eval.results.labels import model_label
from cosmos_eval.results.leaderboard.entries import Entry, Key
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Pair, Ties, close_pairs
from cosmos_eval.results.matching import mismatches, setting
from cosmos_eval.types import ResultRow, Samples, UsageError

TieRule = Literal["auto", "paired", "intervals"]

Read = Callable[[ResultRow], Samples]
"""The per-sample arrays of a result; raises UsageError where there are none."""

# What `auto` compares at most: pairs of results, and samples of those that need a bootstrap. A
# bootstrap of COCO's 5,000 images takes seconds.
_MOST_PAIRS = 16
_MOST_SAMPLES = 10_000


class _Results(NamedTuple):
    """The best result of a column, another one, and the metrics in which they are close."""

    best: ResultRow
    other: ResultRow
    pairs: tuple[Pair, ...]

    @property
    def resampled(self) -> int:
        """How many samples a bootstrap draws; accuracies need none."""
        return 0 if self.best.task == "cls" else self.best.n_samples


def find_ties(entries: Sequence[Entry], read: Read, rule: TieRule) -> Ties:
    """Whether the paired interval of each close pair covers 0.

    `paired` compares every pair's samples and raises UsageError where that cannot be; `auto`
    compares those that can be, if they are few; `intervals` reads no samples.
    """
    if rule == "intervals":
        return NO_TIES
    close = _close_results(entries)
    if rule == "auto" and not _few(close):
        return NO_TIES
    ties: dict[Pair, bool] = {}
    for results in close:
        try:
            ties |= _ties(results, read)
        except UsageError:
            if rule == "paired":
                raise
    return ties


def _close_results(entries: Sequence[Entry]) -> list[_Results]:
    results = {entry.key: entry.result for entry in entries if entry.result is not None}
    pairs: dict[tuple[Key, Key], list[Pair]] = {}
    for pair in close_pairs(entries):
        pairs.setdefault((pair.best, pair.other), []).append(pair)
    return [
        _Results(results[best], results[other], tuple(found))
        for (best, other), found in pairs.items()
    ]


def _few(close: Sequence[_Results]) -> bool:
    drawn = sum(results.resampled for results in close)
    return len(close) <= _MOST_PAIRS and drawn <= _MOST_SAMPLES


def _ties(results: _Results, read: Read) -> Ties:
    from cosmos_eval.results.paired import paired_differences

    best, other, pairs = results
    differing = mismatches(setting(best), setting(other))
    if differing:
        raise UsageError(
            f"{model_label(best)} and {model_label(other)} on {best.dataset} cannot be compared: "
            f"{'; '.join(map(str, differing))}"
        )
    found = paired_differences(best, read(best), other, read(other))
    intervals = {pair: found[pair.metric].interval() for pair in pairs if pair.metric in found}
    return {pair: interval.low <= 0 <= interval.high for pair, interval in intervals.items()}
