"""Sets that files of the package describe: their classes and sizes, and their folders and names."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.protocols import find_known, protocols_of_dataset
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.sets import class_ids, read_set, set_names
from cosmos_eval.runner.doctor import examine
from cosmos_eval.tasks.segmentation import shared_prompts
from cosmos_eval.types import RunOptions, UsageError, no_progress

# Classes with the background, and images: register_*.py and prepare_all_datasets.py of MESS, and of
# FoodSeg103 the number of images in its release.
MESS = {
    "bdd100k": (19, 1000),
    "dark-zurich": (20, 50),
    "mhp-v1": (19, 980),
    "foodseg103": (104, 2135),
    "atlantis": (56, 1295),
    "dram": (12, 718),
    "isaid": (16, 4055),
    "isprs-potsdam": (6, 504),
    "worldfloods": (3, 160),
    "floodnet": (10, 5571),
    "uavid": (8, 840),
    "kvasir-instrument": (2, 118),
    "chase-db1": (2, 20),
    "cryonuseg": (2, 30),
    "paxray-lungs": (2, 180),
    "paxray-bones": (2, 180),
    "paxray-mediastinum": (2, 180),
    "paxray-diaphragm": (2, 180),
    "corrosion-cs": (4, 44),
    "deepcrack": (2, 237),
    "pst900": (5, 288),
    "zerowaste-f": (5, 929),
    "suim": (8, 110),
    "cub-200": (201, 5794),
    "cwfid": (3, 21),
}
OTHERS = {
    "ade20k_847": (847, 2000),
    "context459": (459, 5104),
    "voc20_2007": (20, 210),
    "voc21_2007": (21, 210),
}


def test_classes_and_images():
    sizes = {}
    for name in set_names():
        protocol = read_set(name)
        sizes[name] = (len(protocol.class_names), protocol.n_images)
    assert sizes == {**{f"mess/{name}": size for name, size in MESS.items()}, **OTHERS}


@pytest.mark.parametrize("name", set_names())
def test_a_description_is_free_of_contradictions_and_has_the_usual_prompts(name):
    protocol = read_set(name)
    check_constants(protocol)
    assert shared_prompts(protocol) == ()
    assert protocol.source.startswith("http")
    assert find_known(name) == protocol
    assert list(protocols_of_dataset(name)) == [
        "mess" if name.startswith("mess/") else "open-vocabulary"
    ]
    if name.startswith("mess/"):
        assert protocol.queries == tuple((cls,) for cls in protocol.class_names)
        assert (protocol.prob_thd, protocol.area_thd) == (0, None)


def test_an_unknown_name_and_family_are_refused():
    with pytest.raises(UsageError, match="unknown data set 'mess/cub'; nearest: mess/cub-200"):
        find_known("mess/cub")
    with pytest.raises(UsageError, match="mess/suim has no protocol 'cosmos'; nearest: mess"):
        find_known("mess/suim", "cosmos")


def test_large_class_lists_have_the_length_of_cat_segs_files():
    """Characters of datasets/ade847.json and pc459.json of github.com/cvlab-kaist/CAT-Seg at
    dc295ee, the latter without two line breaks at its end."""
    ade, context = (read_set(name).class_names for name in ("ade20k_847", "context459"))
    assert [len(json.dumps(names)) for names in (ade, context)] == [14680, 5053]
    assert (ade[0], ade[267], ade[846]) == (
        "wall",
        "cockpit",
        "adding machine, totalizer, totaliser",
    )
    assert (context[0], context[458]) == ("accordion", "wool")


def test_ids_of_ade20k_are_maskformers():
    """trainId and id, of register_ade20k_full.py."""
    ids = class_ids("ade20k_847")
    assert (ids[0], ids[99], ids[165], ids[267], ids[846]) == (2978, 3144, 3107, 559, 3148)
    assert len(set(ids)) == 847


def test_a_prompt_is_of_the_class_with_fewest_names():
    protocol = read_set("ade20k_847")
    prompts = dict(zip(protocol.class_names, protocol.queries, strict=True))
    assert prompts["bag"] == ("bag",)
    assert prompts["bag, handbag, pocketbook, purse"] == ("handbag", "pocketbook", "purse")
    assert prompts["dog, domestic dog, canis familiaris"][0] == "dog"
    assert prompts["andiron, firedog, dog, dog-iron"] == ("andiron", "firedog", "dog-iron")


def test_pascal_contexts_59_classes_are_among_all():
    assert set(SEGMENTATION["context59"].class_names) <= set(read_set("context459").class_names)


def test_voc_2007_has_the_constants_of_voc_2012():
    fields_of_a_year = (
        *("dataset", "protocol_name", "source", "download", "n_images", "usual_folder", "split"),
    )
    for name in ("voc20", "voc21"):
        voc_2012 = SEGMENTATION[name]
        changes = {field: getattr(voc_2012, field) for field in fields_of_a_year}
        assert replace(read_set(f"{name}_2007"), **changes) == voc_2012


# Files below the data root as the scripts write them, an image without a label map first.
FILES = {
    "ade20k_847": [
        "ADE20K_2021_17_01/images_detectron2/validation/ADE_val_00000001.jpg",
        "ADE20K_2021_17_01/annotations_detectron2/validation/ADE_val_00000001.tif",
    ],
    "context459": [
        "VOCdevkit/VOC2010/JPEGImages/2008_000003.jpg",
        "VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg",
        "VOCdevkit/VOC2010/annotations_detectron2/pc459_val/2008_000002.tif",
    ],
    "voc20_2007": [
        "VOCdevkit/VOC2007/JPEGImages/000068.jpg",
        "VOCdevkit/VOC2007/SegmentationClass/000068.png",
    ],
    "mess/cwfid": [
        "cwfid/images/002_image.png",
        "cwfid/images/001_image.png",
        "cwfid/annotations_detectron2/test/001_annotation.png",
    ],
    "mess/dark-zurich": [
        "Dark_Zurich/rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png",
        "Dark_Zurich/annotations_detectron2/val/GOPR0356_frame_000321_gt_labelIds.png",
    ],
    "mess/corrosion-cs": [
        "Corrosion Condition State Classification/original/Test/images/101.jpeg",
        "Corrosion Condition State Classification/original/Test/masks/101.png",
    ],
    "mess/zerowaste-f": [
        "zerowaste-f/splits_final_deblurred/test/data/01_frame_000100.PNG",
        "zerowaste-f/splits_final_deblurred/test/sem_seg/01_frame_000100.PNG",
    ],
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_found_where_the_scripts_write_them(name, tmp_path):
    protocol = replace(read_set(name), n_images=1)
    *images, mask = (tmp_path / file for file in FILES[name])
    for path in (*images, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in images:
        Image.new("RGB", (4, 2)).save(path)
    # The first value of a class in the file; with a zero label that stands for no class, it is 1.
    first = int(protocol.reduce_zero_label)
    last = first + len(protocol.class_names) - 1
    values = [[first, last, protocol.ignore_index, first]] * 2
    Image.fromarray(np.array(values, f"u{protocol.label_bits // 8}")).save(mask)
    split = tmp_path / "VOCdevkit/VOC2007/ImageSets/Segmentation/test.txt"
    split.parent.mkdir(parents=True)
    split.write_text("000068\n")
    findings = examine(protocol, RunOptions(data_root=str(tmp_path)), no_progress)
    assert (findings.faults, findings.expected, findings.images) == ((), 1, 1)
    assert findings.labels == (first, last)
