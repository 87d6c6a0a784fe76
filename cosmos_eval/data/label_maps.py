"""Read images and label maps through MMSegmentation's data set classes.

A label map is an image file whose pixel values are classes.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags

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
    # The training samples of a probe.
    train: tuple[Sample, ...] = ()


def open_data(protocol: LabelMapProtocol, options: RunOptions) -> LabelMaps:
    """Return the images of a data set, with the paths of their label maps.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first samples. `allow_partial` leaves out samples of a data
            set of known size if their image or label map is missing.

    Raises:
        UsageError: If the data set is missing, or does not have its known number of images.
    """
    data = list_data(protocol, options)
    has_known_size = protocol.n_images is not None
    if options.allow_partial and has_known_size:
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
    """Return the images of a data set, with the paths of their label maps, unchecked.

    Unlike `open_data`, this does not compare the number of samples with the known one, and keeps
    samples whose files are missing.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first samples.

    Raises:
        UsageError: If the data set is missing, or if it has no images.
    """
    root = find_root(protocol, options.data_root)
    image_folder = root / protocol.images
    if protocol.split is None:
        # MMSegmentation would follow links to folders in circles. `walk_folders` raises UsageError
        # for them, also if its results are not used.
        for _ in walk_folders(image_folder):
            pass

    # If unlabelled images are left out, the limit is applied after that.
    limit = None if protocol.only_labelled else options.limit
    dataset = _build_dataset(protocol, root, limit)
    samples = []
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        image = Path(record["img_path"])
        # The path below the folder without the suffix, for example "val/1".
        name = image.relative_to(image_folder).as_posix().removesuffix(protocol.image_suffix)
        samples.append(Sample(name, image, Path(record["seg_map_path"]), record))
    if protocol.only_labelled:
        labelled_samples = [sample for sample in samples if sample.mask.is_file()]
        samples = labelled_samples[: options.limit]

    if not samples:
        suffixes = sorted({path.suffix for path in image_folder.rglob("*.*") if path.is_file()})
        hint = f", only of {', '.join(suffixes)}: set `image_suffix`" if suffixes else ""
        raise UsageError(
            f"{protocol.dataset}: no image *{protocol.image_suffix} in {image_folder}{hint}"
        )
    colours = _select_class_colours(dataset.metainfo["palette"], protocol)
    return LabelMaps(tuple(samples), colours)


def palette(protocol: LabelMapProtocol) -> tuple[tuple[int, int, int], ...]:
    """Return MMSegmentation's RGB colour (0-255) of every class; none for plain folders."""
    cls = dataset_class(protocol.mmseg_type or "BaseSegDataset")
    return _select_class_colours(cls.METAINFO.get("palette", ()), protocol)


def _select_class_colours(
    colours: Any, protocol: LabelMapProtocol
) -> tuple[tuple[int, int, int], ...]:
    """Return one RGB colour for each class of a protocol.

    A protocol may leave out MMSegmentation's first class, the background. Its classes therefore
    have the last colours.

    Args:
        colours: The RGB colours (0-255) of MMSegmentation's classes.
        protocol: The protocol with the classes.

    Example:
        20 classes get all of 21 colours but the first.
    """
    n_classes = len(protocol.class_names)
    return tuple((red, green, blue) for red, green, blue in colours[-n_classes:])


def read_label(sample: Sample, protocol: LabelMapProtocol) -> Label:
    """Return the class of every pixel (H, W) in the label map of a sample, as MMSegmentation does.

    Raise UsageError if it cannot be read or has a class that the protocol does not declare.
    """
    label = load_label(sample, protocol)
    require_declared(label, sample, protocol)
    return label


def load_label(sample: Sample, protocol: LabelMapProtocol) -> Label:
    """Return the class of every pixel (H, W) in the label map of a sample, unchecked.

    Label maps of 8 bits are loaded by MMSegmentation, which may reduce their values by 1.

    Args:
        sample: The sample.
        protocol: States whether pixels have 8 or 16 bits (`label_bits`).

    Raises:
        UsageError: If the file cannot be read, is in a lossy format, or has another number of bits.
    """
    load_annotations = mmseg_module("datasets").transforms.LoadAnnotations()
    try:
        with open_image(sample.mask) as image:
            width, height = image.size
            require_lossless(image, sample.mask)

            # Find the bits of a pixel. In older Pillow, 16-bit PNG files have the mode I.
            bits_per_pixel = None  # for colours and real numbers
            if image.mode in ("1", "L", "P"):
                bits_per_pixel = 8
            elif image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                bits_per_pixel = 16
            if bits_per_pixel != protocol.label_bits:
                raise UsageError(
                    f"{sample.mask} is not a map of {protocol.label_bits}-bit class indices (PIL "
                    f"mode {image.mode}): save indices, not colours"
                )
            if bits_per_pixel == 16:  # MMSegmentation casts all label maps to 8 bits
                return np.asarray(image).astype(np.uint16)
        label = load_annotations({**sample.record, "seg_fields": []})["gt_seg_map"]
    except UsageError:
        raise
    except Exception as error:  # Pillow does not document its errors for damaged files
        raise UsageError(f"cannot read label map {sample.mask}: {error}") from error
    return label.reshape(height, width)  # MMSegmentation drops a side of one pixel


