"""Inputs that were read, decoded and resized, kept in memory from one measurement to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from cosmos_eval.data.sources import ImageSource

Value = TypeVar("Value")
Transform = Callable[[PIL.Image.Image], Any]

_PICTURE_SIZE = (64, 64)  # of the picture that shows the size that a transform returns


@dataclass
class PreparedInputs:
    """A memory for inputs, which is filled by the first measurement of a data set.

    The inputs are taken to be the same in later measurements: their files are not read again.
    Threads may use it at the same time.
    """

    # The most bytes that are kept. Inputs beyond them are prepared in each measurement.
    limit: float
    # The bytes that are kept so far.
    size: int = 0
    # Whether an input was not kept because of the limit.
    is_full: bool = False
    _values: dict[Hashable, Any] = field(default_factory=dict)
    # The image of each SHA-256 is kept as well, so that its id is not given to another one.
    _sha256_by_id: dict[int, tuple[ImageSource, bytes]] = field(default_factory=dict)
    _levels_by_transform: dict[Transform, NDArray[np.float32] | None] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, key: Hashable, prepare: Callable[[], Value]) -> Value:
        """Return the value that is kept under a key, or prepare it and keep it.

        Args:
            key: Everything that decides the value, other than the files.
            prepare: Returns the value: arrays, bytes, or sequences of them.
        """
        if key in self._values:
            return self._values[key]
        value = prepare()
        self._keep(key, value)
        return value

    def sha256(self, image: ImageSource, compute: Callable[[], bytes]) -> bytes:
        """Return the SHA-256 of an image's file, which `compute` returns the first time."""
        entry = self._sha256_by_id.get(id(image))
        if entry is not None:
            return entry[1]
        sha256 = compute()
        self._sha256_by_id[id(image)] = (image, sha256)
        return sha256

    def pixels(self, sha256: bytes, transform: Transform, load: Callable[[], Any]) -> Any:
        """Return the pixels (3, H, W) of an image, or another value of a model's transform.

        Pixels float32 that a transform makes of the 256 levels of each channel are kept as uint8.
        The pixels that are returned are the same, bit by bit.

        Args:
            sha256: The SHA-256 of the image's file.
            transform: The transform. Pixels are kept for this object only.
            load: Reads the image, and returns its pixels.
        """
        import torch

        key = (sha256, transform)
        levels = self._levels(transform)
        if key in self._values:
            value = self._values[key]
            return value if levels is None else torch.from_numpy(from_levels(value, levels))
        pixels = load()
        if levels is not None:
            value = to_levels(pixels.numpy(), levels)
        else:
            # A transform may return the same tensor, with other values, for the next image.
            value = pixels.clone() if isinstance(pixels, torch.Tensor) else pixels
        if value is not None:  # else this image is not made of the levels
            self._keep(key, value)
        return pixels

    def drop(self, transform: Transform) -> None:
        """Forget all pixels that a transform made. Keys of its values end with the transform."""
        with self._lock:
            for key in [*self._values]:
                if isinstance(key, tuple) and key[-1] == transform:
                    self.size -= _count_bytes(self._values.pop(key))
            self._levels_by_transform.pop(transform, None)

    def _levels(self, transform: Transform) -> NDArray[np.float32] | None:
        """Return the levels (3, 256) of a transform, see `find_levels`."""
        with self._lock:
            if transform not in self._levels_by_transform:
                self._levels_by_transform[transform] = find_levels(transform)
            return self._levels_by_transform[transform]

    def _keep(self, key: Hashable, value: Any) -> None:
        """Keep a value, unless it exceeds the limit."""
        n_bytes = _count_bytes(value)
        with self._lock:
            if self.size + n_bytes > self.limit:
                self.is_full = True
            elif key not in self._values:
                self._values[key] = value
                self.size += n_bytes


def _count_bytes(value: Any) -> int:
    """Return the bytes of arrays, tensors and bytes in a value, or in a collection of them."""
    if isinstance(value, bytes):
        return len(value)
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(_count_bytes, value.values()))
    if isinstance(value, tuple | list):
        return sum(map(_count_bytes, value))
    return 0


def find_levels(transform: Transform) -> NDArray[np.float32] | None:
    """Return what a transform makes of each value from 0 to 255 of each channel, (3, 256) float32.

    Most transforms end by dividing by 255 and normalising, so that a channel has at most 256
    values. They leave a grey picture of the size that they return as it is, but for that. Return
    None for a transform of another kind.
    """
    grey_pixels = transform(PIL.Image.new("RGB", _PICTURE_SIZE))
    is_tensor = hasattr(grey_pixels, "type")
    if not is_tensor or grey_pixels.type() != "torch.FloatTensor":
        return None  # not pixels, another type of number, or on a GPU
    if grey_pixels.ndim != 3 or len(grey_pixels) != 3 or grey_pixels[0].numel() < 256:
        return None
    height, width = grey_pixels.shape[1:]
    ramp = np.resize(np.arange(256, dtype=np.uint8), (height, width))
    pixels = transform(PIL.Image.fromarray(np.stack([ramp] * 3, axis=-1))).numpy()
    if pixels.shape != (3, height, width):
        return None
    levels = np.ascontiguousarray(pixels.reshape(3, -1)[:, :256])
    is_rising = bool((np.diff(levels) > 0).all())
    return levels if is_rising and np.array_equal(levels[:, ramp], pixels) else None


def to_levels(pixels: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """Return the level of each pixel, (3, H, W) uint8, or None if a pixel is none of the levels.

    Args:
        pixels: (3, H, W).
        levels: (3, 256), rising: the value of each level in each channel.
    """
    if pixels.shape[0] != len(levels):
        return None
    # The levels have about equal distances, so that the nearest one can be computed.
    lowest, highest = levels[:, :1, None], levels[:, -1:, None]
    places = np.rint((pixels - lowest) * (255 / (highest - lowest)))
    indices = np.clip(places, 0, 255).astype(np.uint8)
    if not np.array_equal(from_levels(indices, levels), pixels):
        return None
    return indices


def from_levels(indices: NDArray[np.uint8], levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the pixels (3, H, W) that have the given levels (3, H, W), of (3, 256) levels."""
    pixels = np.empty(indices.shape, np.float32)
    for channel_pixels, channel_indices, channel_levels in zip(
        pixels, indices, levels, strict=True
    ):
        np.take(channel_levels, channel_indices, out=channel_pixels, mode="clip")
    return pixels
