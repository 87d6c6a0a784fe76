"""Copies of the snapshots of a run in a folder that fsspec opens, such as `s3://BUCKET/RUN`.

The folder step-00000400 has a snapshot and `complete.json`, which is written last and holds the
sizes of the snapshot's files. A folder without it was interrupted, and counts as absent. The log
and the record of the best evaluation are copied too.
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

COMPLETE = "complete.json"
# Files beside the snapshots, whose copies are replaced by newer ones.
NOTES = (LOG, f"{SNAPSHOTS}/{BEST}")
PROBE = ".write-test"  # a file that is written to test a folder
logger = logging.getLogger(__name__)


class Remote(AbstractContextManager["Remote"]):
    """The copies at `url` of the snapshots in `output`.

    A thread makes the copies, so that the training does not wait for them before its end. Raises
    ValueError, one line, for a place that cannot be opened.
    """

    def __init__(self, url: str, output: Path, say: Callable[[str], None] = logger.warning) -> None:
        self._url = url
        self._output = output
        self._snapshots = Snapshots(output, keep=1)
        self._say = say
        self._thread = ThreadPoolExecutor(1)
        with _opening(url):
            self._files, self._root = url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True
            )
        # Local files need folders, object stores have none.
        if hasattr(self._files, "auto_mkdir"):
            self._files.auto_mkdir = True

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def prepare(self, *, resume: bool) -> None:
        """Test that the place can be written, and fetch the newest copy for a run that is resumed.

        The copy is fetched if it is complete and newer than the snapshots of the folder. Raises
        ValueError if either fails, and SnapshotError if a new run would meet copies of another run.
        """
        with _opening(self._url):
            self._files.pipe_file(f"{self._root}/{PROBE}", b"-")
            self._files.rm_file(f"{self._root}/{PROBE}")
            newest = max(self.steps(), default=-1)
        if newest >= 0 and not resume:
            raise SnapshotError(
                f"{self._url} holds a run of {newest} steps: go on by --resume, or choose another"
            )
        if newest > max(self._snapshots.steps(), default=-1):
            with _opening(self._url):
                self._fetch(newest)
            logger.info(f"fetched the snapshot of step {newest} from {self._url}")

    def steps(self) -> list[int]:
        """Return the steps of the complete copies, ascending."""
        return [
            step
            for step in self._started_steps()
            if self._files.exists(f"{self._folder(step)}/{COMPLETE}")
        ]

    def start(self) -> None:
        """Update in the thread. A failure is reported in a line; the next update tries again."""
        self._thread.submit(self._try_to_update)

    def finish(self) -> None:
        """Wait until every snapshot has a copy. Raises OSError, which names the place."""
        try:
            self._thread.submit(self.update).result()
        except Exception as error:
            reason = f"the newest snapshot has no copy ({_reason(error)})"
            raise OSError(EIO, reason, self._url) from error

    def update(self) -> None:
        """Copy new snapshots, the newest first, and the log; remove copies of removed snapshots.

        The copy of the best snapshot is kept. Raises errors of any kind.
        """
        complete_steps = self.steps()
        for step in reversed(self._snapshots.steps()):
            if step not in complete_steps and self._snapshots.path(step).exists():
                self._copy(step)
        for name in NOTES:
            self._copy_note(name)
        kept_steps = self._snapshots.steps()
        best = self._snapshots.best()
        if best is not None:
            kept_steps.append(best.step)
        # Without any snapshot nothing is removed.
        newest_step = max(kept_steps, default=-1)
        for step in self._started_steps():
            if step < newest_step and step not in kept_steps:
                self._remove(step)

    def _try_to_update(self) -> None:
        try:
            self.update()
        except Exception as error:  # a file system raises errors of any kind
            self._say(
                f"{self._url}: a snapshot was not copied, it is tried again with the next "
                f"snapshot ({_reason(error)})"
            )

    def _copy(self, step: int) -> None:
        """Copy the snapshot of a step, and write `complete.json` last."""
        self._remove(step)  # an interrupted copy may have left files
        snapshot = self._snapshots.path(step)
        sizes = {}
        for path in [snapshot, *snapshot.rglob("*")]:
            if not path.is_file():
                continue
            name = path.relative_to(snapshot.parent).as_posix()
            copy = f"{self._folder(step)}/{name}"
            sizes[name] = path.stat().st_size
            self._files.put_file(str(path), copy)
            _require_size(copy, self._files.size(copy), sizes[name])
        self._files.pipe_file(f"{self._folder(step)}/{COMPLETE}", json.dumps(sizes).encode())

    def _copy_note(self, name: str) -> None:
        """Copy a file of NOTES, if it exists, under a temporary name first."""
        path = self._output / name
        if path.exists():
            temporary = f"{self._root}/.{path.name}.tmp"
            self._files.put_file(str(path), temporary)
            self._files.mv(temporary, f"{self._root}/{name}")

    def _fetch(self, step: int) -> None:
        """Copy a snapshot and the notes to the output folder."""
        sizes = json.loads(self._files.cat_file(f"{self._folder(step)}/{COMPLETE}"))
        (self._output / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
        with temporary_folder(self._output) as temporary:
            for name, size in sizes.items():
                path = temporary / name
                path.parent.mkdir(exist_ok=True)
                self._files.get_file(f"{self._folder(step)}/{name}", str(path))
                _require_size(f"{self._folder(step)}/{name}", path.stat().st_size, size)
            for name in NOTES:
                copy = f"{self._root}/{name}"
                if self._files.exists(copy):
                    write_atomically(self._output / name, self._files.cat_file(copy))
            for path in temporary.iterdir():  # the file or the folder of the snapshot
                path.replace(self._output / SNAPSHOTS / path.name)

    def _remove(self, step: int) -> None:
        """Remove the copy of a step, `complete.json` first: a partial copy must not seem whole."""
        for path in (f"{self._folder(step)}/{COMPLETE}", self._folder(step)):
            if self._files.exists(path):
                self._files.rm(path, recursive=True)

    def _folder(self, step: int) -> str:
        return f"{self._root}/step-{step:08d}"

    def _started_steps(self) -> list[int]:
        """Return the steps of all copies, also of those that are not complete, ascending."""
        if not self._files.exists(self._root):
            return []
        steps = []
        for path in self._files.ls(self._root, detail=False):
            name_match = re.search(r"/step-(\d{8})/?$", path)
            if name_match:
                steps.append(int(name_match[1]))
        return sorted(steps)


@contextmanager
def _opening(url: str) -> Iterator[None]:
    """Raise ValueError, one line with a remedy, for any error of the block."""
    try:
        yield
    except Exception as error:
        hint = ""
        if isinstance(error, ImportError) and url.startswith("s3:"):
            hint = "; pip install 'cosmos-eval[s3]'"
        raise ValueError(f"save.remote={url}: {_reason(error)}{hint}") from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _require_size(name: str, size: int | None, expected_size: int) -> None:
    if size != expected_size:
        raise OSError(EIO, f"{name} has {size} of {expected_size} bytes")
