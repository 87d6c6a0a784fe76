"""Read the files of a tar strictly: a damaged tar is an error, never a shorter tar. Python's
tarfile, and webdataset with it, takes a damaged or missing header for the end of the archive. Here
an archive ends with zeros alone, at least two blocks, every header has the right checksum, and a
wrong size shows: it leads to no header, what should fill up the file's last block is not zero, or
the content holds the headers of other files. Formats: POSIX.1-2017, pax, and for GNU's long names
and large numbers GNU tar's manual, "Basic Tar Format". Imports no torch by itself."""

import io
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
_MAGIC = 257  # where a header has "ustar"
_ZEROS = bytes(BLOCK)
_PADDINGS = [bytes(size) for size in range(BLOCK)]
_END_LIMIT = 1 << 20  # bytes of zeros after the end: more than any program pads an archive with
_HEADER_LIMIT = 1 << 20  # bytes of an extended header, which holds names and attributes
_CHUNK = 1 << 20
_NEAR, _MANY, _FEW = 1 << 14, 1 << 16, 1 << 12  # bytes per header up to which MANY are read, or FEW
_TIME = re.compile(rb"(\d{1,3}) mtime=\d+\.?\d*\n")
_DIGITS = 13  # of a size: 10 TB, which every file system can seek to
# What webdataset skips, and its keys and extensions: webdataset/tariterators.py.
_META = re.compile(r"__[^/]*__(/|$)")
_KEY = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", re.DOTALL)

_FILES, _SKIPPED = (b"0", b"\0", b"7"), (b"5", b"V")  # skipped: folders, the label of a volume
_OTHERS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}


class TarError(ValueError):
    """Raised for a tar that cannot be read whole; one line, without the name of the tar."""


class Readable(Protocol):
    """A binary file or stream. It is read in order; where it can seek, contents are skipped."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, fewer only at the end."""


class Member(NamedTuple):
    """A file in a tar: its name, the offset of its first byte, and its size in bytes."""

    name: str
    offset: int
    size: int


def split_name(name: str) -> tuple[str, str] | None:
    """Split a file's name into its sample's key and its lower-case extension, as webdataset does.
    None for names without either, and for metadata (`__meta__/...`)."""
    key, _, suffix = name.partition(".")
    if key.isalnum() and suffix.isalnum():  # as of most names
        return key, suffix.lower()
    found = _KEY.fullmatch(name)
    if found is None or _META.match(name):
        return None
    return found[1], found[2].lower()


def require_one_file(content: bytes) -> None:
    """Raise TarError where a file's content holds headers of others, which iteration cannot see."""
    for magic in re.finditer(b"ustar", content):  # in bytes of images quicker than bytes.find
        start = magic.start() - _MAGIC
        if start >= 0 and start % BLOCK == 0 and _is_header(content[start : start + BLOCK]):
            raise TarError("damaged: a file reaches into the next one; fetch it again")


def read_members(path: str) -> Iterable[tuple[str, int, int]]:
    """Return the files of a local tar as TarReader does, as plain tuples; raise what it does, and
    OSError. Ordinary headers are checked together, in a fraction of the time."""
    with open(path, "rb", buffering=0) as file:
        found = _ordinary_members(file.fileno())
    if found is not None:
        return found
    with open(path, "rb") as file:
        return [*TarReader(file)]


def _ordinary_members(file: int) -> Iterable[tuple[str, int, int]] | None:
    """Return the files of a tar of ordinary headers; None for others, and for any damage."""
    if (found := _read_headers(file)) is None:
        return None
    headers = np.frombuffer(found, np.uint8).reshape(-1, BLOCK)
    if not _are_ordinary(headers):
        return None
    sizes = _octal(headers[:, 124:135])
    padded = sizes + -sizes % BLOCK
    offsets = np.cumsum(BLOCK + padded) - padded
    is_file = headers[:, 156] != ord("x")
    fields = np.ascontiguousarray(headers[is_file, :100]).view("S100").ravel().tolist()
    text = b"\0".join(fields).decode("utf-8", "surrogateescape")
    names = text.split("\0") if fields else []
    # No file after an extended header; names that hold a zero, are empty, of folders, or the same.
    if not is_file[-1:].all() or not len(fields) == len(names) == len({*names}) or "" in names:
        return None
    if "/\0" in f"{text}\0":
        return None
    return zip(names, offsets[is_file].tolist(), sizes[is_file].tolist(), strict=True)


