"""Segmentation data through MMSegmentation's data set classes: list and read."""

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
from cosmos_eval.data.folders import Listing, find_root, parts_of, shortfall, walk
from cosmos_eval.data.sources import require_lossless
from cosmos_eval.protocols.segmentation import COCO_THINGS
from cosmos_eval.types import LabelMapProtocol, Part, RunOptions, UsageError, nearest

Label = NDArray[np.integer[Any]]
"""Classes (H, W), uint8 or uint16."""

VALUES = 2**16
"""What label maps can hold, at most."""


class Sample(NamedTuple):
    """An image and its label map. `name`: path below the image folder, without the suffix."""

    name: str
    image: Path
    mask: Path
    record: Mapping[str, Any]


class LabelMaps(NamedTuple):
    """Samples in the data set's order, an RGB colour (0-255) per class, how incomplete they are."""

    samples: tuple[Sample, ...]
    palette: tuple[tuple[int, int, int], ...]
    part: Part | None = None


def open_data(protocol: LabelMapProtocol, options: RunOptions) -> LabelMaps:
    """List the samples, all or the partial set allowed. Raises UsageError for any fault."""
    data = list_data(protocol, options)
    if options.allow_partial and protocol.n_images is not None:
        found = [s for s in data.samples if s.image.is_file() and s.mask.is_file()]
        # Where no sample is complete, the first file that is missing says more.
        data = data._replace(samples=tuple(found) or data.samples)
    parts = parts_of(images=(len(data.samples), protocol.n_images))
    where = find_root(protocol, options.data_root) / protocol.images
    listing = Listing(data=data._replace(part=shortfall(parts)), where=where, parts=parts)
    return listing.require(protocol, options)


def list_data(protocol: LabelMapProtocol, options: RunOptions) -> LabelMaps:
    """List a data set as `open_data` does, whatever the number of its images."""
    root = find_root(protocol, options.data_root)
    folder = root / protocol.images
    if protocol.split is None:  # MMSegmentation then walks the folder, also in circles
        list(walk(folder))
    dataset = _build(protocol, root, None if protocol.only_labelled else options.limit)
    samples = []
    for record in map(dataset.get_data_info, range(len(dataset))):
        image = Path(record["img_path"])
        name = image.relative_to(folder).as_posix().removesuffix(protocol.image_suffix)
        samples.append(Sample(name, image, Path(record["seg_map_path"]), record))
    if protocol.only_labelled:
        samples = [sample for sample in samples if sample.mask.is_file()][: options.limit]
    if not samples:
        suffixes = sorted({path.suffix for path in folder.rglob("*.*") if path.is_file()})
        hint = f", only of {', '.join(suffixes)}: set `image_suffix`" if suffixes else ""
        raise UsageError(f"{protocol.dataset}: no image *{protocol.image_suffix} in {folder}{hint}")
    return LabelMaps(tuple(samples), _colours(dataset.metainfo["palette"], protocol))


def palette(protocol: LabelMapProtocol) -> tuple[tuple[int, int, int], ...]:
    """Return MMSegmentation's RGB colours (0-255) of the classes; none for plain folders."""
    kind = dataset_class(protocol.mmseg_type or "BaseSegDataset")
    return _colours(kind.METAINFO.get("palette", ()), protocol)


def _colours(colours: Any, protocol: LabelMapProtocol) -> tuple[tuple[int, int, int], ...]:
    return tuple((r, g, b) for r, g, b in colours[-len(protocol.class_names) :])


def read_label(sample: Sample, protocol: LabelMapProtocol) -> Label:
    """Load a label map (H, W) as MMSegmentation does. Raises UsageError for undeclared classes."""
    label = load_label(sample, protocol)
    require_declared(label, sample, protocol)
    return label


def load_label(sample: Sample, protocol: LabelMapProtocol) -> Label:
    """Load a label map as `read_label` does, whatever classes it holds."""
    load, bits = mmseg_module("datasets").transforms.LoadAnnotations(), protocol.label_bits
    try:
        with open_image(sample.mask) as image:
            mode, size = image.mode, image.size
            require_lossless(image, sample.mask)
            if _bits(image) != bits:
                kind = f"map of {bits}-bit class indices (PIL mode {mode})"
                raise UsageError(f"{sample.mask} is no {kind}: save indices, not colours")
            if bits == 16:  # MMSegmentation casts all label maps to 8 bits
                return np.asarray(image).astype(np.uint16)
        squeezed = load({**sample.record, "seg_fields": []})["gt_seg_map"]
    except UsageError:
        raise
    except Exception as error:  # what Pillow's decoders raise for damaged files is not documented
        raise UsageError(f"cannot read label map {sample.mask}: {error}") from error
    return squeezed.reshape(size[::-1])  # a side of one pixel, which MMSegmentation drops


def _bits(image: Image.Image) -> int | None:
    """Return the bits of an image's integer values; older Pillow calls 16-bit PNG files `I`."""
    if image.mode in ("1", "L", "P"):
        return 8
    deep = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
    return 16 if deep else None


