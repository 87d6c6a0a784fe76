"""Images and captions side by side in webdataset's tar archives. Imports no torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cosmos_eval.data.archives import ArchiveSample, numbered_archives, open_archives
from cosmos_eval.data.readers import FileError, parse_json, read_text
from cosmos_eval.data.retrieval.records import Captioned, Keys, require_distinct, texts, the_one
from cosmos_eval.data.sources import ArchiveMember
from cosmos_eval.types import RetrievalProtocol, UsageError


def read_archives(
    root: Path, protocol: RetrievalProtocol
) -> tuple[list[Captioned], list[ArchiveMember]]:
    """Samples named by their archives' paths below the root and their keys, and their images.

    Captions are a sample's .txt, one a line as CLIP Benchmark writes them (webdataset_builder.py),
    or, where the first sample has none, a caption or a list of them in its .json.
    """
    samples = open_archives(_archives(root, protocol))
    extension = _extension(samples[0])
    keys = Keys.of(protocol)
    found = [
        Captioned(
            f"{os.path.relpath(sample.archive, root)}:{sample.key}",
            _captions(sample, extension, keys),
        )
        for sample in samples
    ]
    require_distinct((sample.name for sample in found), "sample")
    return found, [sample.image() for sample in samples]


def _extension(sample: ArchiveSample) -> str:
    """Find which members hold captions."""
    for extension in ("txt", "json"):
        if extension in sample.members:
            return extension
    raise UsageError(
        f"{sample.name} has neither a .txt of captions, one a line, nor a .json record with them, "
        f"only {', '.join(sample.members)}"
    )


def _captions(sample: ArchiveSample, extension: str, keys: Keys) -> tuple[str, ...]:
    where, content = f"{sample.name}.{extension}", sample.text(extension)
    if extension == "txt":
        return texts(content.splitlines(), where)
    try:
        record = parse_json(content)
    except FileError as error:
        raise UsageError(f"{where} {error}") from error
    if not isinstance(record, dict):
        raise UsageError(f"{where}: must be a record with captions")
    return texts(record[the_one(keys.caption, record, where)], where)


def _archives(root: Path, protocol: RetrievalProtocol) -> list[Path]:
    patterns = (protocol.archives,) if isinstance(protocol.archives, str) else protocol.archives
    if len(patterns) == 1 and (root / patterns[0]).is_dir():
        return _of_clip_benchmark(root / patterns[0], protocol.split)
    return list(_matching(root, patterns))


def _matching(root: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        names = (
            [pattern] if (root / pattern).exists() else sorted(glob.glob(pattern, root_dir=root))
        )
        if not names:
            raise UsageError(f"no archive {root / pattern}")
        yield from (root / name for name in names)


def _of_clip_benchmark(folder: Path, split: str) -> list[Path]:
    """The archives of a folder that says what it holds: clip_benchmark/datasets/builder.py."""
    kind = _stated(folder / "dataset_type.txt")
    if kind.lower() != "retrieval":
        raise UsageError(f"{folder} is of type {kind!r}, not retrieval, by its dataset_type.txt")
    count = _stated(folder / split / "nshards.txt")
    return numbered_archives(folder / split, count)


def _stated(path: Path) -> str:
    try:
        return read_text(path).strip()
    except FileError as error:
        raise UsageError(
            f"cannot read {path}, which CLIP Benchmark's layout has: {error}; "
            "name other archives by a pattern such as FOLDER/*.tar"
        ) from error
