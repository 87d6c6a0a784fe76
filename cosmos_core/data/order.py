"""Which sample comes when: decided by the seed alone, at any position without those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """A sample's number, and the seed of what is random about it."""

    number: int
    seed: tuple[int, ...]


class Schedule(NamedTuple):
    """Steps `first_step` to `steps` of a process; `batch_size` counts samples of all processes."""

    batch_size: int
    steps: int
    first_step: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def local_batch_size(self) -> int:
        """Samples of a batch for this process."""
        return self.batch_size // self.world_size


class BatchOrder(Sampler[list[Draw]]):
    """The draws of a process's batches: process r takes the r-th part of each global batch.

    Without weights an epoch is a permutation of all samples; batches continue into the next one.
    With one weight per set, it is as many draws with replacement, of a set in proportion to its
    weight times its size, as by `--train-data-upsampling-factors` of OpenCLIP.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int, schedule: Schedule
    ) -> None:
        self._sizes, self._weights, self._seed = np.array(sizes), weights, seed
        self._schedule = schedule
        self._epoch, self._order = -1, np.empty(0, np.uint32)

    def __len__(self) -> int:
        return max(0, self._schedule.steps - self._schedule.first_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        schedule, size = self._schedule, self._schedule.local_batch_size
        for step in range(schedule.first_step, schedule.steps):
            first = step * schedule.batch_size + schedule.rank * size
            yield [self._draw(position) for position in range(first, first + size)]

    def _draw(self, position: int) -> Draw:
        """Return the draw at a position counted over all epochs."""
        epoch, offset = divmod(position, int(self._sizes.sum()))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permute(epoch)
        number = int(self._order[offset])
        seed = (self._seed, epoch, number)
        # A sample that is drawn twice in an epoch is not augmented alike.
        return Draw(number, seed if self._weights is None else (*seed, offset))

    def _permute(self, epoch: int) -> npt.NDArray[np.uint32]:
        rng, samples = np.random.default_rng([self._seed, epoch]), int(self._sizes.sum())
        if self._weights is None:
            return rng.permutation(samples).astype(np.uint32)
        mass = self._sizes * np.array(self._weights)
        chosen = rng.choice(len(mass), size=samples, p=mass / mass.sum())
        starts = np.cumsum(self._sizes) - self._sizes
        return (starts[chosen] + rng.integers(self._sizes[chosen])).astype(np.uint32)
