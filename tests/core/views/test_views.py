"""Image and caption views."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import ks_1samp, uniform

from cosmos_core.config import ImageViewConfig, TextViewConfig
from cosmos_core.types import ViewCounts
from cosmos_core.views import MultiCrop, ViewKind, caption_views, jitter, random_view

PLAIN = ImageViewConfig(
    flip_p=0, jitter_p=0, grayscale_p=0, blur_p=(0, 0, 0), solarize_p=0, global_size=64
)
WHOLE = ViewKind(size=64, scale=(1.0, 1.0), blur_p=0.0, solarize_p=0.0)

ONE_VIEW = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)


def noise(width=90, height=70):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise_image(width=90, height=70):
    return PIL.Image.fromarray(noise(width, height))


def test_shapes_types_and_determinism():
    crops = MultiCrop(ImageViewConfig())
    views, again, other = (crops(noise_image(), np.random.default_rng(s)) for s in (5, 5, 6))
    assert views.global_images.shape == (2, 3, 224, 224)
    assert views.local_images.shape == (6, 3, 96, 96)
    assert views.global_images.dtype == views.local_images.dtype == torch.uint8
    assert views.global_images.is_contiguous()
    assert views.local_images.is_contiguous()
    assert torch.equal(views.global_images, again.global_images)
    assert torch.equal(views.local_images, again.local_images)
    assert not torch.equal(views.local_images, other.local_images)
    views = MultiCrop(ImageViewConfig(), ONE_VIEW)(noise_image(), np.random.default_rng(0))
    assert views.global_images.shape[0] == 1
    assert views.local_images.shape == (0, 3, 96, 96)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (300, 1), (20, 15)])
def test_images_smaller_than_a_view_are_enlarged(width, height):
    image = PIL.Image.new("RGB", (width, height), (200, 100, 50))
    config = replace(PLAIN, locals=2, local_size=32)
    views = MultiCrop(config)(image, np.random.default_rng(0))
    for group in views:
        assert (group == torch.tensor([200, 100, 50]).view(1, 3, 1, 1)).all()


def test_whole_image_view_is_pillows_resize_with_colours_first():
    image = noise_image(80, 80)
    config = replace(PLAIN, global_scale=(1.0, 1.0))
    views = MultiCrop(config, ONE_VIEW)(image, np.random.default_rng(3))
    expected = np.asarray(image.resize((64, 64), PIL.Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(views.global_images[0].permute(1, 2, 0).numpy() - expected).max() <= 1


# The change alone, with probability p, and what it makes of pixels (None: whatever differs).
CHANGES = {
    "flip": (lambda p: (replace(PLAIN, flip_p=p), WHOLE), lambda x: x[:, ::-1]),
    "jitter": (lambda p: (replace(PLAIN, jitter_p=p), WHOLE), None),
    "grey": (lambda p: (replace(PLAIN, grayscale_p=p), WHOLE), None),
    "blur": (lambda p: (PLAIN, WHOLE._replace(blur_p=p)), None),
    "solarize": (lambda p: (PLAIN, WHOLE._replace(solarize_p=p)), lambda x: np.minimum(x, ~x)),
}


@pytest.mark.parametrize("p", [0.2, 0.8])
@pytest.mark.parametrize("name", CHANGES)
def test_each_change_happens_with_its_probability(name, p):
    arranged, expected = CHANGES[name]
    config, kind = arranged(p)
    image, draws, rng = noise(64, 64), 500, np.random.default_rng(0)
    views = [random_view(image, kind, config, rng) for _ in range(draws)]
    changed = [view for view in views if not np.array_equal(view, image)]
    assert abs(len(changed) - p * draws) < 4 * np.sqrt(p * (1 - p) * draws)
    if expected is not None:
        assert all(np.array_equal(view, expected(image)) for view in changed)


def test_views_have_the_probabilities_and_sizes_of_their_kind():
    """Blur always on the first global, never on the second; solarized the second alone."""
    config = replace(PLAIN, global_scale=(1.0, 1.0), local_scale=(1.0, 1.0), local_size=32)
    config = replace(config, blur_p=(1.0, 0.0, 1.0), solarize_p=1.0, locals=2)
    image = noise_image(64, 64)
    pixels = torch.from_numpy(noise(64, 64)).permute(2, 0, 1)
    first, second = MultiCrop(config)(image, np.random.default_rng(0)).global_images
    assert torch.equal(second, torch.minimum(pixels, 255 - pixels))
    assert first.float().std() < pixels.float().std() - 5
    sharp = MultiCrop(replace(config, blur_p=(1.0, 0.0, 0.0)))(image, np.random.default_rng(0))
    blurred = MultiCrop(config)(image, np.random.default_rng(0))
    assert sharp.local_images.shape == (2, 3, 32, 32)
    assert blurred.local_images.float().std() < sharp.local_images.float().std() - 5


def test_the_view_for_captions_is_a_crop_and_nothing_else_before_the_globals():
    config = ImageViewConfig(global_size=64, blur_p=(1.0, 1.0, 1.0), caption_scale=(1.0, 1.0))
    config = replace(config, jitter_p=1.0, grayscale_p=1.0, flip_p=1.0)
    views = MultiCrop(config)(noise_image(64, 64), np.random.default_rng(0))
    caption, *strong = views.global_images
    assert torch.equal(caption, torch.from_numpy(noise(64, 64)).permute(2, 0, 1))
    without = MultiCrop(replace(config, caption_scale=()))
    assert len(strong) == len(without(noise_image(64, 64), np.random.default_rng(0))[0]) == 2
    assert all((view == view[0]).all() for view in strong)  # grey


def jittered(colour, strengths):
    """The first pixel of a plain image, jittered with 400 seeds."""
    view = np.full((4, 4, 3), colour, np.uint8)
    return np.array(
        [jitter(view, strengths, np.random.default_rng(seed))[0, 0] for seed in range(400)], float
    )


def test_each_jitter_is_uniform_within_its_strength():
    factors = jittered((200, 200, 200), (0.2, 0, 0, 0))[:, 0] / 200  # brightness
    assert ks_1samp(factors, uniform(0.8, 0.4).cdf).pvalue > 0.01
    red, green, _ = jittered((150, 100, 100), (0, 0, 0.4, 0)).T  # saturation
    assert ks_1samp((red - green) / 50, uniform(0.6, 0.8).cdf).pvalue > 0.01
    red, green, blue = jittered((255, 0, 0), (0, 0, 0, 0.1)).T  # hue
    assert (red == 255).all()
    assert ks_1samp((green - blue) / 255 / 6, uniform(-0.1, 0.2).cdf).pvalue > 0.01
    # Contrast needs two colours.
    view = np.full((4, 4, 3), 100, np.uint8)
    view[:, 2:] = 200
    rngs = [np.random.default_rng(seed) for seed in range(400)]
    views = [jitter(view, (0, 0.4, 0, 0), rng).astype(float) for rng in rngs]
    factors = [(one[0, 3, 0] - one[0, 0, 0]) / 100 for one in views]
    assert ks_1samp(factors, uniform(0.6, 0.8).cdf).pvalue > 0.01


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
    with pytest.raises(ValueError, match="without captions"):
        caption_views([], TextViewConfig(), np.random.default_rng(0))
