"""Evaluate checkpoints during training: cosmos_core finds this module by its entry point."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cosmos_core.utils.distributed import Distributed
from cosmos_eval.runner.plan import Dataset, make_plan, open_datasets
from cosmos_eval.runner.run import run_all
from cosmos_eval.tasks import task_for
from cosmos_eval.types import CosmosEvalError, RunOptions, Weights


def check(datasets: Sequence[str], data_root: str | None) -> dict[str, list[str]]:
    """Check all data sets, embedded ones are made; return their metrics that are better the higher
    they are. Raises ValueError, one line, for any fault."""
    with _value_errors():
        protocols = [dataset.protocol for dataset in _open(tuple(datasets), data_root)]
        return {
            protocol.dataset: [
                metric.name
                for metric in task_for(protocol).metrics
                if metric.is_ranked and metric.higher_is_better
            ]
            for protocol in protocols
        }


@cache
def _open(datasets: tuple[str, ...], data_root: str | None) -> list[Dataset]:
    return open_datasets(make_plan(datasets=datasets, options=RunOptions(data_root=data_root)))


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
    """Return metrics by data set, as `cosmos_eval.evaluate` does; nothing is printed or stored.

    `check` is assumed to have passed. Processes share the samples. Raises ValueError, one line,
    for a checkpoint or data that cannot be used.
    """
    distributed = Distributed(rank, world_size, gather)
    options = RunOptions(data_root=data_root, device=device, distributed=distributed)
    with _value_errors():
        plan = make_plan(
            datasets=datasets, models=[f"cosmos:{checkpoint}"], weights=weights, options=options
        )
        opened = distributed.synchronized(lambda: _open(tuple(datasets), data_root))
        rows = (result.row for result in run_all(plan, datasets=opened))
        return {row.dataset: dict(row.metrics) for row in rows if row is not None}


@contextmanager
def _value_errors() -> Iterator[None]:
    """Raise errors of this package as ValueError, which cosmos_core expects."""
    try:
        yield
    except CosmosEvalError as error:
        raise ValueError(str(error)) from error
