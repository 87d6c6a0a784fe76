"""Recipes on the embedded scenes, at a size for two CPU cores."""

from __future__ import annotations

from typing import Any

from cosmos_core.config import (
    ComputeConfig,
    DataConfig,
    ImageViewConfig,
    OptimConfig,
    SaveConfig,
    TrainConfig,
)
from cosmos_core.data.scenes import CONTEXT_LENGTH, scenes_tokenizer
from cosmos_core.methods import METHODS

TRAIN_SCENES = 20_000


def scenes_architecture() -> dict[str, Any]:
    """A small OpenCLIP architecture: ViT of 4 blocks at 64 px, text tower of 3 blocks.

    The image's feature is the mean over its patches: with the class token's, patches of so small
    a model learn less of their own place (docs/log.md).
    """
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 8,
            "width": 128,
            "layers": 4,
            "head_width": 64,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": scenes_tokenizer().vocab_size,
            "width": 128,
            "heads": 2,
            "layers": 3,
        },
    }


def scenes_views(global_scale: tuple[float, float]) -> ImageViewConfig:
    """Crops and mild brightness only: captions name colours, and left and right."""
    return ImageViewConfig(
        global_size=64,
        local_size=32,
        global_scale=global_scale,
        flip_p=0.0,
        jitter=(0.2, 0.0, 0.0, 0.0),
        jitter_p=0.8,
        grayscale_p=0.0,
        blur_p=(0.0, 0.0, 0.0),
        solarize_p=0.0,
    )


def _recipe(
    name: str,
    method: str,
    steps: int,
    batch_size: int,
    *,
    global_scale: tuple[float, float] = (0.4, 1.0),
) -> TrainConfig:
    return TrainConfig(
        recipe=name,
        method=METHODS[method](),
        architecture=scenes_architecture(),
        data=DataConfig(shards=f"scenes:{TRAIN_SCENES}"),
        optim=OptimConfig(
            steps=steps,
            batch_size=batch_size,
            lr=1e-3,
            weight_decay=0.2,
            warmup_steps=6400 // batch_size,
            momentum=0.99,
        ),
        image=scenes_views(global_scale),
        compute=ComputeConfig(device="cpu"),
        save=SaveConfig(every=400),
    )


def scenes_cosmos() -> TrainConfig:
    """COSMOS on scenes."""
    return _recipe("scenes_cosmos", "cosmos", 4000, 32)


def scenes_clip_long() -> TrainConfig:
    """CLIP on scenes with the training compute of `scenes_cosmos`, counted in FLOPs."""
    return _recipe("scenes_clip_long", "clip", 9000, 64)


def scenes_clip() -> TrainConfig:
    """CLIP on scenes: same data, encoder and samples seen as `scenes_cosmos`.

    Batches of 64 suit it better than those of COSMOS (docs/log.md).
    """
    return _recipe("scenes_clip", "clip", 2000, 64)
