"""From an encoder and data to embeddings: each distinct input once, batched, padding trimmed, kept.

Inputs are told apart by their content. They are encoded in shards of a fixed number, which no batch
mixes: what a killed run loses at most, and what processes are dealt at once. Neither the number of
processes nor a resumed run changes what is encoded together, so that features stay the same to the
bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding.cache import Shelf
from cosmos_eval.embedding.code import EMBEDDING, fingerprint
from cosmos_eval.models.encoder import Encoder, require_finite
from cosmos_eval.types import (
    Embeddings,
    EncoderInfo,
    OnProgress,
    Progress,
    RunOptions,
    UsageError,
    no_progress,
)

Features = NDArray[np.float32]
EncodeTokens = Callable[[torch.Tensor], torch.Tensor]
"""(B, L) tokens -> (B, D) features on the CPU; L may be cut where the encoder's text is trimmed."""

IMAGES_A_SHARD = 32  # at least a batch, and whole batches
TEXTS_A_SHARD = 1024
_HASHED_AT_ONCE = 256
_SHOWN = 60  # characters of a text in an error message


class TooManyError(UsageError):
    """More inputs would have to be encoded than the caller wants to wait for."""


class Inputs(NamedTuple):
    """Inputs to embed, and how.

    `identity` holds all besides an input itself that decides its feature, `keys` the SHA-256 of
    every input. `encode` makes the features (n, D) of each of several runs of inputs, which are
    given by their numbers, one run after the other. `info` (the model) and `name` (of an input by
    its number) are for errors. `most` is how many it may be asked for, None any number.
    """

    identity: Mapping[str, Any]
    keys: Sequence[bytes]
    encode: Callable[[Sequence[Sequence[int]]], Iterator[Features]]
    info: EncoderInfo
    name: Callable[[int], str]
    a_shard: int
    phase: str
    most: int | None = None


def embed(inputs: Inputs, options: RunOptions, progress: OnProgress) -> Features:
    """Features (N, D) in the order of the inputs; equal inputs are encoded once, or found kept.

    Raises TooManyError where more than `most` would have to be encoded, and UsageError where
    features are not finite.
    """
    first = {key: number for number, key in reversed([*enumerate(inputs.keys)])}
    distinct = sorted(first.values())
    shards = [
        distinct[start : start + inputs.a_shard]
        for start in range(0, len(distinct), inputs.a_shard)
    ]
    work = partial(_embed_shards, inputs, options, progress)
    features = np.concatenate(options.distributed.map_sharded(work, shards))
    row = {inputs.keys[number]: place for place, number in enumerate(distinct)}
    return features[[row[key] for key in inputs.keys]]


def _embed_shards(
    inputs: Inputs, options: RunOptions, progress: OnProgress, shards: Sequence[Sequence[int]]
) -> list[Features]:
    """Features of this process's shards: those that are kept, and the others encoded and kept."""
    total = sum(map(len, shards))
    shelf = Shelf(options.cache, inputs.identity)

    def report(note: str) -> None:
        progress(Progress(inputs.phase, 0, total, note))

    keys = inputs.keys
    found = shelf.find([keys[number] for shard in shards for number in shard], report)
    missing = [[number for number in shard if keys[number] not in found] for shard in shards]
    left = sum(map(len, missing))
    if inputs.most is not None and left > inputs.most:
        raise TooManyError(f"{left:,} of {total:,} {inputs.phase} are not among what is kept")
    done = total - left
    if done:
        report(f"{done} of {total} {inputs.phase} were embedded already")
    encoded = inputs.encode([numbers for numbers in missing if numbers])
    features = []
    for shard, numbers in zip(shards, missing, strict=True):
        if numbers:
            own = [keys[number] for number in numbers]
            new = next(encoded)
            require_finite(torch.from_numpy(new), inputs.info, partial(_name, inputs, numbers))
            shelf.keep(own, new)
            found.update(zip(own, new, strict=True))
            done += len(own)
            progress(Progress(inputs.phase, done, total))
        features.append(np.stack([found[keys[number]] for number in shard]))
    return features


def _name(inputs: Inputs, numbers: Sequence[int], row: int) -> str:
    """The name of the input that a row of the features of a shard belongs to."""
    return inputs.name(numbers[row])


