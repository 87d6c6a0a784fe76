"""Localisation: maps of all classes over the images of a data set, compared with label maps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

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
    copy_to_host,
    require_finite,
    stack_on_host,
    to_device,
)
from cosmos_eval.stats.localisation import Cover, MapScores, cover, score_maps
from cosmos_eval.tasks import label_maps
from cosmos_eval.tasks import localisation as fields
from cosmos_eval.tasks.prompts import prompt_embeddings

ALONE = "alone"  # (N,) whether one class fills all labelled pixels of an image

# Fields of a protocol that change the number, beside class names, prompts and templates.
_CONSTANTS = ("map", "scale", "small", "large", "reduce_zero_label", "ignore_index")


def measure_data(
    encoder: Encoder,
    protocol: types.LocalisationProtocol,
    options: types.RunOptions,
    progress: types.OnProgress,
    data: LabelMaps,
) -> Iterator[types.Measurement]:
    """Yield the measurement of checked data.

    Finished shards are removed when the iterator is resumed. Raises UsageError for a model without
    the requested kind of map, and for damaged images.
    """
    attention = options.attention or protocol.attention
    kind = protocol.map or maps.default_map_kind(encoder)
    if kind != maps.SIMILARITY and attention == "proxy":
        raise types.UsageError(
            "--attention proxy changes only text-to-patch similarity, and this model's maps are "
            f"{kind}: name a data set and --protocol localisation-similarity"
        )

    def find_dense_encoder() -> DenseEncoder:
        if kind == maps.SIMILARITY:
            return maps.require_patches(encoder, attention=attention)
        return maps.require_cross_attention(encoder)

    dense = options.distributed.synchronized(find_dense_encoder)
    store = label_maps.unfinished_store(encoder.info, protocol, options, data.samples)
    scoring = _Scoring(dense, kind, protocol, [store], data.samples, options, progress)
    (arrays,), seconds = scoring.run()
    names = [sample.name for sample in data.samples]
    yield _measurement(protocol, names, arrays, options, kind, seconds)
    store.remove()


def _measurement(
    protocol: types.LocalisationProtocol,
    names: Sequence[str],
    arrays: label_maps.Joined,
    options: types.RunOptions,
    kind: types.MapKind,
    seconds: Mapping[str, float],
) -> types.Measurement:
    """Return the measurement of the arrays of all shards.

    Raises UsageError if no image has a thing that does not fill all labelled pixels.
    """
    dataset = protocol.dataset
    if not len(arrays[fields.IMAGE]):
        raise types.UsageError(
            f"{dataset}: no image has a thing beside something else that is labelled"
        )
    has_one_class = arrays.pop(ALONE)
    content = content_hash(arrays.pop(label_maps.CONTENT))
    notes = []
    if has_one_class.any():
        notes.append(
            f"{dataset}: left out are {has_one_class.sum()} of {len(has_one_class)} images in "
            "which one class fills all labelled pixels"
        )
    constants = {name: getattr(protocol, name) for name in _CONSTANTS}
    constants["attention"] = options.attention or protocol.attention
    samples = {
        fields.NAME: np.array(names),
        fields.CLASSES: np.array(protocol.class_names),
        fields.BOUNDS: np.array([protocol.small, protocol.large]),
        **arrays,
    }
    return fields.TASK.measurement(
        samples,
        options,
        content=content,
        hashes=label_maps.fingerprints(protocol, names, constants),
        notes=notes,
        settings={"map": kind, "protocol_map": protocol.map},
        seconds=seconds,
    )


class _Scoring(label_maps.ShardedMeasurement[Sample, "LoadedImage"]):
    """The maps of all things in all images, scored against the label maps."""

    def __init__(
        self,
        encoder: DenseEncoder,
        kind: types.MapKind,
        protocol: types.LocalisationProtocol,
        stores: Sequence[label_maps.ShardStore],
        samples: Sequence[Sample],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> None:
        super().__init__(stores, samples, options, progress)
        self._encoder = encoder
        self._kind = kind
        self._protocol = protocol
        self._class_maps: ClassMaps | None = None

    def prepare(self) -> None:
        self._class_maps = ClassMaps(
            self._encoder, self._kind, self._protocol, self._options, self._progress
        )

    def load(self, sample: Sample) -> LoadedImage:
        return load_image(sample, self._encoder, self._protocol)

    def measure_shard(self, shard: range, images: Iterator[LoadedImage]) -> list[Arrays]:
        """Score the maps of the things in the images of a shard."""
        loaded = list(images)
        scores: list[MapScores | None] = [None] * len(loaded)
        for indices, (maps_of_batch,) in copy_to_host(self._encode(loaded)):
            names = [loaded[index].name for index in indices]
            require_finite(maps_of_batch, self._encoder.info, names.__getitem__)
            for index, maps_of_image in zip(indices, maps_of_batch.numpy(), strict=True):
                image = loaded[index]
                if image.cover is not None:
                    scores[index] = score_maps(maps_of_image[image.classes], image.cover)
                self.image_done()
        return [_arrays_of_shard(shard, loaded, scores)]

    def _encode(self, images: Sequence[LoadedImage]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Yield indices of images, and the maps (B, C, h, w) of all classes over them."""
        assert self._class_maps is not None  # shards are measured after `prepare`
        for indices in _batches(self._encoder, images, self._options.batch_size):
            pixels = stack_on_host(
                [images[index].pixels for index in indices], self._encoder.info.device
            )
            yield indices, [self._class_maps(pixels)]


