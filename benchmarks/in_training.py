"""`python benchmarks/in_training.py [--json] [--quick]`: an evaluation inside a training loop.

The model is ViT-B/32 with random weights, which change between calls as in a training. The data are
made-up photographs in class folders, and the captions and images of scenes. The second and later
calls of `cosmos_eval.Evaluation` are compared with only the forward passes, on images and tokens in
memory. The first call, which also reads, decodes and resizes, has a line too.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip
import torch
from _report import Measurement, interleave, measurement, parser, report
from classification import write_photographs
from torch import Tensor

from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_eval import Evaluation
from cosmos_eval.data.sources import decode_source

ARCH = "ViT-B-32"
TARGET = 1.1
BATCH = 32


def main() -> None:
    """Measure and print."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--threads", type=int, default=os.cpu_count())
    argument_parser.add_argument("--images", type=int, help="of each set; 1,000, or 64 if quick")
    argument_parser.add_argument("--rounds", type=int, help="3, or 1 if quick")
    argument_parser.add_argument("--cpu-time", action="store_true", help="instead of wall time")
    arguments = argument_parser.parse_args()
    torch.set_num_threads(arguments.threads)
    n_images = arguments.images or (64 if arguments.quick else 1000)
    n_rounds = arguments.rounds or (1 if arguments.quick else 3)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    lines = list(_lines(n_images, n_rounds, clock))
    title = f"Evaluation in a training loop, {arguments.threads} CPU threads"
    report(title, lines, arguments.json)


def _lines(n_images: int, n_rounds: int, clock: Callable[[], float]) -> Iterator[Measurement]:
    """Yield the times of calls and of only the forward passes, and their ratio."""
    torch.manual_seed(0)
    model = open_clip.create_model(ARCH).train()
    tokenizer = open_clip.get_tokenizer(ARCH)
    transform = open_clip.image_transform(224, is_train=False)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photographs = write_photographs(root, n_images)
        write_layouts(root / "scenes", count=n_images, layouts=["coco"])
        captions = root / "captions.yaml"
        captions.write_text(
            "kind: retrieval\nimages: scenes/coco/images/test\n"
            "annotations: scenes/coco/annotations/captions_test.json\n"
        )
        evaluation = Evaluation([photographs, str(captions)], batch_size=BATCH, on_error="raise")

        def evaluate() -> None:
            _change(model)
            evaluation(model, tokenizer=tokenizer, transform=transform, step=0)

        started = clock()
        evaluate()
        first_seconds = clock() - started
        images, texts = _inputs(evaluation, transform, tokenizer)

        def forward() -> None:
            _change(model)
            _encode(model, images, texts)

        seconds = interleave({"forward": forward, "evaluation": evaluate}, n_rounds, 0, clock)
    n_inputs = f"{len(images):,} images and {len(texts):,} texts"
    yield measurement(f"{n_inputs}, first call", first_seconds, "s")
    yield measurement(f"{n_inputs}, forward passes alone", seconds["forward"], "s")
    yield measurement(f"{n_inputs}, later calls", seconds["evaluation"], "s")
    ratio = seconds["evaluation"].over(seconds["forward"])
    yield measurement("later calls to forward passes alone", ratio, "x", at_most=TARGET)


def _change(model: torch.nn.Module) -> None:
    """Change the weights a little, as a step of the training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0001)


def _inputs(
    evaluation: Evaluation, transform: Callable[..., Tensor], tokenizer: Callable[..., Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the images (N, 3, H, W) and the tokens (T, L) of both data sets."""
    classes, captions = (dataset.data for dataset in evaluation._datasets)
    sources = [*classes.images, *captions.images]
    images = torch.stack([transform(decode_source(source)) for source in sources])
    prompts = [f"a photo of a {name}." for name in classes.classes]
    return images, tokenizer([*prompts, *captions.captions])


def _encode(model: open_clip.CLIP, images: Tensor, texts: Tensor) -> None:
    """Encode all images and texts in batches, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        for batch in images.split(BATCH):
            model.encode_image(batch, normalize=True)
        for batch in texts.split(BATCH):
            model.encode_text(batch, normalize=True)
    model.train()


if __name__ == "__main__":
    main()
