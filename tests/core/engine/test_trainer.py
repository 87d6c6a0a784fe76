"""The training loop in this process."""

import dataclasses
import errno
import math
import os
import shutil
import signal
import time

import pytest
import torch
from support.reads import DeviceReads
from support.runs import log
from support.training import SMALL_MODEL
from torch.utils._pytree import tree_leaves

from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.engine.snapshot import Best, SnapshotError, Snapshots, plain_config
from cosmos_core.engine.trainer import Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

SHORT = ("optim.batch_size=4", "data.workers=0", "watch.pictures=false", SMALL_MODEL)


def test_a_run_stopped_before_its_first_step_can_go_on(setting, scene_shards):
    def interrupted(texts):
        """As if the signal came while the first batch was made."""
        os.kill(os.getpid(), signal.SIGTERM)
        return setting.tokenizer(texts)

    settings = ["optim.steps=1", *SHORT]
    config = override(RECIPES["scenes_cosmos"](), settings)
    assert Trainer(config, setting._replace(tokenizer=interrupted)).run(scene_shards) == 0
    assert Snapshots(setting.output, keep=1).steps() == [0]
    assert (setting.output / "checkpoint.safetensors").exists()
    assert Trainer(config, setting, resume=True).run(scene_shards) == 1


@pytest.fixture(scope="module")
def begun_run(setting_of_session, tmp_path_factory):
    """A run of one of two steps in the folder `run`, on two tars of four scenes in `here`."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "here").mkdir()
    for number in (0, 4):
        root = folder / f"scenes-{number}"
        write_layouts(root, split=TRAIN, count=4, start=number, layouts=["shards"])
        (tar,) = (root / "shards").glob("*.tar")
        tar.rename(folder / "here" / f"{number}.tar")
    settings = ["optim.steps=2", *SHORT, f"data.shards={folder}/here/*.tar"]
    config = override(RECIPES["scenes_clip"](), settings)
    short = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=1))
    setting = setting_of_session._replace(output=folder / "run")
    Trainer(short, setting).run(short.data.shards)
    path = setting.output / "snapshots" / "step-00000001.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "config": plain_config(config)}, path)
    return folder, config


@pytest.fixture
def local_run(begun_run, tmp_path):
    """Copies of the begun run and its data in the test's folder, and its configuration."""
    folder, config = begun_run
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.copytree(folder / "here", tmp_path / "there")
    return config


def resume(config, setting, shards):
    moved = override(config, [f"data.shards={shards}"])
    return Trainer(moved, setting, resume=True).run(shards)


def test_a_run_goes_on_with_the_same_data_in_another_folder(local_run, setting, tmp_path):
    assert f"{tmp_path}/there/*.tar" != local_run.data.shards
    assert resume(local_run, setting, f"{tmp_path}/there/*.tar") == 2


def add(folder):
    shutil.copy(folder / "0.tar", folder / "5.tar")


def remove(folder):
    (folder / "4.tar").unlink()


def replace(folder):
    shutil.copy(folder / "0.tar", folder / "4.tar")


def pad(folder):
    with (folder / "4.tar").open("ab") as file:
        file.write(bytes(10_240))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add, r"shard 3 was missing and is 5\.tar of \d+ bytes with 4 samples \(positions"),
        (remove, r"shard 2 was 4\.tar of \d+ bytes with 4 samples .* and is missing"),
        (replace, r"shard 2 was 4\.tar of \d+ bytes with 4 samples .* and is 4\.tar of"),
        (pad, r"shard 2 was 4\.tar of \d+ bytes with 4 samples .* and is 4\.tar of"),
    ],
)
def test_changed_data_stop_a_resumed_run_and_are_named(
    local_run, setting, tmp_path, change, message
):
    change(tmp_path / "there")
    expected = f"data differ from the data of the snapshot: {message}"
    with pytest.raises(SnapshotError, match=expected):
        resume(local_run, setting, f"{tmp_path}/there/*.tar")


