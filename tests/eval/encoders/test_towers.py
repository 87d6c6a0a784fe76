"""Patch embeddings of every kind of tower, against the library's own forward and plain formulas.

What a library does to the tokens after its last block is found by a hook: it puts other tokens
there, all equal to one patch, and the tower's own head makes the feature that is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import transformers as t
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer as OpenClip
from support.dense import FORMS, weights_of
from timm.layers import HybridEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import DiffAttention, ResPostBlock, VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.models.dense import encode_patches, find_patch_size, shared_blocks
from cosmos_eval.models.towers import image_tower
from cosmos_eval.types import Attention, UsageError

SOME_FORMS = ("vanilla", "csa", "naclip")
WIDTH, HEADS, EMBED, SIDE, PATCH = 32, 4, 16, 32, 8
SIZES = ((SIDE, SIDE), (48, 45), (16, 40))
SIZE = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}
PE = {"use_rot_pos_emb": True, "ref_feat_shape": (3, 3), "rope_grid_indexing": "xy"}
PE |= {"attn_type": "rope", "use_pre_transformer_norm": True, "global_pool": "map"}
PE |= {"rope_grid_offset": 1.0, "attn_pool_num_heads": 2}
EVA02 = {"use_rot_pos_emb": True, "ref_feat_shape": (3, 3), "swiglu_mlp": True, "scale_mlp": True}
EVA02 |= {"qkv_fused": False, "scale_attn_inner": True, "global_pool": "token"}
STEM = {"channels": (8, WIDTH), "kernel_size": (4, 2), "stride": (4, 2), "depth": 2, "padding": 0}
LAYERS = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS}
LAYERS |= {"image_size": SIDE, "patch_size": PATCH}
HF = {**LAYERS, "intermediate_size": 64}
TEXT = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
TEXT |= {"intermediate_size": 32}


def timm_tower(kind: type[nn.Module], projected: bool, options: dict[str, Any]) -> Any:
    """OpenCLIP's adapter around a small trunk; PE's projection is the trunk's own head."""
    visual = TimmModel("test_vit", EMBED, pool="token", proj="linear")
    trunk: Any = kind(**{**SIZE, **options}, num_classes=0 if projected else EMBED)
    visual.trunk = trunk
    visual.head = nn.Linear(WIDTH, EMBED, bias=False) if projected else nn.Identity()
    return visual


def vit(projected: bool = True, **options: Any) -> Callable[..., Any]:
    return lambda **more: timm_tower(VisionTransformer, projected, {**options, **more})


def eva(projected: bool = True, **options: Any) -> Callable[..., Any]:
    return lambda **more: timm_tower(Eva, projected, {**options, **more})


def hybrid(**options: Any) -> Any:
    """Its patches are made by convolutions, as MobileCLIP-B's."""
    embed = partial(HybridEmbed, backbone=ConvStem(**STEM, act_layer=nn.GELU), proj=False)
    options |= {"embed_layer": embed, "patch_size": 1, "no_embed_class": True}
    return timm_tower(VisionTransformer, True, options)


def hugging(
    name: str, text: dict[str, Any] = TEXT, vision: dict[str, Any] = HF
) -> Callable[..., Any]:
    def make() -> Any:
        shared = {} if name in ("Siglip", "Tipsv2") else {"projection_dim": EMBED}
        config = getattr(t, f"{name}Config")(text_config=text, vision_config=vision, **shared)
        return getattr(t, f"{name}Model")(config)

    return make


class Kind(NamedTuple):
    """How to make a tower, how many tokens come before its patches, and in which sizes it is run:
    OpenCLIP's own resizing of positions is tested elsewhere."""

    make: Callable[..., Any]
    prefix: int
    sizes: tuple[tuple[int, int], ...] = SIZES


