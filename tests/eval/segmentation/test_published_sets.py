"""The published sets' own constants against the plain pipeline, from image files to label maps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from PIL import Image
from support.plain_segmentation import plain_classes, plain_query_logits

from cosmos_eval.encoders.clip import ClipEncoder, ClipParts
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.tasks.label_maps._data import Sample
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation import _inference, measure
from cosmos_eval.tasks.segmentation._images import LoadedImage, decode, normalised
from cosmos_eval.tasks.segmentation._inference import Segmenter, predict
from cosmos_eval.tasks.segmentation._merge import placement, tiles
from cosmos_eval.types import EncoderInfo, RunOptions, no_progress

WIDTH = 16
ODD_SIZES = {"tall": (110, 1), "flat": (1, 128), "long": (90, 900), "large": (2100, 40)}


@pytest.fixture(scope="module")
def wide_encoder() -> ClipEncoder:
    """Patch 16, so that windows of 224 px are cheap; random weights."""
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=WIDTH, vision_cfg=vision, text_cfg=text)
    parts = ClipParts(model, PreprocessCfg(size=64), SimpleTokenizer())
    return ClipEncoder(parts, EncoderInfo("wide", "wide", None, None, True, "fp32", "cpu"))


def photograph(path: Path, size: tuple[int, int]) -> Path:
    """Coarse random colours with fine noise on them."""
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int64)
    noisy = (image + rng.integers(-30, 30, image.shape)).clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(path), noisy)
    return path


def segmenter_of(dataset: str, encoder: ClipEncoder, path: Path) -> Segmenter:
    """Queries about the image's own patches, close to each other: thresholds decide."""
    protocol = SEGMENTATION[dataset]
    rng = np.random.default_rng(1)
    pixels = normalised(decode(path), protocol)[None, :, :224, :224]
    centre = encoder.encode_patches(pixels, "csa").mean((0, 1, 2)).numpy()
    count = sum(len(names) for names in protocol.queries)
    rows = centre / np.linalg.norm(centre) + rng.normal(size=(count, WIDTH)) * 0.05
    queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Segmenter(encoder, queries, protocol, "csa", batch_size=32)


def our_logits(image: LoadedImage, segmenter: Segmenter) -> torch.Tensor:
    windows = _inference._windows([image], segmenter)
    (patches,) = _inference._patches([windows], segmenter)
    tokens = _inference._tiled(patches @ torch.from_numpy(segmenter.queries).T, windows)
    height, width = image.label.shape
    logits = torch.full((len(tokens), height, width), torch.nan)
    for tile in tiles(tokens, placement(windows.rows, height), placement(windows.columns, width)):
        logits[:, tile.rows, tile.columns] = tile.logits
    return logits


def assert_plain(path: Path, segmenter: Segmenter) -> NDArray[np.uint8]:
    """Logits and label map of one image against the plain ones; the latter are returned."""
    protocol = segmenter.protocol
    image = decode(path)
    loaded = LoadedImage(
        Sample(path.stem, path, path, {}),
        normalised(image, protocol),
        np.zeros(image.shape[:2], np.uint8),
    )
    expected = plain_query_logits(
        path, protocol, segmenter.queries, lambda w: segmenter.encoder.encode_patches(w, "csa")
    )
    torch.testing.assert_close(our_logits(loaded, segmenter), expected, atol=1e-5, rtol=0)
    (prediction,) = predict(segmenter, [loaded])
    classes = plain_classes(expected, protocol)
    assert prediction.classes.shape == classes.shape
    assert (prediction.classes != classes).sum() <= classes.size / 10_000
    return classes


@pytest.mark.parametrize("dataset", SEGMENTATION)
def test_logits_and_label_maps_are_the_plain_ones(dataset, wide_encoder, tmp_path):
    path = photograph(tmp_path / "a.png", (50, 67))
    segmenter = segmenter_of(dataset, wide_encoder, path)
    classes = assert_plain(path, segmenter)
    assert len(np.unique(classes)) > 3
    if segmenter.protocol.prob_thd > 0:  # it decides something, and not everything
        certain = replace(segmenter.protocol, prob_thd=0.0)
        assert (
            0.01
            < (assert_plain(path, segmenter._replace(protocol=certain)) != classes).mean()
            < 0.99
        )
    if segmenter.protocol.area_thd is not None:
        unlimited = replace(segmenter.protocol, area_thd=None)
        assert (assert_plain(path, segmenter._replace(protocol=unlimited)) != classes).any()


@pytest.mark.parametrize("dataset", ["voc20", "voc21"])
@pytest.mark.parametrize("size", ODD_SIZES.values(), ids=ODD_SIZES)
def test_odd_sizes(dataset, size, wide_encoder, tmp_path):
    path = photograph(tmp_path / "a.png", size)
    assert_plain(path, segmenter_of(dataset, wide_encoder, path))


@pytest.fixture(scope="module")
def pets_sizes() -> dict[str, tuple[int, int]]:
    return {"a": (48, 48), "b": (90, 900), "c": (20, 1), "d": (37, 41), "e": (61, 200)}


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 1), (64, 3)])
def test_any_batch_size_and_any_workers(
    batch_size, workers, encoder, protocol, pets_sizes, write_set, tmp_path
):
    write_set(tmp_path, pets_sizes)
    options = RunOptions(
        data_root=str(tmp_path),
        save_predictions=str(tmp_path / "out"),
        batch_size=batch_size,
        workers=workers,
    )
    measure(encoder, replace(protocol, prob_thd=0.3), options, no_progress)
    different = total = 0
    for name, expected in plain_maps(encoder, replace(protocol, prob_thd=0.3), tmp_path):
        folder = tmp_path / "out" / f"{protocol.dataset}__{protocol.family}"
        with Image.open(folder / f"{name}.png") as picture:
            different += (np.asarray(picture) != expected).sum()
        total += expected.size
    assert different <= total / 10_000


def plain_maps(encoder, protocol, root: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    names = [name for synonyms in protocol.queries for name in synonyms]
    queries = prompt_embeddings(encoder, names, protocol.templates, RunOptions())
    for path in sorted((root / "images").iterdir()):
        logits = plain_query_logits(
            path, protocol, queries, lambda window: encoder.encode_patches(window, "csa")
        )
        yield path.stem, plain_classes(logits, protocol)
