"""COSMOS (arXiv 2412.01814), complete or without one of its components."""

from pydantic.dataclasses import dataclass

from cosmos_core.config import STRICT
from cosmos_core.losses import clip_loss, cosmos_loss
from cosmos_core.model.build import Architecture, create_model
from cosmos_core.model.cosmos import Cosmos
from cosmos_core.types import EVERY_VIEW, Features, Gather, LossTerms, ViewCounts, Views


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CosmosMethod:
    """COSMOS, whose components can be switched off for ablations."""

    name: str = "cosmos"
    # Whether there are local captions.
    local_texts: bool = True
    # Whether cross-modal features are distilled; otherwise plain features are.
    cross_attention: bool = True
    # Whether there is a distillation term; otherwise only the CLIP term is left.
    distillation: bool = True

    @property
    def counts(self) -> ViewCounts:
        """Two global views of each modality; local image views only serve distillation."""
        return EVERY_VIEW._replace(local_images=self.distillation, local_texts=self.local_texts)

    @property
    def terms(self) -> tuple[str, ...]:
        return ("clip", "distill") if self.distillation else ("clip",)

    def create_student(self, architecture: Architecture) -> Cosmos:
        """Create the complete model, and freeze parameters that the loss does not depend on."""
        student = create_model(architecture, "cosmos")
        assert isinstance(student, Cosmos)
        if not self.distillation:
            student.distill_logit_scale.requires_grad_(False)
        if not (self.distillation and self.cross_attention):
            for module in student.cross_attention_modules():
                module.requires_grad_(False)
        return student

    def student_features(self, student: Cosmos, views: Views) -> Features:
        crossmodal = self.cross_attention and self.distillation
        features = student.encode_views(views, crossmodal=crossmodal)
        if crossmodal:
            return features
        # The loss then distils into the plain features.
        return features._replace(image_crossmodal=features.image, text_crossmodal=features.text)

    def teacher_features(self, teacher: Cosmos, views: Views) -> Features | None:
        return teacher.encode_globals(views) if self.distillation else None

    def loss(self, student: Features, teacher: Features | None, gather: Gather) -> LossTerms:
        if teacher is None:
            return clip_loss(student.image[:2], student.text, student.logit_scale, gather)
        return cosmos_loss(student, teacher, gather)
