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

SHOWN = sorted(one.shown for one in HOSTILE)
NAMES = sorted(one.name for one in HOSTILE)
ODD_FOLDER = "\x1b[31m\n::error::7 <b>"
ODD_FOLDER_SHOWN = r"\x1b[31m \x3a:error::7 <b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Results of models, data sets and protocols of each name; `b` are other models."""
    made = tmp_path_factory.mktemp("hostile") / "r"
    folders = (made / "a", 0.8, ""), (made / "b", 0.5, " b"), (made.with_name("worse"), 0.2, "")
    for place, (side, skill, more) in enumerate(folders):
        row, samples = make_result("cls", skill, place)
        for one in HOSTILE:
            spec = f"{one.name}{more}"
            digest = hashlib.sha256(spec.encode()).hexdigest()
            model = {**row.model, "spec": spec, "weights_sha256": digest}
            provenance = {**row.provenance, "notes": [one.name], "command": one.name}
            names = {"dataset": one.name, "protocol": one.name}
            named = replace(row, model=model, provenance=provenance, **names)
            write_result(side, named, samples)
    return made


def cells_of(text: str) -> list[list[str]]:
    """All rows of all tables of Markdown, no cell of which may hold more than text."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("td_open", "th_open"):
            kinds = {child.type for child in token.children}
            # Bold numbers and line breaks inside cells are the table's own.
            assert kinds <= {"text", "strong_open", "strong_close", "html_inline"}, token.content
            inline = {c.content for c in token.children if c.type == "html_inline"}
            assert inline <= {"<br>"}, token.content
            rows[-1].append("".join(child.content for child in token.children))
    return rows


def test_leaderboard_md(command, folder):
    text = command("leaderboard", folder / "a", "--format", "md").out
    assert_only_text(text)
    head, *rows = cells_of(text)
    assert sorted(row[0] for row in rows) == SHOWN
    assert [one for one in SHOWN if not any(title.startswith(one) for title in head[1:])] == []
    assert {len(row) for row in rows} == {1 + len(SHOWN)}


def test_leaderboard_table(command, folder):
    text = command("leaderboard", folder / "a").out
    assert_only_text(text)
    # Longer names lose folders, and are broken over lines.
    short = {shown for shown in SHOWN if len(shown) <= 20}
    assert [shown for shown in short if shown not in text] == []
    assert len(short) > 5


def test_leaderboard_csv(command, folder):
    text = command("leaderboard", folder / "a", "--format", "csv").out
    assert_only_text(text)
    lines = list(csv.DictReader(io.StringIO(text)))
    for column in ("model", "dataset", "protocol"):
        cells = {line[column] for line in lines}
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))]
        found = {cell.removeprefix("'") for cell in cells}
        assert found == {in_csv(one.name) for one in HOSTILE}
    frame = pd.read_csv(io.StringIO(text))
    assert frame["value"].dtype == float
    assert len(frame) == len(lines) == 4 * len(HOSTILE)


def in_csv(name: str) -> str:
    """What is expected in a cell: control characters by their codes, spaces as they are."""
    codes = {"\t": r"\x09", "\n": r"\x0a", "\r": r"\x0d", "\u2028": r"\u2028", "\u2029": r"\u2029"}
    text = "".join(codes.get(character, character) for character in name)
    return next((one.shown for one in HOSTILE if one.name == name and text == name), None) or (
        text.replace("::error title", r"\x3a:error title")
    )


_UNTEX = {
    r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~",
    r"\textasciigrave{}": "`", r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|",
    "{[}": "[", "{]}": "]", "{*}": "*", "-{}-": "--",
    **{f"\\{character}": character for character in "{}$&#%_"},
}  # fmt: skip


def test_leaderboard_tex(command, folder):
    text = command("leaderboard", folder / "a", "--format", "tex").out
    assert_only_text(text)
    escaped = re.compile("|".join(re.escape(key) for key in sorted(_UNTEX, key=len)[::-1]))
    plain = text.replace(r"\allowbreak{}", "")
    bodies = re.findall(r"(?s)\\midrule\n(.*?)\\bottomrule", plain)
    rows = [row for body in bodies for row in body.splitlines()]
    names = [re.sub(r"^\{\\raggedright (.*)\\par\}$", r"\1", r.split(" & ")[0]) for r in rows]
    for name in names:
        assert not re.search(r"[\\{}$&#%_^~`<>|]", escaped.sub("", name)), name
    assert sorted(escaped.sub(lambda found: _UNTEX[found[0]], name) for name in names) == SHOWN


# Line breaks are white space of HTML.
NOT_IN_PAGES = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def in_html(text: str) -> str:
    """A text as a page shows it: logs alone know commands."""
    return " ".join(text.replace(r"\x3a:", "::").replace(r"\x23", "#").split())


def test_leaderboard_html(command, folder):
    text = command("leaderboard", folder / "a", "--format", "html").out
    assert NOT_IN_PAGES.findall(text) == []
    page = Page(text)
    assert not page.all("img")
    (script,) = page.all("script")
    assert not [name for name in SHOWN if name in script.text]
    assert not [name for name in page.names if name.startswith("on")]
    rows = [one.text for one in page.all("th") if one.attributes.get("scope") == "row"]
    assert sorted(map(in_html, rows)) == sorted(map(in_html, SHOWN))


def test_leaderboard_json(command, folder):
    text = command("leaderboard", folder / "a", "--format", "json").out
    assert_only_text(text)
    records = json.loads(text)
    for field in ("model", "dataset", "protocol"):
        assert sorted(record[field] for record in records) == NAMES


@pytest.mark.parametrize("one", HOSTILE, ids=ascii)
def test_compare(command, folder, one):
    a, b = (next(p for p in (folder / sub).glob("*.json") if named(p) == one.name) for sub in "ab")
    done = command("compare", a, b)
    assert done.status == 0, done.err
    assert_only_text(done.out + done.err)
    _, first, second, *_ = done.out.splitlines()
    assert first == f"A: {one.shown}"
    assert second == f"B: {one.shown.strip()} b"


def test_compare_json(command, folder):
    """One of the names stands for all: `test_leaderboard_json` has every name."""
    a, b = (next(iter(sorted((folder / sub).glob("*add-mask*.json")))) for sub in "ab")
    text = command("compare", a, b, "--json").out
    assert_only_text(text)
    assert json.loads(text)["a"] == named(a)


def named(path: Path) -> str:
    return json.loads(path.read_text())["dataset"]


def test_check(command, folder, tmp_path, monkeypatch):
    baseline = tmp_path / "base.json"
    reason = ("--update", "--reason", "r")
    done = command("check", folder / "a", "--baseline", baseline, *reason)
    assert done.status == 0, done.err
    assert_only_text(done.out + done.err)
    worse = folder.with_name("worse")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    files = ("--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md")
    done = command("check", worse, "--baseline", baseline, *files, "--json")
    assert done.status == 1
    assert_only_text(done.out)
    assert sorted({found["model"] for found in json.loads(done.out)["findings"]}) == NAMES
    annotations = [line for line in done.err.splitlines() if line.startswith("::error title=")]
    assert len(annotations) >= len(HOSTILE)
    assert_only_text(done.err, commands=len(annotations))
    text = (tmp_path / "s.md").read_text("utf-8")
    assert_only_text(text)
    rows = [row for row in cells_of(text) if row[0] != "model"]
    for column in range(3):
        assert sorted({row[column] for row in rows}) == SHOWN
    cases = ET.parse(tmp_path / "j.xml").getroot().findall(".//testcase")
    assert sorted({case.get("classname") for case in cases}) == SHOWN
    monkeypatch.delenv("GITHUB_ACTIONS")
    done = command("check", *sorted(worse.glob("*.json"))[:3], "--baseline", baseline)
    assert done.status == 1
    assert_only_text(done.out + done.err)
    assert len(done.err.splitlines()) >= len(HOSTILE) - 3  # results that are missing, a line each


def test_export(command, folder, tmp_path):
    done = command("export", folder / "a", "--output", tmp_path / "all.csv")
    assert done.status == 0
    assert "texts would be formulas or several lines in CSV, and are escaped" in done.err
    content = (tmp_path / "all.csv").read_text("utf-8")
    assert_only_text(content)
    table = pd.read_csv(tmp_path / "all.csv")
    assert len(table) == 4 * len(HOSTILE)
    assert {name.removeprefix("'") for name in table["model"]} == {in_csv(o.name) for o in HOSTILE}
    assert not table["model"].str.lstrip().str.startswith(("=", "+", "-", "@")).any()
    assert (table["value"].dtype, table["low"].dtype) == (float, float)
    command("export", folder / "a", "--output", tmp_path / "all.parquet")
    # Parquet has no formulas and no lines.
    exact = pd.read_parquet(tmp_path / "all.parquet")
    assert sorted(set(exact["model"])) == NAMES
    assert exact["value"].tolist() == table["value"].tolist()


def test_numbers_that_begin_with_a_sign_stay_numbers(command, tmp_path):
    where = {"dataset": "imagenet1k", "protocol": "cosmos"}
    store(tmp_path / "r", "cls", 0.3, model={"spec": "cosmos:vitb16_cc3m"}, **where)
    lines = io.StringIO(command("leaderboard", "r", "--format", "csv").out)
    (line,) = [line for line in csv.DictReader(lines) if line["delta"]]
    assert line["delta"][0] in "+-"
    assert abs(float(line["delta"])) < 100


def test_report(command, folder, tmp_path):
    done = command("report", folder, "--output", tmp_path / "p.html", "--no-pictures")
    assert done.status == 0
    assert_only_text(done.out + done.err)
    text = (tmp_path / "p.html").read_text("utf-8")
    body = re.sub(r"(?s)<(script|style).*?</\1>", "", text)
    assert NOT_IN_PAGES.findall(text) == []
    page = Page(body)
    assert not page.all("script", "img", "style")
    assert not [name for name in page.names if name.startswith("on")]
    # Samples and mistakes have the numbers of their models.
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
def test_error_lines(command, arguments):
    # All that is not printed as it is, but for what no argument of a process can hold.
    odd = "".join(one.name for one in HOSTILE if one.text and "\0" not in one.name)
    done = command(*(argument.format(odd) for argument in arguments))
    assert done.status == 2
    assert_only_text(done.out + done.err)
    # `check` prints baseline, verdict and what is wrong with either path, `verify` also a count.
    lines = (done.out + done.err).splitlines()
    assert len(lines) == {"check": 4, "verify": 2}.get(arguments[0], 1)
    assert r"\x1b[31mh" in done.out + done.err


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(monkeypatch, capsys, terminal):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    for one in HOSTILE:
        with bars.Progress() as progress:
            progress.step(one.name, Progress(one.name, 0, 1, note=one.name))
            progress.print(f"wrote a{one.name.replace('/', '')}")
        err = capsys.readouterr().err
        assert f"{one.shown}: {one.shown}\n" in err
        assert one.text or f"wrote a{one.shown.replace('/', '')}\n" in err
        if not terminal:
            assert_only_text(err)


def test_paths(command, tmp_path):
    """Folders of odd names, whose paths commands print."""
    path = store(tmp_path / ODD_FOLDER, "cls", model={"spec": "m"})
    for arguments in (
        ("verify", path),
        ("verify", ODD_FOLDER),
        ("export", ODD_FOLDER, "--output", f"{ODD_FOLDER}/all.csv"),
        ("report", ODD_FOLDER, "--output", f"{ODD_FOLDER}/p.html", "--no-pictures"),
        ("check", ODD_FOLDER, "--baseline", f"{ODD_FOLDER}.json", "--update", "--reason", "r"),
        ("check", ODD_FOLDER, "--baseline", f"{ODD_FOLDER}.json", "--summary", "s.md"),
    ):
        done = command(*arguments)
        assert_only_text(done.out + done.err)
        assert ODD_FOLDER_SHOWN in done.out + done.err or arguments[-1] == "s.md"
    tokens = MarkdownIt("commonmark").parse((tmp_path / "s.md").read_text())
    (code,) = [c for t in tokens for c in t.children or () if c.type == "code_inline"]
    assert code.content == f"{ODD_FOLDER_SHOWN}.json"


def test_doctor_of_a_data_set_of_an_odd_name(command, tmp_path):
    odd = "\x1b[31m[red]\n::error::a"
    (tmp_path / "set.yaml").write_text(
        json.dumps({"kind": "retrieval", "name": odd, "images": odd, "annotations": f"{odd}.json"})
    )
    done = command("data", "doctor", "set.yaml")
    assert done.status in (1, 2)
    assert_only_text(done.out + done.err)


def test_errors_of_training(monkeypatch, capsys):
    for one in HOSTILE:
        monkeypatch.setattr(sys, "argv", ["cosmos-train", "scenes", "--set", f"a{one.name}=1"])
        with pytest.raises(SystemExit, match="2"):
            train()
        out, err = capsys.readouterr()
        assert_only_text(out + err)
        assert len(err.splitlines()) == 1


def test_one_line():
    for one in HOSTILE:
        assert escaping.one_line(one.name) == escaping.one_line(one.shown) == one.shown


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
        assert [(c.type, c.content) for c in token.children] == [("code_inline", text)]
