"""`python benchmarks/classification.py [--json] [--quick] [--classes N]`: classification on a CPU.

The model is ViT-B/32 with random weights. The script measures
- the prompts of ImageNet, 1,000 classes x 80 templates, against OpenCLIP's classifier, which
  encodes every prompt at its full 77 positions and so takes long (`--classes` takes fewer classes);
- a complete run over made-up photographs, from files to metrics, against the model by itself on
  images in memory. On a CPU, decoding takes its time from the same cores, so the run is also
  compared with decoding followed by the model;
- the hashes of the photographs, by which embeddings are cached and results compared, as a share of
  the run;
- a second run, whose embeddings are cached.
`--quick` takes 4 classes and 64 photographs; `--cpu-time` measures the CPU time of the process, on
which other processes have less influence.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from _photographs import jpegs
from _report import Measurement, Spread, interleave, measurement, parser, report

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.embedding.embed import hash_image_files
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.tasks import classification
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.types import ClassificationProtocol, RunOptions

MODEL = "openclip:ViT-B-32/random"
PROMPTS_TARGET = 4.0
PROMPTS_TOLERANCE = 1e-6
RUN_TARGET = 0.9
SECOND_RUN_TARGET = 3.0  # seconds
HASHES_TARGET = 2.0  # percent of a run
PHOTO_CLASSES = 10
DISTINCT = 48  # different photographs; the other files repeat their pixels
IN_MEMORY = 128  # images in memory that the model encodes repeatedly


class Effort(NamedTuple):
    """How much is measured, and how."""

    rounds: int
    # The number of classes, which have 80 prompts each.
    classes: int
    photographs: int
    clock: Callable[[], float] = time.perf_counter


FULL = Effort(3, 1000, 2000)
QUICK = Effort(1, 4, 64)


def main() -> None:
    """Measure and print."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--threads", type=int, default=os.cpu_count())
    argument_parser.add_argument("--classes", type=int, help="of prompts; 1,000, or 4 if quick")
    argument_parser.add_argument("--photographs", type=int, help="2,000, or 64 if quick")
    argument_parser.add_argument("--rounds", type=int, help="3, or 1 if quick")
    argument_parser.add_argument("--cpu-time", action="store_true", help="instead of wall time")
    arguments = argument_parser.parse_args()
    torch.set_num_threads(arguments.threads)
    effort = _effort(arguments)
    encoder = load_encoder(parse_model_spec(MODEL))
    assert isinstance(encoder, ClipEncoder)
    lines = [*_prompt_lines(encoder, effort), *_run_lines(encoder, effort, arguments.threads)]
    report(f"Classification, {arguments.threads} CPU threads", lines, arguments.json)


def _effort(arguments: argparse.Namespace) -> Effort:
    """Return how much is measured."""
    effort = QUICK if arguments.quick else FULL
    return effort._replace(
        rounds=arguments.rounds or effort.rounds,
        classes=arguments.classes or effort.classes,
        photographs=arguments.photographs or effort.photographs,
        clock=time.process_time if arguments.cpu_time else time.perf_counter,
    )


def _prompt_lines(encoder: ClipEncoder, effort: Effort) -> Iterator[Measurement]:
    """Yield the time of the embeddings of classes, by OpenCLIP and by us, and their difference."""
    class_names = open_clip.IMAGENET_CLASSNAMES[: effort.classes]
    embeddings: dict[str, np.ndarray] = {}  # (classes, D)

    def ours() -> None:
        embeddings["ours"] = prompt_embeddings(
            encoder, class_names, "openai-imagenet", RunOptions()
        )

    def by_openclip() -> None:
        with torch.inference_mode():
            classifier = open_clip.build_zero_shot_classifier(
                encoder.model, encoder.tokenize, class_names, open_clip.OPENAI_IMAGENET_TEMPLATES
            )
        embeddings["OpenCLIP"] = classifier.T.numpy()

    functions = {"OpenCLIP": by_openclip, "ours": ours}
    seconds = interleave(functions, effort.rounds, 0, effort.clock)
    title = f"prompts, {len(class_names)} classes x {len(open_clip.OPENAI_IMAGENET_TEMPLATES)}"
    for kind, spread in seconds.items():
        yield measurement(f"{title}, {kind}", spread, "s")
    ratio = seconds["OpenCLIP"].over(seconds["ours"])
    yield measurement(f"{title}, OpenCLIP to ours", ratio, "x", at_least=PROMPTS_TARGET)
    difference = float(np.abs(embeddings["ours"] - embeddings["OpenCLIP"]).max())
    yield measurement(f"{title}, largest difference", difference, "", at_most=PROMPTS_TOLERANCE)


