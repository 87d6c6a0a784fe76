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
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cosmos_core.model.build import MODELS, Architecture, ModelKind, create_model
from cosmos_core.model.clip import HEAD, MultiViewCLIP
from cosmos_core.utils.errors import UsageError
from cosmos_core.utils.files import write_atomically
from cosmos_core.utils.text import parse_json

Weights = Literal["teacher", "student"]
# DistributedDataParallel left this prefix in published files.
DISTRIBUTED_PREFIX = "module."
# The keys of a projection head, which only the training uses, start with this prefix.
HEAD_PREFIX = f"{HEAD}."
# An error message names at most so many keys.
MAX_NAMED_KEYS = 3
# The folder of snapshots in the output folder of a training, and the file in the output folder that
# holds the weights of the newest snapshot.
SNAPSHOTS = "snapshots"
CHECKPOINT = "checkpoint.safetensors"


class CheckpointError(UsageError, ValueError):
    """A checkpoint cannot be used. The message states the reason in one line."""


class Checkpoint(NamedTuple):
    """The weights in a checkpoint file, and what the file states about them."""

    # The state dicts of models, under the names "student" and "teacher" or one of them.
    weights: dict[str, dict[str, Tensor]]
    # The kind of model that the weights fit: "cosmos", "flair" or "clip".
    model_kind: ModelKind
    # The name of the method that trained the model.
    method: str
    # The OpenCLIP configuration, or None if the file does not state it.
    architecture: dict[str, Any] | None
    # How the model was trained, or None if the file does not state it.
    training: dict[str, Any] | None
    # Keys of parameters that the method added to this kind of model, such as "logit_bias".
    added: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint from a file or a folder.

    `path` is one of:

    - a safetensors file that cosmos-train wrote
    - a file in the published layout, which torch saved; nothing is unpickled but tensors
    - a folder that holds a sharded snapshot
    - the output folder of a training, whose newest weights are read

    Raises:
        CheckpointError: If the path is none of these.
    """
    path = Path(path)
    # Find the newest weights in the output folder of a training. The names of snapshots, such as
    # step-00000400, sort by step. A sharded snapshot is a folder that has the weights itself. For
    # any other snapshot, the checkpoint file has them.
    snapshots = sorted((path / SNAPSHOTS).glob("step-*"))
    if snapshots:
        newest_snapshot = snapshots[-1]
        path = newest_snapshot if newest_snapshot.is_dir() else path / CHECKPOINT

    if path.is_dir():
        return _read_sharded(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_published(path)


def read_trained_steps(path: Path) -> int | None:
    """Return the number of training steps in the metadata of a checkpoint file.

    Return None if the file is missing or damaged, or if its metadata lack the number. No weights
    are read.
    """
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
    """Load the student or the teacher from a checkpoint, in float32 and evaluation mode.

    Args:
        path: Any path that `read_checkpoint` reads.
        architecture: An OpenCLIP architecture name, a configuration, or the path of a JSON file. It
            may be left out if the checkpoint states it.
        weights: "teacher" or "student".

    Raises:
        CheckpointError: If the checkpoint cannot be read, or if its keys or shapes do not fit the
            architecture.
        ValueError: If the architecture is unknown.
    """
    return build_model(read_checkpoint(path), weights, architecture, str(path)).eval()


def build_model(
    checkpoint: Checkpoint, weights: str, architecture: Architecture | None, source: str
) -> MultiViewCLIP:
    """Build the student or the teacher of a checkpoint, in training mode.

    Args:
        checkpoint: The content of a checkpoint.
        weights: "teacher" or "student".
        architecture: As in `load_model`. If it is None, the one that the checkpoint states is used.
        source: The path of the checkpoint, for error messages.

    Raises:
        CheckpointError: If the checkpoint lacks the weights or the architecture, or if they do not
            fit each other.
        ValueError: If the architecture is unknown.
    """
    architecture = architecture or checkpoint.architecture
    if architecture is None:
        raise CheckpointError(f"{source}: the file does not state its architecture; name one")
    if weights not in checkpoint.weights:
        available = ", ".join(checkpoint.weights)
        raise CheckpointError(f"{source}: no {weights} weights, only {available}")
    state = checkpoint.weights[weights]

    # Compare keys and shapes with a model that allocates no memory, because the model of a wrong
    # architecture may be too large for this machine. It lacks the parameters that the training
    # method added.
    with torch.device("meta"):
        meta_model = create_model(architecture, checkpoint.model_kind)
    architecture_state = {key: value for key, value in state.items() if key not in checkpoint.added}
    _require_same_keys_and_shapes(meta_model, architecture_state, source)

    # Create the model with the added parameters, and load all weights.
    model = create_model(architecture, checkpoint.model_kind)
    for key in checkpoint.added:
        _require_floating({key: state[key]}, source)
        _add_parameter(model, key, state[key].shape)
    model.load_state_dict(state)
    return model


def _add_parameter(model: nn.Module, key: str, shape: torch.Size) -> None:
    """Add an uninitialised parameter to a model, and the modules that its key names.

    Args:
        model: The model, which is changed.
        key: The key of the parameter in a state dict. "pooler.proj.weight" adds the module
            "pooler", in it the module "proj", and in this the parameter "weight". Modules that
            exist stay.
        shape: The shape of the parameter.
    """
    *module_names, parameter_name = key.split(".")
    module = model
    for name in module_names:
        if not hasattr(module, name):
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    setattr(module, parameter_name, nn.Parameter(torch.empty(shape)))


def _require_floating(state: Mapping[str, Tensor], source: str) -> None:
    """Check that all values of a state dict are dense floating-point tensors.

    Without this check PyTorch would convert integers and booleans, and load them.

    Args:
        state: The state dict.
        source: The path of the checkpoint, for the error message.

    Raises:
        CheckpointError: If a value is anything else. The error names the first keys.
    """
    unfit_keys = []
    for key, value in state.items():
        if not isinstance(value, Tensor):
            unfit_keys.append(f"{key} ({type(value).__name__})")
        elif not value.is_floating_point() or value.is_sparse:
            unfit_keys.append(f"{key} ({value.dtype})")
    if unfit_keys:
        names = ", ".join(unfit_keys[:MAX_NAMED_KEYS])
        raise CheckpointError(
            f"{source}: {len(unfit_keys)} keys hold no floating-point weights: {names}"
        )


def _require_same_keys_and_shapes(
    model: nn.Module, state: Mapping[str, Tensor], source: str
) -> None:
    """Check that a state dict has the keys and the shapes of a model.

    Args:
        model: The model, which may be on the meta device.
        state: The state dict.
        source: The path of the checkpoint, for the error message.

    Raises:
        CheckpointError: If a key is missing, unexpected, or wrongly shaped, or if a value is not a
            floating-point tensor. The error names the first such keys.
    """
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
            names = ", ".join(keys[:MAX_NAMED_KEYS])
            raise CheckpointError(f"{source}: {len(keys)} {problem} keys, first: {names}")


def save_checkpoint(
    path: str | Path,
    weights: Mapping[str, nn.Module],
    method: str,
    architecture: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write models to a checkpoint file in the layout of cosmos-train, atomically.

    Args:
        path: The safetensors file to write.
        weights: Models under the names "student" and "teacher" or one of them.
        method: The name of the method that trained the models.
        architecture: Their OpenCLIP configuration.
        training: How the models were trained, if it is known.
        dtype: The data type in which tensors are stored.
    """
    tensors = {}
    for name, model in weights.items():
        for key, tensor in model.state_dict().items():
            tensors[f"{name}.{key}"] = tensor.detach().to("cpu", dtype)
    first_model = next(iter(weights.values()))
    metadata = describe(first_model, method, architecture, training)
    write_weights(Path(path), tensors, metadata)


