"""`python benchmarks/segmentation.py [--json] [--quick] [--sets NAME ...]`: segmentation on a CPU.

The model is ViT-B/16 with random weights, and the made-up photographs have real sizes. The script
measures
- merge and post-processing, from patch embeddings to a label map, against the plain form that tests
  compare ours with: one window at a time, at full size;
- the complete pipeline, from files to counts, against the model by itself on the same windows in
  the same batches; prompts, which are encoded once per set, are left out;
- the hashes of images and label maps, by which results are compared, as a share of the pipeline and
  of reading the files;
- bf16 against float32, and the share of pixels whose class it changes;
- peak memory above that of the loaded model, for each set in a separate process.
`--quick` measures fewer images and sets, once; `--cpu-time` measures the CPU time of the pipeline,
on which other processes have less influence.
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
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from _memory import peak_of
from _report import Measurement, Spread, interleave, measurement, parser, report
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
PATCH_SIZE = 16
MERGE_TARGETS = {"coco_stuff": 5.0, "cityscapes": 4.0}
PIPELINE_TARGET = 1.15
HASHES_TARGET = 2.0  # percent of the pipeline
BF16_TARGET = 1.8  # if the CPU has AMX
MEMORY_TARGET = 400.0  # MB


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    warmup: int
    # The sets whose pipeline is measured, and the number of images of each.
    pipelines: Sequence[str]
    images: int
    # The sets whose memory is measured, and the number of images of each.
    memory: Sequence[str]
    memory_images: int
    clock: Callable[[], float] = time.perf_counter


# The images whose memory is measured fill a batch of 32 windows, and more of them are read ahead.
# With `--quick` they only fill a batch.
FULL = Effort(5, 1, ("coco_object", "coco_stuff"), 5, tuple(SIZES), 10)
QUICK = Effort(1, 0, ("coco_object",), 2, ("coco_object",), 6)


def main() -> None:
    """Measure and print."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--threads", type=int, default=os.cpu_count())
    # The option of child processes: the set and the number of images whose memory is measured.
    argument_parser.add_argument("--peak", help=argparse.SUPPRESS)
    argument_parser.add_argument("--rounds", type=int, help="5, or 1 if quick")
    argument_parser.add_argument(
        "--cpu-time", action="store_true", help="of the pipeline, not wall time"
    )
    argument_parser.add_argument(
        "--sets", nargs="+", choices=SIZES, help="only these, default: all"
    )
    arguments = argument_parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        dataset, count = arguments.peak.split(",")
        print(_peak_megabytes(dataset, int(count)))
        return
    effort = _effort(arguments)
    lines: list[Measurement] = []
    for dataset in MERGE_TARGETS:
        lines += _merge_lines(dataset, effort)
    for dataset in effort.pipelines:
        lines += _pipeline_lines(dataset, effort)
    for dataset in effort.memory:
        lines.append(_memory_line(dataset, effort, arguments.threads))
    title = f"Segmentation, {arguments.threads} CPU threads, {_matrix_units()}"
    report(title, lines, arguments.json)


def _effort(arguments: argparse.Namespace) -> Effort:
    """Return how much is measured."""
    effort = QUICK if arguments.quick else FULL
    chosen_sets = arguments.sets or SIZES
    return effort._replace(
        rounds=arguments.rounds or effort.rounds,
        pipelines=[name for name in effort.pipelines if name in chosen_sets],
        memory=[name for name in effort.memory if name in chosen_sets],
        clock=time.process_time if arguments.cpu_time else time.perf_counter,
    )


