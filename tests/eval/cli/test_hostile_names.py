"""Names from data arrive as text in every output of every command."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from support.hostile import HOSTILE, assert_only_text
from support.html import Page
from support.models import make_result, store
from support.rows import write_result

from cosmos_core.train import main as train
from cosmos_eval.cli import progress as bars
from cosmos_eval.results import text as escaping
from cosmos_eval.types import Progress

SHOWN = sorted(hostile.shown for hostile in HOSTILE)
NAMES = sorted(hostile.name for hostile in HOSTILE)
ODD_FOLDER = "\x1b[31m\n::error::7 <b>"
ODD_FOLDER_SHOWN = r"\x1b[31m \x3a:error::7 <b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Store results of models, data sets and protocols of each name.

    The subfolder `a` has good models, `b` other models, and the folder `worse` beside it has
    models with the names of `a` that are worse.
    """
    parent = tmp_path_factory.mktemp("hostile") / "r"
    folders = (
        (parent / "a", 0.8, ""),
        (parent / "b", 0.5, " b"),
        (parent.with_name("worse"), 0.2, ""),
    )
    for seed, (subfolder, skill, suffix) in enumerate(folders):
        row, samples = make_result("cls", skill, seed)
        for hostile in HOSTILE:
            spec = f"{hostile.name}{suffix}"
            digest = hashlib.sha256(spec.encode()).hexdigest()
            hostile_row = replace(
                row,
                model={**row.model, "spec": spec, "weights_sha256": digest},
                provenance={**row.provenance, "notes": [hostile.name], "command": hostile.name},
                dataset=hostile.name,
                protocol=hostile.name,
            )
            write_result(subfolder, hostile_row, samples)
    return parent


