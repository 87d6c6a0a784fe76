"""COSMOS (arXiv 2412.01814), complete or without one of its components."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from cosmos_core.config import STRICT
from cosmos_core.losses import clip_loss, cosmos_loss, image_distillation_loss
from cosmos_core.model.build import Architecture, create_model
from cosmos_core.model.cosmos import Cosmos
from cosmos_core.types import EVERY_VIEW, Features, Gather, LossTerms, ViewCounts, Views


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CosmosMethod:
    """COSMOS: CLIP, and distillation of a teacher's features into cross-modal features.

    Its components can be switched off for ablations.
    """

    name: str = "cosmos"
    # If true, there are local captions besides the two global ones.
    local_texts: bool = True
    # If true, the loss distils into cross-modal features, and otherwise into plain features.
    cross_attention: bool = True
    # If true, the loss has a distillation term besides CLIP's term.
    distillation: bool = True
    # The number of global views and of global captions that the teacher encodes. With 1 it encodes
    # the first ones, to which all views of the student are then compared.
    teacher_views: Annotated[int, Field(ge=1, le=2)] = 2
    # If true, the distillation term has no captions: it only distils the teacher's images into the
    # student's images.
    distill_images_only: bool = False

    @property
    def counts(self) -> ViewCounts:
        """The views of a sample: two global images and captions, and local ones if used.

        Local images are used only for distillation.
        """
        return EVERY_VIEW._replace(local_images=self.distillation, local_texts=self.local_texts)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the loss terms."""
        return ("clip", "distill") if self.distillation else ("clip",)

    def create_student(self, architecture: Architecture) -> Cosmos:
        """Create COSMOS's model with random weights, and freeze the parameters that are not used.

        These are the parameters of components that the options switch off.
        """
        student = create_model(architecture, "cosmos")
        assert isinstance(student, Cosmos)
        if not self.distillation:
            student.distill_logit_scale.requires_grad_(False)
        is_crossmodal = self.cross_attention and self.distillation
        if not is_crossmodal:
            for module in student.cross_attention_modules():
                module.requires_grad_(False)
        elif self.distill_images_only:
            # The loss has no term with patch tokens that a caption pools.
            student.image_token_mapping.requires_grad_(False)
            student.visual.attn_cross_pool.requires_grad_(False)
        return student

    def student_features(self, student: Cosmos, views: Views) -> Features:
        """Return the features of all views of a batch.

        Without cross-attention the plain features take the place of the cross-modal features, so
        that the loss distils into them.
        """
        is_crossmodal = self.cross_attention and self.distillation
        features = student.encode_views(views, crossmodal=is_crossmodal)
        if is_crossmodal:
            return features
        return features._replace(image_crossmodal=features.image, text_crossmodal=features.text)

    def teacher_features(self, teacher: Cosmos, views: Views) -> Features | None:
        """Return the teacher's features of the global views, or None without distillation."""
        return teacher.encode_globals(views, self.teacher_views) if self.distillation else None

    def loss(self, student: Features, teacher: Features | None, gather: Gather) -> LossTerms:
        """Return the loss of COSMOS, or only CLIP's loss of the global views without a teacher.

        Args:
            student: The result of `student_features`.
            teacher: The result of `teacher_features`, which is None without distillation.
            gather: Collects the features of all processes.
        """
        if teacher is None:
            global_images = student.image[:2]
            return clip_loss(global_images, student.text, student.logit_scale, gather)
        if self.distill_images_only:
            return image_distillation_loss(student, teacher, gather)
        return cosmos_loss(student, teacher, gather)
