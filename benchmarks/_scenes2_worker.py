"""The worker of the study of scenes of version 2: it trains and measures one model after another.

Each training is a process of `cosmos-train`, and its measurement are processes of `cosmos-eval`.
Several workers share a folder: a training belongs to the worker that has locked its log file.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from _scenes2_jobs import (
    DIVERGED,
    RECIPE,
    ROOT,
    Job,
    has_diverged,
    is_done,
    is_measured,
    training_scenes,
)

from cosmos_core import read_checkpoint
from cosmos_core.data.scenes import TRAIN, VALIDATION, VERSION_2
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.engine.loggers import LOG
from cosmos_core.engine.snapshot import CHECKPOINT, Snapshots
from cosmos_core.model.checkpoint import SNAPSHOTS
from cosmos_core.recipes.scenes import TRAIN_SCENES
from cosmos_core.utils.files import appearing, remove, write_atomically

# Settings of segmentation are chosen for each training, among as many of this space.
SPACE = ROOT / "benchmarks" / "study" / "space.yaml"
SEGMENTATION_TRIALS = 40
VALIDATION_SCENES = 600
# Threads that wait for each other cost more than they save with small models. Memory is kept
# instead of given back to the system at each step, and so is the code that oneDNN generates for
# each number of tokens. The numbers are the same.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "20000",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
STOPPED = "stopped; the same command goes on from the last snapshot"
# The ends of a command that a signal stopped: by it (negative), or in the command's own way.
STOPPED_STATUSES = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGINT)
# What `cosmos-train` prints only if a loss or gradient is not finite
# (cosmos_core/engine/trainer.py). Other failures, such as a full disk, mark no learning rate.
DIVERGENCE = "no snapshot has this step"
NO_LEARNING_RATE = (
    "The learning rate is not chosen yet: `benchmarks/scenes2_study.py OUTPUT` does it, among its "
    "first trainings."
)


class CommandError(Exception):
    """A command of a training ended with an error."""

    def __init__(self, message: str, divergence: str) -> None:
        """Describe the error.

        Args:
            message: The command, its status and the log file.
            divergence: The line of the log that says which loss of the training is not finite;
                empty for other errors.
        """
        super().__init__(message)
        self.divergence = divergence


def is_trained(checkpoint: Path, job: Job) -> bool:
    """Return whether a checkpoint is the one of a training's last step."""
    training = read_checkpoint(checkpoint).training if checkpoint.exists() else None
    return training is not None and training["steps"] == job.steps


def work(output: Path, list_jobs: Callable[[], Sequence[Job]]) -> list[str]:
    """Train and measure, until every possible training is done or another process works on it.

    The process does not wait for others. If they work on all trainings that are possible now, it
    ends, although the last training of a choice of learning rates will make others possible. Then
    the same command goes on with these.

    Args:
        output: The folder of the trainings and scenes.
        list_jobs: Returns the trainings that can be made now, in their order.

    Returns:
        The names of the trainings that failed in this process.
    """
    prepare_scenes(output)
    tried_jobs: set[Job] = set()
    failed_names: list[str] = []
    while True:
        jobs = [job for job in list_jobs() if job not in tried_jobs and not is_done(job)]
        if not jobs:
            return failed_names
        job = jobs[0]
        tried_jobs.add(job)
        log = lock_log(output / job.name)
        if log is None:
            continue
        with log:
            # Another process may have finished it since the jobs were listed.
            if is_done(job):
                continue
            if train_and_measure(job, output, log):
                remove_snapshots(job, output)
            else:
                failed_names.append(job.name)


def lock_log(folder: Path) -> BinaryIO | None:
    """Open and lock the log file of a training; return None if another process has locked it.

    The lock is held until the file is closed, also by the commands that write to it.

    Args:
        folder: The folder of the training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "log.txt").open("ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    return log


def train_and_measure(job: Job, output: Path, log: BinaryIO, start: Path | None = None) -> bool:
    """Train a model and measure it. Print a line and return False if one of them fails.

    Args:
        job: The training.
        output: The folder of the trainings and scenes.
        log: The file that the output is written to.
        start: A snapshot of another training, which this one branches from.
    """
    print(job.name, flush=True)
    try:
        train(job, output, log, start)
        if not is_measured(job):
            measure(job, output, log)
    except CommandError as error:
        print(f"{job.name} failed: {error}", flush=True)
        if job.is_tuning and error.divergence:
            write_atomically(job.results_folder / DIVERGED, error.divergence.encode())
        return False
    return True


def prepare_scenes(output: Path) -> None:
    """Write the training and the validation scenes, and descriptions of the latter, if missing."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / "scenes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_training_scenes(training_scenes(output))
        folder = output / VALIDATION
        if not folder.exists():
            write_layouts(
                folder,
                split=VALIDATION,
                count=VALIDATION_SCENES,
                layouts=["coco", "folder", "questions"],
                version=VERSION_2,
            )
        describe_validation_sets(folder)


