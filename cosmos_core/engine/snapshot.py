"""Snapshots of a training, from which it can be resumed exactly.

A snapshot holds everything that the next step depends on. OUTPUT/snapshots/step-00000400.pt holds
the state after 400 steps. If processes hold shards of the weights, the snapshot is a folder,
step-00000400, with a file from each process. Both are written atomically, synchronised to the disk,
and read with `weights_only=True`.
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
from cosmos_core.engine.sharding import split_state
from cosmos_core.model.checkpoint import CHECKPOINT, SNAPSHOTS
from cosmos_core.model.sharded import (
    STATE_FILE,
    read_state,
    require_shared_folder,
    write_shards,
)
from cosmos_core.utils.files import (
    appearing,
    errors_of,
    json_sha256,
    remove,
    replacing,
    write_atomically,
)
from cosmos_core.utils.recipe import FREE, SHARDS, asks_for_scenes, remove_added_defaults

# The file in the folder of snapshots that records the best evaluation.
BEST = "best.json"
RESUME_ADVICE = (
    "remove it, and its copy if save.remote has one, and --resume goes on from the one before"
)
# The version of the format of snapshots.
FORMAT = 1
# The name of a file or folder in the folder of snapshots.
_NAME = re.compile(r"step-(\d{8})(\.pt)?")

# The keys that every snapshot has.
REQUIRED_KEYS = (
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
    """A training cannot be resumed or started in a folder. The message states why in one line."""


class Best(NamedTuple):
    """The best evaluation of a training so far."""

    # The number of training steps before the evaluation.
    step: int
    # The value of the metric that `save.best` names.
    value: float


# A description of the training data by which two sets of shards can be compared. It has an entry
# for each shard: (name, size in bytes, number of samples, hash), or (name,) for a stream.
Fingerprint = Sequence[Sequence[Any]]


class HostCopy:
    """A copy, in host memory, of the nested state of a training.

    The GPU copies the tensors after the work that it has already been given. The process does not
    wait for this until it calls `state`.

    The memory of `previous_copy` is used again for tensors of the same shapes, because to allocate
    memory takes longer than to copy. `previous_copy` must not be used any more.
    """

    def __init__(self, state: Mapping[str, Any], previous_copy: "HostCopy | None" = None) -> None:
        """Copy all tensors of a nested state to the host, without waiting for a GPU.

        Args:
            state: The state, a dictionary of dictionaries, lists, tensors and plain values.
            previous_copy: An older copy, whose memory is used again.
        """
        # Flatten both states to lists of leaves, which are tensors and plain values. Leaves at the
        # same index belong together if the lists have the same length.
        leaves, structure = tree_flatten(dict(state))
        previous_leaves: list[Any] = tree_leaves(previous_copy._state) if previous_copy else []
        if len(previous_leaves) != len(leaves):
            previous_leaves = [None] * len(leaves)
        copied_leaves = []
        for leaf, previous_leaf in zip(leaves, previous_leaves, strict=True):
            if isinstance(leaf, Tensor):
                copied_leaves.append(_copy_to_host(leaf, previous_leaf))
            else:
                copied_leaves.append(leaf)
        self._state: dict[str, Any] = tree_unflatten(copied_leaves, structure)

        # The GPU reaches this event when it has copied all tensors.
        self._copy_event: torch.cuda.Event | None = None
        if torch.cuda.is_initialized():
            self._copy_event = torch.cuda.Event()
            self._copy_event.record()

    def state(self) -> dict[str, Any]:
        """Wait until all tensors are copied, and return the state on the host."""
        if self._copy_event is not None:
            self._copy_event.synchronize()
        return self._state


def _copy_to_host(tensor: Tensor, previous_copy: Any) -> Tensor:
    """Return a copy of a tensor in host memory, which a GPU may still be writing.

    Args:
        tensor: The tensor to copy.
        previous_copy: An older copy on the host. If it is a tensor of the same shape and dtype, it
            is overwritten and returned. Any other value is ignored.
    """
    tensor = tensor.detach()
    # Sharded weights have a subclass of Tensor. Their shards are small, so they get new memory.
    if type(tensor) is Tensor and type(previous_copy) is Tensor:
        has_same_shape = previous_copy.shape == tensor.shape
        has_same_dtype = previous_copy.dtype == tensor.dtype
        if has_same_shape and has_same_dtype:
            return previous_copy.copy_(tensor, non_blocking=True)
    if tensor.is_cuda:
        return tensor.to("cpu", non_blocking=True)
    return tensor.clone()


class Snapshots:
    """The snapshots of one training, in OUTPUT/snapshots.

    The newest `keep` snapshots stay, and the one with the best evaluation.
    """

    def __init__(self, output: Path, keep: int) -> None:
        """Describe the snapshots of a training.

        Args:
            output: The output folder of the training.
            keep: How many of the newest snapshots stay when another one is written.
        """
        self._folder = output / SNAPSHOTS
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the training steps of all snapshots in the folder, in ascending order."""
        steps = set()
        for path in self._folder.glob("step-*"):
            name_match = _NAME.fullmatch(path.name)
            if name_match:
                steps.add(int(name_match[1]))
        return sorted(steps)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a snapshot as a file, and remove old snapshots.

        Args:
            step: The number of training steps.
            state: The state of the training after these steps.

        Returns:
            The path of the file.

        Raises:
            OSError: If it cannot be written. The error names the path.
        """
        folder, path = self._paths(step)
        with errors_of(path), replacing(path) as file:
            torch.save({**state, "format": FORMAT, "step": step}, file)
        _synchronise(self._folder)
        # Remove the sharded snapshot of this step that an earlier run may have left.
        remove(folder)
        self._remove_old()
        return path

    def save_sharded(
        self, step: int, state: Mapping[str, Any], model: Mapping[str, str], world: World
    ) -> Path:
        """Write a snapshot as a folder to which each process adds its shards; remove old snapshots.

        All processes call this method together.

        Args:
            step: The number of training steps.
            state: The state, whose tensors may be shards.
            model: The metadata of the model, as in a checkpoint file.
            world: The processes of the training.

        Returns:
            The path of the folder.

        Raises:
            OSError: If a process cannot write. All processes raise it.
        """
        path, file = self._paths(step)
        tensors, other_values = split_state(state)
        with errors_of(path), ExitStack() as stack:

            def create_folder() -> Path:
                """Create a temporary folder, which is renamed to `path` when the stack closes."""
                # A folder of this name is damaged: otherwise the training had resumed from it.
                remove(path)
                return stack.enter_context(appearing(path))

            # The first process creates the folder, and tells the others its path.
            created_folder = world.main_process_only(create_folder)
            temporary_folder = world.gather(created_folder)[0]
            other_values["format"] = FORMAT
            other_values["step"] = step
            other_values["files"] = write_shards(temporary_folder, tensors, world, world.group)
            other_values["model"] = dict(model)
            # The values that are not shards are the same in all processes.
            world.main_process_only(_write_state_file, temporary_folder, other_values)
        # The folder now has its final name.
        if world.rank == 0:
            _synchronise(self._folder)
            remove(file)
            self._remove_old()
        return path

    def newest(self, required_keys: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return the state in the newest snapshot that is not damaged, on the CPU.

        A damaged snapshot is passed over with a warning.

        Args:
            required_keys: The names of values without which a snapshot counts as damaged.

        Returns:
            The values of the state by name, and the path of the snapshot under the key "path". None
            without a snapshot, or if all of them are damaged.

        Raises:
            SnapshotError: If a snapshot has another format, or another step than its name.
        """
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                state = read_state(path)
            except Exception as error:  # a truncated file raises errors of any kind
                reason = (str(error) or type(error).__name__).splitlines()[0]
                logger.warning(f"{path}: damaged, passed over ({reason})")
                continue

            # Check that it is a complete snapshot of this step.
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise SnapshotError(f"{path}: not a snapshot of this version of cosmos-train")
            missing_keys = [key for key in required_keys if key not in state]
            if missing_keys:
                names = ", ".join(missing_keys)
                logger.warning(f"{path}: damaged, passed over (lacks {names})")
                continue
            if type(state.get("step")) is not int or state["step"] != step:
                value = f"{state.get('step')!r:.40}"
                raise SnapshotError(f"{path}: its step is {value} and not {step}; {RESUME_ADVICE}")
            state["path"] = str(path)
            return state
        return None

    def best(self) -> Best | None:
        """Return the best evaluation that `note_best` has recorded, or None before the first one.

        Raises:
            SnapshotError: If the record is damaged.
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
        """Record the best evaluation so far, whose snapshot is then kept."""
        write_atomically(self._folder / BEST, json.dumps(best._asdict()).encode())
        self._remove_old()

    def path(self, step: int) -> Path:
        """Return the path of the snapshot of a step: the file if it exists, or else the folder."""
        folder, file = self._paths(step)
        return file if file.exists() else folder

    def _paths(self, step: int) -> tuple[Path, Path]:
        """Return the paths that the snapshot of a step has as a folder and as a file.

        It is a folder if the weights are sharded, and a file otherwise. For example, the paths of
        step 400 are snapshots/step-00000400 and snapshots/step-00000400.pt.
        """
        folder = self._folder / f"step-{step:08d}"
        return folder, folder.with_suffix(".pt")

    def _remove_old(self) -> None:
        """Remove all snapshots but the newest ones and the one with the best evaluation."""
        best = self.best()
        old_steps = self.steps()[: -self._keep]
        for step in old_steps:
            if best is None or step != best.step:
                for path in self._paths(step):
                    remove(path)


def _write_state_file(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the file of a sharded snapshot that holds all values but tensors.

    Args:
        folder: The folder of the snapshot.
        values: The values by name. "files" has the hashes of the files that all processes have
            written, by file name.

    Raises:
        ValueError: If one of these files is not in the folder.
    """
    require_shared_folder(folder, values["files"])
    with replacing(folder / STATE_FILE) as file:
        torch.save(values, file)
    _synchronise(folder)


