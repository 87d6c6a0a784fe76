"""Zero-shot label maps of images: windows of several images share the backbone's batches.

Protocols that see an image alike share its patch embeddings, which each compares with its queries.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cosmos_eval import types
from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.data.label_maps import Label, Sample, read_label, require_same_size
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.models.dense import shared_blocks
from cosmos_eval.models.encoder import (
    DenseEncoder,
    Encoder,
    copy_to_host,
    require_finite,
    to_device,
)
from cosmos_eval.models.maps import require_patches
from cosmos_eval.tasks.label_maps import content_sha256, images_at_once
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation import pictures
from cosmos_eval.tasks.segmentation.merge import Axis, Decision, label_map, placement
from cosmos_eval.types import Attention, OnProgress, RunOptions, SegmentationProtocol, UsageError

AnyProtocol = TypeVar("AnyProtocol", bound=SegmentationProtocol)


class LoadedImage(NamedTuple):
    """An image as a model sees it, and its label map."""

    sample: Sample
    # (3, H, W) float32, resized and normalised.
    pixels: Tensor
    # At the original size.
    label: Label
    # The SHA-256 of the image with its label map.
    sha256: bytes = b""


class _ResizedImage(NamedTuple):
    """An image that was read and resized, and the label maps of several protocols."""

    # (h, w, 3), RGB uint8.
    pixels: NDArray[np.uint8]
    # At the original size, one for each protocol.
    labels: list[Label]
    # The SHA-256 of the image with each label map.
    sha256s: list[bytes]


def load_together(
    samples: Sequence[Sample],
    protocols: Sequence[SegmentationProtocol],
    memory: types.InputMemory | None = None,
) -> list[LoadedImage]:
    """Read an image once, and the label map that each protocol has of it.

    Args:
        samples: For each protocol, the paths of the image and of its label map. All samples have
            the same image.
        protocols: The protocols, which resize and normalise the image in the same way.
        memory: Keeps resized images for the next measurement; None: they are not kept.

    Returns:
        The image with the label map of each protocol. The pixels are shared.

    Raises UsageError for a file that cannot be read, and for a label map whose size is not the
    image's.
    """
    read = partial(_read_and_resize, samples, protocols)
    if memory is None:
        image = read()
    else:
        sizes = [(protocol.short_side, protocol.long_side) for protocol in protocols]
        names = [(protocol.dataset, protocol.protocol_name) for protocol in protocols]
        files = [(sample.image, sample.mask) for sample in samples]
        image = memory.get((*files, *sizes, *names), read)
    pixels = normalise_pixels(image.pixels, protocols[0])
    loaded_images = []
    for sample, label, sha256 in zip(samples, image.labels, image.sha256s, strict=True):
        loaded_images.append(LoadedImage(sample, pixels, label, sha256))
    return loaded_images


def _read_and_resize(
    samples: Sequence[Sample], protocols: Sequence[SegmentationProtocol]
) -> _ResizedImage:
    """Read and resize an image, and read the label map that each protocol has of it.

    `load_together` explains the arguments.
    """
    image_path = samples[0].image
    content = ImageFile(image_path).read()
    image = pictures.decode(image_path, content)
    image_hw = (image.shape[0], image.shape[1])
    labels = []
    sha256s = []
    for sample, protocol in zip(samples, protocols, strict=True):
        label = read_label(sample, protocol)
        require_same_size(sample, image_hw, label)
        labels.append(label)
        sha256s.append(content_sha256(content, sample))
    return _ResizedImage(resize_image(image, protocols[0]), labels, sha256s)


def normalised(image: NDArray[np.uint8], protocol: SegmentationProtocol) -> Tensor:
    """Return an image as a model sees it: resized by the protocol, and normalised.

    Args:
        image: The pixels (H, W, 3), RGB uint8.
        protocol: The protocol, whose `mean` and `std` are on the scale from 0 to 255.

    Returns:
        The pixels (3, h, w) float32, with the same ratio of sides.

    Raises ValueError for a protocol without mean and std.
    """
    return normalise_pixels(resize_image(image, protocol), protocol)


def resize_image(image: NDArray[np.uint8], protocol: SegmentationProtocol) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) resized by the protocol, (h, w, 3), RGB uint8."""
    height, width = resized_hw((image.shape[0], image.shape[1]), protocol)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def normalise_pixels(resized: NDArray[np.uint8], protocol: SegmentationProtocol) -> Tensor:
    """Return the normalised pixels (3, h, w) float32 of a resized image (h, w, 3).

    Raises ValueError for a protocol without mean and std.
    """
    if protocol.mean is None or protocol.std is None:
        raise ValueError(f"{protocol.dataset}: mean and std are still to be taken from a model")
    mean, std = np.array(protocol.mean, np.float32), np.array(protocol.std, np.float32)
    normalised_pixels = (resized.astype(np.float32) - mean) / std
    return torch.from_numpy(normalised_pixels).permute(2, 0, 1).contiguous()


