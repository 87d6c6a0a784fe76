"""The records that cross the borders of packages. Imports neither torch nor NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed

if TYPE_CHECKING:
    # At run time it would take a third of the time that --help has.
    import numpy as np
    from numpy.typing import NDArray

Weights = Literal["teacher", "student"]
Attention = Literal["vanilla", "csa", "maskclip", "clearclip", "naclip", "proxy", "crossmodal"]
Precision = Literal["fp32", "amp", "bf16", "fp16"]
"""Of models with float32 weights; autocast, `amp`: to float16 on CUDA, bfloat16 on a CPU."""
Executor = Literal["local", "ray", "slurm"]
ScoredPairs = int | Literal["all"] | None
"""Of a protocol: how many pairs a query has whose scores replace products of embeddings."""
Sentences = Literal["each", "joined"] | None
"""Of a protocol: whether every sentence of a caption is a caption, or they are joined again."""
MapKind = Literal[
    "cross-attention",
    "log ratio to the empty text",
    "log ratio to the mean over texts",
    "values of cross-attention",
    "text-to-patch similarity",
]
"""What a map over an image shows; only models with a cross-attention module have all but the last.
cosmos_eval.models.maps has the formulas."""
MapName = Literal["cross-attention", "empty-ratio", "texts-ratio", "values", "similarity"]
MAPS: Mapping[MapName, MapKind] = dict(zip(get_args(MapName), get_args(MapKind), strict=True))
"""The kinds by their short names, as options and protocols have them."""
# fmt: off
SelectionLayout = Literal[
    "items", "pairs", "sugarcrepe", "mmvp", "aro", "svo", "valse", "whatsup", "coco-spatial",
    "gqa-spatial", "negbench", "eqben",
]
# fmt: on
"""The form of a caption selection set's file (docs/caption-selection.md)."""
Rgb = tuple[float, float, float]


class CosmosEvalError(Exception):
    """A user-facing error: one line that says what is wrong, where, and what to do."""


class UsageError(CosmosEvalError):
    """Bad input or bad usage; the command line ends with status 2."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as typed (`text`); `arch` is an OpenCLIP architecture, a JSON file or JSON itself;
    `training` is what a file states of its training, `label` the name that results give it, and
    `arguments` those of the function in a Python file."""

    text: str
    kind: Literal["bundled", "cosmos", "openclip", "hf", "python", "timm"]
    name: str
    arch: str | None = None
    weights: Weights = "teacher"
    training: Mapping[str, Any] | None = field(default=None, hash=False)
    label: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def called(self) -> str:
        """What results call the model: its label, else as it was typed."""
        return self.label or self.text


