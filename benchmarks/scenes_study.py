"""`python benchmarks/scenes_study.py [--list]`: training methods on scenes, with several seeds.

Settings of each method are chosen by as many short trainings, on scenes that no model is trained on
and that no table shows; full trainings with them are measured on the test scenes. It can be stopped
at any moment and goes on where it stopped: a training that RESULTS/runs.csv has is not repeated.
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
from contextlib import contextmanager, nullcontext
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


def _method_of(recipe: str) -> tuple[str, ...]:
    """The settings that give another recipe the method of this one, heads included."""
    options = asdict(RECIPES[recipe]().method)
    name = options.pop("name")
    return (f"method={name}", *(f"method.{key}={value}" for key, value in options.items()))


VARIANTS: dict[str, tuple[str, ...]] = {
    "CLIP": _method_of("scenes_clip"),
    "SLIP": _method_of("scenes_slip"),
    "SILC": _method_of("scenes_silc"),
    "multi-view CLIP": ("method.distillation=false",),  # COSMOS without distillation
    "COSMOS without text crops": ("method.local_texts=false",),
    "COSMOS without cross-attention": ("method.cross_attention=false",),
    "COSMOS": (),
}
FIVE_SEEDS = ("CLIP", "multi-view CLIP", "COSMOS")
SEEDS = 3  # of the others, and with equal compute
# How many times the samples of COSMOS have its FLOPs.
EQUAL_COMPUTE = {
    "CLIP": LONG_SAMPLES / SAMPLES,
    "multi-view CLIP": LONG_MULTI_VIEW_SAMPLES / SAMPLES,
}
# Bundled models are of the groups of these rows.
GROUPS = {"CLIP": "scenes_clip", "CLIP, equal compute": "scenes_clip_long"}
# Two settings that the recipes have, and others drawn from the product of these.
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
# By settings that `cosmos-eval tune` chooses for each training, on scenes of the training split.
TUNED = {
    ("scenes-seg tuned", "mIoU"): "mIoU, tuned",
    ("scenes-seg tuned", "mIoU_things"): "mIoU, things, tuned",
}
# What the cross-attention of COSMOS shows, as dense features and as maps.
CROSS_ATTENTION = {
    ("scenes-seg crossmodal", "mIoU"): "mIoU, values as features",
    ("scenes-seg crossmodal", "mIoU_things"): "the same, things",
    ("localisation", "pointing_game"): "pointing game, values",
    ("localisation-similarity", "pointing_game"): "similarity",
    ("localisation-cross-attention", "pointing_game"): "attention weights",
}
# Settings are judged by the mean over tasks.
JUDGED = [*METRICS][:4]
HELD_OUT, HELD_OUT_SCENES = "heldout", 300
LOCK = "log.txt"  # in the folder of a training, beside its run
# Thirty steps of their code and of today's give the same weights to the bit (docs/log.md).
SAME_CODE = ("4b2d19aa24e5e675eb8a815aa306ba74a44d993a",)
# Memory is kept instead of given back to the system at each step, and so is the code that oneDNN
# generates for each number of tokens, of which there are many: the numbers are the same.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "20000",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
# Settings that do not change weights.
CHEAPER = ("data.workers=0", "watch.pictures=false")


class Study(NamedTuple):
    """What is trained: seeds of each variant, how many short trainings choose its settings, and how
    many settings of segmentation are tried with each training. With none, 0, maps of the
    cross-attention are not measured either."""

    recipe: str
    seeds: dict[str, int]
    trials: int
    equal_compute: bool
    tune: int = 0

    @property
    def columns(self) -> dict[tuple[str, str], str]:
        return METRICS | (TUNED if self.tune else {})


class Job(NamedTuple):
    """One training, as its row in the tables; not `ready` before its settings are chosen."""

    row: str
    trial: bool
    command: str
    tune: int = 0
    ready: bool = True

    @property
    def config(self) -> TrainConfig:
        return _config(self.command)

    @property
    def identity(self) -> str:
        return identity(self.command)

    @property
    def folder(self) -> str:
        return f"{_slug(self.row)}-{self.identity[:12]}"

    @property
    def metrics(self) -> list[tuple[str, str]]:
        if self.trial:
            return [(name.replace("scenes", HELD_OUT), metric) for name, metric in JUDGED]
        cross_attention = CROSS_ATTENTION if self.tune and self.row == "COSMOS" else ()
        return [*METRICS, *(TUNED if self.tune else ()), *cross_attention]


@cache
def _config(command: str) -> TrainConfig:
    _, recipe, *words = shlex.split(command)
    return override(RECIPES[recipe](), words[1::2])


@cache
def identity(command: str) -> str:
    """The hash of all in a command of `cosmos-train` that decides the weights."""
    config = {
        key: value for key, value in plain_config(_config(command)).items() if key != "recipe"
    }
    for name in FREE:
        part, _, key = name.partition(".")
        if part in config:
            config[part] = {k: v for k, v in config[part].items() if k != key} if key else {}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def plan(study: Study, runs: pd.DataFrame) -> list[Job]:
    """All trainings in their order: every method's n-th trial, then every method's n-th seed, then
    those with equal compute."""
    samples = _samples(RECIPES[study.recipe]())
    trials = {
        variant: [_job(study, variant, s, samples // SHORTER, trial=True) for s in settings]
        for variant in study.seeds
        for settings in [candidates(VARIANTS[variant], study)]
    }
    chosen = {variant: choose(jobs, runs) for variant, jobs in trials.items()}
    equal_samples = [(variant, variant, samples, seeds) for variant, seeds in study.seeds.items()]
    equal_compute = [
        (f"{variant}, equal compute", variant, round(samples * by), min(SEEDS, seeds))
        for variant, by in EQUAL_COMPUTE.items()
        if study.equal_compute and (seeds := study.seeds.get(variant))
    ]
    full = []
    for (row, variant, seen, seeds), seed in (
        (row, seed)
        for rows in (equal_samples, equal_compute)
        for seed, row in itertools.product(range(max(study.seeds.values())), rows)
    ):
        if seed < seeds:
            settings = (candidates(VARIANTS[variant], study) or [()])[chosen[variant] or 0]
            job = _job(study, variant, settings, seen, seed=seed, row=row)
            ready = not study.trials or chosen[variant] is not None
            full.append(job._replace(ready=ready))
    short = [job for group in zip(*trials.values(), strict=True) for job in group]
    return short + full


def candidates(method: Sequence[str], study: Study) -> list[tuple[str, ...]]:
    """The settings tried, the same for methods with the same views: two known ones, then others."""
    config = override(RECIPES[study.recipe](), method)
    factors = [
        [f"{name}={value}" for value in values]
        for name, values in SPACE.items()
        if name != "image.local_scale" or config.method.counts.local_images
    ]
    every = list(itertools.product(*factors))
    known = [every[0], (factors[0][1], *every[0][1:])]
    others = [settings for settings in every if settings not in known]
    random.Random(0).shuffle(others)
    return [*known, *others][: study.trials]


def choose(trials: Sequence[Job], runs: pd.DataFrame) -> int | None:
    """The number of the trial with the best mean over tasks; None before all are measured."""
    scores = [score(job, runs) for job in trials]
    return None if None in scores or not scores else max(range(len(scores)), key=scores.__getitem__)


def score(job: Job, runs: pd.DataFrame) -> float | None:
    """The mean over tasks of the means of their metrics on scenes that are held out."""
    found = runs[runs["identity"] == job.identity].set_index(["dataset", "metric"])["value"]
    if not set(job.metrics) <= set(found.index):
        return None
    return float(found.loc[job.metrics].groupby(level="dataset").mean().mean())


def _slug(row: str) -> str:
    return row.lower().replace(" ", "-").replace(",", "")


def _samples(config: TrainConfig) -> int:
    return config.optim.steps * config.optim.batch_size


def _job(
    study: Study,
    variant: str,
    settings: Sequence[str],
    samples: int,
    *,
    seed: int = 0,
    trial: bool = False,
    row: str | None = None,
) -> Job:
    row = row or variant
    given = [*VARIANTS[variant], *settings]
    batch = override(RECIPES[study.recipe](), given).optim.batch_size
    given += [f"optim.steps={samples // batch}", f"seed={seed}"]
    if torch.cuda.is_available():
        given.append("compute.device=cuda")
    if study.recipe == FULL and row != "COSMOS":  # the name of the group in results
        given.append(f"recipe={GROUPS.get(row, _slug(row))}")
    words = (f"--set {shlex.quote(setting)}" for setting in (*given, *CHEAPER))
    return Job(row, trial, " ".join(["cosmos-train", study.recipe, *words]), study.tune)


def is_done(job: Job, runs: pd.DataFrame, output: Path) -> bool:
    """Whether every metric is there, of the weights in the training's folder if it has some."""
    found = runs[runs["identity"] == job.identity]
    if not set(job.metrics) <= set(zip(found["dataset"], found["metric"], strict=True)):
        return False
    checkpoint = output / job.folder / "run" / CHECKPOINT
    if not checkpoint.exists():
        return True
    return {_sha256(checkpoint, checkpoint.stat().st_mtime_ns)} == {*found["weights_sha256"]}