def _synchronise(folder: Path) -> None:
    """Flush the entries of a folder to the disk, so that its files survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_state(
    snapshots: Snapshots, output: Path, config: TrainConfig, *, resume: bool
) -> dict[str, Any] | None:
    """Return the state from which a training resumes, or None for a new training.

    Args:
        snapshots: The snapshots in the output folder.
        output: The output folder of the training.
        config: The configuration of the training.
        resume: True to resume. Otherwise this is a new training, which needs an unused folder.

    Raises:
        SnapshotError: If the folder of a new training has files of another one, if there is nothing
            to resume, or if the snapshot belongs to a training with another configuration.
    """
    if not resume:
        _require_unused(snapshots, output)
        return None
    state = snapshots.newest(REQUIRED_KEYS)
    if state is None:
        raise SnapshotError(f"{output}: no whole snapshot to resume from")

    difference = describe_difference(state, config)
    if difference:
        raise SnapshotError(f"{output} holds another run: {difference}")
    if state["step"] > config.optim.steps:
        raise SnapshotError(
            f"{state['path']}: has more steps than the run, {config.optim.steps}; {RESUME_ADVICE}"
        )
    return state


def require_same_data(stored: Fingerprint, current: Fingerprint) -> None:
    """Check that the training data are the data of the snapshot.

    All shards must be the same, because the order of samples depends on all of them.

    Args:
        stored: The fingerprint of the data that the snapshot states.
        current: The fingerprint of the data now.

    Raises:
        SnapshotError: If a shard differs. The error names the first one.
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
    """The processes of a training have different data. All of them raise this error."""


