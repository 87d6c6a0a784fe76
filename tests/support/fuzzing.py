"""Inputs with random damage, and what every command must do with them.

A command either gives a right number, or ends with one line and status 2. In the second case it
writes nothing and leaves nothing running. Each kind of input (support.fuzzed_inputs) has its own
way to decide whether a number is right. The same seed gives the same input.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from cosmos_eval.cli.app import main

SECONDS = 60  # A command takes less than one second. One that takes a minute hangs.


class Outcome(NamedTuple):
    """How a command ended, what it printed, and the results that it wrote."""

    status: Any
    out: str
    err: str
    results: tuple[Mapping[str, Any], ...]


class Kind(NamedTuple):
    """One kind of input."""

    name: str
    # Fills a folder with the undamaged input.
    prepare: Callable[[Path], None]
    # Changes one thing in a copy of the folder, and returns what it changed.
    mutate: Callable[[Random, Path], str]
    # Returns the arguments of the command for a folder.
    arguments: Callable[[Path], list[str]]
    # Yields what is wrong with a command that ended with status 0. It gets the copy, the untouched
    # folder, and the outcomes of the command for both.
    judge: Callable[[Path, Path, Outcome, Outcome], Iterator[str]]
    # Whether the command prints a report instead of one line.
    reports: bool = False
    # Other statuses than 0 and 2 by which the command reports a difference.
    verdicts: tuple[int, ...] = ()
    # How many bytes more than before the command may take, or 0 for any number.
    memory: int = 0
    # The context that the command runs in, such as that of a server.
    around: Callable[[Path], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


class Fuzzer:
    """Cases of one kind, which run in a folder of their own."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self._pristine, self._copy = folder / "pristine", folder / "copy"
        self._pristine.mkdir(parents=True)
        kind.prepare(self._pristine)
        # This command has no time limit, since it imports the modules that all later ones use.
        with kind.around(self._pristine):
            self._reference = run_command(kind.arguments(self._pristine), self._pristine, seconds=0)
        if self._reference.status != 0:
            raise AssertionError(f"{kind.name}: the untouched input fails: {self._reference}")
        shutil.rmtree(self._pristine / "out", ignore_errors=True)

    def case(self, rng: Random) -> str:
        """Run one case, and return what was changed in the input.

        Raises:
            AssertionError: It says what was changed and what is wrong with the outcome.
        """
        _remove(self._copy)
        shutil.copytree(self._pristine, self._copy, symlinks=True)
        change = self.kind.mutate(rng, self._copy)
        files, threads, children = _snapshot(self._copy), set(threading.enumerate()), _children()
        with self.kind.around(self._copy), _memory_limit(self.kind.memory):
            outcome = run_command(self.kind.arguments(self._copy), self._copy)
        faults = [*self._faults(outcome, files), *_left_running(threads, children)]
        if faults:
            last_line = outcome.err.strip().splitlines()[-1:]
            raise AssertionError(f"{self.kind.name}: {change}: {'; '.join(faults)} {last_line}")
        return change

    def _faults(self, outcome: Outcome, files_before: Mapping[str, str]) -> Iterator[str]:
        """Yield what is wrong with an outcome."""
        if outcome.status == 0:
            try:
                yield from self.kind.judge(self._copy, self._pristine, outcome, self._reference)
            except Exception as error:  # a damaged input can hold anything
                yield f"a number from an input that the judge cannot read: {error!r:.100}"
            return
        if outcome.status not in (2, *self.kind.verdicts):
            yield f"status {outcome.status}"
        errors = [line for line in outcome.err.splitlines() if line.startswith("cosmos-eval:")]
        if len(errors) != 1 and not self.kind.reports:
            yield f"{len(errors)} error lines"
        output = outcome.out + outcome.err
        if any(sign in output for sign in ("Traceback", "--debug shows", "cannot be verified: ")):
            yield f"an unexpected error: {output[-300:]}"
        if _snapshot(self._copy) != files_before:
            yield "something was written"


def run_command(arguments: list[str], folder: Path, seconds: int = SECONDS) -> Outcome:
    """Run `cosmos-eval` in this process for at most `seconds`; its results go to `folder`/out."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = None
    with _time_limit(seconds), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities that are not errors
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(arguments)
            except SystemExit as ended:
                status = ended.code or 0
            except BaseException as error:  # no handler of the command caught it: the case fails
                status = f"{type(error).__name__}: {error}"
    results = [json.loads(path.read_text()) for path in sorted((folder / "out").glob("*.json"))]
    return Outcome(status, out.getvalue(), err.getvalue(), tuple(results))


class _HangingError(BaseException):
    """The command takes too long. It is not an Exception, which the command would handle."""


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise an error after so many seconds, or never if they are 0."""

    def stop(*_: object) -> None:
        raise _HangingError(f"no end within {seconds} seconds")

    former_handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)  # 0 sets no alarm
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former_handler)


