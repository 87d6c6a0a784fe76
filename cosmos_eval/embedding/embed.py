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

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageContent, ImageSource
from cosmos_eval.embedding.cache import EMBEDDING, Report, ShardStore, fingerprint, limit_bytes
from cosmos_eval.models.encoder import Encoder, is_gpu, on_host, require_finite, stacked
from cosmos_eval.types import EncoderInfo, OnProgress, Progress, RunOptions, UsageError, no_progress

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
    """Inputs of one kind, and how a model encodes them."""

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
    inputs: Inputs, options: RunOptions, progress: OnProgress, most: int | None = None
) -> Features:
    """Return the features (N, D) of inputs, in their order. Equal inputs are encoded once.

    Raises TooManyError if more than `most` features are not cached (None allows any number), and
    UsageError for features that are not finite.
    """
    row_of_key: dict[bytes, int] = {}
    distinct_indices: list[int] = []
    for index, key in enumerate(inputs.keys):
        if key not in row_of_key:
            row_of_key[key] = len(distinct_indices)
            distinct_indices.append(index)
    starts = range(0, len(distinct_indices), inputs.shard_size)
    shards = [distinct_indices[start : start + inputs.shard_size] for start in starts]
    embed_shards = partial(_embed_shards, inputs, options, progress, most)
    features = np.concatenate(options.distributed.map_sharded(embed_shards, shards))
    return features[[row_of_key[key] for key in inputs.keys]]


def _embed_shards(
    inputs: Inputs,
    options: RunOptions,
    progress: OnProgress,
    most: int | None,
    shards: Sequence[Sequence[int]],
) -> list[Features]:
    """Return the features (n, D) of each shard of this process, and cache new features.

    `shards` holds the indices of each shard's inputs.
    """
    keys, phase = inputs.keys, inputs.phase
    n_inputs = sum(map(len, shards))
    store = store_of(inputs.identity, options)

    def report(note: str) -> None:
        progress(Progress(phase, 0, n_inputs, note))

    shard_keys = (keys[index] for shard in shards for index in shard)
    features_by_key = cached_features(store, shard_keys, report)
    missing_shards = _missing_shards(shards, keys, features_by_key)
    n_missing = sum(map(len, missing_shards))
    if most is not None and n_missing > most:
        raise TooManyError(f"{n_missing:,} of {n_inputs:,} {phase} are not cached")
    n_done = n_inputs - n_missing
    if n_done:
        note = f"{n_done} of {n_inputs} {phase} were embedded already"
        progress(Progress(phase, n_done, n_inputs, note))
    if missing_shards:
        for indices, features in inputs.encode(missing_shards):
            add_features(inputs, store, indices, features, features_by_key)
            n_done += len(indices)
            progress(Progress(phase, n_done, n_inputs))
    return [np.stack([features_by_key[keys[index]] for index in shard]) for shard in shards]


def _missing_shards(
    shards: Sequence[Sequence[int]], keys: Sequence[bytes], features_by_key: FeaturesByKey
) -> list[list[int]]:
    """Return the indices of the inputs of each shard whose features are missing.

    Shards without missing features are left out.
    """
    missing_shards = []
    for shard in shards:
        missing_indices = [index for index in shard if keys[index] not in features_by_key]
        if missing_indices:
            missing_shards.append(missing_indices)
    return missing_shards


def store_of(identity: Mapping[str, Any], options: RunOptions) -> ShardStore:
    """Return the cache's store of everything that was computed under an identity."""
    remedy = "; set COSMOS_EVAL_CACHE to another folder, or use --no-cache"
    return ShardStore(options.cache, identity, limit_bytes(), remedy)


