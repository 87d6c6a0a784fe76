"""Optimizers by name: their formulas, their groups of parameters, and their state in snapshots."""

import dataclasses
import io
import re
from typing import NamedTuple

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
# The names of the matrices between hidden features, which Muon moves.
HIDDEN = r"resblocks\.\d\.(attn\.in_proj_weight|attn\.out_proj\.weight|mlp\.c_(fc|proj)\.weight)$"
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has no Muon")


def training_with(optimizer, **options):
    config = tiny_config(METHOD, **options)
    optim = dataclasses.replace(config.optim, optimizer=optimizer)
    return make_training(dataclasses.replace(config, optim=optim), SINGLE_PROCESS)


class Steps(NamedTuple):
    """Three steps of an optimizer with random gradients."""

    # The weights by name before each step and after the last one.
    weights: list[dict[str, torch.Tensor]]
    # The gradients by name in each step.
    gradients: list[dict[str, torch.Tensor]]


def take_three_steps(training):
    generator = torch.Generator().manual_seed(0)
    parameters = dict(training.model.named_parameters())

    def copy_of_weights():
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}

    weights, gradients = [copy_of_weights()], []
    for _ in range(3):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        gradients.append({name: parameter.grad.clone() for name, parameter in parameters.items()})
        training.optimizer.step()
        weights.append(copy_of_weights())
    return Steps(weights, gradients)


def is_decayed(name, parameter):
    return parameter.ndim > 1 and not any(word in name for word in ("bn", "ln", "bias"))


def orthogonalise(matrix):
    """Take five Newton-Schulz steps in bfloat16, with the coefficients of Jordan et al."""
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
    """The formula of Jordan et al., with Nesterov's momentum of 0.95.

    The size of a step is Moonlight's, equation 4: 0.2 sqrt(max(A, B)) for a matrix (A, B). The
    weight decay is that of AdamW.
    """
    lr, weight_decay = 1e-3, 0.1  # of tiny_config
    steps = take_three_steps(training_with("muon"))
    hidden_names = [name for name in steps.weights[0] if re.search(HIDDEN, name)]
    assert len(hidden_names) == 2 * 2 * 4  # towers, layers, matrices
    for name in hidden_names:
        momentum = torch.zeros_like(steps.weights[0][name])
        for number in range(3):
            weight, new_weight = steps.weights[number][name], steps.weights[number + 1][name]
            gradient = steps.gradients[number][name]
            momentum = 0.95 * momentum + 0.05 * gradient
            direction = orthogonalise(0.95 * momentum + 0.05 * gradient)
            step_size = lr * 0.2 * max(gradient.shape) ** 0.5
            expected_change = -step_size * direction
            change = new_weight - weight * (1 - lr * weight_decay)
            assert (change - expected_change).norm() < 0.06 * expected_change.norm(), name
            assert (torch.linalg.svdvals(change / step_size) < 1.3).all()


@needs_muon
def test_all_other_parameters_move_as_by_adamw():
    steps = take_three_steps(training_with("muon"))
    decayed, not_decayed = {}, {}
    for name, weight in steps.weights[0].items():
        if not re.search(HIDDEN, name):
            group = decayed if is_decayed(name, weight) else not_decayed
            group[name] = nn.Parameter(weight.clone())
    groups = [
        {"params": list(decayed.values()), "weight_decay": 0.1},
        {"params": list(not_decayed.values()), "weight_decay": 0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-8)
    parameters = decayed | not_decayed
    for gradients in steps.gradients:
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        adamw.step()
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, steps.weights[3][name], atol=1e-6), name


def options_by_parameter(groups):
    """Return the weight decay and the factor of the learning rate of each parameter, by its id."""
    options = {}
    for group in groups:
        for parameter in group["params"]:
            assert id(parameter) not in options
            options[id(parameter)] = (group["weight_decay"], group["lr_scale"])
    return options


