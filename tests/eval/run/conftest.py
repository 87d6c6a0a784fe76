"""A small suite of a user's own: two models of random weights, two data sets of colours."""

from __future__ import annotations

from pathlib import Path

import pytest


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
