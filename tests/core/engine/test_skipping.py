"""Steps that are skipped because their loss or gradient is not finite."""

import dataclasses
import itertools
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


def start(max_skipped, method=METHOD, **compute):
    config = tiny_config(method, **compute)
    optim = dataclasses.replace(config.optim, max_skipped=max_skipped)
    return make_training(dataclasses.replace(config, optim=optim), SINGLE_PROCESS)


def copy_tensors(training):
    """Return copies of all tensors that a step may change."""
    model, teacher, optimizer = training.model, training.teacher, training.optimizer
    states = [model.state_dict(), teacher.state_dict(), optimizer.state_dict()]
    return [leaf.clone() for leaf in tree_leaves(states) if isinstance(leaf, torch.Tensor)]


def are_equal(tensors, others):
    return all(torch.equal(tensor, other) for tensor, other in zip(tensors, others, strict=True))


def make_gradients_infinite(training, backward_passes):
    """Make the gradients of the backward passes with these numbers infinite.

    There is one backward pass per chunk of a batch.
    """
    numbers = itertools.count()

    def change_gradient(gradient):
        return gradient * (math.inf if next(numbers) in backward_passes else 1)

    training.model.visual.proj.register_hook(change_gradient)


@pytest.mark.parametrize("name", ["cosmos", "silc"])  # SILC's loss changes a buffer
@pytest.mark.parametrize("n_chunks", [1, 2])
def test_a_skipped_step_changes_nothing(name, n_chunks):
    method = METHODS[name]
    training, expected = (start(limit, method, accumulate=n_chunks) for limit in (1, 0))
    views = tiny_views(method)
    make_gradients_infinite(training, {n_chunks})  # the first pass of the second step
    for number in range(3):
        tensors_before = copy_tensors(training)
        report = step(training, views, n_chunks=n_chunks)
        assert report.is_skipped == (number == 1)
        assert are_equal(copy_tensors(training), tensors_before) == report.is_skipped
        if not report.is_skipped:
            step(expected, views, n_chunks=n_chunks)
    assert are_equal(copy_tensors(training), copy_tensors(expected))
    assert training.skipped_steps.count == 1


def test_a_step_whose_loss_is_not_finite_is_skipped():
    training, views = start(1), tiny_views(METHOD)
    step(training, views)
    tensors_before = copy_tensors(training)
    views.global_images[0, 0, 0, 0, 0] = math.inf
    assert step(training, views).is_skipped
    assert are_equal(copy_tensors(training), tensors_before)


def test_no_more_steps_are_skipped_than_allowed():
    training, views = start(2), tiny_views(METHOD)
    make_gradients_infinite(training, {0, 2, 3})
    assert [step(training, views).is_skipped for _ in range(3)] == [True, False, True]
    report = step(training, views)
    assert not report.is_skipped
    with pytest.raises(FloatingPointError, match="the gradient's norm is"):
        report.check()


def test_steps_that_a_gradient_scaler_skips_do_not_count():
    # A scaler halves its scale after a gradient that is not finite.
    training, views = start(1, precision="fp16"), tiny_views(METHOD)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    report = step(training, views, precision="fp16")
    assert not math.isfinite(report.gradient_norm)
    assert (report.is_skipped, training.scaler.get_scale()) == (False, 2.0**17)
    views.global_images[0, 0, 0, 0, 0] = 1e6  # beyond the range of float16
    tensors_before = copy_tensors(training)
    report = step(training, views, precision="fp16")
    assert report.is_skipped
    assert are_equal(copy_tensors(training), tensors_before)
    assert training.scaler.get_scale() == 2.0**16


SETTINGS = [
    *("optim.steps=6", "optim.batch_size=4", "data.workers=0", "watch.pictures=false"),
    *("watch.log_every=1", "save.every=2", "compute.precision=fp32", SMALL_MODEL),
]


def test_a_run_prints_logs_and_stores_its_skipped_steps(setting, scene_shards, capsys):
    config = override(RECIPES["scenes_clip"](), [*SETTINGS, "optim.max_skipped=2"])
    trainer = Trainer(config, setting)
    make_gradients_infinite(trainer._training, {1, 3, 4})
    with pytest.raises(FloatingPointError, match=r"^step 4: the gradient's norm is "):
        trainer.run(scene_shards)
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    beginnings = [line.partition(" the")[0] for line in lines]
    assert beginnings == ["step 1: skipped, because", "step 3: skipped, because"]
    records = log(setting.output)
    assert [record["skipped_steps"] for record in records] == [0, 1, 1, 2]
    assert [record["gradient_norm"] is None for record in records] == [False, True, False, True]

    # The snapshot has the number of skipped steps, and the run can go on with another limit.
    snapshot = setting.output / "snapshots" / "step-00000004.pt"
    assert torch.load(snapshot, weights_only=True)["skipped_steps"] == 2
    config = override(RECIPES["scenes_clip"](), [*SETTINGS, "optim.max_skipped=3"])
    resumed = Trainer(config, setting, resume=True)
    assert resumed._training.skipped_steps.count == 2
    make_gradients_infinite(resumed._training, {0})
    assert resumed.run(scene_shards) == 6
    assert [record["skipped_steps"] for record in log(setting.output)[-2:]] == [3, 3]


def test_skipped_steps_are_not_logged_by_default(setting, scene_shards):
    Trainer(override(RECIPES["scenes_clip"](), SETTINGS), setting).run(scene_shards)
    assert "skipped_steps" not in log(setting.output)[0]
