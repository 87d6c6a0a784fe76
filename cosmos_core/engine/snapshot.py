"""Snapshots of a run: everything that its next step depends on, so that it can be resumed exactly.

OUTPUT/snapshots/step-00000400.pt holds the state after 400 steps. A snapshot of sharded weights is
the folder step-00000400, with a file of each process. Both are written atomically, synchronised to
the disk, and read with `weights_only=True`.
"""

import json
import logging
import os
import platform
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.loggers import LOG
from cosmos_core.engine.sharding import divide
from cosmos_core.model.checkpoint import CHECKPOINT, SNAPSHOTS
from cosmos_core.model.sharded import REST, read_state, require_shared, write_parts
from cosmos_core.utils.files import (
    appearing,
    errors_of,
    json_sha256,
    remove,
    replacing,
    write_atomically,
)
from cosmos_core.utils.recipe import FREE, SCENES, SHARDS, without_added

BEST = "best.json"
REMEDY = "remove it, and --resume goes on from the one before"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8})(\.pt)?")

# Keys that every snapshot has.
PARTS = (
    "config",
    "student",
    "teacher",
    "optimizer",
    "scaler",
    "step",
    "random",
    "problems",
    "seconds",
)

logger = logging.getLogger(__name__)


class SnapshotError(ValueError):
    """A folder that cannot be resumed, with the reason in one line."""


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    value: float  # of the metric `save.best`


# An entry for each shard: (name, bytes, samples, hash), or (name,) for a stream.
Fingerprint = Sequence[Sequence[Any]]


