"""The COSMOS loss: CLIP over views plus cross-modality self-distillation (arXiv 2412.01814)."""

from __future__ import annotations

import torch

from cosmos_core.losses.clip import contrastive_loss
from cosmos_core.losses.common import gather_locally
from cosmos_core.types import Features, Gather, LossTerms


def cosmos_loss(student: Features, teacher: Features, gather: Gather = gather_locally) -> LossTerms:
    """Return the CLIP and distillation terms of a batch; `.total` is their unweighted sum.

    CLIP: the student's two global images against all its captions. Distillation: the mean over
    {image, text} cross-modal student features x {image, text} teacher features, each the mean
    over all student views and both teacher views::

        for student_views in (student.image_crossmodal, student.text_crossmodal):
            for teacher_views in (teacher.image, teacher.text):
                distill += contrastive_loss(student_views, teacher_views, distill_scale) / 4

    `gather` collects 26 student and 4 teacher tensors (B, D) over the processes, in one collective
    each. Raises ValueError where the student has no cross-modal features.
    """
    if student.image_crossmodal is None or student.text_crossmodal is None:
        raise ValueError("the COSMOS loss needs the student's cross-modal features")
    if student.distill_logit_scale is None:
        raise ValueError("the COSMOS loss needs the student's distill_logit_scale")
    image, text, image_crossmodal, text_crossmodal = gather(
        [student.image[:2], student.text, student.image_crossmodal, student.text_crossmodal]
    )
    # Each half is the mean over both teacher modalities: they have equally many views.
    (teacher_views,) = gather([torch.cat([teacher.image[:2], teacher.text[:2]])])
    scale = student.distill_logit_scale
    halves = [
        contrastive_loss(views, teacher_views, scale)
        for views in (image_crossmodal, text_crossmodal)
    ]
    clip = contrastive_loss(image, text, student.logit_scale)
    return LossTerms(clip=clip, distill=(halves[0] + halves[1]) / 2)
