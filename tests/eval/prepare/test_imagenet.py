"""ImageNet's flat validation folder -> class folders, from each of the mappings people have.

1,000 images of one class each, in an order that is not that of the classes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from support.class_sets import WORDNET_IDS as IDS

from cosmos_eval.data.class_names import ClassData
from cosmos_eval.data.classification import open_data
from cosmos_eval.data.prepare import Counts, prepare
from cosmos_eval.protocols.classification import CLASSIFICATION
from cosmos_eval.types import RunOptions, UsageError

from .conftest import kill_preparing, refusal

SHUFFLED = np.random.default_rng(0).permutation(IDS).tolist()
NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 1001)]
CLASS_OF = dict(zip(NAMES, SHUFFLED, strict=True))


def flat(folder: Path, *, with_class: bool = False) -> Path:
    """Write images named as in ILSVRC2012_img_val.tar, or as in val_images.tar.gz of the hub."""
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / (name_with_class(name) if with_class else name)).write_text(name)
    return folder


def name_with_class(name: str) -> str:
    return f"{name.removesuffix('.JPEG')}_{CLASS_OF[name]}.JPEG"


def write_devkit(folder: Path) -> None:
    """Write the development kit. Its meta.mat has leaves, in another order, and groups of them."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {wordnet_id: number for number, wordnet_id in enumerate(reversed(IDS), start=1)}
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    synsets = np.zeros((1002, 1), dtype=[*fields, ("num_children", object)])
    groups = [(1001, "n00001740", "entity", "", 2), (1002, "n00001930", "thing", "", 5)]
    leaves = [(number, wordnet_id, "word", "", 0) for wordnet_id, number in numbers.items()]
    synsets[:, 0] = [*leaves, *groups]
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{numbers[wordnet_id]}\n" for wordnet_id in SHUFFLED)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def write_kaggle(folder: Path) -> None:
    lines = ["ImageId,PredictionString"]
    for name, wordnet_id in reversed(CLASS_OF.items()):
        boxes = f"{wordnet_id} 85 1 499 272 {wordnet_id} 1 2 3 4 "
        lines.append(f"{name.removesuffix('.JPEG')},{boxes}")
    (folder / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")


def write_lines(folder: Path) -> None:
    (folder / "LICENSE.txt").write_text("Not a mapping.\n")
    lines = [f"{name} {wordnet_id}\n" for name, wordnet_id in CLASS_OF.items()]
    (folder / "val.txt").write_text("".join(lines))


def class_folders(folder: Path) -> dict[str, str]:
    """Return the class folder of every image; check that the images' contents are unchanged."""
    folder_of_image = {}
    for path in folder.glob("*/*.JPEG"):
        assert path.read_text() == path.name
        folder_of_image[path.name] = path.parent.name
    return folder_of_image


def opened(root: Path, limit: int) -> ClassData:
    return open_data(CLASSIFICATION["imagenet1k"], RunOptions(data_root=str(root), limit=limit))


@pytest.mark.parametrize(
    ("place", "mapping", "write"),
    [
        ("val", "ILSVRC2012_devkit_t12/data", write_devkit),
        ("ILSVRC/Data/CLS-LOC/val", ".", write_kaggle),
        (".", ".", write_lines),
        ("val", "val", write_lines),
    ],
)
def test_every_layout_and_mapping(
    tmp_path: Path, place: str, mapping: str, write: Callable[[Path], None]
):
    root = tmp_path / "data"
    folder = flat(root / place)
    write(root / mapping)
    assert prepare("imagenet", str(root)) == Counts(made=1000, kept=0)
    assert class_folders(folder) == CLASS_OF
    assert not list(folder.glob("*.JPEG"))
    assert prepare("imagenet", str(root)) == Counts(made=0, kept=1000)
    assert opened(root, 1000).classes == tuple(IDS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    flat(tmp_path / "val")
    write_lines(tmp_path)
    return tmp_path


def test_a_killed_call_loses_nothing_and_is_repeated(root):
    kill_preparing("imagenet", root)
    assert len(class_folders(root / "val")) == 5
    assert len(list((root / "val").glob("*.JPEG"))) == 995
    assert prepare("imagenet", str(root)) == Counts(made=995, kept=5)
    assert class_folders(root / "val") == CLASS_OF


def refused(root: Path) -> str:
    before = sorted(root.rglob("*"))
    message = refusal("imagenet", root)
    assert sorted(root.rglob("*")) == before
    return message


def test_an_image_in_both_places_is_not_overwritten(root):
    other = root / "val" / SHUFFLED[7] / NAMES[7]
    other.parent.mkdir()
    other.write_text("another")
    assert f"both {root / 'val' / NAMES[7]} and {other} are there" in refused(root)
    assert other.read_text() == "another"


TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def pipe_as_list(root: Path) -> None:
    (root / "val.txt").unlink()
    os.mkfifo(root / "val.txt")


def remove_mapping(root: Path) -> None:
    (root / "val.txt").unlink()


def add_unknown_image(root: Path) -> None:
    (root / "val/ILSVRC2012_val_00050000.JPEG").touch()


def write_wrong_kaggle_list(root: Path) -> None:
    (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n")


def add_line(line: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with (root / "val.txt").open("a") as file:
            file.write(f"{line}\n")

    return change


def devkit_with(name: str, content: str | None) -> Callable[[Path], None]:
    """Return a function that leaves only a development kit with a changed or missing file."""

    def change(root: Path) -> None:
        remove_mapping(root)
        write_devkit(root / "data")
        (root / "data" / name).unlink()
        if content is not None:
            (root / "data" / name).write_text(content)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_mapping, f"put {TRUTH}"),
        (pipe_as_list, f"put {TRUTH}"),
        (devkit_with("meta.mat", None), f"found .*data/{TRUTH}, but no meta.mat beside it"),
        (devkit_with(TRUTH, None), f"found .*data/meta.mat, but no {TRUTH} beside it"),
        (add_line("nonsense"), "val.txt, line 1001 is not `NAME.JPEG"),
        (add_line("ILSVRC2012_val_00000001.JPEG n00001740"), "1000 classes,"),
        (add_unknown_image, "no class for 1 images"),
        (devkit_with("meta.mat", "x"), "cannot read .*meta.mat"),
        (devkit_with(TRUTH, "1\n2000\n"), "holds a value that is not an id of .*meta.mat: 2000"),
        (write_wrong_kaggle_list, "LOC_val_solution.csv is not Kaggle's list"),
    ],
)
def test_a_fault_is_named_before_anything_is_moved(root, change, message):
    change(root)
    assert re.search(message, refused(root))


def test_names_with_the_class_need_no_mapping(tmp_path):
    folder = flat(tmp_path / "imagenet/data/val_images", with_class=True)
    assert prepare("imagenet", str(tmp_path)) == Counts(made=1000, kept=0)
    assert class_folders(folder) == CLASS_OF
    assert prepare("imagenet", str(tmp_path)) == Counts(made=0, kept=1000)


@pytest.mark.parametrize("below", ["imagenet/data/val_images", "val_images"])
def test_names_with_the_class_are_read_in_place_as_the_class_folders_are(tmp_path, below):
    flat(tmp_path / below, with_class=True)
    in_place = opened(tmp_path, 1000)
    names_by_class = [name for _, name in sorted(zip(SHUFFLED, NAMES, strict=True))]
    assert [image.read().decode() for image in in_place.images] == names_by_class
    assert opened(tmp_path / below, 1000).names == in_place.names
    prepare("imagenet", str(tmp_path))
    in_class_folders = opened(tmp_path, 1000)
    assert in_place.classes == in_class_folders.classes == tuple(IDS)
    assert in_place.names == in_class_folders.names
    assert in_place.labels.tolist() == in_class_folders.labels.tolist()


def test_names_with_the_class_beside_others_are_refused(tmp_path):
    folder = flat(tmp_path / "val_images", with_class=True)
    write_lines(tmp_path)
    first, second = (folder / name_with_class(name) for name in NAMES[:2])
    (folder / SHUFFLED[0]).mkdir()
    first.rename(folder / SHUFFLED[0] / NAMES[0])
    with pytest.raises(UsageError, match="holds 999 images outside class folders"):
        opened(tmp_path, 3)
    second.rename(folder / NAMES[1])
    assert prepare("imagenet", str(tmp_path)) == Counts(made=999, kept=1)
    assert class_folders(folder) == CLASS_OF


def test_an_image_under_both_names_is_refused(tmp_path):
    folder = flat(tmp_path / "val_images", with_class=True)
    (folder / NAMES[0]).write_text("another")
    write_lines(tmp_path)
    with_class = folder / name_with_class(NAMES[0])
    assert f"both {with_class} and {folder / NAMES[0]} are there" in refused(tmp_path)


def test_too_few_classes_in_names_are_refused(tmp_path):
    folder = flat(tmp_path / "val_images", with_class=True)
    (folder / name_with_class(NAMES[5])).unlink()
    with pytest.raises(UsageError, match="has 999 classes in the names of its images, which"):
        opened(tmp_path, 3)


def test_run_and_doctor_say_how_to_prepare_imagenet(root, command):
    remedy = f"cosmos-eval data prepare imagenet --data-root {root}"
    completed = command("run", "--dataset", "imagenet1k", "--data-root", root)
    assert completed.status == 2
    assert f"{root}/val holds 1000 images outside class folders" in completed.err
    assert f"`{remedy}`" in completed.err
    completed = command("data", "doctor", "imagenet1k", "--data-root", root, "--json")
    assert completed.status == 1
    assert json.loads(completed.out)[0]["remedy"] == remedy
    completed = command("data", "prepare", "imagenet", "--data-root", root, "--json")
    assert completed.status == 0
    assert json.loads(completed.out) == [{"prepared": "imagenet", "made": 1000, "kept": 0}]


def test_the_doctor_does_not_ask_to_prepare_a_set_whose_images_are_missing(tmp_path, command):
    flat(tmp_path / "val_images", with_class=True)
    completed = command("data", "doctor", "imagenet1k", "--data-root", tmp_path, "--json")
    assert completed.status == 1
    (diagnosis,) = json.loads(completed.out)
    assert diagnosis["faults"][0].startswith(f"{tmp_path}/val_images has 1000 of 50000 images")
    assert diagnosis["remedy"] == CLASSIFICATION["imagenet1k"].download


def test_the_doctor_says_how_sets_are_downloaded(tmp_path, command):
    completed = command("data", "doctor", "dtd", "stanford_cars", "--data-root", tmp_path, "--json")
    dtd, cars = json.loads(completed.out)
    assert dtd["remedy"] == f"cosmos-eval run --dataset dtd --data-root {tmp_path} --download"
    assert cars["remedy"] == CLASSIFICATION["stanford_cars"].download
