"""Protocols: how one data set is measured, as a record for each task.

A protocol names its task. Its fields are the keys of a user's YAML file, except for the fields that
are marked as `_FIXED`, which only the known data sets set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cosmos_eval.types.models import Attention, MapKind
from cosmos_eval.types.wordings import Wording

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
    "items", "pairs", "sugarcrepe", "mmvp", "aro", "aro-order", "svo", "valse", "whatsup",
    "coco-spatial", "gqa-spatial", "negbench", "eqben", "coco-objects", "cvqa", "cvqa-english",
    "pascal-50s", "fg-ovd", "refcoco",
]
# fmt: on
"""The form of the annotations of a caption selection set (docs/caption-selection.md)."""
# fmt: off
Corruption = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
]
# fmt: on
"""The corruptions of ImageNet-C, in the order of its table (arXiv 1903.12261)."""
SEVERITIES = (1, 2, 3, 4, 5)
"""The severities of each corruption."""
RankingLayout = Literal["queries", "captions", "revisited", "circo", "cirr", "fashion-iq", "uned"]
"""The form of the lists of queries and their positives (docs/data.md)."""
# fmt: off
RankingMetric = Literal[
    "mAP@R", "R-precision", "R@1", "R@5", "R@10", "R@50", "mAP@5", "mAP@10", "mAP@25", "mAP@50",
    "R_subset@1", "R_subset@2", "R_subset@3", "mAP_easy", "mAP_medium", "mAP_hard",
    "mP@10_easy", "mP@10_medium", "mP@10_hard", "mMP@5",
]
# fmt: on
"""A metric of ranked positives (docs/metrics.md)."""
Rgb = tuple[float, float, float]
Regions = Literal["crops", "pooled"]
"""How the feature of a box of an image is made.

`crops`: the box is cut out and encoded as an image. `pooled`: the features of the patches of the
whole image are averaged over the box, by RoIAlign.
"""

TASKS_BY_WORD: Mapping[str, str] = {
    "classification": "cls",
    "segmentation": "seg",
    "selection": "select",
    "localisation": "loc",
    "association": "assoc",
}
"""The tasks with short names, by the full words that users may type in their place."""

_FIXED = {"in_yaml": False}
"""The metadata of fields that a user's YAML file cannot set."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one data set is measured: where its files are, and all constants of the measurement.

    Only numbers of the same data set and the same `protocol_name` are comparable. All paths are
    relative to the snapshot of the `repository` if the data set has one, or else to its `root`, or
    else to the folder of all data sets (`--data-root`).
    """

    task: ClassVar[str]
    """The name of the task that the protocol belongs to."""

    # The name of the data set, such as `voc20`.
    dataset: str = field(metadata=_FIXED)
    # The name of the protocol, such as `cosmos`.
    protocol_name: str = field(metadata=_FIXED)
    # Where the constants are from, such as a paper or a repository.
    source: str = ""
    # The folder of the data set, if it is not below the folder of all data sets.
    root: str | None = field(default=None, metadata=_FIXED)
    # The page that the files come from.
    download: str | None = field(default=None, metadata=_FIXED)
    # The repository on the Hugging Face hub, and its revision; None: the main branch.
    repository: str | None = field(default=None, metadata=_FIXED)
    revision: str | None = field(default=None, metadata=_FIXED)
    # The metric that the benchmark reports.
    main_metric: str | None = field(default=None, metadata=_FIXED)
    # The language of the texts, and the data sets in many languages that this is one of: `de` and
    # `xm3600`. The images of such a set are embedded in one pass.
    language: str | None = field(default=None, metadata=_FIXED)
    language_set: str | None = field(default=None, metadata=_FIXED)
    # How the texts are changed, if this is a protocol with another wording.
    wording: Wording | None = field(default=None, metadata=_FIXED)


def yaml_fields(protocol: type[Protocol]) -> list[dataclasses.Field[Any]]:
    """Return the fields of a type of protocol that a user's YAML file may set."""
    all_fields = dataclasses.fields(protocol)
    return [entry for entry in all_fields if entry.metadata.get("in_yaml", True)]


