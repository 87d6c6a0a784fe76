"""Worker processes that end with the process that started them, however that one ends."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType

# The guards of this process, if it is a worker whose commands must end with it.
_guards: list[subprocess.Popen[bytes]] = []


@contextmanager
def worker_lifetime(*, commands: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a `worker_init_fn` for a DataLoader whose workers never outlive this context.

    The workers end at the end of the block, and also if this process is killed.

    Args:
        commands: True if the commands that a worker has started, and all processes that these have
            started, also end with the worker.
    """
    # Workers wait to read from the pipe. This process has the only writing end. It is closed here,
    # or by the system when this process dies, and then the workers end.
    read_end, write_end = multiprocessing.Pipe(duplex=False)
    try:
        yield partial(_prepare_worker, read_end, write_end, commands)
    finally:
        write_end.close()
        read_end.close()


def _prepare_worker(
    read_end: Connection, write_end: Connection, commands: bool, worker_number: int
) -> None:
    """Make this worker process end when the writing end of the pipe is closed.

    The worker and its commands get a process group of their own. So signals to the group of the
    main process, as by Ctrl-C, do not reach the worker: the main process ends its workers.

    Args:
        read_end: The reading end of the pipe, at which the worker waits.
        write_end: The writing end, which only the main process shall keep open.
        commands: True if the whole process group is killed when the worker ends.
        worker_number: The number of the worker, which PyTorch passes and which is not needed.
    """
    write_end.close()  # the worker's copy, which would keep the pipe open
    # A handler that does nothing. Commands do not inherit it, as they would inherit SIG_IGN.
    signal.signal(signal.SIGINT, _ignore_signal)
    os.setpgid(0, 0)
    if commands:
        # A shell that kills the group, itself included, once this process has ended.
        guard_command = ["sh", "-c", "trap '' INT TERM HUP USR1; read -r line; kill -s KILL 0"]
        guard = subprocess.Popen(
            guard_command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _guards.append(guard)
    threading.Thread(target=_exit_when_closed, args=(read_end,), daemon=True).start()


def _ignore_signal(signal_number: int, frame: FrameType | None) -> None:
    """Do nothing, as the handler of a signal."""


def _exit_when_closed(read_end: Connection) -> None:
    """Wait until the writing end of the pipe is closed, then end this process.

    Nothing is ever written to the pipe, so that reading from it waits until then.
    """
    with suppress(EOFError, OSError):
        read_end.recv_bytes()
    os._exit(0)
