"""Which sample comes when: decided by the seed alone, jumped into anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Order = npt.NDArray[np.uint32]


class Draw(NamedTuple):
    """A sample's number, and the seed of what is random about it."""

    number: int
    seed: tuple[int, ...]


class EpochOrder:
    """The order of an epoch, which is as many draws as there are samples.

    `sizes` are those of the sets. Without weights an epoch is a permutation of all samples. With
    one a set, draws are with replacement, a sample's chance in proportion to its set's weight: a
    set is drawn in proportion to its weight times its size, as by `--train-data-upsampling-factors`
    of github.com/mlfoundations/open_clip.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        self._sizes, self._weights, self._seed = np.array(sizes), weights, seed
        self._epoch, self._order = -1, np.empty(0, np.uint32)

    def draw(self, position: int) -> Draw:
        """The draw at a position counted over all epochs."""
        epoch, place = divmod(position, int(self._sizes.sum()))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._make(epoch)
        number = int(self._order[place])
        seed = (self._seed, epoch, number)
        # A sample that is drawn twice in an epoch is not augmented alike.
        return Draw(number, seed if self._weights is None else (*seed, place))

    def _make(self, epoch: int) -> Order:
        rng, samples = np.random.default_rng([self._seed, epoch]), int(self._sizes.sum())
        if self._weights is None:
            return rng.permutation(samples).astype(np.uint32)
        shares = self._sizes * np.array(self._weights)
        chosen = rng.choice(len(shares), size=samples, p=shares / shares.sum())
        starts = np.cumsum(self._sizes) - self._sizes
        return (starts[chosen] + rng.integers(self._sizes[chosen])).astype(np.uint32)


class Share(NamedTuple):
    """What one of `world_size` processes takes of the run: its part of every global batch, of
    `batch_size` samples, from `first_step` on to `steps`."""

    batch_size: int
    steps: int
    first_step: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def part(self) -> int:
        """Samples of a batch for this process."""
        return self.batch_size // self.world_size


class BatchOrder(Sampler[list[Draw]]):
    """The draws of a process's batches, which run on over the end of an epoch: every one is full.

    Process r takes the r-th part of each global batch.
    """

    def __init__(self, order: EpochOrder, share: Share) -> None:
        self._order, self._share = order, share

    def __len__(self) -> int:
        return max(0, self._share.steps - self._share.first_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self._share
        for step in range(share.first_step, share.steps):
            first = step * share.batch_size + share.rank * share.part
            yield [self._order.draw(position) for position in range(first, first + share.part)]
