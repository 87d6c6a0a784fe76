"""A retrieval data set on the disk: images, captions, and their pairs. Imports no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.captions import Captioned, measured_captions, read_archives, read_captions
from cosmos_eval.data.sources import ImageFile, ImageSource, holds_images, image_finder
from cosmos_eval.types import Part, RetrievalProtocol, RunOptions, UsageError


class RetrievalData(NamedTuple):
    """Images and captions in the order of the file; those of a COCO file in that of image ids."""

    names: tuple[str, ...]  # paths as the file has them
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...]
    image_of_text: NDArray[np.int64]  # (M,) index of each caption's image
    part: Part | None = None  # how many there are of an incomplete known set


def open_data(protocol: RetrievalProtocol, options: RunOptions) -> RetrievalData:
    """List the images and captions, all or the partial set allowed; raise UsageError for faults."""
    return list_data(protocol, options).require(protocol, options)


def sample_list_hash(data: RetrievalData) -> str:
    """Return the SHA-256 of names, captions and which belong together, in hexadecimal."""
    return folders.fingerprint([data.names, data.captions, data.image_of_text.tolist()])


def list_data(protocol: RetrievalProtocol, options: RunOptions) -> folders.Listing[RetrievalData]:
    """List images and captions, with all faults. Raises UsageError without captions."""
    if bool(protocol.annotations) == bool(protocol.archives):
        raise UsageError(f"{protocol.dataset}: give `annotations` or `archives`, one of them")
    if protocol.captions_per_image == 0:
        raise UsageError(f"{protocol.dataset}: `captions_per_image` must be 1 or more, or null")
    if protocol.pairs not in ("all", None) and int(protocol.pairs) < 1:
        raise UsageError(f"{protocol.dataset}: `pairs` must be 1 or more, `all` or null")
    root = folders.root_of(protocol, options, protocol.archives or protocol.annotations)
    images: Sequence[ImageSource]
    missing: list[Path] = []
    if protocol.archives:
        captioned, members = read_archives(root, protocol)
        captioned, images = captioned[: options.limit], members[: options.limit]
        where = folder = members[0].archive.parent
    else:
        where = folders.data_path(protocol, options, protocol.annotations, "captions")
        captioned = read_captions(where, protocol)[: options.limit]
        folder, found = _find_images(root, protocol, captioned)
        known = protocol.n_images is not None
        if options.allow_partial and known and any(found):
            captioned = [image for image, source in zip(captioned, found, strict=True) if source]
            found = [*filter(None, found)]
        paths = [folder / image.name for image in captioned]
        missing = [path for path, source in zip(paths, found, strict=True) if source is None]
        images = [source or ImageFile(path) for path, source in zip(paths, found, strict=True)]
    n_images, n_captions = len(captioned), sum(len(image.captions) for image in captioned)
    parts = folders.parts_of(
        images=(n_images, protocol.n_images), captions=(n_captions, protocol.n_captions)
    )
    kept = [measured_captions(image, protocol) for image in captioned]
    return folders.Listing(
        data=RetrievalData(
            names=tuple(image.name for image in captioned),
            images=tuple(images),
            captions=tuple(caption for captions in kept for caption in captions),
            image_of_text=np.repeat(np.arange(n_images), list(map(len, kept))),
            part=folders.shortfall(parts),
        ),
        where=where,
        parts=parts,
        survey=folders.Survey(
            faults=(_fault(missing, n_images, protocol, options),) if missing else (),
            folder=str(folder),
            expected=protocol.n_images or n_images,
            images=n_images - len(missing),
            expected_captions=protocol.n_captions or n_captions,
            captions=n_captions,
        ),
    )


def _find_images(
    root: Path, protocol: RetrievalProtocol, images: Sequence[Captioned]
) -> tuple[Path, list[ImageSource | None]]:
    """Return the folder that lacks the fewest images, and these, None where they are missing.
    Images of a list of several `parts` are in any of the folders."""
    stated = folders.several(protocol.images)
    present = [root / path for path in stated if holds_images(root / path)]
    if not present:
        raise folders.missing_path(protocol, root, stated, "images")
    found: list[tuple[Path, list[ImageSource | None]]] = []
    for group in [present] if protocol.parts else [[folder] for folder in present]:
        finders = [image_finder(folder) for folder in group]
        found.append((group[0], [_find(finders, image) for image in images]))
        if all(found[-1][1]):
            break
    return min(found, key=lambda one: one[1].count(None))


def _find(
    finders: Sequence[Callable[[str], ImageSource | None]], image: Captioned
) -> ImageSource | None:
    names = [name for name in (image.name, image.path) if name]
    return next((source for find in finders for name in names if (source := find(name))), None)


def _fault(
    missing: Sequence[Path], listed: int, protocol: RetrievalProtocol, options: RunOptions
) -> str:
    fault = f"{len(missing)} of {listed} images missing, first: {missing[0]}"
    if instead := folders.beside(missing[0]):
        fault += f"{instead}: mend the names, or set `image_suffix`"
    if len(missing) == listed and not isinstance(protocol.images, str):
        # Of a folder that only has another name.
        fault += f"; images are looked for in {', '.join(protocol.images)}"
    return fault if protocol.n_images is None else fault + folders.advice(protocol, options)
