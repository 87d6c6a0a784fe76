"""Score pairs of an image and a text with a PairScorer: each pair is scored once, or cached.

A PairScorer first encodes each image and each text into parts, which are tensors. Then it scores a
pair by the parts of its image and its text. Texts are scored in shards, with one block of images at
a time. The parts of the block's images are in memory. Each shard is scored by one process, and a
run that is resumed scores at most one shard again. So neither
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
    """The scores of pairs of N images and M texts. Equal images and equal texts share scores."""

    # A SciPy sparse array, distinct texts x distinct images.
    scores: Any
    # (N,): the column of each image in `scores`.
    image: Ints
    # (M,): the row of each text in `scores`.
    text: Ints

    def __call__(self, images: Ints, texts: Ints) -> Scores:
        """Return the scores of pairs, given by the indices of their images and texts.

        Indices are broadcast: (Q, 1) and (Q, k) give scores (Q, k). Pairs that were not scored have
        the score 0.
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
    """Return the scores of each text with its candidate images.

    `candidates` holds the indices of the candidate images of each text. Equal images and equal
    texts are scored once. Raises UsageError for an image that cannot be read or changes while it is
    read, and for scores that are not finite. Raises TooManyError if more than `most` pairs are not
    cached.
    """
    from scipy.sparse import csr_array

    distinct_images = _distinct(images, embed.image_keys(images, options))
    text_keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    distinct_texts = _distinct(texts, text_keys)
    images_of_texts = _candidates_of_distinct_texts(candidates, distinct_images, distinct_texts)
    shards = [*_shards(images_of_texts, len(distinct_images.items))]
    n_pairs = sum(map(len, images_of_texts))
    scorer = _ShardScorer(
        encoder, distinct_images, distinct_texts, options, progress, n_pairs, most
    )
    scores_of_shards = options.distributed.map_sharded(scorer.score, shards)
    # The images of a text are spread over the shards of several blocks.
    scores_of_texts: list[list[Scores]] = [[] for _ in images_of_texts]
    for shard, scores_of_shard in zip(shards, scores_of_shards, strict=True):
        for text, scores in zip(shard.texts, scores_of_shard, strict=True):
            scores_of_texts[text].append(scores)
    values = np.concatenate([scores for chunks in scores_of_texts for scores in chunks])
    columns = np.concatenate(images_of_texts)
    row_ends = np.cumsum([0, *map(len, images_of_texts)])
    shape = len(distinct_texts.items), len(distinct_images.items)
    matrix = csr_array((values, columns, row_ends), shape=shape)
    return PairScores(matrix, distinct_images.index_of_input, distinct_texts.index_of_input)


@dataclass(frozen=True)
class _Distinct(Generic[Item]):
    """The n distinct images or texts among N inputs, in the order of their first occurrence."""

    # (N,): the index of each input among the distinct inputs.
    index_of_input: Ints
    # (n, 32): the SHA-256 of each distinct input.
    keys: NDArray[np.uint8]
    # The n distinct inputs.
    items: Sequence[Item]


def _distinct(inputs: Sequence[Item], keys: Sequence[bytes]) -> _Distinct[Item]:
    """Return the distinct inputs. Inputs with the same key (SHA-256) are equal."""
    index_of_key: dict[bytes, int] = {}
    items: list[Item] = []
    for item, key in zip(inputs, keys, strict=True):
        if key not in index_of_key:
            index_of_key[key] = len(items)
            items.append(item)
    distinct_keys = np.frombuffer(b"".join(index_of_key), np.uint8).reshape(-1, 32)
    index_of_input = np.array([index_of_key[key] for key in keys])
    return _Distinct(index_of_input, distinct_keys, items)


def _candidates_of_distinct_texts(
    candidates: Sequence[Ints], images: _Distinct[ImageSource], texts: _Distinct[str]
) -> list[Ints]:
    """Return the sorted indices of the distinct images that each distinct text is scored with."""
    images_of_texts: list[list[Ints]] = [[] for _ in texts.items]
    for text, image_indices in zip(texts.index_of_input.tolist(), candidates, strict=True):
        images_of_texts[text].append(images.index_of_input[image_indices])
    return [np.unique(np.concatenate(chunks)) for chunks in images_of_texts]


class _Shard(NamedTuple):
    """Pairs of some texts and images of one block, which are scored and cached together.

    All indices count distinct texts and distinct images.
    """

    # The indices of the block's images.
    block: range
    # The indices of the texts.
    texts: range
    # The indices of the images that each text is scored with.
    images: Sequence[Ints]


