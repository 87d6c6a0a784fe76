"""Stored results: whole ones pass, and whatever is changed in either file is reported."""

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
from support.results import SAMPLES, store_result

from cosmos_eval.cli.app import main
from cosmos_eval.results.store import read_result, record_sha256
from cosmos_eval.results.verify import verify, verify_all
from cosmos_eval.tasks import TASKS, task_named

VERSION_1 = Path(__file__).parent / "version_1"  # as this project once stored them


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a result's JSON file in place."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


def other_samples(task: str) -> dict[str, Any]:
    """Those of the task in another order."""
    return {
        name: array[::-1] if name in ("labels", "correct", "image_to_text_rank") else array
        for name, array in SAMPLES[task].items()
    }


def is_ratio(task: str, metric: str) -> bool:
    return task_named(task).metric(metric).unit == "ratio"


@pytest.mark.parametrize("task", list(TASKS))
def test_a_whole_result(tmp_path: Path, task: str) -> None:
    path = store_result(tmp_path, task)
    verdict = verify(path)
    assert (verdict.outcome, verdict.differences, verdict.obstacle) == ("verified", (), "")
    row = read_result(path)
    # Ratios of one image, which have no upper end, have no interval.
    assert all(is_ratio(task, name) for name in row.metrics.keys() - row.intervals.keys())
    per_class = sum(map(len, row.per_class.values()))
    assert verdict.figures == len(row.metrics) + len(row.intervals) + per_class


def to(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda part: part.update(values)


def last_bit(metrics: dict[str, float]) -> None:
    metrics["acc1"] = math.nextafter(metrics["acc1"], 1)


@pytest.mark.parametrize(
    ("part", "change", "line"),
    [
        ("metrics", to(acc1=0.9), "edited metric acc1: 0.9, its samples give 0.6"),
        ("metrics", last_bit, "edited metric acc1: 0.6000000000000001, its samples give 0.6"),
        ("metrics", to(mIoU=0.9), "edited metric mIoU: 0.9, its samples give none"),
        ("metrics", lambda m: m.pop("acc5"), "edited metric acc5: missing, its samples give 1.0"),
        ("intervals", lambda i: i["acc5"].update(low=0.9), "edited interval of acc5: high 1.0, "),
        ("intervals", lambda i: i.pop("acc1"), "edited interval of acc1: missing, its samples "),
        (
            "per_class",
            lambda classes: classes["fig"].update(recall=0.5),
            "edited class fig: images 1, recall 0.5, its samples give images 1, recall 1.0",
        ),
        ("confusion_pairs", list.clear, "edited confusion_pairs"),
        (None, to(n_samples=4), "edited n_samples: 4, its samples are 5"),
        ("provenance", to(device="cuda"), "edited record: its figures follow from its samples"),
        ("provenance", lambda p: p.pop("record_sha256"), "edited record: "),
        ("provenance", to(limit=5), "swapped file: it holds the result that is called "),
        ("model", to(spec="scenes-clip"), "swapped file: it holds the result that is called scen"),
    ],
)
def test_an_edited_record(tmp_path: Path, part: str | None, change: Any, line: str) -> None:
    path = store_result(tmp_path, "cls")
    edit(path, lambda record: change(record if part is None else record[part]))
    verdict = verify(path)
    assert verdict.outcome == "differs"
    assert verdict.differences[0].startswith(line)


@pytest.mark.parametrize(
    ("change", "found"), [(1e-15, ["edited record"]), (1e-9, ["edited interval of acc1"])]
)
def test_a_rounding_of_another_processor(tmp_path: Path, change: float, found: list[str]) -> None:
    def rounded(record: dict[str, Any]) -> None:
        record["intervals"]["acc1"]["low"] += change

    verdict = verify(edit(store_result(tmp_path, "cls"), rounded))
    assert [line.split(":")[0] for line in verdict.differences] == found


def test_every_difference_has_a_line(tmp_path: Path) -> None:
    path = edit(store_result(tmp_path, "seg"), lambda r: r["metrics"].update(mIoU=0.5, aAcc=0.5))
    assert [line.split(":")[0] for line in verify(path).differences] == [
        "edited metric aAcc",
        "edited metric mIoU",
    ]


def test_another_numpy_is_named(tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["provenance"]["packages"]["numpy"] = "1.0"
        record["intervals"]["mean_per_class_recall"]["low"] = 0.0

    (line,) = verify(edit(store_result(tmp_path, "cls"), change)).differences
    assert line.endswith(f"(by NumPy {np.__version__}, stored: by 1.0)")


@pytest.mark.parametrize("task", ["retrieval", "cls", "select"])
def test_edited_samples(tmp_path: Path, task: str) -> None:
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

    def change(record: dict[str, Any]) -> None:
        record["samples"] = other.samples
        record["provenance"]["samples_sha256"] = other.provenance["samples_sha256"]

    (line,) = verify(edit(path, change)).differences
    assert line == f"swapped file: it names {other.samples}, the samples of another result"


def test_two_results_with_each_others_names(tmp_path: Path) -> None:
    one, other = (store_result(tmp_path, "cls", protocol=name) for name in ("one", "other"))
    texts = one.read_text(), other.read_text()
    for path, text in zip((other, one), texts, strict=True):
        path.write_text(text)
    assert verify(one).differences == (
        f"swapped file: it holds the result that is called {other.name}",
    )
    assert verify(other).outcome == "differs"


def test_samples_of_another_task(tmp_path: Path) -> None:
    """A record and samples that agree about each other, and hold different things."""
    path = store_result(tmp_path, "cls")

    def change(record: dict[str, Any]) -> None:
        record["task"] = "seg"
        record["provenance"]["record_sha256"] = record_sha256(record)

    (line,) = verify(edit(path, change)).differences
    assert line.startswith("impossible samples: ")
    assert "holds no samples of task seg: there is no array `name`" in line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (to(task="cook"), r"unknown task 'cook'; nearest: "),
        (to(schema_version=3), r"version 3, and this cosmos-eval knows versions up to 2: install"),
        (to(schema_version=0), r"\$\.schema_version: Input should be 2, not 0"),
        (to(metrics={}), r"\$\.metrics: "),
        (to(metrics={"acc1": math.nan}), r"cannot be read|\$\.metrics"),
    ],
)
def test_what_cannot_be_looked_at(tmp_path: Path, change: Any, line: str) -> None:
    verdict = verify(edit(store_result(tmp_path, "cls"), change))
    assert verdict.outcome == "not looked at"
    assert re.search(line, verdict.obstacle)


