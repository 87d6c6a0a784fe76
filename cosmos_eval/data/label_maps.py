"""Read images and label maps through MMSegmentation's data set classes.

A label map is an image file whose pixel values are classes.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cosmos_core.data.pixels import open_image
from cosmos_eval.data.folders import (
    Listing,
    compare_counts,
    find_root,
    find_shortfall,
    walk_folders,
)
from cosmos_eval.data.sources import require_lossless
from cosmos_eval.protocols.segmentation import COCO_THINGS
from cosmos_eval.types import FoundSamples, LabelMapProtocol, RunOptions, UsageError, nearest

Label = NDArray[np.integer[Any]]
"""Classes (H, W), uint8 or uint16."""

VALUES = 2**16
"""The number of values that label maps can hold, 0 to 65535."""

# EXIF orientations 5 to 8 turn an image by 90 degrees, which exchanges width and height.
_FIRST_TURNED_ORIENTATION = 5


class Sample(NamedTuple):
    """An image and its label map."""

    # The path of the image below the image folder, without the suffix.
    name: str
    image: Path
    # The file of the label map.
    mask: Path
    # MMSegmentation's record of the sample, which its functions take.
    record: Mapping[str, Any]


class LabelMaps(NamedTuple):
    """A data set of images with label maps."""

    # The samples in the order of the data set.
    samples: tuple[Sample, ...]
    # An RGB colour (0-255) for each class.
    palette: tuple[tuple[int, int, int], ...]
    # How many samples are on the disk, if the complete data set has more.
    found_samples: FoundSamples | None = None


def open_data(protocol: LabelMapProtocol, options: RunOptions) -> LabelMaps:
    """Return the images of a data set, with the paths of their label maps.

    `options.limit` keeps only the first samples. `options.allow_partial` leaves out samples of a
    known data set if their image or label map is missing. Raise UsageError if the data set is
    missing or does not have its known number of images.
    """
    data = list_data(protocol, options)
    if options.allow_partial and protocol.n_images is not None:
        complete_samples = []
        for sample in data.samples:
            if sample.image.is_file() and sample.mask.is_file():
                complete_samples.append(sample)
        # If no sample is complete, keep all of them, so that a missing file is reported.
        if complete_samples:
            data = data._replace(samples=tuple(complete_samples))
    counts = compare_counts(images=(len(data.samples), protocol.n_images))
    data = data._replace(found_samples=find_shortfall(counts))
    image_folder = find_root(protocol, options.data_root) / protocol.images
    return Listing(data=data, path=image_folder, counts=counts).checked_data(protocol, options)


def list_data(protocol: LabelMapProtocol, options: RunOptions) -> LabelMaps:
    """Return the samples as `open_data` does, without checking their number.

    Raise UsageError if the data set is missing or has no images.
    """
    root = find_root(protocol, options.data_root)
    folder = root / protocol.images
    if protocol.split is None:
        # MMSegmentation would follow links to folders in circles. `walk_folders` raises UsageError
        # for them, also if its results are not used.
        for _ in walk_folders(folder):
            pass
    # If unlabelled images are left out, the limit is applied after that.
    limit = None if protocol.only_labelled else options.limit
    dataset = _build_dataset(protocol, root, limit)
    samples = []
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        image = Path(record["img_path"])
        name = image.relative_to(folder).as_posix().removesuffix(protocol.image_suffix)
        samples.append(Sample(name, image, Path(record["seg_map_path"]), record))
    if protocol.only_labelled:
        labelled_samples = [sample for sample in samples if sample.mask.is_file()]
        samples = labelled_samples[: options.limit]
    if not samples:
        suffixes = sorted({path.suffix for path in folder.rglob("*.*") if path.is_file()})
        hint = f", only of {', '.join(suffixes)}: set `image_suffix`" if suffixes else ""
        raise UsageError(f"{protocol.dataset}: no image *{protocol.image_suffix} in {folder}{hint}")
    return LabelMaps(tuple(samples), _select_class_colours(dataset.metainfo["palette"], protocol))


def palette(protocol: LabelMapProtocol) -> tuple[tuple[int, int, int], ...]:
    """Return MMSegmentation's RGB colour (0-255) of every class; none for plain folders."""
    cls = dataset_class(protocol.mmseg_type or "BaseSegDataset")
    return _select_class_colours(cls.METAINFO.get("palette", ()), protocol)


def _select_class_colours(
    colours: Any, protocol: LabelMapProtocol
) -> tuple[tuple[int, int, int], ...]:
    """Return one colour for each class of a protocol, from the colours of MMSegmentation's classes.

    A protocol may leave out MMSegmentation's first class, the background. Its classes therefore
    have the last colours: of 21 colours, 20 classes get all but the first.
    """
    n_classes = len(protocol.class_names)
    return tuple((red, green, blue) for red, green, blue in colours[-n_classes:])