def _read_headers(file: int) -> bytes | None:
    """Return the headers of a tar, one after the other, whose sizes lead from each to the next and
    to the end; None where they do not, and for extended headers that state more than times."""
    headers = list[bytes]()
    window, first = b"", 0  # what has been read, and its position
    position = padding = 0
    while True:
        start = position - first
        if start + 2 * BLOCK > len(window):
            first = position - padding
            # Headers that lie near each other are read together, others alone.
            near = position < _NEAR * len(headers)
            window, start = os.pread(file, _MANY if near else _FEW, first), padding
        if not window.startswith(_PADDINGS[padding], start - padding):
            return None
        header = window[start : start + BLOCK]
        if len(header) < BLOCK or not header[0]:
            break
        try:
            size = int(header[124:135], 8)
        except ValueError:
            return None
        if header[156] == ord("x"):  # extended, of webdataset's and others: a time and no more
            time = _TIME.fullmatch(window[start + BLOCK : start + BLOCK + size])
            if time is None or int(time[1]) != size:
                return None
        headers.append(header)
        padding = -size % BLOCK
        position += BLOCK + size + padding
    rest = os.pread(file, _END_LIMIT, position)
    if rest.strip(b"\0") or not 2 * BLOCK <= len(rest) < _END_LIMIT:
        return None
    return b"".join(headers)


def _are_ordinary(headers: NDArray[np.uint8]) -> bool:
    """Whether headers (N, 512) are of files, with short names, plain numbers, right checksums."""
    sizes, stated = headers[:, 124:135], headers[:, 148:154]
    digits = all(((field >= ord("0")) & (field <= ord("7"))).all() for field in (sizes, stated))
    known = np.isin(headers[:, 156], np.frombuffer(b"".join((*_FILES, b"x")), np.uint8))
    plain = (headers[:, 345] == 0) & np.isin(headers[:, 135], (0, ord(" ")))  # no prefix of a name
    ends = np.isin(headers[:, 154:156], (0, ord(" ")))
    sums = headers.sum(axis=1, dtype=np.int64) - headers[:, 148:156].sum(axis=1, dtype=np.int64)
    right = sums + 8 * ord(" ") == _octal(stated)
    return bool(digits and (known & plain & right).all() and ends.all())


