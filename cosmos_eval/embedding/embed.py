"""Embed images and texts with a model: each distinct input is encoded once, or read from the cache.

An input is identified by the SHA-256 of its content. Inputs are encoded in shards of a fixed size.
No batch mixes two shards, and each shard is encoded by one process. A run that is resumed encodes
at most one shard again. So neither the number of processes nor an interruption changes a bit of the
features. If all features are cached, nothing here imports torch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.frames import Video, require_no_videos
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageContent, ImageSource
from cosmos_eval.embedding.cache import EMBEDDING, Report, ShardStore, fingerprint, limit_bytes
from cosmos_eval.models.encoder import (
    Encoder,
    are_equal_inputs,
    batch_images,
    copy_to_host,
    is_gpu,
    require_finite,
)
from cosmos_eval.types import (
    EncoderInfo,
    InputMemory,
    OnProgress,
    Progress,
    RunOptions,
    UsageError,
    no_progress,
)

if TYPE_CHECKING:
    from torch import Tensor

Features = NDArray[np.float32]
FeaturesByKey = dict[bytes, Features]
"""Features (D,) by the keys of their inputs."""
Images = Sequence[ImageSource] | Mapping[int, ImageSource]
EncodeTokens = Callable[["Tensor"], "Tensor"]
"""(B, L) tokens -> (B, D) features; L may be less than the context if the encoder trims texts."""

IMAGES_PER_SHARD = 32  # at least a batch, and whole batches
TEXTS_PER_SHARD = 1024
_IMAGES_PER_PROCESS = 256  # that a process hashes before it takes the next ones
_IMAGES_PER_THREAD = 16  # that a thread hashes before it takes the next ones
_FEATURE_TOLERANCE = 1e-5  # rounding may change the value of a feature by this much
# The same feature for so many different images is an error. For fewer images, it is a warning.
_LEAST_IMAGES_FOR_ERROR = 8
_N_COMPARED_IMAGES = 64  # images whose pixels are compared if all images have the same feature


class Embeddings(NamedTuple):
    """Features of images or texts, in the order of the inputs."""

    # (N, D), L2-normalised.
    features: Features
    # (N,) of texts: True if the text was cut to the model's context.
    cut: NDArray[np.bool_] = np.zeros(0, np.bool_)
    # (N,) of images: the SHA-256 of each image's file.
    image_sha256s: Sequence[bytes] = ()


@dataclass(frozen=True)
class EmbeddedImage(ImageContent):
    """An image that is already embedded. Its content is the SHA-256 of the image's file."""

    # (D,), L2-normalised.
    feature: Features


class TooManyError(UsageError):
    """More inputs would have to be encoded than the caller allows."""


class Inputs(ABC):
    """Inputs of one kind, such as images, and how a model encodes them."""

    # Everything that decides a feature, besides the input itself.
    identity: Mapping[str, Any]
    # The SHA-256 of each input.
    keys: Sequence[bytes]
    # The model, which error messages name.
    info: EncoderInfo
    # The number of inputs that are encoded and cached together.
    shard_size: int
    # The name of the inputs in progress lines, such as "images".
    phase: str

    @abstractmethod
    def encode(self, shards: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], Features]]:
        """Yield the indices (n,) of each shard's inputs, and their features (n, D)."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an input in error messages."""


def embed(
    inputs: Inputs, options: RunOptions, progress: OnProgress, max_missing: int | None = None
) -> Features:
    """Return the features of inputs. Equal inputs are encoded once.

    Distinct inputs are cut into shards, which the processes of a distributed run share.

    Args:
        inputs: N inputs, such as images. Inputs with the same key are equal.
        options: The options of the run, such as the folder of the cache.
        progress: Called with the number of features that are ready, after each shard.
        max_missing: The largest number of features that may have to be computed because they are
            not cached; None for any number.

    Returns:
        The features (N, D), in the order of the inputs.

    Raises TooManyError if more than `max_missing` features are not cached, and UsageError for
    features that are not finite.

    Example:
        Inputs with the keys [a, b, a, c] have the distinct indices [0, 1, 3]. With 2 inputs per
        shard, the shards are [0, 1] and [3]. Two processes encode one shard each.
    """
    # Find the first input with each key, and the row of its feature among the distinct ones.
    row_by_key: dict[bytes, int] = {}
    distinct_indices: list[int] = []
    for index, key in enumerate(inputs.keys):
        if key not in row_by_key:
            row_by_key[key] = len(distinct_indices)
            distinct_indices.append(index)

    # Cut the distinct inputs into shards, and embed the shards.
    shards = _cut_into_shards(distinct_indices, inputs.shard_size)
    embed_shards = partial(_embed_shards, inputs, options, progress, max_missing)
    features_of_shards = options.distributed.map_sharded(embed_shards, shards)

    # Give each input the feature of its key.
    distinct_features = np.concatenate(features_of_shards)
    row_of_input = [row_by_key[key] for key in inputs.keys]
    return distinct_features[row_of_input]


