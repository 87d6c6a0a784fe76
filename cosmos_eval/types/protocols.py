"""Protocols: how one data set is measured, as a record for each task.

A protocol names its task. Its fields are the keys of a user's YAML file, except for the fields that
are marked as `_FIXED`, which only the known data sets set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cosmos_eval.types.models import Attention, MapKind

ScoredPairs = int | Literal["all"] | None
"""The pairs of an image and a text that a protocol scores together.

A number is how many candidates of each query are scored. None: no pairs; scores are products of
embeddings.
"""
Sentences = Literal["each", "joined"] | None
"""How a protocol splits captions into sentences; None: it does not.

`each`: every sentence is a caption. `joined`: the sentences are joined again.
"""
# fmt: off
SelectionLayout = Literal[
    "items", "pairs", "sugarcrepe", "mmvp", "aro", "svo", "valse", "whatsup", "coco-spatial",
    "gqa-spatial", "negbench", "eqben",
]
# fmt: on
"""The form of the annotations of a caption selection set (docs/caption-selection.md)."""
Rgb = tuple[float, float, float]

_FIXED = {"in_yaml": False}
"""The metadata of fields that a user's YAML file does not set under their own names."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one data set is measured. Numbers of one `protocol_name` are comparable.

    Paths are relative to `root` if the data set has one, or to the snapshot of its `repository`, or
    else to the data root.
    """

    task: ClassVar[str]
    """The name of the task that the protocol belongs to."""

    dataset: str = field(metadata=_FIXED)
    protocol_name: str = field(metadata=_FIXED)
    source: str = ""
    root: str | None = field(default=None, metadata=_FIXED)
    # The page that the files come from.
    download: str | None = field(default=None, metadata=_FIXED)
    # The repository on the Hugging Face hub, and its revision; None: the main branch.
    repository: str | None = field(default=None, metadata=_FIXED)
    revision: str | None = field(default=None, metadata=_FIXED)
    # The metric that the benchmark reports.
    main_metric: str | None = field(default=None, metadata=_FIXED)


def yaml_fields(protocol: type[Protocol]) -> list[dataclasses.Field[Any]]:
    """Return the fields of a type of protocol that a user's YAML file may set."""
    return [item for item in dataclasses.fields(protocol) if item.metadata.get("in_yaml", True)]


