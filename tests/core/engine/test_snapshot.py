"""Snapshot files: what stays, what is passed over, what is refused."""

import random

import numpy as np
import pytest
import torch

from cosmos_core.engine.snapshot import Best, SnapshotError, Snapshots
from cosmos_core.engine.state import random_state, restore_random_state


def names(folder):
    return sorted(path.name for path in (folder / "snapshots").iterdir())


def state(value):
    return {"weights": torch.full((100, 100), float(value)), "nested": {"steps": [1, (2, 3)]}}


def test_the_newest_comes_back_as_it_was(tmp_path):
    snapshots = Snapshots(tmp_path, keep=2)
    snapshots.save(1, state(1))
    snapshots.save(2, state(2))
    found, warnings = snapshots.newest()
    assert (found["step"], warnings) == (2, [])
    assert torch.equal(found["weights"], state(2)["weights"])
    assert found["nested"] == {"steps": [1, (2, 3)]}


def test_the_last_few_and_the_best_stay(tmp_path):
    snapshots = Snapshots(tmp_path, keep=2)
    for step in (1, 2, 3):
        snapshots.save(step, state(step))
        if step == 2:
            snapshots.note_best(Best(2, 0.5))
    for step in (4, 5):
        snapshots.save(step, state(step))
    assert snapshots.steps() == [2, 4, 5]
    snapshots.note_best(Best(5, 0.6))
    assert snapshots.steps() == [4, 5]
    assert snapshots.best() == Best(5, 0.6)
    assert names(tmp_path) == ["best.json", "step-00000004.pt", "step-00000005.pt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_snapshot_is_passed_over_with_a_warning(tmp_path, share):
    snapshots = Snapshots(tmp_path, keep=3)
    snapshots.save(1, state(1))
    newest = snapshots.save(2, state(2))
    content = newest.read_bytes()
    newest.write_bytes(content[: int(share * len(content))])
    found, warnings = snapshots.newest()
    assert found["step"] == 1
    assert len(warnings) == 1
    assert str(newest) in warnings[0]
    assert "damaged" in warnings[0]


def test_flipped_bytes_are_noticed(tmp_path):
    snapshots = Snapshots(tmp_path, keep=3)
    newest = snapshots.save(2, state(2))
    content = bytearray(newest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = b"\xff" * 8
    newest.write_bytes(content)
    found, warnings = snapshots.newest()
    assert found is None
    assert len(warnings) == 1


def test_code_in_a_snapshot_is_not_run(tmp_path):
    snapshots = Snapshots(tmp_path, keep=3)
    snapshots.save(1, {"harm": print})
    found, (warning,) = snapshots.newest()
    assert found is None
    assert "damaged" in warning


def test_files_of_another_format_are_refused(tmp_path):
    snapshots = Snapshots(tmp_path, keep=3)
    path = snapshots.save(1, state(1))
    torch.save({"format": 0}, path)
    with pytest.raises(SnapshotError, match="not a snapshot of this version"):
        snapshots.newest()


def test_a_failed_write_leaves_nothing(tmp_path):
    snapshots = Snapshots(tmp_path, keep=3)
    snapshots.save(1, state(1))
    with pytest.raises(AttributeError):
        snapshots.save(2, {"no pickle": lambda: None})
    assert names(tmp_path) == ["step-00000001.pt"]


def test_random_generators_go_on_where_they_were(tmp_path):
    snapshots = Snapshots(tmp_path, keep=1)
    random.random(), np.random.standard_normal(), torch.rand(3)
    snapshots.save(1, {"random": [random_state()]})
    first = (random.random(), np.random.standard_normal(), torch.rand(3).tolist())
    found, _ = snapshots.newest()
    restore_random_state(found["random"][0])
    assert (random.random(), np.random.standard_normal(), torch.rand(3).tolist()) == first
