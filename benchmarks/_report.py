"""What the benchmarks share: interleaved rounds, medians with spreads, a table or JSON.

A benchmark is `python benchmarks/NAME.py [--json] [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Spread(NamedTuple):
    """What the rounds of one function gave, in their order."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over rounds."""
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        """The smallest round."""
        return min(self.rounds)

    @property
    def high(self) -> float:
        """The largest round."""
        return max(self.rounds)

    def over(self, other: Spread) -> Spread:
        """Ratios round by round: load that slows a whole round cancels."""
        return Spread(tuple(a / b for a, b in zip(self.rounds, other.rounds, strict=True)))

    def percent_of(self, other: Spread) -> Spread:
        """Shares round by round, in percent."""
        return Spread(tuple(100 * ratio for ratio in self.over(other).rounds))

    def per(self, amount: float) -> Spread:
        """`amount` divided by each round: seconds become a rate."""
        return Spread(tuple(amount / value for value in self.rounds))


class Measurement(NamedTuple):
    """One line of a report. A ratio has unit "x"; `met` is None where there is no target."""

    name: str
    value: float
    unit: str
    target: float | None = None
    met: bool | None = None
    spread: Spread | None = None


def measurement(
    name: str,
    spread: Spread | float,
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measurement:
    """The median of `spread`, or one number, held against a lower or an upper target."""
    value, rounds = (spread.median, spread) if isinstance(spread, Spread) else (spread, None)
    if at_least is not None:
        return Measurement(name, value, unit, at_least, value >= at_least, rounds)
    met = None if at_most is None else value <= at_most
    return Measurement(name, value, unit, at_most, met, rounds)


def interleave(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Spread]:
    """Seconds of each function by name: every round runs all of them, one after the other.

    `clock` may be `time.process_time` where other processes share the cores.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + rounds):
        for name, function in functions.items():
            start = clock()
            function()
            if turn >= warmup:
                seconds[name].append(clock() - start)
    return {name: Spread(tuple(values)) for name, values in seconds.items()}


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--json", action="store_true", help="print a JSON list")
    arguments.add_argument("--quick", action="store_true", help="end within 60 seconds")
    return arguments


def report(title: str, measurements: Iterable[Measurement], as_json: bool) -> None:
    """Print to standard output: a table with spreads, or a list of objects without them."""
    if as_json:
        rows = [line._asdict() for line in measurements]
        keys = ("name", "value", "unit", "target", "met")
        print(json.dumps([{key: row[key] for key in keys} for row in rows], indent=2))
        return
    table = Table("measured", "median", "unit", "min to max", "target", "met", title=title)
    for line in measurements:
        table.add_row(*_cells(line))
    Console().print(table)


def _cells(line: Measurement) -> tuple[str, ...]:
    spread = f"{line.spread.low:.3g} to {line.spread.high:.3g}" if line.spread else ""
    target = "" if line.target is None else f"{line.target:g}"
    met = "" if line.met is None else "yes" if line.met else "NO"
    return line.name, f"{line.value:.4g}", line.unit, spread, target, met
