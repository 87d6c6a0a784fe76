"""The worker of scenes2_study.py: trainings of a tiny model that end, fail, diverge and stop."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from support.benchmark_modules import import_benchmarks

from cosmos_core.data.scenes import TRAIN, VALIDATION, VERSION_2
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.engine.lock import LOCK
from cosmos_core.engine.loggers import LOG
from cosmos_core.model.checkpoint import CHECKPOINT, SNAPSHOTS

TINY_MODEL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 16,
        "width": 16,
        "layers": 1,
        "head_width": 8,
    },
    "text_cfg": {
        "context_length": VERSION_2.context_length,
        "vocab_size": scenes_tokenizer(version=VERSION_2).vocab_size,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}
TINY_SETTINGS = [
    f"architecture={json.dumps(TINY_MODEL)}",
    "optim.batch_size=4",
    "data.cache_gb=0",
    "save.every=2",
    "compute.compile=false",
]
N_VALIDATION_SCENES = 30  # one of each kind
SECONDS_TO_START = 300  # of a process on a busy machine


@pytest.fixture(scope="module")
def modules():
    """The worker, and the trainings of the study."""
    with import_benchmarks("_scenes2_worker", "_scenes2_jobs") as modules:
        yield modules


@pytest.fixture(scope="module")
def worker(modules):
    return modules[0]


@pytest.fixture(scope="module")
def study(modules):
    return modules[1]


@pytest.fixture(scope="module")
def scenes(study, tmp_path_factory):
    """A folder with a few training and validation scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    write_layouts(
        study.training_scenes(folder), split=TRAIN, count=16, layouts=["shards"], version=VERSION_2
    )
    validation = folder / VALIDATION
    layouts = ["coco", "folder", "questions"]
    count = N_VALIDATION_SCENES
    write_layouts(validation, split=VALIDATION, count=count, layouts=layouts, version=VERSION_2)
    return folder


@pytest.fixture
def output(study, scenes, tmp_path, monkeypatch):
    """The folder of the trainings and scenes. Results are written beside it."""
    monkeypatch.setattr(study, "TUNING_RESULTS", tmp_path / "tuning")
    return Path(shutil.copytree(scenes, tmp_path / "output"))


def tiny_job(study, learning_rate="0.001", steps=3, settings=()):
    """A tuning training of a tiny CLIP."""

    class TinyJob(study.Job):
        @property
        def settings(self):
            return [*super().settings, *TINY_SETTINGS, *settings]

    return TinyJob("CLIP", "CLIP", learning_rate, study.TUNING_SEED, steps)


