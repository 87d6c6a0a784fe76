"""The forms of caption selection files (docs/caption-selection.md), each read into items.

Imports no torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from cosmos_eval.data.readers import faults_of, read_records
from cosmos_eval.types import SelectionProtocol, UsageError

Chosen = Literal["captions", "images", "both"]


class Picture(NamedTuple):
    """An image file below the folder of images, or a box (left, top, right, bottom) of it."""

    file: str
    box: tuple[int, int, int, int] | None = None


class Item(NamedTuple):
    """A question of the data set, in one of three forms.

    One picture with captions, the right ones first. One caption with pictures, the right one first.
    Or two pictures with their two captions in the same order.
    """

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    # The subset that the item belongs to, empty if the file has no subsets.
    subset: str
    # How error messages name the item: the file and the line or record.
    location: str
    # How many of the captions are right.
    n_right: int = 1
    # Items with the same name of a pair are counted as right together.
    pair: str = ""
    # The same for a larger group of items.
    set: str = ""

    @property
    def chosen(self) -> Chosen:
        """The kind of choice: captions for an image, an image for a caption, or both in a pair."""
        if len(self.pictures) == 1:
            return "captions"
        return "images" if len(self.captions) == 1 else "both"


def read_items(protocol: SelectionProtocol, path: Path) -> list[Item]:
    """Read the items of a file, or of a folder of files. Raise UsageError for a broken one."""
    return list(_LAYOUTS[protocol.layout](protocol, path))


class _Record(NamedTuple):
    """The fields of a record or row, and its location for error messages."""

    fields: Mapping[str, Any]
    location: str

    def text(self, name: str) -> str:
        """Return the text of a field. Raise UsageError if it is missing or blank."""
        return self._require_text(self._field(name), name)

    def optional(self, name: str) -> str:
        """Return the text of a field, or an empty text if it is missing."""
        return self.text(name) if name in self.fields else ""

    def identity(self, name: str) -> str:
        """Return a field of any type as text, or an empty text if it is missing."""
        value = self.fields.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        """Return a whole number, also from text. Raise UsageError for any other value."""
        value = self._field(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            try:
                return int(value)
            except ValueError:
                pass
        raise UsageError(f"{self.location}: `{name}` must be a whole number, not {value!r}")

    def texts(self, prefix: str, *, excluded_prefix: str | None = None) -> tuple[str, ...]:
        """Return the texts of all fields whose names begin with `prefix`, also those in lists.

        Skip empty cells of a table and names that begin with `excluded_prefix`.
        """
        texts: list[str] = []
        for name, value in self.fields.items():
            if not str(name).startswith(prefix) or value in ("", None):
                continue
            if excluded_prefix is not None and str(name).startswith(excluded_prefix):
                continue
            values = value if isinstance(value, list) else [value]
            texts.extend(self._require_text(text, name) for text in values)
        return tuple(texts)

    def _field(self, name: str) -> Any:
        """Return the value of a field. Raise UsageError if it is missing."""
        if name not in self.fields:
            names = ", ".join(map(str, self.fields))
            raise UsageError(f"{self.location} has no `{name}`, only {names}")
        return self.fields[name]

    def _require_text(self, value: Any, name: str) -> str:
        """Return a value that is text. Raise UsageError if it is not, or if it is blank."""
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{self.location}: `{name}` must be text, not {value!r}")
        return value


def _read_records(path: Path) -> list[_Record]:
    """Read the records of a file. Raise UsageError for an entry that is not a record."""
    records = []
    for location, entry in _read_entries(path):
        if not isinstance(entry, dict):
            raise UsageError(f"{location} must hold names and values, not {entry!r}")
        records.append(_Record(entry, location))
    return records


def _read_subset_files(path: Path) -> Iterator[tuple[str, _Record]]:
    """Yield the name of the subset and the record, for a folder with a .json file per subset."""
    files = sorted(path.glob("*.json"))
    if not files:
        raise UsageError(f"{path} must be a folder with a .json file per subset")
    for file in files:
        for record in _read_records(file):
            yield file.stem, record


def _read_entries(path: Path) -> list[tuple[str, Any]]:
    """Return the entries of a file, each with its location."""
    with faults_of(f"cannot read {path}: "):
        return [(f"{path}, {number}", entry) for number, entry in read_records(path)]


def _with_suffix(protocol: SelectionProtocol, files: Sequence[str]) -> tuple[Picture, ...]:
    """Return pictures of files, whose names lack the protocol's suffix."""
    return tuple(Picture(file + protocol.image_suffix) for file in files)


