"""Copies of the snapshots of a run in a folder that fsspec opens, such as `s3://BUCKET/RUN`. The
folder step-00000400 has a snapshot and, written last, `complete.json` with the sizes of its files:
one without it was interrupted, and counts as absent. Beside it are the log and the best step."""

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
NOTES = (LOG, f"{SNAPSHOTS}/{BEST}")  # which a newer copy replaces
PROBE = ".write-test"
logger = logging.getLogger(__name__)


class Remote(AbstractContextManager["Remote"]):
    """The copies at `url` of the snapshots in `output`, made by a thread, so that the training does
    not wait for it before its end. Raises ValueError, one line, for a place that does not open."""

    def __init__(self, url: str, output: Path, say: Callable[[str], None] = logger.warning) -> None:
        self._url, self._output, self._snapshots = url, output, Snapshots(output, keep=1)
        self._say, self._thread = say, ThreadPoolExecutor(1)
        with _opening(url):
            self._files, self._root = url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True
            )
        if hasattr(self._files, "auto_mkdir"):  # of local files: stores of objects have no folders
            self._files.auto_mkdir = True

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def prepare(self, *, resume: bool) -> None:
        """Test that the place can be written; to resume, fetch the newest complete copy if it is
        newer than the snapshots of the folder. Raises ValueError where either fails, and where a
        new run would meet the copies of another."""
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
        return [n for n in self._started() if self._files.exists(f"{self._folder(n)}/{COMPLETE}")]

    def start(self) -> None:
        """Update soon. A failure is reported in a line; the next update copies what is missing."""
        self._thread.submit(self._try_to_update)

    def finish(self) -> None:
        """Wait until every snapshot has a copy. Raises OSError, which names the place."""
        try:
            self._thread.submit(self.update).result()
        except Exception as error:
            reason = f"the newest snapshot has no copy ({_reason(error)})"
            raise OSError(EIO, reason, self._url) from error

    def update(self) -> None:
        """Copy the snapshots that have no complete copy, the newest first, and the log; then remove
        copies of snapshots that were removed, but for the best. Raises errors of any kind."""
        complete = self.steps()
        for step in reversed(self._snapshots.steps()):
            if step not in complete and self._snapshots.path(step).exists():
                self._copy(step)
        for name in NOTES:
            if (self._output / name).exists():
                temporary = f"{self._root}/.{Path(name).name}.tmp"
                self._files.put_file(str(self._output / name), temporary)
                self._files.mv(temporary, f"{self._root}/{name}")
        best = self._snapshots.best()
        kept = [*self._snapshots.steps(), best.step if best else -1]
        for step in self._started():
            if step not in kept and step < max(kept):
                self._remove(step)

    def _try_to_update(self) -> None:
        try:
            self.update()
        except Exception as error:  # a file system raises errors of any kind
            again = "it is tried again with the next snapshot"
            self._say(f"{self._url}: a snapshot was not copied, {again} ({_reason(error)})")

    def _copy(self, step: int) -> None:
        self._remove(step)  # what an interrupted copy left
        snapshot, sizes = self._snapshots.path(step), {}
        for path in filter(Path.is_file, [snapshot, *snapshot.rglob("*")]):
            name = path.relative_to(snapshot.parent).as_posix()
            copy, sizes[name] = f"{self._folder(step)}/{name}", path.stat().st_size
            self._files.put_file(str(path), copy)
            _require_size(copy, self._files.size(copy), sizes[name])
        self._files.pipe_file(f"{self._folder(step)}/{COMPLETE}", json.dumps(sizes).encode())

    def _fetch(self, step: int) -> None:
        sizes = json.loads(self._files.cat_file(f"{self._folder(step)}/{COMPLETE}"))
        (self._output / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
        with temporary_folder(self._output) as temporary:
            for name, size in sizes.items():
                path = temporary / name
                path.parent.mkdir(exist_ok=True)
                self._files.get_file(f"{self._folder(step)}/{name}", str(path))
                _require_size(f"{self._folder(step)}/{name}", path.stat().st_size, size)
            for name in NOTES:
                if self._files.exists(copy := f"{self._root}/{name}"):
                    write_atomically(self._output / name, self._files.cat_file(copy))
            for path in temporary.iterdir():  # of one snapshot, a file or a folder
                path.replace(self._output / SNAPSHOTS / path.name)

    def _remove(self, step: int) -> None:
        for name in (f"/{COMPLETE}", ""):  # so that a part never seems whole
            if self._files.exists(path := self._folder(step) + name):
                self._files.rm(path, recursive=True)

    def _folder(self, step: int) -> str:
        return f"{self._root}/step-{step:08d}"

    def _started(self) -> list[int]:
        paths = self._files.ls(self._root, detail=False) if self._files.exists(self._root) else ()
        found = [re.search(r"/step-(\d{8})/?$", path) for path in paths]
        return sorted(int(one[1]) for one in found if one)


@contextmanager
def _opening(url: str) -> Iterator[None]:
    """Raise ValueError, one line that names what to install or to correct, for any error."""
    try:
        yield
    except Exception as error:
        missing = isinstance(error, ImportError) and url.startswith("s3:")
        hint = "; pip install 'cosmos-eval[s3]'" if missing else ""
        raise ValueError(f"save.remote={url}: {_reason(error)}{hint}") from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _require_size(name: str, found: int | None, wanted: int) -> None:
    if found != wanted:
        raise OSError(EIO, f"{name} has {found} of {wanted} bytes")
