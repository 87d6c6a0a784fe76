"""Numbers of trainings that a difference needs: by a plain power calculation, and simulated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from cosmos_eval.stats.groups import GroupDifference, Trainings
from cosmos_eval.stats.planning import MOST_TRAININGS, range_of_trainings

SD = 0.02  # of seeds


def pairs_of_trainings(variance: float, k: int = 5) -> GroupDifference:
    """k pairs of trainings of the same seed, on so many images that these add nothing."""
    of_method = Trainings(k, variance, 0.0)
    return GroupDifference(0.5, 0.5, (of_method, of_method), (of_method,), 0.0, 10**9)


def power_of(k: int, size: float, sd: float) -> float:
    """The power of Student's test of k pairs: a normal mean against t times an estimated error."""
    error = sd / np.sqrt(k)

    def finds(share: float) -> float:
        estimated = error * np.sqrt(stats.chi2.ppf(share, k - 1) / (k - 1))
        return stats.norm.sf(stats.t.ppf(0.975, k - 1) * estimated, size, error)

    return quad(finds, 0, 1, limit=200)[0]


@pytest.mark.parametrize("size", [0.02, 0.04])
def test_ends_are_of_a_plain_power_calculation(size):
    low, high = range_of_trainings(pairs_of_trainings(SD**2), size, 0.8, 1)
    for k, quantile in ((low, 0.95), (high, 0.05)):
        sd = SD * np.sqrt(4 / stats.chi2.ppf(quantile, 4))
        assert power_of(k, size, sd) >= 0.795
        assert k == 2 or power_of(k - 1, size, sd) < 0.805


def test_ranges_hold_the_number_that_the_true_variance_needs():
    """In 100 studies of five pairs; a single number by the estimate is right in few."""
    needed = next(k for k in range(2, 100) if power_of(k, 0.02, SD) >= 0.8)
    variances = SD**2 * np.random.default_rng(0).chisquare(4, 100) / 4
    ranges = [range_of_trainings(pairs_of_trainings(v), 0.02, 0.8, 1) for v in variances]
    assert 0.83 <= np.mean([low <= needed <= high for low, high in ranges]) <= 0.97


def test_two_methods_share_their_degrees_of_freedom():
    """Of equal variances they are the sum of both."""
    of_method = Trainings(5, SD**2, 0.0)
    both = GroupDifference(0.5, 0.5, (of_method,) * 2, (of_method,) * 2, 0.0, 10**9)
    low, high = range_of_trainings(both, 0.02, 0.8, 1)
    ratio = stats.chi2.ppf(0.95, 8) / stats.chi2.ppf(0.05, 8)
    assert ratio == pytest.approx(5.67, abs=0.01)
    assert high / low == pytest.approx(ratio, rel=0.25)


def test_more_than_the_most_is_not_searched():
    assert range_of_trainings(pairs_of_trainings(1.0), 1e-4, 0.8, 1)[1] == MOST_TRAININGS + 1


def test_seeds_that_do_not_vary_need_two_trainings():
    assert range_of_trainings(pairs_of_trainings(0.0), 0.02, 0.8, 1) == (2, 2)
