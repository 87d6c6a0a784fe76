"""What a loaded model costs: parameters, operations per image and text, and sizes of its inputs."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import open_clip
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cosmos_eval.models.encoder import Encoder, run
from cosmos_eval.models.user import referred_weights

Encode: TypeAlias = Callable[[Tensor], Tensor]

_SIZES = ((64, 48), (48, 80))  # of images, which become one size where the model has one
_WORDS = 2_000  # of a text that no context holds


def model_facts(encoder: Encoder, note: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Return facts of results' `model.facts` that follow from the model; None where unknown. Errors
    end no run: `note` is given a line of each.

    One image and one text that fills the context are encoded. GFLOPs are 10^9 operations: 2 per
    multiply-accumulate of matrix products, convolutions and attention, as PyTorch counts them."""

    def attempt(what: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            reason = textwrap.shorten(str(error) or type(error).__name__, 200)
            note(f"{what} of {encoder.info.spec} cannot be counted: {reason}")
            return None

    model = getattr(encoder, "built", encoder)  # a bundled one is built when it is used
    found = attempt("parameters", lambda: [*referred_weights([vars(model)], set())])
    modules = [one for one in found or () if isinstance(one, nn.Module)]
    every = {id(p): p for module in modules for p in module.parameters()}
    with _countable([*every.values()]):
        pixels = attempt("the image size", lambda: _pixels(encoder))
        tokens = attempt("the context length", lambda: _tokens(encoder))
        encode_image, encode_text = _towers(encoder, model)
        image = attempt("GFLOPs per image", lambda: _counted(encode_image, pixels))
        text = attempt("GFLOPs per text", lambda: _counted(encode_text, tokens))
    sized = getattr(model, "has_image_size", True)
    texts_at_once = 1 + getattr(model, "added_texts", 0)
    image_gflops, image_parameters, width = image or (None, None, None)
    text_gflops, text_parameters, _ = text or (None, None, None)
    return {
        "parameters": sum(p.numel() for p in every.values()) or None,
        "image_parameters": image_parameters,
        "text_parameters": text_parameters,
        "image_gflops": image_gflops,
        "text_gflops": text_gflops and text_gflops / texts_at_once,
        "image_size": [*pixels.shape[2:]] if pixels is not None and sized else None,
        "patch_size": _patch_size(modules) or getattr(model, "patch_size", 0) or None,
        "embedding_size": width,
        "context_length": None if tokens is None else tokens.shape[1],
    }


def _towers(encoder: Encoder, model: Any) -> tuple[Encode, Encode]:
    """Return what encodes images and texts: of OpenCLIP's CLIP, from which COSMOS's model derives,
    OpenCLIP's own forward, which computes also what no feature needs."""
    clip = getattr(model, "model", None)
    if not isinstance(clip, open_clip.CLIP):
        return encoder.encode_image, encoder.encode_text
    own = (open_clip.CLIP.encode_image, open_clip.CLIP.encode_text)
    image, text = (partial(run, encoder.info, partial(encode, clip)) for encode in own)
    return partial(_guided, model, image), text


def _guided(model: Any, encode: Encode, images: Tensor) -> Tensor:
    if model.guide is not None:
        run(model.info, partial(model.guide, mean=model.image_mean, std=model.image_std), images)
    return encode(images)


def _pixels(encoder: Encoder) -> Tensor | None:
    """Return a black image (1, 3, H, W), None where the transform has no fixed size."""
    first, second = (encoder.transform(PIL.Image.new("RGB", size)) for size in _SIZES)
    return first[None] if first.shape == second.shape else None


def _tokens(encoder: Encoder) -> Tensor | None:
    """Return a text (1, context), None where the tokenizer cuts none."""
    texts = ["a " * _WORDS]
    return encoder.tokenize(texts) if bool(encoder.overlong(texts)[0]) else None


def _counted(encode: Encode, given: Tensor | None) -> tuple[float | None, int | None, int] | None:
    """Encode one input; return GFLOPs, the number of parameters read, and the features' size."""
    if given is None:
        return None
    with _Reads() as reads, FlopCounterMode(display=False) as counter:
        features = encode(given)
    read = sum(parameter.numel() for parameter in reads.parameters.values())
    # Models may compute by other means than PyTorch's.
    return counter.get_total_flops() / 1e9 or None, read or None, features.shape[1]


class _Reads(TorchDispatchMode):
    """Notes the parameters that operations read: those of a tower, whatever holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[int, nn.Parameter] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        several = (one for one in args if isinstance(one, list | tuple))
        for one in (*args, *(kwargs or {}).values(), *(item for some in several for item in some)):
            if isinstance(one, nn.Parameter):
                self.parameters[id(one)] = one
        return func(*args, **(kwargs or {}))


@contextmanager
def _countable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let modules use operations that are counted: no fused attention, which is not. PyTorch (2.13)
    cannot count modules that are given parameters which require gradients."""
    fast = torch.backends.mha.get_fastpath_enabled()
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in trainable:
            parameter.requires_grad_(True)


def _patch_size(modules: Sequence[nn.Module]) -> int | None:
    """Return the side of the patches that a convolution cuts, as its module states it."""
    for module in (part for whole in modules for part in whole.modules()):
        stated = getattr(module, "patch_size", None)
        for layer in module.children():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride:
                side = layer.kernel_size[0]
                if stated in (side, (side, side), [side, side]):
                    return side
            if isinstance(layer, nn.Linear) and isinstance(stated, int):
                values = 3 * stated**2  # of a patch, which is cut before
                if layer.in_features == values:
                    return stated
    return None
