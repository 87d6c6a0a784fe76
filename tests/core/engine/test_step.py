"""A training step: the order of its updates, the limits of scales, and losses that are refused."""

import math

import pytest
import torch
from support.training import METHODS, SINGLE_PROCESS, step, tiny_config, tiny_views

from cosmos_core import Views
from cosmos_core.engine.build import make_training
from cosmos_core.engine.step import normalise
from cosmos_core.losses import gather_locally

METHOD = METHODS["cosmos"]


def start():
    return make_training(tiny_config(METHOD), SINGLE_PROCESS)


def test_normalise_by_hand():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 1, 2).expand(1, 1, 3, 1, 2)
    views = Views(images, images[:0], torch.zeros(1, 1, 1))
    mean, std = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.25, 0.5, 1.0])
    normalised = normalise(views, mean, std)
    assert normalised.global_images[0, 0, :, 0].tolist() == [[-2, 2], [-1, 1], [-0.5, 0.5]]


def test_the_teacher_moves_towards_the_student_before_the_optimizer_step():
    training = start()
    student, teacher = training.model, training.teacher
    with torch.no_grad():
        student.visual.proj.add_(1.0)
    student_before = student.visual.proj.detach().clone()
    teacher_before = teacher.visual.proj.clone()
    step(training, tiny_views(METHOD), momentum=0.5)
    assert torch.allclose(teacher.visual.proj, (student_before + teacher_before) / 2)
    assert not torch.equal(student.visual.proj, student_before)


@pytest.mark.parametrize("name", ["clip", "siglip", "slip", "flair"])
def test_the_teacher_of_a_method_without_one_is_an_exponential_moving_average(name):
    """The average of arXiv 1703.01780 in closed form, which costs no forward pass.

    After k steps with momentum m it is m^k w_0 + (1 - m) sum m^(k - 1 - i) w_i, with the student's
    weights w_i before step i.
    """
    method, momentum = METHODS[name], 0.75
    training = make_training(tiny_config(method, lr=0.01), SINGLE_PROCESS)
    teacher = training.teacher

    def refuse_call(module, inputs):
        pytest.fail("the teacher is called")

    for module in (teacher, teacher.visual.conv1, teacher.token_embedding):
        module.register_forward_pre_hook(refuse_call)
    student_weights = []  # before each step
    for number in range(4):
        weights = training.model.state_dict()
        student_weights.append({key: value.clone() for key, value in weights.items()})
        step(training, tiny_views(method, seed=number), momentum=momentum)
    teacher_weights = teacher.state_dict()
    for key, first_value in student_weights[0].items():
        expected = momentum**4 * first_value
        for number in range(4):
            expected += (1 - momentum) * momentum ** (3 - number) * student_weights[number][key]
        assert torch.allclose(teacher_weights[key], expected, rtol=1e-5, atol=1e-6), key
    projection, first_projection = teacher_weights["visual.proj"], student_weights[0]["visual.proj"]
    assert not torch.allclose(projection, first_projection, atol=1e-3)


def test_logit_scales_are_clamped():
    training = start()
    with torch.no_grad():
        for model in (training.model, training.teacher):
            model.logit_scale.fill_(7.0)
            model.distill_logit_scale.fill_(-1.0)
    step(training, tiny_views(METHOD))
    for model in (training.model, training.teacher):
        assert model.logit_scale.item() == pytest.approx(math.log(100))
        assert model.distill_logit_scale.item() == 0


@pytest.mark.parametrize("n_chunks", [1, 2])
def test_a_loss_that_is_not_finite_is_named(n_chunks):
    training, views = start(), tiny_views(METHOD)
    views.global_images[0, 0] = float("nan")
    report = step(training, views, n_chunks=n_chunks)
    with pytest.raises(FloatingPointError, match="the clip loss is nan"):
        report.check()


def test_the_report_is_the_loss_before_the_step():
    training, views = start(), tiny_views(METHOD)
    with torch.no_grad():
        student = METHOD.student_features(training.model, views)
        teacher = METHOD.teacher_features(training.teacher, views)
        terms = METHOD.loss(student, teacher, gather_locally)
    report = step(training, views)
    assert report.terms["clip"] == pytest.approx(terms.clip.item(), rel=1e-5)
    assert report.terms["distill"] == pytest.approx(terms.distill.item(), rel=1e-5)
    assert [*report.terms] == ["clip", "distill"]
