"""`python benchmarks/retrieval.py [--json] [--quick]`: ranks and recalls from embeddings on a CPU.

The embeddings are made up: as many images and captions as COCO's Karpathy test split has, with 512
numbers each. Our ranks in both directions, which are found by counting, are compared with
- CLIP Benchmark's recall at 1, 5 and 10 in both directions, by its own code, in batches of 64;
- a sort of every row by PyTorch, in both directions, as open_clip_train/train.py ranks
  (get_clip_metrics);
- the same by NumPy, whose sort is vectorised on some processors; it has no target.
All must give the same recalls. Times are CPU times over all threads (OMP_NUM_THREADS), on which
other processes on the machine have little influence; CLIP Benchmark, which is slow, has one round.
Memory is the peak above the embeddings, measured in separate processes, for the first batches only,
because later batches need as much. `--quick` measures times of a fifth of the images and captions.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from _memory import peak_of
from _report import Measurement, interleave, measurement, parser, report
from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k
from numpy.typing import NDArray
from torch import Tensor

from cosmos_eval.stats.retrieval import RetrievalRanks, retrieval_ranks

RECALL_AT = (1, 5, 10)

IMAGES, CAPTIONS, EMBEDDING = 5000, 25010, 512  # of COCO's Karpathy test split, ViT-B
BATCH = 64
MEMORY_BATCHES = 2  # batches of others' methods whose memory is measured
# How many times as long as ours other methods should take.
TARGETS = {"CLIP Benchmark": 15.0, "a sort a row": 8.0, "NumPy's sort": None}
MEMORY_TARGET = 24.0  # MB
MEMORY_SHARE = 0.1  # of the memory of other methods

Recalls = dict[str, float]
"""Recalls by direction and cutoff, such as "text_to_image_R@5"."""


class Embedded(NamedTuple):
    """Images and texts as normalised features."""

    # (N, D)
    images: NDArray[np.float32]
    # (M, D)
    texts: NDArray[np.float32]
    # The index of the image of each text (M,).
    image_of_text: NDArray[np.int64]


def main() -> None:
    """Measure and print."""
    argument_parser = parser(__doc__ or "")
    # The option of child processes: the method whose memory is measured.
    argument_parser.add_argument("--peak", choices=MEMORY_METHODS, help=argparse.SUPPRESS)
    arguments = argument_parser.parse_args()
    if arguments.peak:
        method, data = MEMORY_METHODS[arguments.peak], make_data(1)
        print(peak_of(lambda: method(data)))
        return
    lines = [*_time_lines(arguments.quick), *_memory_lines()]
    report(f"Retrieval metrics, {torch.get_num_threads()} CPU threads", lines, arguments.json)


def make_data(divisor: int) -> Embedded:
    """Return random features in which a text is nearer to its image than to most other images.

    Args:
        divisor: Divides the numbers of images and of captions.
    """
    rng = np.random.default_rng(0)
    n_images, n_texts = IMAGES // divisor, CAPTIONS // divisor
    image_of_text = rng.permutation(np.arange(n_texts) % n_images)
    images = rng.normal(size=(n_images, EMBEDDING)).astype(np.float32)
    noise = rng.normal(size=(n_texts, EMBEDDING)).astype(np.float32)
    texts = images[image_of_text] + 4 * noise
    return Embedded(_normalised(images), _normalised(texts), image_of_text)


def _normalised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def ours(data: Embedded) -> Recalls:
    """Return the recalls by our ranks, which are found by counting."""
    return _recalls(retrieval_ranks(data.images, data.texts, data.image_of_text))


def by_sorting(data: Embedded, n_batches: int | None = None) -> Recalls:
    """Return the recalls by the place of the first positive in each sorted row of scores.

    Args:
        data: The features.
        n_batches: The number of first batches of queries that are ranked; None: all of them.
    """
    scores, is_positive = _scores(data)
    text_to_image = _ranks_by_sorting(scores, is_positive, n_batches)
    image_to_text = _ranks_by_sorting(scores.T, is_positive.T, n_batches)
    return _recalls(RetrievalRanks(image_to_text, text_to_image))


def _ranks_by_sorting(
    scores: Tensor, is_positive: Tensor, n_batches: int | None
) -> NDArray[np.int64]:
    """Return the rank of the first positive of each query, from 1.

    Args:
        scores: The scores of queries and candidates (queries, candidates).
        is_positive: Which candidates belong to the query (queries, candidates).
        n_batches: The number of first batches that are ranked; None: all of them.
    """
    n_queries = None if n_batches is None else n_batches * BATCH
    batches = zip(
        scores[:n_queries].split(BATCH), is_positive[:n_queries].split(BATCH), strict=True
    )
    ranks = []
    for batch_scores, batch_is_positive in batches:
        order = torch.argsort(batch_scores, dim=1, descending=True)
        ranks.append(1 + batch_is_positive.gather(1, order).int().argmax(dim=1))
    return torch.cat(ranks).numpy()


def by_numpy_sort(data: Embedded) -> Recalls:
    """Return the same recalls as `by_sorting` by NumPy's sort."""
    scores, is_positive = (tensor.numpy() for tensor in _scores(data))
    text_to_image = _ranks_by_numpy_sort(scores, is_positive)
    image_to_text = _ranks_by_numpy_sort(scores.T, is_positive.T)
    return _recalls(RetrievalRanks(image_to_text, text_to_image))


