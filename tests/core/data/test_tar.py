"""Strict reading of tars: files of all writers are as tarfile reads them, and damage is refused."""

import io
import os
import random
import shutil
import subprocess
import tarfile
from typing import NamedTuple

import pytest
import webdataset
from support.shards import tar_of, with_size

from cosmos_core.data.tar import (
    BLOCK,
    TarError,
    TarReader,
    require_one_file,
    split_name,
)

# Names of files that need an extended header, or that fit into the two fields of the ustar format.
NAME_FOR_EXTENDED_HEADER = "/".join(["long-name" * 12] * 3)
NAME_FOR_USTAR = "/".join(["long-name" * 9] * 2)


class Stream:
    """Bytes that can only be read in order, and at most 10,000 at a time, as those of a pipe."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def read(self, size):
        return self._file.read(min(size, 10_000))


def read_at_offsets(data):
    """Return names and contents, by the offsets and sizes that an index stores."""
    files = []
    for member in list(TarReader(io.BytesIO(data))):
        content = data[member.offset : member.offset + member.size]
        files.append((member.name, content))
    for _, content in files:
        require_one_file(content)
    return files


def read_in_order(data):
    """Return names and contents, as a stream is read."""
    reader = TarReader(Stream(data))
    return [(member.name, reader.read()) for member in reader]


def read_by_tarfile(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [member for member in tar if member.isreg()]
        return [(member.name, tar.extractfile(member).read()) for member in members]


def read_and_compare(data):
    """Return names and contents, which must be the same as by tarfile."""
    expected = read_by_tarfile(data)
    assert read_at_offsets(data) == read_in_order(data) == expected
    return expected


FILES = [("0.jpg", b"image"), ("./a.b/0.json", b"{}"), ("empty", b""), ("1.jpg", b"x" * 1024)]
FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.mark.parametrize("form", FORMATS)
def test_tars_of_python_are_read(form):
    long_name = NAME_FOR_USTAR if form == "ustar" else NAME_FOR_EXTENDED_HEADER
    files = [*FILES, (long_name, b"1"), ("é\udcff", b"2"), ("z", b"3")]
    assert read_and_compare(tar_of(files, FORMATS[form])) == files
    assert read_and_compare(tar_of([], FORMATS[form])) == []


def test_tars_of_webdataset_are_read(tmp_path):
    # They have an extended header with the time before every file.
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number}", "jpg": b"x" * 700, "json": {"a": number}})
    assert len(read_and_compare((tmp_path / "a.tar").read_bytes())) == 6


def test_a_record_of_a_wrong_length_is_refused():
    info = tarfile.TarInfo("0.jpg")
    info.mtime = 1.5
    header = info.tobuf(tarfile.PAX_FORMAT)
    # A record begins with its length, which is 13.
    for record in (b"12 mtime=1.5\n", b"17 mtime=1.5\n"):
        broken_header = header.replace(b"13 mtime=1.5\n", record)
        assert broken_header != header
        with pytest.raises(TarError, match=r"an extended header is broken \(bad record\)"):
            read_at_offsets(broken_header + bytes(2 * BLOCK))


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_tars_of_gnu_tar_are_read(tmp_path, form):
    if shutil.which("tar") is None:
        pytest.skip("no tar")
    names = ["a.jpg", "folder/b.json"]
    if form != "v7":
        names.append(NAME_FOR_USTAR)
    if form not in ("v7", "ustar"):
        names.append(NAME_FOR_EXTENDED_HEADER)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    command = ["tar", f"--format={form}", "--blocking-factor=64", "-cf", "-", "."]
    data = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    expected = [(f"./{name}", name.encode()) for name in names]
    assert sorted(read_and_compare(data)) == sorted(expected)


def test_tars_of_git_are_read(tmp_path):
    # They begin with a global extended header, which has the commit.
    git = ["git", "-c", "user.name=a", "-c", "user.email=a"]
    (tmp_path / "a.txt").write_text("a")
    for words in (["init", "-q"], ["add", "a.txt"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    command = [*git, "archive", "--format=tar", "HEAD"]
    data = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert read_and_compare(data) == [("a.txt", b"a")]


def test_extended_headers_that_belong_to_no_file_or_to_all_are_refused():
    info = tarfile.TarInfo("0.jpg")
    info.pax_headers = {"path": "another.jpg"}
    headers = info.tobuf(tarfile.PAX_FORMAT)
    assert [member.name for member in TarReader(Stream(headers + bytes(1024)))] == ["another.jpg"]
    without_last_header = headers[:-BLOCK]  # which is that of the file
    with pytest.raises(TarError, match="an extended header has no file"):
        read_at_offsets(without_last_header + bytes(2 * BLOCK))
    global_header = tarfile.TarInfo.create_pax_global_header({"path": "another.jpg"})
    with pytest.raises(TarError, match="one name or size is stated for all files"):
        read_at_offsets(global_header + tar_of(FILES))


def test_sizes_that_are_too_large_for_their_field_are_read():
    # tarfile writes sizes from 8 GiB on in base 256 (GNU) or in a `size` record (pax).
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("large")
        info.size = 9 << 30
        header = info.tobuf(form)
        member = next(iter(TarReader(io.BytesIO(header))))
        assert (member.name, member.offset, member.size) == ("large", len(header), 9 << 30)


def test_an_archive_ends_with_two_blocks_of_zeros():
    data = tar_of(FILES).rstrip(b"\0")
    data += bytes(-len(data) % BLOCK)  # the zeros that fill the last block of "1.jpg"
    for n_zeros in (2 * BLOCK, 2 * BLOCK + 1, 100 * BLOCK):
        archive = data + bytes(n_zeros)
        assert read_at_offsets(archive) == read_in_order(archive) == FILES
    for n_zeros in (0, 1, BLOCK, 2 * BLOCK - 1):
        assert_refused(data + bytes(n_zeros), f"^cut off at byte {len(data) + n_zeros}; fetch it")
    complete = data + bytes(2 * BLOCK)
    joined_message = r"goes on after its end at .* tar --ignore-zeros -xf"
    assert_refused(complete + b"x", joined_message)
    assert_refused(complete + data, joined_message)
    assert_refused(complete + bytes(1 << 20), "only zeros from")


def assert_refused(data, message):
    for read in (read_at_offsets, read_in_order):
        with pytest.raises(TarError, match=message):
            read(data)


def pack_by_tar(folder, *options):
    command = ["tar", *options, "-cf", "-", "."]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout


@pytest.mark.parametrize(("link", "kind"), [(os.link, "hard"), (os.symlink, "symbolic")])
def test_links_are_refused(tmp_path, link, kind):
    (tmp_path / "0.jpg").write_bytes(b"image")
    link(tmp_path / "0.jpg", tmp_path / "1.jpg")
    with pytest.raises(TarError, match=rf"'\./[01]\.jpg' is a {kind} link; .*--hard-dereference"):
        read_at_offsets(pack_by_tar(tmp_path))
    without_links = pack_by_tar(tmp_path, "--dereference", "--hard-dereference")
    expected = [("./0.jpg", b"image"), ("./1.jpg", b"image")]
    assert sorted(read_and_compare(without_links)) == expected


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_are_refused(tmp_path, form):
    with (tmp_path / "0.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    data = pack_by_tar(tmp_path, "--sparse", f"--format={form}")
    assert len(data) < 1 << 20
    with pytest.raises(TarError, match="is a sparse file; pack it again"):
        read_at_offsets(data)


def test_a_name_belongs_to_one_file_and_is_not_followed_as_a_path():
    with pytest.raises(TarError, match=r"two files are called '0\.jpg'"):
        read_at_offsets(tar_of([("0.jpg", b"old"), ("1.jpg", b""), ("0.jpg", b"new")]))
    files = [("../../0.jpg", b"0"), ("/etc/1.jpg", b"1"), ("a\nb.jpg", b"2")]
    assert read_and_compare(tar_of(files))[0] == files[0]
    keys = [split_name(name) for name, _ in files]
    assert keys == [("../../0", "jpg"), ("/etc/1", "jpg"), ("a\nb", "jpg")]


def test_keys_and_extensions_are_webdatasets():
    names = ["0.jpg", "a.b/0.seg.png", "a/b.c/1", "a/.hidden", ".jpg", "0.", "./x.y", "a b.JPG"]
    for name in names:
        key, extension = webdataset.tariterators.base_plus_ext(name)
        expected = None if key is None or key.endswith("/") else (key, extension.lower())
        assert split_name(name) == expected, name
    assert split_name("__meta__/a.json") is split_name("__index__") is None


def random_files(rng):
    """Return the names and contents of a few samples; no content ends with a zero byte."""
    stem = rng.choice(["{}", "./a/{}", "n" * rng.randrange(80, 300) + "{}"])
    files = []
    for number in range(rng.randrange(1, 4)):
        for extension in rng.sample(["jpg", "json", "txt"], rng.randrange(1, 4)):
            content = rng.randbytes(rng.randrange(1500)) + b"end"
            files.append((f"{stem.format(number)}.{extension}", content))
    return files


def sizes_in_headers(data):
    """Return the offset of each header block, also of extended headers -> the size it states."""
    sizes, start = {}, 0
    while data[start : start + BLOCK].strip(b"\0"):
        size = int(data[start + 124 : start + 135], 8)
        sizes[start] = size
        start += BLOCK + size + -size % BLOCK
    return sizes


class Damage(NamedTuple):
    """A damaged tar."""

    kind: str  # "cut", "zeros" (a block of them) or "size" (in a header)
    position: int  # in bytes
    data: bytes


def damage_in_all_ways(data, rng):
    """Yield the tar with each kind of damage at many positions."""
    for end in {*range(0, len(data), BLOCK), *rng.sample(range(len(data)), 20)}:
        yield Damage("cut", end, data[:end])
    for start in range(0, len(data), BLOCK):
        with_zeros = data[:start] + bytes(BLOCK) + data[start + BLOCK :]
        yield Damage("zeros", start, with_zeros)
    sizes = sizes_in_headers(data)
    end_of_last_file = len(data.rstrip(b"\0"))
    for start, size in sizes.items():
        similar_sizes = [size + change for change in (-513, -512, -7, -1, 1, 7, 512, 513)]
        other_sizes = [
            0,
            *(similar_size for similar_size in similar_sizes if similar_size >= 0),
            # Sizes with which the content ends at another header, or with the last file.
            *(other_start - start - BLOCK for other_start in sizes if other_start > start),
            end_of_last_file - start - BLOCK,
            rng.randrange(1 << 12),
            rng.randrange(1 << 33),
        ]
        for other_size in other_sizes:
            for checksum in (False, True):
                with_other_size = with_size(data, start, other_size, checksum=checksum)
                yield Damage("size", start, with_other_size)


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_an_error_or_costs_no_file(seed):
    rng = random.Random(seed)
    files = random_files(rng)
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    data = tar_of(files, form)
    assert read_at_offsets(data) == read_in_order(data) == files
    errors = []
    for damage in damage_in_all_ways(data, rng):
        place = f"{damage.kind} at {damage.position}"
        for read in (read_at_offsets, read_in_order):
            try:
                read_files = read(damage.data)
            except TarError as error:
                errors.append(str(error))
                continue
            assert [name for name, _ in read_files] == [name for name, _ in files], place
            # The decoder of an image must notice zeros within its content.
            if damage.kind != "zeros":
                contents = [content.rstrip(b"\0") for _, content in read_files]
                assert contents == [content for _, content in files], place
    assert len(errors) > 50
    assert "\n" not in "".join(errors)


@pytest.mark.parametrize("seed", range(12))
def test_random_bytes_are_read_the_same_or_refused_the_same_by_both_readers(seed):
    rng = random.Random(seed)
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    data = bytearray(tar_of(random_files(rng), form))
    for _ in range(60):
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        outcome = files_or_error(read_at_offsets, bytes(data))
        assert outcome == files_or_error(read_in_order, bytes(data))
    # After 60 rounds, the tar is refused with a message of one line.
    assert isinstance(outcome, str)
    assert "\n" not in outcome


def files_or_error(read, data):
    """Return the files that are read, or the message of the error."""
    try:
        return read(data)
    except TarError as error:
        return str(error)
