"""SILC (arXiv 2310.13355): CLIP, and distillation of the teacher's global views into local views.

In the paper the head reads the last layer of the image tower. Here it reads the joint embedding.
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
    """The teacher's logits of K prototypes for a batch."""

    # The logits of the two global views of each image (2, B, K).
    prototypes: Tensor
    # The running mean of such logits (K,). The loss updates it in place.
    center: Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SilcMethod:
    """SILC: CLIP, and DINO's self-distillation of images.

    The head has the sizes of github.com/facebookresearch/dino.
    """

    name: str = "silc"
    # The width of the head's hidden layers.
    hidden: Positive = 2048
    # The width of the vectors that are compared with prototypes.
    bottleneck: Positive = 256
    # The number of prototypes.
    prototypes: Positive = 65536
    counts = ViewCounts(global_images=2, local_images=True, global_texts=1, local_texts=False)
    terms = ("clip", "distill")
    # The paper has these crops and a fixed momentum. The value of the momentum, and that colours
    # are not changed, were not checked against the paper's text.
    image = replace(ClipMethod.image, global_scale=(0.4, 1.0), local_scale=(0.05, 0.4), locals=8)
    momentum = 0.966

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        """Create OpenCLIP's CLIP with random weights, and add DINO's head to it."""
        student = create_model(architecture, "clip")
        embed_dim = model_config(architecture)["embed_dim"]
        head = PrototypeHead(embed_dim, self.hidden, self.bottleneck, self.prototypes)
        student.add_module(HEAD, head)
        return student

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        """Return CLIP's features of the global views, and the head's logits of the local views."""
        prototype_logits = _prototype_logits(student, views.local_images)
        return clip_features(student, views)._replace(head=prototype_logits)

    @torch.no_grad()
    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> SilcTeacher:
        """Return the teacher's logits of the global views, and their running mean."""
        prototype_logits = _prototype_logits(teacher, views.global_images)
        return SilcTeacher(prototype_logits, teacher.get_buffer(f"{HEAD}.center"))

    def loss(self, student: ClipFeatures, teacher: SilcTeacher, gather: Gather) -> LossTerms:
        """Return CLIP's loss and the distillation loss, and update the teacher's centre in place.

        The two terms have the same weight.

        Args:
            student: The result of `student_features`, with logits of the local views as `head`.
            teacher: The teacher's logits of the global views, and their running mean.
            gather: Collects the features of all processes.
        """
        assert student.head is not None
        clip_term = clip_loss(student.image, student.text, student.logit_scale, gather).clip
        distill_term = silc_loss(student.head, teacher.prototypes, teacher.center)
        terms = LossTerms(clip=clip_term, distill=distill_term)
        move_center(teacher.center, teacher.prototypes, terms.total, gather)
        return terms


def _prototype_logits(model: MultiViewCLIP, images: Tensor) -> Tensor:
    """Return the logits (V, B, K) of K prototypes for V views of images.

    Args:
        model: The student or the teacher, with DINO's head.
        images: Pixels (V, B, 3, H, W).
    """
    features = model.encode_image(images.flatten(0, 1), normalize=True)
    return model.get_submodule(HEAD)(features.unflatten(0, images.shape[:2]))
