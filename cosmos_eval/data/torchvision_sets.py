"""Images and labels of the sets that torchvision reads. Imports torch only when called.

torchvision keeps paths in attributes that begin with an underscore; a test compares each reader
with what indexing torchvision's data set gives.
"""

import contextlib
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_eval.data.class_names import ClassData, list_names, make_data
from cosmos_eval.data.sources import ImageArray, ImageFile
from cosmos_eval.types import ClassificationProtocol, UsageError

TRAIN = "/train"  # ends the name of a reader of images that classifiers are trained on
# What torchvision raises for data that are missing, damaged or of another layout.
_FAULTS = (
    *(RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError),
    *(pickle.UnpicklingError, tarfile.TarError),
)
# What the folder of a set must hold, where torchvision does not name what is missing.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "food101": ("meta", "images"),
    "cifar10": ("batches.meta", *(f"data_batch_{n}" for n in range(1, 6)), "test_batch"),
    "cifar100": ("meta", "train", "test"),
    "stanford_cars": ("devkit", "cars_test", "cars_test_annos_withlabels.mat"),
    "oxford_pets": ("annotations", "images"),
    "flowers102": ("imagelabels.mat", "setid.mat", "jpg"),
}


def split_of(protocol: ClassificationProtocol) -> str:
    """Return `training` or `test`."""
    return "training" if str(protocol.torchvision).endswith(TRAIN) else "test"


def read_torchvision(protocol: ClassificationProtocol, root: Path) -> ClassData:
    """List images and labels, whether the images are there or not. Raises UsageError."""
    try:
        data = READERS[str(protocol.torchvision)](root, False)
        if not data.images:
            raise ValueError(f"it has no {split_of(protocol)} images")
        return data
    except _FAULTS as error:
        folder = root / protocol.folder
        parts = _PARTS.get(str(protocol.torchvision).partition("/")[0], ())
        absent = [folder / part for part in parts if not (folder / part).exists()]
        reason = f"expected {absent[0]}, which is not there" if absent else _reason(error)
        raise UsageError(
            f"{protocol.dataset}: torchvision cannot read {folder}: {reason}"
        ) from error


def download_torchvision(protocol: ClassificationProtocol, root: Path) -> None:
    """Download a set below `root` unless it is there. Raises UsageError where that fails."""
    try:
        # torchvision prints on standard output, which belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            READERS[str(protocol.torchvision)](root, True)
    except _FAULTS as error:
        raise UsageError(
            f"{protocol.dataset}: torchvision cannot fetch {root / protocol.folder}: "
            f"{_reason(error)}; from: {protocol.download}"
        ) from error


def _reason(error: Exception) -> str:
    """Return torchvision's message without its advice to set an argument."""
    text = " ".join(str(error).split()).replace(" You can use download=True to download it", "")
    return text.removesuffix(".") or type(error).__name__


def _data_set(name: str, root: Path, download: bool, **arguments: Any) -> Any:
    from torchvision import datasets

    return getattr(datasets, name)(root, download=download, **arguments)


def _of_files(
    classes: Sequence[str], root: Path, labelled: Iterable[tuple[str | Path, int]]
) -> ClassData:
    paths = ((Path(path), label) for path, label in labelled)
    samples = ((p.relative_to(root).as_posix(), ImageFile(p), label) for p, label in paths)
    return make_data(classes, samples)


def _listed(
    name: str, root: Path, download: bool, *, files: str = "_image_files", **arguments: Any
) -> ClassData:
    found = _data_set(name, root, download, **arguments)
    # Older releases of torchvision have no names of flowers, and the files have none.
    classes = list_names("flowers102") if name == "Flowers102" else found.classes
    cars = name == "StanfordCars"
    labelled = found._samples if cars else zip(getattr(found, files), found._labels, strict=True)
    # torchvision leaves the files of SUN397 in the file system's order.
    return _of_files(classes, root, sorted(labelled) if name == "SUN397" else labelled)


def _arrays(name: str, root: Path, download: bool, *, train: bool = False) -> ClassData:
    found, split = _data_set(name, root, download, train=train), "train" if train else "test"
    samples = (
        (f"{split}/{number:05d}", ImageArray(f"{name} {split} image {number}", pixels), label)
        for number, (pixels, label) in enumerate(zip(found.data, found.targets, strict=True))
    )
    return make_data(found.classes, samples)


def _joined(name: str, root: Path, download: bool) -> ClassData:
    """List the images of `train`, then those of `val`."""
    train, val = (_listed(name, root, download, split=split) for split in ("train", "val"))
    return train._replace(
        names=(*train.names, *val.names),
        images=(*train.images, *val.images),
        labels=np.concatenate([train.labels, val.labels]),
    )


_CALTECH_TRAIN, _CALTECH_IMAGES, _CALTECH_SEED = 3_000, 8_677, 3072


def _caltech101_published(root: Path, download: bool) -> ClassData:
    """List the second part of `random_split(images, [3000, 5677])`, as the COSMOS code does."""
    import torch

    found = _caltech101(root, download, background=False)
    if len(found.images) != _CALTECH_IMAGES:
        raise ValueError(
            f"{len(found.images)} images; the {_CALTECH_IMAGES - _CALTECH_TRAIN} that are measured "
            f"are chosen from {_CALTECH_IMAGES}"
        )
    generator = torch.Generator().manual_seed(_CALTECH_SEED)
    # What torch.utils.data.random_split does, which a test compares.
    chosen = torch.randperm(_CALTECH_IMAGES, generator=generator)[_CALTECH_TRAIN:]
    return found.select(chosen.tolist())


def _caltech101(root: Path, download: bool, *, background: bool) -> ClassData:
    """List folders and images in sorted order, as torchvision and CLIP Benchmark do."""
    if download:
        _data_set("Caltech101", root, download)
    folder = root / "caltech101" / "101_ObjectCategories"
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not background:
        classes = [name for name in classes if name != "BACKGROUND_Google"]
    labelled = (
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).glob("*.jpg"))
    )
    return _of_files(classes, root, labelled)


_aircraft = partial(_listed, "FGVCAircraft", annotation_level="variant")
_pets = partial(_listed, "OxfordIIITPet", files="_images")
READERS: Mapping[str, Callable[[Path, bool], ClassData]] = {
    "food101": partial(_listed, "Food101", split="test"),
    "food101/train": partial(_listed, "Food101", split="train"),
    "cifar10": partial(_arrays, "CIFAR10"),
    "cifar10/train": partial(_arrays, "CIFAR10", train=True),
    "cifar100": partial(_arrays, "CIFAR100"),
    "cifar100/train": partial(_arrays, "CIFAR100", train=True),
    "sun397": partial(_listed, "SUN397"),  # which has no splits
    "stanford_cars": partial(_listed, "StanfordCars", split="test"),
    "stanford_cars/train": partial(_listed, "StanfordCars", split="train"),
    "fgvc_aircraft": partial(_aircraft, split="test"),
    "fgvc_aircraft/train": partial(_aircraft, split="trainval"),
    "dtd": partial(_listed, "DTD", split="test"),
    "dtd/train": partial(_joined, "DTD"),
    "oxford_pets": partial(_pets, split="test"),
    "oxford_pets/train": partial(_pets, split="trainval"),
    "flowers102": partial(_listed, "Flowers102", split="test"),
    "flowers102/train": partial(_joined, "Flowers102"),
    "caltech101": _caltech101_published,
    "caltech101-with-background": partial(_caltech101, background=True),
}
"""Readers of the sets by name, from the root and whether to download: of test images or, with
`/train`, of what classifiers are trained on."""