def write_training_scenes(folder: Path, *, is_control: bool = False) -> None:
    """Write the training scenes to a folder, unless it exists.

    Args:
        folder: The folder.
        is_control: True for scenes whose dominant thing is as small as the others.
    """
    if not folder.exists():
        write_layouts(
            folder,
            split=TRAIN,
            count=TRAIN_SCENES,
            layouts=["shards"],
            version=VERSION_2,
            is_control=is_control,
        )


def describe_validation_sets(folder: Path) -> None:
    """Write a description of each validation set, in JSON, which is YAML too.

    Files that are there already stay as they are, since other processes may read them.
    """
    images = f"coco/images/{VALIDATION}"
    captions = f"coco/annotations/captions_{VALIDATION}_joined.json"
    descriptions = {
        "retrieval": {"kind": "retrieval", "images": images, "annotations": captions},
        "cls": {"kind": "cls", "folder": f"folder/{VALIDATION}", "templates": ["a large {}"]},
        "select": {
            "kind": "select",
            "images": images,
            "annotations": "questions",
            "layout": "sugarcrepe",
        },
    }
    for name, description in descriptions.items():
        content = json.dumps({"name": name} | description, indent=1).encode()
        path = folder / f"{name}.yaml"
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)


def train(job: Job, output: Path, log: BinaryIO, start: Path | None = None) -> None:
    """Train a model, from its newest snapshot if there is one.

    Raises CommandError if the training fails, and SystemExit if it was stopped.

    Args:
        job: The training.
        output: The folder of the trainings and scenes.
        log: The file that the output is written to.
        start: A snapshot of another training, which this one branches from.
    """
    folder = output / job.name / "run"
    if is_trained(folder / CHECKPOINT, job):
        return
    command = [run_training_option(), "cosmos_core.train", RECIPE, "--output", str(folder)]
    for setting in job.settings:
        command += ["--set", setting]
    if folder.exists() and Snapshots(folder, 1).steps():
        command.append("--resume")
    else:
        # A training that was killed before its first snapshot starts again.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        scenes = job.scenes_folder(output)
        (folder / training_scenes(output).name).symlink_to(scenes.resolve())
        if start is not None:
            command += ["--from", os.path.relpath(start)]
    run(command, log)
    # A training that a signal stops writes a snapshot and a checkpoint, and ends with status 0.
    if not is_trained(folder / CHECKPOINT, job):
        raise SystemExit(f"{job.name}: {STOPPED}")


