"""Images as the protocol sees them: decoded, resized, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosmos_eval.data.readers import FileError, read_bytes
from cosmos_eval.tasks.label_maps import Label, Sample, read_label, require_same_size
from cosmos_eval.types import SegmentationProtocol, UsageError


class LoadedImage(NamedTuple):
    """`pixels` (3, H, W) float32, resized and normalised; `label` at the original size."""

    sample: Sample
    pixels: Tensor
    label: Label


def load_image(sample: Sample, protocol: SegmentationProtocol) -> LoadedImage:
    """Read an image and its label map. Raises UsageError that names a file it cannot use."""
    (loaded,) = load_together([sample], [protocol])
    return loaded


def load_together(
    samples: Sequence[Sample], protocols: Sequence[SegmentationProtocol]
) -> list[LoadedImage]:
    """Read one image with the label map of each protocol; the protocols see it alike.

    The pixels are shared. Raises UsageError that names a file it cannot use.
    """
    image = decode(samples[0].image)
    pixels = normalised(image, protocols[0])
    loaded = []
    for sample, protocol in zip(samples, protocols, strict=True):
        label = read_label(sample, protocol)
        require_same_size(sample, (image.shape[0], image.shape[1]), label)
        loaded.append(LoadedImage(sample, pixels, label))
    return loaded


def decode(path: Path) -> NDArray[np.uint8]:
    """An image file -> (H, W, 3) BGR, decoded by OpenCV as MMSegmentation does."""
    try:
        data = np.frombuffer(read_bytes(path), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except (FileError, cv2.error) as error:
        raise UsageError(f"cannot read image {path}: {error}") from error
    if image is None:
        raise UsageError(f"cannot decode image {path}: replace it or take it off the list")
    return image.astype(np.uint8, copy=False)


def normalised(image: NDArray[np.uint8], protocol: SegmentationProtocol) -> Tensor:
    """(H, W, 3) BGR uint8 -> (3, h, w) RGB float32, resized keeping the ratio.

    The protocol must state mean and std, as `fit_to_model` makes it.
    """
    if protocol.mean is None or protocol.std is None:
        raise ValueError(f"{protocol.dataset}: mean and std are still to be taken from a model")
    height, width = resized_hw((image.shape[0], image.shape[1]), protocol)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    rgb = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB).astype(np.float32)
    scaled = (rgb - np.array(protocol.mean, np.float32)) / np.array(protocol.std, np.float32)
    return torch.from_numpy(scaled).permute(2, 0, 1).contiguous()


def resized_hw(image_hw: tuple[int, int], protocol: SegmentationProtocol) -> tuple[int, int]:
    """The largest size that keeps the ratio and both bounds: mmcv.rescale_size."""
    bounds = (protocol.long_side / max(image_hw), protocol.short_side / min(image_hw))
    height, width = (int(side * min(bounds) + 0.5) for side in image_hw)
    return max(height, 1), max(width, 1)
