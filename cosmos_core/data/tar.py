"""Read the files of a tar strictly: a damaged tar is an error, never a shorter tar.

Python's tarfile, and webdataset with it, takes a damaged or missing header for the end of the
archive. Here an archive ends with at least two blocks of zeros and nothing else, and every header
must have the right checksum. A wrong size is found because it leads to no header, because the
padding of the file's last block is not zero, or because the content holds headers of other files.

Formats: POSIX.1-2017 and pax; for GNU's long names and large numbers GNU tar's manual, "Basic Tar
Format". This module imports no torch.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
# The bytes of a header's fields (POSIX.1-2017, pax, "ustar Interchange Format").
_NAME = slice(0, 100)
_SIZE = slice(124, 136)
_SIZE_DIGITS = slice(124, 135)  # the field's last byte is zero or blank
_CHECKSUM = slice(148, 156)
_CHECKSUM_DIGITS = slice(148, 154)  # the field's last two bytes are zero or blank
_KIND = 156
_MAGIC_OFFSET = 257  # of "ustar"
_PREFIX = slice(345, 500)  # of the name
_ZEROS = bytes(BLOCK)
# The padding of a file's last block, by its size.
_PADDINGS = [bytes(size) for size in range(BLOCK)]
_MAX_END_BYTES = 1 << 20  # zeros after the end: more than any program pads an archive with
_MAX_HEADER_BYTES = 1 << 20  # of an extended header, which holds names and attributes
_CHUNK = 1 << 20
# Headers are read in windows: large ones if headers are near each other, small ones otherwise.
_NEAR_HEADERS = 1 << 14  # bytes of archive per header, up to which headers are near
_LARGE_WINDOW = 1 << 16
_SMALL_WINDOW = 1 << 12
# The content of an extended header that states only a time: "LENGTH mtime=SECONDS".
_TIME = re.compile(rb"(\d{1,3}) mtime=\d+\.?\d*\n")
_MAX_SIZE_DIGITS = 13  # 10 TB, which every file system can seek to
# Names that webdataset skips, and its keys and extensions: webdataset/tariterators.py.
_META = re.compile(r"__[^/]*__(/|$)")
_KEY = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", re.DOTALL)

# Kinds of entries: files, those that are skipped (folders, the label of a volume), and others.
_FILE_KINDS = (b"0", b"\0", b"7")
_SKIPPED_KINDS = (b"5", b"V")
_EXTENDED_KINDS = (b"x", b"X", b"g", b"L", b"K")
_OTHER_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}


class TarError(ValueError):
    """A tar that cannot be read completely; one line, without the name of the tar."""


class Readable(Protocol):
    """A binary file or stream, which is read in order."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer at the end."""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int  # of its first byte in the tar
    size: int  # in bytes


def split_name(name: str) -> tuple[str, str] | None:
    """Split a file's name into the key of its sample and its extension, as webdataset does.

    The extension is returned in lower case. Return None for names without a key or an extension,
    and for metadata (`__meta__/...`).
    """
    key, _, suffix = name.partition(".")
    if key.isalnum() and suffix.isalnum():  # as in most names, which are quickly split
        return key, suffix.lower()
    name_match = _KEY.fullmatch(name)
    if name_match is None or _META.match(name):
        return None
    return name_match[1], name_match[2].lower()


def require_one_file(content: bytes) -> None:
    """Raise TarError if the content of a file holds headers of other files.

    The size in the file's header is then too large: the content reaches into the next files.
    """
    for magic in re.finditer(b"ustar", content):  # quicker than bytes.find in bytes of images
        start = magic.start() - _MAGIC_OFFSET
        if start >= 0 and start % BLOCK == 0 and _is_header(content[start : start + BLOCK]):
            raise TarError("damaged: a file reaches into the next one; fetch it again")


def read_members(path: str) -> Iterable[tuple[str, int, int]]:
    """Return the files of a local tar as tuples (name, offset, size), the fields of Member.

    They are the files that TarReader yields. Raises its errors, and OSError. If all headers are
    ordinary, they are checked together, which takes a fraction of the time.
    """
    with open(path, "rb", buffering=0) as file:
        members = _ordinary_members(file.fileno())
    if members is not None:
        return members
    with open(path, "rb") as file:
        return list(TarReader(file))