def _merge_lines(dataset: str, effort: Effort) -> Iterator[Measurement]:
    """Yield the time from patch embeddings to a label map, in the plain form and in ours."""
    protocol, (width, height) = SEGMENTATION[dataset], SIZES[dataset]
    queries = _random_queries(protocol)
    # The patch embeddings are made up, so pixels and label map matter only by their sizes.
    label = np.zeros((height, width), np.uint8)
    pixels = torch.zeros(3, *resized_hw((height, width), protocol))
    image = LoadedImage(Sample("", Path(), Path(), {}), pixels, label)
    # Windows are placed without a model: they need only its patch size and its device.
    encoder: Any = SimpleNamespace(patch_size=PATCH_SIZE, info=SimpleNamespace(device="cpu"))
    segmenter = Segmenter(encoder, queries, protocol, "csa", 32)
    windows = _inference._place_windows([image], segmenter)
    patches = torch.randn(
        windows.n_windows,
        windows.rows.tokens,
        windows.columns.tokens,
        EMBEDDING,
        generator=torch.Generator().manual_seed(0),
    )
    patches = torch.nn.functional.normalize(patches, dim=-1)

    def plain() -> np.ndarray:
        logits_of_windows = iter((patches @ torch.from_numpy(queries).T).permute(0, 3, 1, 2))
        logits = plain_logits(
            pixels, (height, width), protocol, lambda window: next(logits_of_windows)
        )
        return plain_classes(logits, protocol)

    def ours() -> np.ndarray:
        return _inference._classify_pixels(windows, patches, segmenter).numpy()

    with torch.inference_mode():
        differing_per_million = float((plain() != ours()).mean()) * 1e6
        seconds = interleave({"plain": plain, "ours": ours}, effort.rounds, effort.warmup)
    title = f"merge, {len(protocol.class_names)} classes on {width}x{height}"
    for kind, spread in seconds.items():
        yield measurement(f"{title}, {kind}", spread, "s")
    ratio, target = seconds["plain"].over(seconds["ours"]), MERGE_TARGETS[dataset]
    yield measurement(f"{title}, plain to ours", ratio, "x", at_least=target)
    name = f"{title}, pixels that differ"
    yield measurement(name, differing_per_million, "in a million", at_most=100)


def _pipeline_lines(dataset: str, effort: Effort) -> Iterator[Measurement]:
    """Yield the time from files to counts, the shares of its stages, and what bf16 changes."""
    costs = _measure_pipeline(dataset, effort)
    seconds = costs.seconds
    for kind, spread in seconds.items():
        yield measurement(f"{dataset}, {kind}", spread, "s")

    hashes, reading = seconds["hashes alone"], seconds["reading alone"]
    pipeline = seconds["files to counts, fp32"]
    name = f"{dataset}, files to counts to model alone"
    ratio = pipeline.over(seconds["model alone, fp32"])
    yield measurement(name, ratio, "x", at_most=PIPELINE_TARGET)
    share = hashes.percent_of(pipeline)
    yield measurement(f"{dataset}, hashes, of files to counts", share, "%", at_most=HASHES_TARGET)
    yield measurement(f"{dataset}, hashes, of reading", hashes.percent_of(reading), "%")
    target = BF16_TARGET if _has_amx() else None
    ratio = pipeline.over(seconds["files to counts, bf16"])
    yield measurement(f"{dataset}, fp32 to bf16", ratio, "x", at_least=target)
    yield measurement(f"{dataset}, pixels that bf16 changes", costs.differing_percent, "%")


class PipelineCosts(NamedTuple):
    """How long the pipeline takes, and how much bf16 changes."""

    # The seconds of the pipeline and of its stages by name.
    seconds: dict[str, Spread]
    # The percentage of pixels that get another class in bf16.
    differing_percent: float


def _measure_pipeline(dataset: str, effort: Effort) -> PipelineCosts:
    """Measure the pipeline and its stages on made-up images of a set."""
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_set(dataset, Path(folder), effort.images)
        options = RunOptions()
        data = open_data(protocol, options)
        job = Job(protocol, data, ShardStore(None, {}), None)
        fp32_segmenter, bf16_segmenter = _segmenter(protocol, "fp32"), _segmenter(protocol, "bf16")
        images = _load_images(data.samples, protocol)
        batches = _batches(images, fp32_segmenter)
        contents = [sample.image.read_bytes() for sample in data.samples]

        def hash_files() -> list[bytes]:
            return [
                content_sha256(content, sample)
                for content, sample in zip(contents, data.samples, strict=True)
            ]

        def read() -> list[LoadedImage]:
            return _load_images(data.samples, protocol)

        def encode() -> list[Tensor]:
            encoded = []
            for batch in batches:
                attentions = [fp32_segmenter.attention]
                encoded += _inference._encode_windows(batch, fp32_segmenter, attentions)
            return encoded

        def count_in_fp32() -> object:
            return count_images([job], lambda: [fp32_segmenter], options, no_progress)

        def count_in_bf16() -> object:
            return count_images([job], lambda: [bf16_segmenter], options, no_progress)

        functions = {
            "hashes alone": hash_files,
            "reading alone": read,
            "model alone, fp32": encode,
            "files to counts, fp32": count_in_fp32,
            "files to counts, bf16": count_in_bf16,
        }
        seconds = interleave(functions, effort.rounds, effort.warmup, effort.clock)
        differing_percent = _differing_percent(images, fp32_segmenter, bf16_segmenter)
        return PipelineCosts(seconds, differing_percent)


