"""FLAIR (arXiv 2412.03561): OpenCLIP's CLIP with text-conditioned attention pooling of the image.

The pooling has two steps. The model projects each modality by itself. `Pooling` computes the rest,
which depends on pairs, from these projections, so that a loss can pair them over processes.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.packed import attend, project_queries

HEADS = 8  # github.com/ExplainableML/flair


class Pooling(NamedTuple):
    """The projections of B images, and the output layer, of the attention pooling."""

    keys: Tensor  # of patches, (B, N, D)
    values: Tensor  # of patches, (B, N, D)
    weight: Tensor  # of the output layer, (D, D)
    bias: Tensor  # of the output layer, (D,)

    def pool(self, queries: Tensor) -> Tensor:
        """Pool the patches of every image by its own queries (B, M, D) -> (B, M, D).

        A query may also attend to an empty token, whose key and value are zero.
        """
        q = _split_heads(queries)
        k = _split_heads(F.pad(self.keys, (0, 0, 0, 1)))
        v = _split_heads(F.pad(self.values, (0, 0, 0, 1)))
        pooled = attend(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(pooled, self.weight, self.bias)


def _split_heads(tensor: Tensor) -> Tensor:
    """(B, N, D) -> (B, heads, N, d)."""
    return tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class TextConditionedPooler(nn.Module):
    """The weights of the pooling, under the names of the published checkpoints."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, HEADS, batch_first=True, add_zero_attn=True)
        self.ln_q = nn.LayerNorm(embed_dim)
        self.ln_k = nn.LayerNorm(embed_dim)
        self.ln_v = nn.LayerNorm(embed_dim)

    def queries(self, texts: Tensor) -> Tensor:
        """Project features of texts (..., D), not normalised, to queries."""
        return project_queries(self.attn, self.ln_q(texts))

    def keys(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Project patches (..., D) to keys and values."""
        _, weight_k, weight_v = self.attn.in_proj_weight.chunk(3)
        _, bias_k, bias_v = self.attn.in_proj_bias.chunk(3)
        keys = F.linear(self.ln_k(patches), weight_k, bias_k)
        values = F.linear(self.ln_v(patches), weight_v, bias_v)
        return keys, values


class Flair(MultiViewCLIP):
    """FLAIR's student or teacher. `encode_image` and `encode_text` are CLIP's."""

    def __init__(self, embed_dim: int, *args: object, **kwargs: object) -> None:
        super().__init__(embed_dim, *args, **kwargs)
        self.visual_proj = TextConditionedPooler(embed_dim)

    def image_tokens_projected(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, D), not normalised, and the keys and values of patches (B, N, D)."""
        features, patches = self.image_tokens([images], keep=len(images))
        keys, values = self.visual_proj.keys(patches @ self.visual.proj)
        return features, keys, values

    def image_parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of `pair_scores` for images (B, 3, H, W): keys and values (B, N, D)."""
        _, keys, values = self.image_tokens_projected(images)
        return keys, values

    def text_parts(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of `pair_scores` for token ids (T, S): features and queries (T, D)."""
        features = self.encode_text(texts)
        return features, self.visual_proj.queries(features)

    def pair_scores(self, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cosines (B, T) of each text with the features that it pools from each image.

        `images` are `image_parts`, and `texts` are `text_parts`.
        """
        keys, values = images
        features, queries = texts
        output_layer = self.visual_proj.attn.out_proj
        pooling = Pooling(keys, values, output_layer.weight, output_layer.bias)
        pooled = pooling.pool(queries.expand(len(keys), -1, -1))
        return F.cosine_similarity(pooled, features, dim=-1)
