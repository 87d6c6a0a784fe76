"""Recipes by name: functions that return a `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cosmos_core.config import TrainConfig
from cosmos_core.recipes.debug import debug
from cosmos_core.recipes.published import VIT_B_32, cc3m, cc12m, merged30m, pixelprose, yfcc15m
from cosmos_core.recipes.scenes import (
    scenes_clip,
    scenes_clip_long,
    scenes_cosmos,
    scenes_silc,
    scenes_slip,
    scenes_small,
)

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "cc3m": cc3m,
    "cc3m_vitb32": partial(cc3m, VIT_B_32),
    "cc12m": cc12m,
    "cc12m_vitb32": partial(cc12m, VIT_B_32),
    "yfcc15m": yfcc15m,
    "yfcc15m_vitb32": partial(yfcc15m, VIT_B_32),
    "merged30m": merged30m,
    "merged30m_vitb32": partial(merged30m, VIT_B_32),
    "pixelprose": pixelprose,
    "pixelprose_vitb32": partial(pixelprose, VIT_B_32),
    "scenes_cosmos": scenes_cosmos,
    "scenes_clip": scenes_clip,
    "scenes_slip": scenes_slip,
    "scenes_silc": scenes_silc,
    "scenes_clip_long": scenes_clip_long,
    "scenes_small": scenes_small,
    "debug": debug,
}
