"""`python benchmarks/scenes_study.py [--list]`: training methods on scenes, with several seeds.

The settings of each method are chosen by the same number of short trainings, on scenes that no
model is trained on and that no table shows. Full trainings with these settings are measured on the
test scenes. The study can be stopped at any moment, and the same command continues it: a training
whose metrics RESULTS/runs.csv has is not repeated.
`--recipe scenes_small` instead compares the parts of COSMOS in short trainings (results/ablation).
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import math
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import pandas as pd
import torch
import typer

from cosmos_core import read_checkpoint
from cosmos_core.bundled import bundled_models
from cosmos_core.config import TrainConfig
from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.engine.loggers import LOG
from cosmos_core.engine.snapshot import CHECKPOINT, FREE, Snapshots, plain_config
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_core.recipes.scenes import LONG_MULTI_VIEW_SAMPLES, LONG_SAMPLES, SAMPLES, TRAIN_SCENES
from cosmos_core.utils.files import file_sha256, write_atomically
from cosmos_eval import read_results
from cosmos_eval.protocols.scenes import PROBE_IMAGES, scenes_protocols
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import Protocol, SegmentationProtocol, yaml_fields

ROOT = Path(__file__).parents[1]
FULL, ABLATION = "scenes_cosmos", "scenes_small"

MetricKey = tuple[str, str]
"""A data set (or the protocol of maps) and the name of a metric, as runs.csv has them."""


def _method_settings(recipe: str) -> tuple[str, ...]:
    """Return the settings that give another recipe the method of this one, heads included."""
    method: Any = RECIPES[recipe]().method
    options = asdict(method)
    name = options.pop("name")
    return (f"method={name}", *(f"method.{key}={value}" for key, value in options.items()))


VARIANTS: dict[str, tuple[str, ...]] = {
    "CLIP": _method_settings("scenes_clip"),
    "SLIP": _method_settings("scenes_slip"),
    "SILC": _method_settings("scenes_silc"),
    "multi-view CLIP": ("method.distillation=false",),  # COSMOS without distillation
    "COSMOS without text crops": ("method.local_texts=false",),
    "COSMOS without cross-attention": ("method.cross_attention=false",),
    "COSMOS": (),
}
"""The settings of each method, which are added to the recipe of the study."""
FIVE_SEEDS = ("CLIP", "multi-view CLIP", "COSMOS")
SEEDS = 3  # of the other methods, and of trainings with equal compute
# The number of samples with which a method has the FLOPs of COSMOS, as a multiple of its samples.
EQUAL_COMPUTE = {
    "CLIP": LONG_SAMPLES / SAMPLES,
    "multi-view CLIP": LONG_MULTI_VIEW_SAMPLES / SAMPLES,
}
# The groups in results of rows that have a bundled model. The groups of other rows follow from
# their titles.
GROUPS = {"CLIP": "scenes_clip", "CLIP, equal compute": "scenes_clip_long"}
# The values of settings to choose from. The first two candidates are settings of the recipes, and
# the others are drawn from all combinations.
SPACE = {
    "optim.batch_size": ("32", "64", "128"),
    "optim.lr": ("0.001", "0.0005", "0.002"),
    "image.global_scale": ("0.4,1", "0.25,1", "0.7,1"),
    "image.local_scale": ("0.05,0.4", "0.02,0.2", "0.1,0.5"),
}
SPACE_FILE = ROOT / "benchmarks" / "study" / "space.yaml"  # of settings of segmentation
SHORTER = 5  # how many times fewer samples a short training sees
METRICS = {
    ("scenes-retrieval", "image_to_text_R@1"): "R@1 image to text",
    ("scenes-retrieval", "text_to_image_R@1"): "R@1 text to image",
    ("scenes-cls", "acc1"): "acc1",
    ("scenes-seg", "mIoU"): "mIoU",
    ("scenes-seg", "mIoU_things"): "mIoU, things",
    ("scenes-cls-small", "acc1"): "acc1, small things",
}
# Metrics by the settings that `cosmos-eval tune` chooses for each training, on training scenes.
TUNED = {
    ("scenes-seg tuned", "mIoU"): "mIoU, tuned",
    ("scenes-seg tuned", "mIoU_things"): "mIoU, things, tuned",
}
# Metrics of the cross-attention of COSMOS, as dense features and as maps.
CROSS_ATTENTION = {
    ("scenes-seg crossmodal", "mIoU"): "mIoU, values as features",
    ("scenes-seg crossmodal", "mIoU_things"): "the same, things",
    ("localisation", "pointing_game"): "pointing game, values",
    ("localisation-similarity", "pointing_game"): "similarity",
    ("localisation-cross-attention", "pointing_game"): "attention weights",
}
# The metrics whose mean over tasks decides between settings.
JUDGED = [*METRICS][:4]
HELD_OUT, HELD_OUT_SCENES = "heldout", 300
LOCK = "log.txt"  # in the folder of a training, beside its run
# Commits whose code gives the same weights to the bit in thirty steps as today's (docs/log.md).
SAME_CODE = ("4b2d19aa24e5e675eb8a815aa306ba74a44d993a",)
# The allocator keeps memory instead of giving it back to the system at each step. oneDNN keeps the
# code that it generates for each of the many numbers of tokens. The results are the same.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "20000",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
# The same on every CPU, although it is slow without AVX-512. It was the default when the first
# trainings were made, so their commands do not state it.
PRECISION = "compute.precision=bf16"
# Settings that save time and do not change the weights.
CHEAPER = ("data.workers=0", "watch.pictures=false")


class Study(NamedTuple):
    """The trainings of a study."""

    # The recipe that all trainings have in common.
    recipe: str
    # The number of full trainings of each variant. Their seeds are 0, 1, ...
    n_seeds: dict[str, int]
    # The number of short trainings (trials) that choose the settings of each variant.
    n_trials: int
    # True if some variants are also trained with the FLOPs of COSMOS.
    has_equal_compute: bool
    # The number of settings of segmentation that are tried with each full training. With 0, the
    # cross-attention is not measured either.
    tune_budget: int = 0

    @property
    def columns(self) -> dict[MetricKey, str]:
        """The metrics of the table, with the titles of their columns."""
        return METRICS | (TUNED if self.tune_budget else {})


class Job(NamedTuple):
    """A training of a study."""

    # The title of its row in the tables, such as "CLIP, equal compute".
    title: str
    # True for a short training by which settings are chosen.
    is_trial: bool
    # The command of `cosmos-train` without the folder of the output.
    command: str
    # The number of settings of segmentation that are tried with the model.
    tune_budget: int = 0
    # False as long as the settings of its variant are not chosen.
    is_ready: bool = True

    @property
    def variant(self) -> str:
        """The key of its method in VARIANTS."""
        return self.title.partition(",")[0]

    @property
    def label(self) -> str:
        """The name of the model in results, such as "CLIP, seed 0"."""
        return f"{self.title}, {'trial' if self.is_trial else f'seed {self.config.seed}'}"

    @property
    def config(self) -> TrainConfig:
        """The configuration that the command gives."""
        return _config(self.command)

    @property
    def identity(self) -> str:
        """The hash of all options that decide the weights."""
        return identity(self.command)

    @property
    def folder(self) -> str:
        """The name of the training's folder."""
        return f"{_slug(self.title)}-{self.identity[:12]}"

    @property
    def metrics(self) -> list[MetricKey]:
        """The metrics to measure, by the names in runs.csv."""
        if self.is_trial:
            return [(dataset.replace("scenes", HELD_OUT), metric) for dataset, metric in JUDGED]
        metrics = [*METRICS]
        if self.tune_budget:
            metrics.extend(TUNED)
            if self.title == "COSMOS":
                metrics.extend(CROSS_ATTENTION)
        return metrics


