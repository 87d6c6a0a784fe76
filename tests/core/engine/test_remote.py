"""Copies of snapshots on file systems of fsspec, by the runs that make and fetch them."""

import json
import logging
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from support.runs import log as read_log
from support.training import SMALL_MODEL

from cosmos_core.cli import _lock_output
from cosmos_core.engine.remote import Remote
from cosmos_core.engine.snapshot import Best, SnapshotError, Snapshots
from cosmos_core.engine.trainer import Trainer
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def url(request, tmp_path):
    """A place that holds nothing; S3's is a bucket of a server on this machine."""
    if request.param == "s3":
        request.getfixturevalue("bucket")
    folder = tmp_path / "copies"
    yield f"file://{folder}" if request.param == "file" else f"{request.param}://bucket{folder}"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def output(tmp_path):
    """A folder with the snapshots of steps 2 and 4, and a log."""
    save(folder := tmp_path / "run", 2, 4)
    (folder / "log.jsonl").write_text('{"step": 0}\n')
    return folder


def save(output, *steps, keep=3):
    for step in steps:
        Snapshots(output, keep).save(step, {"weights": torch.full((3,), float(step))})


def weights(output):
    return [Snapshots(output, 9).newest()["weights"][0].item(), Snapshots(output, 9).steps()]


def opened(url):
    """A file system of a URL, without a cache, and the path in it."""
    return fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)


def names(url):
    """The files of all copies, but for hidden ones."""
    files, root = opened(url)
    return sorted(path.split(root.strip("/") + "/")[1] for path in files.find(root))


def test_copies_are_the_snapshots_and_the_log_without_those_that_are_removed(output, url):
    Remote(url, output).update()
    assert names(url) == ["log.jsonl", *names_of_snapshot(2), *names_of_snapshot(4)]
    Snapshots(output, 3).note_best(Best(2, 0.5))
    save(output, 6, keep=1)
    Remote(url, output).update()
    expected = ["log.jsonl", "snapshots/best.json", *names_of_snapshot(2), *names_of_snapshot(6)]
    assert names(url) == expected


def names_of_snapshot(step):
    folder = f"step-{step:08d}"
    return [f"{folder}/complete.json", f"{folder}/{folder}.pt"]