class HostCopy:
    """A copy of a nested state on the host.

    The device copies in the order of its work, and the process does not wait for the copy until it
    asks for the state. Memory of a `former` copy is used again for tensors of the same shapes,
    because to allocate memory takes longer than to copy. The former copy must no longer be used.
    """

    def __init__(self, state: Mapping[str, Any], former: "HostCopy | None" = None) -> None:
        leaves, structure = tree_flatten(dict(state))
        former_leaves: list[Any] = tree_leaves(former._state) if former else []
        if len(former_leaves) != len(leaves):
            former_leaves = [None] * len(leaves)
        copied_leaves = []
        for leaf, former_leaf in zip(leaves, former_leaves, strict=True):
            if isinstance(leaf, Tensor):
                copied_leaves.append(_copy_to_host(leaf, former_leaf))
            else:
                copied_leaves.append(leaf)
        self._state: dict[str, Any] = tree_unflatten(copied_leaves, structure)
        # On a GPU: an event that is reached when all tensors are copied.
        self._copied: torch.cuda.Event | None = None
        if torch.cuda.is_initialized():
            self._copied = torch.cuda.Event()
            self._copied.record()

    def state(self) -> dict[str, Any]:
        """Return the state, with all tensors on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._state


def _copy_to_host(tensor: Tensor, former_copy: Any) -> Tensor:
    """Return a copy of a tensor on the host.

    The memory of `former_copy` is used again if it is a tensor of the same shape and dtype.
    """
    tensor = tensor.detach()
    # Sharded weights are of another type. Their shards are small, so they get new memory.
    are_plain_tensors = type(tensor) is Tensor and type(former_copy) is Tensor
    if are_plain_tensors and (tensor.shape, tensor.dtype) == (former_copy.shape, former_copy.dtype):
        return former_copy.copy_(tensor, non_blocking=True)
    if tensor.is_cuda:
        return tensor.to("cpu", non_blocking=True)
    return tensor.clone()


class Snapshots:
    """The snapshots of one run, in OUTPUT/snapshots."""

    def __init__(self, output: Path, keep: int) -> None:
        self._folder, self._keep = output / SNAPSHOTS, keep

    def steps(self) -> list[int]:
        """Return the steps of the snapshots that exist, ascending."""
        steps = set()
        for path in self._folder.glob("step-*"):
            name_match = _NAME.fullmatch(path.name)
            if name_match:
                steps.add(int(name_match[1]))
        return sorted(steps)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after `step` steps, and remove old snapshots.

        Raises OSError, with the path.
        """
        folder, path = self._paths(step)
        with errors_of(path), replacing(path) as file:
            torch.save({**state, "format": FORMAT, "step": step}, file)
        _synchronise(self._folder)
        remove(folder)
        self._remove_old()
        return path

    def save_sharded(
        self, step: int, state: Mapping[str, Any], model: Mapping[str, str], world: World
    ) -> Path:
        """Write the state after `step` steps; all processes of `world` call it.

        Each process writes its shards, and the first one completes the folder. `model` describes
        the weights. Raises OSError in all processes.
        """
        path, file = self._paths(step)
        tensors, other_values = divide(state)
        with errors_of(path), ExitStack() as stack:
            # The first process creates the folder, and tells the others its path.
            created_folder = world.main_process_only(lambda: self._create_folder(stack, path))
            temporary_folder = world.gather(created_folder)[0]
            files = write_parts(temporary_folder, tensors, world, world.group)
            other_values["format"] = FORMAT
            other_values["step"] = step
            other_values["files"] = files
            other_values["model"] = dict(model)
            world.main_process_only(lambda: _complete(temporary_folder, other_values))
        if world.rank == 0:
            _synchronise(self._folder)
            remove(file)
            self._remove_old()
        return path

    def _create_folder(self, stack: ExitStack, path: Path) -> Path:
        """Create and return a temporary folder that is renamed to `path` when the stack closes."""
        # A folder of this name is damaged, else the run would have been resumed from it.
        remove(path)
        return stack.enter_context(appearing(path))

    def newest(self, parts: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return the newest snapshot that has all `parts`, on the CPU, with its path as `path`.

        Damaged snapshots are passed over, with a warning. Return None if there is no whole one.
        Raises SnapshotError for another format, and if a snapshot has another step than its name.
        """
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                state = read_state(path)
            except Exception as error:  # a truncated file raises errors of any kind
                reason = (str(error) or type(error).__name__).splitlines()[0]
                logger.warning(f"{path}: damaged, passed over ({reason})")
                continue
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise SnapshotError(f"{path}: not a snapshot of this version of cosmos-train")
            missing_parts = [name for name in parts if name not in state]
            if missing_parts:
                names = ", ".join(missing_parts)
                logger.warning(f"{path}: damaged, passed over (lacks {names})")
                continue
            if type(state.get("step")) is not int or state["step"] != step:
                value = f"{state.get('step')!r:.40}"
                raise SnapshotError(f"{path}: its step is {value} and not {step}; {REMEDY}")
            state["path"] = str(path)
            return state
        return None

    def best(self) -> Best | None:
        """Return the best evaluation that `note_best` recorded, or None.

        Raises SnapshotError if the record is damaged.
        """
        path = self._folder / BEST
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Best(int(content["step"]), float(content["value"]))
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise SnapshotError(
                f"{path}: damaged; remove it, and the best evaluation from then on is noted"
            ) from error

    def note_best(self, best: Best) -> None:
        """Record the best evaluation, and keep its snapshot instead of the former best one."""
        write_atomically(self._folder / BEST, json.dumps(best._asdict()).encode())
        self._remove_old()

    def path(self, step: int) -> Path:
        """Return the path of the snapshot of a step: a file, or a folder."""
        folder, file = self._paths(step)
        return file if file.exists() else folder

    def _paths(self, step: int) -> tuple[Path, Path]:
        """Return the folder and the file that a snapshot of a step could be."""
        folder = self._folder / f"step-{step:08d}"
        return folder, folder.with_suffix(".pt")

    def _remove_old(self) -> None:
        """Remove old snapshots; the last `keep` and the best one stay."""
        best = self.best()
        for step in self.steps()[: -self._keep]:
            if best is None or step != best.step:
                for path in self._paths(step):
                    remove(path)


def _complete(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the values of a sharded snapshot that are not tensors, once all files are there."""
    require_shared(folder, values["files"])
    with replacing(folder / REST) as file:
        torch.save(values, file)
    _synchronise(folder)


def _synchronise(folder: Path) -> None:
    """Write the names in a folder to the disk, so that they survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_state(
    snapshots: Snapshots, output: Path, config: TrainConfig, *, resume: bool
) -> dict[str, Any] | None:
    """Return the state to resume from, or None for a new run.

    Raises SnapshotError if a new run would meet an older run in its folder, if there is nothing to
    resume, and if the snapshot belongs to another run.
    """
    if not resume:
        _require_unused(snapshots, output)
        return None
    state = snapshots.newest(PARTS)
    if state is None:
        raise SnapshotError(f"{output}: no whole snapshot to resume from")
    allowed_differences: tuple[str, ...] = FREE
    if state.get("data") and not config.data.shards.startswith(SCENES):
        # Shards may be elsewhere: their fingerprint is compared later.
        allowed_differences = (*FREE, SHARDS)
    difference = _difference(state["config"], plain(config), allowed_differences)
    if difference:
        raise SnapshotError(f"{output} holds another run: {difference}")
    if state["step"] > config.optim.steps:
        raise SnapshotError(
            f"{state['path']}: has more steps than the run, {config.optim.steps}; {REMEDY}"
        )
    return state


def require_same_data(stored: Fingerprint, current: Fingerprint) -> None:
    """Raise SnapshotError unless two fingerprints of `SampleIndex` are the same.

    The order of the samples depends on all shards. The error names the first difference.
    """
    difference = _first_difference(stored, current)
    if difference is None:
        return
    raise SnapshotError(
        f"the data differ from the data of the snapshot: shard {difference.number} was "
        f"{_describe_shard(difference.first)} and is {_describe_shard(difference.second)}; there "
        f"were {_count_samples(stored)} samples, and are {_count_samples(current)}; name the same "
        "tars by --set data.shards=, or start again in another folder"
    )


class UnequalDataError(ValueError):
    """Processes would train together with different data. All of them raise it."""


def require_same_data_everywhere(world: World, fingerprint: Fingerprint | None) -> None:
    """Raise UnequalDataError in all processes if one has other shards than the first.

    `fingerprint` is from `SampleIndex`, or has the names of streams. It is None if a process has
    not read its data: then nothing is compared.
    """
    hashes = world.gather(None if fingerprint is None else json_sha256(fingerprint))
    if None in hashes or len(set(hashes)) == 1:
        return
    other_rank = next(rank for rank, sha256 in enumerate(hashes) if sha256 != hashes[0])
    # Only these two processes send their fingerprints, which may be large.
    is_compared = world.rank in (0, other_rank)
    reports = world.gather((platform.node(), fingerprint if is_compared else None))
    first_host, first_fingerprint = reports[0]
    other_host, other_fingerprint = reports[other_rank]
    difference = _first_difference(first_fingerprint, other_fingerprint)
    assert difference is not None  # since the hashes differ
    raise UnequalDataError(
        f"rank {other_rank} on {other_host} has other data than rank 0 on {first_host}: shard "
        f"{difference.number} is {_describe_shard(difference.second)}, not "
        f"{_describe_shard(difference.first)}; copy the same tars to all machines, and name them "
        "by --set data.shards="
    )


class _ShardDifference(NamedTuple):
    """A shard that differs between two fingerprints."""

    # Its number, counted from 1.
    number: int
    # Its entries in both fingerprints; None if a fingerprint has fewer shards.
    first: Sequence[Any] | None
    second: Sequence[Any] | None


def _first_difference(first: Fingerprint, second: Fingerprint) -> _ShardDifference | None:
    """Return the first shard that differs between two fingerprints, or None if none differs."""
    pairs = zip_longest(first, second)
    for number, (first_shard, second_shard) in enumerate(pairs, start=1):
        if first_shard != second_shard:
            return _ShardDifference(number, first_shard, second_shard)
    return None


def _count_samples(fingerprint: Fingerprint) -> int:
    """Return the number of samples in all shards of a fingerprint."""
    return sum(n_samples for _, _, n_samples, _ in fingerprint)


def _describe_shard(entry: Sequence[Any] | None) -> str:
    """Return a description of a shard for an error message, from its entry in a fingerprint."""
    if entry is None:
        return "missing"
    if len(entry) == 1:  # only the name of a stream is known
        return str(entry[0])
    name, size, samples, positions = entry
    return f"{name} of {size} bytes with {samples} samples (positions {positions:.8})"


def _require_unused(snapshots: Snapshots, output: Path) -> None:
    """Raise SnapshotError if the output folder has files of another run."""
    steps = snapshots.steps()
    if steps:
        raise SnapshotError(
            f"{output} holds a run of {steps[-1]} steps: go on with it by --resume, or choose "
            "another folder by --output"
        )
    files = []
    for name in (CHECKPOINT, LOG):
        path = output / name
        if path.exists() and path.stat().st_size:
            files.append(name)
    if files:
        raise SnapshotError(
            f"{output} holds {' and '.join(files)} of a run without a snapshot to resume: choose "
            "another folder by --output, or remove what is not needed"
        )


@contextmanager
def reading(state: Mapping[str, Any], part: str) -> Iterator[None]:
    """Raise SnapshotError for any error of the block, which uses a part of a snapshot."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SnapshotError(
            f"{state['path']}: cannot be resumed from ({part}: {reason:.200}); {REMEDY}"
        ) from error


def random_state() -> dict[str, Any]:
    """Return the states of all random generators of this process, as plain types and tensors."""
    name, keys, *other_values = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *other_values),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set every random generator to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *other_values = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *other_values))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def plain(config: TrainConfig) -> dict[str, Any]:
    """Convert a configuration to the types of JSON: tuples become lists.

    Options that an earlier version lacks are left out if they have no effect, so that the result
    equals a configuration of the earlier version.
    """
    return without_added(json.loads(json.dumps(asdict(config))))


def _difference(stored: Any, current: Any, allowed: tuple[str, ...], name: str = "") -> str | None:
    """Return the first option, in words, in which two configurations differ.

    Options whose full names start with one of `allowed` may differ.
    """
    if name.startswith(allowed):
        return None
    if not isinstance(stored, dict) or not isinstance(current, dict):
        if stored == current:
            return None
        return f"{name} is {stored!r} there and {current!r} here"
    for key in sorted(stored.keys() | current.keys()):
        full_name = f"{name}.{key}" if name else key
        difference = _difference(stored.get(key), current.get(key), allowed, full_name)
        if difference:
            return difference
    return None
