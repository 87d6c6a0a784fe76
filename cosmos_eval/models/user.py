"""Models of users: `TwoTower`, and Python files with `load(device, precision)` or a `model`."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

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

_APPENDED = " and much more"


class TwoTower:
    """An Encoder from functions; with `encode_patches` a DenseEncoder, which segmentation needs,
    with `pair_scores` a PairScorer.

    `encode_image` maps (B, 3, H, W) to (B, D) and `encode_text` (B, L) to (B, D), on the model's
    device; features are normalised here. `transform` maps an RGB image to (3, H, W) float32,
    `tokenize` a list of texts to (B, L) int64. `encode_patches` maps (B, 3, H, W) and the form of
    attention to (B, H // patch_size, W // patch_size, D). `image_parts` and `text_parts` map the
    inputs of the encoders to a tensor or several, `pair_scores` parts of B images and T texts to
    (B, T).

    `weights` (a module or a state dict) may be left out if the functions are methods of modules or
    refer to modules or tensors in their closure or file. They are hashed. Nothing about the model
    changes: `cosmos_eval.evaluate` sets its evaluation mode and restores the former one, and
    `python:FILE.py` moves modules to the device. Raises UsageError for a function without
    weights."""

    trims_text = False
    notes: Sequence[str] = ()  # on files, for results
    has_image_size = True  # an image's tensor has its height and width
    added_texts = 0  # that are encoded with every batch

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
        for function in (encode_image, encode_text):
            if weights is None and next(referred_weights([function], set()), None) is None:
                raise UsageError(f"{name}: {function!r} refers to no module: give weights=")
        of_pairs = image_parts, text_parts, pair_scores
        functions = [encode_image, encode_text, encode_patches, *of_pairs]
        self._weight_sources = functions if weights is None else [weights]
        file = Path(sys._getframe(1).f_code.co_filename)
        code = file_sha256(file) if file.is_file() else None
        self.info = EncoderInfo(name, name, None, None, False, "fp32", "cpu", code)
        self.refresh_info()
        self._encode_image, self._encode_text = encode_image, encode_text
        self.transform, self._tokenize = transform, tokenize
        self.preprocessing = {"transform": _description(transform)}
        self.tokenizer = {"tokenize": _description(tokenize)}
        if encode_patches is not None:
            self.patch_size, self.image_mean, self.image_std = patch_size, image_mean, image_std
            self.encode_patches = partial(self._patches, encode_patches)
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
        self.pair_scores = partial(self._scores, pair_scores)

    def refresh_info(self) -> None:
        """Record the hash of the weights, and their device, as they are now."""
        weights = [*referred_weights(self._weight_sources, set())]
        states = [w.state_dict() if isinstance(w, nn.Module) else {"": w} for w in weights]
        tensors = [tensor for state in states for tensor in state.values()]
        device = str(tensors[0].device) if tensors else "cpu"
        self.info = self.info._replace(weights_sha256=tensors_sha256(*states), device=device)

    def to(self, device: str, precision: Precision) -> None:
        """Move the model to a device, where it runs in this precision, in evaluation mode."""
        self.info = self.info._replace(device=device, precision=precision)
        for module in referred_weights(self._weight_sources, set()):
            if isinstance(module, nn.Module):
                module.eval().to(device)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, L) int64, from a tensor or from what transformers returns."""
        output = self._tokenize(list(texts))
        return output if isinstance(output, Tensor) else getattr(output, "input_ids", output)

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """(B,) bool: neither more words nor one character less changes the tokens of a text."""
        tokens, stripped = self.tokenize(texts), [text.strip() for text in texts]
        longer = self.tokenize([text + _APPENDED for text in stripped])
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

    def _scores(self, score: Callable[[Any, Any], Tensor], images: Parts, texts: Parts) -> Tensor:
        """Call the function with tensors where parts are one tensor, else with tuples."""

        def unpacked(*parts: Tensor) -> Tensor:
            both = parts[: len(images)], parts[len(images) :]
            return score(*(some[0] if len(some) == 1 else some for some in both))

        return run(self.info, unpacked, *images, *texts)

    def _patches(
        self, encode: Callable[[Tensor, Attention], Tensor], images: Tensor, attention: Attention
    ) -> Tensor:
        patches = run(self.info, lambda given: encode(given, attention), images)
        require_grid(self.info.spec, images, patches, self.patch_size)
        return F.normalize(patches, dim=-1)


def require_grid(where: str, images: Tensor, patches: Tensor, patch_size: int) -> None:
    """Raise UsageError where features are not one per whole patch of images (B, 3, H, W)."""
    expected = (len(images), *(side // patch_size for side in images.shape[2:]))
    if tuple(patches.shape[:-1]) != expected:
        raise UsageError(
            f"{where}: `encode_patches` returns {tuple(patches.shape)} for {tuple(images.shape)}, "
            f"not {expected} and the dimensions of features"
        )


def referred_weights(values: Sequence[Any], seen: set[int]) -> Iterator[nn.Module | Tensor]:
    """Yield the modules and tensors that values are, hold or refer to, each once."""
    for value in values:
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module | Tensor):
            yield value
        else:
            yield from referred_weights(_referred(value), seen)


def _referred(value: Any) -> list[Any]:
    """List what a value holds, or what a function refers to: bound, closed over or global."""
    if isinstance(value, Mapping | list | tuple):
        return [*(value.values() if isinstance(value, Mapping) else value)]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if not inspect.isfunction(value):
        attributes = getattr(value, "__dict__", {}).values()
        return [one for one in attributes if isinstance(one, nn.Module | Tensor)]
    used, file = inspect.getclosurevars(value), value.__code__.co_filename
    # Functions of other files are a library's, whose globals are not weights.
    of_file = (
        one
        for one in used.globals.values()
        if not inspect.isfunction(one) or one.__code__.co_filename == file
    )
    return [*used.nonlocals.values(), *of_file]


def _description(function: Any) -> str:
    """Describe a function without its address, which differs in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(function))


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Run the file and check its model. Raises UsageError, one line, whatever goes wrong there."""
    path = Path(spec.name)
    encoder, code, where = made_by(spec, device, precision)
    with errors_of(where):
        if isinstance(encoder, TwoTower):
            encoder.to(device, precision)
        checks.require_encoder(encoder, where)
        _require_honest(encoder.info, precision, where)
    with errors_of(f"{where}: setting its `info`"):
        encoder.info = encoder.info._replace(spec=spec.text, code_sha256=code)
        _guard(encoder, path)
    if encoder.info.code_sha256 != code:
        raise UsageError(f"{where}: its `info` cannot be set, and results would not name the file")
    return encoder


def made_by(spec: ModelSpec, device: str, precision: Precision) -> tuple[Any, str, str]:
    """Run a file; return its `model` or what its `load` returns, `code_sha256`, and which of both
    it was, for messages. Raises UsageError, one line, whatever goes wrong there."""
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
    given = [repr(device), repr(precision), *(f"{k}={v!r}" for k, v in spec.arguments.items())]
    where = f"{path}: load({', '.join(given)})" if callable(make) else f"{path}: `model`"
    with errors_of(where):
        made = make(device, precision, **spec.arguments) if callable(make) else model
    return made, code, where


def _run(path: Path, content: bytes, name: str) -> ModuleType:
    """Run the hashed content as a module; it finds no neighbours, which the hash does not cover."""
    module = sys.modules[name] = ModuleType(name)  # where dataclasses and pickle look for it
    module.__file__ = str(path)
    exec(compile(content, str(path), "exec"), module.__dict__)
    return module


def _guard(encoder: Any, path: Path) -> None:
    """Wrap the methods so that their errors, and outputs of another form, are a UsageError."""
    widths: set[int] = set()

    def call(name: str, method: Callable[..., Any], given: Any, *more: Any) -> Any:
        with errors_of(f"{path}: {name}"):
            output = method(given, *more)
            checks.require_output(name, given, output, widths, str(path))
            return output

    protocols = checks.CrossAttentionEncoder, checks.PairScorer
    for name in {name for protocol in protocols for name in checks.methods(protocol)}:
        if callable(method := getattr(encoder, name, None)):
            setattr(encoder, name, partial(call, name, method))


@contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Report whatever the user's code raises, `sys.exit` included; --debug shows where in it."""
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UsageError(f"{where} failed: {reason} (--debug shows where)") from error


def _require_honest(info: EncoderInfo, precision: Precision, where: str) -> None:
    if info.precision != precision:
        raise UsageError(f"{where} made a model of precision {info.precision}: choose that one")
    if info.weights is not None:
        raise UsageError(f"{where}: `weights` is of COSMOS checkpoints with two sets: give None")
    if info.weights_sha256 is None:
        raise UsageError(f"{where} gives no `weights_sha256`: hash the weights, random ones too")
