"""The COSMOS training step written plainly, without shortcuts, to compare cosmos_core's step with.

It takes no shortcut that cosmos_core's step takes:

- OpenCLIP's towers encode every view, and captions at all 77 positions.
- The mapped tokens of the first global view are repeated for every view that queries them.
- There is a contrastive loss for each pair of views.
- The moving average of the teacher is updated tensor by tensor.
- The optimizer is torch's AdamW with its default implementation.

It was written from arXiv 2412.01814 and the structure of the published checkpoints, and shares no
code with cosmos_core.

Letters in shapes: V views of one modality, B samples, M views of all samples (V*B), D embedding
width, N patches of an image, S tokens of a caption, H W pixels of a view.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8  # of the attention that pools tokens
CLIP_IMAGES = 2  # views in the CLIP loss: the global ones
TEACHER_VIEWS = 2  # views of each modality that the teacher encodes: the global ones
NO_DECAY = ("bn", "ln", "bias", "logit_scale")  # in names of parameters without weight decay


class Encoded(NamedTuple):
    """The encoded views of one modality."""

    # Features of all views, not normalised (V*B, D).
    features: Tensor
    # Mapped tokens of the first view (B, N, D), or (B, S, D) of captions.
    tokens: Tensor


class Pooler(nn.Module):
    """Cross-attention in which each feature queries the tokens of its sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Pool tokens (M, N, D) by features (M, D), and return (M, D)."""
        queries, keys = self.ln_q(features)[:, None], self.ln_k(tokens)
        return self.attn(queries, keys, keys, need_weights=False)[0][:, 0]


class PlainCosmos(open_clip.CLIP):
    """OpenCLIP's CLIP and the tensors that COSMOS adds, with the published names."""

    def __init__(self, embed_dim: int, **config: Any) -> None:
        super().__init__(embed_dim, **config)
        self.distill_logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.image_token_mapping = nn.Linear(self.visual.transformer.width, embed_dim)
        self.text_token_mapping = nn.Linear(self.transformer.width, embed_dim)
        self.visual.attn_cross_pool = Pooler(embed_dim)
        self.text_attn_cross_pool = Pooler(embed_dim)

    def image_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (M, 3, H, W): features (M, D), and mapped patch tokens (M, N, D)."""
        visual = self.visual
        patches = visual.conv1(images)
        class_tokens = visual.class_embedding.expand(len(images), 1, -1)
        x = torch.cat([class_tokens, patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(patches.shape[-2:])
        x = visual.ln_post(visual.transformer(visual.ln_pre(x)))
        return x[:, 0] @ visual.proj, self.image_token_mapping(x[:, 1:])

    def positions(self, grid: torch.Size) -> Tensor:
        """Return position embeddings (1 + N, width), resized if the view has fewer patches.

        Args:
            grid: The number of rows and columns of patches, whose product is N.
        """
        positions = self.visual.positional_embedding
        side = math.isqrt(len(positions) - 1)
        if tuple(grid) == (side, side):
            return positions
        square = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale_factors = tuple((length + 0.1) / side for length in grid)
        resized = F.interpolate(square, scale_factor=scale_factors, mode="bicubic")
        return torch.cat([positions[:1], resized.permute(0, 2, 3, 1).flatten(0, 2)])

    def text_features(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Encode token ids (M, S): features (M, D), and mapped tokens (M, S, D)."""
        x = self.token_embedding(texts) + self.positional_embedding
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask))
        end_tokens = x[torch.arange(len(x)), texts.argmax(dim=-1)]
        return end_tokens @ self.text_projection, self.text_token_mapping(x)

    def encode(
        self, images: Tensor, local_images: Tensor, texts: Tensor
    ) -> tuple[Encoded, Encoded]:
        """Encode views (V, B, ...) of images and texts, all views of one size in one batch."""
        image_features, image_tokens = self.image_features(images.flatten(0, 1))
        if len(local_images):
            local_features, _ = self.image_features(local_images.flatten(0, 1))
            image_features = torch.cat([image_features, local_features])
        text_features, text_tokens = self.text_features(texts.flatten(0, 1))
        batch_size = images.shape[1]
        return (
            Encoded(image_features, image_tokens[:batch_size]),
            Encoded(text_features, text_tokens[:batch_size]),
        )

    def crossmodal(self, image: Encoded, text: Encoded) -> tuple[Tensor, Tensor]:
        """Return the cross-modal features (V*B, D) of images and of texts."""
        n_image_views = len(image.features) // len(image.tokens)
        n_text_views = len(text.features) // len(text.tokens)
        pooled_text = self.text_attn_cross_pool(
            image.features, text.tokens.repeat(n_image_views, 1, 1)
        )
        pooled_image = self.visual.attn_cross_pool(
            text.features, image.tokens.repeat(n_text_views, 1, 1)
        )
        return image.features + pooled_text, text.features + pooled_image


