"""`python benchmarks/hops.py [--json] [--quick]`: functions that a command runs through.

The script runs each command in a new process, and counts the different functions of this project
that it calls, and the files that they are in. Comprehensions, generator expressions, lambdas and
the bodies of classes are not counted. The runs evaluate scenes-cosmos without cached embeddings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from _report import Measurement, measurement, parser, report

RESULTS = str(Path(__file__).parents[1] / "results")
# Runs the command in its arguments, and writes the functions that it called to the file that the
# first argument names.
COUNTER = """
import inspect, json, sys, threading
from pathlib import Path
import cosmos_core, cosmos_eval

ROOTS = tuple(str(Path(package.__file__).parent) for package in (cosmos_core, cosmos_eval))
called = set()

def count(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(ROOTS) or "<" in code.co_name:
        return
    # The body of a class also runs in a frame with a name, but has no optimised local variables.
    if code.co_flags & inspect.CO_OPTIMIZED:
        called.add((code.co_filename, code.co_firstlineno, code.co_name))

from cosmos_eval.cli.app import main
threading.setprofile(count)
sys.setprofile(count)
try:
    main(sys.argv[2:])
finally:
    sys.setprofile(None)
    Path(sys.argv[1]).write_text(json.dumps(sorted(called)))
"""


class Command(NamedTuple):
    """A command, and its target."""

    # What follows `cosmos-eval` on the command line.
    arguments: tuple[str, ...]
    # The largest number of functions that it should call.
    most_functions: int


def commands(folder: str) -> dict[str, Command]:
    """Return the commands by name; runs write their results to the folder."""
    run = ("run", "--model", "scenes-cosmos", "--output", folder, "--device", "cpu", "--no-cache")
    return {
        "run --task retrieval": Command((*run, "--task", "retrieval"), 300),
        "run --task seg": Command((*run, "--task", "seg", "--limit", "32"), 280),
        "leaderboard": Command(("leaderboard", RESULTS), 140),
    }


def main() -> None:
    """Count and print."""
    arguments = parser(__doc__ or "").parse_args()
    lines: list[Measurement] = []
    with tempfile.TemporaryDirectory() as folder:
        # The scenes are rendered once for all commands: rendering is not counted.
        doctor = ("data", "doctor", "scenes-retrieval", "scenes-seg")
        called_functions(doctor, Path(folder) / "called.json")
        for name, command in commands(folder).items():
            functions = called_functions(command.arguments, Path(folder) / "called.json")
            files = {file for file, *_ in functions}
            target = command.most_functions
            lines.append(measurement(name, len(functions), "functions", at_most=target))
            lines.append(measurement(f"{name}: files", len(files), "files"))
    report("Functions that a command runs through", lines, arguments.json)


def called_functions(arguments: tuple[str, ...], path: Path) -> list[tuple[str, int, str]]:
    """Return file, line and name of every function that a command calls.

    Args:
        arguments: What follows `cosmos-eval` on the command line.
        path: A file for the functions, which is overwritten.
    """
    subprocess.run(
        [sys.executable, "-c", COUNTER, str(path), *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [tuple(function) for function in json.loads(path.read_text("utf-8"))]


if __name__ == "__main__":
    main()
