"""The published segmentation sets with made-up photographs and label maps of their usual sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from _photographs import jpegs

from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import SegmentationProtocol

# Width and height of most of a set's images.
SIZES = {
    "voc21": (500, 375),
    "context60": (500, 375),
    "coco_object": (640, 480),
    "voc20": (500, 375),
    "cityscapes": (2048, 1024),
    "context59": (500, 375),
    "ade20k": (683, 512),
    "coco_stuff": (640, 480),
}
_SEGMENTS = 8  # a side: label maps are mosaics of so many squares


def write_set(dataset: str, root: Path, count: int) -> SegmentationProtocol:
    """Write `count` images of a set and their label maps; returns its protocol for that folder.

    One template keeps the prompts, which are encoded once a set, from taking most of the time.
    """
    size = SIZES[dataset]
    protocol = replace(
        SEGMENTATION[dataset],
        root=str(root),
        mmseg_type=None,
        images="images",
        masks="masks",
        split=None,
        n_images=count,
        image_suffix=".jpg",
        mask_suffix=".png",
        reduce_zero_label=False,
        templates=("a photo of a {}.",),
    )
    rng = np.random.default_rng(0)
    for folder in (protocol.images, protocol.masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(jpegs(count, size)):
        (root / "images" / f"{number:03}.jpg").write_bytes(file)
        shape = (_SEGMENTS, _SEGMENTS)
        mosaic = rng.integers(0, len(protocol.class_names), shape, np.uint8)
        label = cv2.resize(mosaic, size, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "masks" / f"{number:03}.png"), label)
    return protocol