def _load_images(samples: Sequence[Sample], protocol: SegmentationProtocol) -> list[LoadedImage]:
    """Read the images and label maps of samples."""
    return [load_together([sample], [protocol])[0] for sample in samples]


def _segmenter(protocol: SegmentationProtocol, precision: Precision) -> Segmenter:
    """Return a segmenter with random queries."""
    return Segmenter(_encoder(precision), _random_queries(protocol), protocol, "csa", 32)


def _encoder(precision: Precision) -> ClipEncoder:
    """Return the model in a precision."""
    encoder = load_encoder(parse_model_spec(MODEL), precision=precision)
    assert isinstance(encoder, ClipEncoder)
    return encoder


def _random_queries(protocol: SegmentationProtocol) -> np.ndarray:
    """Return random normalised text embeddings (queries, D) for the queries of a protocol."""
    n_queries = sum(len(names) for names in protocol.queries)
    queries = np.random.default_rng(0).normal(size=(n_queries, EMBEDDING)).astype(np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def _batches(images: Sequence[LoadedImage], segmenter: Segmenter) -> list[Tensor]:
    """Return the pixels of windows (n, 3, H, W) in the batches of the pipeline."""
    windows_of_images = [_inference._place_windows([image], segmenter) for image in images]
    batches = []
    for batch in _inference._batch_images(windows_of_images, segmenter.batch_size):
        batches.append(torch.stack([pixels for windows in batch for pixels in windows.cut()]))
    return batches


def _differing_percent(
    images: Sequence[LoadedImage], segmenter: Segmenter, other_segmenter: Segmenter
) -> float:
    """Return the percentage of pixels of the first two images that get different classes."""
    classes = _predicted_classes(images[:2], segmenter)
    other_classes = _predicted_classes(images[:2], other_segmenter)
    return float((classes != other_classes).mean()) * 100


def _predicted_classes(images: Sequence[LoadedImage], segmenter: Segmenter) -> np.ndarray:
    """Return the predicted classes of the pixels of all images (pixels,)."""
    return np.concatenate([classes.ravel() for classes in predict(segmenter, iter(images))])


def _memory_line(dataset: str, effort: Effort, threads: int) -> Measurement:
    """Return the line with the peak memory of a set, measured in a new process."""
    peak = f"{dataset},{effort.memory_images}"
    command = [sys.executable, __file__, "--peak", peak, "--threads", str(threads)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    name = f"{dataset}, peak memory above the model"
    return measurement(name, float(child.stdout), "MB", at_most=MEMORY_TARGET)


def _peak_megabytes(dataset: str, count: int) -> float:
    """Return the peak memory of measuring a set with `count` images, above the loaded model."""
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_set(dataset, Path(folder), count)
        encoder = _encoder("fp32")
        data = segmentation.TASK.open_data(protocol, RunOptions())
        segmentation.TASK.check(protocol, RunOptions(), data)  # imports modules that read data
        return peak_of(lambda: segmentation.TASK.measure_one(encoder, protocol, RunOptions()))


def _has_amx() -> bool:
    """Return whether the CPU has AMX, which multiplies matrices in bf16."""
    return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def _matrix_units() -> str:
    """Return which instructions for bf16 the CPU has, as a text for the title."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    if _has_amx():
        return "AMX"
    return "AVX512-BF16 without AMX" if "avx512_bf16" in flags else "no bf16 instructions"


if __name__ == "__main__":
    main()
