"""Mixed precision of a device."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Precision(NamedTuple):
    """Mixed precision on a device; `precision` "fp32", "bf16" or "fp16"."""

    device: str
    precision: str

    def forward(self) -> torch.autocast:
        """The context of the encoders' forward passes.

        Losses are computed outside it, and so is backward: what computes activations again there
        restores it.
        """
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device, dtype, enabled=self.precision != "fp32")