@dataclass(frozen=True, kw_only=True)
class CaptionFiles(Protocol):
    """Images and their captions, listed in a file or side by side in tar archives."""

    # Folders that image names are relative to, or zip files; the first that exists is read.
    images: tuple[str, ...] | str = "."
    # The file that lists the captions, or a folder of texts; the first that exists is read.
    annotations: tuple[str, ...] | str = ()
    # Tar archives, by patterns or by a folder in CLIP Benchmark's layout, in place of both.
    archives: tuple[str, ...] | str = ()
    # Whether the folders of image names are dropped.
    bare_names: bool = field(default=False, metadata=_FIXED)
    # Whether the captions of a table are lists as JSON or Python writes them.
    listed_captions: bool = field(default=False, metadata=_FIXED)
    # Files below `annotations` that together are the list. Their images are in several folders.
    parts: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # Unusual names of the columns of images and captions.
    image_key: str | None = None
    caption_key: str | None = None
    # The suffix that the names of images lack.
    image_suffix: str = ""


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol(CaptionFiles):
    """The captions that are measured, and how their ranks are made."""

    task: ClassVar[str] = "retrieval"

    # The first images to keep; None: all.
    first: int | None = field(default=None, metadata=_FIXED)
    # The split that is kept, and the unusual name of the column that holds it.
    split: str = "test"
    split_key: str | None = None
    # The first captions of each image to keep; None: all.
    captions_per_image: int | None = None
    sentences: Sentences = None
    # Whether a median rank between two whole numbers is the lower one, as in published code.
    floor_median: bool = field(default=False, metadata=_FIXED)
    pairs: ScoredPairs = None
    n_images: int | None = field(default=None, metadata=_FIXED)
    n_captions: int | None = field(default=None, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class ClassFiles(Protocol):
    """Images with the class of each, and perhaps with a group of each."""

    # The folder with a folder per class, or with archives, or ObjectNet as it unpacks.
    folder: str
    layout: Literal["folders", "webdataset", "objectnet"] = "folders"
    # A key of `cosmos_eval.data.torchvision_sets`, in place of the folder.
    torchvision: str | None = field(default=None, metadata=_FIXED)
    # Other places of the folder.
    usual_folders: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # The file that gives each image, named by `image_key`, a group: the values of `group_keys`.
    group_file: str | None = None
    group_keys: tuple[str, ...] | str = "group"
    image_key: str = "image"
    # Names of the numbers in the .npy of each sample of an archive, in place of the group file.
    metadata: tuple[str, ...] = ()
    n_images: int | None = field(default=None, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class ClassificationProtocol(ClassFiles):
    """The prompts of the classes, and the metrics that are measured."""

    task: ClassVar[str] = "cls"

    # Prompt names by class; others are the class with each character of `separators` as a space.
    class_names: Mapping[str, str] = field(default_factory=dict)
    separators: str = field(default="_", metadata=_FIXED)
    # A key of `protocols.classification.CLASS_LISTS`, in place of `class_names`.
    class_list: str | None = None
    # Prompts with one `{}`, or the name of a known set of them; None: the templates of the data, or
    # else OpenAI's for ImageNet.
    templates: tuple[str, ...] | str | None = None
    # Metrics beside the usual ones.
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = ()
    n_classes: int | None = field(default=None, metadata=_FIXED)
    # A note for readers of the numbers.
    remark: str = field(default="", metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class MultilabelProtocol(ClassificationProtocol):
    """Images and the classes of each, of which there may be several.

    In webdataset archives, the .npy beside an image holds a 1 for each of its classes and a 0 for
    every other class.
    """

    task: ClassVar[str] = "multilabel"

    class_list: str | None = field(default=None, metadata=_FIXED)
    group_file: str | None = field(default=None, metadata=_FIXED)
    group_keys: tuple[str, ...] | str = field(default="group", metadata=_FIXED)
    metadata: tuple[str, ...] = field(default=(), metadata=_FIXED)
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = field(
        default=(), metadata=_FIXED
    )
    # The file that lists images below `folder`, named by `image_key`, with their classes in
    # `label_key`, separated by `|` or as a list.
    annotations: str | None = None
    label_key: str = "labels"


@dataclass(frozen=True, kw_only=True)
class FacesProtocol(ClassificationProtocol):
    """Faces in webdataset archives, about which several questions are asked.

    Class names and templates begin with a question, such as `race:`. The .npy of an image holds its
    age, gender and race as indices of classes, and then 0 for white or 1.
    """

    task: ClassVar[str] = "faces"

    layout: Literal["folders", "webdataset", "objectnet"] = field(
        default="webdataset", metadata=_FIXED
    )
    class_list: str | None = field(default=None, metadata=_FIXED)
    group_file: str | None = field(default=None, metadata=_FIXED)
    group_keys: tuple[str, ...] | str = field(default="group", metadata=_FIXED)
    metadata: tuple[str, ...] = field(default=(), metadata=_FIXED)
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = field(
        default=(), metadata=_FIXED
    )


@dataclass(frozen=True, kw_only=True)
class SelectionFiles(Protocol):
    """The files of a caption selection set, and how many items they hold."""

    images: tuple[str, ...] | str
    # The file in the form of `layout`, or a folder with a file per subset.
    annotations: tuple[str, ...] | str
    layout: SelectionLayout
    image_suffix: str = ""
    subset_key: str = "subset"
    n_items: int | None = field(default=None, metadata=_FIXED)
    subset_items: Mapping[str, int] = field(default_factory=dict, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class SelectionProtocol(SelectionFiles):
    """Items of which a model chooses the correct caption or the correct image.

    An item has one of three forms: an image with captions, one or more of which are correct; a
    caption with images, one of which is correct; or a pair of two images and two captions.
    """

    task: ClassVar[str] = "select"

    # The prompt that captions are put into.
    template: str = "{}"
    # The rule for a correct pair. `image`: each caption finds its image. `group`: each image also
    # finds its caption.
    pair_accuracy: Literal["group", "image"] = "group"
    # Subsets that the mean over subsets leaves out, and the number of items that it requires.
    left_out: tuple[str, ...] = field(default=(), metadata=_FIXED)
    smallest: int = field(default=1, metadata=_FIXED)
    # `all`: a PairScorer scores every caption with its images.
    pairs: Literal["all"] | None = None

    @property
    def is_published(self) -> bool:
        """True for a published data set, which is measured as it is."""
        return self.n_items is not None or self.download is not None


@dataclass(frozen=True, kw_only=True)
class AssociationProtocol(Protocol):
    """Cues, each with candidate images, some of which are associated with it."""

    task: ClassVar[str] = "assoc"

    # A folder of images, or a zip file.
    images: str
    # The file whose records have a `cue` and names of images in `candidates` and `associations`.
    annotations: str
    # The suffix that the names of images lack.
    image_suffix: str = ".jpg"
    n_items: int | None = field(default=None, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class LabelMapFiles(Protocol):
    """Images with a label map each."""

    # A data set class of MMSegmentation; None: plain folders.
    mmseg_type: str | None = field(default=None, metadata=_FIXED)
    images: str
    masks: str
    # The file that lists the images; None: all in the folder.
    split: str | None = None
    # The folder in which MMSegmentation's documentation keeps the data set.
    usual_folder: str | None = field(default=None, metadata=_FIXED)
    n_images: int | None = field(default=None, metadata=_FIXED)
    # The name under which `cosmos-eval data prepare` makes the label maps.
    preparation: str | None = field(default=None, metadata=_FIXED)
    # Whether images without a label map are left out.
    only_labelled: bool = False
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    reduce_zero_label: bool = False
    # Above 255 if label maps have 16 bits.
    ignore_index: int = 255

    @property
    def label_bits(self) -> int:
        """Bits of a pixel of the label maps: 8 or 16."""
        return 16 if self.ignore_index > 255 else 8


@dataclass(frozen=True, kw_only=True)
class LabelMapProtocol(LabelMapFiles):
    """The prompts of the classes in label maps."""

    class_names: tuple[str, ...] = field(metadata=_FIXED)
    # The prompt names (synonyms) of every class.
    queries: tuple[tuple[str, ...], ...] = field(metadata=_FIXED)
    templates: tuple[str, ...] | str = "openai-imagenet"
    # The factor of similarities before a softmax.
    scale: float = 40.0
    # The form of attention of the last block that the other settings were made for.
    attention: Attention = "csa"

    @property
    def has_background(self) -> bool:
        """True if class 0 stands for all pixels without another class."""
        return self.class_names[0].lower() == "background"

    def faults(self) -> Iterable[str]:
        """Return contradictions among the constants that a subclass adds."""
        return ()


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol(LabelMapProtocol):
    """A segmentation data set and every constant of its zero-shot protocol.

    `scale`, `prob_thd` and `area_thd` are constants of the COSMOS evaluation code.
    """

    task: ClassVar[str] = "seg"

    # Bounds of the sides of a resized image, in pixels.
    short_side: int = 336
    long_side: int = 2048
    # The side of the sliding window (None: the whole image) and its step, in pixels.
    window: int | None = 224
    stride: int = 112
    # A pixel below this probability becomes background.
    prob_thd: float = 0.0
    # A class that covers a smaller fraction of an image becomes background.
    area_thd: float | None = None
    # RGB on the 0-255 scale; None: the model's own.
    mean: Rgb | None = None
    std: Rgb | None = None
    refinement: Literal["pamr"] | None = None
    # Groups of classes that have a mean IoU of their own, such as things and stuff.
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # The content of the file of tuned settings, if the settings were tuned for a model.
    tuned: Mapping[str, Any] | None = field(default=None, metadata=_FIXED)

    def faults(self) -> Iterator[str]:
        """Return contradictions among the constants, one line each."""
        yield from self._background_faults()
        for name in ("short_side", "long_side", "window", "stride"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                yield f"{name} must be above 0"
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            yield "mean must hold finite numbers"
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            yield "std must be above 0 and finite"
        if self.window is not None and self.stride > self.window:
            yield "stride must not exceed window: pixels between windows would have no prediction"

    def _background_faults(self) -> Iterator[str]:
        """Return the faults of the thresholds below which a pixel becomes background."""
        has_thresholds = self.prob_thd > 0 or self.area_thd is not None
        if has_thresholds and self.reduce_zero_label:
            yield "prob_thd and area_thd need a background class 0, which reduce_zero_label removes"
        if has_thresholds and not self.has_background:
            yield (
                "prob_thd and area_thd turn pixels into class 0, and here that is "
                f"'{self.class_names[0]}': set them only if class 0 is named 'background'"
            )
        if not 0 <= self.prob_thd < 1 or not 0 <= (self.area_thd or 0) < 1:
            yield "prob_thd and area_thd must be in [0, 1)"


@dataclass(frozen=True, kw_only=True)
class LocalisationProtocol(LabelMapProtocol):
    """Images with label maps, and how maps of class names are compared with them.

    Every kind of map except cross-attention becomes a distribution over the patches by a softmax of
    the cosines times `scale`. A class 0 named `background` is not a thing.
    """

    task: ClassVar[str] = "loc"

    # The kind of map of every model; None: values of cross-attention if a model has them, or else
    # similarity.
    map: MapKind | None = None
    # A thing is small below the first fraction of the image, and large from the second one on:
    # COCO's 32 x 32 and 96 x 96 pixels (pycocotools, cocoeval.py) in images of 640 x 480.
    small: float = 32**2 / (640 * 480)
    large: float = 96**2 / (640 * 480)

    def faults(self) -> Iterator[str]:
        """Return contradictions among the constants, one line each."""
        if not 0 < self.small < self.large < 1:
            yield "small and large must be shares of the image, small below large"


@dataclass(frozen=True, kw_only=True)
class ProbeProtocol(Protocol):
    """Training and test images of the same classes, on which probes are fitted and measured."""

    task: ClassVar[str] = "probe"

    # Folders with a folder per class.
    train: str
    test: str
    # The training and the test images of a known data set, in place of the folders.
    splits: tuple[ClassificationProtocol, ClassificationProtocol] | None = field(
        default=None, metadata=_FIXED
    )
    # Candidates of scikit-learn's C.
    c_values: tuple[float, ...] = tuple(10.0**power for power in range(-3, 7))
    # The fraction of the training images that C is chosen by.
    validation: float = 0.2
    # Training images per class of few-shot probes, and the draws of each number of them.
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 3
    # Neighbours vote with weights exp(similarity / temperature): DINO's (arXiv 2104.14294).
    neighbours: int = 20
    temperature: float = 0.07


def protocol_name_with_sentences(protocol_name: str, sentences: Sentences) -> str:
    """Return the name of a protocol with captions that are split into sentences."""
    suffix = {None: "", "each": "-sentences", "joined": "-joined"}[sentences]
    return protocol_name + suffix


def protocol_name_with_pairs(protocol_name: str, pairs: ScoredPairs) -> str:
    """Return the name of a protocol in which pairs are scored: `cosmos-pairs100`."""
    if pairs is None:
        return protocol_name
    n_candidates = "" if pairs == "all" else pairs
    return f"{protocol_name}-pairs{n_candidates}"


def base_protocol_name(protocol_name: str) -> str:
    """Return the name of the protocol without scored pairs: `cosmos` for `cosmos-pairs100`."""
    return protocol_name.partition("-pairs")[0]
