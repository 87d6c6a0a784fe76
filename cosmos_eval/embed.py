"""From an encoder and data to embeddings: batched, each distinct text once, padding trimmed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cosmos_eval.encoder import Encoder
from cosmos_eval.sources import ImageSource
from cosmos_eval.threads import ahead
from cosmos_eval.types import (
    Embeddings,
    OnProgress,
    Progress,
    RunOptions,
    UsageError,
    no_progress,
)


def embed_images(
    encoder: Encoder,
    images: Sequence[ImageSource],
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Embeddings:
    """Features of images, in their order; threads decode ahead of the model.

    Processes share whole batches, so that a feature does not depend on their number. Raises
    UsageError for an empty list and for an image that is missing or cannot be decoded.
    """
    _require_any(images, "images")

    def encode(own: Sequence[ImageSource]) -> list[NDArray[np.float32]]:
        features: list[NDArray[np.float32]] = []
        decoded = ahead(
            own,
            lambda image: encoder.transform(image.decode(image.read())),
            workers=options.workers,
            window=2 * options.batch_size,
        )
        while batch := list(islice(decoded, options.batch_size)):
            features.extend(encoder.encode_image(torch.stack(batch)).numpy())
            progress(Progress("images", len(features), len(own)))
        return features

    return Embeddings(np.stack(options.share.spread(encode, images, unit=options.batch_size)))


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    options: RunOptions,
    progress: OnProgress = no_progress,
    phase: str = "texts",
) -> Embeddings:
    """Features of texts, in their order; equal texts are encoded once.

    The batch size counts texts of full length: where the encoder trims, a batch of short texts
    holds as many more as fill the same number of tokens. Processes share whole batches. Raises
    UsageError for an empty list.
    """
    _require_any(texts, "texts")
    position = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    distinct = list(position)
    tokens = encoder.tokenize(distinct)
    batches = _text_batches(tokens, encoder.trims_text, options.batch_size)

    def encode(own: Sequence[_TextBatch]) -> list[NDArray[np.float32]]:
        features: list[NDArray[np.float32]] = []
        done, total = 0, sum(len(batch.rows) for batch in own)
        for batch in own:
            features.append(encoder.encode_text(tokens[batch.rows, : batch.length]).numpy())
            done += len(batch.rows)
            progress(Progress(phase, done, total))
        return features

    features = np.concatenate(options.share.spread(encode, batches))
    place = np.argsort(np.concatenate([batch.rows for batch in batches]))
    inverse = [position[text] for text in texts]
    truncated = _count_truncated(encoder, distinct, tokens, inverse)
    return Embeddings(features[place[inverse]], truncated)


class _TextBatch(NamedTuple):
    """Rows of a token matrix that are encoded together, cut to `length` positions."""

    rows: NDArray[np.int64]
    length: int


def _text_batches(tokens: torch.Tensor, trims: bool, batch_size: int) -> list[_TextBatch]:
    """(N, L) tokens -> batches of about batch_size * L tokens, shortest texts first."""
    context = tokens.shape[1]
    if not trims:
        rows = np.arange(len(tokens))
        return [_TextBatch(rows[i : i + batch_size], context) for i in rows[::batch_size]]
    lengths = _lengths(tokens)
    order = np.argsort(lengths, kind="stable")
    batches: list[_TextBatch] = []
    start, budget = 0, batch_size * context
    while start < len(order):
        # Sorted ascending: adding a row can only lengthen the batch, so the last row decides.
        sizes = np.arange(1, len(order) - start + 1) * lengths[order[start:]]
        stop = start + max(1, int(np.searchsorted(sizes, budget, side="right")))
        batches.append(_TextBatch(order[start:stop], int(lengths[order[stop - 1]])))
        start = stop
    return batches


def _lengths(tokens: torch.Tensor) -> NDArray[np.int64]:
    """Positions up to the last one that is not padding (0), (N,)."""
    used = tokens.numpy() != 0
    return tokens.shape[1] - np.argmax(used[:, ::-1], axis=1)


def _count_truncated(
    encoder: Encoder, distinct: Sequence[str], tokens: torch.Tensor, inverse: Sequence[int]
) -> int:
    """Texts (repeats counted) that were cut; only those that fill the context can have been."""
    full = np.flatnonzero(tokens[:, -1].numpy())
    if len(full) == 0:
        return 0
    cut = full[encoder.overlong([distinct[i] for i in full.tolist()]).numpy()]
    return int(np.isin(inverse, cut).sum())


def _require_any(items: Sequence[object], what: str) -> None:
    if not items:
        raise UsageError(f"no {what} to embed: the data set is empty")
