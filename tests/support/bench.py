"""A baseline and results that pass against it, to be damaged by the tests of the gate."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support.models import seal, store


class Bench(NamedTuple):
    """A baseline, and a folder of new results that are the same as those it was made of."""

    baseline: Path
    new: Path

    def file(self, task: str) -> Path:
        return self.new / f"scenes-cosmos__scenes-{task}__scenes.json"

    def again(self, task: str = "cls", skill: float = 0.6, seed: int = 1, **changes: Any) -> None:
        """Put another result in the place of a new one."""
        for path in self.new.glob(f"scenes-cosmos__scenes-{task}__*"):
            path.unlink()
        store(self.new, task, skill, seed, **changes)

    def edit(self, path: Path, **fields: Any) -> None:
        document = json.loads(path.read_text())
        document.update(fields)
        path.write_text(json.dumps(document))

    def edit_baseline(self, number: int, **fields: Any) -> None:
        """Change an entry, and the hash that the baseline holds of itself with it."""
        results = json.loads(self.baseline.read_text())["results"]
        results[number].update(fields)
        self.edit(self.baseline, results=results)
        seal(self.baseline)

    def relabel(self) -> None:
        """Make the baseline one of version 1."""
        document = json.loads(self.baseline.read_text())
        del document["baseline_sha256"]
        for entry in document["results"]:
            old = entry["samples"]["file"]
            new = old.replace(".baseline.npz", ".npz")
            folder = self.baseline.with_suffix("")
            (folder / old).rename(folder / new)
            entry["samples"]["file"] = new
        self.baseline.write_text(json.dumps({**document, "schema_version": 1}))

    def command(self, *more: object) -> list[str]:
        return ["check", str(self.new), "--baseline", str(self.baseline), *map(str, more)]


Scenarios = dict[str, tuple[Callable[[Bench], Sequence[object] | None], int, str]]
"""For each name: a function that changes a bench that passes (it returns a command line if it is
not the usual one), the expected exit status, and a pattern of the expected output."""


def scenario(scenarios: Scenarios, name: str, status: int, message: str) -> Callable:
    """Add a function as a scenario."""

    def add(function: Callable) -> Callable:
        scenarios[name] = (function, status, message)
        return function

    return add


def require_failure(command: Callable, bench: Bench, scenario: tuple) -> None:
    """Apply a scenario to a bench and check it."""
    change, status, message = scenario
    ended = command(*(change(bench) or bench.command()))
    assert ended.status == status, ended
    flat = " ".join((ended.out + ended.err).split())
    assert re.search(message, flat), flat
    if status == 2:
        assert re.search("^cosmos-eval: ", ended.err, re.MULTILINE), ended.err
