"""Class names and templates -> one embedding a class.

Every template's embedding is normalised, the mean over templates is normalised again: Radford et
al. 2021 (CLIP), section 3.1.4, and the zero-shot classifier of github.com/openai/CLIP
(notebooks/Prompt_Engineering_for_ImageNet.ipynb).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.embed import Inputs, embed, encode_texts, identity
from cosmos_eval.encoder import Encoder
from cosmos_eval.tasks import clip_benchmark_lists
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
            return clip_benchmark_lists.templates(templates.removeprefix(_CLIP_BENCHMARK))
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
) -> NDArray[np.float32]:
    """One L2-normalised embedding a name, (N, D) float32.

    What is kept for the next run is the mean, not every prompt. Raises UsageError for no names or
    bad templates.
    """
    if not names:
        raise UsageError("no class names to build prompts from")
    patterns = resolve_templates(templates)
    inputs = Inputs(
        identity=identity(
            encoder, "class", tokenizer=dict(encoder.tokenizer), templates=list(patterns)
        ),
        keys=[hashlib.sha256(name.encode()).digest() for name in names],
        encode=partial(_encode_names, encoder, names, patterns, options.batch_size),
        a_shard=max(1, PROMPTS_A_SHARD // len(patterns)),
        phase="prompts",
    )
    return embed(inputs, options, progress)


def _encode_names(
    encoder: Encoder,
    names: Sequence[str],
    patterns: tuple[str, ...],
    batch_size: int,
    runs: Sequence[Sequence[int]],
) -> Iterator[NDArray[np.float32]]:
    for run in runs:
        prompts = [pattern.replace("{}", names[number]) for number in run for pattern in patterns]
        features = encode_texts(encoder, prompts, batch_size)
        mean = features.reshape(len(run), len(patterns), -1).mean(axis=1)
        yield mean / np.linalg.norm(mean, axis=1, keepdims=True)