OPENCLIP = {"image_size": SIDE, "patch_size": PATCH, "width": WIDTH, "layers": 2, "heads": HEADS}
OPENCLIP |= {"mlp_ratio": 2.0, "output_dim": EMBED}
COCA = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2}
KINDS = {
    "clip": Kind(lambda: OpenClip(**OPENCLIP), 1, SIZES[:1]),
    "coca": Kind(lambda: OpenClip(**OPENCLIP, **COCA), 1, SIZES[:1]),
    "coca average": Kind(lambda: OpenClip(**OPENCLIP, **COCA, pool_type="avg"), 1, SIZES[:1]),
    "siglip": Kind(vit(class_token=False, global_pool="map"), 0),
    "mobileclip-l": Kind(vit(pre_norm=True, qk_norm=True), 1),
    "mobileclip-b": Kind(hybrid, 1),
    "registers": Kind(vit(reg_tokens=3, no_embed_class=True, init_values=0.5), 4),
    "gap": Kind(vit(class_token=False, global_pool="avg", scale_attn_norm=True), 0),
    "registers average": Kind(vit(reg_tokens=2, global_pool="avg", fc_norm=False), 3),
    "registers map": Kind(vit(reg_tokens=2, global_pool="map", scale_mlp_norm=True), 3),
    "eva01": Kind(eva(init_values=0.5, global_pool="token"), 1),
    "eva02": Kind(eva(**EVA02), 1),
    "pe": Kind(eva(projected=False, **PE), 1),
    "pe bigG": Kind(eva(projected=False, class_token=False, **PE), 0),
    "rope mixed": Kind(eva(**{**PE, "rope_type": "mixed", "num_reg_tokens": 2}), 3),
    "hf clip": Kind(hugging("CLIP"), 1),
    "hf metaclip 2": Kind(hugging("MetaClip2"), 1),
    "hf altclip": Kind(hugging("AltCLIP", {**TEXT, "project_dim": WIDTH}), 1),
    "hf chinese": Kind(hugging("ChineseCLIP"), 1),
    "hf siglip": Kind(hugging("Siglip"), 0),
    "hf tipsv2": Kind(hugging("Tipsv2", vision={**LAYERS, "num_register_tokens": 2}), 3),
}


def randomised(model: Any) -> Any:
    """Every parameter away from its neutral start, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def twin(kind: Kind, model: Any) -> Any:
    """The same tower of timm, made for images of any size; other towers are as they are."""
    if not isinstance(model, TimmModel):
        return model
    other = kind.make(dynamic_img_size=True).double().eval()
    other.load_state_dict(model.state_dict())
    return other


def feature(model: Any, images: Tensor) -> Tensor:
    """The library's own image feature."""
    if not hasattr(model, "get_image_features"):
        return model(images)
    sized = {} if isinstance(model, t.Tipsv2Model) else {"interpolate_pos_encoding": True}
    return model.get_image_features(pixel_values=images, **sized).pooler_output


def last_block(model: Any) -> Any:
    if isinstance(model, OpenClip):
        return model.transformer.resblocks[-1]
    if isinstance(model, TimmModel):
        return model.trunk.blocks[-1]
    encoder = model.vision_model.encoder
    return (encoder.layer if isinstance(model, t.Tipsv2Model) else encoder.layers)[-1]


@contextmanager
def after_last_block(model: Any, tokens: Tensor) -> Iterator[None]:
    handle = last_block(model).register_forward_hook(lambda *_: tokens)
    yield
    handle.remove()


def seen_by_last_block(model: Any, images: Tensor) -> list[Tensor]:
    """Its input and output."""
    seen: list[Tensor] = []
    hook = last_block(model).register_forward_hook
    handle = hook(lambda _, args, output: seen.extend([args[0], output]))
    feature(model, images)
    handle.remove()
    return seen


def rotated(x: Tensor, rope: Tensor | None, prefix: int, head: int) -> Tensor:
    """Multiply pairs of patches' channels (B, N, d) by unit numbers of the complex plane."""
    if rope is None:
        return x
    sin, cos = (rope[head] if rope.ndim == 3 else rope).chunk(2, -1)
    turned = torch.view_as_complex(x[:, prefix:].unflatten(-1, (-1, 2)).contiguous())
    turned = turned * torch.complex(cos[:, ::2], sin[:, ::2])
    return torch.cat([x[:, :prefix], torch.view_as_real(turned).flatten(-2)], 1)


def projections(attn: Any, x: Tensor) -> list[Tensor]:
    """Queries, keys and values (B, N, C), whatever the library calls them."""
    if hasattr(attn, "in_proj_weight"):
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
    elif getattr(attn, "qkv", None) is not None:
        weight, bias = attn.qkv.weight, attn.qkv.bias
        if getattr(attn, "q_bias", None) is not None:
            bias = torch.cat([attn.q_bias, torch.zeros(WIDTH), attn.v_bias])
    else:
        return [getattr(attn, f"{name}_proj")(x) for name in "qkv"]
    return [*(x @ weight.T + (0 if bias is None else bias)).split(WIDTH, -1)]


