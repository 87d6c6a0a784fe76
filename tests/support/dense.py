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
"""The forms that a tower has alone: `proxy` needs another encoder, `crossmodal` COSMOS's
cross-attention."""


def gaussian(rows: int, columns: int, prefix: int = 1) -> Tensor:
    """Return NACLIP's term (N, N), patch pair by patch pair.

    The first `prefix` tokens are not patches, and their rows and columns are 0.
    """
    length = prefix + rows * columns
    term = torch.zeros(length, length, dtype=torch.float64)
    for i in range(rows * columns):
        for j in range(rows * columns):
            (y, x), (v, u) = divmod(i, columns), divmod(j, columns)
            distance_squared = (y - v) ** 2 + (x - u) ** 2
            term[prefix + i, prefix + j] = math.exp(-distance_squared / (2 * 5**2))
    return term


def proxy_of(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ProxyCLIP's weights (M, M) for the patches (M, D) of one image, entry by entry."""
    cosines = np.array([[a @ b / math.sqrt((a @ a) * (b @ b)) for b in features] for a in features])
    shifted = 3.0 * (cosines - 1.2 * cosines.mean())
    unnormalised = np.where(shifted < 0, 0.0, np.exp(shifted))
    return unnormalised / unnormalised.sum(1, keepdims=True)


def linear_axis(length: int, side: int) -> NDArray[np.float64]:
    """Return the matrix (length, side) that interpolates linearly between centres of patches."""
    matrix = np.zeros((length, side))
    for pixel in range(length):
        # The centre of the pixel, in patches from the centre of the first one.
        position = min(max((pixel + 0.5) * side / length - 0.5, 0.0), side - 1.0)
        patch = math.floor(position)
        matrix[pixel, patch] += 1 - (position - patch)
        matrix[pixel, min(patch + 1, side - 1)] += position - patch
    return matrix


def weights_of(form: str, q: Tensor, k: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Return the attention weights (B, N, N) of one head with queries and keys (B, N, D)."""

    def softmax_of_products(a: Tensor, b: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        scores = torch.einsum("bnd,bmd->bnm", a, b) / math.sqrt(q.shape[-1]) + bias
        return scores.exp() / scores.exp().sum(-1, keepdim=True)

    match form:
        case "vanilla":
            return softmax_of_products(q, k)
        case "csa":
            return softmax_of_products(q, q) + softmax_of_products(k, k)
        case "maskclip":
            return torch.eye(q.shape[1], dtype=q.dtype).expand(len(q), -1, -1)
        case "clearclip":
            return softmax_of_products(q, q)
        case "naclip":
            return softmax_of_products(k, k, gaussian(*grid, prefix))
    raise ValueError(f"no weights of attention {form!r}")
