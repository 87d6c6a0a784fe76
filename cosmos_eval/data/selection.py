"""A caption selection set on the disk (docs/caption-selection.md). Imports no torch."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.readers import faults_of, read_records
from cosmos_eval.data.sources import CroppedImage, ImageFile, ImageSource, PixelFile
from cosmos_eval.types import Part, RunOptions, SelectionProtocol, UsageError

Chosen = Literal["captions", "images", "both"]


class Picture(NamedTuple):
    """An image file below the folder of images, or a box (left, top, right, bottom) of it."""

    file: str
    box: tuple[int, int, int, int] | None = None


class Item(NamedTuple):
    """One picture with captions, the right ones first; one caption with pictures, the right one
    first; or two pictures with their captions in the same order."""

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    subset: str  # empty where the file has none
    where: str  # what errors call the item
    right: int = 1  # how many captions are right
    pair: str = ""  # items of one name are right together
    set: str = ""  # the same of a larger group

    @property
    def chosen(self) -> Chosen:
        """What is chosen: captions by an image, an image by a caption, or in pairs both."""
        if len(self.pictures) == 1:
            return "captions"
        return "images" if len(self.captions) == 1 else "both"


class SelectionData(NamedTuple):
    """Every distinct image and caption once, and N items that refer to them by index."""

    pictures: tuple[Picture, ...]  # (I) what the images are below their folder
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    images_of_item: list[NDArray[np.int64]]  # the right image first
    captions_of_item: list[NDArray[np.int64]]  # the right captions first
    right: NDArray[np.int64]  # (N,) how many captions are right
    subsets: tuple[str, ...]  # (S) sorted names
    subset_of_item: NDArray[np.int64]  # (N,)
    averaged: NDArray[np.bool_]  # (S,) whether a subset is part of the mean
    groups: Mapping[str, NDArray[np.int64]]  # (N,) numbers of pairs and sets; -1 of incomplete ones
    chosen: Chosen
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
    listed = items
    if options.allow_partial and protocol.is_published:
        there = [all((folder / p.file).is_file() for p in item.pictures) for item in items]
        # Where no item is complete, the first image that is missing says more.
        items = list(compress(items, there)) or items
    counts = Counter(item.subset for item in items)
    # Of a published set whose number of items is not known, all that are listed are wanted.
    n_known = protocol.n_items or (len(listed) if protocol.is_published else None)
    parts = folders.parts_of(items=(len(items), n_known))
    data = _data(protocol, options, folder, items, listed)
    files = list(dict.fromkeys(picture.file for picture in data.pictures))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and not faults:
        what = f"{len(missing)} of the {len(files)} images of {annotations} are not there"
        first = folder / missing[0]
        faults = (f"{what}, first: {first}{page}{folders.beside(first)}",)
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
            expected_items=n_known or len(items),
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
        _require_sound(item, items[0], protocol)
    _require_subsets(protocol, Counter(item.subset for item in items), annotations)
    return annotations, items


def _require_sound(item: Item, first: Item, protocol: SelectionProtocol) -> None:
    """Raise UsageError for an item without a choice, or one of another kind than the first."""
    pictures, right, wrong = item.pictures, item.captions[: item.right], item.captions[item.right :]
    if not wrong and item.chosen == "captions":
        raise UsageError(f"{item.where} has no wrong caption: give it a `negative`")
    if item.chosen != first.chosen:
        raise UsageError(f"{item.where} chooses other things than {first.where}: make two sets")
    if protocol.is_published:
        return  # Measured as it is; what cannot be solved there counts as wrong.
    if both := set(right) & set(wrong):
        raise UsageError(f"{item.where}: {both.pop()!r} is the right caption and a wrong one")
    if len(set(pictures)) != len(pictures):
        raise UsageError(f"{item.where}: both images are {pictures[0].file}")


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
    protocol: SelectionProtocol,
    options: RunOptions,
    folder: Path,
    items: Sequence[Item],
    listed: Sequence[Item],
) -> SelectionData:
    """Index the items, up to the limit; all that are `listed` tell which groups are complete."""
    names, of_item, sizes = np.unique(
        [item.subset for item in items], return_inverse=True, return_counts=True
    )
    kept = folders.in_turn(of_item, options.limit)
    items = [items[i] for i in kept]
    pictures = folders.index(picture for item in items for picture in item.pictures)
    captions = folders.index(caption for item in items for caption in item.captions)
    return SelectionData(
        pictures=tuple(pictures),
        images=tuple(_source(folder / file, box) for file, box in pictures),
        captions=tuple(protocol.template.replace("{}", caption) for caption in captions),
        images_of_item=[np.array([pictures[p] for p in item.pictures]) for item in items],
        captions_of_item=[np.array([captions[c] for c in item.captions]) for item in items],
        right=np.array([item.right for item in items]),
        subsets=tuple(names.tolist()),
        subset_of_item=of_item[kept],
        averaged=~np.isin(names, protocol.left_out) & (sizes >= protocol.smallest),
        groups={
            kind: _groups([of(i) for i in items], Counter(map(of, listed)))
            for kind, of in (("pair", attrgetter("pair")), ("set", attrgetter("set")))
            if any(map(of, listed))
        },
        chosen=items[0].chosen,
    )


def _source(path: Path, box: tuple[int, int, int, int] | None) -> ImageSource:
    image = PixelFile(path) if path.suffix == ".npy" else ImageFile(path)
    return CroppedImage(image, box) if box else image


def _groups(names: Sequence[str], whole: Counter[str]) -> NDArray[np.int64]:
    """Return the number of each item's group (N,), -1 where an item of it is left out."""
    found = Counter(name for name in names if name)
    numbers = folders.index(name for name in found if found[name] == whole[name])
    return np.array([numbers.get(name, -1) for name in names])


