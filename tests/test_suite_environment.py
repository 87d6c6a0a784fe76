"""The tests pass whatever the environment of whoever starts them says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOREIGN = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HOME": "/nowhere",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "3",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "TZ": "Asia/Tokyo",
    "LC_ALL": "de_DE.UTF-8",
    "PYTHONWARNINGS": "error::DeprecationWarning:cosmos_eval",
    "XDG_CACHE_HOME": "/proc/nothing",
}
# A hub that is fetched from, tables in a terminal, times, and caches of other libraries.
FILES = (
    "tests/eval/encoders/test_hub.py",
    "tests/eval/compare/test_groups_command.py",
    "tests/eval/classification/test_webdatasets_by_name.py",
    "tests/core/test_environment.py",
)


@pytest.mark.slow
def test_the_suite_sets_its_own_environment():
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(
        command, env={**os.environ, **FOREIGN}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 20
