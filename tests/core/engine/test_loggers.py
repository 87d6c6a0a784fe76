"""Copies of the log for other programs, written by those programs' own packages."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import log as read_log

TESTS = Path(__file__).parents[2]
HEADER, BLOCK = 7, 32768  # bytes, of LevelDB's log format, in which W&B writes

RUN = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.watching import TERMS, Watch, World, watch_config
config = watch_config(steps=6, log_every=2)
config = replace(config, watch=replace(config.watch, loggers=("wandb",)))
first = int(sys.argv[3])
with Watch(config, Path(sys.argv[1]), World(), first_step=first) as watch:
    for step in range(first, first + 3):
        watch.show_step(step, {**TERMS, "clip": 2.5 - step / 8})
    watch.show_evaluation(first + 2, {"cats/teacher/acc1": 0.5})
    assert first == 0, "a failure"
"""


def run_offline(output, first_step):
    variables = {"WANDB_MODE": "offline", "WANDB_PROJECT": "cats", "WANDB_SILENT": "true"}
    words = [sys.executable, "-c", RUN, str(output), str(TESTS), str(first_step)]
    return subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True)


def records(path):
    """The records of an offline run: whole ones, and parts (first, middle, last) joined."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
        length, kind = struct.unpack("<HB", content[position + 4 : position + HEADER])
        position += HEADER + length
        whole += content[position - length : position]
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def history(path):
    return [
        {".".join(item.nested_key) or item.key: item.value_json for item in one.history.item}
        for one in records(path)
        if one.HasField("history")
    ]


@pytest.mark.slow
def test_an_offline_run_of_wandb_has_the_numbers_of_the_log_and_goes_on(tmp_path):
    done = run_offline(tmp_path, 0)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows, log = history(path), read_log(tmp_path)
    steps = [record for record in log if "evaluation" not in record]
    assert [row["_step"] for row in rows] == ["0", "2"]
    for row, record in zip(rows, steps, strict=True):
        assert float(row["train/clip"]) == record["clip"]
        assert float(row["timing/data_wait"]) == record["timing"]["data_wait"]
    assert rows[-1]["evaluation/cats/teacher/acc1"] == "0.5"
    (run,) = [one.run for one in records(path) if one.HasField("run")]
    assert (run.project, run.run_id) == ("cats", (tmp_path / "wandb" / "id").read_text())
    assert '"batch_size":32' in next(i.value_json for i in run.config.update if i.key == "optim")
    assert [one.exit.exit_code for one in records(path) if one.HasField("exit")] == [0]

    failed = run_offline(tmp_path, 3)
    assert failed.returncode == 1
    resumed = [one for one in tmp_path.glob("wandb/offline-run-*/run-*.wandb") if one != path]
    (second,) = resumed
    assert second.name == path.name  # one id
    assert [row["_step"] for row in history(second)] == ["4", "5"]
    assert [one.exit.exit_code for one in records(second) if one.HasField("exit")] == [1]


@pytest.mark.slow
def test_wandb_that_cannot_start_is_a_line_before_the_first_step(tmp_path):
    script = RUN.replace("with Watch", "from wandb.errors import UsageError\nwith Watch")
    variables = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "WANDB_CONFIG_DIR": str(tmp_path)}
    environment = {**os.environ, **variables, "HOME": str(tmp_path)}
    words = [sys.executable, "-c", script, str(tmp_path), str(TESTS), "0"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines()[-1].startswith("ValueError: W&B cannot start (UsageError: ")
    assert "WANDB_MODE=offline" in done.stderr
    assert not (tmp_path / "log.jsonl").exists()