def identity(encoder: Encoder, role: str, **of_role: Any) -> dict[str, Any]:
    """What decides the embeddings of an encoder in a role, besides the inputs; as JSON has it."""
    info = encoder.info
    return {
        "role": role,
        "architecture": info.architecture,
        "weights_sha256": info.weights_sha256 or "random",
        "weights": info.weights,
        "precision": info.precision,
        "device": torch.device(info.device).type,
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
    """Features of images, in their order; threads read and decode ahead of the model.

    Raises UsageError for an empty list and for an image that is missing, cannot be decoded, or
    changes meanwhile, and TooManyError where more than `most` would have to be encoded.
    """
    _require_any(images, "images")
    keys = options.distributed.map_sharded(
        partial(_keys, options.workers), images, unit=_HASHED_AT_ONCE
    )
    inputs = Inputs(
        identity=identity(encoder, "image", preprocessing=dict(encoder.preprocessing)),
        keys=keys,
        encode=partial(_encode_images, encoder, images, keys, options),
        info=encoder.info,
        name=lambda number: str(images[number].name),
        a_shard=options.batch_size * max(1, IMAGES_A_SHARD // options.batch_size),
        phase="images",
        most=most,
    )
    return Embeddings(embed(inputs, options, progress))


def _keys(workers: int, images: Sequence[ImageSource]) -> list[bytes]:
    def key(image: ImageSource) -> bytes:
        return hashlib.sha256(image.read()).digest()

    return list(prefetch(images, key, workers=workers, window=4 * workers))


def _encode_images(
    encoder: Encoder,
    images: Sequence[ImageSource],
    keys: Sequence[bytes],
    options: RunOptions,
    runs: Sequence[Sequence[int]],
) -> Iterator[Features]:
    def load(number: int) -> torch.Tensor:
        content = images[number].read()
        if hashlib.sha256(content).digest() != keys[number]:
            raise UsageError(f"{images[number].name} has changed while it was read; run again")
        return encoder.transform(images[number].decode(content))

    numbers = (number for run in runs for number in run)
    loaded = prefetch(numbers, load, workers=options.workers, window=2 * options.batch_size)
    for run in runs:
        batches = []
        for start in range(0, len(run), options.batch_size):
            size = min(options.batch_size, len(run) - start)
            pixels = _stacked([*islice(loaded, size)], encoder)
            batches.append(encoder.encode_image(pixels).numpy())
        yield np.concatenate(batches)


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    options: RunOptions,
    progress: OnProgress = no_progress,
    phase: str = "texts",
    most: int | None = None,
) -> Embeddings:
    """Features of texts, in their order.

    The batch size counts texts of full length: where the encoder trims, a batch of short texts
    holds as many more as fill the same number of tokens. Raises UsageError for an empty list, and
    TooManyError where more than `most` would have to be encoded.
    """
    _require_any(texts, "texts")
    tokens = encoder.tokenize(texts)
    # Neighbours of about one length leave little padding in a batch.
    lengths = _lengths(tokens) if encoder.trims_text else np.zeros(len(texts))
    order = np.argsort(lengths, kind="stable")
    inputs = Inputs(
        identity=identity(encoder, "text", tokenizer=dict(encoder.tokenizer)),
        keys=[hashlib.sha256(texts[number].encode()).digest() for number in order],
        encode=partial(
            _encode_texts, encoder, encoder.encode_text, tokens[order], options.batch_size
        ),
        info=encoder.info,
        name=lambda number: quoted(texts[order[number]]),
        a_shard=TEXTS_A_SHARD,
        phase=phase,
        most=most,
    )
    features = embed(inputs, options, progress)
    return Embeddings(features[np.argsort(order)], _count_truncated(encoder, texts, tokens))


def encode_texts(
    encoder: Encoder,
    texts: Sequence[str],
    batch_size: int,
    encode: EncodeTokens | None = None,
) -> Features:
    """Features of distinct texts, in their order, encoded here and now.

    `encode` makes them from tokens, as the encoder's own `encode_text`, which None stands for.
    """
    tokens = encoder.tokenize(texts)
    lengths = _lengths(tokens) if encoder.trims_text else np.zeros(len(texts))
    order = np.argsort(lengths, kind="stable")
    by = encode or encoder.encode_text
    (features,) = _encode_texts(encoder, by, tokens[order], batch_size, [range(len(texts))])
    return features[np.argsort(order)]


def _encode_texts(
    encoder: Encoder,
    encode: EncodeTokens,
    tokens: torch.Tensor,
    batch_size: int,
    runs: Sequence[Sequence[int]],
) -> Iterator[Features]:
    """Features of rows of tokens, (N, L), which a run names in the order of their lengths."""
    for run in runs:
        own = tokens[list(run)]
        yield np.concatenate(
            [
                encode(own[batch.rows, : batch.length]).numpy()
                for batch in _text_batches(own, encoder.trims_text, batch_size)
            ]
        )


def _stacked(images: Sequence[torch.Tensor], encoder: Encoder) -> torch.Tensor:
    """Stack transformed images. Raises UsageError where their shapes differ."""
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise UsageError(f"{encoder.info.spec}: images of one batch have shapes {sorted(shapes)}")
    return torch.stack([*images])


class _TextBatch(NamedTuple):
    """Consecutive rows of a token matrix that are encoded together, cut to `length` positions."""

    rows: slice
    length: int


def _text_batches(tokens: torch.Tensor, trims: bool, batch_size: int) -> Iterator[_TextBatch]:
    """(N, L) tokens, shortest first -> batches of about batch_size * L tokens."""
    count, context = tokens.shape
    if not trims:
        for start in range(0, count, batch_size):
            yield _TextBatch(slice(start, start + batch_size), context)
        return
    lengths = _lengths(tokens)
    start, budget = 0, batch_size * context
    while start < count:
        # Sorted ascending: adding a row can only lengthen the batch, so the last row decides.
        sizes = np.arange(1, count - start + 1) * lengths[start:]
        stop = start + max(1, int(np.searchsorted(sizes, budget, side="right")))
        yield _TextBatch(slice(start, stop), int(lengths[stop - 1]))
        start = stop


def _lengths(tokens: torch.Tensor) -> NDArray[np.int64]:
    """Positions up to the last one that is not padding (0), (N,)."""
    used = tokens.numpy() != 0
    return tokens.shape[1] - np.argmax(used[:, ::-1], axis=1)


def _count_truncated(encoder: Encoder, texts: Sequence[str], tokens: torch.Tensor) -> int:
    """Texts (repeats counted) that were cut.

    Where the end of a text is padded by 0, only those that fill the context can have been.
    """
    full = np.flatnonzero(tokens[:, -1].numpy()) if encoder.trims_text else np.arange(len(tokens))
    if len(full) == 0:
        return 0
    return int(encoder.overlong([texts[number] for number in full.tolist()]).sum())


def quoted(text: str) -> str:
    """A text in quotes for an error message, at most about 60 characters of it."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _require_any(items: Sequence[object], what: str) -> None:
    if not items:
        raise UsageError(f"no {what} to embed: the data set is empty")
