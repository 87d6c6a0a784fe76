"""`python benchmarks/intervals.py [--json] [--quick]`: all figures of a result, with intervals.

The figures are computed from stored samples, as measuring and `cosmos-eval verify` do, with 2,000
resamples. The samples are made up: ranks of 25,010 captions of 5,000 images (COCO's Karpathy test
split), confusion counts of 5,000 images with 171 classes (COCO-Stuff), and 50,000 predictions of
1,000 classes (ImageNet). The bootstraps are also compared with drawing images one by one, on 200
resamples. Two groups of five trainings are compared from stored ranks. `--quick` has one round.
How often intervals hold the true value is what benchmarks/coverage.py simulates.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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

N_IMAGES, N_CAPTIONS = 5000, 25010
N_PIXEL_CLASSES = 171
# Pairs of label and prediction in an image, about as many as photographs have.
N_CLASS_PAIRS = 60
N_PREDICTIONS, N_IMAGE_CLASSES = 50_000, 1000
RECALL_DEPTHS = (1, 5, 10)
N_TRAININGS = 5  # of each group
MAX_SECONDS = 10.0
N_PLAIN_RESAMPLES = 200  # if images are drawn one by one


class StoredSamples(NamedTuple):
    """Per-sample arrays of a result, made up."""

    # Their size, such as "25,010 captions".
    size: str
    task: str
    arrays: Samples

    def figures(self) -> object:
        """Compute all figures with their intervals."""
        return task_named(self.task).figures(self.arrays, 0)


class AllSamples(NamedTuple):
    """The made-up samples of three tasks."""

    ranks: StoredSamples
    confusions: StoredSamples
    predictions: StoredSamples


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "").parse_args()
    samples = make_samples()
    rounds = 1 if arguments.quick else 5
    lines = [
        *measure_figures(samples, rounds),
        measure_groups(samples.ranks, rounds),
        *measure_ratios(samples, 1 if arguments.quick else 3),
    ]
    report("Intervals", lines, arguments.json)


def make_samples() -> AllSamples:
    """Make up samples of retrieval, segmentation and classification."""
    rng = np.random.default_rng(0)
    ranks = make_ranks(rng)
    confusions = make_confusions(rng)
    predictions = make_predictions(rng)
    return AllSamples(
        StoredSamples(f"{N_CAPTIONS:,} captions", "retrieval", ranks),
        StoredSamples(f"{N_IMAGES:,} images x {N_PIXEL_CLASSES} classes", "seg", confusions),
        StoredSamples(f"{N_PREDICTIONS:,} predictions", "cls", predictions),
    )


def make_ranks(rng: np.random.Generator) -> Samples:
    """Make up ranks of images and captions; images differ in difficulty."""
    image_of_text = np.arange(N_CAPTIONS) % N_IMAGES
    difficulty = rng.exponential(3, N_IMAGES)
    return {
        "image_to_text_rank": 1 + rng.poisson(difficulty),
        "text_to_image_rank": 1 + rng.poisson(2 * difficulty[image_of_text] ** 2),
        "image_of_text": image_of_text,
    }


def make_confusions(rng: np.random.Generator) -> Samples:
    """Make up the pixels of each pair of label and prediction in each image."""
    class_pairs = rng.integers(0, N_PIXEL_CLASSES**2, (N_IMAGES, N_CLASS_PAIRS))
    class_pairs = np.sort(class_pairs, axis=1)
    # One pair of each image has the same class as label and prediction.
    class_pairs[:, 0] = rng.integers(0, N_PIXEL_CLASSES, N_IMAGES) * (N_PIXEL_CLASSES + 1)
    return {
        "image": np.repeat(np.arange(N_IMAGES), N_CLASS_PAIRS),
        "pair": class_pairs.ravel(),
        "pixels": rng.integers(1, 10_000, N_IMAGES * N_CLASS_PAIRS),
        "name": np.arange(N_IMAGES).astype(str),
        "classes": np.arange(N_PIXEL_CLASSES).astype(str),
        "groups": np.array(["things"]),
        "members": np.arange(N_PIXEL_CLASSES)[None] < 80,
    }


def make_predictions(rng: np.random.Generator) -> Samples:
    """Make up the five most likely classes of images, of which the first is often right."""
    labels = rng.integers(0, N_IMAGE_CLASSES, N_PREDICTIONS)
    first_class = np.where(rng.random(N_PREDICTIONS) < 0.6, labels, 0)
    return {
        "labels": labels,
        "top5": first_class[:, None] + np.arange(5),
        "classes": np.arange(N_IMAGE_CLASSES).astype(str),
    }


def measure_figures(samples: AllSamples, rounds: int) -> Iterator[Measurement]:
    """Measure the seconds of all figures of each task."""
    functions = {stored_samples.size: stored_samples.figures for stored_samples in samples}
    for size, spread in interleave(functions, rounds).items():
        yield measurement(f"{size}, all figures", spread, "s", at_most=MAX_SECONDS)


def measure_groups(ranks: StoredSamples, rounds: int) -> Measurement:
    """Measure the seconds of comparing two groups of trainings, starting with their files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store_trainings(folder, ranks)
        compare = partial(compare_groups, folder)
        spread = interleave({"": compare}, rounds, warmup=0)[""]
    label = f"2 x {N_TRAININGS} trainings, {N_CAPTIONS:,} captions"
    return measurement(label, spread, "s", at_most=MAX_SECONDS)


