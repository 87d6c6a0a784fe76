"""Make label maps that downloads lack, one by one; each is written whole or not at all.

COCO-Stuff and COCO-Object are made from `stuffthingmaps` of COCO-Stuff 164k, which hold COCO's
category ids minus one: 0 to 90 for things, 91 to 181 for stuff, 255 for pixels without a label
(github.com/nightrome/cocostuff). Both take the classes that have pixels, in order. MMSegmentation's
tools/dataset_converters/coco_stuff164k.py makes COCO-Stuff, and datasets/cvt_coco_object.py of
github.com/sinahmr/NACLIP makes COCO-Object: 1 to 80 for things, 0 for stuff and for pixels without
a label.

Pascal-Context is made from `trainval_merged.json` of github.com/zhanghang1989/detail-api, as in
MMSegmentation's tools/dataset_converters/pascal_context.py, or else from the original
`trainval/*.mat` (cs.stanford.edu/~roozbeh/pascal-context), which number the same 459 categories.
Label maps of all categories hold these numbers minus one, in 16 bits.

ADE20K-847 is made from the full ADE20K (release 2021_17_01), as in MaskFormer's script
datasets/prepare_ade20k_full_sem_seg.py: images and label maps of at most 512 px on the short side.
The class of a pixel in `_seg.png` is 256 times its red value over ten, plus its green value.
"""

import io
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_core.data.pixels import open_image
from cosmos_core.utils.files import write_atomically
from cosmos_eval.data.folders import find_root
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.readers import read_json
from cosmos_eval.data.sources import require_lossless
from cosmos_eval.protocols.segmentation import COCO_THINGS, SEGMENTATION
from cosmos_eval.protocols.sets import class_ids, read_set
from cosmos_eval.types import LabelMapProtocol, OnProgress, Progress, UsageError

Label = NDArray[np.uint8] | NDArray[np.uint16]
"""Classes (H, W), or the pixels of an image (H, W, 3)."""

_IGNORE = 255  # the value of pixels without a label in label maps of 8 bits
_INDEXED = ("L", "P")  # modes of PIL whose pixels are 8-bit indices
# The PIL modes that label maps may have, by the suffix of the file.
_MASK_MODES: Mapping[str, Sequence[str]] = {".png": _INDEXED, ".tif": ("I;16",)}

# Cityscapes has the label ids 0 to 33. The ids that are evaluated are listed in the order of the
# classes: `labels` in cityscapesscripts/helpers/labels.py of github.com/mcordts/cityscapesScripts.
# The id of licence plates there, -1, is 255 in 8 bits.
_N_CITYSCAPES_IDS = 34
_EVALUATED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_N_STUFF_VALUES = 182  # COCO-Stuff's raw maps hold 0 to 181, and 255
# Things that have a category id but no pixels: street sign, hat, shoe, eye glasses, plate, mirror,
# window, desk, door, blender, hair brush.
_EMPTY_VALUES = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})


class Maker(Protocol):
    """Makes one label map (H, W), or one RGB image (H, W, 3), from an original file."""

    @property
    def original(self) -> Path:
        """The file that the label map or image is made from."""

    def make(self) -> Label:
        """Return the pixels of the label map or image.

        Raise UsageError if the original cannot be read.
        """


class Work(NamedTuple):
    """The files that are to be made for a data set."""

    # How each label map or image is made, by its path. The suffix of the path tells the format.
    maps: Mapping[Path, Maker]
    # The contents of text files by their paths. They are written after all maps.
    lists: Mapping[Path, str] = {}


class Counts(NamedTuple):
    """How many files a preparation has made, and how many were there already.

    The names of the fields are keys of the output of `cosmos-eval data prepare --json`.
    """

    # Files that were made, or moved to the folders where they belong.
    made: int
    # Files that were there already.
    kept: int


