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
    Parameter names (`attn`, `ln_q`, `ln_k`) are those of the published checkpoints."""

    def __init__(self, embed_dim: int, heads: int = CROSS_ATTENTION_HEADS) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(embed_dim)
        self.ln_k = nn.LayerNorm(embed_dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B, V, D) over tokens (B, N, D), projected once per sample -> (B, V, D)."""
        return self.pool(queries, self.keys(tokens))

    def keys(self, tokens: Tensor) -> Tensor:
        """Return the keys and values of tokens: (B, N, D) -> (B, N, 2D)."""
        return project_keys(self.attn, self.ln_k(tokens))

    def pool(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Queries (B, V, D) over `keys` of tokens (B, N, 2D) -> (B, V, D)."""
        pooled = attend(*self._heads(queries, keys))
        return self.attn.out_proj(pooled.transpose(1, 2).flatten(2))

    def weights(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return the weights of `forward`, (B, heads, V, N); each row sums to 1."""
        q, k, _ = self._heads(queries, self.keys(tokens))
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)

    def values(self, keys: Tensor) -> Tensor:
        """Return what `pool` would if all weight were on one token, of every token: `keys` (B, N,
        2D) -> W_o v + b_o, (B, N, D)."""
        return self.attn.out_proj(keys.chunk(2, dim=-1)[1])

    def _heads(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, heads, V, d), and keys and values (B, heads, N, d)."""
        heads = self.attn.num_heads
        q = project_queries(self.attn, self.ln_q(queries))
        k, v = keys.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        return q.unflatten(-1, (heads, -1)).transpose(1, 2), k, v


class Cosmos(MultiViewCLIP):
    """A student or a teacher; the state-dict keys are those of the published checkpoints."""

    def __init__(self, embed_dim: int, *args: object, **kwargs: object) -> None:
        super().__init__(embed_dim, *args, **kwargs)
        self.distill_logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.image_token_mapping = nn.Linear(self.visual.ln_post.weight.shape[0], embed_dim)
        self.text_token_mapping = nn.Linear(self.ln_final.weight.shape[0], embed_dim)
        self.visual.attn_cross_pool = CrossAttentionPooler(embed_dim)
        self.text_attn_cross_pool = CrossAttentionPooler(embed_dim)

    def cross_attention_modules(self) -> tuple[nn.Module, ...]:
        """Return the modules that only the cross-modal features use."""
        poolers = self.visual.attn_cross_pool, self.text_attn_cross_pool
        return self.image_token_mapping, self.text_token_mapping, *poolers

    def encode_views(self, views: Views, *, crossmodal: bool = True) -> Features:
        """Return the student's features of all views, with the cross-modal ones if requested. The
        cross-attention is over the tokens of the *first global view* of the other modality: patch
        tokens without the class token, and all tokens of the caption, unmasked padding too."""
        batch = views.texts.shape[1]
        sizes = [images.flatten(0, 1) for images in views[:2] if len(images)]
        image, image_tokens = self.image_tokens(sizes, keep=batch)
        text, text_tokens = self.text_tokens(views.texts.flatten(0, 1), keep=batch)
        image, text = image.unflatten(0, (-1, batch)), text.unflatten(0, (-1, batch))
        image_crossmodal = text_crossmodal = None
        if crossmodal:
            text_keys = self.text_token_mapping(text_tokens)
            image_keys = self.image_token_mapping(image_tokens)
            image_pooled = self.text_attn_cross_pool(image.transpose(0, 1), text_keys)
            text_pooled = self.visual.attn_cross_pool(text.transpose(0, 1), image_keys)
            image_crossmodal = F.normalize(image + image_pooled.transpose(0, 1), dim=-1)
            text_crossmodal = F.normalize(text + text_pooled.transpose(0, 1), dim=-1)
        own = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        scales = self.logit_scale.exp(), self.distill_logit_scale.exp()
        return Features(*own, image_crossmodal, text_crossmodal, *scales)

    @torch.no_grad()
    def encode_globals(self, views: Views) -> Features:
        """Return the teacher's features of the two global views, without gradient."""
        image, text = self.encode_pairs(views.global_images, views.texts[:2])
        scales = self.logit_scale.exp(), self.distill_logit_scale.exp()
        return Features(image, text, None, None, *scales)

    def patch_attention(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the weights of `visual.attn_cross_pool`, which sum to 1 over h x w patches. Images
        (B, 3, H, W) and features of texts (T, D), not normalised -> (B, heads, T, h, w)."""
        patch = self.visual.patch_size
        grid = tuple(side // size for side, size in zip(images.shape[2:], patch, strict=True))
        keys = self.image_token_mapping(self.image_tokens([images], keep=len(images)).tokens)
        queries = texts.expand(len(images), -1, -1)
        return self.visual.attn_cross_pool.weights(queries, keys).unflatten(-1, grid)

    def patch_values(self, images: Tensor) -> Tensor:
        """Return the values of `visual.attn_cross_pool` in the space of features, not normalised:
        images (B, 3, H, W) -> (B, h, w, D). What a text pools is a mean of them per head."""
        patch = self.visual.patch_size
        grid = tuple(side // size for side, size in zip(images.shape[2:], patch, strict=True))
        return self.visual.attn_cross_pool.values(self.image_parts(images)[1]).unflatten(1, grid)

    def token_attention(self, texts: Tensor, images: Tensor) -> Tensor:
        """Return the weights of `text_attn_cross_pool`; they sum to 1 over S tokens and padding.
        Texts (T, S) token ids and features of images (B, D), not normalised -> (T, heads, B, S)."""
        keys = self.text_token_mapping(self.text_tokens(texts, keep=len(texts)).tokens)
        return self.text_attn_cross_pool.weights(images.expand(len(texts), -1, -1), keys)

    def image_parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pair_scores` needs of images (B, 3, H, W): features (B, D), not normalised,
        and the keys and values of patches (B, N, 2D)."""
        feature, patches = self.image_tokens([images], keep=len(images))
        return feature, self.visual.attn_cross_pool.keys(self.image_token_mapping(patches))

    def text_parts(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pair_scores` needs of token ids (T, S), as `image_parts` does; S is the
        whole context, since padding is attended to."""
        feature, tokens = self.text_tokens(texts, keep=len(texts))
        return feature, self.text_attn_cross_pool.keys(self.text_token_mapping(tokens))

    def pair_scores(self, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return the scores (B, T) of images with texts: the mean of three cosines, of image and
        text feature, and of each with its own cross-modal feature, in which it has attended to the
        other's tokens. Neither the paper nor its code ranks by these features. This score was
        chosen on scenes that no model was trained on (docs/log.md)."""
        (image, patches), (text, tokens) = images, texts
        image_pooled = self.text_attn_cross_pool.pool(image.expand(len(text), -1, -1), tokens)
        text_pooled = self.visual.attn_cross_pool.pool(text.expand(len(image), -1, -1), patches)
        own = F.cosine_similarity(image + image_pooled, image, dim=-1).T
        own = own + F.cosine_similarity(text + text_pooled, text, dim=-1)
        return (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T + own) / 3


@torch.no_grad()
def clamp_logit_scales(model: nn.Module) -> None:
    """Clamp `logit_scale` and, where there is one, `distill_logit_scale` to [0, ln 100]."""
    for scale in scalars(model, SCALES).values():
        scale.clamp_(0, math.log(100))


def scalars(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Return a model's own parameters by name; a sharded training stores 0-d ones as (1,)."""
    stored = getattr(model, "parametrizations", {})
    own = dict(model.named_parameters(recurse=False))
    own |= {name: stored[name].original for name in names if name in stored}
    return {name: own[name] for name in names if name in own}


def create_teacher(student: Model) -> Model:
    """Copy a student to a teacher, which takes no gradients."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, in place, over all parameters but
    those that the student does not train, which rounding would move. The foreach form is bitwise
    equal to a loop over the tensors; `lerp` is not."""
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    trained = [(target.data, source.data) for target, source in pairs if source.requires_grad]
    targets, sources = (list(tensors) for tensors in zip(*trained, strict=True))
    torch._foreach_mul_(targets, momentum)
    torch._foreach_add_(targets, sources, alpha=1 - momentum)
