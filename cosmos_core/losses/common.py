"""What several losses need: precision, and the gathering of a single process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cosmos_core.types import Gathered


class GatherLocally:
    """The `Gather` of a single process, without collectives: all samples are its own."""

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        return [Gathered(tensor, tensor, 0) for tensor in tensors]

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor.detach()


gather_locally = GatherLocally()


def full_precision(tensor: Tensor) -> Tensor:
    """Widen to float32: logits of scale 100 leave bfloat16 no digit after the point."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