@cache
def _sha256(path: Path, changed: int) -> str:
    return file_sha256(path)


def read_runs(results: Path) -> pd.DataFrame:
    """RESULTS/runs.csv, with the identity of each training; empty where there is none yet."""
    columns = ["variant", "seed", "dataset", "metric", "value", "weights_sha256", "command"]
    path = results / "runs.csv"
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    return frame.assign(identity=[identity(command) for command in frame["command"]])


class Worker:
    """Trains and measures what is missing, several trainings side by side in processes."""

    def __init__(
        self, study: Study, output: Path, results: Path, hours: float, variants: Sequence[str]
    ) -> None:
        self.study, self.output, self.results, self.variants = study, output, results, variants
        self.deadline = time.monotonic() + hours * 3600
        self.stop, self.state = threading.Event(), threading.Condition()
        self.taken: set[str] = set()
        self.active = 0
        self.children: set[subprocess.Popen[bytes]] = set()
        self.failed: list[str] = []

    def run(self, processes: int) -> None:
        """Work until nothing is missing, the time is over, or a signal comes."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        self.record([])
        if not self.missing() or time.monotonic() >= self.deadline:
            return
        with _alone(self.output):
            render(self.output, RECIPES[self.study.recipe]())
            render_held_out(self.output / HELD_OUT)
        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(lambda _: self.work(), range(processes)))

    def _end(self, *_: object) -> None:
        if not self.stop.is_set():  # a second signal would keep a training from its snapshot
            self.stop.set()
            for child in self.children.copy():
                child.terminate()

    def work(self) -> None:
        while job := self.next():
            try:
                self.record(self.rows(job))
            except (OSError, ValueError) as error:
                if not self.stop.is_set():
                    self.failed.append(f"{job.folder}: {error}")
            finally:
                with self.state:
                    self.active -= 1
                    self.state.notify_all()

    def missing(self) -> list[Job]:
        runs = read_runs(self.results)
        jobs = [j for j in plan(self.study, runs) if j.row.partition(",")[0] in self.variants]
        return [job for job in jobs if not is_done(job, runs, self.output)]

    def next(self) -> Job | None:
        """The next training that is missing; waits for those whose results decide its settings."""
        with self.state:
            while not self.stop.is_set() and time.monotonic() < self.deadline:
                for job in self.missing():
                    if job.ready and job.folder not in self.taken:
                        self.taken.add(job.folder)
                        self.active += 1
                        return job
                if not self.active:
                    return None
                self.state.wait(5)
        return None

    def rows(self, job: Job) -> list[dict[str, Any]]:
        """Train and measure; the rows of runs.csv."""
        folder = self.output / job.folder
        with self.locked(folder) as log:
            name = bundled(job)
            path = bundled_models()[name].weights_path if name else folder / "run" / CHECKPOINT
            if not (name or is_trained(path, job)):
                self.train(job, path.parent, log)
            training = read_checkpoint(path).training
            assert training is not None
            place = folder / "eval" if job.trial else self.results / "trainings" / job.folder
            measured = [*self.measure(job, name or f"cosmos:{path}", place, log)]
            shutil.rmtree(folder / "run" / "snapshots", ignore_errors=True)
        common = {key: training[key] for key in ("command", "commit", "samples_seen", "seconds")}
        named = {"variant": job.row, "trial": job.trial, "seed": job.config.seed}
        return [{**named, **row, **common} for row in measured]

    @contextmanager
    def locked(self, folder: Path) -> Iterator[BinaryIO]:
        """The log of a folder, locked. A training of a killed study holds the lock to its end."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("ab") as log:
            while is_locked(log):
                if self.stop.wait(1):
                    raise ValueError("another process trains here")
            yield log

    def train(self, job: Job, folder: Path, log: BinaryIO) -> None:
        resume = bool(Snapshots(folder, 1).steps())
        if not resume:  # a training killed before its first snapshot starts again
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            scenes = self.output / _scenes(job.config)
            (folder / scenes.name).symlink_to(scenes.resolve())
        words = [*shlex.split(job.command)[1:], "--output", str(folder)]
        self.start("cosmos_core.train", [*words, *(["--resume"] if resume else [])], log)

    def measure(
        self, job: Job, model: str, folder: Path, log: BinaryIO
    ) -> Iterator[dict[str, Any]]:
        shutil.rmtree(folder, ignore_errors=True)
        label = f"{job.row}, {'trial' if job.trial else f'seed {job.config.seed}'}"
        # Results hold the command: a relative path says nothing of this machine.
        run = ["run", "--output", os.path.relpath(folder), "--workers", "0"]
        run += ["--model", model, "--name", label]
        names = dict.fromkeys(name for name, metric in job.metrics if (name, metric) in METRICS)
        if job.trial:
            names = {str(self.output / HELD_OUT / f"{name}.yaml"): None for name, _ in job.metrics}
        self.start("cosmos_eval", [*run, *(w for name in names for w in ("--dataset", name))], log)
        if not job.trial and job.tune:
            settings = self.tune(job, model, self.output / job.folder / "settings", log)
            self.start("cosmos_eval", [*run, "--tuned", str(settings)], log)
        if {*CROSS_ATTENTION} <= {*job.metrics}:
            attention = ["--dataset", "scenes-seg", "--attention", "crossmodal"]
            self.start("cosmos_eval", [*run, *attention], log)
            families = [name for name, _ in CROSS_ATTENTION if name.startswith("localisation")]
            maps = ["--dataset", "scenes-loc", *(w for f in families for w in ("--protocol", f))]
            self.start("cosmos_eval", [*run, *maps], log)
        records = {_measured(record): record for record in read_results(folder)}
        for name, metric in job.metrics:
            weights = records[name].model["weights_sha256"]
            value = {"value": records[name].metrics[metric], "weights_sha256": weights}
            yield {"dataset": name, "metric": metric, **value}

    def tune(self, job: Job, model: str, folder: Path, log: BinaryIO) -> Path:
        """The settings of segmentation that are chosen for this model."""
        data = ["--dataset", "scenes-seg", "--split", "scenes-seg-train"]
        options = ["--space", os.path.relpath(SPACE_FILE), "--budget", str(job.tune)]
        options += ["--output", str(folder), "--model", model]
        self.start("cosmos_eval", ["tune", *data, *options], log)
        (settings,) = folder.glob("*.yaml")
        return settings

    def start(self, module: str, words: Sequence[str], log: BinaryIO) -> None:
        """Run a command in a session of its own, so that only this process ends it. The log is its
        standard error, which keeps the lock for as long as it runs."""
        child = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            env={**os.environ, **ENVIRONMENT},
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
        """Add the rows of a training, in place of older ones, and make the table again."""
        with self.state, _alone(self.output):
            runs, new = read_runs(self.results), pd.DataFrame(rows)
            if rows:
                new["identity"] = [identity(row["command"]) for row in rows]
                runs = pd.concat([runs[~runs["identity"].isin(new["identity"])], new])
            write(self.study, runs, self.results)


