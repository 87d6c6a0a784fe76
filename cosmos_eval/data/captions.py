"""Images with their captions, in every form of docs/data.md.

Files are COCO's, Karpathy's and BLIP's JSON, JSON lines, tables, and CLIP Benchmark's list of
Flickr30k; webdataset's tar archives hold images and captions side by side. Imports no torch.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pycocotools.coco import COCO

from cosmos_eval.data import readers
from cosmos_eval.data.archives import ArchiveSample, numbered_archives, open_archives
from cosmos_eval.data.folders import several
from cosmos_eval.data.readers import FileError
from cosmos_eval.data.sources import ArchiveMember
from cosmos_eval.types import RetrievalProtocol, UsageError

# Keys of records and columns of tables: those of BLIP's lists (github.com/salesforce/BLIP), and
# the usual ones of open_clip_train/params.py of github.com/mlfoundations/open_clip.
_IMAGE_KEYS = ("image", "filepath")
_CAPTION_KEYS = ("caption", "captions", "title")

_JSON_FORMS = (
    "COCO's {images, annotations}, Karpathy's {images: [{filename, split, sentences}]}, "
    "or a list of {image, caption}"
)


class Captioned(NamedTuple):
    """An image, by its path as the file has it, and its captions."""

    name: str
    captions: tuple[str, ...]


class _Keys(NamedTuple):
    """Possible names of the image and of the captions; a record has one of each."""

    image: tuple[str, ...]
    caption: tuple[str, ...]


def read_captions(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """Read the captioned images of a file, whose form its suffix and its content tell.

    Raises UsageError that names the file and the line, index or id of what is wrong.
    """
    read = _FORMS.get(path.suffix.lower())
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
    if protocol.bare_names:
        found = [image._replace(name=PurePosixPath(image.name).name) for image in found]
    _require_distinct((image.name for image in found), f"{path}: image")
    return found


def _read_json(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    try:
        content = readers.read_json(path)
    except FileError as error:
        raise FileError(f"{error}; one record per line is .jsonl") from error
    if isinstance(content, list):
        keys = _keys(protocol)
        return _merge(_record(item, keys, f"{path}, [{i}]") for i, item in enumerate(content))
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise FileError(f"has none of the known forms: {_JSON_FORMS}")
    if not images:
        raise FileError("lists no images")
    if "annotations" not in content and isinstance(images[0], dict) and "sentences" in images[0]:
        return _karpathy(images, path, protocol.split)
    return _coco(content, path)


def _coco(content: dict[str, Any], path: Path) -> list[Captioned]:
    """Images in the order of their ids, an image's captions in the order of the file."""
    coco = COCO()
    coco.dataset = content
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
            coco.createIndex()
    except (KeyError, TypeError, AttributeError) as error:
        # It checks nothing: a file of another shape fails wherever it is first looked into.
        raise FileError(
            f"is not a COCO-captions JSON file ({type(error).__name__}: {error})"
        ) from error
    _require_sound_ids(coco, path)
    return [
        _coco_image(coco, image_id, f"{path}: image id {image_id}")
        for image_id in sorted(coco.imgs)
    ]


def _require_sound_ids(coco: COCO, path: Path) -> None:
    ids = [image["id"] for image in coco.dataset["images"]]
    notes = coco.dataset.get("annotations", ())
    # Whole numbers, or else texts: 1, true and 1.0 would be one id, 1 and "1" two.
    kinds = Counter(map(type, [*ids, *(note["image_id"] for note in notes)]))
    if len(kinds) > 1 or kinds.keys() - {int, str}:
        found = ", ".join(f"{kind.__name__} ({count})" for kind, count in kinds.items())
        raise UsageError(f"{path}: image ids must be all whole numbers or all text, not {found}")
    _require_distinct(ids, f"{path}: image id")
    bare = sorted(coco.imgs.keys() - coco.imgToAnns.keys())
    if bare:
        raise UsageError(f"{path}: {len(bare)} images without captions, first: image id {bare[0]}")
    lost = sorted(coco.imgToAnns.keys() - coco.imgs.keys())
    if lost:
        raise UsageError(f"{path}: captions of {len(lost)} images not listed, first: id {lost[0]}")


def _coco_image(coco: COCO, image_id: Any, where: str) -> Captioned:
    name = coco.imgs[image_id].get("file_name")
    if not isinstance(name, str):
        raise UsageError(f"{where} has no file_name")
    notes = coco.imgToAnns[image_id]
    return Captioned(name, _texts([note.get("caption") for note in notes], where))


