"""The costs of a loaded model: parameters, operations per image and text, sizes of its inputs."""

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, TypeVar

import open_clip
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cosmos_eval.models.encoder import CollatingEncoder, Encoder, batch_images, run_on_device
from cosmos_eval.models.user import referred_weights
from cosmos_eval.types import EncoderInfo

Encode: TypeAlias = Callable[[Any], Tensor]
Result = TypeVar("Result")

# Sizes of two images, in pixels. A transform with a fixed size makes both equal.
_EXAMPLE_SIZES = ((64, 48), (48, 80))
_N_EXAMPLE_WORDS = 2_000  # a text of so many words fills the context of any model


def model_facts(encoder: Encoder, note: Callable[[str], object] | None = None) -> dict[str, Any]:
    """Return the size and the costs of a model, as a result records them under `model.facts`.

    They are measured by encoding one image, and one text that fills the context. GFLOPs are 10^9
    operations. PyTorch counts 2 operations per multiply-accumulate of matrix products, convolutions
    and attention.

    Args:
        encoder: The model.
        note: Called with a line of text for each fact that cannot be determined because of an
            error. By default, such errors are ignored.

    Returns:
        The facts by name, such as `{"parameters": 149620737, "image_gflops": 41.1, ...}`. A fact
        that cannot be determined is None.
    """
    spec = encoder.info.spec
    model: Any = getattr(encoder, "built", encoder)  # a bundled model is built when it is used
    modules_and_parameters = _attempt(f"parameters of {spec}", note, _find_parameters, model)
    modules, parameters = modules_and_parameters or ([], [])

    encode_image, encode_text = encoder.encode_image, encoder.encode_text
    if isinstance(getattr(model, "model", None), open_clip.CLIP):
        # Operations are counted as OpenCLIP itself runs the model, without the savings made here.
        openclip_encoder = _OpenClipEncoder(model, encoder.info)
        encode_image, encode_text = openclip_encoder.encode_image, openclip_encoder.encode_text
    with _countable_operations(parameters):
        images = _attempt(f"the image size of {spec}", note, _example_images, encoder)
        tokens = _attempt(f"the context length of {spec}", note, _example_tokens, encoder)
        fact = f"GFLOPs per image of {spec}"
        image_cost = _attempt(fact, note, _measure_cost, encode_image, images) or _EncodingCost()
        fact = f"GFLOPs per text of {spec}"
        text_cost = _attempt(fact, note, _measure_cost, encode_text, tokens) or _EncodingCost()

    text_gflops = text_cost.gflops
    if text_gflops is not None:
        # The cost includes the texts that the model adds to each batch.
        text_gflops /= 1 + getattr(model, "added_texts", 0)
    image_size = None
    if isinstance(images, Tensor) and not isinstance(encoder, CollatingEncoder):
        image_size = [*images.shape[2:]]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters) or None,
        "image_parameters": image_cost.n_parameters,
        "text_parameters": text_cost.n_parameters,
        "image_gflops": image_cost.gflops,
        "text_gflops": text_gflops,
        "image_size": image_size,
        "patch_size": _find_patch_size(modules) or getattr(model, "patch_size", 0) or None,
        "embedding_size": image_cost.embedding_size or text_cost.embedding_size,
        "context_length": None if tokens is None else tokens.shape[1],
    }


class _EncodingCost(NamedTuple):
    """The cost of encoding one image or one text. Unknown fields are None."""

    # The number of operations in units of 10^9.
    gflops: float | None = None
    # The number of parameters that are read.
    n_parameters: int | None = None
    # D, the size of the feature.
    embedding_size: int | None = None


def _attempt(
    fact: str,
    note: Callable[[str], object] | None,
    function: Callable[..., Result],
    *arguments: Any,
) -> Result | None:
    """Return `function(*arguments)`, or None if it raises an error.

    Args:
        fact: The fact that the function determines, such as "the image size of
            cosmos:last.safetensors".
        note: Called with a line of text about the error, if it is not None.
        function: The function to call.
        *arguments: Its arguments.
    """
    try:
        return function(*arguments)
    except Exception as error:
        if note is not None:
            reason = textwrap.shorten(str(error) or type(error).__name__, 200)
            note(f"{fact} cannot be counted: {reason}")
        return None


def _find_parameters(model: Any) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """Return the modules that the attributes of a model refer to, and all parameters in them.

    A parameter that several modules share occurs once.
    """
    weights = referred_weights([vars(model)])
    modules = [weight for weight in weights if isinstance(weight, nn.Module)]

    parameter_by_id = {}
    for module in modules:
        for parameter in module.parameters():
            parameter_by_id[id(parameter)] = parameter
    return modules, list(parameter_by_id.values())


