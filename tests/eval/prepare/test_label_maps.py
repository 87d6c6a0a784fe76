"""Label maps against ones made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from support.sets import LAYOUTS, save_map, write_images

from cosmos_eval.data.prepare import Counts, prepare
from cosmos_eval.protocols.segmentation import CITYSCAPES, COCO_THINGS, CONTEXT, SEGMENTATION

from .conftest import EXPECTED, drawn, read

COCO_MASKS = "coco_stuff164k/annotations/val2017"

# Three maps: things and stuff at both ends of their ids, one pixel wide, and one value alone. In
# the raw maps a value is COCO's category id less one.
RAW = ([[0, 10, 12], [89, 91, 181]], [[255], [0], [66]], [[255, 255]])
STUFF = ([[0, 10, 11], [79, 80, 170]], [[255], [0], [60]], [[255, 255]])
OBJECT = ([[1, 11, 12], [80, 0, 0]], [[0], [1], [61]], [[0, 0]])
# Category ids of COCO-Stuff: labels.txt of github.com/nightrome/cocostuff.
COCO_IDS = {
    **{"person": 1, "fire hydrant": 11, "stop sign": 13, "handbag": 31, "dining table": 67},
    **{"toilet": 70, "tv": 72, "book": 84, "toothbrush": 90, "banner": 92, "wood": 182},
}


def write_coco(root: Path, suffix: str, maps: tuple[list[list[int]], ...]) -> None:
    for name, values in zip(LAYOUTS["coco_stuff"].names, maps, strict=True):
        save_map(root / COCO_MASKS / f"{name}{suffix}", np.array(values))


def made_coco(root: Path, suffix: str) -> list[list[list[int]]]:
    return [read(root / COCO_MASKS / f"{name}{suffix}") for name in LAYOUTS["coco_stuff"].names]


def test_coco_stuff_from_its_raw_maps(coco):
    write_coco(coco, ".png", RAW)
    assert prepare("coco_stuff", str(coco)) == Counts(made=3, kept=0)
    assert made_coco(coco, "_labelTrainIds.png") == list(STUFF)


@pytest.mark.parametrize(
    ("suffix", "maps"), [(".png", RAW), ("_labelTrainIds.png", STUFF)], ids=["raw", "train ids"]
)
def test_coco_object_from_either_of_coco_stuffs_maps(coco, suffix, maps):
    write_coco(coco, suffix, maps)
    assert prepare("coco_object", str(coco)) == Counts(made=3, kept=0)
    assert made_coco(coco, "_instanceTrainIds.png") == list(OBJECT)


def test_coco_stuffs_classes_have_cocos_category_ids(coco):
    raw = np.array([[number - 1 for number in COCO_IDS.values()]])
    write_coco(coco, ".png", (raw, raw, raw))
    prepare("coco_stuff", str(coco))
    prepare("coco_object", str(coco))
    (stuff,), (objects,) = (
        made_coco(coco, suffix)[0] for suffix in ("_labelTrainIds.png", "_instanceTrainIds.png")
    )
    names = SEGMENTATION["coco_stuff"].class_names
    assert [names[index] for index in stuff] == list(COCO_IDS)
    names = SEGMENTATION["coco_object"].class_names
    expected = [name if name in COCO_THINGS else "background" for name in COCO_IDS]
    assert [names[index] for index in objects] == expected


# `labels` of github.com/mcordts/cityscapesScripts: ids of what is evaluated; the rest is void.
CITYSCAPES_IDS = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17},
    **{"traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23},
    **{"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31},
    **{"motorcycle": 32, "bicycle": 33},
}


def test_cityscapes_from_label_ids_in_city_folders(tmp_path):
    layout = LAYOUTS["cityscapes"]
    write_images(tmp_path, layout)
    of_id = {number: name for name, number in CITYSCAPES_IDS.items()}
    values = np.array([[*range(34), 255]])
    for name in layout.names:
        save_map(tmp_path / f"cityscapes/gtFine/val/{name}_gtFine_labelIds.png", values)
    assert prepare("cityscapes", str(tmp_path / "cityscapes")) == Counts(made=3, kept=0)
    for name in layout.names:
        (row,) = read(tmp_path / layout.masks.format(name))
        named = [CITYSCAPES[index] if index != 255 else None for index in row]
        assert named == [of_id.get(number) for number in values[0].tolist()]


def test_palette_originals_are_read_by_index(coco):
    write_coco(coco, ".png", RAW)
    path = coco / COCO_MASKS / f"{LAYOUTS['coco_stuff'].names[0]}.png"
    with Image.open(path) as image:
        indexed = image.convert("L").copy()
    indexed.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    indexed.save(path)
    prepare("coco_stuff", str(coco))
    assert made_coco(coco, "_labelTrainIds.png")[0] == STUFF[0]


def test_pascal_context_from_the_detail_annotation(annotation, tmp_path):
    assert prepare("context", str(tmp_path)) == Counts(made=2, kept=0)
    folder = annotation.parent
    for name, expected in EXPECTED.items():
        assert read(folder / f"SegmentationClassContext/{name}.png") == expected
    lists = {p.name: p.read_text() for p in (folder / "ImageSets/SegmentationContext").iterdir()}
    assert lists == {"train.txt": "2007_000033\n", "val.txt": "2008_000073\n"}


def write_matlab(root: Path) -> None:
    for name in EXPECTED:
        categories = np.zeros(np.shape(EXPECTED[name]), np.uint16)
        for category, area in drawn(name):
            categories[area > 0] = category
        (root / "trainval").mkdir(exist_ok=True)
        scipy.io.savemat(root / f"trainval/{name}.mat", {"LabelMap": categories})


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("2007_000033\n")
    (folder / "val.txt").write_text("2008_000073\n")


@pytest.mark.parametrize("lists", ["Main", "SegmentationContext"])
def test_pascal_context_from_the_matlab_files(lists, voc2010):
    write_matlab(voc2010)
    write_lists(voc2010 / "ImageSets" / lists)
    assert prepare("context", str(voc2010)) == Counts(made=2, kept=0)
    for name, expected in EXPECTED.items():
        assert read(voc2010 / f"SegmentationClassContext/{name}.png") == expected
    split = voc2010 / "ImageSets/SegmentationContext/val.txt"
    assert split.read_text() == "2008_000073\n"


# Some of the categories of the Detail API's file, by name.
CATEGORIES = {
    **{"aeroplane": 2, "bag": 9, "bicycle": 23, "car": 59, "cow": 98, "horse": 207},
    **{"motorbike": 258, "mouse": 260, "person": 284, "sofa": 368, "table": 397, "train": 416},
    **{"tvmonitor": 427, "wall": 440, "wood": 458},
}


def test_contexts_classes_have_the_ids_of_their_categories(voc2010):
    values = np.array([list(CATEGORIES.values())], np.uint16)
    (voc2010 / "trainval").mkdir()
    for name in EXPECTED:
        scipy.io.savemat(voc2010 / f"trainval/{name}.mat", {"LabelMap": values})
    write_lists(voc2010 / "ImageSets/Main")
    prepare("context", str(voc2010))
    (row,) = read(voc2010 / "SegmentationClassContext/2007_000033.png")
    assert [CONTEXT[index - 1] for index in row] == list(CATEGORIES)
