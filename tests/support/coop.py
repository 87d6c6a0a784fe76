"""CoOp's drawing rule and Tip-Adapter's formula once more, in the plainest form, and made-up data.

The rule is written after github.com/KaiyangZhou/Dassl.pytorch at c61a1b5 (base_dataset.py) and
github.com/KaiyangZhou/CoOp at ff61507 (oxford_pets.py), with the global random numbers that they
use; the formula after github.com/gaopengcuhk/Tip-Adapter at d0e2d6f (utils.py, main.py).
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from support.one_set import write_photo

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128))
"""The colours of the classes 0 to 3 of made-up photos."""
Item = tuple[str, int, str]
"""A path, a label and a class name."""


def draw_items(train: list[Item], val: list[Item], shots: int, seed: int) -> list[list[Item]]:
    """Training and validation items of a draw."""
    random.seed(seed)
    drawn = []
    for items, number in ((train, shots), (val, min(shots, 4))):
        labels = list(dict.fromkeys(label for _, label, _ in items))
        chosen: list[Item] = []
        for label in labels:
            of_class = [item for item in items if item[1] == label]
            chosen += random.sample(of_class, number) if len(of_class) >= number else of_class
        drawn.append(chosen)
    return drawn


def base_items(items: list[Item]) -> list[Item]:
    """Items of the first half of the sorted labels, the larger half if their number is odd."""
    labels = sorted({label for _, label, _ in items})
    base = labels[: -(-len(labels) // 2)]
    return [item for item in items if item[1] in base]


def tip_logits(
    images: np.ndarray,
    classes: np.ndarray,
    keys: np.ndarray,
    key_labels: np.ndarray,
    alpha: float,
    beta: float,
) -> np.ndarray:
    """The logits of images (N, D) with classes (C, D) and keys (M, D), image by image."""
    one_hot = np.eye(len(classes))[key_labels]
    logits = []
    for image in images.astype(float):
        cache = np.exp(-(beta - beta * (keys @ image))) @ one_hot
        logits.append(100.0 * (classes @ image) + alpha * cache)
    return np.stack(logits)


def write_split(folder: Path, sizes: tuple[int, int, int] = (5, 3, 4)) -> dict[str, list[Item]]:
    """Write images of four classes and `split.json`, whose classes come in another order."""
    split: dict[str, list[Item]] = {}
    names = ["a_red", "b_green", "c_blue", "d_grey"]
    for name, size in zip(("train", "val", "test"), sizes, strict=True):
        split[name] = []
        for label in (2, 0, 3, 1):
            for number in range(size):
                path = f"{name}_{label}/{number}.png"
                write_photo(folder / "photos" / path, COLOURS[label])
                split[name].append((path, label, names[label]))
    (folder / "split.json").write_text(json.dumps(split))
    return split
