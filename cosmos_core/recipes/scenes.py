"""Recipes on the embedded scenes, at a size for two CPU cores."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from cosmos_core import config
from cosmos_core.data.scenes.vocabulary import CONTEXT_LENGTH, scenes_tokenizer
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.methods.flair import FlairMethod
from cosmos_core.methods.lit import LitMethod
from cosmos_core.methods.siglip import SiglipMethod
from cosmos_core.methods.silc import SilcMethod
from cosmos_core.methods.slip import SlipMethod
from cosmos_core.types import Method

TRAIN_SCENES = 20_000
SAMPLES = 160_000  # seen by every model but one
LONG_SAMPLES = 810_048  # seen by CLIP with the FLOPs of COSMOS; a test counts them
LONG_MULTI_VIEW_SAMPLES = 259_200  # the same of COSMOS without distillation
# As each learns best (docs/log.md).
COSMOS_BATCH_SIZE = 32
BATCH_SIZE = 64
BIAS = -math.log(BATCH_SIZE)  # of arXiv 2303.15343, where -10 is about -ln 32768
DEBUG_SCENES, DEBUG_EPOCHS = 256, 3


def scenes_architecture() -> dict[str, Any]:
    """A small OpenCLIP architecture: ViT of 4 blocks at 64 px, text tower of 3 blocks."""
    vision = {"image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 64}
    words = {"context_length": CONTEXT_LENGTH, "vocab_size": scenes_tokenizer().vocab_size}
    text = {**words, "width": 128, "heads": 2, "layers": 3}
    return {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}


def _recipe(
    name: str, method: Method, samples: int = SAMPLES, batch_size: int = BATCH_SIZE
) -> config.TrainConfig:
    """Views are crops of mild brightness only: captions name colours, and left and right."""
    return config.TrainConfig(
        recipe=name,
        method=method,
        architecture=scenes_architecture(),
        data=config.DataConfig(shards=f"scenes:{TRAIN_SCENES}"),
        optim=config.OptimConfig(
            steps=samples // batch_size,
            batch_size=batch_size,
            lr=1e-3,
            weight_decay=0.2,
            warmup_steps=100,
            momentum=0.99,
        ),
        image=config.ImageViewConfig(
            global_size=64,
            local_size=32,
            flip_p=0.0,
            jitter=(0.2, 0.0, 0.0, 0.0),
            grayscale_p=0.0,
            blur_p=(0.0, 0.0, 0.0),
            solarize_p=0.0,
        ),
        compute=config.ComputeConfig(device="cpu"),
        save=config.SaveConfig(every=400),
    )


def scenes_cosmos() -> config.TrainConfig:
    return _recipe("scenes_cosmos", CosmosMethod(), batch_size=COSMOS_BATCH_SIZE)


def scenes_small() -> config.TrainConfig:
    """COSMOS on scenes at the size of many runs side by side, for comparing methods."""
    large = scenes_architecture()
    architecture = {
        "embed_dim": 64,
        "vision_cfg": {**large["vision_cfg"], "width": 64, "layers": 3},
        "text_cfg": {**large["text_cfg"], "width": 64, "heads": 1, "layers": 2},
    }
    return replace(_recipe("scenes_small", CosmosMethod(), 24_000), architecture=architecture)


def scenes_flair() -> config.TrainConfig:
    """FLAIR, whose captions have up to 3 sentences (arXiv 2412.03561)."""
    recipe = _recipe("scenes_flair", FlairMethod(bias=BIAS))
    return replace(recipe, text=config.TextViewConfig(max_sentences=3))


def scenes_lit() -> config.TrainConfig:
    """LiT from the bundled CLIP, whose text tower 1e-3 would harm (docs/log.md)."""
    recipe = _recipe("scenes_lit", LitMethod())
    optim = replace(recipe.optim, lr=1e-4)
    return replace(recipe, optim=optim, model=config.ModelConfig(init="scenes-clip"))


def debug() -> config.TrainConfig:
    """COSMOS on 256 scenes: everything that `scenes_cosmos` does, in half a minute on one core."""
    whole = scenes_cosmos()
    steps = DEBUG_EPOCHS * DEBUG_SCENES // whole.optim.batch_size
    return replace(
        whole,
        recipe="debug",
        data=config.DataConfig(shards=f"scenes:{DEBUG_SCENES}", workers=0),
        optim=replace(whole.optim, steps=steps, warmup_steps=steps // 4),
        save=config.SaveConfig(every=steps // 2),
        watch=config.WatchConfig(log_every=1),
    )


SCENES_RECIPES: dict[str, Callable[[], config.TrainConfig]] = {
    "scenes_cosmos": scenes_cosmos,
    "scenes_clip": partial(_recipe, "scenes_clip", ClipMethod()),
    # With heads of the scenes' size.
    "scenes_slip": partial(_recipe, "scenes_slip", SlipMethod(hidden=512, out=128)),
    "scenes_silc": partial(
        _recipe, "scenes_silc", SilcMethod(hidden=512, bottleneck=128, prototypes=1024)
    ),
    "scenes_siglip": partial(_recipe, "scenes_siglip", SiglipMethod(bias=BIAS)),
    "scenes_flair": scenes_flair,
    "scenes_lit": scenes_lit,
    # With the FLOPs of scenes_cosmos, whose samples all others see.
    "scenes_clip_long": partial(_recipe, "scenes_clip_long", ClipMethod(), LONG_SAMPLES),
    "scenes_small": scenes_small,
    "debug": debug,
}
