"""The images that img2dataset wrote: tars (its `webdataset` format) or folders (its `files`)."""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cosmos_core.data.tarindex import IMAGE_SUFFIXES

_Read = Callable[[], bytes]

_log = logging.getLogger(__name__)


class Download(NamedTuple):
    """An image as downloaded: its key, its URL if its record tells it, and how to read it."""

    key: str
    url: str | None
    suffix: str
    read: _Read


def list_sources(images: Path) -> list[Path]:
    """The tars in a folder, or else its folders, by name. Raises ValueError where it has none."""
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; give the one that img2dataset wrote")
    tars = sorted(images.glob("*.tar"))
    sources = tars or sorted(path for path in images.iterdir() if path.is_dir())
    if not sources:
        raise ValueError(f"{images}: neither tars nor folders, which img2dataset writes")
    return sources


def read_source(source: Path) -> Iterator[Download]:
    """The images of a tar or a folder. They can be read until the next one is asked for."""
    with _open(source) as files:
        samples: dict[str, dict[str, _Read]] = {}
        for name, read in files:
            key, _, suffix = name.rpartition("/")[2].partition(".")
            samples.setdefault(key, {})[suffix.lower()] = read
        for key, found in samples.items():
            for image in IMAGE_SUFFIXES:
                if image in found:
                    yield Download(key, _url(found.get("json")), image, found[image])
                    break


def _url(read: _Read | None) -> str | None:
    try:
        record = json.loads(read()) if read is not None else None
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
        with tarfile.open(source, "r:") as tar:
            yield _members(tar, source)
    except tarfile.TarError as error:
        raise ValueError(f"{source}: not a readable tar ({error})") from error


def _members(tar: tarfile.TarFile, source: Path) -> Iterator[tuple[str, _Read]]:
    size = source.stat().st_size
    try:
        for member in tar:
            if member.isreg() and member.offset_data + member.size <= size:
                yield member.name, partial(_read_member, tar, member)
    except tarfile.ReadError:
        _log.warning("%s: cut off; the samples before are taken", source)


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""
