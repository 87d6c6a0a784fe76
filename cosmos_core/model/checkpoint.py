"""Checkpoint files of COSMOS, in the published layout and in the layout of cosmos-train.

The published layout (github.com/ExplainableML/cosmos) is a dict saved by torch. It has `student`
and `teacher` state dicts, whose keys may start with `module.`.

The layout of cosmos-train is one safetensors file with keys `student.*` and `teacher.*`. Its
metadata are:

- `model`: the kind of the model; in files without it, `method` is the kind
- `method`: the name of the method that trained it
- `architecture`: the OpenCLIP configuration, as JSON
- `training`: how it was trained, as JSON
- `added`: the keys of parameters that the method added to this kind of model, as JSON
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cosmos_core.model.build import MODELS, Architecture, ModelKind, create_model
from cosmos_core.model.clip import HEAD, MultiViewCLIP
from cosmos_core.utils.files import write_atomically
from cosmos_core.utils.text import parse_json

Weights = Literal["teacher", "student"]
DISTRIBUTED_PREFIX = "module."  # left by DistributedDataParallel in published files
NAMED_KEYS = 3  # keys that an error message names
SNAPSHOTS = "snapshots"  # a folder in the folder of a run
CHECKPOINT = "checkpoint.safetensors"  # a file in it: the weights of the newest snapshot


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one line."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint."""

    # State dicts by name: "student", "teacher", or both.
    weights: dict[str, dict[str, Tensor]]
    # The kind of model that the weights fit.
    model_kind: ModelKind
    # The name of the method that trained the model.
    method: str
    # The OpenCLIP configuration, or None if the file does not state it.
    architecture: dict[str, Any] | None
    # How the model was trained, or None if the file does not state it.
    training: dict[str, Any] | None
    # Keys of parameters that the method added to the model.
    added: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of either layout, or the newest weights in the folder of a run.

    A sharded snapshot can be read too. Raises CheckpointError for other paths. Nothing is
    unpickled.
    """
    path = _newest_weights(Path(path))
    if path.is_dir():
        tensors, metadata = _read_sharded(path)
        return _split_models(path, tensors, metadata)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_published(path)


def trained_steps(path: Path) -> int | None:
    """Return the number of steps that a checkpoint states; None if it is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        steps = parse_json(metadata["training"])["steps"]
    except (safetensors.SafetensorError, OSError, LookupError, TypeError, ValueError):
        return None
    return steps if type(steps) is int else None


def load_model(
    path: str | Path, architecture: Architecture | None = None, weights: Weights = "teacher"
) -> MultiViewCLIP:
    """Return the student or teacher of a checkpoint, in float32 and evaluation mode.

    `architecture` may be left out if the file states it. Raises CheckpointError if keys are
    missing, unexpected or wrongly shaped (the first three are named), and ValueError for an unknown
    architecture.
    """
    return build_model(read_checkpoint(path), weights, architecture, str(path)).eval()


def build_model(
    checkpoint: Checkpoint, weights: str, architecture: Architecture | None, source: str
) -> MultiViewCLIP:
    """Return a model with weights of a checkpoint, in training mode.

    `weights` is "student" or "teacher", and `source` names the checkpoint in error messages. Raises
    the errors of `load_model`.
    """
    architecture = architecture or checkpoint.architecture
    if architecture is None:
        raise CheckpointError(f"{source}: the file does not state its architecture; name one")
    if weights not in checkpoint.weights:
        available = ", ".join(checkpoint.weights)
        raise CheckpointError(f"{source}: no {weights} weights, only {available}")
    state = checkpoint.weights[weights]
    # Compare keys and shapes without allocating memory: an architecture that does not belong to
    # the file may be of any size.
    with torch.device("meta"):
        meta_model = create_model(architecture, checkpoint.model_kind)
    model_state = {key: value for key, value in state.items() if key not in checkpoint.added}
    _require_fit(meta_model, model_state, source)
    model = create_model(architecture, checkpoint.model_kind)
    for key in checkpoint.added:
        _add_parameter(model, key, state[key], source)
    model.load_state_dict(state)
    return model


def _add_parameter(model: nn.Module, key: str, value: Tensor, source: str) -> None:
    """Add a parameter of the shape of `value`, in empty modules if its key names some."""
    _require_floating({key: value}, source)
    *module_names, parameter_name = key.split(".")
    module = model
    for name in module_names:
        if not hasattr(module, name):
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    setattr(module, parameter_name, nn.Parameter(torch.empty(value.shape)))