def _embed_shards(
    inputs: Inputs,
    options: RunOptions,
    progress: OnProgress,
    max_missing: int | None,
    shards: Sequence[Sequence[int]],
) -> list[Features]:
    """Read the features of shards from the cache, or compute and cache them.

    Args:
        inputs: All inputs, of which this process embeds some.
        options: The options of the run, such as the folder of the cache.
        progress: Called with the number of features that are ready, after each shard.
        max_missing: The largest number of features that may have to be computed; None for any.
        shards: The shards of this process: the indices of each shard's inputs.

    Returns:
        The features (n, D) of the n inputs of each shard.

    Raises TooManyError if more than `max_missing` features are not cached.
    """
    keys, phase = inputs.keys, inputs.phase
    n_inputs = sum(map(len, shards))
    store = open_store(inputs.identity, options)

    def report_warning(warning: str) -> None:
        progress(Progress(phase, 0, n_inputs, warning))

    requested_keys = [keys[index] for shard in shards for index in shard]
    features_by_key = read_cached_features(store, requested_keys, report_warning)

    # Leave out what is cached, and cut the others into shards of the usual size again: the size of
    # a batch may change the last bits of its features, but not which images are in the batch. If
    # only input 1 is cached, [[0, 1], [2, 3]] becomes [[0, 2], [3]].
    missing_indices = []
    for shard in shards:
        missing_indices += [index for index in shard if keys[index] not in features_by_key]
    shards_to_encode = _cut_into_shards(missing_indices, inputs.shard_size)
    n_missing = len(missing_indices)
    if max_missing is not None and n_missing > max_missing:
        raise TooManyError(f"{n_missing:,} of {n_inputs:,} {phase} are not cached")
    n_done = n_inputs - n_missing
    if n_done:
        note = f"{n_done} of {n_inputs} {phase} were embedded already"
        progress(Progress(phase, n_done, n_inputs, note))

    # Encode the inputs that are missing. This adds their features to `features_by_key`.
    if shards_to_encode:
        for indices, features in inputs.encode(shards_to_encode):
            add_features(inputs, store, indices, features, features_by_key)
            n_done += len(indices)
            progress(Progress(phase, n_done, n_inputs))

    features_of_shards = []
    for shard in shards:
        features_of_shards.append(np.stack([features_by_key[keys[index]] for index in shard]))
    return features_of_shards


def _cut_into_shards(indices: Sequence[int], shard_size: int) -> list[Sequence[int]]:
    """Cut indices into shards of the same size, of which the last one may be smaller.

    For example, [4, 7, 9] with two indices per shard gives [[4, 7], [9]].
    """
    shards = []
    for start in range(0, len(indices), shard_size):
        shards.append(indices[start : start + shard_size])
    return shards


def open_store(identity: Mapping[str, Any], options: RunOptions) -> ShardStore:
    """Return the store of cached arrays that have the same identity.

    Args:
        identity: Everything that decides the arrays besides the inputs: the model, its
            preprocessing, the code.
        options: The options of the run. If they switch the cache off, the store is empty and
            stores nothing.
    """
    return ShardStore(
        options.cache,
        identity,
        limit_bytes(),
        advice="; set COSMOS_EVAL_CACHE to another folder, or use --no-cache",
    )


def read_cached_features(
    store: ShardStore, keys: Iterable[bytes], report_warning: Report
) -> FeaturesByKey:
    """Return the features of the inputs with these keys, as far as they are cached.

    Args:
        store: The shards of cached features. A shard holds the features of several inputs.
        keys: The keys of the requested inputs.
        report_warning: Called with a line for each damaged shard.

    Returns:
        A feature (D,) by key. Keys without a cached feature are missing.
    """
    requested_keys = set(keys)
    features_by_key = {}
    for shard_keys, arrays in store.find([*requested_keys], report_warning):
        # A shard may also hold features that were not requested.
        for key, feature in zip(shard_keys, arrays["features"], strict=True):
            if key in requested_keys:
                features_by_key[key] = feature
    return features_by_key


