"""ImageNet's flat validation folder -> class folders, from each of the mappings people have.

1,000 images of one class each, in an order that is not that of the classes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cosmos_eval.cli.app import main
from cosmos_eval.data.classification import open_data
from cosmos_eval.data.prepare import Counts, prepare
from cosmos_eval.protocols.classification import CLASSIFICATION
from cosmos_eval.types import RunOptions, UsageError

# Moves images until five are in their folders, then dies as by `kill -9`.
KILLED = """
import os, signal, sys
from cosmos_eval.data.prepare import prepare

def die(step):
    if step.phase == "images" and step.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

prepare("imagenet", sys.argv[1], progress=die)
"""


def wordnet_ids() -> list[str]:
    package = importlib.util.find_spec("timm")
    assert package is not None
    assert package.submodule_search_locations is not None
    listed = Path(package.submodule_search_locations[0]) / "data/_info/imagenet_synsets.txt"
    return sorted(listed.read_text().split())


IDS = wordnet_ids()
SHUFFLED = np.random.default_rng(0).permutation(IDS).tolist()
NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 1001)]


def flat(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(name)
    return folder


def flat_with_classes(folder: Path) -> Path:
    """As `datasets/README.md` of COSMOS and val_images.tar.gz on Hugging Face name the images."""
    folder.mkdir(parents=True)
    for name, wordnet_id in zip(NAMES, SHUFFLED, strict=True):
        (folder / f"{name.removesuffix('.JPEG')}_{wordnet_id}.JPEG").write_text(name)
    return folder


def write_devkit(folder: Path) -> None:
    """Leaves in another order than their ids, and groups of them, as in the kit's meta.mat."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {wordnet_id: number for number, wordnet_id in enumerate(reversed(IDS), start=1)}
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    synsets = np.zeros((1002, 1), dtype=[*fields, ("num_children", object)])
    for row, (wordnet_id, number) in enumerate(ids.items()):
        synsets[row, 0] = (number, wordnet_id, "word", "what it means", 0)
    synsets[1000, 0] = (1001, "n00001740", "entity", "what it means", 2)
    synsets[1001, 0] = (1002, "n00001930", "thing", "what it means", 5)
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{ids[wordnet_id]}\n" for wordnet_id in SHUFFLED)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def write_kaggle(folder: Path) -> None:
    lines = ["ImageId,PredictionString"]
    for name, wordnet_id in reversed(list(zip(NAMES, SHUFFLED, strict=True))):
        boxes = f"{wordnet_id} 85 1 499 272 {wordnet_id} 1 2 3 4 "
        lines.append(f"{name.removesuffix('.JPEG')},{boxes}")
    (folder / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")


def write_lines(folder: Path) -> None:
    pairs = zip(NAMES, SHUFFLED, strict=True)
    (folder / "LICENSE.txt").write_text("Not a mapping.\n")
    (folder / "val.txt").write_text("".join(f"{name} {own}\n" for name, own in pairs))


def organised(folder: Path) -> dict[str, str]:
    """Class folder of every image, which still holds what it did."""
    found = {path.name: path.parent.name for path in folder.glob("*/*.JPEG")}
    assert all((folder / own / name).read_text() == name for name, own in found.items())
    return found


@pytest.mark.parametrize(
    ("place", "mapping", "write"),
    [
        ("val", "ILSVRC2012_devkit_t12/data", write_devkit),
        ("imagenet/val", "imagenet", write_devkit),
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
    assert organised(folder) == dict(zip(NAMES, SHUFFLED, strict=True))
    assert not list(folder.glob("*.JPEG"))
    assert prepare("imagenet", str(root)) == Counts(made=0, kept=1000)
    data = open_data(CLASSIFICATION["imagenet1k"], RunOptions(data_root=str(root), limit=1000))
    assert list(data.classes) == IDS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    flat(tmp_path / "val")
    write_lines(tmp_path)
    return tmp_path


def test_a_killed_call_loses_nothing_and_is_repeated(root):
    done = subprocess.run([sys.executable, "-c", KILLED, str(root)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(organised(root / "val")) == 5
    assert len(list((root / "val").glob("*.JPEG"))) == 995
    assert prepare("imagenet", str(root)) == Counts(made=995, kept=5)
    assert organised(root / "val") == dict(zip(NAMES, SHUFFLED, strict=True))


def refusal(root: Path) -> str:
    before = sorted(root.rglob("*"))
    with pytest.raises(UsageError) as error:
        prepare("imagenet", str(root))
    assert "\n" not in str(error.value)
    assert sorted(root.rglob("*")) == before
    return str(error.value)


def test_an_image_in_both_places_is_not_overwritten(root):
    other = root / "val" / SHUFFLED[7] / NAMES[7]
    other.parent.mkdir()
    other.write_text("another")
    assert f"both {root / 'val' / NAMES[7]} and {other} are there" in refusal(root)
    assert other.read_text() == "another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val.txt").unlink(), "put ILSVRC2012_validation_ground_truth.txt"),
        (lambda root: pipe_as_list(root), "put ILSVRC2012_validation_ground_truth.txt"),
        (
            lambda root: remove_of_devkit(root, "meta.mat"),
            "found .*data/ILSVRC2012_validation_ground_truth.txt, but no meta.mat beside it",
        ),
        (
            lambda root: remove_of_devkit(root, "ILSVRC2012_validation_ground_truth.txt"),
            "found .*data/meta.mat, but no ILSVRC2012_validation_ground_truth.txt beside it",
        ),
        (lambda root: add_line(root, "nonsense"), "val.txt, line 1001 is not `NAME.JPEG"),
        (lambda root: add_line(root, "ILSVRC2012_val_00000001.JPEG n00001740"), "1000 classes,"),
        (lambda root: (root / "val/ILSVRC2012_val_00050000.JPEG").touch(), "no class for 1 images"),
        (lambda root: broken_devkit(root, "meta.mat", "x"), "cannot read .*meta.mat"),
        (
            lambda root: broken_devkit(root, "ILSVRC2012_validation_ground_truth.txt", "1\n2000\n"),
            "holds what is no id of .*meta.mat: 2000",
        ),
        (
            lambda root: (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n"),
            "LOC_val_solution.csv is not Kaggle's list",
        ),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_moved(root, change, message):
    change(root)
    assert re.search(message, refusal(root))


def pipe_as_list(root: Path) -> None:
    (root / "val.txt").unlink()
    os.mkfifo(root / "val.txt")


def add_line(root: Path, line: str) -> None:
    path = root / "val.txt"
    path.write_text(path.read_text() + line + "\n")


def remove_of_devkit(root: Path, name: str) -> None:
    (root / "val.txt").unlink()
    write_devkit(root / "data")
    (root / "data" / name).unlink()


def broken_devkit(root: Path, name: str, content: str) -> None:
    (root / "val.txt").unlink()
    write_devkit(root / "data")
    (root / "data" / name).write_text(content)


def test_names_with_the_class_need_no_mapping(tmp_path):
    folder = flat_with_classes(tmp_path / "imagenet/data/val_images")
    assert prepare("imagenet", str(tmp_path)) == Counts(made=1000, kept=0)
    assert organised(folder) == dict(zip(NAMES, SHUFFLED, strict=True))
    assert prepare("imagenet", str(tmp_path)) == Counts(made=0, kept=1000)


@pytest.mark.parametrize("below", ["imagenet/data/val_images", "data/val_images", "val_images"])
def test_names_with_the_class_are_read_in_place_as_the_class_folders_are(tmp_path, below):
    flat_with_classes(tmp_path / below)
    options = RunOptions(data_root=str(tmp_path), limit=1000)
    in_place = open_data(CLASSIFICATION["imagenet1k"], options)
    assert [image.read().decode() for image in in_place.images] == [
        name for _, name in sorted(zip(SHUFFLED, NAMES, strict=True))
    ]
    prepare("imagenet", str(tmp_path))
    sorted_out = open_data(CLASSIFICATION["imagenet1k"], options)
    assert in_place.classes == sorted_out.classes == tuple(IDS)
    assert in_place.names == sorted_out.names
    assert in_place.labels.tolist() == sorted_out.labels.tolist()


def test_names_with_the_class_are_read_where_they_are_the_root(tmp_path):
    flat_with_classes(tmp_path / "val_images")
    options = RunOptions(data_root=str(tmp_path / "val_images"), limit=3)
    assert len(open_data(CLASSIFICATION["imagenet1k"], options).images) == 3


def test_names_with_the_class_beside_others_are_refused(tmp_path):
    folder = flat_with_classes(tmp_path / "val_images")
    write_lines(tmp_path)
    first = folder / f"{NAMES[0].removesuffix('.JPEG')}_{SHUFFLED[0]}.JPEG"
    (folder / SHUFFLED[0]).mkdir()
    first.rename(folder / SHUFFLED[0] / NAMES[0])
    options = RunOptions(data_root=str(tmp_path), limit=3)
    with pytest.raises(UsageError, match="holds 999 images outside class folders"):
        open_data(CLASSIFICATION["imagenet1k"], options)
    second = folder / f"{NAMES[1].removesuffix('.JPEG')}_{SHUFFLED[1]}.JPEG"
    second.rename(folder / NAMES[1])
    assert prepare("imagenet", str(tmp_path)) == Counts(made=999, kept=1)
    assert organised(folder) == dict(zip(NAMES, SHUFFLED, strict=True))


def test_an_image_under_both_names_is_refused(tmp_path):
    folder = flat_with_classes(tmp_path / "val_images")
    (folder / NAMES[0]).write_text("another")
    write_lines(tmp_path)
    with_class = folder / f"{NAMES[0].removesuffix('.JPEG')}_{SHUFFLED[0]}.JPEG"
    assert f"both {with_class} and {folder / NAMES[0]} are there" in refusal(tmp_path)


def test_too_few_classes_in_names_are_refused(tmp_path):
    folder = flat_with_classes(tmp_path / "val_images")
    for path in folder.glob(f"*{SHUFFLED[5]}.JPEG"):
        path.unlink()
    with pytest.raises(UsageError, match="has 999 classes in the names of its images, which"):
        open_data(CLASSIFICATION["imagenet1k"], RunOptions(data_root=str(tmp_path), limit=3))


def test_run_and_doctor_say_how(root, capsys):
    command = f"cosmos-eval data prepare imagenet --data-root {root}"
    with pytest.raises(SystemExit) as ended:
        main(["run", "--dataset", "imagenet1k", "--data-root", str(root)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"{root}/val holds 1000 images outside class folders" in error
    assert f"`{command}`" in error
    with pytest.raises(SystemExit) as ended:
        main(["data", "doctor", "imagenet1k", "--data-root", str(root), "--json"])
    assert ended.value.code == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["remedy"] == command
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", "imagenet", "--data-root", str(root), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out) == [
        {"prepared": "imagenet", "made": 1000, "kept": 0}
    ]


def test_names_with_the_class_are_not_to_be_prepared_where_images_are_missing(tmp_path, capsys):
    flat_with_classes(tmp_path / "val_images")
    with pytest.raises(SystemExit) as ended:
        main(["data", "doctor", "imagenet1k", "--data-root", str(tmp_path), "--json"])
    assert ended.value.code == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["faults"][0].startswith(f"{tmp_path}/val_images has 1000 of 50000 images")
    assert found["remedy"] == CLASSIFICATION["imagenet1k"].download


def test_the_doctor_says_how_sets_are_downloaded(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "doctor", "dtd", "stanford_cars", "--data-root", str(tmp_path), "--json"])
    dtd, cars = json.loads(capsys.readouterr().out)
    assert dtd["remedy"] == f"cosmos-eval run --dataset dtd --data-root {tmp_path} --download"
    assert cars["remedy"] == CLASSIFICATION["stanford_cars"].download
