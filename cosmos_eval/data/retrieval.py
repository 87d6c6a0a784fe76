"""A retrieval data set on the disk: images, captions, and their pairs. Imports no torch."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.captions import (
    CaptionedImage,
    choose_by_names,
    measured_captions,
    read_archives,
    read_captions,
)
from cosmos_eval.data.frames import VideoFolder, open_video_folder
from cosmos_eval.data.sources import (
    ImageFile,
    ImageFolder,
    ImageSource,
    ImageZip,
    open_image_place,
)
from cosmos_eval.types import FoundSamples, RetrievalProtocol, RunOptions, UsageError


class RetrievalData(NamedTuple):
    """N images and their M captions, in the order of the file that lists them.

    A COCO file has no order of its own. Its images are sorted by their ids.
    """

    # (N,) paths of the images, as the file writes them.
    names: tuple[str, ...]
    # (N,) the images themselves, which are read when they are needed.
    images: tuple[ImageSource, ...]
    # (M,)
    captions: tuple[str, ...]
    # (M,) the index of each caption's image.
    image_of_text: NDArray[np.int64]
    # How many samples are on the disk, if the complete data set has more.
    found_samples: FoundSamples | None = None


class _ListedImages(NamedTuple):
    """The images that a list of captions names, and where their files are expected."""

    # The file of captions, or the folder of the archives.
    list_path: Path
    image_folder: Path
    captioned_images: list[CaptionedImage]
    # One source for each captioned image, also if its file is missing.
    sources: list[ImageSource]
    # The expected paths of the images that are missing.
    missing_files: list[Path]


def open_data(protocol: RetrievalProtocol, options: RunOptions) -> RetrievalData:
    """Return the images and captions of a retrieval data set.

    Args:
        protocol: The data set, and which of its captions are measured.
        options: `limit` keeps only the first images. `allow_partial` leaves out images whose files
            are missing.

    Raises:
        UsageError: If anything else is wrong with the data set.
    """
    return list_data(protocol, options).checked_data(protocol, options)


def sample_list_hash(data: RetrievalData) -> str:
    """Return the SHA-256 of the images' names, the captions, and their pairs, in hexadecimal."""
    return folders.fingerprint([data.names, data.captions, data.image_of_text.tolist()])


def count_shared_captions(captions: Sequence[str], image_of_text: NDArray[np.integer]) -> int:
    """Return how many of M captions are also captions of another image, letter by letter.

    A caption that an image has twice is not counted unless another image has it too.

    Args:
        captions: The captions (M,).
        image_of_text: The index (M,) of each caption's image.

    Example:
        For the captions ["a cat", "a dog", "a cat", "a dog"] of the images [0, 1, 1, 1], the
        result is 2: "a cat" has two images, and "a dog" has one.
    """
    images_by_caption: dict[str, set[int]] = defaultdict(set)
    for caption, image in zip(captions, image_of_text.tolist(), strict=True):
        images_by_caption[caption].add(image)
    return sum(len(images_by_caption[caption]) > 1 for caption in captions)


def describe_shared_captions(data: RetrievalData, least_fraction: float = 0.0) -> str:
    """Return a note on captions that several images share; empty if there are none.

    Args:
        data: The images and captions.
        least_fraction: The note is empty unless more than this fraction of the captions is shared.

    Example:
        "47 of 48 captions are captions of several images: they tie, which lowers R@1"
    """
    n_captions = len(data.captions)
    n_shared = count_shared_captions(data.captions, data.image_of_text)
    if n_shared <= least_fraction * n_captions:
        return ""
    return (
        f"{n_shared} of {n_captions} captions are captions of several images: they tie, which "
        "lowers R@1"
    )