def _batches(
    encoder: DenseEncoder, images: Sequence[LoadedImage], batch_size: int
) -> Iterator[list[int]]:
    """Yield indices of images of equal size, which are encoded together."""
    indices_of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        indices_of_size[image.pixels.shape[1], image.pixels.shape[2]].append(index)
    for size, indices in indices_of_size.items():
        n_at_once = label_maps.images_at_once(encoder, size, batch_size)
        n_batches = math.ceil(len(indices) / n_at_once)
        for batch in np.array_split(indices, n_batches):
            yield batch.tolist()


def _arrays_of_shard(
    shard: range, images: Sequence[LoadedImage], scores: Sequence[MapScores | None]
) -> Arrays:
    """Return the arrays of a shard: some with an entry per image, others with one per thing.

    `scores` holds the scores of the things in each image, None for an image without things.
    """
    no_scores = np.zeros((len(MapScores._fields), 0), np.float32)
    scores_of_images = [
        np.stack(scores_of_image).astype(np.float32)
        for scores_of_image in scores
        if scores_of_image is not None
    ]
    scores_of_things = np.concatenate([no_scores, *scores_of_images], axis=1)
    n_things = [len(image.classes) for image in images]
    classes: list[int] = []
    thing_pixels: list[int] = []
    for image in images:
        classes.extend(image.classes)
        thing_pixels.extend(image.thing_pixels)
    return {
        fields.PIXELS: np.array([image.image_pixels for image in images], np.int32),
        fields.LABELLED: np.array([image.labelled_pixels for image in images], np.int32),
        ALONE: np.array([image.has_one_class for image in images]),
        label_maps.CONTENT: label_maps.content_array([image.sha256 for image in images]),
        fields.IMAGE: np.repeat(np.array(shard, np.int32), n_things),
        fields.CLASS: np.array(classes, np.int16),
        fields.THING: np.array(thing_pixels, np.int32),
        **dict(zip(fields.SCORES, scores_of_things, strict=True)),
    }


class LoadedImage(NamedTuple):
    """The pixels of an image, and the things in it that have something else beside them."""

    name: str
    # (3, H, W) float32, resized and normalised.
    pixels: Tensor
    # The classes of the things, ascending, and the number of pixels of each.
    classes: list[int]
    thing_pixels: list[int]
    image_pixels: int
    labelled_pixels: int
    # The pixels of the things that lie under each patch; None if there are no things.
    cover: Cover | None
    # Whether one class fills all labelled pixels. Such an image is left out: no map can miss it.
    has_one_class: bool
    # The SHA-256 of the image with its label map.
    sha256: bytes


