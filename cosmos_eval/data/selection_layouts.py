"""The forms of caption selection files (docs/caption-selection.md), each read into items.

Imports no torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from cosmos_eval.data.asked_objects import (
    DOMINANT,
    SMALL,
    AskedObject,
    read_asked_object,
    states_objects,
)
from cosmos_eval.data.coco_objects import read_questions
from cosmos_eval.data.pascal50s import read_pairs
from cosmos_eval.data.readers import parse_list, read_records, report_faults_at
from cosmos_eval.data.regions import intersection_over_union
from cosmos_eval.types import SelectionProtocol, UsageError

Chosen = Literal["captions", "images", "both"]
"""The kind of choice in an item: among captions, among images, or among both."""


class Picture(NamedTuple):
    """An image file, or a box of it."""

    # The path below the folder of images.
    file: str
    # (left, top, right, bottom) in pixels; None: the whole image.
    box: tuple[float, float, float, float] | None = None


class Item(NamedTuple):
    """A question of the data set, in one of three forms.

    - One picture with captions: the correct captions come first.
    - One caption with pictures: the correct pictures come first.
    - Two pictures with two captions: the first caption belongs to the first picture.
    """

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    # The subset that the item belongs to, empty if the file has no subsets.
    subset: str
    # How error messages name the item: the file and the line or record.
    location: str
    # How many of the captions, or of the pictures, are correct.
    n_correct: int = 1
    # The name of the item's pair, empty if it has none. A pair is correct if all its items are.
    pair: str = ""
    # The name of a larger group of items, which counts in the same way.
    set: str = ""
    # The object of the image that the item asks about.
    asked: AskedObject = AskedObject()

    @property
    def chosen(self) -> Chosen:
        """The kind of choice: captions for an image, an image for a caption, or both."""
        if len(self.pictures) == 1:
            return "captions"
        if len(self.captions) == 1:
            return "images"
        return "both"


def read_items(protocol: SelectionProtocol, path: Path) -> list[Item]:
    """Return the items in a file, or in a folder of files.

    Args:
        protocol: Its `layout` names the form of the file, such as `sugarcrepe`.
        path: The path of the file or folder.

    Raises:
        UsageError: If a file is broken.
    """
    read_layout = _LAYOUTS[protocol.layout]
    return list(read_layout(protocol, path))


class _Record(NamedTuple):
    """A record of a JSON file or a row of a table, whose fields are checked when they are read."""

    # The values of the record by their keys.
    fields: Mapping[str, Any]
    # The file and the line or number of the record, for error messages.
    location: str

    def text(self, name: str) -> str:
        """Return the text of a field. Raise UsageError if it is missing or blank."""
        return self._require_text(self._field(name), name)

    def optional_text(self, name: str) -> str:
        """Return the text of a field, or an empty text if the record does not have the field.

        Raise UsageError if it is blank or not text.
        """
        return self.text(name) if name in self.fields else ""

    def identifier(self, name: str) -> str:
        """Return the value of a field as text, or an empty text if it is missing or null.

        The value may have any type, such as a number, because it is only compared with others.
        """
        value = self.fields.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        """Return a field as an integer, if it is a whole number or its text such as "12".

        Raise UsageError for any other value, also for true and false.
        """
        value = self._field(name)
        is_text_or_int = isinstance(value, str | int) and not isinstance(value, bool)
        if is_text_or_int:
            with suppress(ValueError):
                return int(value)
        raise UsageError(f"{self.location}: `{name}` must be a whole number, not {value!r}")

    def box(self, name: str) -> tuple[float, float, float, float]:
        """Return a box (left, top, width, height) in pixels by its edges.

        Raise UsageError unless the field lists four numbers, and if the box has no area.

        Example:
            The field `[10, 20, 5, 5]` gives (10.0, 20.0, 15.0, 25.0).
        """
        values = self._field(name)
        are_numbers = isinstance(values, list) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            for value in values
        )
        if not are_numbers or len(values) != 4 or min(values[2:]) <= 0:
            raise UsageError(
                f"{self.location}: `{name}` must be left, top, width and height in pixels, not "
                f"{values!r}"
            )
        left, top, width, height = map(float, values)
        return left, top, left + width, top + height

    def records(self, name: str) -> list["_Record"]:
        """Return the records that a field lists. Raise UsageError if it lists anything else."""
        values = self._field(name)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise UsageError(f"{self.location}: `{name}` must list records, not {values!r}")
        return [_Record(value, f"{self.location}, `{name}`") for value in values]

    def texts(self, prefix: str, *, excluded_prefix: str | None = None) -> tuple[str, ...]:
        """Return the texts of all fields whose names begin with a prefix.

        Empty values are skipped.

        Args:
            prefix: The beginning of the names of the fields.
            excluded_prefix: Fields whose names begin with this are skipped.

        Raises:
            UsageError: If a value is neither a text nor a list of texts.

        Example:
            The fields `{"negative": "A cat", "negative_2": ["A cow", "A pig"]}` give
            `("A cat", "A cow", "A pig")` for the prefix `negative`.
        """
        texts: list[str] = []
        for name, value in self.fields.items():
            is_empty = value in ("", None)
            if is_empty or not str(name).startswith(prefix):
                continue
            if excluded_prefix is not None and str(name).startswith(excluded_prefix):
                continue
            values = value if isinstance(value, list) else [value]
            for text in values:
                texts.append(self._require_text(text, name))
        return tuple(texts)

    def _field(self, name: str) -> Any:
        """Return the value of a field. Raise UsageError if it is missing."""
        if name not in self.fields:
            names = ", ".join(map(str, self.fields))
            raise UsageError(f"{self.location} has no `{name}`, only {names}")
        return self.fields[name]

    def _require_text(self, value: Any, name: str) -> str:
        """Return the value of the field `name`. Raise UsageError if it is blank or not text."""
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{self.location}: `{name}` must be text, not {value!r}")
        return value


def _read_records(path: Path) -> list[_Record]:
    """Return the records of a file. Raise UsageError for an entry that is not a record."""
    records = []
    for location, entry in _read_entries(path):
        if not isinstance(entry, dict):
            raise UsageError(f"{location} must hold names and values, not {entry!r}")
        records.append(_Record(entry, location))
    return records


def _read_subset_files(path: Path) -> Iterator[tuple[str, _Record]]:
    """Yield the subset and the record, for every record of every .json file in a folder.

    The subset is the name of the file without its suffix: `swap_obj` for `swap_obj.json`.

    Args:
        path: The path of the folder.

    Raises:
        UsageError: If the folder has no such file.
    """
    files = sorted(path.glob("*.json"))
    if not files:
        raise UsageError(f"{path} must be a folder with a .json file per subset")
    for file in files:
        for record in _read_records(file):
            yield file.stem, record


def _read_entries(path: Path) -> list[tuple[str, Any]]:
    """Return the location and the value of every entry of a table or a JSON file.

    Raise UsageError if the file cannot be read.

    Example:
        `[("items.csv, line 2", {"image": "1.jpg", "caption": "A dog"}), ...]`
    """
    entries = []
    with report_faults_at(f"cannot read {path}: "):
        for place, entry in read_records(path):
            entries.append((f"{path}, {place}", entry))
    return entries


def _make_pictures(protocol: SelectionProtocol, names: Sequence[str]) -> tuple[Picture, ...]:
    """Return the pictures of images, whose names lack the suffix that the protocol states."""
    return tuple(Picture(name + protocol.image_suffix) for name in names)


def _read_items(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of a user's data set.

    A record has an `image` and its `caption`. Fields whose names begin with `positive` hold more
    correct captions, `negative` wrong captions, and `negative_image` wrong images. A `pair_id`, a
    `set_id`, a subset and the fields of `asked_objects` are optional.

    Example:
        `{"image": "1.jpg", "caption": "A dog", "negative": "A cat"}` is an image with a correct and
        a wrong caption.
    """
    records = _read_records(path)
    objects = _read_asked_objects(records)
    for record, asked_object in zip(records, objects, strict=True):
        correct_captions = (record.text("caption"), *record.texts("positive"))
        wrong_captions = record.texts("negative", excluded_prefix="negative_image")
        wrong_images = record.texts("negative_image")
        if wrong_images and (wrong_captions or len(correct_captions) > 1):
            raise UsageError(
                f"{record.location} has wrong images and more than one caption: make two items of "
                "it"
            )

        yield Item(
            pictures=_make_pictures(protocol, [record.text("image"), *wrong_images]),
            captions=(*correct_captions, *wrong_captions),
            subset=record.optional_text(protocol.subset_key),
            location=record.location,
            n_correct=len(correct_captions),
            pair=record.identifier("pair_id"),
            set=record.identifier("set_id"),
            asked=asked_object,
        )


