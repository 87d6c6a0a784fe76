"""`cosmos-train --resume`: a run that was stopped or killed goes on to the same weights."""

import json
import random
import shutil
import signal
import time

import pytest
import torch
from safetensors import safe_open
from support.forked import Forked
from support.resuming import stay_before_the_checkpoint
from support.runs import (
    STEPS,
    TINY,
    assert_same_run,
    finish,
    start,
    wait_for_snapshot,
    wait_for_step,
)

pytestmark = pytest.mark.slow  # starts processes of its own

FOREIGN = 12345  # a process id in the name of another program's file


def copy_of(run, output):
    shutil.copytree(run, output)
    return output


def snapshots_of(output):
    return sorted((output / "snapshots").glob("*.pt"))


def state_of(output):
    """When every file and folder of a run was last changed."""
    return {path: path.stat().st_mtime_ns for path in output.rglob("*")}


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
    wait_for_snapshot(process, output)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(output, "--resume", "--set", "data.workers=2"))
    assert_same_run(output, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_good_order(tmp_path, reference, number):
    output = tmp_path / "run"
    words = ("--set", "save.every=100", "--set", "watch.pictures=true")
    process = start(output, "--set", "data.workers=1", *words)
    wait_for_step(process, output, 1)
    process.send_signal(number)
    started = time.monotonic()
    printed = finish(process)
    assert time.monotonic() - started < 30
    assert f"of {STEPS} steps; go on with: cosmos-train scenes_cosmos" in printed
    assert f"--output {output} --resume" in printed
    assert (output / "losses.png").exists()
    finish(start(output, "--resume", *words))
    assert_same_run(output, reference)


def test_a_full_disk_at_a_snapshot_ends_in_a_line_and_the_run_goes_on(tmp_path, reference):
    output = tmp_path / "run"
    process = start(output)
    wait_for_step(process, output, 1)
    wait_for_snapshot(process, output)
    process.limit_files(1_000_000)  # a snapshot has 28 MB
    printed = finish(process, status=1)
    last = printed.splitlines()[-1]
    assert "File too large; the snapshots are whole: when that is mended, go on by --resume" in last
    assert str(output) in last
    assert "Traceback" not in printed
    assert list(output.rglob(".*.tmp")) == []
    (output / "snapshots" / f".notes.{FOREIGN}.tmp").touch()
    finish(start(output, "--resume"))
    assert_same_run(output, reference)
    assert (output / "snapshots" / f".notes.{FOREIGN}.tmp").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def lose_optimizer(path):
    state = torch.load(path, weights_only=True)
    del state["optimizer"]
    torch.save(state, path)


@pytest.mark.parametrize(("damage", "reason"), [(cut, ""), (lose_optimizer, "lacks optimizer")])
def test_a_damaged_snapshot_is_passed_over(tmp_path, reference, damage, reason):
    output = copy_of(reference, tmp_path / "run")
    *_, before, newest = snapshots_of(output)
    damage(newest)
    printed = finish(start(output, "--resume"))
    assert f"{newest}: damaged, passed over ({reason}" in printed
    assert "Traceback" not in printed
    assert_same_run(output, reference)
    assert before.exists()


def put(part, content):
    """Return what replaces a part of the state in a snapshot."""

    def replace(state):
        state[part] = content

    return replace


def spoil_weights(state):
    state["teacher"]["visual.proj"][0, 0] = float("nan")


def spoil_moments(state):
    state["optimizer"]["state"][2]["exp_avg"].flatten()[0] = float("inf")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("student", {}), "cannot be resumed from (weights or optimizer: ValueError: "),
        (put("random", [{}]), "cannot be resumed from (random: "),
        (put("step", "x"), f"its step is 'x' and not {STEPS}; remove it, and its copy if sav"),
        (put("step", -1), f"its step is -1 and not {STEPS}"),
        (put("step", 10**9), f"its step is 1000000000 and not {STEPS}"),
        (put("step", float(STEPS)), f"its step is 6.0 and not {STEPS}"),
        (spoil_weights, "ValueError: teacher.visual.proj has values that are NaN or infinite"),
        (spoil_moments, "ValueError: optimizer.2.exp_avg has values that are NaN or infinite"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_in_a_line(tmp_path, reference, change, reason):
    output = copy_of(reference, tmp_path / "run")
    newest = snapshots_of(output)[-1]
    state = torch.load(newest, weights_only=True)
    change(state)
    torch.save(state, newest)
    before = state_of(output)
    printed = finish(start(output, "--resume"), status=2)
    assert printed.count("\n") == 1
    assert f"{newest}: " in printed
    assert reason in printed
    assert state_of(output) == before


def test_what_a_run_wrote_is_not_replaced_where_its_snapshots_are_gone(tmp_path, reference):
    output = copy_of(reference, tmp_path / "run")
    shutil.rmtree(output / "snapshots")
    before = state_of(output)
    printed = finish(start(output), status=2)
    assert f"{output} holds checkpoint.safetensors and log.jsonl of a run without a sna" in printed
    assert "choose another folder by --output" in printed
    assert state_of(output) == before


def test_refusals_take_one_line_and_no_work(tmp_path, reference):
    before = state_of(reference)
    for output, arguments, message in (
        (reference, [], f"holds a run of {STEPS} steps: go on with it by --resume"),
        (reference, ["--resume", "--set", "optim.lr=0.5"], "optim.lr is 0.001 there and 0.5 here"),
        (tmp_path / "none", ["--resume"], "no whole snapshot to resume from"),
    ):
        printed = finish(start(output, *arguments), status=2)
        assert printed.count("\n") == 1
        assert message in printed
    assert state_of(reference) == before


def test_a_run_beside_a_living_one_is_refused(tmp_path):
    output = tmp_path / "run"
    living = start(output, "--set", "optim.steps=100000", "--set", "save.every=1")
    wait_for_step(living, output, 1)
    for arguments in ([], ["--resume"], ["--resume", "auto"]):
        printed = finish(start(output, *arguments), status=2)
        assert printed.count("\n") == 1
        assert f"{output} is in use by a run: process {living.pid} on " in printed
    living.send_signal(signal.SIGKILL)
    living.communicate()


def test_resume_auto_starts_and_goes_on(tmp_path, reference):
    output = tmp_path / "run"
    process = start(output, "--resume", "auto", "--set", "save.every=100")
    wait_for_step(process, output, 1)
    process.send_signal(signal.SIGKILL)  # before its first snapshot
    process.communicate()
    process = start(output, "--resume", "auto")
    wait_for_step(process, output, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(output, "--resume", "auto"))
    assert_same_run(output, reference)


def kill_before_the_checkpoint(output, steps, copies=None):
    """Kill a run with the snapshot of these steps (and its copy) and the checkpoint before it."""
    marker = output.with_suffix(".snapshot")
    words = [*TINY, "--output", output]
    if copies is not None:
        words += ["--set", f"save.remote=file://{copies}"]
    process = Forked([marker, steps, *words], target=stay_before_the_checkpoint)
    wait_for_file(process, marker)
    if copies is not None:
        wait_for_file(process, copies / f"step-{steps:08d}" / "complete.json")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert steps_of_checkpoint(output) == steps - 1


def wait_for_file(process, path):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_of_checkpoint(output):
    with safe_open(output / "checkpoint.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["training"])["steps"]


def test_a_run_killed_between_its_last_snapshot_and_the_checkpoint_ends_with_its_weights(
    tmp_path, reference
):
    kill_before_the_checkpoint(tmp_path / "run", STEPS)
    finish(start(tmp_path / "run", "--resume"))
    assert_same_run(tmp_path / "run", reference)


def test_a_resumed_run_has_the_checkpoint_of_its_snapshot_before_its_first_step(tmp_path):
    output = tmp_path / "run"
    kill_before_the_checkpoint(output, 3)
    process = start(output, "--resume", "--set", "save.every=100")
    wait_for_step(process, output, 4)  # the killed run may have logged step 3, but not this one
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert steps_of_checkpoint(output) == 3


def test_the_checkpoint_of_a_fetched_snapshot_replaces_an_older_one(tmp_path, reference):
    output, copies = tmp_path / "run", tmp_path / "copies"
    kill_before_the_checkpoint(output, STEPS, copies)
    shutil.rmtree(output / "snapshots")
    finish(start(output, "--resume", "--set", f"save.remote=file://{copies}"))
    assert_same_run(output, reference)


def test_a_finished_run_has_nothing_left_to_do(reference):
    printed = finish(start(reference, "--resume"))
    assert str(reference / "checkpoint.safetensors") in printed
