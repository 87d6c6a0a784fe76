"""Tars with damage, through everything that reads tars: all samples or an error."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset
from support.fuzzed_images import MODEL, measure
from support.fuzzing import run_command
from support.shards import jpeg, with_size

from cosmos_core.data.index import index_shards
from cosmos_core.data.prepare import prepare
from cosmos_core.data.samples import BadSampleError, Problem
from cosmos_core.data.stream import read_stream
from cosmos_eval.data.sources import open_archives
from cosmos_eval.runner.doctor import examine
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import RunOptions, UsageError, no_progress

SAMPLES = 10
RECORD = 10_240  # which tar fills up with zeros
BLOCK = tarfile.BLOCKSIZE


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tar_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a tar that every reader accepts: for training and for `data prepare`, and
    as a retrieval set and a classification set."""
    path = tmp_path_factory.mktemp("whole") / "0.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(SAMPLES):
            text = f"caption {number}"
            record = json.dumps({"url": f"https://host/{number}.jpg", "raw_caption": [text]})
            files = {"cls": 0, "json": record.encode(), "txt": text}
            # The image is the last file of its sample.
            writer.write({"__key__": f"{number:04d}", **files, "webp": jpeg(number)})
    return path.read_bytes()


def by_index(path: Path) -> int:
    return len(index_shards([str(path)]))


def by_stream(path: Path) -> int:
    items = list(read_stream(f"file:{path}"))
    if isinstance(items[-1], Problem):
        raise ValueError(items[-1].detail)
    return len(items)


def by_prepare(path: Path) -> int:
    captions = path.parent / "captions.csv"
    with captions.open("w", newline="") as file:
        rows = [[f"https://host/{number}.jpg", f"caption {number}"] for number in range(SAMPLES)]
        csv.writer(file).writerows([["Image Path", "raw_caption"], *rows])
    return prepare(path.parent, captions, path.parent.with_name("out")).samples


def by_archives(path: Path) -> int:
    return len(open_archives([path]))


def by_doctor(path: Path, text: str) -> int:
    yaml = path.parent / "set.yaml"
    yaml.write_text(text)
    findings = examine(find_protocol(str(yaml)), RunOptions(), no_progress)
    if not findings.whole:
        (fault,) = findings.faults
        raise ValueError(fault)
    return SAMPLES


def by_doctor_of_classification(path: Path) -> int:
    (path.parent / "test").mkdir(exist_ok=True)
    (path.parent / "test/0.tar").write_bytes(path.read_bytes())
    (path.parent / "test/nshards.txt").write_text("1")
    (path.parent / "classnames.txt").write_text("one\nother\n")
    return by_doctor(path, "{kind: cls, layout: webdataset, folder: .}")


def by_doctor_of_retrieval(path: Path) -> int:
    return by_doctor(path, "{kind: retrieval, archives: '*.tar'}")


# Each reads a tar and returns its number of samples, or raises an error.
READERS = (
    by_index,
    by_stream,
    by_prepare,
    by_archives,
    by_doctor_of_retrieval,
    by_doctor_of_classification,
)


def member(data: bytes, name: str) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmember(name)


def header_offset(data: bytes) -> int:
    """Return where the header of a file in the middle of the tar begins."""
    return member(data, "0004.webp").offset_data - BLOCK


def extended_header_offset(data: bytes) -> int:
    """Return where the extended header of the same file begins, which precedes its header."""
    return header_offset(data) - 2 * BLOCK


def with_zeros(data: bytes, start: int, count: int) -> bytes:
    return data[:start] + bytes(count) + data[start + count :]


def cut_in_header(data: bytes) -> bytes:
    return data[: header_offset(data) + 100]


def cut_before_header(data: bytes) -> bytes:
    return data[: header_offset(data)]


def cut_before_extended_header(data: bytes) -> bytes:
    return data[: extended_header_offset(data)]


def cut_in_content(data: bytes) -> bytes:
    return data[: header_offset(data) + BLOCK + 700]


def cut_before_end_of_archive(data: bytes) -> bytes:
    return data.rstrip(b"\0") + b"\0" * 100


def zeros_over_extended_header(data: bytes) -> bytes:
    return with_zeros(data, extended_header_offset(data), BLOCK)


