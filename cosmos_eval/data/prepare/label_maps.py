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

_IGNORE = 255  # the value of pixels without a label in label maps of 8 bits
_INDEXED = ("L", "P")  # modes of PIL whose pixels are 8-bit indices
_MASK_MODES: Mapping[str, Sequence[str]] = {".png": _INDEXED, ".tif": ("I;16",)}

# Cityscapes has the label ids 0 to 33. The ids that are evaluated are listed in the order of the
# classes: `labels` in cityscapesscripts/helpers/labels.py of github.com/mcordts/cityscapesScripts.
# The id of licence plates there, -1, is 255 in 8 bits.
_CITYSCAPES_IDS = 34
_EVALUATED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_STUFF_VALUES = 182  # values of COCO-Stuff's raw maps, besides 255
# Things that have a category id but no pixels: street sign, hat, shoe, eye glasses, plate, mirror,
# window, desk, door, blender, hair brush.
_EMPTY_VALUES = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})


class Maker(Protocol):
    """Makes one label map (H, W), or one RGB image (H, W, 3)."""

    @property
    def original(self) -> Path:
        """The file that it is made from."""

    def make(self) -> Label:
        """Return the pixels. Raise UsageError if the original cannot be read."""


class Work(NamedTuple):
    """The files that a set lacks."""

    # Label maps and images by their paths, whose suffixes tell the formats.
    maps: Mapping[Path, Maker]
    # Texts by their paths; they are written when all maps are there.
    lists: Mapping[Path, str] = {}


class Counts(NamedTuple):
    """How many files were made, or moved to their places, and how many were there already."""

    made: int
    kept: int


def execute(work: Work, n_classes: int, *, workers: int, progress: OnProgress) -> Counts:
    """Make every label map that is missing or damaged, in `workers` threads; then the lists."""
    n_made = 0
    write_map = partial(_write_map, n_classes=n_classes)
    for done, is_new in enumerate(prefetch(work.maps.items(), write_map, workers=workers), start=1):
        if is_new:
            n_made += 1
        progress(Progress("label maps", done, len(work.maps)))
    for path, text in work.lists.items():
        _write_file(path, text.encode())
    return Counts(made=n_made, kept=len(work.maps) - n_made)


def _write_map(path_and_maker: tuple[Path, Maker], n_classes: int) -> bool:
    """Make a label map unless it is there and whole. Return whether it was made."""
    path, maker = path_and_maker
    if _is_whole(path, n_classes):
        return False
    content = io.BytesIO()
    Image.fromarray(maker.make()).save(content, format=Image.registered_extensions()[path.suffix])
    _write_file(path, content.getvalue())
    return True


def _is_whole(path: Path, n_classes: int) -> bool:
    """Return whether a label map, or an image (.jpg), exists and is not damaged.

    All values of a label map must be class indices, or the highest value of its type, which stands
    for pixels without a label.
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
    ignored = np.iinfo(values.dtype).max
    return bool(((values < n_classes) | (values == ignored)).all())


def _write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raise UsageError if it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _add_map(maps: dict[Path, Maker], path: Path, maker: Maker) -> None:
    """Add a label map that is to be made, or that is there already.

    Raise UsageError if neither the label map nor its original exists.
    """
    if not (maker.original.is_file() or path.is_file()):
        raise UsageError(f"{maker.original} is missing")
    maps[path] = maker


def _make_table(index_by_value: Mapping[int, int]) -> NDArray[np.int16]:
    """Return an array (256,) of the class index of every value 0 to 255.

    It is -1 for values that `index_by_value` lacks.
    """
    table = np.full(256, -1, np.int16)
    for value, index in index_by_value.items():
        table[value] = index
    return table


def _map_cityscapes_ids() -> dict[int, int]:
    """Return the class index of every label id of Cityscapes."""
    index_by_value = dict.fromkeys((*range(_CITYSCAPES_IDS), _IGNORE), _IGNORE)
    for index, label_id in enumerate(_EVALUATED_IDS):
        index_by_value[label_id] = index
    return index_by_value


def _map_stuff_values() -> dict[int, int]:
    """Return the class index of every value in COCO-Stuff's raw maps."""
    values = [value for value in range(_STUFF_VALUES) if value not in _EMPTY_VALUES]
    index_by_value = {value: index for index, value in enumerate(values)}
    index_by_value[_IGNORE] = _IGNORE
    return index_by_value


