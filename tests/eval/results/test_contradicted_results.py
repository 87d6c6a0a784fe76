"""Numbers that the samples contradict are marked wherever results are shown."""

import json
import re
import shutil
from pathlib import Path

import pytest
from support.forging import seal
from support.models import store

import cosmos_eval
from cosmos_eval.cli.overlap import _read_results
from cosmos_eval.results import checked
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.store import result_paths
from cosmos_eval.results.verify import verify
from cosmos_eval.runner.execute import existing_results
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.types import UsageError

STEM = "scenes-clip__scenes-cls__scenes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two models of which the second is worse, beside one of another data set."""
    store(tmp_path / "r", "cls", 0.9)
    store(tmp_path / "r", "cls", 0.4, 1, model={"spec": "scenes-clip"})
    store(tmp_path / "r", "select", 0.5)
    return tmp_path / "r"


def replace_by_junk(folder: Path) -> None:
    next(folder.glob(f"{STEM}.*.npz")).write_bytes(b"junk")


def replace_by_those_of_the_other_model(folder: Path) -> None:
    shutil.copy(
        next(folder.glob("scenes-cosmos__scenes-cls__*.npz")), next(folder.glob(f"{STEM}.*.npz"))
    )


def forge_metric(folder: Path) -> None:
    record = json.loads((folder / f"{STEM}.json").read_text())
    record["metrics"]["acc1"] = 0.999
    record["intervals"]["acc1"].update(low=0.998, high=1.0)
    seal(folder / f"{STEM}.json", record)


def forge_number_of_samples(folder: Path) -> None:
    record = json.loads((folder / f"{STEM}.json").read_text())
    record["n_samples"] += 1
    seal(folder / f"{STEM}.json", record)


def edit_record(folder: Path) -> None:
    record = json.loads((folder / f"{STEM}.json").read_text())
    record["metrics"]["acc1"] = 0.999
    (folder / f"{STEM}.json").write_text(json.dumps(record))


CHANGES = {
    replace_by_junk: ("edited samples", "the samples are not those that were stored"),
    replace_by_those_of_the_other_model: ("edited samples", "the samples are not those"),
    forge_metric: ("edited metrics", "the samples give other metrics than the record"),
    forge_number_of_samples: ("edited metrics", "the samples give other metrics"),
    edit_record: ("edited record", "the file was edited after it was written"),
}


# One for each mark.
def name_of(change) -> str:
    return change.__name__


@pytest.fixture(params=[replace_by_junk, forge_metric, edit_record], ids=name_of)
def changed(request, folder) -> tuple[Path, str, str]:
    """Return a folder in which a result was changed, the mark of that result, and the reason."""
    request.param(folder)
    assert verify(folder / f"{STEM}.json").outcome == "differs"
    return folder, *CHANGES[request.param]


@pytest.mark.parametrize("changed", CHANGES, indirect=True, ids=name_of)
def test_a_leaderboard_marks_them(changed, command):
    folder, mark, reason = changed
    done = command("leaderboard", folder, "--format", "json")
    sources = {record["model"]: record["source"] for record in json.loads(done.out)}
    assert sources.pop(f"scenes-clip ({mark})") == "unverified"
    assert set(sources.values()) == {"measured"}
    assert f"not ranked and not compared, since {reason}" in done.err
    table = command("leaderboard", folder, "--format", "md").out
    (row,) = (line for line in table.splitlines() if "scenes-clip" in line and line[0] == "|")
    assert f"scenes-clip ({mark})" in row
    assert "unverified" in row
    assert "**" not in row


def test_a_table_of_results_marks_them(changed, command, tmp_path):
    folder, _, reason = changed
    with pytest.warns(UserWarning, match=reason):
        table = cosmos_eval.load_results(folder)
    with pytest.warns(UserWarning, match=reason):
        cosmos_eval.read_results(folder)
    unchanged = table.groupby("model")["unchanged"].unique()
    assert {name: list(values) for name, values in unchanged.items()} == {
        "scenes-clip": [False],
        "scenes-cosmos": [True],
    }
    done = command("export", folder, "--output", tmp_path / "all.csv")
    assert reason in done.err


def test_a_report_shows_them_in_its_leaderboards_only(changed, command, tmp_path):
    folder, mark, reason = changed
    done = command("report", folder, "--no-pictures", "--output", tmp_path / "page.html")
    assert done.status == 0
    assert reason in done.err
    page = (tmp_path / "page.html").read_text()
    assert f"scenes-clip ({mark})" in page


def test_they_reproduce_nothing(command, tmp_path):
    path = store(
        tmp_path / "r",
        "cls",
        0.4,
        model={"spec": "cosmos:vitb16_cc3m"},
        dataset="imagenet1k",
        protocol="cosmos",
    )
    record = json.loads(path.read_text())
    record["metrics"]["acc1"] = 0.371  # as published
    seal(path, record)
    done = command("reproduce", tmp_path / "r", "--format", "json")
    (reproduction,) = [
        reproduction
        for reproduction in json.loads(done.out)
        if (reproduction["model"], reproduction["metric"]) == ("cosmos:vitb16_cc3m", "acc1")
    ]
    assert (reproduction["status"], reproduction["measured"]) == ("unverified", None)
    assert "the samples give other metrics" in done.err


@pytest.mark.parametrize("change", [replace_by_junk, forge_metric])
def test_they_are_not_compared(folder, command, change):
    change(folder)
    other = next(folder.glob("scenes-cosmos__scenes-cls__*.json"))
    for pair in ((folder / f"{STEM}.json", other), (other, folder / f"{STEM}.json")):
        done = command("compare", *pair)
        assert (done.status, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1


def test_an_overlap_does_not_show_them(changed):
    folder, mark, _ = changed
    with pytest.raises(UsageError, match=rf"{STEM}\.json: {mark} \(`cosmos-eval verify`"):
        _read_results(folder, "scenes-cls")


def test_a_run_measures_them_again(changed):
    folder, *_ = changed
    plan = make_plan(datasets=["scenes-cls"], models=["scenes-clip"])
    (existing,) = existing_results(plan, folder).values()
    assert existing.row is None
    message = r"was edited after it was written|is not what was stored"
    assert re.search(message, str(existing.error))


def test_results_without_samples_are_shown(folder, command):
    for archive in folder.glob("*.npz"):
        archive.unlink()
    done = command("leaderboard", folder, "--format", "json", "--ties", "intervals")
    assert {record["source"] for record in json.loads(done.out)} == {"measured"}
    assert done.err == ""


def test_large_samples_are_hashed_and_a_note_says_so(folder, command, monkeypatch):
    sizes = sorted(path.stat().st_size for path in folder.glob("*.npz"))
    monkeypatch.setattr(checked, "RECOMPUTED_BYTES", sum(sizes[:2]) + 2 * 65_536)
    results = read_checked(result_paths(folder))
    assert sorted(result.recomputed for result in results) == [False, True, True]
    note = "the metrics of 1 of 3 results, whose samples are large, were not recomputed"
    assert note in command("leaderboard", folder, "--format", "csv").err
    replace_by_junk(folder)
    marks = {result.fault for result in read_checked(result_paths(folder))}
    assert marks == {"", "edited samples"}
