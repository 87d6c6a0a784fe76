"""Results as one table, read and written."""

import sys

import pandas as pd
import pytest
from support.results import store_result
from support.rows import make_row, write_result

import cosmos_eval
from cosmos_eval.cli.app import main
from cosmos_eval.results.export import COLUMNS, export, load_results
from cosmos_eval.types import UsageError


@pytest.fixture
def folder(tmp_path):
    """Four metrics in two results, one in a folder of its own."""
    write_result(tmp_path / "runs/eval", make_row(), {})
    write_result(tmp_path / "runs/eval/student", make_row(model={"weights": "student"}), {})
    return tmp_path / "runs/eval"


def test_one_table_of_a_folder_and_those_in_it(folder, monkeypatch):
    table = cosmos_eval.load_results(folder)
    assert (tuple(table.columns), len(table)) == (COLUMNS, 4)
    plain = table[(table.variant == "") & (table.metric == "acc1")]
    assert plain[["value", "low", "high"]].to_numpy().tolist() == [[0.25, 0.125, 0.5]]
    assert plain["method"].tolist() == ["wilson"]
    # The plain result's file sorts before that in the folder `student`.
    assert table["variant"].tolist() == ["", "", "student", "student"]
    assert table["file"].tolist()[0].endswith("runs/eval/scenes-cosmos__scenes-cls__scenes.json")
    monkeypatch.chdir(folder.parents[1])
    assert len(load_results()) == 4
    of_folder, of_file = load_results(folder / "student"), load_results(table["file"][0])
    assert len(of_folder) + len(of_file) == 4
    assert len(load_results(folder / "student", table["file"][0])) == 4


def test_loading_from_an_empty_place_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no results \(\*.json\) in runs/eval: run "):
        load_results()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_keeps_every_float(folder, suffix, capsys):
    store_result(folder, "retrieval")
    out = folder.parent / f"deep/all.{suffix}"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(folder), "--output", str(out)])
    assert not ended.value.code, capsys.readouterr().err
    # By text, since how exactly pandas reads floats differs between its versions.
    again = pd.read_parquet(out) if suffix == "parquet" else pd.read_csv(out, dtype=str)
    table = load_results(folder)
    assert list(again.columns) == list(COLUMNS)
    for column in ("value", "low", "high"):
        assert again[column].dropna().map(float).tolist() == table[column].dropna().tolist()
    for column in ("model", "metric", "utc", "file"):
        assert again[column].tolist() == table[column].tolist()
    content = out.read_bytes()
    export(table, out)
    assert out.read_bytes() == content


def test_bad_exports_are_refused(folder, monkeypatch):
    table = load_results(folder)
    with pytest.raises(
        UsageError, match=r"cannot export to '.xlsx' files: end --output in .csv or"
    ):
        export(table, folder / "all.xlsx")
    with pytest.raises(UsageError, match="cannot write"):
        export(table, folder / "scenes-cosmos__scenes-cls__scenes.json" / "all.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'cosmos-eval\[parquet\]'"):
        export(table, folder / "all.parquet")
