"""Our views and those of the plain pipeline of the benchmark come from one distribution.
Kolmogorov-Smirnov tests on what jitter, grey, blur and solarization change in a view; the boxes of
the crops have their own tests."""

import io
import random
import runpy
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import ks_2samp

from cosmos_core.config import ImageViewConfig
from cosmos_core.views import MultiCrop

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
IMAGES, REPEATS = 4, 30
GLOBAL, LOCAL = 112, 48  # half of the published sizes


@pytest.fixture(scope="module")
def photographs():
    jpegs = runpy.run_path(str(BENCHMARKS / "_photographs.py"))["jpegs"](IMAGES, size=(250, 188))
    return [PIL.Image.open(io.BytesIO(data)).convert("RGB") for data in jpegs]


@pytest.fixture(scope="module")
def ours(photographs):
    config = ImageViewConfig(global_size=GLOBAL, local_size=LOCAL)
    crops, rng = MultiCrop(config), np.random.default_rng(1)
    views = [crops(image, rng) for image in photographs for _ in range(REPEATS)]
    return [(large.float() / 255, small.float() / 255) for large, small in views]


@pytest.fixture(scope="module")
def plain(photographs):
    crops = runpy.run_path(str(BENCHMARKS / "_plain_views.py"))["PlainMultiCrop"]()
    for transform, size in ((crops._first, GLOBAL), (crops._second, GLOBAL), (crops._local, LOCAL)):
        transform.transforms[0].size = (size, size)  # of RandomResizedCrop
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        views = [crops(image) for image in photographs for _ in range(REPEATS)]
    random.setstate(state)
    return views


def statistics(views):
    """(N, 3, H, W) in [0, 1] -> a dictionary of N numbers each."""
    luma = views.mean(1)
    red, green, blue = views.unbind(1)
    steps = luma.diff(dim=-1).abs().mean((1, 2)) + luma.diff(dim=-2).abs().mean((1, 2))
    return {
        "brightness": luma.mean((1, 2)),
        "contrast": luma.std((1, 2)),
        "saturation": (views.amax(1) - views.amin(1)).mean((1, 2)),
        "red to green": (red - green).mean((1, 2)),
        "green to blue": (green - blue).mean((1, 2)),
        "sharpness": steps / luma.std((1, 2)).clamp(min=1e-3),
        "highest level": views.amax((1, 2, 3)),
    }


def kinds(views):
    """First globals, second globals, all locals."""
    first, second = torch.stack([large for large, _ in views], dim=1)
    return {"first": first, "second": second, "local": torch.cat([small for _, small in views])}


@pytest.mark.parametrize("kind", ["first", "second", "local"])
def test_views_have_the_distribution_of_the_plain_pipeline(ours, plain, kind):
    mine, reference = statistics(kinds(ours)[kind]), statistics(kinds(plain)[kind])
    for name, values in mine.items():
        assert ks_2samp(values, reference[name]).pvalue > 0.01, name
