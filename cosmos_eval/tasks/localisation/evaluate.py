"""Localisation: maps of all classes over the images of a data set, scored where a class is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from cosmos_eval import types
from cosmos_eval.data.folders import content_hash
from cosmos_eval.data.label_maps import LabelMaps, Sample, read_label, require_same_size
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.embedding.cache import Arrays
from cosmos_eval.models import maps
from cosmos_eval.models.encoder import (
    DenseEncoder,
    Encoder,
    on_host,
    require_finite,
    stacked,
    to_device,
)
from cosmos_eval.stats.localisation import Cover, MapScores, cover, score_maps
from cosmos_eval.tasks import label_maps
from cosmos_eval.tasks import localisation as fields
from cosmos_eval.tasks.prompts import prompt_embeddings

ALONE = "alone"  # (N,) whether one class fills all labelled pixels of an image

# Constants of a protocol that change the number, beside names, prompts and templates.
_CONSTANTS = ("map", "scale", "small", "large", "reduce_zero_label", "ignore_index")


def measure_data(
    encoder: Encoder,
    protocol: types.LocalisationProtocol,
    options: types.RunOptions,
    progress: types.OnProgress,
    data: LabelMaps,
) -> Iterator[types.Measurement]:
    """Measure checked data; finished shards are removed when the caller goes on."""
    attention = options.attention or protocol.attention
    kind = protocol.map or maps.usual_kind(encoder)
    with_patches = partial(maps.with_patches, attention=attention)
    require = with_patches if kind == maps.SIMILARITY else maps.with_cross_attention
    if kind != maps.SIMILARITY and attention == "proxy":
        raise types.UsageError(
            "--attention proxy changes text-to-patch similarity alone, and this model's maps are "
            f"of {kind}: name a data set and --protocol localisation-similarity"
        )
    dense: DenseEncoder = options.distributed.synchronized(lambda: require(encoder))
    store = label_maps.unfinished_store(encoder.info, protocol, options, data.samples)
    make_maps = partial(_make_maps, dense, kind, protocol, options, progress)
    (arrays,), seconds = label_maps.in_shards(
        [store],
        data.samples,
        partial(load_image, encoder=dense, protocol=protocol),
        lambda: partial(_score_shard, dense, make_maps(), options.batch_size),
        options,
        progress,
    )
    settings = {"map": kind, "protocol_map": protocol.map}
    names = [sample.name for sample in data.samples]
    yield _measurement(protocol, names, arrays, options, settings=settings, seconds=seconds)
    store.remove()


def _measurement(
    protocol: types.LocalisationProtocol,
    names: Sequence[str],
    arrays: label_maps.Joined,
    options: types.RunOptions,
    **more: Any,
) -> types.Measurement:
    where = protocol.dataset
    if not len(arrays[fields.IMAGE]):
        raise types.UsageError(
            f"{where}: no image has a thing beside something else that is labelled"
        )
    alone, content = arrays.pop(ALONE), content_hash(arrays.pop(label_maps.CONTENT))
    left_out = (
        f"{where}: left out are {alone.sum()} of {len(alone)} images in which one "
        "class fills all labelled pixels"
    )
    described = {
        fields.NAME: np.array(names),
        fields.CLASSES: np.array(protocol.class_names),
        fields.BOUNDS: np.array([protocol.small, protocol.large]),
    }
    constants = {name: getattr(protocol, name) for name in _CONSTANTS}
    constants["attention"] = options.attention or protocol.attention
    hashes = label_maps.fingerprints(protocol, names, constants)
    notes = [left_out] if alone.any() else []
    samples = {**described, **arrays}
    return fields.TASK.measurement(
        samples, options, content=content, hashes=hashes, notes=notes, **more
    )


def _score_shard(
    encoder: DenseEncoder,
    class_maps: Callable[[Tensor], Tensor],
    batch_size: int,
    shard: range,
    images: Iterator[LoadedImage],
    step: Callable[[], None],
) -> list[Arrays]:
    loaded = list(images)
    scores: list[MapScores | None] = [None] * len(loaded)
    encoded = (
        (batch, [class_maps(stacked([loaded[n].pixels for n in batch], encoder.info.device))])
        for batch in _batches(encoder, loaded, batch_size)
    )
    for batch, (found,) in on_host(encoded):
        require_finite(found, encoder.info, [loaded[n].name for n in batch].__getitem__)
        for number, every in zip(batch, found.numpy(), strict=True):
            if under := loaded[number].under:
                scores[number] = score_maps(every[loaded[number].classes], under)
            step()
    return [_arrays(shard, loaded, scores)]


def _batches(
    encoder: DenseEncoder, images: Sequence[LoadedImage], batch_size: int
) -> Iterator[list[int]]:
    """Yield indices of images of equal size, which are encoded together."""
    of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        of_size[image.pixels.shape[1], image.pixels.shape[2]].append(number)
    for size, members in of_size.items():
        at_once = label_maps.images_at_once(encoder, size, batch_size)
        for batch in np.array_split(members, math.ceil(len(members) / at_once)):
            yield batch.tolist()


def _arrays(
    shard: range, images: Sequence[LoadedImage], scored: Sequence[MapScores | None]
) -> Arrays:
    scores = [np.stack(some).astype(np.float32) for some in scored if some is not None]
    joined = np.concatenate([np.zeros((len(MapScores._fields), 0), np.float32), *scores], axis=1)
    counts = [len(image.classes) for image in images]
    return {
        fields.PIXELS: np.array([image.image_pixels for image in images], np.int32),
        fields.LABELLED: np.array([image.labelled_pixels for image in images], np.int32),
        ALONE: np.array([image.alone for image in images]),
        label_maps.CONTENT: label_maps.content_array([image.sha256 for image in images]),
        fields.IMAGE: np.repeat(np.array(shard, np.int32), counts),
        fields.CLASS: np.array([n for image in images for n in image.classes], np.int16),
        fields.THING: np.array([n for image in images for n in image.thing_pixels], np.int32),
        **dict(zip(fields.SCORES, joined, strict=True)),
    }


class LoadedImage(NamedTuple):
    """Resized and normalised pixels, and the things that have something else beside them."""

    name: str
    pixels: Tensor  # (3, H, W) float32
    classes: list[int]  # of the things, ascending
    thing_pixels: list[int]
    image_pixels: int
    labelled_pixels: int
    under: Cover | None  # None without such things
    alone: bool  # one class fills all labelled pixels, so that no map can miss it
    sha256: bytes  # of both files


def load_image(
    sample: Sample, encoder: DenseEncoder, protocol: types.LocalisationProtocol
) -> LoadedImage:
    """Read an image and its label map. Raises UsageError that names a file it cannot use."""
    # As label maps are made of what is displayed.
    source = ImageFile(sample.image)
    content = source.read()
    image = ImageOps.exif_transpose(source.decode(content))
    label = read_label(sample, protocol)
    require_same_size(sample, (image.height, image.width), label)
    pixels = maps.whole_image(encoder, image)
    height, width = (side // encoder.patch_size for side in pixels.shape[1:])
    counts = np.bincount(label.ravel(), minlength=protocol.ignore_index + 1)
    labelled = int(counts.sum() - counts[protocol.ignore_index])
    first, last = int(protocol.has_background), len(protocol.class_names)
    present = [n for n in range(first, last) if counts[n]]
    alone = any(counts[n] == labelled for n in present)
    classes = [] if alone else present
    # The patches are taken to cover all of the label map.
    under = cover(label, classes, (height, width), protocol.ignore_index) if classes else None
    things = (classes, counts[classes].tolist())
    sha256 = label_maps.content_sha256(content, sample)
    return LoadedImage(sample.name, pixels, *things, label.size, labelled, under, alone, sha256)


def _make_maps(
    encoder: DenseEncoder,
    kind: types.MapKind,
    protocol: types.LocalisationProtocol,
    options: types.RunOptions,
    progress: types.OnProgress,
) -> Callable[[Tensor], Tensor]:
    """Return what maps images (B, 3, H, W) to maps of all classes (B, C, h, w) float64, of sum 1.

    The map of a class is the mean over its names and heads: of the weights of cross-attention, or
    of log ratios or cosines, then their softmax over patches. A name's feature is the mean over
    templates.
    """
    names = [name for synonyms in protocol.queries for name in synonyms]
    of_weights = kind in maps.OF_WEIGHTS
    encode = maps.with_cross_attention(encoder).text_queries if of_weights else None
    features = prompt_embeddings(encoder, names, protocol.templates, options, progress, encode)
    if kind == maps.EMPTY_RATIO:
        empty = prompt_embeddings(encoder, [""], ("{}",), options, progress, encode)
        features = np.concatenate([features, empty])
    scale = 1.0 if of_weights else protocol.scale
    queries = to_device(torch.from_numpy(features), encoder.info.device)
    means = [torch.full((len(some), 1), 1 / len(some)).double() for some in protocol.queries]
    weights = to_device(torch.block_diag(*means).T, encoder.info.device)
    attention = options.attention or protocol.attention

    def class_maps(images: Tensor) -> Tensor:
        found = maps.heatmaps_of_features(encoder, images, queries, kind=kind, attention=attention)
        mean = torch.einsum("cq,bqhw->bchw", weights, found.double().mean(dim=2))
        if kind == "cross-attention":
            return mean
        return (scale * mean).flatten(2).softmax(-1).view_as(mean)

    return class_maps
