"""Features of inputs, which are identified by their content: each is encoded once, or cached.

Inputs are encoded in shards of a fixed number, which no batch mixes and processes divide as wholes.
Neither the number of processes nor a resumed run, which loses one shard at most, changes a bit of
the features. Where all of them are cached, nothing here imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress, islice, tee
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
Found = dict[bytes, Features]  # by the keys of inputs
Images = Sequence[ImageSource] | Mapping[int, ImageSource]
EncodeTokens = Callable[["Tensor"], "Tensor"]
"""(B, L) tokens -> (B, D) features; L may be cut where the encoder trims texts."""

IMAGES_PER_SHARD = 32  # at least a batch, and whole batches
TEXTS_PER_SHARD = 1024
_HASHED_AT_ONCE = 256  # by a process
_READ_AT_ONCE = 16  # by a thread
_SAME_FEATURE = 1e-5  # the largest difference of a value that rounding explains
_MANY_IMAGES = 8  # that cannot all be alike by chance; fewer are only reported
_COMPARED_IMAGES = 64  # whose pixels are compared if all images have one feature


class Embeddings(NamedTuple):
    """L2-normalised features (N, D); the SHA-256 of every image (N,), or which texts (N,) were cut
    to the model's context."""

    features: Features
    cut: NDArray[np.bool_] = np.zeros(0, np.bool_)
    image_sha256s: Sequence[bytes] = ()


@dataclass(frozen=True)
class EmbeddedImage(ImageContent):
    """The model's feature (D,) of an image; the content is the SHA-256 of the image's file."""

    feature: Features


class TooManyError(UsageError):
    """More inputs would have to be encoded than the caller allows."""


class Inputs(NamedTuple):
    """Inputs to embed, and how.

    `identity` is everything besides an input that decides its feature, `keys` the SHA-256 of every
    input. `encode` yields the features (n, D) of each of several lists of indices of inputs. `info`
    (the model) and `name` (of an input by its index) are for errors. `most` is how many inputs may
    be encoded, None any number."""

    identity: Mapping[str, Any]
    keys: Sequence[bytes]
    encode: Callable[[Iterable[Sequence[int]]], Iterator[Features]]
    info: EncoderInfo
    name: Callable[[int], str]
    shard_size: int
    phase: str
    most: int | None = None


def embed(inputs: Inputs, options: RunOptions, progress: OnProgress) -> Features:
    """Return features (N, D) in the order of the inputs. Raises TooManyError where more than `most`
    are not cached, UsageError for features not finite."""
    first = {key: index for index, key in reversed([*enumerate(inputs.keys)])}
    distinct = sorted(first.values())
    starts = range(0, len(distinct), inputs.shard_size)
    shards = [distinct[start : start + inputs.shard_size] for start in starts]
    work = partial(_embed_shards, inputs, options, progress)
    features = np.concatenate(options.distributed.map_sharded(work, shards))
    row = {inputs.keys[index]: number for number, index in enumerate(distinct)}
    return features[[row[key] for key in inputs.keys]]


def _embed_shards(
    inputs: Inputs, options: RunOptions, progress: OnProgress, shards: Sequence[Sequence[int]]
) -> list[Features]:
    """Return the features of this process's shards; those that are not cached are added."""
    keys, total = inputs.keys, sum(map(len, shards))
    store = store_of(inputs.identity, options)

    def report(note: str, done: int = 0) -> None:
        progress(Progress(inputs.phase, done, total, note))

    found = cached_features(store, (keys[index] for shard in shards for index in shard), report)
    by_shard = ([index for index in shard if keys[index] not in found] for shard in shards)
    missing = [*filter(None, by_shard)]
    left = sum(map(len, missing))
    if inputs.most is not None and left > inputs.most:
        raise TooManyError(f"{left:,} of {total:,} {inputs.phase} are not cached")
    if done := total - left:
        report(f"{done} of {total} {inputs.phase} were embedded already", done)
    encoded: Iterable[Features] = inputs.encode(missing) if missing else ()
    for indices, new in zip(missing, encoded, strict=True):
        add_features(inputs, store, indices, new, found)
        done += len(indices)
        progress(Progress(inputs.phase, done, total))
    return [np.stack([found[keys[index]] for index in shard]) for shard in shards]


def store_of(identity: Mapping[str, Any], options: RunOptions) -> ShardStore:
    """Return the part of the cache that holds what one identity decides."""
    remedy = "; set COSMOS_EVAL_CACHE to another folder, or use --no-cache"
    return ShardStore(options.cache, identity, limit_bytes(), remedy)


def cached_features(store: ShardStore, keys: Iterable[bytes], report: Report) -> Found:
    """Return the cached ones of the features (D,) of inputs, by their keys."""
    wanted = set(keys)
    return {
        key: feature
        for stored, arrays in store.find([*wanted], report)
        for key, feature in zip(stored, arrays["features"], strict=True)
        if key in wanted
    }


