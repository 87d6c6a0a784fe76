"""Sharded weights: the training of copied ones, whole states, and other numbers of processes."""

import pickle
from dataclasses import replace

import pytest
import torch
from support import sharded
from support.processes import run_processes
from support.training import METHODS, SINGLE_PROCESS, tiny_config

from cosmos_core.engine.build import make_training
from cosmos_core.engine.check import check_config
from cosmos_core.engine.distributed import World
from cosmos_core.engine.sharding import make_mesh
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

CASES = [("cosmos", 1), ("cosmos", 2), ("silc", 1)]


def assert_near(state, expected, tolerance=2e-6):
    """All weights, moments and numbers of the optimizer, by name."""
    if isinstance(expected, dict):
        assert state.keys() == expected.keys()
        for name in expected:
            assert_near(state[name], expected[name])
    elif isinstance(expected, torch.Tensor):
        assert state.shape == expected.shape
        assert (state - expected).abs().max() < tolerance
    else:
        assert state == expected


@pytest.fixture(scope="module")
def copied():
    """Six steps of one process, which several with copied weights repeat (test_distributed.py)."""
    return {case: sharded.steps(SINGLE_PROCESS, "ddp", *case) for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "parallel", "cases"), [(2, "fsdp", CASES), (4, "hsdp", CASES[:1])]
)
def test_six_steps_are_those_of_copied_weights(copied, size, parallel, cases):
    for found in run_processes(sharded.runs, size, [(parallel, *case) for case in cases]):
        for case, (reports, state, held) in zip(cases, found, strict=True):
            expected_reports, expected, _ = copied[case]
            for ours, theirs in zip(reports, expected_reports, strict=True):
                assert ours == pytest.approx(theirs, rel=2e-6)
            assert_near(state, expected)
            assert 0.4 < held < 0.6  # of two processes, or of the two of a machine


@pytest.mark.slow
def test_a_state_goes_on_with_other_numbers_of_processes(copied):
    (_, half, _), *_ = run_processes(sharded.steps, 2, "fsdp", "cosmos", 1, 3)
    expected = copied["cosmos", 1][1]
    _, alone, _ = sharded.steps(SINGLE_PROCESS, "ddp", "cosmos", 1, 3, pickle.dumps(half))
    assert_near(alone, expected)
    for _, state, _ in run_processes(sharded.steps, 4, "fsdp", "cosmos", 1, 3, pickle.dumps(half)):
        assert_near(state, expected)


def test_one_process_shards_nothing():
    names = [
        name for name, _ in make_training(config("fsdp"), SINGLE_PROCESS).model.named_parameters()
    ]
    plain = make_training(config("ddp"), SINGLE_PROCESS).model
    assert names == [name for name, _ in plain.named_parameters()]


def config(parallel):
    return replace(tiny_config(METHODS["cosmos"]), parallel=parallel)


def test_what_cannot_be_sharded_is_one_line(monkeypatch):
    settings = ["parallel=fsdp", "compute.precision=fp16"]
    with pytest.raises(ValueError, match=r"^parallel=fsdp has no gradient scaler; .*=bf16$"):
        check_config(override(RECIPES["debug"](), settings), world_size=2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"equally many processes .* 4 in all and 3 here"):
        make_mesh(World(0, 4), "hsdp")
