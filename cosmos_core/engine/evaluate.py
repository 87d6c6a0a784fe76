"""Evaluations in training, by the first entry point of the group `cosmos_core.evaluators`."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from cosmos_core.config import WatchConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.snapshot import random_state, restore_random_state
from cosmos_core.model.checkpoint import Weights

GROUP = "cosmos_core.evaluators"
WEIGHTS: tuple[Weights, ...] = ("teacher", "student")


class Evaluator(Protocol):
    """An evaluator of checkpoints: a module or object with two functions, named by entry points."""

    def check(
        self, datasets: Sequence[str], data_root: str | None
    ) -> Mapping[str, Sequence[str]] | None:
        """Raise ValueError, one line, for unknown data sets and data that cannot be used.

        Return by data set the names, or patterns of names (`R@*`), of those metrics of which higher
        values are better. If None is returned, `save.best` is not checked.
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
        """Return metrics by data set, in all processes.

        `gather` returns an object of every process by rank. Raises ValueError for errors that a
        user can correct.
        """


def find_evaluator() -> Evaluator:
    """Load the installed evaluator. Raises ValueError if there is none."""
    evaluators = sorted(entry_points(group=GROUP), key=lambda entry_point: entry_point.name)
    if not evaluators:
        raise ValueError(
            "evaluations in training need a package that makes them, and none is installed: "
            "pip install cosmos-eval, or --set watch.evaluate_every=0"
        )
    return cast(Evaluator, evaluators[0].load())


def dataset_names(watch: WatchConfig) -> list[str]:
    """Return the names in `watch.datasets`. Raises ValueError if there are none."""
    names = [name.strip() for name in watch.datasets.split(",") if name.strip()]
    if not names:
        raise ValueError("watch.evaluate_every is set, but watch.datasets names no data set")
    return names


def check_datasets(evaluator: Evaluator, watch: WatchConfig, world: World, best: str = "") -> None:
    """Check all data sets, and the metric `best`, before any training.

    The first process checks; a ValueError is raised in all processes.
    """
    world.main_process_only(lambda: _check_datasets(evaluator, watch, best))


def _check_datasets(evaluator: Evaluator, watch: WatchConfig, best: str) -> None:
    """Raise ValueError for data sets that cannot be used, and if `best` is not a metric of them."""
    metrics_by_dataset = evaluator.check(dataset_names(watch), watch.data_root or None)
    if not best or metrics_by_dataset is None:
        return
    # Names of metrics, or patterns, as `evaluate` returns them.
    full_names = []
    for dataset, metrics in metrics_by_dataset.items():
        for metric in metrics:
            for weights in WEIGHTS:
                full_names.append(f"{dataset}/{weights}/{metric}")
    if any(fnmatchcase(best, name) for name in full_names):
        return
    similar_names = difflib.get_close_matches(best, full_names, n=3, cutoff=0.3)
    raise ValueError(
        f"save.best={best} is not a metric of the evaluations of which higher values are better; "
        f"nearest: {', '.join(similar_names or full_names[:3])}"
    )


def evaluate(
    evaluator: Evaluator, checkpoint: Path, watch: WatchConfig, world: World
) -> dict[str, float]:
    """Return metrics of a checkpoint, named `dataset/weights/metric`.

    The random generators are restored, so that the training goes on as without an evaluation.
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