def require_same_data_everywhere(world: World, fingerprint: Fingerprint | None) -> None:
    """Check that all processes have the same training data. All of them call this together.

    Args:
        world: The processes of the training.
        fingerprint: Describes the data of this process. If it is None in any process, because the
            process was asked to stop before it had read its data, nothing is compared.

    Raises:
        UnequalDataError: If a process has other data than the first one. All processes raise it.
    """
    # Compare hashes, because fingerprints may be large.
    hashes = world.gather(None if fingerprint is None else json_sha256(fingerprint))
    if None in hashes or len(set(hashes)) == 1:
        return

    # Find the first process that differs. It and the process of rank 0 send their fingerprints.
    other_rank = next(rank for rank, sha256 in enumerate(hashes) if sha256 != hashes[0])
    is_compared = world.rank in (0, other_rank)
    hosts_and_fingerprints = world.gather((platform.node(), fingerprint if is_compared else None))
    first_host, first_fingerprint = hosts_and_fingerprints[0]
    other_host, other_fingerprint = hosts_and_fingerprints[other_rank]
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

    # The number of the shard, counted from 1.
    number: int
    # The entry of the shard in the first fingerprint, or None if it has fewer shards.
    first: Sequence[Any] | None
    # The entry of the shard in the second fingerprint, or None if it has fewer shards.
    second: Sequence[Any] | None


def _first_difference(first: Fingerprint, second: Fingerprint) -> _ShardDifference | None:
    """Return the first shard that differs between two fingerprints, or None if none differs.

    Args:
        first: A fingerprint, which is a list with an entry for each shard.
        second: The other fingerprint.

    Example:
        [["a.tar"], ["b.tar"]] and [["a.tar"]] differ in shard number 2, which the second
        fingerprint lacks.
    """
    shard_pairs = zip_longest(first, second)
    for number, (first_shard, second_shard) in enumerate(shard_pairs, start=1):
        if first_shard != second_shard:
            return _ShardDifference(number, first_shard, second_shard)
    return None


def _count_samples(fingerprint: Fingerprint) -> int:
    """Return the number of samples in all shards of a fingerprint."""
    return sum(n_samples for _, _, n_samples, _ in fingerprint)