def add_features(
    inputs: Inputs,
    store: ShardStore,
    indices: Sequence[int],
    features: Features,
    features_by_key: FeaturesByKey,
) -> None:
    """Add new features to the cache, and to `features_by_key` in place.

    Args:
        inputs: All inputs, whose keys the features are stored under.
        store: The cache.
        indices: The indices (n,) of the inputs that were encoded.
        features: Their features (n, D).
        features_by_key: The features of all inputs so far, which this function adds to.

    Raises UsageError for features that are not finite.
    """
    require_finite(features, inputs.info, lambda row: inputs.name(indices[row]))
    keys = [inputs.keys[index] for index in indices]
    store.add(keys, {"features": features})
    features_by_key.update(zip(keys, features, strict=True))


def embedding_identity(encoder: Encoder, role: str, **decisions: Any) -> dict[str, Any]:
    """Return everything that decides an embedding besides the input itself, as JSON can hold it.

    The cache keeps embeddings with different identities apart.

    Args:
        encoder: The model.
        role: The kind of computation, such as "image", "text" or "pairs".
        decisions: More entries of the identity, which decide this kind of computation only. For
            images, it is their preprocessing.
    """
    info = encoder.info
    return {
        "role": role,
        "architecture": info.architecture,
        "weights_sha256": info.weights_sha256 or "random",
        "weights": info.weights,
        "precision": info.precision,
        "device": info.device.partition(":")[0],  # "cuda:1" -> "cuda"
        "code": fingerprint(*EMBEDDING),
        "code_of_model": info.code_sha256,
        **decisions,
    }


class ImageEmbedder:
    """Embeds the images of several data sets in turn, and equal images that follow each other once.

    The wordings of a data set have the same images, which are then encoded for all of them at once.
    """

    def __init__(self, encoder: Encoder, options: RunOptions, progress: OnProgress) -> None:
        """Keep the model, the options of the run, and the function that is told the progress."""
        self.encoder = encoder
        self.options = options
        self.progress = progress
        self._last: tuple[Sequence[ImageSource], Embeddings] | None = None

    def embed(self, images: Sequence[ImageSource]) -> Embeddings:
        """Return the features of images, which are kept until other images are embedded."""
        if self._last is None or self._last[0] != images:
            self._last = images, embed_images(self.encoder, images, self.options, self.progress)
        return self._last[1]


def embed_images(
    encoder: Encoder,
    images: Sequence[ImageSource],
    options: RunOptions,
    progress: OnProgress = no_progress,
    max_missing: int | None = None,
) -> Embeddings:
    """Return the features of images. Threads read and decode images ahead of the model.

    A warning is reported if a few different images all have the same feature: the model may be
    broken.

    Args:
        encoder: The model.
        images: N images. Either none or all of them are an `EmbeddedImage`, which has a feature
            already and is not encoded again. The feature of a video is the mean of its frames'.
        options: The options of the run, such as the batch size.
        progress: Called with the number of features that are ready, and with warnings.
        max_missing: The largest number of images that may have to be encoded because their
            features are not cached; None for any number.

    Returns:
        The features (N, D) and the SHA-256s of the images' files, in the order of the images.

    Raises UsageError for an empty list, for an image that is missing, cannot be decoded or changes
    while it is read, and if many different images all have the same feature. Raises TooManyError if
    more than `max_missing` images are not cached.
    """
    if not images:
        raise UsageError("no images to embed: the data set is empty")
    if any(isinstance(image, Video) for image in images):
        return _embed_videos(encoder, images, options, progress, max_missing)
    embedded_images = [image for image in images if isinstance(image, EmbeddedImage)]
    if embedded_images:
        features = np.stack([image.feature for image in embedded_images])
        file_sha256s = [image.content for image in embedded_images]
    else:
        file_sha256s = hash_image_files(images, options)
        inputs = ImageInputs(encoder, images, file_sha256s, options)
        features = embed(inputs, options, progress, max_missing)

    n_distinct = len(set(file_sha256s))
    if n_distinct >= 2 and are_all_equal(features):
        # The pixels of embedded images are not at hand: different files count as different images.
        images_differ = len(embedded_images) > 0 or _pixels_differ(encoder, images)
        if images_differ:
            warning = _warn_of_equal_features(encoder.info.spec, n_distinct)
            progress(Progress("images", len(images), len(images), warning))
    return Embeddings(features, image_sha256s=file_sha256s)