def _measured(record: ResultRow) -> str:
    """The name of a result in runs.csv."""
    if record.task == "loc":
        return record.protocol
    if record.protocol.startswith("tuned"):
        return f"{record.dataset} tuned"
    attention = record.provenance["attention"] if record.task == "seg" else None
    return f"{record.dataset} crossmodal" if attention == "crossmodal" else record.dataset


def is_locked(log: BinaryIO) -> bool:
    """Take the lock of an open file, unless another process has it."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep out other studies, of other methods, that write to the same folder."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def bundled(job: Job) -> str | None:
    """The bundled model that is this training, made by code that gives the same weights."""
    for name, model in bundled_models().items():
        training = read_checkpoint(model.weights_path).training
        assert training is not None
        if training["commit"] in SAME_CODE and identity(training["command"]) == job.identity:
            return name
    return None


def is_trained(checkpoint: Path, job: Job) -> bool:
    """Whether a checkpoint is that of the last step."""
    training = read_checkpoint(checkpoint).training if checkpoint.exists() else None
    return training is not None and training["steps"] == job.config.optim.steps


def _scenes(config: TrainConfig) -> str:
    return config.data.shards.replace(":", "-")


def render(output: Path, config: TrainConfig) -> None:
    """Write the scenes of all trainings, unless they are there."""
    folder, count = output / _scenes(config), int(config.data.shards.partition(":")[2])
    if not folder.exists():
        write_layouts(folder, split=TRAIN, count=count, layouts=["shards"])


def render_held_out(folder: Path) -> None:
    """Write the scenes that settings are chosen on, and their descriptions."""
    if not folder.exists():
        layouts, start = ["coco", "folder", "voc"], TRAIN_SCENES + 2 * PROBE_IMAGES
        write_layouts(folder, split=TRAIN, count=HELD_OUT_SCENES, start=start, layouts=layouts)
    for name in dict.fromkeys(name for name, _ in JUDGED):
        content = json.dumps(_description(scenes_protocols()[name]), indent=1)  # which is YAML
        path = folder / f"{name.replace('scenes', HELD_OUT)}.yaml"
        path.write_text(content.replace("/test", "/train").replace("_test", "_train"))


def _description(protocol: Protocol) -> dict[str, Any]:
    """A protocol of the test scenes as a file of `cosmos-eval run --dataset`."""
    kinds = {"SegmentationProtocol": "seg", "RetrievalProtocol": "retrieval"}
    fields = {
        item.name: getattr(protocol, item.name)
        for item in yaml_fields(type(protocol))
        if getattr(protocol, item.name) != item.default
    }
    if isinstance(protocol, SegmentationProtocol):
        pairs = zip(protocol.class_names, protocol.queries, strict=True)
        fields["classes"] = [{"name": name, "queries": queries} for name, queries in pairs]
    return {"kind": kinds.get(type(protocol).__name__, "cls"), **fields}


def write(study: Study, runs: pd.DataFrame, results: Path) -> None:
    """RESULTS/runs.csv and table.md of what there is."""
    results.mkdir(parents=True, exist_ok=True)
    order = {job.identity: number for number, job in enumerate(plan(study, runs))}
    runs = runs.sort_values("identity", key=lambda ids: ids.map(order), kind="stable")
    csv = runs.drop(columns="identity").to_csv(index=False)
    write_atomically(results / "runs.csv", csv.encode())
    write_atomically(results / "table.md", table(study, runs).encode())


def values(study: Study, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each row of the tables, percent by seed and metric."""
    rows: dict[str, list[Job]] = {}
    for job in (job for job in plan(study, runs) if not job.trial):
        rows.setdefault(job.row, []).append(job)
    found = {}
    for row, jobs in rows.items():
        own = runs[runs["identity"].isin([job.identity for job in jobs])]
        wide = own.pivot(index="seed", columns=["dataset", "metric"], values="value")
        columns = pd.MultiIndex.from_tuples(study.columns | CROSS_ATTENTION)
        found[row] = 100 * wide.reindex(columns=columns)
    return found


