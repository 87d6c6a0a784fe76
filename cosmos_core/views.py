"""Multi-crop views of images, and caption views. The distributions of image views are those of
torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and RandomGrayscale, Pillow's
GaussianBlur and RandomSolarize, in this order. Pixels are uint8 RGB (H, W, 3) and changed by
OpenCV. Brightness, contrast, saturation and grey differ from Pillow's by at most one grey level,
because Pillow truncates where OpenCV rounds."""

import math
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import interpolate

from cosmos_core.config import ImageViewConfig, Strengths, TextViewConfig
from cosmos_core.types import EVERY_VIEW, ViewCounts

Pixels: TypeAlias = npt.NDArray[np.uint8]

ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop, as are the trials
CROP_TRIALS = 10
BLUR_RADIUS = (0.1, 2.0)  # pixels; github.com/ExplainableML/cosmos, after DINO
BLUR_PASSES = 3  # Pillow's GaussianBlur
HUES_TO_BYTES, BYTES_TO_HUES = 256, 255  # hues in a turn: OpenCV's RGB2HSV_FULL and back
SOLARIZE_THRESHOLD = 128
SENTENCE_SEPARATOR = ". "  # in global caption views

_LUMA = np.tile(np.array([0.299, 0.587, 0.114], dtype=np.float32), (3, 1))  # Pillow's mode L
_IDENTITY = np.eye(3, dtype=np.float32)
_LEVELS = np.arange(256, dtype=np.uint8)
_SOLARIZED = np.where(_LEVELS < SOLARIZE_THRESHOLD, _LEVELS, 255 - _LEVELS)


class Box(NamedTuple):
    """A rectangle of whole pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


class ViewKind(NamedTuple):
    """What distinguishes a view from the others of its image."""

    size: int
    scale: tuple[float, float]
    blur_p: float
    solarize_p: float
    crop_only: bool = False


class ImageViews(NamedTuple):
    """Views of one image, uint8: globals (G, 3, H, W) and locals (L, 3, h, w)."""

    global_images: Tensor
    local_images: Tensor


class MultiCrop:
    """Make the view for captions, if it is configured, one or two global views, and the local ones
    where the method has any."""

    def __init__(self, config: ImageViewConfig, counts: ViewCounts = EVERY_VIEW) -> None:
        first, second, local = config.blur_p
        size, scale = config.global_size, config.global_scale
        kinds = ViewKind(size, scale, first, 0), ViewKind(size, scale, second, config.solarize_p)
        small = ViewKind(config.local_size, config.local_scale, local, 0.0)
        self._config, self._globals = config, kinds[: counts.global_images]
        if config.caption_scale:
            low, high = config.caption_scale
            caption = ViewKind(size, (low, high), 0, 0, crop_only=True)
            self._globals = caption, *self._globals
        self._locals = [small] * (config.locals if counts.local_images else 0)

    def __call__(self, image: PIL.Image.Image, rng: Generator) -> ImageViews:
        """Make the views of an RGB image."""
        config, pixels = self._config, np.array(image)
        large = [random_view(pixels, kind, config, rng) for kind in self._globals]
        small = [random_view(pixels, kind, config, rng) for kind in self._locals]
        return ImageViews(_stack(large, config.global_size), _stack(small, config.local_size))


def _stack(views: list[Pixels], size: int) -> Tensor:
    """Stack views into (N, 3, size, size), contiguous; N may be 0."""
    planes = np.empty((len(views), 3, size, size), dtype=np.uint8)
    for view, out in zip(views, planes, strict=True):
        np.stack(cv2.split(view), out=out)
    return torch.from_numpy(planes)


def random_view(pixels: Pixels, kind: ViewKind, config: ImageViewConfig, rng: Generator) -> Pixels:
    """Draw one square view (size, size, 3)."""
    height, width, _ = pixels.shape
    view = cut(pixels, random_box(width, height, kind.scale, rng), kind.size)
    if kind.crop_only:
        return view
    if rng.random() < config.flip_p:
        view = cv2.flip(view, 1)
    if rng.random() < config.jitter_p:
        view = jitter(view, config.jitter, rng)
    if rng.random() < config.grayscale_p:
        view = grey(view)
    if rng.random() < kind.blur_p:
        view = blur(view, rng.uniform(*BLUR_RADIUS))
    if rng.random() < kind.solarize_p:
        view = solarize(view)
    return view


def random_box(width: int, height: int, scale: tuple[float, float], rng: Generator) -> Box:
    """Draw a crop: U(scale) of the area, log-uniform ratio; after ten misses the largest one."""
    log_ratio = math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1])
    for _ in range(CROP_TRIALS):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return Box(left, top, left + w, top + h)
    w = min(width, round(height * ASPECT_RATIO[1]))
    h = min(height, round(width / ASPECT_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)


def cut(pixels: Pixels, box: Box, size: int) -> Pixels:
    """Crop a box and resize it to a square of `size` pixels, antialiased bicubic. Equals Pillow's
    `crop().resize()` to within a grey level or two."""
    crop = np.ascontiguousarray(pixels[None, box.top : box.bottom, box.left : box.right])
    interleaved = torch.from_numpy(crop).permute(0, 3, 1, 2)
    resized = interpolate(interleaved, (size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def jitter(view: Pixels, strengths: Strengths, rng: Generator) -> Pixels:
    """In random order, scale all but hue by U(1 - s, 1 + s), and shift hue by U(-s, s)."""
    for kind in rng.permutation(4):
        strength = strengths[kind]
        if strength and kind == 3:
            view = hue(view, rng.uniform(-strength, strength))
        elif strength:
            scale = (brightness, contrast, saturation)[kind]
            view = scale(view, rng.uniform(max(0, 1 - strength), 1 + strength))
    return view


def brightness(view: Pixels, factor: float) -> Pixels:
    """Multiply every channel by `factor` (>= 0)."""
    return cv2.addWeighted(view, factor, view, 0, 0)


def contrast(view: Pixels, factor: float) -> Pixels:
    """Scale the distance from the mean grey of the view by `factor` (>= 0)."""
    mean = round(cv2.mean(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY))[0])
    return cv2.addWeighted(view, factor, view, 0, mean * (1 - factor))


def saturation(view: Pixels, factor: float) -> Pixels:
    """Scale the distance from the grey of each pixel by `factor` (>= 0)."""
    return cv2.transform(view, factor * _IDENTITY + (1 - factor) * _LUMA)


def hue(view: Pixels, turns: float) -> Pixels:
    """Rotate hues by `turns` of a circle; bytes in between put channels at most 7 levels off."""
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    turned = np.rint((_LEVELS / HUES_TO_BYTES + turns) % 1 * BYTES_TO_HUES).astype(np.uint8)
    hsv[..., 0] = cv2.LUT(hsv[..., 0], turned)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grey(view: Pixels) -> Pixels:
    """Replace all three channels by the luma."""
    return cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def solarize(view: Pixels) -> Pixels:
    """Invert levels from the threshold on; equal to Pillow's."""
    return cv2.LUT(view, _SOLARIZED)


