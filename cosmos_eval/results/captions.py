"""Sentences for captions of tables in papers: sizes of data sets, intervals, tests, versions."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from cosmos_eval.stats import groups, intervals, paired, shares
from cosmos_eval.stats.calibration import INVERTED_TEST
from cosmos_eval.stats.class_means import JACKKNIFE_OR_LIKELIHOOD
from cosmos_eval.stats.crossed import OVER_DRAWS
from cosmos_eval.stats.mean_rank import HALL
from cosmos_eval.stats.suppression import METHOD as WILSON_DIFFERENCE

_RESAMPLES = f"{intervals.RESAMPLES:,} resamples"
_MOST_TITLES = 6  # of metrics with one method that a sentence lists
_LIKELIHOOD = "at each end the wider of {} and the profile likelihood"

INTERVAL_METHODS: Mapping[str, str] = MappingProxyType(
    {
        "wilson": "Wilson score",
        "wilson, effective n": "Wilson score with an effective number of samples "
        "(Dean and Pagano, 2015)",
        WILSON_DIFFERENCE: "difference of Wilson scores (Zou and Donner, 2008)",
        OVER_DRAWS: "Wilson score with an effective number of samples and Student's t over draws",
        intervals.JACKKNIFE: "jackknife over images with Student's t",
        intervals.BOOTSTRAP: f"percentile bootstrap, {_RESAMPLES}",
        intervals.CLUSTER_BOOTSTRAP: f"percentile bootstrap over clusters, {_RESAMPLES}",
        intervals.CROSSED_BOOTSTRAP: f"percentile bootstrap over images and draws, {_RESAMPLES}",
        intervals.ALL_ALIKE: "exact, for samples that are all alike",
        HALL: "Hall's interval of a skewed mean",
        INVERTED_TEST: "inverted test of calibration",
        JACKKNIFE_OR_LIKELIHOOD: _LIKELIHOOD.format("the jackknife over images"),
        shares.STRATIFIED: _LIKELIHOOD.format("a stratified Wilson interval"),
        shares.OR_LIKELIHOOD: _LIKELIHOOD.format("a percentile bootstrap"),
        shares.CLUSTERS_OR_LIKELIHOOD: _LIKELIHOOD.format("a percentile bootstrap over clusters"),
        shares.ALL_OR_NONE: "exact, for shares that are all 0 or 1",
        shares.LOWEST: "Clopper-Pearson, corrected for the number of groups",
    }
)
"""The names of the methods of intervals in papers, by their names in results."""

TEST_METHODS: Mapping[str, str] = MappingProxyType(
    {
        paired.MCNEMAR: "exact McNemar test, interval of Agresti and Min (2005)",
        paired.BOOTSTRAP: f"bootstrap over images, {_RESAMPLES}",
        paired.JACKKNIFE: "jackknife over images with Student's t",
        paired.BY_CLASS: "Student's t by class",
        paired.INDEPENDENT: "independent intervals",
        groups.METHOD: "Student's t over seeds and images, degrees of freedom of Satterthwaite, "
        "quantiles of Cochran and Cox",
        groups.IMAGES_ONLY: "Student's t over images only",
    }
)
"""The names of the paired tests in papers, by their names in comparisons."""


def sizes_sentence(sizes: Iterable[tuple[str, int]]) -> str:
    """Return a sentence with the number of samples of each data set.

    Args:
        sizes: The names of data sets with their numbers of samples, which may repeat.

    Example:
        "n = 500 (scenes-cls, scenes-seg), 2,000 (scenes-select) samples.", or without names if all
        data sets have as many: "n = 500 samples."
    """
    names_by_size: dict[int, list[str]] = {}
    for name, size in dict.fromkeys(sizes):
        names_by_size.setdefault(size, []).append(name)
    texts = []
    for size, names in names_by_size.items():
        texts.append(f"{size:,} ({', '.join(names)})" if len(names_by_size) > 1 else f"{size:,}")
    return f"n = {', '.join(texts)} samples."


def methods_sentence(subject: str, methods: Iterable[tuple[str, str]]) -> str:
    """Return a sentence with the method of each metric.

    Args:
        subject: The purpose of the methods, such as "95% intervals".
        methods: The titles of metrics with their methods, which may repeat.

    If many metrics have the most frequent method, they are the other metrics.

    Example:
        "95% intervals: Wilson score for acc1 and acc5; jackknife over images for mIoU."
    """
    titles_by_method: dict[str, list[str]] = {}
    for title, method in dict.fromkeys(methods):
        titles_by_method.setdefault(method, []).append(title)
    names_by_method = {method: joined(titles) for method, titles in titles_by_method.items()}
    most_frequent = max(titles_by_method, key=lambda method: len(titles_by_method[method]))
    if len(titles_by_method[most_frequent]) > _MOST_TITLES:
        del names_by_method[most_frequent]  # it comes last
        names_by_method[most_frequent] = "the other metrics" if names_by_method else "all metrics"
    texts = [f"{method} for {names}" for method, names in names_by_method.items()]
    return f"{subject}: {'; '.join(texts)}."


def joined(names: Iterable[str]) -> str:
    """Return the distinct names as words of a sentence: ["a", "b", "c"] -> "a, b and c"."""
    *first_names, last_name = dict.fromkeys(names)
    if not first_names:
        return last_name
    return f"{', '.join(first_names)} and {last_name}"


def measured_sentence(versions: Iterable[str], protocols: Iterable[str], coverage: str) -> str:
    """Return a sentence for the methods section of a paper: how numbers were measured.

    Args:
        versions: The versions of cosmos-eval that measured the numbers, which may repeat.
        protocols: The protocols of the numbers.
        coverage: The sources of error that intervals cover, such as "seeds and test images"; empty
            if none are shown.
    """
    names = list(dict.fromkeys(protocols))
    noun = "protocol" if len(names) == 1 else "protocols"
    sentence = f"We measured with cosmos-eval {joined(sorted(versions))} ({noun} {joined(names)})"
    return f"{sentence}; intervals cover {coverage}." if coverage else f"{sentence}."