def cached_features(store: ShardStore, keys: Iterable[bytes], report: Report) -> FeaturesByKey:
    """Return the cached features of inputs with these keys, by key. `report` shows warnings."""
    requested_keys = set(keys)
    features_by_key = {}
    for shard_keys, arrays in store.find([*requested_keys], report):
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
    """Add the features (n, D) of the inputs at `indices` to the cache and to `features_by_key`.

    Raises UsageError for features that are not finite.
    """
    names = [inputs.name(index) for index in indices]
    require_finite(features, inputs.info, names.__getitem__)
    keys = [inputs.keys[index] for index in indices]
    store.add(keys, {"features": features})
    features_by_key.update(zip(keys, features, strict=True))


def identity(encoder: Encoder, role: str, **decisions: Any) -> dict[str, Any]:
    """Return everything that decides an embedding, besides the input itself, as JSON has it.

    `role` names the kind of computation ("image", "text", "pairs"...), and `decisions` holds
    everything that decides this role only, such as the preprocessing of images.
    """
    info = encoder.info
    return {
        "role": role,
        "architecture": info.architecture,
        "weights_sha256": info.weights_sha256 or "random",
        "weights": info.weights,
        "precision": info.precision,
        "device": info.device.partition(":")[0],
        "code": fingerprint(*EMBEDDING),
        "code_of_model": info.code_sha256,
        **decisions,
    }


def embed_images(
    encoder: Encoder,
    images: Sequence[ImageSource],
    options: RunOptions,
    progress: OnProgress = no_progress,
    most: int | None = None,
) -> Embeddings:
    """Return the features of images in their order. Threads read and decode ahead of the model.

    Raises UsageError for an empty list, and for an image that is missing, cannot be decoded or
    changes while it is read. Raises TooManyError if more than `most` images are not cached.
    """
    if not images:
        raise UsageError("no images to embed: the data set is empty")
    embedded_images = [image for image in images if isinstance(image, EmbeddedImage)]
    if embedded_images:
        features = np.stack([image.feature for image in embedded_images])
        keys = [image.content for image in embedded_images]
    else:
        keys = image_keys(images, options)
        features = embed(ImageInputs(encoder, images, keys, options), options, progress, most)
    n_distinct = len(set(keys))
    if n_distinct < 2 or not all_the_same(features):
        return Embeddings(features, image_sha256s=keys)
    # The pixels of embedded images are not at hand: different files count as different images.
    if embedded_images or _pixels_differ(encoder, images):
        _report_same_feature(encoder, n_distinct, len(images), progress)
    return Embeddings(features, image_sha256s=keys)


def all_the_same(features: Features) -> bool:
    """Return whether the features (N, D) of all inputs are equal but for rounding."""
    return all(np.abs(feature - features[0]).max() <= _FEATURE_TOLERANCE for feature in features)


def _pixels_differ(encoder: Encoder, images: Sequence[ImageSource]) -> bool:
    """Return whether the pixels of any image differ from the first image's pixels.

    Only the first images are compared. Different files may hold the same pixels, whose features are
    equal for a good reason.
    """
    first_pixels: Tensor | None = None
    for image in images[:_N_COMPARED_IMAGES]:
        pixels = encoder.transform(image.decode(image.read()))
        if first_pixels is None:
            first_pixels = pixels
        elif not first_pixels.equal(pixels):
            return True
    return False


def _report_same_feature(
    encoder: Encoder, n_distinct: int, n_images: int, progress: OnProgress
) -> None:
    """Report a warning that all images have the same feature.

    Raises UsageError instead if there are many distinct images.
    """
    spec = encoder.info.spec
    warning = f"{spec} returns the same feature for all {n_distinct} images, which differ"
    if n_distinct >= _LEAST_IMAGES_FOR_ERROR:
        raise UsageError(f"{warning}: check its image tower and its weights")
    progress(Progress("images", n_images, n_images, warning))


def image_keys(images: Sequence[ImageSource], options: RunOptions) -> list[bytes]:
    """Return the SHA-256 of each image's file."""
    hash_images = partial(_hash_images, options.workers)
    return options.distributed.map_sharded(hash_images, images, unit=_IMAGES_PER_PROCESS)


