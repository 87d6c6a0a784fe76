"""ImageNet's validation images, which come in one folder, into one folder a class.

The archive ILSVRC2012_img_val.tar holds 50,000 images without folders. Which class each has stands
in one of three files that people have beside them:
- the development kit (ILSVRC2012_devkit_t12, its readme.txt): line i of
  data/ILSVRC2012_validation_ground_truth.txt is the ILSVRC2012_ID of image i, and data/meta.mat
  maps those of the leaves to WordNet ids (as torchvision/datasets/imagenet.py reads them);
- Kaggle's LOC_val_solution.csv: ImageId, and the WordNet id before every box;
- a text file with `ILSVRC2012_val_00000001.JPEG n01751748` a line.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cosmos_eval.prepare._maps import Counts
from cosmos_eval.protocols.classification import CLASS_LISTS, CLASSIFICATION
from cosmos_eval.tasks.classification import find_folder, flat_images
from cosmos_eval.types import OnProgress, Progress, RunOptions, UsageError

_PROTOCOL = CLASSIFICATION["imagenet1k"]
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_KAGGLE = "LOC_val_solution.csv"
# Where the mapping may lie, below the folder of images or one above it.
_BESIDE = (".", "data", "ILSVRC2012_devkit_t12/data")
_LINE = re.compile(r"(ILSVRC2012_val_\d{8}\.JPEG)\s+(n\d{8})")

ClassOf = Mapping[str, str]
"""Image name -> WordNet id."""


def organise(data_root: str | None, workers: int, progress: OnProgress) -> Counts:
    """Move every image that is outside class folders into that of its class.

    A move is a rename, so an image is always in one of both places and a killed call is repeated.
    Returns how many were moved and how many were in their folders already. Raises UsageError,
    before anything is moved, where no mapping is found, it lacks an image or classes, or an image
    is in both places.
    """
    folder = find_folder(_PROTOCOL, RunOptions(data_root=data_root))
    there = sum(1 for _ in folder.glob("n*/*.JPEG"))
    flat = flat_images(folder)
    if flat:
        path, class_of = _mapping(folder, Path(str(data_root)))
        progress(Progress("images", 0, len(flat), f"classes of {len(flat)} images from {path}"))
        _move(folder, _targets(folder, flat, class_of, path), progress)
    return Counts(len(flat), there)


def is_flat(data_root: str | None) -> bool:
    """Whether there are images outside class folders."""
    try:
        return bool(flat_images(find_folder(_PROTOCOL, RunOptions(data_root=data_root))))
    except UsageError:
        return False


def _targets(
    folder: Path, flat: Sequence[str], class_of: ClassOf, mapping: Path
) -> dict[str, Path]:
    unknown = [name for name in flat if name not in class_of]
    if unknown:
        raise UsageError(f"{mapping} has no class for {len(unknown)} images, first: {unknown[0]}")
    targets = {name: folder / class_of[name] / name for name in flat}
    for name, target in targets.items():
        if target.exists():
            raise UsageError(
                f"both {folder / name} and {target} are there: remove one; nothing was moved"
            )
    return targets


def _move(folder: Path, targets: Mapping[str, Path], progress: OnProgress) -> None:
    for done, (name, target) in enumerate(targets.items(), start=1):
        try:
            target.parent.mkdir(exist_ok=True)
            (folder / name).rename(target)
        except OSError as error:
            raise UsageError(
                f"cannot move {folder / name} to {target}: {error.strerror}; the same command "
                "goes on when that is mended"
            ) from error
        progress(Progress("images", done, len(targets)))


def _mapping(folder: Path, root: Path) -> tuple[Path, ClassOf]:
    """The first mapping found, and its file."""
    searched = list(_searched(folder, root))
    for place in searched:
        for path, read in _candidates(place):
            class_of = read(path)
            _require_classes(path, class_of)
            return path, class_of
    raise UsageError(
        f"{folder} needs to know the classes of its images: put {_TRUTH} and {_META} (development "
        f"kit), {_KAGGLE} (Kaggle) or a text file with `NAME.JPEG nXXXXXXXX` a line into {root}; "
        f"from: {_PROTOCOL.download}"
    )


def _searched(folder: Path, root: Path) -> Iterator[Path]:
    """Folders from that of the images up to the data root, with the places below them."""
    within = [folder, *(p for p in folder.parents if p == root or root in p.parents)]
    for base in within:
        for part in _BESIDE:
            if (base / part).is_dir():
                yield base / part


def _candidates(place: Path) -> Iterator[tuple[Path, Callable[[Path], ClassOf]]]:
    if (place / _TRUTH).is_file() and (place / _META).is_file():
        yield place / _TRUTH, _read_devkit
    if (place / _KAGGLE).is_file():
        yield place / _KAGGLE, _read_kaggle
    for path in sorted(place.glob("*.txt")):
        with path.open(encoding="utf-8", errors="replace") as file:
            if _LINE.fullmatch(file.readline(200).strip()):
                yield path, _read_lines


def _require_classes(path: Path, class_of: ClassOf) -> None:
    known = CLASS_LISTS["imagenet1k"]
    found = sorted(set(class_of.values()))
    if hashlib.sha256("\n".join(found).encode()).hexdigest() != known.classes_sha256:
        raise UsageError(
            f"{path} has {len(found)} classes, which are not the {known.n_classes} of ImageNet-1k"
        )


def _read_devkit(path: Path) -> ClassOf:
    from scipy.io import loadmat

    meta = path.with_name(_META)
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]
        ids = {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    except Exception as error:  # a damaged file fails wherever scipy and zlib first notice
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot read {meta} ({reason}); fetch it again") from error
    try:
        numbers = [int(line) for line in path.read_text("utf-8").split()]
        return {
            f"ILSVRC2012_val_{place:08d}.JPEG": ids[number]
            for place, number in enumerate(numbers, start=1)
        }
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path} holds what is no id of {meta}: {error}") from error


def _read_kaggle(path: Path) -> ClassOf:
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return {
                f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0]
                for row in csv.DictReader(file)
            }
        except (KeyError, IndexError, AttributeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path} is not Kaggle's list with ImageId and PredictionString: {error!r}"
            ) from error


def _read_lines(path: Path) -> ClassOf:
    class_of = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{path}, line {number} is not `NAME.JPEG nXXXXXXXX`: {line[:60]!r}")
        class_of[match[1]] = match[2]
    return class_of
