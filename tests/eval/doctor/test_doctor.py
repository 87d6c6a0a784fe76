"""The report of `data doctor` on complete data sets, and on every fault that one can have."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.class_sets import write_class_set
from support.excerpts import sugarcrepe_excerpt, write_coco_excerpt
from support.sets import LAYOUTS, PRESENT, save_map, write_sets

from cosmos_eval.protocols import known_protocols
from cosmos_eval.protocols.classification import CLASSIFICATION
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.sets import read_set
from cosmos_eval.runner.doctor import Diagnosis, examine
from cosmos_eval.types import Protocol, RunOptions, no_progress

LABELS = {
    "voc21": (0, 20),
    "voc20": (15, 20),
    "context60": (0, 59),
    "context59": (1, 59),
    "coco_object": (0, 80),
    "coco_stuff": (0, 170),
    "cityscapes": (0, 18),
    "ade20k": (1, 150),
}


@pytest.fixture(scope="module")
def complete_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write_sets(root)
    return root


@pytest.fixture
def sets(complete_sets: Path, tmp_path: Path) -> Path:
    """Return a copy of the sets, which a test may damage."""
    shutil.copytree(complete_sets, tmp_path / "sets")
    return tmp_path / "sets"


def diagnosed(protocol: Protocol, root: Path) -> Diagnosis:
    return examine(protocol, RunOptions(data_root=str(root)), no_progress)


def examined(dataset: str, root: Path, n_images: int = 3) -> Diagnosis:
    """Return the diagnosis of a published set, as if it had only the made-up images."""
    return diagnosed(dataclasses.replace(SEGMENTATION[dataset], n_images=n_images), root)


def path_of(dataset: str, root: Path, part: str, number: int) -> Path:
    layout = LAYOUTS[PRESENT[dataset][0]]
    return root / getattr(layout, part).format(layout.names[number])


@pytest.mark.parametrize("dataset", PRESENT)
def test_a_complete_set_has_no_faults(dataset, complete_sets):
    diagnosis = examined(dataset, complete_sets)
    assert (diagnosis.whole, diagnosis.faults, diagnosis.remedy) == (True, (), None)
    assert (diagnosis.expected, diagnosis.images, diagnosis.label_maps) == (3, 3, 3)
    assert diagnosis.labels == LABELS[dataset]
    assert diagnosis.folder is not None
    assert path_of(dataset, complete_sets, "images", 0).is_relative_to(diagnosis.folder)


def test_published_sets_are_compared_with_their_published_sizes():
    assert {name: SEGMENTATION[name].n_images for name in PRESENT} == {
        "voc21": 1449,
        "voc20": 1449,
        "context60": 5104,
        "context59": 5104,
        "coco_object": 5000,
        "coco_stuff": 5000,
        "cityscapes": 500,
        "ade20k": 2000,
    }


@pytest.mark.parametrize("dataset", PRESENT)
def test_a_missing_file_is_named_an_image_by_the_list_or_by_its_label_map(dataset, sets):
    image, mask = (path_of(dataset, sets, part, 1) for part in ("images", "masks"))
    content = mask.read_bytes()
    mask.unlink()
    diagnosis = examined(dataset, sets)
    assert diagnosis.faults == (f"1 of 3 label maps missing, first: {mask}",)
    assert (diagnosis.images, diagnosis.label_maps) == (3, 2)
    mask.write_bytes(content)
    image.unlink()
    diagnosis = examined(dataset, sets)
    assert diagnosis.faults == (f"1 of 3 images missing, first: {image}",)
    assert (diagnosis.images, diagnosis.remedy) == (2, SEGMENTATION[dataset].download)


def test_images_that_nothing_names_are_counted(complete_sets):
    assert examined("ade20k", complete_sets, n_images=5).faults == (
        f"2 of 5 images missing from {complete_sets}/ade/ADEChallengeData2016/images/validation",
    )
    assert examined("ade20k", complete_sets, n_images=2).faults == (
        f"3 images, 2 expected, in {complete_sets}/ade/ADEChallengeData2016/images/validation",
    )


def test_label_maps_of_another_suffix_are_told(sets):
    folder = sets / "cityscapes/gtFine/val"
    for path in sorted(folder.rglob("*_labelTrainIds.png")):
        path.rename(path.with_name(path.name.replace("TrainIds", "Ids")))
    (fault,) = examined("cityscapes", sets).faults
    assert fault.startswith("3 of 3 label maps missing, first: ")
    assert fault.endswith(
        "; none ends in _gtFine_labelTrainIds.png, "
        "there is frankfurt_000000_000294_gtFine_labelIds.png"
    )


@pytest.mark.parametrize(
    ("dataset", "value"), [("voc20", 21), ("voc21", 21), ("ade20k", 151), ("coco_stuff", 171)]
)
def test_a_label_out_of_range_is_told(dataset, value, sets):
    path = path_of(dataset, sets, "masks", 2)
    save_map(path, np.full((64, 64), value))
    diagnosis = examined(dataset, sets)
    (fault,) = diagnosis.faults
    assert f"{path} holds class {value}" in fault
    assert diagnosis.labels == (LABELS[dataset][0], value)


def test_sizes_that_differ_are_told_once_with_their_number(sets):
    for number in (0, 1):
        save_map(path_of("voc21", sets, "masks", number), np.zeros((20, 30)))
    path = path_of("voc21", sets, "masks", 0)
    fault = f"label map {path} is 30x20 px, its image 61x37 (and 1 more)"
    assert examined("voc21", sets).faults == (fault,)


def test_a_broken_label_map_and_a_broken_image_are_told(sets):
    broken, image = path_of("ade20k", sets, "masks", 0), path_of("ade20k", sets, "images", 1)
    broken.write_bytes(b"no picture")
    image.write_bytes(b"no picture")
    faults = "\n".join(examined("ade20k", sets).faults)
    assert f"cannot read label map {broken}" in faults
    assert f"cannot read image {image}" in faults


def test_a_wrong_root_names_the_expected_paths(tmp_path):
    diagnosis = examined("voc21", tmp_path)
    usual = tmp_path / "VOCdevkit/VOC2012/JPEGImages"
    page = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/#devkit"
    expected = f"expected {tmp_path}/JPEGImages or {usual}, which is not there; from: {page}"
    assert diagnosis.faults == (expected,)
    assert diagnosis.remedy == page
    assert (diagnosis.images, diagnosis.labels) == (None, None)


MISSING_SETS = {
    "voc21": "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/#devkit",
    "nyu_depth": "https://github.com/cleinc/bts#nyu-depvh-v2",
    "circo": "https://github.com/miccunifi/CIRCO#download",
    "cirr": "https://github.com/Cuberick-Orion/CIRR",
    "coco-boxes": "https://cocodataset.org/#download",
    "waterbirds": "https://nlp.stanford.edu/data/dro/",
}


@pytest.mark.parametrize("dataset", MISSING_SETS)
def test_the_page_of_a_missing_set_is_printed_once(dataset, tmp_path, command):
    printed = command("data", "doctor", dataset, "--data-root", tmp_path).out
    assert printed.count(MISSING_SETS[dataset]) == 1
    ended = command(
        "run", "--dataset", dataset, "--model", "scenes-cosmos", "--data-root", tmp_path
    )
    assert ended.status == 2
    assert ended.err.count(MISSING_SETS[dataset]) == 1


@pytest.mark.parametrize(
    ("dataset", "preparation"),
    [
        *(("coco_object", "coco_object"), ("coco_stuff", "coco_stuff")),
        *(("cityscapes", "cityscapes"), ("context60", "context"), ("context59", "context")),
    ],
)
def test_what_can_be_prepared_is_mended_by_that_command(dataset, preparation, sets):
    (sets / "VOCdevkit/VOC2010/trainval_merged.json").write_text("{}")
    path_of(dataset, sets, "masks", 0).unlink()
    remedy = examined(dataset, sets).remedy
    assert remedy == f"cosmos-eval data prepare {preparation} --data-root {sets}"


def test_context_is_prepared_where_only_its_download_is_there(sets):
    root = sets / "VOCdevkit/VOC2010"
    shutil.rmtree(root / "SegmentationClassContext")
    assert examined("context60", sets).remedy == SEGMENTATION["context60"].download
    (root / "trainval").mkdir()
    command = f"cosmos-eval data prepare context --data-root {sets}"
    assert examined("context60", sets).remedy == command


def test_ade20k_847_is_prepared_where_its_release_is_there(tmp_path):
    (tmp_path / "ADE20K_2021_17_01/images/ADE/validation").mkdir(parents=True)
    command = f"cosmos-eval data prepare ade20k_847 --data-root {tmp_path}"
    assert diagnosed(read_set("ade20k_847"), tmp_path).remedy == command


@pytest.fixture
def user_set(tmp_path: Path) -> Path:
    """Write a user's own set of one image, described by a YAML file."""
    Image.new("RGB", (6, 4)).save(save_map(tmp_path / "images/one.png", np.zeros((4, 6))))
    save_map(tmp_path / "masks/one.png", np.array([[0, 1, 1, 0, 0, 255]] * 4))
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{kind: seg, images: images, masks: masks, image_suffix: .png, classes: [sky, car]}"
    )
    return path


