"""One segmentation measurement, as most tests need it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.tasks import segmentation
from cosmos_eval.types import Measurement, OnProgress, RunOptions, SegmentationProtocol, no_progress


def measure(
    encoder: Encoder,
    protocol: SegmentationProtocol,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Measurement:
    return segmentation.TASK.measure_one(encoder, protocol, options, progress)


def write_halves(root: Path, shade: int) -> None:
    """Write two images of two halves, their label maps, and the YAML file of the set."""
    is_left = np.arange(32)[None, :, None].repeat(32, 0) < 16
    for number, name in enumerate(("one", "two")):
        image = np.where(is_left, (shade + number, 50, 45), (70, 130, shade + number))
        for folder, pixels in (("images", image), ("masks", ~is_left[..., 0])):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{name}.png")
    (root / "halves.yaml").write_text(
        "kind: seg\nimages: images\nmasks: masks\nimage_suffix: .png\nshort_side: 32\n"
        "window: null\ntemplates: ['{}']\nclasses: [left, right]\n"
    )