def _ordinary_members(file: int) -> Iterable[tuple[str, int, int]] | None:
    """Return the files of a tar whose headers are all ordinary; see `_are_ordinary`.

    `file` is a file descriptor. Return None for other headers and for any damage: TarReader then
    reads the tar, and finds the damage.
    """
    joined_headers = _read_headers(file)
    if joined_headers is None:
        return None
    headers = np.frombuffer(joined_headers, np.uint8).reshape(-1, BLOCK)
    if not _are_ordinary(headers):
        return None
    is_file = headers[:, _KIND] != ord("x")
    if len(is_file) > 0 and not is_file[-1]:  # no file follows an extended header
        return None
    names = _header_names(headers[is_file])
    if names is None:
        return None
    # The contents fill whole blocks, and each follows its header.
    sizes = _parse_octal(headers[:, _SIZE_DIGITS])
    padded_sizes = sizes + -sizes % BLOCK
    ends = np.cumsum(BLOCK + padded_sizes)
    offsets = ends - padded_sizes
    return zip(names, offsets[is_file].tolist(), sizes[is_file].tolist(), strict=True)


def _header_names(headers: NDArray[np.uint8]) -> list[str] | None:
    """Return the names in headers (N, 512).

    Return None if a name is empty, holds a byte of zero, or belongs to a folder, and if two names
    are equal.
    """
    if len(headers) == 0:
        return []
    fields = np.ascontiguousarray(headers[:, _NAME]).view("S100").ravel().tolist()
    # All names are decoded at once, which is quicker. A name that holds a zero is split in two.
    joined_names = b"\0".join(fields).decode("utf-8", "surrogateescape")
    names = joined_names.split("\0")
    if len(names) != len(fields) or len(set(names)) != len(names) or "" in names:
        return None
    has_folder = "/\0" in f"{joined_names}\0"
    return None if has_folder else names


def _read_headers(file: int) -> bytes | None:
    """Return all headers of a tar, joined. The contents of files are not read.

    The size in a header leads to the next header. Return None if a size is not a number, if the
    padding before a header or the end of the tar is wrong, and if an extended header states more
    than a time.
    """
    reader = _WindowReader(file)
    headers = list[bytes]()
    position = 0  # of the header in the tar
    padding = 0  # bytes between the previous file's content and the header
    while True:
        # Headers are near each other if the files so far are small.
        headers_are_near = position < _NEAR_HEADERS * len(headers)
        window, start = reader.window_at(position, padding, large=headers_are_near)
        if not window.startswith(_PADDINGS[padding], start - padding):
            return None
        header = window[start : start + BLOCK]
        is_end = len(header) < BLOCK or header[0] == 0
        if is_end:
            break
        try:
            size = int(header[_SIZE_DIGITS], 8)
        except ValueError:
            return None
        if header[_KIND] == ord("x"):
            content = window[start + BLOCK : start + BLOCK + size]
            if not _states_only_time(content, size):
                return None
        headers.append(header)
        padding = -size % BLOCK
        position += BLOCK + size + padding
    zeros = os.pread(file, _MAX_END_BYTES, position)
    if zeros.strip(b"\0"):
        return None
    if len(zeros) < 2 * BLOCK or len(zeros) == _MAX_END_BYTES:
        return None
    return b"".join(headers)


class _WindowReader:
    """Reads windows of a file, so that headers near each other take one call of the system."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._window = b""
        self._window_position = 0

    def window_at(self, position: int, padding: int, *, large: bool) -> tuple[bytes, int]:
        """Return a window of the file, and the offset of `position` in it.

        It holds the `padding` bytes before the position and, unless the file ends, two blocks from
        the position on. If it has to be read, `large` says how much is read.
        """
        start = position - self._window_position
        if start + 2 * BLOCK > len(self._window):
            self._window_position = position - padding
            size = _LARGE_WINDOW if large else _SMALL_WINDOW
            self._window = os.pread(self._file, size, self._window_position)
            start = padding
        return self._window, start


def _states_only_time(content: bytes, size: int) -> bool:
    """Return whether an extended header of `size` bytes states only a time, as webdataset's do."""
    time = _TIME.fullmatch(content)
    return time is not None and int(time[1]) == size


def _are_ordinary(headers: NDArray[np.uint8]) -> bool:
    """Return whether all headers (N, 512) are ordinary.

    An ordinary header belongs to a file, or is an extended header `x`. Its name has no prefix, its
    numbers are octal digits that fill their fields, and its checksum is right.
    """
    size_digits, checksum_digits = headers[:, _SIZE_DIGITS], headers[:, _CHECKSUM_DIGITS]
    for digits in (size_digits, checksum_digits):
        if not ((digits >= ord("0")) & (digits <= ord("7"))).all():
            return False
    ordinary_kinds = np.frombuffer(b"".join((*_FILE_KINDS, b"x")), np.uint8)
    if not np.isin(headers[:, _KIND], ordinary_kinds).all():
        return False
    has_prefix = headers[:, _PREFIX.start] != 0
    if has_prefix.any():
        return False
    zero_or_blank = (0, ord(" "))
    size_ends = headers[:, _SIZE_DIGITS.stop : _SIZE.stop]
    checksum_ends = headers[:, _CHECKSUM_DIGITS.stop : _CHECKSUM.stop]
    if not np.isin(size_ends, zero_or_blank).all():
        return False
    if not np.isin(checksum_ends, zero_or_blank).all():
        return False
    # The checksum is the sum of all bytes, with eight blanks in place of the checksum itself.
    sums = headers.sum(axis=1, dtype=np.int64) - headers[:, _CHECKSUM].sum(axis=1, dtype=np.int64)
    return bool((sums + 8 * ord(" ") == _parse_octal(checksum_digits)).all())