@dataclass(frozen=True, kw_only=True)
class CaptionFiles(Protocol):
    """Where the images and captions of a retrieval data set are.

    They are listed in a file, or lie side by side in tar archives.
    """

    # The folder or zip file of the images. Of several alternatives, the first that exists is read.
    images: tuple[str, ...] | str = "."
    # The file that lists the captions, or a folder of text files. Of several alternatives, the
    # first that exists is read.
    annotations: tuple[str, ...] | str = ()
    # Tar archives in place of images and annotations: patterns such as `test/*.tar`, or a folder in
    # CLIP Benchmark's layout.
    archives: tuple[str, ...] | str = ()
    # Whether folders in the names of images are dropped: `a/1.jpg` becomes `1.jpg`.
    bare_names: bool = field(default=False, metadata=_FIXED)
    # Whether a caption of a record is a list of captions, written as text by JSON or Python.
    listed_captions: bool = False
    # The names of files below the folder `annotations`, if the list is spread over several files.
    # The images may then be in all of the folders `images`.
    parts: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # Whether the images of a single list are in all of the folders `images`, too.
    spread_images: bool = field(default=False, metadata=_FIXED)
    # The file with the name of an image on each line, if the captions are lines without names. It
    # is relative to the file of the captions. Of several alternatives, the first one is read.
    image_list: tuple[str, ...] | str = field(default=(), metadata=_FIXED)
    # The keys or columns of images and captions, if they have unusual names.
    image_key: str | None = None
    caption_key: str | None = None
    # A suffix such as `.jpg` that the list leaves out of the names of images.
    image_suffix: str = ""
    # The file that lists the names of the images that are measured, one per line; None: all images.
    # Of several alternatives, the first that exists is read.
    name_list: tuple[str, ...] | str | None = field(default=None, metadata=_FIXED)
    # Whether all captions of an image are joined by spaces, as the paragraph of a video.
    paragraph: bool = field(default=False, metadata=_FIXED)
    # How many frames of each video are encoded, if samples are folders of frames and not images.
    frames: int | None = None


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol(CaptionFiles):
    """How image-text retrieval is measured on a data set."""

    task: ClassVar[str] = "retrieval"

    # How many of the listed images are measured, from the first one on; None: all.
    first: int | None = field(default=None, metadata=_FIXED)
    # The split that is measured, and the key or column that states the split of each image.
    split: str = "test"
    split_key: str | None = None
    # How many captions of each image are measured, from the first one on; None: all.
    captions_per_image: int | None = None
    # Whether captions are split into sentences.
    sentences: Sentences = None
    # Whether the median of 2 and 3 is 2, as in some published code, and not 2.5.
    floor_median: bool = field(default=False, metadata=_FIXED)
    # How many candidates of each query a model scores together with the query.
    pairs: ScoredPairs = None
    # The numbers of the complete data set, if they are known.
    n_images: int | None = field(default=None, metadata=_FIXED)
    n_captions: int | None = field(default=None, metadata=_FIXED)


ClassLayout = Literal["folders", "webdataset", "objectnet", "severities"]
"""The form of the files of a classification set."""


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """A table that lists the images of a classification set with their classes and splits."""

    # The file of the table, and the keys of its columns, below the folder of the data set.
    file: str
    image_key: str
    label_key: str
    # The table of the splits, which may be another one; the key of its column; the value of the
    # test images.
    split_file: str
    split_key: str
    split: str
    # The keys of the columns whose values make the group of an image.
    group_keys: tuple[str, ...] = ()
    # The folder of the images below the folder of the data set.
    images: str = "."


