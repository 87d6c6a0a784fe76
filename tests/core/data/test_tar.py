"""Strict reading of tars: what every writer writes against tarfile, and nothing less on damage."""

import io
import os
import random
import shutil
import subprocess
import tarfile

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

LONG = "/".join(["long-name" * 12] * 3)  # needs an extended header
PREFIX = "/".join(["long-name" * 9] * 2)  # fits into the two fields of the ustar format


class Stream:
    """Bytes that can only be read in order and in parts, as a pipe's."""

    def __init__(self, data, most=10_000):
        self._file, self._most = io.BytesIO(data), most

    def read(self, size):
        return self._file.read(min(size, self._most))


def read_at(data):
    """Names and contents by offset and size, as an index reads them later."""
    members = list(TarReader(io.BytesIO(data)))
    files = [(m.name, data[m.offset : m.offset + m.size]) for m in members]
    for _, content in files:
        require_one_file(content)
    return files


def read_in_order(data):
    reader = TarReader(Stream(data))
    return [(member.name, reader.read()) for member in reader]


def read_by_tarfile(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg()]


def assert_read(data):
    expected = read_by_tarfile(data)
    assert read_at(data) == read_in_order(data) == expected
    return expected


FILES = [("0.jpg", b"image"), ("./a.b/0.json", b"{}"), ("empty", b""), ("1.jpg", b"x" * 1024)]
FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.mark.parametrize("form", FORMATS)
def test_what_python_writes(form):
    longer = [(LONG if form != "ustar" else PREFIX, b"1"), ("é\udcff", b"2"), ("z", b"3")]
    assert assert_read(tar_of([*FILES, *longer], FORMATS[form])) == [*FILES, *longer]
    assert assert_read(tar_of([], FORMATS[form])) == []


def test_what_webdataset_writes(tmp_path):
    """An extended header with the time before every file."""
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number}", "jpg": b"x" * 700, "json": {"a": number}})
    assert len(assert_read((tmp_path / "a.tar").read_bytes())) == 6


def test_a_record_of_a_wrong_length_is_refused():
    info = tarfile.TarInfo("0.jpg")
    info.mtime = 1.5
    header = info.tobuf(tarfile.PAX_FORMAT)
    for record in (b"12 mtime=1.5\n", b"17 mtime=1.5\n"):
        broken = header.replace(b"13 mtime=1.5\n", record)
        assert broken != header
        with pytest.raises(TarError, match=r"an extended header is broken \(bad record\)"):
            read_at(broken + bytes(2 * BLOCK))


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_what_gnu_tar_writes(tmp_path, form):
    if shutil.which("tar") is None:
        pytest.skip("no tar")
    names = ["a.jpg", "folder/b.json"]
    names += {"v7": [], "ustar": [PREFIX]}.get(form, [PREFIX, LONG])
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    command = ["tar", f"--format={form}", "--blocking-factor=64", "-cf", "-", "."]
    data = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert sorted(assert_read(data)) == sorted((f"./{name}", name.encode()) for name in names)


def test_what_git_writes(tmp_path):
    """A global extended header first, with the commit."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a"]
    (tmp_path / "a.txt").write_text("a")
    for words in (["init", "-q"], ["add", "a.txt"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    command = [*git, "archive", "--format=tar", "HEAD"]
    data = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert assert_read(data) == [("a.txt", b"a")]


def test_extended_headers_that_belong_to_no_file_or_to_all_are_refused():
    info = tarfile.TarInfo("0.jpg")
    info.pax_headers = {"path": "another.jpg"}
    headers = info.tobuf(tarfile.PAX_FORMAT)
    assert [member.name for member in TarReader(Stream(headers + bytes(1024)))] == ["another.jpg"]
    with pytest.raises(TarError, match="an extended header has no file"):
        read_at(headers[:-BLOCK] + bytes(2 * BLOCK))
    for_all = tarfile.TarInfo.create_pax_global_header({"path": "another.jpg"})
    with pytest.raises(TarError, match="one name or size is stated for all files"):
        read_at(for_all + tar_of(FILES))


def test_numbers_that_are_too_large_for_their_field():
    """GNU's base 256 in a header and pax's `size` record, which tarfile writes from 8 GiB on."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("large")
        info.size = 9 << 30
        header = info.tobuf(form)
        (member,) = [next(iter(TarReader(io.BytesIO(header))))]
        assert (member.name, member.offset, member.size) == ("large", len(header), 9 << 30)


def test_an_archive_ends_with_two_blocks_of_zeros():
    data = tar_of(FILES).rstrip(b"\0")
    data += bytes(-len(data) % BLOCK)  # "1.jpg" fills its blocks
    for zeros in (2 * BLOCK, 2 * BLOCK + 1, 100 * BLOCK):
        assert read_at(data + bytes(zeros)) == read_in_order(data + bytes(zeros)) == FILES
    for zeros in (0, 1, BLOCK, 2 * BLOCK - 1):
        for read in (read_at, read_in_order):
            with pytest.raises(TarError, match=f"^cut off at byte {len(data) + zeros}; fetch it"):
                read(data + bytes(zeros))
    joined = r"goes on after its end at .* tar --ignore-zeros -xf"
    for rest, message in ((b"x", joined), (data, joined), (bytes(1 << 20), "only zeros from")):
        for read in (read_at, read_in_order):
            with pytest.raises(TarError, match=message):
                read(data + bytes(2 * BLOCK) + rest)


