"""Preparing keeps whole maps, makes others again, stops at faults, and survives a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.sets import save_map

from cosmos_eval.data.prepare import Counts, prepare

from .conftest import kill_preparing, read, refusal

pytestmark = pytest.mark.slow  # starts processes of its own

MASKS = "coco_stuff164k/annotations/val2017"
PAGE = "https://github.com/nightrome/cocostuff#downloads"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write forty images and raw maps."""
    rng = np.random.default_rng(0)
    for number in range(40):
        name = f"{number:012d}"
        save_map(tmp_path / f"coco_stuff164k/images/val2017/{name}.jpg", np.zeros((40, 50, 3)))
        save_map(tmp_path / f"{MASKS}/{name}.png", rng.choice([0, 89, 91, 255], (40, 50)))
    return tmp_path


def prepared_maps(root: Path) -> list[Path]:
    return sorted((root / MASKS).glob("*_instanceTrainIds.png"))


def test_a_killed_call_leaves_whole_maps_and_is_repeated(root):
    kill_preparing("coco_object", root)
    maps_of_killed_call = prepared_maps(root)
    assert 5 <= len(maps_of_killed_call) < 40
    contents = {path: path.read_bytes() for path in maps_of_killed_call}
    for path in maps_of_killed_call:
        assert np.shape(read(path)) == (40, 50)
    n_kept = len(maps_of_killed_call)
    assert prepare("coco_object", str(root)) == Counts(made=40 - n_kept, kept=n_kept)
    assert {path: path.read_bytes() for path in maps_of_killed_call} == contents
    assert prepare("coco_object", str(root)) == Counts(made=0, kept=40)


def test_damaged_and_foreign_maps_are_made_again(root):
    prepare("coco_object", str(root))
    expected = read(prepared_maps(root)[0])
    truncated, foreign, coloured = prepared_maps(root)[:3]
    cut(truncated)
    save_map(foreign, np.full((40, 50), 81))
    save_in_colour(coloured)
    assert prepare("coco_object", str(root)) == Counts(made=3, kept=37)
    assert read(truncated) == expected


def test_maps_whose_originals_are_gone_are_kept(root):
    prepare("coco_object", str(root))
    for path in (root / MASKS).glob("*[0-9].png"):
        path.unlink()
    assert prepare("coco_object", str(root)) == Counts(made=0, kept=40)


def test_a_missing_original_stops_before_anything_is_written(root):
    (root / MASKS / f"{30:012d}.png").unlink()
    message = refusal("coco_object", root)
    assert f"{root / MASKS / f'{30:012d}.png'} is missing" in message
    assert PAGE in message
    assert prepared_maps(root) == []


def test_missing_folders_are_named_with_the_page(tmp_path):
    message = refusal("cityscapes", tmp_path)
    assert str(tmp_path / "cityscapes/leftImg8bit/val") in message
    assert "https://www.cityscapes-dataset.com/downloads/" in message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def write_text(path: Path) -> None:
    path.write_bytes(b"no picture")


def save_map_of_unknown_id(path: Path) -> None:
    save_map(path, np.full((40, 50), 11))


def save_in_colour(path: Path) -> None:
    Image.new("RGB", (50, 40)).save(path)


def save_as_jpeg(path: Path) -> None:
    Image.new("L", (50, 40)).save(path, "JPEG")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (cut, "cannot read"),
        (write_text, "cannot read"),
        (save_map_of_unknown_id, "holds 11"),
        (save_in_colour, "8-bit"),
        (save_as_jpeg, "is a JPEG file"),
    ],
)
def test_a_broken_original_stops_and_is_named(root, damage, complaint):
    path = root / MASKS / f"{20:012d}.png"
    damage(path)
    message = refusal("coco_object", root)
    assert str(path) in message
    assert complaint in message
    assert len(prepared_maps(root)) >= 20


def test_missing_originals_of_context_are_named(voc2010, tmp_path):
    message = refusal("context", tmp_path)
    assert f"{voc2010 / 'trainval_merged.json'} is missing; from: https://" in message
    (voc2010 / "trainval").mkdir()
    assert "ImageSets/Main/train.txt is missing" in refusal("context", tmp_path)
    (voc2010 / "ImageSets/Main").mkdir(parents=True)
    for phase in ("train", "val"):
        (voc2010 / f"ImageSets/Main/{phase}.txt").write_text("2007_000033\n")
    assert "trainval/2007_000033.mat is missing" in refusal("context", tmp_path)
    (voc2010 / "trainval/2007_000033.mat").write_bytes(b"no matlab")
    assert "cannot read" in refusal("context", tmp_path)
    assert not (voc2010 / "ImageSets/SegmentationContext").exists()


def remove_images(content: dict[str, Any]) -> None:
    del content["images"]


def remove_a_segmentation(content: dict[str, Any]) -> None:
    del content["annos_segmentation"][0]["segmentation"]


def change_a_width(content: dict[str, Any]) -> None:
    content["images"][0]["width"] = 4


def name_an_unknown_category(content: dict[str, Any]) -> None:
    content["annos_segmentation"][0]["category_id"] = 460


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (remove_images, "not the Detail API's annotation file"),
        (remove_a_segmentation, "not the Detail"),
        (change_a_width, "image 2008_000073"),
        (name_an_unknown_category, "2008_000073"),
    ],
)
def test_a_broken_annotation_is_named(annotation, tmp_path, change, complaint):
    content = json.loads(annotation.read_text())
    change(content)
    annotation.write_text(json.dumps(content))
    message = refusal("context", tmp_path)
    assert str(annotation) in message
    assert complaint in message


def test_the_command_tells_its_counts(root, command):
    completed = command("data", "prepare", "coco_object", "--data-root", root, "--json")
    assert completed.status == 0
    assert json.loads(completed.out) == [{"prepared": "coco_object", "made": 40, "kept": 0}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coco_objects"], "nearest: coco_object"),
        (["context"], "give --data-root DIR"),
        (["coco_object", "--data-root", "nowhere"], "expected nowhere/images/val2017"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, command):
    completed = command("data", "prepare", *arguments)
    assert (completed.status, completed.out) == (2, "")
    assert len(completed.err.splitlines()) == 1
    assert message in completed.err