def _hash_images(workers: int, images: Sequence[ImageSource]) -> list[bytes]:
    """Return the SHA-256 of each image's file, which `workers` threads read.

    A thread takes several images at a time: handing an image to a thread takes longer than hashing
    a small image.
    """
    starts = range(0, len(images), _IMAGES_PER_THREAD)
    chunks = (images[start : start + _IMAGES_PER_THREAD] for start in starts)
    digests: list[bytes] = []
    for chunk_digests in prefetch(chunks, _hash_chunk, workers=workers):
        digests += chunk_digests
    return digests


def _hash_chunk(images: Sequence[ImageSource]) -> list[bytes]:
    """Return the SHA-256 of each image's file."""
    return [hashlib.sha256(image.read()).digest() for image in images]


class ImageBatch(NamedTuple):
    """A batch of images that a model encodes at once."""

    # The images' indices (B,).
    indices: Sequence[int]
    # The images' pixels (B, 3, H, W).
    pixels: Tensor
    # True for the last batch of a shard.
    ends_shard: bool


class ImageInputs(Inputs):
    """Images to embed. More images, with their keys, may be added while others are encoded."""

    phase = "images"

    def __init__(
        self, encoder: Encoder, images: Images, keys: Sequence[bytes], options: RunOptions
    ) -> None:
        self.encoder = encoder
        self.images = images
        self.keys = keys
        self.options = options
        self.info = encoder.info
        self.identity = identity(encoder, "image", preprocessing=dict(encoder.preprocessing))
        batches_per_shard = max(1, IMAGES_PER_SHARD // options.batch_size)
        self.shard_size = options.batch_size * batches_per_shard

    def name(self, index: int) -> str:
        return str(self.images[index].name)

    def encode(self, shards: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], Features]]:
        for indices, (features,) in on_host(self._encoded_shards(shards)):
            yield indices, features.numpy()

    def _encoded_shards(
        self, shards: Iterable[Sequence[int]]
    ) -> Iterator[tuple[Sequence[int], list[Tensor]]]:
        """Yield the indices of each shard's images, and their features on the model's device."""
        import torch

        indices: list[int] = []
        features: list[Tensor] = []
        for batch in image_batches(self.encoder, self.images, self.keys, self.options, shards):
            indices += batch.indices
            features.append(self.encoder.encode_image(batch.pixels))
            if batch.ends_shard:
                yield indices, [torch.cat(features)]
                indices, features = [], []


def image_batches(
    encoder: Encoder,
    images: Images,
    keys: Sequence[bytes],
    options: RunOptions,
    shards: Iterable[Sequence[int]],
) -> Iterator[ImageBatch]:
    """Yield batches of the images at the indices in each shard; threads read ahead.

    Raises UsageError for an image whose SHA-256 is not its key, and for one that cannot be read.
    """
    loader = _ImageLoader(encoder, images, keys)
    places = _image_places(shards, options.batch_size)
    window = 2 * options.batch_size
    loaded_images = prefetch(places, loader.load, workers=options.workers, window=window)
    # A thread fills the next batch for a GPU, whose batches take milliseconds.
    batches_ahead = 1 if is_gpu(encoder.info.device) else 0
    batches = _group_by_batch(loaded_images)
    return prefetch(batches, loader.stack, workers=batches_ahead, window=batches_ahead)


class _ImagePlace(NamedTuple):
    """The index of an image, and whether it is the last image of its batch and of its shard."""

    image_index: int
    ends_batch: bool
    ends_shard: bool


class _LoadedImage(NamedTuple):
    """The pixels (3, H, W) of an image, and its place."""

    pixels: Tensor
    place: _ImagePlace


def _image_places(shards: Iterable[Sequence[int]], batch_size: int) -> Iterator[_ImagePlace]:
    """Yield the place of each image in shards, which are cut into batches of `batch_size`."""
    for shard in shards:
        for n_images, image_index in enumerate(shard, 1):
            ends_shard = n_images == len(shard)
            ends_batch = ends_shard or n_images % batch_size == 0
            yield _ImagePlace(image_index, ends_batch, ends_shard)