def packed(tmp_path, *options):
    command = ["tar", *options, "-cf", "-", "."]
    return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout


@pytest.mark.parametrize(("link", "kind"), [(os.link, "hard"), (os.symlink, "symbolic")])
def test_links_are_refused(tmp_path, link, kind):
    (tmp_path / "0.jpg").write_bytes(b"image")
    link(tmp_path / "0.jpg", tmp_path / "1.jpg")
    with pytest.raises(TarError, match=rf"'\./[01]\.jpg' is a {kind} link; .*--hard-dereference"):
        read_at(packed(tmp_path))
    whole = packed(tmp_path, "--dereference", "--hard-dereference")
    assert sorted(assert_read(whole)) == [("./0.jpg", b"image"), ("./1.jpg", b"image")]


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_are_refused(tmp_path, form):
    with (tmp_path / "0.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    data = packed(tmp_path, "--sparse", f"--format={form}")
    assert len(data) < 1 << 20
    with pytest.raises(TarError, match="is a sparse file; pack it again"):
        read_at(data)


def test_names_are_names_and_no_paths_and_of_one_file():
    with pytest.raises(TarError, match=r"two files are called '0\.jpg'"):
        read_at(tar_of([("0.jpg", b"old"), ("1.jpg", b""), ("0.jpg", b"new")]))
    files = [("../../0.jpg", b"0"), ("/etc/1.jpg", b"1"), ("a\nb.jpg", b"2")]
    assert assert_read(tar_of(files))[0] == files[0]
    keys = [split_name(name) for name, _ in files]
    assert keys == [("../../0", "jpg"), ("/etc/1", "jpg"), ("a\nb", "jpg")]


def test_keys_and_extensions_are_webdatasets():
    names = ["0.jpg", "a.b/0.seg.png", "a/b.c/1", "a/.hidden", ".jpg", "0.", "./x.y", "a b.JPG"]
    for name in names:
        key, extension = webdataset.tariterators.base_plus_ext(name)
        expected = None if key is None or key.endswith("/") else (key, extension.lower())
        assert split_name(name) == expected, name
    assert split_name("__meta__/a.json") is split_name("__index__") is None


def random_files(draw):
    """A few samples, and contents that end with no zero byte."""
    stem = draw.choice(["{}", "./a/{}", "n" * draw.randrange(80, 300) + "{}"])
    return [
        (f"{stem.format(number)}.{extension}", draw.randbytes(draw.randrange(1500)) + b"end")
        for number in range(draw.randrange(1, 4))
        for extension in draw.sample(["jpg", "json", "txt"], draw.randrange(1, 4))
    ]


def headers(data):
    """The offsets of all header blocks, those of extended headers as well, and their sizes."""
    start = 0
    while data[start : start + BLOCK].strip(b"\0"):
        size = int(data[start + 124 : start + 135], 8)
        yield start, size
        start += BLOCK + size + -size % BLOCK


def damaged(data, draw):
    """What is damaged, and the data: cut anywhere, a block of zeros, another size."""
    starts = dict(headers(data))
    for end in {*range(0, len(data), BLOCK), *draw.sample(range(len(data)), 20)}:
        yield f"cut at {end}", data[:end]
    for start in range(0, len(data), BLOCK):
        yield f"zeros at {start}", data[:start] + bytes(BLOCK) + data[start + BLOCK :]
    for start, size in starts.items():
        near = [size + step for step in (-513, -512, -7, -1, 1, 7, 512, 513) if size + step >= 0]
        following = [other - start - BLOCK for other in starts if other > start]
        end = len(data.rstrip(b"\0")) - start - BLOCK
        for other in [0, *near, *following, end, draw.randrange(1 << 12), draw.randrange(1 << 33)]:
            for checksum in (False, True):
                yield f"size {other} at {start}", with_size(data, start, other, checksum=checksum)


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_an_error_or_costs_no_file(seed):
    draw = random.Random(seed)
    files = random_files(draw)
    form = draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    data = tar_of(files, form)
    assert read_at(data) == read_in_order(data) == files
    errors = []
    for what, broken in damaged(data, draw):
        for read in (read_at, read_in_order):
            try:
                found = read(broken)
            except TarError as error:
                errors.append(str(error))
                continue
            assert [name for name, _ in found] == [name for name, _ in files], what
            if not what.startswith("zeros"):  # zeros within a content are for its decoder
                contents = [content.rstrip(b"\0") for _, content in found]
                assert contents == [content for _, content in files], what
    assert len(errors) > 50
    assert "\n" not in "".join(errors)


@pytest.mark.parametrize("seed", range(12))
def test_bytes_of_any_kind_are_read_or_refused(seed):
    draw = random.Random(seed)
    data = bytearray(tar_of(random_files(draw), draw.choice(list(FORMATS.values())[:2])))
    for _ in range(60):
        for _ in range(draw.randrange(1, 6)):
            start = draw.choice([start for start, _ in headers(tar_of([("a", b"a")]))])
            data[(start + draw.randrange(len(data))) % len(data)] = draw.randrange(256)
        reads = (read_at, read_in_order)
        at, in_order = (outcome(read, bytes(data)) for read in reads)
        assert at == in_order
    assert isinstance(at, str)  # after 60 rounds something is refused
    assert "\n" not in at


def outcome(read, data):
    try:
        return read(data)
    except TarError as error:
        return str(error)
