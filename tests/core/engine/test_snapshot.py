"""Snapshots: which ones are kept, which damaged ones are skipped, and which ones are refused."""

import gc
import os
import random
import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support import resuming
from support.processes import context
from support.training import METHODS, SINGLE_PROCESS, tiny_config
from support.writing import file_size_limit

from cosmos_core.engine import snapshot
from cosmos_core.model.checkpoint import CheckpointError, read_checkpoint
from cosmos_core.model.sharded import read_weights


def names(output):
    """Return the names of the files in the folder of snapshots of a run."""
    return sorted(path.name for path in (output / "snapshots").iterdir())


def state(value):
    """Return a state to be saved, whose weights all have this value."""
    return {"weights": torch.full((100, 100), float(value)), "nested": {"steps": [1, (2, 3)]}}


def test_the_newest_snapshot_is_read_as_it_was_saved(tmp_path, caplog):
    snapshots = snapshot.Snapshots(tmp_path, keep=2)
    snapshots.save(1, state(1))
    snapshots.save(2, state(2))
    newest = snapshots.newest()
    assert (newest["step"], caplog.messages) == (2, [])
    assert torch.equal(newest["weights"], state(2)["weights"])
    assert newest["nested"] == {"steps": [1, (2, 3)]}


def test_a_copy_takes_the_memory_of_the_former_one():
    first_copy = snapshot.HostCopy({"a": torch.ones(3), "b": torch.ones(2), "step": 1})
    first_addresses = {key: first_copy.state()[key].data_ptr() for key in ("a", "b")}
    state = {"a": torch.arange(3.0), "b": torch.ones(4), "step": 2}
    copied = snapshot.HostCopy(state, first_copy).state()
    assert copied["a"].data_ptr() == first_addresses["a"]
    # `b` has another size now.
    assert copied["b"].data_ptr() not in (first_addresses["b"], state["b"].data_ptr())
    assert copied["step"] == 2
    assert all(torch.equal(copied[key], state[key]) for key in ("a", "b"))
    state["a"].zero_()
    assert copied["a"].tolist() == [0, 1, 2]
    # No memory is taken from a copy with other keys.
    copy_with_c = snapshot.HostCopy({**state, "c": torch.ones(1)}, first_copy).state()
    assert copy_with_c["a"].data_ptr() != first_addresses["a"]


def test_the_last_few_and_the_best_snapshots_are_kept(tmp_path):
    snapshots = snapshot.Snapshots(tmp_path, keep=2)
    for step in (1, 2, 3):
        snapshots.save(step, state(step))
        if step == 2:
            snapshots.note_best(snapshot.Best(2, 0.5))
    for step in (4, 5):
        snapshots.save(step, state(step))
    assert snapshots.steps() == [2, 4, 5]
    snapshots.note_best(snapshot.Best(5, 0.6))
    assert snapshots.steps() == [4, 5]
    assert snapshots.best() == snapshot.Best(5, 0.6)
    assert names(tmp_path) == ["best.json", "step-00000004.pt", "step-00000005.pt"]


# Ways to damage the bytes of a file.


def empty(content):
    return b""


def keep_90_percent(content):
    return content[: int(0.9 * len(content))]


def keep_99_percent(content):
    return content[: int(0.99 * len(content))]


def overwrite_middle(content):
    middle = len(content) // 2
    return content[:middle] + b"\xff" * 8 + content[middle + 8 :]


@pytest.mark.parametrize("damage", [empty, keep_99_percent, overwrite_middle])
def test_a_damaged_snapshot_is_skipped_with_a_warning(tmp_path, damage, caplog):
    snapshots = snapshot.Snapshots(tmp_path, keep=3)
    snapshots.save(1, state(1))
    newest = snapshots.save(2, state(2))
    newest.write_bytes(damage(newest.read_bytes()))
    assert snapshots.newest()["step"] == 1
    (warning,) = caplog.messages
    assert warning.startswith(f"{newest}: damaged, passed over (")


