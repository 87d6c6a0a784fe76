"""Processes with different data stop before the first step, all of them."""

import platform
import shutil

import pytest
from support.runs import STEPS, finish, log, shard_settings, start_ranks
from support.shards import sample, write_shard, write_shards

pytestmark = pytest.mark.slow  # starts processes of its own

SAMPLES = 16
HOST = platform.node()


@pytest.fixture
def folders(tmp_path):
    """Two equal tars in a folder of each process, `0` and `1`."""
    write_shards(tmp_path / "0", [SAMPLES, SAMPLES])
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    return tmp_path


def train(folders, tars="*.tar"):
    words = shard_settings(f"{folders}/${{RANK}}/{tars}")
    return start_ranks(folders / "run", *words)


def test_equal_tars_in_different_folders_are_trained_on(folders):
    for process in train(folders):
        finish(process)
    assert [record["step"] for record in log(folders / "run")] == list(range(STEPS))


def lose_samples(tar):
    write_shard(tar, map(sample, range(SAMPLES, 2 * SAMPLES - 2)))
    return f"1.tar of {tar.stat().st_size} bytes with {SAMPLES - 2} samples (positions "


def lose_a_tar(tar):
    tar.unlink()
    return "missing"


@pytest.mark.parametrize("change", [lose_samples, lose_a_tar])
def test_another_tar_of_one_process_ends_all_with_status_2_and_one_line(folders, change):
    difference = change(folders / "1" / "1.tar")
    first, second = (finish(process, status=2) for process in train(folders))
    assert second == ""  # the first process prints for both
    assert first.count("\n") == 1
    line = f"rank 1 on {HOST} has other data than rank 0 on {HOST}: shard 2 is {difference}"
    assert line in first
    assert f"not 1.tar of {(folders / '0' / '1.tar').stat().st_size} bytes with {SAMPLES}" in first
    assert log(folders / "run") == []


def test_streams_of_other_names_are_told_apart(folders):
    spec = f"pipe:cat {folders}/0/${{RANK}}.tar"
    first, _ = (
        finish(process, status=2)
        for process in start_ranks(folders / "run", *shard_settings(f"{spec}::{spec}"))
    )
    assert "shard 1 is 1.tar, not 0.tar" in first
