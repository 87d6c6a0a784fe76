"""SigLIP's loss against the loops of its docstring, a case by hand, and OpenCLIP's."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss
from support import workers
from support.processes import run_processes
from support.training import SINGLE_PROCESS

from cosmos_core.losses import gather_locally, sigmoid_loss
from cosmos_core.types import Gathered


def draw(views, samples=6, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(views, samples, width, generator=generator, dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


SCALE, BIAS = (torch.tensor(value, dtype=torch.float64) for value in (9.0, -3.0))


def test_two_pairs_by_hand():
    """Logits 2 - 1 of the pairs that match and 0 - 1 of the others."""
    identity = torch.eye(2)
    (texts,) = gather_locally([identity[None]])
    loss = sigmoid_loss(identity, texts, torch.tensor(2.0), torch.tensor(-1.0))
    assert loss.item() == pytest.approx(2 * math.log1p(math.exp(-1)))


@pytest.mark.parametrize(("offset", "samples"), [(0, 6), (0, 2), (2, 2), (4, 2)])
def test_rows_of_a_process_equal_the_loops(offset, samples):
    images, texts = draw(1)[0], draw(3, seed=1)
    own = slice(offset, offset + samples)
    expected = 0.0
    for text in texts:
        for i in range(offset, offset + samples):
            for j in range(6):
                logit = SCALE * images[i] @ text[j] + BIAS
                expected -= F.logsigmoid(logit if i == j else -logit).item() / (3 * samples)
    gathered = Gathered(texts[:, own], texts, offset)
    assert sigmoid_loss(images[own], gathered, SCALE, BIAS).item() == pytest.approx(expected)


def test_value_and_gradient_are_openclips():
    ours = [draw(1), draw(1, seed=1), SCALE.clone(), BIAS.clone()]
    theirs = [tensor.clone().requires_grad_() for tensor in ours]
    for tensor in ours:
        tensor.requires_grad_()
    image, text, scale, bias = ours
    (texts,) = gather_locally([text])
    loss = sigmoid_loss(image[0], texts, scale, bias)
    expected = SigLipLoss()(theirs[0][0], theirs[1][0], *theirs[2:])
    for value in (loss, expected):
        value.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_processes_together_have_openclips_gradient(size):
    for rank in run_processes(workers.siglip_gradients, size, 3):
        torch.testing.assert_close(*rank)


def test_logits_of_one_block_alone_are_kept():
    """Backward has what was given and no (B, B) logits of the other blocks."""
    images, texts = (draw(1, samples=64, width=2, seed=seed).requires_grad_() for seed in (0, 1))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        own = Gathered(texts[:, :8], texts, 0)
        sigmoid_loss(images[0, :8], own, SCALE.clone().requires_grad_(), BIAS).backward()
    assert max(shape.numel() for shape in kept) <= max(64 * 2, 8 * 8)


def test_siglip_of_one_process_gathers_nothing():
    loss, expected = workers.siglip_gradients(SINGLE_PROCESS, 4)
    torch.testing.assert_close(loss, expected)
