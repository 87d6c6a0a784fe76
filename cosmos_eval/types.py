"""The records that pass between the rooms of cosmos_eval. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed

if TYPE_CHECKING:
    # At run time it would take a third of the time that --help has.
    import numpy as np
    from numpy.typing import NDArray

Weights = Literal["teacher", "student"]
Attention = Literal["vanilla", "csa", "maskclip", "clearclip", "naclip"]
Precision = Literal["fp32", "amp", "bf16", "fp16"]
"""Arithmetic of a model with float32 weights: float32, or autocast to PyTorch's usual type of the
device (`amp`: float16 on CUDA, bfloat16 on a CPU) or to the type named."""
Refinement = Literal["pamr"]
Executor = Literal["local", "ray", "slurm"]
ClassLayout = Literal["folders", "webdataset"]
SelectionLayout = Literal["items", "pairs", "sugarcrepe", "mmvp", "aro"]
PairAccuracy = Literal["group", "image"]
MapKind = Literal["cross-attention", "text-to-patch similarity"]
"""What a map over an image shows; only models with a cross-attention module have the first."""
Rgb = tuple[float, float, float]


class CosmosEvalError(Exception):
    """A user-facing error: one line that says what is wrong, where, and what to do."""


class UsageError(CosmosEvalError):
    """Bad input or bad usage; the command line ends with status 2."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as the user named it.

    `text` is what was typed (`scenes-cosmos`, `cosmos:PATH`, `openclip:ARCH/TAG`,
    `python:FILE.py`), `kind` and `name` its parts, `arch` an OpenCLIP architecture or JSON file
    where the weights do not say, or the JSON that a result has as its architecture.
    """

    text: str
    kind: Literal["bundled", "cosmos", "openclip", "python"]
    name: str
    arch: str | None = None
    weights: Weights = "teacher"


class EncoderInfo(NamedTuple):
    """Identity of a loaded model, for provenance.

    `weights` is None where the model has only one set; `weights_sha256` is None only for random
    weights (`random` is then true). `code_sha256` is that of the user's file that made the model,
    None where it is this package's.
    """

    spec: str
    architecture: str
    weights: Weights | None
    weights_sha256: str | None
    random: bool
    precision: Precision
    device: str
    code_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one data set is measured. `family` groups comparable numbers (`cosmos`, `karpathy`...).

    Paths are relative to the data root; `root` is set where the data set brings its own (a user's
    YAML file, the embedded scenes). `download` is the page that its files come from.
    """

    # Fields that a user's YAML file does not set under their own names.
    NOT_IN_FILES: ClassVar[frozenset[str]] = frozenset({"dataset", "family", "root", "download"})

    dataset: str
    family: str
    source: str = ""
    root: str | None = None
    download: str | None = None


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol(Protocol):
    """Images and their captions, listed in an annotation file or side by side in tar archives.

    `annotations` is a file, or the places where it may lie, of which the first that is there
    counts; docs/data.md has its forms. `images` is the folder that image names are relative to, or
    several that it may be; `bare_names` drops the folders that names have themselves, where files
    have names of their own and annotation files differ in the folders. `archives` instead names
    tar archives by patterns, or a folder in CLIP Benchmark's layout. `split` is the part that is
    measured where files hold several. `image_key` and `caption_key` name a table's columns, or the
    keys of records, that are not called as usual. `captions_per_image` keeps the first N captions
    of every image; None keeps all. `n_images` and `n_captions` are what the set has where that is
    known.
    """

    NOT_IN_FILES = Protocol.NOT_IN_FILES | {"bare_names", "n_images", "n_captions"}

    images: tuple[str, ...] | str = "."
    annotations: tuple[str, ...] | str = ()
    archives: tuple[str, ...] | str = ()
    bare_names: bool = False
    split: str = "test"
    image_key: str | None = None
    caption_key: str | None = None
    captions_per_image: int | None = None
    n_images: int | None = None
    n_captions: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClassificationProtocol(Protocol):
    """Images and the class of each.

    `folder` holds one folder a class, or by `layout` webdataset archives and texts as CLIP
    Benchmark writes them. `torchvision` names instead a set that torchvision reads (a key of
    cosmos_eval.data.classification.torchvision.READERS), which then lies in `folder`.
    `usual_folders` are other places where people keep the set.
    `class_names` maps classes to prompt names; a set of torchvision may leave some out. Without
    it the class itself, every character of `separators` as a space. `class_list` instead names a
    known list (a key of cosmos_eval.protocols.classification.CLASS_LISTS).
    `templates` holds prompts with one `{}`, or the name of a known set; None: those that the data
    bring, else OpenAI's for ImageNet. `n_classes` and `n_images` are how many classes and test
    images the set has where that is known, the former where no class list has it; `remark` is what
    a reader of its numbers must know.
    """

    NOT_IN_FILES = Protocol.NOT_IN_FILES | {
        *("torchvision", "usual_folders", "separators", "n_classes", "n_images", "remark")
    }

    folder: str
    layout: ClassLayout = "folders"
    torchvision: str | None = None
    usual_folders: tuple[str, ...] = ()
    class_names: Mapping[str, str] = field(default_factory=dict)
    separators: str = "_"
    class_list: str | None = None
    templates: tuple[str, ...] | str | None = None
    n_classes: int | None = None
    n_images: int | None = None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class SelectionProtocol(Protocol):
    """Images, each with captions of which one is right, or pairs of two images and two captions.

    `annotations` is a file, for `sugarcrepe` a folder with a file a subset, in the form that
    `layout` names (docs/data.md describes each); images are paths below `images`, with
    `image_suffix` added. Of several places the first that is there counts. `subset_key` is where a
    record says its subset. `template` is what captions are put into. `pair_accuracy` says when a
    pair counts as right: when each caption finds its image (`image`), or each image its caption as
    well (`group`). `left_out` and `smallest` keep subsets out of the mean over subsets: those
    named, and those with fewer items. `n_items` and `subset_items` are how many there are where
    that is known.
    """

    NOT_IN_FILES = Protocol.NOT_IN_FILES | {"n_items", "subset_items", "left_out", "smallest"}

    images: tuple[str, ...] | str
    annotations: tuple[str, ...] | str
    layout: SelectionLayout
    image_suffix: str = ""
    subset_key: str = "subset"
    template: str = "{}"
    pair_accuracy: PairAccuracy = "group"
    left_out: tuple[str, ...] = ()
    smallest: int = 1
    n_items: int | None = None
    subset_items: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LabelMapProtocol(Protocol):
    """Images with a label map each, and how the classes in them are named.

    `mmseg_type` names an MMSegmentation data set class (None: a plain image/mask folder pair).
    `usual_folder` is where MMSegmentation's documentation keeps such a set below a data root; the
    root itself may hold the set as well.
    `class_names` are what results are reported under. `queries` holds, for every class in order,
    its prompt names (synonyms). `scale` is what similarities are multiplied by before a softmax,
    `attention` the form of the image tower's last block that the settings were made for.
    `n_images` is how many images the set has where that is known, `preparation` the name under
    which its label maps can be made.
    """

    NOT_IN_FILES = Protocol.NOT_IN_FILES | {
        *("mmseg_type", "usual_folder", "n_images", "preparation", "class_names", "queries")
    }

    mmseg_type: str | None = None
    images: str
    masks: str
    split: str | None = None
    usual_folder: str | None = None
    n_images: int | None = None
    preparation: str | None = None
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    class_names: tuple[str, ...]
    queries: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] | str = "openai-imagenet"
    scale: float = 40.0
    reduce_zero_label: bool = False
    ignore_index: int = 255
    attention: Attention = "csa"


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol(LabelMapProtocol):
    """A segmentation data set and every constant of its zero-shot protocol.

    `short_side` and `long_side` bound the resize in pixels, `window` and `stride` are pixels (a
    `window` of None: the whole image in one pass, `stride` has no effect),
    `mean` and `std` are on the 0-255 scale, RGB (None: the model's own). `scale`, `prob_thd`,
    `area_thd` as in the COSMOS evaluation code. `refinement` moves the borders of classes to those
    of the image.
    """

    short_side: int = 336
    long_side: int = 2048
    window: int | None = 224
    stride: int = 112
    prob_thd: float = 0.0
    area_thd: float | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    refinement: Refinement | None = None
    # Named groups of classes whose mean IoU is reported besides mIoU, e.g. things and stuff.
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LocalisationProtocol(LabelMapProtocol):
    """How much of a map of what a class is called falls on the class, in images with label maps.

    `map` is the kind of map that all models are asked for; None: each model's own, which is
    cross-attention where it has that. Similarities become shares of a map by a softmax over the
    patches, times `scale`. A thing is small below a share `small` of the image and large from a
    share `large` on; the usual bounds are COCO's areas of 32 x 32 and 96 x 96 pixels
    (pycocotools, cocoeval.py) of its usual image, 640 x 480. A class 0 named `background` is no
    thing.
    """

    map: MapKind | None = None
    small: float = 32**2 / (640 * 480)
    large: float = 96**2 / (640 * 480)


