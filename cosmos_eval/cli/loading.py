"""Results that are named on the command line, as files or as folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from cosmos_eval.regression import Measured, Problem


def result_files(place: Path) -> list[Path]:
    """The result files that a path means: itself, or those of a folder, by name.

    Raises UsageError where there are none.
    """
    from cosmos_eval.store import result_paths

    return result_paths(place) if place.is_dir() else [place]


def verified_results(places: Sequence[Path]) -> tuple[list[Measured], list[Problem]]:
    """Results whose figures follow from their samples, and what is wrong with the others."""
    from cosmos_eval.regression import Measured, Problem
    from cosmos_eval.store import read_result, read_samples
    from cosmos_eval.verify import verify

    found, problems = [], []
    for place in places:
        try:
            files = result_files(place)
        except UsageError as error:
            problems.append(Problem(str(place), str(error)))
            continue
        for file in files:
            verdict = verify(file)
            if verdict.outcome == "verified":
                found.append(Measured(file, read_result(file), read_samples(file)))
            else:
                wrong = "; ".join(verdict.differences) or verdict.obstacle
                problems.append(Problem(str(file), wrong))
    return found, problems