def _warn_of_equal_features(model_name: str, n_images: int) -> str:
    """Return a warning that a model returns the same feature for different images.

    Args:
        model_name: The name of the model.
        n_images: The number of different images.

    Raises:
        UsageError: If there are so many images that the model must be broken.
    """
    warning = f"{model_name} returns the same feature for all {n_images} images, which differ"
    if n_images >= _LEAST_IMAGES_FOR_ERROR:
        raise UsageError(f"{warning}: check its image tower and its weights")
    return warning


def _embed_videos(
    encoder: Encoder,
    images: Sequence[ImageSource],
    options: RunOptions,
    progress: OnProgress,
    max_missing: int | None,
) -> Embeddings:
    """Return the features of videos: the normalised means of the features of their frames.

    Every distinct frame is encoded and cached once, as any image. The SHA-256 of a video is the
    hash of the SHA-256s of its frames. The arguments are as in `embed_images`.
    """
    frames: list[ImageSource] = []
    first_frames = []
    for image in images:
        first_frames.append(len(frames))
        frames.extend(image.frames if isinstance(image, Video) else (image,))
    embeddings = embed_images(encoder, frames, options, progress, max_missing)

    sums = np.add.reduceat(embeddings.features, first_frames, axis=0)  # (N, D)
    features = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    require_finite(features, encoder.info, lambda row: images[row].name)
    video_sha256s = []
    for start, stop in zip(first_frames, [*first_frames[1:], len(frames)], strict=True):
        video_sha256s.append(
            hashlib.sha256(b"".join(embeddings.image_sha256s[start:stop])).digest()
        )
    return Embeddings(features, image_sha256s=video_sha256s)


