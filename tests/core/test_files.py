"""Atomic writing of files and folders, temporary files of killed and living processes, and packed
arrays."""

import errno
import io
import os
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from support.writing import Writing, file_size_limit

from cosmos_core.utils import files
from cosmos_core.utils.errors import UsageError


def names(folder):
    return sorted(os.listdir(folder))


def write_then_fail(folder):
    (folder / "half").touch()
    raise FileNotFoundError


def forget_folders():
    """Look through folders as a new process does."""
    files._cleared.clear()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replacing", "appearing"])
def test_temporary_files_of_killed_processes_are_removed_and_those_of_living_ones_stay(
    tmp_path, kind
):
    # Files of users, whose names are similar to those of temporary files.
    for name in (".notes.tmp", "a.part", ".0123abcd.tmp", f".{'0' * 8}-{'0' * 31}.tmp"):
        (tmp_path / name).touch()
    names_of_users = names(tmp_path)
    living_process = Writing(tmp_path, kind)
    try:
        (temporary_name,) = set(names(tmp_path)) - set(names_of_users)
        Writing(tmp_path, kind).kill()
        assert len(names(tmp_path)) == len(names_of_users) + 2
        forget_folders()
        files.write_atomically(tmp_path / "result", b"new")
        assert names(tmp_path) == sorted([*names_of_users, temporary_name, "result"])
    finally:
        living_process.kill()
    forget_folders()
    files.write_atomically(tmp_path / "result", b"newer")
    assert names(tmp_path) == sorted([*names_of_users, "result"])
    assert (tmp_path / "result").read_bytes() == b"newer"


def test_a_temporary_file_of_another_machine_stays_for_a_day(tmp_path):
    # Locks of some network file systems are only seen on one machine.
    path = tmp_path / f".{'0' * 8}-{'a' * 32}.tmp"
    path.touch()
    files.write_atomically(tmp_path / "result", b"")
    assert path.exists()
    day_ago = time.time() - 86_500
    os.utime(path, (day_ago, day_ago))
    forget_folders()
    files.write_atomically(tmp_path / "result", b"")
    assert names(tmp_path) == ["result"]


def test_concurrent_writers_lose_nothing_by_removing_temporary_files(tmp_path):
    # Every write here looks through the folder, as the first write of a process does.
    failures = []

    def write(number):
        try:
            for turn in range(40):
                forget_folders()
                files.write_atomically(tmp_path / f"{number}", f"{turn}".encode())
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    assert names(tmp_path) == ["0", "1", "2", "3"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"39"}


def write_9000_bytes(file):
    file.write(bytes(9000))


def save_tensor(file):
    torch.save(torch.zeros(10_000), file)  # which raises another error than `write`


@pytest.mark.parametrize("write", [write_9000_bytes, save_tensor])
def test_a_full_disk_keeps_the_former_file_and_names_it(tmp_path, write):
    path = tmp_path / "state"
    path.write_bytes(b"former")
    with (
        file_size_limit(4000),
        pytest.raises(OSError, match="File too large") as caught,
        files.errors_of(path),
        files.replacing(path) as file,
    ):
        write(file)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == b"former"
    assert names(tmp_path) == ["state"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(FileNotFoundError), files.appearing(tmp_path / "new") as folder:
        write_then_fail(folder)
    assert names(tmp_path) == []
    with files.appearing(tmp_path / "new") as folder:
        (folder / "file").touch()
        assert not (tmp_path / "new").exists()
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["file"]


def test_a_check_of_a_folder_leaves_nothing(tmp_path):
    files.require_writable(tmp_path / "a" / "b")
    files.require_replaceable(tmp_path / "a" / "b.html")
    assert names(tmp_path) == []


def test_paths_that_cannot_be_written_are_refused_by_name(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    below = tmp_path / "file" / "a" / "b"
    with pytest.raises(ValueError, match=f"cannot write to {below}: Not a directory"):
        files.require_writable(below)
    with pytest.raises(ValueError, match=r"file: Not a directory"):
        files.require_writable(tmp_path / "file")
    with pytest.raises(ValueError, match="File name too long"):
        files.require_writable(tmp_path / ("x" * 300))
    with file_size_limit(100), pytest.raises(ValueError, match="File too large"):
        files.require_writable(tmp_path)
    with pytest.raises(ValueError, match="it is a folder; name a file"):
        files.require_replaceable(tmp_path)
    files.require_replaceable(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):  # nobody reads it
        files.write_atomically(tmp_path / "pipe", b"")
    assert names(tmp_path) == ["file", "pipe"]


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomically(pipe, b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_and_read_only_file_systems_are_refused_by_name(tmp_path, monkeypatch, code):
    def refuse(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ValueError, match=f"cannot write to {tmp_path}: {os.strerror(code)}"):
        files.require_writable(tmp_path)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        files.write_atomically(tmp_path / "result", b"")
    assert caught.value.filename == str(tmp_path / "result")
    assert names(tmp_path) == []


def packed_examples():
    """Arrays of every kind that samples have, and the content of their .npz file."""
    arrays = {
        "labels": np.arange(5),
        "names": np.array(["a", "dog on grass", ""]),
        "top5": np.asfortranarray(np.arange(12, dtype=np.int32).reshape(3, 4)),
        "scores": np.array([0.1, -0.0, np.inf], np.float32),
        "empty": np.zeros((0, 7), bool),
        "level": np.array(2.5),
    }
    return arrays, files.pack_arrays(arrays)


def have_equal_arrays(arrays, others):
    return arrays.keys() == others.keys() and all(
        array.dtype == others[name].dtype
        and array.shape == others[name].shape
        and array.tobytes() == others[name].tobytes()
        for name, array in arrays.items()
    )


def test_unpacked_arrays_are_those_that_numpy_loads():
    arrays, content = packed_examples()
    unpacked = files.unpack_arrays(content)
    with np.load(io.BytesIO(content)) as loaded:
        assert have_equal_arrays(dict(loaded), unpacked)
    assert have_equal_arrays(arrays, unpacked)
    assert unpacked["top5"].flags.f_contiguous


def test_no_damaged_byte_changes_an_array():
    arrays, content = packed_examples()
    n_refused = 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        try:
            unpacked = files.unpack_arrays(bytes(damaged))
        except ValueError:
            n_refused += 1
        else:
            # The byte held something else than arrays, such as the time of writing. A damaged list
            # of members may lack arrays.
            remaining_arrays = {name: arrays[name] for name in unpacked}
            assert have_equal_arrays(remaining_arrays, unpacked), position
    assert n_refused > len(content) / 6


def test_arrays_of_objects_and_other_files_are_refused():
    content = io.BytesIO()
    np.savez_compressed(content, objects=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        files.unpack_arrays(content.getvalue())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(ValueError, match="magic"):
        files.unpack_arrays(content.getvalue())


def test_no_cache_is_made_in_a_folder_that_is_called_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COSMOS_EVAL_CACHE", "~/cache")
    assert files.cache_folder() == tmp_path / "cache"

    def fail(user_id: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", fail)
    for name in ("HOME", "XDG_CACHE_HOME", "COSMOS_EVAL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="set HOME, or COSMOS_EVAL_CACHE to a folder"):
        files.cache_folder()