def resized_hw(image_hw: tuple[int, int], protocol: SegmentationProtocol) -> tuple[int, int]:
    """Return the height and width that an image (height, width) is resized to.

    The image is made as large as possible with the same ratio of sides, so that its short side is
    at most `protocol.short_side`, and its long side at most `protocol.long_side`.
    `mmcv.rescale_size` does the same.

    Example:
        (375, 500) -> (336, 448) for a short side of 336 and a long side of 2048.
    """
    scale = min(protocol.long_side / max(image_hw), protocol.short_side / min(image_hw))
    # Round to whole pixels, halves up.
    height, width = (int(side * scale + 0.5) for side in image_hw)
    return max(height, 1), max(width, 1)


def resize_label(label: Label, image_hw: tuple[int, int]) -> Label:
    """Return a label map of another height and width, by the nearest pixels."""
    height, width = image_hw
    resized = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, label.dtype)


class Segmenter(NamedTuple):
    """A model, together with the protocol by which it segments images and its encoded prompts."""

    encoder: DenseEncoder
    # (Q, D) embeddings of all queries. A query is a name or a synonym of a class. The queries of
    # the first class come first, then the queries of the next class.
    queries: NDArray[np.float32]
    # A protocol with mean and std, as `fit_to_model` returns it.
    protocol: SegmentationProtocol
    # The form of attention in the last block.
    attention: Attention
    # The number of windows that are encoded together.
    batch_size: int
    # (Q,) numbers that are added to the logits of the queries; None: nothing is added.
    bias: NDArray[np.float32] | None = None


def fit_to_model(protocol: AnyProtocol, encoder: DenseEncoder) -> AnyProtocol:
    """Return the protocol with a mean and std of pixels, on the scale from 0 to 255.

    If the protocol does not state them, they are taken from the model.
    """
    mean = protocol.mean or _to_byte_scale(encoder.image_mean)
    std = protocol.std or _to_byte_scale(encoder.image_std)
    return replace(protocol, mean=mean, std=std)


def _to_byte_scale(rgb: types.Rgb) -> types.Rgb:
    """Convert RGB from the scale 0 to 1 to the scale 0 to 255."""
    red, green, blue = rgb
    return 255 * red, 255 * green, 255 * blue


def _to_unit_scale(rgb: types.Rgb | None) -> types.Rgb:
    """Convert RGB from the scale 0 to 255 to the scale 0 to 1."""
    assert rgb is not None  # the protocol was fitted to a model
    red, green, blue = rgb
    return red / 255, green / 255, blue / 255


def make_segmenter(
    encoder: DenseEncoder,
    protocol: SegmentationProtocol,
    options: RunOptions,
    progress: OnProgress = types.no_progress,
) -> Segmenter:
    """Encode the prompts of a protocol, and return the segmenter that compares patches with them.

    Args:
        encoder: The model.
        protocol: The protocol, with the names of all classes and prompt templates.
        options: The options of the run, such as the batch size. Their form of attention replaces
            the protocol's, if they have one.
        progress: Called with the number of names that are encoded.
    """
    names = [name for synonyms in protocol.queries for name in synonyms]
    queries = prompt_embeddings(encoder, names, protocol.templates, options, progress)
    attention = options.attention or protocol.attention
    fitted_protocol = fit_to_model(protocol, encoder)
    if encoder.info.auxiliary is not None:
        # An auxiliary encoder undoes the normalisation, so it must know mean and std.
        encoder = copy.copy(encoder)
        encoder.image_mean = _to_unit_scale(fitted_protocol.mean)
        encoder.image_std = _to_unit_scale(fitted_protocol.std)
    return Segmenter(encoder, queries, fitted_protocol, attention, options.batch_size)


