"""The log of a run as Weights & Biases has it, read back from the file of an offline run."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import log as read_log

TESTS = Path(__file__).parents[2]
# Sizes in bytes in the log format of LevelDB, in which W&B writes: a file is divided into blocks,
# and each block into records with a header, which has the length and the kind of the record. A file
# of W&B begins with a header of its own, which is as long.
HEADER, BLOCK = 7, 32768
WHOLE_RECORD, LAST_PIECE = 1, 4  # kinds of records; the others are the first and middle pieces

PROGRAM = """
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
    """Log three steps offline; the program fails at its end if the first step is not 0."""
    variables = {"WANDB_MODE": "offline", "WANDB_PROJECT": "cats", "WANDB_SILENT": "true"}
    command = [sys.executable, "-c", PROGRAM, str(output), str(TESTS), str(first_step)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def records_with(field, path):
    """Return this field of all records of an offline run that have it."""
    return [getattr(record, field) for record in read_records(path) if record.HasField(field)]


def read_records(path):
    """Yield the records of an offline run; the pieces of a divided one are joined."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, data = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(content):
        left_in_block = BLOCK - position % BLOCK
        if left_in_block < HEADER:  # the end of a block is not used if no header fits
            position += left_in_block
        # A header is a checksum of four bytes, the length and the kind.
        length, kind = struct.unpack("<HB", content[position + 4 : position + HEADER])
        position += HEADER
        data += content[position : position + length]
        position += length
        if kind in (WHOLE_RECORD, LAST_PIECE):
            yield Record.FromString(data)
            data = b""


def read_history(path):
    """Return the rows of an offline run: name of a value -> the value as JSON."""
    rows = []
    for history in records_with("history", path):
        rows.append(
            {".".join(item.nested_key) or item.key: item.value_json for item in history.item}
        )
    return rows


@pytest.mark.slow
def test_an_offline_run_of_wandb_has_the_values_of_the_log_and_is_continued(tmp_path):
    finished = run_offline(tmp_path, 0)
    assert finished.returncode == 0, finished.stderr
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows = read_history(path)
    logged_steps = [record for record in read_log(tmp_path) if "evaluation" not in record]
    assert [row["_step"] for row in rows] == ["0", "2"]
    for row, logged_step in zip(rows, logged_steps, strict=True):
        assert float(row["train/clip"]) == logged_step["clip"]
        assert float(row["timing/data_wait"]) == logged_step["timing"]["data_wait"]
    assert rows[-1]["evaluation/cats/teacher/acc1"] == "0.5"
    (run,) = records_with("run", path)
    assert (run.project, run.run_id) == ("cats", (tmp_path / "wandb" / "id").read_text())
    config = {item.key: item.value_json for item in run.config.update}
    assert '"batch_size":32' in config["optim"]
    assert [record.exit_code for record in records_with("exit", path)] == [0]

    failed = run_offline(tmp_path, 3)
    assert failed.returncode == 1
    paths = set(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    (second_path,) = paths - {path}
    assert second_path.name == path.name  # the name has the id of the run
    assert [row["_step"] for row in read_history(second_path)] == ["4", "5"]
    assert [record.exit_code for record in records_with("exit", second_path)] == [1]


@pytest.mark.slow
def test_wandb_that_cannot_start_is_a_line_before_the_first_step(tmp_path):
    program = PROGRAM.replace("with Watch", "from wandb.errors import UsageError\nwith Watch")
    variables = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "WANDB_CONFIG_DIR": str(tmp_path)}
    environment = {**os.environ, **variables, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, str(tmp_path), str(TESTS), "0"]
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert failed.stderr.splitlines()[-1].startswith("ValueError: W&B cannot start (UsageError: ")
    assert "WANDB_MODE=offline" in failed.stderr
    assert not (tmp_path / "log.jsonl").exists()