@pytest.fixture
def sigterm_handler():
    """Restore the handler of SIGTERM after the test."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.slow
def test_the_worker_goes_on_after_failed_trainings(worker, study, output, capsys):
    faulty = tiny_job(study, "0.0005", settings=["optim.unknown=1"])
    good = tiny_job(study, "0.001")
    diverging = tiny_job(study, "0.002", settings=["optim.lr=1e30", "optim.warmup_steps=0"])
    jobs = [faulty, diverging, good]
    assert worker.work(output, lambda: jobs) == ["clip-lr-0.0005", "clip-lr-0.002"]
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "clip-lr-0.0005",
        "clip-lr-0.0005 failed: cosmos_core.train scenes_tiny ended with status 2; see "
        f"{output}/clip-lr-0.0005/log.txt",
        "clip-lr-0.002",
        "clip-lr-0.002 failed: cosmos_core.train scenes_tiny ended with status 1; see "
        f"{output}/clip-lr-0.002/log.txt",
        "clip-lr-0.001",
    ]
    # Only the diverged one is marked: another failure says nothing of the learning rate.
    assert study.has_diverged(diverging)
    assert "loss is nan" in (diverging.results_folder / "diverged.txt").read_text()
    assert not study.is_done(faulty)
    # The one that ended is measured, with the samples of each result.
    assert study.is_measured(good)
    assert len([*good.results_folder.glob("*.npz")]) == 3
    assert 0 <= study.validation_score(good.results_folder) <= 1
    assert sorted(path.name for path in (output / good.name).iterdir()) == ["log.txt", "run"]
    assert not (output / good.name / "run" / SNAPSHOTS).exists()
    # Another worker has only the faulty one to do.
    assert worker.work(output, lambda: jobs) == ["clip-lr-0.0005"]


def stop_training(folder):
    """Send SIGTERM to the process of a training, once it has computed a step."""
    deadline = time.monotonic() + SECONDS_TO_START
    log = folder / LOG
    while time.monotonic() < deadline:
        if log.exists() and log.stat().st_size:
            os.kill(json.loads((folder / LOCK).read_text())["process"], signal.SIGTERM)
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_training_that_a_signal_stops_is_not_measured_and_keeps_its_snapshots(
    worker, study, output
):
    job = tiny_job(study, steps=100_000, settings=["save.every=100000"])
    folder = output / job.name / "run"
    thread = threading.Thread(target=stop_training, args=(folder,))
    thread.start()
    with pytest.raises(SystemExit) as ended:
        worker.work(output, lambda: [job])
    thread.join()
    message = "clip-lr-0.001: stopped; the same command goes on from the last snapshot"
    assert ended.value.code == message
    assert (folder / CHECKPOINT).exists()
    assert [*(folder / SNAPSHOTS).iterdir()]
    assert not job.results_folder.exists()


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_a_command_that_a_signal_stops_has_not_failed(worker, tmp_path, signal_name):
    # A shell starts commands in the background with SIGINT ignored.
    program = (
        f"import os, signal; signal.signal(signal.{signal_name}, signal.SIG_DFL); "
        f"os.kill(os.getpid(), signal.{signal_name})"
    )
    with (tmp_path / "log.txt").open("ab") as log, pytest.raises(SystemExit, match="stopped; "):
        worker.run(["-c", program], log)


def test_a_worker_that_is_stopped_stops_its_command_and_ends_with_a_line(
    worker, study, tmp_path, monkeypatch, capsys, sigterm_handler
):
    job = tiny_job(study)
    log_path = tmp_path / job.name / "log.txt"
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"

    def stop_worker():
        while not log_path.exists() or not log_path.stat().st_size:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    def train_all(output):
        with worker.lock_log(output / job.name) as log:
            assert worker.lock_log(output / job.name) is None
            thread.start()
            worker.run(["-c", program], log)

    thread = threading.Thread(target=stop_worker)
    monkeypatch.setattr("sys.argv", ["scenes2_study.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        worker.run_command_line("", lambda: [job], train_all)
    thread.join()
    assert ended.value.code == "stopped; the same command goes on from the last snapshot"
    with pytest.raises(ProcessLookupError):
        os.kill(int(log_path.read_text()), 0)


def test_a_command_line_names_failed_trainings_at_its_end(
    worker, study, tmp_path, monkeypatch, sigterm_handler
):
    monkeypatch.setattr("sys.argv", ["scenes2_study.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        worker.run_command_line("", lambda: [tiny_job(study)], lambda output: ["a", "b"])
    assert ended.value.code == "failed: a, b"


def test_results_appear_at_once_or_not_at_all(worker, tmp_path):
    new_results, results_folder = tmp_path / "new", tmp_path / "results" / "clip"
    new_results.mkdir()
    (new_results / "a.json").write_text("1")
    (new_results / "a.npz").symlink_to("missing")  # which cannot be copied
    with pytest.raises(shutil.Error):
        worker.publish(new_results, results_folder)
    assert not [*results_folder.parent.iterdir()]
    (new_results / "a.npz").unlink()
    (new_results / "a.npz").write_text("2")
    results_folder.mkdir()
    (results_folder / "old.json").touch()
    worker.publish(new_results, results_folder)
    assert {path.name: path.read_text() for path in results_folder.iterdir()} == {
        "a.json": "1",
        "a.npz": "2",
    }
    assert [*results_folder.parent.iterdir()] == [results_folder]
    assert not new_results.exists()


def test_descriptions_of_validation_sets_are_written_only_if_they_differ(worker, tmp_path):
    worker.describe_validation_sets(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["cls.yaml", "retrieval.yaml", "select.yaml"]
    contents = [path.read_text() for path in paths]
    files = [path.stat().st_ino for path in paths]
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].write_text(contents[1][:10])
    worker.describe_validation_sets(tmp_path)
    assert [path.read_text() for path in paths] == contents
    for number in (0, 2):
        status = paths[number].stat()
        assert (status.st_ino, status.st_mtime_ns) == (files[number], times[number])
    # It was replaced as a whole: a reader of the old file is not disturbed.
    assert paths[1].stat().st_ino != files[1]
