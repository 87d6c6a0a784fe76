"""COSMOS (arXiv 2412.01814): OpenCLIP's CLIP with one cross-attention module per modality, and its
teacher, an exponential moving average of the student."""

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from open_clip.transformer import PatchDropout
from torch import Tensor, nn

from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.packed import attend, project_keys, project_queries
from cosmos_core.types import Features, Views

CROSS_ATTENTION_HEADS = 8  # github.com/ExplainableML/cosmos, both modalities
# The scales of logits, which are stored as logarithms.
SCALES = ("logit_scale", "distill_logit_scale")
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # arXiv 2103.00020; both scales of COSMOS start here

Model = TypeVar("Model", bound=nn.Module)


class CrossAttentionPooler(nn.Module):
    """Cross-attention that pools the tokens of one modality (section 3.2 of the paper).

    The queries are features of the other modality. For example, the feature of a caption pools the
    patches of an image. The parameters have the names of the published checkpoints.
    """

    def __init__(self, embed_dim: int, heads: int = CROSS_ATTENTION_HEADS) -> None:
        """Create a module with random weights for features of the width `embed_dim`."""
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(embed_dim)
        self.ln_k = nn.LayerNorm(embed_dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Pool tokens (B, N, D) once for each of V queries (B, V, D), and return (B, V, D)."""
        return self.pool(queries, self.keys(tokens))

    def keys(self, tokens: Tensor) -> Tensor:
        """Return the keys and values, concatenated to (B, N, 2D), of tokens (B, N, D)."""
        return project_keys(self.attn, self.ln_k(tokens))

    def pool(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Pool the N tokens of each of B samples once for each of V queries.

        Args:
            queries: Features (B, V, D) of the other modality.
            keys: The keys and values (B, N, 2D) of the tokens, from the method `keys`.

        Returns:
            The pooled features (B, V, D).
        """
        q, k, v = self._split_heads(queries, keys)
        pooled = attend(q, k, v)
        # Join the heads: (B, heads, V, d) -> (B, V, heads, d) -> (B, V, D).
        return self.attn.out_proj(pooled.transpose(1, 2).flatten(2))

    def weights(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention weights (B, heads, V, N) of `forward`. They sum to 1 over tokens.

        Args:
            queries: Features (B, V, D) of the other modality.
            tokens: The tokens to pool (B, N, D).
        """
        q, k, _ = self._split_heads(queries, self.keys(tokens))
        head_width = q.shape[-1]
        return (q @ k.transpose(-2, -1) / math.sqrt(head_width)).softmax(dim=-1)

    def values(self, keys: Tensor) -> Tensor:
        """Return for each token what `pool` would return if all attention were on this token.

        For a token with the value v this is W_o v + b_o, the output projection of v.

        Args:
            keys: The keys and values (B, N, 2D) of the tokens, from the method `keys`.

        Returns:
            The features (B, N, D).
        """
        _, v = keys.chunk(2, dim=-1)
        return self.attn.out_proj(v)

    def _split_heads(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, split into attention heads of the width d = D / heads.

        Args:
            queries: Features (B, V, D), which are still to be projected.
            keys: The projected keys and values (B, N, 2D) of tokens.

        Returns:
            Queries (B, heads, V, d), keys (B, heads, N, d) and values (B, heads, N, d).
        """
        n_heads = self.attn.num_heads
        # (B, V, D) -> (B, V, heads, d) -> (B, heads, V, d)
        q = project_queries(self.attn, self.ln_q(queries))
        q = q.unflatten(-1, (n_heads, -1)).transpose(1, 2)
        # (B, N, 2D) -> (B, N, 2, heads, d) -> (2, B, heads, N, d)
        k, v = keys.unflatten(-1, (2, n_heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v


class Cosmos(MultiViewCLIP):
    """The student or the teacher of COSMOS: CLIP with a cross-attention module per modality.

    The state dict has the keys of the published checkpoints.
    """

    def __init__(self, embed_dim: int, *args: object, **kwargs: object) -> None:
        """Create a model with random weights; the arguments are OpenCLIP's."""
        super().__init__(embed_dim, *args, **kwargs)
        self.distill_logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.image_token_mapping = nn.Linear(self.visual.ln_post.weight.shape[0], embed_dim)
        self.text_token_mapping = nn.Linear(self.ln_final.weight.shape[0], embed_dim)
        self.visual.attn_cross_pool = CrossAttentionPooler(embed_dim)
        self.text_attn_cross_pool = CrossAttentionPooler(embed_dim)

    def cross_attention_modules(self) -> tuple[nn.Module, ...]:
        """Return the modules that are used only for cross-modal features."""
        return (
            self.image_token_mapping,
            self.text_token_mapping,
            self.visual.attn_cross_pool,
            self.text_attn_cross_pool,
        )

    def encode_views(self, views: Views, *, crossmodal: bool = True) -> Features:
        """Return the student's features of all views of a batch.

        For the cross-modal features, each feature pools the tokens of the *first global view* of
        the other modality, and the result is added to the feature. The tokens of an image are its
        patches without the class token. The tokens of a caption include the padding, which is not
        masked.

        Args:
            views: The global and local crops of B images, and their captions.
            crossmodal: True to compute the cross-modal features too. Otherwise they are None.

        Returns:
            Features of the shape (V, B, D), for V views of each image or caption, L2-normalised.
        """
        # Encode all views as one batch (V * B, ...), view after view: the first B are the first
        # view. The tokens of the first view are returned too.
        batch_size = views.texts.shape[1]
        image_batches = [views.global_images.flatten(0, 1)]
        if len(views.local_images) > 0:
            image_batches.append(views.local_images.flatten(0, 1))
        image_features, patch_tokens = self.image_tokens(image_batches, keep=batch_size)
        text_features, word_tokens = self.text_tokens(views.texts.flatten(0, 1), keep=batch_size)
        # (V * B, D) -> (V, B, D)
        image_features = image_features.unflatten(0, (-1, batch_size))
        text_features = text_features.unflatten(0, (-1, batch_size))

        image_crossmodal = text_crossmodal = None
        if crossmodal:
            # Images pool the first caption, and captions pool the first view of the image. The
            # pooling takes the queries of each sample together: (V, B, D) -> (B, V, D).
            text_tokens = self.text_token_mapping(word_tokens)
            image_tokens = self.image_token_mapping(patch_tokens)
            image_queries = image_features.transpose(0, 1)
            text_queries = text_features.transpose(0, 1)
            image_pooled = self.text_attn_cross_pool(image_queries, text_tokens).transpose(0, 1)
            text_pooled = self.visual.attn_cross_pool(text_queries, image_tokens).transpose(0, 1)
            image_crossmodal = F.normalize(image_features + image_pooled, dim=-1)
            text_crossmodal = F.normalize(text_features + text_pooled, dim=-1)
        return Features(
            image=F.normalize(image_features, dim=-1),
            text=F.normalize(text_features, dim=-1),
            image_crossmodal=image_crossmodal,
            text_crossmodal=text_crossmodal,
            logit_scale=self.logit_scale.exp(),
            distill_logit_scale=self.distill_logit_scale.exp(),
        )

    @torch.no_grad()
    def encode_globals(self, views: Views, n_views: int = 2) -> Features:
        """Return the teacher's features of global views and global captions, without gradient.

        It has no cross-modal features, because the loss uses only the student's.

        Args:
            views: The views of B samples.
            n_views: The number of global images, and of global captions, that are encoded.
        """
        image, text = self.encode_pairs(views.global_images[:n_views], views.texts[:n_views])
        return Features(
            image=image,
            text=text,
            image_crossmodal=None,
            text_crossmodal=None,
            logit_scale=self.logit_scale.exp(),
            distill_logit_scale=self.distill_logit_scale.exp(),
        )

    def patch_attention(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the cross-attention weights of texts over the patches of images.

        Args:
            images: Pixels (B, 3, H, W).
            texts: Features (T, D) of texts, not normalised.

        Returns:
            The weights (B, heads, T, h, w) for h x w patches. They sum to 1 over the patches.
        """
        image_tokens = self.image_tokens([images], keep=len(images)).tokens
        patches = self.image_token_mapping(image_tokens)
        queries = texts.expand(len(images), -1, -1)
        weights = self.visual.attn_cross_pool.weights(queries, patches)
        return weights.unflatten(-1, self._patch_grid(images))

    def patch_values(self, images: Tensor) -> Tensor:
        """Return for each patch the feature that a text pools if it attends only to this patch.

        Args:
            images: Pixels (B, 3, H, W) of images with h x w patches.

        Returns:
            The features (B, h, w, D), not normalised, in the joint space of images and texts.
        """
        _, keys = self.image_parts(images)
        return self.visual.attn_cross_pool.values(keys).unflatten(1, self._patch_grid(images))

    def _patch_grid(self, images: Tensor) -> tuple[int, int]:
        """Return the numbers of rows and columns of patches in images (B, 3, H, W)."""
        height, width = images.shape[2:]
        patch_height, patch_width = self.visual.patch_size
        return height // patch_height, width // patch_width

    def token_attention(self, texts: Tensor, images: Tensor) -> Tensor:
        """Return the cross-attention weights of images over the tokens of texts.

        Args:
            texts: Token ids (T, S).
            images: Features (B, D) of images, not normalised.

        Returns:
            The weights (T, heads, B, S). They sum to 1 over the S tokens, padding included.
        """
        text_tokens = self.text_tokens(texts, keep=len(texts)).tokens
        tokens = self.text_token_mapping(text_tokens)
        queries = images.expand(len(texts), -1, -1)
        return self.text_attn_cross_pool.weights(queries, tokens)

    def image_parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pair_scores` needs of images.

        Args:
            images: Pixels (B, 3, H, W).

        Returns:
            The features (B, D) of the images, not normalised, and the keys and values (B, N, 2D)
            of their patches for the cross-attention.
        """
        features, patch_tokens = self.image_tokens([images], keep=len(images))
        image_tokens = self.image_token_mapping(patch_tokens)
        return features, self.visual.attn_cross_pool.keys(image_tokens)

    def text_parts(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pair_scores` needs of texts.

        Args:
            texts: Token ids (T, S). S must be the whole context length, because images attend to
                the padding too.

        Returns:
            The features (T, D) of the texts, not normalised, and the keys and values (T, S, 2D) of
            their tokens for the cross-attention.
        """
        features, word_tokens = self.text_tokens(texts, keep=len(texts))
        text_tokens = self.text_token_mapping(word_tokens)
        return features, self.text_attn_cross_pool.keys(text_tokens)

    def pair_scores(self, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]) -> Tensor:
        """Return a score (B, T) of every pair of B images and T texts.

        Let i be the feature of an image and t the feature of a text. i pools the tokens of the text
        to p_i, and t pools the patches of the image to p_t. The score is the mean of three cosines:

            (cos(i, t) + cos(i + p_i, i) + cos(t + p_t, t)) / 3

        Neither the paper nor its code ranks by cross-modal features. This score was chosen on
        scenes that no model was trained on (docs/log.md).

        Args:
            images: The features and the keys of the patches, from `image_parts`.
            texts: The features and the keys of the tokens, from `text_parts`.
        """
        image_features, patch_keys = images
        text_features, token_keys = texts
        n_images, n_texts = len(image_features), len(text_features)
        cosines = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T

        # Every image pools the tokens of each text: (T, B, D), compared with (B, D).
        image_queries = image_features.expand(n_texts, -1, -1)
        image_pooled = self.text_attn_cross_pool.pool(image_queries, token_keys)
        image_agreement = F.cosine_similarity(
            image_features + image_pooled, image_features, dim=-1
        ).T

        # Every text pools the patches of each image: (B, T, D), compared with (T, D).
        text_queries = text_features.expand(n_images, -1, -1)
        text_pooled = self.visual.attn_cross_pool.pool(text_queries, patch_keys)
        text_agreement = F.cosine_similarity(text_features + text_pooled, text_features, dim=-1)
        return (cosines + (image_agreement + text_agreement)) / 3


@torch.no_grad()
def clamp_logit_scales(model: nn.Module) -> None:
    """Clamp the logit scales of a model in place, so that the exponentiated ones are 1 to 100.

    These are `logit_scale` and, if the model has it, `distill_logit_scale`. Both are logarithms.
    """
    for scale in scalars(model, SCALES).values():
        scale.clamp_(0, math.log(100))


def scalars(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Return scalar parameters of a model by name.

    Args:
        model: The model. Parameters of its submodules are not returned.
        names: The names of the parameters. Those that the model does not have are left out.

    Returns:
        Tensors without dimensions. In a training with sharded weights they have the shape (1,):
        there, the scalar is a PyTorch parametrization of a vector of one element.
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
    """Return a copy of the student that sees all patches and does not require gradients."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    show_all_patches(teacher)
    return teacher


def show_all_patches(model: nn.Module) -> None:
    """Switch the patch dropout of a model off, in place, also while the model is trained."""
    for module in model.modules():
        if isinstance(module, PatchDropout):
            module.eval()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the weights of the teacher towards the weights of the student, in place.

        teacher <- momentum * teacher + (1 - momentum) * student

    Frozen parameters are the same in both models. They are left out, because rounding would change
    the teacher's.

    Args:
        teacher: The model to change.
        student: A model with the same parameters.
        momentum: The weight of the teacher in the mean, from 0 to 1.
    """
    teacher_tensors, student_tensors = [], []
    for teacher_parameter, student_parameter in zip(
        teacher.parameters(), student.parameters(), strict=True
    ):
        if student_parameter.requires_grad:
            teacher_tensors.append(teacher_parameter.data)
            student_tensors.append(student_parameter.data)
    # This is bitwise equal to a loop over the tensors; `lerp` is not.
    torch._foreach_mul_(teacher_tensors, momentum)
    torch._foreach_add_(teacher_tensors, student_tensors, alpha=1 - momentum)
