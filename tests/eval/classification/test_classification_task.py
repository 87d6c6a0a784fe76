"""Classification on image folders: a case solved by hand, torchvision's rules, and bad data."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import PIL.Image
import pytest
from support.class_sets import WORDNET_IDS
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

import cosmos_eval
from cosmos_core.data.pixels import FORMATS
from cosmos_eval.data.class_folders import SUFFIXES
from cosmos_eval.data.class_names import class_names, make_data
from cosmos_eval.data.classification import open_data
from cosmos_eval.data.sources import decode_source
from cosmos_eval.protocols.classification import CLASS_LISTS, CLASSIFICATION
from cosmos_eval.tasks import classification
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

NAMES = {"c_one": "red", "c_two": "green", "c_three": "blue"}
PROTOCOL = ClassificationProtocol(
    dataset="colours",
    protocol_name="test",
    folder="test",
    class_names=NAMES,
    templates=("a {}.", "the {} one"),
)


@pytest.fixture
def root(tmp_path: Path, save_colour: Callable[..., Path]) -> Path:
    """Sorted: c_one (red: right, right, wrong), c_three (blue: wrong), c_two (green: right)."""
    images = {
        "c_one/1.png": "red",
        "c_one/2.PNG": "red",
        "c_one/deep/1.jpg": "blue",
        "c_two/1.png": "green",
        "c_three/1.bmp": "red",
    }
    for name, colour in images.items():
        save_colour(tmp_path / "test" / name, colour)
    (tmp_path / "test" / "c_one" / "notes.txt").write_text("not an image")
    return tmp_path


def test_solved_by_hand(root, colour_encoder):
    options = RunOptions(data_root=str(root), batch_size=2)
    result = classification.TASK.measure_one(colour_encoder, PROTOCOL, options)
    # Classes in the order of the sorted folders: red, blue, green.
    assert result.samples["labels"].tolist() == [0, 0, 0, 1, 2]
    assert result.samples["top5"][:, 0].tolist() == [0, 0, 1, 0, 2]
    assert result.samples["top5"][:, 3:].tolist() == [[-1, -1]] * 5  # there are three classes
    assert result.metrics == {
        "acc1": pytest.approx(3 / 5),
        "mean_per_class_recall": pytest.approx((2 / 3 + 0 + 1) / 3),
        "ece": pytest.approx(1 - 3 / 5),  # cosines of 1 and 0: a confidence of 1 / (1 + 2 e^-100)
    }
    assert result.per_class == {
        "red": {"recall": pytest.approx(2 / 3), "images": 3},
        "blue": {"recall": 0.0, "images": 1},
        "green": {"recall": 1.0, "images": 1},
    }
    assert result.confusion_pairs == [
        {"true": "red", "predicted": "blue", "images": 1},
        {"true": "blue", "predicted": "red", "images": 1},
    ]
    assert result.n_samples == 5
    assert result.notes == ()
    assert result.intervals.keys() == result.metrics.keys()
    for name, interval in result.intervals.items():
        assert interval.low <= result.metrics[name] <= interval.high
    assert result.hashes.keys() == {"class_names", "templates", "sample_list", "content"}


def test_limit_takes_the_classes_in_turn(root, colour_encoder):
    options = RunOptions(data_root=str(root), limit=4)
    result = classification.TASK.measure_one(colour_encoder, PROTOCOL, options)
    assert result.samples["labels"].tolist() == [0, 0, 1, 2]
    assert result.notes == ("at most 4 images were measured",)


def test_images_and_classes_are_torchvisions(root):
    data = open_data(PROTOCOL, RunOptions(data_root=str(root)))
    expected = ImageFolder(root / "test")
    assert list(data.classes) == expected.classes
    assert [(p.name, n) for p, n in zip(data.images, data.labels, strict=True)] == expected.samples


def test_suffixes_are_those_of_torchvision_and_of_the_formats_that_are_decoded():
    assert SUFFIXES[: len(IMG_EXTENSIONS)] == IMG_EXTENSIONS
    PIL.Image.init()
    decoded_suffixes = {
        suffix
        for suffix, image_format in PIL.Image.registered_extensions().items()
        if image_format in (*FORMATS, "MPO")
    }
    assert set(SUFFIXES) == decoded_suffixes - {".pfm"}  # floats, which are refused
    assert len(SUFFIXES) == len(set(SUFFIXES))


@pytest.mark.parametrize(
    ("suffix", "image_format"),
    [("gif", "GIF"), ("jp2", "JPEG2000"), ("mpo", "MPO"), ("JFIF", "JPEG"), ("pbm", "PPM")],
)
def test_every_format_that_is_decoded_is_listed(suffix, image_format, root):
    path = root / "test" / "c_two" / f"2.{suffix}"
    PIL.Image.new("RGB", (8, 6), "green").save(path, image_format)
    data = open_data(PROTOCOL, RunOptions(data_root=str(root)))
    assert f"c_two/2.{suffix}" in data.names
    assert decode_source(data.images[data.names.index(f"c_two/2.{suffix}")]).size == (8, 6)


def test_names_without_a_mapping(root, colour_encoder):
    protocol = replace(PROTOCOL, class_names={})
    assert class_names(protocol, make_data(("a_red_one", "blue"), [])) == ("a red one", "blue")
    # No folder is called after a colour: every class scores the same and the first one wins.
    result = classification.TASK.measure_one(
        colour_encoder, protocol, RunOptions(data_root=str(root))
    )
    assert result.metrics["acc1"] == pytest.approx(3 / 5)
    assert result.notes == (
        "5 of 5 images score highest with several classes: the first of them is predicted",
    )


def test_bad_folders_are_refused(root, save_colour):

    def check(message: str, protocol: ClassificationProtocol = PROTOCOL) -> None:
        with pytest.raises(UsageError, match=message) as raised:
            classification.TASK.open_data(protocol, RunOptions(data_root=str(root)))
        assert "\n" not in str(raised.value)

    save_colour(root / "test" / "c_tow" / "1.png", "red")
    check("class c_tow of .* has no name .* nearest: c_two")
    shutil.rmtree(root / "test" / "c_tow")
    (root / "test" / "c_two" / "1.png").unlink()
    check("c_two has no images")
    shutil.rmtree(root / "test" / "c_two")
    check(f"{root}/test has no class c_two")
    check("expected .*flat", replace(PROTOCOL, folder="flat"))
    save_colour(root / "flat" / "1.png", "red")
    check("no class folders: .*CLASS/IMAGE", replace(PROTOCOL, folder="flat"))


def measured_names(root: Path) -> list[str]:
    return list(open_data(PROTOCOL, RunOptions(data_root=str(root))).names)


def test_links_to_images_and_folders_are_followed(root, tmp_path):
    before = measured_names(root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "test/c_two").rename(elsewhere / "greens")
    (root / "test/c_two").symlink_to(elsewhere / "greens")
    (root / "test/c_one/1.png").rename(elsewhere / "first.png")
    (root / "test/c_one/1.png").symlink_to(elsewhere / "first.png")
    assert measured_names(root) == before


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("c_one/again", "c_one"),
        ("c_one/deep/up", "c_one"),
        ("c_two/all", "."),
        ("c_three/greens", "c_two"),  # one image would have two classes
        ("c_one/outside", ".."),
    ],
)
def test_a_folder_that_is_reached_twice_is_refused(link, target, root):
    (root / "test" / link).symlink_to(root / "test" / target)
    with pytest.raises(UsageError, match=r"is the same folder as .*; remove the link") as raised:
        measured_names(root)
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_read_is_refused(root, monkeypatch):
    plain = os.scandir

    def scandir(path: str | Path) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match=r"cannot read folder .*/c_one/deep: Permission denied"):
        measured_names(root)


def test_a_missing_data_root_is_named():
    with pytest.raises(UsageError, match="--data-root DIR, the folder that holds test"):
        classification.TASK.open_data(PROTOCOL, RunOptions())


def test_imagenet_is_read_by_its_1000_class_folders(tmp_path, save_colour):
    imagenet = CLASSIFICATION["imagenet1k"]
    joined = "\n".join(WORDNET_IDS)
    assert hashlib.sha256(joined.encode()).hexdigest() == CLASS_LISTS["imagenet1k"].classes_sha256
    names = class_names(imagenet, make_data(WORDNET_IDS, []))
    name_of_id = dict(zip(WORDNET_IDS, names, strict=True))
    assert name_of_id["n02099712"] == "Labrador Retriever"
    assert name_of_id["n04254777"] == "sock"
    assert names == tuple(open_clip.IMAGENET_CLASSNAMES)
    picture = save_colour(tmp_path / "one.png", "red")
    for wordnet_id in WORDNET_IDS:
        (tmp_path / "val" / wordnet_id).mkdir(parents=True)
        (tmp_path / "val" / wordnet_id / "1.png").hardlink_to(picture)
    options = RunOptions(data_root=str(tmp_path), limit=1000)
    classification.TASK.open_data(imagenet, options)
    (tmp_path / "val" / WORDNET_IDS[7]).rename(tmp_path / "val" / "n99999999")
    message = (
        rf"has 1000 class folders, which are not the 1000 WordNet ids of imagenet1k; "
        rf"missing: {WORDNET_IDS[7]}; not of this set: n99999999"
    )
    with pytest.raises(UsageError, match=message):
        classification.TASK.open_data(imagenet, options)


def test_class_lists_of_the_users_choice(root):
    options = RunOptions(data_root=str(root))
    with pytest.raises(UsageError, match="not both"):
        classification.TASK.open_data(replace(PROTOCOL, class_list="imagenet1k"), options)
    unknown = replace(PROTOCOL, class_names={}, class_list="imagenet2k")
    with pytest.raises(UsageError, match="nearest: imagenet1k"):
        classification.TASK.open_data(unknown, options)


def test_mistakes_and_figures_per_class_have_the_names_of_the_protocol(
    colour_encoder, save_colour, tmp_path
):
    for name, colour in (("n1/a", "red"), ("n1/b", "blue"), ("n2/a", "blue")):
        save_colour(tmp_path / f"photos/{name}.png", colour)
    path = tmp_path / "photos.yaml"
    path.write_text("kind: cls\nfolder: photos\nclass_names: {n1: red, n2: blue}\n")
    result = cosmos_eval.evaluate(colour_encoder, str(path), output=tmp_path / "out")
    assert result.confusion_pairs == [{"true": "red", "predicted": "blue", "images": 1}]
    image_counts = {name: figures["images"] for name, figures in result.per_class.items()}
    assert image_counts == {"red": 2, "blue": 1}
    table = cosmos_eval.load_samples(next((tmp_path / "out").glob("*.json")))
    assert table[["label", "prediction"]].to_numpy().tolist() == [
        ["red", "red"],
        ["red", "blue"],
        ["blue", "blue"],
    ]
    path.write_text("kind: cls\nfolder: photos\nclass_names: {n1: blue, n2: blue}\n")
    row = cosmos_eval.evaluate(colour_encoder, str(path))
    assert [*row.per_class] == ["blue (n1)", "blue (n2)"]