def _object_index(stuff_index: int) -> int:
    """Return the class of COCO-Object for a class of COCO-Stuff, in which things come first."""
    return stuff_index + 1 if stuff_index < len(COCO_THINGS) else 0


_STUFF_INDEX_BY_VALUE = _map_stuff_values()
_OBJECT_INDEX_BY_VALUE = {
    value: _object_index(index) for value, index in _STUFF_INDEX_BY_VALUE.items()
}
_OBJECT_INDEX_BY_STUFF_INDEX = {
    index: _object_index(index) for index in _STUFF_INDEX_BY_VALUE.values()
}

# For each set, the suffixes of the originals beside its label maps and the class index of each
# value in them. The first original that exists counts: coco_object is made from the label maps of
# coco_stuff if the raw maps were not kept.
_ORIGINALS: Mapping[str, Mapping[str, NDArray[np.int16]]] = {
    "cityscapes": {"_gtFine_labelIds.png": _make_table(_map_cityscapes_ids())},
    "coco_stuff": {".png": _make_table(_STUFF_INDEX_BY_VALUE)},
    "coco_object": {
        ".png": _make_table(_OBJECT_INDEX_BY_VALUE),
        SEGMENTATION["coco_stuff"].mask_suffix: _make_table(_OBJECT_INDEX_BY_STUFF_INDEX),
    },
}


def list_translated_maps(protocol: LabelMapProtocol, data_root: str | None) -> Work:
    """List the label maps of all images, made from originals that lie beside them.

    Raise UsageError if an original is missing.
    """
    root = find_root(protocol, data_root, (protocol.images, protocol.masks))
    folder, suffix = root / protocol.images, protocol.image_suffix
    images = sorted(folder.rglob(f"*{suffix}"))
    if not images:
        raise UsageError(f"no image *{suffix} in {folder}")
    maps: dict[Path, Maker] = {}
    for image in images:
        stem = str(root / protocol.masks / image.relative_to(folder)).removesuffix(suffix)
        maker = _translated_map(stem, _ORIGINALS[protocol.dataset])
        _add_map(maps, Path(stem + protocol.mask_suffix), maker)
    return Work(maps)


def _translated_map(stem: str, tables: Mapping[str, NDArray[np.int16]]) -> "_TranslatedMap":
    """Return the maker for the first original that exists, or for the first if none exists.

    `tables` maps suffixes of originals to the class index of each value in them.
    """
    candidates = [_TranslatedMap(Path(stem + suffix), tables[suffix]) for suffix in tables]
    for candidate in candidates:
        if candidate.original.is_file():
            return candidate
    return candidates[0]


@dataclass(frozen=True, eq=False)
class _TranslatedMap:
    """A label map made from one of 8 bits, by the class index of each of its values (256,)."""

    original: Path
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
        indices = self.index_by_value[values]
        if (indices < 0).any():
            value = values[indices < 0][0]
            raise UsageError(f"{self.original} holds {value}, which is not a label there")
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
# The value in a label map for each category, 0 for pixels without a category.
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
    """The pixels of a category, as pycocotools encodes them."""

    category: int
    code: Mapping[str, Any]


class _Picture(NamedTuple):
    """An image of the annotation file, and its segments."""

    name: str
    phase: str
    size_hw: tuple[int, int]
    segments: list[_Segment]


def list_context_maps(data_root: str | None) -> Work:
    """List label maps of training and validation images, then `train.txt` and `val.txt`."""
    return _list_context_phases(_CONTEXT, data_root, _PHASES, _CONTEXT_VALUE_BY_CATEGORY)


