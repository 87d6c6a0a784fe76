"""Workers for tests of processes that train together. Each returns the values to compare."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
import torch.distributed as dist
from open_clip import ClipLoss
from open_clip.loss import SigLipLoss
from support.training import (
    METHODS,
    SINGLE_PROCESS,
    Recorder,
    double_precision,
    gradients,
    share,
    tiny_config,
    tiny_views,
)
from torch import Tensor, nn

from cosmos_core import losses
from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import World, make_gather
from cosmos_core.engine.step import StepReport, train_step
from cosmos_core.losses import sigmoid_loss
from cosmos_core.types import Features, Method


class Case(NamedTuple):
    """A kind of step."""

    method: str
    gradient: str = "true"
    # The number of chunks of a batch that gradients are accumulated over.
    parts: int = 1
    checkpointing: bool = False


class Stepped(NamedTuple):
    """One step in float64: what was reported, the gradient, the weights, and the collectives."""

    report: StepReport
    gradients: dict[str, Tensor]
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    collectives: Counter[str]


def one_step(world: World, case: Case) -> Stepped:
    """Return the outcome of the first step on this process's share of the tiny batch."""
    method = METHODS[case.method]
    with double_precision():
        config = tiny_config(
            method,
            gradient=case.gradient,
            accumulate=case.parts,
            checkpointing=case.checkpointing,
        )
        training, views = make_training(config, world), share(tiny_views(method), world)
        gather = make_gather(world, case.gradient)
        with Recorder() as recorder:
            report = train_step(training, views, gather, momentum=0.9, n_chunks=case.parts)
        states = (dict(model.state_dict()) for model in (training.model, training.teacher))
        return Stepped(report, gradients(training.model), *states, recorder.collectives)


def many_first_steps(world: World, cases: list[Case]) -> dict[Case, Stepped]:
    """`one_step` of each case."""
    return {case: one_step(world, case) for case in cases}


def chunked_steps(world: World, cases: list[Case]) -> dict[Case, Stepped]:
    """`one_step` of each case with the loss in chunks of one or two columns."""
    losses.WHOLE, losses.CHUNK = 0, 64
    return many_first_steps(world, cases)


def narrow_gather(world: World) -> tuple[Tensor, Tensor]:
    """Return the features of all processes, and the gradient of the features of this process.

    The differentiated value is twice the sum of all features, summed over processes.
    """
    features = torch.linspace(0, 1, 24).reshape(2, 3, 4).add(world.rank).requires_grad_()
    (gathered,) = make_gather(world, "true", narrow=True)([features])
    gathered.everywhere.float().mul(2).sum().backward()
    return gathered.everywhere, features.grad


def three_steps(world: World, methods: list[Method]) -> list[list[float]]:
    """Return the losses of three steps of each method. Parameters without a gradient would stop the
    second step."""
    losses = []
    for method in methods:
        training = make_training(tiny_config(method), world)
        views = share(tiny_views(method), world)
        gather = make_gather(world, "true")
        reports = [train_step(training, views, gather, momentum=0.9) for _ in range(3)]
        losses.append([sum(report.terms.values()) for report in reports])
    return losses


