"""`python benchmarks/gpu_step.py [--json] [--quick] [--device D] [--batch-size N]`: GPU steps.

COSMOS as `cosmos-train` makes it, also compiled, against the plain transcription of `_plain_step`,
and our step of CLIP against OpenCLIP's model, loss and optimizer, all in bf16, interleaved, on
noise images and random captions, for ViT-B/32 and ViT-B/16. MFU is the FLOPs of a step, as
trainings count them, over its time and what the card does at most; those of our step also
for the plain one, so that what it computes in vain does not count. A form that needs more memory
than there is is left out, with a line on standard error. Without a GPU it ends with status 2 and
one line; `--device cpu --quick` shows that it runs, without compiled forms, which take minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import open_clip
import torch
from _plain_step import PlainStep, groups
from _report import Measurement, interleave, measurement, parser, report
from train_step import MOMENTUM, make_views

from cosmos_core import Views
from cosmos_core.config import ComputeConfig, DataConfig, OptimConfig, TrainConfig
from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import World
from cosmos_core.engine.flops import peak_flops, sample_flops
from cosmos_core.engine.step import train_step
from cosmos_core.losses import gather_locally
from cosmos_core.methods import METHODS

MODELS, BATCH, ROUNDS = ("ViT-B-32", "ViT-B-16"), 256, 10
QUICK_MODELS, QUICK_BATCH = ("ViT-S-32",), 2
LR, WEIGHT_DECAY = 5e-4, 0.5


def main() -> None:
    """Measure and print, or end with status 2 and one line."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    arguments.add_argument("--batch-size", type=int, help=f"{BATCH}, or {QUICK_BATCH} if quick")
    given = arguments.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            "gpu_step.py: there is no GPU; --device cpu --quick shows that it runs", file=sys.stderr
        )
        sys.exit(2)
    card = torch.cuda.get_device_name() if given.device == "cuda" else "a CPU"
    batch = given.batch_size or (QUICK_BATCH if given.quick else BATCH)
    title = f"{card}, PyTorch {torch.__version__}, bf16, batch {batch}"
    if given.json:
        print(title, file=sys.stderr)
    models = QUICK_MODELS if given.quick else MODELS
    lines = [line for model in models for line in _lines(model, batch, given, card)]
    report(title, lines, given.json)


def _lines(model: str, batch: int, given: argparse.Namespace, card: str) -> Iterator[Measurement]:
    device = torch.device(given.device)
    large, small, texts = make_views(model, batch)
    views = Views(large.to(device), small.to(device), texts)  # captions as in a training
    pairs = Views(views.global_images[:1], views.local_images[:0], texts[:1])
    forms: dict[str, tuple[Callable[..., Callable[[], object]], str, Views]] = {
        "COSMOS, plain": (plain_step, "cosmos", views),
        "COSMOS": (our_step, "cosmos", views),
        "CLIP, OpenCLIP": (openclip_step, "clip", pairs),
        "CLIP": (our_step, "clip", pairs),
    }
    if device.type == "cuda":
        forms["COSMOS, compiled"] = (partial(our_step, compiled=True), "cosmos", views)
        forms["CLIP, compiled"] = (partial(our_step, compiled=True), "clip", pairs)
    functions = {}
    for name, (make, method, own) in forms.items():
        try:
            functions[name] = make(model, method, own)
            functions[name]()
        except torch.OutOfMemoryError:
            functions.pop(name, None)
            print(f"{model}: {name}: not enough memory for batch {batch}", file=sys.stderr)
            torch.cuda.empty_cache()
    seconds = interleave(functions, 1 if given.quick else ROUNDS, warmup=0)
    peak = peak_flops(card, ComputeConfig())
    if peak is None:
        print(f"{card}: its peak is not known, so there is no MFU", file=sys.stderr)
    for name, spread in seconds.items():
        _, method, own = forms[name]
        yield measurement(f"{model} {name}, a step", spread, "s")
        yield measurement(f"{model} {name}", spread.per(batch), "images/s")
        if peak is not None:
            flops = sample_flops(_config(model, method, own), own) * batch
            yield measurement(f"{model} {name}, MFU", spread.per(flops / peak), "of the peak")
    others = {"COSMOS": "COSMOS, plain", "CLIP": "CLIP, OpenCLIP"}
    for ours in forms:
        other = others[ours.partition(",")[0]]
        if ours != other and ours in seconds and other in seconds:
            yield measurement(f"{model} {other} to {ours}", seconds[other].over(seconds[ours]), "x")


def _config(model: str, method: str, views: Views, *, compiled: bool = False) -> TrainConfig:
    return TrainConfig(
        recipe="gpu_step",
        method=METHODS[method](),
        architecture=model,
        data=DataConfig(shards=""),
        optim=OptimConfig(steps=1, batch_size=views.texts.shape[1], lr=LR),
        compute=ComputeConfig(compile=compiled),
    )


def _waiting(device: torch.device, step: Callable[[], object]) -> Callable[[], object]:
    """The step, and the end of what it started."""

    def run() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def our_step(
    model: str, method: str, views: Views, *, compiled: bool = False
) -> Callable[[], object]:
    """Ours, as `cosmos-train` makes it."""
    device = views.global_images.device
    config = _config(model, method, views, compiled=compiled)
    training = make_training(config, World(device=device))
    return _waiting(
        device,
        lambda: train_step(training, views, gather_locally, momentum=MOMENTUM, precision="bf16"),
    )


def plain_step(model: str, method: str, views: Views) -> Callable[[], object]:
    """COSMOS as it is written down."""
    device = views.global_images.device
    with device:
        plain = PlainStep(open_clip.get_model_config(model), lr=LR, weight_decay=WEIGHT_DECAY)
    moved = [tensor.to(device) for tensor in views]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            plain.step(*moved, MOMENTUM)

    return _waiting(device, step)


def openclip_step(model: str, method: str, views: Views) -> Callable[[], object]:
    """OpenCLIP's model and loss in its training loop's order, with a fused AdamW as ours."""
    device = views.global_images.device
    with device:
        clip: Any = open_clip.CLIP(**open_clip.get_model_config(model), output_dict=True)
    decays = groups(clip, WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(decays, lr=LR, betas=(0.9, 0.98), eps=1e-8, fused=True)
    loss, images, texts = open_clip.ClipLoss(), views.global_images[0], views.texts[0].to(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            loss(**clip(images, texts)).backward()
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, 4.6052)

    return _waiting(device, step)


if __name__ == "__main__":
    main()
