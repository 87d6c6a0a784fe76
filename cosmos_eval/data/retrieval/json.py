"""JSON files of captions: COCO's, Karpathy's and BLIP's forms, told apart by what they hold.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from cosmos_eval.data import readers
from cosmos_eval.data.readers import FileError
from cosmos_eval.data.retrieval.records import (
    Captioned,
    Keys,
    captioned,
    merged,
    require_distinct,
    texts,
)
from cosmos_eval.types import RetrievalProtocol, UsageError

_FORMS = (
    "COCO's {images, annotations}, Karpathy's {images: [{filename, split, sentences}]}, "
    "or a list of {image, caption}"
)


def read_json(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    """Images and captions of a JSON file in any of the three forms."""
    try:
        content = readers.read_json(path)
    except FileError as error:
        raise UsageError(f"{path} {error}; one record a line is .jsonl") from error
    if isinstance(content, list):
        keys = Keys.of(protocol)
        return merged(captioned(item, keys, f"{path}, [{i}]") for i, item in enumerate(content))
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise UsageError(f"{path} has none of the known forms: {_FORMS}")
    if not images:
        raise UsageError(f"{path} lists no images")
    if "annotations" not in content and isinstance(images[0], dict) and "sentences" in images[0]:
        return _karpathy(images, path, protocol.split)
    return _coco(content, path)


def _coco(content: dict[str, Any], path: Path) -> list[Captioned]:
    """Images in the order of their ids, an image's captions in the order of the file."""
    coco = _index(content, path)
    images, captions = content["images"], content.get("annotations", ())
    _require_one_kind([*(i["id"] for i in images), *(c["image_id"] for c in captions)], path)
    require_distinct((image["id"] for image in images), f"{path}: image id")
    bare = sorted(coco.imgs.keys() - coco.imgToAnns.keys())
    if bare:
        raise UsageError(f"{path}: {len(bare)} images without captions, first: image id {bare[0]}")
    lost = sorted(coco.imgToAnns.keys() - coco.imgs.keys())
    if lost:
        raise UsageError(f"{path}: captions of {len(lost)} images not listed, first: id {lost[0]}")
    return [
        _coco_image(coco, image_id, f"{path}: image id {image_id}")
        for image_id in sorted(coco.imgs)
    ]


def _require_one_kind(ids: Iterable[Any], path: Path) -> None:
    """Require whole numbers, or else texts: 1, true and 1.0 would be one id, 1 and "1" two."""
    kinds = Counter(map(type, ids))
    if len(kinds) > 1 or kinds.keys() - {int, str}:
        found = ", ".join(f"{kind.__name__} ({count})" for kind, count in kinds.items())
        raise UsageError(f"{path}: image ids must be all whole numbers or all text, not {found}")


def _index(content: dict[str, Any], path: Path) -> COCO:
    coco = COCO()
    coco.dataset = content
    try:
        # pycocotools prints what it does.
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    except (KeyError, TypeError, AttributeError) as error:
        # It checks nothing: a file of another shape fails wherever it is first looked into.
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not a COCO-captions JSON file ({reason})") from error
    return coco


def _coco_image(coco: COCO, image_id: Any, where: str) -> Captioned:
    name = coco.imgs[image_id].get("file_name")
    if not isinstance(name, str):
        raise UsageError(f"{where} has no file_name")
    return Captioned(name, texts([note.get("caption") for note in coco.imgToAnns[image_id]], where))


def _karpathy(images: list[Any], path: Path, split: str) -> list[Captioned]:
    """The images of a split, in the order of the file (cs.stanford.edu/people/karpathy)."""
    for i, image in enumerate(images):
        for key, kind in (("filename", str), ("split", str), ("sentences", list)):
            if not isinstance(image, dict) or not isinstance(image.get(key), kind):
                raise UsageError(f"{path}, images[{i}] has no `{key}`, or it is no {kind.__name__}")
    wanted = [(i, image) for i, image in enumerate(images) if image["split"] == split]
    if not wanted:
        splits = Counter(image["split"] for image in images)
        has = ", ".join(f"{name} ({count})" for name, count in splits.items())
        raise UsageError(f"{path} has no images of split {split!r}, only of {has}")
    return [_karpathy_image(image, f"{path}, images[{i}]") for i, image in wanted]


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
    return Captioned(name, texts(captions, where))
