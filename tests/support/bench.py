"""A baseline and results that pass against it, to be damaged by the tests of the gate."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support.models import seal, store


class Bench(NamedTuple):
    """A baseline, and a folder of new results that are equal to those of the baseline."""

    baseline: Path
    new: Path

    def file(self, task: str) -> Path:
        return self.new / f"scenes-cosmos__scenes-{task}__scenes.json"

    def replace(self, task: str = "cls", skill: float = 0.6, seed: int = 1, **changes: Any) -> None:
        """Replace a new result by another one of the same task."""
        for path in self.new.glob(f"scenes-cosmos__scenes-{task}__*"):
            path.unlink()
        store(self.new, task, skill, seed, **changes)

    def edit(self, path: Path, **fields: Any) -> None:
        """Change fields of a result or of the baseline."""
        document = json.loads(path.read_text())
        document.update(fields)
        path.write_text(json.dumps(document))

    def edit_baseline(self, number: int, **fields: Any) -> None:
        """Change the entry of a result, and the baseline's hash of its own content with it."""
        results = json.loads(self.baseline.read_text())["results"]
        results[number].update(fields)
        self.edit(self.baseline, results=results)
        seal(self.baseline)

    def relabel(self) -> None:
        """Make the baseline one of version 1."""
        document = json.loads(self.baseline.read_text())
        del document["baseline_sha256"]
        for entry in document["results"]:
            name_of_version_2 = entry["samples"]["file"]
            name_of_version_1 = name_of_version_2.replace(".baseline.npz", ".npz")
            folder = self.baseline.with_suffix("")
            (folder / name_of_version_2).rename(folder / name_of_version_1)
            entry["samples"]["file"] = name_of_version_1
        self.baseline.write_text(json.dumps({**document, "schema_version": 1}))

    def command(self, *more: object) -> list[str]:
        return ["check", str(self.new), "--baseline", str(self.baseline), *map(str, more)]


class Scenario(NamedTuple):
    """A change after which a bench must not pass any more."""

    # Changes a bench that passes. It returns a command line if it is not `bench.command()`.
    change: Callable[[Bench], Sequence[object] | None]
    # The exit status of the command.
    status: int
    # A pattern of the output, whose white space is single spaces.
    message: str

    def check(self, command: Callable, bench: Bench) -> None:
        """Apply the change to a bench, and check that the command fails."""
        arguments = self.change(bench) or bench.command()
        require_failure(command(*arguments), self.status, self.message)


class Scenarios(dict[str, Scenario]):
    """Scenarios by their names."""

    def add(self, name: str, status: int, message: str) -> Callable:
        """Return a decorator that adds a change as a scenario."""
        assert name not in self, name

        def add_change(change: Callable) -> Callable:
            self[name] = Scenario(change, status, message)
            return change

        return add_change


def require_failure(ended: Any, status: int, message: str) -> None:
    """Check the exit status and a pattern of the output of a command that has ended."""
    assert ended.status == status, ended
    output = " ".join((ended.out + ended.err).split())
    assert re.search(message, output), output
    if status == 2:
        assert re.search("^cosmos-eval: ", ended.err, re.MULTILINE), ended.err