def embed_in_order(
    encoder: Encoder,
    images: Sequence[ImageSource],
    file_sha256s: Sequence[bytes],
    order: Sequence[int],
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Iterator[FeaturesByKey]:
    """Embed images in an order, shard by shard, so that the caller may stop after any shard.

    The features are cached. `embed_images` later encodes the other images in shards of the same
    size, and gives the features that it would have given without this function.

    Args:
        encoder: The model.
        images: N images.
        file_sha256s: The SHA-256 (N,) of each image's file, from `hash_image_files`.
        order: The indices of the images to embed. An index may occur several times.
        options: The options of the run, such as the batch size.
        progress: Called with the number of features that are ready, after each shard.

    Yields:
        The features of all images so far, by the SHA-256 of their files. It is the same dictionary
        each time, to which features are added. The first one has the cached features.

    Raises UsageError for an image that cannot be read, and for features that are not finite.
    """
    inputs = ImageInputs(encoder, images, file_sha256s, options)
    store = open_store(inputs.identity, options)
    index_by_key: dict[bytes, int] = {}
    for index in order:
        index_by_key.setdefault(file_sha256s[index], index)
    n_inputs = len(index_by_key)

    def report_warning(warning: str) -> None:
        progress(Progress(inputs.phase, 0, n_inputs, warning))

    features_by_key = read_cached_features(store, index_by_key, report_warning)
    n_done = len(features_by_key)
    if n_done:
        note = f"{n_done} of {n_inputs} {inputs.phase} were embedded already"
        progress(Progress(inputs.phase, n_done, n_inputs, note))
    yield features_by_key

    missing = [index for key, index in index_by_key.items() if key not in features_by_key]
    for indices, features in inputs.encode(_cut_into_shards(missing, inputs.shard_size)):
        add_features(inputs, store, indices, features, features_by_key)
        n_done += len(indices)
        progress(Progress(inputs.phase, n_done, n_inputs))
        yield features_by_key


def are_all_equal(features: Features) -> bool:
    """Return whether all rows of features (N, D) are equal, apart from rounding."""
    first_feature = features[0]
    # One row after the other: the first row that differs ends the comparison.
    return all(np.abs(feature - first_feature).max() <= _FEATURE_TOLERANCE for feature in features)


def _pixels_differ(encoder: Encoder, images: Sequence[ImageSource]) -> bool:
    """Return whether the first images, up to 64, differ in their transformed pixels.

    Different files may hold the same pixels. Then it is right that their features are equal.
    """
    first_pixels: Any = None
    for image in images[:_N_COMPARED_IMAGES]:
        pixels = encoder.transform(image.decode(image.read()))
        if first_pixels is None:
            first_pixels = pixels
        elif not are_equal_inputs(first_pixels, pixels):
            return True
    return False


def hash_image_files(images: Sequence[ImageSource], options: RunOptions) -> list[bytes]:
    """Return the SHA-256 of each image's file, in the order of the images.

    The processes of a distributed run share the images. Raise UsageError for a video, whose frames
    are hashed instead.
    """
    require_no_videos(images)
    hash_files = partial(_hash_with_threads, options)
    return options.distributed.map_sharded(hash_files, images, unit=_IMAGES_PER_PROCESS)


def _hash_with_threads(options: RunOptions, images: Sequence[ImageSource]) -> list[bytes]:
    """Return the SHA-256 of each image's file. Hashes that are in memory are not computed again.

    A thread takes a chunk of several images at a time, because handing an image to a thread takes
    longer than hashing a small image.

    Args:
        options: The options of the run: the threads that read files, and the memory.
        images: The images.
    """
    memory = options.memory

    def hash_image(image: ImageSource) -> bytes:
        def compute() -> bytes:
            return hashlib.sha256(image.read()).digest()

        return compute() if memory is None else memory.sha256(image, compute)

    def hash_chunk(chunk: Sequence[ImageSource]) -> list[bytes]:
        return [hash_image(image) for image in chunk]

    chunks = []
    for start in range(0, len(images), _IMAGES_PER_THREAD):
        chunks.append(images[start : start + _IMAGES_PER_THREAD])
    sha256s: list[bytes] = []
    for sha256s_of_chunk in prefetch(chunks, hash_chunk, workers=options.workers):
        sha256s += sha256s_of_chunk
    return sha256s


class ImageBatch(NamedTuple):
    """A batch of images that a model encodes at once."""

    # The images' indices (B,).
    indices: Sequence[int]
    # The images' pixels (B, 3, H, W), or what the model's `collate` returns.
    pixels: Any
    # True for the last batch of a shard.
    ends_shard: bool


class ImageInputs(Inputs):
    """Images to embed. The caller may append images and their keys while others are encoded."""

    phase = "images"

    def __init__(
        self, encoder: Encoder, images: Images, keys: Sequence[bytes], options: RunOptions
    ) -> None:
        """Prepare to encode images.

        Args:
            encoder: The model.
            images: The images by index, in a sequence or a mapping.
            keys: The SHA-256 of each image's file.
            options: The options of the run: the batch size, and the threads that read images.
        """
        self.encoder = encoder
        self.images = images
        self.keys = keys
        self.options = options
        self.info = encoder.info
        self.identity = embedding_identity(
            encoder, "image", preprocessing=dict(encoder.preprocessing)
        )
        # A shard has whole batches. With batches of 12 images, it has 2 batches, 24 images.
        batches_per_shard = max(1, IMAGES_PER_SHARD // options.batch_size)
        self.shard_size = options.batch_size * batches_per_shard

    def name(self, index: int) -> str:
        """Return the name of an image in error messages, such as its path."""
        return str(self.images[index].name)

    def encode(self, shards: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], Features]]:
        """Yield the indices (n,) of each shard's images, and their features (n, D)."""
        for indices, (features,) in copy_to_host(self._encode_on_device(shards)):
            yield indices, features.numpy()

    def _encode_on_device(
        self, shards: Iterable[Sequence[int]]
    ) -> Iterator[tuple[Sequence[int], list[Tensor]]]:
        """Yield the indices (n,) of each shard's images, and their features (n, D).

        The features stay on the model's device. They are the only tensor of a list, because
        `copy_to_host` takes lists of tensors.
        """
        import torch

        indices: list[int] = []
        features_of_batches: list[Tensor] = []
        for batch in image_batches(self.encoder, self.images, self.keys, self.options, shards):
            indices += batch.indices
            features = self.encoder.encode_image(batch.pixels)
            if len(features) != len(batch.indices):
                raise UsageError(
                    f"{self.info.spec}: `encode_image` returns {len(features)} features for a "
                    f"batch of {len(batch.indices)} images"
                )
            features_of_batches.append(features)
            if batch.ends_shard:
                yield indices, [torch.cat(features_of_batches)]
                indices, features_of_batches = [], []


