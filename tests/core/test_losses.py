"""Losses against loops over OpenCLIP's own and a case solved by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip import ClipLoss

from cosmos_core import Features
from cosmos_core.losses import clip_loss, contrastive_loss, cosmos_loss


def random_features(views, texts, *, crossmodal=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        drawn = torch.randn(count, 4, 6, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=-1)

    return Features(
        draw(views),
        draw(texts),
        draw(views) if crossmodal else None,
        draw(texts) if crossmodal else None,
        torch.tensor(7.0, dtype=torch.float64),
        torch.tensor(11.0, dtype=torch.float64),
    )


def test_two_samples_by_hand():
    """Identity against itself at scale ln 3: every row and column is softmax([ln 3, 0])."""
    identity = torch.eye(2)[None]
    loss = contrastive_loss(identity, identity, torch.tensor(math.log(3)))
    assert loss.item() == pytest.approx(-math.log(3 / 4))


def test_cosmos_loss_equals_loops_over_openclips():
    student, teacher = random_features(8, 8), random_features(2, 2, crossmodal=False, seed=1)
    pair, clip, distill = ClipLoss(), 0.0, 0.0
    for v in range(2):
        for t in range(8):
            clip += pair(student.image[v], student.text[t], student.logit_scale).item() / 16
    scale = student.distill_logit_scale
    for own in (student.image_crossmodal, student.text_crossmodal):
        for target in (teacher.image, teacher.text):
            for v in range(8):
                for u in range(2):
                    distill += pair(own[v], target[u], scale).item() / 16 / 4
    terms = cosmos_loss(student, teacher)
    assert terms.clip.item() == pytest.approx(clip, rel=1e-6)
    assert terms.distill.item() == pytest.approx(distill, rel=1e-6)
    assert terms.total.item() == pytest.approx(clip + distill, rel=1e-6)


def test_clip_loss_is_openclips_on_the_first_views():
    student = random_features(2, 3, crossmodal=False)
    expected = ClipLoss()(student.image[0], student.text[0], student.logit_scale)
    terms = clip_loss(student.image[:1], student.text[:1], student.logit_scale)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms.distill.item() == 0


def test_cosmos_loss_refuses_features_without_cross_attention():
    with pytest.raises(ValueError, match="cross-modal"):
        cosmos_loss(random_features(8, 8, crossmodal=False), random_features(2, 2))