def _run_lines(encoder: ClipEncoder, effort: Effort, threads: int) -> Iterator[Measurement]:
    """Yield the rates of a run and of its stages, their ratios, and the time of a second run."""
    count = effort.photographs
    seconds = _measure_runs(encoder, effort, threads)
    second_run = seconds.pop("second run")
    for kind, spread in seconds.items():
        yield measurement(f"{count} photographs, {kind}", spread.per(count), "images/s")

    model, decoding = seconds["model alone"], seconds["decoding alone"]
    hashes, run = seconds["hashes alone"], seconds["files to metrics"]
    rounds = zip(decoding.rounds, model.rounds, strict=True)
    in_turn = Spread(tuple(of_decoding + of_model for of_decoding, of_model in rounds))
    name = "files to metrics to model alone, images/s"
    yield measurement(name, model.over(run), "x", at_least=RUN_TARGET)
    name = "files to metrics to decoding and model in turn, images/s"
    yield measurement(name, in_turn.over(run), "x", at_least=RUN_TARGET)
    yield measurement("hashes, of a run", hashes.percent_of(run), "%", at_most=HASHES_TARGET)
    yield measurement("hashes, of decoding", hashes.percent_of(decoding), "%")
    name = f"{count} photographs, second run of the loaded model"
    yield measurement(name, second_run, "s", at_most=SECOND_RUN_TARGET)


def _measure_runs(encoder: ClipEncoder, effort: Effort, threads: int) -> dict[str, Spread]:
    """Return the seconds of a run over photographs, of its stages, and of a second run, by name."""
    options = RunOptions(workers=threads)
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_photographs(Path(folder), effort.photographs)
        paths = sorted(Path(folder).rglob("*.jpg"))
        images = [_load(encoder, path) for path in paths[:IN_MEMORY]]
        cached_options = replace(options, cache=str(Path(folder, "cache")))

        def encode() -> None:
            _encode_repeatedly(encoder, images, effort.photographs, options.batch_size)

        def decode() -> None:
            _decode_all(encoder, paths, options)

        def hash_files() -> None:
            hash_image_files([ImageFile(path) for path in paths], options)

        def run() -> None:
            classification.TASK.measure_one(encoder, protocol, options)

        def run_with_cache() -> None:
            classification.TASK.measure_one(encoder, protocol, cached_options)

        stages = {
            "model alone": encode,
            "decoding alone": decode,
            "hashes alone": hash_files,
            "files to metrics": run,
        }
        seconds = interleave(stages, effort.rounds, 0, effort.clock)
        run_with_cache()  # fills the cache
        return seconds | interleave({"second run": run_with_cache}, effort.rounds, 0, effort.clock)


def write_photographs(root: Path, count: int) -> ClassificationProtocol:
    """Write `count` JPEG files in class folders, as ImageNet's; return a protocol for them.

    No two files are equal, because they differ in bytes after the end of the JPEG, which are not
    read. There is only one template, so that prompts, which are measured separately, do not take
    most of the time.
    """
    photographs = jpegs(min(count, DISTINCT))
    for number, content in zip(range(count), cycle(photographs), strict=False):
        folder = root / "val" / f"class {number % PHOTO_CLASSES:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05}.jpg").write_bytes(content + number.to_bytes(4, "big"))
    return ClassificationProtocol(
        dataset="photographs",
        protocol_name="benchmark",
        root=str(root),
        folder="val",
        templates=("a photo of a {}.",),
    )


def _encode_repeatedly(
    encoder: ClipEncoder, images: list[torch.Tensor], count: int, batch_size: int
) -> None:
    """Encode `count` images in batches; the images (3, H, W) are repeated."""
    repeated_images = islice(cycle(images), count)
    while batch := list(islice(repeated_images, batch_size)):
        encoder.encode_image(torch.stack(batch))


def _decode_all(encoder: ClipEncoder, paths: list[Path], options: RunOptions) -> None:
    """Decode and transform all images in threads, as far ahead as a run does."""

    def load(path: Path) -> torch.Tensor:
        return _load(encoder, path)

    window = 2 * options.batch_size
    for _ in prefetch(paths, load, workers=options.workers, window=window):
        pass


def _load(encoder: ClipEncoder, path: Path) -> torch.Tensor:
    """Return the transformed image (3, H, W) of a file."""
    source = ImageFile(path)
    return encoder.transform(source.decode(source.read()))


if __name__ == "__main__":
    main()
