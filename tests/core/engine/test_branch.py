"""Runs that start from a snapshot of another run, to end after another number of steps."""

import math
import re
from dataclasses import asdict, replace

import pytest
import torch
from support.runs import reproducible
from support.training import SMALL_MODEL
from torch.utils._pytree import tree_leaves

from cosmos_core.config import OptimConfig
from cosmos_core.engine.branch import _require_same_schedule
from cosmos_core.engine.snapshot import SnapshotError
from cosmos_core.engine.trainer import Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

SETTINGS = [
    *("optim.batch_size=4", "optim.warmup_steps=2", "data.workers=0", "watch.pictures=false"),
    *("watch.log_every=1", SMALL_MODEL),
]
LONG = ("optim.steps=8", "optim.schedule=constant", "save.every=1", "save.keep=9")


def cooldown(steps, n_cooldown_steps):
    return (
        f"optim.steps={steps}",
        "optim.schedule=wsd",
        f"optim.cooldown_steps={n_cooldown_steps}",
    )


def train(setting, shards, output, *settings, start=None):
    config = override(RECIPES["scenes_cosmos"](), [*SETTINGS, *settings])
    Trainer(config, setting._replace(output=output), start=start).run(shards)


def last_state(output):
    path = sorted((output / "snapshots").glob("*.pt"))[-1]
    return torch.load(path, weights_only=True)


def snapshot(output, step):
    return output / "snapshots" / f"step-{step:08d}.pt"


@pytest.fixture(scope="module")
def long_run(setting_of_session, scene_shards, tmp_path_factory):
    """A run of eight steps with a constant learning rate, of which every step is saved."""
    output = tmp_path_factory.mktemp("long") / "run"
    train(setting_of_session, scene_shards, output, *LONG)
    return output


@pytest.mark.parametrize(("steps", "n_cooldown_steps", "start"), [(7, 3, 4), (7, 3, 2), (10, 4, 5)])
def test_a_branch_equals_a_run_from_its_first_step(
    setting, scene_shards, long_run, tmp_path, steps, n_cooldown_steps, start
):
    settings = cooldown(steps, n_cooldown_steps)
    single_run, branch = tmp_path / "single", tmp_path / "branch"
    train(setting, scene_shards, single_run, *settings)
    train(setting, scene_shards, branch, *settings, start=snapshot(long_run, start))
    state, expected = last_state(branch), last_state(single_run)
    assert state["step"] == expected["step"] == steps
    assert state["config"] == expected["config"]
    for name in ("student", "teacher", "optimizer", "random"):
        values, expected_values = tree_leaves(state[name]), tree_leaves(expected[name])
        for value, expected_value in zip(values, expected_values, strict=True):
            if isinstance(value, torch.Tensor):
                assert value.equal(expected_value), name
            else:
                assert value == expected_value, name
    assert reproducible(branch) == reproducible(single_run)[start:]


def test_a_branch_can_be_branched_renamed_and_resumed(
    setting, scene_shards, long_run, tmp_path, caplog
):
    first, second = tmp_path / "first", tmp_path / "second"
    train(setting, scene_shards, first, *cooldown(7, 2), start=snapshot(long_run, 3))
    settings = (*cooldown(6, 2), "save.every=1", "recipe=short")
    train(setting, scene_shards, second, *settings, start=snapshot(first, 3))
    newest = last_state(second)
    assert newest["config"]["recipe"] == "short"
    snapshot(second, 6).unlink()
    config = override(RECIPES["scenes_cosmos"](), [*SETTINGS, *settings])
    start = snapshot(first, 3)
    with caplog.at_level("INFO", "cosmos_core"):
        resumed = Trainer(config, setting._replace(output=second), resume=True, start=start)
    resumed.run(scene_shards)
    assert f"{start} is not used: {second} has snapshots" in caplog.text
    assert last_state(second)["student"]["visual.proj"].equal(newest["student"]["visual.proj"])