def zeros_over_a_page(data: bytes) -> bytes:
    return with_zeros(data, header_offset(data), 4096)


def zeros_to_the_end(data: bytes) -> bytes:
    return data[: header_offset(data)] + bytes(3 << 20)


def wrong_size(data: bytes) -> bytes:
    return with_size(data, header_offset(data), 700)


def wrong_size_in_the_same_block(data: bytes) -> bytes:
    return with_size(data, header_offset(data), member(data, "0004.webp").size - 3)


def two_tars_joined(data: bytes) -> bytes:
    return data + data


def bytes_behind_the_end(data: bytes) -> bytes:
    return data + b"more"


DAMAGES = (
    cut_in_header,
    cut_before_header,
    cut_before_extended_header,
    cut_in_content,
    cut_before_end_of_archive,
    zeros_over_extended_header,
    zeros_over_a_page,
    zeros_to_the_end,
    wrong_size,
    wrong_size_in_the_same_block,
    two_tars_joined,
    bytes_behind_the_end,
)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_an_error_of_one_line(tar_bytes, tmp_path, read, damage):
    path = tmp_path / "images" / "0.tar"
    path.parent.mkdir()
    path.write_bytes(damage(tar_bytes))
    message = r"0\.tar: .*(damaged|cut off|after its end|only zeros)"
    with pytest.raises((ValueError, UsageError), match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", READERS)
def test_an_undamaged_tar_is_read(tar_bytes, tmp_path, read):
    path = tmp_path / "images" / "0.tar"
    path.parent.mkdir()
    path.write_bytes(tar_bytes)
    assert read(path) == SAMPLES


def test_a_file_that_reaches_into_the_next_sample_is_an_error_when_it_is_read(tar_bytes, tmp_path):
    path = tmp_path / "images" / "0.tar"
    path.parent.mkdir()
    header = header_offset(tar_bytes)
    # The content of 0004.webp ends where the extended header of 0006.cls begins.
    end = member(tar_bytes, "0006.cls").offset_data - 3 * BLOCK
    path.write_bytes(with_size(tar_bytes, header, end - header - BLOCK))
    assert by_index(path) == SAMPLES - 1
    for read in (by_stream, by_prepare):
        with pytest.raises(ValueError, match=r"0\.tar: .*a file reaches into the next one"):
            read(path)
    with pytest.raises(BadSampleError, match="a file reaches into the next one"):
        index_shards([str(path)]).read(4)
    with pytest.raises(UsageError, match=r"0004\.webp: damaged: a file reaches into the next one"):
        open_archives([path])[4].image().read()


def cut_at_a_member(data: bytes, n_samples: int, zeros: int) -> bytes:
    """Return the first samples of a tar, and zeros in place of what follows."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        end = tar.getmembers()[4 * n_samples].offset  # a sample has four files
    return data[:end] + bytes(zeros)


@pytest.mark.parametrize(
    ("zeros", "is_noted"), [(2 * BLOCK, False), (RECORD, False), (RECORD + 2 * BLOCK, True)]
)
def test_more_zeros_than_tar_writes_are_noted(tar_bytes, zeros, is_noted, tmp_path):
    """Apart from its zeros, the tar looks like a complete one of fewer samples."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "tars/test").mkdir(parents=True)
    (tmp_path / "tars/test/nshards.txt").write_text("1")
    (tmp_path / "tars/classnames.txt").write_text("red\ngreen")
    (tmp_path / "tars/test/0.tar").write_bytes(cut_at_a_member(tar_bytes, 6, zeros))
    (tmp_path / "set.yaml").write_text("kind: cls\nlayout: webdataset\nfolder: tars\n")
    doctor = run_command(["data", "doctor", str(tmp_path / "set.yaml")], tmp_path, seconds=0)
    assert doctor.status == 0, doctor
    run = run_command(measure("set.yaml", tmp_path), tmp_path, seconds=0)
    assert run.status == 0, run
    notes = " ".join(run.results[0]["provenance"]["notes"])
    message = f"0.tar ends with {zeros:,} bytes of zeros after 0005.webp, more than tar writes"
    for text in (doctor.out, run.err, notes):
        assert (message in " ".join(text.split())) is is_noted
