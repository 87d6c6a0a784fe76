"""`cosmos-train --resume`: a run that was stopped or killed goes on to the same weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

STEPS = 6
TINY = [
    "scenes_cosmos",
    *("--set", "data.shards=scenes:24"),
    *("--set", "data.workers=0"),
    *("--set", "optim.batch_size=4"),
    *("--set", f"optim.steps={STEPS}"),
    *("--set", "optim.warmup_steps=2"),
    *("--set", "save.every=1"),
    *("--set", "watch.log_every=1"),
]


def start(output, *arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "cosmos_core.train"]
    return subprocess.Popen(
        [*command, *TINY, "--output", str(output), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=150)
    assert process.returncode == status, err
    return out + err


def wait_for_step(process, output, step):
    """Until the log has this step's line."""
    deadline = time.monotonic() + 120
    while not any(record["step"] >= step for record in log(output)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def log(output):
    path = output / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def reproducible(output):
    """The log without what a clock measured."""
    return [{k: v for k, v in record.items() if k != "timing"} for record in log(output)]


def assert_same_run(output, reference):
    ours, theirs = (load_file(folder / "checkpoint.safetensors") for folder in (output, reference))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []
    assert reproducible(output) == reproducible(reference)
    assert [record["step"] for record in log(output)] == list(range(STEPS))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("reference") / "run"
    finish(start(output))
    return output


def test_a_killed_run_goes_on_bitwise_with_other_workers(tmp_path, reference):
    output = tmp_path / "run"
    process = start(output)
    wait_for_step(process, output, random.randrange(1, STEPS - 1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(output, "--resume", "--set", "data.workers=2"))
    assert_same_run(output, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_good_order(tmp_path, reference, number):
    output = tmp_path / "run"
    process = start(output, "--set", "data.workers=1", "--set", "save.every=100")
    wait_for_step(process, output, 1)
    process.send_signal(number)
    started = time.monotonic()
    said = finish(process)
    assert time.monotonic() - started < 30
    assert f"of {STEPS} steps; go on with: cosmos-train scenes_cosmos" in said
    assert f"--output {output} --resume" in said
    finish(start(output, "--resume", "--set", "save.every=100"))
    assert_same_run(output, reference)


def test_a_cut_snapshot_is_passed_over(tmp_path, reference):
    output = tmp_path / "run"
    process = start(output, "--set", "save.keep=10")
    wait_for_step(process, output, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    newest = max((output / "snapshots").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    said = finish(start(output, "--resume"))
    assert f"{newest}: damaged, passed over" in said
    assert_same_run(output, reference)


def test_refusals_take_one_line_and_no_work(tmp_path, reference):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*")}
    for output, arguments, message in (
        (reference, [], f"holds a run of {STEPS} steps: go on with it by --resume"),
        (reference, ["--resume", "--set", "optim.lr=0.5"], "optim.lr is 0.001 there and 0.5 here"),
        (tmp_path / "none", ["--resume"], "no whole snapshot to resume from"),
    ):
        said = finish(start(output, *arguments), status=2)
        assert said.count("\n") == 1
        assert message in said
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*")} == before


def test_a_finished_run_has_nothing_left_to_do(reference):
    said = finish(start(reference, "--resume"))
    assert str(reference / "checkpoint.safetensors") in said


def test_two_processes_stop_and_go_on_together(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(whole, processes=2))
    process = start(stopped, processes=2)
    wait_for_step(process, stopped, 1)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to both
    _, said = process.communicate(timeout=60)
    assert f"of {STEPS} steps; go on with" in said
    finish(start(stopped, "--resume", processes=2))
    assert_same_run(stopped, whole)
