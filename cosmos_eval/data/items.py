"""Items of caption selection, read from files in the forms of docs/data.md. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.data.readers import FileError, read_records
from cosmos_eval.types import SelectionLayout, SelectionProtocol, UsageError

Box = tuple[int, int, int, int]


class Picture(NamedTuple):
    """An image file below the folder of images, or a box (left, top, right, bottom) of it."""

    file: str
    box: Box | None = None


class Item(NamedTuple):
    """One picture with its right caption first, or two with their captions in the same order.

    `subset` is empty where the file has none; `where` is what errors call the item.
    """

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    subset: str
    where: str


class _Record(NamedTuple):
    """One entry of a file, its fields by name."""

    fields: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        """Return a field that must be text that is not blank."""
        return self._checked(self._field(name), name)

    def number(self, name: str) -> int:
        """Return a field that must be a whole number, or text that is one."""
        value = self._field(name)
        try:
            if isinstance(value, str | int) and not isinstance(value, bool):
                return int(value)
        except ValueError:
            pass
        raise UsageError(f"{self.where}: `{name}` must be a whole number, not {value!r}")

    def texts(self, prefix: str) -> tuple[str, ...]:
        """Return all texts of the fields with a prefix, each a text or a list of texts.

        An empty cell of a CSV table is none.
        """
        found = []
        for name, value in self.fields.items():
            if str(name).startswith(prefix) and value not in ("", None):
                texts = value if isinstance(value, list) else [value]
                found += [self._checked(text, name) for text in texts]
        return tuple(found)

    def _field(self, name: str) -> Any:
        if name not in self.fields:
            known = ", ".join(map(str, self.fields))
            raise UsageError(f"{self.where} has no `{name}`, only {known}")
        return self.fields[name]

    def _checked(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{self.where}: `{name}` must be text, not {value!r}")
        return value


def read_items(protocol: SelectionProtocol, path: Path) -> list[Item]:
    """Read all items of a file or folder, in its order.

    Raises UsageError that names file and record where something is missing or malformed.
    """
    items = list(_LAYOUTS[protocol.layout](protocol, path))
    if not items:
        raise UsageError(f"{path} holds no items")
    return items


def _items(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image`, `caption`, fields beginning with `negative`, and a subset where there are any."""
    for record in _records(path):
        picture = Picture(record.text("image") + protocol.image_suffix)
        captions = (record.text("caption"), *record.texts("negative"))
        yield Item((picture,), captions, _subset(protocol, record), record.where)


def _pairs(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image_0`, `image_1`, `caption_0`, `caption_1`, as in Winoground's examples.jsonl."""
    for record in _records(path):
        pictures = [
            Picture(record.text(f"image_{side}") + protocol.image_suffix) for side in (0, 1)
        ]
        captions = [record.text(f"caption_{side}") for side in (0, 1)]
        yield Item(tuple(pictures), tuple(captions), _subset(protocol, record), record.where)


def _sugarcrepe(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """A folder with one file per subset: `filename`, `caption`, `negative_caption` by index."""
    files = sorted(path.glob("*.json"))
    if not files:
        raise UsageError(f"{path} must be a folder with a .json file per subset")
    for file in files:
        for record in _records(file):
            picture = Picture(record.text("filename") + protocol.image_suffix)
            captions = (record.text("caption"), record.text("negative_caption"))
            yield Item((picture,), captions, file.stem, record.where)


def _mmvp(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Two rows per pair, `Question ID`, `Type`, `Statement`; images at TYPE/ID.jpg."""
    records = _records(path)
    if len(records) % 2:
        raise UsageError(f"{path} has {len(records)} rows: two are a pair, so one is missing")
    for first, second in zip(records[::2], records[1::2], strict=True):
        kind, other = first.text("Type"), second.text("Type")
        numbers = first.number("Question ID"), second.number("Question ID")
        # Pairs are 1 and 2, 3 and 4, ...: by that evaluate_vlm.py knows which image is right.
        if kind != other or numbers[0] % 2 == 0 or numbers[1] != numbers[0] + 1:
            raise UsageError(
                f"{first.where}: {numbers[0]} ({kind}) and {numbers[1]} ({other}) are no pair; "
                "rows of a pair follow each other, odd number first"
            )
        pictures = tuple(Picture(f"{kind}/{number}.jpg") for number in numbers)
        statements = first.text("Statement"), second.text("Statement")
        yield Item(pictures, statements, kind, first.where)


def _aro(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image_path`, `bbox_x|y|w|h`, `true_caption`, `false_caption`; relation or two attributes."""
    for record in _records(path):
        x, y, w, h = (record.number(f"bbox_{side}") for side in "xywh")
        picture = Picture(record.text("image_path"), (x, y, x + w, y + h))
        captions = record.text("true_caption"), record.text("false_caption")
        named = record.texts("relation_name") or record.texts("attributes")
        if not named:
            raise UsageError(f"{record.where} has neither `relation_name` nor `attributes`")
        # aro_datasets.py names a pair of attributes like this.
        yield Item((picture,), captions, "_".join(named), record.where)


_LAYOUTS: Mapping[SelectionLayout, Callable[[SelectionProtocol, Path], Iterator[Item]]] = {
    "items": _items,
    "pairs": _pairs,
    "sugarcrepe": _sugarcrepe,
    "mmvp": _mmvp,
    "aro": _aro,
}


def _subset(protocol: SelectionProtocol, record: _Record) -> str:
    key = protocol.subset_key
    return record.text(key) if key in record.fields else ""


def _records(path: Path) -> list[_Record]:
    try:
        entries = list(read_records(path))
    except FileError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise UsageError(f"{path}, {where} must hold names and values, not {entry!r}")
    return [_Record(entry, f"{path}, {where}") for where, entry in entries]
