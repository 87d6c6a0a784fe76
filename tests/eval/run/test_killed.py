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
    completed = subprocess.run(
        [*command, str(TRIALS), "0"], cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    *trials, uninterrupted = [json.loads(line) for line in completed.stdout.splitlines()]
    assert len(trials) == TRIALS
    assert uninterrupted["in_all"] == {"image": SCENES, "text": 2 * SCENES}
    for trial in trials:
        # The name of the per-sample file holds the hash of its content.
        assert trial["files"] == uninterrupted["files"]
        for role, shard_size in SHARD.items():
            n_encoded_twice = trial["in_all"][role] - uninterrupted["in_all"][role]
            assert 0 <= n_encoded_twice <= shard_size
        if trial["finished"]:
            assert trial["killed_after"] == uninterrupted["in_all"]
    # The moments were spread over the whole measurement.
    n_encoded_when_killed = [sum(trial["killed_after"].values()) for trial in trials]
    assert min(n_encoded_when_killed) < SCENES
    assert max(n_encoded_when_killed) > 2 * SCENES
