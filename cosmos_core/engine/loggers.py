"""The log of a run: OUTPUT/log.jsonl, and writers that give its numbers to other programs: each is
made of the configuration, the output folder and the first step, from which on it replaces what an
earlier part of the run wrote; `write` takes the values of a step, and `close` whether the run has
failed."""

import importlib.util
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from cosmos_core.config import TrainConfig, WatchConfig
from cosmos_core.utils.files import errors_of, write_atomically

LOG = "log.jsonl"


class TensorBoard:
    """Event files in OUTPUT/tensorboard. Raises OSError, with the folder, on a full disk."""

    def __init__(self, config: TrainConfig, output: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._hook = output / "tensorboard", threading.excepthook
        threading.excepthook = self._report
        with errors_of(self._folder):
            self.events = SummaryWriter(str(self._folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with errors_of(self._folder):
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def close(self, *, failed: bool = False) -> None:
        with ExitStack() as closing, errors_of(self._folder):
            closing.callback(setattr, threading, "excepthook", self._hook)
            self.events.close()

    def _report(self, error: threading.ExceptHookArgs) -> None:
        """Print the errors of threads but for TensorBoard's, whose next call raises them again."""
        if type(error.thread).__name__ != "_AsyncWriterThread":
            self._hook(error)


class WeightsAndBiases:
    """A run of Weights & Biases, which its own variables configure (WANDB_MODE, WANDB_PROJECT). A
    resumed run goes on in it by the id in OUTPUT/wandb/id: W&B ignores the steps that it has.
    Raises ValueError where it cannot start."""

    def __init__(self, config: TrainConfig, output: Path, first_step: int) -> None:
        import wandb

        path = output / "wandb" / "id"
        identity = path.read_text() if first_step and path.exists() else uuid4().hex
        write_atomically(path, identity.encode())
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "cosmos-train"),
                id=identity,
                name=output.name,
                dir=output,
                resume="allow",
                config=asdict(config),
                settings=wandb.Settings(console="off", quiet=True),
            )
        except Exception as error:  # of many kinds: no key, no network, no such project
            raise ValueError(
                f"W&B cannot start ({type(error).__name__}: {error}): run `wandb login`, write to "
                "files by WANDB_MODE=offline, or leave wandb out of watch.loggers"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))


Writer = TensorBoard | WeightsAndBiases
WRITERS: dict[str, type[Writer]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def missing_packages(watch: WatchConfig) -> list[str]:
    """Return a line for each of `watch.loggers` whose package is not installed. Raises ValueError
    with it where the loggers are not the default ones."""
    text = f"{{0}} is not installed (pip install 'cosmos-eval[{{0}}]'), everything is in {LOG}"
    lines = [text.format(name) for name in watch.loggers if importlib.util.find_spec(name) is None]
    if lines and watch.loggers != WatchConfig.loggers:
        raise ValueError(f"watch.loggers: {lines[0]}")
    return lines


class RunLog:
    """The log of a run from `first_step` on; records of later steps are dropped."""

    def __init__(self, output: Path, first_step: int, writers: Sequence[Writer] = ()) -> None:
        self._path, self._writers = output / LOG, writers
        kept = (json.dumps(record) + "\n" for record in read_log(self._path, first_step))
        write_atomically(self._path, "".join(kept).encode())
        self._lines = self._path.open("a", encoding="utf-8")

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record of numbers, or mappings to them; null in JSON for NaN and infinities."""
        with errors_of(self._path):
            self._lines.write(json.dumps(_plain({"step": step, **record}), allow_nan=False) + "\n")
            self._lines.flush()
        values = dict(_flat(record))
        for writer in self._writers:
            writer.write(step, values)

    def close(self, *, failed: bool = False) -> None:
        """Write what is left and close all files, also where one fails."""
        with ExitStack() as closing, errors_of(self._path):
            for writer in self._writers:
                closing.callback(writer.close, failed=failed)
            self._lines.close()


def open_log(config: TrainConfig, output: Path, first_step: int) -> RunLog:
    """Return the log of a run with the writers of `watch.loggers` that are installed."""
    names = [name for name in config.watch.loggers if importlib.util.find_spec(name) is not None]
    return RunLog(output, first_step, [WRITERS[n](config, output, first_step) for n in names])


def read_log(path: Path, before: float = math.inf) -> list[dict[str, Any]]:
    """Return the complete records of a log, of steps below `before`, in order; none without file. A
    line cut by a killed process is left out."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [found for line in lines if (found := _parse(line)) and found["step"] < before]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value if math.isfinite(value) else None


def _flat(record: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{group}{name}/")
        else:
            yield f"{group or 'train/'}{name}", value
