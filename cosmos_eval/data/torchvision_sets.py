"""Images and labels of the sets that torchvision reads. Imports torch only when called.

torchvision keeps paths in attributes that begin with an underscore; a test compares each reader
with the images and labels that indexing torchvision's data set returns.
"""

import contextlib
import pickle
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cosmos_eval.data.class_names import ClassData, make_data, read_prompt_names
from cosmos_eval.data.sources import ImageArray, ImageFile
from cosmos_eval.types import ClassificationProtocol, UsageError

TRAIN = "/train"
"""The end of the name of a reader of images that classifiers are trained on."""

# The errors that torchvision raises for data that are missing, damaged or of another layout.
_TORCHVISION_ERRORS = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    pickle.UnpicklingError,
    tarfile.TarError,
)
# Files and folders that must be in the folder of a data set. Only data sets are listed for which
# torchvision's error does not name the missing file.
_REQUIRED_FILES: Mapping[str, tuple[str, ...]] = {
    "food101": ("meta", "images"),
    "cifar10": ("batches.meta", *(f"data_batch_{n}" for n in range(1, 6)), "test_batch"),
    "cifar100": ("meta", "train", "test"),
    "stanford_cars": ("devkit", "cars_test", "cars_test_annos_withlabels.mat"),
    "oxford_pets": ("annotations", "images"),
    "flowers102": ("imagelabels.mat", "setid.mat", "jpg"),
}


def split_name(protocol: ClassificationProtocol) -> str:
    """Return `training`, `validation` or `test`: which images of a data set a protocol reads."""
    if protocol.split == "val":
        return "validation"
    is_training = protocol.split == "train" or str(protocol.torchvision).endswith(TRAIN)
    return "training" if is_training else "test"


def read_torchvision(protocol: ClassificationProtocol, root: Path) -> ClassData:
    """Return the images and labels of a data set that torchvision.datasets reads.

    It is not checked that the files of the images exist.

    Args:
        protocol: The data set. `protocol.torchvision` is the name of its reader.
        root: The folder that torchvision takes, in which it has the folder of the data set.

    Raises:
        UsageError: If torchvision cannot read the data set, or if it has no images.
    """
    try:
        data = READERS[str(protocol.torchvision)].read(root, download=False)
        if not data.images:
            raise ValueError(f"it has no {split_name(protocol)} images")
        return data
    except _TORCHVISION_ERRORS as error:
        # Name the first missing file, or else give torchvision's reason.
        folder = root / protocol.folder
        set_name = str(protocol.torchvision).removesuffix(TRAIN)
        required_paths = [folder / file for file in _REQUIRED_FILES.get(set_name, ())]
        missing_paths = [path for path in required_paths if not path.exists()]
        if missing_paths:
            reason = f"expected {missing_paths[0]}, which is not there"
        else:
            reason = _format_error(error)
        raise UsageError(
            f"{protocol.dataset}: torchvision cannot read {folder}: {reason}"
        ) from error


def download_torchvision(protocol: ClassificationProtocol, root: Path) -> None:
    """Let torchvision download a data set to the folder `root`, unless it is there already.

    Raise UsageError if the download fails.
    """
    try:
        # torchvision prints on standard output, which belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            READERS[str(protocol.torchvision)].read(root, download=True)
    except _TORCHVISION_ERRORS as error:
        raise UsageError(
            f"{protocol.dataset}: torchvision cannot fetch {root / protocol.folder}: "
            f"{_format_error(error)}; from: {protocol.download}"
        ) from error


def _format_error(error: Exception) -> str:
    """Return the message of torchvision's error on one line.

    Its advice to pass `download=True`, which users of this package cannot do, is left out.
    """
    text = " ".join(str(error).split()).replace(" You can use download=True to download it", "")
    return text.removesuffix(".") or type(error).__name__


class Reader(Protocol):
    """Reads the images and labels of one split of a data set."""

    def read(self, root: Path, *, download: bool) -> ClassData:
        """Return the images below `root`, after downloading them if `download` is set."""


def _open_data_set(class_name: str, root: Path, download: bool, **arguments: Any) -> Any:
    """Return a data set of torchvision: `torchvision.datasets.CLASS_NAME(root, ...)`.

    Args:
        class_name: The name of the class, such as `Food101`.
        root: The folder that has the folder of the data set.
        download: True if to download files that are missing.
        **arguments: Further arguments of the class, such as `split="test"`.
    """
    from torchvision import datasets

    return getattr(datasets, class_name)(root, download=download, **arguments)


def _make_file_data(
    classes: Sequence[str], root: Path, labelled_paths: Iterable[tuple[str | Path, int]]
) -> ClassData:
    """Return the data of image files.

    Args:
        classes: The names of the classes.
        root: The folder below which all images are. They are named by their paths below it.
        labelled_paths: For each image, its path and the index of its class.
    """
    samples = []
    for path, label in labelled_paths:
        name = Path(path).relative_to(root).as_posix()
        samples.append((name, ImageFile(Path(path)), label))
    return make_data(classes, samples)


