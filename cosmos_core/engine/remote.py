"""Copy the snapshots of a training to a place that fsspec can open, such as `s3://BUCKET/RUN`.

There, the folder step-00000400 has the snapshot after 400 steps, and the file `complete.json`. This
file is written last, and holds the sizes of the snapshot's files. A copy without it was
interrupted, and counts as missing. The log and the record of the best evaluation are copied too.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from errno import EIO
from pathlib import Path

from fsspec.core import url_to_fs

from cosmos_core.engine.loggers import LOG
from cosmos_core.engine.snapshot import BEST, SnapshotError, Snapshots
from cosmos_core.model.checkpoint import SNAPSHOTS
from cosmos_core.utils.files import temporary_folder, write_atomically

# The file that marks a complete copy.
COMPLETE = "complete.json"
# Other files in the output folder that are copied, again with each snapshot.
OTHER_FILES = (LOG, f"{SNAPSHOTS}/{BEST}")
# A file that is written and removed, to test whether the place can be written.
PROBE = ".write-test"
logger = logging.getLogger(__name__)


class Remote(AbstractContextManager["Remote"]):
    """The copies of a training's snapshots at another place.

    A thread copies, so that the training waits for the copies only at its end.

    Args:
        url: The place, such as "s3://BUCKET/RUN" or a folder.
        output: The output folder of the training.
        say: A function that shows a line to the user.

    Raises:
        ValueError: If the place cannot be opened.
    """

    def __init__(self, url: str, output: Path, say: Callable[[str], None] = logger.warning) -> None:
        """Open the place. The arguments are described in the class."""
        self._url = url
        self._output = output
        self._snapshots = Snapshots(output, keep=1)
        self._say = say
        self._executor = ThreadPoolExecutor(1)
        with _explaining_errors(url):
            self._file_system, self._root = url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True
            )
        # Local file systems must create the folders of files. Object stores have no folders.
        if hasattr(self._file_system, "auto_mkdir"):
            self._file_system.auto_mkdir = True

    def __exit__(self, *_: object) -> None:
        """Wait for the thread, and end it."""
        self._executor.shutdown()

    def prepare(self, *, resume: bool) -> None:
        """Prepare the place for a training, before the training starts.

        Test whether the place can be written. If the training is resumed, and the newest complete
        copy is newer than the snapshots in the output folder, fetch it.

        Args:
            resume: True if the training is resumed, and False for a new training.

        Raises:
            ValueError: If the place cannot be written, or the copy cannot be fetched.
            SnapshotError: If a new training would find copies of another one.
        """
        with _explaining_errors(self._url):
            # Write a small file as a test, and remove it.
            self._file_system.pipe_file(f"{self._root}/{PROBE}", b"-")
            self._file_system.rm_file(f"{self._root}/{PROBE}")
            # The step -1 stands for no copy.
            newest_copied_step = max(self.steps(), default=-1)
        if newest_copied_step >= 0 and not resume:
            raise SnapshotError(
                f"{self._url} holds a run of {newest_copied_step} steps: go on by --resume, or "
                "choose another"
            )
        newest_local_step = max(self._snapshots.steps(), default=-1)
        if newest_copied_step > newest_local_step:
            with _explaining_errors(self._url):
                self._fetch(newest_copied_step)
            logger.info(f"fetched the snapshot of step {newest_copied_step} from {self._url}")

    def steps(self) -> list[int]:
        """Return the training steps of the complete copies, in ascending order."""
        complete_steps = []
        for step in self._started_steps():
            if self._file_system.exists(f"{self._folder(step)}/{COMPLETE}"):
                complete_steps.append(step)
        return complete_steps

    def start(self) -> None:
        """Let the thread copy new snapshots, without waiting for it.

        If this fails, a line reports it, and the next call tries again.
        """
        self._executor.submit(self._try_to_update)

    def finish(self) -> None:
        """Copy new snapshots, and wait until this is done.

        Raises:
            OSError: If a snapshot cannot be copied. The error names the place.
        """
        try:
            self._executor.submit(self.update).result()
        except Exception as error:
            reason = f"the newest snapshot has no copy ({_describe_error(error)})"
            raise OSError(EIO, reason, self._url) from error

    def update(self) -> None:
        """Bring the copies up to date with the output folder.

        The log and the record of the best evaluation are copied, and then new snapshots, the newest
        first. Copies of snapshots that are gone are removed, except the one with the best
        evaluation.

        Raises:
            Exception: Any error of the file system.
        """
        snapshot_steps = self._snapshots.steps()

        # Copy the log and the record of the best evaluation. This comes before the snapshots: then
        # the copied log has all steps of each complete copy, also if the process is killed here.
        for name in OTHER_FILES:
            path = self._output / name
            if path.exists():
                # Copy under a temporary name first, so that the copy is never incomplete.
                temporary_copy = f"{self._root}/.{path.name}.tmp"
                self._file_system.put_file(str(path), temporary_copy)
                self._file_system.mv(temporary_copy, f"{self._root}/{name}")

        # Copy new snapshots. A snapshot that is written from now on is copied by the next call,
        # because the copied log may lack its steps.
        complete_steps = self.steps()
        for step in reversed(snapshot_steps):
            if step not in complete_steps and self._snapshots.path(step).exists():
                self._copy(step)

        # Remove old copies. Copies that are newer than all snapshots stay. If there are no
        # snapshots, all copies stay.
        steps_to_keep = self._snapshots.steps()
        best = self._snapshots.best()
        if best is not None:
            steps_to_keep.append(best.step)
        newest_step = max(steps_to_keep, default=-1)
        for step in self._started_steps():
            if step < newest_step and step not in steps_to_keep:
                self._remove(step)

    def _try_to_update(self) -> None:
        """Copy new snapshots, and report an error in a line."""
        try:
            self.update()
        except Exception as error:  # a file system raises errors of any kind
            self._say(
                f"{self._url}: a snapshot was not copied, it is tried again with the next "
                f"snapshot ({_describe_error(error)})"
            )

    def _copy(self, step: int) -> None:
        """Copy the snapshot of a step, which is a file or a folder.

        The file `complete.json`, which holds the sizes of the copied files, is written last.
        """
        # An interrupted copy may have left files.
        self._remove(step)
        snapshot = self._snapshots.path(step)
        size_by_name = {}
        for path in [snapshot, *snapshot.rglob("*")]:
            if not path.is_file():
                continue
            # For example "step-00000400.pt", or "step-00000400/state.pt" in a folder.
            name = path.relative_to(snapshot.parent).as_posix()
            copy = f"{self._folder(step)}/{name}"
            size_by_name[name] = path.stat().st_size
            self._file_system.put_file(str(path), copy)
            _require_size(copy, self._file_system.size(copy), size_by_name[name])
        content = json.dumps(size_by_name).encode()
        self._file_system.pipe_file(f"{self._folder(step)}/{COMPLETE}", content)

    def _fetch(self, step: int) -> None:
        """Copy the snapshot of a step and the other files from the place to the output folder.

        The snapshot appears in the folder of snapshots only when it is complete.
        """
        content = self._file_system.cat_file(f"{self._folder(step)}/{COMPLETE}")
        size_by_name = json.loads(content)
        (self._output / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
        with temporary_folder(self._output) as folder:
            for name, size in size_by_name.items():
                path = folder / name
                path.parent.mkdir(exist_ok=True)
                copy = f"{self._folder(step)}/{name}"
                self._file_system.get_file(copy, str(path))
                _require_size(copy, path.stat().st_size, size)
            for name in OTHER_FILES:
                copy = f"{self._root}/{name}"
                if self._file_system.exists(copy):
                    write_atomically(self._output / name, self._file_system.cat_file(copy))
            # The folder has one entry: the snapshot as a file or as a folder.
            for path in folder.iterdir():
                path.replace(self._output / SNAPSHOTS / path.name)

    def _remove(self, step: int) -> None:
        """Remove the copy of a step, if it exists.

        `complete.json` is removed first, so that a copy that is partly removed does not count as
        complete.
        """
        for path in (f"{self._folder(step)}/{COMPLETE}", self._folder(step)):
            if self._file_system.exists(path):
                self._file_system.rm(path, recursive=True)

    def _folder(self, step: int) -> str:
        """Return the path of the folder of a copy: 400 -> "BUCKET/RUN/step-00000400"."""
        return f"{self._root}/step-{step:08d}"

    def _started_steps(self) -> list[int]:
        """Return the training steps of all copies, complete or not, in ascending order."""
        if not self._file_system.exists(self._root):
            return []
        steps = []
        for path in self._file_system.ls(self._root, detail=False):
            name_match = re.search(r"/step-(\d{8})/?$", path)
            if name_match:
                steps.append(int(name_match[1]))
        return sorted(steps)


@contextmanager
def _explaining_errors(url: str) -> Iterator[None]:
    """Turn any error of the block into a ValueError that names the option `save.remote`.

    Args:
        url: The value of the option, which is the place of the copies.

    Raises:
        ValueError: If the block raises an error. The message has one line. If the package for S3 is
            missing, it says how to install it.
    """
    try:
        yield
    except Exception as error:
        advice = ""
        is_package_missing = isinstance(error, ImportError) and url.startswith("s3:")
        if is_package_missing:
            advice = "; pip install 'cosmos-eval[s3]'"
        raise ValueError(f"save.remote={url}: {_describe_error(error)}{advice}") from error


def _describe_error(error: Exception) -> str:
    """Return the class and the message of an error in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _require_size(name: str, size: int | None, expected_size: int) -> None:
    """Check that a copied file has the expected size.

    Args:
        name: The path of the copy, for the error message.
        size: The size of the copy in bytes, or None if the file system does not know it.
        expected_size: The size of the original in bytes.

    Raises:
        OSError: If the sizes differ.
    """
    if size != expected_size:
        raise OSError(EIO, f"{name} has {size} of {expected_size} bytes")
