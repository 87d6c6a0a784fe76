"""Faults of images, from the decoded picture to the pixels that a model is given.

The code of the model's transform is not needed. A transform does not resize a picture that already
has the size of the model's input. A picture can therefore be resized in a wrong way before it is
given to the transform. How the transform resizes and normalises is found out by a few drawn
pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
import torchvision.transforms.v2.functional as F
from open_clip.transform import CenterCropOrPad, ResizeKeepRatio
from PIL import ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.runner.diagnosis.faults import Fault, NotApplicableError
from cosmos_eval.types import Rgb

ResizeMode = Literal["shortest", "squash", "longest"]
"""How a picture gets the size of the model's input:

- "shortest": its shortest side is resized, and its middle is cropped.
- "squash": both sides are resized, which changes their ratio.
- "longest": its longest side is resized, and black borders are added.
"""
Interpolation = Literal["bicubic", "bilinear", "nearest"]

_MODES: tuple[ResizeMode, ...] = ("shortest", "squash", "longest")
_INTERPOLATIONS: tuple[Interpolation, ...] = ("bicubic", "bilinear", "nearest")
# Largest mean difference of normalised pixels that are the same but for rounding. A wrong
# interpolation of the drawn picture differs by more than 0.1.
_TOLERANCE = 0.05
_OPENAI: tuple[Rgb, Rgb] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
_HALF: tuple[Rgb, Rgb] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Transform:
    """The properties of a model's transform, as `study_transform` finds them."""

    # The height and width of the model's input; None if they depend on the picture.
    size: tuple[int, int] | None = None
    # The mean and std of each channel on the 0-1 scale; None if pixels are not linear in colours.
    mean: Rgb | None = None
    std: Rgb | None = None
    # How pictures are resized; None if it is in a way that `resize` does not know.
    mode: ResizeMode | None = None
    interpolation: Interpolation | None = None
    # True if a picture of this size is not resized.
    keeps_size: bool = False


