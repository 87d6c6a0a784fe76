"""Two models on data sets of three tasks, two of which share a pass, and what a run here gives."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.encoders import CHECKPOINT, CONFIG
from support.scene_files import write_scenes

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed
from cosmos_eval.runner.execute import engine_of, execute
from cosmos_eval.runner.plan import Pair, Plan, make_plan
from cosmos_eval.types import RunOptions

MODELS, ARCH = [f"cosmos:{CHECKPOINT}", "scenes-clip"], str(CONFIG)
SCENES = 37  # more than a shard, and every class is there


class Run(NamedTuple):
    """Pairs in the order of their results; results by file name without what a clock or a machine
    decides; the names of the files of samples, which hold their hashes."""

    order: list[Pair]
    results: dict[str, dict[str, Any]]
    samples: list[str]


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return write_scenes(folder, SCENES, "segmented", "named", "again", "found")


@pytest.fixture(scope="session")
def run(datasets: list[str]) -> Callable[..., Run]:
    """Run the plan by an engine; a part of it: one model, two data sets."""

    def run_plan(output, engine, distributed=SINGLE_PROCESS, *, in_part=False) -> Run:
        plan = plan_of(datasets, output, distributed)
        if in_part:
            plan = replace(plan, specs=plan.specs[:1], protocols=plan.protocols[:2])
        results = list(chain(*execute(plan, output, engine)))
        assert all(result.path and result.row for result in results)
        return Run([result.pair for result in results], *written(output))

    return run_plan


def plan_of(datasets: list[str], output: Path, distributed: Distributed) -> Plan:
    unfinished = str(output / ".partial")
    options = RunOptions(device="cpu", distributed=distributed, workers=1, unfinished=unfinished)
    return make_plan(datasets=datasets, models=MODELS, arch=ARCH, options=options)


def written(output: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The results of a folder, and the names of its files of samples."""
    results = {path.name: json.loads(path.read_text()) for path in sorted(output.glob("*.json"))}
    for result in results.values():
        measured = ("seconds", "images_per_second", "peak_memory_bytes", "utc")
        for name in (*measured, "command", "record_sha256"):
            del result["provenance"][name]
    return results, sorted(path.name for path in output.glob("*.npz"))


@pytest.fixture(scope="session")
def here(run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What a run in this process gives."""
    return run(tmp_path_factory.mktemp("here"), engine_of("local"))


@pytest.fixture
def deadly(tmp_path: Path) -> Distributed:
    """A group of one process; the first one other than this that is midway through a job is killed,
    and leaves its process id in `killed`."""
    home, note, calls = os.getpid(), str(tmp_path / "killed"), []

    # Defined here, so that it reaches other processes by value, with what this one has counted.
    def gather(outcome: Any) -> list[Any]:
        calls.append(os.getpid())
        if os.getpid() != home and calls.count(os.getpid()) == 3:
            try:
                with open(note, "x") as file:
                    file.write(str(os.getpid()))
            except FileExistsError:
                return [outcome]
            os.kill(os.getpid(), signal.SIGKILL)
        return [outcome]

    return Distributed(gather=gather)
