"""OpenCLIP's CLIP for views of several sizes and captions of several lengths."""

from __future__ import annotations

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from torch import Tensor


def resize_positional_embedding(positional_embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1 + N, width) of a square grid -> (1 + h*w, width) for `grid` (h, w).

    Bicubic without antialiasing, by a scale factor of (side + 0.1) / sqrt(N) an axis: the factor,
    not the size, fixes where samples are taken, so the published features need exactly this form
    (github.com/ExplainableML/cosmos, after DINO). The class token keeps its own embedding.
    """
    class_embedding, patches = positional_embedding[:1], positional_embedding[1:]
    side = round(patches.shape[0] ** 0.5)
    if grid == (side, side):
        return positional_embedding
    precise = patches.to(torch.promote_types(patches.dtype, torch.float32))
    square = precise.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    resized = F.interpolate(square, scale_factor=factor, mode="bicubic")
    resized = resized.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    return torch.cat([class_embedding, resized.to(patches.dtype)])


class MultiViewCLIP(open_clip.CLIP):
    """OpenCLIP's CLIP whose towers also return tokens and take any image size and text length.

    State-dict keys are OpenCLIP's. The image tower must be a ViT with a class token, the text
    tower causal and read at the end of text.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.visual, open_clip.transformer.VisionTransformer):
            raise ValueError("COSMOS needs a ViT image tower: the config names another kind")
        self.visual.output_tokens = True

    def image_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> features (B, D), not normalised, and patch tokens (B, N, width)."""
        patch_height, patch_width = self.visual.patch_size
        grid = (images.shape[-2] // patch_height, images.shape[-1] // patch_width)
        resized = resize_positional_embedding(self.visual.positional_embedding, grid)
        if resized is self.visual.positional_embedding:
            return self.visual(images)
        swapped = {"positional_embedding": resized}
        return torch.func.functional_call(self.visual, swapped, (images,))

    def text_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) -> features (B, D), not normalised, and tokens (B, S, width) after `ln_final`.

        S may be anything up to the context length: the mask is causal and the feature is read at
        the end of text, so what follows it changes nothing.
        """
        length = tokens.shape[1]
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(tokens).to(dtype) + self.positional_embedding[:length].to(dtype)
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask[:length, :length]))
        pooled = text_global_pool(x, tokens, self.text_pool_type, eos_token_id=self.text_eos_id)
        return pooled @ self.text_projection, x

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        features = self.image_tokens(image)[0]
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """(B, S) token ids -> (B, D)."""
        features = self.text_tokens(text)[0]
        return F.normalize(features, dim=-1) if normalize else features


def trim(tokens: Tensor) -> Tensor:
    """(..., S) token ids -> (..., S') without the columns that are padding in every caption."""
    end = int(tokens.argmax(dim=-1).max())  # the end of text is the highest id of a vocabulary
    return tokens[..., : end + 1]