def _parse_octal(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the numbers (N,) whose octal digits, as ASCII, are the rows of `digits` (N, D)."""
    powers = 8 ** np.arange(digits.shape[1] - 1, -1, -1)
    return (digits - np.uint8(ord("0"))) @ powers


class TarReader:
    """Iterates over the files of an uncompressed tar, from its beginning; folders are skipped.

    Contents that are not read are skipped by seeking if the file can. Raises TarError for a tar
    that is damaged, cut off or followed by another, for links, devices and sparse files, and for
    two files of one name.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._seek: Callable[[int], object] | None = None
        if isinstance(file, io.IOBase) and file.seekable():
            self._seek = file.seek
        self._position = 0
        self._unread = 0  # bytes of the current file's content
        self._padding = 0  # bytes between that content and the next header

    def __iter__(self) -> Iterator[Member]:
        names = set[str]()
        # What extended headers state about the next file, by keyword.
        records: dict[bytes, bytes] = {}
        while True:
            header = self._next_header()
            if header is None:
                break
            if header.kind in _EXTENDED_KINDS:
                self._read_extended_header(header, records)
                continue
            path, size = _path_and_size(header, records)
            if header.kind in _FILE_KINDS and not path.endswith("/"):
                if path in names:
                    raise TarError(f"two files are called {path!r}; pack it again")
                names.add(path)
                self._unread = size
                self._padding = -size % BLOCK
                yield Member(path, self._position, size)
            elif header.kind not in (*_FILE_KINDS, *_SKIPPED_KINDS):
                kind = _OTHER_KINDS.get(header.kind, f"of an unknown kind, {header.kind!r}")
                raise TarError(
                    f"{path!r} is {kind}; pack it again with --dereference --hard-dereference"
                )
            records.clear()
        if records:
            raise self._damaged("an extended header has no file")

    def read(self) -> bytes:
        """Return the content of the file that the iteration has reached."""
        content, self._unread = self._take(self._unread), 0
        require_one_file(content)
        return content

    def _read_extended_header(self, header: "_Header", records: dict[bytes, bytes]) -> None:
        """Add the content of an extended header, which describes the next file, to `records`.

        A global header, `g`, describes all files, and may state neither their name nor their size.
        """
        if header.size > _MAX_HEADER_BYTES:
            raise self._damaged("an extended header is too large")
        content = self._take(header.size)
        self._padding = -header.size % BLOCK
        if header.kind == b"K":  # the target of a link
            return
        try:
            new_records = _long_name(content) if header.kind == b"L" else _pax_records(content)
        except ValueError as error:
            raise self._damaged(f"an extended header is broken ({error})") from error
        if header.kind != b"g":
            records.update(new_records)
        elif b"path" in new_records or b"size" in new_records:
            raise self._damaged("one name or size is stated for all files")

    def _next_header(self) -> "_Header | None":
        """Skip to the next header and parse it. Return None at the end of the tar."""
        self._skip_content()
        padding = self._padding
        self._padding = 0
        data = self._take(padding + BLOCK)
        block = data[padding:]
        if data[:padding].strip(b"\0"):
            raise self._damaged("the size of a file is wrong")
        if block == _ZEROS:
            self._require_end()
            return None
        try:
            return _parse_header(block)
        except ValueError as error:
            if self._position == BLOCK:
                raise _no_tar(str(error)) from error
            raise self._damaged(str(error)) from error

    def _skip_content(self) -> None:
        """Skip the content of the current file that was not read."""
        if self._seek is not None and self._unread:
            self._position += self._unread
            self._seek(self._position)
            self._unread = 0
        while self._unread:
            self._unread -= len(self._take(min(self._unread, _CHUNK)))

    def _require_end(self) -> None:
        """Raise TarError unless a second block of zeros follows, and only zeros after it."""
        end = self._position - BLOCK
        zeros = self._read(_MAX_END_BYTES)
        if zeros.strip(b"\0"):
            raise TarError(
                f"goes on after its end at byte {end}: fetch it again; if it is several tars "
                "joined, unpack them by tar --ignore-zeros -xf and pack one tar"
            )
        if len(zeros) < BLOCK:
            raise self._cut_off()
        if len(zeros) == _MAX_END_BYTES:
            raise TarError(f"only zeros from byte {end} on: not written to its end; fetch it again")

    def _take(self, size: int) -> bytes:
        """Read `size` bytes. Raises TarError if there are fewer."""
        data = self._read(size)
        if len(data) < size:
            raise self._cut_off()
        return data

    def _read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end; in chunks, since a wrong size may be huge."""
        chunks = []
        while size:
            data = self._file.read(min(size, _CHUNK))
            if not data:
                break
            self._position += len(data)
            size -= len(data)
            chunks.append(data)
        return b"".join(chunks)

    def _cut_off(self) -> TarError:
        """Return the error for a tar that ends here, in the middle."""
        if self._position < BLOCK:
            return _no_tar(f"{self._position} bytes")
        return TarError(f"cut off at byte {self._position}; fetch it again")

    def _damaged(self, reason: str) -> TarError:
        """Return the error for damage that shows at this position."""
        return TarError(f"damaged before byte {self._position}: {reason}; fetch it again")


def _no_tar(reason: str) -> TarError:
    """Return the error for a file that is not a tar."""
    return TarError(f"not an uncompressed tar ({reason}); fetch it again, or uncompress it")


class _Header(NamedTuple):
    """A header of an entry."""

    kind: bytes
    name: bytes
    size: int


def _is_header(block: bytes) -> bool:
    """Return whether a block is a header with the right checksum."""
    if len(block) != BLOCK:
        return False
    try:
        _parse_header(block)
    except ValueError:
        return False
    return True


def _parse_header(block: bytes) -> _Header:
    """Parse a header. Raises ValueError for a wrong checksum or number."""
    checksum = _parse_number(block[_CHECKSUM])
    # The checksum is computed with blanks in its place. Old versions of Sun's tar add signed bytes.
    summed_bytes = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    unsigned_sum = sum(summed_bytes)
    if unsigned_sum != checksum and sum(memoryview(summed_bytes).cast("b")) != checksum:
        raise ValueError("bad checksum")
    name = block[_NAME].partition(b"\0")[0]
    # GNU's format, whose magic is "ustar  ", has other fields in place of the prefix.
    is_posix = block.startswith(b"ustar\0", _MAGIC_OFFSET)
    prefix = block[_PREFIX].partition(b"\0")[0]
    if is_posix and prefix:
        name = prefix + b"/" + name
    return _Header(
        kind=block[_KIND : _KIND + 1],
        name=name,
        size=_parse_number(block[_SIZE]),
    )


def _parse_number(field: bytes) -> int:
    """Return the number in a field of a header. Raises ValueError if it is not a number.

    It is written in octal digits or, if it is large, in GNU's form: the byte 0x80 and a big-endian
    integer.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if digits.strip(b"01234567"):
        raise ValueError("bad number")
    return int(digits, 8)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    r"""Return the values in a pax header by their keywords.

    A record is `LENGTH KEYWORD=VALUE\n`, as in `19 path=photo1.jpg\n`, whose length counts all of
    its bytes. Raises ValueError if the records do not fill the content.
    """
    records = {}
    start = 0
    while start < len(content):
        length_digits = content[start : start + 20].partition(b" ")[0]
        length = int(length_digits) if length_digits.isdigit() else 0
        end = start + length
        record = content[start + len(length_digits) + 1 : end - 1]
        keyword, equals, value = record.partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise ValueError("bad record")
        records[keyword] = value
        start = end
    return records


def _long_name(content: bytes) -> dict[bytes, bytes]:
    """Return the name in one of GNU's extended headers in the form of `_pax_records`.

    Raises ValueError for an empty name, and for one that holds a byte of zero.
    """
    name = content.removesuffix(b"\0")
    if not name or b"\0" in name:
        raise ValueError("bad name")
    return {b"path": name}


def _path_and_size(header: _Header, records: dict[bytes, bytes]) -> tuple[str, int]:
    """Return the path and the size of a file.

    `records`, from extended headers, override the file's header. Raises TarError for an impossible
    path or size, and for a sparse file.
    """
    path = records.get(b"path", header.name).decode("utf-8", "surrogateescape")
    digits = records.get(b"size", b"%d" % header.size)
    if not path or "\0" in path or not digits.isdigit() or len(digits) > _MAX_SIZE_DIGITS:
        raise TarError(f"damaged: a file called {path!r} of {digits[:40].decode('latin-1')} bytes")
    if any(keyword.startswith(b"GNU.sparse.") for keyword in records):
        raise TarError(f"{path!r} is a sparse file; pack it again without --sparse")
    return path, int(digits)
