"""Images with their captions, in every form of docs/data.md. Imports no torch."""

import csv
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pydantic

from cosmos_core.utils.text import split_sentences
from cosmos_eval.data import readers, sources
from cosmos_eval.data.folders import as_tuple
from cosmos_eval.data.readers import FileError, parse, report_faults_at
from cosmos_eval.types import RetrievalProtocol, UsageError

# Usual keys of records and columns of tables. They are used by the lists of BLIP
# (github.com/salesforce/BLIP), by open_clip_train/params.py of github.com/mlfoundations/open_clip,
# by datasets/IIW-400/data.jsonl of github.com/google/imageinwords, and by LLaVA's conversations.
_IMAGE_KEYS = ("image", "filepath", "image/key")
_CAPTION_KEYS = ("caption", "captions", "title", "conversations")


class CaptionedImage(NamedTuple):
    """The name of an image, and its captions."""

    name: str
    captions: tuple[str, ...]
    # The path of the image in the list, if it differs from the name.
    path: str = ""


def read_captions(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read the captioned images that a file lists.

    The suffix and the content of the file tell its format, such as COCO's JSON.

    Args:
        path: The path of the file. If the list is spread over several files (`protocol.parts`), the
            path of their folder.
        protocol: How the captions are stored, and which images are taken.

    Raises:
        UsageError: If the list cannot be read, or if it names an image twice.
    """
    list_paths = [path / file_name for file_name in protocol.parts] or [path]
    listed_images: list[CaptionedImage] = []
    for list_path in list_paths:
        listed_images.extend(_read_list(list_path, protocol))

    # With the suffix `.jpg`, the name `a/b` becomes `a/b.jpg`. If the protocol drops the folders of
    # names (`bare_names`), it becomes `b.jpg`, and `a/b.jpg` is kept as the path of the image.
    images = []
    for listed_image in listed_images[: protocol.first]:
        name = listed_image.name.removesuffix(protocol.image_suffix) + protocol.image_suffix
        if protocol.bare_names:
            file_name = PurePosixPath(name).name
            images.append(CaptionedImage(file_name, listed_image.captions, path=name))
        else:
            images.append(CaptionedImage(name, listed_image.captions))

    if repeated := readers.first_repeated(image.name for image in images):
        raise UsageError(f"{path}: image {repeated[0]} is listed twice")
    return images


def _read_list(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read one file of captions, or a folder of text files.

    Args:
        path: The path of the file or folder. The suffix of a file decides how it is read.
        protocol: How the captions are stored, for example by which keys of a record.

    Raises:
        UsageError: If the suffix is not known, if the file is broken, and if it lists no images.
    """
    read_list: Callable[[Path, RetrievalProtocol], list[CaptionedImage]]
    if path.is_dir():
        read_list = _read_texts
    elif path.suffix.lower() in _READERS:
        read_list = _READERS[path.suffix.lower()]
    else:
        raise UsageError(
            f"{path} has no known form of captions: {', '.join(_READERS)}; "
            "tar archives are named by `archives`"
        )

    try:
        captioned_images = read_list(path, protocol)
    except FileError as error:
        # The message is `FILE, line 3: ...` with a comma, but `FILE is not JSON` without one.
        comma = "," if str(error).startswith("line ") else ""
        raise UsageError(f"{path}{comma} {error}") from error
    if not captioned_images:
        raise UsageError(f"{path} lists no images")
    return captioned_images


def measured_captions(image: CaptionedImage, protocol: RetrievalProtocol) -> tuple[str, ...]:
    """Return the captions of an image that a protocol measures.

    Args:
        image: The image with all of its captions.
        protocol: Says how many of the first captions are taken (`captions_per_image`, None for
            all), and whether they are split into sentences (`sentences`).

    Raises:
        UsageError: If a caption that is to be split has no sentence.

    Example:
        The caption "A dog. It sleeps." becomes

        - `("A dog. It sleeps.",)` if `sentences` is None: captions are not split,
        - `("A dog", "It sleeps")` if it is "each": every sentence is a caption,
        - `("A dog. It sleeps",)` if it is "joined": the sentences are joined again with ". ".

        With `paragraph`, the captions "A dog" and "It sleeps" become `("A dog It sleeps",)`.
    """
    captions = image.captions[: protocol.captions_per_image]
    if protocol.paragraph:
        return (" ".join(captions),)
    if protocol.sentences is None:
        return captions

    new_captions: list[str] = []
    for caption in captions:
        sentences = split_sentences(caption)
        if not sentences:
            raise UsageError(f"image {image.name}: a caption without a sentence")
        if protocol.sentences == "each":
            new_captions.extend(sentences)
        else:
            new_captions.append(". ".join(sentences))  # as the dataloaders of LoTLIP and FLAIR do
    return tuple(new_captions)


def _read_texts(folder: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read a folder of text files, one for each image.

    Every line of `1.txt` is a caption of the image `1`. The caller adds the suffix of images to
    this name. Raise FileError if the protocol does not state the suffix.
    """
    paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    if paths and not protocol.image_suffix:
        raise FileError("holds texts: name the suffix of the images by `image_suffix`")
    images = []
    for path in paths:
        captions = [line for _, line in readers.lines(readers.read_text(path))]
        images.append(CaptionedImage(path.stem, _check_captions(captions, str(path))))
    return images


def _read_json(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read captioned images from a JSON file in one of six formats.

    - CLIP Benchmark's list of one language: `{"image_paths": [...], "annotations": [...]}`.
    - Densely Captioned Images: `{"train": [...], "valid": [...], "test": [...]}`.
    - COCO: `{"images": [...], "annotations": [...]}`.
    - Karpathy's splits: `{"images": [{"filename", "split", "sentences"}, ...]}`.
    - A list of records: `[{"image", "caption"}, ...]`, also as `{"annotations": [...]}`.
    - ActivityNet's `{NAME: {"sentences": [...]}}`.

    Raise FileError for any other format.
    """
    try:
        content = readers.read_json(path)
    except FileError as error:
        raise FileError(f"{error}; one record per line is .jsonl") from error

    if isinstance(content, dict):
        if content.keys() == {"train", "valid", "test"}:
            return _read_dense_captions(content, path)
        if "image_paths" in content:
            return _pair_lines(content["image_paths"], content.get("annotations"), path)
        # FLAIR's files hold the list of records in `annotations`.
        if "images" not in content:
            content = content.get("annotations", content)

    if isinstance(content, list):
        records = []
        for index, record in enumerate(content):
            records.append((f"record {index}", record))
        return _parse_records(records, path, protocol)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _parse_listed_images(content, path, protocol)
    if isinstance(content, dict) and "images" not in content and protocol.paragraph:
        return _parse_paragraphs(content, path)
    raise FileError(
        "has none of the known forms: COCO's {images, annotations}, Karpathy's {images: "
        "[{filename, split, sentences}]}, or a list of {image, caption}"
    )


def _parse_listed_images(
    content: dict[str, Any], path: Path, protocol: RetrievalProtocol
) -> list[CaptionedImage]:
    """Return the captioned images of Karpathy's splits, or of COCO, which both list `images`."""
    if not content["images"]:
        return []
    first_image = content["images"][0]
    has_sentences = isinstance(first_image, dict) and "sentences" in first_image
    if has_sentences and "annotations" not in content:
        return _parse_karpathy(content, path, protocol.split)
    return _parse_coco(content, path)


def _read_records(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read captioned images from a table (.csv, .tsv) or from JSON lines."""
    return _parse_records(readers.read_records(path), path, protocol)


def _parse_records(
    records: Iterable[tuple[str, Any]], path: Path, protocol: RetrievalProtocol
) -> list[CaptionedImage]:
    """Return the captioned images of records such as `{"image": "1.jpg", "caption": "A dog"}`.

    If several records name the same image, it gets the captions of all of them.

    Args:
        records: The place of each record in the file, such as `line 3`, and the record.
        path: The path of the file, for error messages.
        protocol: The keys of a record. If it has a `split_key`, only records whose value of this
            key is `protocol.split` are kept.

    Raises:
        UsageError: If a record is broken.
        FileError: If the file has no records of the split.
    """
    images = []
    n_records_by_split: Counter[str] = Counter()
    for place, record in records:
        location = f"{path}, {place}"
        if not isinstance(record, Mapping):
            raise UsageError(f"{location}: must be a record with an image and its captions")
        if protocol.split_key is not None:
            split = str(_require_key(record, protocol.split_key, location))
            n_records_by_split[split] += 1
            if split != protocol.split:
                continue
        name = _read_image_name(record, protocol, location)
        captions = _read_captions_of_record(record, protocol, location)
        images.append(CaptionedImage(name, captions))

    if n_records_by_split and not images:
        raise _missing_split_error(protocol.split, n_records_by_split)
    _refuse_lists_as_captions(images, path, protocol)
    return _merge_by_name(images)


def _refuse_lists_as_captions(
    images: Sequence[CaptionedImage], path: Path, protocol: RetrievalProtocol
) -> None:
    """Raise UsageError if every caption is a list of captions that is written as text.

    Args:
        images: The captioned images of a file, at least one.
        path: The path of the file, for the error message.
        protocol: Says whether such lists are expected (`listed_captions`).
    """
    captions = [caption for image in images for caption in image.captions]
    if protocol.listed_captions or not captions or not all(map(_is_written_list, captions)):
        return
    raise UsageError(
        f"{path}: every caption is a list written as text, the first: {captions[0][:60]!r}; add "
        "`listed_captions: true` to the YAML file"
    )


def _is_written_list(text: str) -> bool:
    """Return whether a text is a list of texts in JSON's or Python's syntax: `["a", "b"]`."""
    if not text.lstrip().startswith("["):
        return False
    try:
        content = readers.parse_list(text.strip())
    except FileError:
        return False
    return isinstance(content, list) and all(isinstance(entry, str) for entry in content)


def _read_captions_of_record(
    record: Mapping[str, Any], protocol: RetrievalProtocol, location: str
) -> tuple[str, ...]:
    """Return the captions of a record.

    Args:
        record: A record such as `{"image": "1.jpg", "caption": "A dog"}`. The value is a text, a
            list of texts, or one of LLaVA's conversations.
        protocol: The key of the captions. If `protocol.listed_captions` is true, the value is a
            list that is written as text, such as `"['A dog', 'An animal']"`.
        location: The name of the record in error messages.

    Raises:
        UsageError: If the captions are missing, or if they are not text.
    """
    captions = _read_caption_value(record, protocol, location)
    is_conversation = "conversations" in record and captions is record["conversations"]
    if is_conversation:
        captions = _read_reply(captions, location, protocol)
    if protocol.listed_captions:
        with report_faults_at(f"{location}: captions "):
            captions = readers.parse_list(captions)
    return _check_captions(captions, location)


def _missing_split_error(split: str, n_images_by_split: Counter[str]) -> FileError:
    """Return the error for a file that has no images of a split.

    Its message lists the splits that the file has: `has no images of split 'test', only of train
    (100), val (10): set `split``.
    """
    splits = ", ".join(f"{name} ({count})" for name, count in n_images_by_split.items())
    return FileError(f"has no images of split {split!r}, only of {splits}: set `split`")


def _read_reply(conversation: Any, location: str, protocol: RetrievalProtocol) -> str:
    """Return the reply in a conversation, which is the caption of an image.

    The lines of the reply are joined with spaces, as in train/sharegpt4v.py of
    github.com/beichenzbc/Long-CLIP, unless the protocol splits captions into sentences.

    Args:
        conversation: A list such as
            `[{"from": "human", "value": QUESTION}, {"from": "gpt", "value": REPLY}]`.
        location: The name of the record in error messages.
        protocol: Says whether captions are split into sentences (`sentences`).

    Raises:
        UsageError: If the conversation has another form.
    """
    reply = None
    if isinstance(conversation, list) and len(conversation) > 1:
        second_turn = conversation[1]
        if isinstance(second_turn, Mapping):
            reply = second_turn.get("value")
    if not isinstance(reply, str):
        raise UsageError(
            f"{location}: `conversations` must be a question and a reply {{from, value}}"
        )
    if protocol.sentences:
        return reply
    return reply.replace("\n", " ")


class _DenseCaption(pydantic.BaseModel, strict=True):
    """The fields that are read from a file of the Densely Captioned Images."""

    image: str
    short_caption: str
    extra_caption: str


def _read_dense_captions(content: dict[str, Any], path: Path) -> list[CaptionedImage]:
    """Read the images that a list of the Densely Captioned Images names, with one caption each.

    All splits are read, as in dataloaders/dci_retrieval.py of LoTLIP. A caption is the short
    caption and the extra caption on two lines, as in DenseCaptionedImage.get_extended_caption of
    github.com/facebookresearch/DCI.

    Args:
        content: The names of JSON files by split, one file for each image:
            `{"train": ["1.json", ...], "valid": [...], "test": [...]}`.
        path: The path of the list. The JSON files are in the folder `annotations` beside it.
    """
    images = []
    for file_names in content.values():
        for file_name in file_names:
            file = path.parent / "annotations" / str(file_name)
            with report_faults_at(f"{file}: "):
                entry = parse(_DenseCaption, readers.read_json(file))
            caption = f"{entry.short_caption}\n{entry.extra_caption}"
            images.append(CaptionedImage(entry.image, _check_captions(caption, str(file))))
    return images


class _Paragraph(pydantic.BaseModel, strict=True):
    """The fields that are read of a video of ActivityNet."""

    sentences: list[str]


def _parse_paragraphs(content: dict[str, Any], path: Path) -> list[CaptionedImage]:
    """Return the videos of ActivityNet's captions, with the sentences of each.

    Args:
        content: The content of `val_1.json`: `{"v_a": {"sentences": [...], "duration": 82.7}}`.
        path: The path of the file, for error messages.
    """
    images = []
    for name, entry in content.items():
        location = f"{path}: {name}"
        with report_faults_at(f"{location}: "):
            sentences = parse(_Paragraph, entry).sentences
        images.append(CaptionedImage(name, _check_captions(sentences, location)))
    return images


def _read_pickle(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read the captions of MSVD: `{NAME: [[WORD, ...], ...]}`, which are words joined by spaces.

    Only numbers, texts, lists and dictionaries are unpickled, so that the file cannot run code.

    Args:
        path: The path of `raw-captions.pkl`.
        protocol: Not used. All functions that read lists have it.

    Raises:
        FileError: If the file holds anything else.
    """
    content = readers.read_plain_pickle(path)
    if not isinstance(content, dict):
        raise FileError("must hold a dictionary of captions by name")
    images = []
    for name, captions in content.items():
        texts = []
        for words in captions if isinstance(captions, list | tuple) else [captions]:
            are_words = isinstance(words, list | tuple) and all(isinstance(w, str) for w in words)
            texts.append(" ".join(words) if are_words else words)
        images.append(CaptionedImage(str(name), _check_captions(texts, f"{path}: {name}")))
    return images


def choose_by_names(images: Sequence[CaptionedImage], path: Path) -> list[CaptionedImage]:
    """Return the images that a file names, in its order.

    Args:
        images: All images with captions.
        path: The file, with a name per line.

    Raises:
        UsageError: If the file cannot be read, is empty, or names an image twice or one without
            captions.
    """
    with report_faults_at(f"{path}: "):
        names = [line for _, line in readers.lines(readers.read_text(path))]
        if not names:
            raise FileError("lists no names")
        if repeated := readers.first_repeated(names):
            raise FileError(f"lists {repeated[0]} twice")
        image_by_name = {image.name: image for image in images}
        for name in names:
            if name not in image_by_name:
                raise FileError(f"lists {name}, which has no captions")
    return [image_by_name[name] for name in names]


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
    """Return the captioned images of COCO's captions file.

    Images are sorted by their ids. The captions of an image are in the order of the file.

    Args:
        content: The content of the file:
            `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.
        path: The path of the file, for error messages.

    Raises:
        FileError: If the content has another format, if ids are not consistent, and if an image has
            no captions.
    """
    coco = parse(_Coco, content)
    ids_of_captions = [annotation.image_id for annotation in coco.annotations]
    _check_image_ids([image.id for image in coco.images], ids_of_captions)

    captions_by_id: dict[Any, list[str]] = {image.id: [] for image in coco.images}
    for annotation in coco.annotations:
        captions_by_id[annotation.image_id].append(annotation.caption)

    images = sorted(coco.images, key=attrgetter("id"))
    uncaptioned_ids = [image.id for image in images if not captions_by_id[image.id]]
    if uncaptioned_ids:
        raise FileError(
            f"has {len(uncaptioned_ids)} images without captions, first: image id "
            f"{uncaptioned_ids[0]}"
        )

    captioned_images = []
    for image in images:
        location = f"{path}: image id {image.id}"
        captions = _check_captions(captions_by_id[image.id], location)
        captioned_images.append(CaptionedImage(image.file_name, captions))
    return captioned_images


def _check_image_ids(image_ids: Sequence[Any], ids_of_captions: Sequence[Any]) -> None:
    """Raise FileError unless ids of images are distinct, and captions refer only to these ids.

    All ids must be whole numbers, or all must be text, because they become the keys of a
    dictionary: there, the ids 1, true and 1.0 would be the same key, and 1 and "1" different keys.

    Args:
        image_ids: The id of every image.
        ids_of_captions: For every caption, the id of the image that it describes.
    """
    n_ids_by_type = Counter(type(image_id) for image_id in [*image_ids, *ids_of_captions])
    is_one_type = len(n_ids_by_type) <= 1
    has_other_types = bool(n_ids_by_type.keys() - {int, str})
    if has_other_types or not is_one_type:
        types = ", ".join(f"{kind.__name__} ({count})" for kind, count in n_ids_by_type.items())
        raise FileError(f"has image ids that are not all whole numbers or all text, but {types}")

    if repeated := readers.first_repeated(image_ids):
        raise FileError(f"has image id {repeated[0]} twice")

    unlisted_ids = sorted(set(ids_of_captions) - set(image_ids))
    if unlisted_ids:
        raise FileError(
            f"has captions of {len(unlisted_ids)} images not listed, first: id {unlisted_ids[0]}"
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
    """Return the captioned images of a split from a file of Karpathy's splits, in its order.

    The format is from cs.stanford.edu/people/karpathy.

    Args:
        content: The content of the file:
            `{"images": [{"filename", "split", "sentences": [{"raw": CAPTION}]}]}`.
        path: The path of the file, for error messages.
        split: The name of the split, such as "test".

    Raises:
        FileError: If the content has another format, or no images of the split.
    """
    images = parse(_Karpathy, content).images
    captioned_images = []
    for index, image in enumerate(images):
        if image.split != split:
            continue
        name = f"{image.filepath}/{image.filename}" if image.filepath else image.filename
        sentences = [sentence.raw for sentence in image.sentences]
        captions = _check_captions(sentences, f"{path}, images[{index}]")
        captioned_images.append(CaptionedImage(name, captions))

    if not captioned_images:
        n_images_by_split = Counter(image.split for image in images)
        raise _missing_split_error(split, n_images_by_split)
    return captioned_images


def _read_text_list(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read a list of captions with one caption on each line, in one of three forms.

    - Only the caption. The name of its image is on the same line of another file, the protocol's
      `image_list`.
    - `1000092795#zhm#0<TAB>caption` or `1000092795.jpg#0<TAB>caption`, without a header, as in
      Flickr30k-CN and in Flickr30k's own list. The suffix of the image may be left out.
    - A header, and then `1.jpg,caption`, as CLIP Benchmark and Kaggle distribute captions.
    """
    if protocol.image_list:
        names = _read_plain_lines(_find_image_list(path, protocol))
        return _pair_lines(names, _read_plain_lines(path), path)
    text = readers.read_text(path)
    first_line = text.partition("\n")[0]
    if "#" in first_line.partition("\t")[0] and "\t" in first_line:
        return _parse_numbered_captions(text, path)
    return _read_flickr_list(path, protocol)


def _find_image_list(path: Path, protocol: RetrievalProtocol) -> Path:
    """Return the path of the file that names the images of a list of captions.

    Args:
        path: The path of the captions, to whose folder the protocol's `image_list` is relative.
        protocol: Its `image_list` may name several places. The first that exists is taken.

    Raises:
        FileError: If none of them exists.
    """
    places = [path.parent / place for place in as_tuple(protocol.image_list)]
    for place in places:
        if place.is_file():
            return place
    raise FileError(f"has captions alone: {places[0]}, which names their images, is not there")


def _read_plain_lines(path: Path) -> list[str]:
    """Return the lines of a text file without white space at their ends, also blank ones."""
    return [line.strip() for line in readers.read_text(path).rstrip().split("\n")]


def _pair_lines(names: Any, captions: Any, path: Path) -> list[CaptionedImage]:
    """Return images with one caption each, from a list of names and a list of captions.

    Args:
        names: The names of N images.
        captions: The N captions, in the same order.
        path: The path of the captions, for error messages.

    Raises:
        FileError: If the numbers differ, and for values that are not lists of texts.
        UsageError: For a blank caption.
    """
    if not isinstance(names, list) or not isinstance(captions, list):
        raise FileError("must have a list of images and a list of captions")
    if len(names) != len(captions):
        raise FileError(f"has {len(captions)} captions for {len(names)} images")
    images = []
    for number, (name, caption) in enumerate(zip(names, captions, strict=True), start=1):
        if not isinstance(name, str) or not name:
            raise FileError(f"line {number}: must name an image, not {name!r}")
        images.append(CaptionedImage(name, _check_captions(caption, f"{path}, line {number}")))
    return images


def _parse_numbered_captions(text: str, path: Path) -> list[CaptionedImage]:
    """Return the captioned images of lines such as `1000092795#zhm#0<TAB>caption`.

    Raise FileError for a line in another form. `path` names the file in error messages.
    """
    images = []
    for number, line in readers.lines(text):
        identity, tab, caption = line.partition("\t")
        name = identity.partition("#")[0].strip()
        if not tab or not name:
            raise FileError(f"line {number}: expected IMAGE#NUMBER, a tab and a caption")
        captions = _check_captions(caption.strip(), f"{path}, line {number}")
        images.append(CaptionedImage(name, captions))
    return _merge_by_name(images)


class _FlickrLine(NamedTuple):
    """A line such as `1.jpg,"A dog, asleep"` of a list of captions."""

    # The number of the line in the file.
    number: int
    # The name of the image without `.jpg`: `1`.
    image: str
    # Everything after the first comma: `"A dog, asleep"`.
    text: str
    # The text without quotes if it is one field of a CSV file, or else None: `A dog, asleep`.
    csv_field: str | None


def _read_flickr_list(path: Path, protocol: RetrievalProtocol) -> list[CaptionedImage]:
    """Read a list of captions of Flickr as CLIP Benchmark and Kaggle distribute it.

    The list has a header, and then lines such as `1.jpg,A dog`. A caption with a comma is written
    in one of two styles, which is the same for all lines of a list:

    - CSV: captions are fields of a CSV file, in quotes if necessary: `1.jpg,"A dog, asleep"`.
    - Plain: a caption is all text after `.jpg,`, as in clip_benchmark/datasets/flickr.py:
      `1.jpg,A dog, asleep`.

    Args:
        path: The path of the list.
        protocol: Not used. All functions that read lists have it.

    Raises:
        FileError: If some lines can only be CSV, and others can only be plain.
    """
    lines = _read_flickr_lines(path)

    # Lines with a comma or a quote can only be in one of the styles. All other lines, such as
    # `1.jpg,A dog`, are the same in both.
    only_plain_lines = []
    only_csv_lines = []
    for line in lines:
        if line.csv_field is None:
            only_plain_lines.append(line)
        elif line.csv_field != line.text:
            only_csv_lines.append(line)
    if only_plain_lines and only_csv_lines:
        raise FileError(
            f"line {only_plain_lines[0].number}: the caption holds a comma or a quote and is not "
            f"a CSV field, but line {only_csv_lines[0].number} has a CSV field; write all lines as "
            "CSV"
        )

    has_plain_style = bool(only_plain_lines)
    images = []
    for line in lines:
        caption = line.text if has_plain_style else line.csv_field
        captions = _check_captions(caption, f"{path}, line {line.number}")
        images.append(CaptionedImage(f"{line.image}.jpg", captions))
    return _merge_by_name(images)


def _read_flickr_lines(path: Path) -> list[_FlickrLine]:
    """Return the lines of a list of captions that are below its header.

    Raise FileError if the header is missing, and for a line that is not `IMAGE.jpg,caption`.
    """
    numbered_lines = list(readers.lines(readers.read_text(path)))
    if not numbered_lines:
        return []
    header_number, header = numbered_lines[0]
    if ".jpg," in header:
        raise FileError(f"line {header_number}: must be a header, not an image")

    lines = []
    for number, line in numbered_lines[1:]:
        image, separator, text = line.partition(".jpg,")
        if not image or not separator:
            raise FileError(f"line {number}: expected IMAGE.jpg,caption")
        lines.append(_FlickrLine(number, image, text, _parse_csv_field(text)))
    return lines


def _parse_csv_field(text: str) -> str | None:
    """Return the content of a text that is one field of a CSV file, or None for any other text.

    Example:
        `A dog` gives `A dog`. `"A dog, asleep"` in quotes gives `A dog, asleep`. Without quotes,
        `A dog, asleep` gives None, because it would be two fields.
    """
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
    ".txt": _read_text_list,
    ".pkl": _read_pickle,
}


def read_archives(
    root: Path, protocol: RetrievalProtocol
) -> tuple[list[CaptionedImage], list[sources.ArchiveMember]]:
    """Return the captioned images of tar archives, and the sources of the images.

    A sample of an archive is an image such as `00012.jpg` with its captions beside it: the lines of
    `00012.txt`, as CLIP Benchmark's webdataset_builder.py writes them, or a record `00012.json`.
    The name of the sample is `test/0.tar:00012`: the path of its archive, and the common name of
    its files.

    Args:
        root: The folder that paths of archives are relative to.
        protocol: Names the archives (`archives`), and the keys of records.

    Raises:
        UsageError: If captions are missing, or if a sample occurs twice.
    """
    samples = sources.open_archives(_find_archives(root, protocol))
    first_sample = samples[0]
    if "txt" in first_sample.members:
        extension = "txt"
    elif "json" in first_sample.members:
        extension = "json"
    else:
        raise UsageError(
            f"{first_sample.name} has neither a .txt of captions, one per line, nor a .json record "
            f"with them, only {', '.join(first_sample.members)}"
        )

    captioned_images = []
    for sample in samples:
        name = f"{os.path.relpath(sample.archive, root)}:{sample.key}"
        captions = _read_captions_of_sample(sample, extension, protocol)
        captioned_images.append(CaptionedImage(name, captions))
    if extension == "json":
        _refuse_lists_as_captions(captioned_images, first_sample.archive, protocol)
    if repeated := readers.first_repeated(image.name for image in captioned_images):
        raise UsageError(f"sample {repeated[0]} is listed twice")
    return captioned_images, [sample.image() for sample in samples]


def _read_captions_of_sample(
    sample: sources.ArchiveSample, extension: str, protocol: RetrievalProtocol
) -> tuple[str, ...]:
    """Return the captions of a sample in an archive.

    Args:
        sample: The files of the sample, such as `00012.jpg` and `00012.txt`.
        extension: `txt` if captions are the lines of a text file, or `json` if they are in a record
            such as `{"caption": "A dog"}`.
        protocol: The key of the captions in a record.

    Raises:
        UsageError: If the captions are missing or broken.
    """
    location = f"{sample.name}.{extension}"
    content = sample.text(extension)
    if extension == "txt":
        return _check_captions(content.splitlines(), location)
    with report_faults_at(f"{location} "):
        record = readers.parse_json(content)
    if not isinstance(record, dict):
        raise UsageError(f"{location}: must be a record with captions")
    return _read_captions_of_record(record, protocol, location)


def _find_archives(root: Path, protocol: RetrievalProtocol) -> list[Path]:
    """Return the paths of the tar archives that a protocol names.

    Args:
        root: The folder that their paths are relative to.
        protocol: Its field `archives` holds paths and patterns such as `test/*.tar`, or a single
            folder in CLIP Benchmark's layout (clip_benchmark/datasets/builder.py). The folder
            stands for the archives of the protocol's split.

    Raises:
        UsageError: If a pattern matches no archive, and for a folder in another layout.
    """
    patterns = as_tuple(protocol.archives)

    # A folder in CLIP Benchmark's layout.
    folder = root / patterns[0]
    if len(patterns) == 1 and folder.is_dir():
        kind = sources.read_layout_file(folder / "dataset_type.txt")
        if kind.lower() != "retrieval":
            raise UsageError(
                f"{folder} is of type {kind!r}, not retrieval, by its dataset_type.txt; name other "
                "archives by a pattern such as FOLDER/*.tar"
            )
        return sources.numbered_archives(folder / protocol.split)

    # Paths and patterns.
    archives: list[Path] = []
    for pattern in patterns:
        if (root / pattern).exists():  # a file name may have brackets, which glob would expand
            names = [pattern]
        else:
            names = sorted(glob.glob(pattern, root_dir=root))
        if not names:
            raise UsageError(f"no archive {root / pattern}")
        archives.extend(root / name for name in names)
    return archives


def _read_image_name(record: Mapping[str, Any], protocol: RetrievalProtocol, location: str) -> str:
    """Return the path of a record's image, such as "1.jpg".

    Args:
        record: A record such as `{"image": "1.jpg", "caption": "A dog"}`.
        protocol: The key of the path is `protocol.image_key`, or else one of the usual keys such as
            `image`.
        location: The name of the record in error messages.

    Raises:
        UsageError: If the path is missing, or if it is not text.
    """
    if protocol.image_key is not None:
        name = _require_key(record, protocol.image_key, location)
    else:
        name = _require_one_key(record, _IMAGE_KEYS, "image_key", location)
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{location}: the image must be a path, not {name!r}")
    return name


def _read_caption_value(
    record: Mapping[str, Any], protocol: RetrievalProtocol, location: str
) -> Any:
    """Return the value of a record that holds its captions, without checking it.

    Captions in several languages are records below the name of their language, as in Crossmodal-
    3600: `{"image/key": "1", "de": {"caption": ["Ein Hund"]}, "en": {"caption": ["A dog"]}}`.

    Args:
        record: A record such as `{"image": "1.jpg", "caption": "A dog"}`.
        protocol: The key of the value is `protocol.caption_key`, or else one of the usual keys such
            as `caption`.
        location: The name of the record in error messages.

    Raises:
        UsageError: If the record has no such key.
    """
    if protocol.language is not None:
        record = _require_key(record, protocol.language, location)
        location = f"{location}, {protocol.language}"
        if not isinstance(record, Mapping):
            raise UsageError(f"{location}: must be a record with captions")
    if protocol.caption_key is not None:
        return _require_key(record, protocol.caption_key, location)
    return _require_one_key(record, _CAPTION_KEYS, "caption_key", location)


def _require_key(record: Mapping[str, Any], key: str, location: str) -> Any:
    """Return the value of a key of a record, such as "A dog" for the key "caption".

    Raise UsageError, which names the `location` of the record, if the record lacks the key.
    """
    if key not in record:
        raise UsageError(f"{location}: no `{key}`, only {_format_keys(record)}")
    return record[key]


def _require_one_key(
    record: Mapping[str, Any], usual_keys: Sequence[str], option: str, location: str
) -> Any:
    """Return the value of the one usual key that a record has.

    Args:
        record: A record such as `{"image": "1.jpg", "caption": "A dog"}`.
        usual_keys: The keys to look for, such as `("caption", "captions", "title")`.
        option: The field of the protocol that can name the key instead, for the error message:
            `image_key` or `caption_key`.
        location: The name of the record in error messages.

    Raises:
        UsageError: If the record has none or several of the usual keys.
    """
    present_keys = [key for key in usual_keys if key in record]
    if len(present_keys) > 1:
        keys = " and ".join(present_keys)
        raise UsageError(f"{location}: has {keys}; name one with image_key or caption_key")
    if not present_keys:
        keys = " or ".join(f"`{key}`" for key in usual_keys)
        raise UsageError(
            f"{location}: no {keys}, only {_format_keys(record)}; name the one that is meant "
            f"by `{option}`"
        )
    return record[present_keys[0]]


def _format_keys(record: Mapping[str, Any]) -> str:
    """Return the keys of a record for an error message: `image, text`, or `nothing`."""
    return ", ".join(map(str, record)) or "nothing"


def _check_captions(value: Any, location: str) -> tuple[str, ...]:
    """Check the captions of one image, and return them as a tuple.

    Args:
        value: The captions: a text, or a list or tuple of texts.
        location: Where they are in a file, for error messages.

    Raises:
        UsageError: If there are none, or if one of them is blank or not text.
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
    """Return every image once, with the captions of all records that name it.

    Images are in the order in which they occur first, and captions in the order of the records.

    Example:
        Records of `1.jpg` with "A dog", of `2.jpg` with "A cat" and of `1.jpg` with "An animal"
        give `1.jpg` with ("A dog", "An animal"), and `2.jpg` with ("A cat",).
    """
    captions_by_image: dict[str, list[str]] = {}
    for record in records:
        captions_by_image.setdefault(record.name, []).extend(record.captions)
    return [CaptionedImage(name, tuple(captions)) for name, captions in captions_by_image.items()]