def _require_floating(state: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError for other values than floating-point tensors.

    PyTorch would load integers and booleans into parameters.
    """
    unfit_keys = []
    for key, value in state.items():
        if not isinstance(value, Tensor):
            unfit_keys.append(f"{key} ({type(value).__name__})")
        elif not value.is_floating_point() or value.is_sparse:
            unfit_keys.append(f"{key} ({value.dtype})")
    if unfit_keys:
        names = ", ".join(unfit_keys[:NAMED_KEYS])
        raise CheckpointError(
            f"{source}: {len(unfit_keys)} keys hold no floating-point weights: {names}"
        )


def _require_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError unless a state has the keys and shapes of a model."""
    _require_floating(state, source)
    model_state = model.state_dict()
    missing_keys = [key for key in model_state if key not in state]
    unexpected_keys = [key for key in state if key not in model_state]
    wrong_shapes = []
    for key, parameter in model_state.items():
        if key in state and state[key].shape != parameter.shape:
            file_shape, model_shape = tuple(state[key].shape), tuple(parameter.shape)
            wrong_shapes.append(f"{key} {file_shape}, not {model_shape}")
    for problem, keys in (
        ("missing", missing_keys),
        ("unexpected", unexpected_keys),
        ("wrongly shaped", wrong_shapes),
    ):
        if keys:
            names = ", ".join(keys[:NAMED_KEYS])
            raise CheckpointError(f"{source}: {len(keys)} {problem} keys, first: {names}")


def save_checkpoint(
    path: str | Path,
    weights: Mapping[str, nn.Module],
    method: str,
    architecture: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write models (`student`, `teacher`) in the layout of cosmos-train, atomically."""
    tensors = {
        f"{name}.{key}": value.detach().to("cpu", dtype)
        for name, model in weights.items()
        for key, value in model.state_dict().items()
    }
    model = next(iter(weights.values()))
    write_weights(Path(path), tensors, describe(model, method, architecture, training))


def describe(model: nn.Module, method: str, architecture: Any, training: Any) -> dict[str, str]:
    """Return the metadata of a model's checkpoint; the weights of the model are not read."""
    kind = next(kind for kind, model_class in MODELS.items() if isinstance(model, model_class))
    state_keys = list(model.state_dict())
    architecture_keys = getattr(model, "own_keys", state_keys)
    added_keys = [
        key for key in state_keys if key not in architecture_keys and not _is_in_head(key)
    ]
    metadata = {"format": "cosmos", "model": kind, "method": method}
    if added_keys:
        metadata["added"] = json.dumps(added_keys)
    metadata["architecture"] = json.dumps(architecture, sort_keys=True)
    metadata["training"] = json.dumps(training, sort_keys=True)
    return metadata


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors (`student.KEY`, `teacher.KEY`), except heads, atomically."""
    content = {}
    for key, tensor in tensors.items():
        _, _, model_key = key.partition(".")
        if not _is_in_head(model_key):
            content[key] = tensor.contiguous()
    write_atomically(path, safetensors.torch.save(content, metadata))


def _newest_weights(path: Path) -> Path:
    """Return the path of the newest weights in the folder of a run; other paths as they are.

    It is the last snapshot if that is sharded, a folder, and the checkpoint otherwise.
    """
    if not (path / SNAPSHOTS).is_dir():
        return path
    snapshots = sorted((path / SNAPSHOTS).glob("step-*"))
    if not snapshots:
        return path
    return snapshots[-1] if snapshots[-1].is_dir() else path / CHECKPOINT


def _read_sharded(snapshot: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a sharded snapshot, and the metadata of their model."""
    # Imported here, since it takes a tenth of a second and is needed only here.
    from cosmos_core.model.sharded import read_weights

    try:
        return read_weights(snapshot)
    except Exception as error:  # damaged files raise errors of any kind
        reason = " ".join(f"{error or type(error).__name__}".split())
        raise CheckpointError(f"{snapshot}: no whole sharded snapshot ({reason:.200})") from error


def _is_in_head(key: str) -> bool:
    """Return whether a parameter belongs to a head, which only the training uses."""
    return key.startswith(f"{HEAD}.")


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    if metadata.get("format") != "cosmos":
        raise CheckpointError(f"{path}: not written by cosmos-train (no format in its metadata)")
    return _split_models(path, tensors, metadata)


def _split_models(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Checkpoint:
    """Return a checkpoint from tensors with keys `student.KEY` and `teacher.KEY`."""
    weights: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, model_key = key.partition(".")
        if not _is_in_head(model_key):
            weights.setdefault(name, {})[model_key] = tensor
    try:
        return _with_metadata(weights, metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({error})") from error


def _with_metadata(
    weights: dict[str, dict[str, Tensor]], metadata: Mapping[str, str]
) -> Checkpoint:
    """Return a checkpoint of weights and metadata.

    Raises KeyError or ValueError for metadata that `save_checkpoint` does not write.
    """
    method = metadata["method"]
    model_kind = metadata.get("model", method)
    if model_kind not in MODELS:
        raise ValueError(f"{model_kind!r} is no kind of model; known: {', '.join(MODELS)}")
    architecture = parse_json(metadata["architecture"])
    training = parse_json(metadata["training"])
    for value in (architecture, training):
        if value is not None and not isinstance(value, dict):
            raise ValueError("architecture and training are JSON objects")
    added = parse_json(metadata.get("added", "[]"))
    for key in added:
        if not all(key in state for state in weights.values()):
            raise ValueError("`added` names parameters that are not there")
    return Checkpoint(weights, model_kind, method, architecture, training, tuple(added))


def _read_published(path: Path) -> Checkpoint:
    """Read a checkpoint in the published layout."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are not a pickle raise errors of any kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a checkpoint of tensors alone ({reason})") from error
    weights = {}
    for name in ("student", "teacher"):
        state = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(state, Mapping):
            weights[name] = {
                str(key).removeprefix(DISTRIBUTED_PREFIX): value for key, value in state.items()
            }
    if not weights:
        raise CheckpointError(f"{path}: holds neither `student` nor `teacher` weights")
    return Checkpoint(weights, "cosmos", "cosmos", architecture=None, training=None)
