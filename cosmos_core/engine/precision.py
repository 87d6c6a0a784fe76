"""Mixed precision, and the form of attention that goes with a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class Precision(NamedTuple):
    """Mixed precision on a device; `precision` "fp32", "bf16" or "fp16"."""

    device: str
    precision: str

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The context of the encoders' forward passes. Losses are computed outside it."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        enabled = self.precision != "fp32"
        with torch.autocast(self.device, dtype, enabled=enabled), self.backward():
            yield

    def backward(self) -> AbstractContextManager[None]:
        """The context of backward passes, where activations may be computed anew.

        On a CPU, attention takes its plain form: PyTorch's fused one is slow in backward at the
        sequence lengths of captions and small crops; the plain form made a whole step 1.2 to 1.7
        times faster. Autocast is restored by whatever recomputes, and must not act on the rest.
        """
        return sdpa_kernel(SDPBackend.MATH) if self.device == "cpu" else nullcontext()
