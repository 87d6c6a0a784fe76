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
# The zeros that fill a file's last block, by their number.
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

    The name is split at the first full stop behind its folder, and the extension is returned in
    lower case: `a/0001.seg.PNG` -> `("a/0001", "seg.png")`. Return None for a name without a key or
    an extension, and for metadata (`__meta__/...`).
    """
    key, _, suffix = name.partition(".")
    if key.isalnum() and suffix.isalnum():  # most names are such simple ones: this is quicker
        return key, suffix.lower()
    name_match = _KEY.fullmatch(name)
    if name_match is None or _META.match(name):
        return None
    return name_match[1], name_match[2].lower()


def require_one_file(content: bytes) -> None:
    """Raise TarError if the content of a file holds headers of other files.

    The size in the file's header is too large then: the content reaches into the next files.
    Headers are found by the word "ustar", which is at a fixed offset in each of them.
    """
    for magic in re.finditer(b"ustar", content):  # quicker than bytes.find in bytes of images
        header_start = magic.start() - _MAGIC_OFFSET
        is_at_block = header_start >= 0 and header_start % BLOCK == 0
        if is_at_block and _is_header(content[header_start : header_start + BLOCK]):
            raise TarError("damaged: a file reaches into the next one; fetch it again")


def read_members(path: str) -> Iterable[tuple[str, int, int]]:
    """Return the files in a local tar as tuples (name, offset, size), in their order.

    The fields are those of Member: `("0001.jpg", 512, 700)` is a file of 700 bytes whose content
    begins at byte 512. The files are the same as TarReader yields. Raises TarError if the tar is
    damaged, and OSError. If all headers are ordinary, as in most tars, they are checked together,
    which takes a fraction of the time.
    """
    with open(path, "rb", buffering=0) as file:
        members = _ordinary_members(file.fileno())
    if members is not None:
        return members
    with open(path, "rb") as file:
        return list(TarReader(file))


def _ordinary_members(file_descriptor: int) -> Iterable[tuple[str, int, int]] | None:
    """Return the files in a tar as tuples (name, offset, size), if all its headers are ordinary.

    `_are_ordinary` says which headers are. Return None for other headers and for any damage:
    TarReader then reads the tar, and finds the damage.
    """
    joined_headers = _read_headers(file_descriptor)
    if joined_headers is None:
        return None
    headers = np.frombuffer(joined_headers, np.uint8).reshape(-1, BLOCK)
    if not _are_ordinary(headers):
        return None

    is_file = headers[:, _KIND] != ord("x")
    ends_with_extended_header = len(is_file) > 0 and not is_file[-1]
    if ends_with_extended_header:  # an extended header describes the next file, which is missing
        return None
    names = _header_names(headers[is_file])
    if names is None:
        return None

    # Each header is one block, and the content behind it fills whole blocks. Files of 700 and 90
    # bytes fill 1024 and 512 bytes, so they begin at bytes 512 and 2048.
    sizes = _parse_octal(headers[:, _SIZE_DIGITS])
    padded_sizes = sizes + -sizes % BLOCK
    content_ends = np.cumsum(BLOCK + padded_sizes)
    offsets = content_ends - padded_sizes
    return zip(names, offsets[is_file].tolist(), sizes[is_file].tolist(), strict=True)


def _header_names(headers: NDArray[np.uint8]) -> list[str] | None:
    """Return the names of files from their headers (N, 512).

    Return None if a name is empty, holds a byte of zero, or belongs to a folder (it ends with a
    slash), and if two names are equal.
    """
    if len(headers) == 0:
        return []
    name_fields = np.ascontiguousarray(headers[:, _NAME]).view("S100").ravel().tolist()
    # All names are decoded at once, which is quicker. A name that holds a zero is split in two.
    joined_names = b"\0".join(name_fields).decode("utf-8", "surrogateescape")
    names = joined_names.split("\0")
    has_zero = len(names) != len(name_fields)
    has_duplicate = len(set(names)) != len(names)
    has_folder = "/\0" in f"{joined_names}\0"
    if has_zero or has_duplicate or has_folder or "" in names:
        return None
    return names


def _read_headers(file_descriptor: int) -> bytes | None:
    """Return all headers of a tar, joined, without reading the contents of its files.

    The size in a header leads to the next header. Return None if a size is not a number, if the
    padding before a header or the end of the tar is wrong, and if an extended header states more
    than a time.
    """
    reader = _WindowReader(file_descriptor)
    headers: list[bytes] = []
    position = 0  # of the header in the tar
    padding = 0  # bytes of zero between the previous file's content and the header
    while True:
        # Headers are near each other if the files so far are small. Then one window holds several.
        headers_are_near = position < _NEAR_HEADERS * len(headers)
        window, start = reader.window_at(position, padding, is_large=headers_are_near)
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
            content_start = start + BLOCK
            content = window[content_start : content_start + size]
            if not _states_only_time(content, size):
                return None
        headers.append(header)
        padding = -size % BLOCK
        position += BLOCK + size + padding

    # The tar ends with two or more blocks of zeros, and nothing else.
    end = os.pread(file_descriptor, _MAX_END_BYTES, position)
    has_only_zeros = not end.strip(b"\0")
    if not has_only_zeros or len(end) < 2 * BLOCK or len(end) == _MAX_END_BYTES:
        return None
    return b"".join(headers)


class _WindowReader:
    """Reads windows of a file, so that headers near each other take one call of the system."""

    def __init__(self, file_descriptor: int) -> None:
        self._file_descriptor = file_descriptor
        self._window = b""
        self._window_position = 0

    def window_at(self, position: int, padding: int, *, is_large: bool) -> tuple[bytes, int]:
        """Return a window of the file, and the offset of `position` in this window.

        The window holds the `padding` bytes before the position and, unless the file ends, two
        blocks from the position on. The current window is used again if it does. Otherwise a large
        or a small window is read, which begins at `position - padding`.
        """
        start = position - self._window_position
        if start + 2 * BLOCK > len(self._window):
            self._window_position = position - padding
            window_size = _LARGE_WINDOW if is_large else _SMALL_WINDOW
            self._window = os.pread(self._file_descriptor, window_size, self._window_position)
            start = padding
        return self._window, start


def _states_only_time(content: bytes, size: int) -> bool:
    r"""Return whether an extended header states only a time, as webdataset writes them.

    Its content of `size` bytes is then such as `22 mtime=1700000000.5\n`, which begins with this
    size. A header with a longer content is not recognised.
    """
    time_match = _TIME.fullmatch(content)
    return time_match is not None and int(time_match[1]) == size


def _are_ordinary(headers: NDArray[np.uint8]) -> bool:
    """Return whether all headers (N, 512), as rows of bytes, are ordinary.

    An ordinary header belongs to a file, or is an extended header of the kind "x". Its name is not
    longer than 100 bytes, so that it has no prefix. Its size and checksum are octal digits that
    fill their fields, and the checksum is right.
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
    byte_sums = headers.sum(axis=1, dtype=np.int64)
    sums_of_checksum_fields = headers[:, _CHECKSUM].sum(axis=1, dtype=np.int64)
    expected_checksums = byte_sums - sums_of_checksum_fields + 8 * ord(" ")
    return bool((expected_checksums == _parse_octal(checksum_digits)).all())


