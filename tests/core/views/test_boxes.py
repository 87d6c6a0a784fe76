"""Random boxes against torchvision's, cuts against Pillow's."""

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from cosmos_core.views import Box, cut, random_box

DRAWS = 2000
GLOBAL, LOCAL = (0.4, 1.0), (0.05, 0.4)


def traits(boxes, width, height):
    """What is compared of many boxes: fractions of the area, aspects, and positions from 0 to 1."""
    left, top, w, h = np.array(boxes, float).T
    across, down = left / np.maximum(width - w, 1), top / np.maximum(height - h, 1)
    return {"area": w * h / (width * height), "aspect": w / h, "across": across, "down": down}


def drawn(width, height, scale, rng):
    for _ in range(DRAWS):
        left, top, right, bottom = random_box(width, height, scale, rng)
        yield left, top, right - left, bottom - top


def drawn_by_torchvision(width, height, scale, seed):
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(DRAWS):
            top, left, h, w = RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3))
            yield left, top, w, h


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(500, 375, GLOBAL), (500, 375, LOCAL), (300, 80, GLOBAL), (20, 200, LOCAL)],
)
def test_boxes_have_torchvisions_distribution(width, height, scale):
    """Kolmogorov-Smirnov tests; elongated images often end at the centred box."""
    ours = traits(list(drawn(width, height, scale, np.random.default_rng(0))), width, height)
    theirs = traits(list(drawn_by_torchvision(width, height, scale, 0)), width, height)
    for name, mine in ours.items():
        assert ks_2samp(mine, theirs[name]).pvalue > 0.01, name


def test_boxes_lie_inside_the_image_those_of_an_impossible_shape_in_the_centre():
    assert random_box(300, 10, (0.9, 1.0), np.random.default_rng(0)) == (143, 0, 156, 10)
    rng = np.random.default_rng(0)
    for width, height in ((1, 1), (1, 50), (50, 1), (2, 3), (7, 5)):
        for _ in range(50):
            left, top, right, bottom = random_box(width, height, LOCAL, rng)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(50, 40, 450, 340), 224),
        (Box(0, 0, 500, 375), 96),  # the whole image
        (Box(100, 100, 201, 190), 96),
        (Box(480, 360, 500, 375), 224),  # enlarged, in the corner
        (Box(10, 0, 11, 300), 32),  # one pixel wide
        (Box(10, 20, 300, 21), 32),  # one pixel high
        (Box(499, 374, 500, 375), 8),  # one pixel
        (Box(100, 100, 164, 164), 64),  # as large as the view
    ],
)
def test_cut_is_pillows_crop_and_bicubic_resize(box, size):
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels).crop(box)
    expected = np.asarray(image.resize((size, size), PIL.Image.Resampling.BICUBIC), dtype=int)
    difference = np.abs(cut(pixels, box, size) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.01
