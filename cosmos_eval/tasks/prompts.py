"""One embedding per class, from its names and prompt templates.

Every template's embedding is normalised, the mean over templates is normalised again: Radford et
al. 2021 (CLIP), section 3.1.4, and the zero-shot classifier of github.com/openai/CLIP
(notebooks/Prompt_Engineering_for_ImageNet.ipynb).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cosmos_eval.data.class_names import (
    CLIP_BENCHMARK,
    clip_benchmark_templates,
    template_faults,
)
from cosmos_eval.embedding import embed as embedding
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.types import OnProgress, RunOptions, UsageError, no_progress

# Prompts of the names that are encoded and cached together.
PROMPTS_PER_SHARD = 4096


def resolve_templates(templates: tuple[str, ...] | str) -> tuple[str, ...]:
    """Return templates with one `{}` each. `templates` may be the name of a known set of them.

    Raises UsageError for an unknown name, and for templates without exactly one `{}`.
    """
    for fault in template_faults(templates):
        raise UsageError(fault)
    if isinstance(templates, tuple):
        return templates
    if templates.startswith(CLIP_BENCHMARK):
        return clip_benchmark_templates(templates.removeprefix(CLIP_BENCHMARK))
    import open_clip

    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


def prompt_embeddings(
    encoder: Encoder,
    names: Sequence[str],
    templates: tuple[str, ...] | str,
    options: RunOptions,
    progress: OnProgress = no_progress,
    text_queries: embedding.EncodeTokens | None = None,
) -> embedding.Features:
    """Return one L2-normalised embedding per name, (N, D) float32.

    With the encoder's `text_queries`, return queries of cross-attention, which are not normalised.
    Means over templates are cached. Raises UsageError for no names and features not finite.
    """
    if not names:
        raise UsageError("no class names to build prompts from")
    patterns = resolve_templates(templates)
    inputs = _ClassPrompts(encoder, names, patterns, options, text_queries)
    means = embedding.embed(inputs, options, progress)
    prompts = [patterns[0].replace("{}", name) for name in names]
    embedding.require_different_texts(encoder, prompts, means, inputs.phase, progress)
    return means if text_queries else means / np.linalg.norm(means, axis=1, keepdims=True)


class _ClassPrompts(embedding.Inputs):
    """The prompts of each class name; its feature is the mean over the templates."""

    phase = "prompts"

    def __init__(
        self,
        encoder: Encoder,
        names: Sequence[str],
        patterns: Sequence[str],
        options: RunOptions,
        text_queries: embedding.EncodeTokens | None,
    ) -> None:
        self.encoder = encoder
        self.names = names
        self.patterns = patterns
        self.batch_size = options.batch_size
        self.text_queries = text_queries
        self.info = encoder.info
        self.identity = embedding.embedding_identity(
            encoder,
            "query" if text_queries else "class",
            tokenizer=dict(encoder.tokenizer),
            templates=list(patterns),
        )
        self.keys = [hashlib.sha256(name.encode()).digest() for name in names]
        self.shard_size = max(1, PROMPTS_PER_SHARD // len(patterns))

    def name(self, index: int) -> str:
        return f"prompts of {embedding.quote(self.names[index])}"

    def encode(
        self, shards: Iterable[Sequence[int]]
    ) -> Iterator[tuple[Sequence[int], embedding.Features]]:
        """Yield the indices of each shard, and the mean features (n, D) of their classes."""
        shards = [*shards]
        token_lists = (self.encoder.tokenize(self._prompts(indices)) for indices in shards)
        features_of_shards = embedding.encode_tokens(
            self.encoder, token_lists, self.batch_size, self.text_queries
        )
        for indices, features in zip(shards, features_of_shards, strict=True):
            by_class = features.reshape(len(indices), len(self.patterns), -1)
            yield indices, by_class.mean(axis=1)

    def _prompts(self, indices: Sequence[int]) -> list[str]:
        """Return all prompts of the first class, then all prompts of the next one."""
        return [
            pattern.replace("{}", self.names[index])
            for index in indices
            for pattern in self.patterns
        ]