@cache
def _config(command: str) -> TrainConfig:
    """Return the configuration that a command of `cosmos-train` gives."""
    _, recipe, *words = shlex.split(command)
    settings = words[1::2]  # the words alternate between --set and a setting
    return override(RECIPES[recipe](), [PRECISION, *settings])


@cache
def identity(command: str) -> str:
    """Return the hash of all options in a command of `cosmos-train` that decide the weights."""
    config = plain_config(_config(command))
    del config["recipe"]
    for name in FREE:
        section, _, option = name.partition(".")
        if section not in config:
            continue
        if option:
            config[section] = {k: v for k, v in config[section].items() if k != option}
        else:
            config[section] = {}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


class TableRow(NamedTuple):
    """The full trainings of a row of the table, which differ in their seeds."""

    title: str
    variant: str
    # The number of samples that each training sees.
    n_samples: int
    n_seeds: int


def plan(study: Study, runs: pd.DataFrame) -> list[Job]:
    """Return all trainings in their order.

    The first trial of every variant is followed by the second trial of every variant, and so on.
    Then come the full trainings, ordered by seed, and then those with equal compute.

    Args:
        study: The study.
        runs: The results so far, from `read_runs`. The trials among them decide the settings.
    """
    trials = {variant: _trial_jobs(study, variant) for variant in study.n_seeds}
    jobs: list[Job] = []
    for nth_trials in zip(*trials.values(), strict=True):
        jobs += nth_trials
    chosen_trials = {variant: choose(trials[variant], runs) for variant in study.n_seeds}
    for rows in (_equal_samples_rows(study), _equal_compute_rows(study)):
        for seed in range(max(study.n_seeds.values())):
            for row in rows:
                if seed < row.n_seeds:
                    jobs.append(_full_job(study, row, seed, chosen_trials[row.variant]))
    return jobs


