"""The eight published segmentation sets, three small images each, as MMSegmentation documents them.

Folders and suffixes are written out here: docs/en/user_guides/2_dataset_prepare.md, and for
COCO-Object the maps that datasets/cvt_coco_object.py of SCLIP's successors writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZES = ((37, 61), (50, 33), (64, 64))
"""Height and width of the images, in pixels."""


class Layout(NamedTuple):
    """Paths below a data root with `{}` for the name; `values` are what label maps hold."""

    images: str
    masks: str
    names: tuple[str, str, str]
    values: tuple[int, ...]
    split: str | None = None


_VOC = ("2007_000033", "2008_000073", "2011_000999")
_COCO = ("000000000139", "000000000285", "000000581781")

LAYOUTS = {
    "voc": Layout(
        images="VOCdevkit/VOC2012/JPEGImages/{}.jpg",
        masks="VOCdevkit/VOC2012/SegmentationClass/{}.png",
        names=_VOC,
        values=(0, 15, 20, 255),
        split="VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
    ),
    "context": Layout(
        images="VOCdevkit/VOC2010/JPEGImages/{}.jpg",
        masks="VOCdevkit/VOC2010/SegmentationClassContext/{}.png",
        names=_VOC,
        values=(0, 1, 59),
        split="VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt",
    ),
    "coco_object": Layout(
        images="coco_stuff164k/images/val2017/{}.jpg",
        masks="coco_stuff164k/annotations/val2017/{}_instanceTrainIds.png",
        names=_COCO,
        values=(0, 1, 80),
    ),
    "coco_stuff": Layout(
        images="coco_stuff164k/images/val2017/{}.jpg",
        masks="coco_stuff164k/annotations/val2017/{}_labelTrainIds.png",
        names=_COCO,
        values=(0, 79, 80, 170, 255),
    ),
    "cityscapes": Layout(
        images="cityscapes/leftImg8bit/val/{}_leftImg8bit.png",
        masks="cityscapes/gtFine/val/{}_gtFine_labelTrainIds.png",
        names=(
            "frankfurt/frankfurt_000000_000294",
            "frankfurt/frankfurt_000001_005898",
            "munster/munster_000000_000019",
        ),
        values=(0, 18, 255),
    ),
    "ade20k": Layout(
        images="ade/ADEChallengeData2016/images/validation/{}.jpg",
        masks="ade/ADEChallengeData2016/annotations/validation/{}.png",
        names=("ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003"),
        values=(0, 1, 150),
    ),
}

PRESENT = {
    "voc21": ("voc", ("background", "person", "tvmonitor")),
    "voc20": ("voc", ("person", "tvmonitor")),
    "context60": ("context", ("background", "aeroplane", "wood")),
    "context59": ("context", ("aeroplane", "wood")),
    "coco_object": ("coco_object", ("background", "person", "toothbrush")),
    "coco_stuff": ("coco_stuff", ("person", "toothbrush", "banner", "wood")),
    "cityscapes": ("cityscapes", ("road", "bicycle")),
    "ade20k": ("ade20k", ("wall", "flag")),
}
"""By data set: the layout it is read from, and the classes that its label maps hold here."""


def write_sets(root: Path) -> None:
    """Write the images, lists and label maps of all layouts."""
    for layout in LAYOUTS.values():
        write_images(root, layout)
        write_masks(root, layout)


def write_images(root: Path, layout: Layout) -> None:
    """Write the images and the list of names."""
    rng = np.random.default_rng(0)
    for name, size in zip(layout.names, SIZES, strict=True):
        path = root / layout.images.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    if layout.split:
        split = root / layout.split
        split.parent.mkdir(parents=True, exist_ok=True)
        split.write_text("".join(f"{name}\n" for name in layout.names))


def write_masks(root: Path, layout: Layout) -> None:
    """Write label maps in stripes, every value in every map."""
    for name, (height, width) in zip(layout.names, SIZES, strict=True):
        stripes = np.array(layout.values, np.uint8)[np.arange(width) % len(layout.values)]
        save_map(root / layout.masks.format(name), np.tile(stripes, (height, 1)))


def save_map(path: Path, values: np.ndarray) -> Path:
    """Write a map of 8-bit values, making folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path
