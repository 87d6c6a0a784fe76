"""Webdatasets that are measured while they are fetched, against a hub on this machine."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import cloudpickle
import huggingface_hub.constants
import pytest
from support.hub import COMMIT, Hub, Trouble
from support.webdatasets import put, refused, shard

import cosmos_eval
from cosmos_core.utils.distributed import Distributed
from cosmos_eval.embedding.stream import ON_DISK, read_in_order
from cosmos_eval.runner.plan import jobs_of, make_plan, open_datasets
from cosmos_eval.runner.run import Worker
from cosmos_eval.types import RunOptions, UsageError

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
STL10 = "datasets/clip-benchmark/wds_stl10"
FLICKR = "datasets/clip-benchmark/wds_flickr8k"
RUN = ("run", "--dataset", "wds/stl10", "--model", MODEL, "--json")
COLOURS = [f"#{255 - 2 * i:02x}{2 * i:02x}{i:02x}" for i in range(90)]
COLOURS[40] = COLOURS[3]  # one image in two archives
COLOURS[81:] = COLOURS[72:81]  # two archives of the same bytes, where labels are the same


@cache
def archives(texts: tuple[str, ...], kind: str = "cls") -> list[bytes]:
    """Ten archives of nine images."""
    samples = [*zip(COLOURS, texts, strict=True)]
    return [shard(*samples[start : start + 9], text=kind) for start in range(0, 90, 9)]


@pytest.fixture
def stl10(hub: Hub) -> Hub:
    put(hub, STL10, "red\ngreen\nblue\n", *archives(tuple(str(i % 3) for i in range(90))))
    return hub


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, in which none is left at the end. No embedding is cached."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "embeddings"))
    yield folder
    assert not [*folder.iterdir()]


def fetched(hub: Hub) -> list[str]:
    """Return the names of the archives that were requested, in order."""
    names = [request.rpartition("/")[2] for request in hub.requests if request.startswith("GET")]
    return [name for name in names if name.endswith(".tar")]


def measured(completed: Any) -> dict[str, Any]:
    """Return the result of a run without the fields that differ between runs."""
    assert completed.status == 0, completed
    (row,) = json.loads(completed.out)
    for name in (
        "utc",
        "seconds",
        "images_per_second",
        "peak_memory_bytes",
        "command",
        "record_sha256",
    ):
        row["provenance"].pop(name)
    return row


@pytest.mark.parametrize("kind", ["cls", "retrieval"])
def test_the_result_equals_that_of_the_downloaded_set_and_few_archives_lie_on_the_disk(
    kind: str, stl10: Hub, command: Any, temporary: Path, tiny_archs: dict[str, str]
) -> None:
    words = ("red", "green", "blue")  # which the model knows
    captions = tuple(f"a {words[i % 3]} {colour}\none of {i}" for i, colour in enumerate(COLOURS))
    stl10.files[f"{FLICKR}/dataset_type.txt"] = b"retrieval\n"
    stl10.files[f"{FLICKR}/test/nshards.txt"] = b"10\n"
    for i, content in enumerate(archives(captions, "txt")):
        stl10.files[f"{FLICKR}/test/{i}.tar"] = content
    run = (*RUN[:2], "wds/flickr8k", *RUN[3:], "--batch-size", "7", "--no-cache")
    if kind == "cls":  # by a model whose last bits depend on the images of a batch
        run = (*run[:2], "wds/stl10", "--model", f"openclip:{tiny_archs['tiny']}/random", *run[5:])
    archives_on_disk = []

    def count_archives(request: str) -> None:
        if request.startswith("GET") and request.endswith(".tar"):
            archives_on_disk.append(len([*temporary.glob("*/hub-*/*/blobs/*")]))

    stl10.on_request = count_archives
    streamed = measured(command(*run, "--stream", "--output", "streamed"))
    assert len(archives_on_disk) == 10
    assert max(archives_on_disk) <= ON_DISK
    assert not [*Path(huggingface_hub.constants.HF_HUB_CACHE).rglob("*.tar")]
    assert streamed == measured(command(*run, "--download", "--output", "downloaded"))
    assert streamed["n_samples"] == 90
    assert streamed["provenance"]["revision"] == COMMIT
    assert streamed["provenance"]["hashes"]["content"]
    (streamed_samples,) = Path("streamed").glob("*.npz")
    (downloaded_samples,) = Path("downloaded").glob("*.npz")
    assert streamed_samples.read_bytes() == downloaded_samples.read_bytes()


def test_a_stopped_run_encodes_no_image_again_and_fetches_no_archive_that_it_has_encoded(
    stl10: Hub, command: Any
) -> None:
    run = (*RUN, "--stream", "--batch-size", "1")
    stl10.trouble[f"{STL10}/test/8.tar"] = 503
    refused(command(*run), "cannot fetch clip-benchmark/wds_stl10", "status 503")
    assert not [*Path("runs/eval").glob("*")]
    stl10.trouble.clear()
    stl10.requests.clear()
    first = measured(command(*run))
    # The 32 images of the first shard were encoded: three archives and five images of the next.
    assert fetched(stl10) == [f"{i}.tar" for i in range(3, 10)]
    stl10.requests.clear()
    assert measured(command(*run)) == first
    assert fetched(stl10) == []
    cache_spaces = json.loads(command("cache", "info", "--json").out)["spaces"]
    assert "archive" in {space["identity"]["role"] for space in cache_spaces}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("test/8.tar", b"no tar" * 200, ("wds_stl10/test/8.tar: not an uncompressed tar",)),
        ("test/8.tar", shard(("red", "3")), ("test/8.tar:s0000000.cls holds '3'", "not a class")),
        ("test/8.tar", None, (COMMIT, "counts 10 archives, and lacks test/8.tar")),
        ("test/8.tar", "changed", ("wds_stl10/test/8.tar is damaged, its SHA-256", "run again")),
        ("test/8.tar", "short", ("cannot fetch clip-benchmark/wds_stl10",)),
        ("classnames.txt", None, ("cannot read clip-benchmark/wds_stl10/classnames.txt",)),
        ("test/nshards.txt", b"many", ("nshards.txt must hold the number of archives",)),
    ],
)
def test_a_fault_of_a_repository_is_named_in_one_line(
    file: str, content: bytes | Trouble | None, expected: tuple[str, ...], stl10: Hub, command: Any
) -> None:
    name = f"{STL10}/{file}"
    if content is None:
        del stl10.files[name]
    elif isinstance(content, bytes):
        stl10.files[name] = content
    else:
        stl10.trouble[name] = content
    refused(command(*RUN, "--stream"), *expected)
    assert not [*Path("runs/eval").glob("*")]
    if file == "classnames.txt":  # noticed with the first archive
        assert len(fetched(stl10)) <= ON_DISK


def test_the_number_of_images_is_checked_before_a_result_is_written(hub: Hub, command: Any) -> None:
    classes = "".join(f"{i}\n" for i in range(37))
    repository = "datasets/djghosh/wds_vtab-pets_test"
    put(hub, repository, classes, shard(("red", "0")), shard(("lime", "1"), ("blue", "2")))
    run = ("run", "--dataset", "wds/vtab/pets", "--protocol", "datacomp", "--model", MODEL)
    message = "djghosh/wds_vtab-pets_test has 3 of 3669 images of wds/vtab/pets"
    refused(command(*run, "--stream"), message, "--partial")
    assert not [*Path("runs/eval").glob("*")]
    result = measured(command(*run, "--stream", "--partial", "--json"))
    assert result["provenance"]["partial"] == "3 of 3669 images"


def test_with_download_the_archives_are_kept(stl10: Hub, command: Any) -> None:
    first = measured(command(*RUN, "--stream", "--download"))
    stl10.requests.clear()
    assert measured(command(*RUN, "--output", "again")) == first
    assert stl10.requests == []
    assert measured(command(*RUN, "--stream", "--no-cache", "--output", "more")) == first
    assert fetched(stl10) == []


def test_python_streams_as_the_command_does(stl10: Hub, command: Any) -> None:
    result = cosmos_eval.evaluate(MODEL, "wds/stl10", stream=True, output="python")
    assert not [*Path(huggingface_hub.constants.HF_HUB_CACHE).rglob("*.tar")]
    assert result.metrics == measured(command(*RUN, "--stream"))["metrics"]
    (python_samples,) = Path("python").glob("*.npz")
    (command_samples,) = Path("runs/eval").glob("*.npz")
    assert python_samples.read_bytes() == command_samples.read_bytes()


def test_runs_that_cannot_be_streamed_are_refused_in_one_line(stl10: Hub, command: Any) -> None:
    refused(command(*RUN, "--stream", "--limit", "3"), "--stream reads whole sets", "no --limit")
    refused(command("run", "--model", MODEL, "--stream"), "--stream is for archives of the hub")
    pairs = ("run", "--dataset", "wds/flickr8k", "--protocol", "clip-benchmark-pairs")
    refused(command(*pairs, "--stream"), "clip-benchmark-pairs needs images twice")
    with pytest.raises(UsageError, match="torchrun"):
        RunOptions(stream=True, distributed=Distributed(1, 2))
    (plan,) = json.loads(command(*RUN, "--stream", "--dry-run").out)
    assert plan["data_state"] == "streamed"
    assert stl10.requests == []


def test_a_job_of_another_process_streams_there(stl10: Hub) -> None:
    plan = make_plan(datasets=["wds/stl10"], models=[MODEL], options=RunOptions(stream=True))
    (job,) = jobs_of(plan, open_datasets(plan))
    assert fetched(stl10) == []
    (result,) = Worker().run(cloudpickle.loads(cloudpickle.dumps(job)))
    assert result.row is not None
    assert result.row.n_samples == 90
    assert fetched(stl10) == [f"{i}.tar" for i in range(10)]


def test_files_are_fetched_in_order_a_few_ahead_of_the_reader() -> None:
    fetched: list[str] = []
    enough = Semaphore(0)

    def fetch(file: str) -> Callable[[], str]:
        fetched.append(file)
        if len(fetched) >= ON_DISK:
            enough.release()
        return lambda: file

    files = [str(i) for i in range(9)]
    with read_in_order(files, fetch) as read:
        for number, file in enumerate(read):
            assert file == files[number]
            assert number > len(files) - ON_DISK or enough.acquire(timeout=9)
            time.sleep(0.001)  # in which another file would be fetched
            assert fetched == files[: number + ON_DISK]


# A file is left to the garbage collector where the signal comes between its opening and `with`.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_control_c_leaves_no_file(stl10: Hub, command: Any) -> None:
    ended = Event()

    def interrupt(request: str) -> None:
        if request.startswith("GET") and request.endswith("5.tar"):
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait()

    stl10.on_request = interrupt
    before = {*threading.enumerate()}
    # A shell's background job, as these tests may be, ignores the signal.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert command(*RUN, "--stream").status == 130
        assert not [*Path("runs/eval").glob("*")]
    finally:
        signal.signal(signal.SIGINT, former)
        ended.set()
        for thread in {*threading.enumerate()} - before:  # what they print belongs to this test
            thread.join(9)
