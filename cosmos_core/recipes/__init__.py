"""Training recipes by name: functions that return a `TrainConfig`.

For the released models, data sets, batch sizes and schedules follow arXiv 2412.01814. Every
constant is taken from github.com/ExplainableML/cosmos, read in the fork geniusxxx/cosmos: the
scripts src/train_cc3m.sh, train_cc12m.sh, train_yfcc15m.sh, train_merged30m.sh and
train_pixelprose.sh. The scripts train ViT-B-16. The README also lists ViT-B-32 models trained on
the same data, without saying how, so they are given the same constants.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from cosmos_core.config import ComputeConfig, DataConfig, OptimConfig, TrainConfig
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.recipes.scenes import SCENES_RECIPES

# OpenCLIP architecture (--model) -> suffix of the recipe's name.
SUFFIXES = {"ViT-B-16": "", "ViT-B-32": "_vitb32"}
EPOCHS = 32  # --epochs
WORKERS = 16  # --workers of each process


class TrainingSet(NamedTuple):
    """A training set of the paper, with the constants that its script states."""

    samples: int  # --train-num-samples
    batch_size: int  # number of processes times --batch-size
    momentum: float  # of the teacher: --momentum-teacher with --fix-momentum


# CC3M, CC12M and YFCC15M with DreamLIP's captions, and PixelProse.
TRAINING_SETS = {
    "cc3m": TrainingSet(2_823_019, 16 * 64, 0.999),
    "cc12m": TrainingSet(10_010_225, 128 * 32, 0.99),
    "yfcc15m": TrainingSet(14_065_827, 128 * 32, 0.99),
    "merged30m": TrainingSet(26_899_071, 128 * 32, 0.99),  # the three above, joined by `::`
    "pixelprose": TrainingSet(15_037_386, 128 * 32, 0.99),
}


def published(name: str, architecture: str) -> TrainConfig:
    """Return COSMOS's published recipe for one of its training sets.

    The user has to name the shards of the training set (`data.shards`). The published `--precision
    amp` is float16 with a gradient scaler.

    Args:
        name: The name of the training set in TRAINING_SETS, such as "cc3m".
        architecture: The OpenCLIP name of the architecture, "ViT-B-16" or "ViT-B-32".
    """
    training_set = TRAINING_SETS[name]
    optim = OptimConfig(
        steps=published_steps(training_set),
        batch_size=training_set.batch_size,
        momentum=training_set.momentum,
    )
    return TrainConfig(
        recipe=name + SUFFIXES[architecture],
        method=CosmosMethod(),
        architecture=architecture,
        data=DataConfig(shards="", workers=WORKERS),
        optim=optim,
        compute=ComputeConfig(device="cuda", precision="fp16"),
    )


def published_steps(training_set: TrainingSet) -> int:
    """Return the number of optimizer steps of a published run of EPOCHS epochs.

    The batches of an epoch are rounded up to a multiple of the number of workers, as in OpenCLIP
    (src/training/data.py, get_wds_dataset). For 2757 batches and 16 workers, each worker reads 173
    batches, so that an epoch has 2768 steps.
    """
    batches_per_epoch = math.ceil(training_set.samples / training_set.batch_size)
    batches_per_worker = math.ceil(batches_per_epoch / WORKERS)
    return EPOCHS * batches_per_worker * WORKERS


# Every recipe by its name, such as "cc3m_vitb32": functions that return its configuration.
RECIPES: dict[str, Callable[[], TrainConfig]] = {
    name + suffix: partial(published, name, architecture)
    for name in TRAINING_SETS
    for architecture, suffix in SUFFIXES.items()
} | SCENES_RECIPES