class _Windows(NamedTuple):
    """A grid of windows of one shape over an image."""

    # The same image for each protocol, with the label map of the protocol.
    loaded_images: Sequence[LoadedImage]
    # (3, H, W), on the model's device.
    pixels: Tensor
    # The windows along the height, and along the width.
    rows: Axis
    columns: Axis
    # The height and width of a window in pixels. A window is not larger than the image.
    window_hw: tuple[int, int]
    # The number of windows of the image.
    n_windows: int

    def cut(self) -> Iterator[Tensor]:
        """Yield the pixels (3, h, w) of each window: the first row from the left, then the next."""
        for rows, columns in self.slices():
            yield self.pixels[:, rows, columns]

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of the image's pixels that each window covers."""
        height, width = self.window_hw
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield slice(top, top + height), slice(left, left + width)


def predict(segmenter: Segmenter, images: Iterable[LoadedImage]) -> Iterator[Label]:
    """Segment images, and yield the predicted classes (H, W) of each, in the order of the images.

    Raises UsageError for images smaller than a patch, and for embeddings that are not finite.
    """
    images_of_one_segmenter = ([image] for image in images)
    for predictions in predict_together([segmenter], images_of_one_segmenter):
        ((_, classes),) = predictions  # the image and its classes, by the only segmenter
        yield classes


@torch.no_grad()
def predict_together(
    segmenters: Sequence[Segmenter],
    images: Iterable[Sequence[LoadedImage]],
    n_skipped: int = 0,
) -> Iterator[list[tuple[LoadedImage, Label]]]:
    """Segment images by several segmenters, which share one pass through the image encoder.

    Args:
        segmenters: The segmenters, with the same model, batch size and windows.
        images: For each image, a `LoadedImage` per segmenter: always the same pixels, with the
            label map of the segmenter's protocol.
        n_skipped: The number of first images that are not segmented. They keep their places in
            batches, so that the predictions of the other images do not change by a bit.

    Yields:
        For each image, a pair per segmenter: its `LoadedImage`, and the predicted classes (H, W).

    Raises UsageError for images smaller than a patch, and for embeddings that are not finite.
    """
    info = segmenters[0].encoder.info
    for loaded_images, tensors in copy_to_host(_segment_images(segmenters, images, n_skipped)):
        largest_magnitude, *label_maps = tensors
        names_of_rows = [loaded_images[0].sample.name]  # the magnitude has one row
        require_finite(largest_magnitude, info, names_of_rows.__getitem__)
        predictions = []
        for loaded_image, classes in zip(loaded_images, label_maps, strict=True):
            # Classes above 255 are int16 on the device, because Torch has few operations for
            # uint16. The bits are the same.
            class_array = classes.numpy()
            unsigned_dtype = "uint8" if class_array.itemsize == 1 else "uint16"
            predictions.append((loaded_image, class_array.view(unsigned_dtype)))
        yield predictions


class LabelledPatches(NamedTuple):
    """The patch embeddings of an image, with the classes of the pixels under each patch."""

    image: LoadedImage
    # (n, h, w, D) embeddings of h x w patches in each of n windows, on the model's device.
    patches: Tensor
    # For each window, the classes (H, W) of its pixels in the resized image.
    labels: list[Label]


@torch.no_grad()
def encode_labelled_patches(
    encoder: DenseEncoder,
    protocol: SegmentationProtocol,
    attention: Attention,
    batch_size: int,
    images: Iterable[LoadedImage],
) -> Iterator[LabelledPatches]:
    """Encode images in the windows in which they are segmented, and yield the patches of each.

    Label maps are resized to the image as the model sees it, by the nearest pixel.

    Args:
        encoder: The model.
        protocol: The resize and the windows, with mean and std as `fit_to_model` returns it.
        attention: The form of attention in the last block.
        batch_size: The number of windows that are encoded together.
        images: The images with their label maps.

    Raises UsageError for images smaller than a patch, and for embeddings that are not finite.
    """
    no_queries = np.zeros((0, 0), np.float32)
    segmenter = Segmenter(encoder, no_queries, protocol, attention, batch_size)
    windows_of_images = (_place_windows([image], segmenter) for image in images)
    for batch in _batch_images(windows_of_images, batch_size):
        for windows, by_attention in zip(
            batch, _encode_patches(batch, segmenter, [attention]), strict=True
        ):
            (image,), patches = windows.loaded_images, by_attention[attention]
            require_finite(patches[None], encoder.info, [image.sample.name].__getitem__)
            height, width = image.pixels.shape[1:]
            label = resize_label(image.label, (height, width))
            labels = [label[rows, columns] for rows, columns in windows.slices()]
            yield LabelledPatches(image, patches, labels)


