"""Recipes by name: functions that return a `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable

from cosmos_core.config import TrainConfig
from cosmos_core.recipes.scenes import scenes_clip, scenes_clip_long, scenes_cosmos

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "scenes_cosmos": scenes_cosmos,
    "scenes_clip": scenes_clip,
    "scenes_clip_long": scenes_clip_long,
}
