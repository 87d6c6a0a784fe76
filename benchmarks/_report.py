"""Functions that the benchmarks share: measure in interleaved rounds, and print a table or JSON.

A benchmark is called by `python benchmarks/NAME.py [--json] [--quick]`.
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
    """The values that one function had in each round, such as seconds."""

    # In the order of the rounds.
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        """The smallest value of a round."""
        return min(self.rounds)

    @property
    def high(self) -> float:
        """The largest value of a round."""
        return max(self.rounds)

    def over(self, other: Spread) -> Spread:
        """Return the ratios to another function, round by round.

        If other processes slow down a whole round, its ratio hardly changes.
        """
        values = zip(self.rounds, other.rounds, strict=True)
        return Spread(tuple(value / other_value for value, other_value in values))

    def percent_of(self, other: Spread) -> Spread:
        """Return the ratios to another function, round by round, in percent."""
        return Spread(tuple(100 * ratio for ratio in self.over(other).rounds))

    def per(self, amount: float) -> Spread:
        """Return `amount` divided by the value of each round.

        Example:
            If the values are seconds, and `amount` is a number of images, they become images per
            second.
        """
        return Spread(tuple(amount / value for value in self.rounds))


class Measurement(NamedTuple):
    """One line of a report."""

    name: str
    value: float
    # "x" for a ratio.
    unit: str
    # The least or the largest value that is wanted.
    target: float | None = None
    # Whether the value meets the target; None if there is no target.
    met: bool | None = None
    # The rounds whose median `value` is; None if it is one number.
    spread: Spread | None = None


def measurement(
    name: str,
    spread: Spread | float,
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measurement:
    """Return a line of a report, and compare its value with the target.

    Args:
        name: What was measured.
        spread: The rounds, whose median is the value, or the value.
        unit: The unit of the value, "x" for a ratio.
        at_least: The target, if larger values are better.
        at_most: The target, if smaller values are better.
    """
    if isinstance(spread, Spread):
        line = Measurement(name, spread.median, unit, spread=spread)
    else:
        line = Measurement(name, spread, unit)
    if at_least is not None:
        return line._replace(target=at_least, met=line.value >= at_least)
    if at_most is not None:
        return line._replace(target=at_most, met=line.value <= at_most)
    return line


def interleave(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Spread]:
    """Return the seconds of each function. Every round calls all of them, one after the other.

    Args:
        functions: The functions by name.
        rounds: The number of rounds that are counted.
        warmup: The number of rounds before them that are not counted.
        clock: Returns the time in seconds: `time.perf_counter` for elapsed time, or
            `time.process_time` for CPU time, on which other processes have less influence.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(warmup + rounds):
        for name, function in functions.items():
            start = clock()
            function()
            if round_number >= warmup:
                seconds[name].append(clock() - start)
    return {name: Spread(tuple(values)) for name, values in seconds.items()}


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    argument_parser = argparse.ArgumentParser(description=description)
    argument_parser.add_argument("--json", action="store_true", help="print a JSON list")
    argument_parser.add_argument("--quick", action="store_true", help="end within 60 seconds")
    return argument_parser


def report(title: str, measurements: Iterable[Measurement], as_json: bool) -> None:
    """Print the lines as a table, or as a JSON list of objects, which leave out the spreads."""
    if as_json:
        rows = [line._asdict() for line in measurements]
        keys = ("name", "value", "unit", "target", "met")
        print(json.dumps([{key: row[key] for key in keys} for row in rows], indent=2))
        return
    table = Table("measured", "median", "unit", "min to max", "target", "met", title=title)
    for line in measurements:
        table.add_row(*_table_cells(line))
    Console().print(table)


def _table_cells(line: Measurement) -> tuple[str, ...]:
    """Return the cells of a line, in the order of the table's columns."""
    spread = f"{line.spread.low:.3g} to {line.spread.high:.3g}" if line.spread else ""
    target = "" if line.target is None else f"{line.target:g}"
    answer = ""
    if line.met is not None:
        answer = "yes" if line.met else "NO"
    return line.name, f"{line.value:.4g}", line.unit, spread, target, answer
