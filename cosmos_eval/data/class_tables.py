"""Classification sets whose images are listed in tables, such as CelebA. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosmos_eval.data.class_names import ClassData, make_data
from cosmos_eval.data.folders import number_distinct
from cosmos_eval.data.readers import FileError, read_records, report_faults_at, shortened
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.types import ClassificationProtocol, ImageTable

_Rows = dict[str, dict[str, Any]]


def read_class_table(
    protocol: ClassificationProtocol, table: ImageTable, folder: Path
) -> ClassData:
    """Return the test images that a table lists, with their classes and groups.

    Images are called by their paths in the table. A group is called by its values, such as
    `y 0, place 1`.

    Args:
        protocol: The data set. The keys of its `class_names` are the labels in the table, in the
            order of the classes.
        table: The file and the keys of its columns.
        folder: The folder of the data set.

    Raises:
        UsageError: If a table cannot be read, lacks a value, lists an image twice or a label that
            is not a class, or has no test images.
    """
    path = folder / table.file
    with report_faults_at(f"{protocol.dataset}: {path}: "):
        rows = _read_rows(path, table.image_key, [table.label_key, *table.group_keys])
        split_rows = rows
        if table.split_file != table.file:
            split_path = folder / table.split_file
            with report_faults_at(f"{protocol.dataset}: {split_path}: "):
                split_rows = _read_rows(split_path, table.image_key, [table.split_key])
            _require_same_images(rows, split_rows, split_path)
        index_by_label = number_distinct(protocol.class_names)
        samples = []
        groups = []
        for name, row in rows.items():
            label = str(row[table.label_key])
            if label not in index_by_label:
                short_label = shortened(label)
                raise FileError(f"image {name} has the label {short_label}, which is not a class")
            if str(split_rows[name].get(table.split_key)) != table.split:
                continue
            samples.append((name, ImageFile(folder / table.images / name), index_by_label[label]))
            groups.append(", ".join(f"{key} {row[key]}" for key in table.group_keys))
        if not samples:
            raise FileError(f"lists no image whose {table.split_key} is {table.split}")
    return make_data(list(protocol.class_names), samples).with_groups(groups)


def _read_rows(path: Path, image_key: str, keys: Sequence[str]) -> _Rows:
    """Return the rows of a table by the name of the image.

    Args:
        path: The path of the table.
        image_key: The key of the column of images.
        keys: The keys of other columns that every row must have.

    Raises:
        FileError: If a row lacks a value, or lists an image that an earlier row lists.
    """
    rows: _Rows = {}
    for location, record in read_records(path):
        for key in (image_key, *keys):
            if not str(record.get(key) or "").strip():
                raise FileError(f"{location}: there is no `{key}`")
        name = record[image_key]
        if name in rows:
            raise FileError(f"{location}: image {name} is listed twice")
        rows[name] = record
    return rows


def _require_same_images(rows: _Rows, split_rows: _Rows, split_path: Path) -> None:
    """Raise FileError unless the table of splits lists exactly the images of the other table."""
    different_images = sorted(rows.keys() ^ split_rows.keys())
    if different_images:
        raise FileError(
            f"{len(different_images)} images are only listed there or only in {split_path}, the "
            f"first: {different_images[0]}"
        )
