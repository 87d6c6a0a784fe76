"""The precision of losses."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """float32 of a narrower tensor: logits of scale 100 leave bfloat16 no digit after the point."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
