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
    """Return the 90% interval of how many trainings of each method a planned study needs.

    Args:
        difference: The difference of the two methods in a first study, with its variances.
        size: The true difference that the planned study shall find, in the metric's unit.
        power: The probability with which it shall find the difference, such as 0.8.
        images: The number of images of the planned study, as a multiple of the first study's.

    Returns:
        The least and the greatest number. For example, (4, 23) means 4 to 23 trainings of each
        method. A number of 1 + MOST_TRAININGS stands for more than MOST_TRAININGS.
    """
    # The least number is needed if the true variances are low: if the first study's estimates are a
    # high quantile of what studies estimate. The greatest number is needed if they are a low one.
    least_and_most = []
    for quantile in _QUANTILES:
        scaled_difference = _scale_variances(difference, quantile)
        n_trainings = _count_needed_trainings(scaled_difference, size, power, images)
        least_and_most.append(n_trainings)
    least, most = least_and_most
    return least, most


def _scale_variances(difference: GroupDifference, quantile: float) -> GroupDifference:
    """Return the difference with variances between trainings that may be the true ones.

    All variances are scaled by one factor,
        dof / (quantile of chi-squared with dof degrees of freedom),
    where dof are Satterthwaite's degrees of freedom of the sum of the variances,
        (sum of variances)^2 / sum of (variance^2 / its degrees of freedom).

    Args:
        difference: The difference with the variances that a study has estimated.
        quantile: The quantile that these estimates are among the estimates of all studies if the
            returned variances are the true ones. For example, 0.95 means that the estimates happen
            to be high, so that the returned variances are lower.
    """
    repeated = [trainings for trainings in difference.factors if trainings.dof > 0]
    spread = sum(trainings.variance_between**2 / trainings.dof for trainings in repeated)
    if not spread:
        return difference  # nothing varied
    dof = sum(trainings.variance_between for trainings in repeated) ** 2 / spread
    # 2 * gammaincinv(dof / 2, p) is the quantile p of chi-squared.
    factor = dof / (2 * float(gammaincinv(dof / 2, quantile)))
    scaled_factors = []
    for trainings in difference.factors:
        scaled_variance = factor * trainings.variance_between
        scaled_factors.append(trainings._replace(variance_between=scaled_variance))
    return difference._replace(factors=tuple(scaled_factors))


def _count_needed_trainings(
    difference: GroupDifference, size: float, power: float, images: float
) -> int:
    """Return how many trainings of each method are needed to find a difference of `size`.

    It is the least number from 2 to MOST_TRAININGS for which a study finds the difference with
    probability `power`. Return 1 + MOST_TRAININGS if even MOST_TRAININGS are too few.

    Args:
        difference: The difference of the two methods in a first study, with its variances.
        size: The true difference, in the metric's unit.
        power: The probability of a significant result, such as 0.8.
        images: The number of images of the study, as a multiple of the first study's.
    """

    def size_beyond_detectable(k: int) -> float:
        """Return `size` minus the difference that k trainings detect. It rises with k."""
        detectable = difference.detectable(power=power, k=k, images=images) or 0.0
        return size - detectable

    # Find the first number of trainings for which it is 0 or more, by bisection.
    candidates = range(2, MOST_TRAININGS + 1)
    index_of_first = bisect_left(candidates, 0.0, key=size_beyond_detectable)
    return 2 + index_of_first