def require_same_size(sample: Sample, image_hw: tuple[int, int], label: Label) -> None:
    """Raise UsageError if a label map has another size than its image.

    Args:
        sample: The sample, for the error message.
        image_hw: The height and the width of the image, in pixels.
        label: The label map (H, W).
    """
    if image_hw != label.shape:
        label_height, label_width = label.shape
        image_height, image_width = image_hw
        raise UsageError(
            f"label map {sample.mask} is {label_width}x{label_height} px, "
            f"its image {image_width}x{image_height}"
        )


def require_declared(label: Label, sample: Sample, protocol: LabelMapProtocol) -> None:
    """Raise UsageError if a label map has a class that the protocol does not declare.

    A protocol declares the indices of its classes (0, 1, ...), and `ignore_index` for pixels
    without a class.

    Args:
        label: The label map (H, W).
        sample: The sample, for the error message.
        protocol: The protocol that declares the classes.
    """
    n_classes = len(protocol.class_names)
    # Find the values that occur, (VALUES,), and remove the declared ones.
    is_undeclared = np.bincount(label.ravel(), minlength=VALUES) > 0
    is_undeclared[:n_classes] = False
    is_undeclared[protocol.ignore_index] = False
    if is_undeclared.any():
        first_value = int(is_undeclared.argmax())
        # The message names the value in the file. MMSegmentation has subtracted 1 from it if the
        # protocol reduces labels.
        file_value = first_value + 1 if protocol.reduce_zero_label else first_value
        raise UsageError(
            f"label map {sample.mask} holds class {file_value}, which {protocol.dataset} does not "
            f"declare ({n_classes} classes, ignored: {protocol.ignore_index}): see `classes` and "
            "`ignore_index`"
        )


def displayed_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image after it is turned upright by its EXIF orientation.

    This is the size that OpenCV decodes the image to. Only the header of the file is read. Raise
    UsageError if that fails.
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
    """Return MMSegmentation's data set of a protocol.

    Args:
        protocol: Names the class of MMSegmentation (`mmseg_type`), and the paths of the files.
        root: The folder that these paths are relative to.
        limit: How many of the first samples the data set has. None keeps all.

    Raises:
        UsageError: If the class of MMSegmentation does not fit the classes of the protocol.
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
        raise UsageError(f"MMSegmentation has no data set class '{name}'; nearest: {nearest_names}")
    return cls


def _require_class_count(cls: Any, protocol: LabelMapProtocol) -> None:
    """Raise UsageError if a data set class of MMSegmentation does not fit the protocol.

    Both must have the same number of classes, and must treat the value 0 in the same way. The class
    of MMSegmentation may have one more class, the background, if the protocol removes it by
    `reduce_zero_label`: then the value 0 of the label maps is ignored.

    Args:
        cls: The class, such as `ADE20KDataset`. For plain folders, it has no class names.
        protocol: The protocol with its class names.
    """
    n_mmseg_classes = len(cls.METAINFO.get("classes", ()))  # 0 for plain folders
    n_protocol_classes = len(protocol.class_names)
    possible_numbers = [0, n_protocol_classes]
    if protocol.reduce_zero_label:
        possible_numbers.append(n_protocol_classes + 1)
    if n_mmseg_classes not in possible_numbers:
        raise UsageError(
            f"{protocol.dataset}: {n_protocol_classes} classes declared, {cls.__name__} has "
            f"{n_mmseg_classes}"
        )

    # With the same classes, the protocol must reduce labels if and only if MMSegmentation does.
    parameter = inspect.signature(cls).parameters.get("reduce_zero_label")
    mmseg_reduces = parameter is not None and parameter.default is True
    if n_mmseg_classes == n_protocol_classes and protocol.reduce_zero_label != mmseg_reduces:
        raise UsageError(
            f"{protocol.dataset}: reduce_zero_label must be {str(mmseg_reduces).lower()} for the "
            f"{n_protocol_classes} classes of {cls.__name__}"
        )


@functools.cache
def mmseg_module(name: str) -> ModuleType:
    """Return the module `mmseg.NAME` of MMSegmentation, which is imported on first use.

    It also works with mmcv-lite, which lacks mmcv's compiled module: a placeholder is imported in
    its place. The first use must not be in a thread, since warning filters belong to the process.

    Args:
        name: The name of the module, such as `datasets`.

    Raises:
        UsageError: If MMSegmentation or a package that it needs is missing.
    """
    with warnings.catch_warnings(), contextlib.ExitStack() as cleanup:
        # The fork onedl-mmsegmentation prints that it cannot import a package of its own.
        cleanup.enter_context(contextlib.redirect_stdout(io.StringIO()))
        # mmcv.ops compiles two functions with torch.jit at import, which newer torch deprecates.
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        # MMCV warns of a name that has moved, even if the name is still there.
        warnings.filterwarnings("ignore", message="``MultiScale", category=ImportWarning)
        try:
            if importlib.util.find_spec("mmcv._ext") is None:
                sys.modules["mmcv._ext"] = _Placeholder("mmcv._ext")
                # Remove it after the import: MMEngine later asks for the specification of the
                # module, which the placeholder lacks.
                cleanup.callback(sys.modules.pop, "mmcv._ext")
            return importlib.import_module(f"mmseg.{name}")
        except ModuleNotFoundError as error:
            raise UsageError(
                f"label maps need MMSegmentation, which lacks a package ({error}): pip install "
                "'mmsegmentation==1.2.2' 'mmcv-lite<2.2' 'mmengine<0.11' ftfy regex"
            ) from error


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
            """Raise RuntimeError, since mmcv-lite cannot compute the operation."""
            raise RuntimeError(f"mmcv's compiled operation {name} is not part of mmcv-lite")

        return missing_operation