@needs_muon
def test_muon_keeps_the_options_of_all_groups():
    optim = OptimConfig(steps=1, batch_size=1, optimizer="muon", weight_decay=0.3)
    model = METHOD.create_student(tiny_config(METHOD).architecture)
    groups = param_groups(model, 0.3, layer_decay=0.5)
    expected = options_by_parameter(groups)
    optimizer = make_optimizer(groups, model, optim)
    assert options_by_parameter(optimizer.param_groups) == expected


def test_lion_moves_by_the_published_formula():
    """Chen et al. 2023 (arXiv 2302.06675), algorithm 2, with weight decay of matrices only."""
    lr = 1e-3  # of tiny_config
    steps = take_three_steps(training_with("timm:lion"))
    for name, first_weight in steps.weights[0].items():
        momentum = torch.zeros_like(first_weight)
        weight_decay = 0.1 if is_decayed(name, first_weight) else 0.0
        for number in range(3):
            weight, new_weight = steps.weights[number][name], steps.weights[number + 1][name]
            gradient = steps.gradients[number][name]
            direction = torch.sign(0.9 * momentum + 0.1 * gradient)
            momentum = 0.98 * momentum + 0.02 * gradient
            expected = weight * (1 - lr * weight_decay) - lr * direction
            assert torch.allclose(new_weight, expected, atol=1e-7), name


def test_adafactor_keeps_no_first_moment_as_in_timm():
    training = training_with("timm:adafactor")
    take_three_steps(training)
    assert {group["beta1"] for group in training.optimizer.param_groups} == {None}
    assert all("exp_avg" not in state for state in training.optimizer.state.values())


@needs_muon
def test_muon_without_a_matrix_to_train_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optim = OptimConfig(steps=9, batch_size=16, optimizer="muon", lr=1e-3)
    with pytest.raises(ValueError, match="no matrix of a transformer block is trained; take adamw"):
        make_optimizer(param_groups(model, 0.1), model, optim)


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
    last_snapshot = setting.output / "snapshots" / "step-00000004.pt"
    expected = torch.load(last_snapshot, weights_only=True)
    last_snapshot.unlink()
    Trainer(config, setting, resume=True).run(scene_shards)
    resumed = torch.load(last_snapshot, weights_only=True)
    for name in ("student", "teacher", "optimizer"):
        values, expected_values = tree_leaves(resumed[name]), tree_leaves(expected[name])
        for value, expected_value in zip(values, expected_values, strict=True):
            if isinstance(value, torch.Tensor):
                assert value.equal(expected_value), name
            else:
                assert value == expected_value, name


def train_small_model(optimizer_name, steps, state=None):
    """Train a small model on random inputs by the steps of these numbers.

    Args:
        optimizer_name: The name of an optimizer of timm.
        steps: The numbers of the steps, from 0 to 5.
        state: A file with the state of the model and the optimizer before the first of these steps;
            without it, both are new.

    Returns:
        The model and the optimizer.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.LayerNorm(9), nn.Linear(9, 4))
    optim = OptimConfig(steps=9, batch_size=16, optimizer=f"timm:{optimizer_name}", lr=1e-3)
    optimizer = make_optimizer(param_groups(model, 0.1), model, optim)
    if state is not None:
        state.seek(0)
        model_state, optimizer_state = torch.load(state, weights_only=True)
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
    inputs = torch.randn(6, 16, 12, generator=torch.Generator().manual_seed(1))
    for step in steps:
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step + 1)
        model(inputs[step]).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_names())
def test_every_optimizer_of_timm_resumes_where_it_was(name):
    untrained, _ = train_small_model(name, [])
    expected, _ = train_small_model(name, range(6))
    model, optimizer = train_small_model(name, range(3))
    state = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), state)
    resumed, _ = train_small_model(name, range(3, 6), state)
    parameters = zip(expected.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(parameter, other) for parameter, other in parameters)
    assert not torch.equal(untrained[0].weight, expected[0].weight)