def _ranks_by_numpy_sort(
    scores: NDArray[np.float32], is_positive: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the rank of the first positive of each query, from 1; see `_ranks_by_sorting`."""
    ranks = []
    for row, row_is_positive in zip(scores, is_positive, strict=True):
        order = np.argsort(-row)
        ranks.append(1 + np.argmax(row_is_positive[order]))
    return np.array(ranks)


def _scores(data: Embedded) -> tuple[Tensor, Tensor]:
    """Return the scores of texts and images (M, N), and which pairs are positive (M, N).

    They are computed as in clip_benchmark's zeroshot_retrieval.
    """
    scores = torch.from_numpy(data.texts) @ torch.from_numpy(data.images).t()
    is_positive = torch.zeros_like(scores, dtype=torch.bool)
    is_positive[torch.arange(len(scores)), torch.from_numpy(data.image_of_text)] = True
    return scores, is_positive


def _recalls(ranks: RetrievalRanks) -> Recalls:
    """Return the shares of queries whose rank is at most each cutoff."""
    recalls = {}
    for direction, ranks_of_queries in ranks._asdict().items():
        for k in RECALL_AT:
            recalls[f"{direction}_R@{k}"] = float((ranks_of_queries <= k).mean())
    return recalls


def by_clip_benchmark(
    data: Embedded, recall_at: Sequence[int] = RECALL_AT, n_batches: int | None = None
) -> Recalls:
    """Return the recalls as clip_benchmark.metrics.zeroshot_retrieval.evaluate computes them.

    Args:
        data: The features.
        recall_at: The cutoffs.
        n_batches: The number of first batches of queries that are ranked; None: all of them.
    """
    scores, is_positive = _scores(data)
    n_queries = None if n_batches is None else n_batches * BATCH
    directions = {
        "text_to_image": (scores[:n_queries], is_positive[:n_queries]),
        "image_to_text": (scores.T[:n_queries], is_positive.T[:n_queries]),
    }
    recalls = {}
    for k in recall_at:
        for direction, (x, y) in directions.items():
            has_positive = batchify(recall_at_k, x, y, BATCH, "cpu", k=k) > 0
            recalls[f"{direction}_R@{k}"] = has_positive.double().mean().item()
    return recalls


def _first_batches_by_sorting(data: Embedded) -> Recalls:
    return by_sorting(data, MEMORY_BATCHES)


def _first_batches_by_clip_benchmark(data: Embedded) -> Recalls:
    """Use a cutoff of 10, for which CLIP Benchmark needs the most memory."""
    return by_clip_benchmark(data, (10,), MEMORY_BATCHES)


# The methods whose memory is measured.
MEMORY_METHODS: dict[str, Callable[[Embedded], object]] = {
    "ours": ours,
    "a sort a row": _first_batches_by_sorting,
    "CLIP Benchmark": _first_batches_by_clip_benchmark,
}


class Method:
    """A method to compute recalls, which keeps the last ones that it computed."""

    def __init__(self, compute: Callable[[Embedded], Recalls], data: Embedded) -> None:
        self._compute = compute
        self._data = data
        self.recalls: Recalls = {}

    def __call__(self) -> None:
        """Compute the recalls."""
        self.recalls = self._compute(self._data)


def _time_lines(quick: bool) -> Iterator[Measurement]:
    """Yield the CPU time of each method, and how many times as long as ours it takes."""
    data = make_data(5 if quick else 1)
    size = f"{len(data.texts):,} x {len(data.images):,}"
    our_method = Method(ours, data)
    clip_benchmark = Method(by_clip_benchmark, data)
    sorts = {
        "a sort a row": Method(by_sorting, data),
        "NumPy's sort": Method(by_numpy_sort, data),
    }
    seconds_of_sorts = interleave({"ours": our_method, **sorts}, 3, clock=time.process_time)
    seconds_of_one_round = interleave(
        {"ours": our_method, "CLIP Benchmark": clip_benchmark},
        1,
        warmup=0,
        clock=time.process_time,
    )
    _require_equal({"ours": our_method, **sorts, "CLIP Benchmark": clip_benchmark})
    for name, spread in {**seconds_of_one_round, **seconds_of_sorts}.items():
        yield measurement(f"{size}, {name}", spread, "s")
    for name, target in TARGETS.items():
        seconds = seconds_of_sorts if name in seconds_of_sorts else seconds_of_one_round
        ratio = seconds[name].over(seconds["ours"])
        yield measurement(f"{size}, {name} to ours", ratio, "x", at_least=target)


def _require_equal(methods: Mapping[str, Method]) -> None:
    """Raise SystemExit if a method does not give the same recalls as ours."""
    our_recalls = methods["ours"].recalls
    for name, method in methods.items():
        for metric, value in method.recalls.items():
            if abs(our_recalls[metric] - value) > 1e-9:
                raise SystemExit(f"{metric}: {our_recalls[metric]} by ours, {value} by {name}")


def _memory_lines() -> Iterator[Measurement]:
    """Yield the peak memory of each method, and the shares that ours needs of it."""
    peaks = {name: _peak_in_child(name) for name in MEMORY_METHODS}
    title = "peak memory above the embeddings"
    for name, peak in peaks.items():
        target = MEMORY_TARGET if name == "ours" else None
        yield measurement(f"{title}, {name}", peak, "MB", at_most=target)
    for name in ("a sort a row", "CLIP Benchmark"):
        share = peaks["ours"] / peaks[name]
        yield measurement(f"{title}, ours to {name}", share, "x", at_most=MEMORY_SHARE)


def _peak_in_child(name: str) -> float:
    """Return the peak memory of a method in megabytes, measured in a new process."""
    command = [sys.executable, __file__, "--peak", name]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(child.stdout)


if __name__ == "__main__":
    main()
