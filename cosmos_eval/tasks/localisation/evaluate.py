"""Localisation: maps of all classes over the images of a data set, compared with label maps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
from cosmos_eval.tasks import label_maps, localisation
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
    """Score the maps of all classes over the images of a data set, and yield the measurement.

    Images are measured in shards, which are stored below the folder `options.unfinished`, so that
    an interrupted run can be resumed. They are removed when the caller, who has stored the
    measurement, asks for the next one.

    Args:
        encoder: The model.
        protocol: The data set, and how it is measured. It may name a kind of map, such as
            `similarity`. Otherwise the maps have the usual kind of the model.
        options: The options of the run.
        progress: Called with the number of images that are measured.
        data: The images and label maps, which were checked before.

    Raises UsageError for a model without the requested kind of map, and for damaged images.
    """
    attention = options.attention or protocol.attention
    kind = protocol.map or maps.default_map_kind(encoder)
    if kind != maps.SIMILARITY and attention == "proxy":
        raise types.UsageError(
            "--attention proxy changes only text-to-patch similarity, and this model's maps are "
            f"{kind}: name a data set and --protocol localisation-similarity"
        )

    def find_dense_encoder() -> DenseEncoder:
        """Return the encoder if it has the maps. Raises UsageError if not, in all processes."""
        if kind == maps.SIMILARITY:
            return maps.require_patches(encoder, attention=attention)
        return maps.require_cross_attention(encoder)

    dense_encoder = options.distributed.synchronized(find_dense_encoder)
    store = label_maps.unfinished_store(encoder.info, protocol, options, data.samples)
    scoring = _Scoring(dense_encoder, kind, protocol, [store], data.samples, options, progress)
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
    """Compute the metrics from the arrays of all images, and return the measurement.

    Images in which one class fills all labelled pixels were left out, which a note says.

    Args:
        protocol: The protocol that was measured.
        names: The names of all images.
        arrays: The scores and numbers of pixels of all images and things, by name.
        options: The options of the run.
        kind: The kind of the maps, such as `similarity`.
        seconds: The seconds that each phase took, by its name.

    Raises UsageError if no image has a thing beside something else.
    """
    dataset = protocol.dataset
    if not len(arrays[localisation.IMAGE]):
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
        localisation.NAME: np.array(names),
        localisation.CLASSES: np.array(protocol.class_names),
        localisation.OBJECTS: _are_objects(protocol),
        localisation.BOUNDS: np.array([protocol.small, protocol.large]),
        **arrays,
    }
    return localisation.TASK.measurement(
        samples,
        options,
        content=content,
        hashes=label_maps.fingerprints(protocol, names, constants),
        notes=notes,
        settings={"map": kind, "protocol_map": protocol.map},
        seconds=seconds,
    )


def _are_objects(protocol: types.LocalisationProtocol) -> NDArray[np.bool_]:
    """Return whether each class counts as an object, (C,).

    They are the protocol's `things`; if it names none, all classes but the background.
    """
    if protocol.things:
        return np.isin(protocol.class_names, protocol.things)
    are_objects = np.ones(len(protocol.class_names), bool)
    are_objects[0] = not protocol.has_background
    return are_objects


class _Scoring(label_maps.ShardedMeasurement[Sample, "LoadedImage"]):
    """Computes the maps of all classes over all images, and scores them by the label maps.

    A thing is a class that an image contains. The base class hands out the images shard by shard.
    """

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
        """Prepare to score. The names of classes are encoded later, by `prepare`.

        Args:
            encoder: The model.
            kind: The kind of maps, such as `similarity`.
            protocol: The protocol that is measured.
            stores: A list with the store for finished shards.
            samples: The images of the data set with their label maps.
            options: The options of the run.
            progress: Called with the number of images that are measured.
        """
        super().__init__(stores, samples, options, progress)
        self._encoder = encoder
        self._kind = kind
        self._protocol = protocol
        self._class_maps: ClassMaps | None = None

    def prepare(self) -> None:
        """Encode the names of the classes."""
        self._class_maps = ClassMaps(
            self._encoder, self._kind, self._protocol, self._options, self._progress
        )

    def load(self, sample: Sample) -> LoadedImage:
        """Read an image and its label map, and find the things in it."""
        load = partial(load_image, sample, self._encoder, self._protocol)
        if self._options.memory is None:
            return load()
        protocol = self._protocol
        names = (protocol.dataset, protocol.protocol_name)
        key = (sample.image, sample.mask, *names, self._encoder.transform)
        return self._options.memory.get(key, load)

    def samples_of(self, item: Sample) -> Sequence[Sample]:
        """Return the sample itself, for the only store."""
        return (item,)

    def measure_shard(self, shard: range, images: Iterator[LoadedImage]) -> list[Arrays]:
        """Score the maps of the things in the images of a shard.

        A thing is a class that an image contains.

        Args:
            shard: The indices of the images in the data set.
            images: The loaded images.

        Returns:
            A list with the arrays to store, by name.
        """
        loaded_images = list(images)
        scores: list[MapScores | None] = [None] * len(loaded_images)
        for indices, (maps_of_batch,) in copy_to_host(self._compute_maps(loaded_images)):
            names = [loaded_images[index].name for index in indices]
            require_finite(maps_of_batch, self._encoder.info, names.__getitem__)
            for index, maps_of_classes in zip(indices, maps_of_batch.numpy(), strict=True):
                image = loaded_images[index]
                if image.cover is not None:
                    maps_of_things = maps_of_classes[image.classes]
                    scores[index] = score_maps(maps_of_things, image.cover)
                self.image_done()
        return [_join_images(shard, loaded_images, scores)]

    def _compute_maps(
        self, images: Sequence[LoadedImage]
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Compute the maps of all classes over images, batch by batch, on the model's device.

        Yields:
            The indices of the B images of a batch, and the maps (B, C, h, w) of C classes. The maps
            are the only tensor of a list, because `copy_to_host` takes lists of tensors.
        """
        assert self._class_maps is not None  # shards are measured after `prepare`
        for indices in _batch_by_size(self._encoder, images, self._options.batch_size):
            pixels = stack_on_host(
                [images[index].pixels for index in indices], self._encoder.info.device
            )
            yield indices, [self._class_maps(pixels)]


