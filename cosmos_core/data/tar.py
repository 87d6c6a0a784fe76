"""Read the files of a tar strictly: a damaged tar is an error, never a shorter tar.

Python's tarfile, and webdataset with it, takes a damaged or missing header for the end of the
archive. Here an archive ends with at least two blocks of zeros and nothing else, and every header
must have the right checksum. A wrong size is found because it leads to no header, because the
padding of the file's last block is not zero, or because the content holds headers of other files.

Formats: POSIX.1-2017 and pax; for GNU's long names and large numbers GNU tar's manual, "Basic Tar
Format". This module imports no torch.
"""

import io
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

BLOCK = 512
# The bytes of a header's fields (POSIX.1-2017, pax, "ustar Interchange Format").
_NAME = slice(0, 100)
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_KIND = 156
_MAGIC_OFFSET = 257  # of "ustar"
_PREFIX = slice(345, 500)  # of the name
_ZEROS = bytes(BLOCK)
_MAX_END_BYTES = 1 << 20  # zeros after the end: more than any program pads an archive with
_MAX_HEADER_BYTES = 1 << 20  # of an extended header, which holds names and attributes
_CHUNK = 1 << 20
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
    lower case. Return None for a name without a key or an extension, and for metadata
    (`__meta__/...`).

    Example::

        "a/0001.seg.PNG" -> ("a/0001", "seg.png")
        "README" -> None
    """
    # Most names are as simple as "0001.jpg", and are split without a regular expression.
    key, _, suffix = name.partition(".")
    if key.isalnum() and suffix.isalnum():
        return key, suffix.lower()

    name_match = _KEY.fullmatch(name)
    if name_match is None or _META.match(name):
        return None
    return name_match[1], name_match[2].lower()


def require_one_file(content: bytes) -> None:
    """Check that the content of a file in a tar holds no headers of other files.

    If it does, the size in the file's header is too large: the content reaches into the next files.

    Args:
        content: The content of the file, as long as its header states.

    Raises:
        TarError: If the content holds a header.
    """
    # Every header has the word "ustar" at the same offset. A search by a regular expression is
    # quicker than `bytes.find` in the content of images.
    for magic in re.finditer(b"ustar", content):
        header_start = magic.start() - _MAGIC_OFFSET
        is_at_block = header_start >= 0 and header_start % BLOCK == 0
        if is_at_block and _is_header(content[header_start : header_start + BLOCK]):
            raise TarError("damaged: a file reaches into the next one; fetch it again")


def read_members(path: str) -> list[Member]:
    """Return the files in a local tar, in their order, without reading their contents.

    For example, `Member("0001.jpg", 512, 700)` is a file of 700 bytes whose content begins at byte
    512 of the tar.

    Args:
        path: The path of the tar.

    Raises:
        TarError: If the tar is damaged.
        OSError: If the tar cannot be read.
    """
    with open(path, "rb") as file:
        return list(TarReader(file))


class TarReader:
    """Iterates over the files in an uncompressed tar, from its beginning to its end.

    `read` returns the content of the file that the iteration has reached. Contents that are not
    read are skipped, by seeking if the file can. Folders are skipped.

    Raises TarError for a tar that is damaged, cut off or followed by another, for links, devices
    and sparse files, and for two files of one name.
    """

    def __init__(self, file: Readable) -> None:
        """Start at the beginning of a tar.

        Args:
            file: The tar, which is open for reading and not compressed.
        """
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
            # Old programs write a folder as a file whose name ends with a slash.
            is_file = header.kind in _FILE_KINDS and not path.endswith("/")
            if is_file:
                if path in names:
                    raise TarError(f"two files are called {path!r}; pack it again")
                names.add(path)
                self._n_unread = size
                # Zeros fill the last block: a content of 700 bytes is followed by 324 of them.
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

        Raises:
            TarError: If the tar is cut off, or if the content holds headers of other files.
        """
        content = self._read_exactly(self._n_unread)
        self._n_unread = 0
        require_one_file(content)
        return content

    def _read_extended_header(self, header: "_TarHeader", records: dict[bytes, bytes]) -> None:
        """Read the content of an extended header, which describes the next file.

        A global header, of the kind "g", describes all files. Its values are not needed.

        Args:
            header: The header.
            records: A dictionary to which the values are added by their keywords, such as {b"path":
                b"a long name.jpg"}.

        Raises:
            TarError: If the header is damaged, or if a global header states a name or a size.
        """
        if header.size > _MAX_HEADER_BYTES:
            raise self._damaged_error("an extended header is too large")
        content = self._read_exactly(header.size)
        self._padding = -header.size % BLOCK
        if header.kind == b"K":
            # It states the target of a link. Links are refused later.
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

        Raises:
            TarError: If the header or the bytes before it are damaged.
        """
        # Skip the content of the current file that was not read.
        if self._seek is not None and self._n_unread:
            self._position += self._n_unread
            self._seek(self._position)
            self._n_unread = 0
        while self._n_unread:
            skipped_bytes = self._read_exactly(min(self._n_unread, _CHUNK))
            self._n_unread -= len(skipped_bytes)

        # Read the zeros behind the content, and the block of the header.
        padding_and_header = self._read_exactly(self._padding + BLOCK)
        padding = padding_and_header[: self._padding]
        block = padding_and_header[self._padding :]
        self._padding = 0
        has_only_zeros = not padding.strip(b"\0")
        if not has_only_zeros:
            raise self._damaged_error("the size of a file is wrong")
        if block == _ZEROS:
            # A block of zeros ends the tar.
            self._require_end()
            return None
        try:
            return _parse_header(block)
        except ValueError as error:
            is_first_block = self._position == BLOCK
            if is_first_block:
                raise _no_tar_error(str(error)) from error
            raise self._damaged_error(str(error)) from error

    def _require_end(self) -> None:
        """Check that a second block of zeros follows, and only zeros after it.

        The first block of zeros, which ends the tar, has been read.

        Raises:
            TarError: If other bytes or too few bytes follow.
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
        """Read a number of bytes.

        Raises:
            TarError: If the tar ends before them.
        """
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

    Raises:
        ValueError: If the checksum is wrong, or if the size is not a number.
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
    r"""Return the number in a field of a header.

    The number is written in octal digits or, if it is large, in GNU's form: the byte 0x80 and a
    big-endian integer. A blank field is 0.

    Raises:
        ValueError: If the field is not a number.

    Example::

        b"000017\0" -> 15
        b"\x80\0\0\x01\0" -> 256
    """
    is_in_gnu_form = field[0] == 0x80
    if is_in_gnu_form:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    has_only_octal_digits = not digits.strip(b"01234567")
    if not has_only_octal_digits:
        raise ValueError("bad number")
    return int(digits, 8)


