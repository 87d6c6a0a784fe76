"""A caption selection set on the disk, in the forms of docs/data.md. Imports no torch."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.readers import FileError, read_records
from cosmos_eval.data.sources import CroppedImage, ImageFile, ImageSource
from cosmos_eval.types import Part, RunOptions, SelectionProtocol, UsageError


class Picture(NamedTuple):
    """An image file below the folder of images, or a box (left, top, right, bottom) of it."""

    file: str
    box: tuple[int, int, int, int] | None = None


class Item(NamedTuple):
    """One picture with its right caption first, or two with their captions in the same order."""

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    subset: str  # empty where the file has none
    where: str  # what errors call the item


class SelectionData(NamedTuple):
    """Every distinct image and caption once, and N items that refer to them by index."""

    pictures: tuple[Picture, ...]  # (I) what the images are below their folder
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    images_of_item: NDArray[np.int64]  # (N, 1) or, of pairs, (N, 2)
    captions_of_item: list[NDArray[np.int64]]  # the right caption first
    subsets: tuple[str, ...]  # (S) sorted names
    subset_of_item: NDArray[np.int64]  # (N,)
    averaged: NDArray[np.bool_]  # (S,) whether a subset is part of the mean
    part: Part | None = None  # how many items there are of an incomplete known set


def open_data(protocol: SelectionProtocol, options: RunOptions) -> SelectionData:
    """Read the items, all or the partial set allowed. Raises UsageError for any fault."""
    return list_data(protocol, options).require(protocol, options)


def list_data(protocol: SelectionProtocol, options: RunOptions) -> folders.Listing[SelectionData]:
    """List items and images, with all faults. Raises UsageError where items are unreadable."""
    page = f"; from: {protocol.download}" if protocol.download else ""
    annotations, items = _read(protocol, options, page)
    faults: tuple[str, ...] = ()
    try:
        folder = folders.data_path(protocol, options, protocol.images, "images")
    except UsageError as error:
        faults = (f"{str(error).removeprefix(f'{protocol.dataset}: ')}{page}",)
        folder = annotations  # below which none of the images is
    if options.allow_partial and protocol.n_items is not None:
        there = [all((folder / p.file).is_file() for p in item.pictures) for item in items]
        # Where no item is complete, the first image that is missing says more.
        items = list(compress(items, there)) or items
    counts = Counter(item.subset for item in items)
    parts = folders.parts_of(items=(len(items), protocol.n_items))
    data = _data(protocol, options, folder, items)
    files = list(dict.fromkeys(picture.file for picture in data.pictures))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and not faults:
        what = f"{len(missing)} of the {len(files)} images of {annotations} are not there"
        faults = (f"{what}, first: {folder / missing[0]}{page}",)
    known = protocol.subset_items.items()
    by_subset = [Part(counts[name], expected, f"items of {name}") for name, expected in known]
    return folders.Listing(
        data=data._replace(part=folders.shortfall(parts)),
        where=annotations,
        parts=by_subset or parts,
        survey=folders.Survey(
            faults=faults,
            folder=str(folder),
            expected=len(files),
            images=len(files) - len(missing),
            expected_items=protocol.n_items or len(items),
            items=len(items),
        ),
    )


def _read(protocol: SelectionProtocol, options: RunOptions, page: str) -> tuple[Path, list[Item]]:
    if protocol.template.count("{}") != 1:
        raise UsageError(f"template '{protocol.template}' must hold '{{}}' exactly once")
    try:
        annotations = folders.data_path(protocol, options, protocol.annotations, "items")
    except UsageError as error:
        raise UsageError(f"{error}{page}") from None
    items = list(_LAYOUTS[protocol.layout](protocol, annotations))
    if not items:
        raise UsageError(f"{annotations} holds no items")
    for item in items:
        right, *wrong = item.captions
        if not wrong:
            raise UsageError(f"{item.where} has no wrong caption: give it a `negative`")
        # Published sets are measured as they are; what cannot be solved there counts as wrong.
        if protocol.n_items is None and right in wrong:
            raise UsageError(f"{item.where}: {right!r} is the right caption and a wrong one")
        if protocol.n_items is None and len(set(item.pictures)) != len(item.pictures):
            raise UsageError(f"{item.where}: both images are {item.pictures[0].file}")
    _require_subsets(protocol, Counter(item.subset for item in items), annotations)
    return annotations, items


def _require_subsets(protocol: SelectionProtocol, counts: Counter[str], path: Path) -> None:
    known = protocol.subset_items
    if "" in counts and len(counts) > 1:
        raise UsageError(
            f"{path}: {counts['']} items have no `{protocol.subset_key}`, the others have one"
        )
    for name in sorted(counts.keys() ^ known.keys()) if known else ():
        fault = f"{'no' if name in known else 'a'} subset {name!r}; the data set has: "
        raise UsageError(f"{protocol.dataset}: {path} has {fault}{', '.join(known)}")


def _data(
    protocol: SelectionProtocol, options: RunOptions, folder: Path, items: Sequence[Item]
) -> SelectionData:
    names, of_item, sizes = np.unique(
        [item.subset for item in items], return_inverse=True, return_counts=True
    )
    kept = folders.in_turn(of_item, options.limit)
    items = [items[i] for i in kept]
    pictures = _index(picture for item in items for picture in item.pictures)
    captions = _index(caption for item in items for caption in item.captions)
    return SelectionData(
        pictures=tuple(pictures),
        images=tuple(
            CroppedImage(ImageFile(folder / file), box) if box else ImageFile(folder / file)
            for file, box in pictures
        ),
        captions=tuple(protocol.template.replace("{}", caption) for caption in captions),
        images_of_item=np.array([[pictures[p] for p in item.pictures] for item in items]),
        captions_of_item=[np.array([captions[c] for c in item.captions]) for item in items],
        subsets=tuple(names.tolist()),
        subset_of_item=of_item[kept],
        averaged=~np.isin(names, protocol.left_out) & (sizes >= protocol.smallest),
    )


def _index(things: Iterable[Any]) -> dict[Any, int]:
    """Return distinct things with their indices, in the order of the first of each."""
    return {thing: index for index, thing in enumerate(dict.fromkeys(things))}


class _Record(NamedTuple):
    fields: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        return self._checked(self._field(name), name)

    def number(self, name: str) -> int:
        """Return a field that must be a whole number, or text that is one."""
        value = self._field(name)
        with contextlib.suppress(ValueError):
            if isinstance(value, str | int) and not isinstance(value, bool):
                return int(value)
        raise UsageError(f"{self.where}: `{name}` must be a whole number, not {value!r}")

    def texts(self, prefix: str) -> tuple[str, ...]:
        """Return all texts of the fields with a prefix; an empty cell of a CSV table is none."""
        return tuple(
            self._checked(text, name)
            for name, value in self.fields.items()
            if str(name).startswith(prefix) and value not in ("", None)
            for text in (value if isinstance(value, list) else [value])
        )

    def _field(self, name: str) -> Any:
        if name not in self.fields:
            known = ", ".join(map(str, self.fields))
            raise UsageError(f"{self.where} has no `{name}`, only {known}")
        return self.fields[name]

    def _checked(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{self.where}: `{name}` must be text, not {value!r}")
        return value


def _items(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image`, `caption`, fields beginning with `negative`, and a subset where there are any."""
    # Of pairs as in Winoground's examples.jsonl.
    ends = ("_0", "_1") if protocol.layout == "pairs" else ("",)
    for record in _records(path):
        images = [record.text(f"image{end}") + protocol.image_suffix for end in ends]
        captions = [record.text(f"caption{end}") for end in ends]
        if protocol.layout == "items":
            captions += record.texts("negative")
        subset = record.text(protocol.subset_key) if protocol.subset_key in record.fields else ""
        yield Item(tuple(map(Picture, images)), tuple(captions), subset, record.where)


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


_LAYOUTS: Mapping[str, Callable[[SelectionProtocol, Path], Iterator[Item]]] = {
    "items": _items,
    "pairs": _items,
    "sugarcrepe": _sugarcrepe,
    "mmvp": _mmvp,
    "aro": _aro,
}


def _records(path: Path) -> list[_Record]:
    try:
        entries = list(read_records(path))
    except FileError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise UsageError(f"{path}, {where} must hold names and values, not {entry!r}")
    return [_Record(entry, f"{path}, {where}") for where, entry in entries]