def _batch_by_size(
    encoder: DenseEncoder, images: Sequence[LoadedImage], batch_size: int
) -> Iterator[list[int]]:
    """Yield the indices of images that are encoded together. All images of a batch have one size.

    Args:
        encoder: The model.
        images: The images, of any sizes.
        batch_size: The batch size that the user asked for. On a CPU, batches of large images are
            smaller.

    Example:
        If images 0 and 2 are landscapes of one size, and image 1 is a portrait, the batches are
        [0, 2] and [1].
    """
    indices_of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        _, height, width = image.pixels.shape
        indices_of_size[height, width].append(index)
    for image_hw, indices in indices_of_size.items():
        n_at_once = label_maps.images_at_once(encoder, image_hw, batch_size)
        n_batches = math.ceil(len(indices) / n_at_once)
        # `array_split` makes batches of about the same size.
        for batch in np.array_split(indices, n_batches):
            yield batch.tolist()


def _join_images(
    shard: range, images: Sequence[LoadedImage], scores: Sequence[MapScores | None]
) -> Arrays:
    """Join the images of a shard to the arrays that are stored, by name.

    Some arrays have an entry per image, others an entry per thing in an image.

    Args:
        shard: The indices of the images in the data set.
        images: The images of the shard.
        scores: For each image, the scores of the maps of the things in it; None for an image
            without things.
    """
    # (4, P) for the P things of all images. The empty array serves shards without things.
    no_scores = np.zeros((len(MapScores._fields), 0), np.float32)
    scores_of_images = [
        np.stack(scores_of_image).astype(np.float32)
        for scores_of_image in scores
        if scores_of_image is not None
    ]
    scores_of_things = np.concatenate([no_scores, *scores_of_images], axis=1)

    n_things_of_image = [len(image.classes) for image in images]
    classes: list[int] = []
    thing_pixels: list[int] = []
    for image in images:
        classes.extend(image.classes)
        thing_pixels.extend(image.thing_pixels)
    return {
        localisation.PIXELS: np.array([image.image_pixels for image in images], np.int32),
        localisation.LABELLED: np.array([image.labelled_pixels for image in images], np.int32),
        ALONE: np.array([image.has_one_class for image in images]),
        label_maps.CONTENT: label_maps.content_array([image.sha256 for image in images]),
        localisation.IMAGE: np.repeat(np.array(shard, np.int32), n_things_of_image),
        localisation.CLASS: np.array(classes, np.int16),
        localisation.THING: np.array(thing_pixels, np.int32),
        **dict(zip(localisation.SCORES, scores_of_things, strict=True)),
    }


class LoadedImage(NamedTuple):
    """The pixels of an image, and the things in it: the classes whose maps are scored."""

    name: str
    # (3, H, W) float32, resized and normalised.
    pixels: Tensor
    # The classes of the things, ascending, and the number of pixels of each.
    classes: list[int]
    thing_pixels: list[int]
    image_pixels: int
    labelled_pixels: int
    # The pixels of the things that lie under each patch; None without things.
    cover: Cover | None
    # Whether one class fills all labelled pixels. Such an image is left out: no map can miss it.
    has_one_class: bool
    # The SHA-256 of the image with its label map.
    sha256: bytes


