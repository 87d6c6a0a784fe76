"""Features of all processes, where there is one."""

from __future__ import annotations

from collections.abc import Sequence

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