def _describe_shard(entry: Sequence[Any] | None) -> str:
    """Describe a shard for an error message.

    Args:
        entry: The entry of the shard in a fingerprint, or None if the shard is missing.

    Example::

        ["a.tar", 2048, 5, "0123456789ab"]
        -> "a.tar of 2048 bytes with 5 samples (positions 01234567)"
        ["a.tar"] -> "a.tar"
        None -> "missing"
    """
    if entry is None:
        return "missing"
    if len(entry) == 1:  # only the name of a stream is known
        return str(entry[0])
    name, size, n_samples, positions_sha256 = entry
    return f"{name} of {size} bytes with {n_samples} samples (positions {positions_sha256:.8})"


def _require_unused(snapshots: Snapshots, output: Path) -> None:
    """Check that the output folder has no files of another training.

    Args:
        snapshots: The snapshots in the folder.
        output: The folder, which may be missing.

    Raises:
        SnapshotError: If it has a snapshot, a checkpoint or a log that is not empty.
    """
    steps = snapshots.steps()
    if steps:
        raise SnapshotError(
            f"{output} holds a run of {steps[-1]} steps: go on with it by --resume, or choose "
            "another folder by --output"
        )
    file_names = []
    for name in (CHECKPOINT, LOG):
        path = output / name
        if path.exists() and path.stat().st_size > 0:
            file_names.append(name)
    if file_names:
        raise SnapshotError(
            f"{output} holds {' and '.join(file_names)} of a run without a snapshot to resume: "
            "choose another folder by --output, or remove what is not needed"
        )


@contextmanager
def restoring(state: Mapping[str, Any], content: str) -> Iterator[None]:
    """Turn any error of the block, which restores a value from a snapshot, into a SnapshotError.

    Args:
        state: The state in the snapshot, with the path of the snapshot under the key "path".
        content: The name of the restored value for the error message, such as "optimizer".

    Raises:
        SnapshotError: If the block raises an error.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SnapshotError(
            f"{state['path']}: cannot be resumed from ({content}: {reason:.200}); {RESUME_ADVICE}"
        ) from error


def random_state() -> dict[str, Any]:
    """Return the states of the random generators of PyTorch, Python and NumPy in this process.

    The result has only plain types and tensors, so that it can be stored in a snapshot.
    """
    # NumPy's state is a tuple: the name of the generator, an array of keys, and numbers. The keys
    # are stored as a tensor of int64, since snapshots hold no arrays.
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
    """Set all random generators of this process to a state that `random_state` has returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *other_values = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *other_values))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def plain_config(config: TrainConfig) -> dict[str, Any]:
    """Return a configuration as a dictionary with only the types of JSON.

    Tuples become lists. Options that were added in later versions are left out if they have no
    effect, so that the result equals the one that an earlier version has stored.
    """
    config_as_json = json.dumps(asdict(config))
    return remove_added_defaults(json.loads(config_as_json))


def describe_difference(
    state: Mapping[str, Any], config: TrainConfig, *, allowed: tuple[str, ...] = ()
) -> str | None:
    """Describe the first option in which a training differs from the one of a snapshot.

    Args:
        state: The state in the snapshot.
        config: The configuration of the training.
        allowed: The full names of options that may differ, besides FREE.

    Returns:
        A text such as "optim.lr is 0.1 there and 0.2 here", or None if no option differs.
    """
    allowed_differences = (*FREE, *allowed)
    # Shards may have been moved: their fingerprint is compared when they are opened.
    if state.get("data") and not asks_for_scenes(config.data.shards):
        allowed_differences = (*allowed_differences, SHARDS)
    return _first_different_option(state["config"], plain_config(config), allowed_differences)


def _first_different_option(
    stored: Any, current: Any, allowed_prefixes: tuple[str, ...], name: str = ""
) -> str | None:
    """Describe the first option in which two configurations differ.

    Args:
        stored: The configuration in a snapshot. The function calls itself for each section and
            each option of a configuration. Then it is the value of the section or option.
        current: The configuration now, or the value that belongs to `stored`.
        allowed_prefixes: Options may differ if their full names start with one of these texts.
        name: The full name of the section or option, such as "optim.lr", or "" at the start.

    Returns:
        A text such as "optim.lr is 0.1 there and 0.2 here", or None if no option differs.
    """
    if name.startswith(allowed_prefixes):
        return None
    is_section = isinstance(stored, dict) and isinstance(current, dict)
    if not is_section:
        if stored == current:
            return None
        return f"{name} is {stored!r} there and {current!r} here"
    for key in sorted(stored.keys() | current.keys()):
        full_name = f"{name}.{key}" if name else key
        difference = _first_different_option(
            stored.get(key), current.get(key), allowed_prefixes, full_name
        )
        if difference is not None:
            return difference
    return None