def _trial_jobs(study: Study, variant: str) -> list[Job]:
    """Return the short trainings that choose the settings of a variant."""
    n_samples = _n_samples(RECIPES[study.recipe]()) // SHORTER
    jobs = []
    for settings in candidates(VARIANTS[variant], study):
        command = _command(study, variant, variant, settings, n_samples, seed=0)
        jobs.append(Job(variant, True, command, study.tune_budget))
    return jobs


def _equal_samples_rows(study: Study) -> list[TableRow]:
    """Return the rows of trainings that see as many samples as the recipe says."""
    n_samples = _n_samples(RECIPES[study.recipe]())
    return [
        TableRow(variant, variant, n_samples, n_seeds) for variant, n_seeds in study.n_seeds.items()
    ]


def _equal_compute_rows(study: Study) -> list[TableRow]:
    """Return the rows of trainings that have the FLOPs of COSMOS."""
    rows: list[TableRow] = []
    if not study.has_equal_compute:
        return rows
    n_samples = _n_samples(RECIPES[study.recipe]())
    for variant, factor in EQUAL_COMPUTE.items():
        n_seeds = min(SEEDS, study.n_seeds.get(variant, 0))
        if n_seeds:
            title = f"{variant}, equal compute"
            rows.append(TableRow(title, variant, round(n_samples * factor), n_seeds))
    return rows


def _full_job(study: Study, row: TableRow, seed: int, chosen_trial: int | None) -> Job:
    """Return a full training.

    Args:
        study: The study.
        row: The row that the training belongs to.
        seed: The seed of the training.
        chosen_trial: The index of the trial whose settings it has, or None if none is chosen yet.
            The job then has the settings of the first trial, and is not ready.
    """
    settings: tuple[str, ...] = ()
    is_ready = True
    if study.n_trials:
        settings = candidates(VARIANTS[row.variant], study)[chosen_trial or 0]
        is_ready = chosen_trial is not None
    command = _command(study, row.title, row.variant, settings, row.n_samples, seed=seed)
    return Job(row.title, False, command, study.tune_budget, is_ready)


def _command(
    study: Study, title: str, variant: str, settings: Sequence[str], n_samples: int, *, seed: int
) -> str:
    """Return the command of a training.

    Args:
        study: The study.
        title: The title of the training's row in the tables.
        variant: The method, a key of VARIANTS.
        settings: The settings that were chosen for the method, such as "optim.lr=0.001".
        n_samples: The number of samples that the training sees, rounded down to whole batches.
        seed: The seed.
    """
    all_settings = [*VARIANTS[variant], *settings]
    batch_size = override(RECIPES[study.recipe](), all_settings).optim.batch_size
    all_settings += [f"optim.steps={n_samples // batch_size}", f"seed={seed}"]
    if torch.cuda.is_available():
        all_settings.append("compute.device=cuda")
    if study.recipe == FULL and title != "COSMOS":
        group = GROUPS.get(title, _slug(title))  # the name of the group in results
        all_settings.append(f"recipe={group}")
    all_settings += [PRECISION, *CHEAPER]
    options = [f"--set {shlex.quote(setting)}" for setting in all_settings]
    return " ".join(["cosmos-train", study.recipe, *options])


def candidates(method: Sequence[str], study: Study) -> list[tuple[str, ...]]:
    """Return the settings to try with a method: two of the recipes, then random ones.

    They are the same for all methods with the same views.

    Args:
        method: The settings of the method, a value of VARIANTS.
        study: The study, whose number of trials is the number of candidates.
    """
    config = override(RECIPES[study.recipe](), method)
    factors = []
    for name, values in SPACE.items():
        if name != "image.local_scale" or config.method.counts.local_images:
            factors.append([f"{name}={value}" for value in values])
    combinations = list(itertools.product(*factors))
    batch_sizes = factors[0]
    first = combinations[0]
    with_larger_batches = (batch_sizes[1], *first[1:])
    of_recipes = [first, with_larger_batches]
    drawn = [settings for settings in combinations if settings not in of_recipes]
    random.Random(0).shuffle(drawn)
    return [*of_recipes, *drawn][: study.n_trials]


def choose(trials: Sequence[Job], runs: pd.DataFrame) -> int | None:
    """Return the index of the trial with the best score, or None before all are measured."""
    scores = []
    for job in trials:
        trial_score = score(job, runs)
        if trial_score is None:
            return None
        scores.append(trial_score)
    return scores.index(max(scores)) if scores else None


