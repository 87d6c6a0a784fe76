"""The plain transcription of a step, which the benchmark holds ours against, is the same step."""

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


@pytest.fixture
def plain():
    config = json.loads((PARITY / "model_config.json").read_text())
    options = {name: SETTINGS[name] for name in ("lr", "weight_decay")}
    step = plain_module().PlainStep(config, **options)
    for name, model in (("student", step.student), ("teacher", step.teacher)):
        loaded = cosmos_core.load_model(PARITY / "checkpoint.pt", config, name)
        model.load_state_dict(loaded.state_dict())
    return step


@pytest.fixture
def ours():
    student, teacher = (
        cosmos_core.load_model(PARITY / "checkpoint.pt", PARITY / "model_config.json", name)
        for name in ("student", "teacher")
    )
    method, scaler = METHODS["cosmos"](), torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.AdamW(
        cosmos_core.param_groups(student, SETTINGS["weight_decay"]),
        lr=SETTINGS["lr"],
        betas=(SETTINGS["beta1"], SETTINGS["beta2"]),
        eps=SETTINGS["eps"],
    )
    teacher.requires_grad_(False)
    averaged = TeacherEncoder(method, teacher)
    own = StudentEncoder(method, student)
    return Training(method, student, own, teacher, averaged, optimizer, scaler, method.loss)


def test_it_meets_the_records_of_the_published_implementation(plain, recorded_views):
    for kept in RECORDS["loss_per_step"]:
        clip, distill = plain.step(*recorded_views, SETTINGS["momentum"])
        assert clip == pytest.approx(kept["clip_loss"], rel=1e-5)
        assert distill == pytest.approx(kept["distill_loss"], rel=1e-5)


def test_its_gradients_and_weights_are_ours(plain, ours, recorded_views):
    clip, distill = plain.step(*recorded_views, SETTINGS["momentum"])
    report = train_step(ours, recorded_views, gather_locally, momentum=SETTINGS["momentum"])
    assert report.terms["clip"] == pytest.approx(clip, rel=1e-6)
    assert report.terms["distill"] == pytest.approx(distill, rel=1e-6)
    mine = dict(ours.model.named_parameters())
    for name, parameter in plain.student.named_parameters():
        if parameter.grad is None:
            assert mine[name].grad is None, name
            continue
        difference = (mine[name].grad - parameter.grad).norm()
        assert difference <= 1e-5 * max(parameter.grad.norm(), 1e-3), name
    teacher = dict(ours.teacher.named_parameters())
    for name, parameter in plain.teacher.named_parameters():
        torch.testing.assert_close(teacher[name], parameter, rtol=1e-6, atol=1e-7)
