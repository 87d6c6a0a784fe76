"""Label maps that downloads lack, made one by one, each whole or not there.

COCO-Stuff and COCO-Object come from `stuffthingmaps` of COCO-Stuff 164k: COCO's category ids less
one, 0 to 90 for things, 91 to 181 for stuff, 255 for none (github.com/nightrome/cocostuff). Both
take the classes that have pixels, in order: MMSegmentation's tools/dataset_converters/
coco_stuff164k.py, and datasets/cvt_coco_object.py of github.com/sinahmr/NACLIP, which puts 1 to 80
for things and 0 for stuff and for pixels without a label.

Pascal-Context's come from `trainval_merged.json` of github.com/zhanghang1989/detail-api, as
MMSegmentation's tools/dataset_converters/pascal_context.py makes them, or else from the original
`trainval/*.mat` (cs.stanford.edu/~roozbeh/pascal-context), which number the same 459 categories.
Label maps of all categories hold these numbers less one, in 16 bits.

ADE20K-847 is made from the full ADE20K (release 2021_17_01), as MaskFormer's script
datasets/prepare_ade20k_full_sem_seg.py makes it: images and label maps of at most 512 px on the
short side. A pixel's class in `_seg.png` is 256 times its red value over ten, and its green one.
"""

import io
import itertools
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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

_IGNORE = 255  # pixels without a label, in label maps of 8 bits
_INDEXED = ("L", "P")  # modes of PIL whose pixels are 8-bit indices
_MODES: Mapping[str, Sequence[str]] = {".png": _INDEXED, ".tif": ("I;16",), ".jpg": ()}

# Cityscapes' label ids 0 to 33, and those that are evaluated in the order of the classes: `labels`
# in cityscapesscripts/helpers/labels.py of github.com/mcordts/cityscapesScripts. The licence
# plate's id there, -1, is 255 in 8 bits.
_LABEL_IDS = 34
_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_VALUES = 182  # of COCO-Stuff's raw maps, besides 255
# Street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush:
# things with a category id and no pixel.
_EMPTY = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})


class Work(NamedTuple):
    """What a set needs: label maps (H, W) or RGB images (H, W, 3), in formats by their suffix, and
    texts that are written when all of them are there."""

    maps: Mapping[Path, Callable[[], Label]]
    lists: Mapping[Path, str] = {}


class Counts(NamedTuple):
    """Numbers of files that were made (or moved to where they belong), and were there already."""

    made: int
    kept: int


def execute(work: Work, n_classes: int, *, workers: int, progress: OnProgress) -> Counts:
    """Make every label map that is not there and whole, in `workers` threads; then the lists."""
    made = 0
    write = partial(_write, n_classes=n_classes)
    written = prefetch(work.maps.items(), write, workers=workers)
    for done, is_new in enumerate(written, start=1):
        made += is_new
        progress(Progress("label maps", done, len(work.maps)))
    for path, text in work.lists.items():
        _publish(path, text.encode())
    return Counts(made, len(work.maps) - made)


def _write(wanted: tuple[Path, Callable[[], Label]], n_classes: int) -> bool:
    """Make a label map and return True, unless it is there and whole."""
    target, make = wanted
    suffix = target.suffix
    # What is missing or damaged; Pillow raises SyntaxError for a broken PNG.
    with suppress(OSError, SyntaxError, ValueError), open_image(target) as image:
        values = np.asarray(image)
        if image.mode == "RGB" and suffix == ".jpg":
            return False
        ignored = np.iinfo(values.dtype).max
        if image.mode in _MODES[suffix] and ((values < n_classes) | (values == ignored)).all():
            return False
    content = io.BytesIO()
    Image.fromarray(make()).save(content, format=Image.registered_extensions()[suffix])
    _publish(target, content.getvalue())
    return True


