"""Damaged and foreign files among results: each has its own verdict, and hides no other."""

import io
import json
import os
import signal
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from support.forging import forge
from support.results import store_result

from cosmos_eval.results.checked import read_results
from cosmos_eval.results.store import read_result, result_paths
from cosmos_eval.results.verify import verify, verify_all
from cosmos_eval.types import UsageError


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    """Fail instead of waiting for ever, as a pipe without a writer would."""

    def stop(*_: object) -> None:
        pytest.fail("blocked for 20 s")  # no Exception, which reading catches

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def npz(*, save: Callable[..., None] = np.savez, **arrays: Any) -> bytes:
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    return npz(save=np.save, arr=array)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def encrypted() -> bytes:
    """A zip file whose flags say that its member is encrypted."""
    content = bytearray(zipped({"labels.npy": npy(np.arange(3))}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def bomb() -> bytes:
    """A small zip file that says it has 4 GiB twice unpacked."""
    data = npy(np.arange(3))
    content = zipped({"labels.npy": data, "top5.npy": data})
    start = content.index(b"PK\x01\x02")  # of the directory, where the size is written again
    size = len(data).to_bytes(4, "little")
    directory = content[start:].replace(size + size, size + (0xFFFFFFFE).to_bytes(4, "little"))
    return content[:start] + directory


ARCHIVES: dict[str, bytes] = {
    "empty": b"",
    "no zip": b"\x00" * 100,
    "an array alone": npy(np.arange(3)),
    "a pickle": b"\x80\x04K\x05.",
    "object arrays": npz(labels=np.array([{}, None], object)),
    "an empty zip": zipped({}),
    "text as a member": zipped({"labels.npy": b"five"}),
    "an empty member": zipped({"labels.npy": b""}),
    "a cut member": zipped({"labels.npy": npy(np.arange(99))[:-5]}),
    "encrypted": encrypted(),
    "larger than memory": bomb(),
    "arrays of no task": npz(x=np.arange(3)),
    "labels that are text": npz(labels=np.array(["a"]), top5=np.array([["a"]]), classes=["a"]),
    "labels without samples": npz(labels=[], top5=np.zeros((0, 5), int), classes=["a"]),
    "labels out of range": npz(labels=[7], top5=[[0]], classes=np.array(["a"])),
    "classes that are pickled": npz(labels=[0], top5=[[0]], classes=np.array(["a"], object)),
    "confidences that are none": npz(
        labels=[0], top5=[[0]], classes=np.array(["a"]), confidence=[np.nan]
    ),
    "groups out of range": npz(
        labels=[0], top5=[[0]], classes=np.array(["a"]), group=[1], groups=np.array(["b"])
    ),
    "numbers for arrays": npz(labels=np.array(1), top5=np.array(1), classes=np.array(1)),
}


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_samples_that_are_none(tmp_path: Path, name: str) -> None:
    path = store_result(tmp_path, "cls")
    forge(path, ARCHIVES[name])
    verdict = verify(path)
    assert verdict.outcome in ("differs", "not looked at")
    assert "\n" not in "".join([*verdict.differences, verdict.obstacle])


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(path.parent, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")  # names of sockets are short
        os.close(directory)


def a_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


FILES: dict[str, Callable[[Path], object]] = {
    "a_pipe": os.mkfifo,
    "a_socket": a_socket,
    "a_sparse_file": a_sparse_file,
    "deep": lambda path: path.write_text("[" * 100_000),
    "deep_within_limits": lambda path: path.write_text(
        '{"schema_version": 2, "per_class": ' + "[" * 500 + "]" * 500 + "}"
    ),
    "binary": lambda path: path.write_bytes(b"\x00\x05\x16\x07\xff\xfe"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "long_number": lambda path: path.write_text('{"schema_version": 1' + "0" * 6000 + "}"),
    "surrogate_key": lambda path: path.write_text('{"schema_version": 2, "\\ud800": 1}'),
    "surrogate": lambda path: path.write_text('{"schema_version": "\\ud800"}'),
}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder of one whole result, bad files, a folder called like a result, hidden ones."""
    folder = tmp_path / "results"
    store_result(folder, "cls", provenance={"hashes": {"sample_list": "c" * 64}})
    for name, make in FILES.items():
        make(folder / f"{name}.json")
    (folder / "folder.json").mkdir()
    (folder / "._hidden.json").write_bytes(b"\x00\x05\x16\x07\xff\xfe")
    return folder


def test_each_file_has_a_verdict(damaged: Path) -> None:
    verdicts = {Path(verdict.path).stem: verdict for verdict in verify_all([damaged])}
    assert verdicts.pop("scenes-cosmos__scenes-cls__scenes").outcome == "verified"
    assert {name: verdict.outcome for name, verdict in verdicts.items()} == dict.fromkeys(
        FILES, "not looked at"
    )


def test_samples_of_another_are_found_among_damaged_files(damaged: Path) -> None:
    path = damaged / "scenes-cosmos__scenes-cls__scenes.json"
    path.with_name(read_result(path).samples).write_bytes(b"edited")
    (line,) = verify(path).differences
    assert line.startswith("edited samples: ")


def test_the_samples_are_a_pipe(tmp_path: Path) -> None:
    path = store_result(tmp_path, "cls")
    samples = tmp_path / read_result(path).samples
    samples.unlink()
    os.mkfifo(samples)
    assert verify(path).obstacle.endswith("is a pipe or a device, not a file")


def test_the_command_prints_them_all(command: Callable, damaged: Path) -> None:
    (damaged / "surrogate_\udcff.json").write_text('{"schema_version": 2, "task": "\\ud800"}')
    missing = damaged.parent / "empty"
    missing.mkdir()
    ended = command("verify", missing, damaged, damaged / "folder.json", damaged / "._hidden.json")
    assert ended.status == 2
    assert f"{damaged / 'scenes-cosmos__scenes-cls__scenes.json'}: verified, " in ended.out
    assert ended.out.count("no results (*.json) in") == 2
    total = len(FILES) + 5
    assert ended.out.splitlines()[-1] == f"{total} results: {total - 1} not looked at, 1 verified"
    assert len(json.loads(command("verify", damaged, "--json").out)) == len(FILES) + 2


def test_a_check_says_what_is_wrong_in_every_report(
    command: Callable, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (damaged / "surrogate_\udcff.json").write_text('{"schema_version": 2, "task": "\\ud800"}')
    base = ["--baseline", "base.json"]
    good = damaged / "scenes-cosmos__scenes-cls__scenes.json"
    assert command("check", good, *base, "--update", "--reason", "why").status == 0
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    ended = command("check", damaged, *base, "--junit", "junit.xml", "--summary", "summary.md")
    assert ended.status == 2
    assert ended.err.count("::error ") == len(FILES) + 1
    assert ET.parse(tmp_path / "junit.xml").getroot().get("errors") == str(len(FILES) + 1)
    assert (tmp_path / "summary.md").read_text().count("cannot decide**") == len(FILES) + 1
    found = json.loads(command("check", damaged, *base, "--json").out)
    assert (len(found["problems"]), len(found["findings"])) == (len(FILES) + 1, 4)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """Two results, one of them in a folder that nobody may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        store_result(folder, "cls")
        store_result(folder / "more" / "locked", "seg")
        (folder / "more" / "locked").chmod(0)
        yield folder
        (folder / "more" / "locked").chmod(0o755)


def test_a_folder_that_cannot_be_read_is_an_error(unreadable: Path) -> None:
    locked = unreadable / "more" / "locked"
    with as_nobody():
        for read in (result_paths, read_results):
            with pytest.raises(UsageError, match=f"cannot read folder {locked}: Permission denied"):
                read(unreadable)
        with pytest.raises(UsageError, match=f"cannot read folder {locked}: Permission denied"):
            result_paths(locked)
        verdicts = [(verdict.outcome, verdict.obstacle) for verdict in verify_all([unreadable])]
    fault = f"cannot read folder {locked}: Permission denied"
    assert verdicts == [("not looked at", fault), ("verified", "")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["leaderboard"],
        ["export", "--output", "out.csv"],
        ["report", "--output", "out.html"],
        ["reproduce"],
        ["verify"],
        ["compare", "{good}"],
        ["check", "--baseline", "base.json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_leaves_a_folder_out(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    scan = os.scandir

    def refuse(place: Any) -> Any:
        # pytest removes folders by their descriptors.
        if not isinstance(place, int) and os.fspath(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    good = store_result(tmp_path / "results", "cls")
    store_result(tmp_path / "results" / "locked", "cls", dataset="other")
    command("check", good, "--baseline", "base.json", "--update", "--reason", "why")
    monkeypatch.setattr(os, "scandir", refuse)
    name, *options = (word.format(good=good) for word in arguments)
    ended = command(name, "results", *options)
    assert ended.status == 2
    assert "cannot read folder results/locked: Permission denied" in ended.out + ended.err
    assert not list(tmp_path.glob("out.*"))
