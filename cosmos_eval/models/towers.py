"""Image towers with patch tokens, in the parts that dense features need: OpenCLIP's own ViTs,
timm's in OpenCLIP, and those of transformers. Each part is the library's module or function.

Shapes: B images, N tokens of which the first P are no patches (class token, registers), h x w
patches, C tower width, D embedding."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from open_clip import transformer
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.models.attention import Grid, self_attention
from cosmos_eval.types import UsageError

Step = Callable[[Tensor], Tensor]


class Tower(NamedTuple):
    """What differs among image towers. `before_last` maps images to the tokens (B, N, C) that
    `block`, the last one, gets together with `rope`. `branches` are its attention and its MLP with
    their norms and scales, where the block adds one after the other to its input. `pool` maps
    tokens (B, N, C) to (B, N, D), each as if all were like it. `prefix` is P. All of this runs
    within `sized`, for images of this height and width."""

    patch_size: int
    prefix: int
    before_last: Step
    block: nn.Module
    branches: tuple[Step, Step] | None
    pool: Step
    rope: Callable[[], Tensor | None] = lambda: None
    sized: Callable[[Grid], AbstractContextManager[None]] = lambda _: nullcontext()


def image_tower(model: nn.Module) -> Tower:
    """Return the parts of an image tower. Raises UsageError where it has no patch tokens."""
    if isinstance(model, transformer.VisionTransformer):
        return _openclip(model)
    if isinstance(model, TimmModel):
        trunk = model.trunk
        known = isinstance(trunk, VisionTransformer | Eva) and len(trunk.blocks) > 1
        return _timm(model) if known else _refuse(f"timm's {type(trunk).__name__}")
    config: Any = getattr(model, "config", None)
    family = _TRANSFORMERS.get(getattr(config, "model_type", ""))
    return family(model) if family else _refuse(type(model).__name__)


def _refuse(kind: str) -> NoReturn:
    raise UsageError(
        f"this model's image tower, {kind}, has no patch embeddings for texts: choose a "
        "COSMOS model or another ViT, such as ViT-B-16 or ViT-B-16-SigLIP"
    )


def _square(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else {*size}
    return sides.pop() if len(sides) == 1 else _refuse("a ViT with patches that are not square")


def _through(embed: Step, blocks: Sequence[nn.Module]) -> Step:
    def run(images: Tensor) -> Tensor:
        x = embed(images)
        for block in blocks:
            x = block(x, None)  # no mask
        return x

    return run


def _each(head: Step, x: Tensor, length: int = 1) -> Tensor:
    """Run a head on every token (B, N, C) as a sequence of `length` equal tokens -> (B, N, D)."""
    sequences = x.flatten(0, 1)[:, None].expand(-1, length, -1)
    return head(sequences).unflatten(0, x.shape[:2])


def _openclip(visual: Any) -> Tower:
    """OpenCLIP's own ViTs, COSMOS's among them."""
    *early, block = visual.transformer.resblocks
    if getattr(visual, "attn_pool_contrastive", None) is not None:
        _refuse("a ViT with two attentional poolings, which OpenCLIP calls untested")
    if getattr(block.attn, "logit_scale", None) is not None:
        _refuse("a ViT with scaled cosine attention, which OpenCLIP itself fails to run")

    def attention(x: Tensor) -> Tensor:
        x = block.ln_1(x)
        if isinstance(block.attn, nn.MultiheadAttention):
            return block.ls_1(self_attention(block.attn, x))
        return block.ls_1(block.ln_attn(block.attn(x)))

    def pool(x: Tensor) -> Tensor:
        pooler = visual.attn_pool
        if pooler is not None:  # of one token all queries read the same: the first is enough
            query = {"query": pooler.query[:1]}
            x = _each(lambda one: torch.func.functional_call(pooler, query, (one,))[:, 0], x)
        return visual.ln_post(x) @ visual.proj

    return Tower(
        patch_size=_square(visual.patch_size),
        prefix=1,
        before_last=_through(partial(_embed, visual), early),
        block=block,
        branches=(attention, lambda x: block.ls_2(block.mlp(block.ln_2(x)))),
        pool=pool,
    )


def _embed(visual: Any, images: Tensor) -> Tensor:
    grid = visual.conv1(images)
    cls = visual.class_embedding.to(grid.dtype).expand(len(images), 1, -1)
    tokens = torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)
    grid_hw = (grid.shape[2], grid.shape[3])
    positions = resize_positional_embedding(visual.positional_embedding, visual.grid_size, grid_hw)
    return visual.ln_pre(tokens + positions.to(tokens.dtype))


def resize_positional_embedding(embedding: Tensor, trained_hw: Grid, grid_hw: Grid) -> Tensor:
    """Positional embeddings (1 + m * n, C) of an m x n grid -> (1 + h * w, C); CLS keeps its own.
    Bicubic by a factor of (h + 0.1) / m: the 0.1 guards the rounding of the size and shifts samples
    a little, as published numbers have it (facebookresearch/dino, interpolate_pos_encoding)."""
    if grid_hw == trained_hw:
        return embedding
    cls, patches = embedding[:1], embedding[1:]
    grid = patches.T.reshape(1, -1, *trained_hw).float()
    factors = [(length + 0.1) / old for length, old in zip(grid_hw, trained_hw, strict=True)]
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([cls, resized[0].flatten(1).T.to(cls.dtype)])


def _timm(visual: Any) -> Tower:
    """timm's ViTs and EVAs in OpenCLIP: SigLIP, SigLIP 2, EVA, PE, MobileCLIP-B and L."""
    trunk = visual.trunk
    prefix, block = trunk.num_prefix_tokens, trunk.blocks[-1]

    def before_last(images: Tensor) -> Tensor:
        options = {"return_prefix_tokens": prefix > 0, "intermediates_only": True}
        options |= {"indices": [len(trunk.blocks) - 2], "stop_early": True, "output_fmt": "NLC"}
        [found] = trunk.forward_intermediates(images, **options)
        return torch.cat(found[::-1], dim=1) if prefix else found

    def rope() -> Tensor | None:
        if getattr(trunk, "rope", None) is None:
            return None
        found = trunk.rope.get_embed(shape=trunk.patch_embed.grid_size)
        return found[-1] if trunk.rope_mixed else found  # of the last block

    return Tower(
        patch_size=_square(trunk.patch_embed.feat_ratio(as_scalar=False)),
        prefix=prefix,
        before_last=before_last,
        block=block,
        branches=_timm_branches(block, rope),
        # As many tokens as the pooling may leave out, and one more.
        pool=lambda x: _each(
            lambda one: visual.head(trunk.forward_head(one)), trunk.norm(x), prefix + 1
        ),
        rope=rope,
        sized=partial(sized, trunk),
    )


