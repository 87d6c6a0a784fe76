"""SigLIP's loss against the loops of its docstring, a case by hand, and OpenCLIP's loss."""

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


SCALE = torch.tensor(9.0, dtype=torch.float64)
BIAS = torch.tensor(-3.0, dtype=torch.float64)


def test_the_loss_of_two_samples_by_hand():
    # Pairs that match have a logit of 2 - 1, the others of 0 - 1.
    identity = torch.eye(2)
    (texts,) = gather_locally([identity[None]])
    loss = sigmoid_loss(identity, texts, torch.tensor(2.0), torch.tensor(-1.0))
    assert loss.item() == pytest.approx(2 * math.log1p(math.exp(-1)))


@pytest.mark.parametrize(("offset", "samples"), [(0, 6), (0, 2), (2, 2), (4, 2)])
def test_rows_of_a_process_equal_the_loops(offset, samples):
    images, texts = draw(1)[0], draw(3, seed=1)
    local = slice(offset, offset + samples)  # the samples of this process
    expected = 0.0
    for text in texts:
        for i in range(offset, offset + samples):
            for j in range(6):
                logit = SCALE * images[i] @ text[j] + BIAS
                expected -= F.logsigmoid(logit if i == j else -logit).item() / (3 * samples)
    gathered = Gathered(texts[:, local], texts, offset)
    assert sigmoid_loss(images[local], gathered, SCALE, BIAS).item() == pytest.approx(expected)


def random_leaves():
    """Return images, texts, a scale and a bias, the same ones in each call, that need gradients."""
    leaves = [draw(1), draw(1, seed=1), SCALE.clone(), BIAS.clone()]
    return [leaf.requires_grad_() for leaf in leaves]


def test_value_and_gradient_are_openclips():
    leaves = random_leaves()
    images, texts, scale, bias = leaves
    (gathered_texts,) = gather_locally([texts])
    loss = sigmoid_loss(images[0], gathered_texts, scale, bias)
    loss.backward()

    openclip_leaves = random_leaves()
    images, texts, scale, bias = openclip_leaves
    expected = SigLipLoss()(images[0], texts[0], scale, bias)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for leaf, openclip_leaf in zip(leaves, openclip_leaves, strict=True):
        torch.testing.assert_close(leaf.grad, openclip_leaf.grad)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_processes_together_have_openclips_gradient(size):
    for tensors, openclip_tensors in run_processes(workers.siglip_gradients, size, 3):
        torch.testing.assert_close(tensors, openclip_tensors)


def test_backward_keeps_the_logits_of_only_one_block():
    # This process has 8 of 64 samples. Backward keeps the features (64, 2) and the logits (8, 8) of
    # one block, but not the logits of the other blocks.
    images = draw(1, samples=64, width=2, seed=0).requires_grad_()
    texts = draw(1, samples=64, width=2, seed=1).requires_grad_()
    gathered_texts = Gathered(texts[:, :8], texts, 0)
    saved_sizes = []

    def record_size(tensor):
        saved_sizes.append(tensor.numel())
        return tensor

    def return_unchanged(tensor):
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record_size, return_unchanged):
        loss = sigmoid_loss(images[0, :8], gathered_texts, SCALE.clone().requires_grad_(), BIAS)
        loss.backward()
    assert max(saved_sizes) <= max(64 * 2, 8 * 8)


def test_one_process_has_openclips_value_and_gradient_without_a_process_group():
    tensors, openclip_tensors = workers.siglip_gradients(SINGLE_PROCESS, 4)
    torch.testing.assert_close(tensors, openclip_tensors)
