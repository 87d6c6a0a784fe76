"""The head of a Ray cluster is killed while a job runs: the command ends with one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.fuzzed_images import MODEL, measure, prepare_images

pytestmark = pytest.mark.slow  # starts processes of its own

# A model that says that it is being loaded, and then takes longer than any test.
SLOW_MODEL = """
import time
from pathlib import Path

def load(device, precision):
    Path({started!r}).touch()
    time.sleep(3600)
"""


def test_a_killed_head_ends_with_one_line(tmp_path: Path):
    prepare_images(tmp_path)
    started = tmp_path / "started"
    (tmp_path / "model.py").write_text(MODEL + SLOW_MODEL.format(started=str(started)))
    command = [
        *(sys.executable, "-m", "cosmos_eval", *measure("set.yaml", tmp_path)),
        *("--executor", "ray"),
    ]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while not started.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        (head,) = (pid for pid in children(process.pid) if "gcs_server" in command_of(pid))
        os.kill(head, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    (line,) = (text for text in errors.splitlines() if text.startswith("cosmos-eval: "))
    assert "the head of the cluster at " in line
    assert "Traceback" not in errors
    assert process.returncode == 1


def children(parent: int) -> list[int]:
    """Return the children of all threads of a process, as Linux lists them."""
    files = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
