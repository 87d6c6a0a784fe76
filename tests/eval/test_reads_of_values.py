"""Where values of tensors are read, which makes a process wait for a GPU: once per shard of an
embedding and per image of a segmentation, never per batch. Reads show on a CPU as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.reads import Reads
from torch import Tensor

from cosmos_eval import TwoTower
from cosmos_eval.data.label_maps import Label, Sample
from cosmos_eval.data.sources import ImageArray
from cosmos_eval.embedding.embed import Features, embed_images, embed_texts
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.encoder import Encoder, copy_to_host
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.tasks.segmentation.inference import LoadedImage, Segmenter, normalised, predict
from cosmos_eval.types import RunOptions, SegmentationProtocol

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def pictures(count: int) -> list[ImageArray]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, 40, 30, 3), np.uint8)
    return [ImageArray(str(number), pixels) for number, pixels in enumerate(noise)]


def features_of(role: str, encoder: Encoder, batch_size: int) -> Features:
    """Embed 64 images, which are two shards, or 64 texts, which are one."""
    options = RunOptions(batch_size=batch_size, workers=2)
    if role == "images":
        return embed_images(encoder, pictures(64), options).features
    texts = ["red " * (1 + number % 9) + str(number) for number in range(64)]
    return embed_texts(encoder, texts, options).features


def reads_of(act: Callable[[], object]) -> Counter[str]:
    with Reads() as reads:
        act()
    return reads.found


@pytest.fixture
def make(tiny_encoder: ClipEncoder, cosmos: ClipEncoder) -> Callable[[str], Encoder]:
    """Return the encoder of a kind."""
    two_tower = TwoTower(
        encode_image=tiny_encoder.model.encode_image,
        encode_text=tiny_encoder.model.encode_text,
        transform=tiny_encoder.transform,
        tokenize=tiny_encoder.tokenize,
        name="mine",
    )
    return {"openclip": tiny_encoder, "cosmos": cosmos, "two towers": two_tower}.__getitem__


@pytest.mark.parametrize(
    ("kind", "role", "shards"),
    [
        ("openclip", "images", 2),
        ("openclip", "texts", 1),
        ("cosmos", "images", 2),
        ("two towers", "images", 2),
        ("two towers", "texts", 1),
    ],
)
def test_features_are_read_once_per_shard(kind, role, shards, make):
    encoder = make(kind)
    of_few, of_many = (reads_of(lambda n=n: features_of(role, encoder, n)) for n in (32, 2))
    if kind == "cosmos":  # the attention reads the lengths of sequences, which are on the host
        del of_few["tolist"], of_many["tolist"]
    assert of_few == of_many
    assert of_few["__bool__"] == shards  # whether features are finite


@pytest.fixture
def segmenter(tiny_encoder: ClipEncoder) -> Segmenter:
    """Nine windows an image, in batches of two; thresholds and refinement."""
    rows = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    protocol = SegmentationProtocol(
        dataset="noise",
        protocol_name="user",
        images="images",
        masks="masks",
        class_names=("wall", "cat", "dog"),
        queries=(("wall", "floor", "sky"), ("cat",), ("dog",)),
        mean=tuple(255 * value for value in tiny_encoder.image_mean),
        std=tuple(255 * value for value in tiny_encoder.image_std),
        **{"short_side": 40, "window": 16, "stride": 12, "prob_thd": 0.4, "area_thd": 0.2},
    )
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return Segmenter(tiny_encoder, unit, protocol, "naclip", batch_size=2)


def label_maps(segmenter: Segmenter, count: int = 3) -> list[Label]:
    sample, label = Sample("noise", Path(), Path(), {}), np.zeros((40, 30), np.uint8)
    pixels = [normalised(source.pixels, segmenter.protocol) for source in pictures(count)]
    return [*predict(segmenter, (LoadedImage(sample, one, label) for one in pixels))]


@pytest.mark.parametrize("refinement", [None, "pamr"])
def test_label_maps_are_read_once_per_image(refinement, segmenter):
    protocol = replace(segmenter.protocol, refinement=refinement)
    reads = reads_of(lambda: label_maps(segmenter._replace(protocol=protocol)))
    # Only on a CPU are the token rows counted that a tile needs; maps are formed twice.
    tiles = {} if refinement else {"nonzero": 2 * 3}
    assert reads == {"__bool__": 3, "numpy": 3, **tiles}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_a_gpu_has_its_next_work_before_it_is_waited_for(device):
    """A CPU has done all its work, of which a killed run loses nothing."""
    taken: list[int] = []

    def outputs() -> Iterator[tuple[int, list[Tensor]]]:
        for number in range(3):
            taken.append(number)
            yield number, [torch.full((2,), number, device=device)]

    for number, (tensor,) in copy_to_host(outputs()):
        assert taken[-1] == min(number + (device == "cuda"), 2)
        assert tensor.device.type == "cpu"
        assert tensor.tolist() == [number, number]


@pytest.fixture
def on_gpu() -> Iterator[Callable[[Encoder], Any]]:
    """Load an encoder once more, on a GPU, where an operation that waits for it raises."""

    def load(encoder: Encoder) -> Any:
        arch = encoder.info.architecture if encoder.info.weights else None
        loaded = load_encoder(parse_model_spec(encoder.info.spec, arch=arch), device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        return loaded

    yield load
    torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("kind", ["openclip", "cosmos"])
@pytest.mark.parametrize("role", ["images", "texts"])
def test_a_gpu_is_never_waited_for_and_gives_the_same_features(role, kind, on_gpu, make):
    encoder = make(kind)
    computed, expected = (features_of(role, one, 4) for one in (on_gpu(encoder), encoder))
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize("refinement", [None, "pamr"])
def test_a_gpu_is_never_waited_for_and_gives_the_same_label_maps(refinement, on_gpu, segmenter):
    protocol = replace(segmenter.protocol, refinement=refinement)
    segmenter_on_cpu = segmenter._replace(protocol=protocol)
    segmenter_on_gpu = segmenter_on_cpu._replace(encoder=on_gpu(segmenter.encoder))
    computed, expected = label_maps(segmenter_on_gpu), label_maps(segmenter_on_cpu)
    assert np.mean(np.stack(computed) != np.stack(expected)) < 0.01