class Interval(NamedTuple):
    """A confidence interval of a metric, in the metric's unit."""

    low: float
    high: float
    method: str
    level: float = 0.95


Samples: TypeAlias = "Mapping[str, NDArray[Any]]"
"""What a result's figures follow from: arrays by name, stored beside it."""


class Mistakes(NamedTuple):
    """What was taken for what, of C classes, in P pairs of classes that differ.

    `amounts` (P,) of `unit` (images, pixels) that are of class number `true` (P,) were given class
    `predicted` (P,); `totals` (C,) are of each class altogether.
    """

    unit: str
    classes: Sequence[str]
    true: NDArray[np.integer]
    predicted: NDArray[np.integer]
    amounts: NDArray[np.integer]
    totals: NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that follows from stored samples and a seed, and from nothing else.

    `confusion_pairs` are the most frequent mistakes of a classification: `true`, `predicted` and
    `images`.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    n_samples: int
    per_class: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    confusion_pairs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """What a task returns: figures, and the samples that they follow from.

    `hashes` fingerprints everything that defines the number (class names, templates, sample list);
    `settings` are recorded with the provenance, such as the kind of map that a protocol may leave
    to the model; `notes` says, one line each, what a reader of the number must know (captions that
    were cut to the context, a limit).
    """

    samples: Samples
    hashes: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Embeddings(NamedTuple):
    """L2-normalised features, float32 (N, D), in the order of the input.

    `truncated` counts the inputs that did not fit the model's context and were cut.
    """

    features: NDArray[np.float32]
    truncated: int = 0


