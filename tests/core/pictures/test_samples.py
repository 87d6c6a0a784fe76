"""A batch taken apart: pixels, texts, and which caption goes with which view."""

import numpy as np
import pytest
import torch
from support.training import ABLATIONS, METHODS

from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.engine.step import normalise
from cosmos_core.plots.views import Caption, Inverse, denormalise, read_caption, read_samples
from cosmos_core.types import Views

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NONE = torch.zeros(0, 1, 3, 1, 1, dtype=torch.uint8)


def inverse(mean=CLIP_MEAN, std=CLIP_STD):
    return Inverse(mean, std, scenes_tokenizer().decode)


@pytest.mark.parametrize(
    ("mean", "std"), [(CLIP_MEAN, CLIP_STD), ((0.5,) * 3, (0.25,) * 3), ((0.0,) * 3, (1.0,) * 3)]
)
def test_every_level_comes_back(mean, std):
    """What the training's own normalising makes of an image with all 256 levels."""
    image = torch.arange(256, dtype=torch.uint8).view(16, 16)
    images = torch.stack([image, image.flip(0), image.T])[None, None]
    views = normalise(Views(images, NONE, NONE), torch.tensor(mean), torch.tensor(std))
    (pixels,) = denormalise(views.global_images[0], inverse(mean, std)).numpy()
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, images[0, 0].permute(1, 2, 0).numpy())


def test_levels_by_hand():
    """0 is the mean; half a standard deviation of 0.2 above 0.4 is half of white; no level is
    beyond black and white."""
    normal = torch.tensor([0.0, 0.5, -9.0, 9.0]).expand(3, 1, 4)
    pixels = denormalise(normal, inverse((0.4, 0.4, 0.2), (0.2, 0.2, 0.2)))
    assert pixels[0, :, 0].tolist() == [102, 128, 0, 255]  # 0.4 * 255 = 102, 0.5 * 255 = 127.5
    assert pixels[0, :, 2].tolist() == [51, 76, 0, 255]  # 0.3 * 255 = 76.5: halves to even


def caption(text, length=12):
    tokenizer = scenes_tokenizer(length)
    return read_caption(tokenizer([text])[0].tolist(), tokenizer.decode)


def test_a_caption_is_the_text_of_its_tokens():
    assert caption("A red  fish. Water below") == Caption("a red fish . water below", 8, 12)
    assert caption("") == Caption("", 2, 12)


def test_a_caption_that_was_cut_is_read_as_it_is():
    assert caption("a red fish in the water", length=5) == Caption("a red fish", 5, 5)


def test_ids_that_are_no_whole_caption_show_all_there_is():
    tokenizer = scenes_tokenizer()
    start, fish, end, *_ = tokenizer(["fish"])[0].tolist()
    for ids, text in (
        ([start, fish, 0], "<start_of_text>fish"),
        ([fish, end, 0], "fish <end_of_text>"),
        ([start, fish, end, fish], "<start_of_text>fish <end_of_text>fish"),
        ([start, 99999, end], f"not in the vocabulary: {start} 99999 {end}"),
        ([0, 0, 0], ""),
    ):
        assert read_caption(ids, tokenizer.decode).text == text


WORDS = ["red", "green", "blue", "fish", "house", "water"]
SAMPLES, LOCALS, LOCAL_TEXTS = 3, 3, 4


def batch_of(method):
    """uint8 views of three samples: a level tells view and sample of an image, two words those of
    a caption."""
    counts, tokenizer = method.counts, scenes_tokenizer()

    def images(count, first):
        levels = first + 10 * torch.arange(count)[:, None] + torch.arange(SAMPLES)
        return levels.to(torch.uint8)[..., None, None, None].expand(-1, -1, 3, 8, 8)

    texts = counts.global_texts + LOCAL_TEXTS * counts.local_texts
    captions = [f"{WORDS[view]} {WORDS[b]}" for view in range(texts) for b in range(SAMPLES)]
    large, small = images(counts.global_images, 10), images(LOCALS * counts.local_images, 110)
    return Views(large, small, tokenizer(captions).unflatten(0, (texts, SAMPLES)))


# How many global and local views of the image a method has, and how many captions.
SHOWN = {
    "clip": (1, 0, 1, 0),
    "slip": (2, 0, 1, 0),
    "silc": (2, 3, 1, 0),
    "cosmos": (2, 3, 2, 4),
    "without local texts": (2, 3, 2, 0),
    "without cross-attention": (2, 3, 2, 4),
    "without distillation": (2, 0, 2, 4),
}


@pytest.mark.parametrize("name", SHOWN)
def test_each_view_has_the_caption_of_its_number(name):
    method = {**METHODS, **ABLATIONS}[name]
    large, small, first, rest = SHOWN[name]
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    views = normalise(batch_of(method), mean, std)
    samples = read_samples(views, method.counts, inverse(), most=2)
    assert len(samples) == 2
    for number, sample in enumerate(samples):
        names = [f"global {view + 1}" for view in range(max(large, first))]
        names += [f"local {view + 1}" for view in range(max(small, rest))]
        assert [view.name for view in sample] == names
        levels = {v.name: v.pixels[0, 0, 0] for v in sample if v.pixels is not None}
        assert levels == {
            **{f"global {view + 1}": 10 + 10 * view + number for view in range(large)},
            **{f"local {view + 1}": 110 + 10 * view + number for view in range(small)},
        }
        captions = {v.name: v.caption.text for v in sample if v.caption is not None}
        words = [f"{word} {WORDS[number]}" for word in WORDS]
        assert captions == {
            **{f"global {view + 1}": words[view] for view in range(first)},
            **{f"local {view + 1}": words[first + view] for view in range(rest)},
        }


def test_a_batch_of_fewer_samples_is_shown_whole():
    views = normalise(batch_of(METHODS["clip"]), torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD))
    assert len(read_samples(views, METHODS["clip"].counts, inverse(), most=4)) == SAMPLES
