"""A figure that was edited is in no ranking, and every command says so."""

import csv
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from support.models import store
from support.results import store_result

import cosmos_eval
from cosmos_eval.results.store import read_stored
from cosmos_eval.types import UsageError

EDITED = "0.99"
NOTE = "since the file was edited after it was written: scenes-clip__scenes-cls__scenes.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two models, of which the worse one's accuracy was edited to 99.0."""
    store(tmp_path / "r", "cls", 0.9)
    bad = store(tmp_path / "r", "cls", 0.4, 1, model={"spec": "scenes-clip"})
    edit(bad, re.compile(r'"acc1": 0\.\d+'), f'"acc1": {EDITED}')
    return tmp_path / "r"


def edit(path: Path, old: re.Pattern[str], new: str) -> None:
    text, count = old.subn(new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


# What each form puts around the best number, and around a number that is not.
BEST = {
    "md": (r"\*\*([\d.]+)\*\*", r"99\.0"),
    "tex": (r"\\textbf\{([\d.]+)\}", r"99\.0"),
    "html": (r"<b>([\d.]+)</b>", r"99\.0"),
}


@pytest.mark.parametrize("form", BEST)
def test_an_edited_figure_is_marked_and_not_the_best(command, folder, form):
    done = command("leaderboard", folder, "--format", form)
    assert done.status == 0
    assert not re.findall(BEST[form][0], done.out)  # nobody is best of one
    assert re.search(BEST[form][1], done.out)
    text = done.out.replace("\\", "")
    assert "scenes-clip (edited record)" in text
    assert re.search(r"unverified\b", text)
    assert NOTE in text
    assert "rank" not in re.sub("(?s)<style>.*</style>|[Nn]ot ranked", "", text)


def test_an_edited_figure_is_marked_in_the_terminal(command, folder):
    text = " ".join(command("leaderboard", folder).out.split())
    assert "scenes-clip (edited record) unverified" in text
    assert f"Not ranked and not compared, {NOTE}." in text


def test_an_edited_figure_is_unverified_in_csv_and_json(command, folder):
    done = command("leaderboard", folder, "--format", "csv")
    lines = [line for line in csv.DictReader(io.StringIO(done.out)) if line["metric"] == "acc1"]
    fields = {line["model"]: (line["source"], line["best"], line["rank_low"]) for line in lines}
    assert fields["scenes-clip (edited record)"] == ("unverified", "", "")
    assert fields["scenes-cosmos"] == ("measured", "", "")
    assert NOTE in done.err
    done = command("leaderboard", folder, "--format", "json")
    sources = {record["model"]: record["source"] for record in json.loads(done.out)}
    assert sources == {"scenes-clip (edited record)": "unverified", "scenes-cosmos": "measured"}
    assert NOTE in done.err


def test_an_edited_figure_has_a_column_of_a_table(command, folder, tmp_path):
    for suffix, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        done = command("export", folder, "--output", tmp_path / f"all.{suffix}")
        assert done.status == 0
        assert NOTE in done.err
        table = read(tmp_path / f"all.{suffix}").groupby("model")["unchanged"].unique()
        assert {name: list(values) for name, values in table.items()} == {
            "scenes-clip": [False], "scenes-cosmos": [True],
        }  # fmt: skip
    with pytest.warns(UserWarning, match=NOTE):
        cosmos_eval.load_results(folder)
    with pytest.warns(UserWarning, match=NOTE):
        cosmos_eval.read_results(folder)


def test_an_edited_result_is_not_compared(command, folder):
    names = ("scenes-cosmos", "scenes-clip")
    good, bad = (folder / f"{name}__scenes-cls__scenes.json" for name in names)
    for arguments in ((good, bad), (bad, good)):
        done = command("compare", *arguments)
        assert (done.status, done.out) == (2, "")
        assert f"{bad} was edited after it was written" in done.err
        assert len(done.err.splitlines()) == 1


def test_a_comparison_of_folders_names_what_an_edit_leaves_out(command, folder):
    for spec, skill in (("scenes-cosmos", 0.9), ("scenes-clip", 0.4)):
        store(folder, "select", skill, model={"spec": spec})
    names = ("--model", "scenes-cosmos", "--model", "scenes-clip")
    done = command("compare", folder, folder, *names)
    assert done.status == 0
    assert "scenes-cls" not in done.out
    assert NOTE in done.err


def test_an_edited_result_reproduces_nothing(command, tmp_path):
    path = store(
        tmp_path / "r",
        "cls",
        0.4,
        model={"spec": "cosmos:vitb16_cc3m"},
        dataset="imagenet1k",
        protocol="cosmos",
    )

    def reproduction_of_accuracy(output):
        return next(
            record
            for record in json.loads(output)
            if (record["model"], record["metric"]) == ("cosmos:vitb16_cc3m", "acc1")
        )

    done = command("reproduce", tmp_path / "r", "--format", "json")
    assert reproduction_of_accuracy(done.out)["status"] in ("near", "differs")
    edit(path, re.compile(r'"acc1": 0\.\d+'), '"acc1": 0.371')
    done = command("reproduce", tmp_path / "r", "--format", "json")
    reproduction = reproduction_of_accuracy(done.out)
    assert (reproduction["status"], reproduction["measured"]) == ("unverified", None)
    assert f"edited after it was written: {path.name}" in done.err


def test_results_of_version_1_hold_no_hash_and_are_ranked():
    folder = Path(__file__).parent / "version_1"
    results = read_stored(sorted(folder.glob("*.json")))
    assert {result.unchanged for result in results} == {None}


def unchanged(path: Path) -> bool | None:
    return read_stored([path])[0].unchanged


# What a quick look at the text of a file could take for the end of a key.
ODD = ('a": b\\": c\\\\": d', 'a":b\\":c\\\\":d')


@pytest.fixture(params=ODD)
def odd(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A result with such texts in its notes, its hashes and as its architecture."""
    text = request.param
    return store_result(
        tmp_path, "cls",
        model={"spec": "m", "architecture": text},
        provenance={"notes": [text, "", " x", "two\nlines"], "hashes": {text: text, "": "é\u2028"}},
    )  # fmt: skip


def test_the_same_record_is_unchanged_in_whatever_form(odd):
    assert unchanged(odd) is True
    record = json.loads(odd.read_text())
    for form in ({}, {"indent": 4}, {"indent": 2}, {"ensure_ascii": False}, {"indent": "\t"}):
        odd.write_text(json.dumps(record, **form), "utf-8")
        assert unchanged(odd) is True


def test_edits_of_the_text_are_found(odd):
    """Characters are left out, doubled, or followed by a space. A change that JSON reads as the
    same record is not an edit."""
    text = odd.read_text()
    record = json.loads(text)
    n_edits = 0
    for match in re.finditer(r'[ \\:"](?=.*\\)|(?<=0\.)\d', text):
        for replacement in ("", match[0] * 2, f"{match[0]} "):
            odd.write_text(text[: match.start()] + replacement + text[match.end() :])
            try:
                is_same = json.loads(odd.read_text()) == record
                assert unchanged(odd) is is_same, text[match.start() - 20 : match.end() + 20]
            except (ValueError, UsageError):
                continue
            n_edits += not is_same
    assert n_edits > 40
