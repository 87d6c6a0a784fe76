"""The configuration of a training run: frozen records that pydantic validates."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, PositiveFloat, SkipValidation
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from cosmos_core.types import Method

LARGEST = 2**31 - 1  # the largest integer that an option may have
Pair = TypeVar("Pair", bound=tuple[float, ...])
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def _ordered(scale: tuple[float, float]) -> tuple[float, float]:
    """Return a range of two numbers, after checking that they are in order.

    Raises:
        PydanticCustomError: If the first number is larger than the second one.
    """
    if scale[0] > scale[1]:
        raise PydanticCustomError("order", "Input should be a smaller, then a larger number")
    return scale


def _pair_or_none(scale: Pair) -> Pair:
    """Return a range, after checking that it is empty, or two numbers in order.

    Raises:
        PydanticCustomError: If it is neither.
    """
    if len(scale) not in (0, 2) or [*scale] != sorted(scale):
        raise PydanticCustomError("pair", "Input should be a smaller and a larger number, or none")
    return scale


Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Strengths = tuple[NonNegative, NonNegative, NonNegative, NonNegative]
# The keys of captions in a sample's JSON record: DreamLIP's, then PixelProse's.
CaptionKey = Literal[
    "raw_caption",
    "shortIB_captions",
    "longIB_captions",
    "shortSV_captions",
    "longSV_captions",
    "shortLLA_captions",
    "longLLA_captions",
    "original_caption",
    "caption",
]
Scale = Annotated[tuple[PositiveFraction, PositiveFraction], AfterValidator(_ordered)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageViewConfig:
    """Multi-crop augmentation. `*_p` are probabilities, scales are fractions of the image's area.

    The defaults are COSMOS's (github.com/ExplainableML/cosmos). The `image` of a method has others.
    """

    # The sides of global and local views, in pixels.
    global_size: Positive = 224
    local_size: Positive = 96
    # The side of global views in the first steps, and the number of these steps; 0: there are none
    # (FLIP, arXiv 2212.00794; CLIPA, arXiv 2305.07017).
    first_size: Count = 0
    first_steps: Count = 0
    # The number of local views.
    locals: Count = 6
    global_scale: Scale = (0.4, 1.0)
    local_scale: Scale = (0.05, 0.4)
    flip_p: Fraction = 0.5
    # Strengths of changes of brightness, contrast, saturation and hue.
    jitter: Strengths = (0.4, 0.4, 0.2, 0.1)
    jitter_p: Fraction = 0.8
    grayscale_p: Fraction = 0.2
    # For the first global view, the second global view, and local views.
    blur_p: tuple[Fraction, Fraction, Fraction] = (1.0, 0.1, 0.5)
    # For the second global view.
    solarize_p: Fraction = 0.2
    # If it is given, a crop without other augmentation comes before the global views, for SLIP.
    caption_scale: Annotated[tuple[PositiveFraction, ...], AfterValidator(_pair_or_none)] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextViewConfig:
    """Caption views."""

    # A global view has 1 to so many sentences.
    max_sentences: Positive = 5
    # The number of local views, of one sentence each.
    locals: Count = 6
    # The keys of the captions that are used; empty: all. `raw_caption` alone trains on captions
    # from the web, without synthetic ones.
    captions: tuple[CaptionKey, ...] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """The weights that a training starts from, and which of them are trained."""

    # The source of pretrained weights: `openclip:ARCH/TAG`, `hf:ORG/NAME` or the path of a
    # checkpoint. If it is empty, all weights are random.
    init: str = ""
    # Whether the weights may cover only a part of the towers.
    partial: bool = False
    # A tower that is not trained.
    freeze: Literal["", "image", "text"] = ""
    # So many groups of this tower are trained, counted from its end: the projection, the last block
    # with the norm after it, the block before it, and so on, at last the embeddings.
    unlocked_groups: Count = 0
    # The tower is frozen for so many steps, and then trained; 0: to the end.
    freeze_steps: Count = 0
    # The fraction of patches that the student does not see, drawn for each view of an image (FLIP,
    # arXiv 2212.00794). The teacher and evaluations see all patches.
    patch_dropout: BelowOne = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """The optimizer and its schedules; the defaults are published constants."""

    # Below 10**8, since the names of snapshots have eight digits.
    steps: Annotated[int, Field(gt=0, lt=10**8)]
    # Samples of all processes in a step.
    batch_size: Positive
    # "adamw"; "muon", which is Muon for the matrices of transformer blocks and AdamW for all other
    # weights; or an optimizer of timm, such as "timm:lion".
    optimizer: str = "adamw"
    lr: PositiveFloat = 5e-4
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.98)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegative = 0.5
    # How the learning rate falls to zero after a linear warm-up: along a half cosine over all steps
    # ("cosine"), not at all ("constant"), or in the last `cooldown_steps` ("wsd": warm-up, stable
    # phase, decay).
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup_steps: Count = 2000
    cooldown_steps: Count = 0
    # Momentum of the teacher, and whether it is raised to 1 by a cosine over the run.
    momentum: Fraction = 0.999
    momentum_ramp: bool = False
    # The largest norm of the gradient; 0: it is not clipped.
    clip_norm: NonNegative = 0.0
    # So many steps of the run may be skipped because their loss or gradient is not finite. With
    # more, the run ends.
    max_skipped: Count = 0
    # "published": as the released models were trained, the true gradient is divided by the number
    # of processes, except that of the scales.
    gradient: Literal["true", "published"] = "true"
    # A factor of the learning rate for each layer of a tower, counted from the last one down.
    layer_decay: PositiveFraction = 1.0
    # Factors of the learning rate and of the weight decay of a tower and its projection.
    image_lr_factor: PositiveFloat = 1.0
    text_lr_factor: PositiveFloat = 1.0
    image_weight_decay_factor: NonNegative = 1.0
    text_weight_decay_factor: NonNegative = 1.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """The source and the order of the samples."""

    # Webdataset tars, as a path, a brace list, `pipe:` or a URL, several sets joined by `::`; or
    # `scenes:N`, N embedded scenes.
    shards: str
    # One weight per set, joined by `::`: samples are drawn with replacement in these proportions.
    # Without weights every sample is seen once per epoch.
    weights: str = ""
    # Whether the order of an epoch is computed step by step. It is meant for tens of millions of
    # samples, whose permutation takes time and memory.
    keyed_order: bool = False
    # Processes that load data, for each process that trains.
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    # Memory in gigabytes for decoded samples of local tars, for each process that trains. With any,
    # data workers also keep the tokens of captions.
    cache_gb: NonNegative = 0.0
    # The fraction of samples that may be unreadable; with more, the run stops.
    max_bad: Fraction = 0.05


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ComputeConfig:
    """How a step is computed; no option changes the mathematics."""

    # "auto" is a GPU if there is one, and else the CPU.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # "auto" is bf16 where the device has instructions for it, and else fp32.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # A batch is encoded in so many parts.
    accumulate: Positive = 1
    # Whether activations are computed again in backward.
    checkpointing: bool = False
    # Whether models and loss are compiled.
    compile: bool = False
    # Whether processes exchange features in bfloat16, which halves traffic and memory.
    gather_bf16: bool = False
    # On a GPU, whether factors of float32 products are rounded, and whether the fastest
    # convolution is measured. The published training does both, as OpenCLIP's main.py does.
    tf32: bool = True
    cudnn_benchmark: bool = True
    # Seconds that processes wait for each other; 0: PyTorch's default.
    timeout: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SaveConfig:
    """Snapshots."""

    # Steps from one snapshot to the next.
    every: Count = 1000
    # So many of the last snapshots are kept.
    keep: Positive = 3
    # The snapshot with the highest value of this metric is kept too: `dataset/weights/metric`, such
    # as `scenes-cls/teacher/acc1`.
    best: str = ""
    # A folder to which snapshots are copied, and which fsspec opens, such as `s3://BUCKET/RUN`.
    remote: str = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WatchConfig:
    """Logs, pictures and evaluations of a run."""

    # Steps from one line of the log to the next.
    log_every: Positive = 10
    # Whether the first batch and the log are drawn.
    pictures: bool = True
    # Steps from one evaluation to the next; 0: none.
    evaluate_every: Count = 0
    # Data sets of the evaluations: names of cosmos_eval, joined by commas.
    datasets: str = ""
    # The folder of their files.
    data_root: str = ""
    # Programs that get the numbers of the log as well.
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    # The first and the last of the steps to trace; empty: none.
    profile: Annotated[tuple[Count, ...], AfterValidator(_pair_or_none)] = ()
    # Peak performance of a device, if its name does not tell; 0: unknown.
    peak_tflops: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """The configuration of one training run."""

    # The name of the recipe.
    recipe: str
    method: SkipValidation[Method]
    # OpenCLIP's architecture, by name or as its configuration.
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
    # The hash of the file of a user's own method; empty for methods of this package.
    method_sha256: str = ""
    # "ddp" copies weights to all processes, "fsdp" shards them over all processes, and "hsdp" over
    # the processes of a machine.
    parallel: Literal["ddp", "fsdp", "hsdp"] = "ddp"
