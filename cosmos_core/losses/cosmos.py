"""The COSMOS loss: CLIP over views plus cross-modality self-distillation (arXiv 2412.01814)."""

from __future__ import annotations

import torch

from cosmos_core.losses.contrastive import contrastive_loss
from cosmos_core.types import Features, LossTerms


def cosmos_loss(student: Features, teacher: Features) -> LossTerms:
    """CLIP term and distillation term of one batch; `.total` is their unweighted sum.

    CLIP: the student's two global images against all its captions. Distillation: the mean over
    {image, text} cross-modal student features x {image, text} teacher features, each the mean
    over all student views and both teacher views::

        for student_views in (student.image_crossmodal, student.text_crossmodal):
            for teacher_views in (teacher.image, teacher.text):
                distill += contrastive_loss(student_views, teacher_views, distill_scale) / 4

    Raises ValueError where the student has no cross-modal features.
    """
    if student.image_crossmodal is None or student.text_crossmodal is None:
        raise ValueError("the COSMOS loss needs the student's cross-modal features")
    if student.distill_logit_scale is None:
        raise ValueError("the COSMOS loss needs the student's distill_logit_scale")
    clip = contrastive_loss(student.image[:2], student.text, student.logit_scale)
    teacher_views = torch.cat([teacher.image[:2], teacher.text[:2]])
    # Each half is the mean over both teacher modalities: they have equally many views.
    image = contrastive_loss(student.image_crossmodal, teacher_views, student.distill_logit_scale)
    text = contrastive_loss(student.text_crossmodal, teacher_views, student.distill_logit_scale)
    return LossTerms(clip=clip, distill=(image + text) / 2)


def clip_loss(student: Features) -> LossTerms:
    """The loss of the CLIP baseline: one image view against one caption."""
    clip = contrastive_loss(student.image[:1], student.text[:1], student.logit_scale)
    return LossTerms(clip=clip, distill=torch.zeros_like(clip))
