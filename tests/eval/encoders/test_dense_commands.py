"""Segmentation, localisation and maps by the commands, with towers of timm and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers as t
from support.encoders import noise

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "map": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "pe": {"timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map"},
}
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
LAYERS |= {"num_attention_heads": 2}


@pytest.fixture(scope="module")
def models(siglip_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """SigLIP's and PE's towers of timm, and a SigLIP of transformers, as a user names them."""
    archs = tmp_path_factory.mktemp("archs")
    for name, vision in TOWERS.items():
        config = {"embed_dim": 64, "text_cfg": TEXT, "custom_text": True}
        config["vision_cfg"] = {"image_size": 160 if name == "map" else 384, **vision}
        (archs / f"cosmos-eval-dense-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(archs)
    folder, tokenizer = archs / "hf", t.AutoTokenizer.from_pretrained(siglip_tokenizer)
    text = {**LAYERS, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    vision = {**LAYERS, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
    model.save_pretrained(folder)
    t.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    specs = {name: f"openclip:cosmos-eval-dense-{name}/random" for name in TOWERS}
    return {**specs, "hf": f"hf:{folder}"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["map", "pe", "hf"])
def test_dense_tasks_and_heatmaps_by_the_commands(
    name: str, models: dict[str, str], command: Callable[..., Any], tmp_path: Path
) -> None:
    model = models[name]
    run = ("run", "--model", model, "--dataset", "scenes-seg", "--dataset", "scenes-loc")
    run += ("--limit", 2, "--output", "out")
    for options in ((), ("--attention", "naclip"), ("--precision", "bf16")):
        completed = command(*run, *options)
        assert completed.status == 0, completed.err
    assert command("verify", "out").status == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    metrics = {}
    for result in results:
        metrics[result["task"], result["provenance"]["attention"]] = result["metrics"]
    assert {*metrics} == {(task, form) for task in ("seg", "loc") for form in ("csa", "naclip")}
    assert metrics["seg", "csa"] != metrics["seg", "naclip"]
    assert {"timm", "transformers"} <= {*results[0]["provenance"]["packages"]}

    noise(60, 90).save("photo.png")
    completed = command("attend", "photo.png", "--text", "a dog", "--model", model, "--json")
    assert completed.status == 0, completed.err
    (heatmaps,) = json.loads(completed.out)[0]["looks"]
    assert (heatmaps["kind"], heatmaps["attention"]) == ("text-to-patch similarity", "csa")
    # Rows and columns of patches, in the proportions of 60 x 90 px.
    grid = {"map": (10, 15), "pe": (24, 36), "hf": (4, 6)}[name]
    assert torch.tensor(heatmaps["heads"][0]["map"]).shape == grid


@pytest.mark.slow
@pytest.mark.parametrize("form", ["vanilla", "naclip"])
def test_the_same_model_through_transformers_has_the_same_metrics(
    form: str, command: Callable[..., Any], tmp_path: Path
) -> None:
    """Independent code of two towers agrees on the maps of a trained model, except for rounding."""
    assert command("convert", "scenes-clip", "--output", "hf").status == 0
    run = ("run", "--model", "scenes-clip", "--model", "hf:hf", "--limit", 8, "--output", "out")
    sets = ("--dataset", "scenes-seg", "--dataset", "scenes-loc")
    assert command(*run, *sets, "--attention", form).status == 0
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))]
    for task in ("seg", "loc"):
        hf_metrics, metrics = (result["metrics"] for result in results if result["task"] == task)
        assert hf_metrics == pytest.approx(metrics, rel=0, abs=1e-3)