def image_batches(
    encoder: Encoder,
    images: Images,
    keys: Sequence[bytes],
    options: RunOptions,
    shards: Iterable[Sequence[int]],
) -> Iterator[ImageBatch]:
    """Return an iterator over batches of images. Threads read images ahead.

    Args:
        encoder: The model, whose transform is applied to each image.
        images: The images by index.
        keys: The SHA-256 of each image's file.
        options: The options of the run: the batch size, and the number of threads.
        shards: The indices of each shard's images. No batch has images of two shards.

    Raises UsageError for an image whose file has changed since its key was computed, and for one
    that cannot be read.

    Example:
        With a batch size of 2, the shards [0, 1, 2] and [3] give batches of the images [0, 1],
        [2] and [3].
    """
    loader = _ImageLoader(encoder, images, keys, options.memory)
    places = _image_places(shards, options.batch_size)
    n_images_ahead = 2 * options.batch_size
    loaded_images = prefetch(places, loader.load, workers=options.workers, window=n_images_ahead)
    image_lists = _group_by_batch(loaded_images)

    # A thread fills the next batch for a GPU, whose batches take milliseconds.
    n_batches_ahead = 1 if is_gpu(encoder.info.device) else 0
    return prefetch(image_lists, loader.stack, workers=n_batches_ahead, window=n_batches_ahead)


class _ImagePlace(NamedTuple):
    """The index of an image, and whether it is the last image of its batch and of its shard."""

    image_index: int
    ends_batch: bool
    ends_shard: bool


class _LoadedImage(NamedTuple):
    """The pixels (3, H, W) of an image, or another value of `transform`, and its place."""

    pixels: Any
    place: _ImagePlace


def _image_places(shards: Iterable[Sequence[int]], batch_size: int) -> Iterator[_ImagePlace]:
    """Cut shards into batches, and yield the place of each image in them.

    A batch ends after `batch_size` images, and at the end of its shard.

    Args:
        shards: The indices of each shard's images.
        batch_size: The largest number of images in a batch.

    Example:
        The shard [7, 8, 9], with a batch size of 2, gives

        image_index  ends_batch  ends_shard
        7            False       False
        8            True        False
        9            True        True
    """
    for shard in shards:
        for n_images_so_far, image_index in enumerate(shard, start=1):
            ends_shard = n_images_so_far == len(shard)
            ends_batch = ends_shard or n_images_so_far % batch_size == 0
            yield _ImagePlace(image_index, ends_batch, ends_shard)


def _group_by_batch(loaded_images: Iterable[_LoadedImage]) -> Iterator[list[_LoadedImage]]:
    """Yield the images of each batch as a list, as soon as the last one of the batch is loaded."""
    batch = []
    for image in loaded_images:
        batch.append(image)
        if image.place.ends_batch:
            yield batch
            batch = []


class _ImageLoader:
    """Reads images for a model, and stacks them into batches."""

    def __init__(
        self,
        encoder: Encoder,
        images: Images,
        keys: Sequence[bytes],
        memory: InputMemory | None = None,
    ) -> None:
        """Keep the images and their keys.

        Args:
            encoder: The model, whose transform is applied to each image.
            images: The images by index.
            keys: The SHA-256 that each image's file had when it was hashed.
            memory: Keeps pixels for the next measurement; None: they are not kept.
        """
        self.encoder = encoder
        self.images = images
        self.keys = keys
        self.memory = memory

    def load(self, place: _ImagePlace) -> _LoadedImage:
        """Return the pixels of an image, from the memory or by `_read`."""
        if self.memory is None:
            pixels = self._read(place.image_index)
        else:
            pixels = self.memory.pixels(
                self.keys[place.image_index],
                self.encoder.transform,
                partial(self._read, place.image_index),
            )
        return _LoadedImage(pixels, place)

    def _read(self, image_index: int) -> Tensor:
        """Read an image and apply the model's transform.

        Raises UsageError if the image's file has changed since its key was computed.
        """
        image = self.images[image_index]
        content = image.read()
        has_changed = hashlib.sha256(content).digest() != self.keys[image_index]
        if has_changed:
            raise UsageError(f"{image.name} has changed while it was read; run again")
        return self.encoder.transform(image.decode(content))

    def stack(self, loaded_images: Sequence[_LoadedImage]) -> ImageBatch:
        """Return the batch of the loaded images. Raises UsageError if they do not fit together."""
        pixels = batch_images(self.encoder, [image.pixels for image in loaded_images])
        indices = [image.place.image_index for image in loaded_images]
        ends_shard = loaded_images[-1].place.ends_shard
        return ImageBatch(indices, pixels, ends_shard)


