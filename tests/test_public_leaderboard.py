"""The example of a public leaderboard: the workflow's steps, run on pull requests to a copy."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from support.html import Page
from support.models import store

from cosmos_eval.results.store import read_result, read_samples, store_result

pytestmark = pytest.mark.slow  # git and several commands per pull request

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "public-leaderboard"
WORKFLOW_FILE = EXAMPLE / ".github" / "workflows" / "leaderboard.yml"
WORKFLOW = yaml.safe_load(WORKFLOW_FILE.read_text("utf-8"))
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
RESULT = "scenes-cosmos__scenes-cls-small__scenes.json"
LAB_A, LAB_B = f"results/lab-a/{RESULT}", f"results/lab-b/{RESULT}"
HUB_SET = {"repository": "labs/cars", "revision": "1" * 40}

Change = Callable[[Path], object]
"""What a pull request changes in the folder of the repository."""


class Ended(NamedTuple):
    """The end of a workflow: the status of its last step, and what its steps printed."""

    status: int
    output: str

    @property
    def problems(self) -> list[str]:
        """The lines of `verify` without those on verified results and the count."""
        lines = self.output.splitlines()
        return [line for line in lines if not re.search(r": verified, |^\d+ results: ", line)]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A Lab", "-c", "user.email=lab@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def steps_of_the_action(event: str) -> list[tuple[str, dict[str, str]]]:
    """The commands of the steps that the workflow runs after the installation, and their variables.

    The few expressions of both files are replaced as GitHub does it for the event.
    """
    use = next(s for s in WORKFLOW["jobs"]["verify"]["steps"] if "OWNER/" in s.get("uses", ""))
    inputs = {name: value["default"] for name, value in ACTION["inputs"].items()} | use["with"]
    values = {f"${{{{ inputs.{name} }}}}": value for name, value in inputs.items()}
    accepted = "${{ github.event_name == 'pull_request' && 'HEAD^1' || '' }}"
    values[accepted] = "HEAD^1" if event == "pull_request" else ""
    conditions = {"inputs.results == ''": False, "inputs.results != ''": True}
    steps = []
    for step in ACTION["runs"]["steps"]:
        if "if" in step and conditions[step["if"]]:
            variables = {name: values[text] for name, text in step["env"].items()}
            steps.append((step["run"], variables))
    return steps


@pytest.fixture
def workflow(tmp_path: Path) -> Callable[..., Ended]:
    """Merge a change into a copy of the example as a pull request, and run the workflow's steps."""
    program = tmp_path / "bin" / "cosmos-eval"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cosmos_eval "$@"\n')
    program.chmod(0o755)
    repository = tmp_path / "repository"
    shutil.copytree(EXAMPLE, repository)
    store(repository / "results" / "lab-a", dataset="wds/cars", provenance=HUB_SET)
    git(repository, "init", "--initial-branch=main")
    git(repository, "add", "--all")
    git(repository, "commit", "--message=The example")

    def run(change: Change, event: str = "pull_request") -> Ended:
        git(repository, "checkout", "-b", "proposal")
        change(repository)
        git(repository, "add", "--all")
        git(repository, "commit", "--allow-empty", "--message=A proposal")
        git(repository, "checkout", "main")
        git(repository, "merge", "--no-ff", "proposal")
        environment = {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "OMP_NUM_THREADS": "1",
        }
        output = ""
        for script, variables in steps_of_the_action(event):
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
            done = subprocess.run(
                command, env=environment | variables, cwd=repository, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            output += done.stdout
            if done.returncode != 0:
                return Ended(done.returncode, output)
        return Ended(0, output)

    return run


def lab_c(**changes: Any) -> Change:
    """Add lab-a's result as lab-c's, with other fields of the provenance, or other hashes."""

    def change(repository: Path) -> None:
        path = repository / LAB_A
        row = read_result(path)
        provenance = {**row.provenance, "hashes": dict(row.provenance["hashes"])}
        for name, value in changes.items():
            is_hash = name in provenance["hashes"]
            (provenance["hashes"] if is_hash else provenance)[name] = value
        new_row = dataclasses.replace(row, provenance=provenance)
        store_result(repository / "results" / "lab-c", new_row, read_samples(path))

    return change


def edit_metric(repository: Path) -> None:
    lab_c()(repository)
    path = repository / "results" / "lab-c" / RESULT
    record = json.loads(path.read_text())
    record["metrics"]["acc1"] = 0.99
    path.write_text(json.dumps(record))


def test_a_good_pull_request_is_rendered(workflow, tmp_path):
    ended = workflow(lab_c())
    assert ended.status == 0, ended.output
    # Only the new result is verified.
    assert re.findall(r"^(\S+): verified", ended.output, re.MULTILINE) == [
        f"results/lab-c/{RESULT}"
    ]
    pages = tmp_path / "repository" / "site"
    assert {path.name for path in pages.iterdir()} == {
        "index.html", "leaderboard.html", "leaderboard.json"
    }  # fmt: skip
    labs = json.loads((pages / "leaderboard.json").read_text("utf-8"))["labs"]
    assert [(r["first_lab"], r["lab"], r["agreement"]) for r in labs] == [
        ("lab-a", "lab-c", "equal samples"),
        ("lab-a", "lab-b", "within rounding"),
    ]
    for name in ("index.html", "leaderboard.html"):
        page = Page((pages / name).read_text("utf-8"))
        assert "within rounding" in [element.text for element in page.all("td")]
    assert "| within rounding |" in (tmp_path / "summary.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "status", "line"),
    [
        (edit_metric, 1, "edited metric acc1: 0.99, its samples give 0.942"),
        (
            lab_c(content="e" * 64),
            1,
            r"unlike \S+: hashes.content \(images, label maps and labels that were measured\) is "
            "eeeeeeeeeeee and [0-9a-f]{12} there",
        ),
    ],
)
def test_results_that_are_refused(workflow, change, status, line):
    ended = workflow(change)
    assert ended.status == status, ended.output
    (problem,) = ended.problems
    assert re.fullmatch(rf"results/lab-c/{RESULT}: {line}", problem)


def test_another_precision_is_refused(workflow):
    ended = workflow(lab_c(precision="bf16"))
    name = RESULT.replace(".json", "__bf16.json")
    (problem,) = ended.problems
    assert ended.status == 1
    assert re.fullmatch(
        rf"results/lab-c/{name}: unlike \S+{RESULT}: precision is bf16 and fp32 there", problem
    )


def test_another_revision_is_refused(workflow):
    def change(repository: Path) -> None:
        other = HUB_SET | {"revision": "2" * 40}
        folder = repository / "results" / "lab-c"
        store(folder, dataset="wds/cars", provenance=other, skill=0.5)

    ended = workflow(change)
    (problem,) = ended.problems
    assert ended.status == 1
    assert problem.endswith("__scenes.json: revision is 222222222222 and 111111111111 there")


def test_a_data_set_without_an_accepted_result_is_refused(workflow):
    def change(repository: Path) -> None:
        store(repository / "results" / "lab-c", dataset="new")

    ended = workflow(change)
    (problem,) = ended.problems
    assert ended.status == 2
    assert problem.endswith("no accepted result of new (scenes) says on which terms: accept a "
                            "first one by hand")  # fmt: skip


def test_edited_samples_of_an_accepted_result_are_refused(workflow):
    def change(repository: Path) -> None:
        (samples,) = (repository / "results" / "lab-b").glob("*.npz")
        samples.write_bytes(samples.read_bytes()[::-1])

    ended = workflow(change)
    (problem,) = ended.problems
    assert ended.status == 1
    assert problem.startswith(f"{LAB_B}: edited samples: ")


def test_a_file_that_is_no_result_is_refused(workflow):
    def change(repository: Path) -> None:
        (repository / "results" / "lab-c").mkdir()
        (repository / "results" / "lab-c" / "a name.json").write_text("{}")

    ended = workflow(change)
    (problem,) = ended.problems
    assert ended.status == 2
    assert problem.startswith("results/lab-c/a name.json: not a result: ")


def test_other_files_may_change_and_results_may_be_removed(workflow, tmp_path):
    def change(repository: Path) -> None:
        shutil.rmtree(repository / "results" / "lab-b")
        (repository / "README.md").write_text("new")

    ended = workflow(change)
    assert ended.status == 0, ended.output
    assert "verified" not in ended.output


def test_a_push_verifies_all_results(workflow):
    ended = workflow(edit_metric, event="push")
    assert ended.status == 1
    assert "4 results: 1 differs, 3 verified" in ended.output


def test_a_shallow_checkout_is_told(workflow, tmp_path):
    shutil.rmtree(tmp_path / "repository" / ".git")
    git(tmp_path / "repository", "init", "--initial-branch=main")
    git(tmp_path / "repository", "commit", "--allow-empty", "--message=All that was fetched")
    (script, variables), *_ = steps_of_the_action("pull_request")
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], env=os.environ | variables, text=True,
        cwd=tmp_path / "repository", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == "::error::no commit HEAD^1: give actions/checkout `fetch-depth: 2`\n"


def test_the_workflow_publishes_what_it_rendered_after_a_push_alone():
    verify, publish = WORKFLOW["jobs"]["verify"], WORKFLOW["jobs"]["publish"]
    use = next(step for step in verify["steps"] if "OWNER/" in step.get("uses", ""))
    upload = next(step for step in verify["steps"] if "upload-pages" in step.get("uses", ""))
    checkout = verify["steps"][0]
    assert set(use["with"]) <= set(ACTION["inputs"])
    assert upload["with"]["path"] == use["with"]["pages"]
    assert upload["if"] == publish["if"] == "github.event_name == 'push'"
    assert checkout["with"]["fetch-depth"] == 2
    assert publish["needs"] == "verify"
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW[True] == {"pull_request": None, "push": {"branches": ["main"]}}


def test_the_example_is_small_and_its_commands_exist():
    files = [path for path in EXAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 50_000
    text = (EXAMPLE / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 20
    assert "cosmos-eval verify results/my-lab --like results" in text
