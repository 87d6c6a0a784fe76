"""Read images with depth maps, as lists of files name them.

A line of a list names an image and its depth map, separated by spaces. More columns are not read.
Paths are relative to the folder of the data set, also if they begin with a slash: the lists of
github.com/cleinc/bts (5e3406b, train_test_inputs) for NYU Depth V2 have this form. A depth map is a
PNG file of 16 bits.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_core.data.pixels import open_image
from cosmos_eval.data.folders import Listing, compare_counts, find_root, find_shortfall
from cosmos_eval.data.label_maps import Sample, displayed_size
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.readers import FileError, read_text
from cosmos_eval.types import DepthProbeProtocol, FoundSamples, RunOptions, UsageError

Depth = NDArray[np.float32]
"""Depths (H, W) in metres, 0 for pixels without one."""

_WIDTH, _HEIGHT = 640, 480  # of the image in which a protocol's boxes are stated


class DepthMaps(NamedTuple):
    """Test and training images with depth maps. The `mask` of a sample is its depth map."""

    samples: tuple[Sample, ...]
    train: tuple[Sample, ...]
    # How many test samples are on the disk, if the complete data set has more.
    found_samples: FoundSamples | None = None


def open_data(protocol: DepthProbeProtocol, options: RunOptions) -> DepthMaps:
    """Return the test and the training images of a data set, with the paths of their depth maps.

    Args:
        protocol: The data set.
        options: `limit` keeps only the first test images. `allow_partial` leaves out test images
            whose files are missing.

    Raises:
        UsageError: If the data set is missing or does not have its known numbers of images, if a
            file is missing, and if a training image is a test image.
    """
    root = find_root(protocol, options.data_root)
    test = _open_list(root, protocol.test, protocol.n_images, protocol, options)
    training_options = replace(options, limit=None, allow_partial=False)
    train = _open_list(
        root, protocol.train, protocol.n_train_images, protocol, training_options
    ).samples
    test_names = {sample.name for sample in test.samples}
    for sample in train:
        if sample.name in test_names:
            raise UsageError(f"{protocol.dataset}: {sample.image} is a training and a test image")
    return test._replace(train=train)


def _open_list(
    root: Path,
    list_name: str,
    n_expected: int | None,
    protocol: DepthProbeProtocol,
    options: RunOptions,
) -> DepthMaps:
    """Return the samples of one list as test samples. Raises UsageError if any is missing."""
    path = root / list_name
    samples = list(_read_list(root, path))
    if options.allow_partial and n_expected is not None:
        complete = [sample for sample in samples if _missing_file(sample) is None]
        samples = complete or samples
    counts = compare_counts(images=(len(samples), n_expected))
    data = DepthMaps(tuple(samples[: options.limit]), (), find_shortfall(counts))
    listing = Listing(data=data, path=path, counts=counts)
    data = listing.checked_data(protocol, options)
    for sample in data.samples:
        missing = _missing_file(sample)
        if missing is not None:
            raise UsageError(f"{protocol.dataset}: {path} names {missing}, which is not there")
    return data


def _missing_file(sample: Sample) -> Path | None:
    """Return the image or the depth map if it is missing, or else None."""
    return next((path for path in (sample.image, sample.mask) if not path.is_file()), None)


def _read_list(root: Path, path: Path) -> Iterator[Sample]:
    """Yield the samples that a list names.

    Raises UsageError for a list that cannot be read or is empty, and for a line without two paths
    below the folder, or with the image of another line.

    Example:
        `/kitchen/rgb_1.jpg /kitchen/depth_1.png 518.8579` is the image `kitchen/rgb_1.jpg`.
    """
    try:
        lines = read_text(path).splitlines()
    except FileError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not lines:
        raise UsageError(f"{path} is empty: a line names an image and its depth map")
    names = set()
    for line_number, line in enumerate(lines, start=1):
        paths = [PurePosixPath(text.lstrip("/")) for text in line.split()[:2]]
        if len(paths) < 2 or any(".." in entry.parts for entry in paths):
            raise UsageError(
                f"{path}, line {line_number}: name an image and its depth map, below {root}"
            )
        image, depth = paths
        name = image.with_suffix("").as_posix()
        if name in names:
            raise UsageError(f"{path}, line {line_number}: {image} is named twice")
        names.add(name)
        yield Sample(name, root / image, root / depth, {})


def read_depth(sample: Sample, protocol: DepthProbeProtocol) -> Depth:
    """Return the depth (H, W) of each pixel in metres, 0 for pixels without one.

    Raises UsageError for a file that cannot be read, or is not an image of 16 bits.
    """
    try:
        with open_image(sample.mask) as image:
            is_16_bit = image.mode.startswith("I;16") or (
                image.mode == "I" and image.format == "PNG"
            )
            if not is_16_bit:
                raise UsageError(
                    f"{sample.mask} is not a depth map of 16 bits (PIL mode {image.mode})"
                )
            values = np.asarray(image).astype(np.float32)
    except UsageError:
        raise
    except Exception as error:  # Pillow does not document its errors for damaged files
        raise UsageError(f"cannot read depth map {sample.mask}: {error}") from error
    return np.asarray(values / np.float32(protocol.units_per_metre), np.float32)


def check(protocol: DepthProbeProtocol, options: RunOptions, data: DepthMaps) -> None:
    """Read every depth map. Raises UsageError for one that has another size than its image."""

    def check_sample(sample: Sample) -> str | None:
        """Return what is wrong with a sample, or None."""
        try:
            require_same_size(sample, displayed_size(sample.image), read_depth(sample, protocol))
        except UsageError as error:
            return str(error)
        return None

    for fault in prefetch((*data.samples, *data.train), check_sample, workers=options.workers):
        if fault is not None:
            raise UsageError(fault)


def require_same_size(sample: Sample, image_hw: tuple[int, int], depth: Depth) -> None:
    """Raise UsageError if a depth map has another height or width than its image."""
    if image_hw != depth.shape:
        raise UsageError(
            f"depth map {sample.mask} is {depth.shape[1]}x{depth.shape[0]} px, "
            f"its image {image_hw[1]}x{image_hw[0]}"
        )


def box_slices(
    box: tuple[int, int, int, int] | None, image_hw: tuple[int, int]
) -> tuple[slice, slice]:
    """Return the rows and columns of a box in an image.

    Args:
        box: Left, top, right and bottom in an image of 640 x 480; None: the whole image.
        image_hw: The height and width of the image.

    Example:
        The box (320, 0, 640, 480) in an image of 24 x 32 pixels has the columns 16 to 31.
    """
    height, width = image_hw
    if box is None:
        return slice(0, height), slice(0, width)
    left, top, right, bottom = box
    rows = slice(int(top / _HEIGHT * height), int(bottom / _HEIGHT * height))
    return rows, slice(int(left / _WIDTH * width), int(right / _WIDTH * width))
