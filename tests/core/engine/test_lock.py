"""The lock of an output folder: who holds it, and what a dead holder leaves."""

import json
import os
import platform

import pytest
from support.processes import context
from support.resuming import hold

from cosmos_core.engine import lock


@pytest.fixture
def holder(tmp_path):
    """A living process that holds the lock of the folder `run`."""
    ready = context.Queue()
    process = context.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    ready.get(timeout=60)
    yield process
    process.kill()
    process.join()


def take(output):
    with lock.locked(output):
        return json.loads((output / lock.LOCK).read_text())


def test_a_second_run_is_refused_with_the_holders_host_and_process(tmp_path, holder):
    with pytest.raises(ValueError, match="is in use by a run") as caught:
        take(tmp_path / "run")
    assert f"process {holder.pid} on {platform.node()}, since 20" in str(caught.value)
    holder.kill()
    holder.join()
    assert (tmp_path / "run" / lock.LOCK).exists()
    assert take(tmp_path / "run")["process"] == os.getpid()


def test_without_a_lock_of_the_file_system_a_living_process_is_recognised(
    tmp_path, holder, monkeypatch
):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", unsupported)
    with pytest.raises(ValueError, match=f"in use by a run: process {holder.pid} on"):
        take(tmp_path / "run")
    holder.kill()
    holder.join()
    assert take(tmp_path / "run")["process"] == os.getpid()


def test_the_lock_of_another_machine_is_for_a_user_to_judge(tmp_path):
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps({"host": "node7", "process": 12, "since": "then"}))
    with pytest.raises(ValueError, match="process 12 on node7, since then") as caught:
        take(tmp_path)
    assert str(caught.value).endswith(f"if that process has ended, remove {path}")
    path.unlink()
    assert take(tmp_path)["host"] == platform.node()


def test_torchrun_may_start_the_first_process_again_on_another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 8")
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps({"host": "node7", "process": 12, "since": "then", "run": "job 8"}))
    assert take(tmp_path)["host"] == platform.node()
    path.write_text(json.dumps({"host": "node7", "process": 12, "since": "then", "run": "job 7"}))
    with pytest.raises(ValueError, match="process 12 on node7"):
        take(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_lock_file_without_a_holder_is_taken_over(tmp_path, content):
    (tmp_path / lock.LOCK).write_text(content)
    assert take(tmp_path)["process"] == os.getpid()


def test_nothing_is_left_of_a_run_that_ends_also_by_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), lock.locked(tmp_path / "run"):
        raise RuntimeError("of the run")
    assert list((tmp_path / "run").iterdir()) == []