def read_label(sample: Sample, protocol: LabelMapProtocol) -> Label:
    """Return the classes (H, W) in the label map of a sample, as MMSegmentation loads it.

    Raise UsageError if it cannot be read or has a class that the protocol does not declare.
    """
    label = load_label(sample, protocol)
    require_declared(label, sample, protocol)
    return label


def load_label(sample: Sample, protocol: LabelMapProtocol) -> Label:
    """Return the classes (H, W) in the label map of a sample, without checking them.

    Label maps of 8 bits are loaded by MMSegmentation, which may reduce their values by 1. Raise
    UsageError if the file cannot be read, is in a lossy format, or does not have the protocol's 8
    or 16 bits per pixel.
    """
    load_annotations = mmseg_module("datasets").transforms.LoadAnnotations()
    bits = protocol.label_bits
    try:
        with open_image(sample.mask) as image:
            width, height = image.size
            require_lossless(image, sample.mask)
            if _bits_per_pixel(image) != bits:
                raise UsageError(
                    f"{sample.mask} is not a map of {bits}-bit class indices (PIL mode "
                    f"{image.mode}): save indices, not colours"
                )
            if bits == 16:  # MMSegmentation casts all label maps to 8 bits
                return np.asarray(image).astype(np.uint16)
        label = load_annotations({**sample.record, "seg_fields": []})["gt_seg_map"]
    except UsageError:
        raise
    except Exception as error:  # Pillow does not document its errors for damaged files
        raise UsageError(f"cannot read label map {sample.mask}: {error}") from error
    return label.reshape(height, width)  # MMSegmentation drops a side of one pixel


def _bits_per_pixel(image: Image.Image) -> int | None:
    """Return 8 or 16 if the pixels of an image are integers of that size, or else None."""
    if image.mode in ("1", "L", "P"):
        return 8
    if image.mode.startswith("I;16"):
        return 16
    if image.mode == "I" and image.format == "PNG":  # 16-bit PNG files in older Pillow
        return 16
    return None


def find_occurring_values(label: Label) -> NDArray[np.bool_]:
    """Return which values occur in a label map, as truth values for 0 to 65535 (VALUES,)."""
    return np.bincount(label.ravel(), minlength=VALUES) > 0


def require_same_size(sample: Sample, image_hw: tuple[int, int], label: Label) -> None:
    """Raise UsageError if a label map has another size than its image, (height, width)."""
    if image_hw != label.shape:
        raise UsageError(
            f"label map {sample.mask} is {label.shape[1]}x{label.shape[0]} px, "
            f"its image {image_hw[1]}x{image_hw[0]}"
        )


def require_declared(label: Label, sample: Sample, protocol: LabelMapProtocol) -> None:
    """Raise UsageError if a label map has a class that the protocol does not declare.

    Declared are the indices of the classes, and `ignore_index` for pixels without a class.
    """
    is_undeclared = find_occurring_values(label)
    is_undeclared[: len(protocol.class_names)] = False
    is_undeclared[protocol.ignore_index] = False
    if is_undeclared.any():
        first_value = int(is_undeclared.argmax())
        # The message names the value in the file. MMSegmentation has subtracted 1 from it if the
        # protocol reduces labels.
        value = first_value + 1 if protocol.reduce_zero_label else first_value
        raise UsageError(
            f"label map {sample.mask} holds class {value}, which {protocol.dataset} does not "
            f"declare ({len(protocol.class_names)} classes, ignored: {protocol.ignore_index}): "
            "see `classes` and `ignore_index`"
        )


