"""One embedding per class, from its names and prompt templates.

Every template's embedding is normalised, the mean over templates is normalised again: Radford et
al. 2021 (CLIP), section 3.1.4, and the zero-shot classifier of github.com/openai/CLIP
(notebooks/Prompt_Engineering_for_ImageNet.ipynb).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cosmos_eval.data.class_names import resolve_templates
from cosmos_eval.embedding import embed as embedding
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.types import OnProgress, RunOptions, UsageError, no_progress

if TYPE_CHECKING:
    from torch import Tensor

# Prompts of the names that are encoded and cached together.
PROMPTS_PER_SHARD = 4096


def prompt_embeddings(
    encoder: Encoder,
    names: Sequence[str],
    templates: tuple[str, ...] | str,
    options: RunOptions,
    progress: OnProgress = no_progress,
    text_queries: embedding.EncodeTokens | None = None,
) -> embedding.Features:
    """Return one L2-normalised text embedding per class name.

    Every name is put into every template. The embedding of a name is the mean over the templates,
    normalised again. The means are read from the cache if they were computed before.

    Args:
        encoder: The model.
        names: The names of N classes.
        templates: Prompt templates with one `{}` each, or the name of a known set of them.
        options: The options of the run, such as the batch size.
        progress: Called with the number of names that are encoded.
        text_queries: None for text embeddings. Otherwise the method of the encoder that maps tokens
            to queries of its cross-attention. These queries take the place of text embeddings, and
            their means are not normalised.

    Returns:
        The embeddings (N, D) float32, in the order of the names.

    Raises UsageError for an empty list of names, and for features that are not finite.
    """
    if not names:
        raise UsageError("no class names to build prompts from")
    resolved_templates = resolve_templates(templates)
    inputs = _ClassPrompts(encoder, names, resolved_templates, options, text_queries)
    mean_embeddings = embedding.embed(inputs, options, progress)

    # Names that all have the same embedding are a sign of a broken tokenizer or text tower.
    first_prompts = [resolved_templates[0].replace("{}", name) for name in names]
    embedding.require_different_texts(
        encoder, first_prompts, mean_embeddings, inputs.phase, progress
    )
    if text_queries is not None:
        return mean_embeddings
    return mean_embeddings / np.linalg.norm(mean_embeddings, axis=1, keepdims=True)


class _ClassPrompts(embedding.Inputs):
    """Class names to encode. The feature of a name is the mean over its prompts, one per template.

    The base class caches the features, and calls `encode` for the names that are not cached.
    """

    phase = "prompts"

    def __init__(
        self,
        encoder: Encoder,
        names: Sequence[str],
        templates: Sequence[str],
        options: RunOptions,
        text_queries: embedding.EncodeTokens | None,
    ) -> None:
        """Prepare to encode class names.

        Args:
            encoder: The model.
            names: The class names, which are the inputs that the base class caches features of.
            templates: Prompt templates with one `{}` each.
            options: The options of the run, such as the batch size.
            text_queries: Maps tokens to queries of cross-attention; None for text embeddings.
        """
        self.encoder = encoder
        self.names = names
        self.templates = templates
        self.batch_size = options.batch_size
        self.text_queries = text_queries
        self.info = encoder.info
        self.identity = embedding.embedding_identity(
            encoder,
            "query" if text_queries else "class",
            tokenizer=dict(encoder.tokenizer),
            templates=list(templates),
        )
        self.keys = [hashlib.sha256(name.encode()).digest() for name in names]
        self.shard_size = max(1, PROMPTS_PER_SHARD // len(templates))

    def name(self, index: int) -> str:
        """Return a description of a class name's prompts, for error messages."""
        return f"prompts of {embedding.quote(self.names[index])}"

    def encode(
        self, shards: Iterable[Sequence[int]]
    ) -> Iterator[tuple[Sequence[int], embedding.Features]]:
        """Yield the indices (n,) of each shard's class names, and their mean features (n, D)."""
        shards = [*shards]  # which is iterated twice
        tokens_of_shards = (self._tokenize_prompts(indices) for indices in shards)
        features_of_shards = embedding.encode_tokens(
            self.encoder, tokens_of_shards, self.batch_size, self.text_queries
        )
        for indices, features in zip(shards, features_of_shards, strict=True):
            # (n * templates, D) -> (n, templates, D)
            features_of_names = features.reshape(len(indices), len(self.templates), -1)
            yield indices, features_of_names.mean(axis=1)

    def _tokenize_prompts(self, indices: Sequence[int]) -> "Tensor":
        """Return the tokens (n * templates, L) of the prompts of the class names at n indices.

        The prompts of one class name, one per template, follow each other.
        """
        prompts = []
        for index in indices:
            for template in self.templates:
                prompts.append(template.replace("{}", self.names[index]))
        return self.encoder.tokenize(prompts)
