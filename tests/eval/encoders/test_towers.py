"""Patch embeddings of every kind of tower, against the library's own forward and plain formulas.

A hook replaces the tokens after a tower's last block by copies of one patch. The feature that the
tower's head then gives is the expected embedding of this patch.
"""

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


def timm_tower(trunk_class: type[nn.Module], *, projected: bool = True, **options: Any) -> Any:
    """Return OpenCLIP's adapter around a small trunk of timm.

    A tower that is not `projected`, such as PE's, projects by the head of its trunk.
    """
    visual = TimmModel("test_vit", EMBED, pool="token", proj="linear")
    trunk: Any = trunk_class(**(SIZE | options), num_classes=0 if projected else EMBED)
    visual.trunk = trunk
    visual.head = nn.Linear(WIDTH, EMBED, bias=False) if projected else nn.Identity()
    return visual


def hybrid(**options: Any) -> Any:
    """Return a tower whose patches are made by convolutions, like MobileCLIP-B's."""
    embed = partial(HybridEmbed, backbone=ConvStem(**STEM, act_layer=nn.GELU), proj=False)
    options |= {"embed_layer": embed, "patch_size": 1, "no_embed_class": True}
    return timm_tower(VisionTransformer, **options)


def hf_model(name: str, text: dict[str, Any] = TEXT, vision: dict[str, Any] = HF) -> Any:
    """Return a model of transformers, such as CLIPModel for the name CLIP."""
    options = {} if name in ("Siglip", "Tipsv2") else {"projection_dim": EMBED}
    config = getattr(t, f"{name}Config")(text_config=text, vision_config=vision, **options)
    return getattr(t, f"{name}Model")(config)


class Kind(NamedTuple):
    """A kind of tower: the function that makes it, with its options, and how to run it."""

    function: Callable[..., Any]
    options: dict[str, Any]
    prefix: int  # tokens before those of the patches
    sizes: tuple[tuple[int, int], ...] = SIZES  # heights and widths of images

    def make(self, **more_options: Any) -> Any:
        return self.function(**(self.options | more_options))


def openclip(**options: Any) -> Kind:
    """Return a kind of OpenCLIP's tower, whose own resizing of positions is tested elsewhere."""
    return Kind(OpenClip, {**OPENCLIP, **options}, prefix=1, sizes=SIZES[:1])


def vit(prefix: int, **options: Any) -> Kind:
    return Kind(timm_tower, {"trunk_class": VisionTransformer, **options}, prefix)


def eva(prefix: int, **options: Any) -> Kind:
    return Kind(timm_tower, {"trunk_class": Eva, **options}, prefix)


def hf(prefix: int, name: str, **configs: Any) -> Kind:
    return Kind(hf_model, {"name": name, **configs}, prefix)


OPENCLIP = {"image_size": SIDE, "patch_size": PATCH, "width": WIDTH, "layers": 2, "heads": HEADS}
OPENCLIP |= {"mlp_ratio": 2.0, "output_dim": EMBED}
COCA = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2}
KINDS = {
    "clip": openclip(),
    "coca": openclip(**COCA),
    "coca average": openclip(**COCA, pool_type="avg"),
    "siglip": vit(prefix=0, class_token=False, global_pool="map"),
    "mobileclip-l": vit(prefix=1, pre_norm=True, qk_norm=True),
    "mobileclip-b": Kind(hybrid, {}, prefix=1),
    "registers": vit(prefix=4, reg_tokens=3, no_embed_class=True, init_values=0.5),
    "gap": vit(prefix=0, class_token=False, global_pool="avg", scale_attn_norm=True),
    "registers average": vit(prefix=3, reg_tokens=2, global_pool="avg", fc_norm=False),
    "registers map": vit(prefix=3, reg_tokens=2, global_pool="map", scale_mlp_norm=True),
    "eva01": eva(prefix=1, init_values=0.5, global_pool="token"),
    "eva02": eva(prefix=1, **EVA02),
    "pe": eva(prefix=1, projected=False, **PE),
    "pe bigG": eva(prefix=0, projected=False, class_token=False, **PE),
    "rope mixed": eva(prefix=3, **PE, rope_type="mixed", num_reg_tokens=2),
    "hf clip": hf(1, "CLIP"),
    "hf metaclip 2": hf(1, "MetaClip2"),
    "hf altclip": hf(1, "AltCLIP", text={**TEXT, "project_dim": WIDTH}),
    "hf chinese": hf(1, "ChineseCLIP"),
    "hf siglip": hf(0, "Siglip"),
    "hf tipsv2": hf(3, "Tipsv2", vision={**LAYERS, "num_register_tokens": 2}),
}


