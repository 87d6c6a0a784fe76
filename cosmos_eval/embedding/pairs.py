"""Score pairs of an image and a text with a PairScorer: each pair is scored once, or cached.

Texts are scored in shards, with the images of one block at a time, whose parts are in memory. Each
shard is scored by one process, and a run that is resumed scores at most one shard again. So neither
the number of processes nor an interruption changes a score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding import embed
from cosmos_eval.embedding.cache import ShardStore
from cosmos_eval.models.encoder import PairScorer, require_finite
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.types import OnProgress, Progress, RunOptions, UsageError, no_progress

if TYPE_CHECKING:
    from torch import Tensor

    from cosmos_eval.models.encoder import Parts

Scores = NDArray[np.float32]
Item = TypeVar("Item")

IMAGES_PER_BLOCK = 2048  # whose parts are 1.6 GB for COSMOS's ViT-B/16 at 224 px
TEXTS_PER_SHARD = 64
_IMAGES_AT_ONCE = 512


@dataclass(frozen=True)
class PairScores:
    """The scores of pairs. Equal images and equal texts share their scores."""

    # A SciPy sparse array, distinct texts x distinct images.
    scores: Any
    # The column of each image, (N,).
    image: Ints
    # The row of each text, (M,).
    text: Ints

    def __call__(self, images: Ints, texts: Ints) -> Scores:
        """Return the scores of images with texts, by their indices, which are broadcast.

        The pairs must be among those that were scored.
        """
        rows, columns = np.broadcast_arrays(self.text[texts], self.image[images])
        return np.asarray(self.scores[rows.ravel(), columns.ravel()]).reshape(rows.shape)


def score_pairs(
    encoder: PairScorer,
    images: Sequence[ImageSource],
    texts: Sequence[str],
    candidates: Sequence[Ints],
    options: RunOptions,
    progress: OnProgress = no_progress,
    most: int | None = None,
) -> PairScores:
    """Score each text with its candidates: `candidates` holds the indices of images for each text.

    Equal images and equal texts are scored once.

    Raises UsageError for an image that cannot be read or changes while it is read, and for scores
    that are not finite. Raises TooManyError if more than `most` pairs are not cached.
    """
    from scipy.sparse import csr_array

    distinct_images = _distinct(images, embed.image_keys(images, options))
    text_keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    distinct_texts = _distinct(texts, text_keys)
    columns = _columns(candidates, distinct_images, distinct_texts)
    shards = [*_shards(columns, len(distinct_images.items))]
    total = sum(map(len, columns))
    scorer = _ShardScorer(encoder, distinct_images, distinct_texts, options, progress, total, most)
    scores_of_shards = options.distributed.map_sharded(scorer.score, shards)
    # The images of a text are spread over the shards of several blocks.
    scores_of_text: list[list[Scores]] = [[] for _ in columns]
    for shard, scores_of_shard in zip(shards, scores_of_shards, strict=True):
        for text, scores in zip(shard.texts, scores_of_shard, strict=True):
            scores_of_text[text].append(scores)
    values = np.concatenate([scores for lists in scores_of_text for scores in lists])
    row_ends = np.cumsum([0, *map(len, columns)])
    shape = len(distinct_texts.items), len(distinct_images.items)
    matrix = csr_array((values, np.concatenate(columns), row_ends), shape=shape)
    return PairScores(matrix, distinct_images.number, distinct_texts.number)


@dataclass(frozen=True)
class _Distinct(Generic[Item]):
    """The distinct images or texts among the inputs, in the order of their first occurrence."""

    # The number of each input, (N,).
    number: Ints
    # The SHA-256 of each distinct input, (n, 32).
    keys: NDArray[np.uint8]
    # The distinct inputs, n of them.
    items: Sequence[Item]


def _distinct(inputs: Sequence[Item], keys: Sequence[bytes]) -> _Distinct[Item]:
    """Number inputs by their keys, so that inputs with the same key have the same number."""
    number_of_key: dict[bytes, int] = {}
    items: list[Item] = []
    for item, key in zip(inputs, keys, strict=True):
        if key not in number_of_key:
            number_of_key[key] = len(items)
            items.append(item)
    distinct_keys = np.frombuffer(b"".join(number_of_key), np.uint8).reshape(-1, 32)
    numbers = np.array([number_of_key[key] for key in keys])
    return _Distinct(numbers, distinct_keys, items)


def _columns(
    candidates: Sequence[Ints], images: _Distinct[ImageSource], texts: _Distinct[str]
) -> list[Ints]:
    """Return the sorted numbers of the distinct images that each distinct text is scored with."""
    images_of_text: list[list[Ints]] = [[] for _ in texts.items]
    for text, image_indices in zip(texts.number.tolist(), candidates, strict=True):
        images_of_text[text].append(images.number[image_indices])
    return [np.unique(np.concatenate(lists)) for lists in images_of_text]


class _Shard(NamedTuple):
    """Texts that are scored with images of one block, and cached together."""

    # The numbers of the block's images.
    block: range
    # The numbers of the texts.
    texts: range
    # The numbers of the images that each text is scored with.
    images: Sequence[Ints]


def _shards(columns: Sequence[Ints], n_images: int) -> Iterator[_Shard]:
    """Yield the shards of all pairs, one block of images after the other."""
    for first_image in range(0, n_images, IMAGES_PER_BLOCK):
        block = range(first_image, min(first_image + IMAGES_PER_BLOCK, n_images))
        for first_text in range(0, len(columns), TEXTS_PER_SHARD):
            texts = range(first_text, min(first_text + TEXTS_PER_SHARD, len(columns)))
            images_of_texts = []
            for text in texts:
                start, stop = np.searchsorted(columns[text], [block.start, block.stop])
                images_of_texts.append(columns[text][start:stop])
            if any(len(images) for images in images_of_texts):
                yield _Shard(block, texts, images_of_texts)


class _ShardScorer:
    """Scores the shards of one process. The parts of one block of images are in memory."""

    def __init__(
        self,
        encoder: PairScorer,
        images: _Distinct[ImageSource],
        texts: _Distinct[str],
        options: RunOptions,
        progress: OnProgress,
        total: int,
        most: int | None,
    ) -> None:
        self.encoder = encoder
        self.images = images
        self.texts = texts
        self.options = options
        self.progress = progress
        self.total = total  # pairs of all processes
        self.most = most  # pairs that may be scored, None for any number
        # The block of images whose parts are in memory, and these parts.
        self.block = range(0)
        self.block_parts: Parts = ()

    def score(self, shards: Sequence[_Shard]) -> list[list[Scores]]:
        """Return the scores of each text of each shard, and add new scores to the cache."""
        store = embed.store_of(self._identity(), self.options)
        keys = [self._key(shard) for shard in shards]
        cached_scores = self._cached_scores(store, keys)
        self._require_few_missing(shards, keys, cached_scores)
        done, scores_of_shards = 0, []
        for shard, key in zip(shards, keys, strict=True):
            if key in cached_scores:
                scores = cached_scores.pop(key)
            else:
                scores = self._new_scores(shard)
                store.add([key], {"scores": scores})
            done += len(scores)
            self.progress(Progress("pairs", done, self.total))
            text_ends = np.cumsum([len(images) for images in shard.images])
            scores_of_shards.append(np.split(scores, text_ends[:-1]))
        return scores_of_shards

    def _identity(self) -> dict[str, Any]:
        """Return everything that decides a score, besides the image and the text."""
        return embed.identity(
            self.encoder,
            "pairs",
            pair_score=self.encoder.pair_score,
            preprocessing=dict(self.encoder.preprocessing),
            tokenizer=dict(self.encoder.tokenizer),
        )

    def _key(self, shard: _Shard) -> bytes:
        """Return the SHA-256 of a shard's texts and images."""
        digest = hashlib.sha256()
        for text, images in zip(shard.texts, shard.images, strict=True):
            digest.update(self.texts.keys[text].tobytes() + self.images.keys[images].tobytes())
        return digest.digest()

    def _cached_scores(self, store: ShardStore, keys: Sequence[bytes]) -> dict[bytes, Scores]:
        """Return the scores of those shards that are cached, by their keys."""

        def report(note: str) -> None:
            self.progress(Progress("pairs", 0, self.total, note))

        return {shard_keys[0]: arrays["scores"] for shard_keys, arrays in store.find(keys, report)}

    def _require_few_missing(
        self,
        shards: Sequence[_Shard],
        keys: Sequence[bytes],
        cached_scores: dict[bytes, Scores],
    ) -> None:
        """Raise TooManyError if more pairs are not cached than may be scored."""
        missing = 0
        for shard, key in zip(shards, keys, strict=True):
            if key not in cached_scores:
                missing += sum(map(len, shard.images))
        if self.most is not None and missing > self.most:
            raise embed.TooManyError(f"{missing:,} of {self.total:,} pairs are not cached")

    def _new_scores(self, shard: _Shard) -> Scores:
        """Return the scores (n,) of a shard's texts, one text after the other.

        Raises UsageError for scores that are not finite.
        """
        import torch

        if shard.block != self.block:
            self.block, self.block_parts = shard.block, self._image_parts(shard.block)
        tokens = self.encoder.tokenize([self.texts.items[text] for text in shard.texts])
        text_parts = self.encoder.text_parts(tokens)
        device = self.block_parts[0].device
        rows = torch.from_numpy(np.concatenate(shard.images) - shard.block.start).to(device)
        chunks = []
        for number, text_rows in enumerate(rows.split([len(images) for images in shard.images])):
            parts_of_text = tuple(tensor[number : number + 1] for tensor in text_parts)
            for chunk_rows in text_rows.split(_IMAGES_AT_ONCE):
                if len(chunk_rows):
                    parts_of_images = tuple(tensor[chunk_rows] for tensor in self.block_parts)
                    chunks.append(self._scores(parts_of_images, parts_of_text))
        scores = torch.cat(chunks).float().cpu()
        require_finite(
            scores[:, None], self.encoder.info, lambda index: self._pair_name(shard, index)
        )
        return scores.numpy()

    def _image_parts(self, block: range) -> Parts:
        """Return the parts of a block's images, each (n, ...)."""
        import torch

        keys = [key.tobytes() for key in self.images.keys]
        parts_of_batches, done = [], 0
        for batch in embed.image_batches(
            self.encoder, self.images.items, keys, self.options, [block]
        ):
            parts_of_batches.append(self.encoder.image_parts(batch.pixels))
            done += len(batch.indices)
            self.progress(Progress("images for pairs", done, len(block)))
        return tuple(torch.cat(batches) for batches in zip(*parts_of_batches, strict=True))

    def _scores(self, images: Parts, text: Parts) -> Tensor:
        """Return the scores (B,) of images with one text. Raises UsageError for another shape."""
        scores = self.encoder.pair_scores(images, text)
        if tuple(scores.shape) != (len(images[0]), 1):
            raise UsageError(
                f"{self.encoder.info.spec}: `pair_scores` returns {tuple(scores.shape)} for "
                f"{len(images[0])} images and one text, not ({len(images[0])}, 1)"
            )
        return scores[:, 0]

    def _pair_name(self, shard: _Shard, index: int) -> str:
        """Return how error messages name a pair, by its index among the pairs of a shard."""
        pairs = [
            (text, image)
            for text, images in zip(shard.texts, shard.images, strict=True)
            for image in images
        ]
        text, image = pairs[index]
        return f"{embed.quoted(self.texts.items[text])} with {self.images.items[image].name}"
