"""The samples of one stream (`pipe:`, a URL), read from beginning to end."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import webdataset
from webdataset.gopen import set_options

from cosmos_core.data.problems import BadSampleError, Problem
from cosmos_core.data.samples import RawSample
from cosmos_core.data.tar import Readable, TarError, TarReader, split_name
from cosmos_core.data.tarindex import IMAGE_SUFFIXES

# By their first bytes; webdataset decompresses these as well.
_DECOMPRESS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
_FAILURES = (TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


class StreamSample(NamedTuple):
    """A sample as it was read, and the hash of its key, a whole number >= 0."""

    shard: str
    key: str
    hash: int
    raw: RawSample


def read_stream(shard: str) -> Iterator[StreamSample | Problem]:
    """Yield the samples of a stream; where it fails, the last item is a problem of the shard.

    A stream that is damaged or cut off gives the samples before the one it fails in.
    """
    try:
        stream = webdataset.gopen(shard)
    except (OSError, ValueError) as error:
        yield _broken(shard, 0, error)
        return
    # Else a command that has failed takes what it printed before with it, depending on the moment.
    set_options(stream, ignore_errors=True)
    failure: Exception | None = None
    count = 0
    try:
        try:
            for key, raw in _samples(_uncompressed(stream)):
                yield StreamSample(shard, key, _hash(key), raw)
                count += 1
        except _FAILURES as error:
            failure = error
        failure = _end(stream) or failure
    finally:  # also where nobody wants the rest
        with suppress(OSError):
            stream.close()
    if failure is not None:
        yield _broken(shard, count, failure)


class _Stream:
    """A stream of which the first bytes, the head, have been read."""

    def __init__(self, stream: Any, head: bytes = b"") -> None:
        self._stream, self._head = stream, head

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        head, self._head = self._head[:size], self._head[size:]
        return head + self._stream.read(size - len(head)) if size > len(head) else head


def _uncompressed(stream: Any) -> Readable:
    head = stream.read(2)
    whole = _Stream(stream, head)
    return _Stream(_DECOMPRESS[head](whole)) if head in _DECOMPRESS else whole


def _samples(stream: Readable) -> Iterator[tuple[str, RawSample]]:
    """Yield the key and the files of each sample, whose files are neighbours."""
    for key, group in itertools.groupby(_files(stream), key=lambda file: file[0]):
        found: dict[str, bytes] = {}
        for _, extension, content in group:
            found.setdefault(extension, content)
        image = next((found[suffix] for suffix in IMAGE_SUFFIXES if suffix in found), None)
        yield key, RawSample(image, found.get("json"))


def _files(stream: Readable) -> Iterator[tuple[str, str, bytes]]:
    reader = TarReader(stream)
    for member in reader:
        found = split_name(member.name)
        if found is not None and found[1] in (*IMAGE_SUFFIXES, "json"):
            yield *found, reader.read()


def _end(stream: Any) -> OSError | None:
    """Close a stream; the failure of its command, if the command printed all it had to."""
    try:
        ended = not stream.read(1)
        stream.close()
    except OSError as error:
        return error
    status = getattr(stream, "status", 0)  # a command's; files have none
    if not ended or status in getattr(stream, "ignore_status", [0]):
        return None
    return OSError(f"the command ended with status {status}")


def _broken(shard: str, samples: int, error: Exception) -> Problem:
    reason = str(error) or type(error).__name__
    kind = "truncated" if samples else "unreadable"
    return BadSampleError(kind, f"after {samples} samples: {reason}").problem(shard, shard)


def _hash(key: str) -> int:
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
