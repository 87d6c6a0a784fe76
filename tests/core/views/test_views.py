"""Views of images and captions: shapes, and the probabilities and ranges of random changes."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import ks_1samp, uniform

from cosmos_core.config import ImageViewConfig, TextViewConfig
from cosmos_core.types import ViewCounts
from cosmos_core.views import MultiCrop, ViewKind, caption_views, jitter, random_view

# Crops that nothing else changes.
PLAIN = ImageViewConfig(
    flip_p=0, jitter_p=0, grayscale_p=0, blur_p=(0, 0, 0), solarize_p=0, global_size=64
)
# A view of the whole image, which nothing changes.
WHOLE = ViewKind(size=64, scale=(1.0, 1.0), blur_p=0.0, solarize_p=0.0)

ONE_VIEW = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)


def noise(width=90, height=70):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise_image(width=90, height=70):
    return PIL.Image.fromarray(noise(width, height))


def test_shapes_and_types_are_fixed_and_pixels_follow_from_the_seed():
    multi_crop = MultiCrop(ImageViewConfig())
    views = multi_crop(noise_image(), np.random.default_rng(5))
    views_of_same_seed = multi_crop(noise_image(), np.random.default_rng(5))
    views_of_other_seed = multi_crop(noise_image(), np.random.default_rng(6))
    assert views.global_images.shape == (2, 3, 224, 224)
    assert views.local_images.shape == (6, 3, 96, 96)
    assert views.global_images.dtype == views.local_images.dtype == torch.uint8
    assert views.global_images.is_contiguous()
    assert views.local_images.is_contiguous()
    assert torch.equal(views.global_images, views_of_same_seed.global_images)
    assert torch.equal(views.local_images, views_of_same_seed.local_images)
    assert not torch.equal(views.local_images, views_of_other_seed.local_images)
    single_view = MultiCrop(ImageViewConfig(), ONE_VIEW)(noise_image(), np.random.default_rng(0))
    assert single_view.global_images.shape[0] == 1
    assert single_view.local_images.shape == (0, 3, 96, 96)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (300, 1), (20, 15)])
def test_images_smaller_than_a_view_are_enlarged(width, height):
    image = PIL.Image.new("RGB", (width, height), (200, 100, 50))
    config = replace(PLAIN, locals=2, local_size=32)
    views = MultiCrop(config)(image, np.random.default_rng(0))
    colour = torch.tensor([200, 100, 50]).view(1, 3, 1, 1)
    assert (views.global_images == colour).all()
    assert (views.local_images == colour).all()


def test_a_view_of_the_whole_image_is_pillows_resize_with_colours_first():
    image = noise_image(80, 80)
    config = replace(PLAIN, global_scale=(1.0, 1.0))
    views = MultiCrop(config, ONE_VIEW)(image, np.random.default_rng(3))
    expected = np.asarray(image.resize((64, 64), PIL.Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(views.global_images[0].permute(1, 2, 0).numpy() - expected).max() <= 1


def settings_of_change(name, probability):
    """Return a config and a kind of view with which only this change happens."""
    config, kind = PLAIN, WHOLE
    match name:
        case "flip":
            config = replace(PLAIN, flip_p=probability)
        case "jitter":
            config = replace(PLAIN, jitter_p=probability)
        case "grey":
            config = replace(PLAIN, grayscale_p=probability)
        case "blur":
            kind = WHOLE._replace(blur_p=probability)
        case "solarize":
            kind = WHOLE._replace(solarize_p=probability)
    return config, kind


@pytest.mark.parametrize("probability", [0.2, 0.8])
@pytest.mark.parametrize("name", ["flip", "jitter", "grey", "blur", "solarize"])
def test_each_change_happens_with_its_probability(name, probability):
    config, kind = settings_of_change(name, probability)
    image, n_draws, rng = noise(64, 64), 500, np.random.default_rng(0)
    views = [random_view(image, kind, config, rng) for _ in range(n_draws)]
    changed_views = [view for view in views if not np.array_equal(view, image)]
    # Four standard deviations of a binomial distribution.
    tolerance = 4 * np.sqrt(probability * (1 - probability) * n_draws)
    assert abs(len(changed_views) - probability * n_draws) < tolerance
    # Flipped and solarized pixels are known. For the other changes, it is enough that they differ.
    expected_views = {"flip": image[:, ::-1], "solarize": np.minimum(image, 255 - image)}
    if name in expected_views:
        assert all(np.array_equal(view, expected_views[name]) for view in changed_views)


def test_views_have_the_probabilities_and_sizes_of_their_kind():
    # The first global view and the local views are always blurred, the second global view never.
    # Only the second global view is solarized.
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


def test_the_view_for_captions_is_an_unchanged_crop_before_the_global_views():
    config = ImageViewConfig(global_size=64, blur_p=(1.0, 1.0, 1.0), caption_scale=(1.0, 1.0))
    config = replace(config, jitter_p=1.0, grayscale_p=1.0, flip_p=1.0)
    views = MultiCrop(config)(noise_image(64, 64), np.random.default_rng(0))
    caption_view, *global_views = views.global_images
    assert torch.equal(caption_view, torch.from_numpy(noise(64, 64)).permute(2, 0, 1))
    without_caption_view = MultiCrop(replace(config, caption_scale=()))
    other_views = without_caption_view(noise_image(64, 64), np.random.default_rng(0))
    assert len(global_views) == len(other_views.global_images) == 2
    # Grey: each channel equals the first.
    assert all((view == view[0]).all() for view in global_views)


def jitter_with_400_seeds(image, strengths):
    """Return the jittered images, as floats (400, height, width, 3).

    Strengths are those of brightness, contrast, saturation and hue.
    """
    rngs = [np.random.default_rng(seed) for seed in range(400)]
    return np.array([jitter(image, strengths, rng) for rng in rngs], float)


def plain_image(colour):
    return np.full((4, 4, 3), colour, np.uint8)


def is_uniform(values, low, high):
    """Tell whether a Kolmogorov-Smirnov test accepts a uniform distribution from low to high."""
    return ks_1samp(values, uniform(low, high - low).cdf).pvalue > 0.01


def test_each_jitter_is_uniform_within_its_strength():
    images = jitter_with_400_seeds(plain_image((200, 200, 200)), (0.2, 0, 0, 0))
    brightness_factors = images[:, 0, 0, 0] / 200
    assert is_uniform(brightness_factors, 0.8, 1.2)

    images = jitter_with_400_seeds(plain_image((150, 100, 100)), (0, 0, 0.4, 0))
    red, green, _ = images[:, 0, 0].T
    saturation_factors = (red - green) / (150 - 100)
    assert is_uniform(saturation_factors, 0.6, 1.4)

    # The hue of pure red is shifted, as a fraction of the circle. A sixth of it is yellow, with as
    # much green as red, or magenta, with as much blue as red.
    red, green, blue = jitter_with_400_seeds(plain_image((255, 0, 0)), (0, 0, 0, 0.1))[:, 0, 0].T
    assert (red == 255).all()
    hue_shifts = (green - blue) / 255 / 6
    assert is_uniform(hue_shifts, -0.1, 0.1)

    two_greys = plain_image((100, 100, 100))
    two_greys[:, 2:] = 200
    images = jitter_with_400_seeds(two_greys, (0, 0.4, 0, 0))
    contrast_factors = (images[:, 0, 3, 0] - images[:, 0, 0, 0]) / (200 - 100)
    assert is_uniform(contrast_factors, 0.6, 1.4)


SENTENCES = ["one", "two", "three", "four", "five", "six", "seven"]


def test_caption_views_are_joined_or_single_sentences_without_replacement():
    counts = []
    for seed in range(300):
        views = caption_views(SENTENCES, TextViewConfig(), np.random.default_rng(seed))
        assert len(views) == 8
        global_views, local_views = views[:2], views[2:]
        for global_view in global_views:
            sentences = global_view.split(". ")
            assert len(set(sentences)) == len(sentences)
            assert set(sentences) <= set(SENTENCES)
            counts.append(len(sentences))
        assert len(set(local_views)) == 6
        assert set(local_views) <= set(SENTENCES)
    assert set(counts) == {1, 2, 3, 4, 5}
    assert 80 < counts.count(3) < 160  # a fifth of the 600 global views is 120


def test_few_sentences_are_repeated_only_as_often_as_needed():
    views = caption_views(["a", "b"], TextViewConfig(), np.random.default_rng(0))
    global_views, local_views = views[:2], views[2:]
    assert sorted(local_views) == ["a", "a", "a", "b", "b", "b"]
    assert all(len(view.split(". ")) <= 2 for view in global_views)
    single_view = caption_views(["a"], TextViewConfig(), np.random.default_rng(0), ONE_VIEW)
    assert single_view == ["a"]
    with pytest.raises(ValueError, match="without captions"):
        caption_views([], TextViewConfig(), np.random.default_rng(0))
