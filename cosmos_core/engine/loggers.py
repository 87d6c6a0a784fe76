"""The log of a run, OUTPUT/log.jsonl, and writers that give its numbers to other programs.

A writer is made from the configuration, the output folder and the first step. Values of an earlier
part of the run, from that step on, are replaced. `write` takes the values of a step, and `close`
whether the run has failed.
"""

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

        self._folder = output / "tensorboard"
        self._former_hook = threading.excepthook
        threading.excepthook = self._handle_thread_error
        with errors_of(self._folder):
            self.events = SummaryWriter(str(self._folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with errors_of(self._folder):
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def close(self, *, failed: bool = False) -> None:
        with ExitStack() as closing, errors_of(self._folder):
            closing.callback(setattr, threading, "excepthook", self._former_hook)
            self.events.close()

    def _handle_thread_error(self, error: threading.ExceptHookArgs) -> None:
        """Print errors of other threads: the next call of TensorBoard raises its own again."""
        if type(error.thread).__name__ != "_AsyncWriterThread":
            self._former_hook(error)


class WeightsAndBiases:
    """A run of Weights & Biases, configured by its own variables (WANDB_MODE, WANDB_PROJECT).

    A resumed run goes on in the run whose id is in OUTPUT/wandb/id; W&B ignores steps that it has
    already. Raises ValueError if W&B cannot start.
    """

    def __init__(self, config: TrainConfig, output: Path, first_step: int) -> None:
        import wandb

        id_file = output / "wandb" / "id"
        is_resumed = first_step > 0 and id_file.exists()
        run_id = id_file.read_text() if is_resumed else uuid4().hex
        write_atomically(id_file, run_id.encode())
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "cosmos-train"),
                id=run_id,
                name=output.name,
                dir=output,
                resume="allow",
                config=asdict(config),
                settings=wandb.Settings(console="off", quiet=True),
            )
        except Exception as error:  # many kinds: no key, no network, no such project
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
    """Return a line for each of `watch.loggers` whose package is not installed.

    Raises ValueError with the first line if the loggers are not the default ones.
    """
    lines = []
    for name in watch.loggers:
        if importlib.util.find_spec(name) is None:
            lines.append(
                f"{name} is not installed (pip install 'cosmos-eval[{name}]'), everything is in "
                f"{LOG}"
            )
    if lines and watch.loggers != WatchConfig.loggers:
        raise ValueError(f"watch.loggers: {lines[0]}")
    return lines


class RunLog:
    """The log of a run from `first_step` on; existing records from this step on are dropped."""

    def __init__(self, output: Path, first_step: int, writers: Sequence[Writer] = ()) -> None:
        self._path = output / LOG
        self._writers = writers
        earlier_records = read_log(self._path, before=first_step)
        lines = [json.dumps(record) + "\n" for record in earlier_records]
        write_atomically(self._path, "".join(lines).encode())
        self._lines = self._path.open("a", encoding="utf-8")

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record of numbers, or of mappings to numbers.

        NaN and infinities become null in JSON.
        """
        json_record = _finite_or_null({"step": step, **record})
        with errors_of(self._path):
            self._lines.write(json.dumps(json_record, allow_nan=False) + "\n")
            self._lines.flush()
        values = dict(_named_numbers(record))
        for writer in self._writers:
            writer.write(step, values)

    def close(self, *, failed: bool = False) -> None:
        """Close all files, also if one of them fails."""
        with ExitStack() as closing, errors_of(self._path):
            for writer in self._writers:
                closing.callback(writer.close, failed=failed)
            self._lines.close()


def open_log(config: TrainConfig, output: Path, first_step: int) -> RunLog:
    """Return the log of a run with the writers of `watch.loggers` that are installed."""
    writers = []
    for name in config.watch.loggers:
        if importlib.util.find_spec(name) is not None:
            writers.append(WRITERS[name](config, output, first_step))
    return RunLog(output, first_step, writers)


def read_log(path: Path, before: float = math.inf) -> list[dict[str, Any]]:
    """Return the complete records of a log for steps below `before`, in order.

    A line that a killed process has cut is left out. Without a file there are no records.
    """
    if not path.exists():
        return []
    records = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = _parse_line(line)
            if record is not None and record["step"] < before:
                records.append(record)
    return records


def _parse_line(line: str) -> dict[str, Any] | None:
    """Return the record in a line; None for a line that is not whole."""
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return record


def _finite_or_null(value: Any) -> Any:
    """Replace NaN and infinities by None, in nested mappings too."""
    if isinstance(value, Mapping):
        return {name: _finite_or_null(inner_value) for name, inner_value in value.items()}
    return value if math.isfinite(value) else None


def _named_numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings by names such as `timing/data_wait` or `train/lr`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _named_numbers(value, f"{prefix}{name}/")
        else:
            yield f"{prefix or 'train/'}{name}", value
