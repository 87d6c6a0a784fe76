"""Pictures of a gallery, decoded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from support.galleries import pixels

from cosmos_eval.data.sources import ImageFile
from cosmos_eval.reporting.gallery.pictures import Canvas

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_a_label_map_solved_by_hand() -> None:
    """Two classes in their colours, 255 and what is no class are transparent."""
    classes = np.array([[0, 1], [255, 2]], np.uint8)
    drawn = pixels(Canvas().label_map(classes, [RED, BLUE], (4, 2)))
    assert drawn[0].tolist() == [[*RED, 255]] * 2 + [[*BLUE, 255]] * 2
    assert drawn[1, :, 3].tolist() == [0] * 4


def test_a_label_map_of_more_classes_than_8_bits_hold() -> None:
    """Classes 300 and 0 in their colours; 44 would be 300 in 8 bits, and 65535 is no class."""
    classes = np.array([[0, 300], [65535, 301]], np.uint16)
    drawn = pixels(Canvas().label_map(classes, [RED, *[(9, 9, 9)] * 299, BLUE], (2, 2)))
    assert drawn[0].tolist() == [[*RED, 255], [*BLUE, 255]]
    assert drawn[1, :, 3].tolist() == [0, 0]


def test_a_label_map_has_no_colours_between_classes() -> None:
    classes = np.random.default_rng(0).integers(0, 2, (97, 131)).astype(np.uint8)
    drawn = pixels(Canvas().label_map(classes, [RED, BLUE], (50, 31)))
    colours = {tuple(colour) for colour in drawn.reshape(-1, 4).tolist()}
    assert colours == {(*RED, 255), (*BLUE, 255)}


def test_a_thumbnail_keeps_proportions_and_content(tmp_path: Path) -> None:
    halves = np.zeros((300, 600, 3), np.uint8)
    halves[:, :300] = 200
    Image.fromarray(halves).save(tmp_path / "a.png")
    picture = Canvas().thumbnail(ImageFile(tmp_path / "a.png"))
    assert (picture.width, picture.height) == (224, 112)
    grey = pixels(picture, "L").astype(int)
    assert abs(grey[:, :108] - 200).max() < 12
    assert grey[:, 116:].max() < 12


def test_small_images_are_not_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), RED).save(tmp_path / "a.png")
    canvas = Canvas(0.5)
    picture = canvas.thumbnail(ImageFile(tmp_path / "a.png"))
    assert (picture.width, picture.height) == (40, 30)
    assert canvas.size_of((1000, 10)) == (160, 2)
    assert canvas.size_of((10, 1000)) == (2, 160)
    assert canvas.size_of((10_000, 10)) == (160, 1)


def test_equal_images_are_one_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), RED).save(tmp_path / name)
    canvas = Canvas()
    a, b = (canvas.thumbnail(ImageFile(tmp_path / name)) for name in ("a.png", "b.png"))
    assert a is b
    assert a is canvas.thumbnail(ImageFile(tmp_path / "a.png"))


def test_a_heat_map_goes_from_faint_blue_to_yellow() -> None:
    values = np.array([[0.0, 1.0]], np.float32)
    drawn = pixels(Canvas().heat_map(values, (40, 20))).astype(int)
    low, high = drawn[10, 0], drawn[10, -1]
    assert low[2] > low[0]  # blue, not red
    assert high[0] > 200
    assert high[1] > 200
    assert high[2] < 110
    assert low[3] < 100 < 180 < high[3]
    assert (np.diff(drawn[10, :, 3]) >= 0).all()
