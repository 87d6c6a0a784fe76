"""Image towers with patch tokens, taken apart for dense features.

There is one class per family: OpenCLIP's own ViTs, timm's ViTs in OpenCLIP, and the ViTs of
transformers. Each step of a tower calls the library's own module or function.

Shapes: B images, N tokens of which the first P are not patches (class token, registers), h x w
patches, C tower width, D embedding."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

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


class Tower(ABC):
    """The steps of an image tower. All of them run within `sized`, for images of that size.

    The last block can run as a whole, or as its two branches, each of which is added to its input:
    tokens + attention_branch(tokens), then tokens + mlp_branch(tokens).
    """

    # The side of a patch in pixels.
    patch_size: int
    # P, the number of tokens before the patches.
    prefix: int
    # The last block.
    block: nn.Module
    # False if the last block is not the sum of its input and two branches.
    has_branches = True

    @abstractmethod
    def before_last(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, C) of images (B, 3, H, W) before the last block."""

    def last_block(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) after the last block, as trained."""
        return self.block(tokens, None)  # no mask

    @abstractmethod
    def attention_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's attention (B, N, C), with its norms and scale."""

    @abstractmethod
    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's MLP (B, N, C), with its norm and scale."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to features (B, N, D), which are not normalised.

        The feature of a token is the feature of an image whose tokens are all equal to that token.
        """

    def sized(self, image_hw: Grid) -> AbstractContextManager[None]:
        """Prepare the tower for images of this height and width, within the context."""
        return nullcontext()


def image_tower(model: nn.Module) -> Tower:
    """Return the steps of a model's image tower. Raises UsageError if it has no patch tokens."""
    if isinstance(model, transformer.VisionTransformer):
        return OpenClipTower(model)
    if isinstance(model, TimmModel):
        return TimmTower(model)
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", "")
    if model_type in _TRANSFORMERS:
        return _TRANSFORMERS[model_type](model)
    raise _unsupported(type(model).__name__)


def _unsupported(kind: str) -> UsageError:
    """Return the error for an image tower of an unsupported kind."""
    return UsageError(
        f"this model's image tower, {kind}, has no patch embeddings for texts: choose a "
        "COSMOS model or another ViT, such as ViT-B-16 or ViT-B-16-SigLIP"
    )


def _side_of_square(size: int | Sequence[int]) -> int:
    """Return the side of a square patch. Raises UsageError for a patch that is not square."""
    if isinstance(size, int):
        return size
    sides = set(size)
    if len(sides) > 1:
        raise _unsupported("a ViT with patches that are not square")
    return sides.pop()


def _run_blocks(blocks: Sequence[nn.Module], tokens: Tensor) -> Tensor:
    """Return the tokens (B, N, C) after blocks of OpenCLIP or transformers."""
    for block in blocks:
        tokens = block(tokens, None)  # no mask
    return tokens


def _pool_each_token(head: Step, tokens: Tensor, length: int = 1) -> Tensor:
    """Return the features (B, N, D) that a head makes of each of the tokens (B, N, C).

    The head gets each token as a sequence of `length` equal tokens.
    """
    sequences = tokens.flatten(0, 1)[:, None].expand(-1, length, -1)
    return head(sequences).unflatten(0, tokens.shape[:2])


