"""The training loop in this process: resuming, changed data, and when snapshots are written."""

import dataclasses
import errno
import itertools
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
    def tokenize_interrupted(texts):
        """Tokenize the first batch while the process is asked to end."""
        os.kill(os.getpid(), signal.SIGTERM)
        return setting.tokenizer(texts)

    settings = ["optim.steps=1", *SHORT]
    config = override(RECIPES["scenes_cosmos"](), settings)
    interrupted_setting = setting._replace(tokenizer=tokenize_interrupted)
    assert Trainer(config, interrupted_setting).run(scene_shards) == 0
    assert Snapshots(setting.output, keep=1).steps() == [0]
    assert (setting.output / "checkpoint.safetensors").exists()
    assert Trainer(config, setting, resume=True).run(scene_shards) == 1


def test_a_run_goes_on_in_its_precision_only(setting, scene_shards, monkeypatch):
    """A snapshot states the precision that the first processor led to, not "auto"."""
    config = override(RECIPES["scenes_clip"](), ["optim.steps=1", *SHORT])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    Trainer(config, setting).run(scene_shards)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(SnapshotError, match=r"compute\.precision is 'fp32' there and 'bf16' here"):
        Trainer(config, setting, resume=True)


@pytest.fixture(scope="module")
def begun_run(setting_of_session, tmp_path_factory):
    """A folder with a run that did one of two steps, and the configuration of the run.

    In the folder, `run` is the output of the run, and `here` has its data: two tars of four scenes.
    """
    folder = tmp_path_factory.mktemp("begun")
    (folder / "here").mkdir()
    for number in (0, 4):
        root = folder / f"scenes-{number}"
        write_layouts(root, split=TRAIN, count=4, start=number, layouts=["shards"])
        (tar,) = (root / "shards").glob("*.tar")
        tar.rename(folder / "here" / f"{number}.tar")
    settings = ["optim.steps=2", *SHORT, "compute.precision=fp32"]
    settings.append(f"data.shards={folder}/here/*.tar")
    config = override(RECIPES["scenes_clip"](), settings)
    one_step_config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=1))
    setting = setting_of_session._replace(output=folder / "run")
    Trainer(one_step_config, setting).run(one_step_config.data.shards)
    # The snapshot is changed so that it is of a run of two steps.
    path = setting.output / "snapshots" / "step-00000001.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "config": plain_config(config)}, path)
    return folder, config


@pytest.fixture
def local_run(begun_run, tmp_path):
    """The configuration of the begun run, which is copied to the test's folder with its data.

    The data are in the folder `there`.
    """
    folder, config = begun_run
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.copytree(folder / "here", tmp_path / "there")
    return config


def resume(config, setting, shards):
    config = override(config, [f"data.shards={shards}"])
    return Trainer(config, setting, resume=True).run(shards)


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
def test_a_resumed_run_refuses_changed_data_and_names_the_shard(
    local_run, setting, tmp_path, change, message
):
    change(tmp_path / "there")
    expected = f"data differ from the data of the snapshot: {message}"
    with pytest.raises(SnapshotError, match=expected):
        resume(local_run, setting, f"{tmp_path}/there/*.tar")


def test_a_run_on_local_tars_does_not_go_on_with_a_stream(local_run, setting, tmp_path):
    stream = f"pipe:cat {tmp_path}/there/{{0,4}}.tar"
    message = "^the snapshot was trained on local tars, and streams cannot be compared with them"
    with pytest.raises(SnapshotError, match=message):
        resume(local_run, setting, stream)
    # Also if another run starts from the snapshot.
    start = setting.output / "snapshots" / "step-00000001.pt"
    config = override(local_run, [f"data.shards={stream}"])
    branch = Trainer(config, setting._replace(output=tmp_path / "branch"), start=start)
    with pytest.raises(SnapshotError, match=message):
        branch.run(stream)


def test_a_run_on_a_stream_goes_on_with_the_same_stream(begun_run, setting):
    folder, config = begun_run
    stream = f"pipe:cat {folder}/here/{{0,4}}.tar"
    config = override(config, [f"data.shards={stream}", "save.every=1"])
    assert Trainer(config, setting).run(stream) == 2
    (setting.output / "snapshots" / "step-00000002.pt").unlink()
    assert resume(config, setting, stream) == 2


class MadeUpEvaluator:
    """An evaluator that returns one accuracy of the teacher after the other."""

    def __init__(self, accuracies):
        self.accuracies = iter(accuracies)

    def measure(self, checkpoint, weights, datasets, **_):
        return {"set": {"acc1": next(self.accuracies) if weights == "teacher" else 0.0}}


