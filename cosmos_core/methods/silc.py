"""SILC (arXiv 2310.13355): CLIP, and distillation of the teacher's global views into local views.

Unlike the paper's, the head reads the joint embedding, not the tower's last layer.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from cosmos_core.config import STRICT, Positive
from cosmos_core.losses import clip_loss, move_center, silc_loss
from cosmos_core.methods.clip import ClipFeatures, ClipMethod, clip_features
from cosmos_core.model.build import Architecture, create_model, model_config
from cosmos_core.model.clip import HEAD, MultiViewCLIP, PrototypeHead
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views


class SilcTeacher(NamedTuple):
    """The teacher's output for a batch."""

    prototypes: Tensor  # logits of the global views, (2, B, K)
    center: Tensor  # their running mean (K,)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SilcMethod:
    """SILC, with the widths of the head in github.com/facebookresearch/dino."""

    name: str = "silc"
    hidden: Positive = 2048
    bottleneck: Positive = 256
    prototypes: Positive = 65536
    counts = ViewCounts(global_images=2, local_images=True, global_texts=1, local_texts=False)
    terms = ("clip", "distill")
    # The paper has these crops and a fixed momentum. The value of the momentum, and that colours
    # are not changed, were not checked against the paper's text.
    image = replace(ClipMethod.image, global_scale=(0.4, 1.0), local_scale=(0.05, 0.4), locals=8)
    momentum = 0.966

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        student = create_model(architecture, "clip")
        width = model_config(architecture)["embed_dim"]
        head = PrototypeHead(width, self.hidden, self.bottleneck, self.prototypes)
        student.add_module(HEAD, head)
        return student

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        prototypes = _prototypes(student, views.local_images)
        return clip_features(student, views)._replace(head=prototypes)

    @torch.no_grad()
    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> SilcTeacher:
        logits = _prototypes(teacher, views.global_images)
        return SilcTeacher(logits, teacher.get_buffer(f"{HEAD}.center"))

    def loss(self, student: ClipFeatures, teacher: SilcTeacher, gather: Gather) -> LossTerms:
        """Return CLIP plus distillation, unweighted."""
        assert student.head is not None
        clip = clip_loss(student.image, student.text, student.logit_scale, gather).clip
        distill = silc_loss(student.head, teacher.prototypes, teacher.center)
        terms = LossTerms(clip=clip, distill=distill)
        move_center(teacher.center, teacher.prototypes, terms.total, gather)
        return terms


def _prototypes(model: MultiViewCLIP, images: Tensor) -> Tensor:
    """Return the logits (V, B, K) of the head's prototypes for views (V, B, 3, H, W)."""
    features = model.encode_image(images.flatten(0, 1), normalize=True)
    return model.get_submodule(HEAD)(features.unflatten(0, images.shape[:2]))
