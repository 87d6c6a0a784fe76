"""Processes that resume together have the same state, whatever each of them can read."""

import pytest
from support import resuming
from support.processes import run_processes

pytestmark = pytest.mark.slow  # starts processes of its own


def test_a_snapshot_that_only_the_first_process_can_read_is_resumed_by_all(tmp_path, scene_shards):
    found = run_processes(resuming.one_cannot_read, 2, tmp_path / "run", scene_shards)
    assert found == [(2, True), (2, True)]


def test_other_weights_in_one_process_stop_all_before_the_first_step():
    first, second = run_processes(resuming.one_has_other_weights, 2)
    assert first == second
    assert first.startswith("processes would train different models: process 0 is at step 3 with ")
    assert "process 1 at step 3 with" in first


def test_processes_drop_different_patches():
    first, second = run_processes(resuming.dropped_patches, 2)
    assert first.shape == second.shape == (9,)  # the class token and half of 16
    assert not first.equal(second)


def test_processes_wait_for_each_other_as_long_as_the_timeout():
    first, _ = run_processes(resuming.late, 2, join=False)
    assert "1000ms" in first.replace(" ", "") or "imed out" in first
