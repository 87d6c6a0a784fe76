"""A retrieval data set on the disk: images, captions, and their pairs. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.captions import (
    CaptionedImage,
    measured_captions,
    read_archives,
    read_captions,
)
from cosmos_eval.data.sources import (
    ImageFile,
    ImageFolder,
    ImageSource,
    ImageZip,
    holds_images,
    open_image_place,
)
from cosmos_eval.types import FoundSamples, RetrievalProtocol, RunOptions, UsageError


class RetrievalData(NamedTuple):
    """Images and captions in the order of the file, or of the image ids for a COCO file."""

    names: tuple[str, ...]  # (N,) paths of the images as the file has them
    images: tuple[ImageSource, ...]  # (N,)
    captions: tuple[str, ...]  # (M,)
    image_of_text: NDArray[np.int64]  # (M,) index of each caption's image
    found_samples: FoundSamples | None = (
        None  # how many samples there are, if a known set is incomplete
    )


class _ListedImages(NamedTuple):
    """Images with captions, and the places where their files are looked for."""

    list_path: Path  # the file of captions, or the folder of the archives
    image_folder: Path
    captioned_images: list[CaptionedImage]
    sources: list[ImageSource]  # one for each captioned image, also if its file is missing
    missing_files: list[Path]


def open_data(protocol: RetrievalProtocol, options: RunOptions) -> RetrievalData:
    """List the images and captions, or those found of a partial set. Raise UsageError for faults.

    `options.allow_partial` and `options.limit` say how much of the set is measured.
    """
    return list_data(protocol, options).require(protocol, options)


def sample_list_hash(data: RetrievalData) -> str:
    """Return the SHA-256 of the names, the captions and their pairs, in hexadecimal."""
    return folders.fingerprint([data.names, data.captions, data.image_of_text.tolist()])


def list_data(protocol: RetrievalProtocol, options: RunOptions) -> folders.Listing[RetrievalData]:
    """List images and captions with all faults. Raise UsageError if captions cannot be read."""
    _check_protocol(protocol)
    if protocol.archives:
        listed_images = _list_archives(protocol, options)
    else:
        listed_images = _list_files(protocol, options)
    n_images = len(listed_images.captioned_images)
    n_captions = sum(len(image.captions) for image in listed_images.captioned_images)
    counts = folders.known_counts(
        images=(n_images, protocol.n_images), captions=(n_captions, protocol.n_captions)
    )
    faults = []
    if listed_images.missing_files:
        faults.append(_missing_images_fault(listed_images, protocol, options))
    return folders.Listing(
        data=_make_data(listed_images, protocol, folders.first_shortfall(counts)),
        path=listed_images.list_path,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(listed_images.image_folder),
            expected=protocol.n_images or n_images,
            images=n_images - len(listed_images.missing_files),
            expected_captions=protocol.n_captions or n_captions,
            captions=n_captions,
        ),
    )


def _check_protocol(protocol: RetrievalProtocol) -> None:
    """Raise UsageError for fields that contradict each other or are out of range."""
    if bool(protocol.annotations) == bool(protocol.archives):
        raise UsageError(f"{protocol.dataset}: give `annotations` or `archives`, one of them")
    if protocol.captions_per_image == 0:
        raise UsageError(f"{protocol.dataset}: `captions_per_image` must be 1 or more, or null")
    if protocol.pairs not in ("all", None) and int(protocol.pairs) < 1:
        raise UsageError(f"{protocol.dataset}: `pairs` must be 1 or more, `all` or null")


def _list_archives(protocol: RetrievalProtocol, options: RunOptions) -> _ListedImages:
    """Read captions from tar archives, which hold the images too."""
    root = folders.root_of(protocol, options, protocol.archives)
    captioned_images, members = read_archives(root, protocol)
    archive_folder = members[0].archive.parent
    return _ListedImages(
        list_path=archive_folder,
        image_folder=archive_folder,
        captioned_images=captioned_images[: options.limit],
        sources=list(members[: options.limit]),
        missing_files=[],
    )


def _list_files(protocol: RetrievalProtocol, options: RunOptions) -> _ListedImages:
    """Read captions from a file, and locate the images that it names.

    With `options.allow_partial`, leave out missing images of a known set unless all are missing.
    """
    root = folders.root_of(protocol, options, protocol.annotations)
    list_path = folders.data_path(protocol, options, protocol.annotations, "captions")
    captioned_images = read_captions(list_path, protocol)[: options.limit]
    image_folder, sources = _locate_images(root, protocol, captioned_images)
    all_missing = all(source is None for source in sources)
    skip_missing = options.allow_partial and protocol.n_images is not None and not all_missing
    listed_images = _ListedImages(list_path, image_folder, [], [], [])
    for image, source in zip(captioned_images, sources, strict=True):
        if source is None and skip_missing:
            continue
        listed_images.captioned_images.append(image)
        if source is None:
            path = image_folder / image.name
            listed_images.missing_files.append(path)
            listed_images.sources.append(ImageFile(path))
        else:
            listed_images.sources.append(source)
    return listed_images


def _locate_images(
    root: Path, protocol: RetrievalProtocol, captioned_images: Sequence[CaptionedImage]
) -> tuple[Path, list[ImageSource | None]]:
    """Return the image folder, and the source of every captioned image, None if it is missing.

    Of the protocol's alternative folders, the one that lacks the fewest images is returned. A list
    of several `parts` may have its images in all of the folders. The first one is returned then.
    """
    paths = folders.as_tuple(protocol.images)
    places = [root / path for path in paths if holds_images(root / path)]
    if not places:
        raise folders.missing_path_error(protocol, root, paths, "images")
    if protocol.parts:
        return places[0], _find_in_places(places, captioned_images)
    best_place, best_sources = places[0], _find_in_places(places[:1], captioned_images)
    for place in places[1:]:
        if best_sources.count(None) == 0:
            break
        sources = _find_in_places([place], captioned_images)
        if sources.count(None) < best_sources.count(None):
            best_place, best_sources = place, sources
    return best_place, best_sources


def _find_in_places(
    places: Sequence[Path], captioned_images: Sequence[CaptionedImage]
) -> list[ImageSource | None]:
    """Look for every image in folders or zip files; return None for a missing one."""
    image_places = [open_image_place(place) for place in places]
    sources: list[ImageSource | None] = []
    for image in captioned_images:
        sources.append(_find_image(image, image_places))
    return sources


def _find_image(
    image: CaptionedImage, image_places: Sequence[ImageFolder | ImageZip]
) -> ImageSource | None:
    """Return the first image in the places that has the name or the path, or None."""
    for place in image_places:
        for name in (image.name, image.path):
            source = place.find(name) if name else None
            if source is not None:
                return source
    return None


def _make_data(
    listed_images: _ListedImages, protocol: RetrievalProtocol, found_samples: FoundSamples | None
) -> RetrievalData:
    """Return the images and the captions that the protocol measures."""
    captions: list[str] = []
    n_captions_of_image: list[int] = []
    for image in listed_images.captioned_images:
        image_captions = measured_captions(image, protocol)
        captions.extend(image_captions)
        n_captions_of_image.append(len(image_captions))
    n_images = len(listed_images.captioned_images)
    return RetrievalData(
        names=tuple(image.name for image in listed_images.captioned_images),
        images=tuple(listed_images.sources),
        captions=tuple(captions),
        image_of_text=np.repeat(np.arange(n_images), n_captions_of_image),
        found_samples=found_samples,
    )


def _missing_images_fault(
    listed_images: _ListedImages, protocol: RetrievalProtocol, options: RunOptions
) -> str:
    """Return a message that says how many images are missing, and what may mend it."""
    n_missing, n_listed = len(listed_images.missing_files), len(listed_images.captioned_images)
    first = listed_images.missing_files[0]
    fault = f"{n_missing} of {n_listed} images missing, first: {first}"
    similar = folders.similar_file(first)
    if similar:
        fault += f"{similar}: mend the names, or set `image_suffix`"
    if n_missing == n_listed and not isinstance(protocol.images, str):
        # The folder may only have another name.
        fault += f"; images are looked for in {', '.join(protocol.images)}"
    if protocol.n_images is not None:
        fault += folders.advice(protocol, options)
    return fault
