"""The published sets' own constants against the plain pipeline, from image files to label maps."""

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
from support.segmenting import measure

from cosmos_eval.data.label_maps import Sample
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.protocols.segmentation import SEGMENTATION, SEGMENTATION_BY_PROTOCOL
from cosmos_eval.tasks.segmentation import constants, inference
from cosmos_eval.tasks.segmentation.merge import placement, tiles
from cosmos_eval.tasks.segmentation.pictures import decode
from cosmos_eval.types import EncoderInfo, RunOptions, UsageError

WIDTH = 16


@pytest.fixture(scope="module")
def wide_encoder() -> ClipEncoder:
    """Patch 16, so that windows of 224 px are cheap; random weights."""
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=WIDTH, vision_cfg=vision, text_cfg=text)
    info = EncoderInfo("wide", "wide", None, None, True, "fp32", "cpu")
    return ClipEncoder(model, PreprocessCfg(size=64), SimpleTokenizer(), info)


def photograph(path: Path, size: tuple[int, int]) -> Path:
    """Write an image of coarse random colours with fine noise on them."""
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int64)
    noisy = (image + rng.integers(-30, 30, image.shape)).clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(path), noisy)
    return path


def segmenter_of(
    dataset: str, encoder: ClipEncoder, path: Path, protocol_name: str = "cosmos"
) -> inference.Segmenter:
    """Return a segmenter whose queries are close to the mean patch of an image, and so to each
    other: the thresholds of the protocol decide about many of its pixels."""
    protocol = SEGMENTATION_BY_PROTOCOL[protocol_name][dataset]
    rng = np.random.default_rng(1)
    pixels = inference.normalised(decode(path), protocol)[None, :, :224, :224]
    centre = encoder.encode_patches(pixels, protocol.attention).mean((0, 1, 2)).numpy()
    count = sum(len(names) for names in protocol.queries)
    rows = centre / np.linalg.norm(centre) + rng.normal(size=(count, WIDTH)) * 0.05
    queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return inference.Segmenter(encoder, queries, protocol, protocol.attention, batch_size=32)


def our_logits(image: inference.LoadedImage, segmenter: inference.Segmenter) -> torch.Tensor:
    windows = inference._place_windows([image], segmenter)
    (patches,) = inference._encode_patches([windows], segmenter, [segmenter.attention])
    patch_logits = patches[segmenter.attention] @ torch.from_numpy(segmenter.queries).T
    tokens = inference._arrange_windows(patch_logits, windows)
    height, width = image.label.shape
    logits = torch.full((len(tokens), height, width), torch.nan)
    placements = placement(windows.rows, height), placement(windows.columns, width)
    for (rows, columns), tile in tiles(tokens, *placements):
        logits[:, rows, columns] = tile
    return logits


def load(path: Path, segmenter: inference.Segmenter) -> inference.LoadedImage:
    image = decode(path)
    sample = Sample(path.stem, path, path, {})
    pixels = inference.normalised(image, segmenter.protocol)
    return inference.LoadedImage(sample, pixels, np.zeros(image.shape[:2], np.uint8))


def assert_plain_logits(path: Path, segmenter: inference.Segmenter) -> torch.Tensor:
    """Compare the logits of one image with those of the plain form, and return the latter."""
    expected = plain_query_logits(path, segmenter)
    logits = our_logits(load(path, segmenter), segmenter)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    return expected


def assert_plain_classes(
    path: Path, segmenter: inference.Segmenter, logits: torch.Tensor
) -> NDArray[np.uint8]:
    """Compare the label map of one image with that of the plain logits, and return the latter."""
    (prediction,) = inference.predict(segmenter, [load(path, segmenter)])
    classes = plain_classes(logits, segmenter.protocol)
    assert prediction.shape == classes.shape
    assert (prediction != classes).sum() <= classes.size / 10_000
    return classes


def assert_plain(path: Path, segmenter: inference.Segmenter) -> None:
    """Compare logits and label map of one image with those of the plain form."""
    assert_plain_classes(path, segmenter, assert_plain_logits(path, segmenter))


@pytest.mark.parametrize("dataset", SEGMENTATION)
def test_logits_and_label_maps_equal_the_plain_form(dataset, wide_encoder, tmp_path):
    path = photograph(tmp_path / "a.png", (50, 67))
    segmenter = segmenter_of(dataset, wide_encoder, path)
    logits = assert_plain_logits(path, segmenter)
    classes = assert_plain_classes(path, segmenter, logits)
    assert len(np.unique(classes)) > 3

    def differs_with(**changes: object) -> NDArray[np.bool_]:
        """Return which pixels have another class with other thresholds."""
        changed = segmenter._replace(protocol=replace(segmenter.protocol, **changes))
        return assert_plain_classes(path, changed, logits) != classes

    if segmenter.protocol.prob_thd > 0:  # the threshold decides about some pixels, not about all
        assert 0.01 < differs_with(prob_thd=0.0).mean() < 0.99
    if segmenter.protocol.area_thd is not None:
        assert differs_with(area_thd=None).any()


