"""What is kept, what is made again, what stops the work, and what a kill leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

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
def many(tmp_path: Path) -> Path:
    """Forty images and raw maps."""
    rng = np.random.default_rng(0)
    for number in range(40):
        name = f"{number:012d}"
        save_map(tmp_path / f"coco_stuff164k/images/val2017/{name}.jpg", np.zeros((40, 50, 3)))
        save_map(tmp_path / f"{MASKS}/{name}.png", rng.choice([0, 89, 91, 255], (40, 50)))
    return tmp_path


def made(root: Path) -> list[Path]:
    return sorted((root / MASKS).glob("*_instanceTrainIds.png"))


def test_a_killed_call_leaves_whole_maps_and_is_repeated(many):
    kill_preparing("coco_object", many)
    left = made(many)
    assert 5 <= len(left) < 40
    before = {path: path.read_bytes() for path in left}
    for path in left:
        assert np.shape(read(path)) == (40, 50)
    assert prepare("coco_object", str(many)) == Counts(made=40 - len(left), kept=len(left))
    assert {path: path.read_bytes() for path in left} == before
    assert prepare("coco_object", str(many)) == Counts(made=0, kept=40)


def test_damaged_and_foreign_maps_are_made_again(many):
    prepare("coco_object", str(many))
    expected = read(made(many)[0])
    truncated, foreign, coloured = made(many)[:3]
    truncated.write_bytes(truncated.read_bytes()[:-40])
    save_map(foreign, np.full((40, 50), 81))
    Image.new("RGB", (50, 40)).save(coloured)
    assert prepare("coco_object", str(many)) == Counts(made=3, kept=37)
    assert read(truncated) == expected


def test_maps_whose_originals_are_gone_are_kept(many):
    prepare("coco_object", str(many))
    for path in (many / MASKS).glob("*[0-9].png"):
        path.unlink()
    assert prepare("coco_object", str(many)) == Counts(made=0, kept=40)


def test_a_missing_original_stops_before_anything_is_written(many):
    (many / MASKS / f"{30:012d}.png").unlink()
    message = refusal("coco_object", many)
    assert f"{many / MASKS / f'{30:012d}.png'} is missing" in message
    assert PAGE in message
    assert made(many) == []


def test_missing_folders_are_named_with_the_page(tmp_path):
    message = refusal("cityscapes", tmp_path)
    assert str(tmp_path / "cityscapes/leftImg8bit/val") in message
    assert "https://www.cityscapes-dataset.com/downloads/" in message


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot read"),
        (lambda path: path.write_bytes(b"no picture"), "cannot read"),
        (lambda path: save_map(path, np.full((40, 50), 11)), "holds 11"),
        (lambda path: Image.new("RGB", (50, 40)).save(path), "8-bit"),
        (lambda path: Image.new("L", (50, 40)).save(path, "JPEG"), "is a JPEG file"),
    ],
)
def test_a_broken_original_stops_and_is_named(many, damage, complaint):
    path = many / MASKS / f"{20:012d}.png"
    damage(path)
    message = refusal("coco_object", many)
    assert str(path) in message
    assert complaint in message
    assert len(made(many)) >= 20


def test_contexts_originals_are_named_where_they_are_missing(voc2010, tmp_path):
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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda content: content.pop("images"), "not the Detail API's annotation file"),
        (lambda content: content["annos_segmentation"][0].pop("segmentation"), "not the Detail"),
        (lambda content: content["images"][0].update(width=4), "image 2008_000073"),
        (lambda content: content["annos_segmentation"][0].update(category_id=460), "2008_000073"),
    ],
)
def test_a_broken_annotation_is_named(annotation, tmp_path, change, complaint):
    content = json.loads(annotation.read_text())
    change(content)
    annotation.write_text(json.dumps(content))
    message = refusal("context", tmp_path)
    assert str(annotation) in message
    assert complaint in message


def test_the_command_tells_its_counts(many, command):
    ended = command("data", "prepare", "coco_object", "--data-root", many, "--json")
    assert ended.status == 0
    assert json.loads(ended.out) == [{"prepared": "coco_object", "made": 40, "kept": 0}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coco_objects"], "nearest: coco_object"),
        (["context"], "give --data-root DIR"),
        (["coco_object", "--data-root", "nowhere"], "expected nowhere/images/val2017"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, command):
    ended = command("data", "prepare", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert message in ended.err
