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
# Where the file of classes may lie, below the folder of the images or a folder above it.
_CLASS_FILE_FOLDERS = (".", "data", "ILSVRC2012_devkit_t12/data")
_LINE = re.compile(r"(ILSVRC2012_val_\d{8}\.JPEG)\s+(n\d{8})")


def move_into_class_folders(data_root: str | None, progress: OnProgress) -> Counts:
    """Move ImageNet's validation images into one folder for each class, and count them.

    A call that was interrupted can be repeated.

    Args:
        data_root: The folder that the user named with --data-root.
        progress: Called with the number of images that are moved.

    Raises:
        UsageError: Before any image is moved, if the class of an image is unknown, or if an image
            exists twice.
    """
    folder = find_folder(_PROTOCOL, RunOptions(data_root=data_root))
    n_in_class_folders = sum(1 for _ in folder.glob("n*/*.JPEG"))
    flat_images = list_flat_images(folder)
    if flat_images:
        source, wordnet_id_by_image = _find_classes(folder, flat_images, Path(str(data_root)))
        note = f"classes of {len(flat_images)} images from {source}"
        progress(Progress("images", 0, len(flat_images), note))
        source_by_target = _plan_moves(folder, flat_images, wordnet_id_by_image)
        _move_images(source_by_target, progress)
    return Counts(made=len(flat_images), kept=n_in_class_folders)


def is_flat(data_root: str | None) -> bool:
    """Return whether ImageNet's validation images must be moved before they can be read.

    This is so if they lie in one folder and their names lack the class. Return False if the images
    are missing.
    """
    try:
        folder = find_folder(_PROTOCOL, RunOptions(data_root=data_root))
    except UsageError:
        return False
    return must_be_moved(folder, list_flat_images(folder))


def _find_classes(
    folder: Path, flat_images: Sequence[FlatImage], root: Path
) -> tuple[str, Mapping[str, str]]:
    """Return where the classes of flat images are stated, and the class of each image.

    Args:
        folder: The folder of the images.
        flat_images: The images that lie directly in it.
        root: The data root, in which a file may state the classes.

    Returns:
        The origin of the classes for a message: the path of a file, or `their names` if the names
        of all images end with their class. Then the WordNet ids by the file names of images.

    Raises:
        UsageError: If the class of an image is unknown.
    """
    id_by_image_from_names = {
        image.name: image.wordnet_id for image in flat_images if image.wordnet_id
    }
    if len(id_by_image_from_names) == len(flat_images):
        return "their names", id_by_image_from_names

    path, id_by_image_from_file = _read_class_file(folder, root)
    # If an image has its class in its name and in the file, the name counts.
    wordnet_id_by_image = {**id_by_image_from_file, **id_by_image_from_names}
    unknown_images = [image.name for image in flat_images if image.name not in wordnet_id_by_image]
    if unknown_images:
        raise UsageError(
            f"{path} has no class for {len(unknown_images)} images, first: {unknown_images[0]}"
        )
    return str(path), wordnet_id_by_image


def _plan_moves(
    folder: Path, flat_images: Sequence[FlatImage], wordnet_id_by_image: Mapping[str, str]
) -> dict[Path, Path]:
    """Return the present path of every image by its new path in the folder of its class.

    Args:
        folder: The folder of the images.
        flat_images: The images that lie directly in it.
        wordnet_id_by_image: The class of each image, by its file name.

    Raises:
        UsageError: If two images would get the same new path.

    Example:
        For the class n01440764, `folder/ILSVRC2012_val_00000293.JPEG` gets the new path
        `folder/n01440764/ILSVRC2012_val_00000293.JPEG`.
    """
    source_by_target: dict[Path, Path] = {}
    for image in flat_images:
        source = folder / image.name
        target = folder / wordnet_id_by_image[image.name] / image.official_name
        # The same image may be in its class folder already, or in this list under another name.
        duplicate = target if target.exists() else source_by_target.get(target)
        if duplicate is not None:
            raise UsageError(
                f"both {source} and {duplicate} are there: remove one; nothing was moved"
            )
        source_by_target[target] = source
    return source_by_target


def _move_images(source_by_target: Mapping[Path, Path], progress: OnProgress) -> None:
    """Move every image from its present path to its new path.

    Args:
        source_by_target: The present path of each image, by its new path.
        progress: Called after each image.

    Raises:
        UsageError: If an image cannot be moved. The images before it stay moved.
    """
    for n_moved, (target, source) in enumerate(source_by_target.items(), start=1):
        try:
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        except OSError as error:
            raise UsageError(
                f"cannot move {source} to {target}: {error.strerror}; the same command goes on "
                "when that is mended"
            ) from error
        progress(Progress("images", n_moved, len(source_by_target)))