def test_the_best_snapshot_is_kept_also_if_the_first_value_is_nan(setting, scene_shards):
    settings = [
        *("optim.steps=4", *SHORT),
        *("save.best=set/teacher/acc1", "watch.evaluate_every=1", "watch.datasets=set"),
        "save.keep=1",
    ]
    config = override(RECIPES["scenes_clip"](), settings)
    evaluator = MadeUpEvaluator([float("nan"), 0.5, 0.75, 0.5])
    Trainer(config, setting._replace(evaluator=evaluator)).run(scene_shards)
    snapshots = Snapshots(setting.output, keep=1)
    assert snapshots.best() == Best(3, 0.75)
    assert snapshots.steps() == [3, 4]


def make_trainer(setting, *settings, steps=6):
    """Return the trainer of a run of a few steps."""
    settings = [f"optim.steps={steps}", *SHORT, "compute.precision=fp32", *settings]
    return Trainer(override(RECIPES["scenes_cosmos"](), settings), setting)


@pytest.mark.parametrize("bad_step", [2, 3])
def test_an_update_that_is_not_finite_reaches_no_snapshot(setting, scene_shards, bad_step):
    """It is noticed when the next step has been started, or before a snapshot is written."""
    trainer = make_trainer(setting, "save.every=2")
    steps = itertools.count()

    def change_gradient(gradient):
        return gradient * (math.inf if next(steps) == bad_step else 1)

    trainer._training.model.visual.proj.register_hook(change_gradient)
    with pytest.raises(FloatingPointError, match=f"^step {bad_step}: the gradient's norm is "):
        trainer.run(scene_shards)
    assert Snapshots(setting.output, keep=9).steps() == [2]


def test_a_gradient_that_no_scale_makes_finite_ends_a_run_in_float16(setting, scene_shards):
    """The scale is halved from 2^16: after 30 steps it is 2^-14 = 6.1e-5, below 1e-4."""
    settings = ["optim.steps=40", *SHORT, "compute.precision=fp16", "save.every=20"]
    trainer = Trainer(override(RECIPES["scenes_clip"](), settings), setting)
    trainer._training.model.visual.proj.register_hook(lambda gradient: gradient * math.nan)
    message = r"^step 29: the gradient's norm is nan, .* scale to 6\.1e-05; start again with "
    with pytest.raises(FloatingPointError, match=message):
        trainer.run(scene_shards)


def test_a_step_reads_at_most_two_values_from_the_device(setting, scene_shards, tmp_path):
    def count_reads(steps):
        trainer = make_trainer(setting._replace(output=tmp_path / str(steps)), steps=steps)
        model, teacher = trainer._training.model, trainer._training.teacher
        on_device = [*model.state_dict().values(), *teacher.state_dict().values()]
        with DeviceReads([*on_device, trainer._mean, trainer._std]) as reads:
            trainer.run(scene_shards)
        return reads.found

    reads_of_two_steps = count_reads(steps=2)
    reads_of_four_steps = count_reads(steps=6) - reads_of_two_steps
    assert 0 < reads_of_four_steps.total() <= 2 * 4, reads_of_four_steps


def test_the_pace_of_the_last_step_is_like_that_of_the_others(setting, scene_shards):
    make_trainer(setting, "watch.log_every=1").run(scene_shards)
    paces = [record["timing"]["samples_per_second"] for record in log(setting.output)]
    assert len(paces) == 6
    assert paces[-1] < 20 * max(paces[1:-1])


def tensors_of_second_snapshot(output):
    path = output / "snapshots" / "step-00000002.pt"
    leaves = tree_leaves(torch.load(path, weights_only=True))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def test_a_snapshot_that_is_written_late_has_the_weights_of_its_step(
    setting, scene_shards, tmp_path, monkeypatch
):
    settings = ("save.every=2", "save.keep=9")
    trainer = make_trainer(setting._replace(output=tmp_path / "in time"), *settings)
    trainer.run(scene_shards)
    expected_tensors = tensors_of_second_snapshot(tmp_path / "in time")

    save = Snapshots.save
    trainer = make_trainer(setting._replace(output=tmp_path / "late"), *settings)

    def save_two_steps_later(snapshots, step, state):
        while step == 2 and trainer._steps_done < 4:
            time.sleep(0.001)
        return save(snapshots, step, state)

    monkeypatch.setattr(Snapshots, "save", save_two_steps_later)
    trainer.run(scene_shards)
    tensors = tensors_of_second_snapshot(tmp_path / "late")
    assert len(tensors) == len(expected_tensors) > 100
    for tensor, expected_tensor in zip(tensors, expected_tensors, strict=True):
        assert torch.equal(tensor, expected_tensor)


def test_a_snapshot_that_cannot_be_written_ends_the_run(setting, scene_shards, monkeypatch):
    def fail(snapshots, step, state):
        raise OSError(errno.ENOSPC, "No space left on device", "step.pt")

    monkeypatch.setattr(Snapshots, "save", fail)
    trainer = make_trainer(setting, "save.every=2", steps=50)
    with pytest.raises(OSError, match="No space left"):
        trainer.run(scene_shards)
    assert trainer._steps_done < 50