def add_features(
    inputs: Inputs, store: ShardStore, indices: Sequence[int], new: Features, found: Found
) -> None:
    """Add new features (n, D), those of the inputs at `indices`, to the cache and to `found`."""
    names = [inputs.name(index) for index in indices]
    require_finite(new, inputs.info, names.__getitem__)
    keys = [inputs.keys[index] for index in indices]
    store.add(keys, {"features": new})
    found.update(zip(keys, new, strict=True))


def identity(encoder: Encoder, role: str, **of_role: Any) -> dict[str, Any]:
    """Return everything besides the inputs that decides embeddings in a role, as JSON has it."""
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
        **of_role,
    }


def embed_images(
    encoder: Encoder,
    images: Sequence[ImageSource],
    options: RunOptions,
    progress: OnProgress = no_progress,
    most: int | None = None,
) -> Embeddings:
    """Return features of images, in their order; threads read and decode ahead of the model. Raises
    UsageError for no images and for one that is missing, cannot be decoded, or changes meanwhile,
    and TooManyError where more than `most` would have to be encoded."""
    if not images:
        raise UsageError("no images to embed: the data set is empty")
    streamed = [image for image in images if isinstance(image, EmbeddedImage)]
    if streamed:
        features = np.stack([image.feature for image in streamed])
        keys = [image.content for image in streamed]
    else:
        keys = image_keys(images, options)
        inputs = image_inputs(encoder, images, keys, options)
        features = embed(inputs._replace(most=most), options, progress)
    n = len(set(keys)) if all_the_same(features) else 0
    if n > 1 and (streamed or _differ(encoder, images)):
        fault = f"{encoder.info.spec} returns the same feature for all {n} images, which differ"
        if n >= _MANY_IMAGES:
            raise UsageError(f"{fault}: check its image tower and its weights")
        progress(Progress("images", len(images), len(images), fault))
    return Embeddings(features, image_sha256s=keys)


def all_the_same(features: Features) -> bool:
    """Whether the features (N, D) of all inputs are equal but for rounding."""
    return all(np.abs(feature - features[0]).max() <= _SAME_FEATURE for feature in features)


def _differ(encoder: Encoder, images: Sequence[ImageSource]) -> bool:
    """Whether the first images differ in their pixels, and not in their files alone."""
    pixels = (encoder.transform(image.decode(image.read())) for image in images[:_COMPARED_IMAGES])
    first = next(pixels)
    return not all(first.equal(other) for other in pixels)


def image_inputs(
    encoder: Encoder, images: Images, keys: Sequence[bytes], options: RunOptions
) -> Inputs:
    """Return images as inputs. Images and keys may be added while they are encoded."""
    return Inputs(
        identity=identity(encoder, "image", preprocessing=dict(encoder.preprocessing)),
        keys=keys,
        encode=partial(_encode_images, encoder, images, keys, options),
        info=encoder.info,
        name=lambda index: str(images[index].name),
        shard_size=options.batch_size * max(1, IMAGES_PER_SHARD // options.batch_size),
        phase="images",
    )


def image_keys(images: Sequence[ImageSource], options: RunOptions) -> list[bytes]:
    """Return the SHA-256 of every image's file."""
    digests = partial(_digests, options.workers)
    return options.distributed.map_sharded(digests, images, unit=_HASHED_AT_ONCE)


def _digests(workers: int, images: Sequence[ImageSource]) -> list[bytes]:
    # A thread takes several images: to hand one over takes longer than to hash a small one.
    starts = range(0, len(images), _READ_AT_ONCE)
    some = (images[start : start + _READ_AT_ONCE] for start in starts)
    return [*chain.from_iterable(prefetch(some, _digests_of, workers=workers))]


def _digests_of(images: Sequence[ImageSource]) -> list[bytes]:
    return [hashlib.sha256(image.read()).digest() for image in images]


def _encode_images(
    encoder: Encoder,
    images: Images,
    keys: Sequence[bytes],
    options: RunOptions,
    lists: Iterable[Sequence[int]],
) -> Iterator[Features]:
    import torch

    lists, own_lists = tee(lists)
    sizes, own_sizes = tee(batch_sizes(len(some), options.batch_size) for some in own_lists)
    flat = chain.from_iterable(lists), chain.from_iterable(sizes)
    batches = image_batches(encoder, images, keys, options, *flat)
    encoded = (map(encoder.encode_image, islice(batches, len(own))) for own in own_sizes)
    shards = (torch.cat([*some]) for some in encoded)
    for _, (features,) in on_host((None, [features]) for features in shards):
        yield features.numpy()


def batch_sizes(n: int, size: int) -> list[int]:
    """Return the sizes of the batches of n images."""
    return [min(size, n - start) for start in range(0, n, size)]


def image_batches(
    encoder: Encoder,
    images: Images,
    keys: Sequence[bytes],
    options: RunOptions,
    indices: Iterable[int],
    sizes: Iterable[int],
) -> Iterator[Tensor]:
    """Yield batches (B, 3, H, W) of these sizes of the images at `indices`; threads read ahead."""

    def pixels(index: int) -> Tensor:
        content = images[index].read()
        if hashlib.sha256(content).digest() != keys[index]:
            raise UsageError(f"{images[index].name} has changed while it was read; run again")
        return encoder.transform(images[index].decode(content))

    window = 2 * options.batch_size
    loaded = prefetch(indices, pixels, workers=options.workers, window=window)
    batches = ([*islice(loaded, count)] for count in sizes)
    # A thread fills the next batch for a GPU, whose batches take milliseconds.
    ahead = int(is_gpu(encoder.info.device))
    return prefetch(batches, partial(_batch, encoder.info), workers=ahead, window=ahead)


def _batch(info: EncoderInfo, images: Sequence[Tensor]) -> Tensor:
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise UsageError(f"{info.spec}: images of one batch have shapes {shapes}")
    return stacked(images, info.device)


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    options: RunOptions,
    progress: OnProgress = no_progress,
    phase: str = "texts",
    most: int | None = None,
) -> Embeddings:
    """Return features of texts, in their order. Where the encoder trims, a batch of short texts
    holds as many more as fill the tokens of full ones. Raises UsageError for an empty list, and
    TooManyError where more than `most` would have to be encoded."""
    if not texts:
        raise UsageError("no texts to embed: the data set is empty")
    tokens = encoder.tokenize(texts)
    order = np.argsort(_lengths(encoder, tokens), kind="stable")
    inputs = Inputs(
        identity=identity(encoder, "text", tokenizer=dict(encoder.tokenizer)),
        keys=[hashlib.sha256(texts[index].encode()).digest() for index in order],
        encode=lambda lists: encode_tokens(
            encoder, (tokens[order[rows]] for rows in lists), options.batch_size
        ),
        info=encoder.info,
        name=lambda index: quoted(texts[order[index]]),
        shard_size=TEXTS_PER_SHARD,
        phase=phase,
        most=most,
    )
    features = embed(inputs, options, progress)[np.argsort(order)]
    require_different_texts(encoder, texts, features, phase, progress)
    # Of texts that are padded by 0 only those that fill the context can be cut.
    cut = tokens[:, -1].numpy() != 0 if encoder.trims_text else np.ones(len(texts), np.bool_)
    if full_texts := [*compress(texts, cut)]:
        cut[cut] = encoder.overlong(full_texts).numpy()
    return Embeddings(features, cut)