def blur(view: Pixels, radius: float) -> Pixels:
    """Apply Pillow's GaussianBlur of `radius` pixels (> 0), to within three grey levels but for the
    two outermost rows and columns. There Pillow repeats the edge before each of six passes, and
    this before the first alone: in noise up to 32 levels differ at the edge, and 11 beside it."""
    kernel = blur_kernel(radius)
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def blur_kernel(radius: float) -> npt.NDArray[np.float32]:
    """Return the weights of Pillow's blur along one axis: three boxes of fractional width with the
    Gaussian's variance (P. Gwosdek et al., Gaussian Convolution by Extended Box Filtering, 2011)"""
    variance = radius**2 / BLUR_PASSES
    n = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * n + 1) * (variance - n * (n + 1) / 3) / (2 * ((n + 1) ** 2 - variance))
    box = np.ones(2 * n + 3)
    box[[0, -1]] = part
    box /= box.sum()
    return np.convolve(np.convolve(box, box), box).astype(np.float32)


def caption_views(
    sentences: list[str], config: TextViewConfig, rng: Generator, counts: ViewCounts = EVERY_VIEW
) -> list[str]:
    """Draw the caption views of a sample, globals first. Raises ValueError without sentences. A
    global joins U{1..max_sentences} sentences, a local is one. All are drawn without replacement,
    unless there are too few for the locals."""
    if not sentences:
        raise ValueError("a sample without captions")
    views = []
    for _ in range(counts.global_texts):
        count = min(int(rng.integers(1, config.max_sentences + 1)), len(sentences))
        chosen = rng.choice(len(sentences), size=count, replace=False)
        views.append(SENTENCE_SEPARATOR.join(sentences[i] for i in chosen))
    locals_ = config.locals if counts.local_texts else 0
    rounds = -(-locals_ // len(sentences))
    order = np.concatenate([rng.permutation(len(sentences)) for _ in range(max(rounds, 1))])
    return views + [sentences[i] for i in order[:locals_]]