def score(job: Job, runs: pd.DataFrame) -> float | None:
    """Return the mean over tasks of the means of their metrics on scenes that are held out.

    Returns None before all metrics of the trial are measured.
    """
    job_runs = runs[runs["identity"] == job.identity].set_index(["dataset", "metric"])["value"]
    if not set(job.metrics) <= set(job_runs.index):
        return None
    return float(job_runs.loc[job.metrics].groupby(level="dataset").mean().mean())


def _slug(title: str) -> str:
    """Return the title of a row as it is in names of folders: "clip-equal-compute"."""
    return title.lower().replace(" ", "-").replace(",", "")


def _n_samples(config: TrainConfig) -> int:
    """Return the number of samples that a training sees."""
    return config.optim.steps * config.optim.batch_size


def is_done(job: Job, runs: pd.DataFrame, output: Path) -> bool:
    """Return whether all metrics of a training are measured.

    If the training's folder has weights, the metrics must belong to these weights.

    Args:
        job: The training.
        runs: The results so far, from `read_runs`.
        output: The folder of the trainings.
    """
    job_runs = runs[runs["identity"] == job.identity]
    if not set(job.metrics) <= set(zip(job_runs["dataset"], job_runs["metric"], strict=True)):
        return False
    checkpoint = output / job.folder / "run" / CHECKPOINT
    if not checkpoint.exists():
        return True
    return {_sha256(checkpoint, checkpoint.stat().st_mtime_ns)} == {*job_runs["weights_sha256"]}


@cache
def _sha256(path: Path, modified_ns: int) -> str:
    """Return the hash of a file. The time of its last change makes the cache forget old content."""
    return file_sha256(path)


def read_runs(results: Path) -> pd.DataFrame:
    """Read RESULTS/runs.csv. Without this file the result has no rows.

    Returns:
        A row for each metric of a training. A column `identity` is added, which has the hash of the
        options that decide the weights.
    """
    columns = ["variant", "seed", "dataset", "metric", "value", "weights_sha256", "command"]
    path = results / "runs.csv"
    runs = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    return runs.assign(identity=[identity(command) for command in runs["command"]])


