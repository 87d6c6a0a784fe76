"""docs/attention.md: its commands and its picture are what the program does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pages import blocks, typed

from cosmos_eval.reporting.attention import FORMATS

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "attention.md"
COMMANDS = [
    command
    for command in typed()
    if command.page == PAGE.name and command.line.startswith("cosmos-eval attend")
]


def test_the_picture_is_what_its_command_draws(command, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(DOCS)
    (arguments,) = [
        typed_command.arguments for typed_command in COMMANDS if "--csv" in typed_command.words
    ]
    out = arguments.index("--output") + 1
    drawn_before, arguments[out] = tmp_path / arguments[out], "now.png"
    assert command(*arguments).status == 0
    with Image.open(drawn_before) as before, Image.open("now.png") as now:
        assert now.size == before.size
        difference = np.asarray(now, np.int16) - np.asarray(before, np.int16)
    assert np.abs(difference).mean() < 1  # machines round differently


@pytest.mark.parametrize("arguments", [c.arguments for c in COMMANDS if "--csv" not in c.words])
def test_commands(arguments: list[str], command, photo: Path) -> None:
    photo.rename("my-photo.jpg")
    assert command(*arguments).status == 0
    assert Path(arguments[-1]).stat().st_size > 10_000


def test_python_example(command, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo.rename("my-photo.jpg")
    (block,) = blocks(PAGE, "python")
    exec(compile(block, "attention.md", "exec"), {})
    assert capsys.readouterr().out.startswith("values of cross-attention (8, 12) [('a', ")
    assert Path("attention.png").exists()


def test_every_form_is_described() -> None:
    text = PAGE.read_text("utf-8")
    assert [suffix for suffix in FORMATS if f"`{suffix}`" not in text] == []
