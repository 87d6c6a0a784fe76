"""A tiny set with label maps, and models of both kinds of maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.types import LocalisationProtocol

PARITY = Path(__file__).parents[2] / "parity"
CLASSES = ("background", "cat", "dog", "grass")


@pytest.fixture
def protocol(tmp_path: Path) -> LocalisationProtocol:
    """Synonyms and several templates; images and masks in two folders."""
    return LocalisationProtocol(
        dataset="pets",
        protocol_name="user",
        root=str(tmp_path / "data"),
        mmseg_type=None,
        images="images",
        masks="masks",
        image_suffix=".png",
        class_names=CLASSES,
        queries=(("wall", "sky"), ("cat",), ("dog", "puppy"), ("grass",)),
        templates=("a photo of a {}.", "{}"),
        small=0.2,
        large=0.3,
    )


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., None]:
    """Write images of noise with label maps, by name."""

    def write(**labels: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        for name, label in labels.items():
            pixels = rng.integers(0, 256, (*label.shape, 3), np.uint8)
            for folder, content in (("images", pixels), ("masks", label.astype(np.uint8))):
                path = tmp_path / "data" / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path)

    return write


@pytest.fixture
def labelled(write_set, labels) -> None:
    """Write the set of all `labels`."""
    write_set(**labels)


@pytest.fixture
def labels() -> dict[str, np.ndarray]:
    """Seven label maps of several sizes with some pixels that are ignored."""
    rng = np.random.default_rng(1)
    label_maps = {}
    for number in range(7):
        size = (40 + 9 * number, 96 - 7 * number)
        label = rng.integers(0, 4, size)
        label[rng.random(size) < 0.1] = 255
        label_maps[f"i{number}"] = label
    return label_maps