def table(study: Study, runs: pd.DataFrame) -> str:
    """Mean and standard deviation over seeds, and which seeds; then what was chosen."""
    found = values(study, runs)
    lines = [*_table(f"{study.recipe}, percent", study.columns, found)]
    seen = f"{_samples(RECIPES[study.recipe]()):,} samples"
    seeds = f"Mean and standard deviation over the seeds named. {seen} a training; with equal"
    compute = "compute as many as have the FLOPs of COSMOS. runs.csv has commands and commits."
    lines += ["", seeds, compute]
    if study.tune and "COSMOS" in found:
        title = "cross-attention, percent"
        lines += ["", *_table(title, CROSS_ATTENTION, {"COSMOS": found["COSMOS"]})]
    lines += _choices(study, runs)
    return "\n".join([*lines, ""])


def _table(
    title: str, columns: dict[tuple[str, str], str], found: dict[str, pd.DataFrame]
) -> Iterator[str]:
    yield f"| {title} | seeds | {' | '.join(columns.values())} |"
    yield f"| --- | --- |{' --: |' * len(columns)}"
    for row, wide in found.items():
        cells = [_cell(wide[key].dropna(), len(wide)) for key in columns]
        yield f"| {row} | {', '.join(map(str, wide.index))} | {' | '.join(cells)} |"


