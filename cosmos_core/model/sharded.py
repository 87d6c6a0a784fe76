"""Folders of states whose tensors are divided over processes, by `torch.distributed.checkpoint`.
Each process writes its parts as one safetensors file; any number of processes reads what it needs
of them. `state.pt` holds the rest, with bytes and CRC-32 of these files and, instead of weights,
their shapes by key. Tensors without dimensions are stored in the shape (1,)."""

import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from cosmos_core.utils.distributed import Distributed

REST = "state.pt"
MODELS = ("student", "teacher")
Sums = dict[str, list[int]]  # of files by name: bytes and CRC-32


def write_parts(
    folder: Path, parts: Mapping[str, Tensor], world: Distributed, group: dist.ProcessGroup
) -> Sums:
    """Write the parts of this process, one of `group`; return the sums of the files of all. Raises
    the error of the first process that has one, in all."""
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    stored = {key: _with_dimension(tensor) for key, tensor in parts.items()}
    try:
        dcp.save(stored, storage_writer=writer, process_group=group)
    except dcp.CheckpointException as error:  # which is no Exception, and of many lines
        raise next(iter(error.failures.values()))[0] from None
    own = world.synchronized(lambda: _sums(folder.glob(f"shard-{world.rank + 1:05}-*")))
    return {name: sums for each in world.gather(own) for name, sums in each.items()}


def read_parts(folder: Path, parts: Mapping[str, Tensor]) -> None:
    """Fill tensors, which may be parts of whole ones, from a folder of any number of processes.
    Raises ValueError or RuntimeError where the folder lacks a key or has another shape."""
    stored = {key: _with_dimension(tensor) for key, tensor in parts.items()}
    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that other processes read by themselves
            dcp.load(stored, storage_reader=reader, no_dist=True)
    except dcp.CheckpointException as error:
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
        _require_files(path, state["files"])
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


def require_shared(folder: Path, sums: Sums) -> None:
    """Raise RuntimeError where a process has written its files to another machine's folder."""
    if missing := sums.keys() - set(os.listdir(folder)):
        raise RuntimeError(
            f"{folder.parent} is not one folder for all machines: {min(missing)} is elsewhere; "
            "choose an --output on a file system that they share"
        )


def _require_files(folder: Path, sums: Sums) -> None:
    if missing := sums.keys() - set(os.listdir(folder)):
        raise ValueError(f"{min(missing)} is missing")
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(_sum, (folder / name for name in sums))
        for name, own in zip(sums, found, strict=True):
            if own != sums[name]:
                raise ValueError(f"{name} is not as it was written")


def _sums(paths: Iterable[Path]) -> Sums:
    return {path.name: _sum(path) for path in paths}


def _sum(path: Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, 1 << 20), b""):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]


def _with_dimension(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim else tensor.view(1)