class Part(NamedTuple):
    """The number of samples (`unit`: images, captions or items) found of a known data set."""

    found: int
    known: int
    unit: str

    def __str__(self) -> str:
        return f"{self.found} of {self.known} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a measurement is run; `limit`, `allow_partial` and `attention` change what is measured.

    `download` fetches data sets that are not there, where that is known how. `attention` None is
    the protocol's own. `limit` measures the first samples only. `allow_partial` measures the
    samples that are there of a known data set that is not complete, and excludes a limit.
    `overlays` draws pictures for people beside saved predictions. `distributed` is
    this process's part where several make the measurement together. `unfinished` is a folder where
    finished parts of a measurement stay until its result is stored, so that a killed run can go on,
    `cache` one where embeddings stay; None keeps none.
    """

    data_root: str | None = None
    download: bool = False
    attention: Attention | None = None
    batch_size: int = 32
    workers: int = 2
    limit: int | None = None
    allow_partial: bool = False
    save_predictions: str | None = None
    overlays: bool = False
    unfinished: str | None = None
    cache: str | None = None
    seed: int = 0
    distributed: Distributed = SINGLE_PROCESS

    def __post_init__(self) -> None:
        if self.allow_partial and self.limit is not None:
            raise UsageError("--partial measures all samples found and --limit the first: give one")


class CaptionWord(NamedTuple):
    """A word of a text: its tokens are those at the places start, ..., stop - 1 of the context.

    Places count from 0, the start of text; a text that is cut has words at places that the context
    does not have. `text` is spelled as the user did; `spaced` says whether white space precedes it.
    """

    text: str
    start: int
    stop: int
    spaced: bool


class Progress(NamedTuple):
    """One step of a long loop, for progress bars: `done` of `total` units of `phase`.

    `note` is a line that the user should see, not just the bar.
    """

    phase: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None]


def no_progress(step: Progress) -> None:
    """The progress callback that shows nothing."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Known names closest to an unknown one, as a comma-separated line for error messages."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return ", ".join(close or list(known)[:10])