def execute(work: Work, n_classes: int, *, workers: int, progress: OnProgress) -> Counts:
    """Make every label map that is missing or damaged, and then write the text files.

    Args:
        work: The label maps, images and text files to make.
        n_classes: The number of classes in the label maps. Other values show that a file is
            damaged.
        workers: The number of threads that make label maps.
        progress: Called after each label map.

    Returns:
        How many label maps and images were made, and how many were there already.

    Raises:
        UsageError: If a file cannot be read or written.
    """
    n_made = 0
    write_map = partial(_write_map, n_classes=n_classes)
    results = prefetch(work.maps.items(), write_map, workers=workers)
    for n_done, was_made in enumerate(results, start=1):
        if was_made:
            n_made += 1
        progress(Progress("label maps", n_done, len(work.maps)))
    for path, text in work.lists.items():
        _write_file(path, text.encode())
    return Counts(made=n_made, kept=len(work.maps) - n_made)


def _write_map(path_and_maker: tuple[Path, Maker], n_classes: int) -> bool:
    """Make a label map or image and write it, unless an undamaged one is there already.

    Args:
        path_and_maker: The path of the file, and the object that makes its content. They are one
            argument, because threads work on single items.
        n_classes: The number of classes in a label map.

    Returns:
        True if the file was made.
    """
    path, maker = path_and_maker
    if _is_undamaged(path, n_classes):
        return False
    image = Image.fromarray(maker.make())
    content = io.BytesIO()
    image.save(content, format=Image.registered_extensions()[path.suffix])
    _write_file(path, content.getvalue())
    return True


def _is_undamaged(path: Path, n_classes: int) -> bool:
    """Return whether a label map or an image (.jpg) exists and can be used.

    All values of a label map must be class indices from 0 to `n_classes` - 1, or the highest value
    of its type (255 or 65535), which stands for pixels without a label.
    """
    try:
        with open_image(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError):  # Pillow raises SyntaxError for a broken PNG
        return False
    if path.suffix == ".jpg":
        return mode == "RGB"
    if mode not in _MASK_MODES[path.suffix]:
        return False
    is_class = values < n_classes
    is_unlabelled = values == np.iinfo(values.dtype).max
    return bool((is_class | is_unlabelled).all())


def _write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raise UsageError if it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _add_map(maps: dict[Path, Maker], path: Path, maker: Maker) -> None:
    """Add a label map to those that are to be made.

    Args:
        maps: How each label map is made, by its path. The dictionary is changed in place.
        path: The path of the label map.
        maker: Makes the label map from an original file.

    Raises:
        UsageError: If neither the label map nor its original exists.
    """
    can_be_made = maker.original.is_file()
    exists_already = path.is_file()
    if not can_be_made and not exists_already:
        raise UsageError(f"{maker.original} is missing")
    maps[path] = maker


def _make_table(index_by_value: Mapping[int, int]) -> NDArray[np.int16]:
    """Return an array (256,) with the class index of every value from 0 to 255.

    It is -1 for values that `index_by_value` lacks.

    Example:
        `{0: 5, 2: 7}` gives `[5, -1, 7, -1, -1, ...]`.
    """
    table = np.full(256, -1, np.int16)
    for value, index in index_by_value.items():
        table[value] = index
    return table


def _map_cityscapes_ids() -> dict[int, int]:
    """Return the class index by label id of Cityscapes. It is 255 for ids without a class.

    Example:
        `{0: 255, ..., 7: 0, 8: 1, 9: 255, ...}`: the ids 7 and 8 are the first classes.
    """
    all_ids = [*range(_N_CITYSCAPES_IDS), _IGNORE]
    index_by_value = dict.fromkeys(all_ids, _IGNORE)
    for index, label_id in enumerate(_EVALUATED_IDS):
        index_by_value[label_id] = index
    return index_by_value


def _map_stuff_values() -> dict[int, int]:
    """Return the class index by value in COCO-Stuff's raw maps.

    The classes are the values that have pixels, in their order. 255, for pixels without a label,
    stays 255.

    Example:
        `{0: 0, ..., 10: 10, 12: 11, ..., 255: 255}`, because no pixel has the value 11.
    """
    class_values = [value for value in range(_N_STUFF_VALUES) if value not in _EMPTY_VALUES]
    index_by_value = {value: index for index, value in enumerate(class_values)}
    index_by_value[_IGNORE] = _IGNORE
    return index_by_value