class EncoderInfo(NamedTuple):
    """Identity of a loaded model, for provenance. None are `weights` where the model has only one
    set, `weights_sha256` of random weights, `code_sha256` where no file of the user made the
    model, `revision` (a commit) where `hf:` names no repository, and `auxiliary`, the record of the
    encoder that guides the last block, where none does."""

    spec: str
    architecture: str
    weights: Weights | None
    weights_sha256: str | None
    random: bool
    precision: Precision
    device: str
    code_sha256: str | None = None
    revision: str | None = None
    auxiliary: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one data set is measured; numbers of one `family` are comparable. Paths are relative to
    `root`, where the data set has one of its own, or to the snapshot of a `repository` of the hub
    at a `revision` (None: its main branch), else to the data root. `download` is the page that its
    files come from, `main_metric` what its benchmark reports. Unknown numbers are None."""

    task: ClassVar[str]
    """The name of the task; protocols of other packages may leave it out."""
    # Fields that a user's YAML file does not set under their own names.
    NOT_IN_FILES: ClassVar[frozenset[str]] = frozenset(
        {"dataset", "family", "root", "download", "repository", "revision", "main_metric"}
    )

    dataset: str
    family: str
    source: str = ""
    root: str | None = None
    download: str | None = None
    repository: str | None = None
    revision: str | None = None
    main_metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol(Protocol):
    """Images and their captions, listed in a file or side by side in tar archives.

    `annotations` are paths of the file, or of a folder of texts, `images` folders that image names
    are relative to, or zip files; the first that exists counts. `parts` are files in that folder
    which together are the list, of images in several of the folders. `bare_names` drops the folders
    of image names, `first` keeps the first N images, `listed_captions` reads a table's captions as
    a list that JSON or Python writes. `archives` instead names tar archives by patterns, or a
    folder in CLIP Benchmark's layout. `image_key` and `caption_key` name unusual columns or keys,
    `split_key` that of the `split`, `image_suffix` is what names of images lack.
    `captions_per_image` keeps an image's first N; `sentences` splits those. `floor_median`: median
    ranks between two whole numbers are the lower one, as in published code. `pairs`: a PairScorer
    scores all pairs anew, or the N best of each query by embeddings."""

    task: ClassVar[str] = "retrieval"
    NOT_IN_FILES = Protocol.NOT_IN_FILES | {
        *("bare_names", "listed_captions", "parts", "first", "n_images", "n_captions"),
        "floor_median",
    }
    images: tuple[str, ...] | str = "."
    annotations: tuple[str, ...] | str = ()
    archives: tuple[str, ...] | str = ()
    bare_names: bool = False
    listed_captions: bool = False
    parts: tuple[str, ...] = ()
    first: int | None = None
    split: str = "test"
    split_key: str | None = None
    image_key: str | None = None
    image_suffix: str = ""
    caption_key: str | None = None
    captions_per_image: int | None = None
    sentences: Sentences = None
    floor_median: bool = False
    pairs: ScoredPairs = None
    n_images: int | None = None
    n_captions: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClassificationProtocol(Protocol):
    """Images and the class of each.

    `folder` holds a folder per class, or webdataset archives, or ObjectNet as it unpacks, or the
    set that `torchvision` names (a key of cosmos_eval.data.torchvision_sets); `usual_folders` are
    other places of it.
    `class_names` maps classes to prompt names, by default the classes with every character of
    `separators` as a space; `class_list` instead names one of protocols.classification.CLASS_LISTS.
    `templates` are prompts with one `{}`, or the name of a known set; None: those of the data, else
    OpenAI's for ImageNet. `group_file` gives each image, named by `image_key`, a group: the values
    of `group_keys`; `metadata` instead names the numbers in the .npy of each sample of an archive.
    `metrics` are measured beside the usual ones, `remark` is what a reader of them must know."""

    task: ClassVar[str] = "cls"
    NOT_IN_FILES = Protocol.NOT_IN_FILES | {
        *("torchvision", "usual_folders", "separators", "n_classes", "n_images", "remark")
    }
    folder: str
    layout: Literal["folders", "webdataset", "objectnet"] = "folders"
    torchvision: str | None = None
    usual_folders: tuple[str, ...] = ()
    class_names: Mapping[str, str] = field(default_factory=dict)
    separators: str = "_"
    class_list: str | None = None
    templates: tuple[str, ...] | str | None = None
    group_file: str | None = None
    group_keys: tuple[str, ...] | str = "group"
    image_key: str = "image"
    metadata: tuple[str, ...] = ()
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = ()
    n_classes: int | None = None
    n_images: int | None = None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class MultilabelProtocol(ClassificationProtocol):
    """Images and the classes of each: `annotations` lists images below `folder`, named by
    `image_key`, and in `label_key` classes, separated by `|` or as a list. In webdataset archives
    the .npy beside an image instead has a 1 for each of its classes and a 0 for all others."""

    task: ClassVar[str] = "multilabel"
    NOT_IN_FILES = ClassificationProtocol.NOT_IN_FILES | {
        *("class_list", "group_file", "group_keys", "metadata", "metrics")
    }
    annotations: str | None = None
    label_key: str = "labels"


@dataclass(frozen=True, kw_only=True)
class FacesProtocol(ClassificationProtocol):
    """Faces in webdataset archives, of which several questions are asked: names and templates begin
    with a question (`race:`), and the .npy of an image holds its age, gender, race, and 0 for white
    or 1, as indices of classes."""

    task: ClassVar[str] = "faces"
    NOT_IN_FILES = MultilabelProtocol.NOT_IN_FILES | {"layout"}
    layout: Literal["folders", "webdataset", "objectnet"] = "webdataset"


@dataclass(frozen=True, kw_only=True)
class SelectionProtocol(Protocol):
    """Images, each with captions of which one or more are right, captions, each with images of
    which one is right, or pairs of two images and two captions.

    `annotations` is a file in the form that `layout` names (docs/caption-selection.md), or a folder
    with a file per subset. `template` is what captions are put into. A pair is right when each
    caption finds its image (`pair_accuracy` of `image`), or each image its caption as well
    (`group`). The mean over subsets leaves out those in `left_out` or with under `smallest` items.
    `pairs`: a PairScorer scores every caption with its images."""

    task: ClassVar[str] = "select"
    NOT_IN_FILES = Protocol.NOT_IN_FILES | {"n_items", "subset_items", "left_out", "smallest"}
    images: tuple[str, ...] | str
    annotations: tuple[str, ...] | str
    layout: SelectionLayout
    image_suffix: str = ""
    subset_key: str = "subset"
    template: str = "{}"
    pair_accuracy: Literal["group", "image"] = "group"
    left_out: tuple[str, ...] = ()
    smallest: int = 1
    pairs: Literal["all"] | None = None
    n_items: int | None = None
    subset_items: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_published(self) -> bool:
        """Whether this is a published set, which is measured as it is."""
        return self.n_items is not None or self.download is not None


@dataclass(frozen=True, kw_only=True)
class AssociationProtocol(Protocol):
    """Cues, each with candidate images, of which some are associated with it.

    Records of `annotations` have a `cue`, and names of images in `candidates` and `associations`,
    to which `image_suffix` is added; `images` is a folder of them, or a zip file."""

    task: ClassVar[str] = "assoc"
    NOT_IN_FILES = Protocol.NOT_IN_FILES | {"n_items"}
    images: str
    annotations: str
    image_suffix: str = ".jpg"
    n_items: int | None = None


@dataclass(frozen=True, kw_only=True)
class LabelMapProtocol(Protocol):
    """Images with a label map each, and the prompts of the classes in them.

    `mmseg_type` is an MMSegmentation data set class, None for plain folders, `usual_folder` where
    its documentation keeps the set. `queries` holds the prompt names (synonyms) of every class.
    `scale` multiplies similarities before a softmax, `attention` is the form of the last block that
    the settings were made for, `preparation` the name under which label maps can be made. Images
    without a label map are left out where `only_labelled`. An `ignore_index` above 255 means label
    maps of 16 bits."""

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
    only_labelled: bool = False
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    class_names: tuple[str, ...]
    queries: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] | str = "openai-imagenet"
    scale: float = 40.0
    reduce_zero_label: bool = False
    ignore_index: int = 255
    attention: Attention = "csa"

    @property
    def label_bits(self) -> int:
        """Bits of a pixel of the label maps: 8 or 16."""
        return 16 if self.ignore_index > 255 else 8

    @property
    def has_background(self) -> bool:
        """Whether class 0 is what no other class is."""
        return self.class_names[0].lower() == "background"

    def faults(self) -> Iterable[str]:
        """Return contradictions among the constants that a task has of its own."""
        return ()


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol(LabelMapProtocol):
    """A segmentation data set and every constant of its zero-shot protocol.

    `short_side` and `long_side` bound the resize, `window` (None: the whole image) and `stride`
    slide, all in pixels. `mean` and `std` are RGB on the 0-255 scale, None: the model's own.
    `scale`, `prob_thd` and `area_thd` are those of the COSMOS evaluation code. `groups` of classes
    have a mean IoU of their own, such as things and stuff. `tuned` is the content of the file that
    the values come from, if they were chosen for a model."""

    task: ClassVar[str] = "seg"
    NOT_IN_FILES = LabelMapProtocol.NOT_IN_FILES | {"tuned"}

    short_side: int = 336
    long_side: int = 2048
    window: int | None = 224
    stride: int = 112
    prob_thd: float = 0.0
    area_thd: float | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    refinement: Literal["pamr"] | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tuned: Mapping[str, Any] | None = None

    def faults(self) -> Iterator[str]:
        thresholds = self.prob_thd > 0 or self.area_thd is not None
        if thresholds and self.reduce_zero_label:
            yield "prob_thd and area_thd need a background class 0, which reduce_zero_label removes"
        if thresholds and not self.has_background:
            yield (
                "prob_thd and area_thd turn pixels into class 0, and here that is "
                f"'{self.class_names[0]}': set them only where class 0 is named 'background'"
            )
        for name in ("short_side", "long_side", "window", "stride"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                yield f"{name} must be above 0"
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            yield "mean must hold finite numbers"
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            yield "std must be above 0 and finite"
        if self.window is not None and self.stride > self.window:
            yield "stride must not exceed window: pixels between windows would have no prediction"
        if not 0 <= self.prob_thd < 1 or not 0 <= (self.area_thd or 0) < 1:
            yield "prob_thd and area_thd must be in [0, 1)"


@dataclass(frozen=True, kw_only=True)
class LocalisationProtocol(LabelMapProtocol):
    """How much of the map of a class's name falls on the class, in images with label maps.

    `map` is the kind of map of all models; None: values of cross-attention, or similarity where a
    model has none. All but cross-attention become a distribution by a softmax over the patches,
    cosines times `scale`. A thing is small below the fraction `small` of the image and large from
    `large` on: COCO's 32 x 32 and 96 x 96 pixels (pycocotools, cocoeval.py) of usually 640 x 480.
    A class 0 named `background` is no thing."""

    task: ClassVar[str] = "loc"
    map: MapKind | None = None
    small: float = 32**2 / (640 * 480)
    large: float = 96**2 / (640 * 480)

    def faults(self) -> Iterator[str]:
        if not 0 < self.small < self.large < 1:
            yield "small and large must be shares of the image, small below large"


@dataclass(frozen=True, kw_only=True)
class ProbeProtocol(Protocol):
    """Folders of training and of test images, each with a folder per class.

    `c_values` are candidates of scikit-learn's C, of which the share `validation` of the training
    images chooses one. `shots` are training images per class, of each of which there are `draws`.
    `neighbours` vote with weights exp(similarity / temperature): DINO's (arXiv 2104.14294).
    `splits` are instead the training and the test images of a known set."""

    task: ClassVar[str] = "probe"
    NOT_IN_FILES = Protocol.NOT_IN_FILES | {"splits"}
    train: str
    test: str
    splits: tuple[ClassificationProtocol, ClassificationProtocol] | None = None
    c_values: tuple[float, ...] = tuple(10.0**power for power in range(-3, 7))
    validation: float = 0.2
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 3
    neighbours: int = 20
    temperature: float = 0.07


def family_of_sentences(family: str, sentences: Sentences) -> str:
    """Return the family of numbers of captions that are split into sentences."""
    return family + {None: "", "each": "-sentences", "joined": "-joined"}[sentences]


def family_of_pairs(family: str, pairs: ScoredPairs) -> str:
    """Return the family of numbers whose scores of pairs are not products of embeddings."""
    return family if pairs is None else f"{family}-pairs{'' if pairs == 'all' else pairs}"


def base_family(family: str) -> str:
    """Return the family of the same data whose scores are products of embeddings."""
    return family.partition("-pairs")[0]


class SuiteMember(NamedTuple):
    """A data set whose metric, or the mean of its metrics, counts in the mean of a suite, with a
    weight below 1 where several sets count as one."""

    task: str
    dataset: str
    family: str
    metrics: tuple[str, ...]
    weight: float = 1.0


class Suite(NamedTuple):
    """Models as `--model` takes them, none where `--model` has to name them, and what results call
    each, None for as it is typed; the protocols that each is measured by; the members of its mean,
    none without a `score`; and what it lacks of its source, with the reason: it counts as a member
    that no model has."""

    name: str
    models: tuple[str, ...]
    names: tuple[str | None, ...]
    protocols: tuple[Protocol, ...]
    members: tuple[SuiteMember, ...]
    left_out: Mapping[str, str]
    source: str

    def present(self, number: int) -> str:
        """Return `3 of 38`, of the members with those that are left out."""
        return f"{number} of {len(self.members or self.protocols) + len(self.left_out)}"


class Interval(NamedTuple):
    """A confidence interval of a metric, in the metric's unit."""

    low: float
    high: float
    method: str
    level: float = 0.95


