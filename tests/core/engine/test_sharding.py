"""Sharded weights: the training of copied ones, snapshots, and other numbers of processes."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support import resuming, sharded
from support.processes import run_processes
from support.training import METHODS, SINGLE_PROCESS, tiny_config

from cosmos_core.engine.build import make_training
from cosmos_core.engine.check import check_config
from cosmos_core.engine.distributed import World
from cosmos_core.engine.sharding import make_mesh
from cosmos_core.model.checkpoint import read_checkpoint
from cosmos_core.model.export import export
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

CASES = [("cosmos", 1), ("cosmos", 2), ("silc", 1)]


def assert_near(state, expected, tolerance=2e-6):
    """All weights, moments and numbers of the optimizer, by name."""
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert (state[name].squeeze() - value).abs().max() < tolerance, name


@pytest.fixture(scope="module")
def copied():
    """Six steps of one process, which several with copied weights repeat (test_distributed.py)."""
    return {case: sharded.steps(SINGLE_PROCESS, "ddp", *case) for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "parallel", "cases"), [(2, "fsdp", CASES), (4, "hsdp", CASES[:1])]
)
def test_six_steps_are_those_of_copied_weights(copied, size, parallel, cases):
    for runs in run_processes(sharded.runs, size, [(parallel, *case) for case in cases]):
        for case, (reports, state, fraction_held) in zip(cases, runs, strict=True):
            expected_reports, expected, _ = copied[case]
            for report, expected_report in zip(reports, expected_reports, strict=True):
                assert report == pytest.approx(expected_report, rel=2e-6)
            assert_near(state, expected)
            # Weights are shared by two processes, or by the two processes of a machine.
            assert 0.4 < fraction_held < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("size", "parallel", "other"), [(2, "fsdp", 4), (4, "hsdp", 2)])
def test_a_snapshot_goes_on_with_other_numbers_of_processes(
    copied, size, parallel, other, tmp_path
):
    expected, output = copied["cosmos", 1][1], str(tmp_path)
    run_processes(sharded.steps, size, parallel, "cosmos", 1, 3, output)
    assert len(list(tmp_path.glob("snapshots/step-00000003/*.safetensors"))) == size
    _, alone, _ = sharded.steps(SINGLE_PROCESS, "ddp", "cosmos", 1, 3, output, 3)
    assert_near(alone, expected)
    for _, state, _ in run_processes(sharded.steps, other, "fsdp", "cosmos", 1, 3, output, 3):
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


@pytest.mark.slow
def test_a_run_leaves_parts_that_are_joined_where_they_are_read(tmp_path, scene_shards, caplog):
    output, alone = tmp_path / "run", tmp_path / "alone"
    fsdp = (output, scene_shards, "parallel=fsdp", "save.keep=9")
    first = run_processes(resuming.train, 2, *fsdp)
    steps = ["step-00000001", "step-00000002", "step-00000003"]
    assert sorted(path.name for path in (output / "snapshots").iterdir()) == steps
    written = read_checkpoint(output / "checkpoint.safetensors")
    joined = read_checkpoint(output)
    assert (joined.training, joined.method) == (written.training, "clip")
    assert joined.training["steps"] == 3
    for name, state in written.weights.items():
        assert all(torch.equal(joined.weights[name][key], state[key]) for key in state)
    (output / "checkpoint.safetensors").unlink()
    shutil.copytree(output, alone)
    for folder in (output, alone):  # the last part of the last snapshot is lost
        next((folder / "snapshots" / steps[2]).glob("shard-00002-*")).unlink()
    again = run_processes(resuming.train, 2, *fsdp)
    for ours, theirs in zip(again, first, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    resuming.train(SINGLE_PROCESS, alone, scene_shards)
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert "step-00000003: damaged, passed over ([Errno 2] No such file or directory: " in warning
    assert "/shard-00002-" in warning
    last = read_checkpoint(alone).weights["teacher"]
    for key, value in written.weights["teacher"].items():
        assert (last[key] - value).abs().max() < 1e-6
    files = export(output, tmp_path / "export")
    assert files[0].name == "README.md"
    exported = load_file(tmp_path / "export" / "open_clip_model.safetensors")
    assert torch.equal(exported["logit_scale"], written.weights["teacher"]["logit_scale"])