def describe(model: nn.Module, method: str, architecture: Any, training: Any) -> dict[str, str]:
    """Return the metadata for the checkpoint file of a model.

    Args:
        model: The model. The values of its weights are not read.
        method: The name of the method that trained it, such as "siglip".
        architecture: Its OpenCLIP configuration, which is stored as JSON.
        training: How it was trained, as a mapping that is stored as JSON, or None.

    Returns:
        Texts by name. "added" lists, as JSON, the keys of parameters that the method added to this
        kind of model. It is left out if there are none.

    Example::

        {"format": "cosmos", "model": "clip", "method": "siglip", "added": '["logit_bias"]',
         "architecture": '{"embed_dim": 512, ...}', "training": '{"steps": 5000, ...}'}
    """
    kind = next(kind for kind, model_class in MODELS.items() if isinstance(model, model_class))
    metadata = {"format": "cosmos", "model": kind, "method": method}

    # List the keys that the training method added. A head is left out of checkpoints.
    state_keys = list(model.state_dict())
    architecture_keys = getattr(model, "architecture_keys", state_keys)
    added_keys = []
    for key in state_keys:
        if key not in architecture_keys and not key.startswith(HEAD_PREFIX):
            added_keys.append(key)
    if added_keys:
        metadata["added"] = json.dumps(added_keys)

    metadata["architecture"] = json.dumps(architecture, sort_keys=True)
    metadata["training"] = json.dumps(training, sort_keys=True)
    return metadata


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors to a safetensors file, so that the file is whole or absent.

    The tensors of projection heads, which only the training uses, are left out.

    Args:
        path: The file to write.
        tensors: The tensors of both models by their keys, such as "student.visual.proj" and
            "teacher.visual.proj".
        metadata: The metadata of the file, from `describe`.
    """
    content = {}
    for key, tensor in tensors.items():
        # "student.visual.proj" -> "visual.proj"
        _, _, model_key = key.partition(".")
        if not model_key.startswith(HEAD_PREFIX):
            content[key] = tensor.contiguous()
    write_atomically(path, safetensors.torch.save(content, metadata))


def _read_sharded(snapshot: Path) -> Checkpoint:
    """Read a snapshot whose tensors several processes wrote in shards, which is a folder."""
    # Imported here, since it takes a tenth of a second and is needed only here.
    from cosmos_core.model.sharded import read_weights

    try:
        tensors, metadata = read_weights(snapshot)
    except Exception as error:  # damaged files raise errors of any kind
        reason = " ".join(f"{error or type(error).__name__}".split())
        raise CheckpointError(f"{snapshot}: no whole sharded snapshot ({reason:.200})") from error
    return _split_models(snapshot, tensors, metadata)


def _read_safetensors(path: Path) -> Checkpoint:
    """Read a safetensors file that cosmos-train wrote.

    Raises:
        CheckpointError: If the file is damaged, or if another program wrote it.
    """
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
    """Return a checkpoint with one state dict for the student and one for the teacher.

    Args:
        path: The file or folder that was read, for error messages.
        tensors: The tensors of both models by their keys, such as "student.visual.proj" and
            "teacher.visual.proj". Those of projection heads are left out.
        metadata: The metadata that were read.

    Raises:
        CheckpointError: If the metadata are damaged.
    """
    weights: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        # "student.visual.proj" -> "student" and "visual.proj"
        model_name, _, model_key = key.partition(".")
        if not model_key.startswith(HEAD_PREFIX):
            weights.setdefault(model_name, {})[model_key] = tensor
    try:
        return _parse_metadata(weights, metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({error})") from error


def _parse_metadata(
    weights: dict[str, dict[str, Tensor]], metadata: Mapping[str, str]
) -> Checkpoint:
    """Return a checkpoint of state dicts and of what the metadata of their file state.

    Args:
        weights: The state dicts under the names "student" and "teacher".
        metadata: Texts by name, as `describe` returns them.

    Raises:
        KeyError: If a value is missing.
        TypeError: If a value cannot be read.
        ValueError: If a value cannot be read, or if it does not fit the weights.
    """
    method = metadata["method"]
    # Older files do not state the kind of model. There it has the name of the method.
    model_kind = metadata.get("model", method)
    if model_kind not in MODELS:
        raise ValueError(f"{model_kind!r} is not a kind of model; known: {', '.join(MODELS)}")
    architecture = parse_json(metadata["architecture"])
    training = parse_json(metadata["training"])
    for value in (architecture, training):
        if value is not None and not isinstance(value, dict):
            raise ValueError("architecture and training are JSON objects")
    # The keys of parameters that the training method added must be in both models.
    added_keys = parse_json(metadata.get("added", "[]"))
    for key in added_keys:
        for state in weights.values():
            if key not in state:
                raise ValueError("`added` names parameters that are not there")
    return Checkpoint(
        weights=weights,
        model_kind=model_kind,
        method=method,
        architecture=architecture,
        training=training,
        added=tuple(added_keys),
    )


def _read_published(path: Path) -> Checkpoint:
    """Read a checkpoint in the published layout, which is a file that torch saved.

    It holds a dict with the state dicts "student" and "teacher", or one of them. All other values
    of the dict are ignored.

    Raises:
        CheckpointError: If the file is damaged, has no state dict of these names, or needs more
            than tensors to be unpickled.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are not a pickle raise errors of any kind
        reason = _describe_load_error(error)
        raise CheckpointError(f"{path}: not a checkpoint of tensors alone ({reason})") from error
    if not isinstance(content, Mapping):
        content = {}
    weights: dict[str, dict[str, Tensor]] = {}
    for model_name in ("student", "teacher"):
        state = content.get(model_name)
        if isinstance(state, Mapping):
            weights[model_name] = {}
            for key, value in state.items():
                # "module.visual.proj" -> "visual.proj"
                model_key = str(key).removeprefix(DISTRIBUTED_PREFIX)
                weights[model_name][model_key] = value
    if not weights:
        raise CheckpointError(f"{path}: holds neither `student` nor `teacher` weights")
    return Checkpoint(
        weights, model_kind="cosmos", method="cosmos", architecture=None, training=None
    )


def _describe_load_error(error: Exception) -> str:
    """Return the reason why `torch.load` failed, in one sentence.

    PyTorch hides the error of its unpickler behind an explanation of how to run the code in a file.
    """
    reason: BaseException = error
    if isinstance(error, pickle.UnpicklingError) and error.__context__ is not None:
        reason = error.__context__
    text = str(reason).strip() or type(reason).__name__
    return text.splitlines()[0].partition(". ")[0]
