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
    """Check that data sets can be measured, and return the metrics that can choose a checkpoint.

    Embedded data sets are made if they are missing.

    Args:
        datasets: Names of known data sets, or YAML files.
        data_root: The folder of data sets that are not embedded.

    Returns:
        For each data set, its ranked metrics that are better the higher they are. For example
        `{"scenes-cls": ["acc1", "acc5"]}`.

    Raises:
        ValueError: For any fault, in one line.
    """
    metrics_of_datasets = {}
    with _value_errors():
        for dataset in _open(tuple(datasets), data_root):
            metrics_of_datasets[dataset.protocol.dataset] = [
                metric.name
                for metric in task_for(dataset.protocol).metrics
                if metric.is_ranked and metric.higher_is_better
            ]
    return metrics_of_datasets


@cache
def _open(datasets: tuple[str, ...], data_root: str | None) -> list[Dataset]:
    """Open data sets, once for all checkpoints of a training."""
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
    """Return the metrics of a checkpoint by data set, as `cosmos_eval.evaluate` computes them.

    `check` is assumed to have passed. Nothing is printed or stored.

    Args:
        checkpoint: The file of the checkpoint.
        weights: The weights that are measured: `teacher` or `student`.
        datasets: Names of known data sets, or YAML files.
        data_root: The folder of data sets that are not embedded.
        device: The device of this process, such as `cuda:0`.
        rank: The index of this process among the processes that share the samples.
        world_size: The number of these processes.
        gather: Returns the values that all processes give it, in the order of their ranks.

    Raises:
        ValueError: For a checkpoint or data that cannot be used, in one line.

    Example:
        `{"scenes-cls": {"acc1": 0.81, "acc5": 0.99}}`
    """
    distributed = Distributed(rank, world_size, gather)
    options = RunOptions(data_root=data_root, device=device, distributed=distributed)
    metrics_of_datasets = {}
    with _value_errors():
        plan = make_plan(
            datasets=datasets, models=[f"cosmos:{checkpoint}"], weights=weights, options=options
        )
        opened = distributed.synchronized(_open, tuple(datasets), data_root)
        for result in run_all(plan, datasets=opened):
            if result.row is not None:
                metrics_of_datasets[result.row.dataset] = dict(result.row.metrics)
    return metrics_of_datasets


@contextmanager
def _value_errors() -> Iterator[None]:
    """Raise errors of this package as ValueError, which cosmos_core expects."""
    try:
        yield
    except CosmosEvalError as error:
        raise ValueError(str(error)) from error
