"""Changes of pixels against Pillow's and torchvision's of the same parameters."""

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import ImageFilter, ImageOps
from torchvision.transforms import functional

from cosmos_core import views

SIZE = 96


def noise():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def ramps():
    """Every channel a smooth ramp of its own direction: all hues and saturations."""
    row, column = np.mgrid[0:SIZE, 0:SIZE]
    levels = np.stack([row, column, SIZE - 1 - (row + column) // 2], axis=-1)
    return (levels * 255 // (SIZE - 1)).astype(np.uint8)


def extremes():
    """Black, white and the pure colours, where changes are cut off at 0 and 255."""
    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)])
    return np.tile(corners.astype(np.uint8)[None], (SIZE, SIZE // 8, 1))


IMAGES = pytest.mark.parametrize("view", [noise(), ramps(), extremes()], ids=["noise", "ramp", "x"])


def difference(ours, theirs):
    return np.abs(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float))


@IMAGES
@pytest.mark.parametrize("factor", [0.0, 0.85, 1.17, 3.0])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_is_torchvisions_within_one_grey_level(view, factor, name):
    theirs = getattr(functional, f"adjust_{name}")(PIL.Image.fromarray(view), factor)
    assert difference(getattr(views, name)(view, factor), theirs).max() <= 1


@IMAGES
def test_grey_is_torchvisions_within_one_grey_level(view):
    theirs = functional.rgb_to_grayscale(PIL.Image.fromarray(view), 3)
    assert difference(views.grey(view), theirs).max() <= 1


@IMAGES
def test_solarize_is_pillows(view):
    solarized = ImageOps.solarize(PIL.Image.fromarray(view), 128)
    assert np.array_equal(views.solarize(view), np.asarray(solarized))


def exact_hue(view, turns):
    """torchvision's formula on floats of 64 bits."""
    levels = torch.tensor(view, dtype=torch.float64).permute(2, 0, 1) / 255
    return (functional.adjust_hue(levels, turns) * 255).permute(1, 2, 0).numpy()


@IMAGES
@pytest.mark.parametrize("turns", [-0.5, -0.05, 0.003, 0.1])
def test_hue_is_as_near_to_the_exact_one_as_torchvisions_or_nearer(view, turns):
    exact = exact_hue(view, turns)
    ours = difference(views.hue(view, turns), exact)
    theirs = difference(functional.adjust_hue(PIL.Image.fromarray(view), turns), exact)
    assert ours.mean() < min(theirs.mean() + 0.01, 0.7)
    assert ours.max() <= 7


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.25, 2.0])
@pytest.mark.parametrize("view", [noise(), ramps()], ids=["noise", "ramp"])
def test_blur_is_pillows_within_its_rounding(view, radius):
    theirs = PIL.Image.fromarray(view).filter(ImageFilter.GaussianBlur(radius))
    apart = difference(views.blur(view, radius), theirs)
    assert apart[6:-6, 6:-6].max() <= 3
    assert apart.mean() < 1.1


def test_blur_differs_from_pillows_in_the_two_outermost_pixels_alone():
    worst = np.zeros(3, int)
    for radius in np.linspace(0.1, 2, 20).tolist():
        theirs = PIL.Image.fromarray(noise()).filter(ImageFilter.GaussianBlur(radius))
        apart = difference(views.blur(noise(), radius), theirs)
        rings = [apart[ring : len(apart) - ring, ring : apart.shape[1] - ring] for ring in range(3)]
        worst = np.maximum(worst, [ring.max() for ring in rings])
    assert 3 < worst[0] <= 32
    assert 3 < worst[1] <= 11
    assert worst[2] <= 3


@pytest.mark.parametrize("radius", [0.1, 0.6, 1.3, 2.0])
def test_blur_has_the_radius_as_standard_deviation_and_keeps_brightness(radius):
    kernel = views.blur_kernel(radius)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert (kernel * places**2).sum() == pytest.approx(radius**2, abs=1e-6)
    for level in (1, 128, 255):
        flat = np.full((20, 20, 3), level, np.uint8)
        assert np.array_equal(views.blur(flat, radius), flat)


def test_changes_leave_their_input_alone():
    view, before = noise(), noise()
    for name in ("brightness", "contrast", "saturation", "hue", "blur"):
        getattr(views, name)(view, 0.7)
    for name in ("grey", "solarize"):
        getattr(views, name)(view)
    assert np.array_equal(view, before)
