"""Patch embeddings against OpenCLIP's own tower and the papers' formulas, written plainly."""

import math

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from support.dense import FORMS, linear_axis, proxy_of, weights_of
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.models.attention import naclip_proximity, proxy_weights
from cosmos_eval.models.dense import encode_patches
from cosmos_eval.models.towers import resize_positional_embedding
from cosmos_eval.types import UsageError

PATCH, WIDTH, HEADS, EMBED = 8, 32, 4, 16
CUSTOM = ("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
TOWERS = {
    "openai": {"quick_gelu": True},
    "laion": {},
    "average": {"pool_type": "avg"},
    "clipa": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "sine": {"pos_embed_type": "sin_cos_2d", "patch_dropout": 0.5},
    "layer-scale": {"ls_init_value": 0.1},
    "custom": dict.fromkeys(CUSTOM, True),
    "custom-without-options": {"block_type": "custom"},
    "wide": {"image_size": (24, 40)},
}


def tower(*, quick_gelu: bool = False, **changes: object) -> nn.Module:
    """Two blocks, every parameter away from its neutral start, in evaluation mode."""
    torch.manual_seed(0)
    config = {"image_size": 32, "layers": 2, "width": WIDTH, "head_width": 8, "patch_size": PATCH}
    config_of_tower = CLIPVisionCfg(**{**config, **changes})
    built = _build_vision_tower(EMBED, config_of_tower, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return built


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    return tower()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TOWERS if name != "wide"])
def test_vanilla_patches_are_those_of_the_tower(name, images):
    visual = tower(**TOWERS[name])
    output = visual.forward_intermediates(
        images, indices=1, normalize_intermediates=True, output_fmt="NLC", intermediates_only=True
    )
    expected = F.normalize(output["image_intermediates"][0] @ visual.proj, dim=-1)
    patches = encode_patches(visual, images, "vanilla")
    assert patches.shape == (2, 4, 4, EMBED)
    torch.testing.assert_close(patches.flatten(1, 2), expected, atol=2e-6, rtol=0)


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """Layer normalisation, or nothing where the tower has none."""
    if isinstance(norm, nn.Identity):
        return x
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * (norm.weight) + (
        norm.bias
    )