def list_data(protocol: RetrievalProtocol, options: RunOptions) -> folders.Listing[RetrievalData]:
    """Return the images and captions of a data set, together with everything wrong with them.

    Missing images and wrong numbers of samples are recorded in the listing and not raised.

    Args:
        protocol: The data set, and which of its captions are measured.
        options: `limit` and `allow_partial` choose images, as in `open_data`.

    Raises:
        UsageError: If the captions cannot be read.
    """
    _check_protocol(protocol)
    if protocol.archives:
        listed_images = _list_archives(protocol, options)
    else:
        listed_images = _list_files(protocol, options)
    n_images = len(listed_images.captioned_images)
    n_captions = sum(len(image.captions) for image in listed_images.captioned_images)

    # Compare with the numbers of the complete data set, if they are known.
    counts = folders.compare_counts(
        images=(n_images, protocol.n_images), captions=(n_captions, protocol.n_captions)
    )
    faults = []
    if listed_images.missing_files:
        faults.append(_missing_images_fault(listed_images, protocol, options))

    # Choose the captions that are measured, and number the images that they belong to.
    captions: list[str] = []
    image_of_text: list[int] = []
    for image_index, image in enumerate(listed_images.captioned_images):
        image_captions = measured_captions(image, protocol)
        captions.extend(image_captions)
        image_of_text.extend([image_index] * len(image_captions))

    # A known set is counted as it is listed, and a user's own one as it is measured.
    if protocol.n_captions is None:
        n_captions = len(captions)

    data = RetrievalData(
        names=tuple(image.name for image in listed_images.captioned_images),
        images=tuple(listed_images.sources),
        captions=tuple(captions),
        image_of_text=np.array(image_of_text, np.int64),
        found_samples=folders.find_shortfall(counts),
    )
    return folders.Listing(
        data=data,
        path=listed_images.list_path,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(listed_images.image_folder),
            expected=protocol.n_images or n_images,
            images=n_images - len(listed_images.missing_files),
            expected_captions=protocol.n_captions or n_captions,
            captions=n_captions,
            note=describe_shared_captions(data),
        ),
    )


def _check_protocol(protocol: RetrievalProtocol) -> None:
    """Raise UsageError if fields of a protocol contradict each other or are out of range."""
    has_annotations = bool(protocol.annotations)
    has_archives = bool(protocol.archives)
    if has_annotations == has_archives:
        raise UsageError(f"{protocol.dataset}: give `annotations` or `archives`, one of them")
    if protocol.frames is not None and (has_archives or protocol.frames < 1):
        raise UsageError(f"{protocol.dataset}: `frames` must be 1 or more, of folders of frames")
    if protocol.captions_per_image == 0:
        raise UsageError(f"{protocol.dataset}: `captions_per_image` must be 1 or more, or null")
    if protocol.pairs not in ("all", None) and int(protocol.pairs) < 1:
        raise UsageError(f"{protocol.dataset}: `pairs` must be 1 or more, `all` or null")