def list_context_459_maps(data_root: str | None) -> Work:
    """List label maps of all categories of the validation images, then `val.txt`."""
    return _list_context_phases(
        read_set("context459"), data_root, ("val",), _CONTEXT_459_VALUE_BY_CATEGORY
    )


def _list_context_phases(
    protocol: LabelMapProtocol,
    data_root: str | None,
    phases: Sequence[str],
    value_by_category: Label,
) -> Work:
    """List the label maps of phases of Pascal-Context, and a list of names for each phase.

    Raise UsageError if the originals are missing.
    """
    root = find_root(protocol, data_root, (protocol.images,))
    annotation_file, matlab_folder = root / ORIGINALS[0], root / ORIGINALS[1]
    has_annotation_file = annotation_file.is_file()
    if not has_annotation_file and not matlab_folder.is_dir():
        raise UsageError(f"{annotation_file} is missing")
    pictures = _read_annotation(annotation_file) if has_annotation_file else []
    maps: dict[Path, Maker] = {}
    lists: dict[Path, str] = {}
    for phase in phases:
        list_path = (root / str(_CONTEXT.split)).with_name(f"{phase}.txt")
        makers: list[tuple[str, Maker]]
        if has_annotation_file:
            makers = _drawn_maps(annotation_file, pictures, phase, value_by_category)
        else:
            makers = _matlab_maps(matlab_folder, root, list_path, value_by_category)
        for name, maker in makers:
            _add_map(maps, root / protocol.masks / f"{name}{protocol.mask_suffix}", maker)
        names = sorted(name for name, _ in makers)
        lists[list_path] = "".join(f"{name}\n" for name in names)
    return Work(maps, lists)


def _drawn_maps(
    annotation_file: Path, pictures: Sequence[_Picture], phase: str, value_by_category: Label
) -> list[tuple[str, Maker]]:
    """Return the names of a phase's pictures, and the makers of their label maps."""
    makers: list[tuple[str, Maker]] = []
    for picture in pictures:
        if picture.phase == phase:
            makers.append((picture.name, _DrawnMap(annotation_file, picture, value_by_category)))
    return makers


def _matlab_maps(
    folder: Path, root: Path, list_path: Path, value_by_category: Label
) -> list[tuple[str, Maker]]:
    """Return the names of a phase's images, and the makers of their label maps from .mat files.

    The names are read from the list that is made here, if it is there already, from CAT-Seg's for
    all categories, or else from the list of VOC. Raise UsageError if there is none.
    """
    candidates = (
        list_path,
        root / f"pascalcontext_{list_path.name}",
        root / "ImageSets/Main" / list_path.name,
    )
    for path in candidates:
        if path.is_file():
            names = path.read_text("utf-8").split()
            return [(name, _MatlabMap(folder / f"{name}.mat", value_by_category)) for name in names]
    raise UsageError(f"{candidates[-1]} is missing")


@dataclass(frozen=True, eq=False)
class _MatlabMap:
    """A label map made from a .mat file of categories, by the value for each category."""

    original: Path
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
    """Return the label map of an array of categories (H, W). Raise UsageError for unknown ones."""
    highest = int(categories.max(initial=0))
    if highest > _N_CATEGORIES:
        raise UsageError(f"{location} holds category {highest}; there are {_N_CATEGORIES}")
    return value_by_category[categories]


def _read_annotation(path: Path) -> list[_Picture]:
    """Read the images of both phases and their segments. Raise UsageError for another file."""
    try:
        content = read_json(path)
        pictures = {}
        for image in content["images"]:
            if image["phase"] in _PHASES:
                name, size_hw = Path(image["file_name"]).stem, (image["height"], image["width"])
                pictures[image["image_id"]] = _Picture(name, image["phase"], size_hw, [])
        for note in content["annos_segmentation"]:
            if note["image_id"] in pictures:
                segment = _Segment(note["category_id"], note["segmentation"])
                pictures[note["image_id"]].segments.append(segment)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not the Detail API's annotation file ({reason})") from error
    return list(pictures.values())


