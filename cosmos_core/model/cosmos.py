"""COSMOS (arXiv 2412.01814): OpenCLIP's CLIP with one cross-attention module per modality, and its
teacher, an exponential moving average of the student."""

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.packed import attend, project_keys, project_queries
from cosmos_core.types import Features, Views

CROSS_ATTENTION_HEADS = 8  # github.com/ExplainableML/cosmos, both modalities
SCALES = ("logit_scale", "distill_logit_scale")
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # arXiv 2103.00020; both scales of COSMOS start here

Model = TypeVar("Model", bound=nn.Module)


class CrossAttentionPooler(nn.Module):
    """Pool the tokens of one modality with the features of the other as queries (section 3.2).

    The published checkpoints have the same parameter names (`attn`, `ln_q`, `ln_k`).
    """

    def __init__(self, embed_dim: int, heads: int = CROSS_ATTENTION_HEADS) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(embed_dim)
        self.ln_k = nn.LayerNorm(embed_dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Pool tokens (B, N, D), which are projected once, with queries (B, V, D): (B, V, D)."""
        return self.pool(queries, self.keys(tokens))

    def keys(self, tokens: Tensor) -> Tensor:
        """Return the keys and values of tokens: (B, N, D) -> (B, N, 2D)."""
        return project_keys(self.attn, self.ln_k(tokens))

    def pool(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Pool tokens by their `keys` (B, N, 2D) with queries (B, V, D): (B, V, D)."""
        q, k, v = self._split_heads(queries, keys)
        pooled = attend(q, k, v)
        return self.attn.out_proj(pooled.transpose(1, 2).flatten(2))

    def weights(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention weights of `forward`, (B, heads, V, N); each row sums to 1."""
        q, k, _ = self._split_heads(queries, self.keys(tokens))
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)

    def values(self, keys: Tensor) -> Tensor:
        """Return the output W_o v + b_o (B, N, D) of every token, from `keys` (B, N, 2D).

        `pool` returns it if all attention weight is on that token.
        """
        _, v = keys.chunk(2, dim=-1)
        return self.attn.out_proj(v)

    def _split_heads(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, heads, V, d), and keys and values (B, heads, N, d)."""
        heads = self.attn.num_heads
        q = project_queries(self.attn, self.ln_q(queries))
        k, v = keys.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        return q.unflatten(-1, (heads, -1)).transpose(1, 2), k, v


class Cosmos(MultiViewCLIP):
    """COSMOS's student or teacher, with the state-dict keys of the published checkpoints."""

    def __init__(self, embed_dim: int, *args: object, **kwargs: object) -> None:
        super().__init__(embed_dim, *args, **kwargs)
        self.distill_logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.image_token_mapping = nn.Linear(self.visual.ln_post.weight.shape[0], embed_dim)
        self.text_token_mapping = nn.Linear(self.ln_final.weight.shape[0], embed_dim)
        self.visual.attn_cross_pool = CrossAttentionPooler(embed_dim)
        self.text_attn_cross_pool = CrossAttentionPooler(embed_dim)

    def cross_attention_modules(self) -> tuple[nn.Module, ...]:
        """Return the modules that only the cross-modal features use."""
        return (
            self.image_token_mapping,
            self.text_token_mapping,
            self.visual.attn_cross_pool,
            self.text_attn_cross_pool,
        )

    def encode_views(self, views: Views, *, crossmodal: bool = True) -> Features:
        """Return the student's features of all views, with cross-modal ones if `crossmodal`.

        The cross-attention is over the tokens of the *first global view* of the other modality: the
        patch tokens without the class token, and all tokens of the caption. Padding is not masked.
        """
        batch_size = views.texts.shape[1]
        image_batches = [views.global_images.flatten(0, 1)]
        if len(views.local_images):
            image_batches.append(views.local_images.flatten(0, 1))
        image, image_tokens = self.image_tokens(image_batches, keep=batch_size)
        text, text_tokens = self.text_tokens(views.texts.flatten(0, 1), keep=batch_size)
        image, text = image.unflatten(0, (-1, batch_size)), text.unflatten(0, (-1, batch_size))
        image_crossmodal = text_crossmodal = None
        if crossmodal:
            text_keys = self.text_token_mapping(text_tokens)
            image_keys = self.image_token_mapping(image_tokens)
            image_pooled = self.text_attn_cross_pool(image.transpose(0, 1), text_keys)
            text_pooled = self.visual.attn_cross_pool(text.transpose(0, 1), image_keys)
            image_crossmodal = F.normalize(image + image_pooled.transpose(0, 1), dim=-1)
            text_crossmodal = F.normalize(text + text_pooled.transpose(0, 1), dim=-1)
        return Features(
            image=F.normalize(image, dim=-1),
            text=F.normalize(text, dim=-1),
            image_crossmodal=image_crossmodal,
            text_crossmodal=text_crossmodal,
            logit_scale=self.logit_scale.exp(),
            distill_logit_scale=self.distill_logit_scale.exp(),
        )

    @torch.no_grad()
    def encode_globals(self, views: Views) -> Features:
        """Return the teacher's features of the two global views, without gradient."""
        image, text = self.encode_pairs(views.global_images, views.texts[:2])
        return Features(
            image=image,
            text=text,
            image_crossmodal=None,
            text_crossmodal=None,
            logit_scale=self.logit_scale.exp(),
            distill_logit_scale=self.distill_logit_scale.exp(),
        )

    def patch_attention(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the attention weights of texts over the h x w patches of images.

        Images are (B, 3, H, W); `texts` (T, D) are features, not normalised. The weights (B, heads,
        T, h, w) of `visual.attn_cross_pool` sum to 1 over the patches.
        """
        image_tokens = self.image_tokens([images], keep=len(images)).tokens
        patches = self.image_token_mapping(image_tokens)
        queries = texts.expand(len(images), -1, -1)
        weights = self.visual.attn_cross_pool.weights(queries, patches)
        return weights.unflatten(-1, self._patch_grid(images))

    def patch_values(self, images: Tensor) -> Tensor:
        """Return the values (B, h, w, D) of patches of images (B, 3, H, W), not normalised.

        They are the outputs of `visual.attn_cross_pool` for single patches, in the space of the
        features. A text pools a weighted mean of them per head.
        """
        _, keys = self.image_parts(images)
        return self.visual.attn_cross_pool.values(keys).unflatten(1, self._patch_grid(images))

    def _patch_grid(self, images: Tensor) -> tuple[int, int]:
        """Return the number of patches, (rows, columns), of images (B, 3, H, W)."""
        height, width = images.shape[2:]
        patch_height, patch_width = self.visual.patch_size
        return height // patch_height, width // patch_width

    def token_attention(self, texts: Tensor, images: Tensor) -> Tensor:
        """Return the attention weights of images over the S tokens of texts.

        Texts are token ids (T, S); `images` (B, D) are features, not normalised. The weights (T,
        heads, B, S) of `text_attn_cross_pool` sum to 1 over the tokens, padding included.
        """
        text_tokens = self.text_tokens(texts, keep=len(texts)).tokens
        tokens = self.text_token_mapping(text_tokens)
        queries = images.expand(len(texts), -1, -1)
        return self.text_attn_cross_pool.weights(queries, tokens)

    def image_parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of `pair_scores` for images (B, 3, H, W).

        These are features (B, D), not normalised, and the keys and values of patches (B, N, 2D).
        """
        features, patches = self.image_tokens([images], keep=len(images))
        return features, self.visual.attn_cross_pool.keys(self.image_token_mapping(patches))

    def text_parts(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of `pair_scores` for token ids (T, S).

        These are features (T, D), not normalised, and the keys and values of tokens (T, S, 2D). S
        must be the whole context length, since padding is attended to.
        """
        features, tokens = self.text_tokens(texts, keep=len(texts))
        return features, self.text_attn_cross_pool.keys(self.text_token_mapping(tokens))

    def pair_scores(self, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return the scores (B, T) of pairs of `image_parts` and `text_parts`.

        With the image feature i, the text feature t, the tokens of the text that i pools, p_i, and
        the patches of the image that t pools, p_t, the score is the mean of three cosines:

            (cos(i, t) + cos(i + p_i, i) + cos(t + p_t, t)) / 3

        Neither the paper nor its code ranks by cross-modal features. This score was chosen on
        scenes that no model was trained on (docs/log.md).
        """
        image, patch_keys = images
        text, token_keys = texts
        image_pooled = self.text_attn_cross_pool.pool(image.expand(len(text), -1, -1), token_keys)
        text_pooled = self.visual.attn_cross_pool.pool(text.expand(len(image), -1, -1), patch_keys)
        image_agreement = F.cosine_similarity(image + image_pooled, image, dim=-1).T
        text_agreement = F.cosine_similarity(text + text_pooled, text, dim=-1)
        cosines = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        return (cosines + (image_agreement + text_agreement)) / 3


@torch.no_grad()
def clamp_logit_scales(model: nn.Module) -> None:
    """Clamp `logit_scale` and, if the model has it, `distill_logit_scale` to [0, ln 100]."""
    for scale in scalars(model, SCALES).values():
        scale.clamp_(0, math.log(100))


def scalars(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the parameters with these names that the model itself has, not its submodules.

    A sharded training stores 0-d parameters as parametrizations of the shape (1,).
    """
    parameters = dict(model.named_parameters(recurse=False))
    parametrizations = getattr(model, "parametrizations", {})
    tensors = {}
    for name in names:
        if name in parametrizations:
            tensors[name] = parametrizations[name].original
        elif name in parameters:
            tensors[name] = parameters[name]
    return tensors


def create_teacher(student: Model) -> Model:
    """Return a copy of a student whose parameters take no gradients."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher towards the student, in place.

        teacher <- momentum * teacher + (1 - momentum) * student

    Parameters that the student does not train are left out, because rounding would move them. The
    foreach form is bitwise equal to a loop over the tensors; `lerp` is not.
    """
    targets, sources = [], []
    for target, source in zip(teacher.parameters(), student.parameters(), strict=True):
        if source.requires_grad:
            targets.append(target.data)
            sources.append(source.data)
    torch._foreach_mul_(targets, momentum)
    torch._foreach_add_(targets, sources, alpha=1 - momentum)
