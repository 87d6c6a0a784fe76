"""`python benchmarks/classification.py [--json] [--quick] [--classes N]`: classification on a CPU.

With ViT-B/32 of random weights:
- the prompts of ImageNet, 1,000 classes x 80 templates, against OpenCLIP's classifier, which
  encodes every prompt at its full 77 positions; that takes it long (`--classes` takes fewer);
- a whole run over made-up photographs, from files to metrics, against the model alone on images
  that lie in memory. On a CPU decoding takes its time from the same cores and so never keeps up for
  nothing: the run is held against decoding and model in turn, too;
- the hashes of the photographs, by which embeddings are cached and results compared, as a share of
  the run;
- the run once more, which finds its embeddings kept.
`--quick` takes 4 classes and 64 photographs; `--cpu-time` counts the process's own seconds, where
others share the cores.
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
from _report import Measurement, interleave, measurement, parser, report

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
SECOND_RUN_TARGET = 3.0
HASHES_TARGET = 2.0  # percent of a run
PHOTO_CLASSES = 10
DISTINCT = 48  # photographs; the others repeat their pixels in files of their own
IN_MEMORY = 128  # images that the model alone is fed with, again and again


class Effort(NamedTuple):
    """How much is measured, and how; `classes` of 80 prompts each."""

    rounds: int
    classes: int
    photographs: int
    clock: Callable[[], float] = time.perf_counter


FULL = Effort(3, 1000, 2000)
QUICK = Effort(1, 4, 64)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--classes", type=int, help="of prompts; 1,000, or 4 if quick")
    arguments.add_argument("--photographs", type=int, help="2,000, or 64 if quick")
    arguments.add_argument("--rounds", type=int, help="3, or 1 if quick")
    arguments.add_argument("--cpu-time", action="store_true", help="instead of wall time")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    effort = _effort(given)
    encoder = load_encoder(parse_model_spec(MODEL))
    lines = [*_prompt_lines(encoder, effort), *_run_lines(encoder, effort, given.threads)]
    report(f"Classification, {given.threads} CPU threads", lines, given.json)


def _effort(given: argparse.Namespace) -> Effort:
    usual = QUICK if given.quick else FULL
    return usual._replace(
        rounds=given.rounds or usual.rounds,
        classes=given.classes or usual.classes,
        photographs=given.photographs or usual.photographs,
        clock=time.process_time if given.cpu_time else time.perf_counter,
    )


def _prompt_lines(encoder: ClipEncoder, effort: Effort) -> Iterator[Measurement]:
    names = open_clip.IMAGENET_CLASSNAMES[: effort.classes]
    made: dict[str, np.ndarray] = {}

    def ours() -> None:
        made["ours"] = prompt_embeddings(encoder, names, "openai-imagenet", RunOptions())

    def theirs() -> None:
        with torch.inference_mode():
            classifier = open_clip.build_zero_shot_classifier(
                encoder.model, encoder.tokenize, names, open_clip.OPENAI_IMAGENET_TEMPLATES
            )
        made["OpenCLIP"] = classifier.T.numpy()

    seconds = interleave({"OpenCLIP": theirs, "ours": ours}, effort.rounds, 0, effort.clock)
    what = f"prompts, {len(names)} classes x {len(open_clip.OPENAI_IMAGENET_TEMPLATES)}"
    for kind, spread in seconds.items():
        yield measurement(f"{what}, {kind}", spread, "s")
    ratio = seconds["OpenCLIP"].over(seconds["ours"])
    yield measurement(f"{what}, OpenCLIP to ours", ratio, "x", at_least=PROMPTS_TARGET)
    difference = float(np.abs(made["ours"] - made["OpenCLIP"]).max())
    yield measurement(f"{what}, largest difference", difference, "", at_most=PROMPTS_TOLERANCE)


def _run_lines(encoder: ClipEncoder, effort: Effort, threads: int) -> Iterator[Measurement]:
    count, options = effort.photographs, RunOptions(workers=threads)
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_photographs(Path(folder), count)
        paths = sorted(Path(folder).rglob("*.jpg"))
        functions: dict[str, Callable[[], object]] = {
            "model alone": _model_alone(encoder, paths, count, options),
            "decoding alone": lambda: _decode_all(encoder, paths, options),
            "hashes alone": lambda: hash_image_files([*map(ImageFile, paths)], options),
            "files to metrics": lambda: classification.TASK.measure_one(encoder, protocol, options),
        }
        seconds = interleave(functions, effort.rounds, 0, effort.clock)
        keeping = replace(options, cache=str(Path(folder, "cache")))
        classification.TASK.measure_one(encoder, protocol, keeping)
        second = interleave(
            {"again": lambda: classification.TASK.measure_one(encoder, protocol, keeping)},
            effort.rounds,
            0,
            effort.clock,
        )
    for kind, spread in seconds.items():
        yield measurement(f"{count} photographs, {kind}", spread.per(count), "images/s")
    alone, decoding, hashes, whole = seconds.values()
    in_turn = alone._replace(
        rounds=tuple(a + d for a, d in zip(alone.rounds, decoding.rounds, strict=True))
    )
    yield measurement(
        "files to metrics to model alone, images/s", alone.over(whole), "x", at_least=RUN_TARGET
    )
    yield measurement(
        "files to metrics to decoding and model in turn, images/s",
        in_turn.over(whole),
        "x",
        at_least=RUN_TARGET,
    )
    yield measurement("hashes, of a run", hashes.percent_of(whole), "%", at_most=HASHES_TARGET)
    yield measurement("hashes, of decoding", hashes.percent_of(decoding), "%")
    again = second["again"]
    yield measurement(
        f"{count} photographs, second run of the loaded model",
        again,
        "s",
        at_most=SECOND_RUN_TARGET,
    )


def write_photographs(root: Path, count: int) -> ClassificationProtocol:
    """Write `count` JPEG files in class folders, as ImageNet's; returns a protocol for them.

    No two files are equal: what stands after the end of a JPEG is not read. One template keeps the
    prompts, which are measured apart, from taking most of the time.
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


def _model_alone(
    encoder: ClipEncoder, paths: list[Path], count: int, options: RunOptions
) -> Callable[[], None]:
    images = [_load(encoder, path) for path in paths[:IN_MEMORY]]
    starts = range(0, count, options.batch_size)

    def run() -> None:
        endless = cycle(images)
        for start in starts:
            batch = list(islice(endless, min(options.batch_size, count - start)))
            encoder.encode_image(torch.stack(batch))

    return run


def _decode_all(encoder: ClipEncoder, paths: list[Path], options: RunOptions) -> None:
    window = 2 * options.batch_size
    for _ in prefetch(
        paths, lambda path: _load(encoder, path), workers=options.workers, window=window
    ):
        pass


def _load(encoder: ClipEncoder, path: Path) -> torch.Tensor:
    source = ImageFile(path)
    return encoder.transform(source.decode(source.read()))


if __name__ == "__main__":
    main()
