"""Evaluations in training, made by whatever package registers an evaluator.

cosmos_core knows none by name: it asks the installed packages for the entry point group
`cosmos_core.evaluators` and takes what it finds there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from cosmos_core.config import WatchConfig
from cosmos_core.engine.distributed import World, check_in_first, gather_objects
from cosmos_core.engine.snapshot import random_state, restore_random_state
from cosmos_core.model.checkpoint import Weights

GROUP = "cosmos_core.evaluators"
WEIGHTS: tuple[Weights, ...] = ("teacher", "student")


class Evaluator(Protocol):
    """What an entry point names: a module or an object with these two functions."""

    def check(self, datasets: Sequence[str], data_root: str | None) -> None:
        """ValueError, one line, for unknown data sets and data that cannot be measured on."""

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
        """Metrics by data set, the same in every process.

        All processes call it together; each takes its share of the samples. `gather` maps an
        object to those of all processes, in the order of their ranks. Raises ValueError for what
        a user can put right.
        """


def find_evaluator() -> Evaluator:
    """The installed evaluator; ValueError where there is none."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        return cast(Evaluator, point.load())
    raise ValueError(
        "evaluations in training need a package that makes them, and none is installed: "
        "pip install cosmos-eval, or --set watch.evaluate_every=0"
    )


def dataset_names(watch: WatchConfig) -> list[str]:
    """The data sets of `watch.datasets`; ValueError where it names none."""
    names = [name.strip() for name in watch.datasets.split(",") if name.strip()]
    if not names:
        raise ValueError("watch.evaluate_every is set, but watch.datasets names no data set")
    return names


def check_datasets(evaluator: Evaluator, watch: WatchConfig, world: World) -> None:
    """Look at all data before any work is lost; ValueError, in every process, for what is wrong.

    The first process looks and the others wait.
    """

    def check() -> None:
        evaluator.check(dataset_names(watch), watch.data_root or None)

    check_in_first(world, check)


def evaluate(
    evaluator: Evaluator, checkpoint: Path, watch: WatchConfig, world: World
) -> dict[str, float]:
    """Metrics of teacher and student on all data sets, named `dataset/weights/metric`.

    Every process calls it, once the checkpoint is whole, and gets all of them. The random
    generators are left as they were found: an evaluation does not change the training.
    """
    before = random_state()
    try:
        return {
            f"{dataset}/{weights}/{metric}": value
            for weights in WEIGHTS
            for dataset, metrics in evaluator.measure(
                checkpoint,
                weights,
                dataset_names(watch),
                data_root=watch.data_root or None,
                device=str(world.device),
                rank=world.rank,
                world_size=world.size,
                gather=gather_objects,
            ).items()
            for metric, value in metrics.items()
        }
    finally:
        restore_random_state(before)