def _choices(study: Study, runs: pd.DataFrame) -> Iterator[str]:
    """A table of the settings that each method's short trainings chose."""
    if study.trials:
        yield f"\n| of {study.trials} short trainings | {' | '.join(SPACE)} | score | next best |"
        yield f"| --- |{' --- |' * len(SPACE)} --: | --: |"
    trials = [job for job in plan(study, runs) if job.trial]
    for variant in study.seeds if trials else ():
        jobs = [job for job in trials if job.row == variant]
        best = choose(jobs, runs)
        if best is None:
            yield f"| {variant} |{' |' * (len(SPACE) + 2)}"
            continue
        settings = dict(s.split("=") for s in candidates(VARIANTS[variant], study)[best])
        scores = sorted((100 * (score(job, runs) or 0) for job in jobs), reverse=True)
        cells = [settings.get(name, "") for name in SPACE] + [f"{s:.1f}" for s in scores[:2]]
        yield f"| {variant} | {' | '.join(cells)} |"


def _cell(found: pd.Series, seeds: int) -> str:
    if found.empty:
        return ""
    spread = f" ± {found.std():.1f}" if len(found) > 1 else ""
    only = f" (seed {', '.join(map(str, found.index))})" if len(found) < seeds else ""
    return f"{found.mean():.1f}{spread}{only}"


