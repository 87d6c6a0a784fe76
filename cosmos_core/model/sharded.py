"""Sharded snapshots: folders of training states whose tensors are divided over processes.

`torch.distributed.checkpoint` writes and reads the tensors. Each process writes its shards as one
safetensors file. Any number of processes can read the folder, and each reads only the shards that
it needs. `state.pt` holds all other values, the SHA-256 of the safetensors files and, instead of
weights, their shapes by key. Tensors without dimensions are stored in the shape (1,).
"""

import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from cosmos_core.utils.distributed import Distributed
from cosmos_core.utils.files import file_sha256

# The file of a sharded snapshot that holds everything but tensors.
STATE_FILE = "state.pt"
# The names of models in a state.
MODELS = ("student", "teacher")


def write_shards(
    folder: Path, shards: Mapping[str, Tensor], world: Distributed, process_group: Any
) -> dict[str, str]:
    """Write the shards of this process to a folder, while all processes do the same.

    Args:
        folder: The folder, which all processes share.
        shards: The tensors of this process by key. A tensor may be a shard of a larger one.
        world: This process and its communication with others.
        process_group: PyTorch's group of the processes that write.

    Returns:
        The SHA-256 of the files of all processes, by file name.

    Raises:
        Exception: If a process fails. All processes raise its error.
    """
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    _call_checkpoint(dcp.save, shards, storage_writer=writer, process_group=process_group)

    def hash_own_files() -> dict[str, str]:
        """Return the SHA-256 of the files that this process has written."""
        files = folder.glob(f"shard-{world.rank + 1:05}-*")
        return {file.name: file_sha256(file) for file in files}

    all_hashes: dict[str, str] = {}
    for process_hashes in world.gather(world.synchronized(hash_own_files)):
        all_hashes.update(process_hashes)
    return all_hashes


def read_shards(folder: Path, shards: Mapping[str, Tensor]) -> None:
    """Read tensors from a folder, in place.

    Args:
        folder: The folder, which any number of processes may have written.
        shards: The tensors to fill by key. A tensor may be a shard of a larger one.

    Raises:
        ValueError, RuntimeError: If the folder lacks a key, or has a tensor of another shape.
    """
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        # PyTorch warns that this process reads without the others.
        warnings.simplefilter("ignore", UserWarning)
        _call_checkpoint(dcp.load, shards, storage_reader=reader, no_dist=True)


def _call_checkpoint(
    function: Callable[..., object], tensors: Mapping[str, Tensor], **options: Any
) -> None:
    """Call `dcp.save` or `dcp.load` with tensors, and raise the first error of a process.

    Args:
        function: `dcp.save` or `dcp.load`.
        tensors: The tensors by key. Those without dimensions are stored in the shape (1,).
        **options: Further arguments of the function.
    """
    stored_tensors = {}
    for key, tensor in tensors.items():
        stored_tensors[key] = tensor if tensor.ndim else tensor.view(1)
    try:
        function(stored_tensors, **options)
    except dcp.CheckpointException as error:
        # This class has messages of many lines, and is not a subclass of Exception.
        first_error, _ = next(iter(error.failures.values()))
        raise first_error from None


def read_tensor_metadata(folder: Path) -> dict[str, Any]:
    """Return PyTorch's metadata of each whole tensor in a folder, by key.

    The metadata of a tensor have its shape as `size`, and its dtype as `properties.dtype`.
    """
    return dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata


def read_state(path: Path) -> dict[str, Any]:
    """Return the training state in a snapshot.

    Nothing is unpickled but tensors and plain values.

    Args:
        path: The file of the snapshot, or its folder if the snapshot is sharded. The tensors of a
            folder are not read, but their files are compared with the stored SHA-256.

    Returns:
        The values of the state by name. If the snapshot is sharded, the state has shapes in place
        of tensors, and the path of the folder under the key "folder".

    Raises:
        Exception: Any error, if a file is damaged.
    """
    file = path / STATE_FILE if path.is_dir() else path
    # Compare the checksums of the zip file, because `torch.load` does not.
    with zipfile.ZipFile(file) as archive:
        damaged_member = archive.testzip()
        if damaged_member:
            raise ValueError(f"{damaged_member} is not as it was written")
    state = torch.load(file, map_location="cpu", weights_only=True)

    if path.is_dir():
        # Compare the files of the shards with their hashes, several files at a time.
        expected_hash_by_name = state["files"]
        shard_files = [path / name for name in expected_hash_by_name]
        with ThreadPoolExecutor(8) as pool:
            hashes = pool.map(file_sha256, shard_files)
            for shard_file, sha256 in zip(shard_files, hashes, strict=True):
                if sha256 != expected_hash_by_name[shard_file.name]:
                    raise ValueError(f"{shard_file.name} is not as it was written")
        state["folder"] = str(path)
    return state


def read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the whole weights of the models in a sharded snapshot, and their metadata.

    Args:
        folder: The folder of the snapshot.

    Returns:
        The tensors of both models by their keys, such as "student.visual.proj" and
        "teacher.visual.proj", and the metadata that a checkpoint file of the models would have.

    Raises:
        Exception: Any error, if a file is damaged.
    """
    state = read_state(folder)
    tensor_metadata = read_tensor_metadata(folder)
    # Allocate tensors of the stored shapes.
    weights = {}
    for model_name in MODELS:
        for model_key, shape in state[model_name].items():
            key = f"{model_name}.{model_key}"
            weights[key] = torch.empty(shape, dtype=tensor_metadata[key].properties.dtype)
    # Fill them, in place.
    read_shards(folder, weights)
    return weights, state["model"]


def require_shared_folder(folder: Path, file_names: Iterable[str]) -> None:
    """Check that the files that all processes have written are in this process's folder.

    A file is missing if the machines of a training do not share the output folder.

    Args:
        folder: The folder of this process.
        file_names: The names of the files that all processes have written.

    Raises:
        ValueError: If a file is missing.
    """
    missing_files = set(file_names) - set(os.listdir(folder))
    if missing_files:
        name = min(missing_files)
        raise ValueError(f"{folder} has no {name}: all machines must share --output")