def _group_by_batch(loaded_images: Iterable[_LoadedImage]) -> Iterator[list[_LoadedImage]]:
    """Yield the images of each batch as a list."""
    batch = []
    for image in loaded_images:
        batch.append(image)
        if image.place.ends_batch:
            yield batch
            batch = []


class _ImageLoader:
    """Reads images for a model, and stacks them into batches."""

    def __init__(self, encoder: Encoder, images: Images, keys: Sequence[bytes]) -> None:
        self.encoder = encoder
        self.images = images
        self.keys = keys

    def load(self, place: _ImagePlace) -> _LoadedImage:
        """Read and transform an image. Raises UsageError if its SHA-256 is not its key."""
        image = self.images[place.image_index]
        content = image.read()
        if hashlib.sha256(content).digest() != self.keys[place.image_index]:
            raise UsageError(f"{image.name} has changed while it was read; run again")
        return _LoadedImage(self.encoder.transform(image.decode(content)), place)

    def stack(self, loaded_images: Sequence[_LoadedImage]) -> ImageBatch:
        """Stack images into a batch. Raises UsageError if their shapes differ."""
        info = self.encoder.info
        shapes = sorted({tuple(image.pixels.shape) for image in loaded_images})
        if len(shapes) > 1:
            raise UsageError(f"{info.spec}: images of one batch have shapes {shapes}")
        pixels = stacked([image.pixels for image in loaded_images], info.device)
        indices = [image.place.image_index for image in loaded_images]
        return ImageBatch(indices, pixels, loaded_images[-1].place.ends_shard)


class TextInputs(Inputs):
    """Texts to embed, sorted by their length, so that the texts of a batch need little padding.

    Row i of the features is the feature of `texts[order[i]]`.
    """

    def __init__(
        self, encoder: Encoder, texts: Sequence[str], options: RunOptions, phase: str
    ) -> None:
        self.encoder = encoder
        self.texts = texts
        self.batch_size = options.batch_size
        self.phase = phase
        self.info = encoder.info
        self.identity = identity(encoder, "text", tokenizer=dict(encoder.tokenizer))
        self.shard_size = TEXTS_PER_SHARD
        self.tokens = encoder.tokenize(texts)
        self.order = np.argsort(_lengths(encoder, self.tokens), kind="stable")
        self.keys = [hashlib.sha256(texts[index].encode()).digest() for index in self.order]

    def name(self, index: int) -> str:
        return quoted(self.texts[self.order[index]])

    def encode(self, shards: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], Features]]:
        shards = [*shards]
        token_lists = (self.tokens[self.order[indices]] for indices in shards)
        features = encode_tokens(self.encoder, token_lists, self.batch_size)
        yield from zip(shards, features, strict=True)


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    options: RunOptions,
    progress: OnProgress = no_progress,
    phase: str = "texts",
    most: int | None = None,
) -> Embeddings:
    """Return the features of texts in their order, and whether each text was cut to the context.

    If the encoder trims padding, a batch of short texts holds more texts, so that all batches have
    about the same number of tokens. Raises UsageError for an empty list, and TooManyError if more
    than `most` texts are not cached.
    """
    if not texts:
        raise UsageError("no texts to embed: the data set is empty")
    inputs = TextInputs(encoder, texts, options, phase)
    sorted_features = embed(inputs, options, progress, most)
    features = sorted_features[np.argsort(inputs.order)]
    require_different_texts(encoder, texts, features, phase, progress)
    return Embeddings(features, _cut_texts(encoder, texts, inputs.tokens))


