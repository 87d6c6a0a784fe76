"""Features of all processes, where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cosmos_core.types import Gathered


class GatherLocally:
    """The `Gather` of a single process: everyone's samples are its own."""

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        """No collective: `everywhere` is `local`."""
        return [Gathered(tensor, tensor, 0) for tensor in tensors]

    def mean(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor.detach()


gather_locally = GatherLocally()


def full_precision(tensor: Tensor) -> Tensor:
    """float32 of a narrower tensor: logits of scale 100 leave bfloat16 no digit after the point."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