def published_gradients(world: World, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Return the gradients of methods, computed as the released models were trained.

    Features are gathered without gradients, and those of this process are put in their place. Every
    process computes the whole loss, and gradients are averaged.
    """
    gradients_by_method = {}
    for name in names:
        method = METHODS[name]
        with double_precision():
            training = make_training(tiny_config(method), SINGLE_PROCESS)
            views = share(tiny_views(method), world)
            student = method.student_features(training.model, views)
            teacher = method.teacher_features(training.teacher, views)
            _published_loss(world, student, teacher).backward()
        for parameter in training.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.world_size
        gradients_by_method[name] = gradients(training.model)
    return gradients_by_method


def loss_elements(world: World, samples: int) -> tuple[int, int]:
    """Elements of all tensors made by the COSMOS loss, forward and backward, with `samples` a
    process: ours, and of the transcription that computes the whole loss in every process."""
    method = METHODS["cosmos"]
    training = make_training(tiny_config(method), SINGLE_PROCESS)
    views = tiny_views(method, samples, seed=world.rank)
    with torch.no_grad():
        student = method.student_features(training.model, views)
        teacher = method.teacher_features(training.teacher, views)
    student = Features(*(field.requires_grad_() for field in student))
    with Recorder() as ours:
        method.loss(student, teacher, make_gather(world, "true")).total.backward()
    with Recorder() as plain:
        _published_loss(world, student, teacher).backward()
    return ours.elements, plain.elements


def _published_loss(world: World, student, teacher) -> Tensor:
    def everyone(tensor: Tensor) -> Tensor:
        gathered = [torch.empty_like(tensor) for _ in range(world.world_size)]
        dist.all_gather(gathered, tensor.detach().contiguous())
        gathered[world.rank] = tensor
        return torch.cat(gathered, dim=1)

    pair = ClipLoss()
    image, text = everyone(student.image), everyone(student.text)
    if teacher is None:
        return pair(image[0], text[0], student.logit_scale)
    total = sum(
        pair(image[v], text[t], student.logit_scale) / 2 / len(text)
        for v in range(2)
        for t in range(len(text))
    )
    for crossmodal in (everyone(student.image_crossmodal), everyone(student.text_crossmodal)):
        for target in (everyone(teacher.image), everyone(teacher.text)):
            for v in range(len(crossmodal)):
                for u in range(2):
                    loss = pair(crossmodal[v], target[u], student.distill_logit_scale)
                    total = total + loss / len(crossmodal) / 2 / 4
    return total


def siglip_gradients(world: World, samples: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the loss and gradients of SigLIP in this process, which has some samples: by this
    package, and by OpenCLIP."""

    def loss_and_gradients(by_openclip: bool) -> list[Tensor]:
        torch.manual_seed(world.rank)
        draws = (torch.randn(1, samples, 5, dtype=torch.float64) for _ in range(2))
        image, text = (nn.functional.normalize(d, dim=-1).requires_grad_() for d in draws)
        scale, bias = (torch.tensor(v, dtype=torch.float64).requires_grad_() for v in (9.0, -3.0))
        if by_openclip:
            openclip_loss = SigLipLoss(rank=world.rank, world_size=world.world_size)
            loss = openclip_loss(image[0], text[0], scale, bias)
        else:
            (texts,) = make_gather(world, "true")([text])
            loss = sigmoid_loss(image[0], texts, scale, bias)
        loss.backward()
        return [loss.detach(), image.grad, text.grad, scale.grad, bias.grad]

    return loss_and_gradients(by_openclip=False), loss_and_gradients(by_openclip=True)


def meet(world: World) -> list[tuple[int, str]]:
    """Objects of all processes."""
    return world.gather((world.rank, f"process {world.rank}"))


def one_bad_process_is_skipped(world: World, bad: int) -> tuple[int, ...]:
    """How many steps of SILC are skipped, where one process has an infinite local image, and
    whether the weights stay in it and move in the next step, which is the second bad one."""
    method = METHODS["silc"]
    training = make_training(tiny_config(method), world)
    training.skipped_steps.limit = 1
    views = share(tiny_views(method), world)
    if world.rank == bad:
        views.local_images[0, 0, 0, 0, 0] = torch.inf
    weight, stays = training.model.get_parameter("visual.proj"), []
    for _ in range(2):
        before = weight.detach().clone()
        report = train_step(training, views, make_gather(world, "true"), momentum=0.9)
        stays.append(torch.equal(weight, before))
        assert report.is_skipped == stays[-1]
    return training.skipped_steps.count, *stays


def one_bad_process(world: World, bad: int) -> str:
    """Return the error of a step of SILC if one process has an infinite local image."""
    method = METHODS["silc"]
    training = make_training(tiny_config(method), world)
    views = share(tiny_views(method), world)
    if world.rank == bad:
        views.local_images[0, 0, 0, 0, 0] = torch.inf
    try:
        train_step(training, views, make_gather(world, "true"), momentum=0.9).check()
    except FloatingPointError as error:
        return str(error)
    raise AssertionError("the step went on")