STEP_4 = r"the learning rate of step 4 was 0\.001 and would be 0\.00029289\d+; branch a run of "


@pytest.mark.parametrize(
    ("settings", "start", "message"),
    [
        # The stable phase of 5 steps of which 2 are a cooldown ends with step 3.
        (cooldown(5, 2), 5, f"step-00000005.pt cannot be branched: {STEP_4}"),
        (cooldown(5, 2), 6, r"step-00000006.pt: has more steps than the run, 5$"),
        (("optim.steps=8",), 5, "cannot be branched: the learning rate of step 3 was 0.001 and"),
        ((*cooldown(7, 2), "optim.lr=0.5"), 3, "branched: optim.lr is 0.001 there and 0.5 here"),
        ((*cooldown(7, 2), "seed=1"), 3, "cannot be branched: seed is 0 there and 1 here"),
        (cooldown(7, 2), 9, "step-00000009.pt: no such snapshot; --from takes a snapshot in"),
    ],
)
def test_a_branch_that_would_not_equal_a_run_from_its_first_step_is_refused(
    setting, long_run, tmp_path, settings, start, message
):
    config = override(RECIPES["scenes_cosmos"](), [*SETTINGS, *settings])
    with pytest.raises(SnapshotError, match=message) as raised:
        Trainer(config, setting, start=snapshot(long_run, start))
    assert "\n" not in str(raised.value)
    assert not setting.output.exists()


def test_a_momentum_that_depends_on_the_number_of_steps_is_refused(setting, scene_shards, tmp_path):
    output, ramp = tmp_path / "long", "optim.momentum_ramp=true"
    train(setting, scene_shards, output, *LONG, ramp)
    config = override(RECIPES["scenes_cosmos"](), [*SETTINGS, *cooldown(7, 2), ramp])
    with pytest.raises(SnapshotError, match="branched: the momentum of step 1 was ") as raised:
        Trainer(config, setting, start=snapshot(output, 3))
    assert str(raised.value).endswith(
        "; branch a run of optim.momentum_ramp=false, or keep optim.steps"
    )


def test_values_of_schedules_that_hardly_differ_are_told_apart(tmp_path):
    """By hand: from 0.999, the ramp of n steps adds 0.00025 (pi / n)^2 in step 1."""
    optim = OptimConfig(
        steps=10_000, batch_size=4, warmup_steps=1, schedule="constant", momentum_ramp=True
    )
    state = {"config": {"optim": asdict(optim)}, "step": 2}
    with pytest.raises(SnapshotError) as raised:
        _require_same_schedule(tmp_path, state, replace(optim, steps=5_000))
    was, would_be = re.findall(r"(?:was|be) (0\.\d+)", str(raised.value))
    assert float(was) - 0.999 == pytest.approx(0.00025 * (math.pi / 10_000) ** 2, rel=1e-3)
    assert float(would_be) - 0.999 == pytest.approx(0.00025 * (math.pi / 5_000) ** 2, rel=1e-3)


def test_files_that_are_not_snapshots_are_refused(setting, long_run, tmp_path):
    content = snapshot(long_run, 3).read_bytes()
    config = override(RECIPES["scenes_cosmos"](), [*SETTINGS, *cooldown(7, 2)])
    damaged, foreign = tmp_path / "damaged.pt", tmp_path / "foreign.pt"
    damaged.write_bytes(content[:-1000])
    torch.save({"format": 1, "step": 3}, foreign)
    for path, reason in ((damaged, "not a whole snapshot"), (foreign, "not a snapshot of this")):
        with pytest.raises(SnapshotError, match=f"^{path}: {reason}"):
            Trainer(config, setting, start=path)


def test_a_folder_of_another_run_is_refused(setting, long_run):
    config = override(RECIPES["scenes_cosmos"](), [*SETTINGS, *cooldown(7, 2)])
    with pytest.raises(SnapshotError, match="holds a run of 8 steps: go on with it by --resume"):
        Trainer(config, setting._replace(output=long_run), start=snapshot(long_run, 3))
