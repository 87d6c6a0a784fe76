"""Several processes: the first prints and writes what all have measured; a dead one ends all."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from support import forked
from support.encoders import CHECKPOINT, CONFIG
from support.measuring import measure, measure_together
from support.processes import run_processes
from support.scene_files import write_scenes

import cosmos_eval.__main__
from cosmos_core.utils.distributed import SINGLE_PROCESS
from cosmos_eval.cli.app import main

pytestmark = pytest.mark.slow  # starts processes of its own

PROGRAM = cosmos_eval.__main__.__file__
MODEL = ["--model", f"cosmos:{CHECKPOINT}", "--arch", str(CONFIG)]
SCENES = 37  # more than a batch, and than a shard
TASKS = ("found", "named", "segmented", "chosen", "looked-at")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks on few scenes, as a user's files."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, SCENES, *TASKS)
    return folder


def command(data: Path, output: Path, *names: str) -> list[str]:
    datasets = [word for name in names for word in ("--dataset", str(data / f"{name}.yaml"))]
    return ["run", *MODEL, *datasets, "--device", "cpu", "--output", str(output), "--no-cache"]


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_the_same_files(size, data, alone, tmp_path):
    metrics, files, hashes = alone
    metrics_of_processes = run_processes(
        measure_together, size, *arguments(data, tmp_path), join=False
    )
    assert metrics_of_processes == [metrics] * size
    # The name of a per-sample file holds the hash of its content.
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert hashes_in(tmp_path) == hashes


@pytest.fixture(scope="module")
def alone(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict], list[str], dict]:
    output = tmp_path_factory.mktemp("alone")
    metrics = measure(SINGLE_PROCESS, *arguments(data, output))
    return metrics, sorted(path.name for path in output.iterdir()), hashes_in(output)


def hashes_in(output: Path) -> dict[str, dict[str, str]]:
    """Return the hashes of what was measured by the names of the results."""
    records = {path.name: json.loads(path.read_text()) for path in output.glob("*.json")}
    return {name: record["provenance"]["hashes"] for name, record in records.items()}


def arguments(data: Path, output: Path) -> tuple[list[str], str, str, str]:
    datasets = [str(data / f"{name}.yaml") for name in TASKS]
    return datasets, str(CHECKPOINT), str(CONFIG), str(output)


def torchrun(processes: int, program: list[str]) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [f"--nproc-per-node={processes}", *program], timeout=300, target=forked.torchrun
    )


def test_two_processes_write_what_one_writes(data, tmp_path, capsys):
    names = ["named", "found"]
    done = torchrun(2, [PROGRAM, *command(data, tmp_path / "two", *names), "--json"])
    assert done.returncode == 0, done.stderr
    printed = {row["dataset"]: row for row in json.loads(done.stdout)}
    assert list(printed) == names
    assert done.stderr.count("wrote ") == 2
    with pytest.raises(SystemExit) as ended:
        main([*command(data, tmp_path / "one", *names), "--json"])
    assert not ended.value.code
    for row in json.loads(capsys.readouterr().out):
        two = printed[row["dataset"]]
        assert two["provenance"]["hashes"] == row["provenance"]["hashes"]
        # The name of a per-sample file holds the hash of its content.
        assert [two[name] for name in ("metrics", "samples")] == [row["metrics"], row["samples"]]


def test_an_error_in_one_process_ends_all_with_one_line(data, tmp_path):
    images = sorted((data / "folder/test").rglob("*.*"))
    broken = next(path for path in reversed(images) if path.is_file())
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    try:
        done = torchrun(2, [PROGRAM, *command(data, tmp_path / "out", "named")])
    finally:
        broken.write_bytes(content)
    ours = [line for line in done.stderr.splitlines() if line.startswith("cosmos-eval:")]
    assert len(ours) == 1
    assert f"cannot decode image {broken}" in ours[0]
    assert done.returncode != 0
    assert "exitcode  : 2 " in done.stderr  # torchrun, which ends with 1, prints our status
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


# Runs the command as a process of torchrun; the second one dies when it has encoded a batch.
DYING = """
import os, signal, sys
from cosmos_eval.cli.app import main
from cosmos_eval.models.clip import ClipEncoder

encode = ClipEncoder.encode_image

def dying(encoder, images):
    features = encode(encoder, images)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return features

ClipEncoder.encode_image = dying
main(sys.argv[1:])
"""


def test_a_dead_process_ends_all_within_a_minute(data, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    started = time.monotonic()
    done = torchrun(3, [str(script), *command(data, tmp_path / "out", "named")])
    assert time.monotonic() - started < 60
    assert done.returncode != 0
    # torchrun names the process whose end it saw first: the killed one, or one of the others, which
    # end as soon as their connection to it is closed.
    killed = "Signal 9 (SIGKILL) received by PID" in done.stderr
    disconnected = "cosmos-eval: another process of this run has ended" in done.stderr
    assert killed or disconnected, done.stderr
    assert not list((tmp_path / "out").glob("*.json"))


# A process of torchrun, of which the second one dies. The first one writes the error that it gets.
LEFT_ALONE = """
import os, signal, sys
from pathlib import Path
from cosmos_core.utils.distributed import LostProcessError, process_group

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the first process with it
with process_group() as distributed:
    distributed.gather("both are there")
    if distributed.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        distributed.gather("one is there")
    except LostProcessError as error:
        Path(sys.argv[1]).write_text(str(error))
"""


def test_the_end_of_another_process_is_named(tmp_path):
    script = tmp_path / "left_alone.py"
    script.write_text(LEFT_ALONE)
    torchrun(2, [str(script), str(tmp_path / "error.txt")])
    assert "another process of this run has ended" in (tmp_path / "error.txt").read_text()
