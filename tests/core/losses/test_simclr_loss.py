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


def simclr_by_loops(projections):
    """Return SimCLR's loss of projections (2 views, samples, width), with a temperature of 0.1."""
    total, n_samples = 0.0, projections.shape[1]
    for view in (0, 1):
        for sample in range(n_samples):
            anchor = projections[view, sample]
            # All other projections: those of the other view first, of which one is the same sample.
            candidates = list(projections[1 - view])
            for other_sample in range(n_samples):
                if other_sample != sample:
                    candidates.append(projections[view, other_sample])
            logits = torch.stack([anchor @ candidate / 0.1 for candidate in candidates])
            label = torch.tensor([sample])
            total += F.cross_entropy(logits[None], label).item() / (2 * n_samples)
    return total


def test_simclr_equals_the_loops():
    projections = draw(2)
    loss = simclr_loss(*gather_locally([projections]))
    assert loss.item() == pytest.approx(simclr_by_loops(projections), rel=1e-12)


def test_simclr_of_two_samples_by_hand():
    # Both views of a sample are equal, and the samples are orthogonal: a logit of 10 for the other
    # view of the sample, and two logits of 0.
    projections = torch.eye(2).expand(2, 2, 2)
    loss = simclr_loss(*gather_locally([projections]))
    assert loss.item() == pytest.approx(math.log1p(2 * math.exp(-10)), abs=1e-7)


def test_the_mean_of_processes_is_the_loss_of_the_batch():
    projections = draw(2, samples=6)
    losses = []
    for start in (0, 2, 4):  # three processes with two samples each
        gathered = Gathered(projections[:, start : start + 2], projections, start)
        losses.append(simclr_loss(gathered).item())
    assert sum(losses) / 3 == pytest.approx(simclr_by_loops(projections), rel=1e-12)


def test_slip_is_clip_of_both_views_and_simclr():
    image, text, projections = draw(2), draw(1, seed=1), draw(2, width=4, seed=2)
    scale = torch.tensor(7.0, dtype=torch.float64)
    clip = sum(ClipLoss()(view, text[0], scale).item() for view in image) / 2
    terms = slip_loss(image, text, scale, projections)
    assert terms.clip.item() == pytest.approx(clip, rel=1e-12)
    assert terms.simclr.item() == pytest.approx(simclr_by_loops(projections), rel=1e-12)
    assert terms.total.item() == pytest.approx(clip + simclr_by_loops(projections), rel=1e-12)