class Scores:
    """An evaluator that returns given values of a metric."""

    def __init__(self, *values):
        self.values = iter(values)

    def measure(self, checkpoint, weights, datasets, **_):
        return {"set": {"acc1": next(self.values) if weights == "teacher" else 0.0}}


def test_the_best_snapshot_is_found_after_a_first_value_that_is_no_number(setting, scene_shards):
    settings = ["optim.steps=4", *SHORT]
    best = ["save.best=set/teacher/acc1", "watch.evaluate_every=1", "watch.datasets=set"]
    config = override(RECIPES["scenes_clip"](), [*settings, *best, "save.keep=1"])
    nan = float("nan")
    Trainer(config, setting._replace(evaluator=Scores(nan, 0.5, 0.75, 0.5))).run(scene_shards)
    snapshots = Snapshots(setting.output, keep=1)
    assert snapshots.best() == Best(3, 0.75)
    assert snapshots.steps() == [3, 4]


def short_run(setting, *settings, steps=6):
    settings = [f"optim.steps={steps}", *SHORT, "compute.precision=fp32", *settings]
    return Trainer(override(RECIPES["scenes_cosmos"](), settings), setting)


@pytest.mark.parametrize("bad", [2, 3])
def test_an_update_that_is_not_finite_reaches_no_snapshot(setting, scene_shards, bad):
    """It is noticed when the next step has been started, or before a snapshot is written."""
    trainer = short_run(setting, "save.every=2")
    gradients = iter(range(99))
    weight = trainer._training.model.visual.proj
    weight.register_hook(lambda gradient: gradient * (math.inf if next(gradients) == bad else 1))
    with pytest.raises(FloatingPointError, match=f"^step {bad}: the gradient's norm is "):
        trainer.run(scene_shards)
    assert Snapshots(setting.output, keep=9).steps() == [2]


def test_a_step_reads_at_most_two_values_from_the_device(setting, scene_shards, tmp_path):
    found = {}
    for steps in (2, 6):
        trainer = short_run(setting._replace(output=tmp_path / str(steps)), steps=steps)
        training = trainer._training
        on_device = [*training.model.state_dict().values(), *training.teacher.state_dict().values()]
        with DeviceReads([*on_device, trainer._mean, trainer._std]) as reads:
            trainer.run(scene_shards)
        found[steps] = reads.found
    more = found[6] - found[2]
    assert 0 < more.total() <= 2 * 4, more


def test_the_pace_of_the_last_step_is_like_that_of_the_others(setting, scene_shards):
    short_run(setting, "watch.log_every=1").run(scene_shards)
    paces = [record["timing"]["samples_per_second"] for record in log(setting.output)]
    assert len(paces) == 6
    assert paces[-1] < 20 * max(paces[1:-1])


def test_a_snapshot_holds_its_step_however_late_it_is_written(
    setting, scene_shards, tmp_path, monkeypatch
):
    saved, trainers = Snapshots.save, []

    def save_late(snapshots, step, state):
        while late and step == 2 and trainers[-1]._steps_done < 4:  # two steps later
            time.sleep(0.001)
        return saved(snapshots, step, state)

    monkeypatch.setattr(Snapshots, "save", save_late)
    found = []
    for late in (False, True):
        output = tmp_path / str(late)
        trainers.append(short_run(setting._replace(output=output), "save.every=2", "save.keep=9"))
        trainers[-1].run(scene_shards)
        path = output / "snapshots" / "step-00000002.pt"
        found.append(tree_leaves(torch.load(path, weights_only=True)))
    pairs = [pair for pair in zip(*found, strict=True) if isinstance(pair[0], torch.Tensor)]
    assert len(pairs) > 100
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_snapshot_that_cannot_be_written_ends_the_run(setting, scene_shards, monkeypatch):
    def fail(snapshots, step, state):
        raise OSError(errno.ENOSPC, "No space left on device", "step.pt")

    monkeypatch.setattr(Snapshots, "save", fail)
    trainer = short_run(setting, "save.every=2", steps=50)
    with pytest.raises(OSError, match="No space left"):
        trainer.run(scene_shards)
    assert trainer._steps_done < 50
