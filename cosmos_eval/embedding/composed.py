"""Embed images with texts that change them: by a model that composes, or as sums of features."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cosmos_eval.data.sources import ImageSource
from cosmos_eval.embedding.cache import fingerprint
from cosmos_eval.embedding.embed import (
    Features,
    Inputs,
    embed,
    embedding_identity,
    hash_image_files,
    image_batches,
    quote,
)
from cosmos_eval.models.encoder import ComposingEncoder
from cosmos_eval.types import OnProgress, RunOptions, UsageError


def sum_of_features(
    image_features: Features, text_features: Features, text_weight: float
) -> Features:
    """Return the normalised sums (n, D) of the normalised features of images and texts.

    With a weight of 0.5 they are the baseline `Image + Text` of Pic2Word (arXiv 2302.03084), the
    normalised sum (`mixture_features` in src/eval_utils.py of google-research/
    composed_image_retrieval, commit 8c05329).

    Args:
        image_features: (n, D), the features of the reference images.
        text_features: (n, D), the features of the texts.
        text_weight: The weight of the texts, from 0 to 1. Images have the other part of 1.
    """
    sums = (1 - text_weight) * image_features + text_weight * text_features
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    normalised: Features = sums / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised.astype(np.float32)


class _ComposedInputs(Inputs):
    """Pairs of an image and a text that a model composes to one feature."""

    phase = "composed queries"

    def __init__(
        self,
        encoder: ComposingEncoder,
        images: Sequence[ImageSource],
        texts: Sequence[str],
        options: RunOptions,
    ) -> None:
        """Hash the images and texts of n pairs, and prepare to encode them."""
        self.encoder = encoder
        self.images = images
        self.texts = texts
        self.options = options
        self.info = encoder.info
        self.image_keys = hash_image_files(images, options)
        self.keys = []
        for image_key, text in zip(self.image_keys, texts, strict=True):
            self.keys.append(hashlib.sha256(image_key + text.encode()).digest())
        self.identity = embedding_identity(
            encoder,
            "composed",
            preprocessing=dict(encoder.preprocessing),
            tokenizer=dict(encoder.tokenizer),
            composition=encoder.composition,
            code_of_composition=fingerprint("cosmos_eval.embedding.composed"),
        )
        self.shard_size = options.batch_size

    def name(self, index: int) -> str:
        """Return the image and the text of a pair in error messages."""
        return f"{self.images[index].name} with {quote(self.texts[index])}"

    def encode(self, shards: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], Features]]:
        """Yield the indices (n,) of each shard's pairs, and their features (n, D).

        A shard is one batch. Raises UsageError if the model returns another shape.
        """
        batches = image_batches(self.encoder, self.images, self.image_keys, self.options, shards)
        for batch in batches:
            texts = [self.texts[index] for index in batch.indices]
            features = self.encoder.compose(batch.pixels, texts)
            if features.ndim != 2 or len(features) != len(texts):
                raise UsageError(
                    f"{self.info.spec}: `compose` returns {tuple(features.shape)} for {len(texts)} "
                    f"images and texts, not ({len(texts)}, D)"
                )
            yield batch.indices, features.cpu().numpy()


def compose(
    encoder: ComposingEncoder,
    images: Sequence[ImageSource],
    texts: Sequence[str],
    options: RunOptions,
    progress: OnProgress,
) -> Features:
    """Return the features (n, D) that a model composes of n images and their texts.

    They are cached. Raises UsageError for an image that cannot be read, and for features that are
    not finite or have the wrong shape.
    """
    return embed(_ComposedInputs(encoder, images, texts, options), options, progress)
