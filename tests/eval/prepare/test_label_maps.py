"""Label maps against ones made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from support.sets import LAYOUTS, save_map, write_images

from cosmos_eval.data.prepare import Counts, prepare
from cosmos_eval.protocols.segmentation import COCO_THINGS, SEGMENTATION

from .conftest import EXPECTED, drawn, read, refusal

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
        named = [
            SEGMENTATION["cityscapes"].class_names[index] if index != 255 else None for index in row
        ]
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
    assert [SEGMENTATION["context59"].class_names[index - 1] for index in row] == list(CATEGORIES)


def read_wide(path: Path) -> list[list[int]]:
    with Image.open(path) as image:
        assert (image.mode, image.format) == ("I;16", "TIFF")
        values: list[list[int]] = np.asarray(image).tolist()
    return values


def test_all_categories_of_pascal_context_from_either_original(annotation, tmp_path):
    """Category numbers less one, of the validation image alone: 458, 3 and 284."""
    mask = annotation.parent / "annotations_detectron2/pc459_val/2008_000073.tif"
    write_matlab(annotation.parent)
    for _ in ("annotation", "trainval"):
        assert prepare("context459", str(tmp_path)) == Counts(made=1, kept=0)
        assert [path.name for path in mask.parent.iterdir()] == [mask.name]
        assert read_wide(mask) == [[457, 457, 457], [2, 2, 283]]
        assert prepare("context459", str(tmp_path)) == Counts(made=0, kept=1)
        mask.unlink()
        annotation.unlink(missing_ok=True)
    lists = annotation.parent / "ImageSets/SegmentationContext"
    assert [path.name for path in lists.iterdir()] == ["val.txt"]


def test_pixels_without_a_category_have_no_class(voc2010):
    (voc2010 / "trainval").mkdir()
    values = np.array([[0, 1, 459]], np.uint16)
    scipy.io.savemat(voc2010 / "trainval/2008_000073.mat", {"LabelMap": values})
    (voc2010 / "pascalcontext_val.txt").write_text("2008_000073\n")
    assert prepare("context459", str(voc2010)) == Counts(made=1, kept=0)
    mask = voc2010 / "annotations_detectron2/pc459_val/2008_000073.tif"
    assert read_wide(mask) == [[65535, 0, 458]]


# Ids of the full release and the classes that they become: register_ade20k_full.py of MaskFormer.
ADE_IDS = {2978: 0, 312: 1, 3144: 99, 3148: 846}


@pytest.fixture
def ade_full(tmp_path: Path) -> Path:
    """An image of the full ADE20K, wall on the left, and a small one with ids at both ends."""
    folder = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    rng = np.random.default_rng(0)
    ids = np.full((600, 900), 2978)
    ids[:, 450:] = 312
    for name, values in (("large", ids), ("small", np.array([[*ADE_IDS, 0, 1]]))):
        segments = np.stack([values // 256 * 10, values % 256, np.zeros_like(values)], axis=-1)
        stem = folder / f"ADE_val_00000005_{name}"
        save_map(stem.with_name(f"{stem.name}_seg.png"), segments)
        save_map(stem.with_name(f"{stem.name}.jpg"), rng.integers(0, 256, (*values.shape, 3)))
    return tmp_path


def test_ade20k_847_from_the_full_release(ade_full):
    assert prepare("ade20k_847", str(ade_full)) == Counts(made=4, kept=0)
    root = ade_full / "ADE20K_2021_17_01"
    small, large = (
        read_wide(root / f"annotations_detectron2/validation/ADE_val_00000005_{name}.tif")
        for name in ("small", "large")
    )
    assert small == [[*ADE_IDS.values(), 65535, 65535]]
    assert np.shape(large) == (512, 768)  # 600 px are more than 512
    assert (np.array(large) == np.repeat([0, 1], 384)).all()
    with Image.open(root / "images_detectron2/validation/ADE_val_00000005_large.jpg") as image:
        assert image.size == (768, 512)


def test_broken_maps_of_ade20k_847_are_made_again_and_others_kept(ade_full):
    prepare("ade20k_847", str(ade_full))
    root = ade_full / "ADE20K_2021_17_01"
    image, mask = (
        root / f"{kind}_detectron2/validation/ADE_val_00000005_small.{suffix}"
        for kind, suffix in (("images", "jpg"), ("annotations", "tif"))
    )
    image.write_bytes(image.read_bytes()[:-100])
    Image.fromarray(np.full((1, 6), 847, np.uint16)).save(mask)
    assert prepare("ade20k_847", str(ade_full)) == Counts(made=2, kept=2)
    assert read_wide(mask)[0][:2] == [0, 1]


def test_a_missing_original_of_ade20k_847_is_named(ade_full):
    original = next(ade_full.rglob("*small_seg.png"))
    original.unlink()
    assert f"{original} is missing; from: https://groups" in refusal("ade20k_847", ade_full)
