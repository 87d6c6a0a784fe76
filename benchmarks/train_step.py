"""`python benchmarks/train_step.py [--json] [--quick] [--threads N]`: a step of COSMOS on a CPU.

Our step is compared with the plain one of `_plain_step`, in interleaved rounds, on the same views:
batch 8, global captions of 30 to 77 tokens and local ones of 10 to 28. ViT-B/32 is also measured in
bf16, where the plain step runs under PyTorch's autocast; the target of bf16 is against the plain
step in fp32. Each peak of memory is measured in a separate process, because the peak of a process
never falls. The targets hold for batch 8; `--quick` takes a smaller batch, so it has no targets,
and it does not measure memory.

`--recipe NAME...` instead measures these recipes in several forms (compiled, other batches,
channels last, threads and processes; with `--quick` only the recipe as it is), each in separate
processes. It prints the CPU time per sample of all threads and processes together, on which other
programs on the machine have less influence than on elapsed time. Without names it measures the
recipes of the study, scenes_cosmos and scenes_clip.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from _plain_step import PlainStep
from _report import Measurement, Spread, interleave, measurement, parser, report
from scenes_study import ENVIRONMENT

from cosmos_core import Views
from cosmos_core.config import ComputeConfig, DataConfig, OptimConfig, TrainConfig
from cosmos_core.data.loading import make_loader
from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.engine.build import choose_precision, make_training
from cosmos_core.engine.check import make_tokenizer
from cosmos_core.engine.distributed import World
from cosmos_core.engine.step import normalise, train_step
from cosmos_core.losses import gather_locally
from cosmos_core.methods import METHODS
from cosmos_core.model.build import model_config
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

BATCH, QUICK_BATCH = 8, 2
ROUNDS = 5
MOMENTUM = 0.99
TARGETS = {("ViT-B-32", "fp32"): 1.4, ("ViT-B-16", "fp32"): 1.2, ("ViT-B-32", "bf16"): 2.5}
MEMORY_TARGET = 0.8
SCENES, STEPS = 256, 8  # scenes that are rendered for a recipe, and steps that are measured
STUDY_RECIPES = ("scenes_cosmos", "scenes_clip")


class Form(NamedTuple):
    """How the step of a recipe is computed."""

    # Assignments that change the recipe.
    overrides: tuple[str, ...] = ()
    # The number of threads of each process.
    threads: int = 1
    # The number of processes that run at the same time.
    processes: int = 1
    channels_last: bool = False
    # Whether the environment variables are those of benchmarks/scenes_study.py.
    as_in_study: bool = False


FORMS = {
    "as it is": Form(),
    "as in benchmarks/scenes_study.py": Form(as_in_study=True),
    "two processes": Form(processes=2),
    "two threads": Form(threads=2),
    "channels last": Form(channels_last=True),
    "batch 16": Form(("optim.batch_size=16",)),
    "batch 64": Form(("optim.batch_size=64",)),
    "fp32": Form(("compute.precision=fp32",)),
    "bf16": Form(("compute.precision=bf16",)),
    "compiled": Form(("compute.compile=true",)),
}


class Size(NamedTuple):
    """The size of a measurement."""

    # The number of samples of a step.
    batch: int
    threads: int


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    if arguments.form:
        print(_cpu_milliseconds(arguments.recipe[0], FORMS[arguments.form]))
    elif arguments.recipe is not None:
        _report_recipes(arguments)
    elif arguments.peak:
        torch.set_num_threads(arguments.threads)
        kind, model = arguments.peak.split(",")
        print(_peak_gigabytes(kind, model, arguments.batch_size))
    else:
        torch.set_num_threads(arguments.threads)
        _report_models(arguments)


def parse_arguments() -> argparse.Namespace:
    """Return the options; the defaults of some of them depend on `--quick`."""
    argument_parser = parser(__doc__ or "")
    argument_parser.add_argument("--threads", type=int, default=os.cpu_count())
    argument_parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or 1 if quick")
    argument_parser.add_argument(
        "--batch-size", type=int, help=f"{BATCH}, or {QUICK_BATCH} if quick"
    )
    argument_parser.add_argument(
        "--recipe", nargs="*", help="measure these recipes in several forms"
    )
    # The options of child processes: the step whose memory is measured, and the form of a recipe.
    argument_parser.add_argument("--peak", help=argparse.SUPPRESS)
    argument_parser.add_argument("--form", help=argparse.SUPPRESS)
    arguments = argument_parser.parse_args()
    if not arguments.rounds:
        arguments.rounds = 1 if arguments.quick else ROUNDS
    if not arguments.batch_size:
        arguments.batch_size = QUICK_BATCH if arguments.quick else BATCH
    return arguments


def _report_models(arguments: argparse.Namespace) -> None:
    """Measure and print our steps and the plain ones."""
    size = Size(arguments.batch_size, arguments.threads)
    models = ["ViT-B-32"] if arguments.quick else ["ViT-B-32", "ViT-B-16"]
    lines: list[Measurement] = []
    for model in models:
        lines += _time_lines(model, arguments.rounds, size)
    if not arguments.quick:
        for model in models:
            lines += _memory_lines(model, size)
    title = f"Training step, batch {size.batch}, {size.threads} CPU threads"
    report(title, lines, arguments.json)


def _time_lines(model: str, rounds: int, size: Size) -> Iterator[Measurement]:
    """Yield the seconds of plain steps and of ours, and their ratios.

    Our step is compared with the plain step in the same precision, and with the plain step in fp32,
    which the targets are against.
    """
    views = make_views(model, size.batch)
    precisions = [precision for precision in ("fp32", "bf16") if (model, precision) in TARGETS]
    steps = {}
    for precision in precisions:
        steps[f"plain, {precision}"] = plain_step(model, views, precision)
        steps[f"ours, {precision}"] = our_step(model, views, precision)
    seconds = interleave(steps, rounds)
    for name, spread in seconds.items():
        yield measurement(f"{model} {name}", spread, "s")

    for precision in precisions:
        plain_precisions = ("fp32",) if precision == "fp32" else (precision, "fp32")
        for plain_precision in plain_precisions:
            ratio = seconds[f"plain, {plain_precision}"].over(seconds[f"ours, {precision}"])
            has_target = size.batch == BATCH and plain_precision == "fp32"
            target = TARGETS[model, precision] if has_target else None
            name = f"{model} plain in {plain_precision} to ours in {precision}"
            yield measurement(name, ratio, "x", at_least=target)


def _memory_lines(model: str, size: Size) -> Iterator[Measurement]:
    """Yield the peak memory of the plain step and of ours, and their ratio."""
    peaks = {kind: _peak_in_child(kind, model, size) for kind in ("plain", "ours")}
    for kind, gigabytes in peaks.items():
        yield measurement(f"{model} {kind}, peak memory, fp32", gigabytes, "GB")
    ratio = peaks["ours"] / peaks["plain"]
    yield measurement(f"{model} memory, ours to plain", ratio, "x", at_most=MEMORY_TARGET)


def make_views(model: str, batch: int) -> Views:
    """Return views of noise images and of captions of random words, for a model of OpenCLIP.

    There are two global views and six local ones of images and of captions. Global captions have 30
    to 77 tokens, local ones 10 to 28.
    """
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


def plain_step(model: str, views: Views, precision: str) -> Callable[[], object]:
    """Return a function that makes a plain step; in bf16 it runs under PyTorch's autocast."""
    torch.manual_seed(0)
    plain = PlainStep(open_clip.get_model_config(model), lr=5e-4, weight_decay=0.5)

    def step() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return plain.step(*views, MOMENTUM)

    return step


