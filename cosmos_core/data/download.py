"""The images that img2dataset wrote: tars (its `webdataset` format) or folders (its `files`)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cosmos_core.data.tar import Member, TarError, TarReader, require_one_file, split_name
from cosmos_core.data.tarindex import IMAGE_SUFFIXES

_Read = Callable[[], bytes]


class Download(NamedTuple):
    """An image as downloaded: its key, its URL if its record tells it, and how to read it."""

    key: str
    url: str | None
    suffix: str
    read: _Read


def list_sources(images: Path) -> list[Path]:
    """The tars in a folder, or else its folders, by name.

    Raises ValueError where it has none, and for a damaged tar, before any is used.
    """
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; give the one that img2dataset wrote")
    tars = sorted(images.glob("*.tar"))
    sources = tars or sorted(path for path in images.iterdir() if path.is_dir())
    if not sources:
        raise ValueError(f"{images}: neither tars nor folders, which img2dataset writes")
    for tar in tars:
        with _open(tar) as files:
            deque(files, maxlen=0)
    return sources


def read_source(source: Path) -> Iterator[Download]:
    """The images of a tar or a folder. They can be read until the next one is asked for."""
    with _open(source) as files:
        samples: dict[str, dict[str, _Read]] = {}
        for name, read in files:
            if (parts := split_name(name)) is not None:
                samples.setdefault(parts[0], {})[parts[1]] = read
        for key, found in samples.items():
            for image in IMAGE_SUFFIXES:
                if image in found:
                    yield Download(key, _url(found.get("json")), image, found[image])
                    break


def _url(read: _Read | None) -> str | None:
    if read is None:
        return None
    content = read()
    try:
        record = json.loads(content)
    except ValueError:
        return None
    url = record.get("url") if isinstance(record, dict) else None
    return url if isinstance(url, str) else None


@contextmanager
def _open(source: Path) -> Iterator[Iterator[tuple[str, _Read]]]:
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.is_file())
        yield ((path.name, path.read_bytes) for path in paths)
        return
    try:
        with source.open("rb") as file:
            members = TarReader(file)
            yield ((member.name, partial(_read, source, file, member)) for member in members)
    except TarError as error:
        raise ValueError(f"{source}: {error}") from error


def _read(source: Path, file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    content = file.read(member.size)
    try:
        require_one_file(content)
    except TarError as error:
        raise ValueError(f"{source}: {member.name}: {error}") from error
    return content
