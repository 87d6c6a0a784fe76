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
    """Fail after 20 seconds, instead of waiting for ever for a pipe without a writer."""

    def stop(*_: object) -> None:
        pytest.fail("blocked for 20 s")  # not an Exception, which reading would catch

    former_handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former_handler)


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """Return an uncompressed zip file of the named members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


# The signature of an entry of a zip file's directory, which repeats flags and sizes of a member.
DIRECTORY_ENTRY = b"PK\x01\x02"


def encrypted() -> bytes:
    """Return a zip file whose flags say that its member is encrypted."""
    content = bytearray(zipped({"labels.npy": npy(np.arange(3))}))
    content[6] |= 1  # the flags in the header of the member
    content[content.index(DIRECTORY_ENTRY) + 8] |= 1  # the flags in the directory
    return bytes(content)


def bomb() -> bytes:
    """Return a small zip file that claims two members of 4 GiB unpacked."""
    data = npy(np.arange(3))
    content = zipped({"labels.npy": data, "top5.npy": data})
    start = content.index(DIRECTORY_ENTRY)
    size = len(data).to_bytes(4, "little")
    claimed_size = (0xFFFFFFFE).to_bytes(4, "little")
    # The compressed size of a member is followed by the unpacked one.
    directory = content[start:].replace(size + size, size + claimed_size)
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
def test_damaged_or_impossible_samples_are_not_verified(tmp_path: Path, name: str) -> None:
    path = store_result(tmp_path, "cls")
    forge(path, ARCHIVES[name])
    verdict = verify(path)
    assert verdict.outcome in ("differs", "not looked at")
    assert "\n" not in "".join([*verdict.differences, verdict.obstacle])


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(path.parent, os.O_RDONLY)
        # The name of a socket may have about 100 characters, which paths of tests exceed.
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)


def make_sparse_file(path: Path) -> None:
    """Make a file of 1 TiB that takes no space on the disk."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


# The begin of a file that macOS writes beside others, and no UTF-8.
BINARY = b"\x00\x05\x16\x07\xff\xfe"
CONTENTS: dict[str, bytes] = {
    "deep": b"[" * 100_000,
    "deep_within_limits": b'{"schema_version": 2, "per_class": ' + b"[" * 500 + b"]" * 500 + b"}",
    "binary": BINARY,
    "long_number": b'{"schema_version": 1' + b"0" * 6000 + b"}",
    "surrogate_key": rb'{"schema_version": 2, "\ud800": 1}',
    "surrogate": rb'{"schema_version": "\ud800"}',
}
SPECIAL_FILES = ("a_pipe", "a_socket", "a_sparse_file", "dangling", "loop")
BAD_FILES = (*CONTENTS, *SPECIAL_FILES)


def write_bad_files(folder: Path) -> None:
    for name, content in CONTENTS.items():
        (folder / f"{name}.json").write_bytes(content)
    os.mkfifo(folder / "a_pipe.json")
    make_socket(folder / "a_socket.json")
    make_sparse_file(folder / "a_sparse_file.json")
    (folder / "dangling.json").symlink_to("nowhere")
    (folder / "loop.json").symlink_to("loop.json")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return a folder of one undamaged result, the bad files, a folder that is called like a
    result, and a hidden file."""
    folder = tmp_path / "results"
    store_result(folder, "cls", provenance={"hashes": {"sample_list": "c" * 64}})
    write_bad_files(folder)
    (folder / "folder.json").mkdir()
    (folder / "._hidden.json").write_bytes(BINARY)
    return folder


def test_each_file_has_a_verdict(damaged: Path) -> None:
    verdicts = {Path(verdict.path).stem: verdict for verdict in verify_all([damaged])}
    assert verdicts.pop("scenes-cosmos__scenes-cls__scenes").outcome == "verified"
    outcomes = {name: verdict.outcome for name, verdict in verdicts.items()}
    assert outcomes == dict.fromkeys(BAD_FILES, "not looked at")


def test_edited_samples_are_noticed_among_damaged_files(damaged: Path) -> None:
    path = damaged / "scenes-cosmos__scenes-cls__scenes.json"
    path.with_name(read_result(path).samples).write_bytes(b"edited")
    (line,) = verify(path).differences
    assert line.startswith("edited samples: ")


def test_a_pipe_in_place_of_the_samples_is_not_read(tmp_path: Path) -> None:
    path = store_result(tmp_path, "cls")
    samples = tmp_path / read_result(path).samples
    samples.unlink()
    os.mkfifo(samples)
    assert verify(path).obstacle.endswith("is a pipe or a device, not a file")


def test_the_command_prints_a_line_for_every_file(command: Callable, damaged: Path) -> None:
    (damaged / "surrogate_\udcff.json").write_text('{"schema_version": 2, "task": "\\ud800"}')
    missing = damaged.parent / "empty"
    missing.mkdir()
    ended = command("verify", missing, damaged, damaged / "folder.json", damaged / "._hidden.json")
    assert ended.status == 2
    assert f"{damaged / 'scenes-cosmos__scenes-cls__scenes.json'}: verified, " in ended.out
    assert ended.out.count("no results (*.json) in") == 2
    # The undamaged result, the file with a surrogate in its name, and the other three arguments.
    total = len(BAD_FILES) + 5
    assert ended.out.splitlines()[-1] == f"{total} results: {total - 1} not looked at, 1 verified"
    assert len(json.loads(command("verify", damaged, "--json").out)) == len(BAD_FILES) + 2


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
    n_bad_files = len(BAD_FILES) + 1
    assert ended.err.count("::error ") == n_bad_files
    assert ET.parse(tmp_path / "junit.xml").getroot().get("errors") == str(n_bad_files)
    assert (tmp_path / "summary.md").read_text().count("cannot decide**") == n_bad_files
    check = json.loads(command("check", damaged, *base, "--json").out)
    assert len(check["problems"]) == n_bad_files
    assert len(check["findings"]) == 4


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the rights of root, who may read everything."""
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
    """Return a folder of two results, one of them in a folder that nobody may read."""
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
def test_no_command_leaves_out_a_folder_that_cannot_be_read(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    scandir = os.scandir

    def refuse_locked_folder(folder: Any) -> Any:
        # pytest removes folders by their descriptors, which are integers.
        if not isinstance(folder, int) and os.fspath(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    good = store_result(tmp_path / "results", "cls")
    store_result(tmp_path / "results" / "locked", "cls", dataset="other")
    command("check", good, "--baseline", "base.json", "--update", "--reason", "why")
    monkeypatch.setattr(os, "scandir", refuse_locked_folder)
    name, *options = (word.format(good=good) for word in arguments)
    ended = command(name, "results", *options)
    assert ended.status == 2
    assert "cannot read folder results/locked: Permission denied" in ended.out + ended.err
    assert not list(tmp_path.glob("out.*"))
