"""Lists of images as CoOp divides data sets: one JSON file with splits, or FGVC-Aircraft's lists.

`split_zhou_NAME.json` holds `{"train": [[PATH, LABEL, CLASS NAME], ...], "val": ..., "test": ...}`,
with paths below the folder of images: `read_split` in datasets/oxford_pets.py of
github.com/KaiyangZhou/CoOp at ff61507. Images keep the order of the list, on which random draws
depend. Imports no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.data.class_names import ClassData, make_data
from cosmos_eval.data.folders import root_of
from cosmos_eval.data.readers import (
    FileError,
    lines,
    read_json,
    read_text,
    report_faults_at,
    shortened,
)
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

SPLITS = ("train", "val", "test")
"""The splits of a file, in the order of its keys."""


class _Entry(NamedTuple):
    """An image in a list."""

    # The path below the folder of images.
    path: str
    label: int
    class_name: str


def read_coop_split(
    folder: Path, protocol: ClassificationProtocol, options: RunOptions
) -> ClassData:
    """Return the images of one split of a data set, with the names of all its classes.

    It is not checked that the images exist.

    Args:
        folder: The folder of the images.
        protocol: The data set, with its `split_file` and the `split` that is read.
        options: The options of the command, such as --data-root.

    Raises:
        UsageError: If the file is missing or damaged, or if an image is listed twice.
    """
    path = _find_split_file(folder, protocol, options)
    with report_faults_at(f"{protocol.dataset}: {path}: "):
        if path.suffix == ".json":
            classes, entries = _read_json_splits(path, protocol.split)
        else:
            classes, entries = _read_aircraft_list(path)
    return make_data(
        classes, [(entry.path, ImageFile(folder / entry.path), entry.label) for entry in entries]
    )


def _find_split_file(folder: Path, protocol: ClassificationProtocol, options: RunOptions) -> Path:
    """Return the path of the split file: where CoOp has it, or beside or in the folder of images.

    Raise UsageError, which names these paths, if none of them is a file.
    """
    split_file = str(protocol.split_file)
    root = root_of(protocol, options, split_file)
    name = Path(split_file).name
    paths = list(dict.fromkeys([root / split_file, folder.parent / name, folder / name]))
    for path in paths:
        if path.is_file():
            return path
    candidates = ", ".join(map(str, paths))
    raise UsageError(
        f"{protocol.dataset}: expected the list of its splits at one of {candidates}; get it from "
        f"{protocol.download or 'its authors'}"
    )


def _read_json_splits(path: Path, split: str) -> tuple[list[str], list[_Entry]]:
    """Return the names of all classes, and the images of one split.

    Args:
        path: The JSON file.
        split: `train`, `val` or `test`.

    Raises:
        FileError: If the file has another form, if a class has no training image or two names, and
            if an image is listed twice.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(name in content for name in SPLITS):
        raise FileError("expected `train`, `val` and `test`, the lists of a CoOp split file")
    entries_by_split = {name: list(_parse_entries(content[name], name)) for name in SPLITS}

    # Every image occurs once.
    listed_paths = set()
    for split_name, entries in entries_by_split.items():
        for entry in entries:
            if entry.path in listed_paths:
                raise FileError(f"{split_name}: image {entry.path} is listed twice")
            listed_paths.add(entry.path)
    return _class_names(entries_by_split), entries_by_split[split]


def _class_names(entries_by_split: Mapping[str, Sequence[_Entry]]) -> list[str]:
    """Return the names of the classes 0, 1, 2..., by label.

    Raise FileError for a class with two names, and for a class without training images.
    """
    name_by_label: dict[int, str] = {}
    for split_name, entries in entries_by_split.items():
        for entry in entries:
            class_name = name_by_label.setdefault(entry.label, entry.class_name)
            if class_name != entry.class_name:
                raise FileError(
                    f"{split_name}: class {entry.label} is called {class_name} and "
                    f"{entry.class_name}"
                )
    training_labels = {entry.label for entry in entries_by_split["train"]}
    for label in range(max(name_by_label, default=0) + 1):
        if label not in training_labels:
            raise FileError(f"train: class {label} has no image")
    return [name_by_label[label] for label in sorted(name_by_label)]


def _parse_entries(items: Any, split: str) -> Iterator[_Entry]:
    """Yield the images of a split. Raise FileError unless each is a list [path, label, name].

    Args:
        items: The value of the split in the JSON file.
        split: The name of the split, for error messages.
    """
    if not isinstance(items, list):
        raise FileError(f"{split}: expected a list, not {shortened(items)}")
    for number, item in enumerate(items, 1):
        match item:
            case [str(path), int(label), str(name)] if label >= 0 and path and name.strip():
                yield _Entry(path, label, name)
            case _:
                raise FileError(
                    f"{split}: entry {number} must be [path, label, class name], not "
                    f"{shortened(item)}"
                )


def _read_aircraft_list(path: Path) -> tuple[list[str], list[_Entry]]:
    """Return the classes and images of a list of FGVC-Aircraft.

    A line has the number of an image and its class, such as `0034309 A300B4`. The classes are the
    lines of `variants.txt` in the same folder, in their order, as in datasets/fgvc_aircraft.py of
    CoOp.

    Args:
        path: A file such as `images_variant_train.txt`.

    Raises:
        FileError: For a file that cannot be read, and for a line with an unknown class.
    """
    classes = [line.strip() for _, line in lines(read_text(path.parent / "variants.txt"))]
    label_by_class = {name: label for label, name in enumerate(classes)}
    entries = []
    for number, line in lines(read_text(path)):
        image, _, class_name = line.strip().partition(" ")
        if class_name not in label_by_class:
            raise FileError(f"line {number}: {class_name or 'no class'} is not in variants.txt")
        entries.append(_Entry(f"{image}.jpg", label_by_class[class_name], class_name))
    return classes, entries