def test_missing_files(tmp_path: Path) -> None:
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
    edit(path, lambda record: record["metrics"].update({next(iter(record["metrics"])): 0.123}))
    assert verify(path).outcome == "differs"


def without_hash(record: dict[str, Any]) -> None:
    record["schema_version"] = 1
    del record["provenance"]["record_sha256"]


@pytest.mark.parametrize(
    ("task", "change", "line"),
    [
        ("cls", to(schema_version=1), "version is 1, but it has record_sha256"),
        ("cls", to(schema_version=True), "no `schema_version` that is a number"),
        ("cls", to(schema_version=1.0), "no `schema_version` that is a number"),
        ("cls", without_hash, "version is 1, but it has samples with `classes`"),
        ("select", without_hash, "version is 1, but it has samples with `subsets`"),
        ("seg", without_hash, "version is 1, but it has samples with `classes`"),
        ("retrieval", without_hash, "is 1, but it has an interval of image_to_text_mean_rank"),
        ("loc", without_hash, "version is 1, but it has task loc"),
    ],
)
def test_a_later_record_that_says_it_is_of_version_1(
    tmp_path: Path, task: str, change: Any, line: str
) -> None:
    path = edit(store_result(tmp_path, task), change)
    verdict = verify(path)
    assert verdict.outcome == "not looked at"
    assert line in verdict.obstacle


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    edit(paths[1], lambda record: record["metrics"].update(acc1=0.5))
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


def test_without_torch(tmp_path: Path) -> None:
    paths = [str(store_result(tmp_path, task, protocol=task)) for task in list(TASKS)]
    code = (
        "import sys; from pathlib import Path; from cosmos_eval.results.verify import verify\n"
        "print([verify(Path(path)).outcome for path in sys.argv[1:]])\n"
        "print([m for m in ('torch', 'mmseg', 'cv2', 'open_clip') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(["verified"] * len(TASKS)), "[]"]
