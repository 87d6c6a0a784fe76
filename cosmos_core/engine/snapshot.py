"""Snapshots of a run: everything that the next step depends on, so that it goes on exactly.
OUTPUT/snapshots/step-00000400.pt holds the state after 400 steps; of sharded weights, it is the
folder step-00000400 with a file of each process. Both are written atomically, synchronised, and
read with `weights_only=True`."""

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

# All keys of a snapshot.
PARTS = (
    *("config", "student", "teacher", "optimizer", "scaler"),
    *("step", "random", "problems", "seconds"),
)

logger = logging.getLogger(__name__)


class SnapshotError(ValueError):
    """A folder that cannot be resumed, with the reason in one line."""


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    value: float


class HostCopy:
    """A copy of a nested state. It is taken in the order of the device's work; the process does not
    wait for it until it asks for the state. The memory of a `former` copy, which must no longer be
    used, is taken where tensors have the same shapes: to allocate it takes longer than to copy."""

    def __init__(self, state: Mapping[str, Any], former: "HostCopy | None" = None) -> None:
        leaves, structure = tree_flatten(dict(state))
        old: list[Any] = tree_leaves(former._state) if former else []
        old = old if len(old) == len(leaves) else [None] * len(leaves)
        copies = [
            _copy(*pair) if isinstance(pair[0], Tensor) else pair[0]
            for pair in zip(leaves, old, strict=True)
        ]
        self._state: dict[str, Any] = tree_unflatten(copies, structure)
        self._copied = torch.cuda.Event() if torch.cuda.is_initialized() else None
        if self._copied is not None:
            self._copied.record()

    def state(self) -> dict[str, Any]:
        """Return the state, with all tensors on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._state


def _copy(tensor: Tensor, old: Any) -> Tensor:
    tensor = tensor.detach()
    plain = type(tensor) is type(old) is Tensor  # no part of sharded weights, which is small
    if plain and (tensor.shape, tensor.dtype) == (old.shape, old.dtype):
        return old.copy_(tensor, non_blocking=True)
    return tensor.to("cpu", non_blocking=True) if tensor.is_cuda else tensor.clone()


class Snapshots:
    """The snapshots of one run, in OUTPUT/snapshots."""

    def __init__(self, output: Path, keep: int) -> None:
        self._folder, self._keep = output / SNAPSHOTS, keep

    def steps(self) -> list[int]:
        """Return the steps of the snapshots that exist, ascending."""
        names = [_NAME.fullmatch(path.name) for path in self._folder.glob("step-*")]
        return sorted({int(name[1]) for name in names if name})

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after `step` steps; remove old ones. Raises OSError, with the path."""
        folder, path = self._paths(step)
        with errors_of(path), replacing(path) as file:
            torch.save({**state, "format": FORMAT, "step": step}, file)
        _synchronise(self._folder)
        remove(folder)
        self._thin()
        return path

    def save_sharded(
        self, step: int, state: Mapping[str, Any], model: Mapping[str, str], world: World
    ) -> Path:
        """Write the state after `step` steps, each process its part; the first one completes it.
        `model` describes the weights. All processes of `world` call it. Raises OSError in all."""
        path, file = self._paths(step)
        parts, rest = divide(state)
        with errors_of(path), ExitStack() as stack:
            made = world.main_process_only(lambda: self._begin(stack, path))
            temporary = world.gather(made)[0]
            files = write_parts(temporary, parts, world, world.group)
            rest |= {"format": FORMAT, "step": step, "files": files, "model": dict(model)}
            world.main_process_only(lambda: _complete(temporary, rest))
        if world.rank == 0:
            _synchronise(self._folder)
            remove(file)
            self._thin()
        return path

    def _begin(self, stack: ExitStack, path: Path) -> Path:
        remove(path)  # which was damaged: else the run had gone on from it
        return stack.enter_context(appearing(path))

    def newest(self, parts: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return the newest snapshot with all `parts` and, as `path`, its path, on the CPU; log
        warnings of damaged ones. Raises SnapshotError for another format, or a step that is not
        that of its name."""
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
            if missing := [name for name in parts if name not in state]:
                logger.warning(f"{path}: damaged, passed over (lacks {', '.join(missing)})")
                continue
            if type(state.get("step")) is not int or state["step"] != step:
                value = f"{state.get('step')!r:.40}"
                raise SnapshotError(f"{path}: its step is {value} and not {step}; {REMEDY}")
            return {**state, "path": str(path)}
        return None

    def best(self) -> Best | None:
        """Return the best evaluation that `note_best` recorded. Raises SnapshotError if damaged."""
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
        """Keep the snapshot of this step from now on, instead of the former best."""
        write_atomically(self._folder / BEST, json.dumps(best._asdict()).encode())
        self._thin()

    def path(self, step: int) -> Path:
        """Return the snapshot of a step: a file, or a folder."""
        folder, file = self._paths(step)
        return file if file.exists() else folder

    def _paths(self, step: int) -> tuple[Path, Path]:
        folder = self._folder / f"step-{step:08d}"
        return folder, folder.with_suffix(".pt")

    def _thin(self) -> None:
        best = self.best()
        for step in self.steps()[: -self._keep]:
            if best is None or step != best.step:
                for path in self._paths(step):
                    remove(path)


def _complete(folder: Path, rest: Mapping[str, Any]) -> None:
    require_shared(folder, rest["files"])
    with replacing(folder / REST) as file:
        torch.save(rest, file)
    _synchronise(folder)


def _synchronise(folder: Path) -> None:
    """Make names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_state(
    snapshots: Snapshots, output: Path, config: TrainConfig, *, resume: bool
) -> dict[str, Any] | None:
    """Return the state to resume from, None if new. Raises SnapshotError where a new run would meet
    an older one in its folder, and where there is nothing to resume or it is another run's."""
    if not resume:
        _require_unused(snapshots, output)
        return None
    state = snapshots.newest(PARTS)
    if state is None:
        raise SnapshotError(f"{output}: no whole snapshot to resume from")
    # A fingerprint is compared later; scenes are named by their number.
    scenes = config.data.shards.startswith(SCENES)
    free = (*FREE, SHARDS) if state.get("data") and not scenes else FREE
    if different := _difference(state["config"], plain(config), free):
        raise SnapshotError(f"{output} holds another run: {different}")
    if state["step"] > config.optim.steps:
        raise SnapshotError(
            f"{state['path']}: has more steps than the run, {config.optim.steps}; {REMEDY}"
        )
    return state


def require_same_data(stored: Sequence[Sequence[Any]], current: Sequence[Sequence[Any]]) -> None:
    """Raise SnapshotError, which names the first difference, unless two fingerprints of
    `SampleIndex` are the same: the order of the samples depends on all shards."""
    if difference := _first_difference(stored, current):
        number, before, now = difference
        raise SnapshotError(
            f"the data are not those of the snapshot: shard {number} was {_shard(before)} and "
            f"is {_shard(now)}; there were {_samples(stored)} samples, and are "
            f"{_samples(current)}; name the same tars by --set data.shards=, or train anew in "
            "another folder"
        )


class UnequalDataError(ValueError):
    """Processes that would train together with different data; all of them raise it."""


def require_same_data_everywhere(world: World, entries: Sequence[Sequence[Any]] | None) -> None:
    """Raise UnequalDataError in all processes if one has other shards than the first. `entries` are
    a fingerprint of `SampleIndex`, or the names of streams; None if a process has not read them,
    and then nothing is compared."""
    hashes = world.gather(None if entries is None else json_sha256(entries))
    if None in hashes or len(set(hashes)) == 1:
        return
    other = next(rank for rank, sha256 in enumerate(hashes) if sha256 != hashes[0])
    sent = entries if world.rank in (0, other) else None
    reports = world.gather((platform.node(), sent))
    (first_host, expected), (host, differing) = reports[0], reports[other]
    difference = _first_difference(expected, differing)
    assert difference is not None  # since the hashes differ
    number, first, second = difference
    raise UnequalDataError(
        f"rank {other} on {host} has other data than rank 0 on {first_host}: shard {number} "
        f"is {_shard(second)}, not {_shard(first)}; copy the same tars to all machines, and name "
        "them by --set data.shards="
    )


def _first_difference(
    first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]]
) -> tuple[int, Sequence[Any] | None, Sequence[Any] | None] | None:
    """Return the number of the first shard, counted from 1, that differs, and both entries."""
    for number, (entry, other) in enumerate(zip_longest(first, second), start=1):
        if entry != other:
            return number, entry, other
    return None


