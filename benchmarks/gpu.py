"""`python benchmarks/gpu.py [--json] [--quick] [--device D] [--batch-size N] [--precision P]`: the
suite's images per second against the model's bare forward pass, on a GPU.

OpenCLIP's ViT-B/32, B/16 and L/14 have random weights. The bare pass encodes a batch that is on the
device, under the same autocast. It is compared with
- embedding images that need no decoding, from reading them to features on the host;
- a classification of JPEG files of made-up photographs, from files to metrics;
- a segmentation of 2048x1024 pixels, as Cityscapes is, by ViT-B/16, from files to counts; the bare
  pass is over as many windows.
Where images are decoded more slowly than encoded, a line on standard error says so, and the target
does not apply. `--quick` takes small towers and a few images, to see that all of it runs; with
`--device cpu` it needs no GPU, and there are no targets.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _report import Measurement, interleave, measurement, parser, report
from _segmentation_sets import write_set
from classification import write_photographs
from torch import Tensor

from cosmos_core.utils.distributed import own_device
from cosmos_eval.data.label_maps import open_data
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageFile, decode_source
from cosmos_eval.embedding.cache import ShardStore
from cosmos_eval.embedding.embed import embed_images
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.encoder import run_on_device, to_device
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.tasks import classification
from cosmos_eval.tasks.segmentation.evaluate import Job, count_images
from cosmos_eval.tasks.segmentation.inference import load_together, make_segmenter
from cosmos_eval.tasks.segmentation.merge import Axis
from cosmos_eval.types import RunOptions, UsageError, no_progress

TARGET = 0.9
BARE, DECODING, FILES = "bare forward", "decoding alone", "files to metrics"
IN_MEMORY = 128  # images that need no decoding, again and again


class Effort(NamedTuple):
    """How much is measured: `batches` of images for each model, and `pictures` to segment."""

    models: tuple[str, ...]
    segmenter: str
    batch_size: int
    batches: int
    pictures: int
    rounds: int


FULL = Effort(("ViT-B-32", "ViT-B-16", "ViT-L-14"), "ViT-B-16", 256, 20, 40, 5)
QUICK = Effort(("ViT-S-32",), "ViT-S-32", 16, 2, 1, 1)


def main() -> None:
    """Measure and print, or end with status 2 and one line."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--batch-size", type=int, help="256, or 16 if quick")
    arguments.add_argument("--precision", default="bf16", choices=("fp32", "amp", "bf16", "fp16"))
    arguments.add_argument("--models", nargs="+", help="OpenCLIP's names of architectures")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="that decode")
    given = arguments.parse_args()
    try:
        _measure(given)
    except UsageError as error:
        fault = str(error)
    except torch.OutOfMemoryError:
        fault = "the device is out of memory: use a smaller --batch-size, or other --models"
    else:
        return
    print(f"gpu.py: {fault}", file=sys.stderr)
    sys.exit(2)


def _measure(given: argparse.Namespace) -> None:
    usual = QUICK if given.quick else FULL
    effort = usual._replace(
        models=given.models or usual.models, batch_size=given.batch_size or usual.batch_size
    )
    options = RunOptions(
        device=own_device(given.device),
        precision=given.precision,
        batch_size=effort.batch_size,
        workers=given.threads,
    )
    lines = [line for name in effort.models for line in _embedding_lines(name, effort, options)]
    lines += _segmentation_lines(effort, options)
    card = "a CPU" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    title = f"{card}, PyTorch {torch.__version__}, {options.precision}, "
    title += f"batches of {options.batch_size}, {options.workers} threads decode"
    if given.json:
        print(title, file=sys.stderr)
    report(title, lines, given.json)


def _encoder(name: str, options: RunOptions) -> ClipEncoder:
    spec = parse_model_spec(f"openclip:{name}/random")
    return load_encoder(spec, device=options.device, precision=options.precision)


