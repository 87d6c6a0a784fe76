"""Users' own models: `TwoTower`, and Python files with a `load(device, precision)` or a `model`."""

import inspect
import re
import sys
from collections import deque
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
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from cosmos_core.utils.files import file_sha256
from cosmos_eval.data.readers import read_bytes, report_faults_at
from cosmos_eval.models import encoder as checks
from cosmos_eval.models.encoder import (
    Encoder,
    Parts,
    run_on_device,
    run_parts_on_device,
    tensors_sha256,
)
from cosmos_eval.models.specs import code_sha256, require_label
from cosmos_eval.types import Attention, EncoderInfo, ModelSpec, Precision, Rgb, UsageError

# The attributes of every module: its parameters, buffers, submodules and hooks.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
# Objects of a training loop. They have tensors that are not weights.
_WITHOUT_WEIGHTS = (Optimizer, GradScaler, DataLoader, Dataset)


class TwoTower:
    """An Encoder that is made of functions of the user. B are images, T texts, D the feature size.

    With `encode_patches` it is a DenseEncoder, which segmentation needs, and with `pair_scores` a
    PairScorer. The model itself is not changed: `cosmos_eval.evaluate` sets its evaluation mode and
    restores the former mode, and `python:FILE.py` moves modules to the device.

    Args:
        encode_image: Maps images (B, 3, H, W), or what `collate` returns, to features (B, D) on the
            model's device. They are normalised here.
        encode_text: Maps tokens (B, L) to features (B, D) on the model's device.
        transform: Maps an RGB image to pixels (3, H, W) float32. With `collate`, it may return any
            other form of an image.
        tokenize: Maps a list of texts to tokens (B, L) int64.
        name: The model's name in tables and file names, unless `--name` gives it another one.
        weights: A module or a state dict, whose tensors are hashed. It may be left out if the
            functions are methods of modules, or refer to modules or tensors in their closure or
            file.
        collate: Maps a list of what `transform` returns to the batch that `encode_image` is given:
            a tensor, a tuple, or a mapping of names to tensors, such as a BatchFeature. Models of
            images that differ in size need it. By default, images are stacked.
        encode_patches: Maps images (B, 3, H, W) and the form of attention to features of patches
            (B, H // patch_size, W // patch_size, D).
        patch_size: The side of a patch in pixels, for `encode_patches`.
        image_mean: The mean that `transform` normalises by, RGB on the 0-1 scale.
        image_std: The standard deviation that `transform` normalises by.
        image_parts: Maps the input of `encode_image` to one tensor or a tuple of tensors (B, ...).
        text_parts: Maps tokens (T, L) to one tensor or a tuple of tensors (T, ...).
        pair_scores: Maps the parts of B images and of T texts to scores (B, T).
        compose: Maps the input of `encode_image` and a list of B texts, which change the images, to
            features (B, D) of queries for images.

    Raises:
        UsageError: If `weights` is left out, and a function refers to no weights.
    """

    # The padding of texts cannot be cut off without changing their features.
    trims_text = False
    # Notes on the files of the model, which results record.
    notes: Sequence[str] = ()
    # The number of texts that are encoded with each batch besides its own texts.
    added_texts = 0

    def __init__(
        self,
        *,
        encode_image: Callable[[Any], Tensor],
        encode_text: Callable[[Tensor], Tensor],
        transform: Callable[[PIL.Image.Image], Any],
        tokenize: Callable[[list[str]], Any],
        name: str,
        weights: nn.Module | Mapping[str, Tensor] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        encode_patches: Callable[[Tensor, Attention], Tensor] | None = None,
        patch_size: int = 0,
        image_mean: Rgb = (0.0, 0.0, 0.0),
        image_std: Rgb = (1.0, 1.0, 1.0),
        image_parts: Callable[[Any], Any] | None = None,
        text_parts: Callable[[Tensor], Any] | None = None,
        pair_scores: Callable[[Any, Any], Tensor] | None = None,
        compose: Callable[[Any, list[str]], Tensor] | None = None,
    ) -> None:
        """Keep the functions of a model, and hash its weights and its file for results.

        The class explains the arguments.
        """
        # The weights are those that are given, or else those that the functions refer to.
        self._weight_sources: list[Any] = [weights]
        if weights is None:
            for function in (encode_image, encode_text):
                if not [*referred_weights([function])]:
                    raise UsageError(f"{name}: {function!r} refers to no module: give weights=")
            self._weight_sources = [encode_image, encode_text, encode_patches]
            self._weight_sources += [image_parts, text_parts, pair_scores, compose]

        # The code of the model is the file that calls this constructor.
        file = Path(sys._getframe(1).f_code.co_filename)
        code_hash = file_sha256(file) if file.is_file() else None
        self.info = EncoderInfo(
            spec=name,
            architecture=name,
            weights=None,
            weights_sha256=None,  # set by `refresh_info`
            random=False,
            precision="fp32",
            device="cpu",
            code_sha256=code_hash,
            name=name,
        )
        self.refresh_info()

        # Keep the functions.
        self._encode_image = encode_image
        self._encode_text = encode_text
        self.transform = transform
        self._tokenize = tokenize
        self.preprocessing = {"transform": _stable_repr(transform)}
        self.tokenizer = {"tokenize": _stable_repr(tokenize)}
        # Without the optional functions, the object lacks the methods of the larger interfaces.
        if collate is not None:
            self.preprocessing["collate"] = _stable_repr(collate)
            self.collate = collate
        if encode_patches is not None:
            self.patch_size = patch_size
            self.image_mean = image_mean
            self.image_std = image_std
            self._encode_patches = encode_patches
            self.encode_patches = self._run_patches
        if pair_scores is not None:
            if image_parts is None or text_parts is None:
                raise UsageError(f"{name}: pair_scores= needs image_parts= and text_parts=")
            self.pair_score = getattr(pair_scores, "__name__", type(pair_scores).__name__)
            self._image_parts = image_parts
            self.image_parts = self._run_image_parts
            self._text_parts = text_parts
            self.text_parts = self._run_text_parts
            self._pair_scores = pair_scores
            self.pair_scores = self._run_pair_scores
        if compose is not None:
            self.composition = getattr(compose, "__name__", type(compose).__name__)
            self._compose = compose
            self.compose = self._run_compose

    def refresh_info(self) -> None:
        """Record in `info` the hash of the weights as they are now, and their device."""
        states = state_dicts(referred_weights(self._weight_sources))
        tensors = [tensor for state in states for tensor in state.values()]
        device = str(tensors[0].device) if tensors else "cpu"
        self.info = self.info._replace(weights_sha256=tensors_sha256(*states), device=device)

    def to(self, device: str, precision: Precision) -> None:
        """Move the model's modules to a device, and put them into evaluation mode.

        The model runs in `precision` from now on. `info` records the device and the precision.
        """
        self.info = self.info._replace(device=device, precision=precision)
        for module in referred_weights(self._weight_sources):
            if isinstance(module, nn.Module):
                module.eval().to(device)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens (B, L) of texts, int64.

        The user's tokenizer may return a tensor itself, or an object of transformers whose
        attribute `input_ids` is the tensor.
        """
        output = self._tokenize(list(texts))
        if isinstance(output, Tensor):
            return output
        return getattr(output, "input_ids", output)

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """Return whether `tokenize` cuts each text to the context, (B,) bool.

        The user's tokenizer does not say so. A text counts as cut if its end does not change its
        tokens, but has tokens itself. An end of words that the tokenizer drops has none.
        """
        tokens = self.tokenize(texts)
        # A text that does not fill the context gets more tokens if it is repeated.
        tokens_of_repeated = self.tokenize([f"{text} {text}" for text in texts])
        if tokens.shape != tokens_of_repeated.shape:
            # The tokenizer pads to the longest text, so it cuts none.
            return torch.zeros(len(texts), dtype=torch.bool)
        may_be_cut = (tokens == tokens_of_repeated).all(dim=1)
        for index in may_be_cut.nonzero().flatten().tolist():
            may_be_cut[index] = self._loses_its_end(texts[index])
        return may_be_cut

    def _loses_its_end(self, text: str) -> bool:
        """Return whether the tokens of a text lack tokens that its end has.

        Example:
            A tokenizer drops all words but red and blue, and keeps one token of each text. It cuts
            "red blue", since the end " blue" has a token. It does not cut "red ball".
        """
        tokens = self.tokenize([text])
        # Find the shortest beginning of the text that has the same tokens.
        shortest, longest = 0, len(text)
        while shortest < longest:
            middle = (shortest + longest) // 2
            if self.tokenize([text[:middle]]).equal(tokens):
                longest = middle
            else:
                shortest = middle + 1
        # Compare the end with nothing, both after the last character of that beginning: the end may
        # be the rest of a word.
        start = max(shortest - 1, 0)
        tokens_with_end = self.tokenize([text[start:]])
        return not tokens_with_end.equal(self.tokenize([text[start:shortest]]))

    def encode_image(self, images: Any) -> Tensor:
        """Return the L2-normalised features (B, D) of images (B, 3, H, W), or of a batch."""
        features = run_on_device(self.info, self._encode_image, images)
        return F.normalize(features, dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the L2-normalised features (B, D) of tokens (B, L)."""
        features = run_on_device(self.info, self._encode_text, tokens)
        return F.normalize(features, dim=-1)

    def _run_image_parts(self, images: Any) -> Parts:
        """Return the tensors (B, ...) that the user's function makes of images or of a batch."""
        return run_parts_on_device(self.info, self._image_parts, images)

    def _run_text_parts(self, tokens: Tensor) -> Parts:
        """Return the tensors (T, ...) that the user's function makes of tokens (T, L)."""
        return run_parts_on_device(self.info, self._text_parts, tokens)

    def _run_pair_scores(self, image_parts: Parts, text_parts: Parts) -> Tensor:
        """Return the scores (B, T) of B images and T texts.

        The user's function is given a tensor if images have a single one, and a tuple if they have
        several. The same holds for texts.

        Args:
            image_parts: The tensors (B, ...) that the user's `image_parts` made of the images.
            text_parts: The tensors (T, ...) that the user's `text_parts` made of the texts.
        """

        def score_tensors(*tensors: Tensor) -> Tensor:
            """Call the user's function with the tensors of images and the tensors of texts.

            `run_on_device` passes all of them as separate arguments.
            """
            n_image_parts = len(image_parts)
            tensors_of_images = tensors[:n_image_parts]
            tensors_of_texts = tensors[n_image_parts:]
            images = tensors_of_images[0] if n_image_parts == 1 else tensors_of_images
            texts = tensors_of_texts[0] if len(text_parts) == 1 else tensors_of_texts
            return self._pair_scores(images, texts)

        return run_on_device(self.info, score_tensors, *image_parts, *text_parts)

    def _run_compose(self, images: Any, texts: Sequence[str]) -> Tensor:
        """Return the L2-normalised features (B, D) that the user's function composes.

        Args:
            images: Pixels (B, 3, H, W), or what `collate` returns, which are moved to the device.
            texts: The B texts, which change the images.
        """

        def compose_images(images: Any) -> Tensor:
            """Compose images on the device. `run_on_device` moves all its arguments there."""
            return self._compose(images, list(texts))

        return F.normalize(run_on_device(self.info, compose_images, images), dim=-1)

    def _run_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """Return the L2-normalised features of patches, (B, H // patch, W // patch, D).

        Args:
            images: Pixels (B, 3, H, W).
            attention: The form of attention, which is passed to the user's function.

        Raises:
            UsageError: If the function returns another shape.
        """

        def encode_images(images: Tensor) -> Tensor:
            """Encode images on the device. `run_on_device` passes no argument but tensors."""
            return self._encode_patches(images, attention)

        patches = run_on_device(self.info, encode_images, images)
        require_patch_grid(self.info.spec, images, patches, self.patch_size)
        return F.normalize(patches, dim=-1)


