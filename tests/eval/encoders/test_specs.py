"""Model names as typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cosmos_eval.models.specs import BUNDLED, RELEASED, parse_model_spec
from cosmos_eval.types import ModelSpec, UsageError


def test_every_form(tmp_path: Path) -> None:
    file = tmp_path / "trained.pt"
    file.touch()
    student = {"arch": "ViT-B-32", "weights": "student"}
    for text, given, kind, name, more in (
        ("scenes-cosmos", {}, "bundled", "scenes-cosmos", {}),
        ("cosmos:vitb32_cc12m", {"weights": "student"}, "cosmos", "vitb32_cc12m", student),
        (f"cosmos:{file}", {"arch": "ViT-B-16"}, "cosmos", str(file), {"arch": "ViT-B-16"}),
        ("openclip:ViT-B-32/openai", {}, "openclip", "openai", {"arch": "ViT-B-32"}),
    ):
        expected = ModelSpec(text=text, kind=kind, name=name, **more)
        assert parse_model_spec(text, **given) == expected
    assert parse_model_spec(f"openclip:RN50/{file}").name == str(file)


def test_names_that_are_known() -> None:
    assert BUNDLED[:2] == ("scenes-cosmos", "scenes-clip")
    assert len(RELEASED) == 10
    assert RELEASED["vitb16_merged30m"] == "ViT-B-16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenes-cosmo", "nearest: scenes-cosmos"),
        ("vitb16_merged30m", "cosmos:vitb16_merged30m"),
        ("cosmos:vitb16_merged", "nearest: vitb16_merged30m"),
        ("cosmos:no/such/file.pt", "no such file"),
        ("cosmos:", "no such file"),
        ("openclip:ViT-B-32", "openclip:ARCH/TAG"),
        ("openclip:ViT-B-32/", "openclip:ARCH/TAG"),
        ("hf:no/such/folder", "no such folder; use hf:FOLDER"),
        ("python:none.py", r"'python:none\.py': no such file"),
        ("timm:vit", "unknown model 'timm:vit'"),
    ],
)
def test_bad_names(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        parse_model_spec(text)
    assert "\n" not in str(raised.value)


def test_names_and_data_are_checked_without_torch() -> None:
    program = (
        "import sys, cosmos_eval.models.bundled, cosmos_eval.embedding.embed, "
        "cosmos_eval.protocols.retrieval, cosmos_eval.protocols.classification, cosmos_eval.tasks."
        "retrieval, cosmos_eval.tasks.classification; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