def run_training_option() -> str:
    """Return Python's option that runs the training's module, or a script that runs it.

    The script has fast bf16 products, which PyTorch lacks on CPUs without AVX-512.
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return "-m"
    return str(ROOT / "benchmarks" / "_bf16_products.py")


def remove_snapshots(job: Job, output: Path) -> None:
    """Remove the snapshots of a training, which are not needed once it is measured."""
    shutil.rmtree(output / job.name / "run" / SNAPSHOTS, ignore_errors=True)


def measure(job: Job, output: Path, log: BinaryIO) -> None:
    """Measure a trained model.

    Raises CommandError if this fails, and SystemExit if it was stopped.
    """
    new_results = output / job.name / "results"
    remove(new_results)
    checkpoint = output / job.name / "run" / CHECKPOINT
    # Results hold the command: a relative path says nothing of this machine.
    model = ["--model", f"cosmos:{os.path.relpath(checkpoint)}"]
    command = ["-m", "cosmos_eval", "run", "--output", os.path.relpath(new_results)]
    command += ["--workers", "0", *model, "--name", f"{job.row}, seed {job.seed}"]
    run([*command, *dataset_options(job, output)], log)
    if job.has_segmentation:
        settings = choose_segmentation_settings(model, output / job.name / "settings", log)
        run([*command, "--tuned", os.path.relpath(settings)], log)
    publish(new_results, job.results_folder)


def dataset_options(job: Job, output: Path) -> list[str]:
    """Return the options of `cosmos-eval run` that name the sets of a training."""
    options = []
    for name in job.datasets:
        description = output / VALIDATION / f"{name}.yaml"
        options += ["--dataset", os.path.relpath(description) if job.is_tuning else name]
    return options


def publish(new_results: Path, results_folder: Path) -> None:
    """Move results to their folder, where they appear at once, or not at all.

    Args:
        new_results: The folder of the results, perhaps on another file system.
        results_folder: Their new folder, which is replaced if it exists.
    """
    with appearing(results_folder) as temporary_folder:
        shutil.copytree(new_results, temporary_folder, dirs_exist_ok=True)
        remove(results_folder)
    remove(new_results)


def choose_segmentation_settings(model: Sequence[str], folder: Path, log: BinaryIO) -> Path:
    """Return the file of the settings of scenes2-seg that are best for a model on other scenes.

    Args:
        model: The option of `cosmos-eval` that names the model.
        folder: The folder of the file. A search that was stopped goes on there.
        log: The file that the output is written to.
    """
    command = ["-m", "cosmos_eval", "tune", "--dataset", "scenes2-seg", *model]
    command += ["--split", "scenes2-seg-train", "--space", os.path.relpath(SPACE)]
    command += ["--budget", str(SEGMENTATION_TRIALS), "--output", os.path.relpath(folder)]
    run(command, log)
    (settings,) = folder.glob("*.yaml")
    return settings


def run(command: Sequence[str], log: BinaryIO) -> None:
    """Run a Python command with the log as its outputs.

    Raises CommandError if it fails, and SystemExit if a signal stopped it.
    """
    log_path = Path(log.name)
    n_bytes_before = log_path.stat().st_size
    environment = os.environ | ENVIRONMENT
    child = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
    try:
        status = child.wait()
    except BaseException:
        child.terminate()  # it writes a snapshot
        child.wait()
        raise
    name = " ".join(command[1:3])
    if status in STOPPED_STATUSES:
        raise SystemExit(f"{name}: {STOPPED}")
    if status:
        output = log_path.read_bytes()[n_bytes_before:].decode(errors="replace")
        divergences = [line for line in output.splitlines() if DIVERGENCE in line]
        message = f"{name} ended with status {status}; see {log_path}"
        raise CommandError(message, "".join(divergences))


def listing(jobs: Sequence[Job], output: Path) -> Iterator[str]:
    """Yield a line for each training with its state, and the hours left in one process.

    Args:
        jobs: The trainings.
        output: The folder of the trainings and scenes.
    """
    seconds_per_step = _seconds_per_step(jobs, output)
    hours = 0.0
    methods_of_unknown_pace = set()
    for job in jobs:
        n_steps_left = 0
        if is_measured(job):
            state = "measured"
        elif has_diverged(job):
            state = "diverged"
        else:
            n_steps_done = _n_steps_done(job, output)
            n_steps_left = job.n_computed_steps - n_steps_done
            state = f"{n_steps_done}/{job.n_computed_steps} steps"
        if job.method in seconds_per_step:
            hours += n_steps_left * seconds_per_step[job.method] / 3600
        elif n_steps_left > 0:
            methods_of_unknown_pace.add(job.method)
        yield f"{job.name:45} {state}"
    yield f"{hours:.1f} hours left in one process, by the pace of trainings so far"
    if methods_of_unknown_pace:
        names = ", ".join(sorted(methods_of_unknown_pace))
        yield f"without the trainings of methods of which none has finished: {names}"


def _n_steps_done(job: Job, output: Path) -> int:
    """Return the number of steps that a training has computed, by its log."""
    path = output / job.name / "run" / LOG
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        return 0
    first_step = job.steps - job.n_computed_steps
    return int(json.loads(lines[-1])["step"]) + 1 - first_step


def _seconds_per_step(jobs: Sequence[Job], output: Path) -> dict[str, float]:
    """Return the median duration of a step of each method, over its finished trainings."""
    seconds: dict[str, list[float]] = {}
    for job in jobs:
        checkpoint = output / job.name / "run" / CHECKPOINT
        if checkpoint.exists():
            training = read_checkpoint(checkpoint).training
            assert training is not None
            seconds.setdefault(job.method, []).append(training["seconds"] / training["steps"])
    return {method: statistics.median(values) for method, values in seconds.items()}


def run_command_line(
    description: str | None,
    list_jobs: Callable[[], Sequence[Job]],
    train_all: Callable[[Path], Sequence[str]],
    *,
    needs_output: bool = True,
) -> argparse.Namespace:
    """Read the command line, and either list trainings, or train and measure them.

    The process ends with a line if learning rates are missing, if it is stopped (SIGINT, SIGTERM),
    and if trainings failed.

    Args:
        description: The help text of the command.
        list_jobs: Returns all trainings of the command; none before their learning rates are
            chosen.
        train_all: Trains and measures into a folder, and returns the names of failed trainings.
        needs_output: False if the command may be called without a folder. Then nothing is trained.

    Returns:
        The arguments of the command, `output` and `list`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    n_outputs = None if needs_output else "?"
    parser.add_argument(
        "output", type=Path, nargs=n_outputs, help="folder of the trainings and scenes"
    )
    parser.add_argument(
        "--list", action="store_true", help="only list what is done, and hours left"
    )
    arguments = parser.parse_args()
    if arguments.output is None:
        if arguments.list:
            parser.error("--list needs OUTPUT")
        return arguments
    jobs = list_jobs()
    if not jobs:
        parser.exit(2, f"{parser.prog}: {NO_LEARNING_RATE}\n")
    if arguments.list:
        print("\n".join(listing(jobs, arguments.output)))
        return arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failed_names = train_all(arguments.output.resolve())
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    if failed_names:
        sys.exit(f"failed: {', '.join(failed_names)}")
    return arguments