def test_code_in_a_snapshot_is_not_run(tmp_path, caplog):
    snapshots = snapshot.Snapshots(tmp_path, keep=3)
    snapshots.save(1, {"harm": print})
    assert snapshots.newest() is None
    assert "damaged" in caplog.text


def test_files_of_another_format_are_refused(tmp_path):
    snapshots = snapshot.Snapshots(tmp_path, keep=3)
    path = snapshots.save(1, state(1))
    torch.save({"format": 0}, path)
    with pytest.raises(snapshot.SnapshotError, match="not a snapshot of this version"):
        snapshots.newest()


def test_a_failed_write_leaves_nothing(tmp_path):
    snapshots = snapshot.Snapshots(tmp_path, keep=3)
    snapshots.save(1, state(1))
    with pytest.raises(AttributeError):
        snapshots.save(2, {"no pickle": lambda: None})
    assert names(tmp_path) == ["step-00000001.pt"]


def draw_random_numbers():
    return random.random(), np.random.standard_normal(), torch.rand(3).tolist()


def test_random_generators_continue_where_they_were(tmp_path):
    snapshots = snapshot.Snapshots(tmp_path, keep=1)
    draw_random_numbers()
    snapshots.save(1, {"random": [snapshot.random_state()]})
    numbers = draw_random_numbers()
    snapshot.restore_random_state(snapshots.newest()["random"][0])
    assert draw_random_numbers() == numbers


@pytest.mark.parametrize("key", [snapshot.REQUIRED_KEYS[0], snapshot.REQUIRED_KEYS[-1]])
def test_a_snapshot_without_a_required_key_is_damaged(tmp_path, key, caplog):
    snapshots = snapshot.Snapshots(tmp_path, keep=2)
    complete_state = dict.fromkeys(snapshot.REQUIRED_KEYS, 0)
    snapshots.save(1, complete_state)
    newest = snapshots.save(2, complete_state)
    state = torch.load(newest, weights_only=True)
    del state[key]
    torch.save(state, newest)
    assert snapshots.newest(snapshot.REQUIRED_KEYS)["step"] == 1
    assert caplog.messages == [f"{newest}: damaged, passed over (lacks {key})"]


def test_a_snapshot_with_more_steps_than_the_run_is_refused(tmp_path):
    snapshots, config = snapshot.Snapshots(tmp_path, keep=1), tiny_config(METHODS["clip"])
    state = {**dict.fromkeys(snapshot.REQUIRED_KEYS, 0), "config": snapshot.plain_config(config)}
    path = snapshots.save(config.optim.steps + 1, state)
    with pytest.raises(snapshot.SnapshotError, match=f"{path}: has more steps than the run"):
        snapshot.find_state(snapshots, tmp_path, config, resume=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"step": 1, "value": null}', "[" * 9999])
def test_a_damaged_note_of_the_best_snapshot_is_refused(tmp_path, content):
    snapshots = snapshot.Snapshots(tmp_path, keep=2)
    snapshots.save(1, state(1))
    (tmp_path / "snapshots" / "best.json").write_text(content)
    with pytest.raises(snapshot.SnapshotError, match=r"best.json: damaged; remove it"):
        snapshots.best()


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "log.jsonl"])
def test_a_new_run_does_not_replace_files_of_another(tmp_path, name):
    snapshots, config = snapshot.Snapshots(tmp_path, keep=1), tiny_config(METHODS["clip"])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / name).touch()
    assert snapshot.find_state(snapshots, tmp_path, config, resume=False) is None
    (tmp_path / name).write_text("content")
    with pytest.raises(snapshot.SnapshotError, match=f"holds {name} of a run without a snapshot"):
        snapshot.find_state(snapshots, tmp_path, config, resume=False)
    with pytest.raises(snapshot.SnapshotError, match="no whole snapshot to resume from"):
        snapshot.find_state(snapshots, tmp_path, config, resume=True)


