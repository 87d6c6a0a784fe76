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

    - One picture with captions: the correct captions come first.
    - One caption with pictures: the correct picture comes first.
    - Two pictures with two captions: the first caption belongs to the first picture.
    """

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    # The subset that the item belongs to, empty if the file has no subsets.
    subset: str
    # How error messages name the item: the file and the line or record.
    location: str
    # How many of the captions are correct.
    n_correct: int = 1
    # The name of the item's pair, empty if it has none. A pair is correct if all its items are.
    pair: str = ""
    # The name of a larger group of items, which counts in the same way.
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
        """Return an identifier of any type as text, or an empty text if it is missing."""
        value = self.fields.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        """Return a field that is a whole number, or the text of one such as "12".

        Raise UsageError for any other value.
        """
        value = self._field(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            try:
                return int(value)
            except ValueError:
                pass
        raise UsageError(f"{self.location}: `{name}` must be a whole number, not {value!r}")

    def texts(self, prefix: str, *, excluded_prefix: str | None = None) -> tuple[str, ...]:
        """Return the texts of all fields whose names begin with `prefix`.

        A field is a text or a list of texts. Skip empty cells of a table, and fields whose names
        begin with `excluded_prefix`.
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
    """Yield the subset and the record, for every record of every .json file in a folder.

    The subset is the name of the file without its suffix.
    """
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
    """Return the pictures of file names, to which the protocol's suffix is added."""
    return tuple(Picture(file + protocol.image_suffix) for file in files)


