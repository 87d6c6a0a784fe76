"""`python benchmarks/segmentation.py [--json] [--quick] [--sets NAME ...]`: segmentation on a CPU.

With ViT-B/16 of random weights and made-up photographs of real sizes:
- merge and post-processing, from patch embeddings to a label map, against the plain form, which
  tests hold ours against: one window at a time, at full size;
- the whole pipeline, from files to counts, against the model alone on the same windows in the same
  batches; prompts, encoded once a set, are left out;
- the hashes of images and label maps, by which results are compared, as a share of the pipeline and
  of reading the files;
- bf16 against float32, and how many pixels get another class by it;
- peak memory above that of the loaded model, a set in a process of its own.
`--quick` measures fewer images and sets, once; `--cpu-time` counts the pipeline's own seconds,
where others share the cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _memory import peak_of
from _report import Measurement, interleave, measurement, parser, report
from _segmentation_sets import SIZES, write_set
from torch import Tensor

from cosmos_eval.data.label_maps import Sample, open_data
from cosmos_eval.embedding.cache import ShardStore
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.label_maps import content_sha256
from cosmos_eval.tasks.segmentation import inference as _inference
from cosmos_eval.tasks.segmentation.evaluate import Job, count_images
from cosmos_eval.tasks.segmentation.inference import (
    LoadedImage,
    Segmenter,
    load_together,
    predict,
    resized_hw,
)
from cosmos_eval.types import Precision, RunOptions, SegmentationProtocol, no_progress

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.plain_segmentation import plain_classes, plain_logits

MODEL = "openclip:ViT-B-16/random"
EMBEDDING = 512  # of ViT-B/16
MERGE_TARGETS = {"coco_stuff": 5.0, "cityscapes": 4.0}
PIPELINE_TARGET = 1.15
HASHES_TARGET = 2.0  # percent of the pipeline
BF16_TARGET = 1.8  # where the CPU has AMX
MEMORY_TARGET = 400.0  # MB


class Effort(NamedTuple):
    """How much is measured: of `pipelines` and `memory` these sets, with so many images each."""

    rounds: int
    warmup: int
    pipelines: Sequence[str]
    images: int
    memory: Sequence[str]
    memory_images: int
    clock: Callable[[], float] = time.perf_counter


# Of the memory, a batch of 32 windows and the images read ahead; quick: a batch.
FULL = Effort(5, 1, ("coco_object", "coco_stuff"), 5, tuple(SIZES), 10)
QUICK = Effort(1, 0, ("coco_object",), 2, ("coco_object",), 6)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--peak", help=argparse.SUPPRESS)  # of one set, for a child process
    arguments.add_argument("--rounds", type=int, help="5, or 1 if quick")
    arguments.add_argument("--cpu-time", action="store_true", help="of the pipeline, not wall time")
    arguments.add_argument("--sets", nargs="+", choices=SIZES, help="only these, default: all")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        name, count = given.peak.split(",")
        print(_peak_of(name, int(count)))
        return
    effort = _effort(given)
    lines = [line for name in MERGE_TARGETS for line in _merge_lines(name, effort)]
    lines += [line for name in effort.pipelines for line in _pipeline_lines(name, effort)]
    lines += [_memory_line(name, effort, given.threads) for name in effort.memory]
    title = f"Segmentation, {given.threads} CPU threads, {_matrix_units()}"
    report(title, lines, given.json)


def _effort(given: argparse.Namespace) -> Effort:
    usual = QUICK if given.quick else FULL
    chosen = given.sets or SIZES
    return usual._replace(
        rounds=given.rounds or usual.rounds,
        pipelines=[name for name in usual.pipelines if name in chosen],
        memory=[name for name in usual.memory if name in chosen],
        clock=time.process_time if given.cpu_time else time.perf_counter,
    )


def _merge_lines(dataset: str, effort: Effort) -> Iterator[Measurement]:
    protocol, (width, height) = SEGMENTATION[dataset], SIZES[dataset]
    queries = _random_queries(protocol)
    # Only the sizes matter: the patch embeddings are made up, and shared by both.
    label = np.zeros((height, width), np.uint8)
    pixels = torch.zeros(3, *resized_hw((height, width), protocol))
    image = LoadedImage(Sample("", Path(), Path(), {}), pixels, label)
    segmenter = Segmenter(_Sized(), queries, protocol, "csa", 32)  # type: ignore[arg-type]
    windows = _inference._place_windows([image], segmenter)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(
        windows.n_windows,
        windows.rows.tokens,
        windows.columns.tokens,
        EMBEDDING,
        generator=generator,
    )
    patches = torch.nn.functional.normalize(patches, dim=-1)

    def plain() -> np.ndarray:
        tokens = iter((patches @ torch.from_numpy(queries).T).permute(0, 3, 1, 2))
        logits = plain_logits(pixels, (height, width), protocol, lambda _: next(tokens))
        return plain_classes(logits, protocol)

    def ours() -> np.ndarray:
        return _inference._classify_pixels(windows, patches, segmenter).numpy()

    with torch.inference_mode():
        differing = float((plain() != ours()).mean()) * 1e6
        seconds = interleave({"plain": plain, "ours": ours}, effort.rounds, effort.warmup)
    what = f"merge, {len(protocol.class_names)} classes on {width}x{height}"
    for kind, spread in seconds.items():
        yield measurement(f"{what}, {kind}", spread, "s")
    ratio, target = seconds["plain"].over(seconds["ours"]), MERGE_TARGETS[dataset]
    yield measurement(f"{what}, plain to ours", ratio, "x", at_least=target)
    yield measurement(f"{what}, pixels that differ", differing, "in a million", at_most=100)


def _pipeline_lines(dataset: str, effort: Effort) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_set(dataset, Path(folder), effort.images)
        options = RunOptions()
        data = open_data(protocol, options)
        job = Job(protocol, data, ShardStore(None, {}), None)
        segmenters = {precision: _segmenter(protocol, precision) for precision in ("fp32", "bf16")}
        images = [load_together([sample], [protocol])[0] for sample in data.samples]
        plain = segmenters["fp32"]
        batches = _batches(images, plain)

        def backbone() -> list[Tensor]:
            forms = [plain.attention]
            return [of for one in batches for of in _inference._encode_windows(one, plain, forms)]

        def pipeline(precision: str) -> object:
            return count_images([job], lambda: [segmenters[precision]], options, no_progress)

        contents = [sample.image.read_bytes() for sample in data.samples]

        def hashes() -> list[bytes]:
            return [content_sha256(*one) for one in zip(contents, data.samples, strict=True)]

        def reading() -> list[LoadedImage]:
            return [load_together([sample], [protocol])[0] for sample in data.samples]

        functions = {
            "hashes alone": hashes,
            "reading alone": reading,
            "model alone, fp32": backbone,
            "files to counts, fp32": lambda: pipeline("fp32"),
            "files to counts, bf16": lambda: pipeline("bf16"),
        }
        seconds = interleave(functions, effort.rounds, effort.warmup, effort.clock)
        differing = _disagreement(images, list(segmenters.values()))
    hashed, read, alone, whole, half = seconds.values()
    for kind, spread in seconds.items():
        yield measurement(f"{dataset}, {kind}", spread, "s")
    ratio = whole.over(alone)
    yield measurement(
        f"{dataset}, files to counts to model alone", ratio, "x", at_most=PIPELINE_TARGET
    )
    share = hashed.percent_of(whole)
    yield measurement(f"{dataset}, hashes, of files to counts", share, "%", at_most=HASHES_TARGET)
    yield measurement(f"{dataset}, hashes, of reading", hashed.percent_of(read), "%")
    target = BF16_TARGET if _has_amx() else None
    yield measurement(f"{dataset}, fp32 to bf16", whole.over(half), "x", at_least=target)
    yield measurement(f"{dataset}, pixels that bf16 changes", differing, "%")


def _segmenter(protocol: SegmentationProtocol, precision: Precision) -> Segmenter:
    return Segmenter(_encoder(precision), _random_queries(protocol), protocol, "csa", 32)


def _encoder(precision: Precision) -> ClipEncoder:
    return load_encoder(parse_model_spec(MODEL), precision=precision)


def _random_queries(protocol: SegmentationProtocol) -> np.ndarray:
    count = sum(len(names) for names in protocol.queries)
    rows = np.random.default_rng(0).normal(size=(count, EMBEDDING)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _batches(images: Sequence[LoadedImage], segmenter: Segmenter) -> list[Tensor]:
    """The windows as the pipeline puts them into batches."""
    windows = [_inference._place_windows([image], segmenter) for image in images]
    groups = _inference._batch_images(windows, segmenter.batch_size)
    return [torch.stack([pixels for one in group for pixels in one.cut()]) for group in groups]


def _disagreement(images: Sequence[LoadedImage], segmenters: Sequence[Segmenter]) -> float:
    """Percent of the pixels of the first two images that get different classes."""
    one, other = (
        np.concatenate([classes.ravel() for classes in predict(segmenter, iter(images[:2]))])
        for segmenter in segmenters
    )
    return float((one != other).mean()) * 100


def _memory_line(dataset: str, effort: Effort, threads: int) -> Measurement:
    peak = f"{dataset},{effort.memory_images}"
    command = [sys.executable, __file__, "--peak", peak, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    name = f"{dataset}, peak memory above the model"
    return measurement(name, float(done.stdout), "MB", at_most=MEMORY_TARGET)


def _peak_of(dataset: str, count: int) -> float:
    """Megabytes that measuring a set takes at most beside the loaded model, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_set(dataset, Path(folder), count)
        encoder = _encoder("fp32")
        data = segmentation.TASK.open_data(protocol, RunOptions())
        segmentation.TASK.check(protocol, RunOptions(), data)  # imports what reads the data
        return peak_of(lambda: segmentation.TASK.measure_one(encoder, protocol, RunOptions()))


def _has_amx() -> bool:
    return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def _matrix_units() -> str:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    if _has_amx():
        return "AMX"
    return "AVX512-BF16 without AMX" if "avx512_bf16" in flags else "no bf16 instructions"


class _Sized:
    """What windows are cut for, without a model."""

    patch_size = 16

    class info:  # noqa: N801 as the encoders name it
        device = "cpu"


if __name__ == "__main__":
    main()
