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
    """Yield a `worker_init_fn` whose workers end with this context, or when this process is killed.

    With `commands`, the commands that a worker has started, and all processes that these have
    started, end with it too.
    """
    # Workers wait to read from the pipe. This process has the only writing end. It is closed here,
    # or by the system when this process dies, and then the workers end.
    read_end, write_end = multiprocessing.Pipe(duplex=False)
    try:
        yield partial(_start_worker, read_end, write_end, commands)
    finally:
        write_end.close()
        read_end.close()


def _start_worker(read_end: Connection, write_end: Connection, commands: bool, number: int) -> None:
    """Prepare a worker: it and its commands form a process group.

    Signals to the main process's group, such as by Ctrl-C, do not reach the worker. The main
    process ends its workers.
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


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    pass


def _exit_when_closed(read_end: Connection) -> None:
    """End this process when the writing end of the pipe is closed."""
    with suppress(EOFError, OSError):
        read_end.recv_bytes()
    os._exit(0)