def our_step(model: str, views: Views, precision: str) -> Callable[[], object]:
    """Return a function that makes a step of our training, as `cosmos-train` does."""
    config = TrainConfig(
        recipe="train_step",
        method=METHODS["cosmos"](),
        architecture=model,
        data=DataConfig(shards=""),
        optim=OptimConfig(steps=1, batch_size=len(views.texts[0])),
        compute=ComputeConfig(device="cpu"),
    )
    training = make_training(config, World())

    def step() -> object:
        return train_step(training, views, gather_locally, momentum=MOMENTUM, precision=precision)

    return step


def _peak_in_child(kind: str, model: str, size: Size) -> float:
    """Return `_peak_gigabytes` of a new process."""
    command = [sys.executable, __file__, "--peak", f"{kind},{model}"]
    command += ["--threads", str(size.threads), "--batch-size", str(size.batch)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(child.stdout)


def _peak_gigabytes(kind: str, model: str, batch: int) -> float:
    """Make two steps, and return the peak memory of this process in gigabytes.

    Args:
        kind: "plain" or "ours".
        model: The name of a model of OpenCLIP.
        batch: The number of samples of a step.
    """
    views = make_views(model, batch)
    make_step = plain_step if kind == "plain" else our_step
    step = make_step(model, views, "fp32")
    step()
    step()
    # getrusage would also count the parent's memory, because a child begins as a copy of it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak_kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak_kilobytes) * 1024 / 1e9


def _report_recipes(arguments: argparse.Namespace) -> None:
    """Measure and print the steps of recipes in several forms."""
    recipes = arguments.recipe or STUDY_RECIPES
    forms = ["as it is"] if arguments.quick else list(FORMS)
    lines = _form_lines(recipes, forms, arguments.rounds)
    report(f"CPU time of a step of {', '.join(recipes)}", lines, arguments.json)


def _form_lines(recipes: Sequence[str], forms: Sequence[str], rounds: int) -> Iterator[Measurement]:
    """Yield the milliseconds per sample of each recipe in each form, and ratios to the first form.

    The rounds are interleaved: each one measures every recipe in every form.
    """
    combinations = list(itertools.product(recipes, forms))
    milliseconds: dict[tuple[str, str], list[float]] = {key: [] for key in combinations}
    for _ in range(rounds):
        for recipe, form in combinations:
            milliseconds[recipe, form].append(_cpu_milliseconds_in_children(recipe, form))
    spreads = {key: Spread(tuple(values)) for key, values in milliseconds.items()}
    for (recipe, form), spread in spreads.items():
        yield measurement(f"{recipe} {form}", spread, "ms a sample")
    for recipe, form in combinations:
        if form != forms[0]:
            ratio = spreads[recipe, forms[0]].over(spreads[recipe, form])
            yield measurement(f"{recipe} {forms[0]} to {form}", ratio, "x")


def _cpu_milliseconds_in_children(recipe: str, form_name: str) -> float:
    """Return the mean of `_cpu_milliseconds` over the processes of a form, which run together."""
    form = FORMS[form_name]
    command = [sys.executable, __file__, "--recipe", recipe, "--form", form_name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if form.as_in_study:
        environment |= ENVIRONMENT
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(form.processes)
    ]
    return sum(float(child.communicate()[0]) for child in children) / len(children)


def _cpu_milliseconds(recipe: str, form: Form) -> float:
    """Return the CPU time per sample of the steps of a recipe, in milliseconds.

    The time to load the data is not counted.
    """
    torch.set_num_threads(form.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = write_layouts(Path(folder, "s"), split=TRAIN, count=SCENES, layouts=["shards"])
        shards = f"data.shards={data}/shards/*.tar"
        config = override(RECIPES[recipe](), (shards, "data.workers=0", *form.overrides))
        context_length = model_config(config.architecture)["text_cfg"]["context_length"]
        loader = make_loader(config, make_tokenizer(f"scenes:{SCENES}", context_length))
        views_of_steps = [batch.views for batch in itertools.islice(loader, STEPS)]
    config = choose_precision(config, World())
    training = make_training(config, World())
    if form.channels_last:
        training.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        training.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = std = torch.full((3,), 0.5)
    precision = config.compute.precision
    for _ in range(2):  # the first pass over the batches is not counted
        start = time.process_time()
        for views in views_of_steps:
            prepared = normalise(views, mean, std)
            train_step(training, prepared, gather_locally, momentum=MOMENTUM, precision=precision)
    return 1000 * (time.process_time() - start) / STEPS / config.optim.batch_size


if __name__ == "__main__":
    main()
