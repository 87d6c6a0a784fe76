"""Plans are run: data first, each model once, everything recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import cosmos_eval
from cosmos_eval import models as encoders
from cosmos_eval.data import classification as class_data
from cosmos_eval.data.classification import ClassData
from cosmos_eval.protocols import known_protocols, webdatasets
from cosmos_eval.results.store import read_result
from cosmos_eval.runner.plan import jobs_of, make_plan, open_datasets
from cosmos_eval.runner.run import Worker, run_all
from cosmos_eval.tasks import TASKS, task_named
from cosmos_eval.types import ModelSpec, Progress, RunOptions, UsageError

SPEC = ModelSpec(text="cosmos:mine.pt", kind="cosmos", name="mine.pt")
YAML = "kind: cls\nfolder: photos\ntemplates: ['{}']\n"


@pytest.fixture
def photos(tmp_path: Path, save_colour) -> Path:
    """A classification set that a model of mean colours solves: three classes, four images."""
    for path in ("red/a.png", "green/a.png", "blue/a.png", "blue/b.png"):
        save_colour(tmp_path / "photos" / path, path.split("/")[0])
    (tmp_path / "photos.yaml").write_text(YAML)
    return tmp_path / "photos.yaml"


@pytest.fixture
def loads(monkeypatch, colour_encoder) -> list[ModelSpec]:
    """Every model loaded is the one of mean colours; lists the models requested."""
    requested: list[ModelSpec] = []

    def load(spec, *, device, precision, auxiliary):
        requested.append(spec)
        return colour_encoder

    monkeypatch.setattr(encoders, "load_encoder", load)
    return requested


def test_a_result_says_what_was_measured_and_how(photos, loads, tmp_path):
    plan = make_plan(datasets=[str(photos)], models=["scenes-clip"])
    (result,) = run_all(plan)
    row = result.row
    assert (row.task, row.dataset, row.protocol, row.n_samples) == ("cls", "photos", "user", 4)
    assert row.metrics["acc1"] == 1.0
    assert set(row.intervals["acc1"]) == {"low", "high", "method", "level"}
    assert row.model["spec"] == "colours"
    assert row.model["facts"]["embedding_size"] is None  # its images are of any size
    record = row.provenance
    assert record["seconds"]["total"] > 0
    assert record["peak_memory_bytes"] > 10_000_000
    assert (record["limit"], record["attention"], record["precision"]) == (None, None, "fp32")
    assert all(len(value) == 64 for value in record["hashes"].values())
    (stored,) = run_all(plan, output=tmp_path / "out")
    assert (stored.pair, stored.samples, stored.error) == (result.pair, None, None)
    assert stored.row.metrics == row.metrics
    assert read_result(stored.path) == stored.row


def test_images_per_second_are_those_of_images_that_were_encoded(photos, loads, tmp_path):
    options = RunOptions(cache=str(tmp_path / "cache"))
    plan = make_plan(datasets=[str(photos)], models=["scenes-clip"], options=options)
    n_encoded = []
    for colours in ((), ("green", "red"), ()):
        for colour in colours:
            Image.new("RGB", (9, 9), colour).save(photos.parent / "photos" / colour / "new.png")
        (result,) = run_all(plan)
        rate, seconds = result.row.provenance["images_per_second"], result.row.provenance["seconds"]
        # Seconds are stored to the nearest thousandth.
        n_encoded.append(None if rate is None else rate * seconds["images"])
    assert n_encoded == [pytest.approx(4, rel=0.5), pytest.approx(2, rel=0.5), None]
    # Two protocols of one data set are one job; the second finds what the first has encoded.
    Image.new("RGB", (9, 9), "blue").save(photos.parent / "photos" / "blue" / "new.png")
    (dataset,) = open_datasets(plan)
    other_protocol = replace(dataset.protocol, protocol_name="other")
    (job,) = jobs_of(plan, [dataset, dataset._replace(protocol=other_protocol)])
    first, second = (result.row.provenance["images_per_second"] for result in Worker().run(job))
    assert first > 0
    assert second is None


def test_each_model_is_loaded_once_for_all_data_sets(photos, loads):
    (photos.parent / "again.yaml").write_text(YAML)
    datasets = [str(photos), str(photos.parent / "again.yaml")]
    plan = make_plan(datasets=datasets, models=["scenes-clip", "scenes-cosmos"])
    rows = [finished.row for finished in run_all(plan)]
    assert [spec.text for spec in loads] == ["scenes-clip", "scenes-cosmos"]
    assert [row.dataset for row in rows] == ["photos", "again"] * 2


@pytest.mark.parametrize("truth", ["of an empty set", "of an array"])
def test_data_are_opened_once_whatever_their_truth(photos, loads, monkeypatch, truth):
    opened: list[ClassData] = []
    open_data = class_data.open_data

    def note(protocol, options):
        opened.append(open_data(protocol, options))
        return opened[-1]

    def truth_of_data(data):
        if truth == "of an array":
            raise ValueError("The truth value of an array is ambiguous")
        return False

    monkeypatch.setattr(class_data, "open_data", note)
    monkeypatch.setattr(ClassData, "__bool__", truth_of_data, raising=False)
    (result,) = run_all(make_plan(datasets=[str(photos)], models=["scenes-clip"]))
    assert result.row.n_samples == 4
    assert len(opened) == 1


def test_all_data_are_checked_before_the_first_model_is_loaded(photos, loads):
    (photos.parent / "lost.yaml").write_text(YAML.replace("photos", "lost"))
    lost = str(photos.parent / "lost.yaml")
    plan = make_plan(datasets=[str(photos), lost], models=["scenes-clip"])
    with pytest.raises(UsageError, match="lost"):
        next(run_all(plan))
    assert loads == []


def test_progress_of_every_phase_reaches_its_end(photos, loads):
    last_steps: dict[tuple[str, str], Progress] = {}

    def note_step(name: str, step: Progress) -> None:
        last_steps[name, step.phase] = step

    plan = make_plan(datasets=[str(photos)], models=["scenes-clip"])
    list(run_all(plan, note_step))
    assert ("data", "check") in last_steps
    assert ("scenes-clip on photos", "images") in last_steps
    assert all(step.done == step.total for step in last_steps.values())


def test_evaluate_returns_the_row(photos, loads):
    row = cosmos_eval.evaluate("scenes-clip", str(photos), weights="student", limit=2)
    assert loads[-1].weights == "student"
    assert row.n_samples == 2
    assert row.provenance["limit"] == 2


def test_every_task_has_metrics_data_sets_and_an_embedded_one():
    for task in map(task_named, TASKS):
        assert {metric.name for metric in task.metrics if metric.primary} <= set(task.headlines)
        assert any(metric.primary for metric in task.metrics)
        assert task.truth
    of_hub = {"multilabel", "faces", "assoc"}
    of_files = {"ood", "depth-probe", "ratings", "ranking"}  # no set is embedded or on the hub
    with_protocol = {protocol.task for protocol in known_protocols().values()} - of_files
    assert with_protocol == set(TASKS) - of_hub - of_files
    of_webdatasets = {protocol.task for protocol in webdatasets().values()}
    assert with_protocol | of_webdatasets == set(TASKS) - of_files
    measured_by_default = {protocol.task for protocol in make_plan().protocols}
    assert measured_by_default == with_protocol - {"loc", "probe", "seg-probe", "boxes"}
    for name in of_hub | of_files:
        with pytest.raises(UsageError, match=f"task {name} has no embedded data set"):
            make_plan(task=name)
    for name in with_protocol - {"ranking"}:
        (embedded,) = make_plan(task=name).protocols
        assert embedded.task == name


def test_a_default_plan_is_the_bundled_models_on_the_embedded_data():
    plan = make_plan()
    assert {"scenes-cosmos", "scenes-clip"} <= {spec.text for spec in plan.specs}
    names = [protocol.dataset for protocol in plan.protocols]
    assert names == ["scenes-retrieval", "scenes-cls", "scenes-seg", "scenes-select"]
    assert [p.dataset for p in make_plan(task="seg").protocols] == ["scenes-seg"]


@pytest.mark.parametrize(
    ("word", "dataset"),
    [
        ("classification", "scenes-cls"),
        ("segmentation", "scenes-seg"),
        ("selection", "scenes-select"),
        ("localisation", "scenes-loc"),
    ],
)
def test_a_task_may_be_a_full_word(word, dataset):
    assert [protocol.dataset for protocol in make_plan(task=word).protocols] == [dataset]
    assert make_plan(task=word, datasets=[dataset]).protocols


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"datasets": ["voc2"]}, "unknown data set 'voc2'"),
        ({"datasets": ["scenes-seg"], "task": "cls"}, "scenes-seg is a data set of task seg"),
        ({"datasets": ["scenes-seg", "scenes-seg"]}, "scenes-seg .* given twice"),
        ({"models": ["scenes-clip", "scenes-clip"]}, "scenes-clip is given twice"),
        (
            {"models": ["scenes-clip", "scenes-cosmos"], "names": ["big model", "big-model"]},
            r"big model on scenes-retrieval \(scenes\) and big-model on .*: give .* another name",
        ),
        ({"models": ["scenes-klip"]}, "unknown model 'scenes-klip'; .*scenes-clip"),
    ],
)
def test_plans_that_cannot_be(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_plan(**arguments)


@pytest.mark.parametrize(
    ("data_root", "message"),
    [
        (None, "voc20 is not embedded: .*--data-root"),
        ("/nowhere/at/all", "no folder /nowhere/at/all"),
    ],
)
def test_data_sets_need_a_folder_that_is_there(data_root, message, loads):
    plan = make_plan(datasets=["voc20"], options=RunOptions(data_root=data_root))
    with pytest.raises(UsageError, match=message):
        next(run_all(plan))
    assert loads == []
