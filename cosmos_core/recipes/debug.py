"""A recipe that goes through everything in half a minute on one CPU core."""

from __future__ import annotations

from dataclasses import replace

from cosmos_core.config import DataConfig, SaveConfig, TrainConfig, WatchConfig
from cosmos_core.recipes.scenes import scenes_cosmos

SCENES = 256
EPOCHS = 3


def debug() -> TrainConfig:
    """COSMOS on 256 scenes, with the model and the views of `scenes_cosmos`."""
    config = scenes_cosmos()
    steps = EPOCHS * SCENES // config.optim.batch_size
    return replace(
        config,
        recipe="debug",
        data=DataConfig(shards=f"scenes:{SCENES}", workers=0),
        optim=replace(config.optim, steps=steps, warmup_steps=steps // 4),
        save=SaveConfig(every=steps // 2),
        watch=WatchConfig(log_every=1),
    )
