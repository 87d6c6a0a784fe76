"""Where a number comes from: code, packages, machine, command. Imports no torch."""

from __future__ import annotations

import getpass
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval._version import __version__

# Distributions that can change a number.
PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "clip-benchmark",
    "mmsegmentation",
    "mmcv-lite",
    "mmengine",
    "numpy",
    "scipy",
    "opencv-python",
    "pillow",
)
_CODE = ("cosmos_core", "cosmos_eval", "pyproject.toml")


class CodeState(NamedTuple):
    """The commit of the running code and whether it was edited since; None: not a checkout."""

    commit: str | None
    dirty: bool | None


def code_state(package: Path) -> CodeState:
    """State of the checkout that `package`, a package's folder, belongs to.

    Only this project's own checkout counts: a copy installed into an environment that lies
    inside some other repository must not report that repository's commit. Results and documents
    do not make the code dirty.
    """
    root = package.parent
    if not (root / ".git").exists() or not _is_this_project(root):
        return CodeState(None, None)
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *_CODE)
    return CodeState(commit, None if changes is None else bool(changes))


def _is_this_project(root: Path) -> bool:
    description = root / "pyproject.toml"
    return description.is_file() and 'name = "cosmos-eval"' in description.read_text("utf-8")


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command; None where git is missing or there is no commit yet."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def package_versions() -> dict[str, str | None]:
    """Installed version of every package that can change a number; None: not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage(2): kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def command_line() -> str:
    """The command as it was typed, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Everything about code, packages and machine that is the same for all results of a run."""
    state = code_state(Path(__file__).parents[1])
    return {
        "version": __version__,
        "commit": state.commit,
        "dirty": state.dirty,
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": command_line(),
    }


def user_name() -> str:
    """Who runs this: the name that git signs with, else the login name."""
    name = _git(Path.cwd(), "config", "user.name")
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        return "unknown"


def utc_now() -> str:
    """Now, as ISO 8601 in UTC to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
