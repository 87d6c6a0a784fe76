"""SILC (arXiv 2310.13355): CLIP, and the teacher's global views distilled into local ones.

The head reads the joint embedding, not the tower's last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cosmos_core.losses import clip_loss, move_center, silc_loss
from cosmos_core.methods.clip import encode_globals
from cosmos_core.model.build import Architecture, create_model, model_config
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.heads import HEAD, PrototypeHead, add_head, project
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views


class SilcStudent(NamedTuple):
    """As of CLIP, with `prototypes` (L, B, K): logits of the local views."""

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    prototypes: Tensor


class SilcTeacher(NamedTuple):
    """`prototypes` (2, B, K), logits of the global views, and their running `center` (K,)."""

    prototypes: Tensor
    center: Tensor


@dataclass(frozen=True, kw_only=True)
class SilcMethod:
    """Widths of the head: github.com/facebookresearch/dino."""

    name: str = "silc"
    hidden: int = 2048
    bottleneck: int = 256
    prototypes: int = 65536
    counts = ViewCounts(global_images=2, local_images=True, global_texts=1, local_texts=False)

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        """The towers and a head of prototypes."""
        student = create_model(architecture, "clip")
        width = model_config(architecture)["embed_dim"]
        add_head(student, PrototypeHead(width, self.hidden, self.bottleneck, self.prototypes))
        return student

    def student_features(self, student: MultiViewCLIP, views: Views) -> SilcStudent:
        """Features of the global views and the caption, prototypes of the local views."""
        local = student.encode_image(views.local_images.flatten(0, 1), normalize=True)
        local = local.unflatten(0, views.local_images.shape[:2])
        return SilcStudent(*encode_globals(student, views), project(student, local))

    @torch.no_grad()
    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> SilcTeacher:
        """Prototypes of the global views."""
        image = teacher.encode_image(views.global_images.flatten(0, 1), normalize=True)
        logits = project(teacher, image.unflatten(0, views.global_images.shape[:2]))
        return SilcTeacher(logits, teacher.get_buffer(f"{HEAD}.center"))

    def loss(self, student: SilcStudent, teacher: SilcTeacher, gather: Gather) -> LossTerms:
        """CLIP plus distillation, unweighted."""
        terms = clip_loss(student.image, student.text, student.logit_scale, gather)
        terms = terms._replace(distill=silc_loss(student.prototypes, *teacher))
        move_center(teacher.center, teacher.prototypes, terms.total, gather)
        return terms
