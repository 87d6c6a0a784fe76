"""Annotated boxes of images, as COCO, its panoptic segments and LVIS list them. Imports no torch.

COCO (Lin et al. 2014, arXiv 1405.0312) lists annotations with an image each, its panoptic form
(Kirillov et al. 2019, arXiv 1801.00868) lists the segments of each image, and LVIS (Gupta et al.
2019, arXiv 1908.03195) names images by their addresses: `.../val2017/000000000139.jpg`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import numpy as np
import pydantic

from cosmos_eval.data import folders, readers
from cosmos_eval.data.class_names import ClassData, make_data, template_faults
from cosmos_eval.data.readers import FileError, report_faults_at
from cosmos_eval.data.regions import Box, make_region
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.types import BoxesProtocol, RunOptions

KINDS = ("thing", "stuff")
"""The groups of boxes by the kind of their class, if the file states it."""


class _Image(pydantic.BaseModel, strict=True):
    """The fields of an image that are read. LVIS has an address in place of the file name."""

    id: int
    width: pydantic.PositiveInt
    height: pydantic.PositiveInt
    file_name: readers.Text | None = None
    coco_url: readers.Text | None = None


class _Segment(pydantic.BaseModel, strict=True):
    """The fields of a segment that are read."""

    category_id: int
    # Left, top, width and height in pixels.
    bbox: Annotated[list[pydantic.FiniteFloat], pydantic.Field(min_length=4, max_length=4)]


class _Instance(_Segment, strict=True):
    """The fields of an annotated object that are read."""

    image_id: int


class _SegmentsOfImage(pydantic.BaseModel, strict=True):
    """The segments of an image, as panoptic files list them."""

    image_id: int
    segments_info: list[_Segment]


class _Category(pydantic.BaseModel, strict=True):
    """A class. Panoptic files state whether it is a thing or stuff."""

    id: int
    name: readers.Text
    isthing: int | None = None


class _BoxFile(pydantic.BaseModel, strict=True):
    """The fields that are read from a file of boxes."""

    images: list[_Image]
    annotations: list[_Instance] | list[_SegmentsOfImage]
    categories: list[_Category]

    def segments(self) -> Iterator[tuple[int, _Segment]]:
        """Yield the id of the image and the segment, for each segment of the file."""
        for annotation in self.annotations:
            if isinstance(annotation, _SegmentsOfImage):
                for segment in annotation.segments_info:
                    yield annotation.image_id, segment
            else:
                yield annotation.image_id, annotation


class LabelledBox(NamedTuple):
    """A box of an image, and its class."""

    file_name: str
    # (left, top, right, bottom) in pixels, cut off at the edges of the image.
    box: Box
    # The height and width of the image in pixels.
    image_hw: tuple[int, int]
    # The index of the class among all classes of the file, sorted by id.
    label: int


class BoxList(NamedTuple):
    """The boxes of a file, and the classes."""

    boxes: list[LabelledBox]
    # The names of the classes, sorted by their ids.
    classes: list[str]
    # For each class, an entry of KINDS; None if the file does not state it.
    kinds: list[str] | None


def open_data(protocol: BoxesProtocol, options: RunOptions) -> ClassData:
    """Return the boxes of a data set, with their labels and classes.

    Args:
        protocol: The data set, and how it is measured.
        options: `limit` keeps that many boxes, taken from the classes in turn. `allow_partial`
            leaves out boxes whose images are missing.

    Raises:
        UsageError: If anything else is wrong with the data set.
    """
    return list_data(protocol, options).checked_data(protocol, options)


def list_data(protocol: BoxesProtocol, options: RunOptions) -> folders.Listing[ClassData]:
    """Return the boxes of a data set, together with everything wrong with them.

    Raise UsageError if the boxes cannot be listed at all.
    """
    path = folders.data_path(protocol, options, protocol.annotations, "boxes")
    image_folder = folders.data_path(protocol, options, protocol.images, "images")
    with report_faults_at(f"{protocol.dataset}: {path}: "):
        box_list = read_boxes(path, image_folder.name, protocol.least_area)

    files = dict.fromkeys(box.file_name for box in box_list.boxes)
    missing_files = {name for name in files if not (image_folder / name).is_file()}
    faults = [*template_faults(protocol.templates)] if protocol.templates else []
    if options.allow_partial and len(missing_files) < len(files):
        boxes = [box for box in box_list.boxes if box.file_name not in missing_files]
        box_list = box_list._replace(boxes=boxes)
    elif missing_files:
        missing_paths = [image_folder / name for name in sorted(missing_files)]
        faults.append(folders.missing_images_fault(protocol, path, missing_paths, len(files)))
    n_classes = len(box_list.classes)
    if protocol.n_classes is not None and protocol.n_classes != n_classes:
        faults.append(
            f"{path} has {n_classes} classes, not the {protocol.n_classes} of "
            f"{protocol.dataset}{folders.download_page(protocol)}"
        )
    data = _make_data(protocol, options, image_folder, box_list)
    counts = folders.compare_counts(boxes=(len(box_list.boxes), protocol.n_boxes))
    return folders.Listing(
        data=data._replace(found_samples=folders.find_shortfall(counts)),
        path=path,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(image_folder),
            expected=len(files),
            images=len(files) - len(missing_files),
            n_classes=n_classes,
        ),
    )


def read_boxes(path: Path, folder_name: str, least_area: float = 0.0) -> BoxList:
    """Return the boxes of a file.

    Two kinds of boxes are left out: boxes without an area, and boxes of images that the file places
    in another folder of COCO. LVIS's validation images, for example, are in val2017 and in
    train2017.

    Args:
        path: The JSON file.
        folder_name: The name of the folder of the images, such as `val2017`.
        least_area: Boxes with a smaller area in pixels are left out.

    Raises:
        FileError: If the file has another format, if ids are not consistent, if a box is not in its
            image, and if no box is left.
    """
    content = readers.read_json(path)
    if not isinstance(content, dict):
        raise FileError("must hold `images`, `annotations` and `categories`")
    box_file = readers.parse(_BoxFile, content)
    _require_distinct_ids("images", [image.id for image in box_file.images])
    _require_distinct_ids("categories", [category.id for category in box_file.categories])
    categories = sorted(box_file.categories, key=lambda category: category.id)
    if len(categories) < 2:
        raise FileError("has fewer than two categories: a choice needs two or more")
    label_by_id = {category.id: label for label, category in enumerate(categories)}
    boxes = _label_boxes(box_file, label_by_id, folder_name, least_area)
    if not boxes:
        raise FileError(f"has no boxes of images in a folder {folder_name}")
    names = [category.name for category in categories]
    return BoxList(boxes, names, _kinds_of_classes(categories))


def _label_boxes(
    box_file: _BoxFile, label_by_id: Mapping[int, int], folder_name: str, least_area: float
) -> list[LabelledBox]:
    """Return the boxes of a file with the labels of their classes.

    Args:
        box_file: The content of the file.
        label_by_id: The labels of the categories by their ids.
        folder_name: The name of the folder of the images. Boxes of other images are left out.
        least_area: Boxes with a smaller area in pixels are left out.

    Raises:
        FileError: If ids are not consistent, or if a box is not in its image.
    """
    images = {image.id: image for image in box_file.images}
    boxes = []
    for image_id, segment in box_file.segments():
        image = images.get(image_id)
        if image is None:
            raise FileError(f"annotates image id {image_id}, which it does not list")
        if segment.category_id not in label_by_id:
            raise FileError(f"has no category of id {segment.category_id}")
        file_name = _file_name(image, folder_name)
        box = _visible_box(segment.bbox, image, least_area)
        if file_name is not None and box is not None:
            label = label_by_id[segment.category_id]
            boxes.append(LabelledBox(file_name, box, (image.height, image.width), label))
    return boxes


def _require_distinct_ids(name: str, ids: Sequence[int]) -> None:
    """Raise FileError if two records of a list of the file, such as `images`, have the same id."""
    for record_id, n_records in Counter(ids).items():
        if n_records > 1:
            raise FileError(f"has {n_records} `{name}` of id {record_id}")


def _kinds_of_classes(categories: Sequence[_Category]) -> list[str] | None:
    """Return the entry of KINDS of each class, or None if the file does not state it."""
    if any(category.isthing is None for category in categories):
        return None
    return [KINDS[0] if category.isthing else KINDS[1] for category in categories]


def _file_name(image: _Image, folder_name: str) -> str | None:
    """Return the name of an image below the folder of images, or None if it is in another folder.

    Raise FileError for an image without a name.
    """
    if image.file_name is not None:
        return image.file_name
    if image.coco_url is None:
        raise FileError(f"image id {image.id} has neither `file_name` nor `coco_url`")
    address = PurePosixPath(image.coco_url)
    return address.name if address.parent.name == folder_name else None


def _visible_box(bbox: list[float], image: _Image, least_area: float) -> Box | None:
    """Return a box (left, top, width, height) by its edges, cut off at the edges of the image.

    Return None if its area in the image is 0, or if its whole area is below `least_area`, in
    pixels. Raise FileError for a box beyond an edge of the image or with a negative side.
    """
    left, top, width, height = bbox
    is_outside = left > image.width or top > image.height or left + width < 0 or top + height < 0
    if min(width, height) < 0 or is_outside:
        raise FileError(
            f"has a box {bbox} (left, top, width, height) that is not in its image, id {image.id} "
            f"of {image.width}x{image.height} pixels"
        )
    if width * height < least_area:
        return None
    right, bottom = min(left + width, image.width), min(top + height, image.height)
    left, top = max(left, 0.0), max(top, 0.0)
    return (left, top, right, bottom) if right > left and bottom > top else None


def _make_data(
    protocol: BoxesProtocol, options: RunOptions, image_folder: Path, box_list: BoxList
) -> ClassData:
    """Return the chosen boxes as labelled images, with their kinds, their areas and their images.

    Args:
        protocol: The data set, and how it is measured.
        options: `limit` chooses boxes.
        image_folder: The folder of the images.
        box_list: All boxes that can be measured.
    """
    labels = np.array([box.label for box in box_list.boxes])
    chosen_indices = folders.choose_in_turn(labels, options.limit).tolist()
    boxes = [box_list.boxes[index] for index in chosen_indices]
    samples = []
    for box in boxes:
        is_stuff = box_list.kinds is not None and box_list.kinds[box.label] == KINDS[1]
        region = box.box
        if protocol.regions == "crops" and not is_stuff:
            region = enlarged(box.box, protocol.enlargement, box.image_hw)
        image = ImageFile(image_folder / box.file_name)
        name = f"{box.file_name} {list(box.box)}"
        samples.append((name, make_region(image, region, protocol), box.label))
    data = make_data(box_list.classes, samples)
    if box_list.kinds is not None:
        data = data.with_groups([box_list.kinds[box.label] for box in boxes])

    number_by_file = folders.number_distinct(box.file_name for box in boxes)
    fractions = []
    for box in boxes:
        left, top, right, bottom = box.box
        height, width = box.image_hw
        fractions.append((right - left) * (bottom - top) / (height * width))
    return data._replace(
        image_of_box=np.array([number_by_file[box.file_name] for box in boxes]),
        area_of_box=np.array(fractions),
    )


def enlarged(box: Box, factor: float, image_hw: tuple[int, int]) -> Box:
    """Return a box with sides that are `factor` times as long, cut off at the edges of the image.

    Example:
        (10, 10, 20, 30) becomes (7.5, 5, 22.5, 35) by a factor of 1.5.
    """
    left, top, right, bottom = box
    margin_x, margin_y = (factor - 1) / 2 * (right - left), (factor - 1) / 2 * (bottom - top)
    height, width = image_hw
    return (
        max(left - margin_x, 0.0),
        max(top - margin_y, 0.0),
        min(right + margin_x, width),
        min(bottom + margin_y, height),
    )
