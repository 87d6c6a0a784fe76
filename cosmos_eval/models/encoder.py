"""What the suite needs of a model, and checks that an object has it. Imports no torch."""

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
_DIMENSIONS = {"transform": 3, "tokenize": 2, "overlong": 1}  # of a method's output
_TRANSFORM_REPEATS = 8  # so that even a flip at random, of one image in two, is noticed
# How far features of length 1 may move if an input is encoded again: GPUs may add in another order.
_REPEAT_DISTANCE = {"fp32": 1e-3, "amp": 1e-2, "bf16": 1e-2, "fp16": 1e-2}


@runtime_checkable
class Encoder(Protocol):
    """A CLIP-like model with its own transform and tokenizer, in evaluation mode, on its device."""

    info: EncoderInfo

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """All that decides what `transform` returns, in JSON's types, equal in every process."""

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """All that decides what `tokenize` returns, in JSON's types, equal in every process."""

    def transform(self, image: PIL.Image.Image) -> Tensor:
        """Apply the model's own evaluation transform: RGB -> (3, H, W) float32 on the CPU."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, context_length) int64 token ids, padded with 0 after the end of text."""

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """(B,) bool: whether `tokenize` cuts a text because it does not fit the context."""

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) on the CPU -> (B, D) float32, L2-normalised, on the CPU or the device."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, D) as images; L may be less than the context where `trims_text`."""

    @property
    def trims_text(self) -> bool:
        """True where positions after the end of text cannot change the feature."""


@runtime_checkable
class DenseEncoder(Encoder, Protocol):
    """An encoder whose image tower has patch tokens; mean and std are RGB on the 0-1 scale."""

    patch_size: int
    image_mean: Rgb
    image_std: Rgb

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """(B, 3, H, W) -> (B, H // patch, W // patch, D) float32, L2-normalised, same device.
        `attention` is the form of the last block. Raises UsageError for a tower without patches."""


