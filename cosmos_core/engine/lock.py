"""The lock of an output folder, so that only one training at a time writes to it.

A training holds the operating system's lock on the file `run.lock`. The system releases it when the
process ends, also if it is killed. On some file systems other machines do not see this lock. So
there are two other signs that a training on another machine is running: it renews the modification
time of the file every HEARTBEAT seconds, and, if SLURM is installed, `squeue` knows its job. Times
are compared by the clock of the file system.
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

# The lock file, which exists in the output folder during a training.
LOCK = "run.lock"
# The seconds from one renewal of a lock file to the next.
HEARTBEAT = 15.0
# A training on another machine has ended if it has not renewed its lock file for so many seconds.
EXPIRY = 180.0
# The largest number of bytes in a lock file.
MAX_BYTES = 1000
logger = logging.getLogger(__name__)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output folder during the block.

    The lock file of a training that has ended is taken over:

    - at once if that training was on this machine, or belonged to the same call of torchrun
    - at once if SLURM knows that its job has ended
    - otherwise after EXPIRY seconds in which the file was not renewed

    Args:
        output: The folder. It is created if it is missing, and removed again if the block has
            written nothing, as after settings that are refused.

    Raises:
        ValueError: If another training uses the folder. The message names its process.
    """
    existed = output.exists()
    try:
        with _lock_file(output / LOCK):
            yield
    finally:
        if not existed:
            with suppress(OSError):  # the training has written files
                output.rmdir()


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Hold the lock of a lock file during the block, and remove the file at the end."""
    # What this process has written to the lock file, or nothing as long as it has not the lock.
    content = b""
    while not content:
        path.parent.mkdir(parents=True, exist_ok=True)
        with errors_of(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _require_free(handle, path)
            # If the previous holder has just removed the file, the next round creates another one.
            was_removed = os.fstat(handle).st_nlink == 0
            if not was_removed:
                content = json.dumps(_new_entry()).encode()
                os.ftruncate(handle, 0)
                os.pwrite(handle, content, 0)
                with _Renewal(handle, content, path):
                    yield
        finally:
            # Remove the file unless another training has taken it over, and changed its content.
            if content and os.pread(handle, MAX_BYTES, 0) == content:
                path.unlink(missing_ok=True)
            os.close(handle)


class _Renewal(AbstractContextManager["_Renewal"]):
    """A thread that renews the modification time of a lock file every HEARTBEAT seconds.

    `content` is what the holder wrote to the file. If the content changes, another training has
    taken the file over, and the thread ends.
    """

    def __init__(self, handle: int, content: bytes, path: Path) -> None:
        """Prepare the thread for an open lock file.

        Args:
            handle: The file descriptor of the lock file.
            content: The text that the holder of the lock wrote to it.
            path: The path of the file, for messages.
        """
        self._handle = handle
        self._content = content
        self._path = path
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_end, daemon=True)

    def __enter__(self) -> "_Renewal":
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, and wait for it."""
        self._has_ended.set()
        self._thread.join()

    def _renew_until_end(self) -> None:
        """Renew the time of the file regularly, until the context ends or the lock is lost."""
        while not self._has_ended.wait(HEARTBEAT):
            with suppress(OSError):  # the file system may answer again later
                if os.pread(self._handle, MAX_BYTES, 0) != self._content:
                    logger.error(f"another run has taken {self._path}: stop one of the two")
                    return
                os.utime(self._handle)


def _new_entry() -> dict[str, Any]:
    """Return the entry that this process writes to its lock file.

    "run" identifies the call of torchrun, and is "none" if torchrun did not start this process.
    """
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "since": utc_now(),
        "run": os.environ.get("TORCHELASTIC_RUN_ID", "none"),
        "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "heartbeat": HEARTBEAT,
    }


