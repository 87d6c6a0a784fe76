"""Recipes on the embedded scenes, at a size for two CPU cores."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cosmos_core import config
from cosmos_core.data.scenes import VERSION_2
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
SAMPLES = 160_000  # samples that each training sees, except the two below
# The number of samples with which CLIP takes as many FLOPs as COSMOS; a test counts the FLOPs.
LONG_SAMPLES = 810_048
# The number of samples with which COSMOS without distillation takes as many FLOPs as COSMOS.
LONG_MULTI_VIEW_SAMPLES = 259_200
# The batch sizes with which COSMOS, and the other methods, learn best (docs/log.md).
COSMOS_BATCH_SIZE = 32
BATCH_SIZE = 64
# The initial bias of sigmoid losses: arXiv 2303.15343 has -10, about -ln(its batch size, 32768).
BIAS = -math.log(BATCH_SIZE)
DEBUG_SCENES, DEBUG_EPOCHS = 256, 3


def scenes_architecture() -> dict[str, Any]:
    """Return a small OpenCLIP architecture for images of the embedded scenes.

    It has a ViT of 4 blocks for images of 64 x 64 pixels, and a text transformer of 3 blocks.
    """
    vision_config = {
        "image_size": 64,
        "patch_size": 8,
        "width": 128,
        "layers": 4,
        "head_width": 64,
    }
    text_config = {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": scenes_tokenizer().vocab_size,
        "width": 128,
        "heads": 2,
        "layers": 3,
    }
    return {"embed_dim": 128, "vision_cfg": vision_config, "text_cfg": text_config}


def _recipe(
    name: str, method: Method, samples: int = SAMPLES, batch_size: int = BATCH_SIZE
) -> config.TrainConfig:
    """Return a recipe on the embedded scenes for one CPU.

    Image views are only cropped and slightly changed in brightness. They are not flipped, and keep
    their colours, because captions name colours, and left and right.

    Args:
        name: The name of the recipe, such as "scenes_clip".
        method: The training method with its options.
        samples: How many samples the training sees.
        batch_size: The number of samples in a batch.
    """
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
    """Return the recipe of COSMOS, with batches of 32 samples."""
    return _recipe("scenes_cosmos", CosmosMethod(), batch_size=COSMOS_BATCH_SIZE)


def scenes_small() -> config.TrainConfig:
    """Return a recipe with a smaller model and fewer samples, to compare methods in quick runs.

    Its method is COSMOS, which can be replaced by another one (`method=clip`).
    """
    architecture = scenes_architecture()
    architecture["embed_dim"] = 64
    architecture["vision_cfg"].update(width=64, layers=3)
    architecture["text_cfg"].update(width=64, heads=1, layers=2)
    recipe = _recipe("scenes_small", CosmosMethod(), samples=24_000)
    return replace(recipe, architecture=architecture)


def scenes_tiny() -> config.TrainConfig:
    """Return a recipe on scenes of version 2, at a third of the cost of `scenes_cosmos` per sample.

    The model has as many blocks as the model of `scenes_small`, but a width of 96, and attention
    heads of width 16, with which models learn faster. Captions have 40 tokens. There are two local
    views of images and of captions. Its method is COSMOS, which can be replaced by another one
    (`method=clip`).
    """
    recipe = scenes_small()
    architecture = recipe.architecture
    assert isinstance(architecture, dict)
    architecture["embed_dim"] = 96
    architecture["vision_cfg"].update(width=96, head_width=16)
    architecture["text_cfg"].update(
        width=96,
        heads=6,
        context_length=VERSION_2.context_length,
        vocab_size=scenes_tokenizer(version=VERSION_2).vocab_size,
    )
    return replace(
        recipe,
        recipe="scenes_tiny",
        data=config.DataConfig(shards=f"{VERSION_2.name}:{TRAIN_SCENES}"),
        optim=replace(recipe.optim, steps=SAMPLES // recipe.optim.batch_size),
        image=replace(recipe.image, locals=2),
        text=replace(recipe.text, locals=2),
    )


def scenes_flair() -> config.TrainConfig:
    """Return the recipe of FLAIR, whose captions have up to 3 sentences (arXiv 2412.03561)."""
    recipe = _recipe("scenes_flair", FlairMethod(bias=BIAS))
    return replace(recipe, text=config.TextViewConfig(max_sentences=3))


def scenes_lit() -> config.TrainConfig:
    """Return the recipe of LiT, which starts from the weights of the bundled CLIP.

    Its learning rate is 1e-4: in a short training, 1e-3 lowered R@1 from 68.6 to 65.8, and 1e-4 to
    67.8.
    """
    recipe = _recipe("scenes_lit", LitMethod())
    optim = replace(recipe.optim, lr=1e-4)
    return replace(recipe, optim=optim, model=config.ModelConfig(init="scenes-clip"))


def debug() -> config.TrainConfig:
    """Return a recipe of COSMOS on 256 scenes, for quick tests of an installation.

    It uses every feature that `scenes_cosmos` uses, and takes one or two minutes of CPU time.
    """
    recipe = scenes_cosmos()
    steps = DEBUG_EPOCHS * DEBUG_SCENES // recipe.optim.batch_size
    return replace(
        recipe,
        recipe="debug",
        data=config.DataConfig(shards=f"scenes:{DEBUG_SCENES}", workers=0),
        optim=replace(recipe.optim, steps=steps, warmup_steps=steps // 4),
        save=config.SaveConfig(every=steps // 2),
        watch=config.WatchConfig(log_every=1),
    )


def scenes_clip() -> config.TrainConfig:
    """Return the recipe of CLIP, which sees as many samples as `scenes_cosmos`."""
    return _recipe("scenes_clip", ClipMethod())


def scenes_clip_long() -> config.TrainConfig:
    """Return the recipe of CLIP that takes as many FLOPs as `scenes_cosmos`.

    It sees five times as many samples.
    """
    return _recipe("scenes_clip_long", ClipMethod(), LONG_SAMPLES)


def scenes_slip() -> config.TrainConfig:
    """Return the recipe of SLIP, whose projection head has a size for the small model."""
    return _recipe("scenes_slip", SlipMethod(hidden=512, out=128))


def scenes_silc() -> config.TrainConfig:
    """Return the recipe of SILC, whose projection head has a size for the small model."""
    return _recipe("scenes_silc", SilcMethod(hidden=512, bottleneck=128, prototypes=1024))


def scenes_siglip() -> config.TrainConfig:
    """Return the recipe of SigLIP, whose initial bias fits the batch size."""
    return _recipe("scenes_siglip", SiglipMethod(bias=BIAS))


SCENES_RECIPES: dict[str, Callable[[], config.TrainConfig]] = {
    "scenes_cosmos": scenes_cosmos,
    "scenes_clip": scenes_clip,
    "scenes_slip": scenes_slip,
    "scenes_silc": scenes_silc,
    "scenes_siglip": scenes_siglip,
    "scenes_flair": scenes_flair,
    "scenes_lit": scenes_lit,
    "scenes_clip_long": scenes_clip_long,
    "scenes_small": scenes_small,
    "scenes_tiny": scenes_tiny,
    "debug": debug,
}