def test_status_0_for_a_whole_set_else_1_and_the_fault(user_set, command):
    ended = command("data", "doctor", user_set)
    assert (ended.status, ended.err) == (0, "")
    (row,) = [line.split() for line in ended.out.splitlines() if "mine" in line]
    assert row[:14] == [
        "mine",
        "seg",
        "yes",
        *["1", "of", "1", "1", "of", "1", "1", "of", "1", "2", "0-1"],
    ]
    mask = user_set.parent / "masks/one.png"
    mask.unlink()
    ended = command("data", "doctor", user_set)
    assert (ended.status, ended.err) == (1, "")
    assert f"mine: 1 of 1 label maps missing, first: {mask}" in ended.out
    user_set.write_text(user_set.read_text().replace("kind: seg", "kind: seg, stride: 500"))
    ended = command("data", "doctor", user_set)
    assert ended.status == 1
    assert "mine: stride must not exceed window" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["voc2"], "unknown data set 'voc2'; nearest: .*voc21"),
        (["none.yaml"], "none.yaml: no such file"),
        (["voc21"], "--data-root"),
        (["voc21", "--data-root", "nowhere"], "no folder nowhere"),
        (["--data-root", "nowhere"], "no folder nowhere"),
    ],
)
def test_status_2_for_wrong_usage(arguments, message, command):
    ended = command("data", "doctor", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert re.search(message, ended.err)


def test_without_a_name_all_known_sets_are_summed_up(complete_sets, command, tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "empty"))
    ended = command("data", "doctor", "--data-root", complete_sets, "--json")
    rows = {row["dataset"]: row for row in json.loads(ended.out)}
    assert ended.status == 1
    assert rows.keys() == known_protocols().keys()
    assert rows["scenes-seg"]["whole"]
    assert not (tmp_path / "empty").exists()
    assert (rows["voc21"]["images"], rows["voc21"]["expected"]) == (3, 1449)
    assert "captions_val2017.json in annotations" in rows["coco-val2017"]["faults"][0]
    assert rows["imagenet1k"]["remedy"].startswith("https://")


