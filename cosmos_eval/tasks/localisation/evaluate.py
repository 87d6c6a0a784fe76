"""Localisation: maps of all classes over the images of a data set, scored where a class is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from cosmos_eval.data.label_map_checks import has_background
from cosmos_eval.data.label_maps import Label, LabelMaps, Sample, read_label, require_same_size
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.embedding.cache import Arrays
from cosmos_eval.models.encoder import DenseEncoder, Encoder, require_finite
from cosmos_eval.models.maps import (
    heatmaps_of_features,
    usual_kind,
    whole_image,
    with_cross_attention,
    with_patches,
)
from cosmos_eval.stats.localisation import Cover, MapScores, cover, score_maps
from cosmos_eval.tasks import label_maps, task_named
from cosmos_eval.tasks import localisation as fields
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.types import (
    Attention,
    LocalisationProtocol,
    MapKind,
    Measurement,
    OnProgress,
    RunOptions,
    UsageError,
)

ALONE = "alone"  # (N,) whether one class fills all labelled pixels of an image

# Constants of a protocol that change the number, beside names, prompts and templates.
_CONSTANTS = ("map", "scale", "small", "large", "reduce_zero_label", "ignore_index")


def measure_data(
    encoder: Encoder,
    protocol: LocalisationProtocol,
    options: RunOptions,
    progress: OnProgress,
    data: LabelMaps,
) -> Iterator[Measurement]:
    """Measure checked data; finished shards are removed when the caller goes on."""
    attention = options.attention or protocol.attention
    kind = protocol.map or usual_kind(encoder)

    def require_maps() -> DenseEncoder:
        if kind == "cross-attention":
            return with_cross_attention(encoder)
        return with_patches(encoder, attention)

    dense = options.distributed.synchronized(require_maps)
    store = label_maps.unfinished_store(encoder.info, protocol, options, data.samples)

    def load(index: int) -> LoadedImage:
        return load_image(data.samples[index], dense, protocol)

    def prepare() -> label_maps.Steps[LoadedImage]:
        mapper = _make_mapper(dense, kind, protocol, options, progress)
        return load, partial(_score_shard, mapper, options.batch_size)

    (arrays,), seconds = label_maps.in_shards(
        [store], len(data.samples), prepare, options, progress
    )
    if not len(arrays[fields.IMAGE]):
        raise UsageError(
            f"{protocol.dataset}: no image has a thing beside something else that is labelled"
        )
    names = [sample.name for sample in data.samples]
    alone = arrays.pop(ALONE)
    left_out = (
        f"{protocol.dataset}: left out are {alone.sum()} of {len(alone)} images in which one "
        "class fills all labelled pixels"
    )
    described = {
        fields.NAME: np.array(names),
        fields.CLASSES: np.array(protocol.class_names),
        fields.BOUNDS: np.array([protocol.small, protocol.large]),
    }
    constants = {name: getattr(protocol, name) for name in _CONSTANTS}
    yield task_named("loc").measurement(
        {**described, **arrays},
        options,
        hashes=label_maps.fingerprints(protocol, names, {**constants, "attention": attention}),
        settings={"map": kind, "protocol_map": protocol.map},
        seconds=seconds,
        notes=[left_out] if alone.any() else [],
    )
    store.remove()


def _score_shard(
    mapper: Mapper,
    batch_size: int,
    shard: range,
    images: Iterator[LoadedImage],
    step: Callable[[], None],
) -> list[Arrays]:
    loaded = list(images)
    scores: list[MapScores | None] = [None] * len(loaded)
    for index, score in _scores(loaded, mapper, batch_size):
        scores[index] = score
        step()
    return [_arrays(shard, loaded, scores)]


def _scores(
    loaded: Sequence[LoadedImage], mapper: Mapper, batch_size: int
) -> Iterator[tuple[int, MapScores | None]]:
    """Yield the index of every image of a shard and the scores of its things, None without any.

    Images of equal size are encoded together.
    """
    of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, image in enumerate(loaded):
        of_size[image.pixels.shape[1], image.pixels.shape[2]].append(number)
    for size, members in of_size.items():
        batches = math.ceil(
            len(members) / label_maps.images_at_once(mapper.encoder, size, batch_size)
        )
        for batch in np.array_split(members, batches):
            maps = _class_maps(mapper, torch.stack([loaded[n].pixels for n in batch]))
            names = [loaded[n].name for n in batch]
            require_finite(maps, mapper.encoder.info, names.__getitem__)
            for number, every in zip(batch.tolist(), maps.numpy(), strict=True):
                classes, *_, under, _ = loaded[number].things
                yield number, score_maps(every[classes], under) if under else None


def _arrays(
    shard: range, loaded: Sequence[LoadedImage], scored: Sequence[MapScores | None]
) -> Arrays:
    things = [image.things for image in loaded]
    scores = [np.stack(some).astype(np.float32) for some in scored if some is not None]
    joined = np.concatenate([np.zeros((len(MapScores._fields), 0), np.float32), *scores], axis=1)
    counts = [len(some.classes) for some in things]
    return {
        fields.PIXELS: np.array([some.image_pixels for some in things], np.int32),
        fields.LABELLED: np.array([some.labelled_pixels for some in things], np.int32),
        ALONE: np.array([some.alone for some in things]),
        fields.IMAGE: np.repeat(np.array(shard, np.int32), counts),
        fields.CLASS: np.array([number for some in things for number in some.classes], np.int16),
        fields.THING: np.array([pixels for some in things for pixels in some.pixels], np.int32),
        **dict(zip(fields.SCORES, joined, strict=True)),
    }


class Things(NamedTuple):
    """The things of an image that has something else as well.

    `classes` (ascending) and `pixels` have one entry per thing; `under` is None where there is no
    thing. `alone` is true where one class fills all labelled pixels, so that no map can miss it.
    """

    classes: list[int]
    pixels: list[int]
    image_pixels: int
    labelled_pixels: int
    under: Cover | None
    alone: bool


class LoadedImage(NamedTuple):
    """`pixels` (3, H, W) float32, resized and normalised, and the things in the image."""

    name: str
    pixels: Tensor
    things: Things


def load_image(
    sample: Sample, encoder: DenseEncoder, protocol: LocalisationProtocol
) -> LoadedImage:
    """Read an image and its label map. Raises UsageError that names a file it cannot use."""
    source = ImageFile(sample.image)
    # As label maps are made of what is displayed.
    image = ImageOps.exif_transpose(source.decode(source.read()))
    label = read_label(sample, protocol)
    require_same_size(sample, (image.height, image.width), label)
    pixels = whole_image(encoder, image)
    height, width = (side // encoder.patch_size for side in pixels.shape[1:])
    return LoadedImage(sample.name, pixels, things_of(label, (height, width), protocol))


def things_of(label: Label, grid: tuple[int, int], protocol: LocalisationProtocol) -> Things:
    """Find the things of a label map (H, W) below h x w patches, taken to cover all of it."""
    counts = np.bincount(label.ravel(), minlength=256)
    ignored = protocol.ignore_index
    labelled = int(counts.sum() - counts[ignored])
    first = int(has_background(protocol))
    present = [n for n in range(first, len(protocol.class_names)) if counts[n]]
    alone = any(counts[n] == labelled for n in present)
    classes = [] if alone else present
    under = cover(label, classes, grid, ignored) if classes else None
    return Things(classes, counts[classes].tolist(), label.size, labelled, under, alone)


class Mapper(NamedTuple):
    """A model, the kind of its maps, and the features (Q, D) of all names of the classes.

    `names_of_class` (C, Q) holds the weight of every name in the map of its class.
    """

    encoder: DenseEncoder
    kind: MapKind
    attention: Attention
    scale: float
    features: Tensor
    names_of_class: Tensor


def _make_mapper(
    encoder: DenseEncoder,
    kind: MapKind,
    protocol: LocalisationProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Mapper:
    """Encode the names of all classes. The feature of a name is the mean over templates."""
    names = [name for synonyms in protocol.queries for name in synonyms]
    crossed = kind == "cross-attention"
    queries = with_cross_attention(encoder).text_queries if crossed else None
    features = prompt_embeddings(encoder, names, protocol.templates, options, progress, queries)
    weights = [torch.full((len(some), 1), 1 / len(some)).double() for some in protocol.queries]
    return Mapper(
        encoder,
        kind,
        options.attention or protocol.attention,
        protocol.scale,
        torch.from_numpy(features),
        torch.block_diag(*weights).T,
    )


def _class_maps(mapper: Mapper, images: Tensor) -> Tensor:
    """Map images (B, 3, H, W) to maps of all classes (B, C, h, w) float64, which sum to 1.

    The map of a class is the mean over its names and over heads: of the weights of cross-attention,
    or of the cosines, to which a softmax over the patches is applied.
    """
    maps = heatmaps_of_features(
        mapper.encoder, images, mapper.features, kind=mapper.kind, attention=mapper.attention
    )
    mean = torch.einsum("cq,bqhw->bchw", mapper.names_of_class, maps.double().mean(dim=2))
    if mapper.kind == "cross-attention":
        return mean
    return (mapper.scale * mean).flatten(2).softmax(-1).view_as(mean)