def _read_items(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read the layout for data sets of users.

    A record has an `image` and its `caption`. Fields whose names begin with `positive` hold more
    correct captions, `negative` wrong captions, and `negative_image` wrong images. A `pair_id`, a
    `set_id` and a subset are optional.
    """
    for record in _read_records(path):
        correct_captions = (record.text("caption"), *record.texts("positive"))
        wrong_captions = record.texts("negative", excluded_prefix="negative_image")
        wrong_images = record.texts("negative_image")
        if wrong_images and (wrong_captions or len(correct_captions) > 1):
            raise UsageError(
                f"{record.location} has wrong images and more than one caption: make two items of "
                "it"
            )
        yield Item(
            pictures=_with_suffix(protocol, [record.text("image"), *wrong_images]),
            captions=(*correct_captions, *wrong_captions),
            subset=record.optional(protocol.subset_key),
            location=record.location,
            n_correct=len(correct_captions),
            pair=record.identity("pair_id"),
            set=record.identity("set_id"),
        )


# The suffixes of the two fields `image` and the two fields `caption`: in Winoground's
# examples.jsonl, in ColorSwap's test.json, and in EqBen's file.
_PAIR_SUFFIXES = (("_0", "_1"), ("_1", "_2"), ("0", "1"))


def _read_pairs(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read two images, two captions and a subset, with the names of one of `_PAIR_SUFFIXES`.

    With the first suffixes, for example, the fields are `image_0`, `image_1`, `caption_0` and
    `caption_1`.
    """
    for record in _read_records(path):
        suffixes = _PAIR_SUFFIXES[0]
        for candidate_suffixes in _PAIR_SUFFIXES:
            if f"image{candidate_suffixes[0]}" in record.fields:
                suffixes = candidate_suffixes
                break
        images = [record.text(f"image{suffix}") for suffix in suffixes]
        captions = tuple(record.text(f"caption{suffix}") for suffix in suffixes)
        subset = record.optional(protocol.subset_key)
        yield Item(_with_suffix(protocol, images), captions, subset, record.location)


def _read_eqben(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read pairs. The subset of a pair is the first folder of its first image."""
    for item in _read_pairs(protocol, path):
        yield item._replace(subset=item.pictures[0].file.partition("/")[0])


def _read_sugarcrepe(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `filename`, `caption` and `negative_caption`.

    SugarCrepe++ has a second correct caption in `caption2`.
    """
    for subset, record in _read_subset_files(path):
        correct_captions = [record.text("caption")]
        if "caption2" in record.fields:
            correct_captions.append(record.text("caption2"))
        yield Item(
            pictures=_with_suffix(protocol, [record.text("filename")]),
            captions=(*correct_captions, record.text("negative_caption")),
            subset=subset,
            location=record.location,
            n_correct=len(correct_captions),
        )


def _read_valse(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
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


_SVO_SUBSET_BY_FLAG = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}


def _read_svo(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `sentence`, `pos_image_id` and `neg_image_id` of the rows of SVO-Probes.

    The flags `subj_neg`, `verb_neg` and `obj_neg` say in which words the wrong image differs from
    the sentence. Rows without exactly one true flag are skipped, as in
    probing_image_text_models.ipynb of the authors.
    """
    for record in _read_records(path):
        differing_subsets = []
        for flag, subset in _SVO_SUBSET_BY_FLAG.items():
            value = record.text(flag)
            if value not in ("True", "False"):
                raise UsageError(
                    f"{record.location}: {', '.join(_SVO_SUBSET_BY_FLAG)} must be True or False"
                )
            if value == "True":
                differing_subsets.append(subset)
        if len(differing_subsets) != 1:
            continue
        image_ids = [str(record.number("pos_image_id")), str(record.number("neg_image_id"))]
        pictures = _with_suffix(protocol, image_ids)
        yield Item(pictures, (record.text("sentence"),), differing_subsets[0], record.location)


_AXIS_BY_PREPOSITION = {
    "left": "side",
    "right": "side",
    "on": "height",
    "under": "height",
    "in-front": "depth",
    "behind": "depth",
}


def _read_whatsup(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `image_path` and `caption_options`, whose first caption is correct.

    Files are named OBJECT_PREPOSITION_OBJECT.jpeg, such as `mug_left_of_plate.jpeg`. All images of
    two objects are a set, and those on one axis, such as left and right, are a pair. It is the same
    in evaluate_scores of dataset_zoo/aro_datasets.py.
    """
    for record in _read_records(path):
        name = PurePosixPath(record.text("image_path"))
        first_object, *preposition, second_object = name.stem.split("_")
        axis = _AXIS_BY_PREPOSITION.get(preposition[0]) if preposition else None
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
            pair=f"{first_object} {second_object} {axis}",
            set=f"{first_object} {second_object}",
        )


def _read_coco_spatial(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read What'sUp's items on COCO, whose files are named by ids of 12 digits."""
    return _read_spatial(path, digits=12)


def _read_gqa_spatial(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read What'sUp's items on GQA, whose files are named by plain ids."""
    return _read_spatial(path, digits=0)


def _read_spatial(path: Path, digits: int) -> Iterator[Item]:
    """Read lists [image id, correct caption, wrong caption] of What'sUp.

    `path` is the file about one object, with `one` in its name. The file about two objects lies
    beside it, with `two` in its place. In the names of images, ids are padded with zeros to at
    least `digits` digits.
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


def _read_negbench(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read `image_path`, four captions `caption_0` to `caption_3`, and `correct_answer`: 0 to 3.

    The folders in `image_path` depend on the user and are dropped. The subset is the kind of the
    answer, `correct_answer_template`.
    """
    for record in _read_records(path):
        captions = [record.text(f"caption_{number}") for number in range(4)]
        answer = record.number("correct_answer")
        if answer not in range(4):
            raise UsageError(f"{record.location}: `correct_answer` must be 0 to 3, not {answer}")
        correct_caption = captions.pop(answer)
        picture = Picture(PurePosixPath(record.text("image_path")).name)
        subset = record.text("correct_answer_template")
        yield Item((picture,), (correct_caption, *captions), subset, record.location)


def _read_mmvp(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Read two rows per pair: `Question ID`, `Type`, `Statement`. Images are at TYPE/ID.jpg."""
    records = _read_records(path)
    if len(records) % 2:
        raise UsageError(f"{path} has {len(records)} rows: two are a pair, so one is missing")
    for first, second in zip(records[::2], records[1::2], strict=True):
        first_kind, second_kind = first.text("Type"), second.text("Type")
        first_id, second_id = first.number("Question ID"), second.number("Question ID")
        # Pairs are 1 and 2, 3 and 4, ...: evaluate_vlm.py finds the correct image by this rule.
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


def _read_aro(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
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
    "items": _read_items,
    "pairs": _read_pairs,
    "sugarcrepe": _read_sugarcrepe,
    "mmvp": _read_mmvp,
    "aro": _read_aro,
    "svo": _read_svo,
    "valse": _read_valse,
    "whatsup": _read_whatsup,
    "coco-spatial": _read_coco_spatial,
    "gqa-spatial": _read_gqa_spatial,
    "negbench": _read_negbench,
    "eqben": _read_eqben,
}
