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
    """The features of a batch for CLIP's loss, and for methods that extend it."""

    image: Tensor  # (G, B, D), L2-normalised
    text: Tensor  # (T, B, D), L2-normalised
    logit_scale: Tensor  # 0-d, exponentiated
    head: Tensor | None = None  # outputs (V, B, K) of a method's head for views of the image


def clip_features(model: MultiViewCLIP, views: Views) -> ClipFeatures:
    """Encode all global images in one batch, and all captions in another."""
    image, text = model.encode_pairs(views.global_images, views.texts)
    return ClipFeatures(image, text, model.logit_scale.exp())


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipMethod:
    """CLIP, with one view of each image and one caption, and without a teacher's loss."""

    name: str = "clip"
    counts = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)
    terms: ClassVar[tuple[str, ...]] = ("clip",)
    # OpenCLIP's transform.py, AugmentationCfg: only a crop of nearly the whole image.
    image: ClassVar[ImageViewConfig] = ImageViewConfig(
        global_scale=(0.9, 1.0),
        flip_p=0.0,
        jitter_p=0.0,
        grayscale_p=0.0,
        blur_p=(0.0, 0.0, 0.0),
        solarize_p=0.0,
    )

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        return create_model(architecture, "clip")

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        return clip_features(student, views)

    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> None:
        """Return nothing: the moving average serves evaluation only."""

    def loss(self, student: ClipFeatures, teacher: None, gather: Gather) -> LossTerms:
        return clip_loss(student.image, student.text, student.logit_scale, gather)