def require_patch_grid(model_name: str, images: Tensor, features: Tensor, patch_size: int) -> None:
    """Raise UsageError unless a user's model returned one feature per complete patch of images.

    Args:
        model_name: The name of the model in the error message.
        images: The images (B, 3, H, W).
        features: The value that the model returned for them. It must have the shape
            (B, H // patch_size, W // patch_size, D).
        patch_size: The side of a patch in pixels.
    """
    height, width = images.shape[2:]
    expected_shape = (len(images), height // patch_size, width // patch_size)
    if tuple(features.shape[:-1]) != expected_shape:
        raise UsageError(
            f"{model_name}: `encode_patches` returns {tuple(features.shape)} for "
            f"{tuple(images.shape)}, not {expected_shape} and the dimensions of features"
        )


def referred_weights(values: Sequence[Any]) -> Iterator[nn.Module | Tensor]:
    """Yield the modules and tensors that values are, hold or refer to, each of them once.

    The weights that containers and objects inside objects and modules hold come last, unless a
    module before them has them already.

    Args:
        values: Any Python objects, such as functions and dictionaries.

    Example:
        [model.encode_image] refers to the module `model`, and so does [{"a": model}]. If `model`
        has the attribute `heads = {"image": head}`, the module `head` comes after it.
    """
    search = _WeightSearch()
    yield from search.find(values)
    yield from search.find_nested()


def state_dicts(weights: Iterable[nn.Module | Tensor]) -> list[dict[str, Tensor]]:
    """Return the tensors of each module's state dict, and {"": tensor} for each tensor."""
    states = []
    for weight in weights:
        state = weight.state_dict() if isinstance(weight, nn.Module) else {"": weight}
        states.append({name: value for name, value in state.items() if isinstance(value, Tensor)})
    return states


class _WeightSearch:
    """A search for modules and tensors in Python objects, which looks at each object once."""

    def __init__(self) -> None:
        """Begin a search that has looked at nothing yet."""
        # The objects are kept, so that no id is given to another object.
        self._seen: dict[int, Any] = {}
        # Attributes that `find_nested` looks at, and whether a module has them.
        self._nested: deque[tuple[Any, bool]] = deque()
        # The ids of all submodules, parameters and buffers of modules.
        self._held_ids: set[int] = set()

    def find(self, values: Sequence[Any]) -> Iterator[nn.Module | Tensor]:
        """Yield the modules and tensors that values are or refer to by `_referred_values`."""
        for value in values:
            if id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if isinstance(value, nn.Module | Tensor):
                self._hold(value)
                yield value
                continue
            self._nested.extend((attribute, False) for attribute in _attributes(value))
            yield from self.find(_referred_values(value))

    def find_nested(self) -> Iterator[nn.Module | Tensor]:
        """Yield the weights in containers and objects that the objects of `find` have.

        Modules keep tensors that are not weights, such as masks. So in their containers, only
        modules and parameters count.
        """
        while self._nested:
            value, is_of_module = self._nested.popleft()
            if id(value) in self._seen or id(value) in self._held_ids:
                continue
            self._seen[id(value)] = value
            if isinstance(value, nn.Module):
                if not self._holds_all_tensors(value):
                    self._hold(value)
                    yield value
            elif isinstance(value, Tensor):
                if isinstance(value, nn.Parameter) or not is_of_module:
                    yield value
            elif not isinstance(value, _WITHOUT_WEIGHTS):
                held_values = _nested_values(value)
                self._nested.extend((held_value, is_of_module) for held_value in held_values)

    def _holds_all_tensors(self, module: nn.Module) -> bool:
        """Return whether a module has tensors, all of which belong to modules found before."""
        tensor_ids = {id(tensor) for tensor in _tensors(module)}
        return len(tensor_ids) > 0 and tensor_ids <= self._held_ids

    def _hold(self, weight: nn.Module | Tensor) -> None:
        """Note all that a module consists of, and the attributes that its state dict lacks."""
        self._held_ids.add(id(weight))
        if not isinstance(weight, nn.Module):
            return
        self._held_ids.update(id(tensor) for tensor in _tensors(weight))
        for submodule in weight.modules():
            self._held_ids.add(id(submodule))
            for name, attribute in vars(submodule).items():
                if name not in _MODULE_ATTRIBUTES:
                    self._nested.append((attribute, True))


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]


