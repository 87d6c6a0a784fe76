"""`cosmos-train --resume` under torchrun."""

import json
import os
import signal

import pytest
from safetensors.torch import load_file
from support.runs import STEPS, assert_same_run, finish, start, wait_for_step
from torch.distributed.run import get_args_parser

pytestmark = pytest.mark.slow  # starts processes of its own


def test_two_processes_stop_or_fail_and_go_on_together(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    printed = finish(start(whole, "--set", "watch.pictures=true", processes=2))
    assert printed.count("pictures: ") == 1
    assert {path.name for path in whole.glob("*.png")} == {"views.png", "losses.png"}
    process = start(stopped, processes=2)
    wait_for_step(process, stopped, 1)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to both
    _, printed = process.communicate(timeout=60)
    assert f"of {STEPS} steps; go on with" in printed
    assert process.returncode == 1  # torchrun's own, as docs/running.md says
    finish(start(stopped, "--resume", processes=2))
    assert_same_run(stopped, whole)
    restarted = tmp_path / "restarted"
    process = start(restarted, processes=2, launcher=["--max-restarts=1", "--shutdown-timeout=5"])
    wait_for_step(process, restarted, 1)
    os.kill(json.loads((restarted / "run.lock").read_text())["process"], signal.SIGKILL)
    finish(process)
    assert_same_run(restarted, whole)


def test_three_processes_go_on_to_nearly_the_same_weights(tmp_path):
    """A sum over three processes depends on its order, which DDP changes after its first step."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ("--set", "optim.batch_size=6", "--set", "compute.precision=fp32")
    finish(start(whole, *options, processes=3))
    process = start(stopped, *options, processes=3)
    wait_for_step(process, stopped, 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    finish(start(stopped, *options, "--resume", processes=3))
    weights = load_file(stopped / "checkpoint.safetensors")
    for name, expected in load_file(whole / "checkpoint.safetensors").items():
        assert (weights[name] - expected).abs().max() < 1e-4, name


@pytest.mark.skipif(
    "--signals-to-handle" not in get_args_parser()._option_string_actions,
    reason="this torchrun passes no other signals on",
)
def test_torchrun_passes_the_signal_of_slurm_jobs_on(tmp_path):
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    words = ("--set", "optim.steps=100000", "--set", "save.every=100000")
    process = start(tmp_path / "run", *words, processes=2, launcher=[signals])
    wait_for_step(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGUSR1)
    _, printed = process.communicate(timeout=150)
    assert "of 100000 steps; go on with" in printed
