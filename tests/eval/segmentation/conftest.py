"""A tiny random model and a tiny data set."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.types import SegmentationProtocol

CLASSES = ("background", "cat", "dog", "grass")


@pytest.fixture(scope="session")
def encoder(tiny_encoder: ClipEncoder) -> ClipEncoder:
    """Patch 8, trained at 32 px, random weights."""
    return tiny_encoder


@pytest.fixture
def encoded(encoder, monkeypatch) -> list[int]:
    """Windows of every batch that the model was given."""
    batches: list[int] = []
    encode = encoder.encode_patches

    def counting(images, attention):
        batches.append(len(images))
        return encode(images, attention)

    monkeypatch.setattr(encoder, "encode_patches", counting)
    return batches


@pytest.fixture
def protocol() -> SegmentationProtocol:
    """Small windows, synonyms, both thresholds; images and masks in two folders."""
    return SegmentationProtocol(
        dataset="pets",
        protocol_name="user",
        mmseg_type=None,
        images="images",
        masks="masks",
        image_suffix=".png",
        class_names=CLASSES,
        queries=(("wall", "sky", "floor"), ("cat",), ("dog", "puppy"), ("grass",)),
        templates=("a photo of a {}.", "{}"),
        short_side=48,
        window=32,
        stride=16,
        mean=(122.771, 116.746, 104.094),
        std=(68.501, 66.632, 70.323),
        groups={"animals": ("cat", "dog")},
    )


@pytest.fixture
def write_set() -> Callable[[Path, dict[str, tuple[int, int]]], None]:
    """Write random images and label maps of given (height, width), by name."""

    def write(root: Path, sizes: dict[str, tuple[int, int]]) -> None:
        rng = np.random.default_rng(0)
        for name, size in sizes.items():
            coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
            image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
            label = rng.integers(0, len(CLASSES), size, np.uint8)
            label[rng.random(size) < 0.1] = 255
            for folder, content in (("images", image), ("masks", label)):
                path = root / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), content)

    return write
