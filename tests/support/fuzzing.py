"""Damaged inputs by chance, and what every command must do with them.

A command either gives a right number, or ends with one line and status 2; it writes nothing then,
and leaves nothing running. What a right number is, each kind of input (support.fuzzed_inputs)
decides by means of its own. The same seed gives the same input.
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

SECONDS = 60  # of one command, which takes less than one: more is a command that hangs


class Outcome(NamedTuple):
    """How a command ended, what it printed, and the results that it wrote."""

    status: Any
    out: str
    err: str
    results: tuple[Mapping[str, Any], ...]


class Kind(NamedTuple):
    """One kind of input.

    `prepare` fills a folder; `mutate` changes one thing in a copy of it and says what; `arguments`
    are the command for that copy. `judge` gets the copy, the untouched folder, and the outcomes of
    both, and yields what is wrong with a command that ended with status 0. `reports` says that the
    command has a report instead of one line, `verdicts` other statuses by which it reports a
    difference, and `memory` how many bytes more than before it may take, 0 for any number. The
    command runs within the context `around`, such as that of a server.
    """

    name: str
    prepare: Callable[[Path], None]
    mutate: Callable[[Random, Path], str]
    arguments: Callable[[Path], list[str]]
    judge: Callable[[Path, Path, Outcome, Outcome], Iterator[str]]
    reports: bool = False
    verdicts: tuple[int, ...] = ()
    memory: int = 0
    around: Callable[[Path], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


class Fuzzer:
    """Cases of one kind in a folder of their own."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self._pristine, self._copy = folder / "pristine", folder / "copy"
        self._pristine.mkdir(parents=True)
        kind.prepare(self._pristine)
        # No limit here: the first command imports all that the others find imported.
        with kind.around(self._pristine):
            self._reference = run_command(kind.arguments(self._pristine), self._pristine, seconds=0)
        if self._reference.status != 0:
            raise AssertionError(f"{kind.name}: the untouched input fails: {self._reference}")
        shutil.rmtree(self._pristine / "out", ignore_errors=True)

    def case(self, rng: Random) -> str:
        """Run one case. Raises AssertionError that says what was done and what is wrong."""
        _remove(self._copy)
        shutil.copytree(self._pristine, self._copy, symlinks=True)
        done = self.kind.mutate(rng, self._copy)
        before, running, children = _snapshot(self._copy), set(threading.enumerate()), _children()
        with self.kind.around(self._copy), _memory_limit(self.kind.memory):
            outcome = run_command(self.kind.arguments(self._copy), self._copy)
        faults = [*self._faults(outcome, before), *_left_running(running, children)]
        if faults:
            last = outcome.err.strip().splitlines()[-1:]
            raise AssertionError(f"{self.kind.name}: {done}: {'; '.join(faults)} {last}")
        return done

    def _faults(self, outcome: Outcome, before: Mapping[str, str]) -> Iterator[str]:
        if outcome.status == 0:
            try:
                yield from self.kind.judge(self._copy, self._pristine, outcome, self._reference)
            except Exception as error:  # what is damaged may be anything but what it was
                yield f"a number of what the oracle cannot read: {error!r:.100}"
            return
        if outcome.status not in (2, *self.kind.verdicts):
            yield f"status {outcome.status}"
        errors = [line for line in outcome.err.splitlines() if line.startswith("cosmos-eval:")]
        if len(errors) != 1 and not self.kind.reports:
            yield f"{len(errors)} error lines"
        said = outcome.out + outcome.err
        if any(sign in said for sign in ("Traceback", "--debug shows", "cannot be verified: ")):
            yield f"an error that nobody expected: {said[-300:]}"
        if _snapshot(self._copy) != before:
            yield "something was written"


