"""Folders of states whose tensors are divided over processes, by `torch.distributed.checkpoint`.

Each process writes its shards of the tensors as one safetensors file. Any number of processes can
read the folder, and each reads only the shards that it needs. `state.pt` holds all other values,
the SHA-256 of the safetensors files and, instead of weights, their shapes by key. Tensors without
dimensions are stored in the shape (1,).
"""

import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from cosmos_core.utils.distributed import Distributed
from cosmos_core.utils.files import file_sha256

REST = "state.pt"
MODELS = ("student", "teacher")


def write_parts(
    folder: Path, parts: Mapping[str, Tensor], world: Distributed, group: Any
) -> dict[str, str]:
    """Write the shards of this process, which is one of a process group, to a folder.

    Return the SHA-256 of the files of all processes by name. If processes have errors, all
    raise the first one.
    """
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    _call_checkpoint(dcp.save, parts, storage_writer=writer, process_group=group)

    def hash_files() -> dict[str, str]:
        files = folder.glob(f"shard-{world.rank + 1:05}-*")
        return {file.name: file_sha256(file) for file in files}

    all_hashes: dict[str, str] = {}
    for process_hashes in world.gather(world.synchronized(hash_files)):
        all_hashes.update(process_hashes)
    return all_hashes


def read_parts(folder: Path, parts: Mapping[str, Tensor]) -> None:
    """Fill tensors, which may be shards of whole ones, from a folder of any number of processes.

    Raises ValueError or RuntimeError if the folder lacks a key or has a tensor of another shape.
    """
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        # PyTorch warns that this process reads without the others.
        warnings.simplefilter("ignore", UserWarning)
        _call_checkpoint(dcp.load, parts, storage_reader=reader, no_dist=True)


def _call_checkpoint(
    function: Callable[..., object], tensors: Mapping[str, Tensor], **options: Any
) -> None:
    """Call `dcp.save` or `dcp.load` with tensors, and raise the first error of a process."""
    tensors = {key: tensor if tensor.ndim else tensor.view(1) for key, tensor in tensors.items()}
    try:
        function(tensors, **options)
    except dcp.CheckpointException as error:
        # It has many lines, and is not an Exception.
        first_error, _ = next(iter(error.failures.values()))
        raise first_error from None


def stored_tensors(folder: Path) -> dict[str, Any]:
    """Return the metadata of a folder's whole tensors by key: `size` and `properties.dtype`."""
    return dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata


def read_state(path: Path) -> dict[str, Any]:
    """Return the state in a file, or in a folder together with the folder's path as `folder`.

    The tensors of a folder are not read. Raises an error of any kind for files that are not as they
    were written. Nothing is unpickled.
    """
    file = path / REST if path.is_dir() else path
    with zipfile.ZipFile(file) as archive:  # torch itself compares no checksums
        damaged_member = archive.testzip()
        if damaged_member:
            raise ValueError(f"{damaged_member} is not as it was written")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if path.is_dir():
        _require_hashes(path, state["files"])
        state["folder"] = str(path)
    return state


def _require_hashes(folder: Path, expected_hashes: Mapping[str, str]) -> None:
    """Raise ValueError if a file of a folder does not have the SHA-256 of its name."""
    files = [folder / name for name in expected_hashes]
    with ThreadPoolExecutor(8) as pool:
        for file, sha256 in zip(files, pool.map(file_sha256, files), strict=True):
            if sha256 != expected_hashes[file.name]:
                raise ValueError(f"{file.name} is not as it was written")


def read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the whole weights of a folder, and the metadata that describe their model.

    The keys of weights are `student.KEY` and `teacher.KEY`. Raises the errors of `read_state`.
    """
    state, tensor_metadata = read_state(folder), stored_tensors(folder)
    weights = {}
    for name in MODELS:
        for model_key, shape in state[name].items():
            key = f"{name}.{model_key}"
            weights[key] = torch.empty(shape, dtype=tensor_metadata[key].properties.dtype)
    read_parts(folder, weights)
    return weights, state["model"]


def require_shared(folder: Path, files: Mapping[str, str]) -> None:
    """Raise ValueError if a process has written its file to a folder of another machine."""
    missing_files = files.keys() - set(os.listdir(folder))
    if missing_files:
        name = min(missing_files)
        raise ValueError(f"{folder} has no {name}: all machines must share --output")