def _read_class_file(folder: Path, root: Path) -> tuple[Path, Mapping[str, str]]:
    """Return the path of the file that states the classes, and the class of each image in it.

    The file is looked for beside the images, in folders above them up to the data root, and in the
    usual subfolders of these.

    Args:
        folder: The folder of the images.
        root: The data root.

    Returns:
        The path, and the WordNet ids by the file names of images.

    Raises:
        UsageError: If the file is missing, or if it has other classes than ImageNet-1k.
    """
    # List the folders that may have the file.
    base_folders = [folder]
    for parent in folder.parents:
        if parent == root or root in parent.parents:
            base_folders.append(parent)
    search_folders = []
    for base_folder in base_folders:
        for subfolder in _CLASS_FILE_FOLDERS:
            if (base_folder / subfolder).is_dir():
                search_folders.append(base_folder / subfolder)

    # Read the first file that is there.
    for search_folder in search_folders:
        for path, read_classes in _find_class_files(search_folder):
            wordnet_id_by_image = read_classes(path)
            _require_imagenet_classes(path, wordnet_id_by_image)
            return path, wordnet_id_by_image
    raise UsageError(
        f"{folder} needs to know the classes of its images: put {_GROUND_TRUTH} and {_META} "
        f"(development kit), {_KAGGLE} (Kaggle) or a text file with lines `NAME.JPEG nXXXXXXXX` "
        f"into {root}{_describe_incomplete_devkit(search_folders)}; from: {_PROTOCOL.download}"
    )


def _require_imagenet_classes(path: Path, wordnet_id_by_image: Mapping[str, str]) -> None:
    """Raise UsageError unless a file of classes has exactly the classes of ImageNet-1k."""
    classes = sorted(set(wordnet_id_by_image.values()))
    imagenet = CLASS_LISTS["imagenet1k"]
    sha256 = hashlib.sha256("\n".join(classes).encode()).hexdigest()
    if sha256 != imagenet.classes_sha256:
        raise UsageError(
            f"{path} has {len(classes)} classes, which are not the {imagenet.n_classes} of "
            "ImageNet-1k"
        )


def _describe_incomplete_devkit(folders: Sequence[Path]) -> str:
    """Return a note about a folder that has only one of the two files of the development kit.

    Return an empty text if no folder has one of the files.

    Example:
        " (found data/meta.mat, but no ILSVRC2012_validation_ground_truth.txt beside it)"
    """
    for folder in folders:
        for name, missing_name in ((_GROUND_TRUTH, _META), (_META, _GROUND_TRUTH)):
            if (folder / name).is_file():
                return f" (found {folder / name}, but no {missing_name} beside it)"
    return ""


def _find_class_files(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Mapping[str, str]]]]:
    """Yield the path of each file in a folder that states classes, and the function to read it."""
    if (folder / _GROUND_TRUTH).is_file() and (folder / _META).is_file():
        yield folder / _GROUND_TRUTH, _read_devkit
    if (folder / _KAGGLE).is_file():
        yield folder / _KAGGLE, _read_kaggle
    for path in sorted(folder.glob("*.txt")):
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            first_line = file.readline(200).strip()
        if _LINE.fullmatch(first_line):
            yield path, _read_lines


def _read_devkit(path: Path) -> Mapping[str, str]:
    """Return the WordNet ids of all images by their names, from ImageNet's development kit.

    Line i of the ground truth at `path` is the number of the class of image i, and meta.mat beside
    it has the WordNet id of each number. Raise UsageError if a file is damaged.
    """
    from scipy.io import loadmat

    meta = path.with_name(_META)
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]  # and not groups of classes
        wordnet_id_by_number = {int(leaf["ILSVRC2012_ID"]): str(leaf["WNID"]) for leaf in leaves}
    except Exception as error:  # SciPy and zlib raise many types for a damaged file
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot read {meta} ({reason}); fetch it again") from error

    wordnet_id_by_image = {}
    try:
        class_numbers = path.read_text("utf-8").split()
        for image_number, class_number in enumerate(class_numbers, start=1):
            image = f"ILSVRC2012_val_{image_number:08d}.JPEG"
            wordnet_id_by_image[image] = wordnet_id_by_number[int(class_number)]
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path} holds a value that is not an id of {meta}: {error}") from error
    return wordnet_id_by_image


def _read_kaggle(path: Path) -> Mapping[str, str]:
    """Return the WordNet ids of all images by their names, from Kaggle's LOC_val_solution.csv.

    A row has the image in `ImageId` and its boxes in `PredictionString`: `n01440764 1 2 30 40`. The
    class of the first box is taken. Raise UsageError if the file is another table.
    """
    wordnet_id_by_image = {}
    try:
        for _, row in read_records(path):
            first_class = row["PredictionString"].split()[0]
            wordnet_id_by_image[f"{row['ImageId']}.JPEG"] = first_class
        return wordnet_id_by_image
    except (FileError, KeyError, IndexError) as error:
        raise UsageError(
            f"{path} is not Kaggle's list with ImageId and PredictionString: {error!r}"
        ) from error


def _read_lines(path: Path) -> Mapping[str, str]:
    """Return the WordNet ids of images by their names, from a text file.

    Every line is `ILSVRC2012_val_00000001.JPEG n01751748`. Raise UsageError for any other line.
    """
    wordnet_id_by_image = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{path}, line {number} is not `NAME.JPEG nXXXXXXXX`: {line[:60]!r}")
        image, wordnet_id = match.groups()
        wordnet_id_by_image[image] = wordnet_id
    return wordnet_id_by_image
