"""Small sets of images with label maps or depth maps, in the layouts that dense probes read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = np.array([(70, 130, 210), (70, 150, 60), (210, 50, 45)], np.uint8)
SEGMENTATION = """kind: seg-probe
images: test/images
masks: test/masks
train_images: train/images
train_masks: train/masks
image_suffix: .png
classes: [blue, green, red]
short_side: 32
window: {window}
stride: 16
validation: 0.25
{more}
"""
DEPTH = """kind: depth-probe
train: train.txt
test: test.txt
max_depth: 5
crop: [24, 32]
{more}
"""


def write_label_maps(root: Path, n_train: int = 8, n_test: int = 4) -> Path:
    """Write images of three colours in random rectangles, with their classes; return the YAML."""
    rng = np.random.default_rng(0)
    for split, count in (("train", n_train), ("test", n_test)):
        for number in range(count):
            label = np.full((32, 40), rng.integers(3), np.uint8)
            for value in range(3):
                top, left = rng.integers(0, 20, 2)
                label[top : top + 14, left : left + 18] = value
            _save(root / split / "images" / f"{number}.png", _paint(COLOURS[label], rng))
            label[0] = 255  # no class
            _save(root / split / "masks" / f"{number}.png", label)
    return describe(root, SEGMENTATION, window="null", more="")


def describe(root: Path, text: str, **values: str) -> Path:
    """Write the YAML file of a set."""
    path = root / "own.yaml"
    path.write_text(text.format(**values))
    return path


def write_depth_maps(root: Path, n_train: int = 6, n_test: int = 3) -> Path:
    """Write images in the layout of NYU: the nearer a pixel, the brighter; return the YAML."""
    rng = np.random.default_rng(0)
    for split, count in (("train", n_train), ("test", n_test)):
        lines = []
        for number in range(count):
            depth = np.full((30, 40), rng.uniform(1, 4))
            top, left = rng.integers(0, 15, 2)
            depth[top : top + 12, left : left + 20] = rng.uniform(1, 4)
            grey = (255 - 55 * depth).astype(np.uint8)
            image, maps = f"{split}_room/rgb_{number}.png", f"{split}_room/depth_{number}.png"
            _save(root / image, _paint(np.repeat(grey[..., None], 3, 2), rng))
            millimetres = (1000 * depth).astype(np.uint16)
            millimetres[:, :3] = 0  # no depth
            _save(root / maps, millimetres)
            lines.append(f"/{image} /{maps} 518.8579\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return describe(root, DEPTH, more="")


def _paint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image with a little noise."""
    return (image + rng.integers(-9, 10, image.shape)).clip(0, 255).astype(np.uint8)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