def test_other_tasks_are_checked_as_before_a_run(tmp_path, command):
    for name in ("a", "b"):
        save_map(tmp_path / f"photos/{name}/one.png", np.zeros((4, 6)))
    path = tmp_path / "photos.yaml"
    path.write_text("{kind: cls, folder: photos, templates: ['{}']}")
    ended = command("data", "doctor", path)
    assert ended.status == 0
    assert "checked for cls: class folders" in ended.out
    # Columns without a value are left out.
    header, _, row, *_ = (line.split() for line in ended.out.splitlines() if line.strip())
    assert header == ["dataset", "task", "complete", "images", "decoded", "classes", "folder"]
    assert row[:10] == ["photos", "cls", "yes", "2", "of", "2", "2", "of", "2", "2"]
    (tmp_path / "photos/b/one.png").unlink()
    ended = command("data", "doctor", path)
    assert ended.status == 1
    assert f"class folder {tmp_path}/photos/b has no images" in ended.out


def test_items_and_images_of_a_selection_set_are_counted_and_missing_ones_named(tmp_path):
    coco = write_coco_excerpt(tmp_path)
    diagnosis = diagnosed(sugarcrepe_excerpt(), tmp_path)
    assert (diagnosis.whole, diagnosis.faults, diagnosis.remedy) == (True, (), None)
    assert (diagnosis.items, diagnosis.expected_items, diagnosis.images, diagnosis.expected) == (
        16,
        16,
        4,
        4,
    )
    assert diagnosis.folder == str(tmp_path / "val2017")
    coco[0].unlink()
    diagnosis = diagnosed(sugarcrepe_excerpt(), tmp_path)
    assert (diagnosis.images, diagnosis.expected, diagnosis.items) == (3, 4, 16)
    (fault,) = diagnosis.faults
    assert fault.startswith(f"1 of the 4 images of {tmp_path}/sugar-crepe/data are not there, ")
    assert f"first: {coco[0]}; from: https://cocodataset.org/#download (images: COCO val" in fault
    shutil.rmtree(coco[0].parent)
    diagnosis = diagnosed(sugarcrepe_excerpt(), tmp_path)
    assert (diagnosis.images, diagnosis.expected, diagnosis.items) == (0, 4, 16)
    (fault,) = diagnosis.faults
    assert f"no images below {tmp_path}: looked for val2017 in images, ., coco/images, " in fault
    for text in (fault, diagnosis.remedy or ""):
        assert "https://cocodataset.org/#download (images: COCO val2017)" in text
        assert "https://github.com/RAIVNLab/sugar-crepe" in text


