"""Score pairs of an image and a text with a PairScorer: each pair is scored once, or cached.

A PairScorer first encodes each image and each text into intermediate tensors, its parts, such as
the tokens of patches and words. Then it scores a pair by the parts of its image and its text.

Texts are scored in shards, with one block of images at a time, whose parts are in memory. Each
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
    """The scores of pairs of N images and M texts. Equal images and equal texts share scores."""

    # A SciPy sparse array, distinct texts x distinct images.
    scores: Any
    # (N,): the column of each image in `scores`.
    image: Ints
    # (M,): the row of each text in `scores`.
    text: Ints

    def __call__(self, images: Ints, texts: Ints) -> Scores:
        """Return the scores of pairs, given by the indices of their images and texts.

        The two arrays of indices are broadcast: images (Q, k) and texts (Q, 1) give scores (Q, k).
        Pairs that were not scored have the score 0.
        """
        rows, columns = np.broadcast_arrays(self.text[texts], self.image[images])
        scores = self.scores[rows.ravel(), columns.ravel()]
        return np.asarray(scores).reshape(rows.shape)


def score_pairs(
    encoder: PairScorer,
    images: Sequence[ImageSource],
    texts: Sequence[str],
    candidates: Sequence[Ints],
    options: RunOptions,
    progress: OnProgress = no_progress,
    max_missing: int | None = None,
) -> PairScores:
    """Return the scores of each text with its candidate images.

    `candidates` holds, for each text, the indices of the images that it is scored with. Equal
    images and equal texts are scored once.

    Raises UsageError for an image that cannot be read or changes while it is read, and for scores
    that are not finite. Raises TooManyError if more than `max_missing` pairs are not cached.
    """
    from scipy.sparse import csr_array

    distinct_images = _distinct_inputs(images, embed.hash_image_files(images, options))
    text_keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    distinct_texts = _distinct_inputs(texts, text_keys)
    images_by_text = _candidates_by_distinct_text(candidates, distinct_images, distinct_texts)
    row_lengths = [len(image_indices) for image_indices in images_by_text]

    # The processes of a distributed run share the shards.
    shards = [*_shards_of_pairs(images_by_text, len(distinct_images.items))]
    scorer = _ShardScorer(
        encoder, distinct_images, distinct_texts, options, progress, sum(row_lengths), max_missing
    )
    scores_of_shards = options.distributed.map_sharded(scorer.score, shards)

    # The images of a text are spread over the shards of several blocks.
    scores_by_text: list[list[Scores]] = [[] for _ in images_by_text]
    for shard, scores_of_shard in zip(shards, scores_of_shards, strict=True):
        for text, scores in zip(shard.texts, scores_of_shard, strict=True):
            scores_by_text[text].append(scores)

    # Row i of the sparse matrix has the scores of text i, in the columns of its images.
    values = np.concatenate([scores for row in scores_by_text for scores in row])
    columns = np.concatenate(images_by_text)
    row_boundaries = np.cumsum([0, *row_lengths])
    shape = len(distinct_texts.items), len(distinct_images.items)
    matrix = csr_array((values, columns, row_boundaries), shape=shape)
    return PairScores(matrix, distinct_images.index_of_input, distinct_texts.index_of_input)


@dataclass(frozen=True)
class _DistinctInputs(Generic[Item]):
    """The n distinct images or texts among N inputs, in the order of their first occurrence."""

    # (N,): the index of each input among the distinct inputs.
    index_of_input: Ints
    # (n, 32): the SHA-256 of each distinct input.
    keys: NDArray[np.uint8]
    # The n distinct inputs.
    items: Sequence[Item]


def _distinct_inputs(inputs: Sequence[Item], keys: Sequence[bytes]) -> _DistinctInputs[Item]:
    """Return the distinct inputs. Inputs with the same key, a SHA-256, are equal.

    For example, ["a", "b", "a"] has the distinct inputs ["a", "b"], whose `index_of_input` is
    [0, 1, 0].
    """
    index_by_key: dict[bytes, int] = {}
    items: list[Item] = []
    for item, key in zip(inputs, keys, strict=True):
        if key not in index_by_key:
            index_by_key[key] = len(items)
            items.append(item)
    index_of_input = np.array([index_by_key[key] for key in keys])
    distinct_keys = np.frombuffer(b"".join(index_by_key), np.uint8).reshape(-1, 32)
    return _DistinctInputs(index_of_input, distinct_keys, items)


def _candidates_by_distinct_text(
    candidates: Sequence[Ints],
    images: _DistinctInputs[ImageSource],
    texts: _DistinctInputs[str],
) -> list[Ints]:
    """Return the sorted indices of the distinct images that each distinct text is scored with.

    `candidates` holds, for each text before equal ones are merged, the indices of the images that
    it is scored with. A distinct text is scored with the candidates of all texts that equal it.
    """
    chunks_by_text: list[list[Ints]] = [[] for _ in texts.items]
    for distinct_text, image_indices in zip(texts.index_of_input.tolist(), candidates, strict=True):
        distinct_image_indices = images.index_of_input[image_indices]
        chunks_by_text[distinct_text].append(distinct_image_indices)
    return [np.unique(np.concatenate(chunks)) for chunks in chunks_by_text]


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


def _shards_of_pairs(images_by_text: Sequence[Ints], n_images: int) -> Iterator[_Shard]:
    """Yield the shards of all pairs, one block of images after the other.

    `images_by_text` holds the sorted indices of the images that each text is scored with. For
    example, with blocks of 4 images and shards of 2 texts, a text with the images [1, 2, 6] has the
    images [1, 2] in a shard of the first block, 0 to 3, and [6] in a shard of the second block.
    """
    n_texts = len(images_by_text)
    for first_image in range(0, n_images, IMAGES_PER_BLOCK):
        block = range(first_image, min(first_image + IMAGES_PER_BLOCK, n_images))
        for first_text in range(0, n_texts, TEXTS_PER_SHARD):
            texts = range(first_text, min(first_text + TEXTS_PER_SHARD, n_texts))
            images_in_block = []
            for text in texts:
                image_indices = images_by_text[text]
                start, stop = np.searchsorted(image_indices, [block.start, block.stop])
                images_in_block.append(image_indices[start:stop])
            has_pairs = any(len(image_indices) > 0 for image_indices in images_in_block)
            if has_pairs:
                yield _Shard(block, texts, images_in_block)


class _ShardScorer:
    """Scores the shards of one process. The parts of one block of images are in memory."""

    def __init__(
        self,
        encoder: PairScorer,
        images: _DistinctInputs[ImageSource],
        texts: _DistinctInputs[str],
        options: RunOptions,
        progress: OnProgress,
        n_pairs: int,
        max_missing: int | None,
    ) -> None:
        """Keep the distinct images and texts. Nothing is encoded before `score` is called."""
        self.encoder = encoder
        self.images = images
        self.texts = texts
        self.options = options
        self.progress = progress
        self.n_pairs = n_pairs  # the number of pairs of all processes
        # The largest number of pairs that may be scored, None for any number.
        self.max_missing = max_missing
        # The block of images whose parts are in memory, and these parts.
        self.block = range(0)
        self.block_parts: Parts = ()

    def score(self, shards: Sequence[_Shard]) -> list[list[Scores]]:
        """Return the scores (n,) of each text of each shard, and add new scores to the cache.

        Raises TooManyError if more than `max_missing` pairs are not cached.
        """
        store = embed.open_store(self._identity(), self.options)
        keys = [self._shard_key(shard) for shard in shards]
        scores_by_key = self._read_cached_scores(store, keys)

        n_missing = 0
        for shard, key in zip(shards, keys, strict=True):
            if key not in scores_by_key:
                n_missing += sum(map(len, shard.images))
        if self.max_missing is not None and n_missing > self.max_missing:
            raise embed.TooManyError(f"{n_missing:,} of {self.n_pairs:,} pairs are not cached")

        n_done, scores_of_shards = 0, []
        for shard, key in zip(shards, keys, strict=True):
            if key in scores_by_key:
                scores = scores_by_key.pop(key)
            else:
                scores = self._score_shard(shard)
                store.add([key], {"scores": scores})
            n_done += len(scores)
            self.progress(Progress("pairs", n_done, self.n_pairs))
            # Texts with 2, 3 and 1 images have the scores [:2], [2:5] and [5:].
            text_ends = np.cumsum([len(image_indices) for image_indices in shard.images])
            scores_of_shards.append(np.split(scores, text_ends[:-1]))
        return scores_of_shards

    def _identity(self) -> dict[str, Any]:
        """Return everything that decides a score, besides the image and the text."""
        return embed.embedding_identity(
            self.encoder,
            "pairs",
            pair_score=self.encoder.pair_score,
            preprocessing=dict(self.encoder.preprocessing),
            tokenizer=dict(self.encoder.tokenizer),
        )

    def _shard_key(self, shard: _Shard) -> bytes:
        """Return the key of a shard in the cache: the SHA-256 of its texts and their images."""
        digest = hashlib.sha256()
        for text, image_indices in zip(shard.texts, shard.images, strict=True):
            digest.update(self.texts.keys[text].tobytes())
            digest.update(self.images.keys[image_indices].tobytes())
        return digest.digest()

    def _read_cached_scores(self, store: ShardStore, keys: Sequence[bytes]) -> dict[bytes, Scores]:
        """Return the scores of those shards that are cached, by the keys of the shards."""

        def report_warning(warning: str) -> None:
            self.progress(Progress("pairs", 0, self.n_pairs, warning))

        scores_by_key = {}
        for stored_keys, arrays in store.find(keys, report_warning):
            (key,) = stored_keys  # all scores of a shard are stored under one key
            scores_by_key[key] = arrays["scores"]
        return scores_by_key

    def _score_shard(self, shard: _Shard) -> Scores:
        """Return the scores (n,) of a shard's n pairs, one text after the other.

        Raises UsageError for scores that are not finite.
        """
        import torch

        if shard.block != self.block:
            self.block, self.block_parts = shard.block, self._encode_block(shard.block)
        tokens = self.encoder.tokenize([self.texts.items[text] for text in shard.texts])
        parts_of_texts = self.encoder.text_parts(tokens)

        # `block_parts` has a row for each image of the block, and `rows_by_text` holds the rows of
        # the images of each text.
        device = self.block_parts[0].device
        rows = np.concatenate(shard.images) - shard.block.start
        n_images_by_text = [len(image_indices) for image_indices in shard.images]
        rows_by_text = torch.from_numpy(rows).to(device).split(n_images_by_text)

        chunks_of_scores = []
        for position, rows_of_text in enumerate(rows_by_text):
            parts_of_text = tuple(tensor[position : position + 1] for tensor in parts_of_texts)
            for chunk_of_rows in rows_of_text.split(_IMAGES_AT_ONCE):
                if len(chunk_of_rows):
                    parts_of_images = tuple(tensor[chunk_of_rows] for tensor in self.block_parts)
                    scores = self._score_images(parts_of_images, parts_of_text)
                    chunks_of_scores.append(scores)
        shard_scores = torch.cat(chunks_of_scores).float().cpu()
        require_finite(
            shard_scores[:, None], self.encoder.info, lambda index: self._pair_name(shard, index)
        )
        return shard_scores.numpy()

    def _encode_block(self, block: range) -> Parts:
        """Return the parts of a block's n images, a tuple of tensors (n, ...)."""
        import torch

        keys = [key.tobytes() for key in self.images.keys]
        parts_of_batches, n_done = [], 0
        for batch in embed.image_batches(
            self.encoder, self.images.items, keys, self.options, [block]
        ):
            parts_of_batches.append(self.encoder.image_parts(batch.pixels))
            n_done += len(batch.indices)
            self.progress(Progress("images for pairs", n_done, len(block)))
        # From a tuple of parts for each batch to a tuple of all parts of the block.
        return tuple(torch.cat(tensors) for tensors in zip(*parts_of_batches, strict=True))

    def _score_images(self, images: Parts, text: Parts) -> Tensor:
        """Return the scores (B,) of B images with one text, from their parts.

        Raises UsageError if the model returns scores of another shape than (B, 1).
        """
        scores = self.encoder.pair_scores(images, text)
        n_images = len(images[0])
        if tuple(scores.shape) != (n_images, 1):
            raise UsageError(
                f"{self.encoder.info.spec}: `pair_scores` returns {tuple(scores.shape)} for "
                f"{n_images} images and one text, not ({n_images}, 1)"
            )
        return scores[:, 0]

    def _pair_name(self, shard: _Shard, index: int) -> str:
        """Return the name of a pair in error messages, such as "'a dog' with dog.jpg".

        `index` counts the pairs of the shard, one text after the other.
        """
        pairs = []
        for text, image_indices in zip(shard.texts, shard.images, strict=True):
            for image in image_indices:
                pairs.append((text, image))
        text, image = pairs[index]
        return f"{embed.quote(self.texts.items[text])} with {self.images.items[image].name}"