def named(module: Any, *names: str) -> Any:
    """The first of these members that a library's module has."""
    found = [getattr(module, name) for name in names if getattr(module, name, None) is not None]
    return found[0] if found else nn.Identity()


def plain_block(model: Any, x: Tensor, form: str, grid: tuple[int, int], prefix: int) -> Tensor:
    """The last block (B, N, C) -> (B, N, C), head by head."""
    block = last_block(model)
    attn = named(block, "attn", "self_attn", "attention")
    q, k, v = projections(attn, named(block, "ln_1", "norm1", "layer_norm1")(x))
    rope = getattr(getattr(model, "trunk", None), "rope", None)
    if rope is not None:
        rope = rope.get_embed(shape=grid).double()
        rope = rope[-1] if rope.ndim == 4 else rope
    mixed = []
    for head, columns in enumerate(torch.arange(WIDTH).split(WIDTH // HEADS)):
        own_q = rotated(named(attn, "q_norm")(q[..., columns]), rope, prefix, head)
        own_k = rotated(named(attn, "k_norm")(k[..., columns]), rope, prefix, head)
        weights = weights_of(form, own_q, own_k, grid, prefix)
        mixed.append(torch.einsum("bnm,bmd->bnd", weights, v[..., columns]))
    out = named(attn, "out_proj", "proj", "o_proj")(named(attn, "norm")(torch.cat(mixed, -1)))
    out = scaled(block, 1, out)
    if form in ("clearclip", "naclip"):
        return out
    x = x + out
    return x + scaled(block, 2, block.mlp(named(block, "ln_2", "norm2", "layer_norm2")(x)))


def scaled(block: Any, branch: int, x: Tensor) -> Tensor:
    scale = named(block, f"gamma_{branch}", f"ls{branch}", f"layer_scale{branch}")
    return scale * x if isinstance(scale, Tensor) else scale(x)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("registers", form) for form in FORMS),
        # The formula of the library, own weights, and no residual connection.
        *((name, form) for name in KINDS if name != "registers" for form in SOME_FORMS),
    ],
)
def test_patches_are_features_of_equal_tokens(name: str, form: Attention) -> None:
    kind = KINDS[name]
    model = randomised(kind.make())
    reference = twin(kind, model)
    before = feature(model, torch.ones(1, 3, SIDE, SIDE).double())
    for size in kind.sizes:
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        grid = (size[0] // PATCH, size[1] // PATCH)
        whole = images[..., : grid[0] * PATCH, : grid[1] * PATCH]
        tokens, output = seen_by_last_block(reference, whole)
        if form == "vanilla":
            own = plain_block(reference, tokens, form, grid, kind.prefix)
            torch.testing.assert_close(own, output, rtol=0, atol=1e-5)  # the formula itself
        else:
            output = plain_block(reference, tokens, form, grid, kind.prefix)
        each = output[:, kind.prefix :].flatten(0, 1)[:, None].expand(-1, output.shape[1], -1)
        with after_last_block(reference, each):
            expected = F.normalize(feature(reference, whole), dim=-1).unflatten(0, (2, *grid))
        patches = encode_patches(model, images, form)
        assert patches.dtype == torch.float32
        torch.testing.assert_close(patches.double(), expected, rtol=0, atol=2e-6)
    after = feature(model, torch.ones(1, 3, SIDE, SIDE).double())
    assert torch.equal(before, after)  # resized for the call only


@pytest.mark.parametrize("name", KINDS)
def test_blocks_before_the_last_run_once_for_all_forms(name: str) -> None:
    model, embedded = randomised(KINDS[name].make()), []
    for convolution in (one for one in model.modules() if isinstance(one, nn.Conv2d)):
        convolution.register_forward_hook(lambda _, given, __: embedded.append(given[0]))
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    expected = [[encode_patches(model, x, form) for form in SOME_FORMS] for x in (images, -images)]
    separate = len(embedded)
    embedded.clear()
    with shared_blocks():
        shared = [
            [encode_patches(model, x, form) for form in SOME_FORMS] for x in (images, -images)
        ]
    assert separate == len(SOME_FORMS) * len(embedded) > 0
    torch.testing.assert_close(shared, expected, rtol=0, atol=0)
    other = randomised(randomised(KINDS[name].make()))
    with shared_blocks():
        encode_patches(model, images, "csa")
        found = encode_patches(other, images, "csa")
    assert torch.equal(found, encode_patches(other, images, "csa"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["gap", "registers average"])
def test_the_mean_over_patches_is_the_feature_of_average_pooling(name: str) -> None:
    model = randomised(KINDS[name].make(fc_norm=False))
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    _, tokens = seen_by_last_block(model, images)
    patches = image_tower(model).pool(tokens[:, KINDS[name].prefix :])
    torch.testing.assert_close(patches.mean(1), feature(model, images), rtol=0, atol=1e-6)


def of_blocks(**options: Any) -> Any:
    return timm_tower(VisionTransformer, True, options)


def without_fused_attention() -> Any:
    visual = of_blocks()
    visual.trunk.blocks[-1].attn.fused_attn = False
    return visual


def eager() -> Any:
    model = hugging("CLIP")()
    model.set_attn_implementation("eager")
    return model


OTHER_BLOCKS = {
    "ResPostBlock": lambda: of_blocks(block_fn=ResPostBlock),
    "EvaBlockPostNorm": lambda: timm_tower(Eva, True, {"use_post_norm": True}),
    "Block": lambda: of_blocks(attn_layer=DiffAttention),
    "Block ": without_fused_attention,
    "CLIPEncoderLayer": eager,
}


@torch.no_grad()
@pytest.mark.parametrize("block", OTHER_BLOCKS)
def test_blocks_without_other_forms_of_attention(block: str) -> None:
    """They have no softmax(qk') that could be replaced, or add their branches in another way."""
    model = randomised(OTHER_BLOCKS[block]())
    images = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    _, output = seen_by_last_block(model, images)
    with after_last_block(model, output[0, 1:, None].expand(-1, 17, -1)):
        expected = F.normalize(feature(model, images), dim=-1).unflatten(0, (1, 4, 4))
    patches = encode_patches(model, images, "vanilla").double()
    torch.testing.assert_close(patches, expected, rtol=0, atol=2e-6)
    message = f"no other attention than --attention vanilla .* {block.strip()}$"
    for form in FORMS[1:]:
        with pytest.raises(UsageError, match=message):
            encode_patches(model, images, form)


@pytest.mark.parametrize("name", ["siglip", "eva02", "hf clip"])
def test_another_encoder_guides_no_attention_but_pytorchs(name: str) -> None:
    model, images = KINDS[name].make(), torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(UsageError, match=r"not defined for this model's last \w*(Block|Layer):"):
        encode_patches(model, images, "proxy", lambda _: torch.ones(1, 8, 8, 3))


def align() -> Any:
    config = t.AlignConfig(
        text_config=TEXT, vision_config={"width_coefficient": 0.1, "depth_coefficient": 0.1}
    )
    return t.AlignModel(config)


REFUSED = {
    "timm's ResNet": lambda: TimmModel("test_resnet", EMBED),
    "timm's ConvNeXt": lambda: TimmModel("test_convnext", EMBED),
    "timm's VisionTransformerRelPos": lambda: timm_tower(VisionTransformerRelPos, True, {}),
    "AlignModel": align,
    "a ViT with patches that are not square": lambda: of_blocks(patch_size=(8, 4)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_towers_without_patches(kind: str) -> None:
    model = REFUSED[kind]()
    assert find_patch_size(model) == 0
    with pytest.raises(
        UsageError, match=f"image tower, {kind}, has no .* choose a COSMOS"
    ) as error:
        encode_patches(model, torch.zeros(1, 3, SIDE, SIDE), "vanilla")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["siglip", "eva02", "hf clip"])
def test_an_image_under_one_patch(name: str) -> None:
    model = KINDS[name].make()
    assert find_patch_size(model) == PATCH
    assert encode_patches(model, torch.zeros(1, 3, PATCH, PATCH), "csa").shape[:3] == (1, 1, 1)
    with pytest.raises(UsageError, match="smaller than one patch"):
        encode_patches(model, torch.zeros(1, 3, PATCH - 1, SIDE), "csa")
