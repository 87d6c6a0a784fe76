"""How many trainings of two methods find a difference, by variances that are estimates themselves.

A variance of n degrees of freedom varies like chi-squared / n. With five trainings of each method,
its 5 and 95% points differ by a factor of 5.7, and so does the number of trainings that it needs.
"""

from bisect import bisect_left

from scipy.special import gammaincinv

from cosmos_eval.stats.groups import GroupDifference

MOST_TRAININGS = 1000  # of each method that are considered
_QUANTILES = (0.95, 0.05)  # of chi-squared: least variance, then greatest


def range_of_trainings(
    difference: GroupDifference, size: float, power: float, images: float
) -> tuple[int, int]:
    """Return the least and the greatest number of trainings of each method, with 90% confidence,
    that find a true difference of `size` with probability `power`; 1 + MOST_TRAININGS for more.

    `images` is how many times as many images there are.
    """
    low, high = (
        _trainings_needed(_with_variance_at(difference, quantile), size, power, images)
        for quantile in _QUANTILES
    )
    return low, high


def _with_variance_at(difference: GroupDifference, quantile: float) -> GroupDifference:
    """Return a difference whose variances between trainings, which are known by Satterthwaite's
    degrees of freedom together, are those of which the estimates are at a quantile."""
    several = [trainings for trainings in difference.factors if trainings.dof > 0]
    spread = sum(trainings.between**2 / trainings.dof for trainings in several)
    if not spread:
        return difference
    dof = sum(trainings.between for trainings in several) ** 2 / spread
    factor = dof / (2 * float(gammaincinv(dof / 2, quantile)))
    scaled = (
        trainings._replace(between=factor * trainings.between) for trainings in difference.factors
    )
    return difference._replace(factors=tuple(scaled))


def _trainings_needed(difference: GroupDifference, size: float, power: float, images: float) -> int:
    def excess(k: int) -> float:
        return size - (difference.detectable(power=power, k=k, images=images) or 0.0)

    return 2 + bisect_left(range(2, MOST_TRAININGS + 1), 0.0, key=excess)
