"""`python benchmarks/scale.py [--json] [--quick]`: what a training on many GPUs needs of a process.

- The peak memory of the COSMOS loss, forward and backward, for 1,024 samples of this process and
  32,768 of all processes, with the gathered features. It is the largest sum of the sizes of all
  tensors, counted on meta tensors, which have sizes and no content. The plain loss is the same one
  without chunks.
- Reading the headers of a tar of 10,000 samples: of a plain tar, and of one with times in extended
  headers, as webdataset writes them.
- A made-up index of 30 million samples (`--quick`: one million): the seconds to map it, the private
  and the shared memory of each of two processes that map it, and the start of an epoch with NumPy's
  permutation and with a keyed one.
- How long a snapshot of ViT-B/32 (`--quick`: of the model for scenes) stops a training, compared
  with writing it at once.
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
from typing import Any, NamedTuple

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

SAMPLES, EVERYWHERE, WIDTH = 1024, 32_768, 512  # samples of this process and of all; width
VIEWS, GLOBALS = 8, 2  # of images and of captions each
LOSS_GIGABYTES = 4.0
SCANNED = 10_000  # samples of a tar
ROUNDS, SNAPSHOTS = 5, 2  # rounds of scans and of snapshots
PRIVATE_GIGABYTES = 0.05  # where the index of 30 million samples has 0.48
SECONDS = 120.0  # of one idle core


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "").parse_args()
    report("Scale", _lines(arguments.quick), arguments.json)


def _lines(quick: bool) -> Iterator[Measurement]:
    """Yield all lines."""
    yield from _loss_lines()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield from _scan_lines(Path(folder), 1 if quick else ROUNDS)
        yield from _index_lines(Path(folder), 1_000_000 if quick else 30_000_000)
        architecture = scenes_architecture() if quick else "ViT-B-32"
        yield from _snapshot_lines(Path(folder), architecture, 1 if quick else SNAPSHOTS)
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    yield measurement("this benchmark, CPU time", seconds, "s", at_most=SECONDS)


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that operations create inside the context.

    Tensors that share their storage are counted once, until the storage is freed. `bytes` is the
    present sum, and `largest` the largest sum so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.largest = 0
        # Weak references to the storages that are not freed yet, by their address.
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and count the storages of its outputs."""
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._storages:
            self._storages[address] = weakref.ref(storage, lambda _: self._free(address, size))
            self.bytes += size
            self.largest = max(self.largest, self.bytes)

    def _free(self, address: int, size: int) -> None:
        del self._storages[address]
        self.bytes -= size