def study_transform(encoder: Encoder) -> Transform:
    """Return the properties of a model's transform, from what it makes of drawn pictures.

    Two pictures of different size tell whether the model's input always has the same size. A black
    and a white picture give the mean and the std. Noise in the size of the model's input shows
    whether it is left as it is, and larger noise shows how it is resized.
    """
    black = encoder.transform(PIL.Image.new("RGB", (64, 48), "black"))
    white = encoder.transform(PIL.Image.new("RGB", (64, 48), "white"))
    upright = encoder.transform(PIL.Image.new("RGB", (40, 70), "black"))
    has_fixed_size = isinstance(black, Tensor) and black.ndim == 3 and black.shape == upright.shape
    if not has_fixed_size:
        return Transform()
    height, width = int(black.shape[1]), int(black.shape[2])
    # The middle of a picture is never padding.
    at_black = black[:, height // 2, width // 2]
    at_white = white[:, height // 2, width // 2]
    is_linear = bool((at_white - at_black).min() > 0)
    if not is_linear:
        return Transform(size=(height, width))
    std = 1 / (at_white - at_black)
    mean = -at_black * std
    transform = Transform((height, width), _rgb(mean), _rgb(std))

    noise = _draw_noise(height, width)
    expected_pixels = _normalise(F.pil_to_tensor(noise) / 255, _rgb(mean), _rgb(std))
    if _distance(encoder.transform(noise), expected_pixels) > _TOLERANCE:
        return transform
    mode, interpolation = _find_resizing(encoder, height, width)
    return Transform((height, width), _rgb(mean), _rgb(std), mode, interpolation, True)


def _find_resizing(
    encoder: Encoder, height: int, width: int
) -> tuple[ResizeMode | None, Interpolation | None]:
    """Return the mode and the filter of a model's transform; None for both if none is near.

    A large picture is put through the transform, and is also resized in every known way before the
    transform. The nearest way is the one with the least mean difference of pixels.
    """
    # No side is rounded if this picture is resized, and no border if it is cropped.
    picture = _draw_noise(2 * height, 4 * width)
    pixels = encoder.transform(picture)
    distances = {}
    for mode in _MODES:
        for interpolation in _INTERPOLATIONS:
            resized_picture = resize(picture, (height, width), mode, interpolation)
            distances[mode, interpolation] = _distance(encoder.transform(resized_picture), pixels)
    nearest = min(distances, key=lambda resizing: distances[resizing])
    return nearest if distances[nearest] <= _TOLERANCE else (None, None)


def resize(
    picture: PIL.Image.Image,
    size: tuple[int, int],
    mode: ResizeMode,
    interpolation: Interpolation,
    antialias: bool = True,
) -> PIL.Image.Image:
    """Return a picture in the size (height, width) of a model's pixels.

    Args:
        picture: An RGB picture of any size.
        size: The height and width.
        mode: The side that is resized, see `ResizeMode`.
        interpolation: The name of the filter.
        antialias: True to filter a picture that is made smaller, as Pillow does.
    """
    filter_mode = InterpolationMode(interpolation)
    if not antialias:
        picture = _resize_without_antialiasing(picture, size, mode, filter_mode)
    elif mode == "squash":
        picture = F.resize(picture, list(size), filter_mode)
    elif mode == "shortest" and size[0] == size[1]:
        picture = F.resize(picture, [size[0]], filter_mode)
    else:
        longest = 1.0 if mode == "longest" else 0.0
        keep_ratio = ResizeKeepRatio(list(size), longest=longest, interpolation=filter_mode)
        picture = keep_ratio(picture)
    if mode == "longest":
        return CenterCropOrPad(list(size))(picture)
    return F.center_crop(picture, list(size))


def _resize_without_antialiasing(
    picture: PIL.Image.Image,
    size: tuple[int, int],
    mode: ResizeMode,
    interpolation: InterpolationMode,
) -> PIL.Image.Image:
    """Return a resized picture whose pixels are interpolated without a filter, as in OpenCV.

    With the mode "shortest" or "longest", only one side has the size afterwards.
    """
    height, width = size
    scales = (height / picture.height, width / picture.width)
    if mode != "squash":
        scale = max(scales) if mode == "shortest" else min(scales)
        height, width = round(scale * picture.height), round(scale * picture.width)
    tensor = F.resize(
        F.pil_to_tensor(picture), [height, width], interpolation=interpolation, antialias=False
    )
    return F.to_pil_image(tensor)


@dataclass(frozen=True, kw_only=True)
class ImageFault(Fault):
    """A fault of images. The base class itself changes nothing.

    A subclass changes the picture before the model's transform, or the pixels after it.
    """

    def require_applicable(self, transform: Transform) -> None:
        """Raise NotApplicableError if the fault cannot be applied to a model's transform."""

    def change_picture(self, picture: PIL.Image.Image, transform: Transform) -> PIL.Image.Image:
        """Return the picture that the model's transform is given."""
        return picture

    def change_pixels(self, pixels: Any, transform: Transform) -> Any:
        """Return the pixels (3, H, W) that the model is given."""
        return pixels

    def apply(self, encoder: Encoder, picture: PIL.Image.Image, transform: Transform) -> Any:
        """Return the pixels of an RGB picture for a model, with the fault."""
        changed_picture = self.change_picture(picture, transform)
        return self.change_pixels(encoder.transform(changed_picture), transform)


@dataclass(frozen=True, kw_only=True)
class ResizeFault(ImageFault):
    """A picture is resized in another way than by the model's transform."""

    # The wrong mode and the wrong filter; None: as the model's transform has them.
    mode: ResizeMode | None = None
    interpolation: Interpolation | None = None
    antialias: bool = True

    def require_applicable(self, transform: Transform) -> None:
        """Raise NotApplicableError if the transform's resizing is unknown, or is the same."""
        if transform.size is None:
            raise NotApplicableError("the size of its pixels depends on the picture")
        if not transform.keeps_size or transform.mode is None:
            raise NotApplicableError("its transform resizes in a way that is not known here")
        has_same_mode = self.mode in (None, transform.mode)
        has_same_filter = self.interpolation in (None, transform.interpolation)
        if self.antialias and has_same_mode and has_same_filter:
            raise NotApplicableError("the model is evaluated so")

    def change_picture(self, picture: PIL.Image.Image, transform: Transform) -> PIL.Image.Image:
        """Return the picture in the size of the model's pixels."""
        assert transform.size
        assert transform.mode
        assert transform.interpolation
        return resize(
            picture,
            transform.size,
            self.mode or transform.mode,
            self.interpolation or transform.interpolation,
            self.antialias,
        )


@dataclass(frozen=True, kw_only=True)
class ChannelFault(ImageFault):
    """The channels are in the order blue, green, red."""

    def change_picture(self, picture: PIL.Image.Image, transform: Transform) -> PIL.Image.Image:
        """Return the picture with red and blue exchanged."""
        red, green, blue = picture.split()
        return PIL.Image.merge("RGB", (blue, green, red))


@dataclass(frozen=True, kw_only=True)
class OrientationFault(ImageFault):
    """A picture is turned as its EXIF tag says, which the evaluation of this package ignores."""

    def change_picture(self, picture: PIL.Image.Image, transform: Transform) -> PIL.Image.Image:
        """Return the upright picture."""
        return ImageOps.exif_transpose(picture).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class NormalisationFault(ImageFault):
    """Pixels are normalised by other constants: (scale * colour - mean) / std."""

    # The mean and std on the 0-1 scale; None: as the model's transform has them.
    mean_and_std: tuple[Rgb, Rgb] | None = None
    # The factor by which colours on the 0-1 scale are multiplied.
    scale: float = 1.0

    def require_applicable(self, transform: Transform) -> None:
        """Raise NotApplicableError if the transform's constants are unknown, or are the same."""
        if transform.mean is None or transform.std is None:
            raise NotApplicableError("its transform does not normalise by a mean and std")
        if self.mean_and_std and self.scale == 1:
            differences = np.subtract(self.mean_and_std, (transform.mean, transform.std))
            if np.abs(differences).max() < 1e-3:
                raise NotApplicableError("the model is evaluated so")

    def change_pixels(self, pixels: Any, transform: Transform) -> Any:
        """Return the pixels (3, H, W), normalised again by the fault's constants."""
        assert transform.mean
        assert transform.std
        colours = pixels * _column(transform.std) + _column(transform.mean)
        mean, std = self.mean_and_std or (transform.mean, transform.std)
        return _normalise(self.scale * colours, mean, std)


def _draw_noise(height: int, width: int) -> PIL.Image.Image:
    """Return a picture of random colours, the same every time."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return PIL.Image.fromarray(noise)


def _normalise(colours: Tensor, mean: Rgb, std: Rgb) -> Tensor:
    """Return normalised pixels (3, H, W) of colours (3, H, W) on the 0-1 scale."""
    return (colours - _column(mean)) / _column(std)


def _column(values: Sequence[float]) -> Tensor:
    """Return a value per channel as a tensor (3, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _rgb(values: Tensor) -> Rgb:
    """Return a tensor (3,) as three numbers."""
    red, green, blue = values.tolist()
    return red, green, blue


def _distance(first: Any, second: Any) -> float:
    """Return the mean absolute difference of two images' pixels (3, H, W)."""
    return float((first - second).abs().mean())


_READ_RESIZE = "compare size, resize mode and filter of the two transforms"
IMAGE_FAULTS: tuple[ImageFault, ...] = (
    ResizeFault(
        name="squash",
        wrong="images are squashed to a square instead of being cropped",
        check=_READ_RESIZE,
        mode="squash",
    ),
    ResizeFault(
        name="centre crop",
        wrong="the shortest side is resized and the rest is cropped",
        check=_READ_RESIZE,
        mode="shortest",
    ),
    ResizeFault(
        name="longest side",
        wrong="the longest side is resized and the rest is black",
        check=_READ_RESIZE,
        mode="longest",
    ),
    ResizeFault(
        name="bicubic",
        wrong="images are resized with the bicubic filter",
        check="compare the filters (resample=, interpolation=)",
        interpolation="bicubic",
    ),
    ResizeFault(
        name="bilinear",
        wrong="images are resized with the bilinear filter",
        check="compare the filters (resample=, interpolation=)",
        interpolation="bilinear",
    ),
    ResizeFault(
        name="nearest",
        wrong="images are resized to the nearest pixel",
        check="compare the filters (resample=, interpolation=)",
        interpolation="nearest",
    ),
    ResizeFault(
        name="no antialiasing",
        wrong="images are shrunk without antialiasing, as by cv2.resize",
        check="pass antialias=True, or resize with Pillow",
        antialias=False,
    ),
    ChannelFault(
        name="BGR",
        wrong="channels are in the order blue, green, red",
        check="convert what cv2.imread returns by cv2.COLOR_BGR2RGB",
    ),
    OrientationFault(
        name="EXIF",
        wrong="images are turned by their EXIF orientation, or are not",
        check="look for exif_transpose, and at how the images were saved",
    ),
    NormalisationFault(
        name="OpenAI mean/std",
        wrong="pixels are normalised by the mean and std of OpenAI's CLIP",
        check="compare mean and std of the two transforms",
        mean_and_std=_OPENAI,
    ),
    NormalisationFault(
        name="0.5 mean/std",
        wrong="pixels are normalised by a mean and std of 0.5",
        check="compare mean and std of the two transforms",
        mean_and_std=_HALF,
    ),
    NormalisationFault(
        name="ImageNet mean/std",
        wrong="pixels are normalised by the mean and std of ImageNet",
        check="compare mean and std of the two transforms",
        mean_and_std=_IMAGENET,
    ),
    NormalisationFault(
        name="not normalised",
        wrong="pixels are on the 0-1 scale, without mean and std",
        check="look for Normalize, or do_normalize",
        mean_and_std=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ),
    NormalisationFault(
        name="scale 0-255",
        wrong="pixels are not divided by 255 before mean and std",
        check="look for ToTensor, or do_rescale",
        scale=255.0,
    ),
)
