"""Users' own models: `TwoTower`, and Python files with a `load(device, precision)` or a `model`."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.readers import faults_of, read_bytes
from cosmos_eval.models import encoder as checks
from cosmos_eval.models.encoder import Encoder, Parts, run, run_parts, tensors_sha256
from cosmos_eval.models.specs import code_sha256
from cosmos_eval.types import Attention, EncoderInfo, ModelSpec, Precision, Rgb, UsageError

_MORE_WORDS = " and much more"  # that are appended to texts, to find out if they are cut


class TwoTower:
    """An Encoder that calls functions of the user.

    With `encode_patches` it is a DenseEncoder, which segmentation needs, and with `pair_scores` a
    PairScorer.

    encode_image: (B, 3, H, W) -> (B, D) on the model's device. Features are normalised here.
    encode_text: (B, L) -> (B, D) on the model's device.
    transform: an RGB image -> (3, H, W) float32.
    tokenize: a list of texts -> (B, L) int64.
    name: the model's name in results.
    weights: a module or a state dict, whose tensors are hashed. It may be left out if the functions
        are methods of modules, or refer to modules or tensors in their closure or file.
    encode_patches: (B, 3, H, W) and the form of attention
        -> (B, H // patch_size, W // patch_size, D).
    patch_size: the side of a patch in pixels, for `encode_patches`.
    image_mean, image_std: RGB on the 0-1 scale, which `transform` normalises by.
    image_parts: (B, 3, H, W) -> one tensor or a tuple of tensors (B, ...).
    text_parts: (T, L) -> one tensor or a tuple of tensors (T, ...).
    pair_scores: parts of B images and of T texts -> (B, T).

    The model itself is not changed: `cosmos_eval.evaluate` sets its evaluation mode and restores
    the former mode, and `python:FILE.py` moves modules to the device. Raises UsageError for a
    function without weights.
    """

    trims_text = False
    notes: Sequence[str] = ()  # about files, for results
    has_image_size = True  # the tensor of an image has a height and a width
    added_texts = 0  # texts that are encoded with each batch

    def __init__(
        self,
        *,
        encode_image: Callable[[Tensor], Tensor],
        encode_text: Callable[[Tensor], Tensor],
        transform: Callable[[PIL.Image.Image], Tensor],
        tokenize: Callable[[list[str]], Any],
        name: str,
        weights: nn.Module | Mapping[str, Tensor] | None = None,
        encode_patches: Callable[[Tensor, Attention], Tensor] | None = None,
        patch_size: int = 0,
        image_mean: Rgb = (0.0, 0.0, 0.0),
        image_std: Rgb = (1.0, 1.0, 1.0),
        image_parts: Callable[[Tensor], Any] | None = None,
        text_parts: Callable[[Tensor], Any] | None = None,
        pair_scores: Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        if weights is None:
            for function in (encode_image, encode_text):
                if not [*referred_weights([function], set())]:
                    raise UsageError(f"{name}: {function!r} refers to no module: give weights=")
        functions: list[Any] = [encode_image, encode_text, encode_patches]
        functions += [image_parts, text_parts, pair_scores]
        self._weight_sources = functions if weights is None else [weights]
        file = Path(sys._getframe(1).f_code.co_filename)
        code = file_sha256(file) if file.is_file() else None
        self.info = EncoderInfo(name, name, None, None, False, "fp32", "cpu", code)
        self.refresh_info()
        self._encode_image = encode_image
        self._encode_text = encode_text
        self.transform = transform
        self._tokenize = tokenize
        self.preprocessing = {"transform": _description(transform)}
        self.tokenizer = {"tokenize": _description(tokenize)}
        if encode_patches is not None:
            self.patch_size = patch_size
            self.image_mean = image_mean
            self.image_std = image_std
            self.encode_patches = partial(self._run_patches, encode_patches)
        if pair_scores is not None:
            if image_parts is None or text_parts is None:
                raise UsageError(f"{name}: pair_scores= needs image_parts= and text_parts=")
            self._add_pair_scores(image_parts, text_parts, pair_scores)

    def _add_pair_scores(
        self,
        image_parts: Callable[[Tensor], Any],
        text_parts: Callable[[Tensor], Any],
        pair_scores: Callable[[Any, Any], Tensor],
    ) -> None:
        """Add the members that make an encoder a PairScorer."""
        self.pair_score = getattr(pair_scores, "__name__", type(pair_scores).__name__)
        self.image_parts = partial(self._run_parts, image_parts)
        self.text_parts = partial(self._run_parts, text_parts)
        self.pair_scores = partial(self._run_pair_scores, pair_scores)

    def refresh_info(self) -> None:
        """Record the current hash of the weights, and their device."""
        states = state_dicts(referred_weights(self._weight_sources, set()))
        tensors = [tensor for state in states for tensor in state.values()]
        device = str(tensors[0].device) if tensors else "cpu"
        self.info = self.info._replace(weights_sha256=tensors_sha256(*states), device=device)

    def to(self, device: str, precision: Precision) -> None:
        """Move the model to a device, set the precision it runs in, and its evaluation mode."""
        self.info = self.info._replace(device=device, precision=precision)
        for module in referred_weights(self._weight_sources, set()):
            if isinstance(module, nn.Module):
                module.eval().to(device)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts, (B, L) int64.

        The tokenizer may return them, or a batch of transformers with `input_ids`.
        """
        output = self._tokenize(list(texts))
        return output if isinstance(output, Tensor) else getattr(output, "input_ids", output)

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """Return whether `tokenize` cuts each text, (B,).

        A text is cut if its tokens stay the same both with more words at its end and without its
        last character.
        """
        tokens, stripped = self.tokenize(texts), [text.strip() for text in texts]
        longer = self.tokenize([text + _MORE_WORDS for text in stripped])
        shorter = self.tokenize([text[:-1] for text in stripped])
        if longer.shape != tokens.shape or shorter.shape != tokens.shape:
            return torch.zeros(len(texts), dtype=torch.bool)  # the tokenizer pads to the longest
        return (longer == tokens).all(dim=1) & (shorter == tokens).all(dim=1)

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(run(self.info, self._encode_image, images), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return F.normalize(run(self.info, self._encode_text, tokens), dim=-1)

    def _run_parts(self, function: Callable[[Tensor], Any], inputs: Tensor) -> Parts:
        return run_parts(self.info, function, inputs)

    def _run_pair_scores(
        self, score: Callable[[Any, Any], Tensor], images: Parts, texts: Parts
    ) -> Tensor:
        """Return the scores (B, T) of B images and T texts.

        The user's function is given a tensor if images have a single part, and a tuple if they have
        several. The same holds for texts.
        """

        def score_parts(*parts: Tensor) -> Tensor:
            image_parts, text_parts = parts[: len(images)], parts[len(images) :]
            image_argument = image_parts[0] if len(image_parts) == 1 else image_parts
            text_argument = text_parts[0] if len(text_parts) == 1 else text_parts
            return score(image_argument, text_argument)

        return run(self.info, score_parts, *images, *texts)

    def _run_patches(
        self, encode: Callable[[Tensor, Attention], Tensor], images: Tensor, attention: Attention
    ) -> Tensor:
        """Return the features of patches (B, H // patch, W // patch, D), L2-normalised."""

        def encode_with_attention(images: Tensor) -> Tensor:
            return encode(images, attention)

        patches = run(self.info, encode_with_attention, images)
        require_grid(self.info.spec, images, patches, self.patch_size)
        return F.normalize(patches, dim=-1)


def require_grid(origin: str, images: Tensor, patches: Tensor, patch_size: int) -> None:
    """Raise UsageError unless there is one feature per complete patch of images (B, 3, H, W)."""
    height, width = images.shape[2:]
    expected = (len(images), height // patch_size, width // patch_size)
    if tuple(patches.shape[:-1]) != expected:
        raise UsageError(
            f"{origin}: `encode_patches` returns {tuple(patches.shape)} for {tuple(images.shape)}, "
            f"not {expected} and the dimensions of features"
        )


def referred_weights(values: Sequence[Any], seen: set[int]) -> Iterator[nn.Module | Tensor]:
    """Yield the modules and tensors that values are, hold or refer to, each of them once.

    The ids of all values that were looked at are added to `seen`. These values are skipped.
    """
    for value in values:
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module | Tensor):
            yield value
        else:
            yield from referred_weights(_referred_values(value), seen)


def state_dicts(weights: Iterable[nn.Module | Tensor]) -> list[dict[str, Tensor]]:
    """Return the tensors of each module by their names; a lone tensor has the name ""."""
    states = []
    for weight in weights:
        states.append(weight.state_dict() if isinstance(weight, nn.Module) else {"": weight})
    return states


def _referred_values(value: Any) -> list[Any]:
    """List the values that a container holds, or that a function refers to.

    A function refers to the object it is bound to, its closure, and globals of its own file. For
    other objects, the attributes that are modules or tensors are listed.
    """
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, list | tuple):
        return [*value]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if not inspect.isfunction(value):
        attributes = getattr(value, "__dict__", {}).values()
        return [attribute for attribute in attributes if isinstance(attribute, nn.Module | Tensor)]
    variables = inspect.getclosurevars(value)
    values = [*variables.nonlocals.values()]
    file = value.__code__.co_filename
    for variable in variables.globals.values():
        # Functions of other files are a library's, whose globals are not weights.
        if not inspect.isfunction(variable) or variable.__code__.co_filename == file:
            values.append(variable)
    return values


def _description(function: Any) -> str:
    """Return the repr of a function, without its address, which differs in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(function))


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Run a user's file and check its model. Raises UsageError for every error in the file."""
    path = Path(spec.name)
    encoder, code, origin = made_by(spec, device, precision)
    with errors_of(origin):
        if isinstance(encoder, TwoTower):
            encoder.to(device, precision)
        checks.require_encoder(encoder, origin)
        _require_honest(encoder.info, precision, origin)
    with errors_of(f"{origin}: setting its `info`"):
        encoder.info = encoder.info._replace(spec=spec.text, code_sha256=code)
        _guard(encoder, path)
    if encoder.info.code_sha256 != code:
        raise UsageError(f"{origin}: its `info` cannot be set, and results would not name the file")
    return encoder


class UserModel(NamedTuple):
    """The model of a user's file."""

    # What `load` of the file returns, or `model` of the file.
    model: Any
    # The SHA-256 of the file and of the arguments of `load`.
    code_sha256: str
    # The expression in the file that made the model, which error messages name.
    origin: str


def made_by(spec: ModelSpec, device: str, precision: Precision) -> UserModel:
    """Run a user's file and return its model. Raises UsageError for every error in the file."""
    path = Path(spec.name)
    with faults_of(f"cannot read {path}: "):
        content = read_bytes(path)
    code = str(code_sha256(spec, content))
    with errors_of(str(path)):
        module = _run(path, content, f"cosmos_eval_model_{code[:16]}")
    make: Any = getattr(module, "load", None)
    model: Any = getattr(module, "model", None)
    if not callable(make) and model is None:
        raise UsageError(f"{path} has no function `load(device, precision)` and no `model`")
    if spec.arguments and not callable(make):
        raise UsageError(f"'{spec.text}': {path} has no function `load` to take arguments")
    if not callable(make):
        return UserModel(model, code, f"{path}: `model`")
    arguments = [repr(device), repr(precision)]
    arguments += [f"{name}={value!r}" for name, value in spec.arguments.items()]
    origin = f"{path}: load({', '.join(arguments)})"
    with errors_of(origin):
        return UserModel(make(device, precision, **spec.arguments), code, origin)


def _run(path: Path, content: bytes, name: str) -> ModuleType:
    """Run the content of a file as a module, and return the module.

    The file cannot import files in its folder, because the hash of the code does not cover them.
    """
    module = sys.modules[name] = ModuleType(name)  # where dataclasses and pickle look for it
    module.__file__ = str(path)
    exec(compile(content, str(path), "exec"), module.__dict__)
    return module


def _guard(encoder: Any, path: Path) -> None:
    """Wrap the methods of an encoder, so that errors and invalid outputs raise UsageError."""
    widths: set[int] = set()
    names = {
        *checks.public_members(checks.CrossAttentionEncoder),
        *checks.public_members(checks.PairScorer),
    }
    for name in names:
        method = getattr(encoder, name, None)
        if callable(method):
            # `referred_weights` looks into a partial, and finds the method's weights.
            setattr(encoder, name, partial(_call_guarded, path, name, method, widths))


def _call_guarded(
    path: Path,
    name: str,
    method: Callable[..., Any],
    widths: set[int],
    inputs: Any,
    *arguments: Any,
) -> Any:
    """Call a method of a user's encoder. Raises UsageError for errors and invalid outputs.

    `widths` collects the dimensions of features.
    """
    with errors_of(f"{path}: {name}"):
        output = method(inputs, *arguments)
        checks.require_output(name, inputs, output, widths, str(path))
        return output


@contextmanager
def errors_of(origin: str) -> Iterator[None]:
    """Raise UsageError for everything that the user's code in this context raises.

    `sys.exit` counts as an error too. With --debug, the traceback is shown.
    """
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UsageError(f"{origin} failed: {reason} (--debug shows where)") from error


def _require_honest(info: EncoderInfo, precision: Precision, origin: str) -> None:
    """Raise UsageError if a user's model describes itself in a way that results cannot record."""
    if info.precision != precision:
        raise UsageError(f"{origin} made a model of precision {info.precision}: choose that one")
    if info.weights is not None:
        raise UsageError(f"{origin}: `weights` is of COSMOS checkpoints with two sets: give None")
    if info.weights_sha256 is None:
        raise UsageError(f"{origin} gives no `weights_sha256`: hash the weights, random ones too")