def test_a_selection_set_with_other_numbers_of_items(tmp_path):
    write_coco_excerpt(tmp_path)
    diagnosis = diagnosed(known_protocols()["sugarcrepe"], tmp_path)
    assert (diagnosis.items, diagnosis.expected_items, diagnosis.images, diagnosis.expected) == (
        16,
        7511,
        4,
        4,
    )
    assert len(diagnosis.faults) == 7
    path = tmp_path / "sugar-crepe/data"
    assert diagnosis.faults[-1] == f"{path} has 3 of 245 items of swap_obj of sugarcrepe"


def test_test_images_of_classification_sets_are_counted(tmp_path, monkeypatch):
    write_class_set("dtd", tmp_path, monkeypatch)
    dtd = CLASSIFICATION["dtd"]
    diagnosis = diagnosed(dataclasses.replace(dtd, n_classes=2, n_images=2), tmp_path)
    assert (diagnosis.whole, diagnosis.images, diagnosis.expected) == (True, 2, 2)
    assert diagnosis.folder == str(tmp_path / "dtd/dtd")
    missing = tmp_path / "dtd/dtd/images/banded/banded_0011.jpg"
    missing.unlink()
    diagnosis = diagnosed(dtd, tmp_path)
    assert (diagnosis.whole, diagnosis.images, diagnosis.expected) == (False, 1, 1880)
    first, classes, second = diagnosis.faults
    assert classes.startswith(f"{tmp_path}/dtd/dtd has 2 classes, not the 47; ")
    assert first.startswith(f"1 of 2 test images are not there, the first: {missing}; from: ")
    assert second.startswith(f"{tmp_path}/dtd/dtd has 2 of 1880 images of dtd")
    # torchvision fetches nothing where the folders are there.
    assert diagnosis.remedy == dtd.download