def _shards(images_of_texts: Sequence[Ints], n_images: int) -> Iterator[_Shard]:
    """Yield the shards of all pairs, one block of images after the other.

    `images_of_texts` holds the sorted indices of the images that each text is scored with.
    """
    for first_image in range(0, n_images, IMAGES_PER_BLOCK):
        block = range(first_image, min(first_image + IMAGES_PER_BLOCK, n_images))
        for first_text in range(0, len(images_of_texts), TEXTS_PER_SHARD):
            texts = range(first_text, min(first_text + TEXTS_PER_SHARD, len(images_of_texts)))
            images_in_block = []
            for text in texts:
                images = images_of_texts[text]
                start, stop = np.searchsorted(images, [block.start, block.stop])
                images_in_block.append(images[start:stop])
            if any(len(images) for images in images_in_block):
                yield _Shard(block, texts, images_in_block)


class _ShardScorer:
    """Scores the shards of one process. The parts of one block of images are in memory."""

    def __init__(
        self,
        encoder: PairScorer,
        images: _Distinct[ImageSource],
        texts: _Distinct[str],
        options: RunOptions,
        progress: OnProgress,
        n_pairs: int,
        most: int | None,
    ) -> None:
        self.encoder = encoder
        self.images = images
        self.texts = texts
        self.options = options
        self.progress = progress
        self.n_pairs = n_pairs  # the number of pairs of all processes
        self.most = most  # the largest number of pairs that may be scored, None for any number
        # The block of images whose parts are in memory, and these parts.
        self.block = range(0)
        self.block_parts: Parts = ()

    def score(self, shards: Sequence[_Shard]) -> list[list[Scores]]:
        """Return the scores (n,) of each text of each shard, and add new scores to the cache."""
        store = embed.store_of(self._identity(), self.options)
        keys = [self._key(shard) for shard in shards]
        cached_scores = self._cached_scores(store, keys)
        self._require_few_missing(shards, keys, cached_scores)
        n_done, scores_of_shards = 0, []
        for shard, key in zip(shards, keys, strict=True):
            if key in cached_scores:
                scores = cached_scores.pop(key)
            else:
                scores = self._new_scores(shard)
                store.add([key], {"scores": scores})
            n_done += len(scores)
            self.progress(Progress("pairs", n_done, self.n_pairs))
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
            self.progress(Progress("pairs", 0, self.n_pairs, note))

        scores_by_key = {}
        for shard_keys, arrays in store.find(keys, report):
            scores_by_key[shard_keys[0]] = arrays["scores"]  # a shard is stored under one key
        return scores_by_key

    def _require_few_missing(
        self,
        shards: Sequence[_Shard],
        keys: Sequence[bytes],
        cached_scores: dict[bytes, Scores],
    ) -> None:
        """Raise TooManyError if more pairs are not cached than may be scored."""
        n_missing = 0
        for shard, key in zip(shards, keys, strict=True):
            if key not in cached_scores:
                n_missing += sum(map(len, shard.images))
        if self.most is not None and n_missing > self.most:
            raise embed.TooManyError(f"{n_missing:,} of {self.n_pairs:,} pairs are not cached")

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
        # The rows of `block_parts` that hold the images of each text.
        rows = torch.from_numpy(np.concatenate(shard.images) - shard.block.start).to(device)
        rows_of_texts = rows.split([len(images) for images in shard.images])
        score_chunks = []
        for place, rows_of_text in enumerate(rows_of_texts):
            parts_of_text = tuple(tensor[place : place + 1] for tensor in text_parts)
            for chunk_rows in rows_of_text.split(_IMAGES_AT_ONCE):
                if len(chunk_rows):
                    parts_of_images = tuple(tensor[chunk_rows] for tensor in self.block_parts)
                    score_chunks.append(self._scores(parts_of_images, parts_of_text))
        scores = torch.cat(score_chunks).float().cpu()
        require_finite(
            scores[:, None], self.encoder.info, lambda index: self._pair_name(shard, index)
        )
        return scores.numpy()

    def _image_parts(self, block: range) -> Parts:
        """Return the parts of a block's n images, tensors (n, ...)."""
        import torch

        keys = [key.tobytes() for key in self.images.keys]
        parts_of_batches, n_done = [], 0
        for batch in embed.image_batches(
            self.encoder, self.images.items, keys, self.options, [block]
        ):
            parts_of_batches.append(self.encoder.image_parts(batch.pixels))
            n_done += len(batch.indices)
            self.progress(Progress("images for pairs", n_done, len(block)))
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
        """Return the name in error messages of the pair with this index in a shard."""
        pairs = []
        for text, images in zip(shard.texts, shard.images, strict=True):
            for image in images:
                pairs.append((text, image))
        text, image = pairs[index]
        return f"{embed.quoted(self.texts.items[text])} with {self.images.items[image].name}"