class PlainStep:
    """A student, its teacher, which begins with the same weights, and an optimizer."""

    def __init__(self, config: dict[str, Any], *, lr: float, weight_decay: float) -> None:
        self.student = PlainCosmos(**config)
        self.teacher = PlainCosmos(**config).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.student, weight_decay), lr=lr, betas=(0.9, 0.98), eps=1e-8
        )

    def losses(self, images: Tensor, local_images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the CLIP loss and the distillation loss of views (V, B, ...)."""
        student, batch_size = self.student, images.shape[1]
        image, text = student.encode(images, local_images, texts)
        clip_loss = _mean_loss(
            _normalised_views(image.features, batch_size)[:CLIP_IMAGES],
            _normalised_views(text.features, batch_size),
            student.logit_scale.exp(),
        )

        with torch.no_grad():
            encoded = self.teacher.encode(images, local_images[:0], texts[:TEACHER_VIEWS])
        targets = [_normalised_views(modality.features, batch_size) for modality in encoded]
        distill_scale = student.distill_logit_scale.exp()
        distill_losses = []
        for features in student.crossmodal(image, text):
            student_views = _normalised_views(features, batch_size)
            for teacher_views in targets:
                distill_losses.append(_mean_loss(student_views, teacher_views, distill_scale))
        distill_loss = sum(distill_losses[1:], distill_losses[0]) / len(distill_losses)
        return clip_loss, distill_loss

    def step(
        self, images: Tensor, local_images: Tensor, texts: Tensor, momentum: float
    ) -> tuple[float, float]:
        """Train the student on one batch, and move the teacher towards the student.

        The order is forward, backward, update of the teacher, step of the optimizer, and clamping
        of the logit scales.

        Returns:
            The CLIP loss and the distillation loss before the step.
        """
        self.optimizer.zero_grad()
        clip_loss, distill_loss = self.losses(images, local_images, texts)
        (clip_loss + distill_loss).backward()
        parameters = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for teacher_parameter, parameter in parameters:
            teacher_parameter.data.mul_(momentum).add_((1 - momentum) * parameter.data)
        self.optimizer.step()
        for model in (self.student, self.teacher):
            for scale in (model.logit_scale, model.distill_logit_scale):
                scale.data.clamp_(0, math.log(100))
        return clip_loss.item(), distill_loss.item()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of parameters without and with weight decay, for an optimizer."""
    not_decayed: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or any(text in name for text in NO_DECAY):
            not_decayed.append(parameter)
        else:
            decayed.append(parameter)
    return [
        {"params": not_decayed, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": weight_decay},
    ]


def _normalised_views(features: Tensor, batch_size: int) -> list[Tensor]:
    """Split features (V*B, D) into V views of normalised features (B, D)."""
    return list(F.normalize(features, dim=-1).split(batch_size))


def _mean_loss(views: list[Tensor], other_views: list[Tensor], scale: Tensor) -> Tensor:
    """Return the mean contrastive loss over all pairs of a view and another view (B, D)."""
    losses = [_contrastive_loss(a, b, scale) for a in views for b in other_views]
    return torch.stack(losses).mean()


def _contrastive_loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric cross-entropy of the features (B, D) of two views."""
    target = torch.arange(len(a), device=a.device)
    logits_of_a, logits_of_b = scale * a @ b.T, scale * b @ a.T
    return (F.cross_entropy(logits_of_a, target) + F.cross_entropy(logits_of_b, target)) / 2
