"""What passes between the rooms of cosmos_core.

Letters in shapes: V student views, T caption views, L local views, B samples, D embedding width,
S tokens of a caption, H W pixels of a global view, h w pixels of a local view.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Views(NamedTuple):
    """The views of one batch.

    `global_images` (2, B, 3, H, W), `local_images` (L, B, 3, h, w) with L >= 0, `texts` (T, B, S)
    token ids padded with zeros; the first two texts are global.
    """

    global_images: Tensor
    local_images: Tensor
    texts: Tensor


class Features(NamedTuple):
    """L2-normalised features of a batch's views, and the scales, already exponentiated.

    `image` (V, B, D) and `text` (T, B, D), global views first. `image_crossmodal` and
    `text_crossmodal` have the same shapes, or are None for a teacher. The scales are 0-d.
    """

    image: Tensor
    text: Tensor
    image_crossmodal: Tensor | None
    text_crossmodal: Tensor | None
    logit_scale: Tensor
    distill_logit_scale: Tensor | None


class LossTerms(NamedTuple):
    """The terms of a loss, 0-d tensors; their sum, unweighted, is what is minimised.

    `distill` is zero for a method without distillation.
    """

    clip: Tensor
    distill: Tensor

    @property
    def total(self) -> Tensor:
        """The unweighted sum."""
        return self.clip + self.distill
