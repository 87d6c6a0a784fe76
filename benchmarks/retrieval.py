"""`python benchmarks/retrieval.py [--json] [--quick]`: ranks and recalls from embeddings on a CPU.

As many images and captions as COCO's Karpathy test split, made up, with 512 numbers each. Ours,
ranks both ways by counting, against
- CLIP Benchmark's recall at 1, 5 and 10, both ways, in its own code and batches of 64;
- a sort of every row by PyTorch, both ways, as open_clip_train/train.py ranks (get_clip_metrics);
- the same by NumPy, whose sort is vectorised on some processors; without a target.
All must give the same recalls. Times are the processor's, over all threads (OMP_NUM_THREADS), so
that other processes on the machine count little; CLIP Benchmark, which is slow, has one round.
Memory is the peak above the embeddings, each in a process of its own and of the first batches only,
which take as much as those that follow. `--quick` times a fifth of the images and captions.
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
TARGETS = {"CLIP Benchmark": 15.0, "a sort a row": 8.0, "NumPy's sort": None}
MEMORY_TARGET, MEMORY_SHARE = 24.0, 0.1  # MB; of the others' memory

Recalls = dict[str, float]


class Embedded(NamedTuple):
    """Normalised features of images (N, D) and texts (M, D), and every text's image (M,)."""

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    image_of_text: NDArray[np.int64]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--peak", choices=PEAKS, help=argparse.SUPPRESS)  # for a child process
    given = arguments.parse_args()
    if given.peak:
        data = make_up(1)
        print(peak_of(lambda: PEAKS[given.peak](data)))
        return
    lines = [*_time_lines(given.quick), *_memory_lines()]
    report(f"Retrieval metrics, {torch.get_num_threads()} CPU threads", lines, given.json)


def make_up(fraction: int) -> Embedded:
    """Features in which a text is nearer to its image than to most others, in mixed order."""
    rng = np.random.default_rng(0)
    images, captions = IMAGES // fraction, CAPTIONS // fraction
    owner = rng.permutation(np.arange(captions) % images)
    image_features = rng.normal(size=(images, EMBEDDING)).astype(np.float32)
    texts = image_features[owner] + 4 * rng.normal(size=(captions, EMBEDDING)).astype(np.float32)
    return Embedded(_normalised(image_features), _normalised(texts), owner)


def _normalised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def ours(data: Embedded) -> Recalls:
    """Ranks by counting."""
    return _recalls(retrieval_ranks(data.images, data.texts, data.image_of_text))


def by_sorting(data: Embedded, batches: int | None = None) -> Recalls:
    """The place of the first positive in every row of the sorted score matrix."""
    scores, positive = _scores(data)
    return _recalls(
        RetrievalRanks(
            np.concatenate(
                [_sorted_ranks(*both) for both in _batches(scores.T, positive.T, batches)]
            ),
            np.concatenate([_sorted_ranks(*both) for both in _batches(scores, positive, batches)]),
        )
    )


def _sorted_ranks(scores: Tensor, positive: Tensor) -> NDArray[np.int64]:
    order = torch.argsort(scores, dim=1, descending=True)
    return (1 + positive.gather(1, order).int().argmax(dim=1)).numpy()


def by_numpy_sort(data: Embedded) -> Recalls:
    """The same with NumPy's sort."""
    scores, positive = (both.numpy() for both in _scores(data))
    to_text, to_image = (
        np.array([np.argmax(own[np.argsort(-row)]) for row, own in zip(*both, strict=True)])
        for both in ((scores.T, positive.T), (scores, positive))
    )
    return _recalls(RetrievalRanks(1 + to_text, 1 + to_image))


def _scores(data: Embedded) -> tuple[Tensor, Tensor]:
    """(M, N) scores and which are of positives, as in clip_benchmark's zeroshot_retrieval."""
    scores = torch.from_numpy(data.texts) @ torch.from_numpy(data.images).t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(data.image_of_text)] = True
    return scores, positive


def _batches(
    scores: Tensor, positive: Tensor, batches: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    rows = None if batches is None else batches * BATCH
    return zip(scores[:rows].split(BATCH), positive[:rows].split(BATCH), strict=True)


def _recalls(ranks: RetrievalRanks) -> Recalls:
    return {
        f"{direction}_R@{k}": float((of_queries <= k).mean())
        for direction, of_queries in ranks._asdict().items()
        for k in RECALL_AT
    }


def by_clip_benchmark(
    data: Embedded, recall_at: Sequence[int] = RECALL_AT, batches: int | None = None
) -> Recalls:
    """As clip_benchmark.metrics.zeroshot_retrieval.evaluate does it, from embeddings on."""
    scores, positive = _scores(data)
    rows = None if batches is None else batches * BATCH
    ways = {"text_to_image": (scores, positive), "image_to_text": (scores.T, positive.T)}
    return {
        f"{way}_R@{k}": (batchify(recall_at_k, x[:rows], y[:rows], BATCH, "cpu", k=k) > 0)
        .double()
        .mean()
        .item()
        for k in recall_at
        for way, (x, y) in ways.items()
    }


# At 10 alone, which takes CLIP Benchmark the most.
PEAKS: dict[str, Callable[[Embedded], object]] = {
    "ours": ours,
    "a sort a row": lambda data: by_sorting(data, batches=2),
    "CLIP Benchmark": lambda data: by_clip_benchmark(data, (10,), batches=2),
}


def _time_lines(quick: bool) -> Iterator[Measurement]:
    data = make_up(5 if quick else 1)
    size = f"{len(data.texts):,} x {len(data.images):,}"
    found: dict[str, Recalls] = {}

    def keeping(name: str, measured: Callable[[Embedded], Recalls]) -> Callable[[], None]:
        return lambda: found.update({name: measured(data)})

    counted = {"ours": keeping("ours", ours)}
    sorts = {"a sort a row": by_sorting, "NumPy's sort": by_numpy_sort}
    sorting = {name: keeping(name, function) for name, function in sorts.items()}
    clip_benchmark = {"CLIP Benchmark": keeping("CLIP Benchmark", by_clip_benchmark)}
    several = interleave(counted | sorting, 3, clock=time.process_time)
    once = interleave(counted | clip_benchmark, 1, warmup=0, clock=time.process_time)
    _require_equal(found)
    for name, spread in {**once, **several}.items():
        yield measurement(f"{size}, {name}", spread, "s")
    for name, target in TARGETS.items():
        rounds = several if name in several else once
        ratio = rounds[name].over(rounds["ours"])
        yield measurement(f"{size}, {name} to ours", ratio, "x", at_least=target)


def _require_equal(found: Mapping[str, Recalls]) -> None:
    for name, recalls in found.items():
        for metric, value in recalls.items():
            if abs(found["ours"][metric] - value) > 1e-9:
                raise SystemExit(f"{metric}: {found['ours'][metric]} by ours, {value} by {name}")


def _memory_lines() -> Iterator[Measurement]:
    peaks = {name: _peak_apart(name) for name in PEAKS}
    what = "peak memory above the embeddings"
    for name, peak in peaks.items():
        target = MEMORY_TARGET if name == "ours" else None
        yield measurement(f"{what}, {name}", peak, "MB", at_most=target)
    for name in ("a sort a row", "CLIP Benchmark"):
        share = peaks["ours"] / peaks[name]
        yield measurement(f"{what}, ours to {name}", share, "x", at_most=MEMORY_SHARE)


def _peak_apart(name: str) -> float:
    command = [sys.executable, __file__, "--peak", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
