"""`verify`: unchanged results pass, and each change of either file of a result is reported."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.forging import seal
from support.results import SAMPLES, store_result

from cosmos_eval.cli.app import main
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.store import read_result, record_sha256
from cosmos_eval.results.verify import verify, verify_all
from cosmos_eval.tasks import TASKS, task_named

VERSION_1 = Path(__file__).parent / "version_1"  # as this project once stored them


Record = dict[str, Any]
Edit = Callable[[Record], None]


def edit_file(path: Path, edit: Edit) -> Path:
    """Change a result's JSON file in place."""
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    return path


def other_samples(task: str) -> dict[str, Any]:
    """Return the samples of the task with one array in reverse order."""
    return {
        name: array[::-1] if name in ("labels", "correct", "image_to_text_rank") else array
        for name, array in SAMPLES[task].items()
    }


def is_ratio(task: str, metric: str) -> bool:
    return task_named(task).metric(metric).unit == "ratio"


@pytest.mark.parametrize("task", list(TASKS))
def test_an_unchanged_result_is_verified(tmp_path: Path, task: str) -> None:
    path = store_result(tmp_path, task)
    verdict = verify(path)
    assert (verdict.outcome, verdict.differences, verdict.obstacle) == ("verified", (), "")
    row = read_result(path)
    # Ratios of one image, which have no upper end, have no interval.
    assert all(is_ratio(task, name) for name in row.metrics.keys() - row.intervals.keys())
    n_figures_of_classes = sum(map(len, row.per_class.values()))
    assert verdict.figures == len(row.metrics) + len(row.intervals) + n_figures_of_classes


def setting(*keys: str, **values: Any) -> Edit:
    """Return an edit that sets values of the record, or of the dictionary at `keys` in it."""

    def edit(record: Record) -> None:
        for key in keys:
            record = record[key]
        record.update(values)

    return edit


def removing(section: str, key: str) -> Edit:
    """Return an edit that removes a key of a section of the record."""

    def edit(record: Record) -> None:
        del record[section][key]

    return edit


def change_the_last_bit(record: Record) -> None:
    record["metrics"]["acc1"] = math.nextafter(record["metrics"]["acc1"], 1)


def remove_all_confusion_pairs(record: Record) -> None:
    record["confusion_pairs"].clear()


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (setting("metrics", acc1=0.9), "edited metric acc1: 0.9, its samples give 0.6"),
        (change_the_last_bit, "edited record: its figures follow from its sample"),
        (setting("metrics", mIoU=0.9), "edited metric mIoU: 0.9, its samples give none"),
        (removing("metrics", "acc5"), "edited metric acc5: missing, its samples give 1.0"),
        (setting("intervals", "acc5", low=0.9), "edited interval of acc5: high 1.0, "),
        (removing("intervals", "acc1"), "edited interval of acc1: missing, its samples "),
        (
            setting("per_class", "fig", recall=0.5),
            "edited class fig: images 1, recall 0.5, its samples give images 1, recall 1.0",
        ),
        (remove_all_confusion_pairs, "edited confusion_pairs"),
        (setting(n_samples=4), "edited n_samples: 4, its samples are 5"),
        (setting("provenance", device="cuda"), "edited record: its figures follow from its sample"),
        (removing("provenance", "record_sha256"), "edited record: "),
        (setting("provenance", limit=5), "swapped file: it holds the result that is called "),
        (setting("model", spec="scenes-clip"), "swapped file: it holds the result that is called "),
    ],
)
def test_an_edited_record_differs(tmp_path: Path, edit: Edit, line: str) -> None:
    verdict = verify(edit_file(store_result(tmp_path, "cls"), edit))
    assert verdict.outcome == "differs"
    assert verdict.differences[0].startswith(line)


def add_to_a_metric(record: Record, change: float) -> None:
    record["metrics"]["acc1"] += change


def add_to_an_interval(record: Record, change: float) -> None:
    record["intervals"]["acc1"]["low"] += change


def add_to_a_class(record: Record, change: float) -> None:
    record["per_class"]["pear"]["recall"] -= change


