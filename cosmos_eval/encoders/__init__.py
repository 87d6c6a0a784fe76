"""Models behind one interface; each kind is imported only when it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos_eval.types import ModelSpec, Precision, UsageError

if TYPE_CHECKING:
    # At run time it would import torch.
    from cosmos_eval.encoders.clip import ClipEncoder


def load_encoder(
    spec: ModelSpec, *, device: str = "cpu", precision: Precision = "fp32"
) -> ClipEncoder:
    """Load a model, ready to encode on `device`; a DenseEncoder.

    `bf16` and `fp16` run under autocast, weights stay float32. Raises UsageError for unknown
    names, unusable files, a failed download or a device that is not there.
    """
    _require_device(device)
    if spec.kind == "openclip":
        from cosmos_eval.encoders.openclip import load
    else:
        from cosmos_eval.encoders.cosmos import load
    return load(spec, device, precision)


def _require_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # PyTorch asserts that it was compiled with CUDA, all else is a RuntimeError.
        reason = str(error).splitlines()[0]
        raise UsageError(f"device '{device}' cannot be used ({reason}); try cpu") from error