class RepeatingGather(Gather):
    """Stands for a gather over as many processes as have `EVERYWHERE` samples together.

    Each process has a copy of the samples of this one.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        """Gather features (V, B, D) as `make_gather` does: views of one tensor hold all of them."""
        local_features = [tensor.to(self.dtype) for tensor in tensors]
        rows = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in local_features], dim=1)
        n_processes = EVERYWHERE // SAMPLES
        widths = [tensor[:, 0].numel() for tensor in tensors]
        gathered = []
        for local, columns in zip(
            local_features, rows.repeat(n_processes, 1).split(widths, 1), strict=True
        ):
            everywhere = columns.unflatten(1, (len(local), -1)).transpose(0, 1)
            gathered.append(Gathered(local, everywhere, 0, RepeatingGather()))
        return gathered


def loss_gigabytes(gather: Gather) -> float:
    """Return the largest sum of the tensors of the COSMOS loss and its gradient, in gigabytes."""
    with torch.device("meta"):
        teacher = Features(
            image=torch.empty(GLOBALS, SAMPLES, WIDTH),
            text=torch.empty(GLOBALS, SAMPLES, WIDTH),
            image_crossmodal=None,
            text_crossmodal=None,
            logit_scale=torch.empty(()),
            distill_logit_scale=None,
        )
        # The features of the student are counted too.
        with Peak() as peak:
            losses.cosmos_loss(_student_features(), teacher, gather).total.backward()
    return peak.largest / 1e9


def _student_features() -> Features:
    """Return features of all views, and scales, which need gradients."""
    image, text, image_crossmodal, text_crossmodal = (
        torch.empty(VIEWS, SAMPLES, WIDTH, requires_grad=True) for _ in range(4)
    )
    return Features(
        image,
        text,
        image_crossmodal,
        text_crossmodal,
        logit_scale=torch.empty((), requires_grad=True),
        distill_logit_scale=torch.empty((), requires_grad=True),
    )


@contextmanager
def _without_chunks() -> Iterator[None]:
    """Let losses of any size be computed at once."""
    usual = losses.WHOLE
    losses.WHOLE = EVERYWHERE**3
    try:
        yield
    finally:
        losses.WHOLE = usual


def _loss_lines() -> Iterator[Measurement]:
    """Yield the memory of the loss, plain and in chunks."""
    size = f"loss of {SAMPLES} samples with {EVERYWHERE}"
    with _without_chunks():
        yield measurement(f"{size}, plain", loss_gigabytes(RepeatingGather()), "GB")
    chunked = loss_gigabytes(RepeatingGather())
    yield measurement(f"{size}, in chunks", chunked, "GB", at_most=LOSS_GIGABYTES)
    narrow = loss_gigabytes(RepeatingGather(torch.bfloat16))
    yield measurement(f"{size}, in chunks, gathered in bf16", narrow, "GB", at_most=LOSS_GIGABYTES)


def _scan_lines(folder: Path, rounds: int) -> Iterator[Measurement]:
    """Yield the CPU time to read the headers of tars of both kinds."""
    path = folder / "a.tar"
    for kind, changed in (("plain", 0), ("webdataset's", 0.5)):
        _write_tar(path, changed)
        functions = {kind: lambda: read_members(str(path))}
        seconds = interleave(functions, rounds, clock=time.process_time)[kind]
        yield measurement(f"{kind} headers of {SCANNED} samples, CPU time", seconds, "s")


def _write_tar(path: Path, changed: float) -> None:
    """Write a tar of samples of two files each, with this time of their last change."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, suffix in itertools.product(range(SCANNED), ("jpg", "json")):
            member = tarfile.TarInfo(f"{number:09}.{suffix}")
            member.size, member.mtime = 3000, changed  # a fraction needs an extended header
            tar.addfile(member, io.BytesIO(bytes(3000)))


