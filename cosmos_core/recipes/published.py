"""The recipes of the released models: data sets, batches and schedules of arXiv 2412.01814.

Every constant is that of github.com/ExplainableML/cosmos, read in the fork geniusxxx/cosmos: the
scripts src/train_cc3m.sh, train_cc12m.sh, train_yfcc15m.sh, train_merged30m.sh and
train_pixelprose.sh. They name ViT-B-16; the README lists models of ViT-B-32 trained on the same
data and says nothing else of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from cosmos_core.config import ComputeConfig, DataConfig, OptimConfig, TrainConfig
from cosmos_core.methods.cosmos import CosmosMethod

VIT_B_16, VIT_B_32 = "ViT-B-16", "ViT-B-32"  # --model
SUFFIXES = {VIT_B_16: "", VIT_B_32: "_vitb32"}  # of a recipe's name
EPOCHS = 32  # --epochs
WORKERS = 16  # --workers, of each process


class TrainingSet(NamedTuple):
    """`samples` as counted by --train-num-samples, and the batch and teacher that go with them."""

    samples: int
    batch_size: int
    momentum: float  # --momentum-teacher with --fix-momentum


CC3M = TrainingSet(2_823_019, 16 * 64, 0.999)  # processes times --batch-size, here and below
CC12M = TrainingSet(10_010_225, 128 * 32, 0.99)
YFCC15M = TrainingSet(14_065_827, 128 * 32, 0.99)
MERGED30M = TrainingSet(26_899_071, 128 * 32, 0.99)
PIXELPROSE = TrainingSet(15_037_386, 128 * 32, 0.99)


def cc3m(architecture: str = VIT_B_16) -> TrainConfig:
    """COSMOS on CC3M-recap, of DreamLIP's captions."""
    return _recipe("cc3m", CC3M, architecture)


def cc12m(architecture: str = VIT_B_16) -> TrainConfig:
    """COSMOS on CC12M-recap."""
    return _recipe("cc12m", CC12M, architecture)


def yfcc15m(architecture: str = VIT_B_16) -> TrainConfig:
    """COSMOS on YFCC15M-recap."""
    return _recipe("yfcc15m", YFCC15M, architecture)


def merged30m(architecture: str = VIT_B_16) -> TrainConfig:
    """COSMOS on CC3M-recap, CC12M-recap and YFCC15M-recap together, as sets joined by `::`."""
    return _recipe("merged30m", MERGED30M, architecture)


def pixelprose(architecture: str = VIT_B_16) -> TrainConfig:
    """COSMOS on PixelProse."""
    return _recipe("pixelprose", PIXELPROSE, architecture)


def published_steps(data: TrainingSet) -> int:
    """Steps of a published run.

    The last batch of an epoch is filled up (ceil), and so is the last round of the workers, who
    give equally many batches: src/training/data.py, get_wds_dataset, as in OpenCLIP.
    """
    batches = math.ceil(data.samples / data.batch_size)
    return EPOCHS * WORKERS * math.ceil(batches / WORKERS)


def _recipe(name: str, data: TrainingSet, architecture: str) -> TrainConfig:
    """Augmentation, AdamW and schedule are the defaults of the configuration, the published ones.

    The scripts' `--precision amp` is float16 autocast with a scaler.
    """
    return TrainConfig(
        recipe=name + SUFFIXES[architecture],
        method=CosmosMethod(),
        architecture=architecture,
        data=DataConfig(shards="", workers=WORKERS),
        optim=OptimConfig(
            steps=published_steps(data), batch_size=data.batch_size, momentum=data.momentum
        ),
        compute=ComputeConfig(device="cuda", precision="fp16"),
    )
