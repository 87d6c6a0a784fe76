"""The lock of an output folder: one run at a time writes to it."""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cosmos_core.utils.environment import utc_now
from cosmos_core.utils.files import errors_of

LOCK = "run.lock"  # in the output folder, while a run goes on


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is made as needed. The system releases it when the
    process ends, however that happens: what a killed process of this machine, or of the same call
    of torchrun, left is taken over. Raises ValueError, which names the holder, where another run
    has the folder, and where one on another machine was killed, since only a user can know that."""
    path, taken = output / LOCK, False
    output.mkdir(parents=True, exist_ok=True)
    while not taken:
        with errors_of(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(handle, path)
            taken = os.fstat(handle).st_nlink > 0  # else the former holder has just removed it
            if taken:
                yield
        finally:
            if taken:
                path.unlink(missing_ok=True)
            os.close(handle)


def _take(handle: int, path: Path) -> None:
    run = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # "none" also where a user gives no name
    own = {"host": platform.node(), "process": os.getpid(), "since": utc_now(), "run": run}
    locked = _is_locked(handle)
    holder = _read(handle)
    host, process = holder.get("host"), holder.get("process")
    named = f"process {process} on {host}, since {holder.get('since')}" if holder else "it starts"
    unknown = locked is None and host == own["host"] and process != own["process"]
    if locked or (unknown and _is_alive(process)):
        raise ValueError(
            f"{path.parent} is in use by a run: {named}; wait for its end, stop it, or choose "
            "another folder by --output"
        )
    restarted = run != "none" and holder.get("run") == run  # the first process may be elsewhere
    if holder and host != own["host"] and not restarted:
        raise ValueError(
            f"{path.parent} has the lock of a run on another machine: {named}; if that process "
            f"has ended, remove {path}"
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(own).encode(), 0)


def _is_locked(handle: int) -> bool | None:
    """Take the lock; return whether another process has it, None on a file system without locks.
    POSIX locks, unlike those of `flock`, are not inherited by data workers, and NFS has them."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return None
    return False


def _read(handle: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(handle, 1000, 0))
    except ValueError:  # empty before its holder has written it
        return {}
    return content if isinstance(content, dict) else {}


def _is_alive(process: Any) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, TypeError):
        return False
    except PermissionError:  # of another user
        pass
    return True
