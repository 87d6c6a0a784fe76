"""Training methods: the interface, the views and heads of each method, and a method of a user."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from open_clip import ClipLoss
from support.training import (
    ABLATIONS,
    ARCHITECTURE,
    METHODS,
    SINGLE_PROCESS,
    step,
    tiny_config,
    tiny_views,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core import create_teacher, update_teacher
from cosmos_core import methods as package
from cosmos_core.engine.build import make_training
from cosmos_core.engine.flops import sample_flops
from cosmos_core.losses import contrastive_loss, gather_locally
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.model.clip import HEAD, PrototypeHead
from cosmos_core.types import LossTerms, ViewCounts


class ToyFeatures(NamedTuple):
    """`image` and `text` (1, B, 4), L2-normalised, and a scale."""

    image: Tensor
    text: Tensor
    scale: Tensor


class ToyModel(nn.Module):
    """A mean colour and a bag of words."""

    def __init__(self) -> None:
        super().__init__()
        self.color, self.words = nn.Linear(3, 4), nn.Embedding(20, 4)
        self.logit_scale = nn.Parameter(torch.zeros(()))


@dataclass(frozen=True, kw_only=True)
class ToyMethod:
    """A new method, which has only what the interface requires."""

    name: str = "toy"
    counts = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)
    terms = ("clip",)

    def create_student(self, architecture):
        return ToyModel()

    def student_features(self, student, views):
        image = student.color(views.global_images.mean(dim=(-2, -1)))
        text = student.words(views.texts).mean(dim=2)
        scale = student.logit_scale.exp()
        return ToyFeatures(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale)

    def teacher_features(self, teacher, views):
        return None

    def loss(self, student, teacher, gather):
        images, texts = gather([student.image, student.text])
        return LossTerms(clip=contrastive_loss(images, texts, student.scale))


@pytest.mark.parametrize("n_chunks", [1, 2])
def test_a_new_method_is_trained(n_chunks):
    config = tiny_config(ToyMethod(), lr=0.05, accumulate=n_chunks)
    training = make_training(config, SINGLE_PROCESS)
    views = tiny_views(training.method)
    losses = [step(training, views, n_chunks=n_chunks).terms["clip"] for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_method_is_a_file_under_120_lines():
    files = list(Path(package.__file__).parent.glob("*.py"))
    assert len(files) > len(METHODS)
    assert all(len(file.read_text().splitlines()) < 120 for file in files)
    assert len(inspect.getsource(ToyMethod).splitlines()) < 120


def test_a_method_has_the_name_under_which_it_is_registered():
    names = {registered: method().name for registered, method in package.METHODS.items()}
    assert names == {name: name for name in METHODS}


@pytest.mark.parametrize(
    # Global images, whether there are local images, global texts, whether there are local texts.
    ("name", "counts"),
    [
        ("clip", ViewCounts(1, False, 1, False)),
        ("slip", ViewCounts(2, False, 1, False)),
        ("silc", ViewCounts(2, True, 1, False)),
        ("cosmos", ViewCounts(2, True, 2, True)),
        ("siglip", ViewCounts(1, False, 1, False)),
        ("flair", ViewCounts(1, False, 3, False)),
        ("without local texts", ViewCounts(2, True, 2, False)),
        ("without cross-attention", ViewCounts(2, True, 2, True)),
        ("without distillation", ViewCounts(2, False, 2, True)),
        ("distilling images only", ViewCounts(2, True, 2, True)),
    ],
)
def test_a_method_requests_the_views_that_have_a_gradient(name, counts):
    method = {**METHODS, **ABLATIONS}[name]
    assert method.counts == counts
    model, views = method.create_student(ARCHITECTURE), tiny_views(method)
    for images in (views.global_images, views.local_images):
        images.requires_grad_()
    student = method.student_features(model, views)
    teacher = method.teacher_features(model, views)
    terms = method.loss(student, teacher, gather_locally)
    terms.total.backward()
    for images in (views.global_images, views.local_images):
        assert images.numel() == 0 or images.grad.abs().amax(dim=(1, 2, 3, 4)).min() > 0


def test_without_cross_attention_the_plain_features_are_distilled():
    method = CosmosMethod(cross_attention=False)
    model, views = method.create_student(ARCHITECTURE), tiny_views(method)
    features = method.student_features(model, views)
    assert torch.equal(features.image_crossmodal, features.image)
    assert torch.equal(features.text_crossmodal, features.text)
    features_with_cross_attention = model.encode_views(views)
    assert torch.equal(features.image, features_with_cross_attention.image)
    assert not torch.equal(features.image, features_with_cross_attention.image_crossmodal)


@pytest.mark.parametrize("name", ["silc", "cosmos"])
def test_features_of_the_teacher_have_no_gradient(name):
    method = METHODS[name]
    # The parameters of a student have gradients, which the method itself must stop.
    student = method.create_student(ARCHITECTURE)
    for features in method.teacher_features(student, tiny_views(method)):
        assert features is None or not features.requires_grad


def test_logits_of_prototypes_are_cosines_with_the_bottleneck():
    torch.manual_seed(0)
    head = PrototypeHead(embed_dim=8, hidden_dim=16, bottleneck_dim=6, n_prototypes=10)
    bottleneck = head.mlp(torch.zeros(8))
    expected = [
        F.cosine_similarity(bottleneck, prototype, dim=0).item() for prototype in head.prototypes
    ]
    assert head(torch.zeros(8)).tolist() == pytest.approx(expected, abs=1e-6)
    assert head(torch.randn(2, 3, 8)).shape == (2, 3, 10)


def test_the_head_of_the_teacher_is_averaged_except_its_center():
    method = METHODS["silc"]
    student = method.create_student(ARCHITECTURE)
    teacher = create_teacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
        student.head.center.add_(1.0)
        teacher.head.center.add_(5.0)
    former_state = {key: value.clone() for key, value in teacher.state_dict().items()}
    update_teacher(teacher, student, 0.75)
    assert torch.equal(teacher.head.center, former_state["head.center"])
    # A quarter of the difference of 1.
    for key in ("head.prototypes", "head.mlp.0.weight", "head.mlp.4.bias"):
        assert torch.allclose(teacher.state_dict()[key], former_state[key] + 0.25)


def test_a_step_moves_the_center_of_only_the_teacher():
    method = METHODS["silc"]
    training, views = make_training(tiny_config(method), SINGLE_PROCESS), tiny_views(method)
    with torch.no_grad():
        images = views.global_images.flatten(0, 1)
        features = training.teacher.encode_image(images, normalize=True)
        mean_logits = training.teacher.get_submodule(HEAD)(features).mean(dim=0)
    step(training, views)
    # The center begins at 0, and its moving average has a momentum of 0.9.
    assert torch.allclose(training.teacher.head.center, 0.1 * mean_logits, atol=1e-6)
    assert not training.model.head.center.any()


def test_slip_with_a_view_for_captions_is_clip_of_it_and_simclr_of_the_others():
    method = METHODS["slip"]
    student = method.create_student(ARCHITECTURE).eval()
    views = tiny_views(method)
    caption_view = torch.randn_like(views.global_images[:1])
    images = torch.cat([caption_view, views.global_images])
    features = method.student_features(student, views._replace(global_images=images))
    assert (len(features.image), len(features.text), len(features.head)) == (1, 1, 2)
    expected_image = student.encode_image(caption_view[0], normalize=True)
    torch.testing.assert_close(features.image[0], expected_image)

    features_without_caption_view = method.student_features(student, views)
    torch.testing.assert_close(features.head, features_without_caption_view.head)
    assert len(features_without_caption_view.image) == 2

    terms = method.loss(features, None, gather_locally)
    gathered_image, gathered_text = gather_locally([features.image, features.text])
    expected_clip = contrastive_loss(gathered_image, gathered_text, features.logit_scale)
    assert terms.clip.item() == pytest.approx(expected_clip.item())
    expected_terms = method.loss(features_without_caption_view, None, gather_locally)
    torch.testing.assert_close(terms.simclr, expected_terms.simclr)


@pytest.mark.parametrize("cross_attention", [True, False])
def test_one_view_of_the_teacher_is_the_target_of_all_views_of_the_student(cross_attention):
    """The expected loss is a loop over OpenCLIP's.

    The teacher encodes the first image and the first caption.
    """
    method = CosmosMethod(teacher_views=1, cross_attention=cross_attention)
    views = tiny_views(method)
    training = make_training(tiny_config(method), SINGLE_PROCESS)
    with torch.no_grad():
        for parameter in training.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        student = method.student_features(training.model, views)
        teacher = method.teacher_features(training.teacher, views)
        first_image = training.teacher.encode_image(views.global_images[0], normalize=True)
        first_text = training.teacher.encode_text(views.texts[0], normalize=True)
    assert (teacher.image.shape[0], teacher.text.shape[0]) == (1, 1)
    mean_losses = []
    for student_views in (student.image_crossmodal, student.text_crossmodal):
        for target in (first_image, first_text):
            scale = student.distill_logit_scale
            losses = [ClipLoss()(student_view, target, scale) for student_view in student_views]
            mean_losses.append(sum(losses) / len(losses))
    expected = sum(mean_losses) / 4
    terms = method.loss(student, teacher, gather_locally)
    assert terms.distill.item() == pytest.approx(expected.item(), rel=1e-5)

    published_method = CosmosMethod(cross_attention=cross_attention)  # two views of the teacher
    published_teacher = published_method.teacher_features(training.teacher, views)
    published_terms = published_method.loss(student, published_teacher, gather_locally)
    assert terms.clip == published_terms.clip
    assert terms.distill != published_terms.distill


def test_one_view_halves_the_cost_of_the_teacher():
    def flops_per_sample(teacher_views):
        method = CosmosMethod(teacher_views=teacher_views)
        return sample_flops(tiny_config(method), tiny_views(method))

    saved_flops = flops_per_sample(2) - flops_per_sample(1)
    model = CosmosMethod().create_student(ARCHITECTURE)
    views = tiny_views(CosmosMethod())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        CosmosMethod().teacher_features(model, views)
    teacher_flops = counter.get_total_flops() / 8  # of 8 samples
    # It is not exactly a half, as captions have several lengths.
    assert saved_flops / teacher_flops == pytest.approx(0.5, abs=0.05)
