"""Processes that resume together have the same state, whatever each of them can read."""

import os
import platform
import signal

import pytest
from support import resuming
from support.processes import run_processes
from support.runs import finish, shard_settings, start_ranks, wait_for_step
from support.shards import write_shards
from support.training import SINGLE_PROCESS

pytestmark = pytest.mark.slow  # starts processes of its own


def test_a_snapshot_that_only_the_first_process_can_read_is_resumed_by_all(tmp_path, scene_shards):
    results = run_processes(resuming.one_cannot_read, 2, tmp_path / "run", scene_shards)
    assert results == [(2, True), (2, True)]


def test_other_weights_in_one_process_stop_all_before_the_first_step():
    first, second = run_processes(resuming.one_has_other_weights, 2)
    assert first == second
    assert first.startswith("processes would train different models: process 0 is at step 3 with ")
    assert "process 1 at step 3 with" in first


def test_processes_drop_different_patches():
    first, second = run_processes(resuming.dropped_patches, 2)
    assert first.shape == second.shape == (9,)  # the class token and half of 16
    assert not first.equal(second)


def test_a_process_that_is_new_in_a_resumed_run_drops_other_patches(tmp_path, scene_shards):
    resuming.train(SINGLE_PROCESS, tmp_path, scene_shards)
    first, second = run_processes(resuming.draw_after_resuming, 2, tmp_path)
    assert not first.equal(second)


def test_a_gradient_divided_by_the_processes_goes_on_with_as_many(tmp_path, scene_shards):
    published = "optim.gradient=published"
    resuming.train(SINGLE_PROCESS, tmp_path, scene_shards, published)
    assert resuming.refusal_of_resuming(SINGLE_PROCESS, tmp_path, published) == ""
    for refusal in run_processes(resuming.refusal_of_resuming, 2, tmp_path, published):
        assert "by the number of processes, which was 1 and is 2; start 1" in refusal


def test_a_process_that_others_wait_for_until_the_timeout_is_named():
    first, _ = run_processes(resuming.late, 2, join=False)
    assert first == (
        f"rank 1 on {platform.node()} does not come to the exchange that the others wait in "
        "(compute.timeout: 1 s)"
    )


def test_with_nccl_it_is_named_before_the_timeout_ends_the_process():
    (line,), other_lines = run_processes(resuming.reported, 2)
    assert line.startswith(f"rank 1 on {platform.node()} does not come to the exchange")
    assert other_lines == []


def test_a_stopped_process_is_named_in_a_line(tmp_path):
    words = ["--set", "optim.steps=100000", "--set", "compute.timeout=30"]
    running, stopped = start_ranks(tmp_path / "run", *words)
    wait_for_step(running, tmp_path / "run", 1)
    stopped.send_signal(signal.SIGSTOP)
    printed = finish(running, status=1)
    stopped.send_signal(signal.SIGKILL)
    assert f"rank 1 on {platform.node()} does not answer: it or its machine has stopped" in printed
    assert "Traceback" not in printed


def test_a_process_that_waits_for_its_data_is_named_in_a_line(tmp_path):
    write_shards(tmp_path / "0", [16])
    (tmp_path / "1").mkdir()
    os.mkfifo(tmp_path / "1" / "0.tar")
    words = shard_settings(f"pipe:cat {tmp_path}/${{RANK}}/0.tar")
    spec = [*words, "--set", "data.weights=1", "--set", "compute.timeout=30"]
    running, waiting = start_ranks(tmp_path / "run", *spec)
    printed = finish(running, status=1)
    waiting.send_signal(signal.SIGKILL)
    assert f"rank 1 on {platform.node()} does not come to the exchange" in printed
