"""The action, the ready workflow and the baseline of this repository's own gate."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.models import store

from cosmos_eval.cli.app import main
from cosmos_eval.protocols.scenes import DEFAULT
from cosmos_eval.results.gate.baseline import baseline_samples, read_baseline

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "benchmarks" / "baselines" / "scenes.json"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
WORKFLOW = yaml.safe_load((ROOT / "docs" / "ci-workflow.yml").read_text("utf-8"))
STEPS: dict[str, dict[str, Any]] = {
    step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step
}


def test_the_action_is_a_composite_one_whose_inputs_exist():
    assert ACTION["runs"]["using"] == "composite"
    used = re.findall(r"\$\{\{ inputs\.([a-z-]+) \}\}", (ROOT / "action.yml").read_text("utf-8"))
    paths = re.findall(r"(?:ACTION_PATH|action_path \}\})/([\w.]+)", json.dumps(ACTION))
    assert paths == ["constraints.txt", "constraints.txt"]
    assert set(used) == set(ACTION["inputs"])
    for step in STEPS.values():
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]  # what an input holds must not become code


def test_the_workflow_uses_the_action_as_it_is():
    (job,) = WORKFLOW["jobs"].values()
    own = next(step for step in job["steps"] if step.get("uses") == "./")
    assert set(own["with"]) <= set(ACTION["inputs"])
    assert (ROOT / own["with"]["baseline"]) == BASELINE
    assert (ROOT / ACTION["inputs"]["baseline"]["default"]) == BASELINE
    # PyYAML reads the key `on` as YAML 1.1 does.
    assert set(WORKFLOW[True]) == {"pull_request", "push"}


@pytest.fixture
def shell(tmp_path):
    """Run a step of the action in an empty folder, where `cosmos-eval` is this one."""
    program = tmp_path / "bin" / "cosmos-eval"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cosmos_eval "$@"\n')
    program.chmod(0o755)

    def run(step: str, **variables: str) -> subprocess.CompletedProcess:
        own = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        }
        assert set(variables) == set(STEPS[step]["env"])
        # As runners start a step whose shell is bash.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[step]["run"]]
        return subprocess.run(
            command, env={**os.environ, **own, **variables}, cwd=tmp_path, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    return run


def test_the_step_that_measures(shell):
    arguments = "--model scenes-cosmos --dry-run"
    done = shell("Measure", ARGUMENTS=arguments, OUTPUT="some where", DATA_ROOT="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "scenes-seg" in done.stdout


def test_arguments_are_quoted_as_in_a_shell_and_nothing_is_expanded(shell, tmp_path):
    printed = "#!/bin/sh\nprintf '<%s>' \"$@\"\n"
    (tmp_path / "bin" / "cosmos-eval").write_text(printed)
    words = "--dataset 'my photos/set.yaml' --model \"$(date)\" *"
    done = shell("Measure", ARGUMENTS=words, OUTPUT="o u t", DATA_ROOT="my data")
    given = "<run><--dataset><my photos/set.yaml><--model><$(date)><*>"
    assert done.stdout == f"{given}<--data-root><my data><--output><o u t>"
    done = shell("Measure", ARGUMENTS="", OUTPUT="out", DATA_ROOT="")
    assert done.stdout == "<run><--output><out>"
    done = shell("Measure", ARGUMENTS="--model 'open", OUTPUT="out", DATA_ROOT="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No closing quotation" in done.stderr
    done = shell("Check", BASELINE="my base.json", OUTPUT="o u t", STRICT="true")
    assert (
        done.stdout
        == "<check><o u t><--baseline><my base.json><--junit><o u t/junit.xml><--strict>"
    )


@pytest.mark.parametrize(("skill", "status"), [(0.6, 0), (0.2, 1)])
def test_the_step_that_checks(shell, tmp_path, skill, status):
    store(tmp_path / "old")
    store(tmp_path / "new results", skill=skill)
    update = ["--update", "--reason", "a test"]
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path / "old"), "--baseline", str(tmp_path / "base.json"), *update])
    done = shell("Check", BASELINE="base.json", OUTPUT="new results", STRICT="false")
    assert done.returncode == status, done.stderr
    assert ("::error " if status else "::notice ") in done.stderr
    assert (tmp_path / "new results" / "junit.xml").is_file()
    assert "cosmos-eval check" in (tmp_path / "summary.md").read_text()


def test_this_repositorys_baseline_is_whole_and_small():
    baseline = read_baseline(BASELINE)
    assert {entry.key for entry in baseline.results} == {
        ("scenes-cosmos", dataset, "scenes") for dataset in DEFAULT
    }
    files = [BASELINE, *BASELINE.with_suffix("").iterdir()]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert len(files) == 1 + len(baseline.results)
    for entry in baseline.results:
        assert baseline_samples(BASELINE, entry)


def test_the_own_gate_is_run():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert 'cosmos-eval" check runs/eval/scenes-cosmos__*.json' in script
    assert "benchmarks/baselines/scenes.json" in script


@pytest.mark.slow
def test_the_build_of_the_documentation_fails_for_links_to_nowhere_alone(tmp_path):
    pytest.importorskip("mkdocs")
    command = re.search(r"mkdocs build (.*)", (ROOT / ".ci" / "full").read_text("utf-8"))[1]
    options = command.replace('"$work/site"', str(tmp_path / "site")).split()
    for name in ("docs", "cosmos_eval", "benchmarks", "examples", "results", "tests"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.npz", "*.pyc")
        )
    for name in ("mkdocs.yml", "action.yml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    with open(tmp_path / "docs" / "probe.md", "a", encoding="utf-8") as page:
        page.write("[a page](no-such-page.md) [a heading](limits.md#no-such-heading)")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *options],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    first, second = (line for line in done.stderr.splitlines() if line.startswith("WARNING"))
    assert "no-such-page.md" in first
    assert "no-such-heading" in second