def _nested_values(value: Any) -> list[Any]:
    """Return the values that a container or a method refers to, or the attributes of an object."""
    is_container = isinstance(value, Mapping | list | tuple | partial)
    if is_container or inspect.ismethod(value):
        return _referred_values(value)
    return _attributes(value)


def _attributes(value: Any) -> list[Any]:
    """Return the attributes of an object, and none of classes, functions and Python modules."""
    if isinstance(value, type | ModuleType) or inspect.isroutine(value):
        return []
    return [*getattr(value, "__dict__", {}).values()]


def _referred_values(value: Any) -> list[Any]:
    """Return the values that a container holds, or that a function refers to.

    A function refers to the object it is bound to, the variables of its closure, and the globals of
    its own file that it uses. For any other object, its attributes that are modules or tensors are
    returned.
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

    # The value is a function.
    variables = inspect.getclosurevars(value)
    values = [*variables.nonlocals.values()]
    file = value.__code__.co_filename
    for variable in variables.globals.values():
        # Functions of other files are a library's, whose globals are not weights.
        is_library_function = inspect.isfunction(variable) and variable.__code__.co_filename != file
        if not is_library_function:
            values.append(variable)
    return values


def _stable_repr(function: Any) -> str:
    """Return the repr of a function without its address, which differs in every process.

    Example:
        "<function f at 0x7f12>" becomes "<function f>".
    """
    return re.sub(r" at 0x[0-9a-f]+", "", repr(function))


def load(spec: ModelSpec, device: str, precision: Precision) -> Encoder:
    """Run a user's Python file, check the model that it makes, and return it as an encoder.

    Args:
        spec: Names the file, and the arguments of its function `load`.
        device: The device of the model, such as "cpu".
        precision: The precision that it computes in.

    Raises:
        UsageError: For every error in the file, and if the model describes itself in a way that
            results cannot record.
    """
    path = Path(spec.name)
    encoder, code_hash, origin = load_user_model(spec, device, precision)
    with errors_as_usage_errors(origin):
        if isinstance(encoder, TwoTower):
            encoder.to(device, precision)
        checks.require_encoder(encoder, origin)
        info: EncoderInfo = encoder.info
        if info.precision != precision:
            raise UsageError(
                f"{origin} made a model of precision {info.precision}: choose that one"
            )
        if info.weights is not None:
            raise UsageError(
                f"{origin}: `weights` is for COSMOS checkpoints with two sets: give None"
            )
        if info.weights_sha256 is None:
            raise UsageError(
                f"{origin} gives no `weights_sha256`: hash the weights, random ones too"
            )
        if info.name is not None:
            require_label(info.name, f"{origin}: name")

    # State the file in the description of the model, and check all outputs from now on.
    with errors_as_usage_errors(f"{origin}: setting its `info`"):
        encoder.info = encoder.info._replace(spec=spec.text, code_sha256=code_hash)
        _check_every_output(encoder, path)
    if encoder.info.code_sha256 != code_hash:
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


def load_user_model(spec: ModelSpec, device: str, precision: Precision) -> UserModel:
    """Run a user's Python file and return its model.

    It is the result of the file's `load(device, precision)`, or else the file's `model`.

    Args:
        spec: Names the file, and further arguments of its function `load`.
        device: The device of the model, such as "cpu".
        precision: The precision that it computes in.

    Raises:
        UsageError: For every error in the file, and if the file has neither `load` nor `model`.
    """
    path = Path(spec.name)
    with report_faults_at(f"cannot read {path}: "):
        content = read_bytes(path)
    code_hash = str(code_sha256(spec, content))
    with errors_as_usage_errors(str(path)):
        module = _run_file(path, content, f"cosmos_eval_model_{code_hash[:16]}")

    # A file without a function `load` has the model itself.
    load_function: Any = getattr(module, "load", None)
    model: Any = getattr(module, "model", None)
    if not callable(load_function):
        if model is None:
            raise UsageError(f"{path} has no function `load(device, precision)` and no `model`")
        if spec.arguments:
            raise UsageError(f"'{spec.text}': {path} has no function `load` to take arguments")
        return UserModel(model, code_hash, f"{path}: `model`")

    # Call the function. Error messages name it as `load('cpu', 'fp32', depth=12)`.
    arguments = [repr(device), repr(precision)]
    arguments += [f"{name}={value!r}" for name, value in spec.arguments.items()]
    origin = f"{path}: load({', '.join(arguments)})"
    with errors_as_usage_errors(origin):
        model = load_function(device, precision, **spec.arguments)
        return UserModel(model, code_hash, origin)


def _run_file(path: Path, content: bytes, module_name: str) -> ModuleType:
    """Run the content of a Python file as a module, and return the module.

    The file cannot import files in its folder, because the hash of the code does not cover them.

    Args:
        path: The path of the file, which tracebacks name.
        content: The content of the file.
        module_name: The name of the module in `sys.modules`.
    """
    module = ModuleType(module_name)
    sys.modules[module_name] = module  # where dataclasses and pickle look for it
    module.__file__ = str(path)
    exec(compile(content, str(path), "exec"), module.__dict__)
    return module


def _check_every_output(encoder: Any, path: Path) -> None:
    """Wrap the methods of a user's encoder in place, so that every call checks the output.

    From now on, errors and invalid outputs raise UsageError.

    Args:
        encoder: The encoder, whose methods are replaced.
        path: The user's file, which error messages name.
    """
    feature_sizes: set[int] = set()  # shared by all methods, because the sizes must be the same
    method_names = set(checks.public_members(checks.CrossAttentionEncoder))
    method_names.update(checks.public_members(checks.PairScorer))
    # An encoder with `collate` decides itself in which form it takes images.
    unchecked_names = set()
    if isinstance(encoder, checks.CollatingEncoder):
        unchecked_names = {"transform", "collate"}
    for name in method_names | unchecked_names:
        method: Any = getattr(encoder, name, None)
        if name in unchecked_names:
            setattr(encoder, name, partial(_call_user_code, path, name, method))
        elif callable(method):
            # `referred_weights` looks into a partial, and finds the method's weights.
            checked_method = partial(_call_and_check, path, name, method, feature_sizes)
            setattr(encoder, name, checked_method)


def _call_user_code(path: Path, name: str, method: Callable[[Any], Any], inputs: Any) -> Any:
    """Call a method of a user's encoder, whose output may have any form, and return the output.

    Args:
        path: The user's file, which error messages name.
        name: The name of the method, "transform" or "collate".
        method: The method.
        inputs: Its argument.

    Raises:
        UsageError: For errors of the method.
    """
    with errors_as_usage_errors(f"{path}: {name}"):
        return method(inputs)


def _call_and_check(
    path: Path,
    name: str,
    method: Callable[..., Any],
    feature_sizes: set[int],
    inputs: Any,
    *arguments: Any,
) -> Any:
    """Call a method of a user's encoder, check its output, and return it.

    Args:
        path: The user's file, which error messages name.
        name: The name of the method, such as "encode_image".
        method: The method.
        feature_sizes: All sizes D of the encoder's features so far. The size of the output is
            added. More than one size is a fault.
        inputs: The first argument of the method.
        *arguments: Its further arguments.

    Raises:
        UsageError: For errors of the method, and for invalid outputs.
    """
    with errors_as_usage_errors(f"{path}: {name}"):
        output = method(inputs, *arguments)
        checks.require_output(name, inputs, output, feature_sizes, str(path))
        return output


@contextmanager
def errors_as_usage_errors(origin: str) -> Iterator[None]:
    """Raise UsageError for everything that the user's code within this context raises.

    `sys.exit` counts as an error too.

    Args:
        origin: The beginning of the message, which names the file or the function of the user.

    Example:
        "model.py: encode_image failed: KeyError: 'a' (--debug shows where)"
    """
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UsageError(f"{origin} failed: {reason} (--debug shows where)") from error