def store_trainings(folder: Path, ranks: StoredSamples) -> None:
    """Store the results of the trainings of groups "a" and "b", whose ranks differ a little."""
    rng = np.random.default_rng(1)
    for number in range(2 * N_TRAININGS):
        training: dict[str, Any] = {"group": "ab"[number % 2], "seed": number // 2}
        for field in ("recipe_sha256", "data_sha256", "samples", "flops"):
            training[field] = None
        arrays = dict(ranks.arrays)
        for name in ("image_to_text_rank", "text_to_image_rank"):
            arrays[name] = arrays[name] + rng.poisson(0.2, len(arrays[name]))
        model = {"spec": str(number), "weights_sha256": f"{number:064}", "training": training}
        provenance = {"hashes": {"sample_list": "1" * 64}}
        store_result(folder, ranks.task, arrays, model=model, provenance=provenance)


def compare_groups(folder: Path) -> None:
    """Compare group "a" with group "b"."""
    results = read_stored(result_paths(folder))
    results_a = groups.select_group_results(results, "a")
    results_b = groups.select_group_results(results, "b")
    groups.compare(results_a, results_b, read_samples)


def measure_ratios(samples: AllSamples, rounds: int) -> Iterator[Measurement]:
    """Measure how much longer bootstraps take if images are drawn one by one."""
    ranks = samples.ranks.arrays
    image_of_text = ranks["image_of_text"]
    hits = ranks["text_to_image_rank"][:, None] <= np.array(RECALL_DEPTHS)
    recalls = {}
    for column, depth in enumerate(RECALL_DEPTHS):
        recalls[f"R@{depth}"] = Mean(hits[:, column].astype(float), image_of_text)

    confusions = samples.confusions.arrays
    sparse = SparseConfusion(*(confusions[field] for field in SparseConfusion._fields))
    areas = areas_of_images(sparse, N_IMAGES, N_PIXEL_CLASSES)
    miou = {"mIoU": FunctionOfSums(areas, mean_iou)}

    n = N_PLAIN_RESAMPLES
    functions: dict[str, Callable[[], object]] = {
        "captions": partial(intervals, recalls, resamples=n),
        "captions, plain": partial(plain_recalls, hits, image_of_text, n),
        "mIoU": partial(intervals, miou, resamples=n),
        "mIoU, plain": partial(plain_mious, areas, n),
    }
    spreads = interleave(functions, rounds)
    for name in ("captions", "mIoU"):
        ratio = spreads[f"{name}, plain"].over(spreads[name])
        yield measurement(f"{name}, one by one to ours", ratio, "x")


def plain_recalls(
    hits: NDArray[np.bool_], image_of_text: NDArray[np.integer], resamples: int
) -> list[NDArray[np.float64]]:
    """Return recalls of resamples whose images are drawn one by one, with all their captions.

    Args:
        hits: (captions, depths) whether the image of a caption is among the first.
        image_of_text: (captions,) the image of each caption.
        resamples: The number of resamples.
    """
    rng = np.random.default_rng(0)
    texts_of_image = [np.flatnonzero(image_of_text == image) for image in range(N_IMAGES)]
    recalls = []
    for _ in range(resamples):
        images = rng.integers(N_IMAGES, size=N_IMAGES)
        texts = np.concatenate([texts_of_image[image] for image in images])
        recalls.append(hits[texts].mean(axis=0))
    return recalls


def plain_mious(areas: Areas, resamples: int) -> list[float]:
    """Return the mIoU of resamples whose images are drawn one by one."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        images = rng.integers(N_IMAGES, size=N_IMAGES)
        totals = Areas(*(pixels[images].sum(axis=0) for pixels in areas))
        values.append(float(mean_iou(totals)))
    return values


if __name__ == "__main__":
    main()
