"""Evaluate checkpoints during a training.

Another package provides the evaluator, as an entry point of the group `cosmos_core.evaluators`.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from cosmos_core.config import WatchConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.snapshot import random_state, restore_random_state
from cosmos_core.model.checkpoint import Weights
from cosmos_core.utils.text import nearest

GROUP = "cosmos_core.evaluators"
WEIGHTS: tuple[Weights, ...] = ("teacher", "student")


class Evaluator(Protocol):
    """The interface of an evaluator of checkpoints: a module or an object with two functions."""

    def check(
        self, datasets: Sequence[str], data_root: str | None
    ) -> Mapping[str, Sequence[str]] | None:
        """Check that data sets can be used, and return their metrics.

        Args:
            datasets: The names of the data sets.
            data_root: The folder that holds the data sets, or None for the default one.

        Returns:
            The metrics of each data set of which higher values are better, as names or patterns of
            names: {"flickr30k": ["R@*", "mean_recall"]}. If None is returned, the option
            `save.best` is not checked.

        Raises:
            ValueError: If a data set is unknown or cannot be used. The message has one line.
        """

    def measure(
        self,
        checkpoint: Path,
        weights: Weights,
        datasets: Sequence[str],
        *,
        data_root: str | None,
        device: str,
        rank: int,
        world_size: int,
        gather: Callable[[Any], list[Any]],
    ) -> Mapping[str, Mapping[str, float]]:
        """Measure a checkpoint, and return metrics by data set and name, in all processes.

        For example: {"flickr30k": {"R@1": 0.51}}.

        Args:
            checkpoint: The checkpoint file.
            weights: The model in it, "teacher" or "student".
            datasets: The names of the data sets.
            data_root: The folder that holds the data sets, or None for the default one.
            device: The device of this process, such as "cuda:0".
            rank: The number of this process.
            world_size: The number of processes.
            gather: A function that all processes call with an object, and that returns a list of
                the objects of all of them.

        Raises:
            ValueError: If there is an error that the user can correct.
        """


def find_evaluator() -> Evaluator:
    """Load the evaluator that is installed, the first one by name if there are several.

    Raises:
        ValueError: If none is installed.
    """
    evaluators = sorted(entry_points(group=GROUP), key=lambda entry_point: entry_point.name)
    if not evaluators:
        raise ValueError(
            "evaluations in training need a package that makes them, and none is installed: "
            "pip install cosmos-eval, or --set watch.evaluate_every=0"
        )
    return cast(Evaluator, evaluators[0].load())


def dataset_names(watch: WatchConfig) -> list[str]:
    """Return the names of data sets in the option `watch.datasets`: "a, b" -> ["a", "b"].

    Raises:
        ValueError: If there are none.
    """
    names = [name.strip() for name in watch.datasets.split(",") if name.strip()]
    if not names:
        raise ValueError("watch.evaluate_every is set, but watch.datasets names no data set")
    return names


def check_datasets(evaluator: Evaluator, watch: WatchConfig, world: World, best: str = "") -> None:
    """Check, before the training, that its evaluations can be done.

    Only the first process checks it, but all processes call this function.

    Args:
        evaluator: Measures checkpoints.
        watch: The options that name the data sets.
        world: The processes of the training.
        best: The option `save.best`, which is the name of a metric or empty.

    Raises:
        ValueError: If a data set cannot be used, or if `best` is not a metric of the evaluations.
            All processes raise it.
    """
    world.main_process_only(_check_datasets, evaluator, watch, best)


def _check_datasets(evaluator: Evaluator, watch: WatchConfig, best: str) -> None:
    """Check that the data sets can be used, and that `best` is a metric of one of them.

    Args:
        evaluator: Knows the data sets and their metrics.
        watch: The options that name the data sets.
        best: The full name of a metric, such as "flickr30k/teacher/R@1", or empty.

    Raises:
        ValueError: If this is not so. The error suggests similar names.
    """
    metrics_by_dataset = evaluator.check(dataset_names(watch), watch.data_root or None)
    if not best or metrics_by_dataset is None:
        return

    # List the full names of all metrics, or patterns of them.
    full_names = []
    for dataset, metrics in metrics_by_dataset.items():
        for metric in metrics:
            for weights in WEIGHTS:
                full_names.append(f"{dataset}/{weights}/{metric}")
    if any(fnmatchcase(best, name) for name in full_names):
        return
    raise ValueError(
        f"save.best={best} is not a metric of the evaluations of which higher values are better; "
        f"nearest: {nearest(best, full_names)}"
    )


def evaluate(
    evaluator: Evaluator, checkpoint: Path, watch: WatchConfig, world: World
) -> dict[str, float]:
    """Measure the teacher and the student of a checkpoint.

    The random generators are restored, so that the training goes on as without an evaluation.

    Args:
        evaluator: Measures a model.
        checkpoint: The checkpoint file.
        watch: The options that name the data sets.
        world: The processes, all of which call this function together.

    Returns:
        The values of metrics by full names, such as {"flickr30k/teacher/R@1": 0.51}.
    """
    random_state_before = random_state()
    metrics: dict[str, float] = {}
    try:
        for weights in WEIGHTS:
            metrics_by_dataset = evaluator.measure(
                checkpoint,
                weights,
                dataset_names(watch),
                data_root=watch.data_root or None,
                device=str(world.device),
                rank=world.rank,
                world_size=world.world_size,
                gather=world.gather,
            )
            for dataset, dataset_metrics in metrics_by_dataset.items():
                for metric, value in dataset_metrics.items():
                    metrics[f"{dataset}/{weights}/{metric}"] = value
    finally:
        restore_random_state(random_state_before)
    return metrics
