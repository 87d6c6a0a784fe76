"""What every reader of a classification set gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.sources import ImageSource
from cosmos_eval.types import UsageError


class ClassData(NamedTuple):
    """Classes as the data call them, and images; `labels` (N,) numbers the classes from 0.

    `names` are the images' paths below the set's folder, or their names in an archive or array.
    `prompts` are what the data themselves say that prompts call the classes, `templates` their
    prompts with one `{}`.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    images: tuple[ImageSource, ...]
    labels: NDArray[np.int64]
    prompts: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None


def make_data(
    classes: Sequence[str],
    named_images: Sequence[tuple[str, ImageSource]],
    labels: Sequence[int] | NDArray[np.int64],
) -> ClassData:
    """The data from pairs of name and image.

    Raises UsageError for a class whose folder has a name that is no text.
    """
    for name in classes:
        if name != name.encode(errors="ignore").decode():
            raise UsageError(f"class folder {name!r}: its name is not UTF-8; rename it")
    return ClassData(
        classes=tuple(classes),
        names=tuple(name for name, _ in named_images),
        images=tuple(image for _, image in named_images),
        labels=np.asarray(labels, dtype=np.int64),
    )
