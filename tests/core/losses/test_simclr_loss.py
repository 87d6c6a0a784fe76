"""SimCLR's and SLIP's losses against the loops of their docstrings and a case solved by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip import ClipLoss

from cosmos_core.losses import gather_locally, simclr_loss, slip_loss
from cosmos_core.types import Gathered


def draw(views, samples=5, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(views, samples, width, generator=generator, dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def loops(projections):
    total, (_, samples, _) = 0.0, projections.shape
    for view in (0, 1):
        for b in range(samples):
            own, other = projections[view], projections[1 - view]
            others = [*other, *(own[i] for i in range(samples) if i != b)]
            logits = torch.stack([projections[view][b] @ vector / 0.1 for vector in others])
            total += F.cross_entropy(logits[None], torch.tensor([b])).item() / (2 * samples)
    return total


def test_simclr_equals_the_loops():
    projections = draw(2)
    loss = simclr_loss(*gather_locally([projections]))
    assert loss.item() == pytest.approx(loops(projections), rel=1e-12)


def test_simclr_of_two_samples_by_hand():
    """Both views alike, samples at right angles: a logit of 10 against two of 0."""
    projections = torch.eye(2).expand(2, 2, 2)
    loss = simclr_loss(*gather_locally([projections]))
    assert loss.item() == pytest.approx(math.log1p(2 * math.exp(-10)), abs=1e-7)


def test_the_mean_of_shares_is_the_loss_of_the_batch():
    projections = draw(2, samples=6)
    own = (Gathered(projections[:, start : start + 2], projections, start) for start in (0, 2, 4))
    shares = [simclr_loss(gathered).item() for gathered in own]
    assert sum(shares) / 3 == pytest.approx(loops(projections), rel=1e-12)


def test_slip_is_clip_of_both_views_and_simclr():
    image, text, projections = draw(2), draw(1, seed=1), draw(2, width=4, seed=2)
    scale = torch.tensor(7.0, dtype=torch.float64)
    clip = sum(ClipLoss()(view, text[0], scale).item() for view in image) / 2
    terms = slip_loss(image, text, scale, projections)
    assert terms.clip.item() == pytest.approx(clip, rel=1e-12)
    assert terms.simclr.item() == pytest.approx(loops(projections), rel=1e-12)
    assert terms.total.item() == pytest.approx(clip + loops(projections), rel=1e-12)
