"""COSMOS (arXiv 2412.01814), whole or without one of its parts."""

from pydantic.dataclasses import dataclass

from cosmos_core.config import STRICT
from cosmos_core.losses import clip_loss, cosmos_loss
from cosmos_core.model.build import Architecture, create_model
from cosmos_core.model.cosmos import Cosmos
from cosmos_core.types import EVERY_VIEW, Features, Gather, LossTerms, ViewCounts, Views


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CosmosMethod:
    """`local_texts` False leaves out the local captions; `cross_attention` False distils the
    teacher into the student's own features; `distillation` False leaves the CLIP term alone."""

    name: str = "cosmos"
    local_texts: bool = True
    cross_attention: bool = True
    distillation: bool = True

    @property
    def counts(self) -> ViewCounts:
        """Two global views of either modality; local ones of the image serve distillation alone."""
        return EVERY_VIEW._replace(local_images=self.distillation, local_texts=self.local_texts)

    @property
    def terms(self) -> tuple[str, ...]:
        return ("clip", "distill") if self.distillation else ("clip",)

    def create_student(self, architecture: Architecture) -> Cosmos:
        """Create the whole model; parameters that the loss does not reach are frozen."""
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
        return features._replace(image_crossmodal=features.image, text_crossmodal=features.text)

    def teacher_features(self, teacher: Cosmos, views: Views) -> Features | None:
        return teacher.encode_globals(views) if self.distillation else None

    def loss(self, student: Features, teacher: Features | None, gather: Gather) -> LossTerms:
        if teacher is None:
            return clip_loss(student.image[:2], student.text, student.logit_scale, gather)
        return cosmos_loss(student, teacher, gather)