class OpenClipTower(Tower):
    """The ViTs of OpenCLIP, and COSMOS's."""

    prefix = 1

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        *self.early_blocks, self.block = visual.transformer.resblocks
        if getattr(visual, "attn_pool_contrastive", None) is not None:
            raise _unsupported("a ViT with two attentional poolings, which OpenCLIP calls untested")
        attention: Any = self.block.attn
        if getattr(attention, "logit_scale", None) is not None:
            raise _unsupported(
                "a ViT with scaled cosine attention, which OpenCLIP itself fails to run"
            )
        self.patch_size = _side_of_square(visual.patch_size)

    def before_last(self, images: Tensor) -> Tensor:
        return _run_blocks(self.early_blocks, self._embed(images))

    def _embed(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, C) before the first block."""
        visual = self.visual
        grid = visual.conv1(images)
        cls = visual.class_embedding.to(grid.dtype).expand(len(images), 1, -1)
        tokens = torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)
        grid_hw = (grid.shape[2], grid.shape[3])
        positions = resize_positional_embedding(
            visual.positional_embedding, visual.grid_size, grid_hw
        )
        return visual.ln_pre(tokens + positions.to(tokens.dtype))

    def attention_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        tokens = block.ln_1(tokens)
        if isinstance(block.attn, nn.MultiheadAttention):
            return block.ls_1(self_attention(block.attn, tokens))
        return block.ls_1(block.ln_attn(block.attn(tokens)))

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        return block.ls_2(block.mlp(block.ln_2(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        if self.visual.attn_pool is not None:
            tokens = _pool_each_token(self._pool_by_attention, tokens)
        return self.visual.ln_post(tokens) @ self.visual.proj

    def _pool_by_attention(self, sequences: Tensor) -> Tensor:
        """Return pooled sequences (n, C) of sequences (n, 1, C), which have one token each.

        All queries get the same value from a single token. Therefore, only the first query runs.
        """
        pooler = self.visual.attn_pool
        first_query = {"query": pooler.query[:1]}
        return torch.func.functional_call(pooler, first_query, (sequences,))[:, 0]


def resize_positional_embedding(embedding: Tensor, trained_hw: Grid, grid_hw: Grid) -> Tensor:
    """Return positional embeddings (1 + h * w, C), resized from an m x n grid, (1 + m * n, C).

    `trained_hw` is (m, n), and `grid_hw` is (h, w). The class token keeps its embedding. The
    interpolation is bicubic by the factors (h + 0.1) / m and (w + 0.1) / n. The 0.1 keeps the size
    from being rounded down. It shifts samples a little, as in published numbers
    (facebookresearch/dino, interpolate_pos_encoding).
    """
    if grid_hw == trained_hw:
        return embedding
    cls, patches = embedding[:1], embedding[1:]
    grid = patches.T.reshape(1, -1, *trained_hw).float()
    factors = [
        (length + 0.1) / trained_length
        for length, trained_length in zip(grid_hw, trained_hw, strict=True)
    ]
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([cls, resized[0].flatten(1).T.to(cls.dtype)])


class TimmTower(Tower):
    """timm's ViTs and EVAs in OpenCLIP: SigLIP, SigLIP 2, EVA, PE, MobileCLIP-B and L."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.trunk = visual.trunk
        if not isinstance(self.trunk, VisionTransformer | Eva) or len(self.trunk.blocks) < 2:
            raise _unsupported(f"timm's {type(self.trunk).__name__}")
        self.patch_size = _side_of_square(self.trunk.patch_embed.feat_ratio(as_scalar=False))
        self.prefix = self.trunk.num_prefix_tokens
        self.block = self.trunk.blocks[-1]
        # Subclasses and other blocks may add up their branches in another way.
        self.has_branches = type(self.block) in (Block, EvaBlock)

    def before_last(self, images: Tensor) -> Tensor:
        (tokens,) = self.trunk.forward_intermediates(
            images,
            indices=[len(self.trunk.blocks) - 2],
            return_prefix_tokens=self.prefix > 0,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        if self.prefix == 0:
            return tokens
        patches, prefix_tokens = tokens
        return torch.cat([prefix_tokens, patches], dim=1)

    def last_block(self, tokens: Tensor) -> Tensor:
        return self.block(tokens, self._rope())

    def _rope(self) -> Tensor | None:
        """Return the rotary position embedding of the last block, if there is one."""
        if getattr(self.trunk, "rope", None) is None:
            return None
        embedding = self.trunk.rope.get_embed(shape=self.trunk.patch_embed.grid_size)
        # A mixed embedding has an entry for each block.
        return embedding[-1] if self.trunk.rope_mixed else embedding

    def attention_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        if isinstance(block, EvaBlock):
            attention = block.attn(block.norm1(tokens), rope=self._rope())
            return attention if block.gamma_1 is None else block.gamma_1 * attention
        return block.ls1(block.attn(block.norm1(tokens)))

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        if isinstance(block, EvaBlock):
            output = block.mlp(block.norm2(tokens))
            return output if block.gamma_2 is None else block.gamma_2 * output
        return block.ls2(block.mlp(block.norm2(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        # The pooling may leave out the prefix: a sequence has one token more.
        return _pool_each_token(self._head, self.trunk.norm(tokens), self.prefix + 1)

    def _head(self, sequences: Tensor) -> Tensor:
        """Return the features (n, D) of sequences (n, N, C) after the last norm."""
        return self.visual.head(self.trunk.forward_head(sequences))

    def sized(self, image_hw: Grid) -> AbstractContextManager[None]:
        return sized(self.trunk, image_hw)


@contextmanager
def sized(trunk: Any, image_hw: Grid) -> Iterator[None]:
    """Set the input size of a tower of timm, within the context.

    timm resamples the tower's positional embeddings. They are restored afterwards.
    """
    original_hw, original_positions = trunk.patch_embed.img_size, trunk.pos_embed
    if image_hw == original_hw:
        yield
        return
    trunk.set_input_size(image_hw)
    try:
        yield
    finally:
        trunk.set_input_size(original_hw)
        trunk.pos_embed = original_positions  # instead of positions that were resampled twice


class _TransformersTower(Tower):
    """A ViT of transformers whose modules have the names that CLIP and SigLIP share."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.vision = model.vision_model
        *self.early_blocks, self.block = self.vision.encoder.layers
        self.patch_size = _side_of_square(self.vision.config.patch_size)

    def before_last(self, images: Tensor) -> Tensor:
        tokens = self.vision.embeddings(images, interpolate_pos_encoding=True)
        return _run_blocks(self.early_blocks, self._before_first(tokens))

    def _before_first(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) that the first block gets, from embedded tokens."""
        return tokens

    def attention_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        return block.self_attn(block.layer_norm1(tokens))[0]

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        return block.mlp(block.layer_norm2(tokens))


class ClipTower(_TransformersTower):
    """CLIP of transformers, and models that share its image tower."""

    prefix = 1

    def _before_first(self, tokens: Tensor) -> Tensor:
        return self.vision.pre_layrnorm(tokens)  # as transformers spells it

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.visual_projection(self.vision.post_layernorm(tokens))


class SiglipTower(_TransformersTower):
    """SigLIP and SigLIP 2 of transformers."""

    prefix = 0

    def pool(self, tokens: Tensor) -> Tensor:
        return _pool_each_token(self.vision.head, self.vision.post_layernorm(tokens))


class Tipsv2Tower(Tower):
    """TIPSv2, whose image feature is the first class token. Its registers are class tokens too."""

    def __init__(self, model: Any) -> None:
        self.vision = model.vision_model
        *self.early_blocks, self.block = self.vision.encoder.layer
        self.patch_size = _side_of_square(self.vision.config.patch_size)
        self.prefix = 1 + self.vision.config.num_register_tokens

    def before_last(self, images: Tensor) -> Tensor:
        return _run_blocks(self.early_blocks, self.vision.embeddings(images))

    def attention_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        return block.layer_scale1(block.attention(block.norm1(tokens))[0])

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        block: Any = self.block
        return block.layer_scale2(block.mlp(block.norm2(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        return self.vision.layernorm(tokens)


# By `model_type` of transformers.
_TRANSFORMERS: dict[str, Callable[[Any], Tower]] = {
    "clip": ClipTower,
    "metaclip_2": ClipTower,
    "altclip": ClipTower,
    "chinese_clip": ClipTower,
    "siglip": SiglipTower,
    "tipsv2": Tipsv2Tower,
}
