"""The COSMOS training step as it is written down, without any shortcut: what ours is held against.

Features of every view from OpenCLIP's towers, captions at all positions; tokens of every view
mapped, and those of the first global view repeated for every view that queries them; a
contrastive loss a pair of views; the moving average tensor by tensor; torch's AdamW as it comes.
Read from arXiv 2412.01814 and the structure of the published checkpoints; it shares no code with
cosmos_core. Letters in shapes as in `cosmos_core.types`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
CLIP_IMAGES = TEACHER_VIEWS = 2  # global views
NO_DECAY = ("bn", "ln", "bias", "logit_scale")


class Encoded(NamedTuple):
    """`features` (V*B, D), not normalised, and mapped `tokens` (B, N, D) of the first view."""

    features: Tensor
    tokens: Tensor


class Pooler(nn.Module):
    """Features (M, D) query tokens (M, N, D): (M, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """One query a row."""
        query, keys = self.ln_q(features)[:, None], self.ln_k(tokens)
        return self.attn(query, keys, keys, need_weights=False)[0][:, 0]


class PlainCosmos(open_clip.CLIP):
    """OpenCLIP's CLIP and the tensors that COSMOS adds, under the published names."""

    def __init__(self, embed_dim: int, **config: Any) -> None:
        super().__init__(embed_dim, **config)
        self.distill_logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.image_token_mapping = nn.Linear(self.visual.transformer.width, embed_dim)
        self.text_token_mapping = nn.Linear(self.transformer.width, embed_dim)
        self.visual.attn_cross_pool = Pooler(embed_dim)
        self.text_attn_cross_pool = Pooler(embed_dim)

    def image_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(M, 3, H, W) -> (M, D) and mapped patch tokens (M, N, D)."""
        visual = self.visual
        patches = visual.conv1(images)
        positions = self.positions(patches.shape[-2:])
        first = visual.class_embedding.expand(len(images), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + positions
        x = visual.ln_post(visual.transformer(visual.ln_pre(x)))
        return x[:, 0] @ visual.proj, self.image_token_mapping(x[:, 1:])

    def positions(self, grid: torch.Size) -> Tensor:
        """Position embeddings (1 + N, width), resized where views are smaller."""
        positions = self.visual.positional_embedding
        side = math.isqrt(len(positions) - 1)
        if tuple(grid) == (side, side):
            return positions
        square = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        factor = tuple((length + 0.1) / side for length in grid)
        resized = F.interpolate(square, scale_factor=factor, mode="bicubic")
        return torch.cat([positions[:1], resized.permute(0, 2, 3, 1).flatten(0, 2)])

    def text_features(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """(M, S) token ids -> (M, D) and mapped tokens (M, S, D)."""
        x = self.token_embedding(texts) + self.positional_embedding
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask))
        ends = x[torch.arange(len(x)), texts.argmax(dim=-1)]
        return ends @ self.text_projection, self.text_token_mapping(x)

    def encode(self, images: Tensor, local_images: Tensor, texts: Tensor) -> tuple[Encoded, ...]:
        """Views (V, B, ...) of either modality, all views of one size in one batch."""
        image, tokens = self.image_features(images.flatten(0, 1))
        if len(local_images):
            local, _ = self.image_features(local_images.flatten(0, 1))
            image = torch.cat([image, local])
        text, text_tokens = self.text_features(texts.flatten(0, 1))
        return Encoded(image, tokens[: images.shape[1]]), Encoded(
            text, text_tokens[: len(texts[0])]
        )

    def crossmodal(self, image: Encoded, text: Encoded) -> tuple[Tensor, Tensor]:
        """Cross-modal features (V*B, D) of either modality."""
        views = len(image.features) // len(image.tokens), len(text.features) // len(text.tokens)
        pooled_text = self.text_attn_cross_pool(image.features, text.tokens.repeat(views[0], 1, 1))
        pooled_image = self.visual.attn_cross_pool(
            text.features, image.tokens.repeat(views[1], 1, 1)
        )
        return image.features + pooled_text, text.features + pooled_image


class PlainStep:
    """A student, its teacher and an optimizer; `model_class` may be a subclass of PlainCosmos."""

    def __init__(self, config: dict[str, Any], *, lr: float, weight_decay: float) -> None:
        self.student = PlainCosmos(**config)
        self.teacher = PlainCosmos(**config).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.optimizer = torch.optim.AdamW(
            groups(self.student, weight_decay), lr=lr, betas=(0.9, 0.98), eps=1e-8
        )

    def losses(self, images: Tensor, local_images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The CLIP and the distillation term of views (V, B, ...)."""
        student, batch = self.student, images.shape[1]
        image, text = student.encode(images, local_images, texts)
        crossmodal = [_views(x, batch) for x in student.crossmodal(image, text)]
        with torch.no_grad():
            encoded = self.teacher.encode(images, local_images[:0], texts[:TEACHER_VIEWS])
        teachers = [_views(x.features, batch) for x in encoded]
        clip = _mean_over_pairs(
            _views(image.features, batch)[:CLIP_IMAGES],
            _views(text.features, batch),
            student.logit_scale.exp(),
        )
        scale = student.distill_logit_scale.exp()
        groups = [_mean_over_pairs(s, t, scale) for s in crossmodal for t in teachers]
        return clip, sum(groups[1:], groups[0]) / len(groups)

    def step(
        self, images: Tensor, local_images: Tensor, texts: Tensor, momentum: float
    ) -> tuple[float, float]:
        """Forward, backward, teacher, optimizer, clamping; the terms before the step."""
        self.optimizer.zero_grad()
        clip, distill = self.losses(images, local_images, texts)
        (clip + distill).backward()
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.data.mul_(momentum).add_((1 - momentum) * student.data)
        self.optimizer.step()
        for model in (self.student, self.teacher):
            for scale in (model.logit_scale, model.distill_logit_scale):
                scale.data.clamp_(0, math.log(100))
        return clip.item(), distill.item()


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters without and with weight decay."""
    exempt, decayed = [], []
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or any(part in name for part in NO_DECAY)
        (exempt if spared else decayed).append(parameter)
    return [
        {"params": exempt, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": weight_decay},
    ]


def _views(features: Tensor, batch: int) -> list[Tensor]:
    """(V*B, D) -> V normalised (B, D)."""
    return list(F.normalize(features, dim=-1).split(batch))


def _mean_over_pairs(first: list[Tensor], second: list[Tensor], scale: Tensor) -> Tensor:
    losses = [_contrastive(a, b, scale) for a in first for b in second]
    return torch.stack(losses).mean()


def _contrastive(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """The symmetric cross-entropy of two (B, D)."""
    target = torch.arange(len(first), device=first.device)
    rows, columns = scale * first @ second.T, scale * second @ first.T
    return (F.cross_entropy(rows, target) + F.cross_entropy(columns, target)) / 2