def load_image(
    sample: Sample, encoder: DenseEncoder, protocol: types.LocalisationProtocol
) -> LoadedImage:
    """Read an image and its label map, and find the things in it.

    A thing is a class, other than the background, that has pixels in the label map. If one class
    fills all labelled pixels, the image counts as one without things.

    Args:
        sample: The paths of the image and of its label map.
        encoder: The model, whose transform is applied to the image.
        protocol: The protocol, with the names of the classes.

    Raises UsageError for a file that cannot be read, and for a label map whose size is not the
    image's.
    """
    source = ImageFile(sample.image)
    content = source.read()
    # Label maps are made for images as they are displayed, which EXIF data may rotate.
    image = ImageOps.exif_transpose(source.decode(content))
    label = read_label(sample, protocol)
    require_same_size(sample, (image.height, image.width), label)
    pixels = maps.whole_image(encoder, image)

    # Find the classes by their numbers of pixels.
    n_pixels_of_class = np.bincount(label.ravel(), minlength=protocol.ignore_index + 1)
    n_labelled = int(n_pixels_of_class.sum() - n_pixels_of_class[protocol.ignore_index])
    first_thing = 1 if protocol.has_background else 0
    thing_classes = range(first_thing, len(protocol.class_names))
    present_classes = [index for index in thing_classes if n_pixels_of_class[index]]
    has_one_class = any(n_pixels_of_class[index] == n_labelled for index in present_classes)
    classes = [] if has_one_class else present_classes

    # The grid of patches is stretched over the whole label map.
    cover_of_things = None
    if classes:
        n_rows, n_columns = (side // encoder.patch_size for side in pixels.shape[1:])
        cover_of_things = cover(label, classes, (n_rows, n_columns), protocol.ignore_index)
    return LoadedImage(
        name=sample.name,
        pixels=pixels,
        classes=classes,
        thing_pixels=n_pixels_of_class[classes].tolist(),
        image_pixels=label.size,
        labelled_pixels=n_labelled,
        cover=cover_of_things,
        has_one_class=has_one_class,
        sha256=label_maps.content_sha256(content, sample),
    )


class ClassMaps:
    """Computes the maps of all classes over images.

    Every name of a class has a map per attention head. The map of the class is the mean over its
    names and the heads. If the maps are weights of cross-attention, the mean is used as it is. If
    they are log ratios or cosines, the mean is multiplied by the protocol's `scale`, and becomes
    weights by a softmax over the patches. The feature of a name is the mean over the templates.
    """

    def __init__(
        self,
        encoder: DenseEncoder,
        kind: types.MapKind,
        protocol: types.LocalisationProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> None:
        """Encode the names of all classes.

        Args:
            encoder: The model.
            kind: The kind of maps, such as `similarity`.
            protocol: The protocol, with the names of the classes and their templates.
            options: The options of the run, such as the form of attention.
            progress: Called with the number of names that are encoded.
        """
        self._encoder = encoder
        self._kind = kind
        self._attention = options.attention or protocol.attention
        # Maps of cross-attention compare patches with queries instead of text embeddings.
        text_queries = None
        self._scale = protocol.scale
        if kind in maps.OF_WEIGHTS:
            text_queries = maps.require_cross_attention(encoder).text_queries
            self._scale = 1.0
        names = [name for synonyms in protocol.queries for name in synonyms]
        features = prompt_embeddings(
            encoder, names, protocol.templates, options, progress, text_queries
        )
        if kind == maps.EMPTY_RATIO:
            # The maps are ratios to the map of the empty text, whose feature comes last.
            empty_text = prompt_embeddings(encoder, [""], ("{}",), options, progress, text_queries)
            features = np.concatenate([features, empty_text])
        self._features = to_device(torch.from_numpy(features), encoder.info.device)
        self._averaging_matrix = to_device(_averaging_matrix(protocol), encoder.info.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps (B, C, h, w) float64 of C classes over images (B, 3, H, W).

        A map has a weight for each of h x w patches. The weights sum to 1.
        """
        # (B, Q, heads, h, w) for Q names
        maps_of_names = maps.heatmaps_of_features(
            self._encoder, images, self._features, kind=self._kind, attention=self._attention
        )
        mean_over_heads = maps_of_names.double().mean(dim=2)
        maps_of_classes = torch.einsum("cq,bqhw->bchw", self._averaging_matrix, mean_over_heads)
        if self._kind == "cross-attention":
            return maps_of_classes  # which are weights already
        logits = self._scale * maps_of_classes
        return logits.flatten(2).softmax(-1).view_as(maps_of_classes)


def _averaging_matrix(protocol: types.LocalisationProtocol) -> Tensor:
    """Return the matrix (C, Q) float64 that averages the maps of Q names to maps of C classes.

    Example:
        If the first of two classes has two names, and the second has one, the matrix is
        [[1/2, 1/2, 0], [0, 0, 1]].
    """
    weights_of_classes = []
    for names in protocol.queries:
        weights_of_classes.append(torch.full((len(names), 1), 1 / len(names)).double())
    return torch.block_diag(*weights_of_classes).T