def _segment_images(
    segmenters: Sequence[Segmenter], images: Iterable[Sequence[LoadedImage]], n_skipped: int
) -> Iterator[tuple[Sequence[LoadedImage], list[Tensor]]]:
    """Segment images on the model's device.

    Args:
        segmenters: The segmenters, with the same model, batch size and windows.
        images: For each image, a `LoadedImage` per segmenter.
        n_skipped: The number of first images that are not segmented.

    Yields:
        The `LoadedImage`s of an image, and a list of tensors: the largest magnitude (1, 1) of its
        patch embeddings, followed by the classes (H, W) by each segmenter. The magnitude is finite
        only if all embeddings are finite. The caller checks it after it has copied all tensors
        from the device, because a check on the device would make the CPU wait.
    """
    first_segmenter = segmenters[0]
    attentions = list(dict.fromkeys(segmenter.attention for segmenter in segmenters))
    windows_of_images = (_place_windows(loaded_images, first_segmenter) for loaded_images in images)
    n_reached = 0  # images of this batch and of all batches before it
    for batch in _batch_images(windows_of_images, first_segmenter.batch_size):
        n_reached += len(batch)
        if n_reached <= n_skipped:
            continue
        n_skipped_of_batch = max(0, n_skipped - (n_reached - len(batch)))
        patches_of_images = _encode_patches(batch, first_segmenter, attentions)
        for windows, patches_by_attention in zip(
            batch[n_skipped_of_batch:], patches_of_images[n_skipped_of_batch:], strict=True
        ):
            magnitudes = []
            for patches in patches_by_attention.values():
                magnitudes.append(torch.linalg.vector_norm(patches.flatten(), torch.inf))
            largest_magnitude = torch.stack(magnitudes).amax().view(1, 1)
            label_maps = []
            for segmenter in segmenters:
                patches = patches_by_attention[segmenter.attention]
                label_maps.append(_classify_pixels(windows, patches, segmenter))
            yield windows.loaded_images, [largest_magnitude, *label_maps]


def _classify_pixels(windows: _Windows, patches: Tensor, segmenter: Segmenter) -> Tensor:
    """Return the class of each pixel of an image, (H, W), at the original size of the image.

    The patches are compared with the queries of the segmenter, which are names of classes. The
    logits are then interpolated to pixels.

    Args:
        windows: The windows of the image.
        patches: The patch embeddings (n, h, w, D) of the n windows.
        segmenter: The queries and the protocol, which says how logits become classes.
    """
    protocol = segmenter.protocol
    device = segmenter.encoder.info.device
    queries = to_device(torch.from_numpy(segmenter.queries), device)

    # Three classes with 1, 2 and 1 names have the classes of queries [0, 1, 1, 2].
    n_queries_of_class = torch.tensor([len(names) for names in protocol.queries])
    n_classes = len(n_queries_of_class)
    dtype = torch.uint8 if n_classes <= 256 else torch.int16  # uint16 has few operations
    class_of_query = torch.arange(n_classes, dtype=dtype).repeat_interleave(n_queries_of_class)

    height, width = windows.loaded_images[0].label.shape
    decision = Decision(
        class_of_query=to_device(class_of_query, device),
        scale=protocol.scale,
        prob_thd=protocol.prob_thd,
        area_thd=protocol.area_thd,
    )
    logits = patches @ queries.T
    if segmenter.bias is not None:
        # Averages of windows and interpolation keep what is added to all patches.
        logits += to_device(torch.from_numpy(segmenter.bias), device)
    return label_map(
        _arrange_windows(logits, windows),
        to_device(placement(windows.rows, height), device),
        to_device(placement(windows.columns, width), device),
        decision,
        windows.pixels if protocol.refinement else None,
    )