@dataclass(frozen=True, eq=False)
class _DrawnMap:
    """A label map drawn from the segments of a picture, by the value for each category."""

    original: Path
    picture: _Picture
    value_by_category: Label

    def make(self) -> Label:
        """Draw the segments; later ones lie on top, as in the API's `getMask`.

        Return the label map (H, W). Raise UsageError for a broken segment.
        """
        from pycocotools import mask

        categories = np.zeros(self.picture.size_hw, np.uint16)
        location = f"{self.original}: image {self.picture.name}"
        try:
            for segment in self.picture.segments:
                with _warning_filters_lock, warnings.catch_warnings():
                    # pycocotools returns arrays in a way that NumPy 2 deprecates.
                    warnings.filterwarnings(
                        "ignore", message="__array__", category=DeprecationWarning
                    )
                    is_inside = mask.decode(segment.code) > 0  # (H, W)
                categories[is_inside] = segment.category
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"{location} has a broken segment ({reason})") from error
        return _translate_categories(categories, location, self.value_by_category)


ADE20K_847 = "ade20k_847"
ADE20K_ORIGINALS = "images/ADE/validation"

_SHORT_SIDE = 512  # pixels
_N_ADE20K_IDS = 256 * 26  # the red value over ten is at most 25


def list_ade20k_847_files(data_root: str | None) -> Work:
    """List the images and label maps of the validation images.

    Raise UsageError if the originals are missing.
    """
    protocol = read_set(ADE20K_847)
    root = find_root(protocol, data_root, (ADE20K_ORIGINALS,))
    index_by_id = np.full(_N_ADE20K_IDS, protocol.ignore_index, np.uint16)
    index_by_id[class_ids(ADE20K_847)] = np.arange(len(protocol.class_names))
    images = sorted((root / ADE20K_ORIGINALS).rglob("ADE_val_*.jpg"))
    if not images:
        raise UsageError(f"no image ADE_val_*.jpg in {root / ADE20K_ORIGINALS}")
    maps: dict[Path, Maker] = {}
    for image in images:
        original = image.with_name(f"{image.stem}_seg.png")
        _add_map(maps, root / protocol.images / image.name, _ShrunkImage(image))
        target = root / protocol.masks / f"{image.stem}.tif"
        _add_map(maps, target, _ShrunkMap(original, index_by_id))
    return Work(maps)


@dataclass(frozen=True)
class _ShrunkImage:
    """An image of ADE20K with at most 512 pixels on the short side."""

    original: Path

    def make(self) -> Label:
        """Return the image (H, W, 3)."""
        return _shrink(_read_rgb(self.original), "INTER_LINEAR")


@dataclass(frozen=True, eq=False)
class _ShrunkMap:
    """A label map of ADE20K with at most 512 pixels on the short side."""

    original: Path
    index_by_id: NDArray[np.uint16]  # the class index for each id

    def make(self) -> Label:
        """Return the label map (H, W)."""
        pixels = _read_rgb(self.original).astype(np.int64)
        ids = pixels[..., 0] // 10 * 256 + pixels[..., 1]
        return _shrink(self.index_by_id[ids], "INTER_NEAREST")


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image (H, W, 3). Raise UsageError if it cannot be read."""
    try:
        with open_image(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; fetch it again") from error


def _shrink(pixels: NDArray[Any], interpolation: str) -> NDArray[Any]:
    """Resize an image or label map whose short side has over 512 pixels to that length."""
    import cv2  # here, since checks of other sets do without

    height, width = pixels.shape[:2]
    short_side = min(height, width)
    if short_side <= _SHORT_SIDE:
        return pixels
    size = [round(side / short_side * _SHORT_SIDE) for side in (width, height)]
    return cv2.resize(pixels, size, interpolation=getattr(cv2, interpolation))
