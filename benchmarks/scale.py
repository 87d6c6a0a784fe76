"""`python benchmarks/scale.py [--json] [--quick]`: what a training on many GPUs needs of a process.

- The largest sum of the tensors that the COSMOS loss holds, forward and backward, for 1,024 samples
  of this process and 32,768 of all, with the gathered features: counted on meta tensors, which have
  sizes and no content. The plain loss is the same one without chunks.
- Reading the headers of a tar of 10,000 samples: of a plain tar, and of one with times in extended
  headers, as webdataset writes them.
- The index of 30 million samples (`--quick`: one million), made up: seconds to map it, private and
  shared memory of each of two processes that do, and the start of an epoch by NumPy's and by a
  keyed permutation.
- How long a snapshot of ViT-B/32 (`--quick`: of the scenes' model) stops a training, compared with
  writing it at once.
- The CPU time of all this.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import re
import tarfile
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import Measurement, interleave, measurement, parser, report
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cosmos_core import losses
from cosmos_core.data import index
from cosmos_core.data.shards import BatchOrder, Schedule
from cosmos_core.data.tar import read_members
from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import World
from cosmos_core.engine.snapshot import HostCopy, Snapshots
from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.scenes import scenes_architecture
from cosmos_core.types import Features, Gather, Gathered

SAMPLES, EVERYWHERE, WIDTH = 1024, 32_768, 512
VIEWS, GLOBALS = 8, 2
LOSS_GIGABYTES = 4.0
SCANNED, ROUNDS, SNAPSHOTS = 10_000, 5, 2
PRIVATE_GIGABYTES = 0.05  # where the index of 30 million samples has 0.48
SECONDS = 120.0  # of one idle core


def main() -> None:
    """Measure and print."""
    given = parser(__doc__ or "").parse_args()
    report("Scale", _lines(given.quick), given.json)


def _lines(quick: bool) -> Iterator[Measurement]:
    yield from _loss_lines()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield from _scan_lines(Path(folder), 1 if quick else ROUNDS)
        yield from _index_lines(Path(folder), 1_000_000 if quick else 30_000_000)
        architecture = scenes_architecture() if quick else "ViT-B-32"
        yield from _snapshot_lines(Path(folder), architecture, 1 if quick else SNAPSHOTS)
    used = os.times()
    seconds = used.user + used.system + used.children_user + used.children_system
    yield measurement("this benchmark, CPU time", seconds, "s", at_most=SECONDS)


class Peak(TorchDispatchMode):
    """Counts the bytes of the storages that operations inside make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.largest = 0
        self._living: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._living:
            self._living[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.bytes += size
            self.largest = max(self.largest, self.bytes)

    def _free(self, key: int, size: int) -> None:
        del self._living[key]
        self.bytes -= size


class Repeat(Gather):
    """Stands for as many processes as make `EVERYWHERE` samples: each has those of this one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        """Gather as `make_gather` does: all features are parts of one tensor."""
        locals_ = [tensor.to(self.dtype) for tensor in tensors]
        rows = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in locals_], dim=1)
        pieces = rows.repeat(EVERYWHERE // SAMPLES, 1).split([t[:, 0].numel() for t in tensors], 1)
        everywhere = (
            piece.unflatten(1, (len(tensor), -1)).transpose(0, 1)
            for piece, tensor in zip(pieces, tensors, strict=True)
        )
        pairs = zip(locals_, everywhere, strict=True)
        return [Gathered(own, all_, 0, Repeat()) for own, all_ in pairs]


def loss_gigabytes(gather: Gather) -> float:
    """Return the largest sum of tensors that the COSMOS loss and its gradient hold."""

    def features(views: int, *, gradient: bool) -> Tensor:
        return torch.empty(views, SAMPLES, WIDTH, requires_grad=gradient)

    with torch.device("meta"):
        own = (features(VIEWS, gradient=True) for _ in range(4))
        scales = (torch.empty((), requires_grad=True) for _ in range(2))
        targets = (features(GLOBALS, gradient=False) for _ in range(2))
        teacher = Features(*targets, None, None, torch.empty(()), None)
        with Peak() as peak:
            losses.cosmos_loss(Features(*own, *scales), teacher, gather).total.backward()
    return peak.largest / 1e9


@contextmanager
def _without_chunks() -> Iterator[None]:
    usual, losses.WHOLE = losses.WHOLE, EVERYWHERE**3
    try:
        yield
    finally:
        losses.WHOLE = usual


def _loss_lines() -> Iterator[Measurement]:
    size = f"loss of {SAMPLES} samples with {EVERYWHERE}"
    with _without_chunks():
        yield measurement(f"{size}, plain", loss_gigabytes(Repeat()), "GB")
    chunked = loss_gigabytes(Repeat())
    yield measurement(f"{size}, in chunks", chunked, "GB", at_most=LOSS_GIGABYTES)
    narrow = loss_gigabytes(Repeat(torch.bfloat16))
    yield measurement(f"{size}, in chunks, gathered in bf16", narrow, "GB", at_most=LOSS_GIGABYTES)


def _scan_lines(folder: Path, rounds: int) -> Iterator[Measurement]:
    path = folder / "a.tar"
    for kind, changed in (("plain", 0), ("webdataset's", 0.5)):
        _write_tar(path, changed)
        functions = {kind: lambda: read_members(str(path))}
        seconds = interleave(functions, rounds, clock=time.process_time)[kind]
        yield measurement(f"{kind} headers of {SCANNED} samples, CPU time", seconds, "s")


def _write_tar(path: Path, changed: float) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, suffix in itertools.product(range(SCANNED), ("jpg", "json")):
            member = tarfile.TarInfo(f"{number:09}.{suffix}")
            member.size, member.mtime = 3000, changed  # a fraction needs an extended header
            tar.addfile(member, io.BytesIO(bytes(3000)))


def _index_lines(folder: Path, samples: int) -> Iterator[Measurement]:
    shards = [str(folder / f"{number}.tar") for number in range(samples // SCANNED)]
    for shard in shards:
        Path(shard).touch()
    starts = np.arange(0, samples + 1, SCANNED)
    rows = np.random.default_rng(0).integers(1, 2**31 - 1, (samples, index.COLUMNS), np.int32)
    index._store_set_index(shards, starts, rows)
    size, name = rows.nbytes / 1e9, f"{samples:,} samples"
    del rows
    yield measurement(f"index of {name}", size, "GB")
    context = multiprocessing.get_context("fork")
    meeting, found = context.Barrier(2), context.SimpleQueue()
    arguments = (shards, meeting, found)
    processes = [context.Process(target=_map_index, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    seconds, *bytes_ = (max(values) for values in zip(found.get(), found.get(), strict=True))
    yield measurement(f"index of {name}, mapped and checked by two processes", seconds, "s")
    private, shared = (value / 1e9 for value in bytes_)
    line = f"index of {name}, private memory of each"
    yield measurement(line, private, "GB", at_most=PRIVATE_GIGABYTES)
    yield measurement(f"index of {name}, memory that they share", shared, "GB")
    for process in processes:
        process.join()
    schedule = Schedule(SAMPLES, 1)
    for kind, keyed in (("NumPy's permutation", False), ("a keyed one", True)):
        order = BatchOrder([samples], None, 0, schedule, keyed=keyed)
        batches, before, start = iter(order), _memory("Anonymous"), time.perf_counter()
        next(batches)  # held, with the order of its epoch
        seconds = time.perf_counter() - start
        yield measurement(f"first batch of {SAMPLES} of {name}, {kind}", seconds, "s")
        held = (_memory("Anonymous") - before) / 1e9
        yield measurement(f"order of {name}, {kind}, memory", held, "GB")
        del order, batches


def _map_index(shards: list[str], meeting: Any, found: Any) -> None:
    """Map an index at the same time as another process: seconds, private and shared bytes."""
    kinds = ("Private", "Shared")
    before, start = [_memory(f"{kind}_.*") for kind in kinds], time.perf_counter()
    mapped = index.index_shards(shards)
    seconds = time.perf_counter() - start
    meeting.wait()
    after = [_memory(f"{kind}_.*") for kind in kinds]
    meeting.wait()
    assert len(mapped)  # until here
    found.put((seconds, *(now - then for now, then in zip(after, before, strict=True))))


def _memory(kind: str) -> int:
    """Bytes of memory of this process of a kind of proc(5)."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    found = re.findall(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE)
    return sum(1024 * int(kilobytes) for kilobytes in found)


def _snapshot_lines(folder: Path, architecture: Any, rounds: int) -> Iterator[Measurement]:
    config = replace(RECIPES["scenes_cosmos"](), architecture=architecture)
    training = make_training(config, World())
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()  # which makes its state
    training.optimizer.zero_grad()
    state = {
        "student": training.model.state_dict(),
        "teacher": training.teacher.state_dict(),
        "optimizer": training.optimizer.state_dict(),
    }
    snapshots, models = (
        Snapshots(folder, 1),
        {"student": training.model, "teacher": training.teacher},
    )

    def write() -> None:
        snapshots.save(1, state)
        whole = model_config(architecture)
        save_checkpoint(folder / "checkpoint.safetensors", models, "cosmos", whole, {})

    def copy() -> None:
        nonlocal copied
        copied = HostCopy(state, copied)

    copied: HostCopy | None = None
    functions = {"written at once": write, "copied": copy}
    seconds = interleave(functions, rounds)
    for name, spread in seconds.items():
        yield measurement(f"snapshot, {name}", spread, "s")
    ratio = seconds["copied"].over(seconds["written at once"])
    yield measurement("stop of a training for a snapshot, to writing it", ratio, "x", at_most=0.1)


if __name__ == "__main__":
    main()