@dataclass(frozen=True)
class _FileSet:
    """Reads a data set for which torchvision keeps the paths of image files."""

    # The name of the class in torchvision.datasets.
    class_name: str
    # The split, or None for a data set without splits.
    split: str | None = None
    # Further arguments of the class.
    arguments: Mapping[str, Any] | None = None
    # The attribute of torchvision's data set that holds the paths.
    paths_attribute: str = "_image_files"

    def read(self, root: Path, *, download: bool) -> ClassData:
        """Return the images of the split, or of the whole data set if it has no splits.

        torchvision keeps the paths and labels in attributes whose names differ between data sets.
        """
        arguments = dict(self.arguments or {})
        if self.split is not None:
            arguments["split"] = self.split
        data_set = _open_data_set(self.class_name, root, download, **arguments)

        # Neither the files nor older releases of torchvision have names of flowers.
        is_flowers = self.class_name == "Flowers102"
        classes = read_prompt_names("flowers102") if is_flowers else data_set.classes

        # Pair the path of each image with its label.
        if self.class_name == "StanfordCars":
            labelled_paths = data_set._samples
        else:
            paths = getattr(data_set, self.paths_attribute)
            labelled_paths = list(zip(paths, data_set._labels, strict=True))
        if self.class_name == "SUN397":
            # torchvision lists the files in the order of the file system.
            labelled_paths = sorted(labelled_paths)
        return _make_file_data(classes, root, labelled_paths)


@dataclass(frozen=True)
class _TrainAndValSet:
    """Reads the images of the split `train`, followed by the images of the split `val`."""

    # The name of the class in torchvision.datasets.
    class_name: str

    def read(self, root: Path, *, download: bool) -> ClassData:
        """Return the images of both splits."""
        train = _FileSet(self.class_name, "train").read(root, download=download)
        val = _FileSet(self.class_name, "val").read(root, download=download)
        return train._replace(
            names=(*train.names, *val.names),
            images=(*train.images, *val.images),
            labels=np.concatenate([train.labels, val.labels]),
        )


@dataclass(frozen=True)
class _ArraySet:
    """Reads a data set for which torchvision keeps all images in memory, such as CIFAR-10."""

    # The name of the class in torchvision.datasets.
    class_name: str
    # Whether the training images are read, and not the test images.
    train: bool = False

    def read(self, root: Path, *, download: bool) -> ClassData:
        """Return the images of the split, which are named by split and number: `test/00012`."""
        data_set = _open_data_set(self.class_name, root, download, train=self.train)
        split = "train" if self.train else "test"
        samples = []
        labelled_arrays = zip(data_set.data, data_set.targets, strict=True)
        for number, (pixels, label) in enumerate(labelled_arrays):
            image = ImageArray(f"{self.class_name} {split} image {number}", pixels)
            samples.append((f"{split}/{number:05d}", image, label))
        return make_data(data_set.classes, samples)


@dataclass(frozen=True)
class _Caltech101:
    """Reads Caltech-101 in sorted order of folders and files, as CLIP Benchmark lists it."""

    # Whether the folder BACKGROUND_Google is a class.
    background: bool

    def read(self, root: Path, *, download: bool) -> ClassData:
        """Return all images, with or without the folder BACKGROUND_Google."""
        if download:
            _open_data_set("Caltech101", root, download)
        folder = root / "caltech101" / "101_ObjectCategories"
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        if not self.background:
            classes = [name for name in classes if name != "BACKGROUND_Google"]
        labelled_paths: list[tuple[str | Path, int]] = []
        for label, name in enumerate(classes):
            paths = sorted((folder / name).glob("*.jpg"))
            labelled_paths.extend((path, label) for path in paths)
        return _make_file_data(classes, root, labelled_paths)


# Numbers of images of Caltech-101, and the seed of the split, in the COSMOS code.
_CALTECH_TRAIN, _CALTECH_IMAGES, _CALTECH_SEED = 3_000, 8_677, 3072


class _PublishedCaltech101:
    """Reads the images of Caltech-101 that the COSMOS code measures.

    They are the second split of `torch.utils.data.random_split(images, [3000, 5677])`.
    """

    def read(self, root: Path, *, download: bool) -> ClassData:
        """Return the measured images. Raise ValueError unless there are 8,677 images in all."""
        import torch

        data = _Caltech101(background=False).read(root, download=download)
        if len(data.images) != _CALTECH_IMAGES:
            raise ValueError(
                f"{len(data.images)} images; the {_CALTECH_IMAGES - _CALTECH_TRAIN} that are "
                f"measured are chosen from {_CALTECH_IMAGES}"
            )
        # torch.utils.data.random_split draws the same indices; a test compares both.
        generator = torch.Generator().manual_seed(_CALTECH_SEED)
        test_indices = torch.randperm(_CALTECH_IMAGES, generator=generator)[_CALTECH_TRAIN:]
        return data.select(test_indices.tolist())


_VARIANTS = {"annotation_level": "variant"}
READERS: Mapping[str, Reader] = {
    "food101": _FileSet("Food101", "test"),
    "food101/train": _FileSet("Food101", "train"),
    "cifar10": _ArraySet("CIFAR10"),
    "cifar10/train": _ArraySet("CIFAR10", train=True),
    "cifar100": _ArraySet("CIFAR100"),
    "cifar100/train": _ArraySet("CIFAR100", train=True),
    "sun397": _FileSet("SUN397"),
    "stanford_cars": _FileSet("StanfordCars", "test"),
    "stanford_cars/train": _FileSet("StanfordCars", "train"),
    "fgvc_aircraft": _FileSet("FGVCAircraft", "test", _VARIANTS),
    "fgvc_aircraft/train": _FileSet("FGVCAircraft", "trainval", _VARIANTS),
    "dtd": _FileSet("DTD", "test"),
    "dtd/train": _TrainAndValSet("DTD"),
    "oxford_pets": _FileSet("OxfordIIITPet", "test", paths_attribute="_images"),
    "oxford_pets/train": _FileSet("OxfordIIITPet", "trainval", paths_attribute="_images"),
    "flowers102": _FileSet("Flowers102", "test"),
    "flowers102/train": _TrainAndValSet("Flowers102"),
    "caltech101": _PublishedCaltech101(),
    "caltech101-with-background": _Caltech101(background=True),
}
"""Readers of the sets by name: of test images or, with `/train`, of training images."""
