"""Multi-crop views of images, and caption views.

Image views have the distributions of torchvision's RandomResizedCrop, RandomHorizontalFlip,
ColorJitter and RandomGrayscale, and of Pillow's GaussianBlur and RandomSolarize, in this order.
Pixels are uint8 RGB (H, W, 3) and are changed by OpenCV. Brightness, contrast, saturation and grey
differ from Pillow's by at most one grey level, because Pillow truncates and OpenCV rounds.
"""

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

ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop
CROP_TRIALS = 10  # torchvision's RandomResizedCrop
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
    """The options in which the views of an image differ from each other."""

    # The side of the view in pixels.
    size: int
    # The smallest and the largest area of the crop, as fractions of the image's area.
    scale: tuple[float, float]
    # The probabilities of a blur and of solarization.
    blur_p: float
    solarize_p: float
    # Whether the view is only cropped: not flipped, blurred or changed in colour.
    crop_only: bool = False


class ImageViews(NamedTuple):
    """The views of one image, uint8."""

    global_images: Tensor  # (G, 3, H, W)
    local_images: Tensor  # (L, 3, h, w)


class MultiCrop:
    """Makes the views of images: one or two global views, and local views if the method has any.

    If a view for captions is configured, it comes before the global views.
    """

    def __init__(self, config: ImageViewConfig, counts: ViewCounts = EVERY_VIEW) -> None:
        """Describe the views.

        Args:
            config: The sizes and the random changes of views.
            counts: How many global views there are, and whether there are local views.
        """
        first_blur_p, second_blur_p, local_blur_p = config.blur_p
        size, scale = config.global_size, config.global_scale
        global_kinds = [
            ViewKind(size, scale, first_blur_p, solarize_p=0.0),
            ViewKind(size, scale, second_blur_p, config.solarize_p),
        ]
        self._config = config
        self._global_kinds = global_kinds[: counts.global_images]
        if config.caption_scale:
            smallest, largest = config.caption_scale
            caption_kind = ViewKind(size, (smallest, largest), 0.0, 0.0, crop_only=True)
            self._global_kinds.insert(0, caption_kind)
        local_kind = ViewKind(config.local_size, config.local_scale, local_blur_p, solarize_p=0.0)
        self._local_kinds = [local_kind] * config.locals if counts.local_images else []

    def __call__(self, image: PIL.Image.Image, rng: Generator) -> ImageViews:
        """Return random views of an RGB image, which depend on the random generator."""
        config, pixels = self._config, np.array(image)
        global_views = [random_view(pixels, kind, config, rng) for kind in self._global_kinds]
        local_views = [random_view(pixels, kind, config, rng) for kind in self._local_kinds]
        return ImageViews(
            _stack(global_views, config.global_size), _stack(local_views, config.local_size)
        )


def _stack(views: list[Pixels], size: int) -> Tensor:
    """Return views as one contiguous tensor (N, 3, size, size).

    Args:
        views: N views (size, size, 3). There may be none.
        size: The side of each view in pixels.
    """
    stacked_views = np.empty((len(views), 3, size, size), dtype=np.uint8)
    for view, stacked_view in zip(views, stacked_views, strict=True):
        np.stack(cv2.split(view), out=stacked_view)
    return torch.from_numpy(stacked_views)


