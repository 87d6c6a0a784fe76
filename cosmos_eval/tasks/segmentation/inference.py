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
from typing import Any, NamedTuple

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
from cosmos_eval.models.encoder import DenseEncoder, Encoder, on_host, require_finite, to_device
from cosmos_eval.models.maps import with_patches
from cosmos_eval.tasks.label_maps import content_sha256, images_at_once
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation import pictures
from cosmos_eval.tasks.segmentation.merge import Axis, Decision, label_map, placement
from cosmos_eval.types import Attention, OnProgress, RunOptions, SegmentationProtocol, UsageError


class LoadedImage(NamedTuple):
    """`pixels` (3, H, W) float32, resized and normalised; `label` at the original size; the SHA-256
    of both files."""

    sample: Sample
    pixels: Tensor
    label: Label
    sha256: bytes = b""


def load_together(
    samples: Sequence[Sample], protocols: Sequence[SegmentationProtocol]
) -> list[LoadedImage]:
    """Read an image and each protocol's label map. Raises UsageError that names a bad file."""
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
    """Return the largest size that keeps the ratio and both bounds, as mmcv.rescale_size."""
    bounds = (protocol.long_side / max(image_hw), protocol.short_side / min(image_hw))
    height, width = (int(side * min(bounds) + 0.5) for side in image_hw)
    return max(height, 1), max(width, 1)


class Segmenter(NamedTuple):
    """A model and its query embeddings (Q, D) in class order; `batch_size` counts windows."""

    encoder: DenseEncoder
    queries: NDArray[np.float32]
    protocol: SegmentationProtocol
    attention: Attention
    batch_size: int


def fit_to_model(protocol: SegmentationProtocol, encoder: DenseEncoder) -> SegmentationProtocol:
    """Return the protocol with the model's mean and std where it states none."""
    constants = (encoder.image_mean, encoder.image_std)
    mean, std = ((255 * red, 255 * green, 255 * blue) for red, green, blue in constants)
    return replace(protocol, mean=protocol.mean or mean, std=protocol.std or std)


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
        moments: Any = fitted.mean, fitted.std
        encoder.image_mean, encoder.image_std = (
            tuple(one / 255 for one in some) for some in moments
        )
    return Segmenter(encoder, queries, fitted, attention, options.batch_size)


