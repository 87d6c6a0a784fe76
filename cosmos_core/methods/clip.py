"""CLIP (arXiv 2103.00020): one view of the image against one caption."""

from typing import ClassVar, NamedTuple

from pydantic.dataclasses import dataclass
from torch import Tensor

from cosmos_core.config import STRICT, ImageViewConfig
from cosmos_core.losses import clip_loss
from cosmos_core.model.build import Architecture, create_model
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views


class ClipFeatures(NamedTuple):
    """The features of a batch for CLIP's loss, and for methods that extend CLIP."""

    # The features of G global views of each of B images (G, B, D), L2-normalised.
    image: Tensor
    # The features of T captions of each image (T, B, D), L2-normalised.
    text: Tensor
    # The exponentiated scale of the logits, 0-d.
    logit_scale: Tensor
    # The outputs (V, B, K) of a method's projection head for V views, or None without a head.
    head: Tensor | None = None


def clip_features(model: MultiViewCLIP, views: Views) -> ClipFeatures:
    """Encode the global images and the captions of a batch, without a projection head.

    All global images are encoded in one pass, and all captions in another.

    Args:
        model: The student or the teacher.
        views: The global images (G, B, 3, H, W) and the captions (T, B, S) of B samples.
    """
    image, text = model.encode_pairs(views.global_images, views.texts)
    return ClipFeatures(image, text, model.logit_scale.exp())


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipMethod:
    """CLIP: the contrastive loss of one view and one caption of each image, without a teacher."""

    name: str = "clip"
    counts = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)
    terms: ClassVar[tuple[str, ...]] = ("clip",)
    # As in OpenCLIP (AugmentationCfg in transform.py), the only augmentation is a crop of nearly
    # the whole image.
    image: ClassVar[ImageViewConfig] = ImageViewConfig(
        global_scale=(0.9, 1.0),
        flip_p=0.0,
        jitter_p=0.0,
        grayscale_p=0.0,
        blur_p=(0.0, 0.0, 0.0),
        solarize_p=0.0,
    )

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        """Create OpenCLIP's CLIP with random weights."""
        return create_model(architecture, "clip")

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        """Return the features of the global images and of the captions."""
        return clip_features(student, views)

    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> None:
        """Return None, because the loss does not use the teacher. It is only evaluated."""

    def loss(self, student: ClipFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return CLIP's symmetric cross-entropy of images and captions.

        Args:
            student: The result of `student_features`.
            teacher: None, since this loss does not use the teacher.
            gather: Collects the features of all processes.
        """
        return clip_loss(student.image, student.text, student.logit_scale, gather)
