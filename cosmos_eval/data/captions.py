"""Images with their captions, in every form of docs/data.md. Imports no torch."""

import csv
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pydantic

from cosmos_core.utils.text import split_sentences
from cosmos_eval.data import readers, sources
from cosmos_eval.data.folders import as_tuple
from cosmos_eval.data.readers import FileError, faults_of, parse
from cosmos_eval.types import RetrievalProtocol, UsageError

# Usual keys of records and columns of tables. They are used by the lists of BLIP
# (github.com/salesforce/BLIP), by open_clip_train/params.py of github.com/mlfoundations/open_clip,
# by datasets/IIW-400/data.jsonl of github.com/google/imageinwords, and by LLaVA's conversations.
_IMAGE_KEYS = ("image", "filepath", "image/key")
_CAPTION_KEYS = ("caption", "captions", "title", "conversations")


class CaptionedImage(NamedTuple):
    """An image by its name, and its captions."""

    name: str
    captions: tuple[str, ...]
    path: str = ""  # the path of the image, if it differs from the name


def read_captions(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read captioned images from a file, or from the `parts` of the protocol in a folder.

    The suffix and the content of a file tell its form. Raise UsageError for any fault.
    """
    list_paths = [path / name for name in protocol.parts] or [path]
    listed_images: list[CaptionedImage] = []
    for list_path in list_paths:
        listed_images.extend(_read_list(list_path, protocol))
    images = [_with_image_path(image, protocol) for image in listed_images[: protocol.first]]
    if repeated := readers.first_repeated(image.name for image in images):
        raise UsageError(f"{path}: image {repeated[0]} is listed twice")
    return images


def _with_image_path(image: CaptionedImage, protocol: RetrievalProtocol) -> CaptionedImage:
    """Return the image with the protocol's suffix at the end of its name.

    With `bare_names`, the name is the last part of the path: `a/b` becomes `b.jpg`.
    """
    name = image.name.removesuffix(protocol.image_suffix) + protocol.image_suffix
    if protocol.bare_names:
        return CaptionedImage(PurePosixPath(name).name, image.captions, path=name)
    return CaptionedImage(name, image.captions)


def _read_list(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read one file of captions, or a folder of text files. Raise UsageError for any fault."""
    read = _read_texts if path.is_dir() else _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(
            f"{path} has no known form of captions: {', '.join(_READERS)}; "
            "tar archives are named by `archives`"
        )
    try:
        captioned_images = read(path, protocol)
    except FileError as error:
        comma = "," if str(error).startswith("line ") else ""
        raise UsageError(f"{path}{comma} {error}") from error
    if not captioned_images:
        raise UsageError(f"{path} lists no images")
    return captioned_images


def measured_captions(image: CaptionedImage, protocol: RetrievalProtocol) -> tuple[str, ...]:
    """Return the captions of an image that a protocol measures.

    `protocol.sentences` says how captions are split: not at all (None), into sentences that are a
    caption each ("each"), or into sentences that are joined with ". " again ("joined"). Raise
    UsageError for a caption that has no sentence.
    """
    captions = image.captions[: protocol.captions_per_image]
    if protocol.sentences is None:
        return captions
    measured: list[str] = []
    for caption in captions:
        sentences = split_sentences(caption)
        if not sentences:
            raise UsageError(f"image {image.name}: a caption without a sentence")
        if protocol.sentences == "each":
            measured.extend(sentences)
        else:
            measured.append(". ".join(sentences))  # as the dataloaders of LoTLIP and FLAIR do
    return tuple(measured)


def _read_texts(folder: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read a folder of text files: each holds the captions of the image with the same name.

    Every line is a caption.
    """
    paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    if paths and not protocol.image_suffix:
        raise FileError("holds texts: name the suffix of the images by `image_suffix`")
    images = []
    for path in paths:
        captions = [line for _, line in readers.lines(readers.read_text(path))]
        images.append(CaptionedImage(path.stem, _checked_captions(captions, str(path))))
    return images


def _read_json(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read captioned images from a JSON file.

    It has one of four forms: the lists of the Densely Captioned Images, Karpathy's splits, COCO's
    annotations, or a list of records. Raise FileError for any other form.
    """
    try:
        content = readers.read_json(path)
    except FileError as error:
        raise FileError(f"{error}; one record per line is .jsonl") from error
    if isinstance(content, dict) and content.keys() == {"train", "valid", "test"}:
        return _read_dense_captions(content, path)
    if isinstance(content, dict) and "images" not in content:
        # FLAIR's files hold the list of records in `annotations`.
        content = content.get("annotations", content)
    if isinstance(content, list):
        records = [(f"record {index}", record) for index, record in enumerate(content)]
        return _parse_records(records, path, protocol)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise FileError(
            "has none of the known forms: COCO's {images, annotations}, Karpathy's {images: "
            "[{filename, split, sentences}]}, or a list of {image, caption}"
        )
    if not content["images"]:
        return []
    if _is_karpathy(content):
        return _parse_karpathy(content, path, protocol.split)
    return _parse_coco(content, path)


def _is_karpathy(content: Mapping[str, Any]) -> bool:
    """Return whether the images of a file hold their captions, as in Karpathy's splits."""
    first_image = content["images"][0]
    has_sentences = isinstance(first_image, dict) and "sentences" in first_image
    return has_sentences and "annotations" not in content


def _read_records(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read the records of a table or of a file of JSON lines."""
    return _parse_records(readers.read_records(path), path, protocol)


def _parse_records(
    records: Iterable[tuple[str, Any]], path: Path, protocol: RetrievalProtocol
) -> list[CaptionedImage]:
    """Return the captioned images of records {image: path, caption: text or texts}.

    `records` are pairs of a location in the file, such as `line 3`, and a record.
    """
    images = []
    split_counts: Counter[str] = Counter()
    for place, record in records:
        location = f"{path}, {place}"
        if not isinstance(record, Mapping):
            raise UsageError(f"{location}: must be a record with an image and its captions")
        if protocol.split_key is not None:
            split = str(_stated_field(record, protocol.split_key, location))
            split_counts[split] += 1
            if split != protocol.split:
                continue
        name = _image_field(record, protocol, location)
        captions = _record_captions(record, protocol, location)
        images.append(CaptionedImage(name, captions))
    if split_counts and not images:
        raise _missing_split_error(protocol.split, split_counts)
    return _merge_by_name(images)


def _record_captions(
    record: Mapping[str, Any], protocol: RetrievalProtocol, location: str
) -> tuple[str, ...]:
    """Return the captions of a record. Raise UsageError if they are not text."""
    captions = _caption_field(record, protocol, location)
    if "conversations" in record and captions is record["conversations"]:
        captions = _reply(captions, location, protocol)
    if protocol.listed_captions:
        with faults_of(f"{location}: captions "):
            captions = readers.parse_list(captions)
    return _checked_captions(captions, location)


def _missing_split_error(split: str, split_counts: Counter[str]) -> FileError:
    """Return the error for a file without images of a split, which lists its splits."""
    splits = ", ".join(f"{name} ({count})" for name, count in split_counts.items())
    return FileError(f"has no images of split {split!r}, only of {splits}: set `split`")


def _reply(turns: Any, location: str, protocol: RetrievalProtocol) -> str:
    """Return the caption in a conversation: the reply, which is its second turn.

    Its lines are joined with spaces, as in train/sharegpt4v.py of
    github.com/beichenzbc/Long-CLIP. They are kept if the protocol splits captions into sentences.
    """
    turn = turns[1] if isinstance(turns, list) and len(turns) > 1 else None
    text = turn.get("value") if isinstance(turn, Mapping) else None
    if not isinstance(text, str):
        raise UsageError(
            f"{location}: `conversations` must be a question and a reply {{from, value}}"
        )
    return text if protocol.sentences else text.replace("\n", " ")


class _DenseCaption(pydantic.BaseModel, strict=True):
    """The fields that are read from a file of the Densely Captioned Images."""

    image: str
    short_caption: str
    extra_caption: str


def _read_dense_captions(content: dict[str, Any], path: Path) -> list[CaptionedImage]:
    """Read the files of all splits that a list of the Densely Captioned Images names.

    dataloaders/dci_retrieval.py of LoTLIP takes all splits too. A caption is made as by
    DenseCaptionedImage.get_extended_caption of github.com/facebookresearch/DCI.
    """
    images = []
    for name in chain.from_iterable(content.values()):
        file = path.parent / "annotations" / str(name)
        with faults_of(f"{file}: "):
            entry = parse(_DenseCaption, readers.read_json(file))
        caption = f"{entry.short_caption}\n{entry.extra_caption}"
        images.append(CaptionedImage(entry.image, _checked_captions(caption, str(file))))
    return images


class _CocoImage(pydantic.BaseModel, strict=True):
    id: Any
    file_name: str


class _CocoCaption(pydantic.BaseModel, strict=True):
    image_id: Any
    caption: str


class _Coco(pydantic.BaseModel, strict=True):
    """The fields that are read from a captions file of COCO."""

    images: list[_CocoImage]
    annotations: list[_CocoCaption] = []


def _parse_coco(content: dict[str, Any], path: Path) -> list[CaptionedImage]:
    """Return images in the order of their ids, and their captions in the order of the file."""
    coco = parse(_Coco, content)
    captioned_ids = [annotation.image_id for annotation in coco.annotations]
    _require_sound_ids([image.id for image in coco.images], captioned_ids)
    captions_by_image: dict[Any, list[str]] = {image.id: [] for image in coco.images}
    for annotation in coco.annotations:
        captions_by_image[annotation.image_id].append(annotation.caption)
    images = sorted(coco.images, key=attrgetter("id"))
    uncaptioned = [image.id for image in images if not captions_by_image[image.id]]
    if uncaptioned:
        raise FileError(
            f"has {len(uncaptioned)} images without captions, first: image id {uncaptioned[0]}"
        )
    captioned_images = []
    for image in images:
        captions = _checked_captions(captions_by_image[image.id], f"{path}: image id {image.id}")
        captioned_images.append(CaptionedImage(image.file_name, captions))
    return captioned_images


def _require_sound_ids(ids: Sequence[Any], captioned_ids: Sequence[Any]) -> None:
    """Raise FileError unless ids are distinct, and all whole numbers or all text.

    `ids` are the ids of images, and `captioned_ids` the image ids of captions, which must be among
    them. Ids are keys of a dictionary, in which 1, true and 1.0 would be the same key, and 1 and
    "1" would be different keys.
    """
    type_counts = Counter(type(image_id) for image_id in [*ids, *captioned_ids])
    if len(type_counts) > 1 or type_counts.keys() - {int, str}:
        types = ", ".join(f"{kind.__name__} ({count})" for kind, count in type_counts.items())
        raise FileError(f"has image ids that are not all whole numbers or all text, but {types}")
    if repeated := readers.first_repeated(ids):
        raise FileError(f"has image id {repeated[0]} twice")
    unlisted = sorted(set(captioned_ids) - set(ids))
    if unlisted:
        raise FileError(
            f"has captions of {len(unlisted)} images not listed, first: id {unlisted[0]}"
        )


class _Sentence(pydantic.BaseModel, strict=True):
    raw: str


class _KarpathyImage(pydantic.BaseModel, strict=True):
    """An image of Karpathy's splits, with its captions."""

    filename: str
    split: str
    sentences: list[_Sentence]
    filepath: str | None = None  # the folder of the image, in COCO's file


class _Karpathy(pydantic.BaseModel, strict=True):
    """The fields that are read from a file of Karpathy's splits."""

    images: list[_KarpathyImage]


def _parse_karpathy(content: dict[str, Any], path: Path, split: str) -> list[CaptionedImage]:
    """Return the images of a split, in the order of the file (cs.stanford.edu/people/karpathy)."""
    images = parse(_Karpathy, content).images
    captioned_images = []
    for number, image in enumerate(images):
        if image.split != split:
            continue
        name = f"{image.filepath}/{image.filename}" if image.filepath else image.filename
        sentences = [sentence.raw for sentence in image.sentences]
        captions = _checked_captions(sentences, f"{path}, images[{number}]")
        captioned_images.append(CaptionedImage(name, captions))
    if not captioned_images:
        raise _missing_split_error(split, Counter(image.split for image in images))
    return captioned_images


class _FlickrLine(NamedTuple):
    """A line `IMAGE.jpg,caption` of a list."""

    number: int
    image: str
    text: str  # everything after the comma
    field: str | None  # the caption if the text is one CSV field, else None


def _read_flickr_list(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read a list of a header and lines `IMAGE.jpg,caption`, as CLIP Benchmark and Kaggle have it.

    If every caption is one CSV field, the file is read as CSV: `1.jpg,"A dog, asleep"` holds the
    caption `A dog, asleep`. Otherwise a caption is all text after the first comma, as in
    clip_benchmark/datasets/flickr.py. Raise FileError if some lines need one rule and other lines
    the other.
    """
    rows = _read_flickr_lines(path)
    unquoted_rows = [row for row in rows if row.field is None]
    quoted_rows = [row for row in rows if row.field is not None and row.field != row.text]
    if unquoted_rows and quoted_rows:
        raise FileError(
            f"line {unquoted_rows[0].number}: the caption holds a comma or a quote and is not a "
            f"CSV field, but line {quoted_rows[0].number} has a CSV field; write all lines as CSV"
        )
    images = []
    for row in rows:
        caption = row.text if unquoted_rows else row.field
        captions = _checked_captions(caption, f"{path}, line {row.number}")
        images.append(CaptionedImage(f"{row.image}.jpg", captions))
    return _merge_by_name(images)


def _read_flickr_lines(path: Path) -> list[_FlickrLine]:
    """Read the lines below the header. Raise FileError for a line in another form."""
    numbered_lines = list(readers.lines(readers.read_text(path)))
    if numbered_lines and ".jpg," in numbered_lines[0][1]:
        raise FileError(f"line {numbered_lines[0][0]}: must be a header, not an image")
    rows = []
    for number, line in numbered_lines[1:]:
        image, suffix, text = line.partition(".jpg,")
        if not (image and suffix):
            raise FileError(f"line {number}: expected IMAGE.jpg,caption")
        rows.append(_FlickrLine(number, image, text, _csv_field(text)))
    return rows


def _csv_field(text: str) -> str | None:
    """Return the content of a text that is one CSV field, or None for any other text."""
    try:
        fields = next(csv.reader([text], strict=True)) or [""]
    except csv.Error:
        return None
    return fields[0] if len(fields) == 1 else None


_READERS: Mapping[str, Callable[[Path, RetrievalProtocol], list[CaptionedImage]]] = {
    ".json": _read_json,
    ".jsonl": _read_records,
    ".jsonlines": _read_records,
    ".csv": _read_records,
    ".tsv": _read_records,
    ".txt": _read_flickr_list,
}


def read_archives(
    root: Path, protocol: RetrievalProtocol
) -> tuple[list[CaptionedImage], list[sources.ArchiveMember]]:
    """Return the captioned samples of tar archives, and their images.

    A sample is named by the path of its archive below `root` and its key. Captions are the lines of
    .txt members, as CLIP Benchmark's webdataset_builder.py writes them, or in .json members.
    """
    samples = sources.open_archives(_find_archives(root, protocol))
    first = samples[0]
    if "txt" in first.members:
        extension = "txt"
    elif "json" in first.members:
        extension = "json"
    else:
        raise UsageError(
            f"{first.name} has neither a .txt of captions, one per line, nor a .json record "
            f"with them, only {', '.join(first.members)}"
        )
    captioned_images = []
    for sample in samples:
        name = f"{os.path.relpath(sample.archive, root)}:{sample.key}"
        captions = _archived_captions(sample, extension, protocol)
        captioned_images.append(CaptionedImage(name, captions))
    if repeated := readers.first_repeated(image.name for image in captioned_images):
        raise UsageError(f"sample {repeated[0]} is listed twice")
    return captioned_images, [sample.image() for sample in samples]


def _archived_captions(
    sample: sources.ArchiveSample, extension: str, protocol: RetrievalProtocol
) -> tuple[str, ...]:
    """Return the captions of a sample from its .txt or .json member."""
    location, content = f"{sample.name}.{extension}", sample.text(extension)
    if extension == "txt":
        return _checked_captions(content.splitlines(), location)
    with faults_of(f"{location} "):
        record = readers.parse_json(content)
    if not isinstance(record, dict):
        raise UsageError(f"{location}: must be a record with captions")
    return _checked_captions(_caption_field(record, protocol, location), location)


def _find_archives(root: Path, protocol: RetrievalProtocol) -> list[Path]:
    """Return the archives that the protocol's patterns name.

    A single folder, such as a snapshot of the hub, must be in CLIP Benchmark's layout
    (clip_benchmark/datasets/builder.py) and stands for the archives of its split.
    """
    patterns = as_tuple(protocol.archives)
    folder = root / patterns[0]
    if len(patterns) == 1 and folder.is_dir():
        kind = sources.read_layout_file(folder / "dataset_type.txt")
        if kind.lower() != "retrieval":
            raise UsageError(
                f"{folder} is of type {kind!r}, not retrieval, by its dataset_type.txt; name other "
                "archives by a pattern such as FOLDER/*.tar"
            )
        return sources.numbered_archives(folder / protocol.split)
    archives: list[Path] = []
    for pattern in patterns:
        exists = (root / pattern).exists()
        names = [pattern] if exists else sorted(glob.glob(pattern, root_dir=root))
        if not names:
            raise UsageError(f"no archive {root / pattern}")
        archives.extend(root / name for name in names)
    return archives


def _image_field(record: Mapping[str, Any], protocol: RetrievalProtocol, location: str) -> str:
    """Return the path of a record's image. Raise UsageError if it is missing or not text."""
    if protocol.image_key is not None:
        name = _stated_field(record, protocol.image_key, location)
    else:
        name = _usual_field(record, _IMAGE_KEYS, "image_key", location)
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{location}: the image must be a path, not {name!r}")
    return name


def _caption_field(record: Mapping[str, Any], protocol: RetrievalProtocol, location: str) -> Any:
    """Return the captions of a record, unchecked. Raise UsageError if they are missing."""
    if protocol.caption_key is not None:
        return _stated_field(record, protocol.caption_key, location)
    return _usual_field(record, _CAPTION_KEYS, "caption_key", location)


def _stated_field(record: Mapping[str, Any], key: str, location: str) -> Any:
    """Return the value of the key that the user stated. Raise UsageError if it is missing."""
    if key not in record:
        raise UsageError(f"{location}: no `{key}`, only {_listed_keys(record)}")
    return record[key]


def _usual_field(
    record: Mapping[str, Any], usual_keys: Sequence[str], option: str, location: str
) -> Any:
    """Return the value of the only usual key in a record.

    Raise UsageError if there is none or several; the field `option` then has to name the key.
    """
    present_keys = [key for key in usual_keys if key in record]
    if len(present_keys) > 1:
        keys = " and ".join(present_keys)
        raise UsageError(f"{location}: has {keys}; name one with image_key or caption_key")
    if not present_keys:
        keys = " or ".join(f"`{key}`" for key in usual_keys)
        raise UsageError(
            f"{location}: no {keys}, only {_listed_keys(record)}; name the one that is meant "
            f"by `{option}`"
        )
    return record[present_keys[0]]


def _listed_keys(record: Mapping[str, Any]) -> str:
    """Return the keys of a record for an error message."""
    return ", ".join(map(str, record)) or "nothing"


def _checked_captions(value: Any, location: str) -> tuple[str, ...]:
    """Return one caption, or a list of captions, as a tuple.

    Raise UsageError for a blank caption, for no captions, and for values that are not text.
    """
    captions = (value,) if isinstance(value, str) else value
    if not isinstance(captions, list | tuple):
        raise UsageError(f"{location}: captions must be text or a list of texts, not {value!r}")
    if not captions:
        raise UsageError(f"{location}: an image without captions")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise UsageError(f"{location}: a caption is blank or not text: {caption!r}")
    return tuple(captions)


def _merge_by_name(records: Iterable[CaptionedImage]) -> list[CaptionedImage]:
    """Return every image once, with the captions of all records of its name, in their order."""
    captions_by_image: dict[str, list[str]] = {}
    for record in records:
        captions_by_image.setdefault(record.name, []).extend(record.captions)
    return [CaptionedImage(name, tuple(captions)) for name, captions in captions_by_image.items()]
