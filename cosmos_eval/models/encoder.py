"""The interface of models, and checks that an object has it. torch is not imported at the top."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
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
# The same in batches of other shapes, for which half precision may round differently everywhere.
_BATCH_DISTANCE = {"fp32": 1e-3, "amp": 5e-2, "bf16": 5e-2, "fp16": 5e-2}


@runtime_checkable
class Encoder(Protocol):
    """A CLIP-like model with its own transform and tokenizer, in evaluation mode, on its device."""

    info: EncoderInfo

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Return everything that decides what `transform` returns, in JSON's types.

        The cache is keyed by it. It must be the same in every process.
        """

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """Return everything that decides what `tokenize` returns, in JSON's types.

        The cache is keyed by it. It must be the same in every process.
        """

    def transform(self, image: PIL.Image.Image) -> Tensor:
        """Return the pixels (3, H, W) float32 of an RGB image, on the CPU.

        They are resized, cropped and normalised as the model is evaluated.
        """

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids (B, context_length) int64, padded with 0 after the end of text."""

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """Return whether `tokenize` cuts each text to the context, (B,) bool."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the L2-normalised features (B, D) float32 of images (B, 3, H, W) on the CPU.

        Features may be on the CPU or on the model's device.
        """

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the L2-normalised features (B, D) float32 of tokens (B, L) on the CPU.

        L may be less than the context if `trims_text` is true. Features may be on the CPU or on the
        model's device.
        """

    @property
    def trims_text(self) -> bool:
        """Return whether the padding after the end of text can be cut off.

        This must not change the feature of a text.
        """


