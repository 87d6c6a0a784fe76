"""Evaluations while a model is trained: what cosmos_core finds under its entry point.

This module is the evaluator; its two functions are those that cosmos_core asks for. It knows
checkpoints by their files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cosmos_core.utils.distributed import Distributed
from cosmos_eval.runner.plan import Machine, make_plan
from cosmos_eval.runner.run import check_data, measure_all
from cosmos_eval.types import CosmosEvalError, RunOptions, Weights


def check(datasets: Sequence[str], data_root: str | None) -> None:
    """Look at the data of every data set; embedded ones are made where they are missing.

    Raises ValueError, one line, for unknown names and for missing or inconsistent data.
    """
    with _value_errors():
        check_data(make_plan(datasets=datasets, options=RunOptions(data_root=data_root)))


def measure(
    checkpoint: Path,
    weights: Weights,
    datasets: Sequence[str],
    *,
    data_root: str | None,
    device: str,
    rank: int,
    world_size: int,
    gather: Callable[[Any], list[Any]],
) -> dict[str, dict[str, float]]:
    """Metrics by data set, as `cosmos_eval.evaluate` gives them; nothing is shown or stored.

    `check` is assumed to have passed. Processes share the samples. Raises ValueError, one line,
    for a checkpoint or data that cannot be used.
    """
    options = RunOptions(data_root=data_root, distributed=Distributed(rank, world_size, gather))
    with _value_errors():
        plan = make_plan(
            datasets=datasets,
            models=[f"cosmos:{checkpoint}"],
            weights=weights,
            options=options,
            machine=Machine(device=device),
        )
        return {row.dataset: dict(row.metrics) for row, _ in measure_all(plan)}


@contextmanager
def _value_errors() -> Iterator[None]:
    """Errors of this package as the kind that whoever trains expects."""
    try:
        yield
    except CosmosEvalError as error:
        raise ValueError(str(error)) from error