def _parse_octal(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the numbers (N,) that are written in octal in the rows of `digits` (N, D).

    The digits are ASCII codes: the row of b"017" is the number 15, 1 * 8 + 7.
    """
    n_digits = digits.shape[1]
    powers = 8 ** np.arange(n_digits - 1, -1, -1)  # such as [64, 8, 1]
    digit_values = digits - np.uint8(ord("0"))
    return digit_values @ powers


class TarReader:
    """Iterates over the files in an uncompressed tar, from its beginning to its end.

    `read` returns the content of the file that the iteration has reached. Contents that are not
    read are skipped, by seeking if the file can. Folders are skipped.

    Raises TarError for a tar that is damaged, cut off or followed by another, for links, devices
    and sparse files, and for two files of one name.
    """

    def __init__(self, file: Readable) -> None:
        """Start at the beginning of a tar. `file` is open for reading."""
        self._file = file
        # The method to seek with, if the file can.
        self._seek: Callable[[int], object] | None = None
        if isinstance(file, io.IOBase) and file.seekable():
            self._seek = file.seek
        # The number of bytes that were read or skipped so far.
        self._position = 0
        # The number of bytes of the current file's content that were not read yet.
        self._n_unread = 0
        # The number of bytes between that content and the next header.
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield the name, the offset and the size of each file in the tar.

        While an entry is handled, `read` returns the content of its file.
        """
        names: set[str] = set()
        # The values that extended headers state about the next file, by keyword, such as b"path".
        records: dict[bytes, bytes] = {}
        while True:
            header = self._next_header()
            if header is None:
                break
            if header.kind in _EXTENDED_KINDS:
                # It describes the next file, for example with a long name.
                self._read_extended_header(header, records)
                continue

            path, size = _path_and_size(header, records)
            is_file = header.kind in _FILE_KINDS and not path.endswith("/")
            if is_file:
                if path in names:
                    raise TarError(f"two files are called {path!r}; pack it again")
                names.add(path)
                self._n_unread = size
                self._padding = -size % BLOCK
                yield Member(path, self._position, size)
            elif header.kind not in (*_FILE_KINDS, *_SKIPPED_KINDS):
                kind = _OTHER_KINDS.get(header.kind, f"of an unknown kind, {header.kind!r}")
                raise TarError(
                    f"{path!r} is {kind}; pack it again with --dereference --hard-dereference"
                )
            records.clear()
        if records:
            raise self._damaged_error("an extended header has no file")

    def read(self) -> bytes:
        """Return the content of the file that the iteration has reached.

        Raises TarError if the tar is cut off, or if the content holds headers of other files.
        """
        content = self._read_exactly(self._n_unread)
        self._n_unread = 0
        require_one_file(content)
        return content

    def _read_extended_header(self, header: "_TarHeader", records: dict[bytes, bytes]) -> None:
        """Read the content of an extended header, and add its values to `records` by keyword.

        They describe the next file: `{b"path": b"a long name.jpg"}`. A global header, of the kind
        "g", describes all files. Its values are not needed. Raises TarError if it is damaged, or
        if a global header states a name or a size.
        """
        if header.size > _MAX_HEADER_BYTES:
            raise self._damaged_error("an extended header is too large")
        content = self._read_exactly(header.size)
        self._padding = -header.size % BLOCK
        if header.kind == b"K":  # the target of a link
            return
        try:
            if header.kind == b"L":
                new_records = {b"path": _parse_long_name(content)}
            else:
                new_records = _parse_pax_records(content)
        except ValueError as error:
            raise self._damaged_error(f"an extended header is broken ({error})") from error
        if header.kind != b"g":
            records.update(new_records)
        elif b"path" in new_records or b"size" in new_records:
            raise self._damaged_error("one name or size is stated for all files")

    def _next_header(self) -> "_TarHeader | None":
        """Skip to the next header, and return its fields. Return None at the end of the tar.

        Raises TarError if the header or the bytes before it are damaged.
        """
        # Skip the content of the current file that was not read.
        if self._seek is not None and self._n_unread:
            self._position += self._n_unread
            self._seek(self._position)
            self._n_unread = 0
        while self._n_unread:
            skipped = self._read_exactly(min(self._n_unread, _CHUNK))
            self._n_unread -= len(skipped)

        padding_and_header = self._read_exactly(self._padding + BLOCK)
        padding = padding_and_header[: self._padding]
        block = padding_and_header[self._padding :]
        self._padding = 0
        has_only_zeros = not padding.strip(b"\0")
        if not has_only_zeros:
            raise self._damaged_error("the size of a file is wrong")
        if block == _ZEROS:
            self._require_end()
            return None
        try:
            return _parse_header(block)
        except ValueError as error:
            if self._position == BLOCK:
                raise _no_tar_error(str(error)) from error
            raise self._damaged_error(str(error)) from error

    def _require_end(self) -> None:
        """Raise TarError unless a second block of zeros follows, and only zeros after it.

        The first block of zeros has been read.
        """
        end = self._position - BLOCK
        remaining_bytes = self._read_at_most(_MAX_END_BYTES)
        has_only_zeros = not remaining_bytes.strip(b"\0")
        if not has_only_zeros:
            raise TarError(
                f"goes on after its end at byte {end}: fetch it again; if it is several tars "
                "joined, unpack them by tar --ignore-zeros -xf and pack one tar"
            )
        if len(remaining_bytes) < BLOCK:
            raise self._cut_off_error()
        if len(remaining_bytes) == _MAX_END_BYTES:
            raise TarError(f"only zeros from byte {end} on: not written to its end; fetch it again")

    def _read_exactly(self, size: int) -> bytes:
        """Read `size` bytes. Raises TarError if the tar ends before them."""
        content = self._read_at_most(size)
        if len(content) < size:
            raise self._cut_off_error()
        return content

    def _read_at_most(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end of the tar.

        They are read in chunks: a wrong size may be huge, and would fill the memory at once.
        """
        chunks = []
        while size:
            chunk = self._file.read(min(size, _CHUNK))
            if not chunk:
                break
            self._position += len(chunk)
            size -= len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    def _cut_off_error(self) -> TarError:
        """Return the error for a tar that ends at this position, before its end is complete."""
        if self._position < BLOCK:
            return _no_tar_error(f"{self._position} bytes")
        return TarError(f"cut off at byte {self._position}; fetch it again")

    def _damaged_error(self, reason: str) -> TarError:
        """Return the error for damage that was found at this position."""
        return TarError(f"damaged before byte {self._position}: {reason}; fetch it again")


def _no_tar_error(reason: str) -> TarError:
    """Return the error for a file that is not a tar, or a compressed one."""
    return TarError(f"not an uncompressed tar ({reason}); fetch it again, or uncompress it")


class _TarHeader(NamedTuple):
    """The fields of a header in a tar."""

    # One byte: b"0" for a file, b"5" for a folder, b"x" for an extended header and so on.
    kind: bytes
    name: bytes
    # The number of bytes that follow the header.
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


def _parse_header(block: bytes) -> _TarHeader:
    """Parse a block of 512 bytes as a header.

    Raises ValueError for a wrong checksum, and for a size that is not a number.
    """
    checksum = _parse_number(block[_CHECKSUM])
    # The checksum is the sum of all bytes, with blanks in place of the checksum itself. Old
    # versions of Sun's tar add signed bytes.
    summed_bytes = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    unsigned_sum = sum(summed_bytes)
    signed_sum = sum(memoryview(summed_bytes).cast("b"))
    if checksum not in (unsigned_sum, signed_sum):
        raise ValueError("bad checksum")

    # A name of more than 100 bytes has its beginning in another field, the prefix.
    name = block[_NAME].partition(b"\0")[0]
    # GNU's format, whose magic is "ustar  ", has other fields in place of the prefix.
    is_posix = block.startswith(b"ustar\0", _MAGIC_OFFSET)
    prefix = block[_PREFIX].partition(b"\0")[0]
    if is_posix and prefix:
        name = prefix + b"/" + name
    return _TarHeader(
        kind=block[_KIND : _KIND + 1],
        name=name,
        size=_parse_number(block[_SIZE]),
    )


def _parse_number(field: bytes) -> int:
    r"""Return the number in a field of a header, such as 15 for b"000017\0".

    The number is written in octal digits or, if it is large, in GNU's form: the byte 0x80 and a
    big-endian integer. A blank field is 0. Raises ValueError if the field is not a number.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if digits.strip(b"01234567"):
        raise ValueError("bad number")
    return int(digits, 8)


def _parse_pax_records(content: bytes) -> dict[bytes, bytes]:
    r"""Return the values in the content of a pax header by their keywords.

    A record is `LENGTH KEYWORD=VALUE\n`, and its length counts all of its bytes. So the content
    b"19 path=photo1.jpg\n" gives {b"path": b"photo1.jpg"}. Raises ValueError if the records do not
    fill the content.
    """
    records = {}
    start = 0
    while start < len(content):
        length_digits = content[start : start + 20].partition(b" ")[0]
        length = int(length_digits) if length_digits.isdigit() else 0
        end = start + length
        # Between the blank after the length and the line break.
        keyword_start = start + len(length_digits) + 1
        line_break = content[end - 1 : end]
        keyword, equals, value = content[keyword_start : end - 1].partition(b"=")
        if not equals or line_break != b"\n":
            raise ValueError("bad record")
        records[keyword] = value
        start = end
    return records


def _parse_long_name(content: bytes) -> bytes:
    r"""Return the name in the content of one of GNU's extended headers: b"a.jpg\0" -> b"a.jpg".

    Raises ValueError for an empty name, and for one that holds a byte of zero.
    """
    name = content.removesuffix(b"\0")
    if not name or b"\0" in name:
        raise ValueError("bad name")
    return name


def _path_and_size(header: _TarHeader, records: dict[bytes, bytes]) -> tuple[str, int]:
    """Return the path and the size in bytes of a file.

    The values in `records`, from extended headers, override the name and the size in the file's
    header. Raises TarError for an impossible path or size, and for a sparse file.
    """
    path = records.get(b"path", header.name).decode("utf-8", "surrogateescape")
    size_digits = records.get(b"size", b"%d" % header.size)
    is_valid_path = path != "" and "\0" not in path
    is_valid_size = size_digits.isdigit() and len(size_digits) <= _MAX_SIZE_DIGITS
    if not is_valid_path or not is_valid_size:
        shown_digits = size_digits[:40].decode("latin-1")
        raise TarError(f"damaged: a file called {path!r} of {shown_digits} bytes")
    if any(keyword.startswith(b"GNU.sparse.") for keyword in records):
        raise TarError(f"{path!r} is a sparse file; pack it again without --sparse")
    return path, int(size_digits)
