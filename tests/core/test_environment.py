"""Whose commit a result carries."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cosmos_core.utils.environment import CodeState, code_state, describe

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(root: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "cosmos_eval").mkdir()
    (tmp_path / "cosmos_eval" / "run.py").write_text("")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "cosmos-eval"\n')
    git(tmp_path, "init", "-q")
    return tmp_path


def test_a_checkout_of_this_project(checkout):
    assert code_state(checkout / "cosmos_eval") == CodeState(None, True)
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    assert code_state(checkout / "cosmos_eval") == CodeState(commit, False)
    (checkout / "results").mkdir()
    (checkout / "results" / "new.json").write_text("{}")
    assert code_state(checkout / "cosmos_eval") == CodeState(commit, False)
    (checkout / "cosmos_eval" / "run.py").write_text("edited = 1")
    assert code_state(checkout / "cosmos_eval") == CodeState(commit, True)


def test_an_installation_inside_somebody_elses_repository(checkout):
    site_packages = checkout / ".venv" / "site-packages" / "cosmos_eval"
    site_packages.mkdir(parents=True)
    assert code_state(site_packages) == CodeState(None, None)
    (checkout / "pyproject.toml").write_text('[project]\nname = "their-project"\n')
    assert code_state(checkout / "cosmos_eval") == CodeState(None, None)


def test_the_environment_names_the_packages_that_change_numbers():
    packages = describe("1")["packages"]
    assert packages["torch"]
    assert packages["mmsegmentation"]
