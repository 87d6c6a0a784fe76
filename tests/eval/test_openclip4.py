"""OpenCLIP 4 has attention of its own in place of `nn.MultiheadAttention`: the same numbers."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from support.dense import FORMS
from support.encoders import TINY, load, noise
from support.openclip_blocks import Block
from timm.data.naflex_dataset import NaFlexCollator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cosmos_eval.models.attention import project_in_one_piece
from cosmos_eval.models.clip import NaflexClipEncoder
from cosmos_eval.models.dense import encode_patches
from cosmos_eval.models.encoder import require_encoder
from cosmos_eval.models.facts import model_facts
from cosmos_eval.models.maps import require_patches
from cosmos_eval.types import UsageError

CLOSE = {"rtol": 0, "atol": 1e-6}
TOWERS: dict[str, dict[str, Any]] = {"plain": {}, "layer-scale": {"ls_init_value": 0.1}}


def towers(**changes: Any) -> tuple[Any, Any]:
    """The same tower of random weights with blocks of OpenCLIP 3 and with those of OpenCLIP 4."""
    torch.manual_seed(0)
    config = {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8}
    visual = _build_vision_tower(16, CLIPVisionCfg(**{**config, **changes})).eval().double()
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made = []
    for version in (3, 4):
        copy: Any = deepcopy(visual)
        blocks = [Block(block, version) for block in copy.transformer.resblocks]
        copy.transformer.resblocks = nn.ModuleList(blocks).double()
        copy.load_state_dict(visual.state_dict())
        made.append(copy)
    return made[0], made[1]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)).double()


@torch.no_grad()
@pytest.mark.parametrize("form", [*FORMS, "proxy"])
@pytest.mark.parametrize("name", TOWERS)
def test_patches_are_the_same(name: str, form: Any, images: Tensor) -> None:
    old, new = towers(**TOWERS[name])
    assert isinstance(old.transformer.resblocks[-1].attn, nn.MultiheadAttention)
    assert not isinstance(new.transformer.resblocks[-1].attn, nn.MultiheadAttention)
    guide = torch.randn(2, 5, 3, 7, generator=torch.Generator().manual_seed(2)).double()
    patches = [encode_patches(visual, images, form, lambda _: guide) for visual in (old, new)]
    torch.testing.assert_close(patches[1], patches[0], **CLOSE)


class Products(TorchDispatchMode):
    """Counts the linear layers that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += func.overloadpacket.__name__ == "linear"
        return func(*args, **(kwargs or {}))


@torch.inference_mode()  # in which a linear layer is one operation
@pytest.mark.parametrize("name", TOWERS)
def test_the_whole_attention_is_projected_in_one_piece(name: str, images: Tensor) -> None:
    """Two products of the MLP, one of the output, and one for queries, keys and values."""
    square = images[..., :32]
    for visual in towers(**TOWERS[name]):
        expected = visual(square)
        project_in_one_piece(visual)
        with Products() as products:
            features = visual(square)
        assert products.count == 3 * 4
        torch.testing.assert_close(features, expected, **CLOSE)
        patches = encode_patches(visual, images, "csa")
        assert patches.shape == (2, 4, 6, 16)


@torch.no_grad()
def test_a_mask_and_other_keys_are_kept_in_one_piece(images: Tensor) -> None:
    old, new = towers()
    x, y = torch.randn(2, 2, 5, 32).double()
    mask = torch.full((5, 5), -torch.inf).double().triu(1)
    blocks = [visual.transformer.resblocks[0] for visual in (old, new)]
    expected = blocks[1](x, attn_mask=mask), blocks[1].attn(x, k_x=y, v_x=y)
    for visual in (old, new):
        project_in_one_piece(visual)
    for block in blocks:
        torch.testing.assert_close(block(x, attn_mask=mask), expected[0], **CLOSE)
    torch.testing.assert_close(blocks[1].attn(x, k_x=y, v_x=y), expected[1], **CLOSE)
    assert not torch.allclose(blocks[0](x), expected[0], atol=1e-2)


def small_naflex(folder: Path, **changes: Any) -> str:
    """The spec of a tower of 13 patches of 16 x 16 pixels at most, with random weights."""
    trunk = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 64, "attn_pool_num_heads": 2}
    vision = {
        "image_size": 64,
        "image_seq_len": 13,
        "timm_model_name": "naflexvit_base_patch16_siglip",
        "timm_model_kwargs": trunk,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    config = {"embed_dim": 24, "custom_text": True, "text_cfg": TINY["text_cfg"]}
    file = folder / "cosmos-eval-naflex.json"
    file.write_text(json.dumps({**config, "vision_cfg": {**vision, **changes}}))
    open_clip.add_model_config(folder)
    return f"openclip:{file.stem}/random"


@pytest.mark.skipif(
    not hasattr(open_clip.transform, "naflex_eval_transform_v2"),
    reason="OpenCLIP 4 has transforms into patches (NaFlex), and this is an earlier one",
)
def test_images_of_any_size_are_encoded_like_by_openclip(tmp_path: Path, command: Any) -> None:
    """The transform, the collator and the forward of OpenCLIP's evaluation during training."""
    encoder = load(small_naflex(tmp_path))
    assert isinstance(encoder, NaflexClipEncoder)
    pictures = [noise(40, 60), noise(90, 20), noise(64, 64), noise(8, 200), noise(300, 280)]

    _, _, make_transform = open_clip.create_model_and_transforms(
        "cosmos-eval-naflex", aug_cfg={"use_timm": True, "naflex": True}
    )
    transform: Any = make_transform(max_seq_len=13, patch_size=16)
    labelled = [(transform(picture), 0) for picture in pictures]
    assert len({len(image["patches"]) for image, _ in labelled}) > 2
    batch, _ = NaFlexCollator(max_seq_len=13)(labelled)
    with torch.no_grad():
        expected = encoder.model.encode_image(batch, normalize=True)

    images = [encoder.transform(picture) for picture in pictures]
    torch.testing.assert_close(encoder.encode_image(encoder.collate(images)), expected, **CLOSE)
    alone = [encoder.encode_image(encoder.collate([image])) for image in images]
    torch.testing.assert_close(torch.cat(alone), expected, **CLOSE)
    require_encoder(encoder, "it")
    with pytest.raises(UsageError, match="has no patches to compare a text with"):
        require_patches(encoder)
    facts = model_facts(encoder)
    assert (facts["image_size"], facts["patch_size"], facts["embedding_size"]) == (None, 16, 24)
    assert facts["image_gflops"]
    run = ("run", "--dataset", "scenes-cls", "--limit", 8, "--no-cache", "--output", "out")
    done = command(*run, "--model", "openclip:cosmos-eval-naflex/random")
    assert done.status == 0, done.err