@pytest.mark.parametrize(
    ("add", "figure"),
    [
        (add_to_a_metric, "metric acc1"),
        (add_to_an_interval, "interval of acc1"),
        (add_to_a_class, "class pear"),
    ],
)
def test_only_the_rounding_of_another_processor_is_tolerated(
    tmp_path: Path, add: Callable[[Record, float], None], figure: str
) -> None:
    path = store_result(tmp_path, "cls")
    record = json.loads(path.read_text())
    add(record, 1e-12)
    seal(path, record)
    assert verify(path).outcome == "verified"
    assert [result.contradiction for result in read_checked([path])] == [""]

    add(record, 1e-7)
    seal(path, record)
    (line,) = verify(path).differences
    assert line.startswith(f"edited {figure}: ")


def test_every_difference_has_a_line(tmp_path: Path) -> None:
    edit = setting("metrics", mIoU=0.5, aAcc=0.5)
    path = edit_file(store_result(tmp_path, "seg"), edit)
    assert [line.split(":")[0] for line in verify(path).differences] == [
        "edited metric aAcc",
        "edited metric mIoU",
    ]


def test_another_numpy_is_named(tmp_path: Path) -> None:
    def change_numpy_and_an_interval(record: Record) -> None:
        record["provenance"]["packages"]["numpy"] = "1.0"
        record["intervals"]["mean_per_class_recall"]["low"] = 0.0

    path = edit_file(store_result(tmp_path, "cls"), change_numpy_and_an_interval)
    (line,) = verify(path).differences
    assert line.endswith(f"(by NumPy {np.__version__}, stored: by 1.0)")


@pytest.mark.parametrize("task", ["retrieval", "cls", "select"])
def test_edited_samples_differ(tmp_path: Path, task: str) -> None:
    path = store_result(tmp_path, task)
    with (tmp_path / read_result(path).samples).open("wb") as file:
        np.savez_compressed(file, **other_samples(task))
    (line,) = verify(path).differences
    assert line.startswith(f"edited samples: {path.stem}.")


def test_samples_of_another_result_under_this_ones_name(tmp_path: Path) -> None:
    path = store_result(tmp_path, "cls")
    other = store_result(tmp_path, "cls", other_samples("cls"), protocol="other")
    shutil.copy(tmp_path / read_result(other).samples, tmp_path / read_result(path).samples)
    (line,) = verify(path).differences
    assert line == f"swapped file: {read_result(path).samples} holds the samples of {other.name}"
    assert verify(other).outcome == "verified"


def test_a_record_that_names_the_samples_of_another_result(tmp_path: Path) -> None:
    path = store_result(tmp_path, "cls")
    other = read_result(store_result(tmp_path, "cls", other_samples("cls"), protocol="other"))

    def name_other_samples(record: Record) -> None:
        record["samples"] = other.samples
        record["provenance"]["samples_sha256"] = other.provenance["samples_sha256"]

    (line,) = verify(edit_file(path, name_other_samples)).differences
    assert line == f"swapped file: it names {other.samples}, the samples of another result"


def test_two_results_with_each_others_names(tmp_path: Path) -> None:
    first, second = (store_result(tmp_path, "cls", protocol=name) for name in ("one", "other"))
    first_text, second_text = first.read_text(), second.read_text()
    first.write_text(second_text)
    second.write_text(first_text)
    assert verify(first).differences == (
        f"swapped file: it holds the result that is called {second.name}",
    )
    assert verify(second).outcome == "differs"


def test_samples_of_another_task_are_impossible(tmp_path: Path) -> None:
    """The hashes of record and samples are right, but the record names another task."""
    path = store_result(tmp_path, "cls")

    def change_task_and_hash(record: Record) -> None:
        record["task"] = "seg"
        record["provenance"]["record_sha256"] = record_sha256(record)

    (line,) = verify(edit_file(path, change_task_and_hash)).differences
    assert line.startswith("impossible samples: ")
    assert "holds no samples of task seg: there is no array `name`" in line


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (setting(task="cook"), r"unknown task 'cook'; nearest: "),
        (
            setting(schema_version=3),
            r"version 3, and this cosmos-eval knows versions up to 2: install",
        ),
        (setting(schema_version=0), r"\$\.schema_version: Input should be 2, not 0"),
        (setting(metrics={}), r"\$\.metrics: "),
        (setting(metrics={"acc1": math.nan}), r"cannot be read|\$\.metrics"),
    ],
)
def test_an_unreadable_record_is_not_looked_at(tmp_path: Path, edit: Edit, line: str) -> None:
    verdict = verify(edit_file(store_result(tmp_path, "cls"), edit))
    assert verdict.outcome == "not looked at"
    assert re.search(line, verdict.obstacle)


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = store_result(tmp_path, "cls")
    samples = tmp_path / read_result(path).samples
    samples.unlink()
    assert verify(path).obstacle == f"missing samples: {samples.name} is not there"
    assert "cannot be read as a result" in verify(tmp_path / "none.json").obstacle
    (tmp_path / "empty").mkdir()
    verdicts = verify_all([tmp_path / "empty", path])
    assert [verdict.obstacle.split(":")[0] for verdict in verdicts] == [
        f"no results (*.json) in {tmp_path / 'empty'}",
        "missing samples",
    ]


