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

from cosmos_eval.models.attention import Grid, is_plain_attention, self_attention
from cosmos_eval.types import UsageError

Step = Callable[[Tensor], Tensor]


class Tower(ABC):
    """The steps of an image tower, which run one after the other to encode patches.

    All steps run within the context `input_size`, which prepares the tower for a size of images.
    The last block can run as a whole, or as its two branches, each of which is added to its input:
    tokens = tokens + attention_branch(tokens), then tokens = tokens + mlp_branch(tokens).
    """

    # The side of a patch in pixels.
    patch_size: int
    # P, the number of tokens before the patches: the class token and registers.
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
        """Return the features (B, N, D) of tokens (B, N, C), which are not normalised.

        The feature of a token is the feature of an image whose tokens are all equal to that token.
        """

    def input_size(self, image_hw: Grid) -> AbstractContextManager[None]:
        """Return a context in which the tower takes images of this height and width, in pixels.

        By default, a tower takes images of any size, and the context does nothing.
        """
        return nullcontext()


def image_tower(model: nn.Module) -> Tower:
    """Return a model's image tower, taken apart into the steps that encode patches.

    Args:
        model: The image tower of an OpenCLIP model (its `visual`), or a model of transformers.

    Raises:
        UsageError: If the tower has no patch tokens, or if its class is not known here.
    """
    model = getattr(model, "_orig_mod", model)  # the module inside torch.compile
    if isinstance(model, transformer.VisionTransformer):
        return OpenClipTower(model)
    if isinstance(model, TimmModel):
        return TimmTower(model)
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", "")
    if model_type in _TRANSFORMERS_TOWERS:
        return _TRANSFORMERS_TOWERS[model_type](model)
    raise _unsupported_tower_error(type(model).__name__)


def _unsupported_tower_error(description: str) -> UsageError:
    """Return the error for an image tower whose patches cannot be compared with texts.

    `description` completes "this model's image tower, ...", for example "ModifiedResNet".
    """
    return UsageError(
        f"this model's image tower, {description}, has no patch embeddings for texts: choose a "
        "COSMOS model or another ViT, such as ViT-B-16 or ViT-B-16-SigLIP"
    )


def _side_of_square(size: int | Sequence[int]) -> int:
    """Return the side of a square patch in pixels: both 16 and (16, 16) give 16.

    Raises UsageError for a patch that is not square, such as (16, 8).
    """
    if isinstance(size, int):
        return size
    sides = set(size)
    if len(sides) > 1:
        raise _unsupported_tower_error("a ViT with patches that are not square")
    return sides.pop()


def _pool_each_token(head: Step, tokens: Tensor, length: int = 1) -> Tensor:
    """Return the feature that a pooling head returns for each token separately, (B, N, D).

    A pooling head makes one feature of all tokens of an image. Here, it is given one token at a
    time, as if all tokens of an image were equal to that token.

    Args:
        head: The pooling head, which maps sequences of tokens (B * N, length, C) to features
            (B * N, D).
        tokens: The tokens (B, N, C) of B images.
        length: How often a token is repeated in its sequence.
    """
    single_tokens = tokens.flatten(0, 1)[:, None]  # (B * N, 1, C)
    sequences = single_tokens.expand(-1, length, -1)  # (B * N, length, C)
    features = head(sequences)  # (B * N, D)
    return features.unflatten(0, tokens.shape[:2])


