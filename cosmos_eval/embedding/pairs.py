"""Scores of images with texts by a PairScorer: each wanted pair is scored once, or cached.

Texts are scored in shards, with the images of one block at a time, whose parts are in memory.
Neither the number of processes nor a resumed run, which loses one shard at most, changes a score.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding import embed
from cosmos_eval.models.encoder import PairScorer, require_finite
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.types import OnProgress, Progress, RunOptions, UsageError, no_progress

if TYPE_CHECKING:
    from torch import Tensor

    from cosmos_eval.models.encoder import Parts

Scores = NDArray[np.float32]

IMAGES_PER_BLOCK = 2048  # whose parts are 1.6 GB for COSMOS's ViT-B/16 at 224 px
TEXTS_PER_SHARD = 64
_IMAGES_AT_ONCE = 512


@dataclass(frozen=True)
class PairScores:
    """Scores in a SciPy sparse array of distinct texts x distinct images. `image` (N,) and `text`
    (M,) hold the column and the row of every input, so that equal inputs score the same."""

    scores: Any
    image: Ints
    text: Ints

    def __call__(self, images: Ints, texts: Ints) -> Scores:
        """Return the scores of images with texts, by index, of pairs that were wanted: (...)."""
        rows, columns = np.broadcast_arrays(self.text[texts], self.image[images])
        return np.asarray(self.scores[rows.ravel(), columns.ravel()]).reshape(rows.shape)


def score_pairs(
    encoder: PairScorer,
    images: Sequence[ImageSource],
    texts: Sequence[str],
    wanted: Sequence[Ints],
    options: RunOptions,
    progress: OnProgress = no_progress,
    most: int | None = None,
) -> PairScores:
    """Score each text with those images, by index, that are `wanted` of it. Raises UsageError for
    images that cannot be read or change meanwhile, and for scores that are not finite, and
    TooManyError where more than `most` pairs are not cached."""
    from scipy.sparse import csr_array

    image, image_keys, own_images = _distinct(embed.image_keys(images, options), images)
    keys_of_texts = [hashlib.sha256(text.encode()).digest() for text in texts]
    text, text_keys, own_texts = _distinct(keys_of_texts, texts)
    columns = _columns(wanted, image, text)
    shards = [*_shards(columns, len(own_images))]
    given = encoder, own_images, image_keys, own_texts, text_keys
    work = _Work(*given, options, progress, sum(map(len, columns)), most)
    by_text: dict[int, list[Scores]] = defaultdict(list)
    scored = options.distributed.map_sharded(work.score, shards)
    for shard, scores in zip(shards, scored, strict=True):
        for number, some in zip(shard.texts, scores, strict=True):
            by_text[number].append(some)
    values = np.concatenate([some for number in range(len(columns)) for some in by_text[number]])
    ends = np.cumsum([0, *map(len, columns)])
    shape = len(own_texts), len(own_images)
    return PairScores(csr_array((values, np.concatenate(columns), ends), shape=shape), image, text)


def _distinct(keys: Sequence[bytes], inputs: Sequence[Any]) -> tuple[Ints, Any, list[Any]]:
    """Number distinct inputs: numbers (N,), the keys (n, 32) of the distinct ones, and these."""
    first = {key: index for index, key in reversed([*enumerate(keys)])}
    order = sorted(first.values())
    number = {keys[index]: place for place, index in enumerate(order)}
    rows = np.frombuffer(b"".join(keys[index] for index in order), np.uint8).reshape(-1, 32)
    return np.array([number[key] for key in keys]), rows, [inputs[index] for index in order]


def _columns(wanted: Sequence[Ints], image: Ints, text: Ints) -> list[Ints]:
    """Return the sorted distinct images that are wanted of each distinct text."""
    of_text: dict[int, list[Ints]] = defaultdict(list)
    for number, some in zip(text.tolist(), wanted, strict=True):
        of_text[number].append(image[some])
    return [np.unique(np.concatenate(of_text[number])) for number in range(len(of_text))]


class _Shard(NamedTuple):
    """Distinct texts, and the images of a block that each is scored with."""

    block: range
    texts: range
    images: Sequence[Ints]


def _shards(columns: Sequence[Ints], n_images: int) -> Iterator[_Shard]:
    for first in range(0, n_images, IMAGES_PER_BLOCK):
        block = range(first, min(first + IMAGES_PER_BLOCK, n_images))
        for start in range(0, len(columns), TEXTS_PER_SHARD):
            texts = range(start, min(start + TEXTS_PER_SHARD, len(columns)))
            edges = (np.searchsorted(columns[text], [block.start, block.stop]) for text in texts)
            own = [columns[t][slice(*edge)] for t, edge in zip(texts, edges, strict=True)]
            if any(map(len, own)):
                yield _Shard(block, texts, own)


@dataclass
class _Work:
    """What one process does: score its shards, with the parts of one block of images at a time."""

    encoder: PairScorer
    images: Sequence[ImageSource]
    image_keys: NDArray[np.uint8]
    texts: Sequence[str]
    text_keys: NDArray[np.uint8]
    options: RunOptions
    progress: OnProgress
    total: int
    most: int | None

    def score(self, shards: Sequence[_Shard]) -> list[list[Scores]]:
        """Return the scores of every text of each shard; those that are not cached are added."""
        store = embed.store_of(self._identity, self.options)
        keys, done, results = [*map(self._key, shards)], 0, []
        note = partial(Progress, "pairs", 0, self.total)
        stored = {
            key: arrays["scores"]
            for (key, *_), arrays in store.find(keys, lambda line: self.progress(note(line)))
        }
        new = (shard for shard, key in zip(shards, keys, strict=True) if key not in stored)
        left = sum(len(images) for shard in new for images in shard.images)
        if self.most is not None and left > self.most:
            raise embed.TooManyError(f"{left:,} of {self.total:,} pairs are not cached")
        block, parts = range(0), tuple[Any, ...]()
        for shard, key in zip(shards, keys, strict=True):
            if (scores := stored.pop(key, None)) is None:
                if shard.block != block:
                    block, parts = shard.block, self._image_parts(shard.block)
                scores = self._new_scores(shard, parts)
                store.add([key], {"scores": scores})
            done += len(scores)
            self.progress(Progress("pairs", done, self.total))
            results.append(np.split(scores, np.cumsum([*map(len, shard.images)])[:-1]))
        return results

    @cached_property
    def _identity(self) -> dict[str, Any]:
        of_role = {
            name: dict(getattr(self.encoder, name)) for name in ("preprocessing", "tokenizer")
        }
        return embed.identity(self.encoder, "pairs", pair_score=self.encoder.pair_score, **of_role)

    def _key(self, shard: _Shard) -> bytes:
        digest = hashlib.sha256()
        for text, images in zip(shard.texts, shard.images, strict=True):
            digest.update(self.text_keys[text].tobytes() + self.image_keys[images].tobytes())
        return digest.digest()

    def _image_parts(self, block: range) -> Parts:
        import torch

        keys, found, done = [key.tobytes() for key in self.image_keys], [], 0
        sizes = embed.batch_sizes(len(block), self.options.batch_size)
        given = self.encoder, self.images, keys, self.options
        for batch in embed.image_batches(*given, block, sizes):
            found.append(self.encoder.image_parts(batch))
            done += len(batch)
            self.progress(Progress("images for pairs", done, len(block)))
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def _new_scores(self, shard: _Shard, parts: Parts) -> Scores:
        """Return the scores of a shard's texts, one after the other."""
        import torch

        tokens = self.encoder.tokenize([self.texts[text] for text in shard.texts])
        text_parts = self.encoder.text_parts(tokens)
        rows = torch.from_numpy(np.concatenate(shard.images) - shard.block.start)
        own = rows.to(parts[0].device).split([*map(len, shard.images)])
        scores = [
            self._scores(
                tuple(part[some] for part in parts), tuple(p[i : i + 1] for p in text_parts)
            )
            for i, images in enumerate(own)
            for some in images.split(_IMAGES_AT_ONCE)
            if len(some)
        ]
        found = torch.cat(scores).float().cpu()[:, None]
        pairs = [
            (text, image)
            for text, images in zip(shard.texts, shard.images, strict=True)
            for image in images
        ]
        require_finite(found, self.encoder.info, lambda index: self._name(*pairs[index]))
        return found[:, 0].numpy()

    def _name(self, text: int, image: int) -> str:
        return f"{embed.quoted(self.texts[text])} with {self.images[image].name}"

    def _scores(self, images: Parts, text: Parts) -> Tensor:
        """Return the scores (B,) of images with one text."""
        scores = self.encoder.pair_scores(images, text)
        if tuple(scores.shape) != (len(images[0]), 1):
            raise UsageError(
                f"{self.encoder.info.spec}: `pair_scores` returns {tuple(scores.shape)} for "
                f"{len(images[0])} images and one text, not ({len(images[0])}, 1)"
            )
        return scores[:, 0]