def displayed_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image after it is turned upright by its EXIF orientation.

    OpenCV decodes images so. Only the header of the file is read. Raise UsageError if that fails.
    """
    try:
        with open_image(path) as header:
            width, height = header.size
            orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        raise UsageError(f"cannot read image {path}: {error}") from error
    is_turned_by_90_degrees = orientation >= _FIRST_TURNED_ORIENTATION
    return (width, height) if is_turned_by_90_degrees else (height, width)


def _build_dataset(protocol: LabelMapProtocol, root: Path, limit: int | None) -> Any:
    """Return MMSegmentation's data set of a protocol, with its first `limit` samples (None: all).

    `root` is the folder that the paths of the protocol are relative to.
    """
    cls = dataset_class(protocol.mmseg_type or "BaseSegDataset")
    _require_class_count(cls, protocol)
    return cls(
        data_root=str(root),
        data_prefix={"img_path": protocol.images, "seg_map_path": protocol.masks},
        ann_file=protocol.split or "",
        img_suffix=protocol.image_suffix,
        seg_map_suffix=protocol.mask_suffix,
        reduce_zero_label=protocol.reduce_zero_label,
        ignore_index=protocol.ignore_index,
        indices=limit,
        serialize_data=False,  # which only pays if worker processes copy the list
        # If a class of MMSegmentation has class names, other names would make it renumber the
        # labels.
        metainfo=None if cls.METAINFO else {"classes": protocol.class_names},
    )


@functools.cache
def _get_registry() -> Any:
    """Return MMSegmentation's registry of data set classes, with COCO-Object in it.

    The first call adds the class `COCOObjectDataset`, which MMSegmentation lacks.
    """
    base = mmseg_module("datasets").BaseSegDataset
    from mmseg.registry import DATASETS

    @DATASETS.register_module()
    class COCOObjectDataset(base):  # type: ignore[misc, valid-type]
        """COCO's 80 things and the background, in label maps made from COCO-Stuff's."""

        METAINFO = {"classes": ("background", *COCO_THINGS)}  # noqa: RUF012 as its bases do

    return DATASETS


def dataset_class(name: str) -> Any:
    """Return MMSegmentation's data set class of a name, such as `ADE20KDataset`.

    Raise UsageError with the nearest names if there is none.
    """
    cls = _get_registry().get(name)
    if cls is None:
        nearest_names = nearest(name, list(_get_registry().module_dict))
        raise UsageError(f"MMSegmentation has no data set class '{name}'; known: {nearest_names}")
    return cls


def _require_class_count(cls: Any, protocol: LabelMapProtocol) -> None:
    """Raise UsageError if a data set class of MMSegmentation does not fit the protocol.

    Both must have the same number of classes. The class of MMSegmentation may have one more, the
    background, if the protocol removes it by `reduce_zero_label`.
    """
    n_mmseg = len(cls.METAINFO.get("classes", ()))  # 0 for plain folders
    n_declared = len(protocol.class_names)
    possible_numbers = [0, n_declared]
    if protocol.reduce_zero_label:
        possible_numbers.append(n_declared + 1)
    if n_mmseg not in possible_numbers:
        raise UsageError(
            f"{protocol.dataset}: {n_declared} classes declared, {cls.__name__} has {n_mmseg}"
        )
    # With the same classes, the protocol must reduce labels if and only if MMSegmentation does.
    parameter = inspect.signature(cls).parameters.get("reduce_zero_label")
    mmseg_reduces = parameter is not None and parameter.default is True
    if n_mmseg == n_declared and protocol.reduce_zero_label != mmseg_reduces:
        raise UsageError(
            f"{protocol.dataset}: reduce_zero_label must be {str(mmseg_reduces).lower()} for the "
            f"{n_declared} classes of {cls.__name__}"
        )


@functools.cache
def mmseg_module(name: str) -> ModuleType:
    """Return the module `mmseg.NAME` of MMSegmentation, which is imported on first use.

    It also works with mmcv-lite, which lacks mmcv's compiled module: a placeholder is imported in
    its place. The first use must not be in a thread, since warning filters belong to the process.
    """
    with warnings.catch_warnings(), contextlib.ExitStack() as cleanup:
        # mmcv.ops compiles two functions with torch.jit at import, which newer torch deprecates.
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        # MMCV warns of a name that has moved, even if the name is still there.
        warnings.filterwarnings("ignore", message="``MultiScale", category=ImportWarning)
        if importlib.util.find_spec("mmcv._ext") is None:
            sys.modules["mmcv._ext"] = _Placeholder("mmcv._ext")
            # Remove it after the import: MMEngine later asks for the specification of the module,
            # which the placeholder lacks.
            cleanup.callback(sys.modules.pop, "mmcv._ext")
        return importlib.import_module(f"mmseg.{name}")


class _Placeholder(ModuleType):
    """A stand-in for mmcv's compiled module `mmcv._ext`, which mmcv-lite does not have.

    MMSegmentation imports the functions of the module and does not call them here.
    """

    def __getattr__(self, name: str) -> Any:
        """Return a function in place of the operation `name`, which raises RuntimeError if called.

        Raise AttributeError for names such as `__file__`.
        """
        if name.startswith("__"):  # the import system and inspect look for such names
            raise AttributeError(name)

        def missing_operation(*_: Any, **__: Any) -> NoReturn:
            """Raise RuntimeError for any arguments."""
            raise RuntimeError(f"mmcv's compiled operation {name} is not part of mmcv-lite")

        return missing_operation
