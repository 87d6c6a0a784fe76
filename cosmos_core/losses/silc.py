"""Local-to-global self-distillation over prototypes (SILC, arXiv 2310.13355, after DINO,
arXiv 2104.14294)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_core.losses.gather import gather_locally
from cosmos_core.types import Gather

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04  # github.com/facebookresearch/dino
CENTER_MOMENTUM = 0.9  # the same


def silc_loss(
    student_logits: Tensor, teacher_logits: Tensor, center: Tensor, gather: Gather = gather_locally
) -> Tensor:
    """Mean cross-entropy of every student view with every teacher view of the same sample.

    `student_logits` (L, B, K) of local views, `teacher_logits` (G, B, K) of global ones. `center`
    (K,), a running mean of the teacher's logits, is subtracted from them, so that no prototype
    takes all; it is then moved in place by the whole batch, of all processes. In loops::

        for l in range(L):
            for g in range(G):
                target = softmax((teacher_logits[g] - center) / 0.04)
                loss += -(target * log_softmax(student_logits[l] / 0.1)).sum(-1).mean() / (L * G)
    """
    targets = F.softmax((teacher_logits.float() - center) / TEACHER_TEMPERATURE, dim=-1)
    logs = F.log_softmax(student_logits.float() / STUDENT_TEMPERATURE, dim=-1)
    # The mean over pairs of views is a product of two means over views.
    loss = -(targets.mean(dim=0) * logs.mean(dim=0)).sum(dim=-1).mean()
    with torch.no_grad():
        batch_mean = gather.mean(teacher_logits.float().mean(dim=(0, 1)))
        center.lerp_(batch_mean, 1 - CENTER_MOMENTUM)
    return loss
