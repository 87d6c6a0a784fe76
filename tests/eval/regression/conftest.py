"""A baseline and results, made once and copied for each test."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.bench import Bench
from support.models import make_result, store

from cosmos_eval.results.gate.baseline import replace_baseline
from cosmos_eval.results.verify import VerifiedResult

# Checks of other tasks resample their metrics, which takes most of a check's time.
TASKS: Sequence[str] = ("cls", "seg")


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    results = [VerifiedResult(store(folder / "new", task), *make_result(task)) for task in TASKS]
    replace_baseline(folder / "base" / "line.json", results, [], reason="the first one")
    return folder


@pytest.fixture
def bench(original: Path, tmp_path: Path) -> Bench:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return Bench(tmp_path / "base" / "line.json", tmp_path / "new")
