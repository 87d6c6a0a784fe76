"""COCO-captions JSON -> images and captions, read by pycocotools. Imports no torch."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from cosmos_eval.sources import ImageFile, ImageSource
from cosmos_eval.tasks.images import data_path
from cosmos_eval.types import RetrievalProtocol, RunOptions, UsageError


class RetrievalData(NamedTuple):
    """Images in the order of their ids, an image's captions in the order of the file.

    `names` are paths below the image folder; `image_of_text` (M,) numbers images from 0.
    """

    names: tuple[str, ...]
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    image_of_text: NDArray[np.int64]


def open_data(protocol: RetrievalProtocol, options: RunOptions) -> RetrievalData:
    """Read the annotations and look for every image file; no image is decoded.

    Raises UsageError for missing files, a malformed annotation file, images without captions and
    captions without images.
    """
    folder = data_path(protocol, options, protocol.images)
    annotations = data_path(protocol, options, protocol.annotations)
    coco = _read_coco(annotations)
    _require_matched(coco, annotations)
    ids = sorted(coco.imgs)[: options.limit]
    captions = [_captions(coco, image_id, protocol, annotations) for image_id in ids]
    names = tuple(str(coco.imgs[image_id].get("file_name")) for image_id in ids)
    paths = tuple(folder / name for name in names)
    _require_files(paths, annotations)
    return RetrievalData(
        names=names,
        images=tuple(ImageFile(path) for path in paths),
        captions=tuple(caption for some in captions for caption in some),
        image_of_text=np.repeat(np.arange(len(ids)), [len(some) for some in captions]),
    )


def _read_coco(path: Path) -> COCO:
    try:
        # pycocotools prints how long it takes.
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(path)
    except (OSError, ValueError, AssertionError, KeyError, TypeError, AttributeError) as error:
        # It checks nothing: a file of another shape fails wherever it is first looked into.
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not a COCO-captions JSON file ({reason})") from error


def _require_matched(coco: COCO, path: Path) -> None:
    if not coco.imgs:
        raise UsageError(f"{path} lists no images")
    bare = sorted(coco.imgs.keys() - coco.imgToAnns.keys())
    if bare:
        raise UsageError(f"{path}: {len(bare)} images without captions, first: image id {bare[0]}")
    lost = sorted(coco.imgToAnns.keys() - coco.imgs.keys())
    if lost:
        raise UsageError(f"{path}: captions of {len(lost)} images not listed, first: id {lost[0]}")


def _captions(coco: COCO, image_id: Any, protocol: RetrievalProtocol, path: Path) -> list[str]:
    found = [note.get("caption") for note in coco.imgToAnns[image_id]]
    for caption in found:
        if not isinstance(caption, str) or not caption.strip():
            raise UsageError(f"{path}: image id {image_id} has an annotation without a caption")
    return found[: protocol.captions_per_image]


def _require_files(paths: tuple[Path, ...], annotations: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(paths)} images of {annotations.name} are not there, "
            f"first: {missing[0]}"
        )
