"""The lock of an output folder, by which one run at a time writes to it.

The system releases the lock of a file when its process ends, also when it is killed. On some file
systems locks are known to one machine only. So there are two other signs of a run on another
machine: it renews the time of its lock file every HEARTBEAT seconds, and, if SLURM is installed,
`squeue` knows whether its job has ended. Times are compared by the clock of the file system.
"""

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

LOCK = "run.lock"  # a file in the output folder, during a run
HEARTBEAT = 15.0  # seconds from one renewal of a lock to the next
EXPIRY = 180.0  # a run on another machine has ended if it has not renewed its lock for so long
MAX_BYTES = 1000  # of a lock file
logger = logging.getLogger(__name__)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is created if it is missing.

    The lock of a run that has ended is taken over. If that run was on this machine, or of the same
    call of torchrun, it is taken over at once. If it was on another machine, it is taken over if
    SLURM knows that its job has ended, or after EXPIRY seconds in which it was not renewed. Raises
    ValueError, which names the holder, if another run uses the folder.
    """
    path, content = output / LOCK, b""
    output.mkdir(parents=True, exist_ok=True)
    while not content:
        with errors_of(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _require_free(handle, path)
            # If the former holder has just removed the file, the next round creates another one.
            was_removed = os.fstat(handle).st_nlink == 0
            if not was_removed:
                content = json.dumps(_new_entry()).encode()
                os.ftruncate(handle, 0)
                os.pwrite(handle, content, 0)
                with _Renewal(handle, content, path):
                    yield
        finally:
            if content and os.pread(handle, MAX_BYTES, 0) == content:
                path.unlink(missing_ok=True)
            os.close(handle)


class _Renewal(AbstractContextManager["_Renewal"]):
    """A thread that renews the time of a lock file, as long as it has the content of its holder."""

    def __init__(self, handle: int, content: bytes, path: Path) -> None:
        self._handle = handle
        self._content = content
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "_Renewal":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        """Renew the time of the file every HEARTBEAT seconds, until the run ends or loses it."""
        while not self._ended.wait(HEARTBEAT):
            with suppress(OSError):  # the file system may answer again later
                if os.pread(self._handle, MAX_BYTES, 0) != self._content:
                    logger.error(f"another run has taken {self._path}: stop one of the two")
                    return
                os.utime(self._handle)


def _new_entry() -> dict[str, Any]:
    """Return the content of a lock file that this process holds; `run` is the call of torchrun."""
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
    """Take the system's lock of a lock file.

    Raises ValueError, which names the holder of the lock file, unless the holder's run has ended.
    """
    has_system_lock = _take_system_lock(handle)
    holder, entry = _read_entry(handle), _new_entry()
    description = _describe_holder(holder)
    is_on_this_machine = holder.get("host") == entry["host"]
    is_held = has_system_lock is False
    if has_system_lock is None and is_on_this_machine:
        is_other_process = holder.get("process") != entry["process"]
        is_held = is_other_process and _is_alive(holder.get("process"))
    if is_held:
        raise ValueError(_in_use_message(path, description))
    # A restart by torchrun may be on another machine.
    is_restart = entry["run"] != "none" and holder.get("run") == entry["run"]
    if not holder or is_on_this_machine or is_restart or _has_job_ended(holder, entry):
        return
    if "heartbeat" not in holder:
        raise ValueError(
            f"{path.parent} has the lock of a run on another machine, of a version that does not "
            f"renew it: {description}; if that process has ended, remove {path}"
        )
    if _is_renewed(handle, path, description):
        raise ValueError(_in_use_message(path, description))
    logger.warning(
        f"{path.parent}: took over the lock of {description}, which is no longer renewed"
    )


def _describe_holder(holder: dict[str, Any]) -> str:
    """Return a description of the holder of a lock file for messages."""
    if not holder:  # the run has not written its entry yet
        return "it starts"
    return f"process {holder.get('process')} on {holder.get('host')}, since {holder.get('since')}"


def _in_use_message(path: Path, description: str) -> str:
    """Return the error message for a folder that another run uses."""
    return (
        f"{path.parent} is in use by a run: {description}; wait for its end, stop it, or choose "
        "another folder by --output"
    )


def _is_renewed(handle: int, path: Path, description: str) -> bool:
    """Wait until the holder of a lock renews it, or has not renewed it for EXPIRY seconds.

    The lock is watched for at least two heartbeats, since a machine that slept may go on.
    """
    renewed_at = os.fstat(handle).st_mtime
    age = _file_system_time(path.parent) - renewed_at
    seconds = max(EXPIRY - age, 2 * HEARTBEAT)
    logger.info(
        f"{path.parent} has the lock of {description}: it is taken over unless it is renewed in "
        f"the next {seconds:.0f} s"
    )
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        time.sleep(min(HEARTBEAT, seconds) / 10)
        if os.fstat(handle).st_mtime != renewed_at:
            return True
    return False


def _file_system_time(folder: Path) -> float:
    """Return the time that a file system gives a new file; it may be the time of a server."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _has_job_ended(holder: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Return whether SLURM knows that a holder's job has ended, or was restarted as this one."""
    job = holder.get("job")
    if not job or holder.get("cluster") != entry["cluster"]:
        return False
    if job == entry["job"]:
        return holder.get("restarts") != entry["restarts"]
    squeue = shutil.which("squeue")
    if squeue is None:
        return False
    command = [squeue, "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    if process.returncode:
        return "Invalid job id" in process.stderr
    states = set(process.stdout.split())
    return states <= {"PENDING"}  # no state, or the job waits to be started again


def _take_system_lock(handle: int) -> bool | None:
    """Try to take the system's lock of a file.

    Return True if this process has it now, False if another process has it, and None if the file
    system has no locks. It is a POSIX lock: data workers do not inherit it, unlike a lock of
    `flock`, and NFS supports it.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _read_entry(handle: int) -> dict[str, Any]:
    """Return the entry of the holder in a lock file; an empty one if it is not written yet."""
    try:
        content = json.loads(os.pread(handle, MAX_BYTES, 0))
    except ValueError:  # empty before its holder has written it
        return {}
    return content if isinstance(content, dict) else {}


def _is_alive(process: Any) -> bool:
    """Return whether a process of this machine is running, by its number in a lock file."""
    try:
        os.kill(process, 0)  # signal 0 is not sent: it only checks the process
    except (ProcessLookupError, TypeError):
        return False
    except PermissionError:  # the process of another user
        pass
    return True
