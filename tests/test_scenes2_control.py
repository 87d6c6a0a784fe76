"""benchmarks/scenes2_control.py: what it trains on, and its table by hand."""

import numpy as np
import pytest
from support.benchmark_modules import import_benchmarks
from support.models import store

from cosmos_core.data.scenes import VERSION_2
from cosmos_eval.data.asked_objects import CONTROL, OBJECT, SMALL, WORD
from cosmos_eval.types import UsageError


@pytest.fixture
def control(monkeypatch, tmp_path):
    """The command, with its own and the study's results in a folder of the test."""
    rates = {"CLIP": "0.002", "COSMOS": "0.001"}
    with import_benchmarks("scenes2_control", "_scenes2_jobs") as (module, jobs):
        monkeypatch.setattr(module, "choose_learning_rates", lambda: rates)
        monkeypatch.setattr(module, "RESULTS", tmp_path / "control")
        monkeypatch.setattr(jobs, "RESULTS", tmp_path / "trainings")
        yield module


def test_trainings_differ_from_the_studys_in_their_scenes_only(control, tmp_path, monkeypatch):
    jobs = control.control_jobs()
    assert [(job.method, job.seed) for job in jobs] == [
        (method, seed) for seed in range(3) for method in ("CLIP", "COSMOS")
    ]
    assert {job.results_folder.parent for job in jobs} == {tmp_path / "control"}
    monkeypatch.setattr(control.worker, "run", lambda command, log: None)
    study_job = control.Job("CLIP", "CLIP", "0.002", 0, jobs[0].steps)
    assert [text for text in jobs[0].settings if not text.startswith("recipe=")] == [
        text for text in study_job.settings if not text.startswith("recipe=")
    ]
    targets = {}
    for job in (jobs[0], study_job):
        scenes = job.scenes_folder(tmp_path)
        scenes.mkdir()
        with pytest.raises(SystemExit, match="stopped"):  # nothing is trained here
            control.worker.train(job, tmp_path, None)
        link = tmp_path / job.name / "run" / f"{VERSION_2.name}-20000"
        targets[job.row] = link.resolve().name
    assert targets == {"CLIP": "scenes2-20000", "CLIP, control": "scenes2-20000-control"}


def write_result(folder, name, n_right_kinds, n_right_colours):
    """Write a result of ten items about kinds and ten about colours of small things."""
    right = [n < n_right_kinds for n in range(10)] + [n < n_right_colours for n in range(10)]
    samples = {
        "correct": np.array(right + [True] * 20),
        "subset": np.zeros(40, int),
        "subsets": np.array([""]),
        "averaged": np.ones(1, bool),
        "cluster": np.arange(40),
        OBJECT: np.array([CONTROL] * 20 + [SMALL] * 20),
        WORD: np.array((["kind"] * 10 + ["colour"] * 10) * 2),
    }
    model = {"spec": name, "weights_sha256": f"{int.from_bytes(name.encode()):064x}"[-64:]}
    store(folder / name, "select", dataset="scenes2-beside", samples=samples, model=model)


def test_differences_of_trainings_by_hand(control, tmp_path):
    write_result(tmp_path / "trainings", "clip-seed-0", 5, 8)
    write_result(tmp_path / "trainings", "clip-seed-1", 7, 9)
    write_result(tmp_path / "control", "clip-control-seed-0", 7, 9)
    write_result(tmp_path / "control", "clip-control-seed-1", 9, 8)
    write_result(tmp_path / "control", "cosmos-control-seed-2", 6, 6)
    lines = "\n".join(control.table(control.control_jobs()))
    # The difference of the means 60 and 80 has a standard error of 14.14, and two degrees of
    # freedom: 4.303 standard errors.
    kinds = "| CLIP | kinds of small things | 60.0 ± 14.1 (2) | 80.0 ± 14.1 (2) "
    assert kinds + "| +20.0 [-40.8, +80.8] |" in lines
    assert "| CLIP | small things | 72.5 ± 10.6 (2) | 82.5 ± 3.5 (2) | +10.0 [" in lines
    assert "| COSMOS | small things |  | 60.0 (1) |  |" in lines
    assert "| COSMOS | small things beside a large one |  | 100.0 (1) |  |" in lines
    # All are right: there is no spread to compute an interval from.
    assert (
        "| CLIP | small things beside a large one | 100.0 ± 0.0 (2) | 100.0 ± 0.0 (2) | +0.0 |"
        in lines
    )


def test_a_training_with_two_results_is_refused(control, tmp_path):
    """Its seed would count twice."""
    folder = tmp_path / "trainings" / "clip-seed-0"
    write_result(tmp_path / "trainings", "clip-seed-0", 5, 8)
    write_result(folder, "other", 7, 9)
    for path in (folder / "other").iterdir():
        path.rename(folder / path.name)
    with pytest.raises(UsageError, match="clip-seed-0 has 2 results of scenes2-beside: leave one"):
        list(control.table(control.control_jobs()))
