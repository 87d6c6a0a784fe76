"""Class names and templates -> one embedding a class.

Every template's embedding is normalised, the mean over templates is normalised again: Radford et
al. 2021 (CLIP), section 3.1.4, and the zero-shot classifier of github.com/openai/CLIP
(notebooks/Prompt_Engineering_for_ImageNet.ipynb).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from cosmos_eval.data.class_names import clip_benchmark_templates
from cosmos_eval.embedding.embed import Features, Inputs, embed, encode_texts, identity, quoted
from cosmos_eval.models.encoder import CrossAttentionEncoder, Encoder
from cosmos_eval.types import OnProgress, RunOptions, UsageError, nearest, no_progress

# The 80 templates of OpenCLIP's open_clip.OPENAI_IMAGENET_TEMPLATES.
TEMPLATE_SETS = ("openai-imagenet",)
# Those of a data set in CLIP Benchmark, such as clip-benchmark/food101.
_CLIP_BENCHMARK = "clip-benchmark/"

# Prompts of the names that are encoded and kept together.
PROMPTS_A_SHARD = 4096


def resolve_templates(templates: tuple[str, ...] | str) -> tuple[str, ...]:
    """Templates with one `{}` each, from such a tuple or the name of a known set."""
    if isinstance(templates, str):
        if templates.startswith(_CLIP_BENCHMARK):
            return clip_benchmark_templates(templates.removeprefix(_CLIP_BENCHMARK))
        if templates not in TEMPLATE_SETS:
            known = nearest(templates, TEMPLATE_SETS)
            raise UsageError(f"unknown template set '{templates}'; known: {known}")
        import open_clip

        return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if not templates:
        raise UsageError("no prompt templates: give at least one, such as 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(f"prompt template '{template}' must hold '{{}}' exactly once")
    return templates


def prompt_embeddings(
    encoder: Encoder,
    names: Sequence[str],
    templates: tuple[str, ...] | str,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Features:
    """One L2-normalised embedding a name, (N, D) float32.

    What is kept for the next run is the mean, not every prompt. Raises UsageError for no names,
    bad templates and features that are not finite.
    """
    encode = partial(encode_texts, encoder, batch_size=options.batch_size)
    means = _means_over_templates(encoder, "class", encode, names, templates, options, progress)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def prompt_queries(
    encoder: CrossAttentionEncoder,
    names: Sequence[str],
    templates: tuple[str, ...] | str,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Features:
    """What cross-attention is asked with for every name, (N, D) float32: not normalised.

    As `prompt_embeddings`, the mean over templates, and raises as it does.
    """
    encode = partial(
        encode_texts, encoder, batch_size=options.batch_size, encode=encoder.text_queries
    )
    return _means_over_templates(encoder, "query", encode, names, templates, options, progress)


def _means_over_templates(
    encoder: Encoder,
    role: str,
    encode: Callable[[Sequence[str]], Features],
    names: Sequence[str],
    templates: tuple[str, ...] | str,
    options: RunOptions,
    progress: OnProgress,
) -> Features:
    """The mean of the prompts' features a name, kept under their role."""
    if not names:
        raise UsageError("no class names to build prompts from")
    patterns = resolve_templates(templates)
    inputs = Inputs(
        identity=identity(
            encoder, role, tokenizer=dict(encoder.tokenizer), templates=list(patterns)
        ),
        keys=[hashlib.sha256(name.encode()).digest() for name in names],
        encode=partial(_encode_names, encode, names, patterns),
        info=encoder.info,
        name=lambda number: f"prompts of {quoted(names[number])}",
        shard_size=max(1, PROMPTS_A_SHARD // len(patterns)),
        phase="prompts",
    )
    return embed(inputs, options, progress)


def _encode_names(
    encode: Callable[[Sequence[str]], Features],
    names: Sequence[str],
    patterns: tuple[str, ...],
    runs: Sequence[Sequence[int]],
) -> Iterator[Features]:
    for run in runs:
        prompts = [pattern.replace("{}", names[number]) for number in run for pattern in patterns]
        yield encode(prompts).reshape(len(run), len(patterns), -1).mean(axis=1)
