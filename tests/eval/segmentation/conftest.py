"""A tiny random model, a tiny data set and the plain formulation of sliding-window inference."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch.nn import functional as F

from cosmos_eval.encoders.clip import ClipEncoder, ClipParts
from cosmos_eval.types import EncoderInfo, SegmentationProtocol

CLASSES = ("background", "cat", "dog", "grass")


@pytest.fixture(scope="session")
def encoder() -> ClipEncoder:
    """Patch 8, trained at 32 px, random weights."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 8,
            "patch_size": 8,
        },
        text_cfg={"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    )
    parts = ClipParts(
        model, lambda image: torch.zeros(3, 32, 32), SimpleTokenizer(context_length=16)
    )
    info = EncoderInfo("tiny", "tiny", None, None, True, "fp32", "cpu")
    return ClipEncoder(parts, info)


@pytest.fixture
def protocol() -> SegmentationProtocol:
    """Small windows, synonyms, both thresholds; images and masks in two folders."""
    return SegmentationProtocol(
        dataset="pets",
        family="user",
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


def plain_logits(
    pixels: torch.Tensor,
    size: tuple[int, int],
    protocol: SegmentationProtocol,
    window_logits: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Query logits (Q, *size), window by window at full size.

    `window_logits` maps a window (3, h, w) to token logits (Q, h', w').
    """
    _, height, width = pixels.shape
    window, stride = protocol.window, protocol.stride
    total: torch.Tensor | None = None
    count = torch.zeros(1, height, width)
    for i in range(max(height - window + stride - 1, 0) // stride + 1):
        for j in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window, height), min(j * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            tokens = window_logits(pixels[:, top:bottom, left:right])
            up = F.interpolate(tokens[None], size=(bottom - top, right - left), mode="bilinear")[0]
            if total is None:
                total = torch.zeros(len(up), height, width)
            total[:, top:bottom, left:right] += up
            count[:, top:bottom, left:right] += 1
    assert total is not None
    return F.interpolate((total / count)[None], size=size, mode="bilinear")[0]


def plain_classes(logits: torch.Tensor, protocol: SegmentationProtocol) -> NDArray[np.uint8]:
    """Classes from query logits (Q, H, W), with every probability of every class at hand."""
    probabilities = (logits * protocol.scale).softmax(0)
    ends = np.cumsum([len(names) for names in protocol.queries])
    parts = [
        probabilities[end - len(names) : end].amax(0)
        for end, names in zip(ends, protocol.queries, strict=True)
    ]
    classes = torch.stack(parts)
    if protocol.area_thd is not None:
        chosen = classes.argmax(0)
        areas = torch.stack([(chosen == c).sum() for c in range(1, len(classes))])
        for c, area in enumerate(areas, start=1):
            if area <= protocol.area_thd * areas.sum():
                classes[c] = 0
    best = classes.argmax(0)
    best[classes.amax(0) < protocol.prob_thd] = 0
    return best.numpy().astype(np.uint8)


@pytest.fixture
def plain() -> tuple[Callable[..., torch.Tensor], Callable[..., NDArray[np.uint8]]]:
    """The plain formulation: logits of an image, classes from logits."""
    return plain_logits, plain_classes
