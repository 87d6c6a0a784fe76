"""Images with their captions, in every form of docs/data.md. Imports no torch."""

import csv
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pydantic

from cosmos_core.utils.text import split_sentences
from cosmos_eval.data import readers, sources
from cosmos_eval.data.folders import several
from cosmos_eval.data.readers import FileError, faults_of, parse
from cosmos_eval.types import RetrievalProtocol, UsageError

# Keys of records and columns of tables: those of BLIP's lists (github.com/salesforce/BLIP), the
# usual ones of open_clip_train/params.py of github.com/mlfoundations/open_clip, that of
# datasets/IIW-400/data.jsonl of github.com/google/imageinwords, and LLaVA's conversations.
_IMAGE_KEYS = ("image", "filepath", "image/key")
_CAPTION_KEYS = ("caption", "captions", "title", "conversations")


class Captioned(NamedTuple):
    """An image, by its name, and its captions; `path` is its path where that is not the name."""

    name: str
    captions: tuple[str, ...]
    path: str = ""


def read_captions(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """Read captioned images in the form that suffix and content show. Raises UsageError."""
    parts = [path / part for part in protocol.parts] or [path]
    found = [image for part in parts for image in _read_part(part, protocol)][: protocol.first]
    end = protocol.image_suffix
    found = [image._replace(name=image.name.removesuffix(end) + end) for image in found]
    if protocol.bare_names:
        found = [i._replace(name=PurePosixPath(i.name).name, path=i.name) for i in found]
    if repeated := readers.first_repeated(image.name for image in found):
        raise UsageError(f"{path}: image {repeated[0]} is listed twice")
    return found


def _read_part(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    read = _read_texts if path.is_dir() else _FORMS.get(path.suffix.lower())
    if read is None:
        raise UsageError(
            f"{path} has no known form of captions: {', '.join(_FORMS)}; "
            "tar archives are named by `archives`"
        )
    try:
        found = read(path, protocol)
    except FileError as error:
        comma = "," if str(error).startswith("line ") else ""
        raise UsageError(f"{path}{comma} {error}") from error
    if not found:
        raise UsageError(f"{path} lists no images")
    return found


def measured_captions(image: Captioned, protocol: RetrievalProtocol) -> tuple[str, ...]:
    """Return the captions of an image that a protocol keeps, as they are, every sentence of them,
    or their sentences joined. Raises UsageError for a caption without a sentence."""
    kept = image.captions[: protocol.captions_per_image]
    if protocol.sentences is None:
        return kept
    split = [split_sentences(caption) for caption in kept]
    if not all(split):
        raise UsageError(f"image {image.name}: a caption without a sentence")
    if protocol.sentences == "each":
        return tuple(sentence for some in split for sentence in some)
    # LoTLIP's dataloaders join by this, FLAIR's too.
    return tuple(". ".join(some) for some in split)


def _read_texts(folder: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """Read a folder with a text per image of the same name: a caption per line."""
    texts = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    if texts and not protocol.image_suffix:
        raise FileError("holds texts: name the suffix of the images by `image_suffix`")
    read = ((path, readers.lines(readers.read_text(path))) for path in texts)
    return [Captioned(p.stem, _texts([line for _, line in some], str(p))) for p, some in read]


def _read_json(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    try:
        content = readers.read_json(path)
    except FileError as error:
        raise FileError(f"{error}; one record per line is .jsonl") from error
    if isinstance(content, dict) and content.keys() == {"train", "valid", "test"}:
        return _dense_captions(content, path)
    if isinstance(content, dict) and "images" not in content:  # FLAIR's
        content = content.get("annotations", content)
    if isinstance(content, list):
        entries = ((f"record {i}", item) for i, item in enumerate(content))
        return _read_records(path, protocol, entries)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise FileError(
            "has none of the known forms: COCO's {images, annotations}, Karpathy's {images: "
            "[{filename, split, sentences}]}, or a list of {image, caption}"
        )
    if not images:
        return []
    if "annotations" not in content and isinstance(images[0], dict) and "sentences" in images[0]:
        return _karpathy(content, path, protocol.split)
    return _coco(content, path)


def _read_records(
    path: Path, protocol: RetrievalProtocol, entries: Iterable[tuple[str, Any]] | None = None
) -> list[Captioned]:
    """Read records {image: path, caption: text or texts}."""
    found = []
    splits: Counter[str] = Counter()
    for where, record in entries or readers.read_records(path):
        where = f"{path}, {where}"
        if not isinstance(record, Mapping):
            raise UsageError(f"{where}: must be a record with an image and its captions")
        if protocol.split_key is not None:
            split = str(_the_one(protocol.split_key, (), record, where))
            splits[split] += 1
            if split != protocol.split:
                continue
        name = _the_one(protocol.image_key, _IMAGE_KEYS, record, where)
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{where}: the image must be a path, not {name!r}")
        captions = _the_one(protocol.caption_key, _CAPTION_KEYS, record, where)
        if "conversations" in record and captions is record["conversations"]:
            captions = _reply(captions, where, protocol)
        if protocol.listed_captions:
            with faults_of(f"{where}: captions "):
                captions = readers.parse_list(captions)
        found.append(Captioned(name, _texts(captions, where)))
    if splits and not found:
        raise _no_split(protocol.split, splits)
    return _merge(found)


def _no_split(split: str, splits: Counter[str]) -> FileError:
    has = ", ".join(f"{name} ({count})" for name, count in splits.items())
    return FileError(f"has no images of split {split!r}, only of {has}: set `split`")


def _reply(turns: Any, where: str, protocol: RetrievalProtocol) -> str:
    """Return the second turn, on one line as train/sharegpt4v.py of github.com/beichenzbc/Long-CLIP
    has it unless it is split into sentences."""
    turn = turns[1] if isinstance(turns, list) and len(turns) > 1 else None
    text = turn.get("value") if isinstance(turn, Mapping) else None
    if not isinstance(text, str):
        raise UsageError(f"{where}: `conversations` must be a question and a reply {{from, value}}")
    return text if protocol.sentences else text.replace("\n", " ")


class _DenseCaption(pydantic.BaseModel, strict=True):
    image: str
    short_caption: str
    extra_caption: str


def _dense_captions(content: dict[str, Any], path: Path) -> list[Captioned]:
    """Read the files of all splits, as dataloaders/dci_retrieval.py of LoTLIP does. Captions are
    those of DenseCaptionedImage.get_extended_caption of github.com/facebookresearch/DCI."""
    found = []
    for name in chain.from_iterable(content.values()):
        file = path.parent / "annotations" / str(name)
        with faults_of(f"{file}: "):
            one = parse(_DenseCaption, readers.read_json(file))
        captions = _texts(f"{one.short_caption}\n{one.extra_caption}", str(file))
        found.append(Captioned(one.image, captions))
    return found


class _CocoImage(pydantic.BaseModel, strict=True):
    id: Any
    file_name: str


class _CocoCaption(pydantic.BaseModel, strict=True):
    image_id: Any
    caption: str


class _Coco(pydantic.BaseModel, strict=True):
    images: list[_CocoImage]
    annotations: list[_CocoCaption] = []


def _coco(content: dict[str, Any], path: Path) -> list[Captioned]:
    """Return images in the order of their ids, an image's captions in the order of the file."""
    coco = parse(_Coco, content)
    _require_sound_ids([i.id for i in coco.images], [note.image_id for note in coco.annotations])
    captions: dict[Any, list[str]] = {image.id: [] for image in coco.images}
    for note in coco.annotations:
        captions[note.image_id].append(note.caption)
    images = sorted(coco.images, key=lambda image: image.id)
    if bare := [image.id for image in images if not captions[image.id]]:
        raise FileError(f"has {len(bare)} images without captions, first: image id {bare[0]}")
    return [
        Captioned(image.file_name, _texts(captions[image.id], f"{path}: image id {image.id}"))
        for image in images
    ]


def _require_sound_ids(ids: Sequence[Any], captioned: Sequence[Any]) -> None:
    """Require distinct ids, all of one kind: else 1, true and 1.0 are one key, 1 and "1" two."""
    kinds = Counter(map(type, [*ids, *captioned]))
    if len(kinds) > 1 or kinds.keys() - {int, str}:
        found = ", ".join(f"{kind.__name__} ({count})" for kind, count in kinds.items())
        raise FileError(f"has image ids that are not all whole numbers or all text, but {found}")
    if repeated := readers.first_repeated(ids):
        raise FileError(f"has image id {repeated[0]} twice")
    if lost := sorted(set(captioned) - set(ids)):
        raise FileError(f"has captions of {len(lost)} images not listed, first: id {lost[0]}")


class _Sentence(pydantic.BaseModel, strict=True):
    raw: str


class _KarpathyImage(pydantic.BaseModel, strict=True):
    filename: str
    split: str
    sentences: list[_Sentence]
    filepath: str | None = None  # the folder, in COCO's file


class _Karpathy(pydantic.BaseModel, strict=True):
    images: list[_KarpathyImage]


def _karpathy(content: dict[str, Any], path: Path, split: str) -> list[Captioned]:
    """Return the images of a split, in the order of the file (cs.stanford.edu/people/karpathy)."""
    images = parse(_Karpathy, content).images
    found = [
        Captioned(
            f"{image.filepath}/{image.filename}" if image.filepath else image.filename,
            _texts([sentence.raw for sentence in image.sentences], f"{path}, images[{i}]"),
        )
        for i, image in enumerate(images)
        if image.split == split
    ]
    if not found:
        raise _no_split(split, Counter(image.split for image in images))
    return found


def _read_flickr_list(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """Read a header, then `IMAGE.jpg,caption` lines, as in CLIP Benchmark's and Kaggle's lists."""
    # Where every caption is one CSV field, the file is CSV, as pandas writes it. Else a caption is
    # all that follows the image, as clip_benchmark/datasets/flickr.py always reads it.
    (number, header), *rows = [*readers.lines(readers.read_text(path))] or [(1, "")]
    if ".jpg," in header:
        raise FileError(f"line {number}: must be a header, not an image")
    found = []
    for number, line in rows:
        image, suffix, caption = line.partition(".jpg,")
        if not (image and suffix):
            raise FileError(f"line {number}: expected IMAGE.jpg,caption")
        found.append((number, image, caption, _csv_field(caption)))
    free = [number for number, *_, field in found if field is None]
    quoted = [number for number, _, text, field in found if field not in (None, text)]
    if free and quoted:
        raise FileError(
            f"line {free[0]}: the caption holds a comma or a quote and is no CSV field, but "
            f"that of line {quoted[0]} is; write all lines as CSV"
        )
    return _merge(
        Captioned(f"{image}.jpg", _texts(caption if free else field, f"{path}, line {number}"))
        for number, image, caption, field in found
    )


def _csv_field(text: str) -> str | None:
    """Return the content of a text that is one CSV field, None where it is none or several."""
    try:
        fields = next(csv.reader([text], strict=True)) or [""]
    except csv.Error:
        return None
    return fields[0] if len(fields) == 1 else None


_FORMS: Mapping[str, Callable[[Path, RetrievalProtocol], list[Captioned]]] = {
    ".json": _read_json,
    **dict.fromkeys((".jsonl", ".jsonlines", ".csv", ".tsv"), _read_records),
    ".txt": _read_flickr_list,
}


def read_archives(
    root: Path, protocol: RetrievalProtocol
) -> tuple[list[Captioned], list[sources.ArchiveMember]]:
    """Return captioned samples, by their archives' paths below the root and keys, and their images.

    Captions are lines of .txt (CLIP Benchmark's webdataset_builder.py), or else in .json.
    """
    samples = sources.open_archives(_find_archives(root, protocol))
    extension = next((name for name in ("txt", "json") if name in samples[0].members), None)
    if extension is None:
        raise UsageError(
            f"{samples[0].name} has neither a .txt of captions, one per line, nor a .json record "
            f"with them, only {', '.join(samples[0].members)}"
        )
    names = [f"{os.path.relpath(sample.archive, root)}:{sample.key}" for sample in samples]
    captions = [_archived_captions(sample, extension, protocol) for sample in samples]
    if repeated := readers.first_repeated(names):
        raise UsageError(f"sample {repeated[0]} is listed twice")
    return list(map(Captioned, names, captions)), [sample.image() for sample in samples]


def _archived_captions(
    sample: sources.ArchiveSample, extension: str, protocol: RetrievalProtocol
) -> tuple[str, ...]:
    where, content = f"{sample.name}.{extension}", sample.text(extension)
    if extension == "txt":
        return _texts(content.splitlines(), where)
    with faults_of(f"{where} "):
        record = readers.parse_json(content)
    if not isinstance(record, dict):
        raise UsageError(f"{where}: must be a record with captions")
    return _texts(_the_one(protocol.caption_key, _CAPTION_KEYS, record, where), where)


def _find_archives(root: Path, protocol: RetrievalProtocol) -> Iterator[Path]:
    patterns = several(protocol.archives)
    folder = root / patterns[0]
    if len(patterns) == 1 and folder.is_dir():  # clip_benchmark/datasets/builder.py
        kind = sources.read_stated(folder / "dataset_type.txt")
        if kind.lower() != "retrieval":
            raise UsageError(
                f"{folder} is of type {kind!r}, not retrieval, by its dataset_type.txt; name other "
                "archives by a pattern such as FOLDER/*.tar"
            )
        yield from sources.numbered_archives(folder / protocol.split)
        return
    for pattern in patterns:
        exists = (root / pattern).exists()
        names = [pattern] if exists else sorted(glob.glob(pattern, root_dir=root))
        if not names:
            raise UsageError(f"no archive {root / pattern}")
        yield from (root / name for name in names)


def _the_one(key: str | None, usual: Sequence[str], record: Mapping[str, Any], where: str) -> Any:
    """Return the value of the user's key, or of the only usual key that is present."""
    wanted = usual if key is None else (key,)
    found = [name for name in wanted if name in record]
    if len(found) > 1:
        keys = " and ".join(found)
        raise UsageError(f"{where}: has {keys}; name one with image_key or caption_key")
    if not found:
        names = " or ".join(f"`{name}`" for name in wanted)
        only = ", ".join(map(str, record)) or "nothing"
        option = {_IMAGE_KEYS: "image_key", _CAPTION_KEYS: "caption_key"}.get(tuple(usual), "")
        hint = f"; name the one that is meant by `{option}`" if option and key is None else ""
        raise UsageError(f"{where}: no {names}, only {only}{hint}")
    return record[found[0]]


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """Return one caption or several, none of them blank."""
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise UsageError(f"{where}: captions must be text or a list of texts, not {value!r}")
    if not found:
        raise UsageError(f"{where}: an image without captions")
    for caption in (text for text in found if not isinstance(text, str) or not text.strip()):
        raise UsageError(f"{where}: a caption is blank or no text: {caption!r}")
    return tuple(found)


def _merge(records: Iterable[Captioned]) -> list[Captioned]:
    """Join records of one image; images and captions stay in the order in which they come."""
    captions: dict[str, list[str]] = {}
    for record in records:
        captions.setdefault(record.name, []).extend(record.captions)
    return [Captioned(name, tuple(some)) for name, some in captions.items()]
