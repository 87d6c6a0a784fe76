"""Steps that are skipped because their loss or gradient is not finite."""

import dataclasses
import math

import pytest
import torch
from support.runs import log
from support.training import METHODS, SINGLE_PROCESS, SMALL_MODEL, step, tiny_config, tiny_views
from torch.utils._pytree import tree_leaves

from cosmos_core.engine.build import make_training
from cosmos_core.engine.trainer import Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

METHOD = METHODS["cosmos"]


def start(limit, **compute):
    config = tiny_config(METHOD, **compute)
    optim = dataclasses.replace(config.optim, max_skipped=limit)
    return make_training(dataclasses.replace(config, optim=optim), SINGLE_PROCESS)


def tensors(training):
    """Copies of all tensors that a step may change."""
    parts = (training.model, training.teacher, training.optimizer)
    leaves = tree_leaves([part.state_dict() for part in parts])
    return [leaf.clone() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def equal(first, second):
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def spoil(training, bad):
    """Make the gradients of these steps infinite."""
    numbers = iter(range(99))
    weight = training.model.visual.proj
    weight.register_hook(lambda gradient: gradient * (math.inf if next(numbers) in bad else 1))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_skipped_step_changes_nothing(parts):
    training, expected = start(1, accumulate=parts), start(0, accumulate=parts)
    views = tiny_views(METHOD)
    spoil(training, {parts})
    for number, limit in ((0, 1), (1, 1), (2, 1)):
        before = tensors(training)
        report = step(training, views, n_chunks=parts)
        assert report.is_skipped == (number == limit)
        assert equal(tensors(training), before) == report.is_skipped
        if not report.is_skipped:
            step(expected, views, n_chunks=parts)
    assert equal(tensors(training), tensors(expected))
    assert training.skipped_steps.count == 1


def test_a_loss_that_is_not_finite_is_skipped():
    training, views = start(1), tiny_views(METHOD)
    step(training, views)
    before = tensors(training)
    views.global_images[0, 0, 0, 0, 0] = math.inf
    assert step(training, views).is_skipped
    assert equal(tensors(training), before)


def test_after_the_last_one_a_step_is_not_skipped():
    training, views = start(2), tiny_views(METHOD)
    spoil(training, {0, 2, 3})
    assert [step(training, views).is_skipped for _ in range(3)] == [True, False, True]
    report = step(training, views)
    assert not report.is_skipped
    with pytest.raises(FloatingPointError, match="the gradient's norm is"):
        report.check()


def test_a_gradient_scaler_skips_in_its_own_way():
    """It halves its scale after a gradient that is not finite, which does not count."""
    training, views = start(1, precision="fp16"), tiny_views(METHOD)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    report = step(training, views, precision="fp16")
    assert not math.isfinite(report.gradient_norm)
    assert (report.is_skipped, training.scaler.get_scale()) == (False, 2.0**17)
    views.global_images[0, 0, 0, 0, 0] = 1e6  # beyond the range of float16
    before = tensors(training)
    report = step(training, views, precision="fp16")
    assert report.is_skipped
    assert equal(tensors(training), before)
    assert training.scaler.get_scale() == 2.0**16


SETTINGS = [
    *("optim.steps=6", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
    *("watch.log_every=1", "save.every=2", "compute.precision=fp32", SMALL_MODEL),
]


def test_a_run_says_logs_and_remembers_what_it_skipped(setting, scene_shards, capsys):
    config = override(RECIPES["scenes_clip"](), [*SETTINGS, "optim.max_skipped=2"])
    trainer = Trainer(config, setting)
    spoil(trainer._training, {1, 3, 4})
    with pytest.raises(FloatingPointError, match=r"^step 4: the gradient's norm is "):
        trainer.run(scene_shards)
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert [line.partition(" the")[0] for line in lines] == [
        "step 1: skipped, because",
        "step 3: skipped, because",
    ]
    records = log(setting.output)
    assert [record["skipped_steps"] for record in records] == [0, 1, 1, 2]
    assert [record["gradient_norm"] is None for record in records] == [False, True, False, True]

    # The snapshot has the count. A run that ended goes on with another limit.
    snapshot = setting.output / "snapshots" / "step-00000004.pt"
    assert torch.load(snapshot, weights_only=True)["skipped_steps"] == 2
    more = override(RECIPES["scenes_clip"](), [*SETTINGS, "optim.max_skipped=3"])
    resumed = Trainer(more, setting, resume=True)
    assert resumed._training.skipped_steps.count == 2
    spoil(resumed._training, {0})
    assert resumed.run(scene_shards) == 6
    assert [record["skipped_steps"] for record in log(setting.output)[-2:]] == [3, 3]


def test_nothing_is_logged_of_it_by_default(setting, scene_shards):
    Trainer(override(RECIPES["scenes_clip"](), SETTINGS), setting).run(scene_shards)
    assert "skipped_steps" not in log(setting.output)[0]
