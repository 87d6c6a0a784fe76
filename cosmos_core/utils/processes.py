"""The processes of one `torchrun`. Without it nothing here imports torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed

# No process may give up on one that has more to do; torchrun ends the others where one dies.
_PATIENCE = timedelta(days=7)


def is_first() -> bool:
    """Whether this process is the one that prints and writes for all."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined() -> Iterator[Distributed]:
    """Meet the processes that torchrun started and part again; outside it, SINGLE_PROCESS.

    They exchange Python objects alone, so that Gloo serves processes on GPUs as well.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Distributed(dist.get_rank(), dist.get_world_size(), _gather)
    finally:
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process with a status.

    Threads that a process group has left behind now and then abort the interpreter while it tidies
    up ("terminate called without an active exception", PyTorch 2.13), and another status than ours
    would be reported. Several processes therefore end at once.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def own_device(device: str) -> str:
    """What `auto` stands for, and which GPU `cuda` is where a machine has several processes."""
    if device not in ("auto", "cuda"):
        return device
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        return "cpu" if device == "auto" else device
    number = os.environ.get("LOCAL_RANK")
    return "cuda" if number is None else f"cuda:{int(number) % gpus}"


def _gather(item: Any) -> list[Any]:
    import torch.distributed as dist

    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items