def _to_object_index(stuff_index: int) -> int:
    """Return the class index of COCO-Object for a class index of COCO-Stuff.

    COCO-Stuff has 80 things first and then stuff. COCO-Object has the background as class 0, which
    includes stuff and pixels without a label, and then the things.

    Example:
        0 (the first thing) gives 1. 80 (stuff) and 255 (no label) give 0.
    """
    is_thing = stuff_index < len(COCO_THINGS)
    return stuff_index + 1 if is_thing else 0


def _make_table_by_suffix(dataset: str) -> dict[str, NDArray[np.int16]]:
    """Return the class index of each value in the originals of a data set, by their suffix.

    If there are several suffixes, the first original that exists is to be used: `coco_object` is
    made from the label maps of `coco_stuff` if the raw maps were not kept.

    Args:
        dataset: `cityscapes`, `coco_stuff` or `coco_object`.

    Returns:
        For each suffix, such as `.png`, the class indices (256,) of the values 0 to 255.
    """
    if dataset == "cityscapes":
        return {"_gtFine_labelIds.png": _make_table(_map_cityscapes_ids())}

    stuff_index_by_value = _map_stuff_values()
    if dataset == "coco_stuff":
        return {".png": _make_table(stuff_index_by_value)}

    object_index_by_value = {}
    object_index_by_stuff_index = {}
    for value, stuff_index in stuff_index_by_value.items():
        object_index_by_value[value] = _to_object_index(stuff_index)
        object_index_by_stuff_index[stuff_index] = _to_object_index(stuff_index)
    return {
        ".png": _make_table(object_index_by_value),
        SEGMENTATION["coco_stuff"].mask_suffix: _make_table(object_index_by_stuff_index),
    }


def list_translated_maps(protocol: LabelMapProtocol, data_root: str | None) -> Work:
    """Return how to make a label map for every image, from originals beside the label maps.

    Only values are translated: a label map is an original with other class numbers.

    Args:
        protocol: The data set `cityscapes`, `coco_stuff` or `coco_object`.
        data_root: The folder that the user named with --data-root.

    Raises:
        UsageError: If the folder has no images, or if an original is missing.
    """
    root = find_root(protocol, data_root, (protocol.images, protocol.masks))
    image_folder = root / protocol.images
    images = sorted(image_folder.rglob(f"*{protocol.image_suffix}"))
    if not images:
        raise UsageError(f"no image *{protocol.image_suffix} in {image_folder}")

    table_by_suffix = _make_table_by_suffix(protocol.dataset)
    maps: dict[Path, Maker] = {}
    for image in images:
        # The path of the label map without its suffix, for example `masks/val/1`.
        path_without_suffix = str(
            root / protocol.masks / image.relative_to(image_folder)
        ).removesuffix(protocol.image_suffix)

        # Use the first original that exists, or name the first one in the error if none exists.
        makers = []
        for suffix, index_by_value in table_by_suffix.items():
            makers.append(_TranslatedMap(Path(path_without_suffix + suffix), index_by_value))
        existing_makers = [maker for maker in makers if maker.original.is_file()]
        maker = existing_makers[0] if existing_makers else makers[0]
        _add_map(maps, Path(path_without_suffix + protocol.mask_suffix), maker)
    return Work(maps)


@dataclass(frozen=True, eq=False)
class _TranslatedMap:
    """Makes a label map from an original of 8 bits, by replacing each value by a class index."""

    original: Path
    # (256,) the class index for each value of the original; -1 for values that are not labels.
    index_by_value: NDArray[np.int16]

    def make(self) -> Label:
        """Return the label map (H, W). Raise UsageError for a value that is not a label."""
        try:
            with open_image(self.original) as image:
                require_lossless(image, self.original)
                mode, values = image.mode, np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise UsageError(f"cannot read {self.original}: {error}; fetch it again") from error
        if mode not in _INDEXED:
            raise UsageError(f"{self.original} is not a map of 8-bit values (PIL mode {mode})")
        indices = self.index_by_value[values]  # (H, W)
        is_not_label = indices < 0
        if is_not_label.any():
            first_value = values[is_not_label][0]
            raise UsageError(f"{self.original} holds {first_value}, which is not a label there")
        return indices.astype(np.uint8)