def test_a_full_disk_leaves_the_former_snapshots(tmp_path, caplog):
    snapshots = snapshot.Snapshots(tmp_path, keep=1)
    snapshots.save(1, state(1))
    with file_size_limit(10_000), pytest.raises(OSError, match="File too large") as caught:
        snapshots.save(2, state(2))
    assert caught.value.filename == str(tmp_path / "snapshots" / "step-00000002.pt")
    assert names(tmp_path) == ["step-00000001.pt"]
    assert torch.equal(snapshots.newest()["weights"], state(1)["weights"])
    assert caplog.messages == []


@pytest.fixture
def background():
    """The background threads of a training with one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield SINGLE_PROCESS.in_background()
    dist.destroy_process_group()
    # Free the group now: a process that is forked later and frees it would wait for ever.
    gc.collect()


@pytest.fixture
def sharded(tmp_path, background):
    """Snapshots after one and two steps, as folders."""
    snapshots = snapshot.Snapshots(tmp_path, keep=3)
    for step in (1, 2):
        snapshots.save_sharded(step, resuming.divided_state(step), {"method": "clip"}, background)
    return snapshots


def test_a_sharded_snapshot_is_read_as_it_was_saved(sharded, tmp_path, caplog):
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    newest = sharded.newest(["student", "optimizer", "random"])
    assert (newest["step"], newest["random"], caplog.messages) == (2, [7], [])
    assert newest["optimizer"] == {"param_groups": [{"lr": 0.5}]}
    weights, description = read_weights(sharded.path(2))
    assert description == {"method": "clip"}
    expected = resuming.divided_state(2)
    keys = ["student.scale", "student.weight", "teacher.scale", "teacher.weight"]
    assert sorted(weights) == keys
    for key in keys:
        model, parameter = key.split(".")
        assert weights[key].shape == expected[model][parameter].shape
        assert torch.equal(weights[key], expected[model][parameter])
    sharded.save(2, {})
    assert names(tmp_path) == ["step-00000001", "step-00000002.pt"]


SHARD = "shard-00001-model-00001-of-00001.safetensors"


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (SHARD, None, "No such file or directory: "),
        (SHARD, overwrite_middle, f"{SHARD} is not as it was written"),
        (SHARD, keep_90_percent, f"{SHARD} is not as it was written"),
        ("state.pt", None, "No such file"),
        ("state.pt", keep_90_percent, "not a zip file"),
    ],
)
def test_a_sharded_snapshot_with_a_missing_or_damaged_file_is_skipped(
    sharded, tmp_path, name, damage, reason, caplog
):
    path = sharded.path(2) / name
    content = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(content))
    assert sharded.newest()["step"] == 1
    (warning,) = caplog.messages
    assert warning.startswith(f"{sharded.path(2)}: damaged, passed over (")
    assert reason in warning
    assert "\n" not in warning
    with pytest.raises(CheckpointError, match="step-00000002: no whole sharded snapshot") as caught:
        read_checkpoint(tmp_path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_former_sharded_snapshots(sharded, tmp_path, background):
    state = resuming.divided_state(3)
    with file_size_limit(10_000), pytest.raises(OSError, match="File too large") as caught:
        sharded.save_sharded(3, state, {}, background)
    assert caught.value.filename == str(sharded.path(3))
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    sharded.save_sharded(3, state, {}, background)
    assert sharded.newest()["step"] == 3


@pytest.mark.slow
def test_a_killed_write_is_no_snapshot_and_is_removed(sharded, tmp_path):
    ready = context.SimpleQueue()
    writer = context.Process(target=resuming.stay_in_a_snapshot, args=(tmp_path, ready))
    writer.start()
    temporary = ready.get()
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert temporary in names(tmp_path)
    assert sharded.steps() == [1, 2]
    again = context.Process(target=resuming.save_one, args=(tmp_path,))
    again.start()
    again.join()
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003.pt"]
