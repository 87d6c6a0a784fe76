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

from cosmos_eval.models.encoder import Encoder, run_on_device
from cosmos_eval.models.user import referred_weights

Encode: TypeAlias = Callable[[Tensor], Tensor]
Result = TypeVar("Result")

# Sizes of two images, in pixels. A transform with a fixed size makes both equal.
_EXAMPLE_SIZES = ((64, 48), (48, 80))
_N_EXAMPLE_WORDS = 2_000  # a text of so many words fills the context of any model


def model_facts(encoder: Encoder, note: Callable[[str], object] | None = None) -> dict[str, Any]:
    """Return the size and the costs of a model, as a result records them under `model.facts`.

    One image is encoded, and one text that fills the context. GFLOPs are 10^9 operations. PyTorch
    counts 2 operations per multiply-accumulate of matrix products, convolutions and attention. A
    fact that cannot be determined is None. If this is because of an error, `note` is called with a
    line that says so.
    """
    model = getattr(encoder, "built", encoder)  # a bundled model is built when it is used
    probe = _ModelProbe(encoder, note)
    modules = probe.attempt("parameters", _find_modules, model) or []
    parameters = _distinct_parameters(modules)

    encode_image, encode_text = encoder.encode_image, encoder.encode_text
    if isinstance(getattr(model, "model", None), open_clip.CLIP):
        # Operations are counted as OpenCLIP itself runs the model, without the savings made here.
        openclip_encoder = _OpenClipEncoder(encoder, model)
        encode_image, encode_text = openclip_encoder.encode_image, openclip_encoder.encode_text
    with _countable_operations(parameters):
        pixels = probe.attempt("the image size", _example_image, encoder)
        tokens = probe.attempt("the context length", _example_tokens, encoder)
        image_cost = probe.encoding_cost("GFLOPs per image", encode_image, pixels)
        text_cost = probe.encoding_cost("GFLOPs per text", encode_text, tokens)

    text_gflops = text_cost.gflops
    if text_gflops is not None:
        # The cost includes the texts that the model adds to each batch.
        text_gflops /= 1 + getattr(model, "added_texts", 0)
    image_size = None
    if pixels is not None and getattr(model, "has_image_size", True):
        image_size = [*pixels.shape[2:]]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters) or None,
        "image_parameters": image_cost.parameters,
        "text_parameters": text_cost.parameters,
        "image_gflops": image_cost.gflops,
        "text_gflops": text_gflops,
        "image_size": image_size,
        "patch_size": _find_patch_size(modules) or getattr(model, "patch_size", 0) or None,
        "embedding_size": image_cost.embedding_size,
        "context_length": None if tokens is None else tokens.shape[1],
    }


class _EncodingCost(NamedTuple):
    """The cost of encoding one image or one text. Unknown fields are None."""

    # The number of operations in units of 10^9.
    gflops: float | None = None
    # The number of parameters that are read.
    parameters: int | None = None
    # D, the size of the feature.
    embedding_size: int | None = None


class _ModelProbe:
    """Determines facts of a model, some of which may fail.

    `note`, if given, is called with a line for each fact that fails.
    """

    def __init__(self, encoder: Encoder, note: Callable[[str], object] | None) -> None:
        self.encoder = encoder
        self.note = note

    def attempt(
        self, fact: str, determine: Callable[..., Result], *arguments: Any
    ) -> Result | None:
        """Return `determine(*arguments)`. If it raises an error, note the error and return None.

        `fact` names the fact in the note, such as "the image size".
        """
        try:
            return determine(*arguments)
        except Exception as error:
            reason = textwrap.shorten(str(error) or type(error).__name__, 200)
            if self.note is not None:
                self.note(f"{fact} of {self.encoder.info.spec} cannot be counted: {reason}")
            return None

    def encoding_cost(self, fact: str, encode: Encode, example: Tensor | None) -> _EncodingCost:
        """Return the cost of encoding an example. All its fields are None if it is not known."""
        if example is None:
            return _EncodingCost()
        cost = self.attempt(fact, _measure_encoding_cost, encode, example)
        return cost or _EncodingCost()


def _find_modules(model: Any) -> list[nn.Module]:
    """Return the modules that the attributes of a model hold or refer to."""
    weights = referred_weights([vars(model)], set())
    return [weight for weight in weights if isinstance(weight, nn.Module)]