def plain_attention(block: nn.Module, x: Tensor, form: str, grid: tuple[int, int]) -> Tensor:
    attn = block.attn
    projected = x @ attn.in_proj_weight.T + attn.in_proj_bias
    q, k, v = projected.split(WIDTH, dim=-1)
    absent = nn.Identity()
    mixed = []
    for head, columns in enumerate(torch.arange(WIDTH).split(WIDTH // HEADS)):
        own_q = normed(q[..., columns], getattr(attn, "ln_q", absent))
        own_k = normed(k[..., columns], getattr(attn, "ln_k", absent))
        weights = weights_of(form, own_q, own_k, grid)
        scales = getattr(attn, "head_scale", None)
        scale = 1.0 if scales is None else scales[head]
        mixed.append(torch.einsum("bnm,bmd->bnd", weights, v[..., columns]) * scale)
    joined = normed(torch.cat(mixed, -1), getattr(attn, "ln_inner", absent))
    out = joined @ attn.out_proj.weight.T + attn.out_proj.bias
    return scaled(normed(out, getattr(block, "ln_attn", absent)), block.ls_1)


def scaled(x: Tensor, layer_scale: nn.Module) -> Tensor:
    return x if isinstance(layer_scale, nn.Identity) else x * layer_scale.gamma


def plain_mlp(block: nn.Module, x: Tensor, quick_gelu: bool) -> Tensor:
    hidden = x @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    if quick_gelu:
        hidden = hidden / (1 + (-1.702 * hidden).exp())
    else:
        hidden = hidden * (1 + (hidden / math.sqrt(2)).erf()) / 2
    hidden = normed(hidden, getattr(block.mlp, "ln", nn.Identity()))
    return scaled(hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias, block.ls_2)


def plain_patches(visual: nn.Module, images: Tensor, form: str, *, quick_gelu: bool) -> Tensor:
    """The whole tower, from pixels to patch embeddings (B, h, w, D) that are not normalised."""
    grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
    cut = images[:, :, : grid[0] * PATCH, : grid[1] * PATCH]
    pieces = cut.unflatten(3, (grid[1], PATCH)).unflatten(2, (grid[0], PATCH))
    patches = torch.einsum("bchpwq,ocpq->bhwo", pieces, visual.conv1.weight).flatten(1, 2)
    cls = visual.class_embedding.expand(len(images), 1, -1)
    x = torch.cat([cls, patches], 1) + plain_positions(visual, grid)
    x = normed(x, visual.ln_pre)
    first, last = visual.transformer.resblocks
    x = x + plain_attention(first, normed(x, first.ln_1), "vanilla", grid)
    x = x + plain_mlp(first, normed(x, first.ln_2), quick_gelu)
    attended = plain_attention(last, normed(x, last.ln_1), form, grid)
    if form in ("clearclip", "naclip"):
        x = attended
    else:
        x = x + attended
        x = x + plain_mlp(last, normed(x, last.ln_2), quick_gelu)
    return (normed(x, visual.ln_post)[:, 1:] @ visual.proj).unflatten(1, grid)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TOWERS)
def test_forms_of_the_last_block_follow_their_formulas(name, form):
    visual = tower(**TOWERS[name]).double()
    quick_gelu = bool(TOWERS[name].get("quick_gelu"))
    for size in (visual.image_size, (24, 45)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        expected = F.normalize(plain_patches(visual, images, form, quick_gelu=quick_gelu), dim=-1)
        # Patches are returned in float32.
        torch.testing.assert_close(
            encode_patches(visual, images, form).double(), expected, atol=2e-6, rtol=0
        )


def before_last(visual: nn.Module, images: Tensor) -> Tensor:
    """What the last block gets, normed."""
    output = visual.forward_intermediates(
        images, indices=[0], output_fmt="NLC", intermediates_only=True, output_extra_tokens=True
    )
    tokens = [output["image_intermediates_prefix"][0], output["image_intermediates"][0]]
    return normed(torch.cat(tokens, 1), visual.transformer.resblocks[1].ln_1)


def plain_proxy(visual: nn.Module, images: Tensor, features: NDArray) -> Tensor:
    """Patch embeddings (B, h, w, D) that patches `features` (B, h, w, D') of another grid guide."""
    attn = visual.transformer.resblocks[1].attn
    x = before_last(visual, images)[:, 1:]
    v = (x @ attn.in_proj_weight[2 * WIDTH :].T + attn.in_proj_bias[2 * WIDTH :]).unflatten(
        1, visual.grid_size
    )
    axes = zip(features.shape[1:3], visual.grid_size, strict=True)
    rows, columns = (linear_axis(*lengths) for lengths in axes)
    resized = np.einsum("hi,wj,bijc->bhwc", rows, columns, v.numpy()).reshape(len(v), -1, WIDTH)
    mixed = [
        proxy_of(f.reshape(-1, f.shape[-1])) @ w for f, w in zip(features, resized, strict=True)
    ]
    out = torch.from_numpy(np.stack(mixed)) @ attn.out_proj.weight.T + attn.out_proj.bias
    return (normed(out, visual.ln_post) @ visual.proj).unflatten(1, features.shape[1:3])


@torch.no_grad()
@pytest.mark.parametrize("block_type", ["default", "custom"])
@pytest.mark.parametrize("patches", [(8, 8), (4, 4), (7, 7), (14, 8)])  # as 8 and 14 are to 16
def test_proxy_follows_its_formula(patches, block_type):
    visual = tower(image_size=56, block_type=block_type).double()
    images = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    grid = (56 // patches[0], 56 // patches[1])
    features = np.random.default_rng(0).normal(0.4, 1, (2, *grid, 6))  # cosines of both signs
    guide = torch.from_numpy(features)
    encoded = encode_patches(visual, images, "proxy", lambda _: guide)
    expected = F.normalize(plain_proxy(visual, images, features), dim=-1)
    assert encoded.shape == (2, *grid, EMBED)
    torch.testing.assert_close(encoded.double(), expected, atol=2e-6, rtol=0)
    alone = encode_patches(visual, images[1:], "proxy", lambda _: guide[1:])
    torch.testing.assert_close(alone[0], encoded[1], atol=2e-6, rtol=0)  # the mean is an image's


@torch.no_grad()
def test_a_patch_like_no_other_keeps_its_own_value(visual, images):
    """As in MaskCLIP's attention, but without residual and MLP."""
    last = visual.transformer.resblocks[1]
    out = plain_attention(last, before_last(visual, images), "maskclip", (4, 4))[:, 1:]
    expected = F.normalize(normed(out, visual.ln_post) @ visual.proj, dim=-1)
    guide = torch.eye(16).unflatten(0, (4, 4)).expand(2, -1, -1, -1)
    patches = encode_patches(visual, images, "proxy", lambda _: guide)
    torch.testing.assert_close(patches.flatten(1, 2), expected, atol=2e-6, rtol=0)


def test_proxy_weights_by_hand():
    """Cosines 1, 0 and their mean 5/9: 1 - 1.2 * 5/9 = 1/3 stays, 0 does not."""
    features = torch.tensor([[[[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]]])
    half = [0.5, 0.5, 0.0]
    expected = torch.tensor([[half, half, [0.0, 0.0, 1.0]]])
    torch.testing.assert_close(proxy_weights(features), expected)
    # The mean of equal patches is 1, which leaves no entry: ProxyCLIP's code divides 0 by 0.
    assert torch.equal(proxy_weights(torch.ones(1, 2, 2, 3)), torch.eye(4)[None])


@pytest.mark.parametrize("option", CUSTOM[:3])
def test_proxy_is_refused_for_other_attentions(option, images):
    with pytest.raises(UsageError, match=r"--attention proxy is not defined .*CustomResidual"):
        encode_patches(tower(**{option: True}), images, "proxy", lambda _: torch.ones(2, 4, 4, 3))


def test_neighbourhood_by_hand():
    near = naclip_proximity((1, 2), 1, torch.zeros(1, dtype=torch.float64))
    e = math.exp(-1 / 50)
    torch.testing.assert_close(
        near, torch.tensor([[0, 0, 0], [0, 1, e], [0, e, 1]]).double(), atol=1e-7, rtol=0
    )


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as torch and OpenCV use it."""
    a, t = -0.75, abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resize_axis(length: int, side: int) -> NDArray:
    """Matrix (length, side) of bicubic interpolation by a factor of (length + 0.1) / side."""
    matrix = np.zeros((length, side))
    for out in range(length):
        place = (out + 0.5) * side / (length + 0.1) - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[out, min(max(tap, 0), side - 1)] += cubic(place - tap)
    return matrix


def plain_positions(visual: nn.Module, grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1 + h * w, width) of a grid, by matrices of bicubic interpolation."""
    embedding = visual.positional_embedding
    patches = embedding[1:].unflatten(0, visual.grid_size)
    if grid != visual.grid_size:
        rows, columns = (
            torch.from_numpy(resize_axis(length, side)).to(embedding)
            for length, side in zip(grid, visual.grid_size, strict=True)
        )
        patches = torch.einsum("hi,wj,ijc->hwc", rows, columns, patches)
    return torch.cat([embedding[:1], patches.flatten(0, 1)])


@pytest.mark.parametrize("grid", [(6, 6), (3, 9), (12, 1), (4, 5)])
@pytest.mark.parametrize("trained", [(4, 4), (2, 8)])
def test_positional_embedding_is_resized_by_a_shifted_factor(grid, trained):
    embedding = torch.randn(1 + 16, 5, generator=torch.Generator().manual_seed(3))
    patches = embedding[1:].reshape(*trained, 5).double().numpy()
    expected = np.einsum(
        "hi,wj,ijc->hwc",
        resize_axis(grid[0], trained[0]),
        resize_axis(grid[1], trained[1]),
        patches,
    )
    resized = resize_positional_embedding(embedding, trained, grid)
    assert torch.equal(resized[0], embedding[0])
    np.testing.assert_allclose(resized[1:].numpy(), expected.reshape(-1, 5), atol=1e-5)


def test_positional_embedding_of_the_training_size_is_untouched():
    embedding = torch.randn(1 + 16, 5)
    assert resize_positional_embedding(embedding, (4, 4), (4, 4)) is embedding


@pytest.mark.parametrize("size", [(7, 32), (32, 7)])
def test_an_image_under_one_patch_is_refused(visual, size):
    with pytest.raises(UsageError, match="smaller than one patch"):
        encode_patches(visual, torch.zeros(1, 3, *size), "csa")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"layers": (1, 1, 1, 1)}, "ModifiedResNet"),
        ({"attentional_pool": "parallel"}, "two attentional poolings"),
        ({"attentional_pool": "cascade"}, "two attentional poolings"),
        ({"patch_size": (8, 4)}, "patches that are not square"),
        ({"scaled_cosine_attn": True}, "scaled cosine attention"),
    ],
)
def test_towers_without_patch_tokens_are_refused(changes, kind, images):
    with pytest.raises(UsageError, match=f"{kind}.* such as ViT-B-16") as error:
        encode_patches(tower(**changes), images, "vanilla")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(open_clip.__version__ >= "4", reason="OpenCLIP 4 runs it")
def test_scaled_cosine_attention_fails_in_openclip_itself(images):
    with pytest.raises(RuntimeError):
        tower(scaled_cosine_attn=True)(images)
