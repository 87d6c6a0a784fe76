"""The interface of models, and checks that an object has it. torch is not imported at the top."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from numpy.typing import NDArray

from cosmos_eval.types import Attention, CaptionWord, EncoderInfo, Rgb, ScoredPairs, UsageError

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

Item = TypeVar("Item")
Parts: TypeAlias = "tuple[Tensor, ...]"

_TEXTS = ("a red ball", "a photograph of two small blue boats on a lake, with a house behind them")
_IDENTITY = ("info", "preprocessing", "tokenizer")
_DIMENSIONS_BY_METHOD = {"transform": 3, "tokenize": 2, "overlong": 1}  # of the output
_TRANSFORM_REPEATS = 8  # so that even a random flip, of one image in two, is noticed
# The largest distance of two normalised features of the same input: GPUs may add in another order.
_REPEAT_DISTANCE = {"fp32": 1e-3, "amp": 1e-2, "bf16": 1e-2, "fp16": 1e-2}


@runtime_checkable
class Encoder(Protocol):
    """A CLIP-like model with its own transform and tokenizer, in evaluation mode, on its device."""

    info: EncoderInfo

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Everything that decides what `transform` returns, in JSON's types, for the cache.

        It must be the same in every process.
        """

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """Everything that decides what `tokenize` returns, in JSON's types, for the cache.

        It must be the same in every process.
        """

    def transform(self, image: PIL.Image.Image) -> Tensor:
        """Apply the model's evaluation transform to an RGB image: (3, H, W) float32 on the CPU."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids (B, context_length) int64, padded with 0 after the end of text."""

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """Return whether `tokenize` cuts each text because it does not fit the context, (B,)."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) on the CPU: (B, D) float32, L2-normalised.

        Features may be on the CPU or on the model's device.
        """

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Encode tokens (B, L) as images are encoded: (B, D).

        L may be less than the context if `trims_text` is true.
        """

    @property
    def trims_text(self) -> bool:
        """True if positions after the end of text cannot change the feature."""


@runtime_checkable
class DenseEncoder(Encoder, Protocol):
    """An encoder whose image tower has patch tokens."""

    # The side of a patch in pixels, 0 for a tower without patches.
    patch_size: int
    # The mean and std that `transform` normalises by: RGB on the 0-1 scale.
    image_mean: Rgb
    image_std: Rgb

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """Encode the patches of images (B, 3, H, W): (B, H // patch, W // patch, D) float32.

        They are L2-normalised and on the device of the images. `attention` is the form of the last
        block. Raises UsageError for a tower without patches.
        """


@runtime_checkable
class CrossAttentionEncoder(DenseEncoder, Protocol):
    """An encoder in which each modality attends to the tokens of the other.

    Queries are features that are not normalised. Weights sum to 1 over the patches of an image, and
    over the tokens of a text. Both are float32, on the CPU or on the model's device.
    """

    def words(self, text: str) -> Sequence[CaptionWord]:
        """Return all words of a text with the positions of their tokens, even if it is cut."""

    def image_queries(self, images: Tensor) -> Tensor:
        """Return the queries (B, D) of images (B, 3, H, W)."""

    def text_queries(self, tokens: Tensor) -> Tensor:
        """Return the queries (T, D) of tokens (T, L).

        L may be less than the context if `trims_text` is true.
        """

    def patch_attention(self, images: Tensor, queries: Tensor) -> Tensor:
        """Return weights (B, heads, T, H // patch, W // patch) over the patches of images.

        `images` are (B, 3, H, W), and `queries` (T, D) belong to T texts.
        """

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Return weights (T, heads, B, L) over the tokens of texts.

        `tokens` are (T, L) with their padding, and `queries` (B, D) belong to B images.
        """


@runtime_checkable
class PairScorer(Encoder, Protocol):
    """An encoder that also scores an image and a text together.

    Such a score is more exact than the product of their features, which only finds candidates.
    Each image and each text is first encoded into its parts. The parts are computed once, and used
    for the scores with many inputs of the other modality. Parts are tensors on the model's device,
    with one entry per image or text.
    """

    pair_score: str  # a description of the score in a few words

    def image_parts(self, images: Tensor) -> Parts:
        """Return the parts (B, ...) of images (B, 3, H, W)."""

    def text_parts(self, tokens: Tensor) -> Parts:
        """Return the parts (T, ...) of tokens (T, context_length) with their padding."""

    def pair_scores(self, images: Parts, texts: Parts) -> Tensor:
        """Return scores (B, T) float32 from the parts of B images and T texts; higher is better.

        Scores are on the device of the parts.
        """


def with_pair_scores(encoder: Encoder) -> PairScorer:
    """Return the model itself. Raises UsageError if it has no scores of pairs."""
    if not isinstance(encoder, PairScorer):
        raise UsageError(
            f"{encoder.info.spec} has no scores of pairs: choose a COSMOS model, another "
            "PairScorer, or a protocol without them"
        )
    return encoder


def settings_of_pairs(encoder: Encoder, pairs: ScoredPairs) -> dict[str, Any]:
    """Return the settings of scores of pairs that a result records.

    They are empty if the protocol has no such scores. Raises UsageError if the protocol has them,
    but the model has not.
    """
    if pairs is None:
        return {}
    return {"pairs": pairs, "pair_score": with_pair_scores(encoder).pair_score}


def run(info: EncoderInfo, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call a function of a model on the model's device and in its precision, without gradients.

    The output is float32.
    """
    (output,) = run_parts(info, function, *inputs)
    return output


def run_parts(info: EncoderInfo, function: Callable[..., Any], *inputs: Tensor) -> Parts:
    """Call a function as `run` does, and return its outputs as a tuple of float32 tensors.

    The function may return one tensor or a tuple of tensors. Raises TypeError for anything else.
    """
    import torch

    # None is PyTorch's usual type of the device, as in CLIP Benchmark's `torch.autocast(device)`.
    dtypes = {"amp": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    device_type = torch.device(info.device).type
    autocast = torch.autocast(
        device_type, dtype=dtypes.get(info.precision), enabled=info.precision in dtypes
    )
    with torch.inference_mode(), autocast:
        output = function(*(to_device(tensor, info.device) for tensor in inputs))
    outputs = output if isinstance(output, tuple) else (output,)
    for tensor in outputs:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"a function returns {type(tensor).__name__}, not a tensor")
    return tuple(tensor.float() for tensor in outputs)


def stacked(tensors: Sequence[Tensor], device: str) -> Tensor:
    """Return a stack of tensors of one shape, on the CPU.

    If `device` is a GPU, the stack is in pinned memory, from which copies are faster.
    """
    import torch

    pinned = None
    if is_gpu(device):
        shape = (len(tensors), *tensors[0].shape)
        pinned = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack([*tensors], out=pinned)


def to_device(tensor: Tensor, device: str) -> Tensor:
    """Return a tensor on a device.

    A GPU copies the tensor while it computes. The process waits neither for the copy nor for the
    computation.
    """
    import torch

    if tensor.is_cuda or not is_gpu(device):
        return tensor.to(device)
    computing_stream, copying_stream = torch.cuda.current_stream(device), _copying_stream(device)
    with torch.cuda.stream(copying_stream):
        moved = tensor.pin_memory().to(device, non_blocking=True)
    computing_stream.wait_stream(copying_stream)
    moved.record_stream(computing_stream)  # keeps its memory until the computation has read it
    return moved


def on_host(
    outputs: Iterable[tuple[Item, Sequence[Tensor]]],
) -> Iterator[tuple[Item, list[Tensor]]]:
    """Yield each item with its tensors on the CPU. All tensors of an item are on one device.

    The next item is taken from `outputs` before the copies of the last one are waited for. So a GPU
    always has work.
    """
    import torch

    waiting: deque[tuple[Item, list[Tensor], Any]] = deque()
    for item, tensors in outputs:
        device, is_cuda = tensors[0].device, tensors[0].is_cuda
        copies = [tensor.to("cpu", non_blocking=is_cuda) for tensor in tensors]
        copy_event = torch.cuda.current_stream(device).record_event() if is_cuda else None
        waiting.append((item, copies, copy_event))
        waiting_limit = 1 if is_cuda else 0
        while len(waiting) > waiting_limit:
            yield _wait_for_copies(*waiting.popleft())
    while waiting:
        yield _wait_for_copies(*waiting.popleft())


def _wait_for_copies(
    item: Item, copies: list[Tensor], copy_event: Any
) -> tuple[Item, list[Tensor]]:
    """Return an item and its copied tensors after the event that ends their copies from a GPU.

    The event is None for tensors that were on the CPU already.
    """
    if copy_event is None:
        return item, copies
    copy_event.synchronize()
    return item, [copy.clone() for copy in copies]  # out of pinned memory, which is scarce


def is_gpu(device: str) -> bool:
    """Return whether a device is a CUDA device of this machine."""
    import torch

    return torch.device(device).type == "cuda" and torch.cuda.is_available()


@lru_cache
def _copying_stream(device: str) -> Any:
    """Return the CUDA stream of a device in which tensors are copied."""
    import torch

    return torch.cuda.Stream(device)


def tensors_sha256(*states: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all tensors of state dicts, one state dict after the other.

    The tensors of a state dict are hashed in the order of their names.
    """
    import torch

    digest = hashlib.sha256()
    for state in states:
        for _, tensor in sorted(state.items()):
            content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(content.numpy().tobytes())
    return digest.hexdigest()


def methods(protocol: type) -> list[str]:
    """List the public members of a protocol, except `info` and the descriptions of its inputs."""
    names = set(dir(protocol))
    for base in protocol.__mro__:
        names.update(inspect.get_annotations(base))
    return sorted(name for name in names - set(_IDENTITY) if not name.startswith("_"))


def require_finite(
    features: Tensor | NDArray[Any], info: EncoderInfo, name: Callable[[int], str]
) -> None:
    """Raise UsageError for features that are NaN or infinite. Each row belongs to an input.

    The message names the first such input: `name` maps the index of an input to its name.
    """
    import torch

    is_finite = torch.isfinite(torch.as_tensor(features)).flatten(1).all(1)
    if is_finite.all():
        return
    reason = "check its weights"
    if info.precision != "fp32":
        reason += f", or use --precision fp32, as values may exceed the range of {info.precision}"
    raise UsageError(
        f"{info.spec} returns features that are not finite (NaN or infinity) for "
        f"{name(int(is_finite.int().argmin()))}: {reason}"
    )


def require_encoder(model: Any, where: str) -> None:
    """Raise UsageError for an object that is not an Encoder, or that cannot encode an example.

    `where` is the name of the object in error messages.
    """
    try:
        members = (*_IDENTITY, *methods(Encoder))
        missing_members = [name for name in members if not hasattr(model, name)]
        if missing_members:
            raise UsageError(
                f"{where} is not a cosmos_eval.Encoder: it has no {', '.join(missing_members)}"
            )
        faults = _info_faults(model.info)
        if faults:
            raise UsageError(f"{where} is not a valid Encoder: {'; '.join(faults)}")
        _run_example(model, where)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{where} cannot encode a picture and texts: {type(error).__name__}: {error} "
            "(--debug shows where)"
        ) from error


def _info_faults(info: Any) -> list[str]:
    """Return the faults of the `info` of a model."""
    if not isinstance(info, EncoderInfo):
        return [f"`info` is {type(info).__name__}, not cosmos_eval.types.EncoderInfo"]
    faults = []
    if not (isinstance(info.architecture, str) and info.architecture):
        faults.append("`info.architecture` must be a text that names it")
    digest = info.weights_sha256
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", str(digest)):
        faults.append("`info.weights_sha256` must be the 64 hexadecimal digits of a SHA-256")
    if digest is None and not info.random:
        faults.append("`info.weights_sha256` is missing, and `info.random` is false")
    return faults


def _run_example(model: Encoder, where: str) -> None:
    """Encode a picture and two texts to check a model.

    Raises UsageError for an output of the wrong form, and for an output that changes if the same
    input is given again.
    """
    import torch

    json.dumps([dict(model.preprocessing), dict(model.tokenizer)])
    example = _ExampleRun(model, where)
    picture = _example_picture()
    pixels = example.call("transform", picture)
    for _ in range(_TRANSFORM_REPEATS):
        if not model.transform(picture).equal(pixels):
            raise UsageError(
                f"{where}: `transform` returns other pixels for the same image: it must not be "
                "random; use the transform of the evaluation, not that of the training"
            )
    images = torch.stack([pixels, pixels])
    tokens = example.call("tokenize", _TEXTS)
    example.require_same_features("encode_image", images)
    example.require_same_features("encode_text", tokens)
    example.call("overlong", _TEXTS)
    if isinstance(model, PairScorer):
        scores = model.pair_scores(model.image_parts(images), model.text_parts(tokens))
        if tuple(scores.shape) != (2, len(_TEXTS)):
            raise UsageError(
                f"{where}: `pair_scores` returns {tuple(scores.shape)} for 2 images and "
                f"{len(_TEXTS)} texts, not one score per pair"
            )


class _ExampleRun:
    """Calls the methods of a model with an example, and checks their outputs."""

    def __init__(self, model: Encoder, where: str) -> None:
        self.model = model
        self.where = where
        self.widths: set[int] = set()  # the dimensions of features

    def call(self, method: str, inputs: Any) -> Any:
        """Return the output of a method. Raises UsageError for an output of the wrong form."""
        from torch import Tensor

        output = getattr(self.model, method)(inputs)
        # `require_output` reads the values of tensors on the CPU only, because it is called for
        # each batch of a measurement, which must not wait for a GPU.
        checked_output = output.cpu() if isinstance(output, Tensor) else output
        require_output(method, inputs, checked_output, self.widths, self.where)
        return output

    def require_same_features(self, method: str, inputs: Any) -> None:
        """Raise UsageError if a method returns other features for the same inputs."""
        features, repeated_features = self.call(method, inputs), self.call(method, inputs)
        largest_distance = float((features - repeated_features).norm(dim=1).max())
        if largest_distance > _REPEAT_DISTANCE[self.model.info.precision]:
            raise UsageError(
                f"{self.where}: `{method}` returns other features for the same input, by up to "
                f"{largest_distance:.2g} of their length: set its evaluation mode, without "
                "dropout or noise"
            )


def _example_picture() -> PIL.Image.Image:
    """Return a picture whose colours differ from pixel to pixel, so that every crop differs."""
    import numpy as np
    import PIL.Image

    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return PIL.Image.fromarray(pixels)


def require_output(method: str, inputs: Any, output: Any, widths: set[int], where: str) -> None:
    """Raise UsageError if a method of an encoder returned an output of the wrong form.

    `widths` collects the dimensions of features, which must all be the same.
    """
    fault = None
    if method in ("encode_image", "encode_text"):
        fault = _feature_fault(output, len(inputs), widths)
    elif method in _DIMENSIONS_BY_METHOD:
        n_rows = 3 if method == "transform" else len(inputs)  # a transform returns (3, H, W)
        fault = _shape_fault(output, n_rows, _DIMENSIONS_BY_METHOD[method])
    if fault:
        raise UsageError(f"{where}: `{method}` returns {fault}")


def _shape_fault(output: Any, n_rows: int, n_dimensions: int) -> str | None:
    """Return the fault of an output that is not a tensor of this shape, or None if it is."""
    from torch import Tensor

    if isinstance(output, Tensor) and output.ndim == n_dimensions and len(output) == n_rows:
        return None
    shape = tuple(output.shape) if hasattr(output, "shape") else type(output).__name__
    return f"{shape}, not {n_rows} rows in {n_dimensions} dimensions"


def _feature_fault(features: Any, n_inputs: int, widths: set[int]) -> str | None:
    """Return the fault of features that are not valid, or None if they are.

    Valid features are a tensor (n_inputs, D) of float32 without a gradient, finite and normalised.
    D is added to `widths`, which must have a single value.
    """
    import torch

    if not isinstance(features, torch.Tensor):
        return f"{type(features).__name__}, not a tensor"
    if features.ndim != 2 or len(features) != n_inputs:
        return f"{tuple(features.shape)} for {n_inputs} inputs, not ({n_inputs}, D)"
    if features.dtype != torch.float32:
        return f"{features.dtype}, not float32"
    if features.requires_grad:
        return "features with a gradient: use torch.inference_mode()"
    widths.add(features.shape[1])
    if len(widths) > 1:
        return f"features of other dimensions: {sorted(widths)}"
    return None if features.is_cuda else _value_fault(features)


def _value_fault(features: Tensor) -> str | None:
    """Return the fault of features that are not finite or not normalised, or None."""
    import torch

    if not torch.isfinite(features).all():
        return "features that are not finite (NaN or infinity)"
    norms = features.norm(dim=1)
    wrong_norms = norms[~torch.isclose(norms, torch.ones(()), atol=1e-3)]
    if len(wrong_norms):
        return f"features of length {wrong_norms[0]:.3g}, not 1: normalise them"
    return None
