"""`python benchmarks/scale.py [--json] [--quick]`: what a training on many GPUs needs of a process.

- The largest sum of the tensors that the COSMOS loss holds, forward and backward, for 1,024 samples
  of this process and 32,768 of all, with the gathered features: counted on meta tensors, which have
  sizes and no content. The plain loss is the same one without chunks.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from _report import Measurement, measurement, parser, report
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cosmos_core import losses
from cosmos_core.types import Features, Gather, Gathered

SAMPLES, EVERYWHERE, WIDTH = 1024, 32_768, 512
VIEWS, GLOBALS = 8, 2
LOSS_GIGABYTES = 4.0


def main() -> None:
    """Measure and print."""
    given = parser(__doc__ or "").parse_args()
    report("Scale", _lines(given.quick), given.json)


def _lines(quick: bool) -> Iterator[Measurement]:
    yield from _loss_lines()


class Peak(TorchDispatchMode):
    """Counts the bytes of the storages that operations inside make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.largest = 0
        self._living: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._living:
            self._living[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.bytes += size
            self.largest = max(self.largest, self.bytes)

    def _free(self, key: int, size: int) -> None:
        del self._living[key]
        self.bytes -= size


class Repeat(Gather):
    """Stands for as many processes as make `EVERYWHERE` samples: each has those of this one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        """Gather as `make_gather` does: all features are parts of one tensor."""
        locals_ = [tensor.to(self.dtype) for tensor in tensors]
        rows = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in locals_], dim=1)
        pieces = rows.repeat(EVERYWHERE // SAMPLES, 1).split([t[:, 0].numel() for t in tensors], 1)
        everywhere = (
            piece.unflatten(1, (len(tensor), -1)).transpose(0, 1)
            for piece, tensor in zip(pieces, tensors, strict=True)
        )
        pairs = zip(locals_, everywhere, strict=True)
        return [Gathered(own, all_, 0, Repeat()) for own, all_ in pairs]


def loss_gigabytes(gather: Gather) -> float:
    """Return the largest sum of tensors that the COSMOS loss and its gradient hold."""

    def features(views: int, *, gradient: bool) -> Tensor:
        return torch.empty(views, SAMPLES, WIDTH, requires_grad=gradient)

    with torch.device("meta"):
        own = (features(VIEWS, gradient=True) for _ in range(4))
        scales = (torch.empty((), requires_grad=True) for _ in range(2))
        targets = (features(GLOBALS, gradient=False) for _ in range(2))
        teacher = Features(*targets, None, None, torch.empty(()), None)
        with Peak() as peak:
            losses.cosmos_loss(Features(*own, *scales), teacher, gather).total.backward()
    return peak.largest / 1e9


@contextmanager
def _without_chunks() -> Iterator[None]:
    usual, losses.WHOLE = losses.WHOLE, EVERYWHERE**3
    try:
        yield
    finally:
        losses.WHOLE = usual


def _loss_lines() -> Iterator[Measurement]:
    size = f"loss of {SAMPLES} samples with {EVERYWHERE}"
    with _without_chunks():
        yield measurement(f"{size}, plain", loss_gigabytes(Repeat()), "GB")
    chunked = loss_gigabytes(Repeat())
    yield measurement(f"{size}, in chunks", chunked, "GB", at_most=LOSS_GIGABYTES)
    narrow = loss_gigabytes(Repeat(torch.bfloat16))
    yield measurement(f"{size}, in chunks, gathered in bf16", narrow, "GB", at_most=LOSS_GIGABYTES)


if __name__ == "__main__":
    main()
