"""torchvision's sets of made-up data, compared with torchvision itself and CLIP Benchmark."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from support.class_sets import CLASSES, write_class_set
from support.excerpts import caltech101_images
from torchvision import datasets

from cosmos_eval.data import torchvision_sets
from cosmos_eval.data.class_names import ClassData, class_names, read_prompt_names, templates_of
from cosmos_eval.data.classification import open_data
from cosmos_eval.data.torchvision_sets import READERS
from cosmos_eval.protocols import protocols_of_dataset
from cosmos_eval.protocols.classification import (
    CLASS_LISTS,
    CLASSIFICATION,
    CLASSIFICATION_BY_PROTOCOL,
)
from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.tasks.prompts import resolve_templates
from cosmos_eval.types import ClassificationProtocol, ProbeProtocol, RunOptions, UsageError

# The test splits as torchvision reads them.
TEST_SPLITS = {
    "food101": lambda root: datasets.Food101(root, split="test"),
    "cifar10": lambda root: datasets.CIFAR10(root, train=False),
    "cifar100": lambda root: datasets.CIFAR100(root, train=False),
    "stanford_cars": lambda root: datasets.StanfordCars(root, split="test"),
    "fgvc_aircraft": lambda root: datasets.FGVCAircraft(root, split="test"),
    "dtd": lambda root: datasets.DTD(root, split="test"),
    "oxford_pets": lambda root: datasets.OxfordIIITPet(root, split="test"),
    "flowers102": lambda root: datasets.Flowers102(root, split="test"),
}
# The images that probes are trained on.
TRAINING_SPLITS = {
    "food101": lambda root: datasets.Food101(root, split="train"),
    "cifar10": lambda root: datasets.CIFAR10(root, train=True),
    "cifar100": lambda root: datasets.CIFAR100(root, train=True),
    "stanford_cars": lambda root: datasets.StanfordCars(root, split="train"),
    "fgvc_aircraft": lambda root: datasets.FGVCAircraft(root, split="trainval"),
    "dtd": lambda root: [*datasets.DTD(root, split="train"), *datasets.DTD(root, split="val")],
    "oxford_pets": lambda root: datasets.OxfordIIITPet(root, split="trainval"),
    "flowers102": lambda root: [
        *datasets.Flowers102(root, split="train"),
        *datasets.Flowers102(root, split="val"),
    ],
}
# Numbers of classes, from the pages of the sets.
N_CLASSES = {
    "imagenet1k": 1000,
    "imagenetv2": 1000,
    "food101": 101,
    "cifar10": 10,
    "cifar100": 100,
    "sun397": 397,
    "stanford_cars": 196,
    "fgvc_aircraft": 100,
    "dtd": 47,
    "oxford_pets": 37,
    "caltech101": 101,
    "flowers102": 102,
}
# CLIP Benchmark's names of sets that it calls otherwise.
CLIP_BENCHMARK_NAMES = {"stanford_cars": "cars", "oxford_pets": "pets", "flowers102": "flowers"}


def of_any_size(name: str, protocol_name: str = "cosmos") -> ClassificationProtocol:
    """Return the protocol of a set without its numbers of classes and images."""
    protocol = find_protocol(name, protocol_name)
    assert isinstance(protocol, ClassificationProtocol)
    return replace(protocol, n_classes=None, n_images=None)


def read(protocol: ClassificationProtocol, root: Path) -> ClassData:
    return open_data(protocol, RunOptions(data_root=str(root)))


def pixels(data: ClassData) -> list[np.ndarray]:
    return [np.asarray(image.decode(image.read())) for image in data.images]


def assert_equal(data: ClassData, expected: Any) -> None:
    """Check images and labels; `expected` are pairs of an image and a label."""
    assert len(data.images) == len(expected)
    for image, label, (expected_image, expected_label) in zip(
        pixels(data), data.labels, expected, strict=True
    ):
        np.testing.assert_array_equal(image, np.asarray(expected_image.convert("RGB")))
        assert label == expected_label
    assert len(set(data.names)) == len(data.names)


@pytest.mark.parametrize("name", TEST_SPLITS)
def test_images_and_labels_are_torchvisions(name, tmp_path, monkeypatch):
    write_class_set(name, tmp_path, monkeypatch)
    data = read(of_any_size(name), tmp_path)
    expected = TEST_SPLITS[name](tmp_path)
    assert_equal(data, expected)
    if name in CLASSES:
        assert list(data.classes) == CLASSES[name] == list(expected.classes)


@pytest.mark.parametrize("name", TRAINING_SPLITS)
def test_training_images_of_probes_are_torchvisions(name, tmp_path, monkeypatch):
    write_class_set(name, tmp_path, monkeypatch)
    probe = find_protocol(f"{name}-probe")
    assert isinstance(probe, ProbeProtocol)
    train, test = (replace(split, n_classes=None, n_images=None) for split in probe.splits)
    training_data, test_data = read(train, tmp_path), read(test, tmp_path)
    assert_equal(training_data, TRAINING_SPLITS[name](tmp_path))
    assert_equal(test_data, TEST_SPLITS[name](tmp_path))
    assert training_data.classes == test_data.classes
    assert not {*training_data.names} & {*test_data.names}


def test_sun397_does_not_depend_on_the_order_of_the_file_system(tmp_path, monkeypatch):
    write_class_set("sun397", tmp_path, monkeypatch)
    data = read(of_any_size("sun397"), tmp_path)
    assert data.names == (
        "SUN397/a/abbey/sun_ba.jpg",
        "SUN397/a/abbey/sun_bb.jpg",
        "SUN397/a/apartment_building/outdoor/sun_cc.jpg",
        "SUN397/z/zen_garden/sun_aa.jpg",
    )
    assert data.labels.tolist() == [0, 0, 1, 2]
    names = class_names(of_any_size("sun397"), data)
    assert names == ("abbey", "apartment building outdoor", "zen garden")
    assert "cannot be made again" in of_any_size("sun397").remark


@pytest.mark.parametrize("name", [*CLASSES, "flowers102"])
def test_names_and_templates_are_clip_benchmarks(name, tmp_path, monkeypatch, recwarn):
    from clip_benchmark.datasets.builder import build_dataset

    write_class_set(name, tmp_path, monkeypatch)
    protocol = of_any_size(name, "clip-benchmark")
    data = read(protocol, tmp_path)
    clip_benchmark_name = CLIP_BENCHMARK_NAMES.get(name, name)
    expected = build_dataset(clip_benchmark_name, root=tmp_path, download=False)
    assert list(class_names(protocol, data)) == list(expected.classes)
    templates = resolve_templates(templates_of(protocol, data))
    prompts = [template.format("tench") for template in templates]
    assert prompts == [template.format(c="tench") for template in expected.templates]
    assert len(expected) == len(data.images)


def test_caltech101_with_background_is_clip_benchmarks(tmp_path, monkeypatch):
    from clip_benchmark.datasets.caltech101 import Caltech101

    write_class_set("caltech101", tmp_path, monkeypatch)
    data = READERS["caltech101-with-background"].read(tmp_path, download=False)
    expected = Caltech101(str(tmp_path))
    assert list(data.classes) == expected.categories
    assert data.labels.tolist() == expected.y
    for image, (expected_image, _) in zip(data.images, expected, strict=True):
        np.testing.assert_array_equal(image.decode(image.read()), np.asarray(expected_image))
    names = read_prompt_names("caltech101-with-background")
    first_names = ("background", "off-center face", "centered face", "leopard", "motorbike")
    assert names[:6] == (*first_names, "accordion")
    assert read_prompt_names("caltech101") == names[1:]
    with pytest.raises(UsageError, match=r"has 4 classes, not the 102 folders of 101_Object"):
        read(of_any_size("caltech101", "clip-benchmark"), tmp_path)


def test_names_of_caltech101_are_in_the_order_of_its_folders():
    # Names that are not those of the folders; the second space is CLIP Benchmark's.
    other_names = {
        "BACKGROUND_Google": "background",
        "Faces": "off-center face",
        "Faces_easy": "centered face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "airplanes": "airplane",
        "car_side": "side of a car",
        "cougar_body": "body of a cougar cat",
        "cougar_face": "face of a cougar cat",
        "crocodile_head": "head of a  crocodile",
        "flamingo_head": "head of a flamingo",
        "snoopy": "snoopy (cartoon beagle)",
        "yin_yang": "yin and yang symbol",
    }
    folders = sorted(caltech101_images())
    expected = [other_names.get(name, name.replace("_", " ")) for name in folders]
    assert read_prompt_names("caltech101-with-background") == tuple(expected)
    assert read_prompt_names("caltech101") == tuple(expected[1:])


def test_the_published_test_images_of_caltech101(tmp_path):
    """They are drawn from 8,677 images in 101 classes; 467 more are of the background.

    All files are empty here.
    """
    folder = tmp_path / "caltech101/101_ObjectCategories"
    for name, size in caltech101_images().items():
        (folder / name).mkdir(parents=True)
        for number in range(1, size + 1):
            (folder / name / f"image_{number:04d}.jpg").touch()
    protocol = CLASSIFICATION["caltech101"]
    data = read(protocol, tmp_path)
    all_images = datasets.Caltech101(str(tmp_path))
    generator = torch.Generator().manual_seed(3072)
    _, test_images = torch.utils.data.random_split(all_images, [3_000, 5_677], generator=generator)
    expected_names, expected_labels = [], []
    for i in test_images.indices:
        label, number = all_images.y[i], all_images.index[i]
        class_folder = f"caltech101/101_ObjectCategories/{all_images.categories[label]}"
        expected_names.append(f"{class_folder}/image_{number:04d}.jpg")
        expected_labels.append(label)
    assert list(data.names) == expected_names
    assert data.labels.tolist() == expected_labels
    (folder / "accordion/image_0001.jpg").unlink()
    with pytest.raises(UsageError, match=r"8676 images; the 5677 that are measured .* 8677"):
        read(protocol, tmp_path)


def test_quirks_of_the_published_names_stay_in_their_protocol(tmp_path, monkeypatch):
    def names_by(protocol_name: str, dataset: str) -> tuple[str, ...]:
        protocol = of_any_size(dataset, protocol_name)
        return class_names(protocol, read(protocol, tmp_path))

    write_class_set("oxford_pets", tmp_path, monkeypatch)
    cosmos_names = ("Abyssinian", "American Bulldog", "Persian'", "Yorkshire Terrie")
    assert names_by("cosmos", "oxford_pets") == cosmos_names
    clip_benchmark_names = ("Abyssinian", "American Bulldog", "Persian", "Yorkshire Terrier")
    assert names_by("clip-benchmark", "oxford_pets") == clip_benchmark_names
    write_class_set("cifar100", tmp_path, monkeypatch)
    assert names_by("cosmos", "cifar100")[1] == "aquarium fish"
    assert names_by("clip-benchmark", "cifar100")[1] == "aquarium_fish"


def test_every_set_has_both_protocols_and_its_size():
    for name, protocol in CLASSIFICATION.items():
        protocols = protocols_of_dataset(name)
        assert list(protocols) == ["cosmos", "clip-benchmark"]
        assert protocols["cosmos"] is protocol
        assert protocols["clip-benchmark"].n_images
        assert (protocol.download or "").startswith("https://")
        assert protocol.torchvision is None or protocol.torchvision in READERS
        resolve_templates(protocol.templates or "")
        class_list = CLASS_LISTS.get(protocol.class_list or "")
        n_classes = class_list.n_classes if class_list else protocol.n_classes
        assert n_classes == N_CLASSES[name]
    assert read_prompt_names("imagenet1k") == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert read_prompt_names("imagenet1k").count("missile") == 2
    for name, class_list in CLASS_LISTS.items():
        assert len(read_prompt_names(name)) == class_list.n_classes
    for protocol in CLASSIFICATION_BY_PROTOCOL["clip-benchmark"].values():
        assert protocol.torchvision is None or protocol.torchvision in READERS


def write_pets(root: Path, breeds: dict[str, int]) -> None:
    """Write an image of each breed; numbers begin at 1, as in the original annotations/test.txt."""
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    lines = [f"{breed}_1 {number} 1 1\n" for breed, number in breeds.items()]
    (folder / "annotations/test.txt").write_text("".join(lines))
    for breed in breeds:
        Image.new("RGB", (6, 4)).save(folder / f"images/{breed}_1.jpg")


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("protocol_name", ["cosmos", "clip-benchmark"])
def test_oxford_pets_without_some_breeds_is_refused(protocol_name, limit, tmp_path):
    """Fewer breeds would be another task."""
    protocol = protocols_of_dataset("oxford_pets")[protocol_name]
    options = RunOptions(data_root=str(tmp_path), limit=limit)
    write_pets(tmp_path, {"Abyssinian": 1, "Persian": 24})
    message = (
        rf"oxford_pets: {tmp_path}/oxford-iiit-pet has 2 classes, not the 37; missing: American "
        r"Bulldog, American Pit Bull Terrier, Basset Hound, Beagle, Bengal and 30 more; "
        r"get the whole set from https://www.robots.*/pets/$"
    )
    with pytest.raises(UsageError, match=message):
        classification.TASK.open_data(protocol, options)


def test_labels_above_the_number_of_classes_are_refused(tmp_path):
    write_pets(tmp_path, {"Abyssinian": 1, "Persian": 24})
    with pytest.raises(UsageError, match=r"gives .*Persian_1.jpg the class number 24, but has 2"):
        read(of_any_size("oxford_pets"), tmp_path)


@pytest.mark.parametrize("name", [*CLASSES, "flowers102", "caltech101"])
def test_a_set_with_fewer_classes_is_refused_at_any_limit(name, tmp_path, monkeypatch):
    write_class_set(name, tmp_path, monkeypatch)
    if name == "caltech101":
        monkeypatch.setattr(torchvision_sets, "_CALTECH_IMAGES", 4)
        monkeypatch.setattr(torchvision_sets, "_CALTECH_TRAIN", 1)
    elif name == "flowers102":  # its only list of classes is the project's: add a wrong label
        savemat(tmp_path / "flowers-102/imagelabels.mat", {"labels": np.array([[5, 103, 1, 103]])})
        labels = tmp_path / "flowers-102/imagelabels.mat"
        md5 = hashlib.md5(labels.read_bytes()).hexdigest()
        file_dict = {**datasets.Flowers102._file_dict, "label": ("imagelabels.mat", md5)}
        monkeypatch.setattr(datasets.Flowers102, "_file_dict", file_dict)
    with pytest.raises(UsageError, match=r"classes, not the|class number 103, but has 102"):
        open_data(CLASSIFICATION[name], RunOptions(data_root=str(tmp_path), limit=1))


def test_another_number_of_images_is_refused_without_a_limit(tmp_path, monkeypatch):
    write_class_set("food101", tmp_path, monkeypatch)
    protocol = replace(CLASSIFICATION["food101"], n_classes=2)
    with pytest.raises(UsageError, match=r"has 3 of 25250 images of food101; .*--limit"):
        read(protocol, tmp_path)
    data = open_data(protocol, RunOptions(data_root=str(tmp_path), limit=2))
    # The first image of every class, in the order of the file.
    assert data.names == ("food-101/images/waffles/7.jpg", "food-101/images/apple_pie/9.jpg")
    assert data.labels.tolist() == [1, 0]


def refusal(name: str, root: Path, **changes: int) -> str:
    """Return the one line that says why a set with changes of its protocol is not read."""
    with pytest.raises(UsageError) as error:
        read(replace(CLASSIFICATION[name], **changes), root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_set_is_named_with_its_page(tmp_path, monkeypatch):
    for name, protocol in CLASSIFICATION.items():
        message = refusal(name, tmp_path)
        assert str(tmp_path / protocol.folder) in message
        assert str(protocol.download) in message
        can_be_downloaded = name not in ("imagenet1k", "stanford_cars")
        assert ("--download fetches it" in message) is can_be_downloaded
    # torchvision itself would have made folders.
    assert list(tmp_path.iterdir()) == []
    write_class_set("dtd", tmp_path, monkeypatch)
    (tmp_path / "dtd/dtd/images/banded/banded_0011.jpg").unlink()
    assert "1 of 2 test images are not there, the first" in refusal("dtd", tmp_path, n_classes=2)
    write_class_set("cifar10", tmp_path, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py/test_batch"
    batch.write_bytes(batch.read_bytes()[:-1])
    assert "corrupted" in refusal("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["food101", "stanford_cars", "sun397"])
def test_a_set_without_test_images_is_refused_at_any_limit(name, tmp_path, monkeypatch):
    write_class_set(name, tmp_path, monkeypatch)
    folder = tmp_path / CLASSIFICATION[name].folder
    if name == "food101":
        (folder / "meta/test.json").write_text("{}")
    elif name == "stanford_cars":
        rows = np.empty((1, 0), [("class", object), ("fname", object)])
        savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    else:
        for image in [*folder.rglob("*.jpg")]:
            image.unlink()
    for limit in (None, 2):
        with pytest.raises(UsageError, match=rf"cannot read {folder}: it has no test images; .*h"):
            open_data(CLASSIFICATION[name], RunOptions(data_root=str(tmp_path), limit=limit))


@pytest.mark.parametrize(
    ("name", "missing_path"),
    [
        *(("food101", "images"), ("food101", "meta"), ("oxford_pets", "annotations")),
        *(("cifar10", "batches.meta"), ("cifar10", "test_batch"), ("cifar100", "test")),
        *(("stanford_cars", "cars_test_annos_withlabels.mat"), ("stanford_cars", "devkit")),
        *(("flowers102", "setid.mat"), ("flowers102", "jpg"), ("dtd", "labels/test1.txt")),
    ],
)
def test_a_missing_file_or_folder_is_named(name, missing_path, tmp_path, monkeypatch):
    write_class_set(name, tmp_path, monkeypatch)
    path = tmp_path / CLASSIFICATION[name].folder / missing_path
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    message = refusal(name, tmp_path)
    assert f"{path}" in message
    assert "download=True" not in message
    can_be_downloaded = name != "stanford_cars"
    advice = "; --download fetches it, or get it from https://"
    assert (advice in message) is can_be_downloaded


def test_torchvision_downloads_only_if_asked(tmp_path, monkeypatch, capsys, command):
    source = tmp_path / "made"
    write_class_set("dtd", source, monkeypatch)
    downloads = []

    def copy_instead_of_downloading(url, download_root, md5):
        print("Downloading")
        downloads.append((url, md5))
        shutil.copytree(source / "dtd", download_root, dirs_exist_ok=True)

    monkeypatch.setattr(datasets.dtd, "download_and_extract_archive", copy_instead_of_downloading)
    completed = command("run", "--dataset", "dtd", "--data-root", tmp_path, "--limit", "2")
    assert completed.status == 2
    message = f"expected {tmp_path}/dtd/dtd, which is not there; --download fetches it"
    assert message in completed.err
    assert downloads == []
    options = RunOptions(data_root=str(tmp_path), download=True, limit=2)
    protocol = replace(CLASSIFICATION["dtd"], n_classes=2)
    for _ in range(2):
        classification.TASK.fetch(protocol, options)
        classification.TASK.open_data(protocol, options)
    assert downloads == [(datasets.DTD._URL, datasets.DTD._MD5)]
    assert capsys.readouterr().out == ""


def test_imagenetv2s_archive_is_fetched_and_unpacked(tmp_path):
    """The archive lies in the folder of data; its folders are those that CLIP Benchmark expects."""
    from clip_benchmark.datasets import imagenetv2

    name = "imagenetv2-matched-frequency"
    (tmp_path / f"{name}.tar.gz").write_bytes(b"cut off")
    protocol = CLASSIFICATION["imagenetv2"]
    options = RunOptions(data_root=str(tmp_path), download=True)
    # A file of that name is taken for the archive, so nothing is downloaded here.
    with pytest.raises(UsageError, match=rf"cannot download or unpack .*remove .*/{name}.tar.gz"):
        classification.TASK.fetch(protocol, options)
    with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"{imagenetv2.FNAMES['matched-frequency']}/7/a.jpeg"))
    classification.TASK.fetch(protocol, options)
    assert (tmp_path / protocol.folder / "7/a.jpeg").is_file()
    (tmp_path / f"{name}.tar.gz").write_bytes(b"not read again")
    classification.TASK.fetch(protocol, options)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def fail(*_args, **_arguments):
        raise OSError("no network")

    monkeypatch.setattr(datasets.dtd, "download_and_extract_archive", fail)
    options = RunOptions(data_root=str(tmp_path), download=True)
    message = r"dtd: torchvision cannot fetch .*no network; from: https"
    with pytest.raises(UsageError, match=message):
        classification.TASK.fetch(CLASSIFICATION["dtd"], options)


def test_a_remark_is_in_the_result(tmp_path, monkeypatch, colour_encoder):
    write_class_set("sun397", tmp_path, monkeypatch)
    protocol = replace(of_any_size("sun397"), templates=("{}",))
    result = classification.TASK.measure_one(
        colour_encoder, protocol, RunOptions(data_root=str(tmp_path))
    )
    remark = "sun397: all images, as CLIP Benchmark takes them"
    assert any(note.startswith(remark) for note in result.notes)
    assert of_any_size("sun397", "clip-benchmark").remark == ""
