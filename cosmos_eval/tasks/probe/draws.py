"""Few training images per class, drawn as CoOp draws them, and the base and new classes.

The rule is `generate_fewshot_dataset` of github.com/KaiyangZhou/Dassl.pytorch at c61a1b5
(dassl/data/datasets/base_dataset.py), as datasets/oxford_pets.py of github.com/KaiyangZhou/CoOp at
ff61507 calls it after `random.seed(SEED)`: first training images, then min(shots, 4) validation
images per class. Classes are divided after the draw (`subsample_classes`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import Ints
from cosmos_eval.tasks.probe.fits import MOST_HELD_OUT


class Draw(NamedTuple):
    """The images of one draw: rows of the training images, and of those that are held out."""

    training_rows: Ints
    # Rows of the validation images; of the training images if there are no validation images.
    held_out_rows: Ints


def draw_shots(train_labels: Ints, validation_labels: Ints | None, shots: int, seed: int) -> Draw:
    """Draw training images and held-out images of each class.

    A class with fewer images than `shots` gives all of them. Without validation images, as for
    ImageNet, the held-out images are other training images (CoOp takes test images there).

    Args:
        train_labels: The class (F,) of each training image, in the order of the published list.
        validation_labels: The class (V,) of each validation image, or None.
        shots: The number of training images of each class.
        seed: The seed of Python's random numbers: 1, 2 or 3 in the papers.

    Example:
        Labels [1, 0, 1, 0] and one shot may give the training rows [2, 1]: class 1 comes first,
        since it is the first in the list.
    """
    generator = random.Random(seed)
    training_rows = _sample_each_class(range(len(train_labels)), train_labels, shots, generator)
    n_held_out = min(shots, MOST_HELD_OUT)
    if validation_labels is None:
        drawn_rows = set(training_rows)
        other_rows = [row for row in range(len(train_labels)) if row not in drawn_rows]
        held_out_rows = _sample_each_class(other_rows, train_labels, n_held_out, generator)
    else:
        all_rows = range(len(validation_labels))
        held_out_rows = _sample_each_class(all_rows, validation_labels, n_held_out, generator)
    return Draw(np.array(training_rows, np.int64), np.array(held_out_rows, np.int64))


def _sample_each_class(
    rows: Iterable[int], labels: Ints, shots: int, generator: random.Random
) -> list[int]:
    """Draw images of each class, and return their rows in the published list.

    The classes are in the order of their first row.

    Args:
        rows: The rows to draw from.
        labels: The class (F,) of every image of the published list.
        shots: The number of images of each class. A class with fewer images gives all of them.
        generator: The random numbers.
    """
    rows_by_class: dict[int, list[int]] = {}
    for row in rows:
        rows_by_class.setdefault(int(labels[row]), []).append(row)
    sampled_rows: list[int] = []
    for class_rows in rows_by_class.values():
        if len(class_rows) >= shots:
            sampled_rows += generator.sample(class_rows, shots)
        else:
            sampled_rows += class_rows
    return sampled_rows


def count_base_classes(n_classes: int) -> int:
    """Return how many classes are base classes: the first half, rounded up; the rest are new."""
    return (n_classes + 1) // 2
