"""OpenCLIP 4 has attention of its own in place of `nn.MultiheadAttention`: the same numbers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from support.dense import FORMS
from support.openclip_blocks import Block
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cosmos_eval.models.attention import project_in_one_piece
from cosmos_eval.models.dense import encode_patches

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
