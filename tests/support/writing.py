"""Writing under difficulties: a disk that is full, and a process that is killed meanwhile."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.processes import context

from cosmos_core.utils import files


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes inside the block. Python ignores the
    signal SIGXFSZ, so that writing raises OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Writing:
    """A process in the middle of writing to a folder. `kind` is "replacing" for a file, "appearing"
    for a folder."""

    def __init__(self, folder: Path, kind: str = "replacing") -> None:
        ready = context.Event()
        self._process = context.Process(target=_write, args=(folder / "never", kind, ready))
        self._process.start()
        assert ready.wait(60)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _write(path: Path, kind: str, ready: Any) -> None:
    with getattr(files, kind)(path):
        ready.set()
        time.sleep(600)
