"""examples/train.sbatch without a cluster: its very commands, on one node of two processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import STEPS, TINY, log

from cosmos_core.engine.check import check_config
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

pytestmark = pytest.mark.slow  # starts processes of its own

ROOT = Path(__file__).parents[1]
FILE = ROOT / "examples" / "train.sbatch"
LINES = FILE.read_text("utf-8").splitlines()


def test_it_is_bash_and_its_directives_come_before_its_commands():
    assert subprocess.run(["bash", "-n", FILE], check=False).returncode == 0
    directives = [line for line in LINES if line.startswith("#SBATCH ")]
    first = next(n for n, line in enumerate(LINES) if line and not line.startswith("#"))
    assert [line for line in LINES[:first] if line in directives] == directives
    pairs = [re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups() for line in directives]
    values = dict(pairs)
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "signal"} <= values.keys()
    assert len(values) == len(pairs)
    # A job that starts again after its node failed goes on in the same log.
    assert (values["requeue"], values["open-mode"]) == (None, "append")


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the file as a node would, with stand-ins for SLURM's own commands."""

    def run(
        *words: str, srun: str = 'exec "$@"', cores: int = 2
    ) -> subprocess.CompletedProcess[str]:
        programs = {
            "srun": srun,
            "scontrol": '[ "$*" = "show hostnames gpu[1-2]" ] && printf "localhost\\ngpu2\\n"',
            "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        }
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, text in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        variables = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OUTPUT": str(tmp_path / "run"),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "gpu[1-2]",
            "SLURM_NNODES": "1",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_CPUS_PER_TASK": str(cores),
        }
        return subprocess.run(
            ["bash", FILE, *words], env={**os.environ, **variables}, cwd=tmp_path,
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip

    return run


def test_a_run_and_its_second_submission(submit, tmp_path):
    done = submit(*TINY)
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in log(tmp_path / "run")] == list(range(STEPS))
    again = submit(*TINY)
    assert again.returncode == 0, again.stderr
    assert [record["step"] for record in log(tmp_path / "run")] == list(range(STEPS))


def test_processes_have_time_for_a_snapshot_and_start_again_after_a_failure(submit):
    shown = submit("debug", srun='printf "%s\\n" "$@"').stdout.splitlines()
    notice = re.search(r"--signal=TERM@(\d+)", FILE.read_text("utf-8"))[1]
    assert 60 < int(shown[shown.index("--shutdown-timeout") + 1]) < int(notice)
    assert int(shown[shown.index("--max-restarts") + 1]) > 0
    assert shown[-2:] == ["--resume", "auto"]


@pytest.mark.parametrize(("cores", "workers"), [(64, 6), (12, 5), (10, 4), (4, 1), (1, 1)])
def test_workers_fit_the_cores_of_a_process_and_srun_gets_all_cores(submit, cores, workers):
    shown = submit("debug", srun='printf "%s\n" "$SRUN_CPUS_PER_TASK" "$@"', cores=cores).stdout
    assert shown.splitlines()[0] == str(cores)
    assert f"--set\ndata.workers={workers}\n" in shown


def test_a_number_of_workers_may_be_set(submit):
    shown = submit("debug", "--set", "data.workers=3", srun='printf "%s\n" "$@"').stdout
    settings = re.findall(r"^data.workers=(\d+)$", shown, re.MULTILINE)
    assert settings == ["1", "3"]  # of which the last counts


def test_the_documented_sharded_training_is_one_that_the_recipe_allows():
    command = re.search(
        r"examples/train\.sbatch (merged30m .*(?:\n#.*)?)", FILE.read_text("utf-8")
    )[1]
    settings = re.findall(r"--set ([a-z.]+=[a-z0-9]+)\b", command)
    assert settings == ["parallel=fsdp", "compute.precision=bf16"]
    config = override(RECIPES["merged30m"](), [*settings, "data.shards=pipe:{0..127}"])
    check_config(config, world_size=16)


def test_a_recipe_must_be_named(submit):
    done = submit()
    assert done.returncode != 0
    assert "name a recipe" in done.stderr
