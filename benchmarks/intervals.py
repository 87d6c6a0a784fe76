"""`python benchmarks/intervals.py [--json] [--quick]`: all figures of a result, with intervals.

From stored samples, as measuring and `cosmos-eval verify` make them, 2,000 resamples each: ranks of
25,010 captions of 5,000 images (COCO's Karpathy test split), confusion counts of 5,000 images with
171 classes (COCO-Stuff), and 50,000 predictions of 1,000 classes (ImageNet), all made up. The
bootstraps are also compared with drawing images one by one, on 200 resamples. Two groups of five
trainings are compared from stored ranks. `--quick` has one round.
How often intervals hold the true value is what benchmarks/coverage.py simulates.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from _report import Measurement, interleave, measurement, parser, report
from numpy.typing import NDArray

from cosmos_eval.results import groups
from cosmos_eval.results.store import read_samples, read_stored, result_paths
from cosmos_eval.stats.estimates import FunctionOfSums, Mean
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.stats.segmentation import (
    Areas,
    SparseConfusion,
    areas_of_images,
    mean_iou,
)
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Samples

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.results import store_result

IMAGES, CAPTIONS = 5000, 25010
CLASSES, PAIRS = (
    171,
    60,
)  # pairs of label and prediction an image, about as many as photographs have
PREDICTIONS, NAMES = 50_000, 1000
SECONDS = 10.0
FEW = 200  # resamples, where they are drawn one by one


def main() -> None:
    """Measure and print."""
    given = parser(__doc__ or "").parse_args()
    rounds = 1 if given.quick else 5
    lines = [*_seconds(rounds), *_groups(rounds), *_ratios(1 if given.quick else 3)]
    report("Intervals", lines, given.json)


def make_up() -> dict[str, tuple[str, Samples]]:
    """Samples by what they are."""
    rng = np.random.default_rng(0)
    owner = np.arange(CAPTIONS) % IMAGES
    difficulty = rng.exponential(3, IMAGES)
    ranks = {
        "image_to_text_rank": 1 + rng.poisson(difficulty),
        "text_to_image_rank": 1 + rng.poisson(2 * difficulty[owner] ** 2),
        "image_of_text": owner,
    }
    pairs = np.sort(rng.integers(0, CLASSES**2, (IMAGES, PAIRS)), axis=1)
    pairs[:, 0] = rng.integers(0, CLASSES, IMAGES) * (CLASSES + 1)  # something is right
    counts = {
        "image": np.repeat(np.arange(IMAGES), PAIRS),
        "pair": pairs.ravel(),
        "pixels": rng.integers(1, 10_000, IMAGES * PAIRS),
        "name": np.arange(IMAGES).astype(str),
        "classes": np.arange(CLASSES).astype(str),
        "groups": np.array(["things"]),
        "members": np.arange(CLASSES)[None] < 80,
    }
    labels = rng.integers(0, NAMES, PREDICTIONS)
    guesses = {
        "labels": labels,
        "top5": np.where(rng.random(PREDICTIONS) < 0.6, labels, 0)[:, None] + np.arange(5),
        "classes": np.arange(NAMES).astype(str),
    }
    return {
        f"{CAPTIONS:,} captions": ("retrieval", ranks),
        f"{IMAGES:,} images x {CLASSES} classes": ("seg", counts),
        f"{PREDICTIONS:,} predictions": ("cls", guesses),
    }


def _seconds(rounds: int) -> Iterator[Measurement]:
    def figures(task: str, samples: Samples) -> Callable[[], object]:
        return lambda: task_named(task).figures(samples, 0)

    functions = {what: figures(*given) for what, given in make_up().items()}
    for what, spread in interleave(functions, rounds).items():
        yield measurement(f"{what}, all figures", spread, "s", at_most=SECONDS)


def _groups(rounds: int) -> Iterator[Measurement]:
    """Two methods with five trainings each, from stored results to the comparison."""
    rng = np.random.default_rng(1)
    (task, samples), *_ = make_up().values()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(10):
            fields = dict.fromkeys(("recipe_sha256", "data_sha256", "samples", "flops"))
            training = {"group": "ab"[number % 2], "seed": number // 2, **fields}
            ranks = ("image_to_text_rank", "text_to_image_rank")
            own = {name: samples[name] + rng.poisson(0.2, len(samples[name])) for name in ranks}
            model = {"spec": str(number), "weights_sha256": f"{number:064}", "training": training}
            hashes = {"hashes": {"sample_list": "1" * 64}}
            store_result(Path(folder), task, {**samples, **own}, model=model, provenance=hashes)

        def compare() -> None:
            stored = read_stored(result_paths(Path(folder)))
            groups.compare(
                *(groups.select_group_results(stored, name) for name in "ab"), read_samples
            )

        spread = interleave({"": compare}, rounds, warmup=0)[""]
    yield measurement(f"2 x 5 trainings, {CAPTIONS:,} captions", spread, "s", at_most=SECONDS)


def _ratios(rounds: int) -> Iterator[Measurement]:
    (_, ranks), (_, counts), _ = make_up().values()
    found = ranks["text_to_image_rank"][:, None] <= np.array([1, 5, 10])
    owner = ranks["image_of_text"]
    recalls = {str(k): Mean(found[:, k].astype(float), owner) for k in range(3)}
    sparse = SparseConfusion(*(counts[field] for field in SparseConfusion._fields))
    areas = areas_of_images(sparse, IMAGES, CLASSES)
    miou = {"mIoU": FunctionOfSums(areas, mean_iou)}
    spreads = interleave(
        {
            "captions": lambda: intervals(recalls, resamples=FEW),
            "captions, plain": lambda: plain_recalls(found, owner, FEW),
            "mIoU": lambda: intervals(miou, resamples=FEW),
            "mIoU, plain": lambda: plain_mious(areas, FEW),
        },
        rounds,
    )
    for what in ("captions", "mIoU"):
        ratio = spreads[f"{what}, plain"].over(spreads[what])
        yield measurement(f"{what}, one by one to ours", ratio, "x")


def plain_recalls(
    found: NDArray[np.bool_], owner: NDArray[np.integer], resamples: int
) -> list[NDArray[np.float64]]:
    """Recalls of images drawn one by one, with all their captions."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(owner == image) for image in range(IMAGES)]
    draws = (rng.integers(IMAGES, size=IMAGES) for _ in range(resamples))
    return [found[np.concatenate([rows[image] for image in drawn])].mean(axis=0) for drawn in draws]


def plain_mious(areas: Areas, resamples: int) -> list[float]:
    """mIoU of images drawn one by one."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(IMAGES, size=IMAGES) for _ in range(resamples))
    totals = (Areas(*(part[drawn].sum(axis=0) for part in areas)) for drawn in draws)
    return [float(mean_iou(total)) for total in totals]


if __name__ == "__main__":
    main()