_CONTEXT = SEGMENTATION["context60"]
_N_CATEGORIES = 459
# The categories of the 59 classes, in the order of the classes (both are alphabetical): `_mapping`
# in MMSegmentation's converter. All other categories are background.
_CONTEXT_CATEGORIES = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98),
    *(104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295),
    *(296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440),
    *(445, 454, 458),
)
# The value in a label map for each category: 1 to 59 for the classes, 0 for all others.
_CONTEXT_VALUE_BY_CATEGORY: Label = np.zeros(_N_CATEGORIES + 1, np.uint8)
_CONTEXT_VALUE_BY_CATEGORY[list(_CONTEXT_CATEGORIES)] = np.arange(1, len(_CONTEXT_CATEGORIES) + 1)
# In label maps of all categories, pixels without a category are 65535.
_CONTEXT_459_VALUE_BY_CATEGORY: Label = np.arange(-1, _N_CATEGORIES).astype(np.uint16)

ORIGINALS = ("trainval_merged.json", "trainval")
"""The originals of Pascal-Context beside the images; the first is preferred."""

_PHASES = ("train", "val")

# Warning filters belong to the process, not to a thread.
_warning_filters_lock = threading.Lock()


class _Segment(NamedTuple):
    """The pixels of a category in an image."""

    category: int
    # The run-length code of the pixels, which pycocotools decodes.
    run_lengths: Mapping[str, Any]


class _AnnotatedImage(NamedTuple):
    """An image of the annotation file, and its segments."""

    # The file name without its suffix.
    name: str
    # `train` or `val`.
    phase: str
    # Height and width in pixels.
    size_hw: tuple[int, int]
    segments: list[_Segment]


def list_context_maps(data_root: str | None) -> Work:
    """Return how to make Pascal-Context's label maps of 59 classes and the background.

    They are made for training and validation images. The names of the images are listed in
    `train.txt` and `val.txt`. Raise UsageError if the originals are missing.
    """
    return _list_context_phases(_CONTEXT, data_root, _PHASES, _CONTEXT_VALUE_BY_CATEGORY)


def list_context_459_maps(data_root: str | None) -> Work:
    """Return how to make Pascal-Context's label maps of all 459 categories.

    They are made for validation images, whose names are listed in `val.txt`. Raise UsageError if
    the originals are missing.
    """
    return _list_context_phases(
        read_set("context459"), data_root, ("val",), _CONTEXT_459_VALUE_BY_CATEGORY
    )


def _list_context_phases(
    protocol: LabelMapProtocol,
    data_root: str | None,
    phases: Sequence[str],
    value_by_category: Label,
) -> Work:
    """Return how to make label maps of Pascal-Context, and a list of image names for each phase.

    Args:
        protocol: The data set, which states where label maps are.
        data_root: The folder that the user named with --data-root.
        phases: The phases to make label maps for: `train`, `val` or both.
        value_by_category: The value in a label map for each category, (460,).

    Raises:
        UsageError: If the originals are missing.
    """
    root = find_root(protocol, data_root, (protocol.images,))
    annotation_file, matlab_folder = root / ORIGINALS[0], root / ORIGINALS[1]
    has_annotation_file = annotation_file.is_file()
    if not has_annotation_file and not matlab_folder.is_dir():
        raise UsageError(f"{annotation_file} is missing")
    annotated_images = _read_annotations(annotation_file) if has_annotation_file else []

    maps: dict[Path, Maker] = {}
    lists: dict[Path, str] = {}
    for phase in phases:
        # Find out how to make the label map of each image, by the name of the image.
        list_path = (root / str(_CONTEXT.split)).with_name(f"{phase}.txt")
        maker_by_name: dict[str, Maker] = {}
        if has_annotation_file:
            for image in annotated_images:
                if image.phase == phase:
                    maker_by_name[image.name] = _DrawnMap(annotation_file, image, value_by_category)
        else:
            for name in _read_image_names(root, list_path):
                original = matlab_folder / f"{name}.mat"
                maker_by_name[name] = _MatlabMap(original, value_by_category)

        for name, maker in maker_by_name.items():
            _add_map(maps, root / protocol.masks / f"{name}{protocol.mask_suffix}", maker)
        lists[list_path] = "".join(f"{name}\n" for name in sorted(maker_by_name))
    return Work(maps, lists)


