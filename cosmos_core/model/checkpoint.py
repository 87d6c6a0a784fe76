"""Checkpoint files: the published layout and ours, with their key names. Published
(github.com/ExplainableML/cosmos): a dict saved by torch with `student` and `teacher` state dicts,
whose keys may start with `module.`. Ours: one safetensors file with keys `student.*` and
`teacher.*`; its metadata holds `model` (the kind of model), `method` (how it was trained),
`architecture` (JSON), `training` (JSON) and `added` (JSON: the keys of parameters that the method
added to this kind of model). In files without `model`, `method` is its kind."""

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
NAMED_KEYS = 3
SNAPSHOTS = "snapshots"  # in the folder of a run
CHECKPOINT = "checkpoint.safetensors"  # beside it: the weights of the newest snapshot in one file


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one line."""


class Checkpoint(NamedTuple):
    """State dicts by name (`student`, `teacher`), the model they fit, and how it was trained.
    `architecture` and `training` are None where the file does not contain them. The method has
    `added` parameters of these keys to the model."""

    weights: dict[str, dict[str, Tensor]]
    model_kind: ModelKind
    method: str
    architecture: dict[str, Any] | None
    training: dict[str, Any] | None
    added: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read either layout, the newest weights in the folder of a run, or a sharded snapshot. Raises
    CheckpointError for others. Nothing is unpickled."""
    path = _newest(Path(path))
    if path.is_dir():
        return _split(path, *_sharded(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_published(path)


def trained_steps(path: Path) -> int | None:
    """Return the steps that the metadata of a checkpoint name; None if it is not a whole one."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            steps = parse_json((file.metadata() or {})["training"])["steps"]
    except (safetensors.SafetensorError, OSError, LookupError, TypeError, ValueError):
        return None
    return steps if type(steps) is int else None


def load_model(
    path: str | Path, architecture: Architecture | None = None, weights: Weights = "teacher"
) -> MultiViewCLIP:
    """Return the student or teacher of a checkpoint, float32, in evaluation mode. `architecture`
    may be left out where the file contains its own. Raises CheckpointError for missing, unexpected
    or wrongly shaped keys (the first three are named), ValueError for an unknown architecture."""
    return build_model(read_checkpoint(path), weights, architecture, str(path)).eval()


def build_model(
    checkpoint: Checkpoint, weights: str, architecture: Architecture | None, source: str
) -> MultiViewCLIP:
    """Return a model with weights of a checkpoint, in training mode; raise as `load_model` does."""
    architecture = architecture or checkpoint.architecture
    if architecture is None:
        raise CheckpointError(f"{source}: the file does not state its architecture; name one")
    if weights not in checkpoint.weights:
        known = ", ".join(checkpoint.weights)
        raise CheckpointError(f"{source}: no {weights} weights, only {known}")
    state = checkpoint.weights[weights]
    with torch.device("meta"):  # an architecture that is not the file's may be of any size
        outline = create_model(architecture, checkpoint.model_kind)
    own = {key: value for key, value in state.items() if key not in checkpoint.added}
    _require_fit(outline, own, source)
    model = create_model(architecture, checkpoint.model_kind)
    for key in checkpoint.added:
        _add_parameter(model, key, state[key], source)
    model.load_state_dict(state)
    return model


def _add_parameter(model: nn.Module, key: str, value: Tensor, source: str) -> None:
    """Add a parameter like `value`, with plain modules for the parts of its key."""
    _require_floating({key: value}, source)
    *path, name = key.split(".")
    for part in path:
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = model.get_submodule(part)
    setattr(model, name, nn.Parameter(torch.empty(value.shape)))


def _require_floating(state: Mapping[str, Tensor], source: str) -> None:
    """PyTorch would take integers and booleans for numbers as they are."""
    odd = [
        f"{key} ({value.dtype if isinstance(value, Tensor) else type(value).__name__})"
        for key, value in state.items()
        if not (isinstance(value, Tensor) and value.is_floating_point() and not value.is_sparse)
    ]
    if odd:
        named = ", ".join(odd[:NAMED_KEYS])
        raise CheckpointError(f"{source}: {len(odd)} keys hold no floating-point weights: {named}")


def _require_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    _require_floating(state, source)
    own = model.state_dict()
    shared = own.keys() & state.keys()
    wrong = [key for key in own if key in shared and own[key].shape != state[key].shape]
    shapes = [f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}" for key in wrong]
    for problem, keys in (
        ("missing", [key for key in own if key not in shared]),
        ("unexpected", [key for key in state if key not in shared]),
        ("wrongly shaped", shapes),
    ):
        if keys:
            named = ", ".join(keys[:NAMED_KEYS])
            raise CheckpointError(f"{source}: {len(keys)} {problem} keys, first: {named}")


def save_checkpoint(
    path: str | Path,
    weights: Mapping[str, nn.Module],
    method: str,
    architecture: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write models (`student`, `teacher`) in our layout, atomically."""
    tensors = {
        f"{name}.{key}": value.detach().to("cpu", dtype)
        for name, model in weights.items()
        for key, value in model.state_dict().items()
    }
    model = next(iter(weights.values()))
    write_weights(Path(path), tensors, describe(model, method, architecture, training))


def describe(model: nn.Module, method: str, architecture: Any, training: Any) -> dict[str, str]:
    """Return the metadata of a checkpoint of a model, whose weights may have no content."""
    kind = next(kind for kind in MODELS if isinstance(model, MODELS[kind]))
    own = getattr(model, "own_keys", model.state_dict())
    added = [key for key in model.state_dict() if key not in own and not _is_head(key)]
    return {
        "format": "cosmos",
        "model": kind,
        "method": method,
        **({"added": json.dumps(added)} if added else {}),
        "architecture": json.dumps(architecture, sort_keys=True),
        "training": json.dumps(training, sort_keys=True),
    }


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors (`student.KEY`, `teacher.KEY`) in our layout, atomically."""
    kept = [key for key in tensors if not _is_head(key.partition(".")[2])]
    content = {key: tensors[key].contiguous() for key in kept}
    write_atomically(path, safetensors.torch.save(content, metadata))


def _newest(path: Path) -> Path:
    """Return what holds the weights of a run's folder; other paths as they are."""
    if not (path / SNAPSHOTS).is_dir():
        return path
    last = max((path / SNAPSHOTS).glob("step-*"), default=path)
    return last if last.is_dir() else path / CHECKPOINT


def _sharded(snapshot: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    # Imports a tenth of a second of modules that nothing else needs.
    from cosmos_core.model.sharded import read_weights

    try:
        return read_weights(snapshot)
    except Exception as error:  # damaged files raise errors of any kind
        reason = " ".join(f"{error or type(error).__name__}".split())
        raise CheckpointError(f"{snapshot}: no whole sharded snapshot ({reason:.200})") from error


def _is_head(key: str) -> bool:
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
    return _split(path, tensors, metadata)


def _split(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Checkpoint:
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        if not _is_head(rest):
            weights.setdefault(name, {})[rest] = value
    try:
        return _described(weights, metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({error})") from error


def _described(weights: dict[str, dict[str, Tensor]], metadata: Mapping[str, str]) -> Checkpoint:
    """Raise KeyError or ValueError for what `save_checkpoint` cannot have written."""
    method = metadata["method"]
    named = metadata.get("model", method)
    if named not in MODELS:
        raise ValueError(f"{named!r} is no kind of model; known: {', '.join(MODELS)}")
    architecture, training = (parse_json(metadata[key]) for key in ("architecture", "training"))
    if not all(value is None or isinstance(value, dict) for value in (architecture, training)):
        raise ValueError("architecture and training are JSON objects")
    added = parse_json(metadata.get("added", "[]"))
    if not all(key in state for key in added for state in weights.values()):
        raise ValueError("`added` names parameters that are not there")
    return Checkpoint(weights, named, method, architecture, training, tuple(added))


def _read_published(path: Path) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle raise errors of any kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a checkpoint of tensors alone ({reason})") from error
    found = content if isinstance(content, Mapping) else {}
    weights = {
        name: {str(key).removeprefix(DISTRIBUTED_PREFIX): v for key, v in found[name].items()}
        for name in ("student", "teacher")
        if isinstance(found.get(name), Mapping)
    }
    if not weights:
        raise CheckpointError(f"{path}: holds neither `student` nor `teacher` weights")
    return Checkpoint(weights, "cosmos", "cosmos", architecture=None, training=None)
