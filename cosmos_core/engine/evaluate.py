"""Evaluations in training, made by the first entry point of the group `cosmos_core.evaluators`."""

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
    """What an entry point names: a module or an object with these two functions."""

    def check(
        self, datasets: Sequence[str], data_root: str | None
    ) -> Mapping[str, Sequence[str]] | None:
        """Raise ValueError, one line, for unknown data sets and data that cannot be used. Return
        names, or patterns of names (`R@*`), of the metrics of each data set of which higher values
        are better; with None, `save.best` is not checked."""

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
        """Return metrics by data set, in all processes, whose objects `gather` returns by rank.
        Raises ValueError for errors that a user can correct."""


def find_evaluator() -> Evaluator:
    """Load the installed evaluator. Raises ValueError where there is none."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    if not points:
        raise ValueError(
            "evaluations in training need a package that makes them, and none is installed: "
            "pip install cosmos-eval, or --set watch.evaluate_every=0"
        )
    return cast(Evaluator, points[0].load())


def dataset_names(watch: WatchConfig) -> list[str]:
    """Split `watch.datasets`. Raises ValueError where it names none."""
    names = [name.strip() for name in watch.datasets.split(",") if name.strip()]
    if not names:
        raise ValueError("watch.evaluate_every is set, but watch.datasets names no data set")
    return names


def check_datasets(evaluator: Evaluator, watch: WatchConfig, world: World, best: str = "") -> None:
    """Check all data, and the metric `best`, in the first process before any training; a ValueError
    is raised in all."""
    world.main_process_only(lambda: _check(evaluator, watch, best))


def _check(evaluator: Evaluator, watch: WatchConfig, best: str) -> None:
    found = evaluator.check(dataset_names(watch), watch.data_root or None)
    if not best or found is None:
        return
    pairs = [(dataset, metric) for dataset, metrics in found.items() for metric in metrics]
    names = [f"{dataset}/{weights}/{metric}" for dataset, metric in pairs for weights in WEIGHTS]
    if not any(fnmatchcase(best, name) for name in names):
        near = difflib.get_close_matches(best, names, n=3, cutoff=0.3) or names[:3]
        raise ValueError(
            f"save.best={best} is no metric of the evaluations of which higher values are better; "
            f"nearest: {', '.join(near)}"
        )


def evaluate(
    evaluator: Evaluator, checkpoint: Path, watch: WatchConfig, world: World
) -> dict[str, float]:
    """Return metrics named `dataset/weights/metric`; the random generators are restored."""
    before = random_state()
    metrics: dict[str, float] = {}
    try:
        for weights in WEIGHTS:
            found = evaluator.measure(
                checkpoint,
                weights,
                dataset_names(watch),
                data_root=watch.data_root or None,
                device=str(world.device),
                rank=world.rank,
                world_size=world.world_size,
                gather=world.gather,
            )
            for dataset, values in found.items():
                metrics |= {f"{dataset}/{weights}/{metric}": values[metric] for metric in values}
    finally:
        restore_random_state(before)
    return metrics