def listing(study: Study, runs: pd.DataFrame, output: Path, processes: int) -> Iterator[str]:
    """A line a training: its state, and hours left by the pace of finished or logged steps."""
    total, unknown, paces = 0.0, 0, _paces(study, runs, output)
    for job in plan(study, runs):
        steps, samples = job.config.optim.steps, _samples(job.config)
        log = output / job.folder / "run" / LOG
        done = _last(log).get("step", -1) + 1
        if is_done(job, runs, output):
            state, done = "done", steps
        else:
            with (output / job.folder / LOCK).open("ab") if log.exists() else nullcontext() as lock:
                running = lock is not None and is_locked(lock)
            state = f"{'running' if running else 'stopped'}, step {done}" if done else "missing"
        pace = paces.get(job.row.partition(",")[0])
        hours = None if pace is None else pace * samples * (1 - done / steps) / 3600
        total, unknown = total + (hours or 0), unknown + (hours is None)
        left = "" if state == "done" else "?" if hours is None else f"{hours:.2f} h"
        kind = "trial" if job.trial else f"seed {job.config.seed}"
        yield f"{state:20} {left:8} {job.row}, {kind}  {job.folder}"
    yield f"{total / processes:.1f} hours left in {processes} processes; {unknown} not known"


def _paces(study: Study, runs: pd.DataFrame, output: Path) -> dict[str, float]:
    """Seconds a sample of each method: of its finished trainings, else of its logs."""
    seen = {}
    for job in plan(study, runs):
        name = job.row.partition(",")[0]
        found = runs[runs["identity"] == job.identity]
        if len(found):
            seen.setdefault(name, []).append((found["seconds"] / found["samples_seen"]).iloc[0])
        elif pace := _last(output / job.folder / "run" / LOG).get("timing"):
            seen.setdefault(name, []).append(1 / pace["samples_per_second"])
    return {name: statistics.median(paces) for name, paces in seen.items()}


def _last(log: Path) -> dict[str, Any]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return json.loads(lines[-1]) if lines else {}


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
    show: Annotated[bool, typer.Option("--list", help="Only list what is done and left.")] = False,
) -> None:
    """Train, measure, tabulate."""
    full = recipe != ABLATION
    known = [v for v in VARIANTS if v != "COSMOS without text crops" or not full]
    counts = {v: seeds or (5 if full and v in FIVE_SEEDS else SEEDS) for v in known}
    short, settings = (2, 100) if full else (0, 0)
    short = short if trials is None else trials
    study = Study(recipe, counts, short, full, settings if tune is None else tune)
    name = "study" if full else "ablation"
    output = output or Path("runs") / name
    results = results or ROOT / ("benchmarks" if full else "results") / name
    if show:
        for line in listing(study, read_runs(results), output, processes):
            print(line)
        return
    worker = Worker(study, output, results, hours, variants or known)
    worker.run(processes)
    for line in worker.failed:
        print(line, file=sys.stderr)
    raise typer.Exit(bool(worker.failed))


if __name__ == "__main__":
    typer.run(main)
