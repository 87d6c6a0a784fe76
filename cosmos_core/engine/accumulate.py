"""A batch in parts whose loss is that of the whole batch.

A contrastive loss is no sum over samples, so gradients of parts cannot simply be added. But the
loss sees features alone: its gradient in all features, computed once, can be carried on through
the model part by part (as in GradCache, arXiv 2101.06983).

Features are a method's NamedTuple: (V, B, D) tensors hold a row a sample, others (scales, the
centre of prototypes) belong to the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cosmos_core.types import Views


def split_views(views: Views, parts: int) -> list[Views]:
    """The samples of a batch in `parts` batches, in order; ValueError where they do not divide."""
    samples = views.texts.shape[1]
    if samples % parts:
        raise ValueError(f"{samples} samples of a process cannot be split in {parts} equal parts")
    return [Views(*pieces) for pieces in zip(*(v.chunk(parts, dim=1) for v in views), strict=True)]


def join_features(parts: Sequence[Any]) -> Any:
    """Features of all parts as those of the batch; None where a method has none."""
    first = parts[0]
    if first is None:
        return None
    joined = [
        torch.cat(list(fields), dim=1) if _per_sample(fields[0]) else fields[0]
        for fields in zip(*parts, strict=True)
    ]
    return type(first)(*joined)


def as_leaves(features: Any) -> Any:
    """Copies whose gradient a backward pass collects."""
    return type(features)(
        *(None if field is None else field.detach().requires_grad_() for field in features)
    )


def part_gradients(leaves: Any, parts: int) -> list[list[Tensor | None]]:
    """For every part, the gradient of each field; of fields of the whole batch, with the last."""
    gradients: list[list[Tensor | None]] = [[] for _ in range(parts)]
    for field in leaves:
        gradient = None if field is None else field.grad
        if gradient is not None and _per_sample(field):
            pieces: Sequence[Tensor | None] = gradient.chunk(parts, dim=1)
        else:
            pieces = [None] * (parts - 1) + [gradient]
        for part, piece in zip(gradients, pieces, strict=True):
            part.append(piece)
    return gradients


def carry_back(features: Any, gradients: Sequence[Tensor | None]) -> None:
    """Backward from features whose gradient is known; those without one are left out."""
    known = [
        (field, gradient)
        for field, gradient in zip(features, gradients, strict=True)
        if gradient is not None and field.requires_grad
    ]
    torch.autograd.backward([field for field, _ in known], [gradient for _, gradient in known])


def _per_sample(field: Any) -> bool:
    return isinstance(field, Tensor) and field.ndim == 3
