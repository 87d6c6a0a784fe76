"""`python benchmarks/startup.py [--json] [--quick]`: seconds from a command's start to its end.

Every command runs in a process of its own, start-up included. Commands that need no model must not
import a heavy package. The run is of scenes-cosmos on scenes-cls, whose embeddings are cached.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from _report import Measurement, interleave, measurement, parser, report

RESULTS = str(Path(__file__).parents[1] / "results")
PACKAGES = ("torch", "mmseg", "transformers", "open_clip", "torchvision", "pandas", "matplotlib")
FORBIDDEN = {"torch", "mmseg"}  # for commands that need no model
# Runs the command of its arguments and writes the imported modules to the file of the first one.
SPY = """
import pathlib, sys
from cosmos_eval.cli.app import main
try:
    main(sys.argv[2:])
finally:
    pathlib.Path(sys.argv[1]).write_text(" ".join(sys.modules))
"""


class Command(NamedTuple):
    """A command line, its target in seconds, whether it may import no heavy package, and its exit
    status."""

    words: tuple[str, ...]
    seconds: float
    is_light: bool = True
    status: int = 0


COMMANDS = {
    "--help": Command(("--help",), 0.5),
    "list models": Command(("list", "models"), 0.5),
    "list datasets": Command(("list", "datasets"), 0.5),
    "list suites": Command(("list", "suites"), 0.5),
    "dry run of 38 sets": Command(
        ("run", "--dry-run", "--suite", "datacomp-38", "--model", "openclip:ViT-B-32/openai"), 2.0
    ),
    "doctor of 38 sets": Command(("data", "doctor", "--suite", "datacomp-38"), 2.0, status=1),
    "leaderboard": Command(("leaderboard", RESULTS), 1.5),
    "verify": Command(("verify", RESULTS), 1.5),
    "cached run": Command(
        ("run", "--model", "scenes-cosmos", "--task", "cls", "--device", "cpu"), 2.5, is_light=False
    ),
}


def main() -> None:
    """Measure and print."""
    given = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The uncounted first round makes the scenes and fills the cache.
        runs = {name: partial(_run, folder, one) for name, one in COMMANDS.items()}
        seconds = interleave(runs, 3 if given.quick else 9)
        imports = {name: _imported(folder, one) for name, one in COMMANDS.items()}
    times = [
        measurement(name, seconds[name], "s", at_most=one.seconds) for name, one in COMMANDS.items()
    ]
    report("Start-up", [*times, *map(_forbidden, imports, imports.values())], given.json)
    for name, packages in imports.items():
        print(f"{name} imports: {', '.join(packages) or 'none of them'}", file=sys.stderr)


def _forbidden(name: str, packages: list[str]) -> Measurement:
    found = FORBIDDEN & set(packages)
    limit = 0 if COMMANDS[name].is_light else None
    return measurement(f"{name}: torch and mmseg imported", len(found), "packages", at_most=limit)


def _run(folder: str, command: Command) -> None:
    _python(folder, "-m", "cosmos_eval", *command.words, status=command.status)


def _imported(folder: str, command: Command) -> list[str]:
    """Return which of PACKAGES a command imports."""
    modules = Path(folder, "modules.txt")
    _python(folder, "-c", SPY, str(modules), *command.words, status=command.status)
    loaded = modules.read_text().split()
    return [package for package in PACKAGES if package in loaded]


def _python(folder: str, *arguments: str, status: int) -> None:
    caches = {"COSMOS_EVAL_CACHE": f"{folder}/cache", "HF_HUB_CACHE": f"{folder}/hub"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **caches},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if done.returncode != status:
        raise SystemExit(f"{arguments} ended with status {done.returncode}")


if __name__ == "__main__":
    main()
