"""A measurement killed at any moment goes on to the same files, one shard redone at most."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.killing import SHARD
from support.scene_files import write_scenes

pytestmark = pytest.mark.slow  # starts processes of its own

TESTS = Path(__file__).parents[2]
SCENES = 10
TRIALS = 50


def test_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    (data,) = write_scenes(tmp_path / "scenes", SCENES, "found")
    with open(data, "a") as file:
        file.write("captions_per_image: 2\n")
    command = [sys.executable, "-m", "support.killing", data, str(tmp_path / "trials")]
    done = subprocess.run(
        [*command, str(TRIALS), "0"], cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *trials, whole = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == TRIALS
    assert whole["in_all"] == {"image": SCENES, "text": 2 * SCENES}
    for trial in trials:
        # The name of the per-sample file holds the hash of its content.
        assert trial["files"] == whole["files"]
        for role, shard in SHARD.items():
            redone = trial["in_all"][role] - whole["in_all"][role]
            assert 0 <= redone <= shard
        if trial["finished"]:
            assert trial["killed_after"] == whole["in_all"]
    # The moments were spread over the whole measurement.
    reached = [sum(trial["killed_after"].values()) for trial in trials]
    assert min(reached) < SCENES < 2 * SCENES < max(reached)
