"""The weights of the forms of attention, as their papers write them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