@runtime_checkable
class DenseEncoder(Encoder, Protocol):
    """An encoder whose image tower has patch tokens."""

    # The side of a patch in pixels, 0 for a tower without patches.
    patch_size: int
    # The mean and std that `transform` normalises by: RGB on the 0-1 scale.
    image_mean: Rgb
    image_std: Rgb

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """Return the features (B, H // patch, W // patch, D) of the patches of images (B, 3, H, W).

        They are float32, L2-normalised and on the device of the images. `attention` is the form of
        attention in the last block, such as "vanilla", as trained. Raises UsageError for a tower
        without patches.
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
        """Return attention weights (B, heads, T, H // patch, W // patch) over patches of images.

        `images` are (B, 3, H, W), and `queries` (T, D) belong to T texts.
        """

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Return attention weights (T, heads, B, L) over the tokens of texts.

        `tokens` are (T, L) with their padding, and `queries` (B, D) belong to B images.
        """


@runtime_checkable
class PairScorer(Encoder, Protocol):
    """An encoder that also scores an image and a text together.

    Such a score is more exact than the product of their features, which only finds candidates.
    Each image and each text is first encoded into its parts. The parts are computed once, and used
    for the scores with many inputs of the other modality. Parts are intermediate tensors, such as
    tokens, on the model's device, with one entry per image or text.
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


@runtime_checkable
class ComposingEncoder(Encoder, Protocol):
    """An encoder that composes an image and a text that changes it to the feature of a query.

    The feature is compared with the features of images. Without this method, the sum of the
    features of image and text takes its place.
    """

    composition: str  # a description of the method in a few words

    def compose(self, images: Any, texts: Sequence[str]) -> Tensor:
        """Return the L2-normalised features (B, D) float32 of B images with one text each.

        `images` are what `encode_image` is given. `texts` are not tokenized, because methods put
        them into prompts of their own, such as `a photo of $ that is red`.
        """


@runtime_checkable
class CollatingEncoder(Encoder, Protocol):
    """An encoder of images that differ in size, which makes the batches of images itself.

    `transform` returns the input of one image in any form, such as its patches. `encode_image` and
    `image_parts` are given what `collate` returns, and move it to the device. The feature of an
    image must not depend on the other images of its batch, so padding has to be masked.
    """

    def collate(self, images: Sequence[Any]) -> Any:
        """Return the batch of images, each of which is what `transform` returns.

        A batch is a tensor, a tuple, or a mapping of names to tensors.
        """


def require_pair_scorer(encoder: Encoder) -> PairScorer:
    """Return the model itself. Raises UsageError if it cannot score an image and a text together.

    Type checkers know the returned model as a PairScorer.
    """
    if not isinstance(encoder, PairScorer):
        raise UsageError(
            f"{encoder.info.spec} has no scores of pairs: choose a COSMOS model, another "
            "PairScorer, or a protocol without them"
        )
    return encoder


def describe_pair_scores(encoder: Encoder, pairs: ScoredPairs) -> dict[str, Any]:
    """Return the entries of a result that say which pairs were scored, and by which score.

    Args:
        encoder: The model that scores an image and a text together.
        pairs: The pairs of an image and a text that the model scores together: "all", or the
            number of candidates of each query. It is None if retrieval ranks by the product of
            features only.

    Returns:
        The entries of the result. They are empty if `pairs` is None.

    Raises:
        UsageError: If pairs are to be scored, but the model cannot do it.
    """
    if pairs is None:
        return {}
    return {"pairs": pairs, "pair_score": require_pair_scorer(encoder).pair_score}


def run_on_device(info: EncoderInfo, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Return `function(*inputs)` as float32, computed on the model's device in its precision.

    Gradients are not recorded.

    Args:
        info: States the device and the precision of the model.
        function: A function of the model that returns one tensor.
        *inputs: Tensors, or batches of a CollatingEncoder, which are moved to the device first.

    Raises:
        TypeError: If the function returns anything else.
        UsageError: If its weights are float64.
    """
    outputs = run_parts_on_device(info, function, *inputs)
    if len(outputs) != 1:
        raise TypeError(f"a function returns a tuple of {len(outputs)} tensors, not one tensor")
    return outputs[0]


def run_parts_on_device(info: EncoderInfo, function: Callable[..., Any], *inputs: Any) -> Parts:
    """Return the outputs of `function(*inputs)` as a tuple of float32 tensors.

    They are computed on the model's device in its precision. Gradients are not recorded.

    Args:
        info: States the device and the precision of the model.
        function: A function of the model that returns one tensor or a tuple of tensors.
        *inputs: Tensors, or batches of a CollatingEncoder, which are moved to the device first.

    Raises:
        TypeError: If the function returns anything else.
        UsageError: If its weights are float64, or its inputs but not its weights.
    """
    import torch

    # The precision "fp32" is not in this table: it computes without autocast. None lets PyTorch
    # choose the type for the device, as CLIP Benchmark does by `torch.autocast(device)`.
    dtype_by_precision = {"amp": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    device_type = torch.device(info.device).type
    autocast = torch.autocast(
        device_type,
        dtype=dtype_by_precision.get(info.precision),
        enabled=info.precision in dtype_by_precision,
    )
    # Not inference mode: a tensor that a model in training keeps from now on could not be trained.
    with torch.no_grad(), autocast:
        inputs_on_device = [_move_inputs(value, info.device) for value in inputs]
        try:
            output = function(*inputs_on_device)
        except RuntimeError as error:
            if "double" not in str(error).lower():
                raise
            raise UsageError(
                f"{info.spec}: weights and images must be float32, and one of them is float64: "
                "call .float() on the model, or on what `transform` returns"
            ) from error

    outputs = output if isinstance(output, tuple) else (output,)
    for tensor in outputs:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"a function returns {type(tensor).__name__}, not a tensor")
    return tuple(tensor.float() for tensor in outputs)


def batch_images(encoder: Encoder, images: Sequence[Any]) -> Any:
    """Return a batch of images, as the model's `encode_image` takes it.

    Args:
        encoder: The model.
        images: The values of the model's `transform` for B images.

    Returns:
        The batch that the model's `collate` makes. If it has none, the stack (B, 3, H, W).

    Raises:
        UsageError: If the images cannot be stacked, because their shapes differ.
    """
    if isinstance(encoder, CollatingEncoder):
        return encoder.collate(images)
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise UsageError(
            f"{encoder.info.spec}: images of one batch have shapes {shapes}: a TwoTower needs "
            "collate= to encode images of different sizes"
        )
    return stack_on_host(images, encoder.info.device)


def stack_on_host(tensors: Sequence[Tensor], device: str) -> Tensor:
    """Return a stack of tensors in the memory of the CPU.

    Args:
        tensors: N tensors of the same shape, such as images (3, H, W). The stack is (N, 3, H, W).
        device: The device that the stack is copied to later. If it is a GPU, the stack is in pinned
            memory, from which the copy is faster.
    """
    import torch

    pinned_stack = None
    if is_gpu(device):
        shape = (len(tensors), *tensors[0].shape)
        pinned_stack = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack([*tensors], out=pinned_stack)


def to_device(tensor: Tensor, device: str) -> Tensor:
    """Return a tensor on a device, such as "cpu" or "cuda:0".

    A GPU copies the tensor while it computes something else. The process waits neither for the copy
    nor for the computation.
    """
    import torch

    if tensor.is_cuda or not is_gpu(device):
        return tensor.to(device)

    copying_stream = _copying_stream(device)
    with torch.cuda.stream(copying_stream):
        moved_tensor = tensor.pin_memory().to(device, non_blocking=True)

    # Computations that follow on the GPU wait for the copy.
    computing_stream = torch.cuda.current_stream(device)
    computing_stream.wait_stream(copying_stream)
    # PyTorch does not reuse the memory of the tensor before these computations have read it.
    moved_tensor.record_stream(computing_stream)
    return moved_tensor


def _move_inputs(inputs: Any, device: str) -> Any:
    """Return the input of a model with all its tensors on a device.

    Args:
        inputs: A tensor, or a tuple, a list or a mapping with tensors among its values, such as a
            dict or a BatchFeature of transformers. The result has the same type.
        device: The device, such as "cuda:0".
    """
    from torch import Tensor

    if isinstance(inputs, Tensor):
        return to_device(inputs, device)
    if isinstance(inputs, Mapping):
        moved_mapping: Any = copy(inputs)
        for name, value in inputs.items():
            moved_mapping[name] = _move_inputs(value, device)
        return moved_mapping
    if isinstance(inputs, tuple | list):
        values = [_move_inputs(value, device) for value in inputs]
        is_named_tuple = hasattr(inputs, "_fields")
        return type(inputs)(*values) if is_named_tuple else type(inputs)(values)
    return inputs


def are_equal_inputs(first: Any, second: Any) -> bool:
    """Return whether two inputs of a model have equal tensors, in the same tuples or mappings."""
    import numpy as np
    from torch import Tensor

    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.equal(second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        has_same_names = first.keys() == second.keys()
        return has_same_names and all(are_equal_inputs(first[key], second[key]) for key in first)
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        has_same_length = len(first) == len(second)
        return has_same_length and all(map(are_equal_inputs, first, second))
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    return type(first) is type(second) and bool(first == second)


def copy_to_host(
    outputs: Iterable[tuple[Item, Sequence[Tensor]]],
) -> Iterator[tuple[Item, list[Tensor]]]:
    """Yield each item with copies of its tensors on the CPU, in the order of `outputs`.

    While the tensors of an item are copied from a GPU, the next item is already taken from
    `outputs`. This makes the GPU compute the next item, so that it always has work.

    Args:
        outputs: Pairs of an item and its tensors. An item can be anything, such as the index of a
            batch. All tensors of an item are on the same device.
    """
    import torch

    waiting: deque[tuple[Item, list[Tensor], Any]] = deque()
    for item, tensors in outputs:
        is_cuda = tensors[0].is_cuda
        copies = [tensor.to("cpu", non_blocking=is_cuda) for tensor in tensors]
        end_of_copies = None
        if is_cuda:
            end_of_copies = torch.cuda.current_stream(tensors[0].device).record_event()
        waiting.append((item, copies, end_of_copies))

        # One item of a GPU may wait for its copies. An item on the CPU is complete at once.
        n_waiting_allowed = 1 if is_cuda else 0
        while len(waiting) > n_waiting_allowed:
            yield _wait_for_copies(*waiting.popleft())
    while waiting:
        yield _wait_for_copies(*waiting.popleft())


def _wait_for_copies(
    item: Item, copies: list[Tensor], end_of_copies: Any
) -> tuple[Item, list[Tensor]]:
    """Wait until tensors are copied from a GPU, and return them with the item they belong to.

    Args:
        item: The item of `copy_to_host`, which is returned as it is.
        copies: Tensors on the CPU, which may not be filled yet.
        end_of_copies: The CUDA event after the copies. It is None for tensors that were on the CPU
            already.
    """
    if end_of_copies is None:
        return item, copies
    end_of_copies.synchronize()
    # PyTorch copies from a GPU into pinned memory, which is scarce: return tensors outside of it.
    return item, [copy.clone() for copy in copies]


def is_gpu(device: str) -> bool:
    """Return whether a device, such as "cuda:0", is a CUDA device of this machine."""
    import torch

    return torch.device(device).type == "cuda" and torch.cuda.is_available()


@lru_cache
def _copying_stream(device: str) -> Any:
    """Return the CUDA stream of a device in which tensors are copied. It is the same every time."""
    import torch

    return torch.cuda.Stream(device)


def tensors_sha256(*states: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the values of all tensors in state dicts, as 64 hexadecimal digits.

    The state dicts are hashed one after the other, each in the order of its tensors' names. Names
    themselves are not hashed.
    """
    import torch

    digest = hashlib.sha256()
    for state in states:
        for _, tensor in sorted(state.items()):
            flat_tensor = tensor.detach().cpu().contiguous().view(-1)
            raw_bytes = flat_tensor.view(torch.uint8).numpy().tobytes()
            digest.update(raw_bytes)
    return digest.hexdigest()


def public_members(interface: type) -> list[str]:
    """Return the sorted names of the public methods and attributes of an interface.

    `info`, `preprocessing` and `tokenizer` are left out, because they describe the model.

    Example:
        `Encoder` gives `["encode_image", "encode_text", "overlong", "tokenize", ...]`.
    """
    names = set(dir(interface))
    # `dir` does not list attributes that are only annotated, such as `patch_size: int`.
    for base in interface.__mro__:
        names.update(inspect.get_annotations(base))
    names -= set(_IDENTITY)
    return sorted(name for name in names if not name.startswith("_"))


def require_finite(
    features: Tensor | NDArray[Any], info: EncoderInfo, name: Callable[[int], str]
) -> None:
    """Raise UsageError if any features of a model are NaN or infinite.

    The message names the model, and the first input that has such features.

    Args:
        features: The features (N, ...) of N inputs.
        info: States the name and the precision of the model.
        name: A function that maps the index of an input, from 0 to N - 1, to its name.
    """
    import torch

    is_value_finite = torch.isfinite(torch.as_tensor(features))  # (N, ...)
    is_input_finite = is_value_finite.flatten(1).all(1)  # (N,)
    if is_input_finite.all():
        return

    first_faulty_input = int(is_input_finite.int().argmin())
    advice = "check its weights"
    if info.precision != "fp32":
        advice += f", or use --precision fp32, as values may exceed the range of {info.precision}"
    raise UsageError(
        f"{info.spec} returns features that are not finite (NaN or infinity) for "
        f"{name(first_faulty_input)}: {advice}"
    )


def require_encoder(model: Any, model_name: str) -> None:
    """Raise UsageError for an object that is not an Encoder, or that cannot encode an example.

    Args:
        model: Any object, such as the return value of a function that a user wrote.
        model_name: The name of the object in error messages.
    """
    try:
        members = (*_IDENTITY, *public_members(Encoder))
        missing_members = [name for name in members if not hasattr(model, name)]
        if missing_members:
            raise UsageError(
                f"{model_name} is not a cosmos_eval.Encoder: it has no "
                f"{', '.join(missing_members)}; make a cosmos_eval.TwoTower of its functions, as "
                "examples/two_tower.py does"
            )

        faults = _find_info_faults(model.info)
        if faults:
            raise UsageError(f"{model_name} is not a valid Encoder: {'; '.join(faults)}")

        _check_with_example(model, model_name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{model_name} cannot encode a picture and texts: {type(error).__name__}: {error} "
            "(--debug shows where)"
        ) from error


def _find_info_faults(info: Any) -> list[str]:
    """Return the faults of the attribute `info` of a model, one sentence per fault.

    The list is empty for a valid EncoderInfo. In a valid one, the SHA-256 of the weights may be
    missing only if the weights are random.
    """
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


def _check_with_example(model: Encoder, model_name: str) -> None:
    """Check a model by encoding a picture and two texts.

    Args:
        model: The model to check.
        model_name: Its name in error messages.

    Raises:
        UsageError: If an output has the wrong form, or changes if the same input is given again.
    """
    import numpy as np
    import PIL.Image

    json.dumps([dict(model.preprocessing), dict(model.tokenizer)])  # raises if this is not JSON
    checker = _OutputChecker(model, model_name)

    # The colours of the picture differ from pixel to pixel, so that every crop differs.
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    picture = PIL.Image.fromarray(noise)
    is_collating = isinstance(model, CollatingEncoder)
    pixels = model.transform(picture) if is_collating else checker.call("transform", picture)
    for _ in range(_TRANSFORM_REPEATS):
        if not are_equal_inputs(model.transform(picture), pixels):
            raise UsageError(
                f"{model_name}: `transform` returns other pixels for the same image: it must not "
                "be random; use the transform of the evaluation, not of the training"
            )

    images = batch_images(model, [pixels, pixels])
    tokens = checker.call("tokenize", _TEXTS)
    checker.require_same_features("encode_image", images)
    if is_collating:
        wide_picture = picture.resize((160, 48))
        checker.require_independent_images([pixels, model.transform(wide_picture)])
    checker.require_same_features("encode_text", tokens)
    checker.call("overlong", _TEXTS)
    if isinstance(model, PairScorer):
        scores = model.pair_scores(model.image_parts(images), model.text_parts(tokens))
        if tuple(scores.shape) != (2, len(_TEXTS)):
            raise UsageError(
                f"{model_name}: `pair_scores` returns {tuple(scores.shape)} for 2 images and "
                f"{len(_TEXTS)} texts, not one score per pair"
            )


class _OutputChecker:
    """Calls the methods of a model with an example, and checks their outputs.

    Args:
        model: The model to check.
        model_name: Its name in error messages.
    """

    def __init__(self, model: Encoder, model_name: str) -> None:
        self.model = model
        self.model_name = model_name
        self.feature_sizes: set[int] = set()  # D of all features so far, which must be the same

    def call(self, method: str, inputs: Any) -> Any:
        """Return the output of a method of the model for given inputs.

        Raises UsageError for an output of the wrong form.
        """
        from torch import Tensor

        output = getattr(self.model, method)(inputs)
        # `require_output` reads the values of tensors on the CPU only, because it is called for
        # each batch of a measurement, which must not wait for a GPU.
        checked_output = output.cpu() if isinstance(output, Tensor) else output
        require_output(method, inputs, checked_output, self.feature_sizes, self.model_name)
        return output

    def require_same_features(self, method: str, inputs: Any) -> None:
        """Raise UsageError if a method returns other features when it is called a second time."""
        features = self.call(method, inputs)
        repeated_features = self.call(method, inputs)
        largest_distance = float((features - repeated_features).norm(dim=1).max())
        if largest_distance > _REPEAT_DISTANCE[self.model.info.precision]:
            raise UsageError(
                f"{self.model_name}: `{method}` returns other features for the same input, by up "
                f"to {largest_distance:.2g} of their length: set its evaluation mode, without "
                "dropout or noise"
            )

    def require_independent_images(self, images: Sequence[Any]) -> None:
        """Raise UsageError if the feature of an image depends on the other images of its batch.

        `images` are what the model's `transform` returned for pictures of different sizes.
        """
        import torch

        batch_features = self.call("encode_image", batch_images(self.model, images))
        if len(batch_features) != len(images):
            raise UsageError(
                f"{self.model_name}: `encode_image` returns {len(batch_features)} features for a "
                f"batch of {len(images)} images"
            )
        single_batches = [batch_images(self.model, [image]) for image in images]
        single_features = [self.call("encode_image", batch) for batch in single_batches]
        distances = (batch_features - torch.cat(single_features)).norm(dim=1)
        largest_distance = float(distances.max())
        if largest_distance > _BATCH_DISTANCE[self.model.info.precision]:
            raise UsageError(
                f"{self.model_name}: `encode_image` returns other features for an image if its "
                f"batch has an image of another size, by up to {largest_distance:.2g} of their "
                "length: mask the padding that `collate` adds"
            )


def require_output(
    method: str, inputs: Any, output: Any, feature_sizes: set[int], model_name: str
) -> None:
    """Raise UsageError if a method of an encoder returned an output of the wrong form.

    Args:
        method: The name of the method, such as "encode_image".
        inputs: The image, texts, pixels or tokens that the method was given.
        output: The value that the method returned for them.
        feature_sizes: All sizes D of the model's features so far. The size of `output` is added.
            More than one size is a fault.
        model_name: The name of the model in error messages.
    """
    from torch import Tensor

    fault = None
    if method in ("encode_image", "encode_text"):
        # How many images a batch has is unknown if `collate` made it.
        n_inputs = len(inputs) if isinstance(inputs, Tensor) else None
        fault = _find_feature_fault(output, n_inputs, feature_sizes)
    elif method in _DIMENSIONS_BY_METHOD:
        n_rows = 3 if method == "transform" else len(inputs)  # a transform returns (3, H, W)
        fault = _find_shape_fault(output, n_rows, _DIMENSIONS_BY_METHOD[method])
    if fault:
        raise UsageError(f"{model_name}: `{method}` returns {fault}")


def _find_shape_fault(output: Any, n_rows: int, n_dimensions: int) -> str | None:
    """Describe the fault of an output with a wrong shape, or return None if the shape is right.

    Args:
        output: The value that a method returned, which should be a tensor.
        n_rows: The size that its first dimension should have.
        n_dimensions: The number of dimensions that it should have.

    Example:
        A tensor (2, 77) with `n_rows=3` and `n_dimensions=2` gives `"(2, 77), not 3 rows in 2
        dimensions"`.
    """
    from torch import Tensor

    expected_shape = f"{n_rows} rows in {n_dimensions} dimensions"
    if not isinstance(output, Tensor):
        advice = ""
        if isinstance(output, list) and output and isinstance(output[0], list):
            advice = (
                "; give a tokenizer of transformers as functools.partial(tokenizer, "
                'padding="max_length", truncation=True, return_tensors="pt")'
            )
        return f"{type(output).__name__}, not a tensor of {expected_shape}{advice}"
    if output.ndim != n_dimensions or len(output) != n_rows:
        return f"{tuple(output.shape)}, not {expected_shape}"
    return None


def _find_feature_fault(features: Any, n_inputs: int | None, feature_sizes: set[int]) -> str | None:
    """Describe the first fault of features, or return None if they are valid.

    Valid features are a tensor (n_inputs, D) of float32 without a gradient, finite and normalised.
    The values of features on a GPU are not checked, because this would wait for the GPU.

    Args:
        features: The value that a model returned as features.
        n_inputs: The number of images or texts, or None if it is unknown.
        feature_sizes: All sizes D of the model's features so far. The size of `features` is added.
            More than one size is a fault.
    """
    import torch

    if not isinstance(features, torch.Tensor):
        return f"{type(features).__name__}, not a tensor"
    shape = tuple(features.shape)
    if n_inputs is None:
        if len(shape) != 2:
            return f"{shape}, not (B, D) for B images"
    elif len(shape) != 2 or shape[0] != n_inputs:
        return f"{shape} for {n_inputs} inputs, not ({n_inputs}, D)"
    if features.dtype != torch.float32:
        return f"{features.dtype}, not float32"
    if features.requires_grad:
        return "features with a gradient: use torch.no_grad()"

    feature_sizes.add(features.shape[1])
    if len(feature_sizes) > 1:
        return f"features of other dimensions: {sorted(feature_sizes)}"
    if features.is_cuda:
        return None
    return _find_value_fault(features)


def _find_value_fault(features: Tensor) -> str | None:
    """Describe the fault of the values of features (N, D), or return None if they are valid.

    They are valid if they are finite, and if every row has the length 1.
    """
    import torch

    if not torch.isfinite(features).all():
        return "features that are not finite (NaN or infinity)"
    lengths = features.norm(dim=1)
    wrong_lengths = lengths[~torch.isclose(lengths, torch.ones(()), atol=1e-3)]
    if len(wrong_lengths):
        return f"features of length {wrong_lengths[0]:.3g}, not 1: normalise them"
    return None