def cells_of(text: str) -> list[list[str]]:
    """Return the cells of all rows of all tables of Markdown, and check that they are only text."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    rows: list[list[str]] = []
    for previous_token, token in pairwise(tokens):
        if previous_token.type == "tr_open":
            rows.append([])
        if previous_token.type in ("td_open", "th_open"):
            types = {child.type for child in token.children}
            # The table itself has bold numbers, and line breaks inside cells.
            assert types <= {"text", "strong_open", "strong_close", "html_inline"}, token.content
            html = {child.content for child in token.children if child.type == "html_inline"}
            assert html <= {"<br>"}, token.content
            rows[-1].append("".join(child.content for child in token.children))
    return rows


def test_a_leaderboard_in_markdown_shows_them_as_text(command, folder):
    text = command("leaderboard", folder / "a", "--format", "md").out
    assert_only_text(text)
    header, *rows = cells_of(text)
    assert sorted(row[0] for row in rows) == SHOWN
    for shown in SHOWN:
        assert any(title.startswith(shown) for title in header[1:])
    assert {len(row) for row in rows} == {1 + len(SHOWN)}


def test_a_leaderboard_in_a_terminal_shows_them_as_text(command, folder):
    text = command("leaderboard", folder / "a").out
    assert_only_text(text)
    # Longer names lose folders, and are broken over lines.
    short_names = {shown for shown in SHOWN if len(shown) <= 20}
    assert [shown for shown in short_names if shown not in text] == []
    assert len(short_names) > 5


def test_a_leaderboard_in_csv_has_no_formulas(command, folder):
    text = command("leaderboard", folder / "a", "--format", "csv").out
    assert_only_text(text)
    lines = list(csv.DictReader(io.StringIO(text)))
    for column in ("model", "dataset", "protocol"):
        cells = {line[column] for line in lines}
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))]
        names = {cell.removeprefix("'") for cell in cells}
        assert names == {in_csv(hostile.name) for hostile in HOSTILE}
    frame = pd.read_csv(io.StringIO(text))
    assert frame["value"].dtype == float
    assert len(frame) == len(lines) == 4 * len(HOSTILE)


def in_csv(name: str) -> str:
    """Return the expected text of a cell: control characters by their codes, spaces unchanged."""
    codes = {"\t": r"\x09", "\n": r"\x0a", "\r": r"\x0d", "\u2028": r"\u2028", "\u2029": r"\u2029"}
    text = "".join(codes.get(character, character) for character in name)
    if text != name:
        return text.replace("::error title", r"\x3a:error title")
    # Without such characters, a name is shown in CSV as everywhere.
    (hostile,) = [hostile for hostile in HOSTILE if hostile.name == name]
    return hostile.shown


_UNTEX = {
    r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~",
    r"\textasciigrave{}": "`", r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|",
    "{[}": "[", "{]}": "]", "{*}": "*", "-{}-": "--",
    **{f"\\{character}": character for character in "{}$&#%_"},
}  # fmt: skip


def test_a_leaderboard_in_latex_escapes_them(command, folder):
    text = command("leaderboard", folder / "a", "--format", "tex").out
    assert_only_text(text)
    escape = re.compile("|".join(re.escape(key) for key in sorted(_UNTEX, key=len)[::-1]))
    names = []
    without_breaks = text.replace(r"\allowbreak{}", "")
    for body in re.findall(r"(?s)\\midrule\n(.*?)\\bottomrule", without_breaks):
        for row in body.splitlines():
            first_cell = row.split(" & ")[0]
            names.append(re.sub(r"^\{\\raggedright (.*)\\par\}$", r"\1", first_cell))
    for name in names:
        assert not re.search(r"[\\{}$&#%_^~`<>|]", escape.sub("", name)), name

    def unescape(match):
        return _UNTEX[match[0]]

    assert sorted(escape.sub(unescape, name) for name in names) == SHOWN


# Line breaks are white space of HTML.
NOT_IN_PAGES = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def in_html(text: str) -> str:
    """Return a text as a page shows it. Only logs escape the colons of commands and the hash."""
    return " ".join(text.replace(r"\x3a:", "::").replace(r"\x23", "#").split())


def test_a_leaderboard_in_html_shows_them_as_text(command, folder):
    text = command("leaderboard", folder / "a", "--format", "html").out
    assert NOT_IN_PAGES.findall(text) == []
    page = Page(text)
    assert not page.all("img")
    (script,) = page.all("script")
    assert not [name for name in SHOWN if name in script.text]
    assert not [name for name in page.names if name.startswith("on")]
    row_names = [th.text for th in page.all("th") if th.attributes.get("scope") == "row"]
    assert sorted(map(in_html, row_names)) == sorted(map(in_html, SHOWN))


def test_a_leaderboard_in_json_has_them_unchanged(command, folder):
    text = command("leaderboard", folder / "a", "--format", "json").out
    assert_only_text(text)
    records = json.loads(text)
    for field in ("model", "dataset", "protocol"):
        assert sorted(record[field] for record in records) == NAMES


def dataset_of(path: Path) -> str:
    return json.loads(path.read_text())["dataset"]


def result_on(folder: Path, dataset: str) -> Path:
    """Return the path of the first result of a folder on a data set."""
    return next(path for path in folder.glob("*.json") if dataset_of(path) == dataset)


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_compare_prints_them_as_text(command, folder, hostile):
    a, b = result_on(folder / "a", hostile.name), result_on(folder / "b", hostile.name)
    ended = command("compare", a, b)
    assert ended.status == 0, ended.err
    assert_only_text(ended.out + ended.err)
    _, first, second, *_ = ended.out.splitlines()
    assert first == f"A: {hostile.shown}"
    assert second == f"B: {hostile.shown.strip()} b"


def test_compare_prints_json_with_the_unchanged_name(command, folder):
    """One name is enough, as the test of the leaderboard in JSON has all names."""
    a = min((folder / "a").glob("*add-mask*.json"))
    b = min((folder / "b").glob("*add-mask*.json"))
    text = command("compare", a, b, "--json").out
    assert_only_text(text)
    assert json.loads(text)["a"] == dataset_of(a)


def test_check_shows_them_as_text_in_every_report(command, folder, tmp_path, monkeypatch):
    baseline = tmp_path / "base.json"
    reason = ("--update", "--reason", "r")
    ended = command("check", folder / "a", "--baseline", baseline, *reason)
    assert ended.status == 0, ended.err
    assert_only_text(ended.out + ended.err)
    worse = folder.with_name("worse")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    files = ("--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md")
    ended = command("check", worse, "--baseline", baseline, *files, "--json")
    assert ended.status == 1
    assert_only_text(ended.out)
    assert sorted({finding["model"] for finding in json.loads(ended.out)["findings"]}) == NAMES
    annotations = [line for line in ended.err.splitlines() if line.startswith("::error title=")]
    assert len(annotations) >= len(HOSTILE)
    assert_only_text(ended.err, commands=len(annotations))
    text = (tmp_path / "s.md").read_text("utf-8")
    assert_only_text(text)
    rows = [row for row in cells_of(text) if row[0] != "model"]
    for column in range(3):
        assert sorted({row[column] for row in rows}) == SHOWN
    cases = ET.parse(tmp_path / "j.xml").getroot().findall(".//testcase")
    assert sorted({case.get("classname") for case in cases}) == SHOWN
    monkeypatch.delenv("GITHUB_ACTIONS")
    ended = command("check", *sorted(worse.glob("*.json"))[:3], "--baseline", baseline)
    assert ended.status == 1
    assert_only_text(ended.out + ended.err)
    # Each of the results that are missing now has a line.
    assert len(ended.err.splitlines()) >= len(HOSTILE) - 3


def test_export_escapes_them_in_csv_only(command, folder, tmp_path):
    ended = command("export", folder / "a", "--output", tmp_path / "all.csv")
    assert ended.status == 0
    assert "texts would be formulas or several lines in CSV, and are escaped" in ended.err
    content = (tmp_path / "all.csv").read_text("utf-8")
    assert_only_text(content)
    table = pd.read_csv(tmp_path / "all.csv")
    assert len(table) == 4 * len(HOSTILE)
    names = {name.removeprefix("'") for name in table["model"]}
    assert names == {in_csv(hostile.name) for hostile in HOSTILE}
    assert not table["model"].str.lstrip().str.startswith(("=", "+", "-", "@")).any()
    assert (table["value"].dtype, table["low"].dtype) == (float, float)
    command("export", folder / "a", "--output", tmp_path / "all.parquet")
    # Parquet has no formulas and no lines.
    exact = pd.read_parquet(tmp_path / "all.parquet")
    assert sorted(set(exact["model"])) == NAMES
    assert exact["value"].tolist() == table["value"].tolist()


def test_numbers_that_begin_with_a_sign_stay_numbers(command, tmp_path):
    store(
        tmp_path / "r",
        "cls",
        0.3,
        model={"spec": "cosmos:vitb16_cc3m"},
        dataset="imagenet1k",
        protocol="cosmos",
    )
    lines = io.StringIO(command("leaderboard", "r", "--format", "csv").out)
    (line,) = [line for line in csv.DictReader(lines) if line["delta"]]
    assert line["delta"][0] in "+-"
    assert abs(float(line["delta"])) < 100


def test_a_report_shows_them_as_text(command, folder, tmp_path):
    ended = command("report", folder, "--output", tmp_path / "p.html", "--no-pictures")
    assert ended.status == 0
    assert_only_text(ended.out + ended.err)
    text = (tmp_path / "p.html").read_text("utf-8")
    body = re.sub(r"(?s)<(script|style).*?</\1>", "", text)
    assert NOT_IN_PAGES.findall(text) == []
    page = Page(body)
    assert not page.all("script", "img", "style")
    assert not [name for name in page.names if name.startswith("on")]
    # Samples and mistakes have numbers in place of the names of their models.
    names = [value for value in page.values("data-model") if not value.isdigit()]
    models = set(map(in_html, names))
    assert set(map(in_html, SHOWN)) <= models
    data = json.loads(re.search(r'(?s)<script type="application/json".*?>(.*?)</script>', text)[1])
    assert set(map(in_html, data["models"])) == models


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--dataset", "{}"),
        ("run", "--model", "{}", "--dataset", "scenes-cls"),
        ("run", "x{}"),
        ("leaderboard", "x{}"),
        ("export", "x{}", "--output", "x.csv"),
        ("report", "x{}", "--output", "x.html"),
        ("compare", "x{}", "x"),
        ("check", "x{}", "--baseline", "x{}"),
        ("verify", "x{}"),
        ("reproduce", "x{}"),
        ("data", "doctor", "{}"),
        ("data", "prepare", "{}"),
        ("list", "x{}"),
    ],
    ids=" ".join,
)
def test_error_lines_show_them_as_text(command, arguments):
    # Arguments of a process cannot have null characters.
    names = [hostile.name for hostile in HOSTILE if hostile.text and "\0" not in hostile.name]
    all_names = "".join(names)
    ended = command(*(argument.format(all_names) for argument in arguments))
    assert ended.status == 2
    assert_only_text(ended.out + ended.err)
    # `check` prints the baseline, the verdict and the faults of both paths; `verify` adds a count.
    lines = (ended.out + ended.err).splitlines()
    assert len(lines) == {"check": 4, "verify": 2}.get(arguments[0], 1)
    assert r"\x1b[31mh" in ended.out + ended.err


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_them_as_text(monkeypatch, capsys, terminal):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    for hostile in HOSTILE:
        with bars.Progress() as progress:
            progress.step(hostile.name, Progress(hostile.name, 0, 1, note=hostile.name))
            progress.print(f"wrote a{hostile.name.replace('/', '')}")
        err = capsys.readouterr().err
        assert f"{hostile.shown}: {hostile.shown}\n" in err
        assert hostile.text or f"wrote a{hostile.shown.replace('/', '')}\n" in err
        if not terminal:
            assert_only_text(err)


def test_printed_paths_of_odd_folders_are_text(command, tmp_path):
    path = store(tmp_path / ODD_FOLDER, "cls", model={"spec": "m"})
    for arguments in (
        ("verify", path),
        ("verify", ODD_FOLDER),
        ("export", ODD_FOLDER, "--output", f"{ODD_FOLDER}/all.csv"),
        ("report", ODD_FOLDER, "--output", f"{ODD_FOLDER}/p.html", "--no-pictures"),
        ("check", ODD_FOLDER, "--baseline", f"{ODD_FOLDER}.json", "--update", "--reason", "r"),
        ("check", ODD_FOLDER, "--baseline", f"{ODD_FOLDER}.json", "--summary", "s.md"),
    ):
        ended = command(*arguments)
        assert_only_text(ended.out + ended.err)
        assert ODD_FOLDER_SHOWN in ended.out + ended.err or arguments[-1] == "s.md"
    tokens = MarkdownIt("commonmark").parse((tmp_path / "s.md").read_text())
    children = [child for token in tokens for child in token.children or ()]
    (code,) = [child for child in children if child.type == "code_inline"]
    assert code.content == f"{ODD_FOLDER_SHOWN}.json"


def test_the_doctor_shows_an_odd_name_of_a_data_set_as_text(command, tmp_path):
    odd = "\x1b[31m[red]\n::error::a"
    (tmp_path / "set.yaml").write_text(
        json.dumps({"kind": "retrieval", "name": odd, "images": odd, "annotations": f"{odd}.json"})
    )
    ended = command("data", "doctor", "set.yaml")
    assert ended.status in (1, 2)
    assert_only_text(ended.out + ended.err)


def test_errors_of_training_are_one_line_of_text(monkeypatch, capsys):
    for hostile in HOSTILE:
        arguments = ["scenes", "--set", f"a{hostile.name}=1"]
        monkeypatch.setattr(sys, "argv", ["cosmos-train", *arguments])
        with pytest.raises(SystemExit, match="2"):
            train()
        out, err = capsys.readouterr()
        assert_only_text(out + err)
        assert len(err.splitlines()) == 1


def test_one_line_escapes_a_name_once():
    for hostile in HOSTILE:
        assert escaping.one_line(hostile.name) == hostile.shown
        assert escaping.one_line(hostile.shown) == hostile.shown


def test_lone_surrogates_can_be_printed():
    odd = "a\ud800b\udcff"
    assert escaping.one_line(odd) == r"a\ud800b\udcff"
    for write in (
        escaping.markdown_text, escaping.latex_text, escaping.csv_text, escaping.json_text,
        escaping.script_json, escaping.html_value, escaping.markdown_code,
    ):  # fmt: skip
        write(odd).encode()
    assert json.loads(escaping.json_text(odd)) == odd


def test_code_of_markdown_may_hold_backticks():
    for text in ("a", "`", "a``b`", "``` c", "|"):
        (token,) = MarkdownIt().parseInline(escaping.markdown_code(text))
        children = [(child.type, child.content) for child in token.children]
        assert children == [("code_inline", text)]
