"""Results that are named on the command line, as files or as folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosmos_eval.results.gate import Measured, Problem


def result_files(place: Path) -> list[Path]:
    """The result files that a path means: itself, or those of a folder, by name.

    Raises UsageError where a folder has none or cannot be read.
    """
    from cosmos_eval.results.store import result_paths

    return result_paths(place) if os.path.isdir(place) else [place]


def verified_results(places: Sequence[Path]) -> tuple[list[Measured], list[Problem]]:
    """Results whose figures follow from their samples, and what is wrong with the others."""
    from cosmos_eval.results.gate import Measured, Problem
    from cosmos_eval.results.store import list_results
    from cosmos_eval.results.verify import Verdict, read_verified

    found, problems = [], []
    for place in places:
        files, faults = list_results(place)
        problems += [Problem(str(place), fault) for fault in faults]
        for file in files:
            result = read_verified(file)
            if isinstance(result, Verdict):
                wrong = "; ".join(result.differences) or result.obstacle
                problems.append(Problem(str(file), wrong))
            else:
                found.append(Measured(file, result.row, result.samples))
    return found, problems
