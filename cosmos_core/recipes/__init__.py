"""Recipes by name: functions that return a `TrainConfig`. Of the released models, data sets,
batches and schedules are those of arXiv 2412.01814. Every constant is that of
github.com/ExplainableML/cosmos, read in the fork geniusxxx/cosmos: the scripts src/train_cc3m.sh,
train_cc12m.sh, train_yfcc15m.sh, train_merged30m.sh and train_pixelprose.sh. They name ViT-B-16;
the README lists models of ViT-B-32 trained on the same data and says nothing else of them."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from cosmos_core.config import ComputeConfig, DataConfig, OptimConfig, TrainConfig
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.recipes.scenes import SCENES_RECIPES

SUFFIXES = {"ViT-B-16": "", "ViT-B-32": "_vitb32"}  # --model -> end of a recipe's name
EPOCHS = 32  # --epochs
WORKERS = 16  # --workers, of each process


class TrainingSet(NamedTuple):
    """`samples` as counted by --train-num-samples, and the batch and teacher that go with them."""

    samples: int
    batch_size: int
    momentum: float  # --momentum-teacher with --fix-momentum


TRAINING_SETS = {  # CC3M, CC12M and YFCC15M with DreamLIP's captions, and PixelProse
    "cc3m": TrainingSet(2_823_019, 16 * 64, 0.999),  # processes times --batch-size, also below
    "cc12m": TrainingSet(10_010_225, 128 * 32, 0.99),
    "yfcc15m": TrainingSet(14_065_827, 128 * 32, 0.99),
    "merged30m": TrainingSet(26_899_071, 128 * 32, 0.99),  # the three above, sets joined by `::`
    "pixelprose": TrainingSet(15_037_386, 128 * 32, 0.99),
}


def published(name: str, architecture: str) -> TrainConfig:
    """Return COSMOS's recipe for one of TRAINING_SETS; `--precision amp` is fp16 and a scaler."""
    data = TRAINING_SETS[name]
    steps = published_steps(data)
    return TrainConfig(
        recipe=name + SUFFIXES[architecture],
        method=CosmosMethod(),
        architecture=architecture,
        data=DataConfig(shards="", workers=WORKERS),
        optim=OptimConfig(steps=steps, batch_size=data.batch_size, momentum=data.momentum),
        compute=ComputeConfig(device="cuda", precision="fp16"),
    )


def published_steps(data: TrainingSet) -> int:
    """Return the steps of a published run. The last batch of an epoch and the last round of its
    workers are filled up (src/training/data.py, get_wds_dataset, as in OpenCLIP)."""
    batches = math.ceil(data.samples / data.batch_size)
    return EPOCHS * WORKERS * math.ceil(batches / WORKERS)


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    name + suffix: partial(published, name, architecture)
    for name in TRAINING_SETS
    for architecture, suffix in SUFFIXES.items()
} | SCENES_RECIPES
