"""Random boxes against torchvision's, and views that are cut by a box against Pillow's."""

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from cosmos_core.views import Box, cut, random_box

N_BOXES = 2000
# The area of global and local views, as fractions of the image.
GLOBAL, LOCAL = (0.4, 1.0), (0.05, 0.4)


def describe(boxes, width, height):
    """Return the values of boxes that are compared, by name.

    These are the fractions of the area of the image, the aspect ratios, and the positions from 0
    (at the left or at the top) to 1.
    """
    left, top, right, bottom = np.array(boxes, float).T
    box_width, box_height = right - left, bottom - top
    return {
        "area": box_width * box_height / (width * height),
        "aspect ratio": box_width / box_height,
        "position from left": left / np.maximum(width - box_width, 1),
        "position from top": top / np.maximum(height - box_height, 1),
    }


def draw_boxes(width, height, scale):
    rng = np.random.default_rng(0)
    return [random_box(width, height, scale, rng) for _ in range(N_BOXES)]


def draw_boxes_by_torchvision(width, height, scale):
    image, boxes = torch.empty(3, height, width), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(N_BOXES):
            top, left, box_height, box_width = RandomResizedCrop.get_params(
                image, scale, (3 / 4, 4 / 3)
            )
            boxes.append(Box(left, top, left + box_width, top + box_height))
    return boxes


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(500, 375, GLOBAL), (500, 375, LOCAL), (300, 80, GLOBAL), (20, 200, LOCAL)],
)
def test_boxes_have_torchvisions_distribution(width, height, scale):
    """Distributions are compared by Kolmogorov-Smirnov tests.

    In elongated images, many boxes are the centred one, which is taken after too many attempts.
    """
    values = describe(draw_boxes(width, height, scale), width, height)
    expected_values = describe(draw_boxes_by_torchvision(width, height, scale), width, height)
    for name in values:
        assert ks_2samp(values[name], expected_values[name]).pvalue > 0.01, name


def test_boxes_are_inside_the_image_and_centred_if_no_box_has_the_requested_shape():
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