class OpenClipTower(Tower):
    """The ViTs of OpenCLIP, and COSMOS's."""

    prefix = 1

    def __init__(self, visual: Any) -> None:
        """Take apart the image tower of an OpenCLIP model.

        Raises UsageError for a tower whose steps are not known here.
        """
        self.visual = visual
        *self.early_blocks, self.block = visual.transformer.resblocks
        self.patch_size = _side_of_square(visual.patch_size)

        # Refuse towers with steps that `before_last` and the other methods would leave out.
        if getattr(visual, "attn_pool_contrastive", None) is not None:
            raise _unsupported_tower_error(
                "a ViT with two attentional poolings, which OpenCLIP calls untested"
            )
        attention: Any = self.block.attn
        if getattr(attention, "logit_scale", None) is not None:
            raise _unsupported_tower_error(
                "a ViT with scaled cosine attention, which OpenCLIP 3 fails to run"
            )

    def before_last(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, C) of images (B, 3, H, W) before the last block."""
        # Embed patches, and put the class token before them.
        visual = self.visual
        patch_grid = visual.conv1(images)  # (B, C, h, w)
        patch_tokens = patch_grid.flatten(2).transpose(1, 2)  # (B, h * w, C)
        class_token = visual.class_embedding.to(patch_grid.dtype).expand(len(images), 1, -1)
        tokens = torch.cat([class_token, patch_tokens], dim=1)  # (B, 1 + h * w, C)

        # Add positional embeddings for the grid of these images.
        grid_hw = (patch_grid.shape[2], patch_grid.shape[3])
        positions = resize_positional_embedding(
            visual.positional_embedding, visual.grid_size, grid_hw
        )
        tokens = visual.ln_pre(tokens + positions.to(tokens.dtype))
        for block in self.early_blocks:
            tokens = block(tokens, None)  # no mask
        return tokens

    def attention_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's attention (B, N, C), with its norms and scale."""
        block: Any = self.block
        normed_tokens = block.ln_1(tokens)
        if is_plain_attention(block.attn):
            output = self_attention(block.attn, normed_tokens)
        else:
            output = block.attn(normed_tokens)
        return self.after_attention(output)

    def after_attention(self, output: Tensor) -> Tensor:
        """Return the output of the last block's attention (B, N, C) after its norm and scale."""
        block: Any = self.block
        # Only the custom blocks of OpenCLIP have a norm here.
        if hasattr(block, "ln_attn"):
            output = block.ln_attn(output)
        return block.ls_1(output)

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's MLP (B, N, C), with its norm and scale."""
        block: Any = self.block
        return block.ls_2(block.mlp(block.ln_2(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the features (B, N, D) of tokens (B, N, C): attentional pooling, norm, projection.

        Only some towers have attentional pooling.
        """
        if self.visual.attn_pool is not None:
            tokens = _pool_each_token(self._pool_by_attention, tokens)
        return self.visual.ln_post(tokens) @ self.visual.proj

    def _pool_by_attention(self, sequences: Tensor) -> Tensor:
        """Return the attentional pooling (n, C) of n sequences of one token each, (n, 1, C).

        The pooling has many queries, which attend to all tokens of a sequence. Every query gets the
        value of a single token. Therefore, only the first query runs.
        """
        pooler = self.visual.attn_pool
        first_query = {"query": pooler.query[:1]}
        # Call the pooler with the first query in place of all its queries.
        pooled_tokens = torch.func.functional_call(pooler, first_query, (sequences,))  # (n, 1, C)
        return pooled_tokens[:, 0]


def resize_positional_embedding(embedding: Tensor, trained_hw: Grid, grid_hw: Grid) -> Tensor:
    """Return positional embeddings that are resized to another grid of patches.

    The interpolation is bicubic by the factors (h + 0.1) / m and (w + 0.1) / n. The 0.1 keeps the
    size from being rounded down. It shifts samples a little, as in published numbers
    (facebookresearch/dino, interpolate_pos_encoding).

    Args:
        embedding: The embeddings (1 + m * n, C) of the class token and of an m x n grid of patches.
        trained_hw: (m, n), the height and width of the grid in training.
        grid_hw: (h, w), the height and width of the new grid.

    Returns:
        The embeddings (1 + h * w, C). The class token keeps its embedding.
    """
    if grid_hw == trained_hw:
        return embedding
    class_embedding, patch_embeddings = embedding[:1], embedding[1:]
    trained_grid = patch_embeddings.T.reshape(1, -1, *trained_hw).float()  # (1, C, m, n)

    height_factor = (grid_hw[0] + 0.1) / trained_hw[0]
    width_factor = (grid_hw[1] + 0.1) / trained_hw[1]
    resized_grid = F.interpolate(
        trained_grid, scale_factor=[height_factor, width_factor], mode="bicubic"
    )  # (1, C, h, w)

    resized_embeddings = resized_grid[0].flatten(1).T.to(embedding.dtype)  # (h * w, C)
    return torch.cat([class_embedding, resized_embeddings])


class TimmTower(Tower):
    """timm's ViTs and EVAs in OpenCLIP: SigLIP, SigLIP 2, EVA, PE, MobileCLIP-B and L."""

    def __init__(self, visual: Any) -> None:
        """Take apart an image tower of OpenCLIP that wraps a model of timm, its `trunk`.

        Raises UsageError if the trunk is not a ViT or EVA of two or more blocks.
        """
        self.visual = visual
        self.trunk = visual.trunk
        if not isinstance(self.trunk, VisionTransformer | Eva) or len(self.trunk.blocks) < 2:
            raise _unsupported_tower_error(f"timm's {type(self.trunk).__name__}")
        self.patch_size = _side_of_square(self.trunk.patch_embed.feat_ratio(as_scalar=False))
        self.prefix = self.trunk.num_prefix_tokens
        self.block = self.trunk.blocks[-1]
        # Subclasses and other blocks may add up their branches in another way.
        self.has_branches = type(self.block) in (Block, EvaBlock)

    def before_last(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, C) of images (B, 3, H, W) before the last block."""
        last_but_one = len(self.trunk.blocks) - 2
        has_prefix = self.prefix > 0
        (output,) = self.trunk.forward_intermediates(
            images,
            indices=[last_but_one],
            return_prefix_tokens=has_prefix,
            stop_early=True,
            output_fmt="NLC",  # (B, N, C)
            intermediates_only=True,
        )
        if not has_prefix:
            return output
        # timm returns the tokens of patches apart from the class token and the registers.
        patch_tokens, prefix_tokens = output
        return torch.cat([prefix_tokens, patch_tokens], dim=1)

    def last_block(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) after the last block, as trained."""
        return self.block(tokens, self._rotary_embedding())

    def _rotary_embedding(self) -> Tensor | None:
        """Return the rotary position embedding of the last block, or None if it has none."""
        if getattr(self.trunk, "rope", None) is None:
            return None
        embedding = self.trunk.rope.get_embed(shape=self.trunk.patch_embed.grid_size)
        # timm calls it mixed if each block has an embedding of its own: take the last block's.
        return embedding[-1] if self.trunk.rope_mixed else embedding

    def attention_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's attention (B, N, C), with its norm and scale."""
        block: Any = self.block
        normed_tokens = block.norm1(tokens)
        if isinstance(block, EvaBlock):
            output = block.attn(normed_tokens, rope=self._rotary_embedding())
            return output if block.gamma_1 is None else block.gamma_1 * output
        return block.ls1(block.attn(normed_tokens))

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's MLP (B, N, C), with its norm and scale."""
        block: Any = self.block
        output = block.mlp(block.norm2(tokens))
        if isinstance(block, EvaBlock):
            return output if block.gamma_2 is None else block.gamma_2 * output
        return block.ls2(output)

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the feature that the head makes of each of the tokens (B, N, C), (B, N, D)."""
        # The head may ignore the first tokens of a sequence, where the prefix usually is. One more
        # token is needed then.
        length = self.prefix + 1
        return _pool_each_token(self._run_head, self.trunk.norm(tokens), length)

    def _run_head(self, sequences: Tensor) -> Tensor:
        """Return the features (n, D) of n sequences of tokens (n, N, C) after the last norm."""
        return self.visual.head(self.trunk.forward_head(sequences))

    def input_size(self, image_hw: Grid) -> AbstractContextManager[None]:
        """Return a context in which the tower takes images of this height and width, in pixels."""
        return timm_input_size(self.trunk, image_hw)


@contextmanager
def timm_input_size(trunk: Any, image_hw: Grid) -> Iterator[None]:
    """Let an image tower of timm take images of another size, within the context.

    For this, timm resamples the tower's positional embeddings. They are restored afterwards.

    Args:
        trunk: The ViT or EVA of timm.
        image_hw: The height and width of the images, in pixels.
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
        # `set_input_size` has resampled the positions a second time: put back the original ones.
        trunk.pos_embed = original_positions


class _TransformersTower(Tower):
    """A ViT of transformers whose modules have the names that CLIP and SigLIP share."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.vision = model.vision_model
        *self.early_blocks, self.block = self.vision.encoder.layers
        self.patch_size = _side_of_square(self.vision.config.patch_size)

    def before_last(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, C) of images (B, 3, H, W) before the last block."""
        embedded_tokens = self.vision.embeddings(images, interpolate_pos_encoding=True)
        tokens = self._normalise_embedded(embedded_tokens)
        for block in self.early_blocks:
            tokens = block(tokens, None)  # no mask
        return tokens

    def _normalise_embedded(self, tokens: Tensor) -> Tensor:
        """Return the input of the first block (B, N, C), from embedded tokens (B, N, C).

        By default, the first block has no norm before it.
        """
        return tokens

    def attention_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's attention (B, N, C), with its norm."""
        block: Any = self.block
        output = block.self_attn(block.layer_norm1(tokens))[0]
        return output

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's MLP (B, N, C), with its norm."""
        block: Any = self.block
        return block.mlp(block.layer_norm2(tokens))


class ClipTower(_TransformersTower):
    """CLIP of transformers, and models that share its image tower."""

    prefix = 1

    def _normalise_embedded(self, tokens: Tensor) -> Tensor:
        """Return the input of the first block (B, N, C), from embedded tokens (B, N, C)."""
        return self.vision.pre_layrnorm(tokens)  # as transformers spells it

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the features (B, N, D) of tokens (B, N, C): the last norm and the projection."""
        return self.model.visual_projection(self.vision.post_layernorm(tokens))


class SiglipTower(_TransformersTower):
    """SigLIP and SigLIP 2 of transformers."""

    prefix = 0

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the features (B, N, D) that the head makes of each of the tokens (B, N, C)."""
        return _pool_each_token(self.vision.head, self.vision.post_layernorm(tokens))


class Tipsv2Tower(Tower):
    """TIPSv2, whose image feature is the first class token. Its registers are class tokens too."""

    def __init__(self, model: Any) -> None:
        self.vision = model.vision_model
        *self.early_blocks, self.block = self.vision.encoder.layer
        self.patch_size = _side_of_square(self.vision.config.patch_size)
        self.prefix = 1 + self.vision.config.num_register_tokens

    def before_last(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, C) of images (B, 3, H, W) before the last block."""
        tokens = self.vision.embeddings(images)
        for block in self.early_blocks:
            tokens = block(tokens, None)  # no mask
        return tokens

    def attention_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's attention (B, N, C), with its norm and scale."""
        block: Any = self.block
        output = block.attention(block.norm1(tokens))[0]
        return block.layer_scale1(output)

    def mlp_branch(self, tokens: Tensor) -> Tensor:
        """Return the output of the last block's MLP (B, N, C), with its norm and scale."""
        block: Any = self.block
        return block.layer_scale2(block.mlp(block.norm2(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the features (B, N, D) of tokens (B, N, C): the tokens after the last norm."""
        return self.vision.layernorm(tokens)


# The classes of towers by `model_type` of transformers.
_TRANSFORMERS_TOWERS: dict[str, Callable[[Any], Tower]] = {
    "clip": ClipTower,
    "metaclip_2": ClipTower,
    "altclip": ClipTower,
    "chinese_clip": ClipTower,
    "siglip": SiglipTower,
    "tipsv2": Tipsv2Tower,
}
