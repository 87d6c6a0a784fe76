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
    """Read an image and each protocol's label map.

    Raises UsageError for a file that cannot be used.
    """
    content = ImageFile(samples[0].image).read()
    image = pictures.decode(samples[0].image, content)
    pixels = normalised(image, protocols[0])
    loaded = []
    for sample, protocol in zip(samples, protocols, strict=True):
        label = read_label(sample, protocol)
        require_same_size(sample, (image.shape[0], image.shape[1]), label)
        loaded.append(LoadedImage(sample, pixels, label, content_sha256(content, sample)))
    return loaded


def normalised(image: NDArray[np.uint8], protocol: SegmentationProtocol) -> Tensor:
    """Resize (H, W, 3) RGB uint8, keeping the ratio, and normalise it to (3, h, w) float32."""
    if protocol.mean is None or protocol.std is None:
        raise ValueError(f"{protocol.dataset}: mean and std are still to be taken from a model")
    height, width = resized_hw((image.shape[0], image.shape[1]), protocol)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    mean, std = np.array(protocol.mean, np.float32), np.array(protocol.std, np.float32)
    scaled = (resized.astype(np.float32) - mean) / std
    return torch.from_numpy(scaled).permute(2, 0, 1).contiguous()


def resized_hw(image_hw: tuple[int, int], protocol: SegmentationProtocol) -> tuple[int, int]:
    """Return the largest (height, width) with the image's ratio within the protocol's bounds.

    The protocol bounds the short and the long side. mmcv.rescale_size does the same.
    """
    scale = min(protocol.long_side / max(image_hw), protocol.short_side / min(image_hw))
    height, width = (int(side * scale + 0.5) for side in image_hw)
    return max(height, 1), max(width, 1)


class Segmenter(NamedTuple):
    """A model that segments images by a protocol."""

    encoder: DenseEncoder
    # (Q, D) embeddings of the queries, in the order of the classes.
    queries: NDArray[np.float32]
    protocol: SegmentationProtocol
    attention: Attention
    # The number of windows that are encoded together.
    batch_size: int


def fit_to_model(protocol: SegmentationProtocol, encoder: DenseEncoder) -> SegmentationProtocol:
    """Return the protocol with the model's mean and std if the protocol does not state them."""
    mean = protocol.mean or _to_byte_scale(encoder.image_mean)
    std = protocol.std or _to_byte_scale(encoder.image_std)
    return replace(protocol, mean=mean, std=std)


def _to_byte_scale(rgb: types.Rgb) -> types.Rgb:
    """Return RGB on the 0-255 scale."""
    red, green, blue = rgb
    return 255 * red, 255 * green, 255 * blue


def _to_unit_scale(rgb: types.Rgb | None) -> types.Rgb:
    """Return RGB on the 0-1 scale."""
    assert rgb is not None  # the protocol was fitted to a model
    red, green, blue = rgb
    return red / 255, green / 255, blue / 255


def make_segmenter(
    encoder: DenseEncoder,
    protocol: SegmentationProtocol,
    options: RunOptions,
    progress: OnProgress = types.no_progress,
) -> Segmenter:
    """Fit a protocol to a model, and encode its prompts."""
    names = [name for synonyms in protocol.queries for name in synonyms]
    queries = prompt_embeddings(encoder, names, protocol.templates, options, progress)
    attention = options.attention or protocol.attention
    fitted = fit_to_model(protocol, encoder)
    if encoder.info.auxiliary is not None:  # it must know how images are normalised
        encoder = copy.copy(encoder)
        encoder.image_mean = _to_unit_scale(fitted.mean)
        encoder.image_std = _to_unit_scale(fitted.std)
    return Segmenter(encoder, queries, fitted, attention, options.batch_size)


