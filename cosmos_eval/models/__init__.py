"""Models behind one interface. The code of a kind of models is imported when one is loaded."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cosmos_eval.types import ModelSpec, Precision, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder


def load_encoder(
    spec: ModelSpec,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    auxiliary: str | None = None,
) -> Encoder:
    """Load the model that a specification names, and return its encoder.

    The encoder is a DenseEncoder, unless the model is a user's own.

    Args:
        spec: The specification of the model, as `parse_model_spec` returns it.
        device: The device of the model, such as "cpu" or "cuda:0".
        precision: The precision that it computes in. `amp`, `bf16` and `fp16` run under autocast,
            and the weights stay float32.
        auxiliary: The name of another encoder, such as "timm:vit_base_patch16_224.dino", whose
            features of patches attention `proxy` needs.

    Raises:
        UsageError: For unknown names, unusable files, a failed download, a missing device, and if
            transformers is not installed, which the model needs.
    """
    require_device(device)

    # Each kind of models has a module with a function `load`.
    module_name = "user" if spec.kind == "python" else spec.kind
    try:
        module = import_module(f"cosmos_eval.models.{module_name}")
    except ModuleNotFoundError as error:
        from cosmos_eval.data.hub import describe_error

        raise UsageError(f"'{spec.text}' cannot be loaded: {describe_error(error)}") from error
    encoder: Encoder = module.load(spec, device, precision)
    if auxiliary is None:
        return encoder

    from cosmos_eval.models.auxiliary import add_guide

    return add_guide(encoder, auxiliary)


def require_device(device: str) -> None:
    """Raise UsageError if PyTorch cannot compute on a device, such as "cuda" without a GPU."""
    if device == "cpu":  # the CPU is always there, and torch is not imported for it
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: built without CUDA
        reason = str(error).splitlines()[0]
        raise UsageError(f"device '{device}' cannot be used ({reason}); try cpu") from error
