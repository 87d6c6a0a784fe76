"""Embedding keeps the order, runs equal texts once, trims exactly and names bad files."""

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
    ImageEmbedder,
    embed_images,
    embed_in_order,
    embed_texts,
    hash_image_files,
)
from cosmos_eval.types import Progress, RunOptions, UsageError, no_progress

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
    embedded = embed_texts(tiny_encoder, texts, RunOptions(batch_size=4))
    assert len(lengths) == len(set(texts))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] == 20
    full_length_features = torch.cat([encode(tiny_encoder.tokenize([text])) for text in texts])
    np.testing.assert_allclose(embedded.features, full_length_features.numpy(), rtol=0, atol=1e-6)
    # 18 words fit the context of 20; every word here is one token.
    assert embedded.cut.tolist() == [len(text.split()) > 18 for text in texts]
    assert embedded.cut.any()


def test_texts_of_an_encoder_that_does_not_trim(colour_encoder):
    steps: list[Progress] = []
    texts, diagonal = ["red", "blue", "red", "red green"], 0.5**0.5
    embedded = embed_texts(colour_encoder, texts, RunOptions(batch_size=2), steps.append)
    expected = [[1, 0, 0], [0, 0, 1], [1, 0, 0], [diagonal, diagonal, 0]]
    np.testing.assert_allclose(embedded.features, expected, atol=1e-6)
    assert embedded.cut.tolist() == [False] * 4
    assert steps == [Progress("texts", 3, 3)]


@pytest.mark.parametrize("workers", [0, 3])
def test_images_are_embedded_in_order(workers, colour_encoder, save_colour, tmp_path):
    images = []
    for name, colour, mode in (
        ("0.png", "red", "RGB"),
        ("1.png", "blue", "RGBA"),
        ("2.png", "green", "RGB"),
        ("3.jpg", "blue", "CMYK"),
        ("4.png", "red", "P"),
    ):
        images.append(ImageFile(save_colour(tmp_path / name, colour, mode)))
    steps: list[Progress] = []
    options = RunOptions(batch_size=2, workers=workers)
    embedded = embed_images(colour_encoder, images, options, steps.append)
    assert embedded.features.argmax(axis=1).tolist() == [0, 2, 1, 2, 0]
    assert embedded.features.dtype == np.float32
    assert steps == [Progress("images", 5, 5)]


def test_batches_that_a_thread_fills_for_a_gpu_are_the_same(tiny_encoder, monkeypatch):
    """The last batch of a shard and the last of all are smaller than the others."""
    noise = np.random.default_rng(0).integers(0, 256, (71, 8, 8, 3), np.uint8)
    images = [ImageArray(str(number), pixels) for number, pixels in enumerate(noise)]
    options = RunOptions(batch_size=9, workers=3)
    features = embed_images(tiny_encoder, images, options).features
    monkeypatch.setattr(embed, "is_gpu", lambda device: True)
    features_by_thread = embed_images(tiny_encoder, images, options).features
    np.testing.assert_array_equal(features_by_thread, features)


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
    taken_items: list[int] = []

    def items() -> Iterator[int]:
        for item in range(40):
            taken_items.append(item)
            yield item

    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    results = prefetch(items(), work, workers=4, window=6)
    for number, result in enumerate(results):
        assert result == number * number
        in_flight_or_ready = 6
        assert len(taken_items) == min(40, number + 1 + in_flight_or_ready)


def test_prefetch_raises_at_the_items_turn():
    results = prefetch([4, 2, 0, 1], lambda x: 8 // x, workers=2, window=2)
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_prefetch_can_be_closed_by_one_of_its_own_threads():
    """The garbage collector may run there."""
    suspended, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def work(item: int) -> int:
        if item == 1:
            suspended.wait()
            try:
                results.close()
            except BaseException as error:
                errors.append(error)
            ended.set()
        return item

    results = prefetch(range(4), work, workers=2, window=1)
    assert next(results) == 0
    suspended.set()
    assert ended.wait(10)
    assert errors == []
    assert list(results) == []


def test_images_that_are_not_cached_are_encoded_in_full_batches(
    tiny_encoder, tmp_path, monkeypatch
):
    """After some images in random order, the others make batches of full size.

    So all features have the bits of a run that never stopped.
    """
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


def test_a_set_of_arrays_that_is_opened_twice(colour_encoder):
    """Images in memory are told apart by identity: comparing arrays has no truth value."""

    def open_set() -> list[ImageArray]:
        colours = ((255, 0, 0), (0, 0, 255))
        return [
            ImageArray(str(n), np.full((4, 4, 3), colour, np.uint8))
            for n, colour in enumerate(colours)
        ]

    embedder = ImageEmbedder(colour_encoder, RunOptions(), no_progress)
    images = open_set()
    first = embedder.embed(images)
    assert embedder.embed(list(images)) is first
    second = embedder.embed(open_set())
    assert second is not first
    np.testing.assert_array_equal(second.features, first.features)