def _place_windows(images: Sequence[LoadedImage], segmenter: Segmenter) -> _Windows:
    """Return the grid of windows over an image, and put its pixels on the model's device.

    If the protocol has no window size, the only window is the whole image.

    Args:
        images: The same image for each protocol, with the label map of the protocol.
        segmenter: The model and the protocol. The protocols of all segmenters have equal windows.

    Raises UsageError if a patch does not fit into a window.
    """
    protocol, patch_size = segmenter.protocol, segmenter.encoder.patch_size
    image = images[0]
    height, width = image.pixels.shape[1:]
    smallest_side = min(height, width, protocol.window or height)
    if smallest_side < patch_size:
        windows = f" and windows are {protocol.window} px" if protocol.window else ""
        raise UsageError(
            f"image {image.sample.image} is {width}x{height} px after the resize{windows}, "
            f"but a patch of this model needs {patch_size}"
        )

    rows = _windows_along_axis(height, protocol, patch_size)
    columns = _windows_along_axis(width, protocol, patch_size)
    return _Windows(
        loaded_images=images,
        pixels=to_device(image.pixels, segmenter.encoder.info.device),
        rows=rows,
        columns=columns,
        window_hw=(min(rows.window, height), min(columns.window, width)),
        n_windows=len(rows.starts) * len(columns.starts),
    )


def _windows_along_axis(length: int, protocol: SegmentationProtocol, patch_size: int) -> Axis:
    """Return the windows along one side of an image: their size, stride and number of tokens.

    Args:
        length: The length of the side, in pixels.
        protocol: The protocol, with the size and the stride of windows. If it has no window size,
            the only window is the whole image.
        patch_size: The side of a patch, in pixels. A window has one token per patch.
    """
    if protocol.window is None:
        return Axis(
            length=length,
            window=length,
            stride=length,
            tokens=length // patch_size,
            is_whole=True,
        )
    return Axis(
        length=length,
        window=protocol.window,
        stride=protocol.stride,
        tokens=min(protocol.window, length) // patch_size,
    )


def _batch_images(images: Iterable[_Windows], batch_size: int) -> Iterator[list[_Windows]]:
    """Divide images into batches of consecutive images with at most `batch_size` windows.

    An image with more windows is a batch of its own.

    Args:
        images: The images with their windows.
        batch_size: The largest number of windows of all images of a batch.

    Example:
        With a batch size of 4, images of 2, 1, 3 and 6 windows are yielded as [2, 1], [3] and [6].
    """
    batch: list[_Windows] = []
    n_windows_in_batch = 0
    for image in images:
        fits_into_batch = n_windows_in_batch + image.n_windows <= batch_size
        if batch and not fits_into_batch:
            yield batch
            batch = []
            n_windows_in_batch = 0
        batch.append(image)
        n_windows_in_batch += image.n_windows
    if batch:
        yield batch


def _encode_patches(
    images: Sequence[_Windows], segmenter: Segmenter, attentions: Sequence[Attention]
) -> list[dict[Attention, Tensor]]:
    """Encode the windows of images by each form of attention.

    Windows of equal shape are encoded together, also if they belong to different images.

    Args:
        images: The images with their windows.
        segmenter: The model and its batch size.
        attentions: The forms of attention of the last block.

    Returns:
        For each image, the patch embeddings (n, h, w, D) of its n windows of h x w patches, by the
        form of attention.
    """
    # The indices of the images whose windows have a height and width.
    indices_by_hw: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, windows in enumerate(images):
        indices_by_hw[windows.window_hw].append(index)

    patches_of_images: list[dict[Attention, Tensor]] = [{} for _ in images]
    for indices in indices_by_hw.values():
        pixels = torch.stack([window for index in indices for window in images[index].cut()])
        n_windows_of_images = [images[index].n_windows for index in indices]
        patches_of_attentions = _encode_windows(pixels, segmenter, attentions)
        for attention, patches_of_windows in zip(attentions, patches_of_attentions, strict=True):
            # Give every image the embeddings of its own windows.
            chunks = patches_of_windows.split(n_windows_of_images)
            for index, patches in zip(indices, chunks, strict=True):
                patches_of_images[index][attention] = patches
    return patches_of_images


