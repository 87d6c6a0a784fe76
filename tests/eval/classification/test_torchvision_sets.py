"""torchvision's sets on made-up data: against torchvision itself and against CLIP Benchmark."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import clip_benchmark.datasets.caltech101
import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.datasets import imagenetv2
from clip_benchmark.datasets.builder import build_dataset
from support.class_sets import CLASSES, write_class_set
from torchvision import datasets

from cosmos_eval.cli.app import main
from cosmos_eval.protocols import known_families
from cosmos_eval.protocols.classification import CLASS_LISTS, CLASSIFICATION
from cosmos_eval.protocols.classification_families import CLASSIFICATION_FAMILIES
from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.tasks.classification._data import open_data
from cosmos_eval.tasks.classification._names import class_names, list_names, templates_of
from cosmos_eval.tasks.classification._torchvision import READERS
from cosmos_eval.tasks.classification._types import ClassData
from cosmos_eval.tasks.prompts import resolve_templates
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

# The test splits as torchvision reads them.
INDEXED = {
    "food101": lambda root: datasets.Food101(root, split="test"),
    "cifar10": lambda root: datasets.CIFAR10(root, train=False),
    "cifar100": lambda root: datasets.CIFAR100(root, train=False),
    "stanford_cars": lambda root: datasets.StanfordCars(root, split="test"),
    "fgvc_aircraft": lambda root: datasets.FGVCAircraft(root, split="test"),
    "dtd": lambda root: datasets.DTD(root, split="test"),
    "oxford_pets": lambda root: datasets.OxfordIIITPet(root, split="test"),
    "flowers102": lambda root: datasets.Flowers102(root, split="test"),
}
# What CLIP Benchmark calls the sets.
THEIR_NAMES = {"stanford_cars": "cars", "oxford_pets": "pets", "flowers102": "flowers"}


def of_any_size(name: str, family: str = "cosmos") -> ClassificationProtocol:
    protocol = find_protocol(name, family)
    assert isinstance(protocol, ClassificationProtocol)
    return replace(protocol, n_images=None)


def read(protocol: ClassificationProtocol, root: Path) -> ClassData:
    return open_data(protocol, RunOptions(data_root=str(root)))


def pixels(data: ClassData) -> list[np.ndarray]:
    return [np.asarray(image.decode(image.read())) for image in data.images]


@pytest.mark.parametrize("name", INDEXED)
def test_images_and_labels_are_torchvisions(name, tmp_path, monkeypatch):
    write_class_set(name, tmp_path, monkeypatch)
    data = read(of_any_size(name), tmp_path)
    expected = INDEXED[name](tmp_path)
    assert len(data.images) == len(expected)
    for image, label, (their_image, their_label) in zip(
        pixels(data), data.labels, expected, strict=True
    ):
        np.testing.assert_array_equal(image, np.asarray(their_image.convert("RGB")))
        assert label == their_label
    if name in CLASSES:
        assert list(data.classes) == CLASSES[name] == list(expected.classes)
    assert len(set(data.names)) == len(data.names)


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
    write_class_set(name, tmp_path, monkeypatch)
    protocol = of_any_size(name, "clip-benchmark")
    data = read(protocol, tmp_path)
    theirs = build_dataset(THEIR_NAMES.get(name, name), root=tmp_path, download=False)
    assert list(class_names(protocol, data)) == list(theirs.classes)
    templates = resolve_templates(templates_of(protocol, data))
    assert [t.format("tench") for t in templates] == [t.format(c="tench") for t in theirs.templates]
    assert len(theirs) == len(data.images)


def test_caltech101_with_background_is_clip_benchmarks(tmp_path, monkeypatch):
    write_class_set("caltech101", tmp_path, monkeypatch)
    found = READERS["caltech101-with-background"](tmp_path, False)
    theirs = clip_benchmark.datasets.caltech101.Caltech101(str(tmp_path))
    assert list(found.classes) == theirs.categories
    assert list(found.labels) == theirs.y
    for (_, image), (their_image, _) in zip(found.images, theirs, strict=True):
        np.testing.assert_array_equal(image.decode(image.read()), np.asarray(their_image))
    names = list_names("caltech101-with-background")
    assert names[:6] == (
        *("background", "off-center face", "centered face", "leopard", "motorbike", "accordion"),
    )
    assert list_names("caltech101") == names[1:]
    with pytest.raises(UsageError, match=r"has 4 classes, not the 102 folders of 101_Object"):
        read(of_any_size("caltech101", "clip-benchmark"), tmp_path)


def test_the_published_part_of_caltech101(tmp_path):
    """8,677 images in 101 classes, of sizes that differ."""
    folder = tmp_path / "caltech101/101_ObjectCategories"
    sizes = [85] * 100 + [8_677 - 8_500]
    for number, size in enumerate([*sizes, 3]):
        own = folder / ("BACKGROUND_Google" if number == 101 else f"class_{number:03d}")
        own.mkdir(parents=True)
        for place in range(1, size + 1):
            (own / f"image_{place:04d}.jpg").touch()
    protocol = CLASSIFICATION["caltech101"]
    data = read(protocol, tmp_path)
    whole = datasets.Caltech101(str(tmp_path))
    generator = torch.Generator().manual_seed(3072)
    _, part = torch.utils.data.random_split(whole, [3_000, 5_677], generator=generator)
    expected = [
        f"{whole.categories[whole.y[i]]}/image_{whole.index[i]:04d}.jpg" for i in part.indices
    ]
    assert [name.removeprefix("caltech101/101_ObjectCategories/") for name in data.names] == (
        expected
    )
    assert data.labels.tolist() == [whole.y[i] for i in part.indices]
    os.remove(folder / "class_000/image_0001.jpg")
    with pytest.raises(UsageError, match=r"8676 images; the 5677 that are measured .* 8677"):
        read(protocol, tmp_path)


def test_quirks_of_the_published_names_stay_in_their_family(tmp_path, monkeypatch):
    write_class_set("oxford_pets", tmp_path, monkeypatch)
    named = {}
    for family in ("cosmos", "clip-benchmark"):
        protocol = of_any_size("oxford_pets", family)
        named[family] = class_names(protocol, read(protocol, tmp_path))
    assert named == {
        "cosmos": ("Abyssinian", "American Bulldog", "Persian'", "Yorkshire Terrie"),
        "clip-benchmark": ("Abyssinian", "American Bulldog", "Persian", "Yorkshire Terrier"),
    }
    write_class_set("cifar100", tmp_path, monkeypatch)
    fish = {
        family: class_names(
            of_any_size("cifar100", family), read(of_any_size("cifar100"), tmp_path)
        )
        for family in named
    }
    assert (fish["cosmos"][1], fish["clip-benchmark"][1]) == ("aquarium fish", "aquarium_fish")


def test_every_set_has_both_families_and_its_size():
    for name, protocol in CLASSIFICATION.items():
        families = known_families(name)
        assert list(families) == ["cosmos", "clip-benchmark"]
        assert families["cosmos"] is protocol
        assert families["clip-benchmark"].n_images
        assert (protocol.download or "").startswith("https://")
        assert protocol.torchvision is None or protocol.torchvision in READERS
        resolve_templates(protocol.templates or "")
    assert list_names("imagenet1k") == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert list_names("imagenet1k").count("missile") == 2
    for name, known in CLASS_LISTS.items():
        assert len(list_names(name)) == known.n_classes
    for protocol in CLASSIFICATION_FAMILIES["clip-benchmark"].values():
        assert protocol.torchvision is None or protocol.torchvision in READERS


def test_another_number_of_images_is_refused_without_a_limit(tmp_path, monkeypatch):
    write_class_set("food101", tmp_path, monkeypatch)
    protocol = CLASSIFICATION["food101"]
    with pytest.raises(UsageError, match=r"has 3 of 25250 images of food101; .*--limit"):
        read(protocol, tmp_path)
    limited = open_data(protocol, RunOptions(data_root=str(tmp_path), limit=2))
    # The first of every class, in the order of the file.
    assert limited.names == ("food-101/images/waffles/7.jpg", "food-101/images/apple_pie/9.jpg")
    assert limited.labels.tolist() == [1, 0]


def refusal(name: str, root: Path) -> str:
    with pytest.raises(UsageError) as error:
        read(CLASSIFICATION[name], root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_is_said_with_the_page(tmp_path, monkeypatch):
    for name, protocol in CLASSIFICATION.items():
        message = refusal(name, tmp_path)
        assert str(tmp_path / protocol.folder) in message
        assert str(protocol.download) in message
        can = name not in ("imagenet1k", "stanford_cars")
        assert ("--download fetches it" in message) is can
    # torchvision would have made folders.
    assert list(tmp_path.iterdir()) == []
    write_class_set("dtd", tmp_path, monkeypatch)
    (tmp_path / "dtd/dtd/images/banded/banded_0011.jpg").unlink()
    assert "1 of 2 test images are not there, the first" in refusal("dtd", tmp_path)
    (tmp_path / "dtd/dtd/labels/test1.txt").unlink()
    assert "test1.txt" in refusal("dtd", tmp_path)
    write_class_set("cifar10", tmp_path, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py/test_batch"
    batch.write_bytes(batch.read_bytes()[:-1])
    assert "corrupted" in refusal("cifar10", tmp_path)


def test_downloading_is_torchvisions_and_only_when_asked(tmp_path, monkeypatch, capsys):
    made = tmp_path / "made"
    write_class_set("dtd", made, monkeypatch)
    asked = []

    def fetch(url, download_root, md5):
        print("Downloading")
        asked.append((url, md5))
        shutil.copytree(made / "dtd", download_root, dirs_exist_ok=True)

    monkeypatch.setattr(datasets.dtd, "download_and_extract_archive", fetch)
    arguments = ["run", "--dataset", "dtd", "--data-root", str(tmp_path), "--limit", "2"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"expected {tmp_path}/dtd/dtd, which is not there; --download fetches it" in (
        capsys.readouterr().err
    )
    assert asked == []
    options = RunOptions(data_root=str(tmp_path), download=True, limit=2)
    for _ in range(2):
        classification.fetch(CLASSIFICATION["dtd"], options)
        classification.check(CLASSIFICATION["dtd"], options)
    assert asked == [(datasets.DTD._URL, datasets.DTD._MD5)]
    assert capsys.readouterr().out == ""


def test_imagenetv2s_archive_is_fetched_and_unpacked(tmp_path):
    """From an archive beside it, whose folders are those that CLIP Benchmark expects."""
    name = "imagenetv2-matched-frequency"
    (tmp_path / f"{name}.tar.gz").write_bytes(b"cut off")
    protocol = CLASSIFICATION["imagenetv2"]
    options = RunOptions(data_root=str(tmp_path), download=True)
    # A file of that name is taken for the archive, so nothing is downloaded here.
    with pytest.raises(UsageError, match=rf"cannot download or unpack .*remove .*/{name}.tar.gz"):
        classification.fetch(protocol, options)
    with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"{imagenetv2.FNAMES['matched-frequency']}/7/a.jpeg"))
    classification.fetch(protocol, options)
    assert (tmp_path / protocol.folder / "7/a.jpeg").is_file()
    (tmp_path / f"{name}.tar.gz").write_bytes(b"not read again")
    classification.fetch(protocol, options)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def fail(*_args, **_arguments):
        raise OSError("no network")

    monkeypatch.setattr(datasets.dtd, "download_and_extract_archive", fail)
    options = RunOptions(data_root=str(tmp_path), download=True)
    with pytest.raises(
        UsageError, match=r"dtd: torchvision cannot fetch .*no network; from: https"
    ):
        classification.fetch(CLASSIFICATION["dtd"], options)


def test_a_remark_is_in_the_result(tmp_path, monkeypatch, colour_encoder):
    write_class_set("sun397", tmp_path, monkeypatch)
    protocol = replace(of_any_size("sun397"), templates=("{}",))
    result = classification.measure(colour_encoder, protocol, RunOptions(data_root=str(tmp_path)))
    (note,) = result.notes
    assert note.startswith("sun397: all images, as CLIP Benchmark takes them")
    assert of_any_size("sun397", "clip-benchmark").remark == ""
