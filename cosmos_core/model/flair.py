"""FLAIR (arXiv 2412.03561): OpenCLIP's CLIP with text-conditioned attention pooling of the image.

The pooling has two steps. First the model projects the patches of images to keys and values, and
the features of texts to queries. Then `Pooling` computes the attention of texts to images. A loss
can do the second step for images and texts of different processes.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.packed import attend, project_queries

HEADS = 8  # github.com/ExplainableML/flair


class Pooling(NamedTuple):
    """Attention pooling of the N patches of B images, of which only the queries are missing."""

    # The keys of the patches (B, N, D).
    keys: Tensor
    # The values of the patches (B, N, D).
    values: Tensor
    # The weight of the output layer (D, D).
    weight: Tensor
    # The bias of the output layer (D,).
    bias: Tensor

    def pool(self, queries: Tensor) -> Tensor:
        """Pool the patches of each image once for each of its M queries.

        A query may also attend to an empty token, whose key and value are zero.

        Args:
            queries: Projected features of texts (B, M, D).

        Returns:
            The pooled features (B, M, D).
        """
        # Append the empty token to the N patches: (B, N, D) -> (B, N + 1, D).
        keys_with_empty = F.pad(self.keys, (0, 0, 0, 1))
        values_with_empty = F.pad(self.values, (0, 0, 0, 1))

        q = _split_heads(queries)
        k = _split_heads(keys_with_empty)
        v = _split_heads(values_with_empty)
        pooled = attend(q, k, v)
        # Join the heads: (B, heads, M, d) -> (B, M, heads, d) -> (B, M, D).
        pooled = pooled.transpose(1, 2).flatten(2)
        return F.linear(pooled, self.weight, self.bias)


def _split_heads(tensor: Tensor) -> Tensor:
    """Split the last dimension into attention heads: (B, N, D) -> (B, heads, N, D / heads)."""
    return tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class TextConditionedPooler(nn.Module):
    """The norms and projections of the pooling, named as in the published checkpoints."""

    def __init__(self, embed_dim: int) -> None:
        """Create a module with random weights for features of the width `embed_dim`."""
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, HEADS, batch_first=True, add_zero_attn=True)
        self.ln_q = nn.LayerNorm(embed_dim)
        self.ln_k = nn.LayerNorm(embed_dim)
        self.ln_v = nn.LayerNorm(embed_dim)

    def queries(self, texts: Tensor) -> Tensor:
        """Project the features of texts (..., D), not normalised, to queries (..., D)."""
        return project_queries(self.attn, self.ln_q(texts))

    def keys(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Project patches (..., D) to keys (..., D) and values (..., D)."""
        _, weight_k, weight_v = self.attn.in_proj_weight.chunk(3)
        _, bias_k, bias_v = self.attn.in_proj_bias.chunk(3)
        keys = F.linear(self.ln_k(patches), weight_k, bias_k)
        values = F.linear(self.ln_v(patches), weight_v, bias_v)
        return keys, values


class Flair(MultiViewCLIP):
    """The student or the teacher of FLAIR: CLIP with text-conditioned pooling of the patches.

    `encode_image` and `encode_text` do not use the pooling.
    """

    def __init__(self, embed_dim: int, *args: object, **kwargs: object) -> None:
        """Create a model with random weights; the arguments are OpenCLIP's."""
        super().__init__(embed_dim, *args, **kwargs)
        self.visual_proj = TextConditionedPooler(embed_dim)

    def image_tokens_projected(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of images, and the projections of their patches for the pooling.

        Args:
            images: Pixels (B, 3, H, W) of images with N patches.

        Returns:
            The features (B, D), not normalised, and the keys (B, N, D) and values (B, N, D) of the
            patches.
        """
        features, patch_tokens = self.image_tokens([images], keep=len(images))
        patches = patch_tokens @ self.visual.proj
        keys, values = self.visual_proj.keys(patches)
        return features, keys, values

    def image_parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys (B, N, D) and values (B, N, D) of the patches of images (B, 3, H, W).

        `pair_scores` takes them.
        """
        _, keys, values = self.image_tokens_projected(images)
        return keys, values

    def text_parts(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (T, D) and the queries (T, D) of texts with token ids (T, S).

        `pair_scores` takes them. The features are not normalised.
        """
        features = self.encode_text(texts)
        return features, self.visual_proj.queries(features)

    def pair_scores(self, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return a score (B, T) of every pair of B images and T texts.

        It is the cosine similarity of the text's feature and the feature that the text pools from
        the image.

        Args:
            images: The keys and values of the patches, from `image_parts`.
            texts: The features and queries, from `text_parts`.
        """
        keys, values = images
        text_features, queries = texts
        output_layer = self.visual_proj.attn.out_proj
        pooling = Pooling(keys, values, output_layer.weight, output_layer.bias)
        # Every image is pooled with the queries of all texts: (B, T, D).
        pooled_features = pooling.pool(queries.expand(len(keys), -1, -1))
        return F.cosine_similarity(pooled_features, text_features, dim=-1)
