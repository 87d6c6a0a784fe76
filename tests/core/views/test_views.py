"""Image and caption views."""

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from cosmos_core.config import ImageViewConfig, TextViewConfig
from cosmos_core.types import ViewCounts
from cosmos_core.views.image import MultiCrop, jitter, random_box, random_view
from cosmos_core.views.text import caption_views

PLAIN = ImageViewConfig(
    flip_p=0, jitter_p=0, grayscale_p=0, blur_p=(0, 0, 0), solarize_p=0, global_size=64
)

ONE_VIEW = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)


def noise_image(width=90, height=70, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def test_shapes_types_and_determinism():
    crops = MultiCrop(ImageViewConfig())
    views = crops(noise_image(), np.random.default_rng(5))
    assert views.global_images.shape == (2, 3, 224, 224)
    assert views.local_images.shape == (6, 3, 96, 96)
    assert views.global_images.dtype == torch.uint8
    again = crops(noise_image(), np.random.default_rng(5))
    other = crops(noise_image(), np.random.default_rng(6))
    assert torch.equal(views.local_images, again.local_images)
    assert not torch.equal(views.local_images, other.local_images)


def test_one_view_for_the_baseline():
    views = MultiCrop(ImageViewConfig(), ONE_VIEW)(noise_image(), np.random.default_rng(0))
    assert views.global_images.shape[0] == 1
    assert views.local_images.shape == (0, 3, 96, 96)


def test_whole_image_crop_is_pillows_resize():
    image = noise_image(80, 80)
    view = random_view(image, PLAIN, 64, (1.0, 1.0), 0, 0, np.random.default_rng(3))
    expected = image.resize((64, 64), PIL.Image.Resampling.BICUBIC)
    boxes = {random_box(80, 80, (1.0, 1.0), np.random.default_rng(s)) for s in range(20)}
    assert boxes == {(0, 0, 80, 80)}  # a full-area crop of a square fits only when square
    assert np.array_equal(np.asarray(view), np.asarray(expected))


@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4)])
def test_boxes_have_torchvisions_distribution(scale):
    """Means of width, height and place agree with RandomResizedCrop's within 4 standard errors."""
    count, image = 4000, torch.empty(3, 70, 90)
    rng = np.random.default_rng(0)
    ours = np.array([random_box(90, 70, scale, rng) for _ in range(count)], float)
    ours[:, 2:] -= ours[:, :2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(count)]
    theirs = np.array([(left, top, w, h) for top, left, h, w in drawn], float)
    error = np.sqrt(ours.var(0) / count + theirs.var(0) / count)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.06)


def test_box_of_an_impossible_shape_is_the_centre():
    assert random_box(300, 10, (0.9, 1.0), np.random.default_rng(0)) == (143, 0, 156, 10)


def test_each_change_happens_with_its_probability():
    image = noise_image(64, 64)
    config = ImageViewConfig(
        flip_p=0, jitter_p=0, grayscale_p=0.2, blur_p=(0, 0, 0), solarize_p=0, global_size=64
    )
    rng = np.random.default_rng(0)
    grey = 0
    for _ in range(500):
        view = np.asarray(random_view(image, config, 64, (0.4, 1.0), 0, 0, rng))
        grey += bool((view[..., 0] == view[..., 1]).all())
    assert 70 < grey < 130  # 100 expected, 9 the standard deviation


def test_brightness_alone_scales_pixels():
    image = PIL.Image.new("RGB", (8, 8), (100, 100, 100))
    values = [
        np.asarray(jitter(image, (0.2, 0, 0, 0), np.random.default_rng(seed)))[0, 0, 0]
        for seed in range(200)
    ]
    assert 79 <= min(values) < 85
    assert 115 < max(values) <= 120


SENTENCES = ["one", "two", "three", "four", "five", "six", "seven"]


def test_caption_views_join_and_choose_without_replacement():
    counts = []
    for seed in range(300):
        views = caption_views(SENTENCES, TextViewConfig(), np.random.default_rng(seed))
        assert len(views) == 8
        for joined in views[:2]:
            parts = joined.split(". ")
            assert len(set(parts)) == len(parts)
            assert set(parts) <= set(SENTENCES)
            counts.append(len(parts))
        assert len(set(views[2:])) == 6
        assert set(views[2:]) <= set(SENTENCES)
    assert set(counts) == {1, 2, 3, 4, 5}
    assert 80 < counts.count(3) < 160  # 120 expected of 600


def test_short_lists_repeat_only_as_needed():
    views = caption_views(["a", "b"], TextViewConfig(), np.random.default_rng(0))
    assert sorted(views[2:]) == ["a", "a", "a", "b", "b", "b"]
    assert all(len(joined.split(". ")) <= 2 for joined in views[:2])
    single = caption_views(["a"], TextViewConfig(), np.random.default_rng(0), ONE_VIEW)
    assert single == ["a"]


def test_no_captions_is_an_error():
    with pytest.raises(ValueError, match="without captions"):
        caption_views([], TextViewConfig(), np.random.default_rng(0))
