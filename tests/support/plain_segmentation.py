"""Sliding-window zero-shot segmentation written plainly: one window at a time, all at full size.

Decode, resize keeping the ratio, windows that are moved back inside at the edge, upsampling of each
window's logits, adding and dividing by the count, resizing to the original size, softmax over
queries, the product of queries and classes, and the two thresholds. Slow, and big in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cosmos_eval.tasks.segmentation.inference import Segmenter
from cosmos_eval.types import SegmentationProtocol


def plain_pixels(path: Path, protocol: SegmentationProtocol) -> tuple[Tensor, tuple[int, int]]:
    """An image file -> (3, h, w) resized and normalised, and its size (H, W)."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    size = image.shape[:2]
    scale = min(protocol.long_side / max(size), protocol.short_side / min(size))
    height, width = (int(side * scale + 0.5) for side in size)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    pixels = (resized[:, :, ::-1].astype(np.float64) - protocol.mean) / protocol.std
    return torch.from_numpy(pixels).float().permute(2, 0, 1), size


def plain_logits(
    pixels: Tensor,
    size: tuple[int, int],
    protocol: SegmentationProtocol,
    window_logits: Callable[[Tensor], Tensor],
) -> Tensor:
    """Query logits (Q, *size).

    `window_logits` maps a window (3, h, w) to token logits (Q, h', w'). Without a window the image
    is encoded whole, and its logits are interpolated once, as `predict` in naclip.py of
    github.com/sinahmr/NACLIP does where `slide_crop` is 0.
    """
    _, height, width = pixels.shape
    if protocol.window is None:
        return F.interpolate(window_logits(pixels)[None], size=size, mode="bilinear")[0]
    window, stride = protocol.window, protocol.stride
    total: Tensor | None = None
    count = torch.zeros(1, height, width)
    for i in range(max(height - window + stride - 1, 0) // stride + 1):
        for j in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window, height), min(j * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            tokens = window_logits(pixels[:, top:bottom, left:right])
            up = F.interpolate(tokens[None], size=(bottom - top, right - left), mode="bilinear")
            if total is None:
                total = torch.zeros(len(tokens), height, width)
            total += F.pad(up[0], (left, width - right, top, height - bottom))
            count[:, top:bottom, left:right] += 1
    assert total is not None
    return F.interpolate((total / count)[None], size=size, mode="bilinear")[0]


def plain_classes(logits: Tensor, protocol: SegmentationProtocol) -> NDArray[np.integer]:
    """Classes (H, W) from query logits (Q, H, W): uint8, of more than 256 classes int64."""
    probabilities = (logits * protocol.scale).softmax(0)
    owner = [c for c, names in enumerate(protocol.queries) for _ in names]
    member = F.one_hot(torch.tensor(owner)).T.float()  # (classes, Q)
    if len(member) == len(owner):
        classes = probabilities
    else:  # one class of the product at a time: the whole of it is 11 GB on COCO-Object
        classes = torch.stack([(row[:, None, None] * probabilities).amax(0) for row in member])
    if protocol.area_thd is not None:
        areas = F.one_hot(classes.argmax(0), len(classes)).sum((0, 1))
        small = areas <= protocol.area_thd * areas[1:].sum()
        small[0] = False
        classes[small] = 0
    best = classes.argmax(0)
    best[classes.amax(0) < protocol.prob_thd] = 0
    return best.numpy().astype(np.uint8 if len(member) <= 256 else np.int64)


def plain_query_logits(path: Path, segmenter: Segmenter) -> Tensor:
    """Query logits (Q, H, W) of an image file."""
    pixels, size = plain_pixels(path, segmenter.protocol)
    queries = torch.from_numpy(segmenter.queries)

    def window_logits(window: Tensor) -> Tensor:
        patches = segmenter.encoder.encode_patches(window[None], segmenter.attention)
        return torch.einsum("hwd,qd->qhw", patches[0], queries)

    return plain_logits(pixels, size, segmenter.protocol, window_logits)