def randomised(model: Any) -> Any:
    """Move every parameter from its neutral start; return the model in float64 for evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def for_any_size(kind: Kind, model: Any) -> Any:
    """Return the same tower, if it is timm's made again for images of any size."""
    if not isinstance(model, TimmModel):
        return model
    model_for_any_size = kind.make(dynamic_img_size=True).double().eval()
    model_for_any_size.load_state_dict(model.state_dict())
    return model_for_any_size


def feature(model: Any, images: Tensor) -> Tensor:
    """Return the image feature by the library's own forward."""
    if not hasattr(model, "get_image_features"):
        return model(images)
    options = {} if isinstance(model, t.Tipsv2Model) else {"interpolate_pos_encoding": True}
    return model.get_image_features(pixel_values=images, **options).pooler_output


def last_block(model: Any) -> Any:
    if isinstance(model, OpenClip):
        return model.transformer.resblocks[-1]
    if isinstance(model, TimmModel):
        return model.trunk.blocks[-1]
    encoder = model.vision_model.encoder
    return (encoder.layer if isinstance(model, t.Tipsv2Model) else encoder.layers)[-1]


@contextmanager
def replaced_output_of_last_block(model: Any, tokens: Tensor) -> Iterator[None]:
    handle = last_block(model).register_forward_hook(lambda *_: tokens)
    yield
    handle.remove()


