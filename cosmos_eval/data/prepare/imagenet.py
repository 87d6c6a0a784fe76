"""Move ImageNet's validation images, which come in one folder, into one folder per class.

One of three files, which usually lies beside the images, tells the class of each image:
- the development kit (ILSVRC2012_devkit_t12): line i of ILSVRC2012_validation_ground_truth.txt is
  the ILSVRC2012_ID of image i, and meta.mat maps the ids of the leaves to WordNet ids;
- Kaggle's LOC_val_solution.csv: ImageId, and the WordNet id before every box;
- a text file with lines such as `ILSVRC2012_val_00000001.JPEG n01751748`.

Images whose names end in the class (`ILSVRC2012_val_00000293_n01440764.JPEG`) need no such file.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cosmos_eval.data.class_folders import (
    FlatImage,
    find_folder,
    list_flat_images,
    must_be_moved,
)
from cosmos_eval.data.prepare.label_maps import Counts
from cosmos_eval.data.readers import FileError, read_records
from cosmos_eval.protocols.classification import CLASS_LISTS, CLASSIFICATION
from cosmos_eval.types import OnProgress, Progress, RunOptions, UsageError

_PROTOCOL = CLASSIFICATION["imagenet1k"]
_GROUND_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_KAGGLE = "LOC_val_solution.csv"
# Places of the file of classes, below the folder of images or a folder above it.
_CLASS_FILE_FOLDERS = (".", "data", "ILSVRC2012_devkit_t12/data")
_LINE = re.compile(r"(ILSVRC2012_val_\d{8}\.JPEG)\s+(n\d{8})")


def organise(data_root: str | None, progress: OnProgress) -> Counts:
    """Move every image outside class folders into the folder of its class.

    An interrupted call can be repeated. Raise UsageError, before any image is moved, if a class is
    unknown or an image exists twice.
    """
    folder = find_folder(_PROTOCOL, RunOptions(data_root=data_root))
    n_in_class_folders = sum(1 for _ in folder.glob("n*/*.JPEG"))
    flat_images = list_flat_images(folder)
    if flat_images:
        source, wordnet_id_by_image = _find_classes(folder, flat_images, Path(str(data_root)))
        note = f"classes of {len(flat_images)} images from {source}"
        progress(Progress("images", 0, len(flat_images), note))
        _move_images(_plan_moves(folder, flat_images, wordnet_id_by_image), progress)
    return Counts(made=len(flat_images), kept=n_in_class_folders)


def is_flat(data_root: str | None) -> bool:
    """Return whether there are images outside class folders that must be moved before reading."""
    try:
        folder = find_folder(_PROTOCOL, RunOptions(data_root=data_root))
    except UsageError:
        return False
    return must_be_moved(folder, list_flat_images(folder))


def _find_classes(
    folder: Path, flat_images: Sequence[FlatImage], root: Path
) -> tuple[str, Mapping[str, str]]:
    """Return the source of the WordNet ids, and the id of every flat image by its file name.

    The source is the path of a file, or `their names` if all names end in the id. Raise UsageError
    if the class of an image is unknown.
    """
    wordnet_id_by_named_image = {
        image.name: image.wordnet_id for image in flat_images if image.wordnet_id
    }
    if len(wordnet_id_by_named_image) == len(flat_images):
        return "their names", wordnet_id_by_named_image
    path, wordnet_id_by_listed_image = _read_class_file(folder, root)
    wordnet_id_by_image = {**wordnet_id_by_listed_image, **wordnet_id_by_named_image}
    unknown = [image.name for image in flat_images if image.name not in wordnet_id_by_image]
    if unknown:
        raise UsageError(f"{path} has no class for {len(unknown)} images, first: {unknown[0]}")
    return str(path), wordnet_id_by_image


def _plan_moves(
    folder: Path, flat_images: Sequence[FlatImage], wordnet_id_by_image: Mapping[str, str]
) -> dict[Path, Path]:
    """Return the present path of every image by its new path, in the folder of its class.

    Raise UsageError if two images would have the same path.
    """
    source_by_target: dict[Path, Path] = {}
    for image in flat_images:
        source = folder / image.name
        target = folder / wordnet_id_by_image[image.name] / image.official_name
        duplicate = target if target.exists() else source_by_target.get(target)
        if duplicate is not None:
            raise UsageError(
                f"both {source} and {duplicate} are there: remove one; nothing was moved"
            )
        source_by_target[target] = source
    return source_by_target


def _move_images(source_by_target: Mapping[Path, Path], progress: OnProgress) -> None:
    """Move every image in `source_by_target` from its present path to its new path."""
    for done, (target, source) in enumerate(source_by_target.items(), start=1):
        try:
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        except OSError as error:
            raise UsageError(
                f"cannot move {source} to {target}: {error.strerror}; the same command goes on "
                "when that is mended"
            ) from error
        progress(Progress("images", done, len(source_by_target)))


def _read_class_file(folder: Path, root: Path) -> tuple[Path, Mapping[str, str]]:
    """Return the first file of classes, and the WordNet ids in it by the names of the images.

    The file lies in the folder of images or in a folder above it, up to the data root. Raise
    UsageError if there is none or if it has other classes than ImageNet-1k.
    """
    bases = [folder]
    bases.extend(parent for parent in folder.parents if parent == root or root in parent.parents)
    places = [base / name for base in bases for name in _CLASS_FILE_FOLDERS]
    places = [place for place in places if place.is_dir()]
    for place in places:
        for path, read in _class_files(place):
            wordnet_id_by_image = read(path)
            _require_imagenet_classes(path, wordnet_id_by_image)
            return path, wordnet_id_by_image
    raise UsageError(
        f"{folder} needs to know the classes of its images: put {_GROUND_TRUTH} and {_META} "
        f"(development kit), {_KAGGLE} (Kaggle) or a text file with lines `NAME.JPEG nXXXXXXXX` "
        f"into {root}{_incomplete_devkit(places)}; from: {_PROTOCOL.download}"
    )


def _require_imagenet_classes(path: Path, wordnet_id_by_image: Mapping[str, str]) -> None:
    """Raise UsageError if a file does not have exactly the classes of ImageNet-1k."""
    classes = sorted(set(wordnet_id_by_image.values()))
    imagenet = CLASS_LISTS["imagenet1k"]
    if hashlib.sha256("\n".join(classes).encode()).hexdigest() != imagenet.classes_sha256:
        raise UsageError(
            f"{path} has {len(classes)} classes, which are not the {imagenet.n_classes} of "
            "ImageNet-1k"
        )


def _incomplete_devkit(places: Sequence[Path]) -> str:
    """Return a part of an error message, which names a missing file of the development kit.

    Return an empty text if both of its files are missing.
    """
    for place in places:
        for name, missing_name in ((_GROUND_TRUTH, _META), (_META, _GROUND_TRUTH)):
            if (place / name).is_file():
                return f" (found {place / name}, but no {missing_name} beside it)"
    return ""


def _class_files(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Mapping[str, str]]]]:
    """Yield the files of classes in a folder, each with the function that reads it."""
    if (folder / _GROUND_TRUTH).is_file() and (folder / _META).is_file():
        yield folder / _GROUND_TRUTH, _read_devkit
    if (folder / _KAGGLE).is_file():
        yield folder / _KAGGLE, _read_kaggle
    for path in sorted(path for path in folder.glob("*.txt") if path.is_file()):
        with path.open(encoding="utf-8", errors="replace") as file:
            first_line = file.readline(200).strip()
        if _LINE.fullmatch(first_line):
            yield path, _read_lines


def _read_devkit(path: Path) -> Mapping[str, str]:
    """Read the ground truth of the development kit, and meta.mat beside it."""
    from scipy.io import loadmat

    meta = path.with_name(_META)
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]
        wordnet_id_by_number = {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    except Exception as error:  # SciPy and zlib raise many types for a damaged file
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot read {meta} ({reason}); fetch it again") from error
    wordnet_id_by_image = {}
    try:
        for number, imagenet_id in enumerate(path.read_text("utf-8").split(), start=1):
            image = f"ILSVRC2012_val_{number:08d}.JPEG"
            wordnet_id_by_image[image] = wordnet_id_by_number[int(imagenet_id)]
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path} holds a value that is not an id of {meta}: {error}") from error
    return wordnet_id_by_image


def _read_kaggle(path: Path) -> Mapping[str, str]:
    """Read Kaggle's table of images, and the WordNet id of the first box in each."""
    try:
        rows = [row for _, row in read_records(path)]
        return {f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0] for row in rows}
    except (FileError, KeyError, IndexError) as error:
        raise UsageError(
            f"{path} is not Kaggle's list with ImageId and PredictionString: {error!r}"
        ) from error


def _read_lines(path: Path) -> Mapping[str, str]:
    """Read a text file with the name of an image and its WordNet id on every line."""
    wordnet_id_by_image = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{path}, line {number} is not `NAME.JPEG nXXXXXXXX`: {line[:60]!r}")
        wordnet_id_by_image[match[1]] = match[2]
    return wordnet_id_by_image