def _encode_windows(
    pixels: Tensor, segmenter: Segmenter, attentions: Sequence[Attention]
) -> list[Tensor]:
    """Encode windows of one shape batch by batch, by each form of attention.

    The forms of attention share all blocks but the last one. All batches have about the same size.

    Args:
        pixels: The pixels (n, 3, H, W) of n windows.
        segmenter: The model and its batch size.
        attentions: The forms of attention of the last block.

    Returns:
        The patch embeddings (n, h, w, D) for each form of attention.
    """
    encoder = segmenter.encoder
    window_hw = (pixels.shape[2], pixels.shape[3])
    batch_size = images_at_once(encoder, window_hw, segmenter.batch_size)
    n_batches = math.ceil(len(pixels) / batch_size)
    batches = pixels.chunk(n_batches)
    encoded_batches: list[list[Tensor]] = [[] for _ in attentions]
    with shared_blocks():
        for batch in batches:
            for index, attention in enumerate(attentions):
                encoded_batches[index].append(encoder.encode_patches(batch, attention))
    return [torch.cat(batches_of_attention) for batches_of_attention in encoded_batches]


def _arrange_windows(logits: Tensor, windows: _Windows) -> Tensor:
    """Put the logits of all windows side by side, as the windows lie on the image.

    Args:
        logits: The logits (n, h, w, Q) of h x w tokens in each of n windows, for Q queries.
        windows: The windows, in R rows and S columns, with R * S = n.

    Returns:
        The logits (Q, R * h, S * w).

    Example:
        2 rows and 3 columns of windows with 14 x 14 tokens: (6, 14, 14, Q) -> (Q, 28, 42).
    """
    n_rows, n_columns = len(windows.rows.starts), len(windows.columns.starts)
    grid = logits.unflatten(0, (n_rows, n_columns))  # (R, S, h, w, Q)
    tokens_by_row = grid.permute(4, 0, 2, 1, 3)  # (Q, R, h, S, w)
    return tokens_by_row.flatten(3, 4).flatten(1, 2).contiguous()


def draw_image(
    encoder: Encoder, protocol: SegmentationProtocol, path: Path, options: RunOptions
) -> tuple[Image.Image, dict[str, float]]:
    """Segment an image file, and draw the predicted classes over the image.

    Args:
        encoder: The model.
        protocol: The classes, their prompts, and how images are segmented.
        path: The image file.
        options: The options of the run, such as the form of attention.

    Returns:
        A picture of the image, of the predicted classes over it, and of a legend; and the fraction
        of the pixels of each predicted class by its name, the largest fraction first.

    Raises UsageError for a file that is not an image, and for a model without patches.
    """
    check_constants(protocol)
    image = pictures.decode(path)
    dense_encoder = require_patches(encoder, options.attention or protocol.attention)
    segmenter = make_segmenter(dense_encoder, protocol, options)

    # The image has no label map. An empty one states the size of the prediction.
    pixels = normalised(image, segmenter.protocol)
    unlabelled = np.full(image.shape[:2], protocol.ignore_index, np.uint16)
    loaded_image = LoadedImage(Sample(path.stem, path, path, {}), pixels, unlabelled)
    (classes,) = predict(segmenter, [loaded_image])

    panels = [(path.name, image, None), (encoder.info.spec, image, classes)]
    names = protocol.class_names
    fractions = pictures.class_fractions(classes, len(names))
    colours = pictures.distinct_colours(len(names))
    picture = pictures.draw_picture(panels, names, colours, fractions)
    return picture, {names[index]: fraction for index, fraction in fractions.items()}


def predictions(
    encoder: Encoder, protocol: SegmentationProtocol, samples: Sequence[Sample], options: RunOptions
) -> Iterator[Label]:
    """Segment images of a data set, and yield their predicted classes (H, W) at the original size.

    Args:
        encoder: The model.
        protocol: The classes, their prompts, and how images are segmented.
        samples: The paths of the images and of their label maps.
        options: The options of the run, such as the form of attention.

    Raises UsageError for a model without patches, and for damaged files.
    """
    dense_encoder = require_patches(encoder, options.attention or protocol.attention)
    segmenter = make_segmenter(dense_encoder, protocol, options)
    loaded_images = (load_together([sample], [segmenter.protocol])[0] for sample in samples)
    return predict(segmenter, loaded_images)