def _karpathy(images: list[Any], path: Path, split: str) -> list[Captioned]:
    """The images of a split, in the order of the file (cs.stanford.edu/people/karpathy)."""
    for i, image in enumerate(images):
        for key, kind in (("filename", str), ("split", str), ("sentences", list)):
            if not isinstance(image, dict) or not isinstance(image.get(key), kind):
                raise UsageError(f"{path}, images[{i}] has no `{key}`, or it is no {kind.__name__}")
    found = [
        _karpathy_image(image, f"{path}, images[{i}]")
        for i, image in enumerate(images)
        if image["split"] == split
    ]
    if not found:
        splits = Counter(image["split"] for image in images)
        has = ", ".join(f"{name} ({count})" for name, count in splits.items())
        raise FileError(f"has no images of split {split!r}, only of {has}")
    return found


def _karpathy_image(image: dict[str, Any], where: str) -> Captioned:
    """`filepath` is the folder in COCO's file; Flickr30k's has none."""
    try:
        captions = [sentence["raw"] for sentence in image["sentences"]]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{where}: a sentence has no `raw`") from error
    folder = image.get("filepath") or ""
    if not isinstance(folder, str):
        raise UsageError(f"{where}: `filepath` must be text, not {folder!r}")
    name = f"{folder}/{image['filename']}" if folder else image["filename"]
    return Captioned(name, _texts(captions, where))