@runtime_checkable
class CrossAttentionEncoder(DenseEncoder, Protocol):
    """An encoder in which each modality attends to the tokens of the other. Queries are features
    that are not normalised. Weights sum to 1 over the patches of an image and over the tokens of a
    text. Both are float32, on the CPU or the model's device."""

    def words(self, text: str) -> Sequence[CaptionWord]:
        """Return all words of a text, also where it is cut, with the positions of all tokens."""

    def image_queries(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""

    def text_queries(self, tokens: Tensor) -> Tensor:
        """(T, L) -> (T, D); L may be less than the context where `trims_text`."""

    def patch_attention(self, images: Tensor, queries: Tensor) -> Tensor:
        """Images (B, 3, H, W), queries of texts (T, D) -> (B, heads, T, H // patch, W // patch)."""

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Texts (T, L) with their padding, queries of images (B, D) -> (T, heads, B, L)."""


@runtime_checkable
class PairScorer(Encoder, Protocol):
    """An encoder that also scores an image and a text together, more exactly than the product of
    their features, by which candidates are found. Parts are tensors on the model's device with one
    entry per image or text: all that a score needs of it alone, since it is computed once and
    scored with many of the other modality."""

    pair_score: str  # what the score is, in a few words

    def image_parts(self, images: Tensor) -> Parts:
        """(B, 3, H, W) -> parts (B, ...)."""

    def text_parts(self, tokens: Tensor) -> Parts:
        """(T, context_length), padding included -> parts (T, ...)."""

    def pair_scores(self, images: Parts, texts: Parts) -> Tensor:
        """Parts of B images and T texts -> scores (B, T) float32, same device; higher is better."""


def with_pair_scores(encoder: Encoder) -> PairScorer:
    """Return the model itself. Raises UsageError where it has no scores of pairs."""
    if not isinstance(encoder, PairScorer):
        raise UsageError(
            f"{encoder.info.spec} has no scores of pairs: choose a COSMOS model, another "
            "PairScorer, or a protocol without them"
        )
    return encoder


def settings_of_pairs(encoder: Encoder, pairs: ScoredPairs) -> dict[str, Any]:
    """Return what a result records of scores of pairs, if any; UsageError if a model has none."""
    return (
        {}
        if pairs is None
        else {"pairs": pairs, "pair_score": with_pair_scores(encoder).pair_score}
    )


def run(info: EncoderInfo, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call a function of a model on its device in its precision; float32 without gradients."""
    (output,) = run_parts(info, function, *inputs)
    return output


def run_parts(info: EncoderInfo, function: Callable[..., Any], *inputs: Tensor) -> Parts:
    """Call a function that returns one tensor or several as `run` does."""
    import torch

    # None is PyTorch's usual type of the device, as in CLIP Benchmark's `torch.autocast(device)`.
    dtypes = {"amp": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    kind, dtype = torch.device(info.device).type, dtypes.get(info.precision)
    enabled = info.precision in dtypes
    with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=enabled):
        output = function(*(to_device(one, info.device) for one in inputs))
    outputs = output if isinstance(output, tuple) else (output,)
    for one in outputs:
        if not isinstance(one, torch.Tensor):
            raise TypeError(f"a function returns {type(one).__name__}, not a tensor")
    return tuple(one.float() for one in outputs)


def stacked(tensors: Sequence[Tensor], device: str) -> Tensor:
    """Stack tensors of one shape for a device: for a GPU in pinned memory."""
    import torch

    pinned = None
    if is_gpu(device):
        shape = (len(tensors), *tensors[0].shape)
        pinned = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack([*tensors], out=pinned)


def to_device(tensor: Tensor, device: str) -> Tensor:
    """Move a tensor. A GPU copies it while it computes, and the process waits for neither."""
    import torch

    if tensor.is_cuda or not is_gpu(device):
        return tensor.to(device)
    computing, copying = torch.cuda.current_stream(device), _copying_stream(device)
    with torch.cuda.stream(copying):
        moved = tensor.pin_memory().to(device, non_blocking=True)
    computing.wait_stream(copying)
    moved.record_stream(computing)  # its memory is not used again before that has read it
    return moved


def on_host(
    outputs: Iterable[tuple[Item, Sequence[Tensor]]],
) -> Iterator[tuple[Item, list[Tensor]]]:
    """Yield an item and its tensors, which are of one device, on the CPU. A GPU is waited for once
    the next ones were taken from `outputs`, so that it always has work."""
    import torch

    waiting: deque[tuple[Item, list[Tensor], Any]] = deque()
    for item, tensors in outputs:
        device, of_gpu = tensors[0].device, tensors[0].is_cuda
        copies = [one.to("cpu", non_blocking=of_gpu) for one in tensors]
        end = torch.cuda.current_stream(device).record_event() if of_gpu else None
        waiting.append((item, copies, end))
        while len(waiting) > of_gpu:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(item: Item, copies: list[Tensor], end: Any) -> tuple[Item, list[Tensor]]:
    if end is None:
        return item, copies
    end.synchronize()
    return item, [one.clone() for one in copies]  # pinned memory is scarce


def is_gpu(device: str) -> bool:
    """Whether a device is one of CUDA that is there."""
    import torch

    return torch.device(device).type == "cuda" and torch.cuda.is_available()


@lru_cache
def _copying_stream(device: str) -> Any:
    import torch

    return torch.cuda.Stream(device)


def tensors_sha256(*states: Mapping[str, Tensor]) -> str:
    """Hash the bytes of tensors in the order of their names, one mapping after the other."""
    import torch

    digest = hashlib.sha256()
    for state in states:
        for _, tensor in sorted(state.items()):
            content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(content.numpy().tobytes())
    return digest.hexdigest()


def methods(protocol: type) -> list[str]:
    """List the members of a protocol that are not its identity (`info`, descriptions)."""
    found = {*dir(protocol)}.union(*map(inspect.get_annotations, protocol.__mro__))
    return sorted(name for name in found - {*_IDENTITY} if not name.startswith("_"))


def require_finite(
    features: Tensor | NDArray[Any], info: EncoderInfo, name: Callable[[int], str]
) -> None:
    """Raise UsageError, naming the first such input by its index, for NaN or infinite features."""
    import torch

    finite = torch.isfinite(torch.as_tensor(features)).flatten(1).all(1)
    if finite.all():
        return
    reason = "check its weights"
    if info.precision != "fp32":
        reason += f", or use --precision fp32, as values may exceed the range of {info.precision}"
    raise UsageError(
        f"{info.spec} returns features that are not finite (NaN or infinity) for "
        f"{name(int(finite.int().argmin()))}: {reason}"
    )


def require_encoder(model: Any, where: str) -> None:
    """Raise UsageError, one line, for an object that does not encode a picture and two texts."""
    try:
        members = (*_IDENTITY, *methods(Encoder))
        if missing := [name for name in members if not hasattr(model, name)]:
            raise UsageError(f"{where} is no cosmos_eval.Encoder: it has no {', '.join(missing)}")
        if faults := _info_faults(model.info):
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
    if not isinstance(info, EncoderInfo):
        return [f"`info` is {type(info).__name__}, not cosmos_eval.types.EncoderInfo"]
    found = []
    if not (isinstance(info.architecture, str) and info.architecture):
        found.append("`info.architecture` must be a text that names it")
    digest = info.weights_sha256
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", str(digest)):
        found.append("`info.weights_sha256` must be the 64 hexadecimal digits of a SHA-256")
    if digest is None and not info.random:
        found.append("`info.weights_sha256` is missing, and `info.random` is false")
    return found


def _run_example(model: Encoder, where: str) -> None:
    """Encode a picture and two texts. Raises UsageError for an output that does not fit, and for
    one that changes if the same input is given again."""
    import torch

    json.dumps([dict(model.preprocessing), dict(model.tokenizer)])
    widths: set[int] = set()

    def run(method: str, given: Any) -> Any:
        output = getattr(model, method)(given)
        # Values are read on the CPU alone, or each batch of a measurement would keep a GPU waiting.
        read = output.cpu() if isinstance(output, torch.Tensor) else output
        require_output(method, given, read, widths, where)
        return output

    picture = _example_picture()
    pixels = run("transform", picture)
    if not all(model.transform(picture).equal(pixels) for _ in range(_TRANSFORM_REPEATS)):
        raise UsageError(
            f"{where}: `transform` returns other pixels for the same image: it must not be random; "
            "use the transform of the evaluation, not that of the training"
        )
    images, tokens = torch.stack([pixels, pixels]), run("tokenize", _TEXTS)
    for method, inputs in (("encode_image", images), ("encode_text", tokens)):
        features, repeated = run(method, inputs), run(method, inputs)
        largest = float((features - repeated).norm(dim=1).max())
        if largest > _REPEAT_DISTANCE[model.info.precision]:
            raise UsageError(
                f"{where}: `{method}` returns other features for the same input, by up to "
                f"{largest:.2g} of their length: set its evaluation mode, without dropout or noise"
            )
    run("overlong", _TEXTS)
    if isinstance(model, PairScorer):
        scores = model.pair_scores(model.image_parts(images), model.text_parts(tokens))
        if tuple(scores.shape) != (2, len(_TEXTS)):
            found = f"{tuple(scores.shape)} for 2 images and {len(_TEXTS)} texts"
            raise UsageError(f"{where}: `pair_scores` returns {found}, not one score per pair")


def _example_picture() -> PIL.Image.Image:
    """Return a picture whose colours differ from pixel to pixel, so that every crop differs."""
    import numpy as np
    import PIL.Image

    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return PIL.Image.fromarray(pixels)


def require_output(method: str, given: Any, output: Any, widths: set[int], where: str) -> None:
    """Raise UsageError for an invalid output; `widths` collects the dimensions of features."""
    from torch import Tensor

    fault = None
    if method in ("encode_image", "encode_text"):
        fault = _feature_fault(output, len(given), widths)
    elif ndim := _DIMENSIONS.get(method):
        rows = 3 if method == "transform" else len(given)
        if not isinstance(output, Tensor) or output.ndim != ndim or len(output) != rows:
            found = tuple(output.shape) if hasattr(output, "shape") else type(output).__name__
            fault = f"{found}, not {rows} rows in {ndim} dimensions"
    if fault:
        raise UsageError(f"{where}: `{method}` returns {fault}")


def _feature_fault(features: Any, inputs: int, widths: set[int]) -> str | None:
    import torch

    if not isinstance(features, torch.Tensor):
        return f"{type(features).__name__}, not a tensor"
    if features.ndim != 2 or len(features) != inputs:
        return f"{tuple(features.shape)} for {inputs} inputs, not ({inputs}, D)"
    if features.dtype != torch.float32:
        return f"{features.dtype}, not float32"
    if features.requires_grad:
        return "features with a gradient: use torch.inference_mode()"
    widths.add(features.shape[1])
    if len(widths) > 1:
        return f"features of other dimensions: {sorted(widths)}"
    return None if features.is_cuda else _value_fault(features)


def _value_fault(features: Tensor) -> str | None:
    import torch

    if not torch.isfinite(features).all():
        return "features that are not finite (NaN or infinity)"
    norms = features.norm(dim=1)
    wrong = norms[~torch.isclose(norms, torch.ones(()), atol=1e-3)]
    if len(wrong):
        return f"features of length {wrong[0]:.3g}, not 1: normalise them"
    return None