def _cut_texts(encoder: Encoder, texts: Sequence[str], tokens: Tensor) -> NDArray[np.bool_]:
    """Return whether each text was cut to the model's context, (N,), from tokens (N, L)."""
    may_be_cut = np.ones(len(texts), np.bool_)
    if encoder.trims_text:
        # Such an encoder pads texts by 0: a text whose last token is 0 was not cut.
        may_be_cut = tokens[:, -1].numpy() != 0
    cut = may_be_cut.copy()
    if may_be_cut.any():
        long_texts = [texts[index] for index in np.flatnonzero(may_be_cut).tolist()]
        cut[may_be_cut] = encoder.overlong(long_texts).numpy()
    return cut


def require_different_texts(
    encoder: Encoder,
    texts: Sequence[str],
    features: Features,
    phase: str,
    progress: OnProgress = no_progress,
) -> None:
    """Raise UsageError if texts with different tokens all have the same feature.

    `features` (N, D) belong to the texts. If different texts have the same tokens as well, the
    tokenizer does not know their words. Then a warning is reported, and no error is raised.
    """
    if not all_the_same(features):
        return
    distinct_texts = [*dict.fromkeys(texts)]
    if len(distinct_texts) < 2:
        return
    spec, tokens = encoder.info.spec, encoder.tokenize(distinct_texts)
    if not tokens.equal(tokens[:1].expand_as(tokens)):
        raise UsageError(
            f"{spec} returns the same feature for {len(distinct_texts)} different {phase}: check "
            "its text tower, and which token it reads the feature at (an end of text that never "
            "occurs)"
        )
    note = (
        f"{spec} has the same tokens for {len(distinct_texts)} different {phase}: it knows no word"
    )
    progress(Progress(phase, len(texts), len(texts), note))


def encode_tokens(
    encoder: Encoder,
    token_lists: Iterable[Tensor],
    batch_size: int,
    encode: EncodeTokens | None = None,
) -> Iterator[Features]:
    """Yield the features (N, D) of each tensor of tokens (N, L). They are not cached.

    `encode` encodes one batch. It is the encoder's `encode_text` by default.
    """
    import torch

    encode_batch = encode or encoder.encode_text

    def encoded_lists() -> Iterator[tuple[NDArray[np.int64], list[Tensor]]]:
        for tokens in token_lists:
            lengths = _lengths(encoder, tokens)
            order = np.argsort(lengths, kind="stable")  # so that a batch has little padding
            batches = _text_batches(tokens[order], lengths[order], batch_size)
            yield order, [torch.cat([encode_batch(batch) for batch in batches])]

    for order, (sorted_features,) in on_host(encoded_lists()):
        yield sorted_features.numpy()[np.argsort(order)]


def _text_batches(tokens: Tensor, lengths: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
    """Yield batches of tokens (N, L), each with at most batch_size * L tokens.

    Texts are sorted by their length, and batches are trimmed to their longest text. `lengths` (N,)
    holds the number of tokens of each text.
    """
    token_budget = batch_size * tokens.shape[1]
    start = 0
    while start < len(tokens):
        # The tokens of a batch of 1, 2, ... texts: all texts are as long as the last one.
        tokens_of_batch = np.arange(1, len(tokens) - start + 1) * lengths[start:]
        n_texts = max(1, int(np.searchsorted(tokens_of_batch, token_budget, side="right")))
        stop = start + n_texts
        yield tokens[start:stop, : int(lengths[stop - 1])]
        start = stop


def _lengths(encoder: Encoder, tokens: Tensor) -> NDArray[np.int64]:
    """Return the number of tokens of each text that are encoded, (N,), from tokens (N, L).

    It is L, unless the encoder trims texts. Then the padding, tokens 0 at the end, does not count.
    """
    if not encoder.trims_text:
        return np.full(len(tokens), tokens.shape[1])
    is_token = tokens.numpy() != 0
    return tokens.shape[1] - np.argmax(is_token[:, ::-1], axis=1)


def quoted(text: str) -> str:
    """Quote a text for an error message, shortened to about 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
