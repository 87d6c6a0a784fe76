"""The configuration of a training run: frozen records that pydantic validates."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, PositiveFloat, SkipValidation
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from cosmos_core.types import Method

LARGEST = 2**31 - 1  # of whole numbers
Pair = TypeVar("Pair", bound=tuple[float, ...])
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def _ordered(scale: tuple[float, float]) -> tuple[float, float]:
    if scale[0] > scale[1]:
        raise PydanticCustomError("order", "Input should be a smaller, then a larger number")
    return scale


def _pair_or_none(scale: Pair) -> Pair:
    if len(scale) not in (0, 2) or [*scale] != sorted(scale):
        raise PydanticCustomError("pair", "Input should be a smaller and a larger number, or none")
    return scale


Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Strengths = tuple[NonNegative, NonNegative, NonNegative, NonNegative]
Scale = Annotated[tuple[PositiveFraction, PositiveFraction], AfterValidator(_ordered)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageViewConfig:
    """Multi-crop augmentation. Defaults are those of COSMOS (github.com/ExplainableML/cosmos); a
    method's `image` has its own. Sizes in pixels, scales as fractions of the image's area, `*_p`
    probabilities; the three of `blur_p` are for the first global, the second global and the locals.
    With a `caption_scale` a crop that is not augmented comes before the globals, for SLIP."""

    global_size: Positive = 224
    local_size: Positive = 96
    locals: Count = 6
    global_scale: Scale = (0.4, 1.0)
    local_scale: Scale = (0.05, 0.4)
    flip_p: Fraction = 0.5
    jitter: Strengths = (0.4, 0.4, 0.2, 0.1)
    jitter_p: Fraction = 0.8
    grayscale_p: Fraction = 0.2
    blur_p: tuple[Fraction, Fraction, Fraction] = (1.0, 0.1, 0.5)
    solarize_p: Fraction = 0.2
    caption_scale: Annotated[tuple[PositiveFraction, ...], AfterValidator(_pair_or_none)] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextViewConfig:
    """Caption crops: two globals of 1 to `max_sentences` sentences, and single-sentence locals."""

    max_sentences: Positive = 5
    locals: Count = 6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """What a training starts from. `init` names weights: `openclip:ARCH/TAG`, `hf:ORG/NAME` or the
    path of a checkpoint; empty, all are random. With `partial` they need not cover both towers.
    `freeze` names a tower that is not trained."""

    init: str = ""
    partial: bool = False
    freeze: Literal["", "image", "text"] = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """AdamW with linear warm-up and a cosine to zero; defaults are the published constants.
    `batch_size` counts the samples of all processes. `momentum` is the teacher's, raised to 1 by a
    cosine over the run where `momentum_ramp`. `gradient` "published" is the true one divided by the
    number of processes for everything but the scales, as the released models were trained.
    `layer_decay` multiplies the learning rate once per layer of a tower from the last one down."""

    steps: Annotated[int, Field(gt=0, lt=10**8)]  # snapshots have eight digits for it
    batch_size: Positive
    lr: PositiveFloat = 5e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegative = 0.5
    warmup_steps: Count = 2000
    momentum: Fraction = 0.999
    momentum_ramp: bool = False
    clip_norm: NonNegative = 0.0  # 0: no clipping of gradients
    gradient: Literal["true", "published"] = "true"
    layer_decay: PositiveFraction = 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the samples come from. `shards`: webdataset tars, as a path, a brace list, `pipe:` or a
    URL, several sets joined by `::`; or `scenes:N`, N embedded scenes. `weights`, one a set joined
    by `::`, draw samples with replacement in these proportions; without them every sample is seen
    once an epoch, in an order that `keyed_order` computes as it goes: for tens of millions, whose
    permutation takes time and memory. A run stops where more than `max_bad` of its samples
    cannot be read."""

    shards: str
    weights: str = ""
    keyed_order: bool = False
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    max_bad: Fraction = 0.05


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ComputeConfig:
    """How a step is computed; none of it changes the mathematics. `device` "auto" takes a GPU where
    there is one. `accumulate` encodes a batch in so many parts. `checkpointing` recomputes
    activations in backward, `compile` compiles models and loss, `gather_bf16` halves the traffic
    and the memory of the features that processes exchange. On a GPU `tf32` rounds the factors of
    float32 products, and `cudnn_benchmark` measures which convolution is fastest: the published
    training, as OpenCLIP's main.py, does both. Processes wait `timeout` seconds for each other, 0:
    PyTorch's default."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    accumulate: Positive = 1
    checkpointing: bool = False
    compile: bool = False
    gather_bf16: bool = False
    tf32: bool = True
    cudnn_benchmark: bool = True
    timeout: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SaveConfig:
    """Snapshots: one every `every` steps; the last `keep` stay, and that with the highest metric
    `best` of the evaluations, `dataset/weights/metric` such as `scenes-cls/teacher/acc1`. `remote`
    is a folder to copy them to that fsspec opens, such as `s3://BUCKET/RUN`."""

    every: Count = 1000
    keep: Positive = 3
    best: str = ""
    remote: str = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WatchConfig:
    """What is written down: a log line and an evaluation on `datasets` (names of cosmos_eval joined
    by commas, files under `data_root`) every so many steps; `pictures` of first batch and log.
    `loggers` get its numbers as well. `profile` is the first and the last of the steps to trace,
    `peak_tflops` what a device computes at most, where its name does not tell."""

    log_every: Positive = 10
    pictures: bool = True
    evaluate_every: Count = 0
    datasets: str = ""
    data_root: str = ""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    profile: Annotated[tuple[Count, ...], AfterValidator(_pair_or_none)] = ()
    peak_tflops: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """One training run. `architecture` is OpenCLIP's, by name or as its configuration; `parallel`
    copies weights to all processes, or shards them over all, or over those of a machine ("hsdp");
    `method_sha256` is the hash of the file of a method that is not of this package."""

    recipe: str
    method: SkipValidation[Method]
    architecture: SkipValidation[Mapping[str, Any] | str]
    data: DataConfig
    optim: OptimConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    image: ImageViewConfig = field(default_factory=ImageViewConfig)
    text: TextViewConfig = field(default_factory=TextViewConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: Count = 0
    method_sha256: str = ""
    parallel: Literal["ddp", "fsdp", "hsdp"] = "ddp"
