"""A retrieval data set on the disk: images, captions, and which belong together.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.captions import Captioned, read_archives, read_captions
from cosmos_eval.data.folders import (
    Survey,
    advice,
    data_path,
    fingerprint,
    missing_path,
    parts_of,
    require_counts,
    root_of,
    several,
    shortfall,
    wrong_counts,
)
from cosmos_eval.data.sources import ImageFile, ImageSource
from cosmos_eval.types import (
    OnProgress,
    Part,
    RetrievalProtocol,
    RunOptions,
    UsageError,
    no_progress,
)


class RetrievalData(NamedTuple):
    """Images and captions in the order of the file; those of a COCO file in that of image ids.

    `names` are paths as the file has them; `image_of_text` (M,) is the index of each caption's
    image.
    """

    names: tuple[str, ...]
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    image_of_text: NDArray[np.int64]


class _Found(NamedTuple):
    """Captioned images, the source of each, and the files that are not there."""

    captioned: list[Captioned]
    images: Sequence[ImageSource]
    missing: Sequence[Path]
    listed_in: Path
    folder: Path


def open_data(protocol: RetrievalProtocol, options: RunOptions) -> RetrievalData:
    """Read the captions and find every image; none is decoded.

    `options.limit` keeps the first images, `options.allow_partial` those of a known set that are
    there. Raises UsageError for missing files, a malformed annotation file, images without
    captions, captions without images, and counts that are not the protocol's.
    """
    found = _find(protocol, options)
    require_counts(protocol, options, found.listed_in, _counts(found.captioned, protocol))
    for fault in _faults(found, protocol):
        if protocol.n_images is None:
            raise UsageError(fault)
        raise UsageError(f"{protocol.dataset}: {fault}{advice(protocol, options)}")
    kept = [image.captions[: protocol.captions_per_image] for image in found.captioned]
    return RetrievalData(
        names=tuple(image.name for image in found.captioned),
        images=tuple(found.images),
        captions=tuple(caption for captions in kept for caption in captions),
        image_of_text=np.repeat(np.arange(len(kept)), [len(captions) for captions in kept]),
    )


def sample_list_hash(data: RetrievalData) -> str:
    """Return the SHA-256 of names, captions and which belong together, in hexadecimal."""
    return fingerprint([data.names, data.captions, data.image_of_text.tolist()])


def survey(
    protocol: RetrievalProtocol, options: RunOptions, progress: OnProgress = no_progress
) -> Survey:
    """Count images and captions, and list all that is wrong with them.

    Raises UsageError where captions cannot be read, or no folder of images is there.
    """
    found = _find(protocol, options)
    wrong = wrong_counts(protocol, options, found.listed_in, _counts(found.captioned, protocol))
    faults = (*wrong, *_faults(found, protocol))
    captions = sum(len(image.captions) for image in found.captioned)
    return Survey(
        faults=faults,
        remedy=protocol.download if faults else None,
        folder=str(found.folder),
        expected=protocol.n_images or len(found.captioned),
        images=len(found.captioned) - len(found.missing),
        expected_captions=protocol.n_captions or captions,
        captions=captions,
    )


def part(protocol: RetrievalProtocol, options: RunOptions) -> Part | None:
    """Return the number of images or captions of a known data set where some are missing.

    Raises UsageError where captions cannot be read and where there are more than known.
    """
    found = _find(protocol, options)
    counts = _counts(found.captioned, protocol)
    require_counts(protocol, options, found.listed_in, counts)
    return shortfall(counts)


def _counts(captioned: Sequence[Captioned], protocol: RetrievalProtocol) -> list[Part]:
    captions = sum(len(image.captions) for image in captioned)
    return parts_of(
        images=(len(captioned), protocol.n_images), captions=(captions, protocol.n_captions)
    )


def _find(protocol: RetrievalProtocol, options: RunOptions) -> _Found:
    if bool(protocol.annotations) == bool(protocol.archives):
        raise UsageError(f"{protocol.dataset}: give `annotations` or `archives`, one of them")
    if protocol.captions_per_image == 0:
        raise UsageError(f"{protocol.dataset}: `captions_per_image` must be 1 or more, or null")
    root = root_of(protocol, options, protocol.archives or protocol.annotations)
    if protocol.archives:
        captioned, members = read_archives(root, protocol)
        folder = members[0].archive.parent
        return _Found(captioned[: options.limit], members[: options.limit], (), folder, folder)
    path = data_path(protocol, options, protocol.annotations, "captions")
    captioned = read_captions(path, protocol)[: options.limit]
    folder, missing = _image_folder(root, protocol, [image.name for image in captioned])
    if options.allow_partial and protocol.n_images is not None and len(missing) < len(captioned):
        absent = set(missing)
        captioned = [image for image in captioned if folder / image.name not in absent]
        missing = []
    images = [ImageFile(folder / image.name) for image in captioned]
    return _Found(captioned, images, missing, path, folder)


def _image_folder(
    root: Path, protocol: RetrievalProtocol, names: Sequence[str]
) -> tuple[Path, list[Path]]:
    """Return the first folder that holds all images, or that which lacks fewest, and these."""
    best: tuple[Path, list[Path]] | None = None
    for folder in (root / path for path in several(protocol.images)):
        if folder.is_dir():
            missing = [path for path in (folder / name for name in names) if not path.is_file()]
            if not missing:
                return folder, []
            if best is None or len(missing) < len(best[1]):
                best = folder, missing
    if best is None:
        raise missing_path(protocol, root, protocol.images, "images")
    return best


def _faults(found: _Found, protocol: RetrievalProtocol) -> Iterator[str]:
    """Yield what is wrong with data that can be read, besides their number."""
    missing, listed = len(found.missing), len(found.captioned)
    if missing:
        also = ""
        if missing == listed and not isinstance(protocol.images, str):
            # Of a folder that only has another name.
            also = f"; images are looked for in {', '.join(protocol.images)}"
        yield f"{missing} of {listed} images missing, first: {found.missing[0]}{also}"