def _distinct_parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Return the parameters of modules. Parameters that several modules share occur once."""
    parameters_by_id = {}
    for module in modules:
        for parameter in module.parameters():
            parameters_by_id[id(parameter)] = parameter
    return [*parameters_by_id.values()]


class _OpenClipEncoder:
    """Encodes by the functions of OpenCLIP's class CLIP, even if a model overrides them.

    `encoder` is the encoder that is measured. `clip_encoder` is the ClipEncoder that it builds, or
    the same object. COSMOS's model derives from OpenCLIP's CLIP.
    """

    def __init__(self, encoder: Encoder, clip_encoder: Any) -> None:
        self.encoder = encoder
        self.clip_encoder = clip_encoder

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the features (B, D) of images (B, 3, H, W), after a run of the guide if any.

        The guide is the other encoder that attention `proxy` needs. Its costs count as well.
        """
        clip_encoder = self.clip_encoder
        if clip_encoder.guide is not None:
            run_guide = partial(
                clip_encoder.guide, mean=clip_encoder.image_mean, std=clip_encoder.image_std
            )
            run_on_device(clip_encoder.info, run_guide, images)
        encode = partial(open_clip.CLIP.encode_image, clip_encoder.model)
        return run_on_device(self.encoder.info, encode, images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, L)."""
        encode = partial(open_clip.CLIP.encode_text, self.clip_encoder.model)
        return run_on_device(self.encoder.info, encode, tokens)


def _example_image(encoder: Encoder) -> Tensor | None:
    """Return the pixels (1, 3, H, W) of a black image, or None if the model has no fixed size.

    Two images of different sizes are transformed to find out.
    """
    first_size, second_size = _EXAMPLE_SIZES
    first_pixels = encoder.transform(PIL.Image.new("RGB", first_size))
    second_pixels = encoder.transform(PIL.Image.new("RGB", second_size))
    if first_pixels.shape != second_pixels.shape:
        return None
    return first_pixels[None]


def _example_tokens(encoder: Encoder) -> Tensor | None:
    """Return the tokens (1, L) of a text that fills the context, or None if texts are never cut."""
    texts = ["a " * _N_EXAMPLE_WORDS]
    is_cut = bool(encoder.overlong(texts)[0])
    return encoder.tokenize(texts) if is_cut else None


def _measure_encoding_cost(encode: Encode, example: Tensor) -> _EncodingCost:
    """Encode one image (1, 3, H, W), or one text (1, L), and return its cost."""
    with _ParameterReads() as reads, FlopCounterMode(display=False) as operations:
        features = encode(example)
    n_parameters = sum(parameter.numel() for parameter in reads.parameters_by_id.values())
    gflops = operations.get_total_flops() / 1e9
    # A model that does not compute by PyTorch's operations has no counts: None, not 0.
    return _EncodingCost(gflops or None, n_parameters or None, features.shape[1])


class _ParameterReads(TorchDispatchMode):
    """A context that collects the parameters that operations read, for example by one tower."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_by_id: dict[int, nn.Parameter] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one of PyTorch's operations, and collect the parameters among its arguments."""
        kwargs = kwargs or {}
        for argument in (*args, *kwargs.values()):
            self._collect(argument)
        # Operations such as `torch.cat` are given a list of tensors.
        for argument in args:
            if isinstance(argument, list | tuple):
                for item in argument:
                    self._collect(item)
        return func(*args, **kwargs)

    def _collect(self, argument: Any) -> None:
        """Add an argument of an operation to the parameters, if it is one."""
        if isinstance(argument, nn.Parameter):
            self.parameters_by_id[id(argument)] = argument


@contextmanager
def _countable_operations(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let modules use only operations that PyTorch's counter of operations knows.

    Fused attention is not counted, nor (in PyTorch 2.13) modules that are given parameters which
    require gradients. Within the context, both are switched off. Afterwards, the former state is
    restored.
    """
    was_fastpath_enabled = torch.backends.mha.get_fastpath_enabled()
    trainable_parameters = [parameter for parameter in parameters if parameter.requires_grad]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parameter in trainable_parameters:
            parameter.requires_grad_(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fastpath_enabled)
        for parameter in trainable_parameters:
            parameter.requires_grad_(True)


def _find_patch_size(models: Sequence[nn.Module]) -> int | None:
    """Return the side, in pixels, of the patches that a model cuts an image into.

    All submodules are searched. Return None if no module states it.
    """
    for model in models:
        for module in model.modules():
            for layer in module.children():
                side = _patch_side(module, layer)
                if side is not None:
                    return side
    return None


def _patch_side(module: nn.Module, layer: nn.Module) -> int | None:
    """Return the side of a patch if `layer` embeds patches, and None for any other layer.

    Such a layer is a convolution whose stride is its kernel size, or a linear layer whose inputs
    are the 3 * side * side values of a patch. `module` contains the layer, and must have an
    attribute `patch_size` of the same value: 16, (16, 16) or [16, 16].
    """
    stated_size = getattr(module, "patch_size", None)
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride:
        side = layer.kernel_size[0]
        if stated_size in (side, (side, side), [side, side]):
            return side
    if isinstance(layer, nn.Linear) and isinstance(stated_size, int):
        n_values_per_patch = 3 * stated_size**2
        if layer.in_features == n_values_per_patch:
            return stated_size
    return None
