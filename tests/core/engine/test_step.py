"""One step: its order, its clamping, and what it refuses."""

import math

import pytest
import torch

import cosmos_core
from cosmos_core import Views
from cosmos_core.engine.step import Student, Training, normalise, train_step
from cosmos_core.losses import gather_locally
from cosmos_core.methods import METHODS

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def images(count, size):
        shape = (count, 4, 3, size, size)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    texts = torch.randint(1, 18, (8, 4, 8), generator=generator)
    texts[..., 5] = 19
    texts[..., 6:] = 0
    raw = cosmos_core.Views(images(2, 32), images(6, 16), texts)
    return normalise(raw, torch.full((3,), 0.5), torch.full((3,), 0.25))


def start(method):
    """A training of the tiny model at its beginning."""
    torch.manual_seed(0)
    method = METHODS[method]()
    model = method.create_student(CONFIG)
    return Training(
        method,
        model,
        Student(method, model),
        cosmos_core.create_teacher(model),
        torch.optim.AdamW(cosmos_core.param_groups(model, 0.1), lr=1e-3),
        torch.amp.GradScaler("cpu", enabled=False),
    )


def test_normalise_by_hand():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 1, 2).expand(1, 1, 3, 1, 2)
    raw = cosmos_core.Views(images, images[:0], torch.zeros(1, 1, 1))
    done = normalise(raw, torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.25, 0.5, 1.0]))
    assert done.global_images[0, 0, :, 0].tolist() == [[-2, 2], [-1, 1], [-0.5, 0.5]]


@pytest.mark.parametrize("method", ["cosmos", "clip"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_is_learned(method, precision):
    training, batch = start(method), views()
    if method == "clip":
        batch = Views(batch.global_images[:1], batch.local_images[:0], batch.texts[:1])
    losses = [
        sum(
            train_step(
                training, batch, gather_locally, momentum=0.9, precision=precision
            ).terms.values()
        )
        for _ in range(30)
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_teacher_moves_towards_the_student_before_the_optimizer():
    training = start("cosmos")
    student, teacher = training.model, training.teacher
    before = student.visual.proj.detach().clone()
    train_step(training, views(), gather_locally, momentum=0.5)
    assert torch.equal(teacher.visual.proj, before * 0.5 + before * 0.5)  # as before the step
    assert not torch.equal(student.visual.proj, before)


def test_scales_are_clamped():
    training = start("cosmos")
    with torch.no_grad():
        training.model.logit_scale.fill_(7.0)
    train_step(training, views(), gather_locally, momentum=0.5)
    assert training.model.logit_scale.item() == pytest.approx(math.log(100))


def test_a_loss_that_is_not_finite_changes_nothing():
    training, broken = start("cosmos"), views()
    broken.global_images[0, 0] = float("nan")
    before = {key: value.clone() for key, value in training.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="the clip loss is nan"):
        train_step(training, broken, gather_locally, momentum=0.5)
    after = training.model.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
