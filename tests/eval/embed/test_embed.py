"""Embedding: the order of the input, equal texts once, trimming exact, bad files named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageArray, ImageFile
from cosmos_eval.embedding import embed
from cosmos_eval.embedding.embed import (
    embed_images,
    embed_in_order,
    embed_texts,
    hash_image_files,
)
from cosmos_eval.types import Progress, RunOptions, UsageError

SUFFIX = {"CMYK": "jpg"}
WORDS = ["a", "small", "red", "boat", "on", "the", "water", "near", "two", "green", "trees", "and"]


def some_texts(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(n)]


def test_trimmed_texts_equal_full_length(tiny_encoder, monkeypatch):
    texts = some_texts(60)
    texts += texts[:7]
    lengths: list[int] = []
    encode = tiny_encoder.encode_text

    def recording(tokens: torch.Tensor) -> torch.Tensor:
        lengths.extend([tokens.shape[1]] * len(tokens))
        return encode(tokens)

    monkeypatch.setattr(tiny_encoder, "encode_text", recording)
    found = embed_texts(tiny_encoder, texts, RunOptions(batch_size=4))
    assert len(lengths) == len(set(texts))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] == 20
    full = torch.cat([encode(tiny_encoder.tokenize([text])) for text in texts])
    np.testing.assert_allclose(found.features, full.numpy(), rtol=0, atol=1e-6)
    # 18 words fit the context of 20; every word here is one token.
    assert found.cut.tolist() == [len(text.split()) > 18 for text in texts]
    assert found.cut.any()


def test_texts_of_an_encoder_that_does_not_trim(colour_encoder):
    steps: list[Progress] = []
    texts, half = ["red", "blue", "red", "red green"], 0.5**0.5
    found = embed_texts(colour_encoder, texts, RunOptions(batch_size=2), steps.append)
    expected = [[1, 0, 0], [0, 0, 1], [1, 0, 0], [half, half, 0]]
    np.testing.assert_allclose(found.features, expected, atol=1e-6)
    assert found.cut.tolist() == [False] * 4
    assert steps == [Progress("texts", 3, 3)]


@pytest.mark.parametrize("workers", [0, 3])
def test_images_in_order(workers, colour_encoder, save_colour, tmp_path):
    colours = ["red", "blue", "green", "blue", "red"]
    modes = ["RGB", "RGBA", "RGB", "CMYK", "P"]
    images = [
        ImageFile(save_colour(tmp_path / f"{i}.{SUFFIX.get(mode, 'png')}", colour, mode))
        for i, (colour, mode) in enumerate(zip(colours, modes, strict=True))
    ]
    steps: list[Progress] = []
    options = RunOptions(batch_size=2, workers=workers)
    found = embed_images(colour_encoder, images, options, steps.append)
    assert found.features.argmax(axis=1).tolist() == [0, 2, 1, 2, 0]
    assert found.features.dtype == np.float32
    assert steps == [Progress("images", 5, 5)]


def test_batches_that_a_thread_fills_for_a_gpu_are_the_same(tiny_encoder, monkeypatch):
    """Also the last of a shard and the last of all, which are smaller."""
    noise = np.random.default_rng(0).integers(0, 256, (71, 8, 8, 3), np.uint8)
    images = [ImageArray(str(number), pixels) for number, pixels in enumerate(noise)]
    options = RunOptions(batch_size=9, workers=3)
    filled_here = embed_images(tiny_encoder, images, options).features
    monkeypatch.setattr(embed, "is_gpu", lambda device: True)
    np.testing.assert_array_equal(embed_images(tiny_encoder, images, options).features, filled_here)


def test_greyscale_is_read_as_rgb(save_colour, tmp_path):
    source = ImageFile(save_colour(tmp_path / "grey.jpg", "green", "L"))
    image = source.decode(source.read())
    assert image.mode == "RGB"
    assert image.getpixel((2, 2)) == (150, 150, 150)


def test_bad_images_are_named(colour_encoder, save_colour, tmp_path):
    good = save_colour(tmp_path / "good.png", "red")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:40])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg", "no.jpg"):
        images = [ImageFile(path) for path in (good, tmp_path / name, good)]
        with pytest.raises(UsageError, match=name) as raised:
            embed_images(colour_encoder, images, RunOptions())
        assert "\n" not in str(raised.value)


def test_nothing_to_embed(colour_encoder):
    with pytest.raises(UsageError, match="no images"):
        embed_images(colour_encoder, [], RunOptions())
    with pytest.raises(UsageError, match="no texts"):
        embed_texts(colour_encoder, [], RunOptions())


def test_prefetch_keeps_the_order_and_its_window():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(40):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    results = prefetch(items(), work, workers=4, window=6)
    for number, result in enumerate(results):
        assert result == number * number
        assert len(taken) == min(40, number + 1 + 6)  # those that are in flight or ready


def test_prefetch_raises_at_the_items_turn():
    results = prefetch([4, 2, 0, 1], lambda x: 8 // x, workers=2, window=2)
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_prefetch_can_be_given_up_by_one_of_its_own_threads():
    """As when the garbage collector runs there."""
    suspended, ended = threading.Event(), threading.Event()
    problems: list[BaseException] = []

    def work(item: int) -> int:
        if item == 1:
            suspended.wait()
            try:
                results.close()
            except BaseException as problem:
                problems.append(problem)
            ended.set()
        return item

    results = prefetch(range(4), work, workers=2, window=1)
    assert next(results) == 0
    suspended.set()
    assert ended.wait(10)
    assert problems == []
    assert list(results) == []


def test_images_that_are_not_cached_are_encoded_in_full_batches(
    tiny_encoder, tmp_path, monkeypatch
):
    """After a part in random order, the others make batches as large as in a run of their own. So
    all features have the bits of a run that never stopped."""
    monkeypatch.setattr(embed, "IMAGES_PER_SHARD", 4)
    rng = np.random.default_rng(0)
    images = []
    for number in range(10):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append(ImageFile(tmp_path / f"{number}.png"))
    images.append(images[3])  # which is not encoded twice
    encoder = copy(tiny_encoder)
    sizes: list[int] = []

    def encode_image(batch):
        sizes.append(len(batch))
        return tiny_encoder.encode_image(batch)

    encoder.encode_image = encode_image
    options = RunOptions(batch_size=4, cache=str(tmp_path / "cache"))
    without_cache = embed_images(encoder, images, replace(options, cache=None)).features
    assert sizes == [4, 4, 2]

    sizes.clear()
    keys = hash_image_files(images, options)
    in_order = embed_in_order(encoder, images, keys, [7, 2, 10, 5, 3, 9, 0, 1], options)
    assert next(in_order) == {}
    assert set(next(in_order)) == {keys[index] for index in (7, 2, 3, 5)}
    in_order.close()
    assert sizes == [4]

    sizes.clear()
    later = embed_images(encoder, images, options).features
    assert sizes == [4, 2]
    np.testing.assert_array_equal(later, without_cache)
    (cached,) = embed_in_order(encoder, images, keys, range(11), options)
    assert len(cached) == 10
