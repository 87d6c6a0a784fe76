"""Score pairs of an image and a text with a PairScorer: each pair is scored once, or cached.

A PairScorer first encodes each image and each text into intermediate tensors, its parts, such as
the tokens of patches and words. Then it scores a pair by the parts of its image and its text.

The images are divided into blocks, so that the parts of one block fit into memory. A shard has some
texts, and the images of one block that these texts are scored with. It is scored by one process,
and cached under one key, so that a run that is resumed scores at most one shard again. So neither
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
    import torch
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

    # A SciPy sparse array with a row per distinct text and a column per distinct image.
    scores: Any
    # (N,): the column of each image in `scores`.
    image: Ints
    # (M,): the row of each text in `scores`.
    text: Ints

    def __call__(self, images: Ints, texts: Ints) -> Scores:
        """Return the scores of pairs, given by the indices of their images and texts.

        Pairs that were not scored have the score 0.

        Args:
            images: The indices of the images, such as (Q, k).
            texts: The indices of the texts, such as (Q, 1). The two arrays are broadcast.

        Returns:
            The scores, in the broadcast shape, such as (Q, k).
        """
        # The row of each pair's text, and the column of its image, in the sparse array.
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
    """Return the scores that a model gives to each text together with its candidate images.

    Equal images and equal texts are scored once. Scores are cached.

    Args:
        encoder: The model.
        images: N images.
        texts: M texts.
        candidates: For each text, the indices of the images that it is scored with.
        options: The options of the run. The processes of a distributed run share the pairs.
        progress: Called with the number of pairs that are scored.
        max_missing: The largest number of pairs that may have to be scored because they are not
            cached; None for any number.

    Returns:
        An object that maps indices of images and texts to the scores of these pairs.

    Raises UsageError for an image that cannot be read or changes while it is read, and for scores
    that are not finite. Raises TooManyError if more than `max_missing` pairs are not cached.
    """
    # Merge equal images and equal texts. From here on, all indices count distinct ones.
    distinct_images = _distinct_inputs(images, embed.hash_image_files(images, options))
    text_keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    distinct_texts = _distinct_inputs(texts, text_keys)
    images_by_text = _candidates_by_distinct_text(candidates, distinct_images, distinct_texts)
    n_pairs = sum(len(image_indices) for image_indices in images_by_text)

    # Score the pairs shard by shard. A shard has some texts, and their images in one block.
    n_images = len(distinct_images.items)
    shards = [*_shards_of_pairs(images_by_text, n_images)]
    scorer = _ShardScorer(
        encoder, distinct_images, distinct_texts, options, progress, n_pairs, max_missing
    )
    scores_of_shards = options.distributed.map_sharded(scorer.score, shards)

    matrix = _join_scores(shards, scores_of_shards, images_by_text, n_images)
    return PairScores(matrix, distinct_images.index_of_input, distinct_texts.index_of_input)


def _join_scores(
    shards: Sequence[_Shard],
    scores_of_shards: Sequence[Sequence[Scores]],
    images_by_text: Sequence[Ints],
    n_images: int,
) -> Any:
    """Return a SciPy sparse array of the scores, with a row per text and a column per image.

    Args:
        shards: All shards. The shards of a later block of images come later, so that the scores of
            a text follow each other in the order of its images.
        scores_of_shards: For each shard, the scores (n,) of each of its texts with its images.
        images_by_text: For each text, the sorted indices of the images that it is scored with.
        n_images: The number of images.

    Example:
        If text 0 has the scores 0.1 and 0.2 with images 0 and 2, and text 1 has the score 0.3 with
        image 2, the array is

            0.1  0    0.2
            0    0    0.3
    """
    from scipy.sparse import csr_array

    # The images of a text are spread over the shards of several blocks.
    score_chunks_by_text: list[list[Scores]] = [[] for _ in images_by_text]
    for shard, scores_of_shard in zip(shards, scores_of_shards, strict=True):
        for text, scores in zip(shard.texts, scores_of_shard, strict=True):
            score_chunks_by_text[text].append(scores)

    # A sparse array in compressed rows consists of three arrays. In the example:
    all_chunks = [chunk for chunks in score_chunks_by_text for chunk in chunks]
    values = np.concatenate(all_chunks)  # [0.1, 0.2, 0.3]
    columns = np.concatenate(images_by_text)  # [0, 2, 2]
    row_lengths = [len(image_indices) for image_indices in images_by_text]  # [2, 1]
    row_boundaries = np.cumsum([0, *row_lengths])  # [0, 2, 3]
    shape = len(images_by_text), n_images
    return csr_array((values, columns, row_boundaries), shape=shape)


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
    """Return the distinct ones of N inputs, and where each input is found among them.

    Args:
        inputs: The inputs: images or texts.
        keys: The SHA-256 of each input. Inputs with the same key are equal.

    Example:
        ["a", "b", "a"] has the distinct inputs ["a", "b"]. `index_of_input` is [0, 1, 0].
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

    Args:
        candidates: For each text, before equal ones are merged, the indices of the images that it
            is scored with.
        images: The distinct images.
        texts: The distinct texts. A distinct text is scored with the candidates of all texts that
            equal it.

    Example:
        The texts ["a", "b", "a"] have the candidate images [[0], [1], [2]]. All images differ. The
        distinct text "a" has the images [0, 2], and "b" has [1].
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

    Args:
        images_by_text: For each text, the sorted indices of the images that it is scored with.
        n_images: The number of images.

    Example:
        With blocks of 4 images, a text with the images [1, 2, 6] has the images [1, 2] in a shard
        of the first block, which holds the images 0 to 3, and [6] in a shard of the second block.
    """
    n_texts = len(images_by_text)
    for first_image in range(0, n_images, IMAGES_PER_BLOCK):
        block = range(first_image, min(first_image + IMAGES_PER_BLOCK, n_images))
        for first_text in range(0, n_texts, TEXTS_PER_SHARD):
            texts = range(first_text, min(first_text + TEXTS_PER_SHARD, n_texts))
            images_in_block = []
            for text in texts:
                # The indices are sorted, so that the images of the block follow each other.
                image_indices = images_by_text[text]
                start, stop = np.searchsorted(image_indices, [block.start, block.stop])
                images_in_block.append(image_indices[start:stop])
            has_pairs = any(len(image_indices) > 0 for image_indices in images_in_block)
            if has_pairs:
                yield _Shard(block, texts, images_in_block)


def _rows_in_block(shard: _Shard, device: torch.device) -> Sequence[Tensor]:
    """Return for each text of a shard the rows of its images in the parts of the shard's block.

    The rows are moved to a device all at once, which is faster than text by text.

    Example:
        In the block of the images 2048 to 4095, the images [2050, 2060] have the rows [2, 12].
    """
    import torch

    rows = np.concatenate(shard.images) - shard.block.start
    n_images_by_text = [len(image_indices) for image_indices in shard.images]
    return torch.from_numpy(rows).to(device).split(n_images_by_text)


class _ShardScorer:
    """Scores the shards of one process.

    The model encodes an image, or a text, into a tuple of tensors, its parts. It scores a pair by
    the parts of its image and its text. The parts of the last block of images are kept in memory,
    since the next shard is mostly in the same block.
    """

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
        """Prepare to score. Nothing is encoded before `score` is called.

        Args:
            encoder: The model.
            images: The distinct images.
            texts: The distinct texts.
            options: The options of the run, such as the folder of the cache.
            progress: Called with the number of pairs that are scored.
            n_pairs: The number of pairs of all processes, for the progress.
            max_missing: The largest number of pairs that may have to be scored because they are not
                cached; None for any number.
        """
        self.encoder = encoder
        self.images = images
        self.texts = texts
        self.options = options
        self.progress = progress
        self.n_pairs = n_pairs
        self.max_missing = max_missing
        # The block of images that was encoded last, and its parts, see `_parts_of_block`.
        self.encoded_block = range(0)
        self.encoded_parts: Parts = ()

    def score(self, shards: Sequence[_Shard]) -> list[list[Scores]]:
        """Read the scores of shards from the cache, or compute and cache them.

        Args:
            shards: The shards of this process.

        Returns:
            For each shard, the scores (n,) of each of its texts with the text's n images.

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

        n_done = 0
        scores_of_shards = []
        for shard, key in zip(shards, keys, strict=True):
            if key in scores_by_key:
                scores = scores_by_key.pop(key)
            else:
                scores = self._score_shard(shard)
                store.add([key], {"scores": scores})
            n_done += len(scores)
            self.progress(Progress("pairs", n_done, self.n_pairs))

            # Split the scores of the shard by text. Texts with 2, 3 and 1 images have the scores
            # [:2], [2:5] and [5:].
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
        """Return the scores of the shards that are cached, by the keys of the shards.

        Args:
            store: The cache.
            keys: The keys of all shards of this process.
        """

        def report_warning(warning: str) -> None:
            self.progress(Progress("pairs", 0, self.n_pairs, warning))

        scores_by_key = {}
        for stored_keys, arrays in store.find(keys, report_warning):
            (key,) = stored_keys  # all scores of a shard are stored under one key
            scores_by_key[key] = arrays["scores"]
        return scores_by_key

    def _score_shard(self, shard: _Shard) -> Scores:
        """Compute the scores (n,) of a shard's n pairs: all pairs of its first text come first.

        Raises UsageError for scores that are not finite.

        Example:
            If text 64 has the images [2, 6] and text 65 the image [3], the scores belong to the
            pairs (text 64, image 2), (64, 6) and (65, 3).
        """
        import torch

        parts_of_block = self._parts_of_block(shard.block)
        tokens = self.encoder.tokenize([self.texts.items[text] for text in shard.texts])
        parts_of_texts = self.encoder.text_parts(tokens)
        rows_by_text = _rows_in_block(shard, parts_of_block[0].device)

        chunks_of_scores: list[Tensor] = []
        for text_position, image_rows in enumerate(rows_by_text):
            # A slice keeps the first axis: the parts of one text are tensors (1, ...).
            text_slice = slice(text_position, text_position + 1)
            parts_of_text = tuple(tensor[text_slice] for tensor in parts_of_texts)
            chunks_of_scores += self._score_text(parts_of_text, parts_of_block, image_rows)
        shard_scores = torch.cat(chunks_of_scores).float().cpu()

        require_finite(
            shard_scores[:, None], self.encoder.info, lambda index: self._pair_name(shard, index)
        )
        return shard_scores.numpy()

    def _parts_of_block(self, block: range) -> Parts:
        """Return the parts of a block of images. They are encoded unless the last block was equal.

        `block` holds the indices of the images.
        """
        if block != self.encoded_block:
            self.encoded_parts = self._encode_block(block)
            self.encoded_block = block
        return self.encoded_parts

    def _score_text(
        self, parts_of_text: Parts, parts_of_block: Parts, image_rows: Tensor
    ) -> list[Tensor]:
        """Return the scores of a text with k images of a block, in chunks of some images.

        Args:
            parts_of_text: The parts of the text, tensors (1, ...).
            parts_of_block: The parts of all images of the block, tensors with a row per image.
            image_rows: (k,), the rows of the images in `parts_of_block`.
        """
        chunks_of_scores = []
        for start in range(0, len(image_rows), _IMAGES_AT_ONCE):
            chunk_of_rows = image_rows[start : start + _IMAGES_AT_ONCE]
            parts_of_images = tuple(tensor[chunk_of_rows] for tensor in parts_of_block)
            chunks_of_scores.append(self._score_images(parts_of_images, parts_of_text))
        return chunks_of_scores

    def _encode_block(self, block: range) -> Parts:
        """Encode the n images of a block, and return their parts: a tuple of tensors (n, ...).

        `block` holds the indices of the images.
        """
        import torch

        keys = [key.tobytes() for key in self.images.keys]
        batches = embed.image_batches(self.encoder, self.images.items, keys, self.options, [block])
        parts_of_batches = []
        n_done = 0
        for batch in batches:
            parts_of_batches.append(self.encoder.image_parts(batch.pixels))
            n_done += len(batch.indices)
            self.progress(Progress("images for pairs", n_done, len(block)))

        # Each batch has a tuple of tensors. Join the first tensors of all batches, the second
        # tensors of all batches, and so on.
        return tuple(torch.cat(tensors) for tensors in zip(*parts_of_batches, strict=True))

    def _score_images(self, images: Parts, text: Parts) -> Tensor:
        """Return the scores (B,) of B images with one text.

        Args:
            images: The parts of the images, tensors (B, ...).
            text: The parts of the text, tensors (1, ...).

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

        `index` counts the pairs of the shard: all pairs of its first text come first.
        """
        pairs = []
        for text, image_indices in zip(shard.texts, shard.images, strict=True):
            for image in image_indices:
                pairs.append((text, image))
        text, image = pairs[index]
        return f"{embed.quote(self.texts.items[text])} with {self.images.items[image].name}"
