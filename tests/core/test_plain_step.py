"""The plain step of the benchmarks equals the recorded published step and this package's step."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

import cosmos_core
from cosmos_core.engine.step import StudentEncoder, TeacherEncoder, Training, train_step
from cosmos_core.losses import gather_locally
from cosmos_core.methods import METHODS

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "parity"
RECORDS = json.loads((PARITY / "training.json").read_text())
SETTINGS = RECORDS["optimizer"]


def plain_module():
    path = ROOT / "benchmarks" / "_plain_step.py"
    spec = importlib.util.spec_from_file_location("plain_step", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name):
    """Return the student or the teacher of the recorded training."""
    return cosmos_core.load_model(PARITY / "checkpoint.pt", PARITY / "model_config.json", name)


@pytest.fixture
def plain_step():
    """The plain step with its models, which are those of the recorded training."""
    config = json.loads((PARITY / "model_config.json").read_text())
    step = plain_module().PlainStep(
        config, lr=SETTINGS["lr"], weight_decay=SETTINGS["weight_decay"]
    )
    step.student.load_state_dict(load("student").state_dict())
    step.teacher.load_state_dict(load("teacher").state_dict())
    return step


@pytest.fixture
def training():
    """This package's training of the same models."""
    student, teacher = load("student"), load("teacher")
    method, scaler = METHODS["cosmos"](), torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.AdamW(
        cosmos_core.param_groups(student, SETTINGS["weight_decay"]),
        lr=SETTINGS["lr"],
        betas=(SETTINGS["beta1"], SETTINGS["beta2"]),
        eps=SETTINGS["eps"],
    )
    teacher.requires_grad_(False)
    student_encoder = StudentEncoder(method, student)
    teacher_encoder = TeacherEncoder(method, teacher)
    return Training(
        method,
        student,
        student_encoder,
        teacher,
        teacher_encoder,
        optimizer,
        scaler,
        method.loss,
    )


def test_losses_are_those_of_the_published_implementation(plain_step, recorded_views):
    for recorded_losses in RECORDS["loss_per_step"]:
        clip, distill = plain_step.step(*recorded_views, SETTINGS["momentum"])
        assert clip == pytest.approx(recorded_losses["clip_loss"], rel=1e-5)
        assert distill == pytest.approx(recorded_losses["distill_loss"], rel=1e-5)


def test_gradients_and_weights_are_those_of_this_package(plain_step, training, recorded_views):
    clip, distill = plain_step.step(*recorded_views, SETTINGS["momentum"])
    report = train_step(training, recorded_views, gather_locally, momentum=SETTINGS["momentum"])
    assert report.terms["clip"] == pytest.approx(clip, rel=1e-6)
    assert report.terms["distill"] == pytest.approx(distill, rel=1e-6)
    student = dict(training.model.named_parameters())
    for name, parameter in plain_step.student.named_parameters():
        if parameter.grad is None:
            assert student[name].grad is None, name
            continue
        difference = (student[name].grad - parameter.grad).norm()
        assert difference <= 1e-5 * max(parameter.grad.norm(), 1e-3), name
    teacher = dict(training.teacher.named_parameters())
    for name, parameter in plain_step.teacher.named_parameters():
        torch.testing.assert_close(teacher[name], parameter, rtol=1e-6, atol=1e-7)
