"""`python benchmarks/scenes2_order.py`: whether two recipes rank training methods alike.

The first study of scenes trains by `scenes_cosmos` (benchmarks/study/runs.csv). The study of
suppression trains by `scenes_tiny`, with about a third of the FLOPs, on scenes of version 2
(benchmarks/scenes2/trainings). The cheap recipe can stand for the other one if both rank the
methods alike: means over seeds 0 to 2, of each metric that both studies have.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import pandas as pd
from _family import Metric, Side, read_family
from _family_tests import metric_values, results_in_metrics
from scipy.stats import spearmanr, ttest_ind
from study_claims import mean_cell

from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.text import markdown_table
from cosmos_eval.types import UsageError

FOLDER = Path(__file__).parent
SEEDS = (0, 1, 2)
LEVEL = 0.05
# The metrics of both studies: their data set in runs.csv, and the metric of the other study.
METRICS = {
    "R@1 image to text": (
        "scenes-retrieval",
        Metric(dataset="scenes2-retrieval", protocol="scenes", metric="image_to_text_R@1"),
    ),
    "R@1 text to image": (
        "scenes-retrieval",
        Metric(dataset="scenes2-retrieval", protocol="scenes", metric="text_to_image_R@1"),
    ),
    "acc1": ("scenes-cls", Metric(dataset="scenes2-cls", protocol="scenes", metric="acc1")),
    "mIoU, tuned": (
        "scenes-seg tuned",
        Metric(dataset="scenes2-seg", protocol="tuned", metric="mIoU"),
    ),
}
MethodValues = Mapping[str, Sequence[float]]
"""The values of a metric in percent, one for each seed, by method."""


class Agreement(NamedTuple):
    """How far two recipes rank methods alike, by the means of a metric."""

    n_pairs: int
    # The pairs of methods that both recipes order in the same way.
    n_same_order: int
    # The pairs whose difference both recipes show, by Welch's test over seeds.
    n_shown: int
    # Those of them that the recipes order in opposite ways.
    reversed_pairs: tuple[tuple[str, str], ...]
    # Spearman's correlation of the means.
    rank_correlation: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.parse_args()
    try:
        lines = [*report(values_of_first_study(), values_of_scenes2())]
    except UsageError as error:
        parser.exit(2, f"scenes2_order: {error}\n")
    print("\n".join(lines))


def values_of_first_study() -> dict[str, MethodValues]:
    """Return the values of each metric in the first study, by its title."""
    runs = pd.read_csv(FOLDER / "study" / "runs.csv")
    runs = runs[~runs["trial"] & runs["seed"].isin(SEEDS)].sort_values("seed")
    values: dict[str, MethodValues] = {}
    for title, (dataset, metric) in METRICS.items():
        rows = runs[(runs["dataset"] == dataset) & (runs["metric"] == metric.metric)]
        values[title] = {
            str(method): [100 * value for value in method_rows["value"]]
            for method, method_rows in rows.groupby("variant")
        }
    return values


def values_of_scenes2() -> dict[str, MethodValues]:
    """Return the values of each metric in the study of suppression, by its title.

    Raises:
        UsageError: For results that `results_in_metrics` refuses.
    """
    family = read_family(FOLDER / "scenes2" / "family.yaml")
    stored = read_stored(result_paths(FOLDER / "scenes2" / "trainings"))
    metrics = {title: metric for title, (_, metric) in METRICS.items()}
    results = results_in_metrics(family, metrics, stored)
    values: dict[str, MethodValues] = {}
    for title, metric in metrics.items():
        method_values = {}
        for method in family.methods:
            results_by_seed = {
                seed: result
                for seed, result in results[Side(method, title)].items()
                if seed in SEEDS
            }
            method_values[method] = metric_values(results_by_seed, metric)
        values[title] = method_values
    return values


def report(
    first_values: Mapping[str, MethodValues], cheap_values: Mapping[str, MethodValues]
) -> Iterator[str]:
    """Yield the lines of the tables, in Markdown.

    Args:
        first_values: The values of each metric by `scenes_cosmos`, by the title of the metric.
        cheap_values: The same by `scenes_tiny`.

    Raises:
        UsageError: If fewer than two methods have all seeds by both recipes.
    """
    yield "# The order of methods by `scenes_cosmos` and by `scenes_tiny`\n"
    yield "Mean ± standard deviation over seeds 0 to 2 (their number), in percent.\n"
    agreements = []
    for title in METRICS:
        methods = complete_methods(first_values[title], cheap_values[title])
        first_of_metric = {method: first_values[title][method] for method in methods}
        cheap_of_metric = {method: cheap_values[title][method] for method in methods}
        rows = []
        for method in methods:
            cells = [mean_cell(first_of_metric[method]), mean_cell(cheap_of_metric[method])]
            rows.append([method, *cells])
        yield markdown_table([title, "scenes_cosmos", "scenes_tiny"], rows, n_text_columns=1)
        agreement = compare_orders(first_of_metric, cheap_of_metric)
        agreements.append([title, *agreement_cells(agreement)])
    yield "## Pairs of methods\n"
    yield "*Shown*: by both recipes, by Welch's test over seeds at 5% for each pair.\n"
    header = ["metric", "pairs", "same order", "shown", "shown in opposite order", "Spearman's rho"]
    yield markdown_table(header, agreements, n_text_columns=1)


def complete_methods(first_values: MethodValues, cheap_values: MethodValues) -> list[str]:
    """Return the methods that both studies have with all seeds, the lowest of the first one first.

    Raises:
        UsageError: If there are fewer than two.
    """
    methods = []
    for method, values in first_values.items():
        if len(values) == len(cheap_values.get(method, ())) == len(SEEDS):
            methods.append(method)
    if len(methods) < 2:
        raise UsageError("fewer than two methods have seeds 0 to 2 by both recipes")
    return sorted(methods, key=lambda method: mean(first_values[method]))


def compare_orders(first_values: MethodValues, cheap_values: MethodValues) -> Agreement:
    """Return how far two recipes rank the same methods alike.

    Args:
        first_values: The values of the metric by the first recipe.
        cheap_values: The same by the other recipe.
    """
    n_same_order = n_shown = 0
    reversed_pairs = []
    pairs = [*combinations(first_values, 2)]
    for a, b in pairs:
        differences = [mean(values[a]) - mean(values[b]) for values in (first_values, cheap_values)]
        has_same_order = differences[0] * differences[1] > 0
        n_same_order += has_same_order
        if all(is_shown(values[a], values[b]) for values in (first_values, cheap_values)):
            n_shown += 1
            if not has_same_order:
                reversed_pairs.append((a, b))
    first_means = [mean(values) for values in first_values.values()]
    cheap_means = [mean(cheap_values[method]) for method in first_values]
    rank_correlation = float(spearmanr(first_means, cheap_means).statistic)
    return Agreement(len(pairs), n_same_order, n_shown, tuple(reversed_pairs), rank_correlation)


def is_shown(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether Welch's test over seeds shows that two methods differ."""
    return bool(ttest_ind(a, b, equal_var=False).pvalue < LEVEL)


def agreement_cells(agreement: Agreement) -> list[str]:
    """Return the cells of an agreement: numbers of pairs, names of reversed ones, correlation."""
    reversed_texts = [f"{a} and {b}" for a, b in agreement.reversed_pairs]
    return [
        str(agreement.n_pairs),
        str(agreement.n_same_order),
        str(agreement.n_shown),
        "; ".join(reversed_texts) or "0",
        f"{agreement.rank_correlation:.2f}",
    ]


if __name__ == "__main__":
    main()