class _Windows(NamedTuple):
    """A grid of windows of one shape over an image."""

    # The image with the label map of each protocol.
    images: Sequence[LoadedImage]
    # (3, H, W), on the model's device.
    pixels: Tensor
    rows: Axis
    columns: Axis

    @property
    def total(self) -> int:
        """The number of windows."""
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a window, in pixels."""
        rows, columns = self.rows, self.columns
        return min(rows.window, rows.length), min(columns.window, columns.length)

    def cut(self) -> Iterator[Tensor]:
        """Yield the windows, (3, h, w) each, row by row."""
        height, width = self.shape
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield self.pixels[:, top : top + height, left : left + width]


def predict(segmenter: Segmenter, images: Iterable[LoadedImage]) -> Iterator[Label]:
    """Yield label maps in the order of the images.

    Raises UsageError as `predict_together` does.
    """
    for ((_, classes),) in predict_together([segmenter], ([image] for image in images)):
        yield classes


@torch.inference_mode()
def predict_together(
    segmenters: Sequence[Segmenter], images: Iterable[Sequence[LoadedImage]]
) -> Iterator[list[tuple[LoadedImage, Label]]]:
    """Yield the classes (H, W) of every image by every segmenter; each image is encoded once.

    An image comes with the label map of every segmenter. The segmenters have the same model, batch
    size and windows. Raises UsageError for images smaller than a patch, and for embeddings that are
    not finite.
    """
    info = segmenters[0].encoder.info
    for loaded, (largest, *maps) in copy_to_host(_label_maps(segmenters, images)):
        require_finite(largest, info, [loaded[0].sample.name].__getitem__)
        predictions = []
        for image, classes in zip(loaded, maps, strict=True):
            array = classes.numpy()
            predictions.append((image, array.view(f"u{array.itemsize}")))
        yield predictions


def _label_maps(
    segmenters: Sequence[Segmenter], images: Iterable[Sequence[LoadedImage]]
) -> Iterator[tuple[Sequence[LoadedImage], list[Tensor]]]:
    """Yield each image with its tensors: a check value (1, 1), and the map of every segmenter.

    The check value is the largest magnitude of the image's embeddings. It is finite if and only if
    all embeddings are. It is copied from the device together with the maps.
    """
    grids = (_windows(loaded, segmenters[0]) for loaded in images)
    attentions = list(dict.fromkeys(segmenter.attention for segmenter in segmenters))
    for group in _groups(grids, segmenters[0].batch_size):
        patches_of_images = _patches(group, segmenters[0], attentions)
        for windows, patches in zip(group, patches_of_images, strict=True):
            magnitudes = [
                torch.linalg.vector_norm(embeddings.flatten(), torch.inf)
                for embeddings in patches.values()
            ]
            largest = torch.stack(magnitudes).amax().view(1, 1)
            maps = [
                _label_map(windows, patches[segmenter.attention], segmenter)
                for segmenter in segmenters
            ]
            yield windows.images, [largest, *maps]


def _label_map(windows: _Windows, patches: Tensor, segmenter: Segmenter) -> Tensor:
    """Return the classes (H, W) of an image from the patches (n, h, w, D) of its windows."""
    protocol, label = segmenter.protocol, windows.images[0].label
    device = segmenter.encoder.info.device
    queries = to_device(torch.from_numpy(segmenter.queries), device)
    n_queries = torch.tensor([len(names) for names in protocol.queries])
    # PyTorch has few operations for uint16.
    dtype = torch.uint8 if len(n_queries) <= 256 else torch.int16
    class_of_query = torch.arange(len(n_queries), dtype=dtype).repeat_interleave(n_queries)
    return label_map(
        _tiled(patches @ queries.T, windows),
        to_device(placement(windows.rows, label.shape[0]), device),
        to_device(placement(windows.columns, label.shape[1]), device),
        Decision(
            to_device(class_of_query, device),
            protocol.scale,
            protocol.prob_thd,
            protocol.area_thd,
        ),
        windows.pixels if protocol.refinement else None,
    )


def _windows(images: Sequence[LoadedImage], segmenter: Segmenter) -> _Windows:
    """Place the windows on an image; without a window, the whole image is one."""
    protocol, patch = segmenter.protocol, segmenter.encoder.patch_size
    height, width = images[0].pixels.shape[1:]
    if patch > min(height, width, protocol.window or patch):
        windows = f" and windows are {protocol.window} px" if protocol.window else ""
        raise UsageError(
            f"image {images[0].sample.image} is {width}x{height} px after the resize{windows}, "
            f"but a patch of this model needs {patch}"
        )
    pixels = to_device(images[0].pixels, segmenter.encoder.info.device)
    return _Windows(images, pixels, _axis(height, protocol, patch), _axis(width, protocol, patch))


def _axis(length: int, protocol: SegmentationProtocol, patch: int) -> Axis:
    """Return the windows along one side of an image, of `length` pixels."""
    if protocol.window is None:
        return Axis(length, length, length, length // patch, is_whole=True)
    n_tokens = min(protocol.window, length) // patch
    return Axis(length, protocol.window, protocol.stride, n_tokens)


def _groups(images: Iterable[_Windows], batch_size: int) -> Iterator[list[_Windows]]:
    """Yield consecutive images in groups, whose windows together fit into a batch.

    An image with more windows than a batch is a group of its own.
    """
    group: list[_Windows] = []
    n_windows = 0
    for image in images:
        if group and n_windows + image.total > batch_size:
            yield group
            group = []
            n_windows = 0
        group.append(image)
        n_windows += image.total
    if group:
        yield group


def _patches(
    group: Sequence[_Windows], segmenter: Segmenter, attentions: Sequence[Attention]
) -> list[dict[Attention, Tensor]]:
    """Return the patch embeddings (n, h, w, D) of every image's windows by form of attention.

    Windows of equal shape are encoded together.
    """
    indices_of_shape = defaultdict(list)
    for index, windows in enumerate(group):
        indices_of_shape[windows.shape].append(index)
    patches: list[dict[Attention, Tensor]] = [{} for _ in group]
    for indices in indices_of_shape.values():
        pixels = torch.stack([window for index in indices for window in group[index].cut()])
        n_windows = [group[index].total for index in indices]
        encoded_forms = _encode(pixels, segmenter, attentions)
        for attention, encoded in zip(attentions, encoded_forms, strict=True):
            for index, encoded_image in zip(indices, encoded.split(n_windows), strict=True):
                patches[index][attention] = encoded_image
    return patches


def _encode(pixels: Tensor, segmenter: Segmenter, attentions: Sequence[Attention]) -> list[Tensor]:
    """Return the patch embeddings (n, h, w, D) of windows (n, 3, H, W) by each form of attention.

    All batches have about the same size.
    """
    encoder = segmenter.encoder
    at_once = images_at_once(encoder, (pixels.shape[2], pixels.shape[3]), segmenter.batch_size)
    batches = pixels.chunk(math.ceil(len(pixels) / at_once))
    with shared_blocks():
        encoded = [
            [encoder.encode_patches(batch, attention) for attention in attentions]
            for batch in batches
        ]
    return [torch.cat(batches_of_form) for batches_of_form in zip(*encoded, strict=True)]


def _tiled(logits: Tensor, windows: _Windows) -> Tensor:
    """Return the token logits of all windows side by side, as the grid of windows lies, (Q, A, B).

    `logits` (n, h, w, Q) has an entry per window. With R rows and S columns of windows, A = R * h
    and B = S * w.
    """
    grid = logits.unflatten(0, (len(windows.rows.starts), len(windows.columns.starts)))
    # (R, S, h, w, Q) -> (Q, R, h, S, w) -> (Q, R * h, S * w)
    return grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2).contiguous()


def draw_image(
    encoder: Encoder, protocol: SegmentationProtocol, path: Path, options: RunOptions
) -> tuple[Image.Image, dict[str, float]]:
    """Draw an image, its label map and a legend.

    Returns the picture, and the fraction of the pixels of each class by name. Raises UsageError for
    a file that is not an image, and for a model without patches.
    """
    check_constants(protocol)
    image = pictures.decode(path)
    dense = require_patches(encoder, options.attention or protocol.attention)
    segmenter = make_segmenter(dense, protocol, options)
    pixels = normalised(image, segmenter.protocol)
    unlabelled = np.full(image.shape[:2], protocol.ignore_index, np.uint16)
    loaded = LoadedImage(Sample(path.stem, path, path, {}), pixels, unlabelled)
    (classes,) = predict(segmenter, [loaded])
    panels = [(path.name, image, None), (encoder.info.spec, image, classes)]
    names = protocol.class_names
    shares = pictures.shares(classes, len(names))
    drawn = pictures.picture(panels, names, pictures.distinct_colours(len(names)), shares)
    return drawn, {names[index]: share for index, share in shares.items()}


def predictions(
    encoder: Encoder, protocol: SegmentationProtocol, samples: Sequence[Sample], options: RunOptions
) -> Iterator[Label]:
    """Yield predicted classes (H, W) of images of a data set, each at its original size."""
    dense = require_patches(encoder, options.attention or protocol.attention)
    segmenter = make_segmenter(dense, protocol, options)
    images = (load_together([sample], [segmenter.protocol])[0] for sample in samples)
    return predict(segmenter, images)