@contextlib.contextmanager
def _memory_limit(more_bytes: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has now, or any number if it is 0.

    An allocation of more fails.
    """
    if not more_bytes:
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    n_bytes = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, hard_limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft_limit, hard_limit))


def _snapshot(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder, by its path.

    Folders, and entries that are neither files nor folders, have a word instead of a hash.
    """
    hashes = {}
    for parent, folders, names in os.walk(folder):
        for name in folders:
            hashes[os.path.join(parent, name)] = "folder"
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                hashes[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                hashes[str(path)] = "other"
    return hashes


def _children() -> set[str]:
    """Return the child processes of all threads of this process, as Linux lists them."""
    files = Path("/proc/self/task").glob("*/children")
    return {child for file in files for child in file.read_text().split()}


def _left_running(threads: set[threading.Thread], children: set[str]) -> Iterator[str]:
    """Yield the threads and child processes that run beside those that ran before."""
    for thread in set(threading.enumerate()) - threads:
        thread.join(2)
        if thread.is_alive():
            yield f"thread {thread.name} is still running"
    for child in _children() - children:
        yield f"child process {child} is still there"


def _remove(folder: Path) -> None:
    """Remove a folder, including subfolders that a mutation locked."""
    for parent, _, _ in os.walk(folder):
        Path(parent).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def damage(rng: Random, path: Path) -> str:
    """Change the bytes of a file as disks, downloads and adversaries do; return what was changed.

    Some changes are of the whole file, the others of the bytes from a random start to a stop.
    """
    content = path.read_bytes()
    start = rng.randrange(len(content) + 1)
    stop = min(len(content), start + rng.choice((1, 8, 100, 512, 4096)))
    change = rng.choice(list(_CHANGES))
    path.write_bytes(_CHANGES[change](rng, content, start, stop))
    return f"{path.name}: {change} at {start} to {stop} of {len(content)}"


def _noise(rng: Random) -> bytes:
    """Return a random number of random bytes."""
    return rng.randbytes(rng.randrange(1, 600))


def _flip_bits(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content[:start]


def _fill_with_zeros(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + bytes(stop - start) + content[stop:]


def _remove_bytes(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + content[stop:]


def _fill_with_noise(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + rng.randbytes(stop - start) + content[stop:]


def _insert_noise(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + _noise(rng) + content[start:]


def _repeat_bytes(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + content[start:stop] * 2 + content[stop:]


def _repeat_everything(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content * 2


def _append_noise(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content + _noise(rng)


def _remove_everything(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return b""


def _encode_as_utf_16(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content.decode("latin-1").encode("utf-16")


def _end_lines_as_windows_does(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return content.replace(b"\n", b"\r\n")


def _add_byte_order_mark(rng: Random, content: bytes, start: int, stop: int) -> bytes:
    return b"\xef\xbb\xbf" + content


_CHANGES: Mapping[str, Callable[[Random, bytes, int, int], bytes]] = {
    "bits": _flip_bits,
    "cut": _cut,
    "zeros": _fill_with_zeros,
    "hole": _remove_bytes,
    "noise": _fill_with_noise,
    "inserted": _insert_noise,
    "twice": _repeat_bytes,
    "concatenated": _repeat_everything,
    "trailing": _append_noise,
    "empty": _remove_everything,
    "utf-16": _encode_as_utf_16,
    "crlf": _end_lines_as_windows_does,
    "bom": _add_byte_order_mark,
}


def misplace(rng: Random, path: Path) -> str:
    """Put something else in the place of a file; return what."""
    path.unlink()
    substitute = rng.choice(("nothing", "folder", "pipe", "loop", "device", "unreadable"))
    links = {"loop": path.name, "device": "/dev/zero", "unreadable": "/proc/self/mem"}
    if substitute == "folder":
        path.mkdir()
    elif substitute == "pipe":
        os.mkfifo(path)
    elif substitute in links:
        path.symlink_to(links[substitute])
    return f"{path.name}: {substitute} in its place"


ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**20, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", " ", "x", "1", "x" * 300, "\0", "\n", "\ud800", "\u202e"),
    *("../../x", "/dev/zero", "{}", "{c}", "{0.__class__}", "=1+1", "\x1b[31m"),
    *([], {}, [None], [[]], {"a": {}}, ["x", 1], "2020-99-99"),
)
"""Values that no reader may take for something else, and that no reader may crash on."""


def alter(rng: Random, content: Any) -> str:
    """Change one value, key or entry somewhere in nested dicts and lists; return what was changed.

    The place is chosen from the outside inwards. At a dict or list, the choice ends with a
    probability of a fifth.
    """
    container, path = content, "$"
    while True:
        is_dict = isinstance(container, dict)
        keys = list(container) if is_dict else list(range(len(container)))
        if not keys:
            return f"{path} is empty"
        key = rng.choice(keys)
        value = container[key]
        if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
            break
        container, path = value, f"{path}.{key}"
    return f"{path}.{key}: {_alter_value(rng, container, key)}"


def _alter_value(rng: Random, container: Any, key: Any) -> str:
    """Change the value or the key in a dict or a list; return a word for the change."""
    value = container[key]
    change = rng.choice(("odd", "odd", "odd", "gone", "named", "twice", "kind", "deep"))
    if change == "gone":
        del container[key]
    elif change == "named" and isinstance(container, dict):
        container[str(rng.choice(ODD_VALUES))] = container.pop(key)
    elif change == "twice" and isinstance(container, list):
        container.append(value)
    elif change == "kind":
        container[key] = str(value) if not isinstance(value, str) else len(value)
    elif change == "deep":
        for _ in range(rng.choice((1, 400))):
            value = [value]
        container[key] = value
    else:
        container[key] = rng.choice(ODD_VALUES)
        return f"odd {container[key]!r:.40}"
    return change
