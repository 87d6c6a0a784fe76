"""`cosmos-train` as it is run: a tiny training from nothing to a checkpoint that loads."""

import json
import signal
import subprocess
import sys
import time

import pytest
from support import forked

import cosmos_core

TINY = [
    *("--set", "data.shards=scenes:24"),
    *("--set", "data.workers=0"),
    *("--set", "optim.batch_size=8"),
    *("--set", "watch.log_every=1"),
]


def command(*arguments):
    return [sys.executable, "-m", "cosmos_core.train", *arguments]


def train(*arguments):
    return forked.run(arguments, timeout=120)


@pytest.mark.parametrize("recipe", ["scenes_cosmos", "scenes_clip"])
def test_trains_logs_and_saves(tmp_path, recipe):
    done = train(recipe, *TINY, "--set", "optim.steps=3", "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "run" / "checkpoint.safetensors")
    assert "3/3" in done.stderr
    assert "images/s" in done.stderr
    assert f"pictures: {tmp_path}/run/views.png shows the first batch" in done.stderr
    assert (tmp_path / "run" / "losses.png").exists()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [0, 1, 2]
    assert (log[0]["distill"] > 0) == (recipe == "scenes_cosmos")
    for weights in ("teacher", "student"):
        model = cosmos_core.load_model(done.stdout.strip(), weights=weights)
        assert isinstance(model, cosmos_core.Cosmos) == (recipe == "scenes_cosmos")


def test_the_same_seed_gives_the_same_losses(tmp_path):
    logs = []
    for name in ("first", "second"):
        done = train("scenes_cosmos", *TINY, "--set", "optim.steps=2", "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([{**json.loads(line), "timing": None} for line in lines])
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes_cosmo"], "unknown recipe 'scenes_cosmo'; nearest: scenes_cosmos, "),
        (["scenes_clip", "--set", "optim.step=1"], "no 'step'; nearest: steps"),
    ],
)
def test_usage_errors_are_one_line(tmp_path, arguments, message):
    done = train(*arguments, "--output", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_matplotlib_waits_for_the_first_picture():
    """It takes half a second, which `--help` can do without."""
    program = "import sys, cosmos_core.train; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_killed_run_leaves_a_whole_checkpoint_or_none(tmp_path):
    arguments = ["scenes_clip", *TINY, "--set", "optim.steps=100000", "--set", "save.every=1"]
    process = subprocess.Popen(
        command(*arguments, "--output", str(tmp_path)), stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / "checkpoint.safetensors"
    deadline = time.monotonic() + 90
    while not checkpoint.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cosmos_core.load_model(checkpoint)