def _parse_pax_records(content: bytes) -> dict[bytes, bytes]:
    r"""Return the values in the content of a pax header by their keywords.

    The content is a series of records of the form `LENGTH KEYWORD=VALUE\n`. The length is a decimal
    number, and counts all bytes of the record, from its own first digit to the line break.

    Raises:
        ValueError: If the records do not fill the content.

    Example::

        b"19 path=photo1.jpg\n" -> {b"path": b"photo1.jpg"}
    """
    records = {}
    start = 0
    while start < len(content):
        # Read the length, which ends at a blank: b"19".
        length_digits = content[start : start + 20].partition(b" ")[0]
        length = int(length_digits) if length_digits.isdigit() else 0
        end = start + length

        # Split the bytes between the blank and the line break: b"path=photo1.jpg".
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

    Raises:
        ValueError: If the name is empty or holds a byte of zero.
    """
    name = content.removesuffix(b"\0")
    if not name or b"\0" in name:
        raise ValueError("bad name")
    return name


def _path_and_size(header: _TarHeader, records: dict[bytes, bytes]) -> tuple[str, int]:
    """Return the path and the size in bytes of a file.

    Args:
        header: The header of the file.
        records: The values of the extended headers before it by keyword, such as b"path". They
            override the name and the size in the header.

    Raises:
        TarError: If the path or the size is impossible, or if the file is sparse.
    """
    path = records.get(b"path", header.name).decode("utf-8", "surrogateescape")
    size_digits = records.get(b"size", b"%d" % header.size)  # such as b"700"
    is_valid_path = path != "" and "\0" not in path
    is_valid_size = size_digits.isdigit() and len(size_digits) <= _MAX_SIZE_DIGITS
    if not is_valid_path or not is_valid_size:
        shown_digits = size_digits[:40].decode("latin-1")
        raise TarError(f"damaged: a file called {path!r} of {shown_digits} bytes")
    if any(keyword.startswith(b"GNU.sparse.") for keyword in records):
        raise TarError(f"{path!r} is a sparse file; pack it again without --sparse")
    return path, int(size_digits)
