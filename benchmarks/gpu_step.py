"""`python benchmarks/gpu_step.py [--json] [--quick] [--device D] [--batch-size N]`: GPU steps.

COSMOS as `cosmos-train` trains it, also compiled, is compared with the plain step of `_plain_step`,
and our step of CLIP with OpenCLIP's model, loss and optimizer. All run in bf16, in interleaved
rounds, on noise images and random captions, for ViT-B/32 and ViT-B/16.

The model FLOPs utilization (MFU) is the FLOPs of a step, as trainings count them, divided by its
time and by the peak of the card. The FLOPs of our step are used for the plain step too, so
operations that only the plain step needs do not raise its MFU. A form that needs more memory than
the card has is left out, with a line on standard error. Without a GPU the script ends with status 2
and one line; `--device cpu --quick` shows that it runs, without compiled forms, which take minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import open_clip
import torch
from _plain_step import PlainStep, parameter_groups
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


class Form(NamedTuple):
    """How a step is computed."""

    # Takes the name of a model, the name of the method and the views, and returns the step.
    make_step: Callable[[str, str, Views], Callable[[], object]]
    # The name of the method in METHODS.
    method: str
    views: Views


# The forms that ours are compared with, by the method of ours.
COMPARED_FORMS = {"cosmos": "COSMOS, plain", "clip": "CLIP, OpenCLIP"}


def main() -> None:
    """Measure and print, or end with status 2 and one line."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    argument_parser.add_argument(
        "--batch-size", type=int, help=f"{BATCH}, or {QUICK_BATCH} if quick"
    )
    arguments = argument_parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "gpu_step.py: there is no GPU; --device cpu --quick shows that it runs", file=sys.stderr
        )
        sys.exit(2)
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "a CPU"
    batch = arguments.batch_size or (QUICK_BATCH if arguments.quick else BATCH)
    title = f"{card}, PyTorch {torch.__version__}, bf16, batch {batch}"
    if arguments.json:
        print(title, file=sys.stderr)
    rounds = 1 if arguments.quick else ROUNDS
    lines: list[Measurement] = []
    for model in QUICK_MODELS if arguments.quick else MODELS:
        lines += _lines(model, batch, torch.device(arguments.device), card, rounds)
    report(title, lines, arguments.json)


def _lines(
    model: str, batch: int, device: torch.device, card: str, rounds: int
) -> Iterator[Measurement]:
    """Yield the seconds, the rate and the MFU of each form, and the ratios of other forms to ours.

    Args:
        model: The name of a model of OpenCLIP.
        batch: The number of samples of a step.
        device: The device of the steps.
        card: The name of the device, by which its peak is found.
        rounds: The number of rounds.
    """
    forms = make_forms(model, batch, device)
    seconds = interleave(_warm_steps(model, batch, forms), rounds, warmup=0)
    peak = peak_flops(card, ComputeConfig())
    if peak is None:
        print(f"{card}: its peak is not known, so there is no MFU", file=sys.stderr)
    for name, spread in seconds.items():
        yield measurement(f"{model} {name}, a step", spread, "s")
        yield measurement(f"{model} {name}", spread.per(batch), "images/s")
        if peak is not None:
            _, method, views = forms[name]
            flops = sample_flops(_config(model, method, views), views) * batch
            yield measurement(f"{model} {name}, MFU", spread.per(flops / peak), "of the peak")

    for name, form in forms.items():
        other = COMPARED_FORMS[form.method]
        if name != other and name in seconds and other in seconds:
            yield measurement(f"{model} {other} to {name}", seconds[other].over(seconds[name]), "x")


def make_forms(model: str, batch: int, device: torch.device) -> dict[str, Form]:
    """Return the forms by name, with views on the device; compiled ones only on a GPU."""
    global_images, local_images, texts = make_views(model, batch)
    # As in a training, the captions stay on the host.
    views = Views(global_images.to(device), local_images.to(device), texts)
    clip_views = Views(views.global_images[:1], views.local_images[:0], texts[:1])
    forms = {
        "COSMOS, plain": Form(plain_step, "cosmos", views),
        "COSMOS": Form(our_step, "cosmos", views),
        "CLIP, OpenCLIP": Form(openclip_step, "clip", clip_views),
        "CLIP": Form(our_step, "clip", clip_views),
    }
    if device.type == "cuda":
        forms["COSMOS, compiled"] = Form(our_compiled_step, "cosmos", views)
        forms["CLIP, compiled"] = Form(our_compiled_step, "clip", clip_views)
    return forms


def _warm_steps(model: str, batch: int, forms: dict[str, Form]) -> dict[str, Callable[[], object]]:
    """Make the step of each form, and call it once; leave out those that need too much memory."""
    steps = {}
    for name, form in forms.items():
        try:
            steps[name] = form.make_step(model, form.method, form.views)
            steps[name]()
        except torch.OutOfMemoryError:
            steps.pop(name, None)
            print(f"{model}: {name}: not enough memory for batch {batch}", file=sys.stderr)
            torch.cuda.empty_cache()
    return steps


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
    """Return a function that calls the step, and waits until the device has finished it."""

    def run() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def our_step(
    model: str, method: str, views: Views, *, compiled: bool = False
) -> Callable[[], object]:
    """Return a function that makes a step of our training, as `cosmos-train` does."""
    device = views.global_images.device
    config = _config(model, method, views, compiled=compiled)
    training = make_training(config, World(device=device))

    def step() -> None:
        train_step(training, views, gather_locally, momentum=MOMENTUM, precision="bf16")

    return _waiting(device, step)


def our_compiled_step(model: str, method: str, views: Views) -> Callable[[], object]:
    """Return a function that makes a compiled step of our training."""
    return our_step(model, method, views, compiled=True)


def plain_step(model: str, method: str, views: Views) -> Callable[[], object]:
    """Return a function that makes the plain step of COSMOS."""
    device = views.global_images.device
    with device:
        plain = PlainStep(open_clip.get_model_config(model), lr=LR, weight_decay=WEIGHT_DECAY)
    global_images, local_images, texts = (tensor.to(device) for tensor in views)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            plain.step(global_images, local_images, texts, MOMENTUM)

    return _waiting(device, step)


def openclip_step(model: str, method: str, views: Views) -> Callable[[], object]:
    """Return a function that makes a step of OpenCLIP's model and loss.

    The order is that of OpenCLIP's training loop. AdamW is fused, as in our training.
    """
    device = views.global_images.device
    with device:
        clip: Any = open_clip.CLIP(**open_clip.get_model_config(model), output_dict=True)
    optimizer = torch.optim.AdamW(
        parameter_groups(clip, WEIGHT_DECAY), lr=LR, betas=(0.9, 0.98), eps=1e-8, fused=True
    )
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
