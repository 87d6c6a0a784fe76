"""`python benchmarks/gpu.py [--json] [--quick] [--device D] [--batch-size N] [--precision P]`: the
suite's images per second against the model's bare forward pass, on a GPU.

OpenCLIP's ViT-B/32, B/16 and L/14 have random weights. The bare pass encodes a batch that is on the
device, under the same autocast. It is compared with
- embedding images that need no decoding, from reading them to features on the host;
- a classification of JPEG files of made-up photographs, from files to metrics;
- a segmentation of 2048x1024 pixels, as Cityscapes is, by ViT-B/16, from files to counts; the bare
  pass encodes as many windows.
If images are decoded more slowly than they are encoded, a line on standard error says so, and the
target does not apply. `--quick` takes small towers and a few images, to see that all of it runs;
with `--device cpu` it needs no GPU, and there are no targets.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _report import Measurement, interleave, measurement, parser, report
from _segmentation_sets import write_set
from classification import write_photographs
from torch import Tensor

from cosmos_core.utils.distributed import own_device
from cosmos_eval.data.label_maps import Sample, open_data
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
from cosmos_eval.tasks.segmentation.inference import LoadedImage, load_together, make_segmenter
from cosmos_eval.tasks.segmentation.merge import Axis
from cosmos_eval.types import RunOptions, UsageError, no_progress

TARGET = 0.9
BARE, DECODING, FILES = "bare forward", "decoding alone", "files to metrics"
IN_MEMORY = 128  # decoded images, which are encoded repeatedly


class Effort(NamedTuple):
    """How much is measured."""

    # The models that embed and classify images, by OpenCLIP's names.
    models: tuple[str, ...]
    # The model that segments.
    segmenter: str
    batch_size: int
    # The number of batches that each model embeds.
    batches: int
    # The number of images to segment.
    pictures: int
    rounds: int


FULL = Effort(("ViT-B-32", "ViT-B-16", "ViT-L-14"), "ViT-B-16", 256, 20, 40, 5)
QUICK = Effort(("ViT-S-32",), "ViT-S-32", 16, 2, 1, 1)


def main() -> None:
    """Measure and print, or end with status 2 and one line."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--device", default="cuda")
    argument_parser.add_argument("--batch-size", type=int, help="256, or 16 if quick")
    argument_parser.add_argument(
        "--precision", default="bf16", choices=("fp32", "amp", "bf16", "fp16")
    )
    argument_parser.add_argument("--models", nargs="+", help="OpenCLIP's names of architectures")
    argument_parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that decode")
    arguments = argument_parser.parse_args()
    try:
        _measure(arguments)
    except UsageError as error:
        message = str(error)
    except torch.OutOfMemoryError:
        message = "the device is out of memory: use a smaller --batch-size, or other --models"
    else:
        return
    print(f"gpu.py: {message}", file=sys.stderr)
    sys.exit(2)


