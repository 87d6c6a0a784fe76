"""FLAIR (arXiv 2412.03561): OpenCLIP's CLIP with text-conditioned attention pooling of the image.
The pooling is cut in two: what depends on one modality is projected by the model, and what depends
on a pair is a function of these projections, so that a loss can pair them over processes."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.packed import attend, project_queries

HEADS = 8  # github.com/ExplainableML/flair


class Pooling(NamedTuple):
    """Projections of images and texts, and the output layer. `keys` and `values` (B, N, D) are of
    patches, `weight` (D, D) and `bias` (D,) are those of the output layer."""

    keys: Tensor
    values: Tensor
    weight: Tensor
    bias: Tensor

    def pool(self, queries: Tensor) -> Tensor:
        """Pool the patches of every image by its own queries (B, M, D) -> (B, M, D). A query may
        also attend to an empty token, with a key and a value of zero."""
        k, v = (F.pad(one, (0, 0, 0, 1)) for one in (self.keys, self.values))
        split = (one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in (queries, k, v))
        return F.linear(attend(*split).transpose(1, 2).flatten(2), self.weight, self.bias)


class TextConditionedPooler(nn.Module):
    """The weights of the pooling, under the names of the published checkpoints."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, HEADS, batch_first=True, add_zero_attn=True)
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(embed_dim) for _ in range(3))

    def queries(self, texts: Tensor) -> Tensor:
        """Project features of texts (..., D), not normalised, to queries."""
        return project_queries(self.attn, self.ln_q(texts))

    def keys(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Project patches (..., D) to keys and values."""
        _, weight_k, weight_v = self.attn.in_proj_weight.chunk(3)
        _, bias_k, bias_v = self.attn.in_proj_bias.chunk(3)
        keys = F.linear(self.ln_k(patches), weight_k, bias_k)
        return keys, F.linear(self.ln_v(patches), weight_v, bias_v)


class Flair(MultiViewCLIP):
    """A student or a teacher. `encode_image` and `encode_text` are CLIP's."""

    def __init__(self, embed_dim: int, *args: object, **kwargs: object) -> None:
        super().__init__(embed_dim, *args, **kwargs)
        self.visual_proj = TextConditionedPooler(embed_dim)

    def image_tokens_projected(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) -> features (B, D), not normalised, keys and values (B, N, D)."""
        feature, patches = self.image_tokens([images], keep=len(images))
        return feature, *self.visual_proj.keys(patches @ self.visual.proj)

    def image_parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pair_scores` needs of images (B, 3, H, W): keys and values (B, N, D)."""
        return self.image_tokens_projected(images)[1:]

    def text_parts(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pair_scores` needs of token ids (T, S): features and queries (T, D)."""
        features = self.encode_text(texts)
        return features, self.visual_proj.queries(features)

    def pair_scores(self, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cosines (B, T) of texts with what each of them pools from each image."""
        features, queries = texts
        output = self.visual_proj.attn.out_proj
        pooling = Pooling(*images, output.weight, output.bias)
        pooled = pooling.pool(queries.expand(len(images[0]), -1, -1))
        return F.cosine_similarity(pooled, features, dim=-1)
