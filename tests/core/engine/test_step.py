"""One step: its order, its clamping, and what it refuses."""

import math

import pytest
import torch

import cosmos_core
from cosmos_core.engine.step import normalise, train_step

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


def parts(method):
    torch.manual_seed(0)
    student = cosmos_core.create_model(CONFIG, method)
    teacher = cosmos_core.create_teacher(student)
    optimizer = torch.optim.AdamW(cosmos_core.param_groups(student, 0.1), lr=1e-3)
    return student, teacher, optimizer


def test_normalise_by_hand():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 1, 2).expand(1, 1, 3, 1, 2)
    raw = cosmos_core.Views(images, images[:0], torch.zeros(1, 1, 1))
    done = normalise(raw, torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.25, 0.5, 1.0]))
    assert done.global_images[0, 0, :, 0].tolist() == [[-2, 2], [-1, 1], [-0.5, 0.5]]


@pytest.mark.parametrize("method", ["cosmos", "clip"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_is_learned(method, precision):
    student, teacher, optimizer = parts(method)
    batch = views()
    losses = [
        train_step(
            student, teacher, optimizer, batch, momentum=0.9, precision=precision
        ).total.item()
        for _ in range(30)
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_teacher_moves_towards_the_student_before_the_optimizer():
    student, teacher, optimizer = parts("cosmos")
    start = student.visual.proj.detach().clone()
    train_step(student, teacher, optimizer, views(), momentum=0.5, precision="fp32")
    assert torch.equal(teacher.visual.proj, start * 0.5 + start * 0.5)  # student had not moved yet
    assert not torch.equal(student.visual.proj, start)


def test_scales_are_clamped():
    student, teacher, optimizer = parts("cosmos")
    with torch.no_grad():
        student.logit_scale.fill_(7.0)
    train_step(student, teacher, optimizer, views(), momentum=0.5, precision="fp32")
    assert student.logit_scale.item() == pytest.approx(math.log(100))


def test_a_loss_that_is_not_finite_changes_nothing():
    student, teacher, optimizer = parts("cosmos")
    broken = views()
    broken.global_images[0, 0] = float("nan")
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with pytest.raises(FloatingPointError, match="the clip loss is nan"):
        train_step(student, teacher, optimizer, broken, momentum=0.5, precision="fp32")
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
