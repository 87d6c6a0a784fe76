"""Batches of samples in local tars, read in any order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from cosmos_core.data.index import SampleIndex
from cosmos_core.data.order import Draw
from cosmos_core.data.problems import BadSampleError, Problem, UnreadableDataError
from cosmos_core.data.samples import Batch, Failure, SampleViews, ViewMaker, decode_sample

MOST_SUBSTITUTES = 100  # for one sample


class LocalBatches(Dataset["Batch | Failure"]):
    """A data set whose items are whole batches; an item is asked for by its draws.

    In place of a bad sample another is read, chosen by the bad one's own seed. A batch has failed
    where none of a hundred in a row can be read.
    """

    def __init__(self, index: SampleIndex, maker: ViewMaker) -> None:
        self._index, self._maker = index, maker

    def __getitem__(self, draws: Sequence[Draw]) -> Batch | Failure:
        problems: list[Problem] = []
        try:
            samples = [self._views(draw, problems) for draw in draws]
        except UnreadableDataError as error:
            return Failure(str(error))
        return self._maker.batch(samples, problems)

    def _views(self, draw: Draw, problems: list[Problem]) -> SampleViews:
        number = draw.number
        for substitute in range(1, MOST_SUBSTITUTES + 1):
            try:
                sample = decode_sample(self._index.read(number))
            except BadSampleError as bad:
                problems.append(bad.problem(*self._index.name(number)))
                rng = np.random.default_rng((*draw.seed, substitute))
                number = int(rng.integers(len(self._index)))
            else:
                return self._maker.views(sample, draw.seed)
        last = problems[-1]
        raise UnreadableDataError(
            f"{MOST_SUBSTITUTES} samples in a row could not be read, the last of them {last.key}: "
            f"{last.kind}: {last.detail}"
        )