def _publish(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _table(pairs: Mapping[int, int]) -> NDArray[np.int16]:
    """Return class indices by an original's values, -1 for values that it cannot hold."""
    index_of = np.full(256, -1, np.int16)
    index_of[list(pairs)] = list(pairs.values())
    return index_of


_CITYSCAPES = {
    **dict.fromkeys((*range(_LABEL_IDS), _IGNORE), _IGNORE),
    **{label_id: index for index, label_id in enumerate(_EVALUATED)},
}
_WITH_PIXELS = (value for value in range(_VALUES) if value not in _EMPTY)
_STUFF = {**{value: index for index, value in enumerate(_WITH_PIXELS)}, _IGNORE: _IGNORE}
_OBJECT = {index: index + 1 if index < len(COCO_THINGS) else 0 for index in _STUFF.values()}

# Suffixes of the originals of each set beside its label maps, the first that is there counts, and
# what their values become. coco_object is made from coco_stuff's where the raw maps were not kept.
_TABLES: Mapping[str, Mapping[str, NDArray[np.int16]]] = {
    "cityscapes": {"_gtFine_labelIds.png": _table(_CITYSCAPES)},
    "coco_stuff": {".png": _table(_STUFF)},
    "coco_object": {
        ".png": _table({value: _OBJECT[index] for value, index in _STUFF.items()}),
        SEGMENTATION["coco_stuff"].mask_suffix: _table(_OBJECT),
    },
}


def translated(protocol: LabelMapProtocol, data_root: str | None) -> Work:
    """List the label maps of all images, made from originals beside them. Raises UsageError."""
    root = find_root(protocol, data_root, (protocol.images, protocol.masks))
    folder, suffix = root / protocol.images, protocol.image_suffix
    images = sorted(folder.rglob(f"*{suffix}"))
    if not images:
        raise UsageError(f"no image *{suffix} in {folder}")
    maps = {}
    for image in images:
        stem = str(root / protocol.masks / image.relative_to(folder)).removesuffix(suffix)
        target = Path(stem + protocol.mask_suffix)
        originals = {Path(stem + end): table for end, table in _TABLES[protocol.dataset].items()}
        original = next((path for path in originals if path.is_file()), next(iter(originals)))
        if not (original.is_file() or target.is_file()):
            raise UsageError(f"{original} is missing")
        maps[target] = partial(_translate, original, originals[original])
    return Work(maps)


def _translate(original: Path, index_of: NDArray[np.int16]) -> Label:
    try:
        with open_image(original) as image:
            require_lossless(image, original)
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read {original}: {error}; fetch it again") from error
    if mode not in _INDEXED:
        raise UsageError(f"{original} is no map of 8-bit values (PIL mode {mode})")
    indices = index_of[values]
    if (indices < 0).any():
        raise UsageError(f"{original} holds {values[indices < 0][0]}, which is no label there")
    return indices.astype(np.uint8)


_CONTEXT = SEGMENTATION["context60"]
_CATEGORIES = 459
# The categories of the 59 classes, in the classes' order (both are alphabetical): `_mapping` in
# MMSegmentation's converter. All others are background.
_CLASSES = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98),
    *(104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295),
    *(296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440),
    *(445, 454, 458),
)
_CLASS_OF: Label = np.zeros(_CATEGORIES + 1, np.uint8)
_CLASS_OF[list(_CLASSES)] = np.arange(1, len(_CLASSES) + 1)
# Without a category: 65535.
_INDEX_OF: Label = np.arange(-1, _CATEGORIES).astype(np.uint16)

ORIGINALS = ("trainval_merged.json", "trainval")
"""Of Pascal-Context beside the images, in the order in which they are preferred."""

_PHASES = ("train", "val")

# Warning filters belong to the process, not to a thread.
_filters = threading.Lock()


class _Picture(NamedTuple):
    name: str
    phase: str
    size_hw: tuple[int, int]
    segments: list[tuple[int, Mapping[str, Any]]]  # categories and their codes


def context(data_root: str | None) -> Work:
    """List label maps of training and validation images, then `train.txt` and `val.txt`."""
    return _context(_CONTEXT, data_root, _PHASES, _CLASS_OF)


def context_459(data_root: str | None) -> Work:
    """List label maps of all categories of the validation images, then `val.txt`."""
    return _context(read_set("context459"), data_root, ("val",), _INDEX_OF)


def _context(
    protocol: LabelMapProtocol, data_root: str | None, phases: Sequence[str], index_of: Label
) -> Work:
    root = find_root(protocol, data_root, (protocol.images,))
    path, folder = (root / original for original in ORIGINALS)
    lists = [(root / str(_CONTEXT.split)).with_name(f"{phase}.txt") for phase in phases]
    masks, suffix = root / protocol.masks, protocol.mask_suffix
    maps: dict[Path, Callable[[], Label]] = {}
    if path.is_file():
        pictures = _read_annotation(path)
        names = {own: [p.name for p in pictures if p.phase == own.stem] for own in lists}
        chosen = (p for p in pictures if p.phase in phases)
        maps |= {masks / f"{p.name}{suffix}": partial(_draw, p, path, index_of) for p in chosen}
    elif folder.is_dir():
        names = {own: _listed(root, own) for own in lists}
        for name in itertools.chain.from_iterable(names.values()):
            target, original = masks / f"{name}{suffix}", folder / f"{name}.mat"
            if not (original.is_file() or target.is_file()):
                raise UsageError(f"{original} is missing")
            maps[target] = partial(_read_matlab, original, index_of)
    else:
        raise UsageError(f"{path} is missing")
    return Work(maps, {own: "".join(f"{n}\n" for n in sorted(names[own])) for own in lists})


