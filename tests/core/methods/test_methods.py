"""Training methods: their interface, their views and heads, and a new one."""

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
    """What an addition to the package would be: it fits the interface and nothing else."""

    name: str = "toy"
    counts = ViewCounts(global_images=1, local_images=False, global_texts=1, local_texts=False)
    terms = ("clip",)

    def create_student(self, architecture):
        return ToyModel()

    def student_features(self, student, views):
        return ToyFeatures(
            F.normalize(student.color(views.global_images.mean(dim=(-2, -1))), dim=-1),
            F.normalize(student.words(views.texts).mean(dim=2), dim=-1),
            student.logit_scale.exp(),
        )

    def teacher_features(self, teacher, views):
        return None

    def loss(self, student, teacher, gather):
        images, texts = gather([student.image, student.text])
        return LossTerms(clip=contrastive_loss(images, texts, student.scale))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_new_method_is_trained(parts):
    training = make_training(tiny_config(ToyMethod(), lr=0.05, accumulate=parts), SINGLE_PROCESS)
    views = tiny_views(training.method)
    losses = [step(training, views, n_chunks=parts).terms["clip"] for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_method_is_a_file_under_120_lines():
    files = list(Path(package.__file__).parent.glob("*.py"))
    assert len(files) > len(METHODS)
    assert all(len(file.read_text().splitlines()) < 120 for file in files)
    assert len(inspect.getsource(ToyMethod).splitlines()) < 120


def test_every_method_has_its_name():
    assert {name: make().name for name, make in package.METHODS.items()} == {
        name: name for name in METHODS
    }


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("clip", (1, False, 1, False)),
        ("slip", (2, False, 1, False)),
        ("silc", (2, True, 1, False)),
        ("cosmos", (2, True, 2, True)),
        ("siglip", (1, False, 1, False)),
        ("flair", (1, False, 3, False)),
        ("without local texts", (2, True, 2, False)),
        ("without cross-attention", (2, True, 2, True)),
        ("without distillation", (2, False, 2, True)),
        ("distilling images only", (2, True, 2, True)),
    ],
)
def test_a_method_asks_for_the_views_it_looks_at(name, counts):
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


def test_without_cross_attention_the_own_features_are_distilled():
    method = CosmosMethod(cross_attention=False)
    model, views = method.create_student(ARCHITECTURE), tiny_views(method)
    features = method.student_features(model, views)
    assert torch.equal(features.image_crossmodal, features.image)
    assert torch.equal(features.text_crossmodal, features.text)
    whole = model.encode_views(views)
    assert torch.equal(features.image, whole.image)
    assert not torch.equal(features.image, whole.image_crossmodal)


@pytest.mark.parametrize("name", ["silc", "cosmos"])
def test_teachers_features_carry_no_gradient(name):
    method = METHODS[name]
    model = method.create_student(ARCHITECTURE)  # with gradients: the method itself must stop them
    for field in method.teacher_features(model, tiny_views(method)):
        assert field is None or not field.requires_grad


def test_prototypes_and_bottleneck_have_unit_length():
    torch.manual_seed(0)
    head = PrototypeHead(embed_dim=8, hidden_dim=16, bottleneck_dim=6, n_prototypes=10)
    logits = head(torch.randn(2, 3, 8))
    inner, prototypes = head.mlp(torch.zeros(8)), head.prototypes
    expected = [F.cosine_similarity(inner, prototype, dim=0).item() for prototype in prototypes]
    assert head(torch.zeros(8)).tolist() == pytest.approx(expected, abs=1e-6)
    assert logits.shape == (2, 3, 10)


def test_the_teachers_head_is_averaged_and_its_center_is_its_own():
    method = METHODS["silc"]
    student = method.create_student(ARCHITECTURE)
    teacher = create_teacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
        student.head.center.add_(1.0)
        teacher.head.center.add_(5.0)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    update_teacher(teacher, student, 0.75)
    assert torch.equal(teacher.head.center, before["head.center"])
    for key in ("head.prototypes", "head.mlp.0.weight", "head.mlp.4.bias"):
        assert torch.allclose(teacher.state_dict()[key], before[key] + 0.25)


def test_a_step_moves_the_teachers_center_alone():
    method = METHODS["silc"]
    training, views = make_training(tiny_config(method), SINGLE_PROCESS), tiny_views(method)
    with torch.no_grad():
        image = training.teacher.encode_image(views.global_images.flatten(0, 1), normalize=True)
        mean = training.teacher.get_submodule(HEAD)(image).mean(dim=0)
    step(training, views)
    assert torch.allclose(training.teacher.head.center, 0.1 * mean, atol=1e-6)
    assert not training.model.head.center.any()


def test_slip_with_a_view_for_captions_is_clip_of_it_and_simclr_of_the_others():
    method = METHODS["slip"]
    student = method.create_student(ARCHITECTURE).eval()
    views = tiny_views(method)
    caption = torch.randn_like(views.global_images[:1])
    images = torch.cat([caption, views.global_images])
    features = method.student_features(student, views._replace(global_images=images))
    assert (len(features.image), len(features.text), len(features.head)) == (1, 1, 2)
    alone = student.encode_image(caption[0], normalize=True)
    torch.testing.assert_close(features.image[0], alone)
    both = method.student_features(student, views)
    torch.testing.assert_close(features.head, both.head)
    assert len(both.image) == 2
    terms = method.loss(features, None, gather_locally)
    assert terms.clip.item() == pytest.approx(
        contrastive_loss(
            *gather_locally([features.image, features.text]), features.logit_scale
        ).item()
    )
    torch.testing.assert_close(terms.simclr, method.loss(both, None, gather_locally).simclr)


@pytest.mark.parametrize("cross_attention", [True, False])
def test_one_view_of_the_teacher_is_the_target_of_all_views_of_the_student(cross_attention):
    """A loop over OpenCLIP's loss: the teacher encodes the first image and the first caption."""
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
    expected = []
    for own_views in (student.image_crossmodal, student.text_crossmodal):
        for target in (first_image, first_text):
            pairs = [ClipLoss()(own, target, student.distill_logit_scale) for own in own_views]
            expected.append(sum(pairs) / len(pairs))
    terms = method.loss(student, teacher, gather_locally)
    assert terms.distill.item() == pytest.approx((sum(expected) / 4).item(), rel=1e-5)
    both = CosmosMethod(cross_attention=cross_attention)
    published = both.loss(student, both.teacher_features(training.teacher, views), gather_locally)
    assert terms.clip == published.clip
    assert terms.distill != published.distill


def test_one_view_halves_the_teachers_cost():
    flops = {}
    for n_views in (1, 2):
        method = CosmosMethod(teacher_views=n_views)
        flops[n_views] = sample_flops(tiny_config(method), tiny_views(method))
    model = CosmosMethod().create_student(ARCHITECTURE)
    views = tiny_views(CosmosMethod())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        CosmosMethod().teacher_features(model, views)
    saved = (flops[2] - flops[1]) / (counter.get_total_flops() / 8)
    assert saved == pytest.approx(0.5, abs=0.05)  # captions have other lengths
