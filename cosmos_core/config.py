"""What a training run is made of: frozen records, filled by the recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ImageViewConfig:
    """Multi-crop augmentation. Defaults are the published ones (github.com/ExplainableML/cosmos).

    Sizes in pixels, scales as shares of the image's area, `*_p` probabilities; the three of
    `blur_p` are for the first global, the second global and the locals.
    """

    global_size: int = 224
    local_size: int = 96
    locals: int = 6
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    flip_p: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    grayscale_p: float = 0.2
    blur_p: tuple[float, float, float] = (1.0, 0.1, 0.5)
    solarize_p: float = 0.2


@dataclass(frozen=True, kw_only=True)
class TextViewConfig:
    """Caption crops: two globals of 1 to `max_sentences` sentences, and single-sentence locals."""

    max_sentences: int = 5
    locals: int = 6


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and a cosine to zero; defaults are the published constants."""

    steps: int
    batch_size: int
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.5
    warmup_steps: int = 2000
    momentum: float = 0.999


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the samples come from: rendered scenes, written once as webdataset shards."""

    samples: int
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. `method` is "cosmos" or "clip" (one image view against one caption)."""

    recipe: str
    method: Literal["cosmos", "clip"]
    architecture: Mapping[str, Any]
    data: DataConfig
    optim: OptimConfig
    image: ImageViewConfig = field(default_factory=ImageViewConfig)
    text: TextViewConfig = field(default_factory=TextViewConfig)
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    log_every: int = 10
    save_every: int = 200