@dataclass(frozen=True, kw_only=True)
class ClassFiles(Protocol):
    """Where the images of a classification data set are, and where their classes are stated.

    Images may also be in groups, such as regions, whose accuracies are compared.
    """

    # The folder of the data set, with a folder per class, tar archives, the files of ObjectNet, or
    # for corrupted images a folder per severity (1 to 5), each with a folder per class.
    folder: str
    layout: ClassLayout = "folders"
    # The file that lists the images of `folder` in CoOp's form, in place of a layout of folders:
    # JSON with three splits, or `images_variant_SPLIT.txt` of FGVC-Aircraft.
    split_file: str | None = field(default=None, metadata=_FIXED)
    # The split that is read of this file: `train`, `val` or `test`.
    split: str = field(default="test", metadata=_FIXED)
    # The name of a data set that torchvision reads, such as `food101`.
    torchvision: str | None = field(default=None, metadata=_FIXED)
    # Other paths at which the folder may be.
    usual_folders: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # In place of a folder per class: the table that lists the images.
    table: ImageTable | None = field(default=None, metadata=_FIXED)
    # The file that states the group of each image. A record has the image under `image_key`, and
    # the values that make its group under `group_keys`.
    group_file: str | None = None
    group_keys: tuple[str, ...] | str = "group"
    image_key: str = "image"
    # In place of the group file: names of the numbers in the .npy file of each archived sample.
    metadata: tuple[str, ...] = ()
    # The number of images of the complete data set, if it is known.
    n_images: int | None = field(default=None, metadata=_FIXED)
    # The list of test videos, if samples are folders of frames: a file or folder in the form of
    # UCF101, HMDB51 or Kinetics. Of several alternatives, the first that exists is read.
    video_list: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # How many frames of each video are encoded.
    frames: int = field(default=8, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class ClassificationProtocol(ClassFiles):
    """How zero-shot classification is measured on a data set."""

    task: ClassVar[str] = "cls"

    # The name in prompts of each class. A class that is not here is called as in the data, with
    # every character of `separators` replaced by a space.
    class_names: Mapping[str, str] = field(default_factory=dict)
    separators: str = field(default="_", metadata=_FIXED)
    # In place of `class_names`: the name of a known list of classes, such as `imagenet1k`.
    class_list: str | None = None
    # Prompt templates such as `a photo of a {}.`, or the name of a known set of templates. None:
    # the templates that the data state, or else OpenAI's for ImageNet.
    templates: tuple[str, ...] | str | None = None
    # In place of `class_names`: the names of all classes in the order of their folders.
    names_in_order: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # The names and templates of ImageNet's classes in another language, which may be of a part of
    # the classes only: `it`, or `babel/de`.
    translation: str | None = field(default=None, metadata=_FIXED)
    # Metrics that are measured besides the usual ones.
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = ()
    # The number of classes of the complete data set, if it is known.
    n_classes: int | None = field(default=None, metadata=_FIXED)
    # A note for those who read the numbers.
    remark: str = field(default="", metadata=_FIXED)
    # Whether the name of a wrong class is written on every image, as a typographic attack.
    typographic: bool = False
    # The corruption that is applied to every image, once with each severity; None: none.
    corruption: Corruption | None = None
    # The error of AlexNet under a corruption, by which the error of a model is divided.
    alexnet_error: float | None = field(default=None, metadata=_FIXED)

    @property
    def alters_images(self) -> bool:
        """True if images are altered after they are decoded, and so cannot be streamed."""
        return self.typographic or self.corruption is not None

    @property
    def has_severities(self) -> bool:
        """True if every image is measured once with each severity of a corruption."""
        return self.corruption is not None or self.layout == "severities"


@dataclass(frozen=True, kw_only=True)
class MultilabelProtocol(ClassificationProtocol):
    """How zero-shot classification is measured if an image may show several classes.

    In webdataset archives, the .npy file beside an image holds a 1 for each class that it shows and
    a 0 for every other class.
    """

    task: ClassVar[str] = "multilabel"

    class_list: str | None = field(default=None, metadata=_FIXED)
    group_file: str | None = field(default=None, metadata=_FIXED)
    group_keys: tuple[str, ...] | str = field(default="group", metadata=_FIXED)
    metadata: tuple[str, ...] = field(default=(), metadata=_FIXED)
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = field(
        default=(), metadata=_FIXED
    )
    typographic: bool = field(default=False, metadata=_FIXED)
    corruption: Corruption | None = field(default=None, metadata=_FIXED)
    # The file that lists the images below `folder`. A record has the path of an image under
    # `image_key`, and its classes under `label_key`: `cat | dog`, or a list.
    annotations: str | None = None
    label_key: str = "labels"


@dataclass(frozen=True, kw_only=True)
class FacesProtocol(ClassificationProtocol):
    """How several questions about faces are measured, such as age and race.

    The images are in webdataset archives. Class names and templates begin with a question, such as
    `race:`. The .npy file beside an image holds the indices of its age, gender and race, and then 0
    for white or 1 for any other race.
    """

    task: ClassVar[str] = "faces"

    layout: ClassLayout = field(default="webdataset", metadata=_FIXED)
    class_list: str | None = field(default=None, metadata=_FIXED)
    group_file: str | None = field(default=None, metadata=_FIXED)
    group_keys: tuple[str, ...] | str = field(default="group", metadata=_FIXED)
    metadata: tuple[str, ...] = field(default=(), metadata=_FIXED)
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = field(
        default=(), metadata=_FIXED
    )
    typographic: bool = field(default=False, metadata=_FIXED)
    corruption: Corruption | None = field(default=None, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class RegionFeatures(Protocol):
    """How the features of boxes of images are made. Whole images are encoded as usual."""

    regions: Regions = "crops"
    # The side in pixels of the square that the whole image is padded to, for pooled features.
    side: int = 1024
    # The form of attention in the last block, for pooled features. `maskclip` is the form of
    # CLIPSelf, arXiv 2310.01403 (eva_vit_model.py of github.com/wusize/CLIPSelf, encode_dense).
    attention: Attention = "maskclip"
    # How crops become squares, of which the model's transform cuts nothing off: black pixels are
    # added on both sides, or the crop is resized. None: crops keep their shape.
    squares: Literal["padded", "stretched"] | None = None

    @property
    def region_constants(self) -> dict[str, Any]:
        """The constants by which features of boxes are made, unless boxes are simply cut out."""
        if self.regions == "pooled":
            return {"regions": self.regions, "side": self.side}
        return {"squares": self.squares} if self.squares else {}

    @property
    def pooled_attention(self) -> Attention | None:
        """The form of attention in the last block if features are pooled; None for crops."""
        return self.attention if self.regions == "pooled" else None


@dataclass(frozen=True, kw_only=True)
class BoxesProtocol(ClassificationProtocol, RegionFeatures):
    """How zero-shot classification of the annotated boxes of images is measured."""

    task: ClassVar[str] = "boxes"

    # The folder of the images. Of several alternatives, the first that exists is read.
    images: tuple[str, ...] | str
    # The file of the boxes, in the form of COCO's instances, of its panoptic segments, or of LVIS.
    # Of several alternatives, the first that exists is read.
    annotations: tuple[str, ...] | str
    # Boxes with a smaller area in pixels are left out.
    least_area: float = 0.0
    # How many times as long the sides of the crops of objects are as the sides of their boxes.
    enlargement: float = 1.0
    # A box is small if it covers less than the first fraction of the image, and large if it covers
    # at least the second one: 32 x 32 and 96 x 96 pixels in images of 640 x 480, as for COCO.
    small: float = 32**2 / (640 * 480)
    large: float = 96**2 / (640 * 480)
    # The number of boxes of the complete data set, if it is known.
    n_boxes: int | None = field(default=None, metadata=_FIXED)

    folder: str = field(default="", metadata=_FIXED)
    layout: Literal["folders", "webdataset", "objectnet"] = field(
        default="folders", metadata=_FIXED
    )
    class_list: str | None = field(default=None, metadata=_FIXED)
    group_file: str | None = field(default=None, metadata=_FIXED)
    group_keys: tuple[str, ...] | str = field(default="group", metadata=_FIXED)
    image_key: str = field(default="image", metadata=_FIXED)
    metadata: tuple[str, ...] = field(default=(), metadata=_FIXED)
    metrics: tuple[Literal["f1_macro", "worst_group_acc5"], ...] = field(
        default=(), metadata=_FIXED
    )

    @property
    def region_constants(self) -> dict[str, Any]:
        """The constants by which features of boxes are made."""
        constants = super().region_constants
        constants["enlargement"] = self.enlargement
        return constants


@dataclass(frozen=True, kw_only=True)
class SelectionFiles(Protocol):
    """Where the items of a caption selection set are, and how many there are."""

    # The folder of the images. Of several alternatives, the first that exists is read.
    images: tuple[str, ...] | str
    # The file of the items in the form `layout`, or a folder with a file for each subset.
    annotations: tuple[str, ...] | str
    layout: SelectionLayout
    # A suffix such as `.jpg` that the file leaves out of the names of images.
    image_suffix: str = ""
    # The key that states the subset of an item.
    subset_key: str = "subset"
    # The number of items of the complete data set, and of each subset, if they are known.
    n_items: int | None = field(default=None, metadata=_FIXED)
    subset_items: Mapping[str, int] = field(default_factory=dict, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class SelectionProtocol(SelectionFiles, RegionFeatures):
    """How it is measured whether a model chooses the correct caption or the correct image.

    An item has one of three forms: an image with captions, or a caption with images, one or more of
    which are correct; or two images and two captions that belong together in pairs.
    """

    task: ClassVar[str] = "select"

    # The prompt that a caption is put into, with `{}` for the caption.
    template: str = "{}"
    # When two images and two captions count as correct. `image`: each caption finds its image.
    # `group`: each image also finds its caption.
    pair_accuracy: Literal["group", "image"] = "group"
    # Names of subsets that the mean over subsets leaves out.
    left_out: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # Subsets with fewer items are left out of the mean too.
    smallest: int = field(default=1, metadata=_FIXED)
    # `all`: a model that scores pairs (PairScorer) scores every caption with its images.
    pairs: Literal["all"] | None = None

    @property
    def is_published(self) -> bool:
        """True for a published data set, which is measured even if items cannot be solved."""
        return self.n_items is not None or self.download is not None


@dataclass(frozen=True, kw_only=True)
class AssociationProtocol(Protocol):
    """How it is measured whether a model finds the images that are associated with a cue.

    Every item is a cue with several candidate images, some of which are associated with it.
    """

    task: ClassVar[str] = "assoc"

    # The folder or the zip file of the images.
    images: str
    # The file whose records have a `cue` and names of images in `candidates` and `associations`.
    annotations: str
    # The suffix that the file leaves out of the names of images.
    image_suffix: str = ".jpg"
    # The number of items of the complete data set, if it is known.
    n_items: int | None = field(default=None, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class RatingsProtocol(Protocol):
    """How it is measured whether CLIPScore agrees with people who rated captions of images."""

    task: ClassVar[str] = "ratings"

    # The folders or zip files of the images. An image may be in any of them.
    images: tuple[str, ...] | str
    # The file of the ratings, or a folder of files. Of several alternatives, the first that exists
    # is read.
    annotations: tuple[str, ...] | str
    # The form of the file. Records have an `image`, a `caption` and a `rating`.
    layout: Literal["records", "flickr8k-expert", "flickr8k-cf", "composite"] = "records"
    # The prompt that a caption is put into, with `{}` for the caption.
    template: str = "A photo depicts {}"
    # The variant of Kendall's tau.
    tau: Literal["b", "c"] = "c"
    # The number of ratings of the complete data set, if it is known.
    n_items: int | None = field(default=None, metadata=_FIXED)


SUM_OF_FEATURES = "sum of features, text weight "
"""How the record of a composition begins that adds features by `text_weight`."""


@dataclass(frozen=True, kw_only=True)
class RankingProtocol(Protocol):
    """How it is measured where all positives of a query are ranked in a gallery.

    A query is an image, a text, or an image with a text that says how it should change.
    """

    task: ClassVar[str] = "ranking"

    # The folder or zip file of the images. Of several alternatives, the first that exists is read.
    images: tuple[str, ...] | str
    # The file of the queries and their positives. For the layout `captions`, the captions.
    annotations: tuple[str, ...] | str
    layout: RankingLayout = "queries"
    # The file that lists the images of the gallery, if it is not the file of the queries.
    gallery: tuple[str, ...] | str = field(default=(), metadata=_FIXED)
    # For the layout `captions`, the files of positives: captions of images, images of captions, and
    # captions of all images of the gallery.
    positives: tuple[str, ...] = field(default=(), metadata=_FIXED)
    # A suffix such as `.jpg` that the lists leave out of the names of images.
    image_suffix: str = ""
    # The metrics that the benchmark reports.
    metrics: tuple[RankingMetric, ...] = ("mAP@R", "R-precision", "R@1", "R@5", "R@10")
    # The weight of the text in the sum of the normalised features of an image and a text, if a
    # model has no `compose`. The image has the other part of 1.
    text_weight: float = 0.5
    # The numbers of the complete data set, if they are known.
    n_queries: int | None = field(default=None, metadata=_FIXED)
    n_images: int | None = field(default=None, metadata=_FIXED)
    n_positives: int | None = field(default=None, metadata=_FIXED)


@dataclass(frozen=True, kw_only=True)
class LabelMapFiles(Protocol):
    """Where the images of a data set and their label maps are.

    A label map is an image file whose pixel values are classes.
    """

    # The data set class of MMSegmentation that reads the files; None: plain folders.
    mmseg_type: str | None = field(default=None, metadata=_FIXED)
    # The folders of images and of label maps.
    images: str
    masks: str
    # The file that lists the names of the images; None: all images in the folder.
    split: str | None = None
    # The folder in which MMSegmentation's documentation keeps the data set.
    usual_folder: str | None = field(default=None, metadata=_FIXED)
    # The number of images of the complete data set, if it is known.
    n_images: int | None = field(default=None, metadata=_FIXED)
    # The name under which `cosmos-eval data prepare` makes the label maps.
    preparation: str | None = field(default=None, metadata=_FIXED)
    # Whether images without a label map are left out.
    only_labelled: bool = False
    # The ends of the file names of images and of label maps.
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    # Whether 1 is subtracted from all values of label maps, and 0 becomes 255.
    reduce_zero_label: bool = False
    # The value of pixels without a class. It is above 255 if label maps have 16 bits.
    ignore_index: int = 255

    @property
    def label_bits(self) -> int:
        """The number of bits of a pixel in the label maps, 8 or 16."""
        return 16 if self.ignore_index > 255 else 8


@dataclass(frozen=True, kw_only=True)
class LabelMapProtocol(LabelMapFiles):
    """The classes of label maps, and the prompts by which they are found in images."""

    # The names of the classes, in the order of their values in label maps.
    class_names: tuple[str, ...] = field(metadata=_FIXED)
    # For every class, the names (synonyms) that are put into prompts.
    queries: tuple[tuple[str, ...], ...] = field(metadata=_FIXED)
    # Prompt templates such as `a photo of a {}.`, or the name of a known set of templates.
    templates: tuple[str, ...] | str = "openai-imagenet"
    # The factor of cosine similarities before a softmax.
    scale: float = 40.0
    # The form of attention in the last block of the image encoder that the other constants were
    # chosen for.
    attention: Attention = "csa"

    @property
    def has_background(self) -> bool:
        """True if class 0 stands for all pixels without another class."""
        return self.class_names[0].lower() == "background"

    def faults(self) -> Iterable[str]:
        """Return a line for each contradiction among the constants that a subclass adds."""
        return ()


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol(LabelMapProtocol):
    """How zero-shot segmentation is measured on a data set.

    `scale`, `prob_thd` and `area_thd` have the names that the COSMOS evaluation code gives them.
    """

    task: ClassVar[str] = "seg"

    # Images are resized to this length of the short side, unless the long side gets too long
    # (pixels).
    short_side: int = 336
    long_side: int = 2048
    # The side of the sliding window (None: the whole image) and its step, in pixels.
    window: int | None = 224
    stride: int = 112
    # A pixel whose highest class probability is below this becomes background.
    prob_thd: float = 0.0
    # A class that covers a smaller fraction of an image becomes background.
    area_thd: float | None = None
    # The mean and standard deviation that normalise pixels, RGB from 0 to 255; None: the model's.
    mean: Rgb | None = None
    std: Rgb | None = None
    # How label maps are refined after prediction.
    refinement: Literal["pamr"] | None = None
    # Groups of classes that have a mean IoU of their own, such as things and stuff.
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # The content of the file of tuned constants, if they were tuned for a model.
    tuned: Mapping[str, Any] | None = field(default=None, metadata=_FIXED)

    def faults(self) -> Iterator[str]:
        """Yield a line for each contradiction among the constants."""
        yield from self._threshold_faults()
        for name in ("short_side", "long_side", "window", "stride"):
            pixels = getattr(self, name)
            if pixels is not None and pixels <= 0:
                yield f"{name} must be above 0"
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            yield "mean must hold finite numbers"
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            yield "std must be above 0 and finite"
        if self.window is not None and self.stride > self.window:
            yield "stride must not exceed window: pixels between windows would have no prediction"

    def _threshold_faults(self) -> Iterator[str]:
        """Yield a line for each contradiction of the thresholds `prob_thd` and `area_thd`."""
        # Pixels with a low probability, and classes with a small area, become background.
        has_thresholds = self.prob_thd > 0 or self.area_thd is not None
        if has_thresholds and self.reduce_zero_label:
            yield "prob_thd and area_thd need a background class 0, which reduce_zero_label removes"
        if has_thresholds and not self.has_background:
            yield (
                "prob_thd and area_thd turn pixels into class 0, and here that is "
                f"'{self.class_names[0]}': set them only if class 0 is named 'background'"
            )
        area_threshold = self.area_thd or 0
        if not 0 <= self.prob_thd < 1 or not 0 <= area_threshold < 1:
            yield "prob_thd and area_thd must be in [0, 1)"


@dataclass(frozen=True, kw_only=True)
class LocalisationProtocol(LabelMapProtocol):
    """How attention maps of class names are compared with the label maps of a data set.

    Every kind of attention map except cross-attention becomes a distribution over the patches of an
    image by a softmax of cosines times `scale`. A class 0 named `background` is left out.
    """

    task: ClassVar[str] = "loc"

    # The kind of attention map of every model. None: the values of cross-attention if a model has
    # them, or else the similarity of text and patches.
    map: MapKind | None = None
    # A thing is small if it covers less than the first fraction of the image, and large if it
    # covers at least the second one: 32 x 32 and 96 x 96 pixels, as for COCO (pycocotools,
    # cocoeval.py), in images of 640 x 480.
    small: float = 32**2 / (640 * 480)
    large: float = 96**2 / (640 * 480)
    # The names of the classes that are objects, and not stuff such as grass; empty: all classes but
    # the background. Of several objects in an image, the largest is the dominant one.
    things: tuple[str, ...] = ()

    def faults(self) -> Iterator[str]:
        """Yield a line for each contradiction among the constants."""
        if not 0 < self.small < self.large < 1:
            yield "small and large must be shares of the image, small below large"
        for name in self.things:
            if name not in self.class_names:
                yield f"things names no class {name!r}"


@dataclass(frozen=True, kw_only=True)
class ProbeProtocol(Protocol):
    """How probes are measured: classifiers that are trained on the image features of a model.

    They are trained on the training images of a data set, and measured on test images of the same
    classes.
    """

    task: ClassVar[str] = "probe"

    # The folders of training and of test images, each with a folder per class.
    train: str = ""
    test: str = ""
    # In place of these folders: a file with the splits `train`, `val` and `test` in CoOp's form,
    # whose images are below `images`. Few shots are then drawn and measured by CoOp's rules.
    split_file: str | None = None
    images: str = "."
    # The prompt templates of the zero-shot classifier under CoOp's rules.
    templates: tuple[str, ...] | str = ("a photo of a {}.",)
    # In place of folders or a file: the training and the test images of a known data set, under
    # CoOp's rules with the validation images between them if there are any.
    splits: tuple[ClassificationProtocol, ...] | None = field(default=None, metadata=_FIXED)
    # Whether a known data set is measured by CoOp's rules.
    is_coop: bool = field(default=False, metadata=_FIXED)
    # The greatest beta and alpha of Tip-Adapter that are tried on the validation images, and its
    # alpha and beta if there are none.
    cache_search: tuple[float, float] = (7.0, 3.0)
    cache_alpha: float = field(default=1.17, metadata=_FIXED)
    cache_beta: float = field(default=1.0, metadata=_FIXED)
    # The candidates for C, the inverse strength of regularisation in scikit-learn.
    c_values: tuple[float, ...] = tuple(10.0**power for power in range(-3, 7))
    # The fraction of the training images on which C is chosen.
    validation: float = 0.2
    # The numbers of training images per class of few-shot probes, and how often they are drawn.
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 3
    # How many nearest neighbours vote for a class. As in DINO (arXiv 2104.14294), the weight of a
    # vote is exp(similarity / temperature).
    neighbours: int = 20
    temperature: float = 0.07

    @property
    def uses_coop_rules(self) -> bool:
        """True if few shots are drawn and measured by the rules of CoOp (arXiv 2109.01134)."""
        return self.is_coop or self.split_file is not None


@dataclass(frozen=True, kw_only=True)
class OodProtocol(Protocol):
    """How the detection of images outside the classes of a data set is measured, without training.

    A model scores every image by its similarity to the prompts of the classes.
    """

    task: ClassVar[str] = "ood"

    # The folder of images of the classes, and the folder of images of none of them, each with a
    # folder per class. The names of the latter folders do not matter.
    inside: str
    outside: str
    # In place of the folders: the images inside and outside of a known data set.
    splits: tuple[ClassificationProtocol, ClassificationProtocol] | None = field(
        default=None, metadata=_FIXED
    )
    # The names of classes in prompts, or a known list of them, and the templates, as for the task
    # `cls`.
    class_names: Mapping[str, str] = field(default_factory=dict)
    class_list: str | None = None
    templates: tuple[str, ...] | str = ("a photo of a {}",)


@dataclass(frozen=True, kw_only=True)
class DenseProbe(Protocol):
    """How a linear map is fitted to the patch features of training images."""

    # The candidates for the strength of ridge regression. It multiplies the squared weights of
    # standardised features, beside the mean squared error of a pixel.
    strengths: tuple[float, ...] = tuple(10.0**power for power in range(-6, 3))
    # The fraction of the training images on which the strength is chosen.
    validation: float = 0.2
    # The steps of AdamW, in place of ridge regression; None: ridge regression.
    iterations: int | None = None
    # How many images a step has, and its constants.
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    # In how many steps the learning rate rises.
    warmup: int = 1500
    # The number of training images of the complete data set, if it is known.
    n_train_images: int | None = field(default=None, metadata=_FIXED)

    def fit_faults(self) -> Iterator[str]:
        """Yield a line for each constant by which nothing can be fitted."""
        if min(self.strengths) <= 0:
            yield "strengths must be above 0"
        if not 0 < self.validation < 1:
            yield "validation must be a share between 0 and 1"
        if min(self.batch, self.iterations or 1) < 1 or self.iterations == 0:
            yield "batch and iterations must be 1 or more"
        if self.learning_rate <= 0:
            yield "learning_rate must be above 0"
        if self.iterations is not None and self.warmup >= self.iterations:
            yield "warmup must be below iterations"


@dataclass(frozen=True, kw_only=True)
class SegmentationProbeProtocol(DenseProbe, SegmentationProtocol):
    """How a linear map from patch features to classes is fitted, and measured on test images.

    Training images have the same classes, and are resized and cut into windows as test images are.
    """

    task: ClassVar[str] = "seg-probe"

    # The folders of training images and of their label maps, and the file that lists them.
    train_images: str
    train_masks: str
    train_split: str | None = None
    attention: Attention = "vanilla"
    # Fields of zero-shot segmentation that have no meaning here.
    templates: tuple[str, ...] | str = field(default=("{}",), metadata=_FIXED)
    scale: float = field(default=40.0, metadata=_FIXED)
    prob_thd: float = field(default=0.0, metadata=_FIXED)
    area_thd: float | None = field(default=None, metadata=_FIXED)
    refinement: Literal["pamr"] | None = field(default=None, metadata=_FIXED)

    @property
    def training_protocol(self) -> SegmentationProbeProtocol:
        """The same protocol with the training images in place of the test images."""
        return dataclasses.replace(
            self,
            images=self.train_images,
            masks=self.train_masks,
            split=self.train_split,
            n_images=self.n_train_images,
        )

    def faults(self) -> Iterator[str]:
        """Yield a line for each contradiction among the constants."""
        yield from super().faults()
        yield from self.fit_faults()


@dataclass(frozen=True, kw_only=True)
class DepthProbeProtocol(DenseProbe):
    """How a linear map from patch features to depth is fitted, and measured on test images.

    Depth is in metres. All images have the same size.
    """

    task: ClassVar[str] = "depth-probe"

    # Files whose lines name an image and its depth map, relative to the folder of the data set.
    train: str
    test: str
    # The folder in which the original code keeps the data set.
    usual_folder: str | None = field(default=None, metadata=_FIXED)
    # The number of test images of the complete data set, if it is known.
    n_images: int | None = field(default=None, metadata=_FIXED)
    # The value of a depth map that stands for one metre. The value 0 stands for no depth.
    units_per_metre: float = 1000.0
    # Pixels count if their depth is between these, and predictions are cut to them (metres).
    min_depth: float = 0.001
    max_depth: float = 10.0
    # The box (left, top, right, bottom) of training images that is used, and of test images that
    # counts, in pixels of an image of 640 x 480; None: everything.
    train_box: tuple[int, int, int, int] | None = None
    test_box: tuple[int, int, int, int] | None = None
    # How many depths the map has a score for; AdamW only.
    bins: int = 256
    # The height and width of training crops in pixels; AdamW only.
    crop: tuple[int, int] = (416, 544)
    attention: Attention = "vanilla"

    def faults(self) -> Iterator[str]:
        """Yield a line for each contradiction among the constants."""
        yield from self.fit_faults()
        if not 0 < self.min_depth < self.max_depth:
            yield "min_depth must be above 0 and below max_depth"
        if self.units_per_metre <= 0:
            yield "units_per_metre must be above 0"
        if self.train == self.test:
            yield "train and test must be different lists"
        for box in (self.train_box, self.test_box):
            if box is not None and not (box[0] < box[2] <= 640 and box[1] < box[3] <= 480):
                yield "boxes must be [left, top, right, bottom] in an image of 640 x 480"
        if self.bins < 2 or min(self.crop) < 1:
            yield "bins must be 2 or more, and crop above 0"


def short_task_name(name: str, task_names: Container[str]) -> str:
    """Return the name of the task that a user calls by a full word: "classification" -> "cls".

    Names of tasks, and names that are not known, are returned as they are.

    Args:
        name: The word or the name.
        task_names: The names of all tasks.
    """
    if name in task_names:
        return name
    return TASKS_BY_WORD.get(name, name)


def protocol_name_with_sentences(protocol_name: str, sentences: Sentences) -> str:
    """Return the name of a protocol whose captions are split into sentences: `long-sentences`.

    If the sentences are joined again, it is `long-joined`. If captions are not split (None), the
    name stays `long`.
    """
    suffix = {None: "", "each": "-sentences", "joined": "-joined"}[sentences]
    return protocol_name + suffix


def protocol_name_with_pairs(protocol_name: str, pairs: ScoredPairs) -> str:
    """Return the name of a protocol in which a model scores pairs of images and texts.

    For 100 candidates of each query, `cosmos` becomes `cosmos-pairs100`. For all candidates, it
    becomes `cosmos-pairs`. Without scored pairs (None), it stays `cosmos`.
    """
    if pairs is None:
        return protocol_name
    n_candidates = "" if pairs == "all" else pairs
    return f"{protocol_name}-pairs{n_candidates}"


def base_protocol_name(protocol_name: str) -> str:
    """Return the name of the protocol without scored pairs: `cosmos` for `cosmos-pairs100`."""
    return protocol_name.partition("-pairs")[0]
