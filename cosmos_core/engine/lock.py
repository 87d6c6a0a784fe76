"""The lock of an output folder: one run at a time writes to it.

The system releases the lock of a file when its process ends, however that happens. Whether a run on
another machine has ended shows otherwise, since locks of some file systems hold on one machine
alone: a run renews the time of its lock every HEARTBEAT seconds, and where SLURM is installed,
`squeue` knows whether its job has ended. Times are compared by the clock of the file system."""

import fcntl
import json
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from cosmos_core.utils.environment import utc_now
from cosmos_core.utils.files import errors_of

LOCK = "run.lock"  # in the output folder, while a run goes on
HEARTBEAT = 15.0  # seconds from one renewal of a lock to the next
EXPIRY = 180.0  # seconds without a renewal after which a run on another machine has ended
MOST_BYTES = 1000  # of a lock file
logger = logging.getLogger(__name__)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is made as needed. The lock of a run that has ended
    is taken over: one of this machine or of the same call of torchrun at once, one of another
    machine if SLURM knows that its job has ended, or if it is not renewed for EXPIRY seconds, which
    this waits for. Raises ValueError, which names the holder, if another run has the folder."""
    path, content = output / LOCK, b""
    output.mkdir(parents=True, exist_ok=True)
    while not content:
        with errors_of(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _require_free(handle, path)
            if os.fstat(handle).st_nlink > 0:  # else the former holder has just removed it
                content = json.dumps(_new_entry()).encode()
                os.ftruncate(handle, 0)
                os.pwrite(handle, content, 0)
                with _Renewal(handle, content, path):
                    yield
        finally:
            if content and os.pread(handle, MOST_BYTES, 0) == content:
                path.unlink(missing_ok=True)
            os.close(handle)


class _Renewal(AbstractContextManager["_Renewal"]):
    """Renews the time of a lock file by a thread, as long as it has the content of its holder."""

    def __init__(self, handle: int, content: bytes, path: Path) -> None:
        self._handle, self._content, self._path = handle, content, path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "_Renewal":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with suppress(OSError):  # of a file system that may answer again
                if os.pread(self._handle, MOST_BYTES, 0) != self._content:
                    logger.error(f"another run has taken {self._path}: stop one of the two")
                    return
                os.utime(self._handle)


def _new_entry() -> dict[str, Any]:
    """Return what a lock file says if this process holds it; `run` is the call of torchrun."""
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "since": utc_now(),
        "run": os.environ.get("TORCHELASTIC_RUN_ID", "none"),  # "none" also by default
        "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "heartbeat": HEARTBEAT,
    }


def _require_free(handle: int, path: Path) -> None:
    """Take the lock of the system. Raises ValueError, which names the holder of a lock file, unless
    its run has ended."""
    locked = _is_locked(handle)
    holder, entry = _read(handle), _new_entry()
    host, process = holder.get("host"), holder.get("process")
    named = f"process {process} on {host}, since {holder.get('since')}" if holder else "it starts"
    in_use = (
        f"{path.parent} is in use by a run: {named}; wait for its end, stop it, or choose another "
        "folder by --output"
    )
    unknown = locked is None and host == entry["host"] and process != entry["process"]
    if locked or (unknown and _is_alive(process)):
        raise ValueError(in_use)
    restarted = entry["run"] != "none" and holder.get("run") == entry["run"]  # maybe elsewhere
    if not holder or host == entry["host"] or restarted or _has_job_ended(holder, entry):
        return
    if "heartbeat" not in holder:
        raise ValueError(
            f"{path.parent} has the lock of a run on another machine, of a version that does not "
            f"renew it: {named}; if that process has ended, remove {path}"
        )
    if _is_renewed(handle, path, named):
        raise ValueError(in_use)
    logger.warning(f"{path.parent}: took over the lock of {named}, which is no longer renewed")


def _is_renewed(handle: int, path: Path, named: str) -> bool:
    """Wait until the holder of a lock renews it, or has not for EXPIRY seconds. It is watched for
    two heartbeats at least: a machine that slept may go on."""
    renewed, start = os.fstat(handle).st_mtime, time.monotonic()
    age = _file_system_time(path.parent) - renewed
    watched = max(EXPIRY - age, 2 * HEARTBEAT)
    logger.info(
        f"{path.parent} has the lock of {named}: it is taken over unless it is renewed in the next "
        f"{watched:.0f} s"
    )
    while time.monotonic() - start < watched:
        time.sleep(min(HEARTBEAT, watched) / 10)
        if os.fstat(handle).st_mtime != renewed:
            return True
    return False


def _file_system_time(folder: Path) -> float:
    """Return the time that a file system gives a new file, which may be a server's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _has_job_ended(holder: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether SLURM knows that the job of a holder has ended, or was started again as this one."""
    job, squeue = holder.get("job"), shutil.which("squeue")
    if not job or holder.get("cluster") != entry["cluster"]:
        return False
    if job == entry["job"]:
        return holder.get("restarts") != entry["restarts"]
    if squeue is None:
        return False
    words = [squeue, "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    if done.returncode:
        return "Invalid job id" in done.stderr
    return set(done.stdout.split()) <= {"PENDING"}  # nothing, or it waits to be started again


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
        content = json.loads(os.pread(handle, MOST_BYTES, 0))
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
