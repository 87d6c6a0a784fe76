"""Folders of states whose tensors are divided over processes, by `torch.distributed.checkpoint`.
Each process writes its parts as one safetensors file; any number of processes reads what it needs
of them. `state.pt` holds the rest, with the SHA-256 of these files and, instead of weights, their
shapes by key. Tensors without dimensions are stored in the shape (1,)."""

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
    """Write the parts of this process, one of a process group; return the SHA-256 of the files of
    all by name. Raises the error of the first process that has one, in all."""
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    _run(dcp.save, parts, storage_writer=writer, process_group=group)
    own = folder.glob(f"shard-{world.rank + 1:05}-*")
    hashes = world.gather(world.synchronized(lambda: {p.name: file_sha256(p) for p in own}))
    return {name: sha256 for each in hashes for name, sha256 in each.items()}


def read_parts(folder: Path, parts: Mapping[str, Tensor]) -> None:
    """Fill tensors, which may be parts of whole ones, from a folder of any number of processes.
    Raises ValueError or RuntimeError where the folder lacks a key or has another shape."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this process reads by itself
        _run(dcp.load, parts, storage_reader=reader, no_dist=True)


def _run(act: Callable[..., object], parts: Mapping[str, Tensor], **options: Any) -> None:
    try:
        act({key: part if part.ndim else part.view(1) for key, part in parts.items()}, **options)
    except dcp.CheckpointException as error:  # which is no Exception, and of many lines
        raise next(iter(error.failures.values()))[0] from None


def stored_tensors(folder: Path) -> dict[str, Any]:
    """Return what a folder states of its whole tensors by key: `size`, `properties.dtype`."""
    return dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata


def read_state(path: Path) -> dict[str, Any]:
    """Return the state that a file, or a folder beside its tensors, holds; with `folder`, its path.
    Raises an error of any kind for one that is not as it was written. Nothing is unpickled."""
    file = path / REST if path.is_dir() else path
    with zipfile.ZipFile(file) as archive:  # torch itself compares no checksums
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is not as it was written")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if path.is_dir():
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda name: file_sha256(path / name), state["files"])
            for (name, sha256), own in zip(state["files"].items(), found, strict=True):
                if own != sha256:
                    raise ValueError(f"{name} is not as it was written")
        state["folder"] = str(path)
    return state


def read_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the whole weights of a folder, by `student.KEY` and `teacher.KEY`, and the metadata
    that describe their model. Raises as `read_state`."""
    state, stored = read_state(folder), stored_tensors(folder)
    shapes = {f"{name}.{key}": shape for name in MODELS for key, shape in state[name].items()}
    dtypes = {key: stored[key].properties.dtype for key in shapes}
    whole = {key: torch.empty(shape, dtype=dtypes[key]) for key, shape in shapes.items()}
    read_parts(folder, whole)
    return whole, state["model"]


def require_shared(folder: Path, files: Mapping[str, str]) -> None:
    """Raise ValueError where a process has written its file to another machine's folder."""
    if missing := files.keys() - set(os.listdir(folder)):
        raise ValueError(f"{folder} has no {min(missing)}: all machines must share --output")