def load_image(
    sample: Sample, encoder: DenseEncoder, protocol: types.LocalisationProtocol
) -> LoadedImage:
    """Read an image and its label map, and find the things in it.

    Raises UsageError for a file that cannot be used.
    """
    # Label maps are made of images as they are displayed.
    source = ImageFile(sample.image)
    content = source.read()
    image = ImageOps.exif_transpose(source.decode(content))
    label = read_label(sample, protocol)
    require_same_size(sample, (image.height, image.width), label)
    pixels = maps.whole_image(encoder, image)
    height, width = (side // encoder.patch_size for side in pixels.shape[1:])
    counts = np.bincount(label.ravel(), minlength=protocol.ignore_index + 1)
    n_labelled = int(counts.sum() - counts[protocol.ignore_index])
    first_thing = 1 if protocol.has_background else 0
    thing_classes = range(first_thing, len(protocol.class_names))
    present_classes = [index for index in thing_classes if counts[index]]
    has_one_class = any(counts[index] == n_labelled for index in present_classes)
    classes = [] if has_one_class else present_classes
    cover_of_things = None
    if classes:
        # The grid of patches is stretched over the whole label map.
        grid = (height, width)
        cover_of_things = cover(label, classes, grid, protocol.ignore_index)
    return LoadedImage(
        name=sample.name,
        pixels=pixels,
        classes=classes,
        thing_pixels=counts[classes].tolist(),
        image_pixels=label.size,
        labelled_pixels=n_labelled,
        cover=cover_of_things,
        has_one_class=has_one_class,
        sha256=label_maps.content_sha256(content, sample),
    )


class ClassMaps:
    """Maps of all classes over images.

    A name of a class has a map per attention head. The map of the class is the mean over its names
    and the heads. Weights of cross-attention are averaged as they are. Of log ratios and cosines,
    the mean is multiplied by the protocol's `scale`, and a softmax over the patches is applied to
    it. The feature of a name is the mean over the templates.
    """

    def __init__(
        self,
        encoder: DenseEncoder,
        kind: types.MapKind,
        protocol: types.LocalisationProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> None:
        self._encoder = encoder
        self._kind = kind
        self._attention = options.attention or protocol.attention
        encode = partial(prompt_embeddings, encoder, options=options, progress=progress)
        if kind in maps.OF_WEIGHTS:
            self._scale = 1.0
            queries = maps.require_cross_attention(encoder).text_queries
            encode = partial(encode, text_queries=queries)
        else:
            self._scale = protocol.scale
        names = [name for synonyms in protocol.queries for name in synonyms]
        features = encode(names, protocol.templates)
        if kind == maps.EMPTY_RATIO:
            features = np.concatenate([features, encode([""], ("{}",))])
        self._features = to_device(torch.from_numpy(features), encoder.info.device)
        self._mean_over_names = to_device(_mean_over_names(protocol), encoder.info.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps (B, C, h, w) float64 of images (B, 3, H, W). Each map sums to 1."""
        maps_of_names = maps.heatmaps_of_features(
            self._encoder, images, self._features, kind=self._kind, attention=self._attention
        )
        mean_over_heads = maps_of_names.double().mean(dim=2)
        maps_of_classes = torch.einsum("cq,bqhw->bchw", self._mean_over_names, mean_over_heads)
        if self._kind == "cross-attention":
            return maps_of_classes
        logits = self._scale * maps_of_classes
        return logits.flatten(2).softmax(-1).view_as(maps_of_classes)


def _mean_over_names(protocol: types.LocalisationProtocol) -> Tensor:
    """Return the matrix (C, Q) float64 that averages maps of Q names to maps of C classes.

    For two classes, the first with two names, it is [[1/2, 1/2, 0], [0, 0, 1]].
    """
    weights_of_classes = [
        torch.full((len(synonyms), 1), 1 / len(synonyms)).double() for synonyms in protocol.queries
    ]
    return torch.block_diag(*weights_of_classes).T