def _index_lines(folder: Path, samples: int) -> Iterator[Measurement]:
    """Yield what the index of many samples costs, and the order in which they are drawn."""
    shards = [str(folder / f"{number}.tar") for number in range(samples // SCANNED)]
    for shard in shards:
        Path(shard).touch()
    n_bytes = _store_made_up_index(shards, samples)
    yield measurement(f"index of {samples:,} samples", n_bytes / 1e9, "GB")
    yield from _mapping_lines(shards, samples)
    yield from _order_lines(samples)


def _store_made_up_index(shards: list[str], samples: int) -> int:
    """Store an index of random rows for shards of equal size; return the bytes of the rows."""
    starts = np.arange(0, samples + 1, SCANNED)
    rows = np.random.default_rng(0).integers(1, 2**31 - 1, (samples, index.COLUMNS), np.int32)
    index._store_set_index(shards, starts, rows)
    return rows.nbytes


class MappingCosts(NamedTuple):
    """What it costs a process to map an index."""

    seconds: float
    private_bytes: int
    shared_bytes: int


def _mapping_lines(shards: list[str], samples: int) -> Iterator[Measurement]:
    """Yield the largest costs of two processes that map the same index at the same time."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.SimpleQueue()
    processes = [
        context.Process(target=_map_index, args=(shards, barrier, queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    costs: list[MappingCosts] = [queue.get() for _ in processes]
    for process in processes:
        process.join()

    name = f"index of {samples:,} samples"
    seconds = max(cost.seconds for cost in costs)
    yield measurement(f"{name}, mapped and checked by two processes", seconds, "s")
    private = max(cost.private_bytes for cost in costs) / 1e9
    line = f"{name}, private memory of each"
    yield measurement(line, private, "GB", at_most=PRIVATE_GIGABYTES)
    shared = max(cost.shared_bytes for cost in costs) / 1e9
    yield measurement(f"{name}, memory that they share", shared, "GB")


def _map_index(shards: list[str], barrier: Any, queue: Any) -> None:
    """Map an index at the same time as another process, and put MappingCosts into the queue."""
    private_before, shared_before = _memory_bytes("Private_.*"), _memory_bytes("Shared_.*")
    start = time.perf_counter()
    sample_index = index.index_shards(shards)
    seconds = time.perf_counter() - start
    barrier.wait()  # both processes have mapped the index
    private_after, shared_after = _memory_bytes("Private_.*"), _memory_bytes("Shared_.*")
    barrier.wait()  # both processes have read their memory
    assert len(sample_index)  # so that it stays mapped until here
    costs = MappingCosts(seconds, private_after - private_before, shared_after - shared_before)
    queue.put(costs)


def _order_lines(samples: int) -> Iterator[Measurement]:
    """Yield what the first batch of an epoch costs, by either kind of permutation."""
    schedule = Schedule(SAMPLES, 1)
    for kind, keyed in (("NumPy's permutation", False), ("a keyed one", True)):
        order = BatchOrder([samples], None, 0, schedule, keyed=keyed)
        batches = iter(order)
        bytes_before, start = _memory_bytes("Anonymous"), time.perf_counter()
        next(batches)  # the iterator keeps the order of the epoch
        seconds = time.perf_counter() - start
        gigabytes = (_memory_bytes("Anonymous") - bytes_before) / 1e9
        name = f"first batch of {SAMPLES} of {samples:,} samples, {kind}"
        yield measurement(name, seconds, "s")
        yield measurement(f"order of {samples:,} samples, {kind}, memory", gigabytes, "GB")
        del order, batches


def _memory_bytes(pattern: str) -> int:
    """Return the memory of this process in bytes, summed over kinds of proc(5).

    Args:
        pattern: A regular expression for the names of the kinds, such as "Private_.*".
    """
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    sizes = re.findall(rf"^{pattern}:\s+(\d+) kB", text, re.MULTILINE)
    return sum(1024 * int(kilobytes) for kilobytes in sizes)


def _snapshot_lines(folder: Path, architecture: Any, rounds: int) -> Iterator[Measurement]:
    """Yield how long a snapshot stops a training, if it is written at once and if it is copied."""
    config = replace(RECIPES["scenes_cosmos"](), architecture=architecture)
    training = make_training(config, World())
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()  # creates the state of the optimizer
    training.optimizer.zero_grad()
    state = {
        "student": training.model.state_dict(),
        "teacher": training.teacher.state_dict(),
        "optimizer": training.optimizer.state_dict(),
    }
    models = {"student": training.model, "teacher": training.teacher}
    snapshots = Snapshots(folder, 1)
    host_copy: HostCopy | None = None

    def write() -> None:
        snapshots.save(1, state)
        config_of_model = model_config(architecture)
        save_checkpoint(
            folder / "checkpoint.safetensors", models, "cosmos", config_of_model, training={}
        )

    def copy() -> None:
        nonlocal host_copy
        host_copy = HostCopy(state, host_copy)

    seconds = interleave({"written at once": write, "copied": copy}, rounds)
    for name, spread in seconds.items():
        yield measurement(f"snapshot, {name}", spread, "s")
    ratio = seconds["copied"].over(seconds["written at once"])
    yield measurement("stop of a training for a snapshot, to writing it", ratio, "x", at_most=0.1)


if __name__ == "__main__":
    main()