class _Windows(NamedTuple):
    """A grid of windows of one shape over an image, held with the label map of every protocol;
    `pixels` (3, H, W) are on the model's device."""

    images: Sequence[LoadedImage]
    pixels: Tensor
    rows: Axis
    columns: Axis

    @property
    def total(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.rows, self.columns
        return min(rows.window, rows.length), min(columns.window, columns.length)

    def cut(self) -> Iterator[Tensor]:
        """The windows, (3, h, w) each, row by row."""
        height, width = self.shape
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield self.pixels[:, top : top + height, left : left + width]


def predict(segmenter: Segmenter, images: Iterable[LoadedImage]) -> Iterator[Label]:
    """Label maps in the order of the images. Raises UsageError as `predict_together` does."""
    for ((_, classes),) in predict_together([segmenter], ([image] for image in images)):
        yield classes


@torch.inference_mode()
def predict_together(
    segmenters: Sequence[Segmenter], images: Iterable[Sequence[LoadedImage]]
) -> Iterator[list[tuple[LoadedImage, Label]]]:
    """Predict classes (H, W) with every segmenter, in the order of the images, encoded once each.

    An image comes with every segmenter's label map; these have the same model, batch size and
    windows. Raises UsageError for images under one patch and embeddings not finite.
    """
    info = segmenters[0].encoder.info
    for loaded, (largest, *maps) in on_host(_label_maps(segmenters, images)):
        require_finite(largest, info, [loaded[0].sample.name].__getitem__)
        arrays = (classes.numpy() for classes in maps)
        unsigned = (array.view(f"u{array.itemsize}") for array in arrays)
        yield list(zip(loaded, unsigned, strict=True))


def _label_maps(
    segmenters: Sequence[Segmenter], images: Iterable[Sequence[LoadedImage]]
) -> Iterator[tuple[Sequence[LoadedImage], list[Tensor]]]:
    """Yield the largest magnitude (1, 1) of an image's embeddings, and its map by every segmenter.

    A magnitude that is not finite shows one such value, and is read with the maps.
    """
    windows = (_windows(one, segmenters[0]) for one in images)
    forms = [*dict.fromkeys(segmenter.attention for segmenter in segmenters)]
    for group in _groups(windows, segmenters[0].batch_size):
        for one, patches in zip(group, _patches(group, segmenters[0], forms), strict=True):
            norms = [torch.linalg.vector_norm(of.flatten(), torch.inf) for of in patches.values()]
            largest = torch.stack(norms).amax().view(1, 1)
            maps = [_label_map(one, patches[own.attention], own) for own in segmenters]
            yield one.images, [largest, *maps]


def _label_map(windows: _Windows, patches: Tensor, segmenter: Segmenter) -> Tensor:
    """Classes (H, W) from the patch embeddings (n, h, w, D) of an image's windows."""
    protocol, label = segmenter.protocol, windows.images[0].label
    move = partial(to_device, device=segmenter.encoder.info.device)
    tokens = _tiled(patches @ move(torch.from_numpy(segmenter.queries)).T, windows)
    rows = move(placement(windows.rows, label.shape[0]))
    columns = move(placement(windows.columns, label.shape[1]))
    counts = torch.tensor([len(names) for names in protocol.queries])
    # PyTorch has few operations for uint16.
    narrow = torch.uint8 if len(counts) <= 256 else torch.int16
    classes = torch.arange(len(counts), dtype=narrow).repeat_interleave(counts)
    decision = Decision(move(classes), protocol.scale, protocol.prob_thd, protocol.area_thd)
    pixels = windows.pixels if protocol.refinement else None
    return label_map(tokens, rows, columns, decision, pixels)


def _windows(images: Sequence[LoadedImage], segmenter: Segmenter) -> _Windows:
    """Place the windows on an image; the whole image is one where the protocol has none."""
    protocol, patch = segmenter.protocol, segmenter.encoder.patch_size
    height, width = images[0].pixels.shape[1:]
    if patch > min(height, width, protocol.window or patch):
        windows = f" and windows are {protocol.window} px" if protocol.window else ""
        raise UsageError(
            f"image {images[0].sample.image} is {width}x{height} px after the resize{windows}, "
            f"but a patch of this model needs {patch}"
        )

    def axis(length: int) -> Axis:
        if protocol.window is None:
            return Axis(length, length, length, length // patch, is_whole=True)
        return Axis(length, protocol.window, protocol.stride, min(protocol.window, length) // patch)

    pixels = to_device(images[0].pixels, segmenter.encoder.info.device)
    return _Windows(images, pixels, axis(height), axis(width))


def _groups(images: Iterable[_Windows], batch_size: int) -> Iterator[list[_Windows]]:
    """Consecutive images whose windows together fill a batch without exceeding it."""
    group: list[_Windows] = []
    for image in images:
        if group and sum(one.total for one in group) + image.total > batch_size:
            yield group
            group = []
        group.append(image)
    if group:
        yield group


def _patches(
    group: Sequence[_Windows], segmenter: Segmenter, forms: Sequence[Attention]
) -> list[dict[Attention, Tensor]]:
    """Patch embeddings (n, h, w, D) of every image's windows by form; equal shapes go together."""
    members = defaultdict(list)
    for index, one in enumerate(group):
        members[one.shape].append(index)
    patches: list[dict[Attention, Tensor]] = [{} for _ in group]
    for indices in members.values():
        pixels = torch.stack([window for i in indices for window in group[i].cut()])
        totals = [group[i].total for i in indices]
        for form, encoded in zip(forms, _encode(pixels, segmenter, forms), strict=True):
            for index, own in zip(indices, encoded.split(totals), strict=True):
                patches[index][form] = own
    return patches


def _encode(pixels: Tensor, segmenter: Segmenter, forms: Sequence[Attention]) -> list[Tensor]:
    """Windows (n, 3, H, W) -> patch embeddings (n, h, w, D) by each form of attention, in batches
    of about equal size."""
    encoder = segmenter.encoder
    at_once = images_at_once(encoder, (pixels.shape[2], pixels.shape[3]), segmenter.batch_size)
    batches = pixels.chunk(math.ceil(len(pixels) / at_once))
    with shared_blocks():
        encoded = [[encoder.encode_patches(one, form) for form in forms] for one in batches]
    return [torch.cat(parts) for parts in zip(*encoded, strict=True)]


def _tiled(logits: Tensor, windows: _Windows) -> Tensor:
    """Token logits (n, h, w, Q) of an image's windows -> side by side, (Q, A, B)."""
    grid = logits.unflatten(0, (len(windows.rows.starts), len(windows.columns.starts)))
    return grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2).contiguous()


def draw_image(
    encoder: Encoder, protocol: SegmentationProtocol, path: Path, options: RunOptions
) -> tuple[Image.Image, dict[str, float]]:
    """Draw an image, its label map and a legend; return also classes' shares. Raises UsageError."""
    check_constants(protocol)
    image = pictures.decode(path)
    dense = with_patches(encoder, options.attention or protocol.attention)
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
    dense = with_patches(encoder, options.attention or protocol.attention)
    segmenter = make_segmenter(dense, protocol, options)
    images = (load_together([sample], [segmenter.protocol])[0] for sample in samples)
    return predict(segmenter, images)
