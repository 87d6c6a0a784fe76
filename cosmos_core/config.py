"""What a training run is made of: frozen records, filled by the recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cosmos_core.types import Method


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
    """AdamW with linear warm-up and a cosine to zero; defaults are the published constants.

    `batch_size` counts the samples of all processes. `momentum` is the teacher's, raised to 1 by a
    cosine over the run where `momentum_ramp`. `clip_norm` 0 means no gradient clipping. `gradient`
    "true" is that of the loss over the whole batch; "published" divides it by the number of
    processes for everything but the scales, as the released models were trained.
    """

    steps: int
    batch_size: int
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.5
    warmup_steps: int = 2000
    momentum: float = 0.999
    momentum_ramp: bool = False
    clip_norm: float = 0.0
    gradient: Literal["true", "published"] = "true"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the samples come from.

    `shards`: webdataset tars, as a path, a brace list, `pipe:` or a URL, several sets joined by
    `::`; or `scenes:N`, N embedded scenes. `weights`, one a set joined by `::`, draw samples with
    replacement in these proportions; without them every sample is seen once an epoch. A run stops
    where more than `max_bad` of its samples cannot be read.
    """

    shards: str
    weights: str = ""
    workers: int = 2
    max_bad: float = 0.05


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a step is carried out; none of it changes the mathematics.

    `device` "auto" takes a GPU where there is one. `accumulate` encodes a batch in so many parts.
    `checkpointing` recomputes activations in backward, `compile` compiles the towers' blocks.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    accumulate: int = 1
    checkpointing: bool = False
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """Snapshots: one every so many steps, the last `keep` stay.

    `best` names a metric of the evaluations in training, `dataset/weights/metric` such as
    `scenes-cls/teacher/acc1`, whose highest snapshot stays too.
    """

    every: int = 1000
    keep: int = 3
    best: str = ""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is written down: a log line every so many steps, an evaluation on `datasets` (names of
    cosmos_eval joined by commas, files under `data_root`) every so many; `pictures` of the first
    batch and of the log."""

    log_every: int = 10
    pictures: bool = True
    evaluate_every: int = 0
    datasets: str = ""
    data_root: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. `architecture` is OpenCLIP's, by name or as its configuration."""

    recipe: str
    method: Method
    architecture: Mapping[str, Any] | str
    data: DataConfig
    optim: OptimConfig
    image: ImageViewConfig = field(default_factory=ImageViewConfig)
    text: TextViewConfig = field(default_factory=TextViewConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: int = 0