def _list_archives(protocol: RetrievalProtocol, options: RunOptions) -> _ListedImages:
    """Read captions and images from tar archives. Only the first `options.limit` samples are kept.

    Raise UsageError if an archive is missing or damaged, or if a caption in it has no image.
    """
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

    Args:
        protocol: Names the file of captions, and the folders or zip files of the images.
        options: `limit` keeps only the first images. With `allow_partial`, images that are missing
            from a known data set are left out. If all images are missing, none is left out, so that
            the fault is reported.
    """
    root = folders.root_of(protocol, options, protocol.annotations)
    list_path = folders.data_path(protocol, options, protocol.annotations, "captions")
    captioned_images = read_captions(list_path, protocol)
    if protocol.name_list is not None:
        names_path = folders.data_path(protocol, options, protocol.name_list, "names")
        captioned_images = choose_by_names(captioned_images, names_path)
    captioned_images = captioned_images[: options.limit]
    image_folder, sources = _locate_images(root, protocol, captioned_images)

    are_all_missing = all(source is None for source in sources)
    is_known_set = protocol.n_images is not None
    should_skip_missing = options.allow_partial and is_known_set and not are_all_missing

    # `sources` has None for a missing image. It gets a source whose file does not exist.
    listed_images = _ListedImages(list_path, image_folder, [], [], [])
    for image, source in zip(captioned_images, sources, strict=True):
        if source is None and should_skip_missing:
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
    """Return the folder or zip file of the images, and the source of every image.

    The source of an image that is missing is None.

    Args:
        root: The folder that the paths of the protocol are relative to.
        protocol: `protocol.images` may name several folders or zip files. They are alternatives,
            and the one that lacks the fewest images is returned. Only if the list of captions is
            spread over several files (`protocol.parts`), or if the protocol says so
            (`spread_images`), images are spread over all of the folders. Then every folder is
            searched, and the first one is returned.
        captioned_images: The images to locate.

    Raises:
        UsageError: If none of the folders or zip files exists.
    """
    relative_paths = folders.as_tuple(protocol.images)
    n_frames = protocol.frames
    existing_paths = []
    for relative_path in relative_paths:
        path = root / relative_path
        is_zip_file = path.suffix == ".zip" and path.is_file()
        if path.is_dir() or is_zip_file:
            existing_paths.append(path)
    if not existing_paths:
        raise folders.missing_path_error(protocol, root, relative_paths, "images")
    if protocol.parts or protocol.spread_images:
        return existing_paths[0], _find_images(captioned_images, existing_paths, n_frames)

    # Find the path that lacks the fewest images.
    best_path = existing_paths[0]
    best_sources = _find_images(captioned_images, [best_path], n_frames)
    for path in existing_paths[1:]:
        if best_sources.count(None) == 0:
            break
        sources = _find_images(captioned_images, [path], n_frames)
        if sources.count(None) < best_sources.count(None):
            best_path, best_sources = path, sources
    return best_path, best_sources


def _find_images(
    captioned_images: Sequence[CaptionedImage], paths: Sequence[Path], n_frames: int | None
) -> list[ImageSource | None]:
    """Return the source of every image in the first folder or zip file that has it.

    The source of an image that is missing from all of them is None. An image is looked up by its
    name, and if it has another path in the list of captions, also by that path.

    Args:
        captioned_images: The images to find.
        paths: The paths of the folders and zip files.
        n_frames: How many frames of each video are encoded; None: samples are images.
    """
    image_places: list[ImageFolder | ImageZip | VideoFolder]
    if n_frames is None:
        image_places = [open_image_place(path) for path in paths]
    else:
        image_places = [open_video_folder(path, n_frames) for path in paths]
    sources: list[ImageSource | None] = []
    for image in captioned_images:
        source: ImageSource | None = None
        for image_place in image_places:
            source = image_place.find(image.name)
            if source is None and image.path:
                source = image_place.find(image.path)
            if source is not None:
                break
        sources.append(source)
    return sources


def _missing_images_fault(
    listed_images: _ListedImages, protocol: RetrievalProtocol, options: RunOptions
) -> str:
    """Return a message that says how many images are missing, and what the user can do.

    Args:
        listed_images: The listed images, at least one of which is missing.
        protocol: The data set.
        options: The options of the command, which decide what is advised.

    Example:
        "3 of 500 images missing, first: images/1.jpg; there is 1.png: mend the names, or set
        `image_suffix`"
    """
    n_missing = len(listed_images.missing_files)
    n_listed = len(listed_images.captioned_images)
    first_missing = listed_images.missing_files[0]
    noun = "images" if protocol.frames is None else "videos (folders of frames)"
    fault = f"{n_missing} of {n_listed} {noun} missing, first: {first_missing}"

    similar_file = folders.describe_similar_file(first_missing)
    if similar_file:
        fault += f"{similar_file}: mend the names, or set `image_suffix`"

    has_alternatives = not isinstance(protocol.images, str)
    if n_missing == n_listed and has_alternatives:
        # The folder may only have another name.
        fault += f"; images are looked for in {', '.join(protocol.images)}"
    if protocol.n_images is not None:
        fault += folders.format_advice(protocol, options)
    return fault