def _octal(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the numbers of digits (N, D)."""
    return (digits - np.uint8(ord("0"))) @ 8 ** np.arange(digits.shape[1] - 1, -1, -1)


class TarReader:
    """Iterate over the files of an uncompressed tar, from its beginning; folders are skipped.
    Raises TarError for a tar that is damaged, cut off or followed by another, for links, devices
    and sparse files, and for two files of one name."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._seek = file.seek if isinstance(file, io.IOBase) and file.seekable() else None
        self._position = 0
        self._unread = 0  # bytes of the current file's content
        self._padding = 0  # bytes between that content and the next header

    def __iter__(self) -> Iterator[Member]:
        names = set[str]()
        records: dict[bytes, bytes] = {}
        while (header := self._next_header()) is not None:
            kind, name, size = header
            if kind in b"xXgLK":
                self._extend(kind, size, records)
                continue
            path, size = _path_and_size(name, size, records)
            if kind in _FILES and not path.endswith("/"):
                if path in names:
                    raise TarError(f"two files are called {path!r}; pack it again")
                names.add(path)
                self._unread, self._padding = size, -size % BLOCK
                yield Member(path, self._position, size)
            elif kind not in (*_FILES, *_SKIPPED):
                what = _OTHERS.get(kind, f"of an unknown kind, {kind!r}")
                how = "pack it again with --dereference --hard-dereference"
                raise TarError(f"{path!r} is {what}; {how}")
            records.clear()
        if records:
            raise self._damaged("an extended header has no file")

    def read(self) -> bytes:
        """Return the content of the file that the iteration has reached."""
        content, self._unread = self._take(self._unread), 0
        require_one_file(content)
        return content

    def _extend(self, kind: bytes, size: int, records: dict[bytes, bytes]) -> None:
        """Read the content of an extended header, which is about the next file or, `g`, all."""
        if size > _HEADER_LIMIT:
            raise self._damaged("an extended header is too large")
        content, self._padding = self._take(size), -size % BLOCK
        if kind == b"K":  # the target of a link
            return
        try:
            found = _long_name(content) if kind == b"L" else _pax(content)
        except ValueError as error:
            raise self._damaged(f"an extended header is broken ({error})") from error
        if kind != b"g":
            records.update(found)
        elif found.keys() & {b"path", b"size"}:
            raise self._damaged("one name or size is stated for all files")

    def _next_header(self) -> tuple[bytes, bytes, int] | None:
        """Skip to the next header and parse it; None at the end, once all has been read."""
        if self._seek is not None and self._unread:
            self._position += self._unread
            self._seek(self._position)
        else:
            while self._unread:
                self._unread -= len(self._take(min(self._unread, _CHUNK)))
        data = self._take(self._padding + BLOCK)
        padding, block = data[: self._padding], data[self._padding :]
        self._unread = self._padding = 0
        if padding.strip(b"\0"):
            raise self._damaged("the size of a file is wrong")
        if block == _ZEROS:
            self._require_end()
            return None
        try:
            return _parse(block)
        except ValueError as error:
            first = self._position == BLOCK
            raise (_no_tar(str(error)) if first else self._damaged(str(error))) from error

    def _require_end(self) -> None:
        """Read the second block of zeros, and zeros to the end of the file."""
        end = self._position - BLOCK
        rest = self._read(_END_LIMIT)
        if rest.strip(b"\0"):
            raise TarError(
                f"goes on after its end at byte {end}: fetch it again; if it is several tars "
                "joined, unpack them by tar --ignore-zeros -xf and pack one tar"
            )
        if len(rest) < BLOCK:
            raise self._cut_off()
        if len(rest) == _END_LIMIT:
            raise TarError(f"only zeros from byte {end} on: not written to its end; fetch it again")

    def _take(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise self._cut_off()
        return data

    def _read(self, size: int) -> bytes:
        """Read up to `size` bytes, fewer at the end; in chunks, as a wrong size may be huge."""
        chunks = []
        while size and (data := self._file.read(min(size, _CHUNK))):
            self._position += len(data)
            size -= len(data)
            chunks.append(data)
        return b"".join(chunks)

    def _cut_off(self) -> TarError:
        if self._position < BLOCK:
            return _no_tar(f"{self._position} bytes")
        return TarError(f"cut off at byte {self._position}; fetch it again")

    def _damaged(self, reason: str) -> TarError:
        return TarError(f"damaged before byte {self._position}: {reason}; fetch it again")


def _no_tar(reason: str) -> TarError:
    return TarError(f"not an uncompressed tar ({reason}); fetch it again, or uncompress it")


def _is_header(block: bytes) -> bool:
    try:
        return len(block) == BLOCK and bool(_parse(block))
    except ValueError:
        return False


def _parse(block: bytes) -> tuple[bytes, bytes, int]:
    """Return kind, name and size in a header. Raises ValueError for a wrong checksum or number."""
    stated = _number(block[148:156])
    blank = block[:148] + b" " * 8 + block[156:]
    if sum(blank) != stated and sum(memoryview(blank).cast("b")) != stated:  # old Sun's was signed
        raise ValueError("bad checksum")
    name = block[:100].partition(b"\0")[0]
    if block.startswith(b"ustar\0", _MAGIC) and block[345]:  # in GNU's format no prefix
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return block[156:157], name, _number(block[124:136])


def _number(field: bytes) -> int:
    """Read octal digits, or GNU's large numbers: 0x80, then big-endian."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if digits.strip(b"01234567"):
        raise ValueError("bad number")
    return int(digits, 8)


def _pax(content: bytes) -> dict[bytes, bytes]:
    """Read the records `LENGTH KEYWORD=VALUE` of a pax header, which fill it to the byte."""
    found, start = {}, 0
    while start < len(content):
        digits = content[start : start + 20].partition(b" ")[0]
        end = start + (int(digits) if digits.isdigit() else 0)
        keyword, equals, value = content[start + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise ValueError("bad record")
        found[keyword] = value
        start = end
    return found


def _long_name(content: bytes) -> dict[bytes, bytes]:
    name = content.removesuffix(b"\0")
    if not name or b"\0" in name:
        raise ValueError("bad name")
    return {b"path": name}


def _path_and_size(name: bytes, size: int, records: dict[bytes, bytes]) -> tuple[str, int]:
    """Return what extended headers state, or else the header. Raises TarError."""
    path = records.get(b"path", name).decode("utf-8", "surrogateescape")
    digits = records.get(b"size", b"%d" % size)
    if not path or "\0" in path or not digits.isdigit() or len(digits) > _DIGITS:
        raise TarError(f"damaged: a file called {path!r} of {digits[:40].decode('latin-1')} bytes")
    if any(keyword.startswith(b"GNU.sparse.") for keyword in records):
        raise TarError(f"{path!r} is a sparse file; pack it again without --sparse")
    return path, int(digits)
