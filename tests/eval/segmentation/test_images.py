"""Decoding and resizing."""

import cv2
import numpy as np
import pytest

from cosmos_eval.data.label_maps import mmseg_module
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.tasks.segmentation.inference import normalised, resized_hw
from cosmos_eval.tasks.segmentation.pictures import decode
from cosmos_eval.types import UsageError

VOC = SEGMENTATION["voc20"]


@pytest.mark.parametrize(
    ("image", "resized"),
    [
        ((375, 500), (336, 448)),  # short side 336
        ((100, 1000), (205, 2048)),  # long side 2048
        ((90, 900), (205, 2048)),
        ((1, 5000), (1, 2048)),  # never below one pixel
    ],
)
def test_resized_size_by_hand(image, resized):
    assert resized_hw(image, VOC) == resized


def test_resized_size_is_that_of_mmcv():
    mmseg_module("datasets")
    import mmcv

    for height, width in np.random.default_rng(0).integers(20, 3000, (200, 2)).tolist():
        expected = mmcv.rescale_size((width, height), (2048, 336))
        assert resized_hw((height, width), VOC)[::-1] == expected


def test_pixels_are_rgb_and_normalised():
    pixels = normalised(np.full((336, 336, 3), (30, 20, 10), np.uint8), VOC)
    expected = [(30 - 122.771) / 68.501, (20 - 116.746) / 66.632, (10 - 104.094) / 70.323]
    np.testing.assert_allclose(pixels.mean((1, 2)), expected, rtol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_undecodable_images_are_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        decode(path)


def test_grey_images_have_three_channels(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((3, 4), 7, np.uint8))
    assert decode(tmp_path / "grey.png").tolist() == np.full((3, 4, 3), 7).tolist()