class Worker:
    """Trains and measures the missing models of a study, several side by side in processes."""

    def __init__(
        self, study: Study, output: Path, results: Path, hours: float, variants: Sequence[str]
    ) -> None:
        """Create a worker.

        Args:
            study: The study.
            output: The folder of the trainings.
            results: The folder of runs.csv and of the tables.
            hours: The time after which no training is started.
            variants: The methods to train.
        """
        self.study, self.output, self.results, self.variants = study, output, results, variants
        self.deadline = time.monotonic() + hours * 3600
        # Set by a signal that ends the study.
        self.stop = threading.Event()
        # Guards the fields below and the tables. It is notified when a training ends.
        self.condition = threading.Condition()
        # The folders of trainings that this worker has started, and how many still run.
        self.started_folders: set[str] = set()
        self.n_running = 0
        self.children: set[subprocess.Popen[bytes]] = set()
        # A message for each training that failed.
        self.failures: list[str] = []

    def run(self, n_processes: int) -> None:
        """Work until nothing is missing, the time is over, or a signal comes."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        self.record([])
        if not self.missing_jobs() or time.monotonic() >= self.deadline:
            return
        with _locked_output(self.output):
            render_training_scenes(self.output, RECIPES[self.study.recipe]())
            render_held_out(self.output / HELD_OUT)
        with ThreadPoolExecutor(n_processes) as pool:
            futures = [pool.submit(self.work) for _ in range(n_processes)]
            for future in futures:
                future.result()

    def _end(self, *_: object) -> None:
        """End all trainings with a snapshot. This is the handler of signals."""
        if not self.stop.is_set():  # a second signal would keep a training from its snapshot
            self.stop.set()
            for child in self.children.copy():
                child.terminate()

    def work(self) -> None:
        """Train and measure one missing training after another."""
        while job := self.next_job():
            try:
                self.record(self.train_and_measure(job))
            except (OSError, ValueError) as error:
                if not self.stop.is_set():
                    self.failures.append(f"{job.folder}: {error}")
            finally:
                with self.condition:
                    self.n_running -= 1
                    self.condition.notify_all()

    def missing_jobs(self) -> list[Job]:
        """Return the trainings of the selected methods that are not done, in their order."""
        runs = read_runs(self.results)
        jobs = [job for job in plan(self.study, runs) if job.variant in self.variants]
        return [job for job in jobs if not is_done(job, runs, self.output)]

    def next_job(self) -> Job | None:
        """Return the next missing training, or None if this worker should start no other.

        If all missing trainings need settings that are not chosen yet, wait for the trials.
        """
        with self.condition:
            while not self.stop.is_set() and time.monotonic() < self.deadline:
                for job in self.missing_jobs():
                    if job.is_ready and job.folder not in self.started_folders:
                        self.started_folders.add(job.folder)
                        self.n_running += 1
                        return job
                if not self.n_running:
                    return None
                self.condition.wait(5)
        return None

    def train_and_measure(self, job: Job) -> list[dict[str, Any]]:
        """Train a model unless it is there, measure it, and return its rows of runs.csv."""
        folder = self.output / job.folder
        with self.locked_log(folder) as log:
            bundled_name = bundled(job)
            if bundled_name:
                checkpoint = bundled_models()[bundled_name].weights_path
                model = bundled_name
            else:
                checkpoint = folder / "run" / CHECKPOINT
                model = f"cosmos:{checkpoint}"
                if not is_trained(checkpoint, job):
                    self.train(job, checkpoint.parent, log)
            training = read_checkpoint(checkpoint).training
            assert training is not None
            trainings = self.results / "trainings"
            results = folder / "eval" if job.is_trial else trainings / job.folder
            measured_rows = list(self.measure(job, model, results, log))
            shutil.rmtree(folder / "run" / "snapshots", ignore_errors=True)
        first_columns = {"variant": job.title, "trial": job.is_trial, "seed": job.config.seed}
        last_columns = {
            key: training[key] for key in ("command", "commit", "samples_seen", "seconds")
        }
        return [first_columns | row | last_columns for row in measured_rows]

    @contextmanager
    def locked_log(self, folder: Path) -> Iterator[BinaryIO]:
        """Yield the log of a training's folder, locked. Wait while another process has the lock.

        A training whose study was killed holds the lock until it ends.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("ab") as log:
            while not try_lock(log):
                if self.stop.wait(1):
                    raise ValueError("another process trains here")
            yield log

    def train(self, job: Job, folder: Path, log: BinaryIO) -> None:
        """Train a model, or resume its training from the last snapshot in the folder."""
        can_resume = bool(Snapshots(folder, 1).steps())
        if not can_resume:  # a training killed before its first snapshot starts again
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            scenes = self.output / _scenes_folder(job.config)
            (folder / scenes.name).symlink_to(scenes.resolve())
        arguments = [*shlex.split(job.command)[1:], "--output", str(folder)]
        if can_resume:
            arguments.append("--resume")
        self.start("cosmos_core.train", arguments, log)

    def measure(
        self, job: Job, model: str, folder: Path, log: BinaryIO
    ) -> Iterator[dict[str, Any]]:
        """Measure a model, and yield the columns of runs.csv that each metric has of its own.

        Args:
            job: The training.
            model: The model, as `cosmos-eval run --model` takes it.
            folder: The folder of the result files, which are replaced.
            log: The log of the training.
        """
        shutil.rmtree(folder, ignore_errors=True)
        # Results hold the command: a relative path says nothing about this machine.
        run = ["run", "--output", os.path.relpath(folder), "--workers", "0"]
        run += ["--model", model, "--name", job.label]
        self.start("cosmos_eval", [*run, *_options("--dataset", self.datasets(job))], log)
        if not job.is_trial and job.tune_budget:
            settings = self.tune(job, model, self.output / job.folder / "settings", log)
            self.start("cosmos_eval", [*run, "--tuned", str(settings)], log)
        if {*CROSS_ATTENTION} <= {*job.metrics}:
            self.measure_cross_attention(run, log)

        results = {_dataset_in_runs(result): result for result in read_results(folder)}
        for dataset, metric in job.metrics:
            result = results[dataset]
            yield {
                "dataset": dataset,
                "metric": metric,
                "value": result.metrics[metric],
                "weights_sha256": result.model["weights_sha256"],
            }

    def datasets(self, job: Job) -> list[str]:
        """Return the data sets of a training: names, or the YAML files of held-out scenes."""
        if job.is_trial:
            paths = [self.output / HELD_OUT / f"{dataset}.yaml" for dataset, _ in job.metrics]
            return [str(path) for path in dict.fromkeys(paths)]
        return list(dict.fromkeys(dataset for dataset, _ in METRICS))

    def measure_cross_attention(self, run: Sequence[str], log: BinaryIO) -> None:
        """Measure the cross-attention of COSMOS, as dense features and as maps.

        Args:
            run: The arguments of `cosmos-eval` that all measurements of the model have in common.
            log: The log of the training.
        """
        features = ["--dataset", "scenes-seg", "--attention", "crossmodal"]
        self.start("cosmos_eval", [*run, *features], log)
        protocols = [name for name, _ in CROSS_ATTENTION if name.startswith("localisation")]
        maps = ["--dataset", "scenes-loc", *_options("--protocol", protocols)]
        self.start("cosmos_eval", [*run, *maps], log)

    def tune(self, job: Job, model: str, folder: Path, log: BinaryIO) -> Path:
        """Choose the settings of segmentation for a model, and return their file."""
        data = ["--dataset", "scenes-seg", "--split", "scenes-seg-train"]
        options = ["--space", os.path.relpath(SPACE_FILE), "--budget", str(job.tune_budget)]
        options += ["--output", str(folder), "--model", model]
        self.start("cosmos_eval", ["tune", *data, *options], log)
        (settings,) = folder.glob("*.yaml")
        return settings

    def start(self, module: str, arguments: Sequence[str], log: BinaryIO) -> None:
        """Run a module of Python in a process, and wait for its end.

        It has a session of its own, so that only this process ends it. The log is its standard
        error, which keeps the lock for as long as it runs.

        Raises:
            ValueError: If it fails, or if a signal has ended the study.
        """
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        self.children.add(child)
        if self.stop.is_set():
            child.terminate()
        status = child.wait()
        self.children.remove(child)
        if status or self.stop.is_set():
            raise ValueError(f"{module} ended with status {status}; see {log.name}")

    def record(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add the rows of a training, in place of older ones, and write the tables again."""
        with self.condition, _locked_output(self.output):
            runs = read_runs(self.results)
            if rows:
                new_runs = pd.DataFrame(rows)
                new_runs["identity"] = [identity(row["command"]) for row in rows]
                is_older = runs["identity"].isin(new_runs["identity"])
                runs = pd.concat([runs[~is_older], new_runs])
            write(self.study, runs, self.results)


def _options(name: str, values: Sequence[str]) -> list[str]:
    """Return the words of an option that is repeated for each value."""
    words = []
    for value in values:
        words += [name, value]
    return words


def _dataset_in_runs(result: ResultRow) -> str:
    """Return the name of a result in the column `dataset` of runs.csv."""
    if result.task == "loc":
        return result.protocol
    if result.protocol.startswith("tuned"):
        return f"{result.dataset} tuned"
    if result.task == "seg" and result.provenance["attention"] == "crossmodal":
        return f"{result.dataset} crossmodal"
    return result.dataset


def try_lock(log: BinaryIO) -> bool:
    """Lock an open file. Return False if another process has the lock."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked_output(output: Path) -> Iterator[None]:
    """Keep out other studies, of other methods, that write to the same folder."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def bundled(job: Job) -> str | None:
    """Return the name of the bundled model that is this training, or None.

    The code that trained it gives the same weights as today's.
    """
    for name, model in bundled_models().items():
        training = read_checkpoint(model.weights_path).training
        assert training is not None
        if training["commit"] in SAME_CODE and identity(training["command"]) == job.identity:
            return name
    return None


def is_trained(checkpoint: Path, job: Job) -> bool:
    """Return whether a checkpoint is there and belongs to the last step of a training."""
    training = read_checkpoint(checkpoint).training if checkpoint.exists() else None
    return training is not None and training["steps"] == job.config.optim.steps


def _scenes_folder(config: TrainConfig) -> str:
    """Return the name of the folder of the training scenes: "scenes-8" for `scenes:8`."""
    return config.data.shards.replace(":", "-")


def render_training_scenes(output: Path, config: TrainConfig) -> None:
    """Write the scenes of all trainings, unless they are there."""
    folder = output / _scenes_folder(config)
    count = int(config.data.shards.partition(":")[2])
    if not folder.exists():
        write_layouts(folder, split=TRAIN, count=count, layouts=["shards"])


def render_held_out(folder: Path) -> None:
    """Write the scenes by which settings are chosen, unless they are there, and their protocols."""
    if not folder.exists():
        layouts, start = ["coco", "folder", "voc"], TRAIN_SCENES + 2 * PROBE_IMAGES
        write_layouts(folder, split=TRAIN, count=HELD_OUT_SCENES, start=start, layouts=layouts)
    for name in dict.fromkeys(name for name, _ in JUDGED):
        content = json.dumps(_protocol_content(scenes_protocols()[name]), indent=1)  # also YAML
        path = folder / f"{name.replace('scenes', HELD_OUT)}.yaml"
        path.write_text(content.replace("/test", "/train").replace("_test", "_train"))


def _protocol_content(protocol: Protocol) -> dict[str, Any]:
    """Return a protocol as the content of a file for `cosmos-eval run --dataset`."""
    kinds = {"SegmentationProtocol": "seg", "RetrievalProtocol": "retrieval"}
    content: dict[str, Any] = {"kind": kinds.get(type(protocol).__name__, "cls")}
    for field in yaml_fields(type(protocol)):
        value = getattr(protocol, field.name)
        if value != field.default:
            content[field.name] = value
    if isinstance(protocol, SegmentationProtocol):
        content["classes"] = [
            {"name": name, "queries": queries}
            for name, queries in zip(protocol.class_names, protocol.queries, strict=True)
        ]
    return content


def write(study: Study, runs: pd.DataFrame, results: Path) -> None:
    """Write runs.csv and table.md of the results so far to the folder RESULTS."""
    results.mkdir(parents=True, exist_ok=True)
    order = {job.identity: number for number, job in enumerate(plan(study, runs))}
    runs = runs.sort_values("identity", key=lambda ids: ids.map(order), kind="stable")
    csv = runs.drop(columns="identity").to_csv(index=False)
    write_atomically(results / "runs.csv", csv.encode())
    write_atomically(results / "table.md", table(study, runs).encode())


def values(study: Study, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return percent by seed (rows) and metric (columns), for each row of the table."""
    identities: dict[str, list[str]] = {}
    for job in plan(study, runs):
        if not job.is_trial:
            identities.setdefault(job.title, []).append(job.identity)
    columns = pd.MultiIndex.from_tuples(study.columns | CROSS_ATTENTION)
    percent = {}
    for title, row_identities in identities.items():
        row_runs = runs[runs["identity"].isin(row_identities)]
        by_seed = row_runs.pivot(index="seed", columns=["dataset", "metric"], values="value")
        percent[title] = 100 * by_seed.reindex(columns=columns)
    return percent


def table(study: Study, runs: pd.DataFrame) -> str:
    """Return the content of table.md.

    It has the mean and standard deviation over seeds of each metric, and the chosen settings.
    """
    percent = values(study, runs)
    n_samples = _n_samples(RECIPES[study.recipe]())
    lines = [
        *_means_table(f"{study.recipe}, percent", study.columns, percent),
        "",
        f"Mean and standard deviation over the seeds named. {n_samples:,} samples a training; "
        "with equal",
        "compute as many as have the FLOPs of COSMOS. runs.csv has commands and commits.",
    ]
    if study.tune_budget and "COSMOS" in percent:
        cosmos = {"COSMOS": percent["COSMOS"]}
        lines += ["", *_means_table("cross-attention, percent", CROSS_ATTENTION, cosmos)]
    lines += _settings_table(study, runs)
    return "\n".join([*lines, ""])


def _means_table(
    title: str, columns: dict[MetricKey, str], percent: dict[str, pd.DataFrame]
) -> Iterator[str]:
    """Yield the lines of a table of means over seeds.

    Args:
        title: The title of the first column.
        columns: The titles of the other columns, by metric.
        percent: The values of each row by seed and metric, from `values`.
    """
    yield f"| {title} | seeds | {' | '.join(columns.values())} |"
    yield f"| --- | --- |{' --: |' * len(columns)}"
    for row_title, by_seed in percent.items():
        seeds = ", ".join(str(seed) for seed in by_seed.index)
        cells = [_mean_cell(by_seed[key].dropna(), len(by_seed)) for key in columns]
        yield f"| {row_title} | {seeds} | {' | '.join(cells)} |"


def _mean_cell(percent: pd.Series[float], n_seeds: int) -> str:
    """Return the mean of a metric and its standard deviation, such as "25.0 ± 21.2".

    Args:
        percent: The values by seed, without missing ones.
        n_seeds: The number of seeds of the row. If values are fewer, the cell names their seeds.
    """
    if percent.empty:
        return ""
    spread = f" ± {percent.std():.1f}" if len(percent) > 1 else ""
    seeds = ", ".join(str(seed) for seed in percent.index)
    only = f" (seed {seeds})" if len(percent) < n_seeds else ""
    return f"{percent.mean():.1f}{spread}{only}"


def _settings_table(study: Study, runs: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of a table of the settings that each method's trials chose."""
    if not study.n_trials:
        return
    yield f"\n| of {study.n_trials} short trainings | {' | '.join(SPACE)} | score | next best |"
    yield f"| --- |{' --- |' * len(SPACE)} --: | --: |"
    for variant in study.n_seeds:
        trials = _trial_jobs(study, variant)
        chosen_trial = choose(trials, runs)
        if chosen_trial is None:
            yield f"| {variant} |{' |' * (len(SPACE) + 2)}"
            continue
        chosen_settings = candidates(VARIANTS[variant], study)[chosen_trial]
        value_by_name = dict(setting.split("=") for setting in chosen_settings)
        scores = sorted((100 * (score(job, runs) or 0) for job in trials), reverse=True)
        cells = [value_by_name.get(name, "") for name in SPACE]
        cells += [f"{trial_score:.1f}" for trial_score in scores[:2]]
        yield f"| {variant} | {' | '.join(cells)} |"


class Progress(NamedTuple):
    """How far a training is."""

    # Such as "done", "missing" or "running, step 120".
    text: str
    n_steps: int
    is_done: bool


def listing(study: Study, runs: pd.DataFrame, output: Path, n_processes: int) -> Iterator[str]:
    """Yield a line for each training: its state and the hours left; and a line of the sum.

    The hours follow from the pace of finished trainings or of logged steps.
    """
    hours_left, n_unknown = 0.0, 0
    paces = _seconds_per_sample(study, runs, output)
    for job in plan(study, runs):
        progress = _progress(job, runs, output)
        if job.variant in paces:
            share_left = 1 - progress.n_steps / job.config.optim.steps
            hours = paces[job.variant] * _n_samples(job.config) * share_left / 3600
            hours_left += hours
            hours_text = f"{hours:.2f} h"
        else:
            n_unknown += 1
            hours_text = "?"
        if progress.is_done:
            hours_text = ""
        yield f"{progress.text:20} {hours_text:8} {job.label}  {job.folder}"
    yield (
        f"{hours_left / n_processes:.1f} hours left in {n_processes} processes; "
        f"{n_unknown} not known"
    )


def _progress(job: Job, runs: pd.DataFrame, output: Path) -> Progress:
    """Return how far a training is, by the results so far and by its log."""
    if is_done(job, runs, output):
        return Progress("done", job.config.optim.steps, is_done=True)
    folder = output / job.folder
    n_steps = _last_entry(folder / "run" / LOG).get("step", -1) + 1
    if not n_steps:
        return Progress("missing", 0, is_done=False)
    with (folder / LOCK).open("ab") as log:
        is_running = not try_lock(log)
    state = "running" if is_running else "stopped"
    return Progress(f"{state}, step {n_steps}", n_steps, is_done=False)


def _seconds_per_sample(study: Study, runs: pd.DataFrame, output: Path) -> dict[str, float]:
    """Return the median time of a sample in the trainings of each variant, where it is known.

    It follows from the results of a training if it is finished, and else from its log.
    """
    paces: dict[str, list[float]] = {}
    for job in plan(study, runs):
        job_runs = runs[runs["identity"] == job.identity]
        timing = _last_entry(output / job.folder / "run" / LOG).get("timing")
        if len(job_runs):
            pace = (job_runs["seconds"] / job_runs["samples_seen"]).iloc[0]
        elif timing:
            pace = 1 / timing["samples_per_second"]
        else:
            continue
        paces.setdefault(job.variant, []).append(pace)
    return {variant: statistics.median(seconds) for variant, seconds in paces.items()}


def _last_entry(log: Path) -> dict[str, Any]:
    """Return the last entry of a training's log; empty without one."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return json.loads(lines[-1]) if lines else {}


def make_study(recipe: str, n_seeds: int | None, n_trials: int | None, budget: int | None) -> Study:
    """Return the study of a recipe.

    Args:
        recipe: The recipe that all trainings have in common. All but ABLATION have short trainings,
            settings of segmentation, and trainings with equal compute.
        n_seeds: The number of full trainings of each method; None or 0 for the usual ones.
        n_trials: The number of short trainings of each method; None for the usual one.
        budget: The number of settings of segmentation to try; None for the usual one.
    """
    is_full = recipe != ABLATION
    usual_trials, usual_budget = (2, 100) if is_full else (0, 0)
    seeds_by_variant = {}
    for variant in VARIANTS:
        if variant == "COSMOS without text crops" and is_full:
            continue
        usual_seeds = 5 if is_full and variant in FIVE_SEEDS else SEEDS
        seeds_by_variant[variant] = n_seeds or usual_seeds
    return Study(
        recipe,
        seeds_by_variant,
        n_trials=usual_trials if n_trials is None else n_trials,
        has_equal_compute=is_full,
        tune_budget=usual_budget if budget is None else budget,
    )


def main(
    recipe: Annotated[str, typer.Option(help="What all trainings have in common.")] = FULL,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="Train only these methods.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Full trainings of a method.")] = None,
    trials: Annotated[int | None, typer.Option(min=0, help="Short trainings of a method.")] = None,
    tune: Annotated[
        int | None, typer.Option(min=0, help="Settings of segmentation tried with a training.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the trainings.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of runs.csv and tables.")] = None,
    processes: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    hours: Annotated[float, typer.Option(help="Start nothing new after these.")] = math.inf,
    only_list: Annotated[
        bool, typer.Option("--list", help="Only list what is done and left.")
    ] = False,
) -> None:
    """Train, measure, tabulate."""
    study = make_study(recipe, seeds, trials, tune)
    is_full = recipe != ABLATION
    name = "study" if is_full else "ablation"
    output = output or Path("runs") / name
    results = results or ROOT / ("benchmarks" if is_full else "results") / name
    if only_list:
        for line in listing(study, read_runs(results), output, processes):
            print(line)
        return
    worker = Worker(study, output, results, hours, variants or list(study.n_seeds))
    worker.run(processes)
    for failure in worker.failures:
        print(failure, file=sys.stderr)
    raise typer.Exit(bool(worker.failures))


if __name__ == "__main__":
    typer.run(main)
