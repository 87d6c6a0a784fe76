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

# The initial values of the paper (section 3.2), which are for batches of 32,768.
INITIAL_SCALE, INITIAL_BIAS = math.log(10), -10.0


class SiglipFeatures(NamedTuple):
    """The features of a batch for SigLIP's loss."""

    # The features of the B images (1, B, D), L2-normalised.
    image: Tensor
    # The features of their captions (1, B, D), L2-normalised.
    text: Tensor
    # The exponentiated scale of the logits, 0-d.
    logit_scale: Tensor
    # The bias that is added to the logits, 0-d.
    logit_bias: Tensor


def add_bias(student: MultiViewCLIP, bias: float) -> MultiViewCLIP:
    """Set the logit scale of a student to SigLIP's initial value, and add a bias of the logits.

    Args:
        student: The model, which is changed in place.
        bias: The initial value of the bias, whose parameter has OpenCLIP's name, `logit_bias`.

    Returns:
        The same model.
    """
    student.logit_scale.data.fill_(INITIAL_SCALE)
    student.logit_bias = nn.Parameter(torch.tensor(bias))
    return student


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SiglipMethod:
    """SigLIP: a sigmoid loss of each pair of an image and a caption, without a teacher.

    The loss of a pair does not depend on other pairs, unlike CLIP's softmax over the batch.
    """

    name: str = "siglip"
    # The initial bias of the logits. About -ln(batch size) fits the fraction of pairs that match.
    bias: float = INITIAL_BIAS
    counts = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)
    terms = ("sigmoid",)
    image = ClipMethod.image

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        """Create OpenCLIP's CLIP with random weights and SigLIP's initial scale and bias."""
        return add_bias(create_model(architecture, "clip"), self.bias)

    def student_features(self, student: MultiViewCLIP, views: Views) -> SiglipFeatures:
        """Return the features of images and captions, and the scale and bias of the logits."""
        image, text = student.encode_pairs(views.global_images, views.texts)
        return SiglipFeatures(image, text, student.logit_scale.exp(), student.logit_bias)

    def teacher_features(self, teacher: MultiViewCLIP, views: Views) -> None:
        """Return None, because the loss does not use the teacher. It is only evaluated."""

    def loss(self, student: SiglipFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return the sigmoid loss of this process's images and the captions of all processes.

        Args:
            student: The result of `student_features`.
            teacher: None, since this loss does not use the teacher.
            gather: Collects the captions of all processes.
        """
        (texts,) = gather([student.text])
        loss = sigmoid_loss(student.image[0], texts, student.logit_scale, student.logit_bias)
        return LossTerms(sigmoid=loss)
