"""Files that are whole or not there, whatever kills the process, and where this program's lie."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from uuid import uuid4

import platformdirs

RESULTS = Path("runs/eval")
"""Where results go and are looked for, in the current folder.

Not `results`: in a checkout of this project that folder holds the results under version control,
which a trial run must not replace.
"""


def cache_folder() -> Path:
    """Where files lie that can be made again: COSMOS_EVAL_CACHE, or the user's cache folder."""
    chosen = os.environ.get("COSMOS_EVAL_CACHE")
    return Path(chosen or platformdirs.user_cache_path("cosmos-eval")).absolute()


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a hidden file in the same folder, then rename: never a half-written file.

    Folders are made as needed. Several threads or processes may write the same path: each has a
    file of its own until the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