def require_different_texts(
    encoder: Encoder,
    texts: Sequence[str],
    features: Features,
    phase: str,
    progress: OnProgress = no_progress,
) -> None:
    """Raise UsageError if different texts all have the same feature (N, D), although their tokens
    differ. If the tokens are the same as well, only report it: the vocabulary knows no word."""
    if not all_the_same(features):
        return
    distinct = [*dict.fromkeys(texts)]
    if len(distinct) < 2:
        return
    spec, tokens = encoder.info.spec, encoder.tokenize(distinct)
    if not tokens.equal(tokens[:1].expand_as(tokens)):
        raise UsageError(
            f"{spec} returns the same feature for {len(distinct)} different {phase}: check its "
            "text tower, and which token it reads the feature at (an end of text that never occurs)"
        )
    note = f"{spec} has the same tokens for {len(distinct)} different {phase}: it knows no word"
    progress(Progress(phase, len(texts), len(texts), note))


def encode_tokens(
    encoder: Encoder,
    lists: Iterable[Tensor],
    batch_size: int,
    encode: EncodeTokens | None = None,
) -> Iterator[Features]:
    """Yield the features of each list of tokens (N, L), without the cache, by `encode` or else the
    encoder's `encode_text`."""
    import torch

    def encoded(tokens: Tensor) -> tuple[NDArray[np.int64], list[Tensor]]:
        lengths = _lengths(encoder, tokens)
        order = np.argsort(lengths, kind="stable")  # so that a batch has little padding
        batches = _text_batches(tokens[order], lengths[order], batch_size)
        return order, [torch.cat([*map(encode or encoder.encode_text, batches)])]

    for order, (features,) in on_host(map(encoded, lists)):
        yield features.numpy()[np.argsort(order)]


def _text_batches(tokens: Tensor, lengths: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
    """Cut (N, L) tokens, the shortest first, into batches of about batch_size * L tokens."""
    start = 0
    while start < len(tokens):
        # Sorted ascending: the last row of a batch decides its length.
        sizes = np.arange(1, len(tokens) - start + 1) * lengths[start:]
        budget = batch_size * tokens.shape[1]
        stop = start + max(1, int(np.searchsorted(sizes, budget, side="right")))
        yield tokens[start:stop, : int(lengths[stop - 1])]
        start = stop


def _lengths(encoder: Encoder, tokens: Tensor) -> NDArray[np.int64]:
    """Count the positions of each text to encode, (N,): without padding (0) where it is trimmed."""
    if not encoder.trims_text:
        return np.full(len(tokens), tokens.shape[1])
    used = tokens.numpy() != 0
    return tokens.shape[1] - np.argmax(used[:, ::-1], axis=1)


def quoted(text: str) -> str:
    """Quote a text for an error message, at most about 60 characters of it."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