def _embedding_lines(name: str, effort: Effort, options: RunOptions) -> Iterator[Measurement]:
    encoder, count = _encoder(name, options), effort.batches * effort.batch_size
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_photographs(Path(folder), count)
        files = [ImageFile(path) for path in sorted(Path(folder).rglob("*.jpg"))]
        images = [encoder.transform(decode_source(file)) for file in files[:IN_MEMORY]]
        batch = torch.stack([images[n % len(images)] for n in range(effort.batch_size)])
        encode = partial(run_on_device, encoder.info, encoder.model.encode_image)
        functions: dict[str, Callable[[], object]] = {
            BARE: partial(_encode_all, encode, to_device(batch, options.device), count),
            DECODING: lambda: _use_up(
                files, lambda f: encoder.transform(decode_source(f)), options
            ),
            "embedding without decoding": _embedding(encoder, images, count, options),
            FILES: lambda: classification.TASK.measure_one(encoder, protocol, options),
        }
        yield from compare(name, functions, count, effort.rounds, options)


def _encode_all(encode: Callable[[Tensor], Tensor], batch: Tensor, count: int) -> None:
    """Encode a batch that is on the device until there are `count` images, and wait."""
    for start in range(0, count, len(batch)):
        encoded = encode(batch[: count - start])
    encoded[0, 0].cpu()


def _use_up(items: Iterable[Any], load: Callable[[Any], object], options: RunOptions) -> None:
    window = 2 * options.batch_size
    deque(prefetch(items, load, workers=options.workers, window=window), maxlen=0)


class _Loaded(NamedTuple):
    """An image that needs no decoding: its content is its number."""

    number: int

    @property
    def name(self) -> str:
        return str(self.number)

    def read(self) -> bytes:
        return self.number.to_bytes(8, "big")

    def decode(self, content: bytes) -> Any:
        return int.from_bytes(content, "big")


def _embedding(
    encoder: ClipEncoder, images: list[Tensor], count: int, options: RunOptions
) -> Callable[[], object]:
    own = copy.copy(encoder)
    own.transform = lambda number: images[number % len(images)]
    sources = [_Loaded(number) for number in range(count)]
    return lambda: embed_images(own, sources, options)


def _segmentation_lines(effort: Effort, options: RunOptions) -> Iterator[Measurement]:
    encoder = _encoder(effort.segmenter, options)
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_set("cityscapes", Path(folder), effort.pictures)
        data = open_data(protocol, options)
        segmenter = make_segmenter(encoder, protocol, options)
        job = Job(segmenter.protocol, data, ShardStore(None, {}), None)
        load = partial(load_together, protocols=[segmenter.protocol])
        (image,) = load(data.samples[:1])
        window, stride = protocol.window, protocol.stride
        assert window is not None  # Cityscapes is cut into windows
        axes = (Axis(side, window, stride, 1) for side in image.pixels.shape[1:])
        rows, columns = (len(axis.starts) for axis in axes)
        batch = torch.rand(options.batch_size, 3, window, window, device=options.device)
        encode = partial(encoder.encode_patches, attention=segmenter.attention)
        windows = rows * columns * effort.pictures
        functions: dict[str, Callable[[], object]] = {
            BARE: lambda: _encode_all(lambda some: encode(some).flatten(1), batch, windows),
            DECODING: lambda: _use_up([[sample] for sample in data.samples], load, options),
            FILES: lambda: count_images([job], lambda: [segmenter], options, no_progress),
        }
        name = f"{effort.segmenter} segments 2048x1024"
        yield from compare(name, functions, effort.pictures, effort.rounds, options)


def compare(
    name: str,
    functions: Mapping[str, Callable[[], object]],
    count: int,
    rounds: int,
    options: RunOptions,
) -> Iterator[Measurement]:
    """Yield the rates of functions that each take `count` images, and their ratios to BARE."""
    seconds = interleave(functions, rounds, warmup=int(rounds > 1))
    for kind, spread in seconds.items():
        yield measurement(f"{name}, {kind}", spread.per(count), "images/s")
    bare, decoding = seconds[BARE], seconds[DECODING]
    limited = decoding.median > bare.median
    for kind in [kind for kind in seconds if kind not in (BARE, DECODING)]:
        no_target = options.device == "cpu" or (limited and kind == FILES)
        ratio, target = bare.over(seconds[kind]), None if no_target else TARGET
        yield measurement(f"{name}, {kind} to {BARE}", ratio, "x", at_least=target)
    if limited:
        rates = decoding.per(count).median, bare.per(count).median
        print(
            f"{name}: decoding is the limit: {rates[0]:.4g} images/s decoded by {options.workers} "
            f"threads against {rates[1]:.4g} encoded",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