def values_of(label: Label) -> NDArray[np.bool_]:
    """Return which of the VALUES a label map holds."""
    return np.bincount(label.ravel(), minlength=VALUES) > 0


def require_same_size(sample: Sample, image_hw: tuple[int, int], label: Label) -> None:
    """Raise UsageError where a label map is not of its image's size."""
    if image_hw != label.shape:
        raise UsageError(
            f"label map {sample.mask} is {label.shape[1]}x{label.shape[0]} px, "
            f"its image {image_hw[1]}x{image_hw[0]}"
        )


def require_declared(label: Label, sample: Sample, protocol: LabelMapProtocol) -> None:
    """Raise UsageError where a label map holds a class that the protocol does not declare."""
    undeclared = values_of(label)
    undeclared[: len(protocol.class_names)] = False
    undeclared[protocol.ignore_index] = False
    if undeclared.any():
        value = int(undeclared.argmax()) + protocol.reduce_zero_label
        raise UsageError(
            f"label map {sample.mask} holds class {value}, which {protocol.dataset} does not "
            f"declare ({len(protocol.class_names)} classes, ignored: {protocol.ignore_index}): "
            "see `classes` and `ignore_index`"
        )


def displayed_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image as OpenCV decodes it, turned by EXIF; header only."""
    try:
        with open_image(path) as header:
            width, height = header.size
            turned = header.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception as error:
        raise UsageError(f"cannot read image {path}: {error}") from error
    return (width, height) if turned else (height, width)


def _build(protocol: LabelMapProtocol, root: Path, limit: int | None) -> Any:
    kind = dataset_class(protocol.mmseg_type or "BaseSegDataset")
    _require_class_count(kind, protocol)
    return kind(
        data_root=str(root),
        data_prefix={"img_path": protocol.images, "seg_map_path": protocol.masks},
        ann_file=protocol.split or "",
        img_suffix=protocol.image_suffix,
        seg_map_suffix=protocol.mask_suffix,
        reduce_zero_label=protocol.reduce_zero_label,
        ignore_index=protocol.ignore_index,
        indices=limit,
        serialize_data=False,  # only pays where worker processes copy the list
        # A class with classes of its own would take other names for a wish to relabel.
        metainfo=None if kind.METAINFO else {"classes": protocol.class_names},
    )


@functools.cache
def _registry() -> Any:
    base = mmseg_module("datasets").BaseSegDataset
    from mmseg.registry import DATASETS

    @DATASETS.register_module()
    class COCOObjectDataset(base):  # type: ignore[misc, valid-type]
        """COCO's 80 things and the background, in label maps made from COCO-Stuff's."""

        METAINFO = {"classes": ("background", *COCO_THINGS)}  # noqa: RUF012 as its bases do

    return DATASETS


def dataset_class(name: str) -> Any:
    """Return the data set class that MMSegmentation has under a name."""
    if kind := _registry().get(name):
        return kind
    known = nearest(name, list(_registry().module_dict))
    raise UsageError(f"MMSegmentation has no data set class '{name}'; known: {known}")


def _require_class_count(kind: Any, protocol: LabelMapProtocol) -> None:
    """Require that label maps have the protocol's classes, and zero where that is reduced away."""
    labelled = len(kind.METAINFO.get("classes", ()))
    declared = len(protocol.class_names)
    if labelled not in (0, declared, declared + protocol.reduce_zero_label):
        raise UsageError(
            f"{protocol.dataset}: {declared} classes declared, {kind.__name__} has {labelled}"
        )
    # A class list without the background of the label maps asks for the reduction; one as long as
    # MMSegmentation's leaves the choice to it.
    reduces = inspect.signature(kind).parameters.get("reduce_zero_label")
    usual = reduces is not None and reduces.default is True
    if labelled == declared and protocol.reduce_zero_label != usual:
        raise UsageError(
            f"{protocol.dataset}: reduce_zero_label must be {str(usual).lower()} for the "
            f"{declared} classes of {kind.__name__}"
        )


@functools.cache
def mmseg_module(name: str) -> ModuleType:
    """Return a module of MMSegmentation, imported on first use, which must not be in a thread."""
    with warnings.catch_warnings(), contextlib.ExitStack() as after:
        # mmcv.ops compiles two functions with torch.jit at import, which newer torch deprecates.
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        # MMCV warns of a name that has moved wherever the name is there.
        warnings.filterwarnings("ignore", message="``MultiScale", category=ImportWarning)
        if importlib.util.find_spec("mmcv._ext") is None:
            sys.modules["mmcv._ext"] = _Placeholder("mmcv._ext")
            # MMEngine later asks for its spec.
            after.callback(sys.modules.pop, "mmcv._ext")
        return importlib.import_module(f"mmseg.{name}")


class _Placeholder(ModuleType):
    """The compiled module that MMSegmentation loads but never calls, and mmcv-lite lacks."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system and inspect look for
            raise AttributeError(name)

        def missing_operation(*_: Any, **__: Any) -> NoReturn:
            raise RuntimeError(f"mmcv's compiled operation {name} is not part of mmcv-lite")

        return missing_operation