class _Record(NamedTuple):
    fields: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        return self._checked(self._field(name), name)

    def optional(self, name: str) -> str:
        """Return the text of a field, empty where there is no such field."""
        return self.text(name) if name in self.fields else ""

    def identity(self, name: str) -> str:
        """Return a field of any type as text, empty where there is none."""
        value = self.fields.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        """Return a field that must be a whole number, or text that is one."""
        value = self._field(name)
        with contextlib.suppress(ValueError):
            if isinstance(value, str | int) and not isinstance(value, bool):
                return int(value)
        raise UsageError(f"{self.where}: `{name}` must be a whole number, not {value!r}")

    def texts(self, prefix: str, but: str = "\0") -> tuple[str, ...]:
        """Return all texts of the fields with a prefix, `but` those with a longer one; an empty
        cell of a CSV table is none."""
        return tuple(
            self._checked(text, name)
            for name, value in self.fields.items()
            if str(name).startswith(prefix) and not str(name).startswith(but)
            if value not in ("", None)
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
    """`image`, `caption`, more right captions in fields beginning with `positive`, wrong ones in
    those with `negative`, or wrong images in those with `negative_image`; and where there are any
    `pair_id`, `set_id` and a subset."""
    for record in _records(path):
        right = (record.text("caption"), *record.texts("positive"))
        wrong = record.texts("negative", but="negative_image")
        others = record.texts("negative_image")
        if others and (wrong or len(right) > 1):
            fault = "has wrong images and more than one caption: make two items of it"
            raise UsageError(f"{record.where} {fault}")
        yield Item(
            pictures=_pictures(protocol, record.text("image"), *others),
            captions=(*right, *wrong),
            subset=record.optional(protocol.subset_key),
            where=record.where,
            right=len(right),
            pair=record.identity("pair_id"),
            set=record.identity("set_id"),
        )


def _pictures(protocol: SelectionProtocol, *files: str) -> tuple[Picture, ...]:
    return tuple(Picture(file + protocol.image_suffix) for file in files)


# Of Winoground's examples.jsonl, of ColorSwap's test.json, of EqBen's.
_PAIR_ENDS = (("_0", "_1"), ("_1", "_2"), ("0", "1"))


def _pairs(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image_0`, `image_1`, `caption_0`, `caption_1`, or other numbers, and a subset."""
    for record in _records(path):
        ends = next((e for e in _PAIR_ENDS if f"image{e[0]}" in record.fields), _PAIR_ENDS[0])
        images = [record.text(f"image{end}") for end in ends]
        captions = tuple(record.text(f"caption{end}") for end in ends)
        subset = record.optional(protocol.subset_key)
        yield Item(_pictures(protocol, *images), captions, subset, record.where)


def _eqben(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Pairs, whose subset is the first folder of an image."""
    for item in _pairs(protocol, path):
        yield item._replace(subset=item.pictures[0].file.partition("/")[0])


def _of_files(path: Path) -> Iterator[tuple[str, _Record]]:
    """Yield the records of a folder with one .json file per subset, and the subset's name."""
    files = sorted(path.glob("*.json"))
    if not files:
        raise UsageError(f"{path} must be a folder with a .json file per subset")
    return ((file.stem, record) for file in files for record in _records(file))


def _sugarcrepe(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`filename`, `caption`, in SugarCrepe++ `caption2`, and `negative_caption`."""
    for subset, record in _of_files(path):
        also = [record.text("caption2")] if "caption2" in record.fields else []
        captions = (record.text("caption"), *also, record.text("negative_caption"))
        pictures = _pictures(protocol, record.text("filename"))
        yield Item(pictures, captions, subset, record.where, right=len(captions) - 1)


def _valse(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image_file`, `caption`, `foil` of the valid items: those where of three annotators two or
    more, in `mturk`, chose the caption and not the foil (README.md of VALSE)."""
    for subset, record in _of_files(path):
        votes = record.fields.get("mturk")
        if not isinstance(votes, dict):
            raise UsageError(f"{record.where} has no votes `mturk`")
        if _Record(votes, f"{record.where}, `mturk`").number("caption") >= 2:
            captions = record.text("caption"), record.text("foil")
            yield Item((Picture(record.text("image_file")),), captions, subset, record.where)


_SVO_PARTS = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}


def _svo(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`sentence`, `pos_image_id`, `neg_image_id` of rows whose image differs in one of `subj_neg`,
    `verb_neg` and `obj_neg`, as probing_image_text_models.ipynb of its authors takes them."""
    for record in _records(path):
        flags = {part: record.text(flag) for flag, part in _SVO_PARTS.items()}
        if not {"True", "False"} >= set(flags.values()):
            raise UsageError(f"{record.where}: {', '.join(_SVO_PARTS)} must be True or False")
        differs = [part for part, flag in flags.items() if flag == "True"]
        if len(differs) == 1:
            ids = [str(record.number(f"{side}_image_id")) for side in ("pos", "neg")]
            sentence = (record.text("sentence"),)
            yield Item(_pictures(protocol, *ids), sentence, differs[0], record.where)


_AXES = {"left": "side", "right": "side", "on": "height", "under": "height"}
_AXES |= {"in-front": "depth", "behind": "depth"}


def _whatsup(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image_path`, OBJECT_PREPOSITION_OBJECT.jpeg, and `caption_options`, the right one first.
    Pairs and sets as in evaluate_scores of dataset_zoo/aro_datasets.py."""
    for record in _records(path):
        name = PurePosixPath(record.text("image_path"))
        first, *preposition, last = name.stem.split("_")
        axis = _AXES.get(preposition[0]) if preposition else None
        if axis is None:
            fault = "names no preposition: OBJECT_PREPOSITION_OBJECT is expected"
            raise UsageError(f"{record.where}: {name.name} {fault}")
        yield Item(
            pictures=(Picture(name.name),),
            captions=record.texts("caption_options"),
            subset="_".join(preposition),
            where=record.where,
            pair=f"{first} {last} {axis}",
            set=f"{first} {last}",
        )


def _spatial(digits: int, protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Lists of an image's id, the right caption and the wrong one: What'sUp's file about one
    object and, beside it, that about two."""
    for objects in ("one", "two"):
        file = path.with_name(path.name.replace("one", objects))
        for where, entry in _entries(file):
            if not isinstance(entry, list) or len(entry) < 3:
                raise UsageError(f"{where} must list an image id and two captions, not {entry!r}")
            record = _Record({"id": entry[0], "caption": entry[1], "wrong": entry[2]}, where)
            picture = Picture(f"{record.number('id'):0{digits}}.jpg")
            captions = record.text("caption"), record.text("wrong")
            yield Item((picture,), captions, f"{objects}_obj", where)


def _negbench(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """`image_path`, of which the folders depend on the user, `caption_0` to `caption_3`, the number
    of the `correct_answer` and its kind, `correct_answer_template`."""
    for record in _records(path):
        captions = [record.text(f"caption_{i}") for i in range(4)]
        answer = record.number("correct_answer")
        if answer not in range(4):
            raise UsageError(f"{record.where}: `correct_answer` must be 0 to 3, not {answer}")
        right = captions.pop(answer)
        picture = Picture(PurePosixPath(record.text("image_path")).name)
        subset = record.text("correct_answer_template")
        yield Item((picture,), (right, *captions), subset, record.where)


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
    "pairs": _pairs,
    "sugarcrepe": _sugarcrepe,
    "mmvp": _mmvp,
    "aro": _aro,
    "svo": _svo,
    "valse": _valse,
    "whatsup": _whatsup,
    "coco-spatial": partial(_spatial, 12),
    "gqa-spatial": partial(_spatial, 0),
    "negbench": _negbench,
    "eqben": _eqben,
}


def _records(path: Path) -> list[_Record]:
    entries = _entries(path)
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise UsageError(f"{where} must hold names and values, not {entry!r}")
    return [_Record(entry, where) for where, entry in entries]


def _entries(path: Path) -> list[tuple[str, Any]]:
    with faults_of(f"cannot read {path}: "):
        return [(f"{path}, {where}", entry) for where, entry in read_records(path)]