def test_an_empty_folder_gets_the_newest_complete_copy(output, url, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    Snapshots(output, 3).note_best(Best(2, 0.5))
    Remote(url, output).update()
    files, root = opened(url)
    files.makedirs(f"{root}/step-00000006", exist_ok=True)
    files.pipe_file(f"{root}/step-00000006/step-00000006.pt", b"interrupted")
    Remote(url, tmp_path / "empty").prepare(resume=True)
    assert weights(tmp_path / "empty") == [4, [4]]
    assert Snapshots(tmp_path / "empty", 1).best() == Best(2, 0.5)
    assert read_log(tmp_path / "empty") == [{"step": 0}]
    assert f"fetched the snapshot of step 4 from {url}" in caplog.text
    save(output, 8)
    Remote(url, output).prepare(resume=True)  # which is older
    assert weights(output)[1] == [2, 4, 8]


def test_a_copy_that_is_not_whole_is_not_resumed_from(output, url, tmp_path):
    Remote(url, output).update()
    files, root = opened(url)
    files.pipe_file(f"{root}/step-00000004/step-00000004.pt", b"cut")
    with pytest.raises(ValueError, match=r"step-00000004.* has 3 of "):
        Remote(url, tmp_path / "empty").prepare(resume=True)
    assert Snapshots(tmp_path / "empty", 1).steps() == []


def test_a_copy_is_complete_only_after_its_log_is_copied(output, url, monkeypatch):
    """Otherwise a run that is killed in between would lose the last lines of its log."""
    Remote(url, output).update()
    save(output, 6)
    remote = Remote(url, output)

    def put_file(path, copy):
        assert not path.endswith("log.jsonl"), "killed before the log is copied"
        return copy_file(path, copy)

    copy_file = remote._file_system.put_file
    monkeypatch.setattr(remote._file_system, "put_file", put_file)
    with pytest.raises(AssertionError, match="killed"):
        remote.update()
    assert Remote(url, output).steps() == [2, 4]


def test_a_new_run_does_not_mix_with_the_copies_of_another(output, url, tmp_path):
    Remote(url, output).update()
    with pytest.raises(SnapshotError, match="holds a run of 4 steps: go on by --resume"):
        Remote(url, tmp_path / "other").prepare(resume=False)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file:///proc/nowhere", "save.remote=file:///proc/nowhere: "),
        ("s4://bucket", "Protocol not known: s4"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_in_a_line(tmp_path, place, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        Remote(place, tmp_path).prepare(resume=False)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"pip install 'cosmos-eval\[s3\]'"):
        Remote("s3://bucket/run", tmp_path)


def test_a_failed_copy_is_reported_tried_again_and_in_the_end_an_error(output, tmp_path):
    url, said = f"file://{tmp_path}/copies", []
    blocked = tmp_path / "copies"
    blocked.write_text("no folder")
    with Remote(url, output, said.append) as remote:
        remote.start()
        with pytest.raises(OSError, match="the newest snapshot has no copy") as caught:
            remote.finish()
        assert caught.value.filename == url
        (line,) = said
        assert "tried again with the next snapshot" in line
        blocked.unlink()
        save(output, 6)
        remote.start()
        remote.finish()
    assert len(said) == 1
    assert remote.steps() == [2, 4, 6]


def run(setting, shards, url, steps, **options):
    settings = [*("data.workers=0", "watch.pictures=false", "compute.precision=fp32")]
    settings += [
        SMALL_MODEL,
        f"save.remote={url}",
        "optim.batch_size=4",
        "optim.steps=4",
        "save.every=2",
    ]
    trainer = Trainer(override(RECIPES["scenes_clip"](), settings), setting, **options)
    return trainer.run(shards)


def test_a_run_goes_on_bitwise_on_an_empty_machine(setting, scene_shards, url, tmp_path):
    run(setting, scene_shards, url, 4)
    assert Remote(url, setting.output).steps() == [2, 4]
    files, root = opened(url)
    files.rm(f"{root}/step-00000004", recursive=True)
    other = tmp_path / "other"
    with ExitStack() as stack:
        assert _lock_output(stack, url, other, "auto") is True
        run(setting._replace(output=other), scene_shards, url, 4, resume=True)
    states = [Snapshots(folder, 9).newest() for folder in (setting.output, other)]
    assert all(map(torch.equal, *(state["student"].values() for state in states)))
    logs = [[{**r, "timing": None} for r in read_log(folder)] for folder in (setting.output, other)]
    assert logs[0] == logs[1]
    assert Remote(url, other).steps() == [2, 4]
    assert json.loads(files.cat_file(f"{root}/log.jsonl").splitlines()[-1])["step"] == 3


def test_the_advice_on_a_snapshot_that_does_not_fit_names_its_copy(setting, scene_shards, tmp_path):
    """Otherwise --resume would fetch the same snapshot again."""
    url = f"file://{tmp_path}/copies"
    run(setting, scene_shards, url, 4)
    path = setting.output / "snapshots" / "step-00000004.pt"
    state = torch.load(path, weights_only=True)
    state["teacher"]["visual.proj"][0, 0] = float("nan")
    torch.save(state, path)
    Remote(url, setting.output)._copy(4)
    message = (
        r"step-00000004\.pt: .*; remove it, and its copy if save\.remote has one, and --resume"
    )
    with pytest.raises(SnapshotError, match=message):
        run(setting, scene_shards, url, 4, resume=True)
    # The user follows the advice.
    path.unlink()
    shutil.rmtree(tmp_path / "copies" / "step-00000004")
    Remote(url, setting.output).prepare(resume=True)
    assert run(setting, scene_shards, url, 4, resume=True) == 4


def test_a_finished_run_that_is_fetched_has_its_checkpoint(setting, scene_shards, url, tmp_path):
    run(setting, scene_shards, url, 4)
    other = tmp_path / "other"
    with ExitStack() as stack:
        _lock_output(stack, url, other, "always")
        assert run(setting._replace(output=other), scene_shards, url, 4, resume=True) == 4
    first, second = (
        Path(folder, "checkpoint.safetensors").stat().st_size for folder in (setting.output, other)
    )
    assert first == second
