"""Writes made-up photographs and label maps in the usual sizes of published segmentation sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from _photographs import jpegs

from cosmos_eval.protocols import find_known
from cosmos_eval.tasks.segmentation import require_segmentation
from cosmos_eval.types import SegmentationProtocol

# Width and height of most images of a set. Those of ade20k_847 are much larger than its usual
# 683 x 512, as images of users may be.
SIZES = {
    "voc21": (500, 375),
    "context60": (500, 375),
    "coco_object": (640, 480),
    "voc20": (500, 375),
    "cityscapes": (2048, 1024),
    "context59": (500, 375),
    "ade20k": (683, 512),
    "coco_stuff": (640, 480),
    "ade20k_847": (2000, 1500),
}
_SEGMENTS = 8  # rows and columns of the rectangles that a label map consists of


def write_set(dataset: str, root: Path, count: int) -> SegmentationProtocol:
    """Write `count` images of a set and their label maps; return its protocol for that folder.

    There is only one template, so that prompts, which are encoded once per set, do not take most of
    the time.

    Args:
        dataset: A name in SIZES.
        root: The folder to write to.
        count: The number of images.
    """
    size = SIZES[dataset]
    protocol = replace(
        require_segmentation(find_known(dataset)),
        root=str(root),
        mmseg_type=None,
        images="images",
        masks="masks",
        split=None,
        only_labelled=False,
        n_images=count,
        image_suffix=".jpg",
        mask_suffix=".png",
        reduce_zero_label=False,
        templates=("a photo of a {}.",),
    )
    rng = np.random.default_rng(0)
    for folder in (protocol.images, protocol.masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    label_type = np.dtype(f"u{protocol.label_bits // 8}")
    for number, content in enumerate(jpegs(count, size)):
        (root / "images" / f"{number:03}.jpg").write_bytes(content)
        mosaic = rng.integers(0, len(protocol.class_names), (_SEGMENTS, _SEGMENTS), label_type)
        label = cv2.resize(mosaic, size, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "masks" / f"{number:03}.png"), label)
    return protocol
