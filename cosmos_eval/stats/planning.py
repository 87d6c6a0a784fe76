"""The number of trainings of two methods that are needed to find a difference.

It follows from variances that are estimates themselves: a variance of n degrees of freedom varies
like chi-squared / n. With five trainings of each method, its 5 and 95% points differ by a factor of
5.7, and so does the number of trainings that are needed.
"""

from bisect import bisect_left

from scipy.special import gammaincinv

from cosmos_eval.stats.groups import GroupDifference

MOST_TRAININGS = 1000  # the most trainings of each method that are considered
_QUANTILES = (0.95, 0.05)  # of chi-squared, for the least and for the greatest variance


def range_of_trainings(
    difference: GroupDifference, size: float, power: float, images: float
) -> tuple[int, int]:
    """Return the 90% interval of the number of trainings of each method that are needed.

    So many trainings find a true difference of `size` with probability `power`, on `images` times
    as many images. An end of 1 + MOST_TRAININGS stands for more than MOST_TRAININGS.
    """
    n_trainings = []
    for quantile in _QUANTILES:
        scaled_difference = _with_variance_at(difference, quantile)
        n_trainings.append(_trainings_needed(scaled_difference, size, power, images))
    least, greatest = n_trainings
    return least, greatest


def _with_variance_at(difference: GroupDifference, quantile: float) -> GroupDifference:
    """Return a difference with the variances between trainings that may be the true ones.

    If these are the true variances, then the estimated variances are the `quantile` of their
    distribution. All variances are scaled by one factor, which follows from Satterthwaite's degrees
    of freedom of their sum.
    """
    repeated = [trainings for trainings in difference.factors if trainings.dof > 0]
    spread = sum(trainings.between**2 / trainings.dof for trainings in repeated)
    if not spread:
        return difference
    dof = sum(trainings.between for trainings in repeated) ** 2 / spread
    factor = dof / (2 * float(gammaincinv(dof / 2, quantile)))
    scaled_factors = []
    for trainings in difference.factors:
        scaled_factors.append(trainings._replace(between=factor * trainings.between))
    return difference._replace(factors=tuple(scaled_factors))


def _trainings_needed(difference: GroupDifference, size: float, power: float, images: float) -> int:
    """Return the least number of trainings of each method that find a difference of `size`."""

    def size_beyond_detectable(k: int) -> float:
        return size - (difference.detectable(power=power, k=k, images=images) or 0.0)

    # It rises with k: the first k for which it is 0 or more is needed.
    return 2 + bisect_left(range(2, MOST_TRAININGS + 1), 0.0, key=size_beyond_detectable)
