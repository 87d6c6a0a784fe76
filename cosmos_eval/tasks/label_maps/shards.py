"""Work on the images of a data set in shards, which processes are dealt and a killed run keeps.

A shard is a fixed number of consecutive images, whose inputs no batch mixes with those of others:
neither the number of processes nor a resumed run changes what is encoded together, so that results
stay the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from cosmos_eval.tasks.label_maps.kept import DamagedError
from cosmos_eval.types import OnProgress, Progress, RunOptions

# Images of a shard: what a killed run loses at most, and what processes are dealt at once.
SHARD = 32

Result = TypeVar("Result")
Work = Callable[[Sequence[range], OnProgress], list[Result]]
"""Results of shards, in their order; progress counts images."""


def in_shards(
    n_images: int,
    look: Callable[[range], Result | None],
    prepare: Callable[[], Work[Result]],
    options: RunOptions,
    progress: OnProgress,
) -> list[Result]:
    """A result a shard of so many images, in order, in all processes.

    `look` gives what is kept of a shard and raises DamagedError. Where anything is left, `prepare`
    is called in all processes and makes what works on the shards of this process.
    """
    shards = [range(n_images)[start : start + SHARD] for start in range(0, n_images, SHARD)]
    found = _finished(shards, look, n_images, options, progress)
    left = [shard for shard in shards if shard not in found]
    if left:
        work, done = prepare(), sum(map(len, found))

        def own_work(own: Sequence[range]) -> list[Result]:
            return work(own, _ahead_by(done, progress))

        found.update(zip(left, options.distributed.map_sharded(own_work, left), strict=True))
    return [found[shard] for shard in shards]


class _Damaged(NamedTuple):
    path: str


def _finished(
    shards: Sequence[range],
    look: Callable[[range], Result | None],
    total: int,
    options: RunOptions,
    progress: OnProgress,
) -> dict[range, Result]:
    """What a former run has kept of the shards; damaged files are told."""

    def look_at(own: Sequence[range]) -> list[Result | _Damaged | None]:
        return [_look(look, shard) for shard in own]

    looked = options.distributed.map_sharded(look_at, shards)
    found = {
        shard: result
        for shard, result in zip(shards, looked, strict=True)
        if result is not None and not isinstance(result, _Damaged)
    }
    done = sum(map(len, found))
    for result in looked:
        if isinstance(result, _Damaged):
            note = f"warning: {result.path} is damaged, its images are measured again"
            progress(Progress("images", done, total, note))
    if done:
        note = f"resumed: {done:,} of {total:,} images were measured already"
        progress(Progress("images", done, total, note))
    return found


def _look(look: Callable[[range], Result | None], shard: range) -> Result | _Damaged | None:
    try:
        return look(shard)
    except DamagedError as damaged:
        return _Damaged(str(damaged))


def _ahead_by(done: int, progress: OnProgress) -> OnProgress:
    """Progress over what is left, told as progress over everything."""
    return lambda step: progress(step._replace(done=step.done + done, total=step.total + done))
