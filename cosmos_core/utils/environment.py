"""The origin of a result or a model: code, packages, machine, command. This imports no torch."""

import getpass
import importlib.metadata
import platform
import resource
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

# Distributions that can change a number.
PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "clip-benchmark",
    "mmsegmentation",
    "mmcv-lite",
    "mmengine",
    "numpy",
    "scipy",
    "opencv-python",
    "pillow",
)
_PACKAGE = Path(__file__).parents[1]
_CODE = ("cosmos_core", "cosmos_eval", "pyproject.toml")


class CodeState(NamedTuple):
    """The state of the running code; both values are None outside of a checkout."""

    commit: str | None
    dirty: bool | None  # whether the code was edited since the commit


def code_state(package: Path = _PACKAGE) -> CodeState:
    """Return the state of the checkout that the folder of a package belongs to.

    Only this project's own checkout counts. A copy that is installed into an environment inside of
    another repository must not report that repository's commit. Changed results and documents do
    not make the code dirty.
    """
    root = package.parent
    project = root / "pyproject.toml"
    if not (root / ".git").exists() or not project.is_file():
        return CodeState(None, None)
    if 'name = "cosmos-eval"' not in project.read_text("utf-8"):
        return CodeState(None, None)
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *_CODE)
    return CodeState(commit, None if changes is None else bool(changes))


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None if git is missing or there is no commit yet."""
    command = ["git", "-C", str(root), *arguments]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def package_version(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage(2): kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def command_line() -> str:
    """Return the command as it was typed, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def user_name() -> str:
    """Return the name that git signs with, else the login name."""
    name = _git(Path.cwd(), "config", "user.name")
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in some containers a user has only a number
        return "unknown"


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe(version: str) -> dict[str, Any]:
    """Return code, packages and machine, which are the same for all results of a run."""
    code = code_state()
    return {
        "version": version,
        "commit": code.commit,
        "dirty": code.dirty,
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": command_line(),
    }
