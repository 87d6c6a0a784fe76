"""A training method of your own, in one file: CLIP, and the uniformity of each modality (Wang and
Isola, arXiv 2005.10242), which keeps features of different samples apart.

    cosmos-train debug --set method=examples/own_method.py --set method.weight=0.2
"""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from cosmos_core import LossTerms
from cosmos_core.config import STRICT, NonNegative
from cosmos_core.losses import contrastive_loss, full_precision
from cosmos_core.methods.clip import ClipFeatures, ClipMethod
from cosmos_core.types import Gather, Gathered


@dataclass(frozen=True, kw_only=True, config=STRICT)
class UniformClip(ClipMethod):
    """The views, the model and the features are CLIP's; `weight` is that of the second term."""

    name: str = "uniform-clip"
    weight: NonNegative = 0.1
    terms = ("clip", "uniformity")

    def loss(self, student: ClipFeatures, teacher: None, gather: Gather) -> LossTerms:
        images, texts = gather([student.image, student.text])
        clip = contrastive_loss(images, texts, student.logit_scale)
        spread = (uniformity(images) + uniformity(texts)) / 2
        return LossTerms(clip=clip, uniformity=self.weight * spread)


def uniformity(features: Gathered) -> Tensor:
    """Return the mean over the samples of this process of log mean exp(-2 |x - y|^2), over the y of
    all processes: features (1, B, D) of unit length, of which |x - y|^2 = 2 - 2 <x, y>."""
    local, everywhere = full_precision(features.local[0]), full_precision(features.everywhere[0])
    exponents = 4 * (local @ everywhere.T) - 4
    return (torch.logsumexp(exponents, dim=1) - torch.log(torch.tensor(len(everywhere)))).mean()
