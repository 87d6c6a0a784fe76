"""`cosmos-train --resume` under torchrun."""

import signal

import pytest
from support.runs import STEPS, assert_same_run, finish, start, wait_for_step

pytestmark = pytest.mark.slow  # starts processes of its own


def test_two_processes_stop_and_go_on_together(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    printed = finish(start(whole, processes=2))
    assert printed.count("pictures: ") == 1
    assert {path.name for path in whole.glob("*.png")} == {"views.png", "losses.png"}
    process = start(stopped, processes=2)
    wait_for_step(process, stopped, 1)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to both
    _, printed = process.communicate(timeout=60)
    assert f"of {STEPS} steps; go on with" in printed
    finish(start(stopped, "--resume", processes=2))
    assert_same_run(stopped, whole)
