"""A small suite of a user's own: two models of random weights, two data sets of colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cosmos_eval.cli.app import main


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch, tmp_path) -> Callable[..., Done]:
    """Run `cosmos-eval` in this process and the test's folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def own_suite(tmp_path: Path, save_colour, tiny_archs: dict[str, str]) -> Path:
    """`own/suite.yaml` and what it names beside it; images in own/cold and own/warm."""
    folder = tmp_path / "own"
    for name, colours in {"cold": ("blue", "green"), "warm": ("red", "green")}.items():
        for colour in colours:
            save_colour(folder / name / colour / "a.png", colour)
            save_colour(folder / name / colour / "b.png", "red")
        (folder / f"{name}.yaml").write_text(f"kind: cls\nfolder: {name}\ntemplates: ['a {{}}']\n")
    models = ", ".join(f"openclip:{tiny_archs[name]}/random" for name in ("tiny", "tiny-custom"))
    (folder / "suite.yaml").write_text(
        f"models: [{models}]\ndatasets:\n  user: [cold.yaml, warm.yaml]\n"
    )
    return folder / "suite.yaml"
