"""Optimizers by name: their formulas, their parameters, and what a snapshot keeps of them."""

import dataclasses
import io
import re

import pytest
import torch
from support.training import METHODS, SINGLE_PROCESS, SMALL_MODEL, tiny_config
from torch import nn
from torch.utils._pytree import tree_leaves

from cosmos_core.config import OptimConfig
from cosmos_core.engine.build import make_training, param_groups
from cosmos_core.engine.optimizers import make_optimizer, timm_names
from cosmos_core.engine.trainer import Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

METHOD = METHODS["clip"]
HIDDEN = r"resblocks\.\d\.(attn\.in_proj_weight|attn\.out_proj\.weight|mlp\.c_(fc|proj)\.weight)$"
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has no Muon")


def training_with(optimizer, **options):
    config = tiny_config(METHOD, **options)
    optim = dataclasses.replace(config.optim, optimizer=optimizer)
    return make_training(dataclasses.replace(config, optim=optim), SINGLE_PROCESS)


def steps_of(training, count=3):
    """The weights by name before each step of the optimizer and after the last, and the gradients
    of each step, which are random."""
    generator = torch.Generator().manual_seed(0)
    parameters = dict(training.model.named_parameters())
    history, gradients = [], {name: [] for name in parameters}
    for _ in range(count):
        history.append({name: weight.detach().clone() for name, weight in parameters.items()})
        for name, weight in parameters.items():
            weight.grad = torch.randn(weight.shape, generator=generator)
            gradients[name].append(weight.grad.clone())
        training.optimizer.step()
    history.append({name: weight.detach().clone() for name, weight in parameters.items()})
    return history, gradients


def is_decayed(name, parameter):
    return parameter.ndim > 1 and not any(part in name for part in ("bn", "ln", "bias"))


def orthogonal(matrix):
    """Five steps of Newton and Schulz, in bfloat16, with the coefficients of Jordan et al."""
    x = matrix.bfloat16()
    x = x / x.norm()
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).float()


@needs_muon
def test_muon_moves_hidden_matrices_by_the_published_formula():
    """Jordan et al. with Nesterov's momentum of 0.95; the size of a step is Moonlight's, equation
    4: 0.2 sqrt(max(A, B)) for a matrix (A, B), and its weight decay is that of AdamW."""
    training = training_with("muon")
    history, gradients = steps_of(training)
    hidden = [name for name in history[0] if re.search(HIDDEN, name)]
    assert len(hidden) == 2 * 2 * 4  # towers, layers, matrices
    for name in hidden:
        momentum = torch.zeros_like(history[0][name])
        for before, after, gradient in zip(history, history[1:], gradients[name], strict=False):
            momentum = 0.95 * momentum + 0.05 * gradient
            direction = orthogonal(0.95 * momentum + 0.05 * gradient)
            size = 1e-3 * 0.2 * max(gradient.shape) ** 0.5
            moved = after[name] - before[name] * (1 - 1e-3 * 0.1)
            assert (moved + size * direction).norm() < 0.06 * (size * direction).norm(), name
            assert (torch.linalg.svdvals(moved / size) < 1.3).all()


@needs_muon
def test_all_other_parameters_move_as_by_adamw():
    training = training_with("muon")
    history, gradients = steps_of(training)
    others = [name for name in history[0] if not re.search(HIDDEN, name)]
    parameters = {name: nn.Parameter(history[0][name].clone()) for name in others}
    groups = [
        {"params": [p for n, p in parameters.items() if is_decayed(n, p)], "weight_decay": 0.1},
        {"params": [p for n, p in parameters.items() if not is_decayed(n, p)], "weight_decay": 0},
    ]
    plain = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-8)
    for number in range(3):
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][number]
        plain.step()
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, history[3][name], atol=1e-6), name


@needs_muon
def test_muon_keeps_the_groups():
    optim = OptimConfig(steps=1, batch_size=1, optimizer="muon", weight_decay=0.3)
    model = METHOD.create_student(tiny_config(METHOD).architecture)
    groups = param_groups(model, 0.3, layer_decay=0.5)
    expected = {}
    for group in groups:
        for parameter in group["params"]:
            expected[id(parameter)] = (group["weight_decay"], group["lr_scale"])
    found = {}
    for group in make_optimizer(groups, model, optim).param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (group["weight_decay"], group["lr_scale"])
    assert found == expected


def test_lion_moves_by_the_published_formula():
    """Chen et al. 2023 (arXiv 2302.06675), algorithm 2, with weight decay of matrices only."""
    history, gradients = steps_of(training_with("timm:lion"))
    for name in history[0]:
        momentum, first = torch.zeros_like(history[0][name]), history[0][name]
        decay = 0.1 if is_decayed(name, first) else 0.0
        for before, after, gradient in zip(history, history[1:], gradients[name], strict=False):
            direction = torch.sign(0.9 * momentum + 0.1 * gradient)
            momentum = 0.98 * momentum + 0.02 * gradient
            expected = before[name] * (1 - 1e-3 * decay) - 1e-3 * direction
            assert torch.allclose(after[name], expected, atol=1e-7), name


@pytest.mark.parametrize(
    "optimizer", [pytest.param("muon", marks=needs_muon), "timm:lion", "timm:adafactor"]
)
def test_a_resumed_run_equals_one_that_was_not_stopped(setting, scene_shards, optimizer):
    settings = [
        *("optim.steps=4", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
        *("save.every=2", f"optim.optimizer={optimizer}", SMALL_MODEL),
    ]
    config = override(RECIPES["scenes_clip"](), settings)
    Trainer(config, setting).run(scene_shards)
    last = setting.output / "snapshots" / "step-00000004.pt"
    expected = torch.load(last, weights_only=True)
    last.unlink()
    Trainer(config, setting, resume=True).run(scene_shards)
    found = torch.load(last, weights_only=True)
    for name in ("student", "teacher", "optimizer"):
        pairs = zip(tree_leaves(found[name]), tree_leaves(expected[name]), strict=True)
        for value, expected_value in pairs:
            same = value.equal if isinstance(value, torch.Tensor) else value.__eq__
            assert same(expected_value), name


def small_steps(name, numbers, state=None):
    """A small model that is trained by some steps, and its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.LayerNorm(9), nn.Linear(9, 4))
    optim = OptimConfig(steps=9, batch_size=16, optimizer=f"timm:{name}", lr=1e-3)
    optimizer = make_optimizer(param_groups(model, 0.1), model, optim)
    if state is not None:
        state.seek(0)
        weights, moments = torch.load(state, weights_only=True)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    images = torch.randn(6, 16, 12, generator=torch.Generator().manual_seed(1))
    for number in numbers:
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (number + 1)
        model(images[number]).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_names())
def test_every_optimizer_of_timm_goes_on_where_it_was(name):
    start, _ = small_steps(name, [])
    whole, _ = small_steps(name, range(6))
    model, optimizer = small_steps(name, range(3))
    state = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), state)
    resumed, _ = small_steps(name, range(3, 6), state)
    pairs = list(zip(whole.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(*pair) for pair in pairs)
    assert not torch.equal(start[0].weight, whole[0].weight)
