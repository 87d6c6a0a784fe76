"""`python benchmarks/train_step.py [--json] [--quick] [--threads N]`: a step of COSMOS on a CPU.

Ours against the plain transcription of `_plain_step`, interleaved, on the same views: batch 8,
global captions of 30 to 77 tokens and local ones of 10 to 28. Memory is the peak of a process of
its own, since peaks of one process do not come down again. The targets are of batch 8; `--quick`
takes a smaller batch, so it has none, and leaves the memory out.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from _plain_step import PlainStep
from _report import Measurement, interleave, measurement, parser, report

from cosmos_core import Views
from cosmos_core.config import ComputeConfig, DataConfig, OptimConfig, TrainConfig
from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import World
from cosmos_core.engine.step import train_step
from cosmos_core.losses import gather_locally
from cosmos_core.methods import METHODS

BATCH, QUICK_BATCH = 8, 2
ROUNDS = 5
MOMENTUM = 0.99
TARGETS = {("ViT-B-32", "fp32"): 1.4, ("ViT-B-16", "fp32"): 1.2, ("ViT-B-32", "bf16"): 2.5}
MEMORY_TARGET = 0.8


class Size(NamedTuple):
    """Samples of a step, and threads."""

    batch: int
    threads: int


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--rounds", type=int, help=f"{ROUNDS}, or 1 if quick")
    arguments.add_argument("--batch-size", type=int, help=f"{BATCH}, or {QUICK_BATCH} if quick")
    arguments.add_argument("--peak", help=argparse.SUPPRESS)  # of one step, for a child process
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    size = Size(given.batch_size or (QUICK_BATCH if given.quick else BATCH), given.threads)
    if given.peak:
        print(_peak_of(*given.peak.split(","), size.batch))
        return
    models = ["ViT-B-32"] if given.quick else ["ViT-B-32", "ViT-B-16"]
    rounds = given.rounds or (1 if given.quick else ROUNDS)
    lines = [line for model in models for line in _lines(model, rounds, size)]
    if not given.quick:
        lines += [line for model in models for line in _memory_lines(model, size)]
    title = f"Training step, batch {size.batch}, {size.threads} CPU threads"
    report(title, lines, given.json)


def _lines(model: str, rounds: int, size: Size) -> Iterator[Measurement]:
    views = make_views(model, size.batch)
    functions = {"plain": plain_step(model, views), "fp32": our_step(model, views, "fp32")}
    if (model, "bf16") in TARGETS:
        functions["bf16"] = our_step(model, views, "bf16")
    seconds = interleave(functions, rounds)
    for name, spread in seconds.items():
        yield measurement(
            f"{model} {'plain, fp32' if name == 'plain' else f'ours, {name}'}", spread, "s"
        )
    for name in list(functions)[1:]:
        ratio = seconds["plain"].over(seconds[name])
        target = TARGETS[model, name] if size.batch == BATCH else None
        yield measurement(f"{model} plain to ours, {name}", ratio, "x", at_least=target)


def _memory_lines(model: str, size: Size) -> Iterator[Measurement]:
    peaks = {kind: _peak(kind, model, size) for kind in ("plain", "ours")}
    for kind, gigabytes in peaks.items():
        yield measurement(f"{model} {kind}, peak memory, fp32", gigabytes, "GB")
    ratio = peaks["ours"] / peaks["plain"]
    yield measurement(f"{model} memory, ours to plain", ratio, "x", at_most=MEMORY_TARGET)


def make_views(model: str, batch: int) -> Views:
    """Noise images, and captions of random words with the lengths of the title."""
    generator = torch.Generator().manual_seed(0)
    config = open_clip.get_model_config(model)
    size, vocabulary = config["vision_cfg"]["image_size"], config["text_cfg"]["vocab_size"]
    texts = torch.zeros(8, batch, config["text_cfg"]["context_length"], dtype=torch.long)
    for view in range(8):
        for sample in range(batch):
            low, high = (30, 78) if view < 2 else (10, 29)
            length = int(torch.randint(low, high, (), generator=generator))
            words = torch.randint(1, vocabulary - 2, (length,), generator=generator)
            words[0], words[-1] = vocabulary - 2, vocabulary - 1  # start and end of text
            texts[view, sample, :length] = words
    images = torch.randn(2, batch, 3, size, size, generator=generator)
    return Views(images, torch.randn(6, batch, 3, 96, 96, generator=generator), texts)


def plain_step(model: str, views: Views) -> Callable[[], object]:
    """The plain step of a model."""
    torch.manual_seed(0)
    plain = PlainStep(open_clip.get_model_config(model), lr=5e-4, weight_decay=0.5)
    return lambda: plain.step(*views, MOMENTUM)


def our_step(model: str, views: Views, precision: str) -> Callable[[], object]:
    """Ours, as `cosmos-train` makes it."""
    config = TrainConfig(
        recipe="train_step",
        method=METHODS["cosmos"](),
        architecture=model,
        data=DataConfig(shards=""),
        optim=OptimConfig(steps=1, batch_size=len(views.texts[0])),
        compute=ComputeConfig(device="cpu"),
    )
    training = make_training(config, World())
    return lambda: train_step(
        training, views, gather_locally, momentum=MOMENTUM, precision=precision
    )


def _peak(kind: str, model: str, size: Size) -> float:
    command = [
        sys.executable,
        __file__,
        "--peak",
        f"{kind},{model}",
        "--threads",
        str(size.threads),
    ]
    command += ["--batch-size", str(size.batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _peak_of(kind: str, model: str, batch: int) -> float:
    """Gigabytes that this process took at most for two steps of one kind."""
    views = make_views(model, batch)
    step = plain_step(model, views) if kind == "plain" else our_step(model, views, "fp32")
    step()
    step()
    # Not getrusage: its peak counts the parent's memory, of which a child begins as a copy.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak) * 1024 / 1e9


if __name__ == "__main__":
    main()
