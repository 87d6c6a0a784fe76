"""Two models of one name, such as two states of one checkpoint file, never share a row."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from support.models import store
from support.rows import make_row

import cosmos_eval
from cosmos_eval.results.labels import StoredResult, label_results, result_warnings
from cosmos_eval.results.leaderboard.board import make_boards
from cosmos_eval.results.leaderboard.entries import entries_of_rows

SPEC = "cosmos:last.pt"
WARNING = f"2 models are called {SPEC}: their weights differ, and each has a row of its own"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint on two data sets, written again between the two measurements."""
    for task, state in (("cls", "a"), ("seg", "b")):
        store(tmp_path / "r", task, 0.5, model={"spec": SPEC, "weights_sha256": state * 64})
    return tmp_path / "r"


NAMES = [f"{SPEC} (weights {state * 8})" for state in "ab"]


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({}, ()),
        ({"weights_sha256": "1" * 64}, ("weights 00000000", "weights 11111111")),
        ({"code_sha256": "2" * 64}, ("code none", "code 22222222")),
        # sha256sum of `tiny` and `other`.
        ({"architecture": "other"}, ("architecture 8950abfd", "architecture d9298a10")),
        ({"spec": "other", "weights_sha256": "1" * 64}, ()),
        ({"weights": "student", "weights_sha256": "1" * 64}, ()),
    ],
)
def test_a_name_gets_the_hash_of_what_differs(changes, notes):
    rows = [make_row(), make_row(model=changes, dataset="other")]
    labelled = label_results(StoredResult(Path(), row) for row in rows)
    assert tuple(note for result in labelled for note in result.notes) == notes
    assert len(result_warnings(labelled)) == (1 if notes else 0)
    # Labelling again changes nothing, and the order does not matter.
    assert label_results(labelled) == labelled
    assert label_results(reversed(labelled)) == labelled[::-1]


def test_an_edited_record_changes_no_other_name():
    good = StoredResult(Path("a.json"), make_row(), unchanged=True)
    edited = StoredResult(
        Path("b.json"), make_row(model={"weights_sha256": "1" * 64}), unchanged=False
    )
    labelled = label_results([good, edited])
    models = [result.model for result in labelled]
    assert models == ["scenes-cosmos", "scenes-cosmos (edited record)"]
    (line,) = result_warnings(labelled)
    assert line.endswith(": b.json")


def test_rows_of_a_board():
    state = {"weights_sha256": "1" * 64}
    rows = [make_row(), make_row(dataset="b"), make_row(model=state), make_row(dataset="c")]
    (board,) = make_boards(entries_of_rows(rows))
    assert [(row.model, sum(e is not None for e in row.entries)) for row in board.rows] == [
        ("scenes-cosmos (weights 00000000)", 3),
        ("scenes-cosmos (weights 11111111)", 1),
    ]
    assert WARNING.replace(SPEC, "scenes-cosmos") + "." in board.notes


@pytest.mark.parametrize("form", ["table", "md", "tex", "html"])
def test_tables_have_a_row_each_and_a_warning(command, folder, form):
    done = command("leaderboard", folder, "--format", form)
    shown = " ".join(done.out.replace(r"\allowbreak{}", "").replace("\\", "").split())
    assert all(shown.count(name) == 1 for name in NAMES)
    assert WARNING in shown
    assert done.err == ""


def test_csv_json_and_tables_of_pandas(command, folder, tmp_path):
    done = command("leaderboard", folder, "--format", "csv")
    assert sorted({line["model"] for line in csv.DictReader(io.StringIO(done.out))}) == NAMES
    assert done.err == f"note: {WARNING}\n"
    done = command("leaderboard", folder, "--format", "json")
    assert sorted({record["model"] for record in json.loads(done.out)}) == NAMES
    assert done.err == f"note: {WARNING}\n"
    done = command("export", folder, "--output", tmp_path / "all.csv")
    assert f"note: {WARNING}" in done.err
    table = pd.read_csv(tmp_path / "all.csv")
    assert set(table["weights_sha256"]) == {"a" * 64, "b" * 64}
    for read in (cosmos_eval.load_results, cosmos_eval.read_results):
        with pytest.warns(UserWarning, match="2 models are called"):
            read(folder)


def test_two_states_are_compared_by_their_hashes(command, folder, tmp_path):
    state = {"spec": SPEC, "weights_sha256": "b" * 64}
    store(tmp_path / "new", "cls", 0.6, 1, model=state)
    done = command("compare", folder, tmp_path / "new")
    assert (done.status, done.out) == (2, "")
    assert f"{folder} has several models ({NAMES[0]}, {NAMES[1]}): choose with --model" in done.err
    done = command("compare", folder, folder, "--model", SPEC)
    assert done.status == 2
    assert "several results of model" in done.err
    done = command("compare", *folder.glob("*scenes-cls*.json"), "new")
    assert (done.status, done.out.splitlines()[1:3]) == (0, [f"A: {NAMES[0]}", f"B: {NAMES[1]}"])