def _timm_branches(block: Any, rope: Callable[[], Tensor | None]) -> tuple[Step, Step] | None:
    if type(block) is Block:
        return (
            lambda x: block.ls1(block.attn(block.norm1(x))),
            lambda x: block.ls2(block.mlp(block.norm2(x))),
        )
    if type(block) is EvaBlock:
        gammas = [1 if gamma is None else gamma for gamma in (block.gamma_1, block.gamma_2)]
        return (
            lambda x: gammas[0] * block.attn(block.norm1(x), rope=rope()),
            lambda x: gammas[1] * block.mlp(block.norm2(x)),
        )
    return None


@contextmanager
def sized(trunk: Any, image_hw: Grid) -> Iterator[None]:
    """Set the input size of a tower of timm, which resamples positions as timm does."""
    own, positions = trunk.patch_embed.img_size, trunk.pos_embed
    if image_hw == own:
        yield
        return
    trunk.set_input_size(image_hw)
    try:
        yield
    finally:
        trunk.set_input_size(own)
        trunk.pos_embed = positions  # not resampled back


def _clip(model: Any) -> Tower:
    """CLIP of transformers, and those that share its image tower."""
    vision = model.vision_model
    return _layers(
        vision, 1, vision.pre_layrnorm, lambda x: model.visual_projection(vision.post_layernorm(x))
    )


def _siglip(model: Any) -> Tower:
    vision = model.vision_model
    return _layers(vision, 0, nn.Identity(), lambda x: _each(vision.head, vision.post_layernorm(x)))


def _layers(vision: Any, prefix: int, start: Step, pool: Step) -> Tower:
    *early, layer = vision.encoder.layers
    return Tower(
        patch_size=_square(vision.config.patch_size),
        prefix=prefix,
        before_last=_through(
            lambda images: start(vision.embeddings(images, interpolate_pos_encoding=True)), early
        ),
        block=layer,
        branches=(
            lambda x: layer.self_attn(layer.layer_norm1(x))[0],
            lambda x: layer.mlp(layer.layer_norm2(x)),
        ),
        pool=pool,
    )


def _tipsv2(model: Any) -> Tower:
    """TIPSv2, whose feature is the first class token's; its registers are further class tokens."""
    vision = model.vision_model
    *early, layer = vision.encoder.layer
    return Tower(
        patch_size=_square(vision.config.patch_size),
        prefix=1 + vision.config.num_register_tokens,
        before_last=_through(vision.embeddings, early),
        block=layer,
        branches=(
            lambda x: layer.layer_scale1(layer.attention(layer.norm1(x))[0]),
            lambda x: layer.layer_scale2(layer.mlp(layer.norm2(x))),
        ),
        pool=vision.layernorm,
    )


# By `model_type` of transformers.
_TRANSFORMERS: dict[str, Callable[[Any], Tower]] = {
    **dict.fromkeys(("clip", "metaclip_2", "altclip", "chinese_clip"), _clip),
    **{"siglip": _siglip, "tipsv2": _tipsv2},
}
