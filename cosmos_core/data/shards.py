"""What `data.shards` and `data.weights` say: sets of local tars, or of streams."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from webdataset.shardlists import expand_urls

from cosmos_core.config import DataConfig

SEPARATOR = "::"
# A scheme has two letters or more: one is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_PATTERN = re.compile(r"[*?[]")
MOST_SHARDS = 1_000_000
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTERS = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?")
_COUNTED = re.compile(r"\0(\d+)\0")


class ShardError(ValueError):
    """Shards that cannot be used, in one line."""


class ShardSets(NamedTuple):
    """The shards of each set, and a weight a set or None.

    Local paths, or, where `streams`, what webdataset opens: `pipe:` and URLs.
    """

    sets: tuple[tuple[str, ...], ...]
    weights: tuple[float, ...] | None
    streams: bool

    @property
    def shards(self) -> list[str]:
        """Those of all sets, in order."""
        return [shard for shards in self.sets for shard in shards]


def parse_shards(config: DataConfig) -> ShardSets:
    """The shards of a configuration; nothing is opened, but every local path is looked up.

    Sets are joined by `::`. A set is a path, a pattern (`*`, `?`, `[...]`), `pipe:COMMAND` or a
    URL; braces are expanded as webdataset does. Raises ShardError.
    """
    sets = [_expand(spec) for spec in config.shards.split(SEPARATOR)]
    streams = {_is_stream(shard) for shards in sets for shard in shards}
    if len(streams) > 1:
        raise ShardError(
            "data.shards mixes local tars with streams, whose order differs in kind; "
            "name the local ones as pipe:cat PATH, or fetch the others"
        )
    if streams == {False}:
        try:
            sets = [_find(shards) for shards in sets]
        except OSError as error:  # a name that is too long, a folder that cannot be read
            raise ShardError(f"no such shard: {error.filename} ({error.strerror})") from error
    weights = _weights(config.weights, len(sets))
    return ShardSets(tuple(map(tuple, sets)), weights, streams == {True})


def _expand(spec: str) -> list[str]:
    if not spec.strip():
        raise ShardError("data.shards is empty or has an empty set; name tars, as in data/*.tar")
    if _count(spec) > MOST_SHARDS:
        raise ShardError(f"data.shards {spec!r} names more than {MOST_SHARDS} shards")
    try:
        return list(expand_urls(spec.strip()))
    except (ValueError, AssertionError) as error:  # unbalanced braces; an unknown ${variable}
        raise ShardError(f"data.shards {spec!r} cannot be expanded: {error}") from error


def _count(pattern: str) -> int:
    """Count what the braces of a pattern stand for at most, innermost first; expand nothing."""
    counts: list[int] = []

    def product(text: str) -> int:
        return math.prod(counts[int(number)] for number in _COUNTED.findall(text))

    def replace(group: re.Match[str]) -> str:
        if bounds := _RANGE.fullmatch(group[1]):
            first, last, step = bounds[1], bounds[2], bounds[3] or "1"
            longest = max(map(len, (first, last, step)))
            huge = longest > len(str(MOST_SHARDS)) + 1
            size = MOST_SHARDS + 1 if huge else abs(int(last) - int(first)) // (int(step) or 1) + 1
        elif _LETTERS.fullmatch(group[1]):
            size = 52
        else:
            size = sum(product(part) for part in group[1].split(","))
        counts.append(size)
        return f"\0{len(counts) - 1}\0"

    pattern = pattern.replace("\0", "")
    while (shorter := _INNERMOST.sub(replace, pattern)) != pattern:
        pattern = shorter
    return product(pattern)


def _is_stream(shard: str) -> bool:
    return _SCHEME.match(shard) is not None


def _find(shards: Sequence[str]) -> list[str]:
    found = [str(path) for shard in shards for path in _matches(shard)]
    for path in found:
        if not Path(path).is_file():
            hint = f"; name its tars, as in {path}/*.tar" if Path(path).is_dir() else ""
            raise ShardError(f"no such shard: {path}{hint}")
    return found


def _matches(shard: str) -> list[Path]:
    path = Path(shard).expanduser()
    if path.exists() or not _PATTERN.search(shard):
        return [path]
    for folder in glob.glob(str(path.parent)):  # whose tars glob would pass over in silence
        if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
            raise ShardError(f"cannot read folder {folder}: permission denied")
    found = sorted(glob.glob(str(path)))
    if not found:
        raise ShardError(f"no such shard: nothing matches {path}")
    return [Path(name) for name in found]


def _weights(spec: str, sets: int) -> tuple[float, ...] | None:
    if not spec:
        return None
    try:
        weights = tuple(float(weight) for weight in spec.split(SEPARATOR))
    except ValueError as error:
        raise ShardError(f"data.weights {spec!r}: a weight is no number") from error
    if len(weights) != sets:
        raise ShardError(
            f"data.weights has {len(weights)} weights for {sets} sets in data.shards; "
            "give one a set, joined by ::"
        )
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ShardError(f"data.weights {spec!r}: weights must be greater than 0")
    return weights
