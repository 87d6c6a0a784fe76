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
    """Return templates with one `{}` each, of a tuple or of the set of a name."""
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

    def encode_names(lists: Iterable[Sequence[int]]) -> Iterator[embedding.Features]:
        runs = [*lists]
        tokens = (
            encoder.tokenize([pattern.replace("{}", names[n]) for n in run for pattern in patterns])
            for run in runs
        )
        encoded = embedding.encode_tokens(encoder, tokens, options.batch_size, text_queries)
        for run, features in zip(runs, encoded, strict=True):
            yield features.reshape(len(run), len(patterns), -1).mean(axis=1)

    decided = {"tokenizer": dict(encoder.tokenizer), "templates": list(patterns)}
    inputs = embedding.Inputs(
        identity=embedding.identity(encoder, "query" if text_queries else "class", **decided),
        keys=[hashlib.sha256(name.encode()).digest() for name in names],
        encode=encode_names,
        info=encoder.info,
        name=lambda number: f"prompts of {embedding.quoted(names[number])}",
        shard_size=max(1, PROMPTS_PER_SHARD // len(patterns)),
        phase="prompts",
    )
    means = embedding.embed(inputs, options, progress)
    prompts = [patterns[0].replace("{}", name) for name in names]
    embedding.require_different_texts(encoder, prompts, means, inputs.phase, progress)
    return means if text_queries else means / np.linalg.norm(means, axis=1, keepdims=True)
