"""CLIP (arXiv 2103.00020): one view of the image against one caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from cosmos_core.losses import clip_loss
from cosmos_core.model.build import Architecture, create_model
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views


class ClipFeatures(NamedTuple):
    """`image` (G, B, D) and `text` (T, B, D), L2-normalised, and the exponentiated scale."""

    image: Tensor
    text: Tensor
    logit_scale: Tensor


def encode_globals(model: MultiViewCLIP, views: Views) -> ClipFeatures:
    """Global images and all captions, each set in one batch."""
    image = model.encode_image(views.global_images.flatten(0, 1), normalize=True)
    text = model.encode_text(views.texts.flatten(0, 1), normalize=True)
    return ClipFeatures(
        image.unflatten(0, views.global_images.shape[:2]),
        text.unflatten(0, views.texts.shape[:2]),
        model.logit_scale.exp(),
    )


@dataclass(frozen=True, kw_only=True)
class ClipMethod:
    """No teacher, no head."""

    name: str = "clip"
    counts = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        """The towers alone."""
        return create_model(architecture, "clip")

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        """Features of the one view of either modality."""
        return encode_globals(student, views)

    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> None:
        """Nothing: the moving average is kept for evaluation only."""

    def loss(self, student: ClipFeatures, teacher: None, gather: Gather) -> LossTerms:
        """The CLIP term alone."""
        return clip_loss(*student, gather)
