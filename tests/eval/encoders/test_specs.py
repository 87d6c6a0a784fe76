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
    assert parse_model_spec("scenes-cosmos") == ModelSpec(
        text="scenes-cosmos", kind="bundled", name="scenes-cosmos"
    )
    assert parse_model_spec("cosmos:vitb32_cc12m", weights="student") == ModelSpec(
        text="cosmos:vitb32_cc12m",
        kind="cosmos",
        name="vitb32_cc12m",
        arch="ViT-B-32",
        weights="student",
    )
    assert parse_model_spec(f"cosmos:{file}", arch="ViT-B-16") == ModelSpec(
        text=f"cosmos:{file}", kind="cosmos", name=str(file), arch="ViT-B-16"
    )
    assert parse_model_spec("openclip:ViT-B-32/openai") == ModelSpec(
        text="openclip:ViT-B-32/openai", kind="openclip", name="openai", arch="ViT-B-32"
    )
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
        "cosmos_eval.protocols.retrieval, "
        "cosmos_eval.protocols.classification, cosmos_eval.tasks.retrieval, "
        "cosmos_eval.tasks.classification; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
