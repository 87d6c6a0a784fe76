"""Processes that train together, as torchrun would start them, for the length of a test."""

import multiprocessing
import os
import pickle
import queue
import socket
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch

from cosmos_core.engine.distributed import join_world

TIMEOUT = 120  # seconds, for a machine that is busy with other things

# Children are forked from a process that has loaded the libraries, once for all tests.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        *("cosmos_core.cli", "cosmos_core.engine.trainer", "cosmos_core.methods"),
        *("cosmos_eval.runner.run", "cosmos_eval.tasks.segmentation.evaluate"),
        *("cosmos_eval.models.cosmos", "matplotlib.figure"),
    ]
)


def run_processes(
    worker: Callable[..., Any], size: int, *args: Any, join: bool = True
) -> list[Any]:
    """Return the values of `worker(world, *args)` in each of `size` processes on the CPU, by rank.

    `worker` is a function at the top of a module in tests/support. Its arguments and its value can
    be pickled. Without `join`, the processes have not joined and get no world; the worker joins
    them. An error of a worker is raised here, with its trace.
    """
    results: Any = context.Queue()
    port = free_port()
    ranks = [(worker, rank, size, port, results, args, join) for rank in range(size)]
    processes = [context.Process(target=_run, args=arguments) for arguments in ranks]
    for process in processes:
        process.start()
    try:
        answers = [results.get(timeout=TIMEOUT) for _ in processes]
    except queue.Empty:
        raise TimeoutError(f"{worker.__name__}: no answer within {TIMEOUT} s") from None
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    for rank, failed, answer in answers:
        if failed:
            raise RuntimeError(f"process {rank} of {size} failed:\n{answer}")
    return [pickle.loads(answer) for _, _, answer in sorted(answers)]


def _run(
    worker: Callable[..., Any],
    rank: int,
    size: int,
    port: int,
    results: Any,
    args: tuple[Any, ...],
    join: bool,
) -> None:
    torch.set_num_threads(1)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    os.environ.update(zip(names, map(str, (rank, rank, size, "127.0.0.1", port)), strict=True))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answer = _joined(worker, args) if join else worker(*args)
    except BaseException:
        results.put((rank, True, traceback.format_exc()))
    else:
        results.put((rank, False, pickle.dumps(answer)))  # by value: tensors outlive their process


def _joined(worker: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with join_world("cpu") as world:
        return worker(world, *args)


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
