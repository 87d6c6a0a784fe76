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

_guards: list[subprocess.Popen[bytes]] = []  # of this process, if it is a worker


@contextmanager
def worker_lifetime(*, commands: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a `worker_init_fn`; its workers end when the context does, or this process by SIGKILL.
    With `commands`, so do the commands that a worker has started, and all that these started."""
    # Workers read from the pipe, of which only this process has the other end: it is closed here,
    # or by the system when this process dies.
    lifeline, end = multiprocessing.Pipe(duplex=False)
    try:
        yield partial(_start, lifeline, end, commands)
    finally:
        end.close()
        lifeline.close()


def _start(lifeline: Connection, end: Connection, commands: bool, number: int) -> None:
    """Prepare a worker, which gets a process group of its own, with all of its commands. Signals to
    the main process's group, as from Ctrl-C, do not reach it: that one ends its workers."""
    end.close()  # a copy, which would keep the pipe open
    signal.signal(signal.SIGINT, lambda *_: None)  # unlike SIG_IGN, commands do not inherit it
    os.setpgid(0, 0)
    if commands:  # start one more that kills this group, itself included, once this process ended
        guard = ["sh", "-c", "trap '' INT TERM HUP USR1; read -r line; kill -s KILL 0"]
        quiet = subprocess.DEVNULL
        _guards.append(subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet))
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(0)