@pytest.mark.parametrize(
    ("dataset", "size"),
    [("voc20", (110, 1)), ("voc21", (1, 128)), ("voc20", (90, 900)), ("voc21", (2100, 40))],
)
def test_odd_sizes(dataset, size, wide_encoder, tmp_path):
    path = photograph(tmp_path / "a.png", size)
    assert_plain(path, segmenter_of(dataset, wide_encoder, path))


@pytest.mark.parametrize(
    ("dataset", "size"), [("voc21", (50, 67)), ("voc21", (110, 1)), ("voc20", (90, 900))]
)
def test_whole_images_in_one_pass(dataset, size, wide_encoder, tmp_path):
    """NACLIP's; its refinement has tests of its own."""
    path = photograph(tmp_path / "a.png", size)
    segmenter = segmenter_of(dataset, wide_encoder, path, "naclip")
    assert segmenter.protocol.window is None
    assert_plain(path, segmenter._replace(protocol=replace(segmenter.protocol, refinement=None)))


def test_a_whole_image_is_encoded_at_once(wide_encoder, tmp_path, monkeypatch):
    """336 px on the short side, the other in proportion and not cut to whole patches."""
    path = photograph(tmp_path / "a.png", (50, 67))
    segmenter = segmenter_of("voc20", wide_encoder, path, "naclip")
    encode, shapes = wide_encoder.encode_patches, []

    def recording(images, attention):
        shapes.append(tuple(images.shape))
        return encode(images, attention)

    monkeypatch.setattr(wide_encoder, "encode_patches", recording)
    list(inference.predict(segmenter, [load(path, segmenter)]))
    assert shapes == [(1, 3, 336, 450)]  # 67 * 336 / 50 = 450.24


@pytest.mark.parametrize("size", [(50, 67), (30, 90)])
def test_a_long_side_of_448_pixels(size, wide_encoder, tmp_path):
    """ClearCLIP's coco_stuff; of (30, 90) the short side is 149 px, less than a window."""
    path = photograph(tmp_path / "a.png", size)
    segmenter = segmenter_of("coco_stuff", wide_encoder, path, "clearclip")
    assert max(load(path, segmenter).pixels.shape) == 448
    assert_plain_logits(path, segmenter)


def test_a_whole_image_under_one_patch_is_refused(wide_encoder, tmp_path):
    path = photograph(tmp_path / "a.png", (1, 300))  # 7 x 2048 px after the resize
    segmenter = segmenter_of("voc20", wide_encoder, photograph(tmp_path / "b.png", (9, 9)))
    # NACLIP encodes a whole image at once.
    segmenter = segmenter._replace(protocol=SEGMENTATION_BY_PROTOCOL["naclip"]["voc20"])
    with pytest.raises(UsageError, match=r"is 2048x7 px after the resize, but a patch .* 16"):
        list(inference.predict(segmenter, [load(path, segmenter)]))


def test_the_stride_of_a_whole_image_does_not_change_its_hash():
    protocol = SEGMENTATION_BY_PROTOCOL["naclip"]["voc20"]
    described = constants(protocol, "naclip")
    assert (described["window"], described["stride"]) == (None, None)
    assert described == constants(replace(protocol, stride=1), "naclip")
    assert constants(SEGMENTATION["voc20"], "csa")["stride"] == 112


def test_any_batch_size_and_any_workers(encoder, protocol, write_set, tmp_path):
    sizes = {"a": (48, 48), "b": (90, 900), "c": (20, 1), "d": (37, 41), "e": (61, 200)}
    write_set(tmp_path, sizes)
    options = RunOptions(data_root=str(tmp_path))
    protocol = replace(protocol, prob_thd=0.3)
    segmenter = inference.make_segmenter(encoder, protocol, options)
    expected = {
        path.name: plain_classes(plain_query_logits(path, segmenter), protocol)
        for path in sorted((tmp_path / "images").iterdir())
    }
    total = sum(classes.size for classes in expected.values())
    for batch_size, workers in ((1, 0), (7, 1), (64, 3)):
        folder = tmp_path / f"out-{batch_size}"
        run_options = replace(
            options, batch_size=batch_size, workers=workers, save_predictions=str(folder)
        )
        measure(encoder, protocol, run_options)
        different = 0
        for name, classes in expected.items():
            with Image.open(folder / "pets__user" / name) as picture:
                different += (np.asarray(picture) != classes).sum()
        assert different <= total / 10_000
