"""`python benchmarks/study_claims.py`: every test that docs/study.md draws on.

The table has a row per comparison and metric: the means over trainings, the difference with its
95% interval over seeds and images, the p-value, and the p-value with Holm's correction over all.
`cosmos-eval compare --group` corrects within one comparison; a text that draws on five comparisons
must correct over the tests of all five. Everything is computed from the stored results of
benchmarks/study/trainings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosmos_eval.results import groups
from cosmos_eval.results.compare import measurement_of
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_samples, read_stored, result_paths
from cosmos_eval.results.text import p_value_text
from cosmos_eval.stats.groups import GroupDifference
from cosmos_eval.stats.paired import holm

TRAININGS = Path(__file__).parent / "study" / "trainings"
COSMOS = "scenes_cosmos-84153edb"
OTHER_METHODS = {
    "multi-view CLIP": "multi-view-clip-b73cd7f4",
    "CLIP": "scenes_clip-fdaf36bd",
    "COSMOS without cross-attention": "cosmos-without-cross-attention-0667997f",
    "multi-view CLIP, equal compute": "multi-view-clip-equal-compute-6bd9c271",
    "CLIP, equal compute": "scenes_clip_long-0d9ab892",
}


class Metric(NamedTuple):
    """A column of the study's table: where its values are stored, and its title."""

    dataset: str
    protocol: str  # `tuned`: settings chosen for each training
    name: str
    title: str


METRICS = (
    Metric("scenes-retrieval", "scenes", "image_to_text_R@1", "R@1 image to text"),
    Metric("scenes-retrieval", "scenes", "text_to_image_R@1", "R@1 text to image"),
    Metric("scenes-cls", "scenes", "acc1", "acc1"),
    Metric("scenes-seg", "scenes", "mIoU", "mIoU"),
    Metric("scenes-seg", "tuned", "mIoU", "mIoU, tuned"),
    Metric("scenes-seg", "tuned", "mIoU_things", "mIoU, things, tuned"),
)
PATCHES = {"patches": "scenes", "patches, tuned": "tuned"}
"""What the values of the cross-attention are compared with as dense features, and its protocol."""


class HeadlineTest(NamedTuple):
    """A difference of two methods, or of two kinds of dense features of one method."""

    comparison: str
    metric: str
    difference: GroupDifference


def results_of(
    stored: Sequence[StoredResult],
    group: str,
    dataset: str,
    protocol: str,
    attention: str | None = None,
) -> list[StoredResult]:
    """Return the results of a group of trainings on a data set, in the order of seeds.

    `attention` is the form of the last block, or None for the protocol's own form.
    """
    results = []
    for result in stored:
        row = result.row
        is_crossmodal = row.provenance["attention"] == "crossmodal"
        if (
            training_of(row).get("group") == group
            and row.dataset == dataset
            and row.protocol.partition("-")[0] == protocol
            and is_crossmodal == (attention == "crossmodal")
        ):
            results.append(result)
    return sorted(results, key=lambda result: training_of(result.row)["seed"])


def difference_of(
    a: Sequence[StoredResult], b: Sequence[StoredResult], metric: str, *, by_seed: bool = False
) -> GroupDifference:
    """Return the mean of a metric over trainings A minus the mean over trainings B."""
    measured = [measurement_of(result.row, read_samples(result.path)) for result in (*a, *b)]
    moments = groups.estimate_moments(measured, [metric])[metric]
    assert moments is not None
    indices = np.arange(len(measured))
    return moments.difference(indices[: len(a)], indices[len(a) :], by_seed=by_seed)


def tests(stored: Sequence[StoredResult]) -> list[HeadlineTest]:
    """Return all tests that the text draws on."""
    family = []
    for title, group in OTHER_METHODS.items():
        for metric in METRICS:
            a = results_of(stored, COSMOS, metric.dataset, metric.protocol)
            b = results_of(stored, group, metric.dataset, metric.protocol)
            difference = difference_of(a, b, metric.name)
            family.append(HeadlineTest(f"COSMOS minus {title}", metric.title, difference))
    values = results_of(stored, COSMOS, "scenes-seg", "scenes", "crossmodal")
    for title, protocol in PATCHES.items():
        patches = results_of(stored, COSMOS, "scenes-seg", protocol)
        difference = difference_of(values, patches, "mIoU", by_seed=True)
        family.append(HeadlineTest(f"COSMOS: values minus {title}", "mIoU", difference))
    return family


def table(family: Sequence[HeadlineTest]) -> str:
    """Return the tests as a table in Markdown, in percent."""
    corrected = holm([test.difference.p_value for test in family])
    lines = [
        f"| comparison | metric | A | B | difference | p | p (Holm, {len(family)} tests) |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for test, p_holm in zip(family, corrected, strict=True):
        difference = test.difference
        low, high, *_ = difference.interval()
        cells = [
            test.comparison,
            test.metric,
            f"{100 * difference.a:.1f}",
            f"{100 * difference.b:.1f}",
            f"{100 * difference.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            p_value_text(difference.p_value),
            p_value_text(p_holm),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trainings", nargs="?", type=Path, default=TRAININGS)
    results = read_stored(result_paths(parser.parse_args().trainings))
    print(table(tests(results)))