def _samples(entries: Sequence[Sequence[Any]]) -> int:
    return sum(samples for _, _, samples, _ in entries)


def _shard(entry: Sequence[Any] | None) -> str:
    if entry is None:
        return "missing"
    if len(entry) == 1:  # a stream, of which nothing but its name is known
        return str(entry[0])
    name, size, samples, positions = entry
    return f"{name} of {size} bytes with {samples} samples (positions {positions:.8})"


def _require_unused(snapshots: Snapshots, output: Path) -> None:
    if steps := snapshots.steps():
        raise SnapshotError(
            f"{output} holds a run of {steps[-1]} steps: go on with it by --resume, or choose "
            "another folder by --output"
        )
    files = (output / name for name in (CHECKPOINT, LOG))
    if found := [path.name for path in files if path.exists() and path.stat().st_size]:
        raise SnapshotError(
            f"{output} holds {' and '.join(found)} of a run without a snapshot to resume: choose "
            "another folder by --output, or remove what is not needed"
        )


@contextmanager
def reading(state: Mapping[str, Any], part: str) -> Iterator[None]:
    """Raise SnapshotError for any error of the block, which reads a part of a snapshot."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SnapshotError(
            f"{state['path']}: cannot be resumed from ({part}: {reason:.200}); {REMEDY}"
        ) from error


def random_state() -> dict[str, Any]:
    """Return the state of every random generator of this process, of plain types and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set every random generator to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def plain(config: TrainConfig) -> dict[str, Any]:
    """Convert a configuration to JSON's types, as its first version would have it: tuples become
    lists, and options that were added since are left out where they are not used."""
    return without_added(json.loads(json.dumps(asdict(config))))


def _difference(kept: Any, wanted: Any, free: tuple[str, ...], name: str = "") -> str | None:
    """Return the first field that differs between two configurations and is not free to."""
    if name.startswith(free):
        return None
    if not (isinstance(kept, dict) and isinstance(wanted, dict)):
        return None if kept == wanted else f"{name} is {kept!r} there and {wanted!r} here"
    for key in sorted(kept.keys() | wanted.keys()):
        inner = f"{name}.{key}".lstrip(".")
        if found := _difference(kept.get(key), wanted.get(key), free, inner):
            return found
    return None