def input_and_output_of_last_block(model: Any, images: Tensor) -> list[Tensor]:
    tensors: list[Tensor] = []

    def remember(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        tensors.extend([args[0], output])

    handle = last_block(model).register_forward_hook(remember)
    feature(model, images)
    handle.remove()
    return tensors


def rotated(x: Tensor, rope: Tensor | None, prefix: int, head: int) -> Tensor:
    """Multiply pairs of patches' channels (B, N, d) by unit numbers of the complex plane."""
    if rope is None:
        return x
    sin, cos = (rope[head] if rope.ndim == 3 else rope).chunk(2, -1)
    channel_pairs = torch.view_as_complex(x[:, prefix:].unflatten(-1, (-1, 2)).contiguous())
    channel_pairs = channel_pairs * torch.complex(cos[:, ::2], sin[:, ::2])
    return torch.cat([x[:, :prefix], torch.view_as_real(channel_pairs).flatten(-2)], 1)


def projections(attn: Any, x: Tensor) -> list[Tensor]:
    """Return queries, keys and values (B, N, C) by the names of any of the libraries."""
    if hasattr(attn, "in_proj_weight"):
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
    elif getattr(attn, "qkv", None) is not None:
        weight, bias = attn.qkv.weight, attn.qkv.bias
        if getattr(attn, "q_bias", None) is not None:
            bias = torch.cat([attn.q_bias, torch.zeros(WIDTH), attn.v_bias])
    else:
        return [getattr(attn, f"{name}_proj")(x) for name in "qkv"]
    return [*(x @ weight.T + (0 if bias is None else bias)).split(WIDTH, -1)]


def member(module: Any, *names: str) -> Any:
    """Return the first member of these names that a module has; without any, an identity."""
    for name in names:
        if getattr(module, name, None) is not None:
            return getattr(module, name)
    return nn.Identity()


def plain_block(model: Any, x: Tensor, form: str, grid: tuple[int, int], prefix: int) -> Tensor:
    """Run the last block, (B, N, C) -> (B, N, C), head by head."""
    block = last_block(model)
    attn = member(block, "attn", "self_attn", "attention")
    q, k, v = projections(attn, member(block, "ln_1", "norm1", "layer_norm1")(x))
    rope = getattr(getattr(model, "trunk", None), "rope", None)
    if rope is not None:
        rope = rope.get_embed(shape=grid).double()
        rope = rope[-1] if rope.ndim == 4 else rope
    head_outputs = []
    for head, columns in enumerate(torch.arange(WIDTH).split(WIDTH // HEADS)):
        head_q = rotated(member(attn, "q_norm")(q[..., columns]), rope, prefix, head)
        head_k = rotated(member(attn, "k_norm")(k[..., columns]), rope, prefix, head)
        weights = weights_of(form, head_q, head_k, grid, prefix)
        head_outputs.append(torch.einsum("bnm,bmd->bnd", weights, v[..., columns]))
    out = member(attn, "norm")(torch.cat(head_outputs, -1))
    out = member(attn, "out_proj", "proj", "o_proj")(out)
    out = scaled(block, 1, out)
    if form in ("clearclip", "naclip"):
        return out
    x = x + out
    return x + scaled(block, 2, block.mlp(member(block, "ln_2", "norm2", "layer_norm2")(x)))


def scaled(block: Any, branch: int, x: Tensor) -> Tensor:
    """Scale the output of attention (branch 1) or of the MLP (2), if the block does so."""
    scale = member(block, f"gamma_{branch}", f"ls{branch}", f"layer_scale{branch}")
    return scale * x if isinstance(scale, Tensor) else scale(x)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("registers", form) for form in FORMS),
        # One form with the library's weights, one with others, one without residual connection.
        *((name, form) for name in KINDS if name != "registers" for form in SOME_FORMS),
    ],
)
def test_patches_are_features_of_equal_tokens(name: str, form: Attention) -> None:
    kind = KINDS[name]
    model = randomised(kind.make())
    reference = for_any_size(kind, model)
    feature_before = feature(model, torch.ones(1, 3, SIDE, SIDE).double())
    for size in kind.sizes:
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        grid = (size[0] // PATCH, size[1] // PATCH)
        # Pixels beyond the last whole patch are left out.
        cropped = images[..., : grid[0] * PATCH, : grid[1] * PATCH]
        tokens, library_output = input_and_output_of_last_block(reference, cropped)
        output = plain_block(reference, tokens, form, grid, kind.prefix)
        if form == "vanilla":  # the library's own formula
            torch.testing.assert_close(output, library_output, rtol=0, atol=1e-5)
            output = library_output
        patch_tokens = output[:, kind.prefix :].flatten(0, 1)
        copies = patch_tokens[:, None].expand(-1, output.shape[1], -1)
        with replaced_output_of_last_block(reference, copies):
            expected = F.normalize(feature(reference, cropped), dim=-1).unflatten(0, (2, *grid))
        patches = encode_patches(model, images, form)
        assert patches.dtype == torch.float32
        torch.testing.assert_close(patches.double(), expected, rtol=0, atol=2e-6)
    feature_after = feature(model, torch.ones(1, 3, SIDE, SIDE).double())
    assert torch.equal(feature_before, feature_after)  # positions were resized for the call only


def patches_of_some_forms(model: Any, images: Tensor) -> list[Tensor]:
    return [encode_patches(model, images, form) for form in SOME_FORMS]


@pytest.mark.parametrize("name", KINDS)
def test_blocks_before_the_last_run_once_for_all_forms(name: str) -> None:
    model = randomised(KINDS[name].make())
    convolution_inputs: list[Tensor] = []

    def remember(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> None:
        convolution_inputs.append(args[0])

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(remember)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    expected = [patches_of_some_forms(model, x) for x in (images, -images)]
    convolutions_without_sharing = len(convolution_inputs)
    convolution_inputs.clear()
    with shared_blocks():
        shared = [patches_of_some_forms(model, x) for x in (images, -images)]
    assert convolutions_without_sharing == len(SOME_FORMS) * len(convolution_inputs) > 0
    torch.testing.assert_close(shared, expected, rtol=0, atol=0)
    # Another model is not given the blocks of the first.
    other_model = randomised(randomised(KINDS[name].make()))
    with shared_blocks():
        encode_patches(model, images, "csa")
        patches = encode_patches(other_model, images, "csa")
    assert torch.equal(patches, encode_patches(other_model, images, "csa"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["gap", "registers average"])
def test_the_mean_over_patches_is_the_feature_of_average_pooling(name: str) -> None:
    model = randomised(KINDS[name].make(fc_norm=False))
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    _, tokens = input_and_output_of_last_block(model, images)
    patches = image_tower(model).pool(tokens[:, KINDS[name].prefix :])
    torch.testing.assert_close(patches.mean(1), feature(model, images), rtol=0, atol=1e-6)


def vit_without_fused_attention() -> Any:
    visual = timm_tower(VisionTransformer)
    visual.trunk.blocks[-1].attn.fused_attn = False
    return visual


def clip_with_eager_attention() -> Any:
    model = hf_model("CLIP")
    model.set_attn_implementation("eager")
    return model


# Names of blocks, with kinds of towers that have them.
OTHER_BLOCKS = {
    "ResPostBlock": vit(prefix=1, block_fn=ResPostBlock),
    "EvaBlockPostNorm": eva(prefix=1, use_post_norm=True),
    "Block": vit(prefix=1, attn_layer=DiffAttention),
    "Block ": Kind(vit_without_fused_attention, {}, prefix=1),
    "CLIPEncoderLayer": Kind(clip_with_eager_attention, {}, prefix=1),
}


@torch.no_grad()
@pytest.mark.parametrize("block", OTHER_BLOCKS)
def test_blocks_without_other_forms_of_attention(block: str) -> None:
    """They have no softmax(qk') that could be replaced, or add their branches in another way."""
    model = randomised(OTHER_BLOCKS[block].make())
    images = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    _, output = input_and_output_of_last_block(model, images)
    patch_tokens = output[0, 1:]
    copies = patch_tokens[:, None].expand(-1, 17, -1)  # 4 x 4 patches and a class token
    with replaced_output_of_last_block(model, copies):
        expected = F.normalize(feature(model, images), dim=-1).unflatten(0, (1, 4, 4))
    patches = encode_patches(model, images, "vanilla").double()
    torch.testing.assert_close(patches, expected, rtol=0, atol=2e-6)
    message = f"no other attention than --attention vanilla .* {block.strip()}$"
    for form in FORMS[1:]:
        with pytest.raises(UsageError, match=message):
            encode_patches(model, images, form)


@pytest.mark.parametrize("name", ["siglip", "eva02", "hf clip"])
def test_proxy_attention_is_refused_for_blocks_that_are_not_pytorchs(name: str) -> None:
    def guide_features(_: Tensor) -> Tensor:
        return torch.ones(1, 8, 8, 3)

    model, images = KINDS[name].make(), torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(UsageError, match=r"not defined for this model's last \w*(Block|Layer):"):
        encode_patches(model, images, "proxy", guide_features)


# What a message calls a tower, with a function that makes it, and its options.
WITHOUT_PATCHES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "timm's ResNet": (TimmModel, {"model_name": "test_resnet", "embed_dim": EMBED}),
    "timm's ConvNeXt": (TimmModel, {"model_name": "test_convnext", "embed_dim": EMBED}),
    "timm's VisionTransformerRelPos": (timm_tower, {"trunk_class": VisionTransformerRelPos}),
    "AlignModel": (
        hf_model,
        {"name": "Align", "vision": {"width_coefficient": 0.1, "depth_coefficient": 0.1}},
    ),
    "a ViT with patches that are not square": (
        timm_tower,
        {"trunk_class": VisionTransformer, "patch_size": (8, 4)},
    ),
}


@pytest.mark.parametrize("tower", WITHOUT_PATCHES)
def test_towers_without_patches_are_refused(tower: str) -> None:
    function, options = WITHOUT_PATCHES[tower]
    model = function(**options)
    assert find_patch_size(model) == 0
    message = f"image tower, {tower}, has no .* choose a COSMOS"
    with pytest.raises(UsageError, match=message) as error:
        encode_patches(model, torch.zeros(1, 3, SIDE, SIDE), "vanilla")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["siglip", "eva02", "hf clip"])
def test_an_image_smaller_than_one_patch_is_refused(name: str) -> None:
    model = KINDS[name].make()
    assert find_patch_size(model) == PATCH
    assert encode_patches(model, torch.zeros(1, 3, PATCH, PATCH), "csa").shape[:3] == (1, 1, 1)
    with pytest.raises(UsageError, match="smaller than one patch"):
        encode_patches(model, torch.zeros(1, 3, PATCH - 1, SIDE), "csa")
