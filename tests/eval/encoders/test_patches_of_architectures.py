"""Patch embeddings of OpenCLIP's own architectures, cut down to a size that builds at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import UsageError

FORMS = ("vanilla", "csa", "maskclip", "clearclip", "naclip")
SMALL_VISION: dict[str, Any] = {"layers": 2, "width": 32, "head_width": 16, "image_size": 64}
SMALL_TEXT: dict[str, Any] = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 49408}


@pytest.fixture(scope="module")
def load_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ClipEncoder]:
    """Load an architecture of OpenCLIP's with fewer and narrower layers and random weights."""
    folder = tmp_path_factory.mktemp("archs")

    def load(name: str, **vision: Any) -> ClipEncoder:
        config = open_clip.get_model_config(name)
        config["embed_dim"] = 16
        config["vision_cfg"] |= {**SMALL_VISION, **vision}
        config["text_cfg"] |= SMALL_TEXT
        config["text_cfg"].pop("hf_tokenizer_name", None)  # it would be downloaded
        config["text_cfg"].pop("tokenizer_kwargs", None)
        if "multimodal_cfg" in config:
            config["multimodal_cfg"] |= {**SMALL_TEXT, "dim_head": 16}
        file = folder / f"cosmos-eval-small-{name}.json"
        file.write_text(json.dumps(config))
        open_clip.add_model_config(folder)
        return load_encoder(parse_model_spec(f"openclip:{file.stem}/random"))

    return load


@pytest.mark.parametrize(
    "name", ["ViT-B-32-quickgelu", "ViT-L-14", "ViT-H-14-CLIPA", "ViT-M-16-alt", "coca_base"]
)
def test_every_form_of_attention_gives_patches(name, load_small):
    encoder = load_small(name)
    patch = encoder.patch_size
    assert patch in (14, 16, 18, 32)
    images = torch.randn(2, 3, 2 * patch, 3 * patch, generator=torch.Generator().manual_seed(0))
    patches = [encoder.encode_patches(images, form) for form in FORMS]
    for one in patches:
        assert one.shape == (2, 2, 3, 16)
        torch.testing.assert_close(one.norm(dim=-1), torch.ones(2, 2, 3))
    for i, one in enumerate(patches):
        assert not any(torch.allclose(one, other, atol=1e-6) for other in patches[:i])


TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear"}


@pytest.mark.parametrize(
    ("name", "vision", "kind"),
    [
        ("RN50", {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, "a ModifiedResNet"),
        ("coca_ViT-B-32", {"image_size": 32, "attn_pooler_heads": 2}, "attentional pooling"),
        ("EVA02-B-16", {**TIMM, "image_size": 224}, "a TimmModel"),
    ],
)
def test_towers_without_patches_in_the_joint_space_are_refused(name, vision, kind, load_small):
    encoder = load_small(name, **vision)
    with pytest.raises(UsageError, match=f"{kind}.* choose a COSMOS model or an OpenCLIP ViT"):
        encoder.encode_patches(torch.zeros(1, 3, 32, 32), "csa")


def test_mean_and_std_are_the_models(tmp_path: Path, tiny_archs: dict[str, str]) -> None:
    arch, half = tiny_archs["tiny"], (0.5, 0.5, 0.5)
    torch.save(open_clip.create_model(arch).state_dict(), tmp_path / "weights.pt")
    spec = parse_model_spec(f"openclip:{arch}/{tmp_path / 'weights.pt'}")
    usual = load_encoder(spec)
    assert (usual.image_mean, usual.image_std) == (
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )
    description = {
        "model_cfg": open_clip.get_model_config(arch),
        "preprocess_cfg": {"mean": half, "std": half},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    other = load_encoder(spec)
    assert (other.image_mean, other.image_std) == (half, half)