@pytest.mark.parametrize("name", ["cls", "retrieval-small", "seg"])
def test_results_of_version_1(tmp_path: Path, name: str) -> None:
    stem = f"scenes-cosmos__scenes-{name}__scenes"
    for file in VERSION_1.glob(f"{stem}.*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / f"{stem}.json"
    assert json.loads(path.read_text())["schema_version"] == 1
    assert verify(path).outcome == "verified"

    def change_first_metric(record: Record) -> None:
        first_metric = next(iter(record["metrics"]))
        record["metrics"][first_metric] = 0.123

    edit_file(path, change_first_metric)
    assert verify(path).outcome == "differs"


def claim_version_1_without_hash(record: Record) -> None:
    record["schema_version"] = 1
    del record["provenance"]["record_sha256"]


@pytest.mark.parametrize(
    ("task", "edit", "line"),
    [
        ("cls", setting(schema_version=1), "version is 1, but it has record_sha256"),
        ("cls", setting(schema_version=True), "no `schema_version` that is a number"),
        ("cls", setting(schema_version=1.0), "no `schema_version` that is a number"),
        ("cls", claim_version_1_without_hash, "version is 1, but it has samples with `classes`"),
        ("select", claim_version_1_without_hash, "version is 1, but it has samples with `subsets`"),
        ("seg", claim_version_1_without_hash, "version is 1, but it has samples with `classes`"),
        (
            "retrieval",
            claim_version_1_without_hash,
            "is 1, but it has an interval of image_to_text_mean_rank",
        ),
        ("loc", claim_version_1_without_hash, "version is 1, but it has task loc"),
    ],
)
def test_a_later_record_that_claims_version_1_is_not_looked_at(
    tmp_path: Path, task: str, edit: Edit, line: str
) -> None:
    path = edit_file(store_result(tmp_path, task), edit)
    verdict = verify(path)
    assert verdict.outcome == "not looked at"
    assert line in verdict.obstacle


def test_the_command_prints_a_line_per_result_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str | Path) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main(["verify", *map(str, arguments)])
        return int(ended.value.code or 0), capsys.readouterr().out.splitlines()

    paths = [store_result(tmp_path, task, protocol=task) for task in list(TASKS)]
    status, lines = run(tmp_path)
    assert (status, len(lines), lines[-1]) == (
        0,
        len(TASKS) + 1,
        f"{len(TASKS)} results: {len(TASKS)} verified",
    )
    (tmp_path / read_result(paths[0]).samples).unlink()
    assert run(paths[0])[0] == 2
    edit_file(paths[1], setting("metrics", acc1=0.5))
    status, lines = run(*paths)
    assert status == 1
    assert f"{paths[1]}: edited metric acc1: 0.5, its samples give 0.6" in lines
    assert (
        lines[-1] == f"{len(TASKS)} results: 1 differs, 1 not looked at, {len(TASKS) - 2} verified"
    )
    status, lines = run(paths[1], "--json")
    assert status == 1
    (document,) = json.loads("\n".join(lines))
    assert document["outcome"] == "differs"
    assert document["differences"] == ["edited metric acc1: 0.5, its samples give 0.6"]


def test_verify_does_not_import_torch(tmp_path: Path) -> None:
    paths = [str(store_result(tmp_path, task, protocol=task)) for task in list(TASKS)]
    code = (
        "import sys; from pathlib import Path; from cosmos_eval.results.verify import verify\n"
        "print([verify(Path(path)).outcome for path in sys.argv[1:]])\n"
        "print([m for m in ('torch', 'mmseg', 'cv2', 'open_clip') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, *paths]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines() == [str(["verified"] * len(TASKS)), "[]"]