def _read_image_names(root: Path, list_path: Path) -> list[str]:
    """Return the names of the images of a phase from the first list that exists.

    It is the list that an earlier preparation has written, or else CAT-Seg's list for all
    categories, or else the list of VOC.

    Args:
        root: The folder of the data set.
        list_path: The path of the list that a preparation writes, such as `.../val.txt`.

    Raises:
        UsageError: If none of the lists exists.
    """
    possible_lists = (
        list_path,
        root / f"pascalcontext_{list_path.name}",
        root / "ImageSets/Main" / list_path.name,
    )
    for path in possible_lists:
        if path.is_file():
            return path.read_text("utf-8").split()
    raise UsageError(f"{possible_lists[-1]} is missing")


@dataclass(frozen=True, eq=False)
class _MatlabMap:
    """Makes a label map from a .mat file with the category of each pixel."""

    original: Path
    # (460,) the value in the label map for each category.
    value_by_category: Label

    def make(self) -> Label:
        """Return the label map (H, W). Raise UsageError if the file is damaged."""
        from scipy.io import loadmat

        try:
            content = loadmat(self.original, variable_names=["LabelMap"])
            categories = content["LabelMap"].astype(np.uint16)
        except Exception as error:  # SciPy and zlib raise many types for a damaged file
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"cannot read {self.original} ({reason}); fetch it again") from error
        return _translate_categories(categories, str(self.original), self.value_by_category)


def _translate_categories(
    categories: NDArray[np.uint16], location: str, value_by_category: Label
) -> Label:
    """Return the label map (H, W) of an array with the category of each pixel.

    Args:
        categories: The category of each pixel (H, W), from 0 to 459.
        location: The name of the original in the error message.
        value_by_category: The value in the label map for each category, (460,).

    Raises:
        UsageError: If there is an unknown category.
    """
    highest_category = int(categories.max(initial=0))
    if highest_category > _N_CATEGORIES:
        raise UsageError(f"{location} holds category {highest_category}; there are {_N_CATEGORIES}")
    return value_by_category[categories]


def _read_annotations(path: Path) -> list[_AnnotatedImage]:
    """Return the training and validation images of an annotation file, with their segments.

    Raise UsageError if the file is not the annotation file of the Detail API.
    """
    try:
        content = read_json(path)
        # Read the images, and then add the segments to them.
        image_by_id: dict[Any, _AnnotatedImage] = {}
        for entry in content["images"]:
            if entry["phase"] in _PHASES:
                image_by_id[entry["image_id"]] = _AnnotatedImage(
                    name=Path(entry["file_name"]).stem,
                    phase=entry["phase"],
                    size_hw=(entry["height"], entry["width"]),
                    segments=[],
                )
        for annotation in content["annos_segmentation"]:
            image = image_by_id.get(annotation["image_id"])
            if image is not None:
                segment = _Segment(annotation["category_id"], annotation["segmentation"])
                image.segments.append(segment)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not the Detail API's annotation file ({reason})") from error
    return list(image_by_id.values())