Samples: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Arrays by name, stored beside a result, from which its figures follow."""


class Mistakes(NamedTuple):
    """Confusions of C classes, in P pairs of different classes. `amounts` (P,) of `unit` (images,
    pixels) of class `true` (P,) were given class `predicted` (P,); `totals` (C,) are the amounts of
    each class."""

    unit: str
    classes: Sequence[str]
    true: NDArray[np.integer]
    predicted: NDArray[np.integer]
    amounts: NDArray[np.integer]
    totals: NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What follows from samples and a seed; `confusion_pairs` are the most frequent mistakes."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    n_samples: int
    per_class: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    confusion_pairs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """What a task returns: figures, and the samples that they follow from. `hashes` identify all
    that defines the number (class names, templates, sample list), `settings` go into the
    provenance, and `notes`, one line each, are what a reader of the number must know."""

    samples: Samples
    hashes: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Part(NamedTuple):
    """The number of samples (`unit`: images, captions or items) found of a known data set."""

    found: int
    known: int
    unit: str

    def __str__(self) -> str:
        return f"{self.found} of {self.known} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a measurement is run; `limit` (the first samples only), `allow_partial` (those found of
    an incomplete known data set), `attention` (None: the protocol's own) and `auxiliary` (of
    attention `proxy`) change what is measured. `unfinished` is a folder for the finished parts of a
    measurement, to resume a killed run, `cache` one for embeddings. Device `auto` is the first CUDA
    device, or the CPU."""

    data_root: str | None = None
    download: bool = False
    stream: bool = False
    attention: Attention | None = None
    auxiliary: str | None = None
    device: str = "auto"
    precision: Precision = "fp32"
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
        if (self.attention == "proxy") != (self.auxiliary is not None):
            raise UsageError("--attention proxy and --auxiliary SPEC, which guides it, go together")
        if self.stream and (self.limit is not None or self.distributed.world_size > 1):
            raise UsageError("--stream reads whole sets in one process: no --limit, no torchrun")

    def streams(self, protocol: Protocol) -> bool:
        """Tell whether a set is measured while its archives are fetched."""
        listed = getattr(protocol, "annotations", "")
        return self.stream and protocol.repository is not None and not listed


class CaptionWord(NamedTuple):
    """A word of a text, whose tokens are at positions start, ..., stop - 1 of the context. Position
    0 is the start of text; a cut text's words may lie past the context. `spaced`: whether white
    space precedes the word."""

    text: str
    start: int
    stop: int
    spaced: bool


class Progress(NamedTuple):
    """One step of a long loop: `done` of `total` units of `phase`, and a line for the user."""

    phase: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None]


def no_progress(step: Progress) -> None:
    """Show nothing."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known names closest to an unknown one, separated by commas."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return ", ".join(close or list(known)[:10])