def _require_free(handle: int, path: Path) -> None:
    """Take the system's lock on a lock file, after checking that no other training holds it.

    This may wait to see whether a training on another machine renews the file.

    Args:
        handle: The file descriptor of the lock file.
        path: The path of the file, for messages.

    Raises:
        ValueError: If another training holds the lock. The error names its process.
    """
    # True if this process has the lock now, False if another one has it, None without such locks.
    has_system_lock = _take_system_lock(handle)
    holder, entry = _read_entry(handle), _new_entry()
    if holder:
        holder_name = (
            f"process {holder.get('process')} on {holder.get('host')}, since {holder.get('since')}"
        )
    else:
        # The holder has not written its entry yet.
        holder_name = "it starts"

    # On this machine the system's lock decides or, if the file system has none, the process.
    is_on_this_machine = holder.get("host") == entry["host"]
    is_held_here = has_system_lock is False
    if has_system_lock is None and is_on_this_machine:
        is_other_process = holder.get("process") != entry["process"]
        is_held_here = is_other_process and _is_process_alive(holder.get("process"))
    if is_held_here:
        raise ValueError(_in_use_message(path, holder_name))

    # The holder has ended if it was here, if torchrun has restarted it as this process (perhaps on
    # another machine), or if SLURM says so.
    was_started_by_torchrun = entry["run"] != "none"
    is_restart = was_started_by_torchrun and holder.get("run") == entry["run"]
    if not holder or is_on_this_machine or is_restart or _has_job_ended(holder, entry):
        return

    # Otherwise the holder may run on another machine, and renews the file then.
    if "heartbeat" not in holder:
        raise ValueError(
            f"{path.parent} has the lock of a run on another machine, of a version that does not "
            f"renew it: {holder_name}; if that process has ended, remove {path}"
        )
    if _wait_for_renewal(handle, path, holder_name):
        raise ValueError(_in_use_message(path, holder_name))
    logger.warning(
        f"{path.parent}: took over the lock of {holder_name}, which is no longer renewed"
    )


def _in_use_message(path: Path, holder_name: str) -> str:
    """Return the error message for a folder that another training uses.

    Args:
        path: The lock file in the folder.
        holder_name: The process that holds the lock, such as "process 123 on node7, since ...".
    """
    return (
        f"{path.parent} is in use by a run: {holder_name}; wait for its end, stop it, or choose "
        "another folder by --output"
    )


def _wait_for_renewal(handle: int, path: Path, holder_name: str) -> bool:
    """Wait until the holder of a lock file renews it, and return whether this has happened.

    The wait ends when the file has not been renewed for EXPIRY seconds. It takes at least two
    heartbeats, because a machine that was suspended may go on.

    Args:
        handle: The file descriptor of the lock file.
        path: The path of the file.
        holder_name: The process that holds the lock, for a message.
    """
    renewed_at = os.fstat(handle).st_mtime
    # A new file has the current time of the file system, which may be the time of a server.
    with tempfile.TemporaryFile(dir=path.parent) as file:
        current_time = os.fstat(file.fileno()).st_mtime
    age = current_time - renewed_at
    seconds = max(EXPIRY - age, 2 * HEARTBEAT)
    logger.info(
        f"{path.parent} has the lock of {holder_name}: it is taken over unless it is renewed in "
        f"the next {seconds:.0f} s"
    )
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        time.sleep(min(HEARTBEAT, seconds) / 10)
        if os.fstat(handle).st_mtime != renewed_at:
            return True
    return False


def _has_job_ended(holder: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Return whether SLURM knows that the job of a lock file's holder has ended.

    Args:
        holder: The entry of the holder in the lock file.
        entry: The entry that this process would write.

    Returns:
        True also if SLURM has restarted the job, as this process or to run later. False if the
        holder had no job, or if SLURM cannot be asked.
    """
    job = holder.get("job")
    if not job or holder.get("cluster") != entry["cluster"]:
        return False
    if job == entry["job"]:
        # It is the job of this process. It has ended before if SLURM has restarted it since.
        return holder.get("restarts") != entry["restarts"]

    # Ask SLURM for the states of the job. It has none if it has ended.
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
    # A pending job waits to be started again.
    return not states or states == {"PENDING"}


def _take_system_lock(handle: int) -> bool | None:
    """Try to take the operating system's lock on a file.

    Return True if this process has the lock now, False if another process has it, and None if the
    file system does not support locks. It is a POSIX lock, which NFS supports, and which data
    workers do not inherit, unlike a lock of `flock`.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _read_entry(handle: int) -> dict[str, Any]:
    """Return the entry of the holder of a lock file, or {} if the holder has not written it yet."""
    try:
        content = json.loads(os.pread(handle, MAX_BYTES, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_process_alive(process_id: Any) -> bool:
    """Return whether a process of this machine is running.

    The id is from a lock file, so it may be missing, too large, or of another type than an integer.
    """
    try:
        os.kill(process_id, 0)  # signal 0 is not sent: it only checks the process
    except PermissionError:
        # Only a process that is running, here one of another user, refuses signals.
        return True
    except (ProcessLookupError, OverflowError, TypeError):
        return False
    return True
