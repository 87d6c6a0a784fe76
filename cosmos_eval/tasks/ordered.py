"""Measurements of the samples of a data set in any order, a few at a time, which may stop early.

`OrderedMeasurement` is the interface for a run that stops when the answer is known. Tasks that
embed each image once derive their class from `EmbeddedMeasurement`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cosmos_eval.data.folders import content_hash
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    Protocol,
    RegionFeatures,
    RunOptions,
    Samples,
    UsageError,
)

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import EmbeddedImage, Embeddings, FeaturesByKey
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.stats.estimates import Ints
    from cosmos_eval.tasks.task import Task


class OrderedMeasurement(ABC):
    """Measures a model on the samples of a data set, in an order that the caller chooses."""

    @abstractmethod
    def hashes(self) -> Mapping[str, str]:
        """Return the hashes that the result of a whole run records, by name.

        All files are read for the hash of their content, but no image is decoded or encoded.
        """

    @abstractmethod
    def measure(self, shards: Sequence[Ints]) -> Iterator[Samples]:
        """Measure one shard of samples after another, and yield its arrays.

        The arrays hold at least what the metric that decides is computed from. A shard is encoded
        when its arrays are requested, or slightly ahead.

        Args:
            shards: The indices (n,) of the samples of each shard, in the order of their arrays.
        """

    @abstractmethod
    def finish(self) -> Measurement:
        """Return the measurement of the whole data set, the same as of a run that cannot stop.

        It is called after all shards were measured, and encodes no image again.
        """

    def forget(self) -> None:
        """Remove files that an interrupted run would need, after the whole result was stored.

        By default, nothing is removed, since embeddings stay in the cache.
        """
        return None


class EmbeddedMeasurement(OrderedMeasurement):
    """Embeds each image when a sample first needs it, and scores samples by the features.

    A subclass says which images a sample needs (`images_of`), and how samples are scored (`score`).
    """

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        protocol: Protocol,
        data: Any,
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """Prepare to measure. Nothing is read or encoded before it is needed.

        Args:
            task: The task of the protocol.
            encoder: The model.
            protocol: The data set, and how it is measured.
            data: The result of the `open_data` of the task. Its field `images` has the images.
            options: The options of the run.
            progress: Called with the progress.
        """
        self.task = task
        self.encoder = encoder
        self.protocol: Any = protocol
        self.data = data
        self.options = options
        self.progress = progress
        self._features_by_key: FeaturesByKey = {}

    @abstractmethod
    def hashes_of_names(self) -> Mapping[str, str]:
        """Return the hashes of everything but the images: names, prompts and items."""

    @abstractmethod
    def images_of(self, sample: int) -> Sequence[int]:
        """Return the indices of the images that a sample needs."""

    @abstractmethod
    def score(self, samples: Ints) -> Samples:
        """Return the arrays of the samples with these indices (n,). Their images are embedded."""

    @cached_property
    def image_sha256s(self) -> Sequence[bytes]:
        """The SHA-256 of each image's file."""
        from cosmos_eval.embedding.embed import hash_image_files

        return hash_image_files(self.data.images, self.options)

    def hashes(self) -> Mapping[str, str]:
        """Return the hashes that the result of a whole run records, by name."""
        labels = getattr(self.data, "labels", None)
        hashes = dict(self.hashes_of_names())
        hashes["content"] = content_hash(self.image_sha256s, labels)
        return hashes

    def measure(self, shards: Sequence[Ints]) -> Iterator[Samples]:
        """Measure one shard of samples after another, and yield its arrays."""
        from cosmos_eval.embedding.embed import embed_in_order

        images_of_shards: list[list[int]] = []
        for shard in shards:
            images = [image for sample in shard for image in self.images_of(sample)]
            images_of_shards.append(list(dict.fromkeys(images)))  # each image once
        image_order = [image for images in images_of_shards for image in images]
        # Each item holds the features of all images that were embedded so far.
        embedded_so_far = embed_in_order(
            self.encoder,
            self.data.images,
            self.image_sha256s,
            image_order,
            self.options,
            self.progress,
        )
        for shard, images in zip(shards, images_of_shards, strict=True):
            needed_keys = {self.image_sha256s[image] for image in images}
            while not needed_keys <= self._features_by_key.keys():
                self._features_by_key = next(embedded_so_far)
            yield self.score(shard)

    def embedded_images(self, images: Sequence[int]) -> tuple[EmbeddedImage, ...]:
        """Return images with their features, which `measure` has computed."""
        from cosmos_eval.embedding.embed import EmbeddedImage

        embedded_images = []
        for image in images:
            key = self.image_sha256s[image]
            name = self.data.images[image].name
            embedded_images.append(EmbeddedImage(name, key, self._features_by_key[key]))
        return tuple(embedded_images)

    def embeddings(self, images: Sequence[int]) -> Embeddings:
        """Return the embeddings of images, which `measure` has computed.

        Raises UsageError if many different images have the same feature, since the model is broken.
        """
        from cosmos_eval.embedding.embed import embed_images

        return embed_images(self.encoder, self.embedded_images(images), self.options, self.progress)

    def finish(self) -> Measurement:
        """Return the measurement of the whole data set, from the features of all images."""
        all_images = range(len(self.data.images))
        data = self.data._replace(images=self.embedded_images(all_images))
        return self.task.measure_one(self.encoder, self.protocol, self.options, self.progress, data)


def require_no_pairs(protocol: Any) -> None:
    """Raise UsageError if a protocol scores pairs of images and captions after all embeddings."""
    from cosmos_eval.types import UsageError

    if protocol.pairs is not None:
        raise UsageError(
            f"{protocol.dataset}: protocol {protocol.protocol_name} scores pairs of images and "
            "captions, and cannot stop when the answer is known: leave --until out"
        )


def require_crops(protocol: RegionFeatures) -> None:
    """Raise UsageError if a protocol pools features of boxes, which needs all boxes of an image."""
    if protocol.regions == "pooled":
        raise UsageError(
            f"{protocol.dataset}: pooled features of boxes are computed image by image: choose a "
            "protocol with crops, or leave --until out"
        )
