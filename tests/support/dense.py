"""The weights of the forms of attention, as their papers write them."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosmos_eval.types import Attention

FORMS = tuple(form for form in get_args(Attention) if form not in ("proxy", "crossmodal"))
"""Of a tower alone: `proxy` needs another encoder, `crossmodal` COSMOS's cross-attention."""


def gaussian(rows: int, columns: int, prefix: int = 1) -> Tensor:
    """NACLIP's term, patch pair by patch pair; the first tokens are none."""
    length = prefix + rows * columns
    term = torch.zeros(length, length, dtype=torch.float64)
    for i in range(rows * columns):
        for j in range(rows * columns):
            (y, x), (v, u) = divmod(i, columns), divmod(j, columns)
            distance_squared = (y - v) ** 2 + (x - u) ** 2
            term[prefix + i, prefix + j] = math.exp(-distance_squared / (2 * 5**2))
    return term


def proxy_of(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """ProxyCLIP's weights (M, M) of the patches (M, D) of one image, entry by entry."""
    cosines = np.array([[a @ b / math.sqrt((a @ a) * (b @ b)) for b in features] for a in features])
    shifted = 3.0 * (cosines - 1.2 * cosines.mean())
    kept = np.where(shifted < 0, 0.0, np.exp(shifted))
    return kept / kept.sum(1, keepdims=True)


def linear_axis(length: int, side: int) -> NDArray[np.float64]:
    """Matrix (length, side) of linear interpolation between the centres of `side` patches."""
    matrix = np.zeros((length, side))
    for out in range(length):
        place = min(max((out + 0.5) * side / length - 0.5, 0.0), side - 1.0)
        first = math.floor(place)
        matrix[out, first] += 1 - (place - first)
        matrix[out, min(first + 1, side - 1)] += place - first
    return matrix


def weights_of(form: str, q: Tensor, k: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Attention weights (B, N, N) of one head."""

    def compared(a: Tensor, b: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        scores = torch.einsum("bnd,bmd->bnm", a, b) / math.sqrt(q.shape[-1]) + bias
        return scores.exp() / scores.exp().sum(-1, keepdim=True)

    return {
        "vanilla": lambda: compared(q, k),
        "csa": lambda: compared(q, q) + compared(k, k),
        "maskclip": lambda: torch.eye(q.shape[1], dtype=q.dtype).expand(len(q), -1, -1),
        "clearclip": lambda: compared(q, q),
        "naclip": lambda: compared(k, k, gaussian(*grid, prefix)),
    }[form]()
