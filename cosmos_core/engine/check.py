"""Whether a configuration can be trained: everything that would fail later, before any work."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import open_clip
import torch

from cosmos_core.config import DataConfig, ImageViewConfig, TrainConfig
from cosmos_core.data.scenes import scenes_tokenizer
from cosmos_core.data.shards import parse_shards
from cosmos_core.model.build import model_config
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.pooler import CROSS_ATTENTION_HEADS

SCENES = "scenes:"  # of a shard specification that asks for so many embedded scenes
POSITIVE = (
    "optim.steps",
    "optim.batch_size",
    "optim.lr",
    "optim.eps",
    "compute.accumulate",
    "save.keep",
    "watch.log_every",
    "image.global_size",
    "image.local_size",
    "image.global_scale",
    "image.local_scale",
    "text.max_sentences",
)
NOT_NEGATIVE = (
    "optim.warmup_steps",
    "optim.weight_decay",
    "optim.clip_norm",
    "data.workers",
    "save.every",
    "watch.evaluate_every",
    "image.locals",
    "image.jitter",
    "text.locals",
    "seed",
)
SHARES = (
    "optim.betas",
    "optim.momentum",
    "data.max_bad",
    "image.global_scale",
    "image.local_scale",
    "image.flip_p",
    "image.jitter_p",
    "image.grayscale_p",
    "image.blur_p",
    "image.solarize_p",
)


def check_config(config: TrainConfig, *, world_size: int) -> None:
    """Raise ValueError, one line, for what `world_size` processes cannot train.

    A warm-up longer than the run is allowed: the learning rate then rises to the end. Devices are
    `join_world`'s matter, data sets of evaluations their evaluator's.
    """
    _check_numbers(config)
    _check_data(config.data)
    _check_batch(config, world_size)
    _check_model(config)
    if config.save.best and not config.watch.evaluate_every:
        raise ValueError("save.best needs evaluations: set watch.evaluate_every, watch.datasets")


def _check_numbers(config: TrainConfig) -> None:
    for name in POSITIVE:
        _require(name, _values(config, name), lambda value: value > 0, "greater than 0")
    for name in NOT_NEGATIVE:
        _require(name, _values(config, name), lambda value: value >= 0, "0 or more")
    for name in SHARES:
        _require(name, _values(config, name), lambda value: 0 <= value <= 1, "from 0 to 1")
    for option, value in vars(config.method).items():
        if type(value) is int:
            _require(f"method.{option}", (value,), lambda value: value > 0, "greater than 0")
    for name in ("image.global_scale", "image.local_scale"):
        low, high = attrgetter(name)(config)
        _require(name, ((low, high),), lambda pair: pair[0] <= pair[1], "a smaller, then a larger")


def _values(config: TrainConfig, name: str) -> tuple[Any, ...]:
    value = attrgetter(name)(config)
    return value if isinstance(value, tuple) else (value,)


def _require(
    name: str, values: tuple[Any, ...], holds: Callable[[Any], bool], must_be: str
) -> None:
    for value in values:
        if not holds(value):
            raise ValueError(f"{name} is {value}; it must be {must_be}")


def _check_data(data: DataConfig) -> None:
    if not data.shards:
        raise ValueError("no training data: name its shards, --set data.shards='FOLDER/*.tar'")
    if not data.shards.startswith(SCENES):
        parse_shards(data)
        return
    count = data.shards.removeprefix(SCENES)
    if not (count.isdecimal() and int(count)):
        raise ValueError(f"data.shards={data.shards}: {SCENES}N takes a number of scenes")
    if data.weights:
        raise ValueError("data.weights weighs several sets, and the scenes are one; leave it empty")


def _check_batch(config: TrainConfig, world_size: int) -> None:
    size, parts = config.optim.batch_size, config.compute.accumulate
    if size % (world_size * parts):
        raise ValueError(
            f"optim.batch_size={size} cannot be dealt to {world_size} processes in {parts} parts "
            f"each; give a multiple of {world_size * parts}"
        )


def _check_model(config: TrainConfig) -> None:
    """Build the model without its memory and hold it against the views and the tokenizer."""
    width = model_config(config.architecture)["embed_dim"]
    if config.method.name == "cosmos" and width % CROSS_ATTENTION_HEADS:
        raise ValueError(
            f"architecture: embed_dim {width} does not divide by the {CROSS_ATTENTION_HEADS} heads "
            "of the cross-attention"
        )
    with torch.device("meta"):
        model = config.method.create_student(config.architecture)
    assert isinstance(model, MultiViewCLIP)
    _check_images(config, model)
    _check_texts(config.data, model)


def _check_images(config: TrainConfig, model: MultiViewCLIP) -> None:
    image, patch = config.image, model.visual.patch_size
    if model.visual.image_size != (image.global_size, image.global_size):
        height, width = model.visual.image_size
        raise ValueError(
            f"image.global_size is {image.global_size}, but the architecture takes images of "
            f"{height}x{width}"
        )
    if config.method.counts.local_images:
        _check_local_images(image, patch)
    if config.method.name == "silc" and not image.locals:
        raise ValueError("image.locals is 0, and SILC learns from local views alone; give some")


def _check_local_images(image: ImageViewConfig, patch: tuple[int, int]) -> None:
    if any(image.local_size % side for side in patch):
        height, width = patch
        raise ValueError(
            f"image.local_size={image.local_size} is no multiple of the architecture's patches of "
            f"{height}x{width}"
        )


def _check_texts(data: DataConfig, model: MultiViewCLIP) -> None:
    scenes = data.shards.startswith(SCENES)
    tokenizer = scenes_tokenizer() if scenes else open_clip.SimpleTokenizer()
    if model.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"the architecture has a vocabulary of {model.vocab_size} tokens, the tokenizer of "
            f"{'scenes' if scenes else 'shards'} one of {tokenizer.vocab_size}"
        )
