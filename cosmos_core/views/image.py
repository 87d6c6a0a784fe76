"""Multi-crop views of an image, made of torchvision's transforms."""

from __future__ import annotations

from typing import NamedTuple

import PIL.Image
import PIL.ImageFilter
import torch
from torch import Tensor
from torchvision.transforms import v2

from cosmos_core.config import ImageViewConfig

BLUR_RADIUS = (0.1, 2.0)  # pixels; github.com/ExplainableML/cosmos, after DINO
SOLARIZE_THRESHOLD = 128


class ImageViews(NamedTuple):
    """Views of one image, uint8: globals (G, 3, H, W) and locals (L, 3, h, w)."""

    global_images: Tensor
    local_images: Tensor


class PilGaussianBlur(torch.nn.Module):
    """Pillow's Gaussian blur with a radius drawn from `BLUR_RADIUS`.

    torchvision's has a fixed kernel size, so it is another distribution of blurs.
    """

    def forward(self, image: PIL.Image.Image) -> PIL.Image.Image:
        radius = torch.empty(1).uniform_(*BLUR_RADIUS).item()
        return image.filter(PIL.ImageFilter.GaussianBlur(radius))


class MultiCrop:
    """Two global and several local views; `global_views` 1 gives the CLIP baseline's one view."""

    def __init__(self, config: ImageViewConfig, global_views: int = 2) -> None:
        first, second, local = config.blur_p
        self._globals = [
            view_transform(config, config.global_size, config.global_scale, first, 0.0),
            view_transform(
                config, config.global_size, config.global_scale, second, config.solarize_p
            ),
        ][:global_views]
        self._local = view_transform(config, config.local_size, config.local_scale, local, 0.0)
        self._locals = config.locals if global_views == 2 else 0
        self._local_shape = (0, 3, config.local_size, config.local_size)

    def __call__(self, image: PIL.Image.Image, seed: int) -> ImageViews:
        """Views of an RGB image, decided by `seed` alone; torch's generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            large = [transform(image) for transform in self._globals]
            small = [self._local(image) for _ in range(self._locals)]
        return ImageViews(
            torch.stack(large),
            torch.stack(small) if small else torch.empty(self._local_shape, dtype=torch.uint8),
        )


def view_transform(
    config: ImageViewConfig, size: int, scale: tuple[float, float], blur_p: float, solarize_p: float
) -> v2.Compose:
    """One kind of view: a PIL image -> (3, size, size) uint8."""
    chances = [
        (1.0, v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC)),
        (config.flip_p, v2.RandomHorizontalFlip(1.0)),
        (config.jitter_p if any(config.jitter) else 0.0, v2.ColorJitter(*config.jitter)),
        (config.grayscale_p, v2.RandomGrayscale(1.0)),
        (blur_p, PilGaussianBlur()),
        (solarize_p, v2.RandomSolarize(SOLARIZE_THRESHOLD, 1.0)),
    ]
    steps = [step if p == 1 else v2.RandomApply([step], p) for p, step in chances if p > 0]
    return v2.Compose([*steps, v2.PILToTensor()])
