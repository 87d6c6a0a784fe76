"""The samples of one stream (`pipe:`, a URL), read from beginning to end by webdataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import webdataset
from webdataset.gopen import set_options
from webdataset.tariterators import group_by_keys, tar_file_expander

from cosmos_core.data.problems import BadSampleError, Problem
from cosmos_core.data.samples import RawSample
from cosmos_core.data.tarindex import IMAGE_SUFFIXES


class StreamSample(NamedTuple):
    """A sample as it was read, and the hash of its key, a whole number >= 0."""

    shard: str
    key: str
    hash: int
    raw: RawSample


def read_stream(shard: str) -> Iterator[StreamSample | Problem]:
    """The samples of a stream; where it fails, the last item is a problem of the shard."""
    try:
        stream = webdataset.gopen(shard)
    except (OSError, ValueError) as error:
        yield _broken(shard, 0, error)
        return
    # Else a command that has failed takes what it printed before with it, depending on the moment.
    set_options(stream, ignore_errors=True)
    errors: list[Exception] = []
    count = 0
    try:
        for key, raw in _samples_of(shard, stream, errors):
            yield StreamSample(shard, key, _hash(key), raw)
            count += 1
        errors = _end(stream) + errors
    finally:  # also where nobody wants the rest
        with suppress(OSError):
            stream.close()
    if errors:
        yield _broken(shard, count, errors[0])


def _samples_of(
    shard: str, stream: Any, errors: list[Exception]
) -> Iterator[tuple[str, RawSample]]:
    def note(error: Exception) -> bool:
        errors.append(error)
        return True  # go on, which after a broken header is to the end

    source = {"url": shard, "stream": stream}
    files = tar_file_expander([source], handler=note, select_files=_is_wanted)
    for found in group_by_keys(files, handler=webdataset.ignore_and_continue):
        image = next((found[suffix] for suffix in IMAGE_SUFFIXES if suffix in found), None)
        raw = RawSample(image, found.get("json"))
        if raw != RawSample(None, None):
            yield found["__key__"], raw


def _is_wanted(name: str) -> bool:
    return name.rpartition(".")[2].lower() in (*IMAGE_SUFFIXES, "json")


def _end(stream: Any) -> list[Exception]:
    """Read what is left, so that a command can end, and ask how it did."""
    try:
        while stream.read(1 << 20):
            pass
        stream.close()
    except OSError as error:
        return [error]
    status = getattr(stream, "status", 0)  # a command's; files have none
    if status in getattr(stream, "ignore_status", [0]):
        return []
    return [OSError(f"the command ended with status {status}")]


def _broken(shard: str, samples: int, error: Exception) -> Problem:
    # webdataset appends what it was doing to the arguments of errors that are not the system's.
    reason = str(error) if isinstance(error, OSError) or not error.args else str(error.args[0])
    kind = "truncated" if samples else "unreadable"
    return BadSampleError(kind, f"after {samples} samples: {reason}").problem(shard, shard)


def _hash(key: str) -> int:
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
