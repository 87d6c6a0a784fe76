"""`cosmos-eval report` with pictures, as it is typed."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from support.galleries import measure


@pytest.fixture
def colours(tmp_path: Path, save_colour) -> Path:
    for colour in ("red", "green", "blue"):
        for number in range(2):
            save_colour(tmp_path / "colours" / colour / f"{number}.png", colour)
    described = tmp_path / "colours.yaml"
    described.write_text("kind: cls\nfolder: colours\ntemplates: ['a {}']\n")
    return described


@pytest.fixture
def results(colours: Path, model: str, tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    measure(folder, model, colours)
    return folder


def pictures(page: Path) -> set[bytes]:
    text = page.read_text("utf-8")
    encoded_pictures = re.findall(r"data:image/webp;base64,([\w+/=]+)", text)
    return {base64.b64decode(encoded) for encoded in encoded_pictures}


def test_a_page_with_and_without_examples(command, results: Path, colours: Path) -> None:
    page = Path("page.html")
    ended = command("report", results, "--output", page, "--dataset", colours)
    assert ended.status == 0, ended.err
    shown = pictures(page)
    assert shown
    assert all(content[:4] == b"RIFF" and content[8:12] == b"WEBP" for content in shown)
    ended = command("report", results, "--output", page, "--no-pictures")
    assert ended.status == 0, ended.err
    assert "not shown" not in ended.err
    assert pictures(page) == set()


def test_missing_pictures_are_noted(command, results: Path) -> None:
    page = Path("page.html")
    ended = command("report", results, "--output", page)
    assert ended.status == 0
    line = "colours: no pictures: name the YAML file that describes it with --dataset FILE"
    assert line in ended.err
    assert line in page.read_text("utf-8")
    assert pictures(page) == set()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dataset", "other.yaml", "no result was measured on your data set other"),
        ("--dataset", "none.yaml", "none.yaml: no such file"),
        ("--data-root", "nowhere", "no folder nowhere, see --data-root"),
        ("--predictions", "nowhere", "no folder nowhere, see --predictions"),
    ],
)
def test_bad_input(option: str, value: str, message: str, command, results, tmp_path) -> None:
    (tmp_path / "other.yaml").write_text("kind: cls\nfolder: colours\n")
    ended = command("report", results, "--output", "page.html", option, value)
    assert ended.status == 2
    assert ended.err.startswith("cosmos-eval: ")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()
