"""Small made-up data in the layouts of torchvision's classification sets.

Every image has a grey of its own, so that the order of images can be seen in them.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

CLASSES = {
    "food101": ["apple_pie", "waffles"],
    "cifar10": ["airplane", "automobile", "bird"],
    "cifar100": ["apple", "aquarium_fish", "baby"],
    "sun397": ["abbey", "apartment_building/outdoor", "zen_garden"],
    "stanford_cars": ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"],
    "fgvc_aircraft": ["707-320", "F/A-18", "Yak-42"],
    "dtd": ["banded", "polka-dotted"],
    "oxford_pets": ["Abyssinian", "American Bulldog", "Persian", "Yorkshire Terrier"],
}
"""The names that torchvision has for the classes of the sets that are written here."""

WORDNET_IDS = sorted(files("timm").joinpath("data/_info/imagenet_synsets.txt").read_text().split())
"""The WordNet IDs of ImageNet's 1,000 classes, as timm lists them."""


def write_class_set(name: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    """Write a set below `root`, and let torchvision expect the checksums of its files."""
    _WRITERS[name](root, patch)


def _pictures(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (20 * number,) * 3).save(path, quality=95)


def _text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _food101(root: Path, _: pytest.MonkeyPatch) -> None:
    test_names = {"waffles": ["waffles/7", "waffles/3"], "apple_pie": ["apple_pie/9"]}
    _text(root / "food-101/meta/test.json", json.dumps(test_names))
    train_names = {"waffles": ["waffles/1"], "apple_pie": ["apple_pie/2", "apple_pie/4"]}
    _text(root / "food-101/meta/train.json", json.dumps(train_names))
    for names_by_class in (test_names, train_names):
        for names in names_by_class.values():
            _pictures(*(root / f"food-101/images/{name}.jpg" for name in names))


def _cifar(cls: Any, labels_key: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    meta = folder / cls.meta["filename"]
    meta.write_bytes(pickle.dumps({cls.meta["key"]: CLASSES[cls.__name__.lower()]}, protocol=2))
    patch.setattr(cls, "meta", {**cls.meta, "md5": _md5(meta)})
    for batches in ("train_list", "test_list"):
        paths = [folder / name for name, _ in getattr(cls, batches)]
        for path in paths:
            path.write_bytes(pickle.dumps({"data": pixels, labels_key: [2, 0, 1, 0]}, protocol=2))
        patch.setattr(cls, batches, [[path.name, _md5(path)] for path in paths])


def _sun397(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "SUN397"
    _text(folder / "ClassName.txt", "/a/abbey", "/a/apartment_building/outdoor", "/z/zen_garden")
    _pictures(
        folder / "z/zen_garden/sun_aa.jpg",
        folder / "a/apartment_building/outdoor/sun_cc.jpg",
        folder / "a/abbey/sun_bb.jpg",
        folder / "a/abbey/sun_ba.jpg",
    )


def _stanford_cars(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array([CLASSES["stanford_cars"]], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    fields = [("class", object), ("fname", object)]
    rows = np.array([[(2, "00002.jpg"), (1, "00001.jpg"), (2, "00003.jpg")]], fields)
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    _pictures(*(folder / f"cars_test/0000{number}.jpg" for number in (1, 2, 3)))
    rows = np.array([[(1, "00001.jpg"), (2, "00002.jpg")]], fields)
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": rows})
    _pictures(*(folder / f"cars_train/0000{number}.jpg" for number in (1, 2)))


def _fgvc_aircraft(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    _text(folder / "variants.txt", *CLASSES["fgvc_aircraft"])
    _text(folder / "images_variant_test.txt", "0034309 Yak-42", "0034958 707-320", "01 F/A-18")
    _text(folder / "images_variant_trainval.txt", "02 707-320", "03 Yak-42", "04 F/A-18")
    names = ("0034309", "0034958", "01", "02", "03", "04")
    _pictures(*(folder / f"images/{name}.jpg" for name in names))


def _dtd(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "dtd/dtd"
    names = ("polka-dotted/polka-dotted_0002.jpg", "banded/banded_0011.jpg")
    _text(folder / "labels/test1.txt", *names)
    train = ("polka-dotted/polka-dotted_0004.jpg", "banded/banded_0001.jpg")
    _text(folder / "labels/train1.txt", *train)
    _text(folder / "labels/val1.txt", "banded/banded_0002.jpg")
    _pictures(*(folder / "images" / name for name in (*names, *train, "banded/banded_0002.jpg")))


def _oxford_pets(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "oxford-iiit-pet"
    test_lines = (
        *("yorkshire_terrier_9 4 2 1", "Abyssinian_201 1 1 1", "Abyssinian_202 1 1 1"),
        *("american_bulldog_7 2 2 1", "Persian_1 3 1 1"),
    )
    _text(folder / "annotations/test.txt", *test_lines)
    train_lines = (
        *("Abyssinian_1 1 1 1", "american_bulldog_1 2 2 1", "Persian_2 3 1 1"),
        "yorkshire_terrier_1 4 2 1",
    )
    _text(folder / "annotations/trainval.txt", *train_lines)
    names = [line.split()[0] for line in (*test_lines, *train_lines)]
    _pictures(*(folder / f"images/{name}.jpg" for name in names))


def _flowers102(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "flowers-102"
    _pictures(*(folder / f"jpg/image_0000{number}.jpg" for number in range(1, 8)))
    savemat(folder / "imagelabels.mat", {"labels": np.array([[5, 102, 1, 5, 7, 5, 1]])})
    splits = {"trnid": [[2, 6]], "valid": [[5, 7]], "tstid": [[3, 4, 1]]}
    savemat(folder / "setid.mat", {key: np.array(ids) for key, ids in splits.items()})
    checked = {
        "image": datasets.Flowers102._file_dict["image"],
        "label": ("imagelabels.mat", _md5(folder / "imagelabels.mat")),
        "setid": ("setid.mat", _md5(folder / "setid.mat")),
    }
    patch.setattr(datasets.Flowers102, "_file_dict", checked)


def _caltech101(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "caltech101/101_ObjectCategories"
    names = ("accordion/image_0001", "Faces/image_0001", "Faces/image_0002", "ant/image_0001")
    background = folder / "BACKGROUND_Google/image_0001"
    _pictures(*(Path(f"{path}.jpg") for path in (background, *(folder / name for name in names))))


_WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "food101": _food101,
    "cifar10": partial(_cifar, datasets.CIFAR10, "labels"),
    "cifar100": partial(_cifar, datasets.CIFAR100, "fine_labels"),
    "sun397": _sun397,
    "stanford_cars": _stanford_cars,
    "fgvc_aircraft": _fgvc_aircraft,
    "dtd": _dtd,
    "oxford_pets": _oxford_pets,
    "flowers102": _flowers102,
    "caltech101": _caltech101,
}
