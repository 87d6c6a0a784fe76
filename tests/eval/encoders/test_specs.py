"""Model names as typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cosmos_eval.models.specs import BUNDLED, RELEASED, parse_model_spec
from cosmos_eval.types import ModelSpec, UsageError

# OpenCLIP has 22 tags for this architecture, in this order.
VIT_B_32 = (
    r"openclip:ViT-B-32/openai "
    r"\(or laion400m_e31, laion400m_e32, laion2b_e16, laion2b_s34b_b79k, \.\.\.\)"
)


def test_every_form_of_a_spec_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "trained.pt"
    file.touch()
    student = {"arch": "ViT-B-32", "weights": "student"}
    for text, options, kind, name, fields in (
        ("scenes-cosmos", {}, "bundled", "scenes-cosmos", {}),
        ("cosmos:vitb32_cc12m", {"weights": "student"}, "cosmos", "vitb32_cc12m", student),
        (f"cosmos:{file}", {"arch": "ViT-B-16"}, "cosmos", str(file), {"arch": "ViT-B-16"}),
        ("openclip:ViT-B-32/openai", {}, "openclip", "openai", {"arch": "ViT-B-32"}),
    ):
        expected = ModelSpec(text=text, kind=kind, name=name, **fields)
        assert parse_model_spec(text, **options) == expected
    assert parse_model_spec(f"openclip:RN50/{file}").name == str(file)


def test_names_that_are_known() -> None:
    assert BUNDLED[:2] == ("scenes-cosmos", "scenes-clip")
    assert len(RELEASED) == 10
    assert RELEASED["vitb16_merged30m"] == "ViT-B-16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenes-cosmo", "nearest: scenes-cosmos"),
        ("vitb16_merged30m", r"did you mean cosmos:vitb16_merged30m\?$"),
        ("cosmos:vitb16_merged", "nearest: vitb16_merged30m"),
        ("cosmos:no/such/file.pt", "no such file"),
        ("cosmos:", "no such file"),
        ("openclip:ViT-B-33", "openclip:ARCH/TAG"),
        ("openclip:ViT-B-32", rf"names no weights; did you mean {VIT_B_32}\?$"),
        ("openclip:ViT-B-32/", rf"did you mean {VIT_B_32}\?$"),
        ("ViT-B-32", rf"unknown model 'ViT-B-32'; did you mean {VIT_B_32}\?$"),
        ("vit-b/32", rf"did you mean {VIT_B_32}\?$"),
        ("RN50", r"did you mean openclip:RN50/openai \(or yfcc15m, cc12m\)\?$"),
        ("RN50/cc12m", r"did you mean openclip:RN50/cc12m\?$"),
        ("EVA02-B-16", r"did you mean openclip:EVA02-B-16/merged2b_s8b_b131k\?$"),
        ("ViT-S-32", r"did you mean openclip:ViT-S-32/PATH, with a file of weights\?$"),
        ("ViTB32", "nearest: openclip:ViT-B-32/TAG, "),
        ("my_clip.py", r"did you mean python:my_clip\.py\?$"),
        ("my_clip.py?depth=2", r"did you mean python:my_clip\.py\?depth=2\?$"),
        (
            "runs/last.pt",
            r"did you mean cosmos:runs/last\.pt, or openclip:ARCH/runs/last\.pt for an",
        ),
        ("openai/clip-vit-base-patch32", r"did you mean hf:openai/clip-vit-base-patch32\?$"),
        ("hf:no/such/folder", "no such folder; use hf:FOLDER"),
        ("python:none.py", r"'python:none\.py': no such file"),
        ("timm:vit", "unknown model 'timm:vit'"),
    ],
)
def test_bad_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        parse_model_spec(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "suggestion"),
    [
        ("open_clip_config.json", "openclip:{}"),
        ("config.json", "hf:{}"),
        ("checkpoint.safetensors", "cosmos:{}/checkpoint.safetensors"),
    ],
)
def test_a_folder_is_suggested_by_what_it_holds(tmp_path: Path, file: str, suggestion: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(UsageError) as raised:
        parse_model_spec(str(tmp_path))
    assert str(raised.value).endswith(f"did you mean {suggestion.format(tmp_path)}?")


def test_names_and_data_are_checked_without_torch() -> None:
    program = (
        "import sys, cosmos_eval.models.bundled, cosmos_eval.embedding.embed, "
        "cosmos_eval.protocols.retrieval, cosmos_eval.protocols.classification, cosmos_eval.tasks."
        "retrieval, cosmos_eval.tasks.classification; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
