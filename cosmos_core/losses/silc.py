"""Local-to-global self-distillation over prototypes (SILC, arXiv 2310.13355, after DINO,
arXiv 2104.14294)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_core.losses.common import full_precision, gather_locally
from cosmos_core.types import Gather

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04  # github.com/facebookresearch/dino
CENTER_MOMENTUM = 0.9  # the same


def silc_loss(student_logits: Tensor, teacher_logits: Tensor, center: Tensor) -> Tensor:
    """Return the mean cross-entropy of all student views with all teacher views of a sample.

    `student_logits` (L, B, K) of local views, `teacher_logits` (G, B, K) of global ones, `center`
    (K,) of `move_center`. In loops::

        for l in range(L):
            for g in range(G):
                target = softmax((teacher_logits[g] - center) / 0.04)
                loss += -(target * log_softmax(student_logits[l] / 0.1)).sum(-1).mean() / (L * G)

    Samples of other processes play no part: the mean over processes is the loss of the batch.
    """
    targets = F.softmax((full_precision(teacher_logits) - center) / TEACHER_TEMPERATURE, dim=-1)
    logs = F.log_softmax(full_precision(student_logits) / STUDENT_TEMPERATURE, dim=-1)
    # The mean over pairs of views is a product of two means over views.
    return -(targets.mean(dim=0) * logs.mean(dim=0)).sum(dim=-1).mean()


@torch.no_grad()
def move_center(
    center: Tensor, teacher_logits: Tensor, loss: Tensor, gather: Gather = gather_locally
) -> None:
    """Move `center` (K,), a running mean of the teacher's logits (G, B, K), in place.

    It is subtracted from them so that no prototype takes all. The mean is over all processes: one
    collective. Where the `loss` of any process is not finite, the center stays.
    """
    batch_mean = full_precision(teacher_logits).mean(dim=(0, 1))
    means = gather.mean(torch.cat([batch_mean, loss.detach()[None]]))
    moved = center.lerp(means[:-1], 1 - CENTER_MOMENTUM)
    center.copy_(torch.where(means.isfinite().all(), moved, center))
