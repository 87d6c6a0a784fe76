"""The random order in which the samples of a data set are measured until an answer is known.

Shapes: N units, which are samples, or sets of samples that depend on each other.
"""

import numpy as np

from cosmos_eval.stats.estimates import Ints

SEED = 0
"""The seed of the order of the samples."""
UNITS_PER_LOOK = 32
"""The number of units that are measured between two looks at the answer."""


def random_order(n_units: int, seed: int) -> Ints:
    """Return the numbers 0 to N - 1 in a random order (N,), which only N and the seed decide.

    It depends neither on a model nor on labels. For example, 5 units with the seed 0 have the order
    [2, 4, 3, 0, 1].
    """
    return np.random.default_rng(seed).permutation(n_units)


def cut_into_looks(order: Ints) -> list[Ints]:
    """Cut an order of units (N,) into those between two looks, 32 each but for the last ones."""
    return [order[start : start + UNITS_PER_LOOK] for start in range(0, len(order), UNITS_PER_LOOK)]
