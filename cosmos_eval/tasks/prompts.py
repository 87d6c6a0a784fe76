"""Class names and templates -> one embedding a class.

Every template's embedding is normalised, the mean over templates is normalised again: Radford et
al. 2021 (CLIP), section 3.1.4, and the zero-shot classifier of github.com/openai/CLIP
(notebooks/Prompt_Engineering_for_ImageNet.ipynb).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.embed import embed_texts
from cosmos_eval.encoder import Encoder
from cosmos_eval.tasks import clip_benchmark_lists
from cosmos_eval.types import OnProgress, Progress, RunOptions, UsageError, nearest, no_progress

# The 80 templates of OpenCLIP's open_clip.OPENAI_IMAGENET_TEMPLATES.
TEMPLATE_SETS = ("openai-imagenet",)
# Those of a data set in CLIP Benchmark, such as clip-benchmark/food101.
_CLIP_BENCHMARK = "clip-benchmark/"

# Prompts encoded at once; bounds the memory of their embeddings (16,384 x 512 x 4 B = 34 MB).
_PROMPTS_AT_ONCE = 16_384


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

    Raises UsageError for no names or bad templates.
    """
    if not names:
        raise UsageError("no class names to build prompts from")
    patterns = resolve_templates(templates)
    step = max(1, _PROMPTS_AT_ONCE // len(patterns))
    rows = []
    for start in range(0, len(names), step):
        some = names[start : start + step]
        prompts = [pattern.replace("{}", name) for name in some for pattern in patterns]
        features = embed_texts(encoder, prompts, options).features
        mean = features.reshape(len(some), len(patterns), -1).mean(axis=1)
        rows.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
        progress(Progress("prompts", start + len(some), len(names)))
    return np.concatenate(rows)
