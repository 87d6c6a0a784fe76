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

# Installed packages whose version can change a result.
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
    """Return the git commit of the running code, and whether the code was edited since.

    Changed results and documents do not count as edited code.

    Args:
        package: The folder of the package, such as `/home/me/cosmos-eval/cosmos_core`.

    Returns:
        The commit, such as "1a2b3c...", and whether the code was edited. Both are None if the
        package is not in a checkout of this project.
    """
    # The package may be installed into an environment inside of another repository. The commit of
    # that repository must not be reported.
    root = package.parent
    project_file = root / "pyproject.toml"
    if not (root / ".git").exists() or not project_file.is_file():
        return CodeState(None, None)
    if 'name = "cosmos-eval"' not in project_file.read_text("utf-8"):
        return CodeState(None, None)

    commit = _git(root, "rev-parse", "HEAD")
    # One line for each edited file, and an empty text if there is none.
    edited_files = _git(root, "status", "--porcelain", "--", *_CODE)
    if edited_files is None:
        return CodeState(commit, None)
    return CodeState(commit, dirty=edited_files != "")


def _git(folder: Path, *arguments: str) -> str | None:
    """Run a git command in a folder, and return what it prints.

    Args:
        folder: A folder in the repository.
        *arguments: The command and its options, such as "rev-parse", "HEAD".

    Returns:
        The output without white space at the ends, or None if git is not installed or the command
        fails.
    """
    command = ["git", "-C", str(folder), *arguments]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def package_version(distribution: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed.

    `distribution` is the name by which pip installs it, such as `open_clip_torch`.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage(2): kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def command_line() -> str:
    """Return the command line of this process, without the folder of the program.

    An example is `cosmos-eval run --task retrieval`. Arguments are quoted for a shell.
    """
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def user_name() -> str:
    """Return the name of the user: the one that git signs commits with, else the login name.

    Return "unknown" if there is neither.
    """
    git_name = _git(Path.cwd(), "config", "user.name")
    if git_name:
        return git_name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in some containers a user has only a number
        return "unknown"


def utc_now() -> str:
    """Return the present time in UTC to the second, such as `2025-01-31T12:00:00+00:00`."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe(version: str) -> dict[str, Any]:
    """Return where the results of this process come from: code, packages, machine and command.

    Args:
        version: The version of the program, such as "1.2.0".

    Returns:
        Values for the JSON of results, such as {"version": "1.2.0", "commit": "1a2b3c...", "dirty":
        False, "packages": {"torch": "2.10.0"}, "python": "3.12.3", ...}. They are the same for all
        results of a run.
    """
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
