"""Processes that watch and evaluate a run together; each returns what the test compares."""

import dataclasses
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from cosmos_core.config import TrainConfig, WatchConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.evaluate import check_datasets, evaluate, find_evaluator
from cosmos_core.engine.watch import Watch
from cosmos_core.recipes import RECIPES
from cosmos_eval.models.clip import ClipEncoder

BATCH = 32
TERMS = {"clip": 2.5, "distill": 0.0, "lr": 0.125, "bad_samples": 0}


def watch_config(*, steps: int, log_every: int) -> TrainConfig:
    """A run of so many steps of 32 samples."""
    recipe = RECIPES["scenes_clip"]()
    optim = dataclasses.replace(recipe.optim, steps=steps, batch_size=BATCH)
    return dataclasses.replace(recipe, optim=optim, watch=WatchConfig(log_every=log_every))


def wait_by_rank(world: World, output: Path) -> None:
    """One step, in which only the second process waits for its batch, and bad samples in both. What
    they print is in printed-RANK.txt: a server of forks may have the streams of an earlier test."""
    config = watch_config(steps=1, log_every=1)
    printed = output.joinpath(f"printed-{world.rank}.txt").open("w", encoding="utf-8")
    with (
        printed,
        redirect_stderr(printed),
        Watch(config, output, world, first_step=0) as watch,
    ):
        with watch.waiting():
            time.sleep(0.5 * world.rank)
        time.sleep(0.5 * (1 - world.rank))
        watch.show_step(0, {**TERMS, "bad_samples": 1 + world.rank})


def evaluate_together(world: World, checkpoint: Path, datasets: str) -> dict[str, Any]:
    """The metrics, the sizes of the image batches of this process, and its error at bad names."""
    batches: list[int] = []
    encode = ClipEncoder.encode_image

    def counting(self: ClipEncoder, images: Any) -> Any:
        batches.append(len(images))
        return encode(self, images)

    ClipEncoder.encode_image = counting  # type: ignore[method-assign]
    evaluator, error = find_evaluator(), ""
    try:
        check_datasets(evaluator, WatchConfig(datasets="nosuch"), world)
    except ValueError as caught:
        error = str(caught)
    watch = WatchConfig(datasets=datasets)
    check_datasets(evaluator, watch, world)
    metrics = evaluate(evaluator, checkpoint, watch, world)
    return {"metrics": metrics, "batches": batches, "error": error}
