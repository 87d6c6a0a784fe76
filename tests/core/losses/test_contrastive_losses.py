"""Contrastive losses against loops over OpenCLIP's loss, and cases solved by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip import ClipLoss

from cosmos_core import Features, losses
from cosmos_core.losses import clip_loss, contrastive_loss, cosmos_loss, gather_locally
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.types import Gathered


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


def mean_of_pairs(views, other_views, scale):
    """Return OpenCLIP's loss, averaged over all pairs of views."""
    losses = []
    for view in views:
        for other_view in other_views:
            losses.append(ClipLoss()(view, other_view, scale).item())
    return sum(losses) / len(losses)


def mean_distillation(student, teacher):
    """Return the distillation loss of COSMOS.

    It is the mean over the student's cross-modal features of images and texts, and the teacher's
    features of images and texts, of the mean over all pairs of their views.
    """
    losses = []
    for views in (student.image_crossmodal, student.text_crossmodal):
        for target_views in (teacher.image, teacher.text):
            losses.append(mean_of_pairs(views, target_views, student.distill_logit_scale))
    return sum(losses) / len(losses)


def test_the_loss_of_two_samples_by_hand():
    # The features of both samples are orthogonal and the scale is ln 3, so that every row and
    # column of the logits is [ln 3, 0], with a softmax of [3/4, 1/4].
    identity = torch.eye(2)[None]
    loss = contrastive_loss(identity, identity, torch.tensor(math.log(3)))
    assert loss.item() == pytest.approx(-math.log(3 / 4))


def cross_entropy(logits, target):
    """Return the cross-entropy of a list of logits, of which `target` is the index of the label."""
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[target]


def test_the_loss_of_one_of_two_processes_by_hand():
    # This process has the last of three samples: its row and its column of the logits.
    images = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    texts = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.8, 0.6]]])
    gathered_images = Gathered(images[:, 2:], images, 2)
    gathered_texts = Gathered(texts[:, 2:], texts, 2)
    loss = contrastive_loss(gathered_images, gathered_texts, torch.tensor(2.0))
    row = [2 * 0.8, 2 * 0.6, 2 * 0.96]  # the image with every text
    column = [2 * 0.8, 2 * 0.6, 2 * 0.96]  # the text with every image
    expected = (cross_entropy(row, 2) + cross_entropy(column, 2)) / 2
    assert loss.item() == pytest.approx(expected)


def test_features_of_which_one_side_is_gathered_are_refused():
    features = torch.eye(2)[None]
    with pytest.raises(TypeError, match="gather both sides"):
        contrastive_loss(features, gather_locally([features])[0], torch.tensor(1.0))


def test_features_in_bfloat16_give_logits_in_float32():
    # The cosines are 1 and 1 - 2^-8. At a scale of 100, bfloat16 would round the second logit.
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.bfloat16)[None]
    texts = torch.tensor([[1.0, 0.0], [1 - 2**-8, 0.0]], dtype=torch.bfloat16)[None]
    loss = contrastive_loss(images, texts, torch.tensor(100.0))
    logits = 100 * torch.tensor([[1, 1 - 2**-8], [1, 1 - 2**-8]])
    labels = torch.arange(2)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_cosmos_loss_equals_loops_over_openclips():
    student, teacher = random_features(8, 8), random_features(2, 2, crossmodal=False, seed=1)
    clip = mean_of_pairs(student.image[:2], student.text, student.logit_scale)
    distill = mean_distillation(student, teacher)
    terms = cosmos_loss(student, teacher)
    assert terms.clip.item() == pytest.approx(clip, rel=1e-12)
    assert terms.distill.item() == pytest.approx(distill, rel=1e-12)
    assert terms.total.item() == pytest.approx(clip + distill, rel=1e-12)


def test_clip_loss_is_openclips_on_the_first_views():
    student = random_features(2, 3, crossmodal=False)
    expected = ClipLoss()(student.image[0], student.text[0], student.logit_scale)
    terms = clip_loss(student.image[:1], student.text[:1], student.logit_scale)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert [*terms] == ["clip"]
    with pytest.raises(AttributeError, match="no term 'distill', only clip"):
        _ = terms.distill


def test_cosmos_without_local_texts_has_two_captions():
    student, teacher = random_features(8, 2), random_features(2, 2, crossmodal=False, seed=1)
    terms = CosmosMethod(local_texts=False).loss(student, teacher, gather_locally)
    clip = mean_of_pairs(student.image[:2], student.text, student.logit_scale)
    distill = mean_distillation(student, teacher)
    assert terms.clip.item() == pytest.approx(clip, rel=1e-12)
    assert terms.distill.item() == pytest.approx(distill, rel=1e-12)


def test_cosmos_without_distillation_is_clip_over_views():
    method, student = CosmosMethod(distillation=False), random_features(2, 8, crossmodal=False)
    terms = method.loss(student, None, gather_locally)
    clip = mean_of_pairs(student.image, student.text, student.logit_scale)
    assert terms.total.item() == pytest.approx(clip, rel=1e-12)


def test_distillation_of_images_only_compares_images_with_the_teachers_images():
    student, teacher = random_features(8, 8), random_features(2, 2, crossmodal=False, seed=1)
    method = CosmosMethod(distill_images_only=True)
    terms = method.loss(student, teacher, gather_locally)
    clip = mean_of_pairs(student.image[:2], student.text, student.logit_scale)
    distill = mean_of_pairs(student.image_crossmodal, teacher.image, student.distill_logit_scale)
    assert terms.clip.item() == pytest.approx(clip, rel=1e-12)
    assert terms.distill.item() == pytest.approx(distill, rel=1e-12)
    assert [*terms] == [*method.terms]


@pytest.mark.parametrize("loss", [cosmos_loss, losses.image_distillation_loss])
def test_distillation_refuses_features_without_cross_attention(loss):
    with pytest.raises(ValueError, match="cross-modal"):
        loss(random_features(8, 8, crossmodal=False), random_features(2, 2))
    student = random_features(8, 8)._replace(distill_logit_scale=None)
    with pytest.raises(ValueError, match="distill_logit_scale"):
        loss(student, random_features(2, 2))


def terms_and_gradients(student, teacher):
    """Return the terms of the COSMOS loss, and the gradients of three times their sum."""
    leaves = Features(*(field.clone().requires_grad_() for field in student))
    terms = cosmos_loss(leaves, teacher)
    (3 * terms.total).backward()
    return [*terms.values(), *(leaf.grad for leaf in leaves)]


def test_a_loss_in_chunks_equals_the_whole_one_and_its_gradient(monkeypatch):
    student, teacher = random_features(8, 8), random_features(2, 2, crossmodal=False, seed=1)
    expected = terms_and_gradients(student, teacher)
    monkeypatch.setattr(losses, "WHOLE", 0)
    monkeypatch.setattr(losses, "CHUNK", 200)  # one or two of the four columns at a time
    chunked = terms_and_gradients(student, teacher)
    for tensor, expected_tensor in zip(chunked, expected, strict=True):
        assert torch.allclose(expected_tensor, tensor, rtol=1e-12, atol=1e-14)


def test_a_large_loss_needs_features_that_were_gathered(monkeypatch):
    monkeypatch.setattr(losses, "WHOLE", 0)
    features = Gathered(torch.eye(2)[None], torch.eye(2)[None], 0)
    with pytest.raises(TypeError, match="features that a Gather returned"):
        contrastive_loss(features, features, torch.tensor(1.0))
