"""`cosmos-train --resume`: a run that was stopped or killed goes on to the same weights."""

import random
import signal
import time

import pytest
from support.runs import STEPS, assert_same_run, finish, start, wait_for_step


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
    assert (output / "losses.png").exists()
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
