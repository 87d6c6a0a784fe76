"""Simulated checks: how often the gate errs on equal models, and finds worse ones.

`PYTHONPATH=.:tests python tests/support/gate_study.py 2000` prints the rates of
benchmarks/coverage.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from support.models import SAMPLES, make_result
from support.results import metrics_of

from cosmos_eval.results.gate.baseline import replace_baseline
from cosmos_eval.results.gate.check import Report, check_results
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.verify import VerifiedResult
from cosmos_eval.types import Samples

TASKS = ("cls", "retrieval", "select", "seg")  # those that benchmarks/coverage.md has rates of


def mixed(task: str, old: Samples, new: Samples, same: np.ndarray) -> Samples:
    """Return the outcomes of the new model, but those of the old one on the `same` images (N,)."""
    match task:
        case "cls":
            return {**new, "top5": np.where(same[:, None], old["top5"], new["top5"])}
        case "select":
            return {**new, "correct": np.where(same, old["correct"], new["correct"])}
        case "retrieval":
            same_texts = same[new["image_of_text"]]
            image_ranks = np.where(same, old["image_to_text_rank"], new["image_to_text_rank"])
            text_ranks = np.where(same_texts, old["text_to_image_rank"], new["text_to_image_rank"])
            return {**new, "image_to_text_rank": image_ranks, "text_to_image_rank": text_ranks}
        case "seg":
            # Rows of counts, of which each belongs to an image.
            old_rows, new_rows = same[old["image"]], ~same[new["image"]]
            samples = {
                name: np.concatenate([old[name][old_rows], new[name][new_rows]])
                for name in ("image", "pair", "pixels")
            }
            order = np.argsort(samples["image"], kind="stable")
            return {**new, **{name: array[order] for name, array in samples.items()}}


def result_of(task: str, samples: Samples) -> ResultRow:
    """Return a result with the metrics of samples.

    Its intervals belong to other samples: the gate compares samples only, and intervals for each
    study would take most of the time.
    """
    row, _ = make_result(task)
    values = metrics_of(task, samples)
    return replace(row, metrics={name: values[name] for name in row.metrics})


def studies(n: int, same: float, loss: float = 0.0, seed: int = 0) -> Iterator[Report]:
    """Checks of models that agree by design on a share `same` of the images. On the others the new
    model is drawn with a skill of 0.65 less `loss`, the old one with 0.65."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(n):
            path = Path(folder) / f"{number}.json"
            old, new = [], []
            for task in TASKS:
                make = SAMPLES[task]
                first, second = make(0.65, rng), make(0.65 - loss, rng)
                again = mixed(task, first, second, rng.random(120) < same)
                old.append(VerifiedResult(path, result_of(task, first), first))
                new.append(VerifiedResult(path, result_of(task, again), again))
            replace_baseline(path, old, [], reason="study")
            yield check_results(new, path)


def main(n: int) -> None:
    for same in (0.0, 0.5, 0.95):
        reports = list(studies(n, same))
        alarms = sum(bool(report.regressions) for report in reports)
        assert not any(report.problems for report in reports)
        print(f"equal models, {same:.0%} of images alike: {100 * alarms / n:.1f}% alarms of {n}")
    for same, loss in ((0.5, 0.02), (0.0, 0.02), (0.0, 0.05), (0.0, 0.1), (0.0, 0.2)):
        n_found = sum(bool(report.regressions) for report in studies(n, same, loss))
        description = f"{100 * loss:g} points worse on the images that are not alike"
        print(f"{description}, {same:.0%} alike: {100 * n_found / n:.1f}% found")


if __name__ == "__main__":
    main(int(sys.argv[1]))
