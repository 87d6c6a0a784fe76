"""Recipes by name: functions that return a `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cosmos_core.config import TrainConfig
from cosmos_core.recipes import scenes
from cosmos_core.recipes.published import SUFFIXES, TRAINING_SETS, published

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    **{
        name + suffix: partial(published, name, architecture)
        for name in TRAINING_SETS
        for architecture, suffix in SUFFIXES.items()
    },
    "scenes_cosmos": scenes.scenes_cosmos,
    "scenes_clip": scenes.scenes_clip,
    "scenes_slip": scenes.scenes_slip,
    "scenes_silc": scenes.scenes_silc,
    "scenes_clip_long": scenes.scenes_clip_long,
    "scenes_small": scenes.scenes_small,
    "debug": scenes.debug,
}