def run_command(arguments: list[str], folder: Path, seconds: int = SECONDS) -> Outcome:
    """Run `cosmos-eval` in this process for at most `seconds`; its results go to `folder`/out."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = None
    with _time_limit(seconds), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities that are no errors
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(arguments)
            except SystemExit as ended:
                status = ended.code or 0
            except BaseException as error:  # it passed all handlers: the case fails, not the run
                status = f"{type(error).__name__}: {error}"
    results = [json.loads(path.read_text()) for path in sorted((folder / "out").glob("*.json"))]
    return Outcome(status, out.getvalue(), err.getvalue(), tuple(results))


class _HangingError(BaseException):
    """No handler of errors takes it for one of its own."""


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _HangingError(f"no end within {seconds} seconds")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)  # 0 is no alarm
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@contextlib.contextmanager
def _memory_limit(more: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has; an allocation of others fails."""
    if not more:
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _snapshot(folder: Path) -> dict[str, str]:
    """The content of every file below a folder, by its path; folders and other things by kind."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in folders:
            found[os.path.join(parent, name)] = "folder"
        for path in (Path(parent, name) for name in names):
            plain = path.is_file() and not path.is_symlink()
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else "other"
    return found


def _children() -> set[str]:
    """Child processes of all threads of this one, as Linux lists them."""
    files = Path("/proc/self/task").glob("*/children")
    return {child for file in files for child in file.read_text().split()}


def _left_running(threads: set[threading.Thread], children: set[str]) -> Iterator[str]:
    for thread in set(threading.enumerate()) - threads:
        thread.join(2)
        if thread.is_alive():
            yield f"thread {thread.name} is still running"
    for child in _children() - children:
        yield f"child process {child} is still there"


def _remove(folder: Path) -> None:
    for parent, _, _ in os.walk(folder):
        Path(parent).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def damage(rng: Random, path: Path) -> str:
    """Change the bytes of a file as disks, downloads and adversaries do."""
    content = path.read_bytes()
    start = rng.randrange(len(content) + 1)
    stop = min(len(content), start + rng.choice((1, 8, 100, 512, 4096)))
    forms: dict[str, Callable[[], bytes]] = {
        "bits": lambda: _flipped(rng, content),
        "cut": lambda: content[:start],
        "zeros": lambda: content[:start] + bytes(stop - start) + content[stop:],
        "hole": lambda: content[:start] + content[stop:],
        "noise": lambda: content[:start] + rng.randbytes(stop - start) + content[stop:],
        "inserted": lambda: content[:start] + _noise(rng) + content[start:],
        "twice": lambda: content[:start] + content[start:stop] * 2 + content[stop:],
        "concatenated": lambda: content * 2,
        "trailing": lambda: content + _noise(rng),
        "empty": lambda: b"",
        "utf-16": lambda: content.decode("latin-1").encode("utf-16"),
        "crlf": lambda: content.replace(b"\n", b"\r\n"),
        "bom": lambda: b"\xef\xbb\xbf" + content,
    }
    name = rng.choice(list(forms))
    path.write_bytes(forms[name]())
    return f"{path.name}: {name} at {start} to {stop} of {len(content)}"


def _noise(rng: Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 600))


def _flipped(rng: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def misplace(rng: Random, path: Path) -> str:
    """Put something else in the place of a file."""
    path.unlink()
    what = rng.choice(("nothing", "folder", "pipe", "loop", "device", "unreadable"))
    links = {"loop": path.name, "device": "/dev/zero", "unreadable": "/proc/self/mem"}
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what in links:
        path.symlink_to(links[what])
    return f"{path.name}: {what} in its place"


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**20, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", " ", "x", "1", "x" * 300, "\0", "\n", "\ud800", "\u202e"),
    *("../../x", "/dev/zero", "{}", "{c}", "{0.__class__}", "=1+1", "\x1b[31m"),
    *([], {}, [None], [[]], {"a": {}}, ["x", 1], "2020-99-99"),
)
"""Values that no reader may take for something else, and that none may fail on."""


def alter(rng: Random, content: Any) -> str:
    """Change one value, name or entry somewhere in nested dicts and lists; say what."""
    place, where = content, "$"
    while True:
        names = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not names:
            return f"{where} is empty"
        name = rng.choice(names)
        inner = place[name]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            break
        place, where = inner, f"{where}.{name}"
    return f"{where}.{name}: {_altered(rng, place, name)}"


def _altered(rng: Random, place: Any, name: Any) -> str:
    value = place[name]
    how = rng.choice(("odd", "odd", "odd", "gone", "named", "twice", "kind", "deep"))
    if how == "gone":
        del place[name]
    elif how == "named" and isinstance(place, dict):
        place[str(rng.choice(ODD))] = place.pop(name)
    elif how == "twice" and isinstance(place, list):
        place.append(value)
    elif how == "kind":
        place[name] = str(value) if not isinstance(value, str) else len(value)
    elif how == "deep":
        for _ in range(rng.choice((1, 400))):
            value = [value]
        place[name] = value
    else:
        how, place[name] = "odd", rng.choice(ODD)
        return f"odd {place[name]!r:.40}"
    return how
