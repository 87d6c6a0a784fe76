"""A retrieval data set on the disk -> images and captions. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.images import (
    advice,
    fingerprint,
    parts_of,
    require_counts,
    shortfall,
    wrong_counts,
)
from cosmos_eval.data.retrieval.archives import read_archives
from cosmos_eval.data.retrieval.json import read_json
from cosmos_eval.data.retrieval.lines import read_flickr_list, read_json_lines, read_table
from cosmos_eval.data.retrieval.places import annotation_file, image_folder, root_of
from cosmos_eval.data.retrieval.records import Captioned, require_distinct
from cosmos_eval.data.sources import ImageFile, ImageSource
from cosmos_eval.types import Part, RetrievalProtocol, RunOptions, UsageError

_FORMS: Mapping[str, Callable[[Path, RetrievalProtocol], list[Captioned]]] = MappingProxyType(
    {
        ".json": read_json,
        ".jsonl": read_json_lines,
        ".csv": read_table,
        ".tsv": read_table,
        ".txt": read_flickr_list,
    }
)


class RetrievalData(NamedTuple):
    """Images and captions in the order of the file; those of a COCO file in that of image ids.

    `names` are paths as the file has them; `image_of_text` (M,) numbers images from 0.
    """

    names: tuple[str, ...]
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    image_of_text: NDArray[np.int64]


class Survey(NamedTuple):
    """What there is of a data set: images `listed`, `images` that are there, in a folder, captions.

    `faults` says, a line each, why it cannot be measured.
    """

    folder: Path
    listed: int
    images: int
    captions: int
    faults: tuple[str, ...]


class _Found(NamedTuple):
    """Captioned images, where each is, and those of files that are not there."""

    captioned: list[Captioned]
    images: Sequence[ImageSource]
    missing: Sequence[Path]
    listed_in: Path
    folder: Path


def open_data(protocol: RetrievalProtocol, options: RunOptions) -> RetrievalData:
    """Read the captions and look for every image; none is decoded.

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
    kept = [some.captions[: protocol.captions_per_image] for some in found.captioned]
    return RetrievalData(
        names=tuple(some.name for some in found.captioned),
        images=tuple(found.images),
        captions=tuple(caption for some in kept for caption in some),
        image_of_text=np.repeat(np.arange(len(kept)), [len(some) for some in kept]),
    )


def sample_list_hash(data: RetrievalData) -> str:
    """SHA-256 of names, captions and which belong together, in hexadecimal."""
    return fingerprint([data.names, data.captions, data.image_of_text.tolist()])


def survey(protocol: RetrievalProtocol, options: RunOptions) -> Survey:
    """Count what there is, and say all that is wrong with it.

    Raises UsageError where captions cannot be read, or no folder of images is there.
    """
    found = _find(protocol, options)
    counts = _counts(found.captioned, protocol)
    wrong = wrong_counts(protocol, options, found.listed_in, counts)
    return Survey(
        folder=found.folder,
        listed=len(found.captioned),
        images=len(found.captioned) - len(found.missing),
        captions=sum(len(some.captions) for some in found.captioned),
        faults=(*wrong, *_faults(found, protocol)),
    )


def part(protocol: RetrievalProtocol, options: RunOptions) -> Part | None:
    """The number of images or captions of a known data set where some are missing, else None.

    Raises UsageError where captions cannot be read and where there are more than known.
    """
    found = _find(protocol, options)
    counts = _counts(found.captioned, protocol)
    require_counts(protocol, options, found.listed_in, counts)
    return shortfall(counts)


def _counts(captioned: Sequence[Captioned], protocol: RetrievalProtocol) -> list[Part]:
    captions = sum(len(some.captions) for some in captioned)
    return parts_of(
        images=(len(captioned), protocol.n_images), captions=(captions, protocol.n_captions)
    )


def _find(protocol: RetrievalProtocol, options: RunOptions) -> _Found:
    _require_sound(protocol)
    root = root_of(protocol, options)
    if protocol.archives:
        captioned, members = read_archives(root, protocol)
        folder = members[0].archive.parent
        return _Found(captioned[: options.limit], members[: options.limit], (), folder, folder)
    path = annotation_file(root, protocol)
    captioned = _read(path, protocol)[: options.limit]
    folder, missing = image_folder(root, protocol, [some.name for some in captioned])
    if options.allow_partial and protocol.n_images is not None and len(missing) < len(captioned):
        absent = set(missing)
        captioned = [some for some in captioned if folder / some.name not in absent]
        missing = []
    images = [ImageFile(folder / some.name) for some in captioned]
    return _Found(captioned, images, missing, path, folder)


def _read(path: Path, protocol: RetrievalProtocol) -> list[Captioned]:
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"{path} has no known form of captions: {', '.join(_FORMS)}; "
            "tar archives are named by `archives`"
        )
    captioned = form(path, protocol)
    if not captioned:
        raise UsageError(f"{path} lists no images")
    if protocol.bare_names:
        captioned = [some._replace(name=PurePosixPath(some.name).name) for some in captioned]
    require_distinct((some.name for some in captioned), f"{path}: image")
    return captioned


def _require_sound(protocol: RetrievalProtocol) -> None:
    if bool(protocol.annotations) == bool(protocol.archives):
        raise UsageError(f"{protocol.dataset}: give `annotations` or `archives`, one of them")
    if protocol.captions_per_image == 0:
        raise UsageError(f"{protocol.dataset}: `captions_per_image` must be 1 or more, or null")


def _faults(found: _Found, protocol: RetrievalProtocol) -> Iterator[str]:
    """What is wrong with data that can be read, besides their number."""
    if found.missing:
        yield (
            f"{len(found.missing)} of {len(found.captioned)} images missing, "
            f"first: {found.missing[0]}" + _also_looked(found, protocol)
        )


def _also_looked(found: _Found, protocol: RetrievalProtocol) -> str:
    """Where else no image is, so that a folder that is only called otherwise is seen."""
    if len(found.missing) < len(found.captioned) or isinstance(protocol.images, str):
        return ""
    return f"; images are looked for in {', '.join(protocol.images)}"
