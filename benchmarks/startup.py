"""`python benchmarks/startup.py [--json] [--quick]`: seconds from a command's start to its end.

Every command runs in a new process, whose start-up is measured too. Commands that need no model
must not import a heavy package. `run` evaluates scenes-cosmos on scenes-cls with cached embeddings.
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
# Runs the command in its arguments, and writes the names of the imported modules to the file that
# the first argument names.
SPY = """
import pathlib, sys
from cosmos_eval.cli.app import main
try:
    main(sys.argv[2:])
finally:
    pathlib.Path(sys.argv[1]).write_text(" ".join(sys.modules))
"""


class Command(NamedTuple):
    """A command, and what is expected of it."""

    # What follows `cosmos-eval` on the command line.
    arguments: tuple[str, ...]
    # The target in seconds.
    seconds: float
    # Whether it must not import the packages in FORBIDDEN.
    is_light: bool = True
    # The exit status.
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
    arguments = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The first round, which is not counted, renders the scenes and fills the cache.
        runs = {name: partial(_run, folder, command) for name, command in COMMANDS.items()}
        seconds = interleave(runs, 3 if arguments.quick else 9)
        imports = {name: _imported_packages(folder, command) for name, command in COMMANDS.items()}
    lines = []
    for name, command in COMMANDS.items():
        lines.append(measurement(name, seconds[name], "s", at_most=command.seconds))
    for name, packages in imports.items():
        lines.append(_forbidden_line(name, packages))
    report("Start-up", lines, arguments.json)
    for name, packages in imports.items():
        print(f"{name} imports: {', '.join(packages) or 'none of them'}", file=sys.stderr)


def _forbidden_line(name: str, packages: list[str]) -> Measurement:
    """Return the line that counts the forbidden packages among those that a command imports."""
    n_forbidden = len(FORBIDDEN & set(packages))
    limit = 0 if COMMANDS[name].is_light else None
    return measurement(f"{name}: torch and mmseg imported", n_forbidden, "packages", at_most=limit)


def _run(folder: str, command: Command) -> None:
    """Run a command."""
    _run_python(folder, "-m", "cosmos_eval", *command.arguments, status=command.status)


def _imported_packages(folder: str, command: Command) -> list[str]:
    """Run a command, and return which of PACKAGES it imports."""
    modules_file = Path(folder, "modules.txt")
    _run_python(folder, "-c", SPY, str(modules_file), *command.arguments, status=command.status)
    modules = modules_file.read_text().split()
    return [package for package in PACKAGES if package in modules]


def _run_python(folder: str, *arguments: str, status: int) -> None:
    """Run Python with caches in the folder; raise SystemExit if it ends with another status."""
    environment = {
        **os.environ,
        "COSMOS_EVAL_CACHE": f"{folder}/cache",
        "HF_HUB_CACHE": f"{folder}/hub",
    }
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if ended.returncode != status:
        raise SystemExit(f"{arguments} ended with status {ended.returncode}")


if __name__ == "__main__":
    main()