def _read_json_lines(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    keys = _keys(protocol)
    records = readers.read_json_lines(path)
    return _merge(_record(record, keys, f"{path}, line {n}") for n, record in records)


def _read_table(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    header, rows = readers.read_table(path)
    columns = _Keys(*((_the_one(names, header, f"{path}, line 1"),) for names in _keys(protocol)))
    return _merge(_record(row, columns, f"{path}, line {number}") for number, row in rows)


class _FlickrLine(NamedTuple):
    number: int
    image: str
    caption: str


def _read_flickr_list(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """Read a header, then `IMAGE.jpg,caption` lines, as in CLIP Benchmark's and Kaggle's lists.

    Where every caption is one CSV field, the file is CSV, as pandas writes it, and captions that
    hold commas or quotes lose the quotes around them. Else a caption is all that follows the image.
    clip_benchmark/datasets/flickr.py always reads the latter and keeps the quotes of CSV.
    Raises FileError for a file of which some lines are the one and some the other.
    """
    pairs = [(line, _csv_field(line.caption)) for line in _flickr_lines(path)]
    free = [line for line, field in pairs if field is None]
    quoted = [line for line, field in pairs if field not in (None, line.caption)]
    if free and quoted:
        raise FileError(
            f"line {free[0].number}: the caption holds a comma or a quote and is no CSV field, but "
            f"that of line {quoted[0].number} is; write all lines as CSV"
        )
    return _merge(
        Captioned(line.image, _texts(line.caption if free else field, f"{path}, line {line[0]}"))
        for line, field in pairs
    )


def _flickr_lines(path: Path) -> Iterator[_FlickrLine]:
    for index, (number, line) in enumerate(readers.lines(readers.read_text(path))):
        image, suffix, caption = line.partition(".jpg,")
        if index == 0:
            if suffix:
                raise FileError(f"line {number}: must be a header, not an image")
        elif not (image and suffix):
            raise FileError(f"line {number}: expected IMAGE.jpg,caption")
        else:
            yield _FlickrLine(number, image + ".jpg", caption)


def _csv_field(text: str) -> str | None:
    """Return the content of a text that is one CSV field, None where it is none or several."""
    try:
        fields = next(csv.reader([text], strict=True)) or [""]
    except csv.Error:
        return None
    return fields[0] if len(fields) == 1 else None


_FORMS: Mapping[str, Callable[[Path, RetrievalProtocol], list[Captioned]]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".txt": _read_flickr_list,
}


def read_archives(
    root: Path, protocol: RetrievalProtocol
) -> tuple[list[Captioned], list[ArchiveMember]]:
    """Return samples named by their archives' paths below the root and their keys, and the images.

    Captions are a sample's .txt, one per line as CLIP Benchmark writes them
    (webdataset_builder.py), or, where the first sample has none, a caption or a list of them in
    its .json.
    """
    samples = open_archives(list(_find_archives(root, protocol)))
    extension = next((name for name in ("txt", "json") if name in samples[0].members), None)
    if extension is None:
        raise UsageError(
            f"{samples[0].name} has neither a .txt of captions, one per line, nor a .json record "
            f"with them, only {', '.join(samples[0].members)}"
        )
    found = [
        Captioned(
            f"{os.path.relpath(sample.archive, root)}:{sample.key}",
            _archived_captions(sample, extension, _keys(protocol)),
        )
        for sample in samples
    ]
    _require_distinct((sample.name for sample in found), "sample")
    return found, [sample.image() for sample in samples]


def _archived_captions(sample: ArchiveSample, extension: str, keys: _Keys) -> tuple[str, ...]:
    where, content = f"{sample.name}.{extension}", sample.text(extension)
    if extension == "txt":
        return _texts(content.splitlines(), where)
    try:
        record = readers.parse_json(content)
    except FileError as error:
        raise UsageError(f"{where} {error}") from error
    if not isinstance(record, dict):
        raise UsageError(f"{where}: must be a record with captions")
    return _texts(record[_the_one(keys.caption, record, where)], where)


def _find_archives(root: Path, protocol: RetrievalProtocol) -> Iterator[Path]:
    patterns = several(protocol.archives)
    if len(patterns) == 1 and (root / patterns[0]).is_dir():
        yield from _archives_of_clip_benchmark(root / patterns[0], protocol.split)
        return
    for pattern in patterns:
        exists = (root / pattern).exists()
        names = [pattern] if exists else sorted(glob.glob(pattern, root_dir=root))
        if not names:
            raise UsageError(f"no archive {root / pattern}")
        yield from (root / name for name in names)


def _archives_of_clip_benchmark(folder: Path, split: str) -> list[Path]:
    """List the archives of a folder that states its content: clip_benchmark/datasets/builder.py."""
    kind = _stated(folder / "dataset_type.txt")
    if kind.lower() != "retrieval":
        raise UsageError(f"{folder} is of type {kind!r}, not retrieval, by its dataset_type.txt")
    return numbered_archives(folder / split, _stated(folder / split / "nshards.txt"))


def _stated(path: Path) -> str:
    try:
        return readers.read_text(path).strip()
    except FileError as error:
        raise UsageError(
            f"cannot read {path}, which CLIP Benchmark's layout has: {error}; "
            "name other archives by a pattern such as FOLDER/*.tar"
        ) from error


def _keys(protocol: RetrievalProtocol) -> _Keys:
    image, caption = protocol.image_key, protocol.caption_key
    return _Keys((image,) if image else _IMAGE_KEYS, (caption,) if caption else _CAPTION_KEYS)


def _record(record: Any, keys: _Keys, where: str) -> Captioned:
    """Read a record {image: path, caption: text or texts}."""
    if not isinstance(record, Mapping):
        raise UsageError(f"{where}: must be a record with an image and its captions")
    name = record[_the_one(keys.image, record, where)]
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{where}: the image must be a path, not {name!r}")
    return Captioned(name, _texts(record[_the_one(keys.caption, record, where)], where))


def _the_one(wanted: Iterable[str], present: Collection[str], where: str) -> str:
    """Return the only one of the wanted names that is present."""
    found = [name for name in wanted if name in present]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{where}: has {' and '.join(found)}; say which with image_key or caption_key"
        )
    names = " or ".join(f"`{name}`" for name in wanted)
    raise UsageError(f"{where}: no {names}, only {', '.join(map(str, present)) or 'nothing'}")


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """Return one caption or several, none of them blank."""
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise UsageError(f"{where}: captions must be text or a list of texts, not {value!r}")
    if not found:
        raise UsageError(f"{where}: an image without captions")
    for caption in found:
        if not isinstance(caption, str) or not caption.strip():
            raise UsageError(f"{where}: a caption is blank or no text: {caption!r}")
    return tuple(found)


def _merge(records: Iterable[Captioned]) -> list[Captioned]:
    """Join records of one image; images and captions stay in the order in which they come."""
    captions: dict[str, list[str]] = {}
    for record in records:
        captions.setdefault(record.name, []).extend(record.captions)
    return [Captioned(name, tuple(some)) for name, some in captions.items()]


def _require_distinct(names: Iterable[object], what: str) -> None:
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{what} {name} is listed twice")
        seen.add(name)