def _items(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read the layout for data sets of users.

    A record has an `image` and its `caption`. More right captions are in fields whose names begin
    with `positive`, wrong ones in `negative`, wrong images in `negative_image`. A `pair_id`, a
    `set_id` and a subset are optional.
    """
    for record in _read_records(path):
        right_captions = (record.text("caption"), *record.texts("positive"))
        wrong_captions = record.texts("negative", excluded_prefix="negative_image")
        wrong_images = record.texts("negative_image")
        if wrong_images and (wrong_captions or len(right_captions) > 1):
            raise UsageError(
                f"{record.location} has wrong images and more than one caption: make two items of "
                "it"
            )
        yield Item(
            pictures=_with_suffix(protocol, [record.text("image"), *wrong_images]),
            captions=(*right_captions, *wrong_captions),
            subset=record.optional(protocol.subset_key),
            location=record.location,
            n_right=len(right_captions),
            pair=record.identity("pair_id"),
            set=record.identity("set_id"),
        )


# The ends of the names of fields in Winoground's examples.jsonl, in ColorSwap's test.json, and in
# EqBen's file.
_PAIR_ENDS = (("_0", "_1"), ("_1", "_2"), ("0", "1"))


def _pairs(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `image_0`, `image_1`, `caption_0`, `caption_1`, or other numbers, and a subset."""
    for record in _read_records(path):
        ends = _PAIR_ENDS[0]
        for candidates in _PAIR_ENDS:
            if f"image{candidates[0]}" in record.fields:
                ends = candidates
                break
        images = [record.text(f"image{end}") for end in ends]
        captions = tuple(record.text(f"caption{end}") for end in ends)
        subset = record.optional(protocol.subset_key)
        yield Item(_with_suffix(protocol, images), captions, subset, record.location)


def _eqben(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read pairs. The subset of a pair is the first folder of its first image."""
    for item in _pairs(protocol, path):
        yield item._replace(subset=item.pictures[0].file.partition("/")[0])


def _sugarcrepe(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `filename`, `caption`, in SugarCrepe++ `caption2`, and `negative_caption`."""
    for subset, record in _read_subset_files(path):
        right_captions = [record.text("caption")]
        if "caption2" in record.fields:
            right_captions.append(record.text("caption2"))
        yield Item(
            pictures=_with_suffix(protocol, [record.text("filename")]),
            captions=(*right_captions, record.text("negative_caption")),
            subset=subset,
            location=record.location,
            n_right=len(right_captions),
        )


def _valse(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `image_file`, `caption` and `foil` of the valid items.

    An item is valid if two or more of its three annotators, in `mturk`, chose the caption and not
    the foil (README.md of VALSE).
    """
    for subset, record in _read_subset_files(path):
        votes = record.fields.get("mturk")
        if not isinstance(votes, dict):
            raise UsageError(f"{record.location} has no votes `mturk`")
        if _Record(votes, f"{record.location}, `mturk`").number("caption") < 2:
            continue
        captions = (record.text("caption"), record.text("foil"))
        yield Item((Picture(record.text("image_file")),), captions, subset, record.location)


_SVO_SUBSETS = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}


def _svo(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `sentence`, `pos_image_id` and `neg_image_id` of the rows of SVO-Probes.

    Only rows are taken whose wrong image differs in exactly one of `subj_neg`, `verb_neg` and
    `obj_neg`, as in probing_image_text_models.ipynb of the authors.
    """
    for record in _read_records(path):
        differing = []
        for flag, subset in _SVO_SUBSETS.items():
            value = record.text(flag)
            if value not in ("True", "False"):
                raise UsageError(
                    f"{record.location}: {', '.join(_SVO_SUBSETS)} must be True or False"
                )
            if value == "True":
                differing.append(subset)
        if len(differing) != 1:
            continue
        image_ids = [str(record.number("pos_image_id")), str(record.number("neg_image_id"))]
        pictures = _with_suffix(protocol, image_ids)
        yield Item(pictures, (record.text("sentence"),), differing[0], record.location)


_AXES = {
    "left": "side",
    "right": "side",
    "on": "height",
    "under": "height",
    "in-front": "depth",
    "behind": "depth",
}


def _whatsup(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `image_path` and `caption_options`, whose first caption is right.

    Files are named OBJECT_PREPOSITION_OBJECT.jpeg. Pairs and sets are made as in evaluate_scores of
    dataset_zoo/aro_datasets.py.
    """
    for record in _read_records(path):
        name = PurePosixPath(record.text("image_path"))
        first, *preposition, last = name.stem.split("_")
        axis = _AXES.get(preposition[0]) if preposition else None
        if axis is None:
            raise UsageError(
                f"{record.location}: {name.name} names no preposition: "
                "OBJECT_PREPOSITION_OBJECT is expected"
            )
        yield Item(
            pictures=(Picture(name.name),),
            captions=record.texts("caption_options"),
            subset="_".join(preposition),
            location=record.location,
            pair=f"{first} {last} {axis}",
            set=f"{first} {last}",
        )


def _coco_spatial(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read What'sUp's items on COCO, whose files are named by ids of 12 digits."""
    return _spatial(path, digits=12)


def _gqa_spatial(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read What'sUp's items on GQA, whose files are named by plain ids."""
    return _spatial(path, digits=0)


def _spatial(path: Path, digits: int) -> Iterator[Item]:
    """Read lists [image id, right caption, wrong caption].

    `path` is What'sUp's file about one object; the file about two objects lies beside it. Ids in
    names of images are filled up to `digits` with zeros.
    """
    for objects in ("one", "two"):
        file = path.with_name(path.name.replace("one", objects))
        for location, entry in _read_entries(file):
            if not isinstance(entry, list) or len(entry) < 3:
                raise UsageError(
                    f"{location} must list an image id and two captions, not {entry!r}"
                )
            record = _Record({"id": entry[0], "caption": entry[1], "wrong": entry[2]}, location)
            picture = Picture(f"{record.number('id'):0{digits}}.jpg")
            captions = (record.text("caption"), record.text("wrong"))
            yield Item((picture,), captions, f"{objects}_obj", location)


def _negbench(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `image_path`, `caption_0` to `caption_3`, and the number of the `correct_answer`.

    The folders in `image_path` depend on the user and are dropped. The subset is the kind of the
    answer, `correct_answer_template`.
    """
    for record in _read_records(path):
        captions = [record.text(f"caption_{number}") for number in range(4)]
        answer = record.number("correct_answer")
        if answer not in range(4):
            raise UsageError(f"{record.location}: `correct_answer` must be 0 to 3, not {answer}")
        right_caption = captions.pop(answer)
        picture = Picture(PurePosixPath(record.text("image_path")).name)
        subset = record.text("correct_answer_template")
        yield Item((picture,), (right_caption, *captions), subset, record.location)


def _mmvp(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read two rows per pair: `Question ID`, `Type`, `Statement`. Images are at TYPE/ID.jpg."""
    records = _read_records(path)
    if len(records) % 2:
        raise UsageError(f"{path} has {len(records)} rows: two are a pair, so one is missing")
    for first, second in zip(records[::2], records[1::2], strict=True):
        first_kind, second_kind = first.text("Type"), second.text("Type")
        first_id, second_id = first.number("Question ID"), second.number("Question ID")
        # Pairs are 1 and 2, 3 and 4, ...: evaluate_vlm.py relies on it to know the right image.
        if first_kind != second_kind or first_id % 2 == 0 or second_id != first_id + 1:
            raise UsageError(
                f"{first.location}: {first_id} ({first_kind}) and {second_id} ({second_kind}) are "
                "not a pair; rows of a pair follow each other, odd number first"
            )
        pictures = (
            Picture(f"{first_kind}/{first_id}.jpg"),
            Picture(f"{first_kind}/{second_id}.jpg"),
        )
        statements = (first.text("Statement"), second.text("Statement"))
        yield Item(pictures, statements, first_kind, first.location)


def _aro(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `image_path`, `bbox_x|y|w|h`, `true_caption` and `false_caption`.

    The subset is the `relation_name`, or the two `attributes` joined as in aro_datasets.py.
    """
    for record in _read_records(path):
        x, y = record.number("bbox_x"), record.number("bbox_y")
        width, height = record.number("bbox_w"), record.number("bbox_h")
        picture = Picture(record.text("image_path"), (x, y, x + width, y + height))
        captions = (record.text("true_caption"), record.text("false_caption"))
        subset_names = record.texts("relation_name") or record.texts("attributes")
        if not subset_names:
            raise UsageError(f"{record.location} has neither `relation_name` nor `attributes`")
        yield Item((picture,), captions, "_".join(subset_names), record.location)


_LAYOUTS: Mapping[str, Callable[[SelectionProtocol, Path], Iterator[Item]]] = {
    "items": _items,
    "pairs": _pairs,
    "sugarcrepe": _sugarcrepe,
    "mmvp": _mmvp,
    "aro": _aro,
    "svo": _svo,
    "valse": _valse,
    "whatsup": _whatsup,
    "coco-spatial": _coco_spatial,
    "gqa-spatial": _gqa_spatial,
    "negbench": _negbench,
    "eqben": _eqben,
}
