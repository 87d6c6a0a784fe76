"""`cosmos-train` and torchrun in a process forked from one that has loaded the libraries.

The process has its own signals, output and exit status, as a program has, and starts at once. The
tests that kill a run, and the test of examples/train.sbatch, start the programs themselves.
"""

import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

import torch
from support.processes import context

from cosmos_core.train import main
from cosmos_core.utils import command


class Forked:
    """As much of subprocess.Popen as the tests use; standard output and error are kept apart."""

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        out: str | Path | None = None,
        target: Callable[[list[str]], None] | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._out, self._err = self._folder / "out", self._folder / "err"
        words = [str(word) for word in arguments]
        outputs = (Path(out or self._out), self._err)
        self._process = context.Process(
            target=_run, args=(target or train_in_process, words, *outputs)
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def limit_files(self, size: int) -> None:
        """Let the process write no file beyond `size` bytes, as on a full disk."""
        assert self._process.pid is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, size))

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutExpired("cosmos-train", timeout or 0)
        out, err = (p.read_text() if p.exists() else "" for p in (self._out, self._err))
        shutil.rmtree(self._folder, ignore_errors=True)
        return out, err


def run(
    arguments: Sequence[object],
    timeout: float,
    target: Callable[[list[str]], None] | None = None,
) -> CompletedProcess[str]:
    process = Forked(arguments, target=target)
    out, err = process.communicate(timeout)
    return CompletedProcess(arguments, process.returncode or 0, out, err)


def train_as_rank(arguments: list[str]) -> None:
    """Run `cosmos-train` as torchrun would start a process of several on this machine. Shards may
    have `${RANK}` in their names."""
    rank, world_size, port, *words = arguments
    names = ("RANK", "LOCAL_RANK", "WDS_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = (rank, rank, rank, world_size, "127.0.0.1", port)
    os.environ.update(zip(names, values, strict=True))
    torch.set_num_threads(1)
    train_in_process(words)


def torchrun(arguments: list[str]) -> None:
    """Run torchrun with a file as the program of its processes, which are forked from it.

    They end by `sys.exit`: torchrun waits for what a forked process that ends well returns.
    """
    from torch.distributed.run import main as launch

    multiprocessing.set_start_method(None, force=True)
    command.end_process = sys.exit
    launch(["--standalone", "--run-path", "--start-method=fork", *arguments])


def interrupted_import(arguments: list[str]) -> None:
    """Run the `main` of a module whose first import is interrupted and does not pass that on."""
    (program,) = arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    module = importlib.import_module(program)
    for name in ("cosmos_core.cli", "cosmos_eval.cli.app"):
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Interrupted())  # type: ignore[arg-type]
    module.main()


class _Interrupted:
    def find_spec(self, *_: object) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def _run(target: Callable[[list[str]], None], arguments: list[str], out: Path, err: Path) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    # The forked streams hold what they knew of other files.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    target(arguments)


def train_in_process(arguments: list[str]) -> None:
    """Run `cosmos-train`, which ends this process."""
    sys.argv = ["cosmos-train", *arguments]
    multiprocessing.set_start_method(None, force=True)  # a program's, not that of this process
    main()