def _read_asked_objects(records: Sequence[_Record]) -> list[AskedObject]:
    """Return the object that each record of a data set asks about.

    It is unknown for all records if none of them states it. Raise UsageError for a wrong value.
    """
    if not states_objects([record.fields for record in records]):
        return [AskedObject()] * len(records)
    return [read_asked_object(record.fields, record.location) for record in records]


# The names of the two images, and of their captions, in Winoground, ColorSwap, EqBen and BiVLC.
_PAIR_FIELDS = (
    (("image_0", "image_1"), ("caption_0", "caption_1")),
    (("image_1", "image_2"), ("caption_1", "caption_2")),
    (("image0", "image1"), ("caption0", "caption1")),
    (("image", "negative_image"), ("caption", "negative_caption")),
)


def _read_pairs(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield items of two images and two captions. The first caption belongs to the first image.

    The fields have the names of one of `_PAIR_FIELDS`, such as `image_0`, `image_1`, `caption_0`
    and `caption_1`. A subset is optional.
    """
    for record in _read_records(path):
        # Find the names of the fields. If none fit, an error names the field `image_0`.
        image_fields, caption_fields = _PAIR_FIELDS[0]
        for possible_image_fields, possible_caption_fields in _PAIR_FIELDS:
            if possible_image_fields[0] in record.fields:
                image_fields, caption_fields = possible_image_fields, possible_caption_fields
                break
        images = [record.text(field) for field in image_fields]
        captions = tuple(record.text(field) for field in caption_fields)
        subset = record.optional_text(protocol.subset_key)
        yield Item(_make_pictures(protocol, images), captions, subset, record.location)


def _read_eqben(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the pairs of EqBen, whose subset is the first folder of their first image.

    The subset of `eqbenag/1/2.npy` is `eqbenag`.
    """
    for item in _read_pairs(protocol, path):
        first_folder = item.pictures[0].file.partition("/")[0]
        yield item._replace(subset=first_folder)


def _read_sugarcrepe(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of SugarCrepe: an image with a correct and a wrong caption.

    The fields are `filename`, `caption` and `negative_caption`, which may be a list of wrong
    captions. SugarCrepe++ has a second correct caption in `caption2`. The fields of `asked_objects`
    are optional.
    """
    subset_records = list(_read_subset_files(path))
    objects = _read_asked_objects([record for _, record in subset_records])
    for (subset, record), asked_object in zip(subset_records, objects, strict=True):
        correct_captions = [record.text("caption")]
        if "caption2" in record.fields:
            correct_captions.append(record.text("caption2"))
        if isinstance(record.fields.get("negative_caption"), list):
            wrong_captions = record.texts("negative_caption")
        else:
            wrong_captions = (record.text("negative_caption"),)
        yield Item(
            pictures=_make_pictures(protocol, [record.text("filename")]),
            captions=(*correct_captions, *wrong_captions),
            subset=subset,
            location=record.location,
            n_correct=len(correct_captions),
            asked=asked_object,
        )


# An item of VALSE is valid if so many of its three annotators chose the caption and not the foil
# (README.md of VALSE).
_VALSE_LEAST_VOTES = 2


def _read_valse(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the valid items of VALSE: an image with a correct and a wrong caption.

    The wrong caption is called the foil. Three annotators of an item chose the caption, the foil or
    neither, and `mturk` counts their votes. Items with fewer than two votes for the caption are not
    valid, and are skipped.

    Example:
        `{"image_file": "a.jpg", "caption": "A red ball", "foil": "A green ball", "mturk":
        {"caption": 2, "foil": 1, "other": 0}}` is a valid item.
    """
    for subset, record in _read_subset_files(path):
        votes = record.fields.get("mturk")
        if not isinstance(votes, dict):
            raise UsageError(f"{record.location} has no votes `mturk`")
        vote_record = _Record(votes, f"{record.location}, `mturk`")
        is_valid = vote_record.number("caption") >= _VALSE_LEAST_VOTES
        if not is_valid:
            continue
        picture = Picture(record.text("image_file"))
        captions = (record.text("caption"), record.text("foil"))
        yield Item((picture,), captions, subset, record.location)


_SVO_SUBSET_BY_FLAG = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}


def _read_svo(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of SVO-Probes: a sentence with a correct and a wrong image.

    The fields are `sentence`, `pos_image_id` and `neg_image_id`. The flags `subj_neg`, `verb_neg`
    and `obj_neg` say whether the wrong image differs from the sentence in the subject, the verb or
    the object, which is the subset. Rows without exactly one true flag are skipped, as in
    probing_image_text_models.ipynb of the authors.
    """
    for record in _read_records(path):
        subsets = []
        for flag, subset in _SVO_SUBSET_BY_FLAG.items():
            value = record.text(flag)
            if value not in ("True", "False"):
                raise UsageError(
                    f"{record.location}: {', '.join(_SVO_SUBSET_BY_FLAG)} must be True or False"
                )
            if value == "True":
                subsets.append(subset)
        if len(subsets) != 1:
            continue

        image_ids = [str(record.number("pos_image_id")), str(record.number("neg_image_id"))]
        pictures = _make_pictures(protocol, image_ids)
        yield Item(pictures, (record.text("sentence"),), subsets[0], record.location)


_AXIS_BY_PREPOSITION = {
    "left": "side",
    "right": "side",
    "on": "height",
    "under": "height",
    "in-front": "depth",
    "behind": "depth",
}


def _read_whatsup(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of What'sUp: an image with captions that differ in a preposition.

    The fields are `image_path` and `caption_options`, whose first caption is correct. Files are
    named OBJECT_PREPOSITION_OBJECT.jpeg. The subset of an item is its preposition, its set has all
    images of the same objects, and its pair has the images that differ along one axis, such as left
    and right. It is the same in evaluate_scores of dataset_zoo/aro_datasets.py.

    Example:
        `mug_left_of_plate.jpeg` has the subset `left_of`, the set `mug plate` and the pair
        `mug plate side`.
    """
    for record in _read_records(path):
        name = PurePosixPath(record.text("image_path"))
        # "mug_left_of_plate" becomes "mug", ["left", "of"] and "plate".
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
    """Yield What'sUp's items on COCO, whose files are named by 12 digits: `000000000139.jpg`."""
    return _read_spatial(path, n_digits=12)


def _read_gqa_spatial(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield What'sUp's items on GQA, whose files are named by plain numbers: `139.jpg`."""
    return _read_spatial(path, n_digits=0)


def _read_spatial(path: Path, n_digits: int) -> Iterator[Item]:
    """Yield items of What'sUp on COCO or GQA: an image with a correct and a wrong caption.

    An entry is a list `[139, CORRECT CAPTION, WRONG CAPTION]` with the id of the image.

    Args:
        path: The file about one object, such as `coco_qa_one_obj.json`. The file about two objects
            lies beside it and has `two` in its name.
        n_digits: The file name of an image is its id, padded with zeros to so many digits.
    """
    for objects in ("one", "two"):
        file = path.with_name(path.name.replace("one", objects))
        for location, entry in _read_entries(file):
            if not isinstance(entry, list) or len(entry) < 3:
                raise UsageError(
                    f"{location} must list an image id and two captions, not {entry!r}"
                )
            record = _Record({"id": entry[0], "caption": entry[1], "wrong": entry[2]}, location)
            image_id = str(record.number("id")).zfill(n_digits)
            picture = Picture(f"{image_id}.jpg")
            captions = (record.text("caption"), record.text("wrong"))
            yield Item((picture,), captions, f"{objects}_obj", location)


def _read_negbench(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of NegBench: an image with four captions, one of which is correct.

    The captions are `caption_0` to `caption_3`, and `correct_answer` is the number of the correct
    one. The folders in `image_path` exist only for the authors and are dropped. The subset is the
    kind of the answer, `correct_answer_template`.
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


def _read_coco_objects(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield items built from COCO's instances: the kind of an object, and a kind that is absent.

    Raise UsageError if no item is about a dominant object, or none about a small one.
    """
    with report_faults_at(f"{path}: "):
        questions = read_questions(path)
    for role in (DOMINANT, SMALL):
        if not any(question.asked.role == role for question in questions):
            raise UsageError(
                f"{path}: gives no question about {role} objects: at least two images must have "
                f"{role} objects of different kinds, each absent from the other image"
            )
    for number, question in enumerate(questions):
        yield Item(
            pictures=(Picture(question.file_name),),
            captions=(question.kind, question.absent_kind),
            subset="",
            location=f"{path}, question {number}",
            asked=question.asked,
        )


def _read_cvqa(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the questions of CVQA in the language of the place that their image is from."""
    return _read_questions_of_cvqa(protocol, path, prefix="")


def _read_cvqa_english(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the questions of CVQA in English."""
    return _read_questions_of_cvqa(protocol, path, prefix="Translated ")


def _read_questions_of_cvqa(protocol: SelectionProtocol, path: Path, prefix: str) -> Iterator[Item]:
    """Yield the questions of CVQA. Each has an image and four options, one of which is correct.

    A caption is the question and an option: `What is this? A boat`. A record has the columns of the
    hub's file: `Question`, `Options`, which is a list or its text, and `Label`, the number of the
    correct option. The image is the file `image`, or without this column the one named by `ID`.

    Args:
        protocol: The suffix of the images, and the key of the subset: a language and a country.
        path: The path of the file.
        prefix: The beginning of the names of the columns of the question and the options.

    Raises:
        UsageError: For labels that are not the number of an option. The public file has -1 for all.
    """
    for record in _read_records(path):
        question = record.text(f"{prefix}Question").strip()
        with report_faults_at(f"{record.location}, `{prefix}Options`: "):
            options = parse_list(record.fields.get(f"{prefix}Options"))
        if not isinstance(options, list) or len(options) < 2:
            raise UsageError(f"{record.location}: `{prefix}Options` must list texts")
        label = record.number("Label")
        if label not in range(len(options)):
            raise UsageError(
                f"{record.location}: `Label` is {label}, not the number of an option; the public "
                "file withholds labels (-1): ask the authors for them (cvqa-benchmark.org)"
            )
        captions = [f"{question} {str(option).strip()}" for option in options]
        correct_caption = captions.pop(label)
        if "image" in record.fields:
            picture = Picture(record.text("image"))
        else:
            picture = Picture(record.text("ID") + protocol.image_suffix)
        yield Item(
            pictures=(picture,),
            captions=(correct_caption, *captions),
            subset=record.optional_text(protocol.subset_key),
            location=record.location,
        )


def _read_pascal50s(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the pairs of Pascal-50S, whose subsets are the kinds of pairs such as `HC`."""
    for number, pair in enumerate(read_pairs(path)):
        location = f"{path}, pair {number}"
        yield Item((Picture(pair.image),), pair.captions, pair.category, location)


def _read_mmvp(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the pairs of MMVP-VLM: two images and two statements, from two rows of the table.

    The columns are `Question ID`, `Type` and `Statement`. The first two name the image:
    `TYPE/ID.jpg`. The subset is the type.
    """
    records = _read_records(path)
    if len(records) % 2 == 1:
        raise UsageError(f"{path} has {len(records)} rows: two are a pair, so one is missing")

    # Rows 0 and 1 are the first pair, rows 2 and 3 are the second pair, and so on.
    first_records, second_records = records[::2], records[1::2]
    for first, second in zip(first_records, second_records, strict=True):
        first_kind, second_kind = first.text("Type"), second.text("Type")
        first_id, second_id = first.number("Question ID"), second.number("Question ID")
        # The ids of pairs are 1 and 2, 3 and 4, ...: evaluate_vlm.py finds the correct image by
        # this rule.
        are_ids_of_pair = first_id % 2 == 1 and second_id == first_id + 1
        if first_kind != second_kind or not are_ids_of_pair:
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
    """Yield the items of ARO: a box of an image with a correct and a wrong caption.

    The fields are `image_path`, the box `bbox_x`, `bbox_y`, `bbox_w` and `bbox_h` in pixels, and
    `true_caption` and `false_caption`. The subset is the `relation_name`, or the two `attributes`
    joined as in aro_datasets.py: `brown_white`.
    """
    for record in _read_records(path):
        left, top = record.number("bbox_x"), record.number("bbox_y")
        width, height = record.number("bbox_w"), record.number("bbox_h")
        box = (left, top, left + width, top + height)
        picture = Picture(record.text("image_path"), box)
        captions = (record.text("true_caption"), record.text("false_caption"))
        subset_names = record.texts("relation_name") or record.texts("attributes")
        if not subset_names:
            raise UsageError(f"{record.location} has neither `relation_name` nor `attributes`")
        yield Item((picture,), captions, "_".join(subset_names), record.location)


def _read_aro_order(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of ARO's orders of words: an image with captions in different orders.

    The fields are named as in the hub's files: `images`, which is one image, `correct_caption` and
    `hard_text_1` to `hard_text_4`, its words in other orders. An order that is drawn at random may
    repeat the correct caption. Such orders are left out, unless all four are: MIEB and ARO choose
    the first of the captions with the highest score, which is the correct one.
    """
    for record in _read_records(path):
        correct_caption = record.text("correct_caption")
        orders = [record.text(f"hard_text_{number}") for number in range(1, 5)]
        wrong_captions = [order for order in orders if order != correct_caption]
        picture = Picture(record.text("images"))
        captions = (correct_caption, *(wrong_captions or orders))
        yield Item((picture,), captions, "", record.location)


_FG_OVD_SUBSETS = {
    "1_attributes": "hard",
    "2_attributes": "medium",
    "3_attributes": "easy",
    "shuffle_negatives": "trivial",
}


def _read_fg_ovd(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of FG-OVD: a box of an image with a correct and up to ten wrong captions.

    The files of a folder are `.jsonl`. Their fields are `img_path`, the box `bbox` (left, top,
    width, height), `pos_expression` and `neg_expression`, and `test_type`, the subset. Captions
    are in small letters, as FG-CLIP encodes them.
    """
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise UsageError(f"{path} must be a folder with a .jsonl file per subset")
    for file in files:
        for record in _read_records(file):
            test_type = record.text("test_type")
            if test_type not in _FG_OVD_SUBSETS:
                raise UsageError(
                    f"{record.location}: `test_type` {test_type!r} is none of "
                    f"{', '.join(_FG_OVD_SUBSETS)}"
                )
            captions = (*record.texts("pos_expression"), *record.texts("neg_expression"))
            yield Item(
                pictures=(Picture(record.text("img_path"), record.box("bbox")),),
                captions=tuple(caption.lower() for caption in captions),
                subset=_FG_OVD_SUBSETS[test_type],
                location=record.location,
            )


def _read_refcoco(protocol: SelectionProtocol, path: Path) -> Iterator[Item]:
    """Yield the items of RefCOCO, RefCOCO+ or RefCOCOg: an expression with boxes of an image.

    A file for each split, such as `refcoco_testA.jsonl` for the data set `refcoco`, has a record
    for each object: the `file_name` of the image, its boxes `anns`, the `ann_id` of the object's
    box, and `sentences`, the expressions. The subset is the split. Expressions are in small
    letters. A box is correct if its intersection over union with the object's box is above 0.5. An
    object without a wrong box leaves no choice, and is left out.
    """
    prefix = f"{protocol.dataset}_"
    files = sorted(path.glob(f"{prefix}*.jsonl"))
    if not files:
        raise UsageError(f"{path} must be a folder with a file {prefix}SPLIT.jsonl per split")
    for file in files:
        for record in _read_records(file):
            correct_pictures, wrong_pictures = _read_candidates(record)
            if not wrong_pictures:
                continue
            for sentence in record.records("sentences"):
                yield Item(
                    pictures=(*correct_pictures, *wrong_pictures),
                    captions=(sentence.text("raw").lower(),),
                    subset=file.stem.removeprefix(prefix),
                    location=record.location,
                    n_correct=len(correct_pictures),
                )


def _read_candidates(record: _Record) -> tuple[list[Picture], list[Picture]]:
    """Return the distinct correct and wrong boxes of a record of RefCOCO, the object's box first.

    Names of images end with the number of the object, which is dropped: `..._581857_16.jpg` is the
    file `..._581857.jpg`. Raise UsageError if no box has the id of the object.
    """
    name = PurePosixPath(record.text("file_name"))
    if name.stem.count("_") > 2:  # COCO_train2014_000000581857_16
        name = name.with_stem(name.stem.rpartition("_")[0])
    object_id = record.number("ann_id")
    boxes = {}
    for annotation in record.records("anns"):
        boxes[annotation.number("id")] = annotation.box("bbox")
    if object_id not in boxes:
        raise UsageError(f"{record.location}: no entry of `anns` has the id {object_id}")
    object_box = boxes[object_id]
    correct_pictures: list[Picture] = []
    wrong_pictures: list[Picture] = []
    for box in dict.fromkeys([object_box, *boxes.values()]):
        picture = Picture(name.name, box)
        if intersection_over_union(box, object_box) > 0.5:
            correct_pictures.append(picture)
        else:
            wrong_pictures.append(picture)
    return correct_pictures, wrong_pictures


# The readers of files by the name of the layout in a protocol.
_LAYOUTS: Mapping[str, Callable[[SelectionProtocol, Path], Iterator[Item]]] = {
    "items": _read_items,
    "pairs": _read_pairs,
    "sugarcrepe": _read_sugarcrepe,
    "mmvp": _read_mmvp,
    "aro": _read_aro,
    "aro-order": _read_aro_order,
    "svo": _read_svo,
    "valse": _read_valse,
    "whatsup": _read_whatsup,
    "coco-spatial": _read_coco_spatial,
    "gqa-spatial": _read_gqa_spatial,
    "negbench": _read_negbench,
    "eqben": _read_eqben,
    "coco-objects": _read_coco_objects,
    "cvqa": _read_cvqa,
    "cvqa-english": _read_cvqa_english,
    "pascal-50s": _read_pascal50s,
    "fg-ovd": _read_fg_ovd,
    "refcoco": _read_refcoco,
}