class _OpenClipEncoder:
    """Runs a model by the methods of OpenCLIP's class CLIP, even if the model overrides them.

    COSMOS's model derives from OpenCLIP's CLIP, and overrides `encode_image` and `encode_text` to
    save operations.
    """

    def __init__(self, clip_encoder: Any, info: EncoderInfo) -> None:
        """Keep a ClipEncoder, and the device and the precision that its model runs in.

        If the encoder has a guide (another encoder, which attention `proxy` needs), the guide runs
        before each batch of images, because its cost counts as well.
        """
        self._clip_encoder = clip_encoder
        self._info = info

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the features (B, D) of images (B, 3, H, W)."""
        if self._clip_encoder.guide is not None:
            run_on_device(self._clip_encoder.info, self._run_guide, images)
        return run_on_device(self._info, self._run_image_tower, images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens (B, L)."""
        return run_on_device(self._info, self._run_text_tower, tokens)

    def _run_guide(self, images: Tensor) -> Tensor:
        encoder = self._clip_encoder
        output: Tensor = encoder.guide(images, mean=encoder.image_mean, std=encoder.image_std)
        return output

    def _run_image_tower(self, images: Tensor) -> Tensor:
        return open_clip.CLIP.encode_image(self._clip_encoder.model, images)

    def _run_text_tower(self, tokens: Tensor) -> Tensor:
        return open_clip.CLIP.encode_text(self._clip_encoder.model, tokens)


def _example_images(encoder: Encoder) -> Any:
    """Return a batch of a black image, or None if the cost of images depends on their size.

    The cost does not depend on it if the batches of two sizes have tensors of the same shapes.
    """
    batches = []
    for size in _EXAMPLE_SIZES:
        image = encoder.transform(PIL.Image.new("RGB", size))
        batches.append(batch_images(encoder, [image]))
    first_shapes, second_shapes = [
        [tensor.shape for tensor in _tensors_in(batch)] for batch in batches
    ]
    return batches[0] if first_shapes == second_shapes else None


def _tensors_in(inputs: Any) -> list[Tensor]:
    """Return the tensors in the input of a model, which may be a mapping such as a BatchFeature."""
    values = dict(inputs) if isinstance(inputs, Mapping) else inputs
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _example_tokens(encoder: Encoder) -> Tensor | None:
    """Return the tokens (1, L) of a text that fills the context of a model.

    Return None if the model does not cut texts, because then it has no context length.
    """
    texts = ["a " * _N_EXAMPLE_WORDS]
    is_cut = bool(encoder.overlong(texts)[0])
    return encoder.tokenize(texts) if is_cut else None


def _measure_cost(encode: Encode, example: Any) -> _EncodingCost:
    """Encode one image or one text, and return the cost.

    Args:
        encode: The function of a model that maps images or tokens to features (1, D).
        example: A batch of one image, or the tokens (1, L) of the text. If it is None, the cost is
            unknown.
    """
    if example is None:
        return _EncodingCost()

    with _ParameterReads() as reads, FlopCounterMode(display=False) as operations:
        features = encode(example)

    gflops = operations.get_total_flops() / 1e9
    n_parameters = sum(parameter.numel() for parameter in reads.parameter_by_id.values())
    # A model that does not compute by PyTorch's operations has no counts: None, not 0.
    return _EncodingCost(gflops or None, n_parameters or None, features.shape[1])


class _ParameterReads(TorchDispatchMode):
    """A context that collects the parameters that operations read, for example by one tower."""

    def __init__(self) -> None:
        super().__init__()
        self.parameter_by_id: dict[int, nn.Parameter] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one of PyTorch's operations, and collect the parameters among its arguments.

        Parameters may also be in lists and tuples: `torch.cat`, for example, takes a list.
        """
        kwargs = kwargs or {}
        for argument in tree_leaves((args, kwargs)):
            if isinstance(argument, nn.Parameter):
                self.parameter_by_id[id(argument)] = argument
        return func(*args, **kwargs)


@contextmanager
def _countable_operations(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let modules use only operations that PyTorch's counter of operations knows.

    The counter misses two kinds of operations, which are switched off within the context: fused
    attention, and (in PyTorch 2.13) modules that are given parameters which require gradients.
    Afterwards, the former state is restored.

    Args:
        parameters: All parameters of the model.
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

    All submodules are searched for one that has an attribute `patch_size`, such as 16, (16, 16) or
    [16, 16], and that contains a layer which embeds patches of this size. Such a layer is

    - a convolution whose stride is its kernel size, the side of a patch,
    - or a linear layer whose inputs are the 3 * side * side values of a patch.

    Return None if the module does not exist.
    """
    for model in models:
        for module in model.modules():
            stated_size = getattr(module, "patch_size", None)
            for layer in module.children():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride:
                    side = layer.kernel_size[0]
                    if stated_size in (side, (side, side), [side, side]):
                        return side
                if isinstance(layer, nn.Linear):
                    side = math.isqrt(layer.in_features // 3)
                    embeds_squares = layer.in_features == 3 * side**2
                    if embeds_squares and stated_size in (side, (side, side), [side, side]):
                        return side
    return None