class TextInputs(Inputs):
    """Texts to embed, sorted by their length, so that the texts of a batch need little padding.

    An index is a place among the sorted texts: the input at index i is `texts[order[i]]`.
    """

    def __init__(
        self, encoder: Encoder, texts: Sequence[str], options: RunOptions, phase: str
    ) -> None:
        """Tokenize texts and sort them by their length in tokens.

        Args:
            encoder: The model.
            texts: The texts, in the order of the caller.
            options: The options of the run, such as the batch size.
            phase: The name of the texts in progress lines, such as "captions".
        """
        self.encoder = encoder
        self.texts = texts
        self.batch_size = options.batch_size
        self.phase = phase
        self.info = encoder.info
        self.identity = embedding_identity(encoder, "text", tokenizer=dict(encoder.tokenizer))
        self.shard_size = TEXTS_PER_SHARD
        self.tokens = encoder.tokenize(texts)
        self.order = np.argsort(_text_lengths(encoder, self.tokens), kind="stable")
        self.keys = [hashlib.sha256(texts[index].encode()).digest() for index in self.order]

    def name(self, index: int) -> str:
        """Return the text at an index of the sorted texts, quoted for an error message."""
        return quote(self.texts[self.order[index]])

    def encode(self, shards: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], Features]]:
        """Yield the indices (n,) of each shard's sorted texts, and their features (n, D)."""
        shards = [*shards]  # which is iterated twice
        tokens_of_shards = (self.tokens[self.order[indices]] for indices in shards)
        features_of_shards = encode_tokens(self.encoder, tokens_of_shards, self.batch_size)
        yield from zip(shards, features_of_shards, strict=True)


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    options: RunOptions,
    progress: OnProgress = no_progress,
    phase: str = "texts",
    max_missing: int | None = None,
) -> Embeddings:
    """Return the features of texts, and whether each text was cut to the model's context.

    If the padding of texts can be cut off, a batch of short texts holds more texts, so that all
    batches have about the same number of tokens.

    Args:
        encoder: The model.
        texts: N texts.
        options: The options of the run, such as the batch size.
        progress: Called with the number of features that are ready, and with warnings.
        phase: The name of the texts in progress lines and messages, such as "captions".
        max_missing: The largest number of texts that may have to be encoded because their features
            are not cached; None for any number.

    Returns:
        The features (N, D) and the array `cut` (N,), in the order of the texts.

    Raises UsageError for an empty list, and if different texts all have the same feature. Raises
    TooManyError if more than `max_missing` texts are not cached.
    """
    if not texts:
        raise UsageError("no texts to embed: the data set is empty")
    inputs = TextInputs(encoder, texts, options, phase)
    sorted_features = embed(inputs, options, progress, max_missing)
    # The argsort of a permutation is its inverse, which restores the order of `texts`.
    original_order = np.argsort(inputs.order)
    features = sorted_features[original_order]
    require_different_texts(encoder, texts, features, phase, progress)

    # Tokenize again, without a limit, to find texts that were cut. An encoder that trims texts pads
    # them with 0: a text whose last token is 0 was not cut, and need not be tokenized again.
    is_cut = np.ones(len(texts), np.bool_)
    if encoder.trims_text:
        is_cut = inputs.tokens[:, -1].numpy() != 0
    indices_to_check = np.flatnonzero(is_cut)
    if len(indices_to_check):
        texts_to_check = [texts[index] for index in indices_to_check.tolist()]
        is_cut[indices_to_check] = encoder.overlong(texts_to_check).numpy()
    return Embeddings(features, is_cut)


def require_different_texts(
    encoder: Encoder,
    texts: Sequence[str],
    features: Features,
    phase: str,
    progress: OnProgress = no_progress,
) -> None:
    """Raise UsageError if different texts all have the same feature: the model is broken.

    If the texts also have the same tokens, the model is not to blame: the tokenizer does not know
    their words. Then a warning is reported instead.

    Args:
        encoder: The model.
        texts: N texts.
        features: The features (N, D) of the texts.
        phase: The name of the texts in messages, such as "captions".
        progress: Called with the warning.
    """
    if not are_all_equal(features):
        return
    distinct_texts = [*dict.fromkeys(texts)]
    if len(distinct_texts) < 2:
        return

    spec = encoder.info.spec
    tokens = encoder.tokenize(distinct_texts)
    have_same_tokens = tokens.equal(tokens[:1].expand_as(tokens))
    if not have_same_tokens:
        raise UsageError(
            f"{spec} returns the same feature for {len(distinct_texts)} different {phase}: check "
            "its text tower, and which token it reads the feature at (an end of text that never "
            "occurs)"
        )
    warning = (
        f"{spec} has the same tokens for {len(distinct_texts)} different {phase}: it knows no word"
    )
    progress(Progress(phase, len(texts), len(texts), warning))


