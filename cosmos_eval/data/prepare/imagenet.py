"""Move ImageNet's validation images, which come in one folder, into one folder per class.

One of three files, which people have beside the images, tells the class of each:
- the development kit (ILSVRC2012_devkit_t12): line i of ILSVRC2012_validation_ground_truth.txt is
  the ILSVRC2012_ID of image i, and meta.mat maps those of the leaves to WordNet ids;
- Kaggle's LOC_val_solution.csv: ImageId, and the WordNet id before every box;
- a text file with lines such as `ILSVRC2012_val_00000001.JPEG n01751748`.

Images whose names end in the class (`ILSVRC2012_val_00000293_n01440764.JPEG`) need none of them.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cosmos_eval.data.class_folders import FlatImage, find_folder, flat_images, must_be_sorted
from cosmos_eval.data.prepare.label_maps import Counts
from cosmos_eval.data.readers import FileError, read_records
from cosmos_eval.protocols.classification import CLASS_LISTS, CLASSIFICATION
from cosmos_eval.types import OnProgress, Progress, RunOptions, UsageError

_PROTOCOL = CLASSIFICATION["imagenet1k"]
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_KAGGLE = "LOC_val_solution.csv"
# Where the mapping may lie, below the folder of images or one above it.
_BESIDE = (".", "data", "ILSVRC2012_devkit_t12/data")
_LINE = re.compile(r"(ILSVRC2012_val_\d{8}\.JPEG)\s+(n\d{8})")


def organise(data_root: str | None, progress: OnProgress) -> Counts:
    """Rename every image outside class folders into that of its class; a call can be repeated.

    Raises UsageError, before anything is moved, where a class is unknown or an image exists twice.
    """
    folder = find_folder(_PROTOCOL, RunOptions(data_root=data_root))
    there = sum(1 for _ in folder.glob("n*/*.JPEG"))
    if flat := flat_images(folder):
        source, class_of = _find_classes(folder, flat, Path(str(data_root)))
        progress(Progress("images", 0, len(flat), f"classes of {len(flat)} images from {source}"))
        _move(_sources(folder, flat, class_of), progress)
    return Counts(len(flat), there)


def is_flat(data_root: str | None) -> bool:
    """Tell whether there are images outside class folders that cannot be read where they are."""
    try:
        folder = find_folder(_PROTOCOL, RunOptions(data_root=data_root))
    except UsageError:
        return False
    return must_be_sorted(folder, flat_images(folder))


def _find_classes(
    folder: Path, flat: Sequence[FlatImage], root: Path
) -> tuple[str, Mapping[str, str]]:
    """Return where the WordNet ids of images come from, and these by file name."""
    class_of = {image.name: image.wordnet_id for image in flat if image.wordnet_id}
    if len(class_of) == len(flat):
        return "their names", class_of
    path, mapping = _mapping(folder, root)
    class_of = {**mapping, **class_of}
    if unknown := [image.name for image in flat if image.name not in class_of]:
        raise UsageError(f"{path} has no class for {len(unknown)} images, first: {unknown[0]}")
    return str(path), class_of


def _sources(
    folder: Path, flat: Sequence[FlatImage], class_of: Mapping[str, str]
) -> dict[Path, Path]:
    """Return the images by the paths that they are moved to."""
    sources: dict[Path, Path] = {}
    for name, usual, _ in flat:
        source, target = folder / name, folder / class_of[name] / usual
        other = target if target.exists() else sources.get(target)
        if other is not None:
            raise UsageError(f"both {source} and {other} are there: remove one; nothing was moved")
        sources[target] = source
    return sources


def _move(sources: Mapping[Path, Path], progress: OnProgress) -> None:
    for done, (target, source) in enumerate(sources.items(), start=1):
        try:
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        except OSError as error:
            raise UsageError(
                f"cannot move {source} to {target}: {error.strerror}; the same command goes on "
                "when that is mended"
            ) from error
        progress(Progress("images", done, len(sources)))


def _mapping(folder: Path, root: Path) -> tuple[Path, Mapping[str, str]]:
    """Return the first file found that tells WordNet ids, and these by file name."""
    within = [folder, *(p for p in folder.parents if p == root or root in p.parents)]
    places = [base / part for base in within for part in _BESIDE if (base / part).is_dir()]
    for path, read in itertools.chain.from_iterable(map(_candidates, places)):
        class_of = read(path)
        found = sorted(set(class_of.values()))
        known = CLASS_LISTS["imagenet1k"]
        if hashlib.sha256("\n".join(found).encode()).hexdigest() != known.classes_sha256:
            raise UsageError(
                f"{path} has {len(found)} classes, which are not the {known.n_classes} of "
                "ImageNet-1k"
            )
        return path, class_of
    halves = (
        f" (found {place / name}, but no {other} beside it)"
        for place in places
        for name, other in ((_TRUTH, _META), (_META, _TRUTH))
        if (place / name).is_file()
    )
    raise UsageError(
        f"{folder} needs to know the classes of its images: put {_TRUTH} and {_META} (development "
        f"kit), {_KAGGLE} (Kaggle) or a text file with lines `NAME.JPEG nXXXXXXXX` into {root}"
        f"{next(halves, '')}; from: {_PROTOCOL.download}"
    )


def _candidates(beside: Path) -> Iterator[tuple[Path, Callable[[Path], Mapping[str, str]]]]:
    if (beside / _TRUTH).is_file() and (beside / _META).is_file():
        yield beside / _TRUTH, _read_devkit
    if (beside / _KAGGLE).is_file():
        yield beside / _KAGGLE, _read_kaggle
    for path in sorted(path for path in beside.glob("*.txt") if path.is_file()):
        with path.open(encoding="utf-8", errors="replace") as file:
            if _LINE.fullmatch(file.readline(200).strip()):
                yield path, _read_lines


def _read_devkit(path: Path) -> Mapping[str, str]:
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
        numbers = enumerate(map(int, path.read_text("utf-8").split()), start=1)
        return {f"ILSVRC2012_val_{index:08d}.JPEG": ids[number] for index, number in numbers}
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path} holds what is no id of {meta}: {error}") from error


def _read_kaggle(path: Path) -> Mapping[str, str]:
    try:
        rows = [row for _, row in read_records(path)]
        return {f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0] for row in rows}
    except (FileError, KeyError, IndexError) as error:
        raise UsageError(
            f"{path} is not Kaggle's list with ImageId and PredictionString: {error!r}"
        ) from error


def _read_lines(path: Path) -> Mapping[str, str]:
    class_of = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{path}, line {number} is not `NAME.JPEG nXXXXXXXX`: {line[:60]!r}")
        class_of[match[1]] = match[2]
    return class_of
