"""Patch embeddings of OpenCLIP's own architectures, and attention that projects in one piece."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from support.encoders import load
from torch.utils._python_dispatch import TorchDispatchMode

from cosmos_eval.models.attention import project_in_one_piece
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.types import UsageError

FORMS = ("vanilla", "csa", "maskclip", "clearclip", "naclip")
SMALL_VISION: dict[str, Any] = {"layers": 2, "width": 32, "head_width": 16, "image_size": 64}
SMALL_TEXT: dict[str, Any] = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 49408}


@pytest.fixture(scope="module", name="load_small")
def load_small_fixture(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ClipEncoder]:
    """Load an architecture of OpenCLIP's with fewer and narrower layers and random weights."""
    folder = tmp_path_factory.mktemp("archs")

    def load_small(name: str, **vision: Any) -> ClipEncoder:
        config = open_clip.get_model_config(name)
        config["embed_dim"] = 16
        config["vision_cfg"] |= {**SMALL_VISION, **vision}
        config["text_cfg"] |= SMALL_TEXT
        for key in ("hf_tokenizer_name", "tokenizer_kwargs"):  # it would be downloaded
            config["text_cfg"].pop(key, None)
        if "multimodal_cfg" in config:
            config["multimodal_cfg"] |= {**SMALL_TEXT, "dim_head": 16}
        file = folder / f"cosmos-eval-small-{name}.json"
        file.write_text(json.dumps(config))
        open_clip.add_model_config(folder)
        return load(f"openclip:{file.stem}/random")

    return load_small


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B-32-quickgelu",
        "ViT-L-14",
        "ViT-H-14-CLIPA",
        "ViT-M-16-alt",
        "coca_base",
        "coca_ViT-B-32",
    ],
)
def test_every_form_of_attention_gives_patches(name, load_small):
    encoder = load_small(name)
    patch = encoder.patch_size
    assert patch in (14, 16, 18, 32)
    images = torch.randn(2, 3, 2 * patch, 3 * patch, generator=torch.Generator().manual_seed(0))
    patches_of_forms = [encoder.encode_patches(images, form) for form in FORMS]
    for patches in patches_of_forms:
        assert patches.shape == (2, 2, 3, 16)
        torch.testing.assert_close(patches.norm(dim=-1), torch.ones(2, 2, 3))
    for patches, other_patches in itertools.combinations(patches_of_forms, 2):
        assert not torch.allclose(other_patches, patches, atol=1e-6)


def test_towers_without_patches_in_the_joint_space_are_refused(load_small):
    encoder = load_small("RN50", layers=[1, 1, 1, 1], width=8, image_size=32)
    assert encoder.patch_size == 0
    with pytest.raises(UsageError, match=r"tower, ModifiedResNet, .* choose a COSMOS model"):
        encoder.encode_patches(torch.zeros(1, 3, 32, 32), "csa")


class Projections(TorchDispatchMode):
    """Notes for every linear layer whether its input lies in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.in_one_piece: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "linear":
            self.in_one_piece.append(args[0].is_contiguous())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("arch", ["tiny", "tiny-bidirectional", "tiny-custom"])
def test_features_are_the_same(arch, tiny_archs):
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    spec = f"openclip:{tiny_archs[arch]}/random"
    plain, ours = load(spec), load(spec)
    before = dict(ours.model.state_dict())
    project_in_one_piece(ours.model)
    assert before.keys() == ours.model.state_dict().keys()
    tokens = plain.tokenize(["a cat", "two dogs on a hill"])
    torch.testing.assert_close(ours.encode_image(images), plain.encode_image(images))
    torch.testing.assert_close(ours.encode_text(tokens), plain.encode_text(tokens))


def test_in_bf16_every_projection_gets_its_input_in_one_piece(tiny_archs):
    images = torch.randn(3, 3, 32, 32)
    spec = f"openclip:{tiny_archs['tiny']}/random"
    exact, half = load(spec), load(spec, precision="bf16")
    # PyTorch dispatches a linear layer as a whole in inference mode only.
    with torch.inference_mode(), Projections() as projections:
        features = half.encode_image(images)
    assert len(projections.in_one_piece) == 2 * 4  # blocks; attention's two and the MLP's two
    assert all(projections.in_one_piece)
    assert (features * exact.encode_image(images)).sum(1).min() > 0.999