def _listed(root: Path, path: Path) -> list[str]:
    """Read the names of a phase: of the list that is there already, of CAT-Seg's (for all
    categories), or of VOC's own."""
    lists = (path, root / f"pascalcontext_{path.name}", root / "ImageSets/Main" / path.name)
    found = next((one for one in lists if one.is_file()), None)
    if found is None:
        raise UsageError(f"{lists[-1]} is missing")
    return found.read_text("utf-8").split()


def _read_matlab(path: Path, index_of: Label) -> Label:
    from scipy.io import loadmat

    try:
        categories = loadmat(path, variable_names=["LabelMap"])["LabelMap"].astype(np.uint16)
    except Exception as error:  # a damaged file fails wherever scipy and zlib first notice
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot read {path} ({reason}); fetch it again") from error
    return _indices(categories, str(path), index_of)


def _indices(categories: NDArray[np.uint16], where: str, index_of: Label) -> Label:
    if (highest := int(categories.max(initial=0))) > _CATEGORIES:
        raise UsageError(f"{where} holds category {highest}; there are {_CATEGORIES}")
    return index_of[categories]


def _read_annotation(path: Path) -> list[_Picture]:
    try:
        content = read_json(path)
        pictures = {}
        for image in content["images"]:
            if image["phase"] in _PHASES:
                name, size_hw = Path(image["file_name"]).stem, (image["height"], image["width"])
                pictures[image["image_id"]] = _Picture(name, image["phase"], size_hw, [])
        for note in content["annos_segmentation"]:
            if note["image_id"] in pictures:
                segment = note["category_id"], note["segmentation"]
                pictures[note["image_id"]].segments.append(segment)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not the Detail API's annotation file ({reason})") from error
    return list(pictures.values())


def _draw(picture: _Picture, path: Path, index_of: Label) -> Label:
    """Draw the segments; later ones lie on top, as the API's `getMask` has them."""
    from pycocotools import mask

    categories = np.zeros(picture.size_hw, np.uint16)
    where = f"{path}: image {picture.name}"
    try:
        for category, code in picture.segments:
            with _filters, warnings.catch_warnings():
                # pycocotools returns arrays in a way that NumPy 2 deprecates.
                warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
                inside = mask.decode(code) > 0  # (H, W)
            categories[inside] = category
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{where} has a broken segment ({reason})") from error
    return _indices(categories, where, index_of)


ADE20K_847 = "ade20k_847"
ADE20K_ORIGINALS = "images/ADE/validation"

_SHORT_SIDE = 512
_IDS = 256 * 26  # of the largest red value, 255


def ade20k_847(data_root: str | None) -> Work:
    """List the images and label maps of the validation images. Raises UsageError."""
    protocol = read_set(ADE20K_847)
    root = find_root(protocol, data_root, (ADE20K_ORIGINALS,))
    index_of = np.full(_IDS, protocol.ignore_index, np.uint16)
    index_of[class_ids(ADE20K_847)] = np.arange(len(protocol.class_names))
    images = sorted((root / ADE20K_ORIGINALS).rglob("ADE_val_*.jpg"))
    if not images:
        raise UsageError(f"no image ADE_val_*.jpg in {root / ADE20K_ORIGINALS}")
    work: dict[Path, Any] = {}
    for image in images:
        original = image.with_name(f"{image.stem}_seg.png")
        target = root / protocol.masks / f"{image.stem}.tif"
        if not (original.is_file() or target.is_file()):
            raise UsageError(f"{original} is missing")
        work[root / protocol.images / image.name] = partial(_image, image)
        work[target] = partial(_label, original, index_of)
    return Work(work)


def _image(original: Path) -> NDArray[np.uint8]:
    return _shrunk(_read(original), "INTER_LINEAR")


def _label(original: Path, index_of: NDArray[np.uint16]) -> Label:
    red, green, _ = np.moveaxis(_read(original).astype(np.int64), 2, 0)
    return _shrunk(index_of[red // 10 * 256 + green], "INTER_NEAREST")


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with open_image(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; fetch it again") from error


def _shrunk(pixels: NDArray[Any], interpolation: str) -> NDArray[Any]:
    import cv2  # here, as the doctor of other sets does without

    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= _SHORT_SIDE:
        return pixels
    size = [round(side / short * _SHORT_SIDE) for side in (width, height)]
    return cv2.resize(pixels, size, interpolation=getattr(cv2, interpolation))