def encode_tokens(
    encoder: Encoder,
    token_tensors: Iterable[Tensor],
    batch_size: int,
    encode_batch: EncodeTokens | None = None,
) -> Iterator[Features]:
    """Encode tokenized texts without the cache, and yield the features of each tensor.

    Args:
        encoder: The model.
        token_tensors: Tensors (N, L) of the tokens of N texts. Each is encoded apart.
        batch_size: The number of texts of full length L in a batch. A batch of shorter texts
            holds more of them.
        encode_batch: Maps the tokens of one batch to features. By default, it is the encoder's
            `encode_text`.

    Yields:
        The features (N, D) of each tensor, in the order of its texts.
    """
    if encode_batch is None:
        encode_batch = encoder.encode_text
    encoded_tensors = _encode_sorted(encoder, token_tensors, batch_size, encode_batch)
    for order, (sorted_features,) in copy_to_host(encoded_tensors):
        original_order = np.argsort(order)  # the inverse permutation
        yield sorted_features.numpy()[original_order]


def _encode_sorted(
    encoder: Encoder,
    token_tensors: Iterable[Tensor],
    batch_size: int,
    encode_batch: EncodeTokens,
) -> Iterator[tuple[NDArray[np.int64], list[Tensor]]]:
    """Sort the texts of each tensor by length, and encode them in this order.

    A batch then has texts of about the same length, and little padding.

    Args:
        encoder: The model.
        token_tensors: Tensors (N, L) of the tokens of N texts.
        batch_size: The number of texts of full length L in a batch.
        encode_batch: Maps the tokens of one batch to features.

    Yields:
        For each tensor of tokens (N, L), the order (N,) that sorts its texts, and the features
        (N, D) of the sorted texts, on the model's device. The features are the only tensor of a
        list, because `copy_to_host` takes lists of tensors.
    """
    import torch

    for tokens in token_tensors:
        lengths = _text_lengths(encoder, tokens)
        order = np.argsort(lengths, kind="stable")
        batches = _text_batches(tokens[order], lengths[order], batch_size)
        yield order, [torch.cat([encode_batch(batch) for batch in batches])]


def _text_batches(tokens: Tensor, lengths: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
    """Yield batches of texts that have about the same number of tokens.

    The texts are sorted by their length, so that the last text of a batch is its longest one. All
    texts of the batch are cut to this length, which removes padding only.

    Args:
        tokens: The padded tokens (N, L) of N texts, sorted by length.
        lengths: The number of tokens (N,) of each text without padding, in ascending order.
        batch_size: The number of texts of full length L in a batch. A batch has at most
            batch_size * L tokens.

    Example:
        For L = 8 and a batch size of 1, a batch has at most 8 tokens. Texts of 2, 2, 4 and 8
        tokens give batches of the shapes (2, 2), (1, 4) and (1, 8). The third text does not fit
        into the first batch: three texts of 4 tokens are 12 tokens.
    """
    max_tokens_in_batch = batch_size * tokens.shape[1]
    start = 0
    while start < len(tokens):
        # The batch is `tokens[start:stop]`. Add the next text while the batch with it is not too
        # large. The next text is the longest so far, and decides the length of all.
        stop = start + 1
        while stop < len(tokens):
            n_tokens_with_next = (stop + 1 - start) * lengths[stop]
            if n_tokens_with_next > max_tokens_in_batch:
                break
            stop += 1
        longest = int(lengths[stop - 1])
        yield tokens[start:stop, :longest]
        start = stop


def _text_lengths(encoder: Encoder, tokens: Tensor) -> NDArray[np.int64]:
    """Return how many tokens of each text have to be encoded, (N,).

    If the encoder can trim texts, the padding does not count. All other encoders encode all tokens.

    Args:
        encoder: The model.
        tokens: The tokens (N, L) of N texts, padded with 0 at the end if the encoder can trim them.

    Example:
        [[49406, 320, 49407, 0, 0]] -> [3] if the encoder can trim texts, else [5].
    """
    context_length = tokens.shape[1]
    if not encoder.trims_text:
        return np.full(len(tokens), context_length)
    is_not_padding = tokens.numpy() != 0
    # Seen from the right, the first token that is not padding comes after all padding. `argmax`
    # returns the place of the first True.
    n_padding = np.argmax(is_not_padding[:, ::-1], axis=1)
    return context_length - n_padding


def quote(text: str) -> str:
    """Return a text in quotes for an error message, shortened to about 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
