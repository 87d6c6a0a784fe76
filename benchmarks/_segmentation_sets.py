"""Published segmentation sets with made-up photographs and label maps of their usual sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from _photographs import jpegs

from cosmos_eval.protocols import find_known
from cosmos_eval.tasks.segmentation import require_segmentation
from cosmos_eval.types import SegmentationProtocol

# Width and height of most of a set's images; of ade20k_847 much more than its usual 683 x 512, as
# own images may have.
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
_SEGMENTS = 8  # a side: label maps are mosaics of so many squares


def write_set(dataset: str, root: Path, count: int) -> SegmentationProtocol:
    """Write `count` images of a set and their label maps; returns its protocol for that folder.

    One template keeps the prompts, which are encoded once a set, from taking most of the time.
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
    for number, file in enumerate(jpegs(count, size)):
        (root / "images" / f"{number:03}.jpg").write_bytes(file)
        shape = (_SEGMENTS, _SEGMENTS)
        values = np.dtype(f"u{protocol.label_bits // 8}")
        mosaic = rng.integers(0, len(protocol.class_names), shape, values)
        label = cv2.resize(mosaic, size, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "masks" / f"{number:03}.png"), label)
    return protocol