def _measure(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    effort = QUICK if arguments.quick else FULL
    effort = effort._replace(
        models=arguments.models or effort.models,
        batch_size=arguments.batch_size or effort.batch_size,
    )
    options = RunOptions(
        device=own_device(arguments.device),
        precision=arguments.precision,
        batch_size=effort.batch_size,
        workers=arguments.threads,
    )
    lines: list[Measurement] = []
    for name in effort.models:
        lines += _embedding_lines(name, effort, options)
    lines += _segmentation_lines(effort, options)
    card = "a CPU" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    title = f"{card}, PyTorch {torch.__version__}, {options.precision}, "
    title += f"batches of {options.batch_size}, {options.workers} threads decode"
    if arguments.json:
        print(title, file=sys.stderr)
    report(title, lines, arguments.json)


def _encoder(name: str, options: RunOptions) -> ClipEncoder:
    """Return a model of OpenCLIP with random weights."""
    spec = parse_model_spec(f"openclip:{name}/random")
    encoder = load_encoder(spec, device=options.device, precision=options.precision)
    assert isinstance(encoder, ClipEncoder)
    return encoder


def _embedding_lines(name: str, effort: Effort, options: RunOptions) -> Iterator[Measurement]:
    """Yield the rates of embedding and of classification, and their ratios to the bare pass."""
    encoder, count = _encoder(name, options), effort.batches * effort.batch_size

    def load(file: ImageFile) -> Tensor:
        return encoder.transform(decode_source(file))

    def encode(images: Tensor) -> Tensor:
        return run_on_device(encoder.info, encoder.model.encode_image, images)

    with tempfile.TemporaryDirectory() as folder:
        protocol = write_photographs(Path(folder), count)
        files = [ImageFile(path) for path in sorted(Path(folder).rglob("*.jpg"))]
        images = [load(file) for file in files[:IN_MEMORY]]
        batch = torch.stack([images[n % len(images)] for n in range(effort.batch_size)])
        batch_on_device = to_device(batch, options.device)
        encoder_of_numbers = _encoder_of_numbers(encoder, images)
        numbers = [NumberedImage(number) for number in range(count)]

        def encode_bare() -> None:
            _encode_repeatedly(encode, batch_on_device, count)

        def decode() -> None:
            _load_all(files, load, options)

        def embed() -> None:
            embed_images(encoder_of_numbers, numbers, options)

        def classify() -> None:
            classification.TASK.measure_one(encoder, protocol, options)

        functions: dict[str, Callable[[], object]] = {
            BARE: encode_bare,
            DECODING: decode,
            "embedding without decoding": embed,
            FILES: classify,
        }
        yield from compare(name, functions, count, effort.rounds, options)


def _encode_repeatedly(encode: Callable[[Tensor], Tensor], batch: Tensor, count: int) -> None:
    """Encode `count` inputs, which repeat a batch on the device, and wait for the last of them.

    Args:
        encode: Takes a batch, and returns features with two dimensions.
        batch: The inputs (B, 3, H, W).
        count: The number of inputs.
    """
    for start in range(0, count, len(batch)):
        features = encode(batch[: count - start])
    features[0, 0].cpu()


def _load_all(items: Iterable[Any], load: Callable[[Any], object], options: RunOptions) -> None:
    """Load all items in threads, as far ahead as a run does, and drop what is loaded."""
    window = 2 * options.batch_size
    deque(prefetch(items, load, workers=options.workers, window=window), maxlen=0)


class NumberedImage(NamedTuple):
    """The source of an image that needs no decoding: its content is only its number."""

    number: int

    @property
    def name(self) -> str:
        """The number as a name."""
        return str(self.number)

    def read(self) -> bytes:
        """Return the number in 8 bytes."""
        return self.number.to_bytes(8, "big")

    def decode(self, content: bytes) -> Any:
        """Return the number, in place of an image."""
        return int.from_bytes(content, "big")


def _encoder_of_numbers(encoder: ClipEncoder, images: list[Tensor]) -> ClipEncoder:
    """Return the encoder with a transform that takes the number of a transformed image.

    Larger numbers stand for the same images again.
    """

    def transform(number: int) -> Tensor:
        return images[number % len(images)]

    encoder_of_numbers: Any = copy.copy(encoder)
    encoder_of_numbers.transform = transform
    return encoder_of_numbers


def _segmentation_lines(effort: Effort, options: RunOptions) -> Iterator[Measurement]:
    """Yield the rate of segmentation, and its ratio to the bare pass over as many windows."""
    encoder = _encoder(effort.segmenter, options)
    with tempfile.TemporaryDirectory() as folder:
        protocol = write_set("cityscapes", Path(folder), effort.pictures)
        data = open_data(protocol, options)
        segmenter = make_segmenter(encoder, protocol, options)
        job = Job(segmenter.protocol, data, ShardStore(None, {}), None)

        def load(samples: Sequence[Sample]) -> Sequence[LoadedImage]:
            return load_together(samples, [segmenter.protocol])

        (image,) = load(data.samples[:1])
        window, stride = protocol.window, protocol.stride
        assert window is not None  # Cityscapes is cut into windows
        height, width = image.pixels.shape[1:]
        n_rows, n_columns = (len(Axis(side, window, stride, 1).starts) for side in (height, width))
        n_windows = n_rows * n_columns * effort.pictures
        batch = torch.rand(options.batch_size, 3, window, window, device=options.device)

        def encode(windows: Tensor) -> Tensor:
            return encoder.encode_patches(windows, attention=segmenter.attention).flatten(1)

        def encode_bare() -> None:
            _encode_repeatedly(encode, batch, n_windows)

        def decode() -> None:
            _load_all([[sample] for sample in data.samples], load, options)

        def segment() -> None:
            count_images([job], lambda: [segmenter], options, no_progress)

        functions: dict[str, Callable[[], object]] = {
            BARE: encode_bare,
            DECODING: decode,
            FILES: segment,
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
    """Yield the rates of functions, and the ratios of their rates to the rate of the bare pass.

    If images are decoded more slowly than they are encoded, say so on standard error.

    Args:
        name: What the names of the lines begin with.
        functions: The functions by name; BARE and DECODING are among them.
        count: The number of images that each function takes.
        rounds: The number of rounds.
        options: The device, and the number of threads that decode.
    """
    seconds = interleave(functions, rounds, warmup=int(rounds > 1))
    for kind, spread in seconds.items():
        yield measurement(f"{name}, {kind}", spread.per(count), "images/s")
    bare, decoding = seconds[BARE], seconds[DECODING]
    decoding_is_limit = decoding.median > bare.median
    for kind in seconds:
        if kind in (BARE, DECODING):
            continue
        has_target = options.device != "cpu" and not (decoding_is_limit and kind == FILES)
        ratio = bare.over(seconds[kind])
        target = TARGET if has_target else None
        yield measurement(f"{name}, {kind} to {BARE}", ratio, "x", at_least=target)
    if decoding_is_limit:
        decoding_rate, bare_rate = decoding.per(count).median, bare.per(count).median
        print(
            f"{name}: decoding is the limit: {decoding_rate:.4g} images/s decoded by "
            f"{options.workers} threads against {bare_rate:.4g} encoded",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
