"""The log of a training, OUTPUT/log.jsonl, and writers that pass its values to other programs.

A writer is created from the configuration, the output folder and the first step. If the training
was resumed, the values of this and later steps replace the ones written before. The method
`write` takes the values of a step, and `close` takes whether the training has failed.
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

# The name of the log in the output folder.
LOG = "log.jsonl"


class TensorBoard:
    """A writer of event files for TensorBoard, in OUTPUT/tensorboard.

    Raises OSError, which names the folder, if the files cannot be written.
    """

    def __init__(self, config: TrainConfig, output: Path, first_step: int) -> None:
        """Open event files.

        Args:
            config: The configuration of the training, which is not needed here.
            output: The output folder.
            first_step: The step at which the training starts or resumes. The values of this and
                later steps, which were written before, are replaced.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._folder = output / "tensorboard"
        self._previous_hook = threading.excepthook
        threading.excepthook = self._handle_thread_error
        with errors_of(self._folder):
            self.events = SummaryWriter(str(self._folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step by name."""
        with errors_of(self._folder):
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def close(self, *, failed: bool = False) -> None:
        """Close the event files, and restore the hook for errors of threads."""
        try:
            with errors_of(self._folder):
                self.events.close()
        finally:
            threading.excepthook = self._previous_hook

    def _handle_thread_error(self, error: threading.ExceptHookArgs) -> None:
        """Handle an error that ends a thread, as before, unless it is a thread of TensorBoard.

        Errors of TensorBoard's thread need not be printed: its next call raises them again.
        """
        if type(error.thread).__name__ != "_AsyncWriterThread":
            self._previous_hook(error)


class WeightsAndBiases:
    """A writer to Weights & Biases (W&B), whose variables, such as WANDB_PROJECT, configure it.

    A resumed training goes on in the W&B run whose id is in OUTPUT/wandb/id. W&B ignores steps that
    it already has. Raises ValueError if W&B cannot start.
    """

    def __init__(self, config: TrainConfig, output: Path, first_step: int) -> None:
        """Start a W&B run, or go on with the run of a training that was resumed.

        Args:
            config: The configuration of the training, which W&B stores.
            output: The output folder, whose name is the name of the run.
            first_step: The step at which the training starts or resumes.
        """
        import wandb

        # Read the id of the run, or draw a new one.
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
        """Write the values of a step by name."""
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool = False) -> None:
        """End the W&B run, and mark it as failed if the training has failed."""
        self._run.finish(exit_code=int(failed))


Writer = TensorBoard | WeightsAndBiases
# The classes of writers, by their names in the option `watch.loggers`.
WRITERS: dict[str, type[Writer]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def missing_packages(watch: WatchConfig) -> list[str]:
    """Return a message for each logger in `watch.loggers` whose package is not installed.

    Raises:
        ValueError: If there is such a logger, and the user has changed the default loggers.
    """
    messages = []
    for name in watch.loggers:
        is_installed = importlib.util.find_spec(name) is not None
        if not is_installed:
            messages.append(
                f"{name} is not installed (pip install 'cosmos-eval[{name}]'), everything is in "
                f"{LOG}"
            )
    are_default_loggers = watch.loggers == WatchConfig.loggers
    if messages and not are_default_loggers:
        raise ValueError(f"watch.loggers: {messages[0]}")
    return messages


class RunLog:
    """The log of a training, to which records are appended.

    Records of the step `first_step` and later ones, which a training before it was resumed has
    written, are removed from the file. The values of new records are passed to `writers` too.
    """

    def __init__(self, output: Path, first_step: int, writers: Sequence[Writer] = ()) -> None:
        """Open the log, and remove the records that a resumed training will write again.

        Args:
            output: The folder of the log.
            first_step: The step from which on records are removed.
            writers: They receive the values of new records too, such as a TensorBoard.
        """
        self._path = output / LOG
        self._writers = writers
        # Write the records of earlier steps again, without those that are removed.
        earlier_records = read_log(self._path, before=first_step)
        lines = [json.dumps(record) + "\n" for record in earlier_records]
        write_atomically(self._path, "".join(lines).encode())
        self._lines = self._path.open("a", encoding="utf-8")

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append the record of a step.

        Args:
            step: The number of the step, counted from 0.
            record: Numbers by name, in a mapping that may be nested, such as {"clip": 2.3,
                "timing": {"data_wait": 0.02}}. NaN and infinities become null in the file.
        """
        json_record = _replace_non_finite({"step": step, **record})
        with errors_of(self._path):
            self._lines.write(json.dumps(json_record, allow_nan=False) + "\n")
            self._lines.flush()
        values = dict(_flatten_record(record))
        for writer in self._writers:
            writer.write(step, values)

    def close(self, *, failed: bool = False) -> None:
        """Close the log and all writers, also if closing one of them raises an error."""
        with ExitStack() as closing_writers, errors_of(self._path):
            for writer in self._writers:
                closing_writers.callback(writer.close, failed=failed)
            self._lines.close()


def open_log(config: TrainConfig, output: Path, first_step: int) -> RunLog:
    """Open the log of a training, with those writers of `watch.loggers` that are installed.

    Args:
        config: The configuration of the training.
        output: The output folder.
        first_step: The step at which the training starts or resumes.
    """
    writers = []
    for name in config.watch.loggers:
        is_installed = importlib.util.find_spec(name) is not None
        if is_installed:
            writer_class = WRITERS[name]
            writers.append(writer_class(config, output, first_step))
    return RunLog(output, first_step, writers)


def read_log(path: Path, before: float = math.inf) -> list[dict[str, Any]]:
    """Return the records of a log, in order.

    A line that a killed process has not written completely is left out. A file that does not exist
    has no records.

    Args:
        path: The file log.jsonl.
        before: Only records of steps below this number are returned.
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
    """Return the record in a line of a log, or None if the line is not complete."""
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return record


def _replace_non_finite(value: Any) -> Any:
    """Replace NaN and infinities by None in a number, or in all numbers of a nested mapping."""
    if isinstance(value, Mapping):
        return {name: _replace_non_finite(inner_value) for name, inner_value in value.items()}
    return value if math.isfinite(value) else None


def _flatten_record(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the names and values of all numbers in a nested record.

    For example, {"lr": 0.1, "timing": {"data_wait": 0.02}} yields ("train/lr", 0.1) and
    ("timing/data_wait", 0.02).

    Args:
        record: Numbers by name, in a mapping that may be nested.
        prefix: The name of the mapping in which `record` is nested, with a slash at the end, or ""
            for a whole record. The function calls itself for each mapping in the record.
    """
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flatten_record(value, f"{prefix}{name}/")
        else:
            yield f"{prefix or 'train/'}{name}", value
