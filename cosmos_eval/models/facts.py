"""The costs of a loaded model: parameters, operations per image and text, sizes of its inputs."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

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
Result = TypeVar("Result")

# Sizes of two images. A transform with a fixed size makes both equal.
_EXAMPLE_SIZES = ((64, 48), (48, 80))
_N_EXAMPLE_WORDS = 2_000  # a text of so many words fills the context of any model


def _ignore(note: str) -> None:
    """Do not show a note."""


def model_facts(encoder: Encoder, note: Callable[[str], object] = _ignore) -> dict[str, Any]:
    """Return the facts that a result records of a model under `model.facts`.

    One image and one text that fills the context are encoded. GFLOPs are 10^9 operations. PyTorch
    counts 2 operations per multiply-accumulate of matrix products, convolutions and attention. If a
    fact cannot be found out, it is None, and `note` is called with the reason.
    """
    model = getattr(encoder, "built", encoder)  # a bundled model is built when it is used
    counter = _Counter(encoder, note)
    modules = counter.attempt("parameters", _modules, model) or []
    parameters = {}  # by id, because modules may share parameters
    for module in modules:
        for parameter in module.parameters():
            parameters[id(parameter)] = parameter
    encode_image, encode_text = _encode_functions(encoder, model)
    with _countable([*parameters.values()]):
        pixels = counter.attempt("the image size", _example_pixels, encoder)
        tokens = counter.attempt("the context length", _example_tokens, encoder)
        image_cost = counter.cost("GFLOPs per image", encode_image, pixels)
        text_cost = counter.cost("GFLOPs per text", encode_text, tokens)
    image_size = None
    if pixels is not None and getattr(model, "has_image_size", True):
        image_size = [*pixels.shape[2:]]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters.values()) or None,
        "image_parameters": image_cost.parameters,
        "text_parameters": text_cost.parameters,
        "image_gflops": image_cost.gflops,
        "text_gflops": _gflops_per_text(text_cost, model),
        "image_size": image_size,
        "patch_size": _patch_size(modules) or getattr(model, "patch_size", 0) or None,
        "embedding_size": image_cost.embedding_size,
        "context_length": None if tokens is None else tokens.shape[1],
    }


class _Cost(NamedTuple):
    """The cost of encoding one input. Unknown fields are None."""

    # 10^9 operations.
    gflops: float | None = None
    # The number of parameters that are read.
    parameters: int | None = None
    # D, the size of the feature.
    embedding_size: int | None = None


class _Counter:
    """Computes facts of a model. `note` is called with the reason if a fact is unknown."""

    def __init__(self, encoder: Encoder, note: Callable[[str], object]) -> None:
        self.encoder = encoder
        self.note = note

    def attempt(self, fact: str, function: Callable[..., Result], *args: Any) -> Result | None:
        """Return the result of a function, or note its error and return None."""
        try:
            return function(*args)
        except Exception as error:
            reason = textwrap.shorten(str(error) or type(error).__name__, 200)
            self.note(f"{fact} of {self.encoder.info.spec} cannot be counted: {reason}")
            return None

    def cost(self, fact: str, encode: Encode, example: Tensor | None) -> _Cost:
        """Return the cost of encoding an example. All fields are None if it is not known."""
        if example is None:
            return _Cost()
        return self.attempt(fact, _cost, encode, example) or _Cost()


def _modules(model: Any) -> list[nn.Module]:
    """Return all modules that the attributes of a model are, hold or refer to."""
    weights = referred_weights([vars(model)], set())
    return [weight for weight in weights if isinstance(weight, nn.Module)]


def _encode_functions(encoder: Encoder, model: Any) -> tuple[Encode, Encode]:
    """Return the functions that encode images and texts.

    For OpenCLIP's CLIP, from which COSMOS's model derives, these are OpenCLIP's own, so that
    operations are counted as OpenCLIP runs the model, without the savings of this package.
    """
    clip = getattr(model, "model", None)
    if not isinstance(clip, open_clip.CLIP):
        return encoder.encode_image, encoder.encode_text
    open_clip_model = _OpenClipModel(encoder, model, clip)
    return open_clip_model.encode_image, open_clip_model.encode_text


class _OpenClipModel(NamedTuple):
    """An OpenCLIP model that encodes by OpenCLIP's own functions."""

    encoder: Encoder
    model: Any
    clip: open_clip.CLIP

    def encode_image(self, images: Tensor) -> Tensor:
        if self.model.guide is not None:
            guide = partial(self.model.guide, mean=self.model.image_mean, std=self.model.image_std)
            run(self.model.info, guide, images)
        return run(self.encoder.info, partial(open_clip.CLIP.encode_image, self.clip), images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return run(self.encoder.info, partial(open_clip.CLIP.encode_text, self.clip), tokens)


def _example_pixels(encoder: Encoder) -> Tensor | None:
    """Return a black image (1, 3, H, W), or None if the transform has no fixed size."""
    first, second = (encoder.transform(PIL.Image.new("RGB", size)) for size in _EXAMPLE_SIZES)
    return first[None] if first.shape == second.shape else None


def _example_tokens(encoder: Encoder) -> Tensor | None:
    """Return a text (1, context) that fills the context, or None if texts are never cut."""
    texts = ["a " * _N_EXAMPLE_WORDS]
    return encoder.tokenize(texts) if bool(encoder.overlong(texts)[0]) else None


def _cost(encode: Encode, example: Tensor) -> _Cost:
    """Encode one input and return its cost."""
    with _ParameterReads() as reads, FlopCounterMode(display=False) as operations:
        features = encode(example)
    parameters = sum(parameter.numel() for parameter in reads.parameters.values())
    # A model that does not compute by PyTorch's operations has no counts: None, not 0.
    gflops = operations.get_total_flops() / 1e9
    return _Cost(gflops or None, parameters or None, features.shape[1])


def _gflops_per_text(cost: _Cost, model: Any) -> float | None:
    """Return the GFLOPs of one text. `cost` includes the texts that the model adds to a batch."""
    if cost.gflops is None:
        return None
    texts_at_once = 1 + getattr(model, "added_texts", 0)
    return cost.gflops / texts_at_once


class _ParameterReads(TorchDispatchMode):
    """A context that collects the parameters that operations read, such as one tower's."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[int, nn.Parameter] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for argument in (*args, *kwargs.values()):
            self._collect(argument)
        for argument in args:
            if isinstance(argument, list | tuple):
                for item in argument:
                    self._collect(item)
        return func(*args, **kwargs)

    def _collect(self, argument: Any) -> None:
        """Add an argument of an operation if it is a parameter."""
        if isinstance(argument, nn.Parameter):
            self.parameters[id(argument)] = argument


@contextmanager
def _countable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let modules use only operations that PyTorch counts, within the context.

    Fused attention is not counted, nor (in PyTorch 2.13) modules that are given parameters which
    require gradients.
    """
    fastpath_enabled = torch.backends.mha.get_fastpath_enabled()
    trainable_parameters = [parameter for parameter in parameters if parameter.requires_grad]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parameter in trainable_parameters:
            parameter.requires_grad_(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath_enabled)
        for parameter in trainable_parameters:
            parameter.requires_grad_(True)


def _patch_size(models: Sequence[nn.Module]) -> int | None:
    """Return the side of the patches that an image is cut into, or None if no module states it."""
    for model in models:
        for module in model.modules():
            for layer in module.children():
                side = _patch_side(module, layer)
                if side is not None:
                    return side
    return None


def _patch_side(module: nn.Module, layer: nn.Module) -> int | None:
    """Return the side of a patch if `layer` embeds patches of the size that `module` states.

    The layer is a convolution whose stride is its kernel size, or a linear layer whose inputs are
    the 3 * side * side values of a patch. Return None for any other layer.
    """
    stated = getattr(module, "patch_size", None)
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride:
        side = layer.kernel_size[0]
        if stated in (side, (side, side), [side, side]):
            return side
    if isinstance(layer, nn.Linear) and isinstance(stated, int):
        values_of_patch = 3 * stated**2
        if layer.in_features == values_of_patch:
            return stated
    return None
