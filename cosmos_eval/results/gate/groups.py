"""New trainings of a recipe against several of them in a baseline: the difference of both means,
whose error covers seeds and images. Seeds are taken to vary new trainings as they vary those of the
baseline, so that one new training can be tested."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosmos_eval.results.compare import mismatches, setting
from cosmos_eval.results.gate.baseline import Baseline, Entry, Key, Problem, baseline_samples
from cosmos_eval.results.groups import Moments, moments, require_distinct
from cosmos_eval.results.labels import Stored, group_label
from cosmos_eval.results.verify import Verified
from cosmos_eval.stats.groups import GroupDifference

_FEWEST = 4  # trainings, which leave the variance by seeds two degrees of freedom


class Cohort(NamedTuple):
    """The trainings of a group on one data set: those of a baseline, and new ones; the model of the
    key is the group."""

    key: Key
    entries: list[Entry]
    results: list[Verified]


def cohorts_of(
    baseline: Baseline, results: Iterable[Verified]
) -> tuple[list[Cohort], list[Problem]]:
    """Return the groups of which a baseline has several trainings and results have others. Results
    of the same weights as the baseline's are not of other trainings, and compared one by one."""
    groups: dict[Key, Cohort] = {}
    for entry in baseline.results:
        if entry.training:
            key = entry.key._replace(model=entry.training["group"])
            groups.setdefault(key, Cohort(key, [], [])).entries.append(entry)
    for result in results:
        row = result.row
        key = Key(group_label(row) or "", row.dataset, row.protocol)
        if key in groups:
            groups[key].results.append(result)
    found: list[Cohort] = []
    problems: list[Problem] = []
    for cohort in groups.values():
        known = {entry.weights_sha256 for entry in cohort.entries}
        again = [one for one in cohort.results if one.row.model["weights_sha256"] in known]
        if len(cohort.entries) > 1 and len(again) < len(cohort.results):
            found.append(cohort)
            problems += (
                Problem(str(one.path), "is a training of the baseline: check it apart from others")
                for one in again
            )
    return found, problems


def changes_of(cohort: Cohort, path: Path) -> Mapping[str, GroupDifference | None]:
    """Return every metric of new trainings minus that of the baseline's in `path`; None where one
    image decides whether it has a value. Raises ValueError, or UsageError, for trainings that are
    there twice, other settings, and samples that are missing or do not give the metrics."""
    if len(cohort.results) + len(cohort.entries) < _FEWEST:
        raise ValueError(
            "two trainings in the baseline and a new one do not show how much seeds vary: give "
            "another of either, or three in the baseline"
        )
    require_distinct([Stored(one.path, one.row) for one in cohort.results])
    first = cohort.entries[0].setting
    others = [entry.setting for entry in cohort.entries[1:]]
    for other in (*others, *(setting(one.row) for one in cohort.results)):
        if differing := mismatches(first, other):
            raise ValueError(f"measured otherwise than the baseline: {'; '.join(differing)}")
    several = [(one.row.metrics, one.samples) for one in cohort.results]
    for entry in cohort.entries:
        samples = baseline_samples(path, entry)
        if samples is None:
            raise ValueError("trainings are compared by samples, which --metrics-only left out")
        several.append((entry.metrics, samples))
    indices = np.split(np.arange(len(several)), [len(cohort.results)])
    found: Mapping[str, Moments | None] = moments(first["task"], several)
    return {name: one and one.difference(*indices, pooled=True) for name, one in found.items()}