def random_view(pixels: Pixels, kind: ViewKind, config: ImageViewConfig, rng: Generator) -> Pixels:
    """Return one random square view (size, size, 3) of an image.

    Args:
        pixels: The image (H, W, 3).
        kind: The size of the view and of its crop, and how it is changed.
        config: The probabilities and strengths of changes that all kinds of views share.
        rng: The random generator.
    """
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
    """Return a random crop of an image, as torchvision's RandomResizedCrop draws it.

    After CROP_TRIALS crops that do not fit into the image, return the largest crop at the centre.

    Args:
        width: The width of the image in pixels.
        height: The height of the image in pixels.
        scale: The smallest and the largest area of the crop, as fractions of the image's area. The
            area is uniform between them, and the aspect ratio is log-uniform in ASPECT_RATIO.
        rng: The random generator.
    """
    min_log_ratio, max_log_ratio = math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1])
    for _ in range(CROP_TRIALS):
        area = width * height * rng.uniform(*scale)
        aspect_ratio = math.exp(rng.uniform(min_log_ratio, max_log_ratio))
        box_width = round(math.sqrt(area * aspect_ratio))
        box_height = round(math.sqrt(area / aspect_ratio))
        fits_into_image = 0 < box_width <= width and 0 < box_height <= height
        if fits_into_image:
            left = int(rng.integers(width - box_width + 1))
            top = int(rng.integers(height - box_height + 1))
            return Box(left, top, left + box_width, top + box_height)

    # The largest crop at the centre whose aspect ratio is in ASPECT_RATIO.
    box_width = min(width, round(height * ASPECT_RATIO[1]))
    box_height = min(height, round(width / ASPECT_RATIO[0]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return Box(left, top, left + box_width, top + box_height)


def cut(pixels: Pixels, box: Box, size: int) -> Pixels:
    """Crop a box of an image and resize it to a square, by antialiased bicubic interpolation.

    The result differs from Pillow's `crop().resize()` by a grey level or two at most.

    Args:
        pixels: The image (H, W, 3).
        box: The box to crop.
        size: The side of the square in pixels.
    """
    # The channels come first in PyTorch: (1, h, w, 3) -> (1, 3, h, w).
    crop = np.ascontiguousarray(pixels[None, box.top : box.bottom, box.left : box.right])
    crop_tensor = torch.from_numpy(crop).permute(0, 3, 1, 2)
    resized = interpolate(crop_tensor, (size, size), mode="bicubic", antialias=True)
    # (1, 3, size, size) -> (size, size, 3)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def jitter(view: Pixels, strengths: Strengths, rng: Generator) -> Pixels:
    """Change brightness, contrast, saturation and hue by random amounts, in a random order.

    Args:
        view: The view (H, W, 3).
        strengths: The strengths s of the four changes, in the order above. The first three are
            scaled by a factor that is uniform between 1 - s and 1 + s, and the hue is shifted by a
            number of turns that is uniform between -s and s.
        rng: The random generator.
    """
    scaling_functions = (brightness, contrast, saturation)
    hue_index = 3
    for change_index in rng.permutation(4):
        strength = strengths[change_index]
        if strength == 0:
            continue
        if change_index == hue_index:
            view = hue(view, rng.uniform(-strength, strength))
        else:
            factor = rng.uniform(max(0, 1 - strength), 1 + strength)
            view = scaling_functions[change_index](view, factor)
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
    """Rotate the hues of a view (H, W, 3).

    Hues are rounded to bytes, which changes channels by at most 7 levels.

    Args:
        view: The view.
        turns: The angle of the rotation: 0.5 is half of the colour circle.
    """
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    # The rotated hue of each of the 256 hues.
    rotated_turns = (_LEVELS / HUES_TO_BYTES + turns) % 1
    rotated_hues = np.rint(rotated_turns * BYTES_TO_HUES).astype(np.uint8)
    hsv[..., 0] = cv2.LUT(hsv[..., 0], rotated_hues)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grey(view: Pixels) -> Pixels:
    """Replace all three channels by the luma."""
    return cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def solarize(view: Pixels) -> Pixels:
    """Invert levels from SOLARIZE_THRESHOLD on, as Pillow does."""
    return cv2.LUT(view, _SOLARIZED)


def blur(view: Pixels, radius: float) -> Pixels:
    """Apply Pillow's GaussianBlur.

    Pixels differ from Pillow's by at most three grey levels, except in the two outermost rows and
    columns. There Pillow repeats the edge before each of six passes, and this function only before
    the first pass. In noise they differ by up to 32 levels at the edge, and by 11 beside it.

    Args:
        view: The view (H, W, 3).
        radius: The standard deviation of the blur in pixels, greater than 0.
    """
    kernel = blur_kernel(radius)
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def blur_kernel(radius: float) -> npt.NDArray[np.float32]:
    """Return the weights of Pillow's blur along one axis.

    They are three box filters in a row, which have together the variance of the Gaussian. A box is
    2n + 1 weights of 1 and a smaller weight at both ends, normalised (P. Gwosdek et al., Gaussian
    Convolution by Extended Box Filtering, 2011).

    Args:
        radius: The standard deviation of the Gaussian in pixels.
    """
    box_variance = radius**2 / BLUR_PASSES
    # The largest n for which a box of 2n + 1 weights has at most this variance.
    n = math.floor((math.sqrt(12 * box_variance + 1) - 1) / 2)
    # The weight at both ends with which the box has exactly this variance.
    edge_weight = (
        (2 * n + 1) * (box_variance - n * (n + 1) / 3) / (2 * ((n + 1) ** 2 - box_variance))
    )
    box = np.ones(2 * n + 3)
    box[[0, -1]] = edge_weight
    box /= box.sum()
    return np.convolve(np.convolve(box, box), box).astype(np.float32)


def caption_views(
    sentences: list[str], config: TextViewConfig, rng: Generator, counts: ViewCounts = EVERY_VIEW
) -> list[str]:
    """Return random caption views of a sample, first the global views, then the local views.

    A global view joins 1 to `max_sentences` sentences, which are drawn without replacement. A local
    view is one sentence. A sentence is in two local views only if there are more of them than
    sentences.

    Args:
        sentences: All caption sentences of the sample.
        config: The largest number of sentences of a global view, and the number of local views.
        rng: The random generator.
        counts: The number of global views, and whether there are local views.

    Raises:
        ValueError: If the caption has no sentences.
    """
    if not sentences:
        raise ValueError("a sample without captions")

    # Draw the global views.
    views = []
    for _ in range(counts.global_texts):
        n_sentences = min(int(rng.integers(1, config.max_sentences + 1)), len(sentences))
        indices = rng.choice(len(sentences), size=n_sentences, replace=False)
        views.append(SENTENCE_SEPARATOR.join(sentences[i] for i in indices))

    # Take the local views from as many permutations of the sentences as needed.
    n_local_views = config.locals if counts.local_texts else 0
    # One permutation is drawn even without local views, so that the random numbers that follow do
    # not depend on the method.
    n_permutations = max(1, math.ceil(n_local_views / len(sentences)))
    permutations = [rng.permutation(len(sentences)) for _ in range(n_permutations)]
    order = np.concatenate(permutations)
    views += [sentences[i] for i in order[:n_local_views]]
    return views