@dataclass(frozen=True, eq=False)
class _DrawnMap:
    """Makes a label map by drawing the segments of an image in the annotation file."""

    original: Path
    image: _AnnotatedImage
    # (460,) the value in the label map for each category.
    value_by_category: Label

    def make(self) -> Label:
        """Return the label map (H, W), in which later segments lie on top of earlier ones.

        It is the same in the Detail API's `getMask`. Raise UsageError for a broken segment.
        """
        from pycocotools import mask

        categories = np.zeros(self.image.size_hw, np.uint16)
        location = f"{self.original}: image {self.image.name}"
        try:
            for segment in self.image.segments:
                with _warning_filters_lock, warnings.catch_warnings():
                    # pycocotools returns arrays in a way that NumPy 2 deprecates.
                    warnings.filterwarnings(
                        "ignore", message="__array__", category=DeprecationWarning
                    )
                    is_inside = mask.decode(segment.run_lengths) > 0  # (H, W)
                categories[is_inside] = segment.category
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"{location} has a broken segment ({reason})") from error
        return _translate_categories(categories, location, self.value_by_category)


ADE20K_847 = "ade20k_847"
"""The name of the data set and of its preparation."""
ADE20K_ORIGINALS = "images/ADE/validation"
"""The folder of the full ADE20K's validation images, below the root of the data set."""

_SHORT_SIDE = 512  # pixels
_N_ADE20K_IDS = 256 * 26  # the red value over ten is at most 25


def list_ade20k_847_files(data_root: str | None) -> Work:
    """Return how to make the validation images of ADE20K-847 and their label maps.

    Raise UsageError if the originals are missing.
    """
    protocol = read_set(ADE20K_847)
    root = find_root(protocol, data_root, (ADE20K_ORIGINALS,))
    # The class index for each id of a class in the release. Other ids are not classes.
    index_by_id = np.full(_N_ADE20K_IDS, protocol.ignore_index, np.uint16)
    index_by_id[class_ids(ADE20K_847)] = np.arange(len(protocol.class_names))

    images = sorted((root / ADE20K_ORIGINALS).rglob("ADE_val_*.jpg"))
    if not images:
        raise UsageError(f"no image ADE_val_*.jpg in {root / ADE20K_ORIGINALS}")
    maps: dict[Path, Maker] = {}
    for image in images:
        segments_file = image.with_name(f"{image.stem}_seg.png")
        image_target = root / protocol.images / image.name
        map_target = root / protocol.masks / f"{image.stem}.tif"
        _add_map(maps, image_target, _ShrunkImage(image))
        _add_map(maps, map_target, _ShrunkMap(segments_file, index_by_id))
    return Work(maps)


@dataclass(frozen=True)
class _ShrunkImage:
    """Makes an image of ADE20K with at most 512 pixels on the short side."""

    original: Path

    def make(self) -> Label:
        """Return the image (H, W, 3)."""
        return _shrink(_read_rgb(self.original), "INTER_LINEAR")


@dataclass(frozen=True, eq=False)
class _ShrunkMap:
    """Makes a label map of ADE20K with at most 512 pixels on the short side."""

    # An RGB image, whose red and green values code the class of each pixel.
    original: Path
    # The class index for each id of a class in the release.
    index_by_id: NDArray[np.uint16]

    def make(self) -> Label:
        """Return the label map (H, W)."""
        pixels = _read_rgb(self.original).astype(np.int64)
        red, green = pixels[..., 0], pixels[..., 1]
        # The id of a class is its red value over ten, times 256, plus its green value.
        class_id_of_pixel = red // 10 * 256 + green
        return _shrink(self.index_by_id[class_id_of_pixel], "INTER_NEAREST")


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of an image. Raise UsageError if it cannot be read."""
    try:
        with open_image(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; fetch it again") from error


def _shrink(pixels: NDArray[Any], interpolation: str) -> NDArray[Any]:
    """Return an image or label map, reduced to 512 pixels on the short side if it is larger.

    Args:
        pixels: The image (H, W, 3), or the label map (H, W).
        interpolation: The name of a constant of OpenCV, such as `INTER_LINEAR`.

    Example:
        An image of 1024 x 2048 pixels becomes 512 x 1024.
    """
    import cv2  # here, since other data sets do not need it

    height, width = pixels.shape[:2]
    short_side = min(height, width)
    if short_side <= _SHORT_SIDE:
        return pixels
    new_width_and_height = [round(side / short_side * _SHORT_SIDE) for side in (width, height)]
    return cv2.resize(pixels, new_width_and_height, interpolation=getattr(cv2, interpolation))
