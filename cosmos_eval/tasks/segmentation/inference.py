"""Zero-shot label maps of images: windows of several images share the backbone's batches.

Protocols that see an image alike share its patch embeddings, which each compares with its queries.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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


class LoadedImage(NamedTuple):
    """An image as a model sees it, and its label map."""

    sample: Sample
    # (3, H, W) float32, resized and normalised.
    pixels: Tensor
    # At the original size.
    label: Label
    # The SHA-256 of the image with its label map.
    sha256: bytes = b""


def load_together(
    samples: Sequence[Sample], protocols: Sequence[SegmentationProtocol]
) -> list[LoadedImage]:
    """Read an image once, and the label map that each protocol has of it.

    `samples` holds a sample for each protocol. All of them have the same image file. Returns a
    `LoadedImage` for each protocol, which share the pixels. Raises UsageError for a file that
    cannot be read, and for a label map whose size is not the image's.
    """
    content = ImageFile(samples[0].image).read()
    image = pictures.decode(samples[0].image, content)
    image_hw = (image.shape[0], image.shape[1])
    pixels = normalised(image, protocols[0])
    loaded_images = []
    for sample, protocol in zip(samples, protocols, strict=True):
        label = read_label(sample, protocol)
        require_same_size(sample, image_hw, label)
        loaded_images.append(LoadedImage(sample, pixels, label, content_sha256(content, sample)))
    return loaded_images


def normalised(image: NDArray[np.uint8], protocol: SegmentationProtocol) -> Tensor:
    """Return an image as a model sees it: resized by the protocol, and normalised.

    `image` is (H, W, 3) RGB uint8, and the result (3, h, w) float32 with the same ratio of sides.
    Raises ValueError for a protocol without mean and std.
    """
    if protocol.mean is None or protocol.std is None:
        raise ValueError(f"{protocol.dataset}: mean and std are still to be taken from a model")
    height, width = resized_hw((image.shape[0], image.shape[1]), protocol)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    mean, std = np.array(protocol.mean, np.float32), np.array(protocol.std, np.float32)
    normalised_pixels = (resized.astype(np.float32) - mean) / std
    return torch.from_numpy(normalised_pixels).permute(2, 0, 1).contiguous()


def resized_hw(image_hw: tuple[int, int], protocol: SegmentationProtocol) -> tuple[int, int]:
    """Return the height and width that an image (height, width) is resized to.

    They are the largest with the same ratio for which neither the short nor the long side exceeds
    the protocol's. For example, an image of 375 x 500 becomes 336 x 448 if the short side is 336
    and the long side 2048. `mmcv.rescale_size` does the same.
    """
    scale = min(protocol.long_side / max(image_hw), protocol.short_side / min(image_hw))
    height, width = (int(side * scale + 0.5) for side in image_hw)
    return max(height, 1), max(width, 1)


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


def fit_to_model(protocol: SegmentationProtocol, encoder: DenseEncoder) -> SegmentationProtocol:
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

    The form of attention is the option's, or else the protocol's.
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
    images: Sequence[LoadedImage]
    # (3, H, W), on the model's device.
    pixels: Tensor
    # The windows along the height, and along the width.
    rows: Axis
    columns: Axis

    @property
    def total(self) -> int:
        """The number of windows of the image."""
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def shape(self) -> tuple[int, int]:
        """The height and width of a window in pixels. A window is not larger than the image."""
        rows, columns = self.rows, self.columns
        return min(rows.window, rows.length), min(columns.window, columns.length)

    def cut(self) -> Iterator[Tensor]:
        """Yield the pixels (3, h, w) of each window: the first row from the left, then the next."""
        height, width = self.shape
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield self.pixels[:, top : top + height, left : left + width]


def predict(segmenter: Segmenter, images: Iterable[LoadedImage]) -> Iterator[Label]:
    """Yield the predicted classes (H, W) of each image, in the order of the images.

    Raises UsageError as `predict_together` does.
    """
    images_of_one_segmenter = ([image] for image in images)
    for predictions in predict_together([segmenter], images_of_one_segmenter):
        ((_, classes),) = predictions
        yield classes


@torch.inference_mode()
def predict_together(
    segmenters: Sequence[Segmenter], images: Iterable[Sequence[LoadedImage]]
) -> Iterator[list[tuple[LoadedImage, Label]]]:
    """Segment images by several segmenters, which share one pass through the image encoder.

    `images` yields, for each image, a `LoadedImage` per segmenter: always the same pixels, with the
    label map of the segmenter's protocol. The segmenters have the same model, batch size and
    windows. For each image, yields a pair per segmenter: its `LoadedImage`, and the predicted
    classes (H, W). Raises UsageError for images smaller than a patch, and for embeddings that are
    not finite.
    """
    info = segmenters[0].encoder.info
    for loaded_images, tensors in copy_to_host(_segment_images(segmenters, images)):
        magnitude, *label_maps = tensors
        names_of_rows = [loaded_images[0].sample.name]
        require_finite(magnitude, info, names_of_rows.__getitem__)
        predictions = []
        for loaded_image, classes in zip(loaded_images, label_maps, strict=True):
            array = classes.numpy()  # uint8, or int16 that stands for uint16
            unsigned = array.view(f"u{array.itemsize}")  # "u1" or "u2"
            predictions.append((loaded_image, unsigned))
        yield predictions


def _segment_images(
    segmenters: Sequence[Segmenter], images: Iterable[Sequence[LoadedImage]]
) -> Iterator[tuple[Sequence[LoadedImage], list[Tensor]]]:
    """Segment images on the model's device.

    For each image, yields its `LoadedImage`s (one per segmenter) and a list of tensors: first the
    largest magnitude (1, 1) of its patch embeddings, and then the classes (H, W) by each segmenter.
    The magnitude is finite only if all embeddings are finite. The caller checks it after copying
    all tensors from the device at once, because a check on the device would make the CPU wait.
    """
    first_segmenter = segmenters[0]
    attentions = list(dict.fromkeys(segmenter.attention for segmenter in segmenters))
    windows_of_images = (_place_windows(loaded_images, first_segmenter) for loaded_images in images)
    for batch in _batch_images(windows_of_images, first_segmenter.batch_size):
        patches_of_images = _encode_patches(batch, first_segmenter, attentions)
        for windows, patches_by_attention in zip(batch, patches_of_images, strict=True):
            tensors = [_largest_magnitude(patches_by_attention.values())]
            for segmenter in segmenters:
                patches = patches_by_attention[segmenter.attention]
                tensors.append(_classify_pixels(windows, patches, segmenter))
            yield windows.images, tensors


def _largest_magnitude(tensors: Iterable[Tensor]) -> Tensor:
    """Return the largest absolute value in any of the tensors, as a tensor (1, 1)."""
    magnitudes = [torch.linalg.vector_norm(tensor.flatten(), torch.inf) for tensor in tensors]
    return torch.stack(magnitudes).amax().view(1, 1)


def _classify_pixels(windows: _Windows, patches: Tensor, segmenter: Segmenter) -> Tensor:
    """Return the class of each pixel of an image, (H, W), at the original size of the image.

    `patches` (n, h, w, D) are the patch embeddings of the image's n windows. The patches are
    compared with the queries of the segmenter, and the logits are interpolated to pixels.
    """
    protocol, label = segmenter.protocol, windows.images[0].label
    device = segmenter.encoder.info.device
    queries = to_device(torch.from_numpy(segmenter.queries), device)
    # Three classes with 1, 2 and 1 names have the classes of queries [0, 1, 1, 2].
    n_queries = torch.tensor([len(names) for names in protocol.queries])
    n_classes = len(n_queries)
    dtype = torch.uint8 if n_classes <= 256 else torch.int16  # uint16 has few operations
    class_of_query = torch.arange(n_classes, dtype=dtype).repeat_interleave(n_queries)
    height, width = label.shape
    decision = Decision(
        class_of_query=to_device(class_of_query, device),
        scale=protocol.scale,
        prob_thd=protocol.prob_thd,
        area_thd=protocol.area_thd,
    )
    return label_map(
        _arrange_windows(patches @ queries.T, windows),
        to_device(placement(windows.rows, height), device),
        to_device(placement(windows.columns, width), device),
        decision,
        windows.pixels if protocol.refinement else None,
    )


def _place_windows(images: Sequence[LoadedImage], segmenter: Segmenter) -> _Windows:
    """Return the grid of windows over an image, and put its pixels on the model's device.

    `images` holds the same image for each protocol. If the protocol has no window size, the only
    window is the whole image. Raises UsageError if a patch does not fit into a window.
    """
    protocol, patch_size = segmenter.protocol, segmenter.encoder.patch_size
    height, width = images[0].pixels.shape[1:]
    if patch_size > min(height, width, protocol.window or patch_size):
        windows = f" and windows are {protocol.window} px" if protocol.window else ""
        raise UsageError(
            f"image {images[0].sample.image} is {width}x{height} px after the resize{windows}, "
            f"but a patch of this model needs {patch_size}"
        )
    return _Windows(
        images=images,
        pixels=to_device(images[0].pixels, segmenter.encoder.info.device),
        rows=_windows_along_axis(height, protocol, patch_size),
        columns=_windows_along_axis(width, protocol, patch_size),
    )


def _windows_along_axis(length: int, protocol: SegmentationProtocol, patch_size: int) -> Axis:
    """Return the windows of a protocol along one side of an image, which has `length` pixels."""
    if protocol.window is None:
        return Axis(length, length, length, length // patch_size, is_whole=True)
    n_tokens = min(protocol.window, length) // patch_size
    return Axis(length, protocol.window, protocol.stride, n_tokens)


def _batch_images(images: Iterable[_Windows], batch_size: int) -> Iterator[list[_Windows]]:
    """Yield consecutive images in lists, such that a list has at most `batch_size` windows.

    An image with more windows is in a list of its own. With a batch size of 4, images of 2, 1, 3
    and 6 windows are yielded as [2, 1], [3] and [6].
    """
    batch: list[_Windows] = []
    n_windows = 0
    for image in images:
        if batch and n_windows + image.total > batch_size:
            yield batch
            batch = []
            n_windows = 0
        batch.append(image)
        n_windows += image.total
    if batch:
        yield batch


def _encode_patches(
    images: Sequence[_Windows], segmenter: Segmenter, attentions: Sequence[Attention]
) -> list[dict[Attention, Tensor]]:
    """Return, for each image, the patch embeddings of its n windows by form of attention.

    They are (n, h, w, D) for h x w patches in a window. Windows of equal shape are encoded
    together, also if they belong to different images.
    """
    images_of_shape = defaultdict(list)  # indices of images by the shape of their windows
    for index, windows in enumerate(images):
        images_of_shape[windows.shape].append(index)
    patches_of_images: list[dict[Attention, Tensor]] = [{} for _ in images]
    for indices in images_of_shape.values():
        pixels = torch.stack([window for index in indices for window in images[index].cut()])
        n_windows_of_image = [images[index].total for index in indices]
        encoded_by_attention = _encode_windows(pixels, segmenter, attentions)
        for attention, encoded in zip(attentions, encoded_by_attention, strict=True):
            # Give every image the embeddings of its own windows.
            chunks = encoded.split(n_windows_of_image)
            for index, patches in zip(indices, chunks, strict=True):
                patches_of_images[index][attention] = patches
    return patches_of_images


def _encode_windows(
    pixels: Tensor, segmenter: Segmenter, attentions: Sequence[Attention]
) -> list[Tensor]:
    """Encode windows (n, 3, H, W) batch by batch, by each form of attention.

    Returns the patch embeddings (n, h, w, D) by each form. The forms share all blocks but the last
    one. All batches have about the same size.
    """
    encoder = segmenter.encoder
    window_hw = (pixels.shape[2], pixels.shape[3])
    batch_size = images_at_once(encoder, window_hw, segmenter.batch_size)
    batches = pixels.chunk(math.ceil(len(pixels) / batch_size))
    encoded_batches: list[list[Tensor]] = [[] for _ in attentions]
    with shared_blocks():
        for batch in batches:
            for index, attention in enumerate(attentions):
                encoded_batches[index].append(encoder.encode_patches(batch, attention))
    return [torch.cat(batches_of_attention) for batches_of_attention in encoded_batches]


def _arrange_windows(logits: Tensor, windows: _Windows) -> Tensor:
    """Put the logits of all windows side by side, as the windows lie on the image.

    `logits` (n, h, w, Q) holds the logits of h x w tokens in each of n windows. With R rows and S
    columns of windows, the result is (Q, R * h, S * w). For example, 2 rows and 3 columns of
    windows with 14 x 14 tokens give (Q, 28, 42).
    """
    grid = logits.unflatten(0, (len(windows.rows.starts), len(windows.columns.starts)))
    # (R, S, h, w, Q) -> (Q, R, h, S, w) -> (Q, R * h, S * w)
    return grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2).contiguous()


def draw_image(
    encoder: Encoder, protocol: SegmentationProtocol, path: Path, options: RunOptions
) -> tuple[Image.Image, dict[str, float]]:
    """Segment an image file, and draw the image, the predicted classes over it, and a legend.

    Returns the picture, and the fraction of the pixels of each predicted class by its name, the
    largest fraction first. Raises UsageError for a file that is not an image, and for a model
    without patches.
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
    fractions = pictures.shares(classes, len(names))
    colours = pictures.distinct_colours(len(names))
    picture = pictures.picture(panels, names, colours, fractions)
    return picture, {names[index]: fraction for index, fraction in fractions.items()}


def predictions(
    encoder: Encoder, protocol: SegmentationProtocol, samples: Sequence[Sample], options: RunOptions
) -> Iterator[Label]:
    """Segment images of a data set, and yield their predicted classes (H, W) at the original size.

    Raises UsageError for a model without patches, and for damaged files.
    """
    dense_encoder = require_patches(encoder, options.attention or protocol.attention)
    segmenter = make_segmenter(dense_encoder, protocol, options)
    loaded_images = (load_together([sample], [segmenter.protocol])[0] for sample in samples)
    return predict(segmenter, loaded_images)
