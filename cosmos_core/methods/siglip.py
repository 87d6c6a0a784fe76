"""SigLIP (arXiv 2303.15343): one view of the image against one caption, each pair by itself."""

import math
from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cosmos_core.config import STRICT
from cosmos_core.losses import sigmoid_loss
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.model.build import Architecture, create_model
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views

INITIAL_SCALE, INITIAL_BIAS = math.log(10), -10.0  # section 3.2, for batches of 32,768


class SiglipFeatures(NamedTuple):
    """The features of a batch for SigLIP's loss."""

    image: Tensor  # (1, B, D), L2-normalised
    text: Tensor  # (1, B, D), L2-normalised
    logit_scale: Tensor  # 0-d, exponentiated
    logit_bias: Tensor  # 0-d


def add_bias(student: MultiViewCLIP, bias: float) -> MultiViewCLIP:
    """Set SigLIP's initial scale, and add a bias under OpenCLIP's name."""
    student.logit_scale.data.fill_(INITIAL_SCALE)
    student.logit_bias = nn.Parameter(torch.tensor(bias))
    return student


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SiglipMethod:
    """SigLIP: without a softmax over the batch, the loss of a pair depends on no other pair."""

    name: str = "siglip"
    # The initial bias. It should fit the fraction of pairs that match: about -ln(batch size).
    bias: float = INITIAL_BIAS
    counts = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)
    terms = ("sigmoid",)
    image = ClipMethod.image

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        return add_bias(create_model(architecture, "clip"), self.bias)

    def student_features(self, student: MultiViewCLIP, views: Views) -> SiglipFeatures:
        image, text = student.encode_pairs(views.global_images, views.texts)
        return SiglipFeatures(image, text, student.logit_scale.exp(), student.logit_bias)

    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> None:
        """Return nothing: the moving average serves evaluation only."""

    def loss(self, student: SiglipFeatures, teacher: None, gather: Gather) -> LossTerms:
        (texts,) = gather([student.text])
        loss = sigmoid_loss(student.image[0], texts, student.logit_scale, student.logit_bias)
        return LossTerms(sigmoid=loss)
