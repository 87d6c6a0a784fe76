"""`python benchmarks/train_step.py [--json] [--quick] [--threads N]`: a step of COSMOS on a CPU.

Ours against the plain transcription of `_plain_step`, interleaved, on the same views: batch 8,
global captions of 30 to 77 tokens and local ones of 10 to 28. ViT-B/32 is also measured in bf16,
where the plain step runs under PyTorch's autocast; the target of bf16 is against the plain step in
fp32. Memory is the peak of a process of its own, since peaks of one process do not come down again.
The targets are of batch 8; `--quick` takes a smaller batch, so it has none, and leaves the memory
out.

`--recipe NAME...` instead measures these recipes in several forms (compiled, other batches,
channels last, threads and processes; `--quick`: only as it is), each in processes of its own: CPU
time per sample, all threads and processes together, which other programs on the machine disturb
less than the clock. Without names it measures the recipes of the study, scenes_cosmos and
scenes_clip.
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
from cosmos_core.engine.build import make_training
from cosmos_core.engine.check import make_tokenizer
from cosmos_core.engine.distributed import World
from cosmos_core.engine.step import normalise, train_step
from cosmos_core.losses import gather_locally
from cosmos_core.methods import METHODS
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

BATCH, QUICK_BATCH = 8, 2
ROUNDS = 5
MOMENTUM = 0.99
TARGETS = {("ViT-B-32", "fp32"): 1.4, ("ViT-B-16", "fp32"): 1.2, ("ViT-B-32", "bf16"): 2.5}
MEMORY_TARGET = 0.8
SCENES, STEPS = 256, 8  # of a recipe
STUDY_RECIPES = ("scenes_cosmos", "scenes_clip")


class Form(NamedTuple):
    """How a recipe's step is computed: settings, threads of a process, processes at a time."""

    settings: tuple[str, ...] = ()
    threads: int = 1
    processes: int = 1
    channels_last: bool = False
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
    "compiled": Form(("compute.compile=true",)),
}


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
    arguments.add_argument("--recipe", nargs="*", help="measure these recipes in several forms")
    arguments.add_argument("--form", help=argparse.SUPPRESS)  # of one, for a child process
    given = arguments.parse_args()
    if given.form:
        print(_seconds_of(given.recipe[0], FORMS[given.form]))
        return
    if given.recipe is not None:
        _report_recipes(given)
        return
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
    """Seconds of each form, then ratios: of one precision, and of what the target is stated for."""
    views = make_views(model, size.batch)
    precisions = [name for name in ("fp32", "bf16") if (model, name) in TARGETS]
    functions = {
        f"{kind}, {precision}": make(model, views, precision)
        for precision in precisions
        for kind, make in (("plain", plain_step), ("ours", our_step))
    }
    seconds = interleave(functions, rounds)
    for name, spread in seconds.items():
        yield measurement(f"{model} {name}", spread, "s")
    ratios = dict.fromkeys((other, own) for own in precisions for other in (own, "fp32"))
    for other, own in ratios:
        ratio = seconds[f"plain, {other}"].over(seconds[f"ours, {own}"])
        target = TARGETS[model, own] if size.batch == BATCH and other == "fp32" else None
        name = f"{model} plain in {other} to ours in {own}"
        yield measurement(name, ratio, "x", at_least=target)


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


def plain_step(model: str, views: Views, precision: str) -> Callable[[], object]:
    """The plain step of a model; in bf16 under PyTorch's autocast."""
    torch.manual_seed(0)
    plain = PlainStep(open_clip.get_model_config(model), lr=5e-4, weight_decay=0.5)

    def step() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return plain.step(*views, MOMENTUM)

    return step


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
    step = (plain_step if kind == "plain" else our_step)(model, views, "fp32")
    step()
    step()
    # Not getrusage: its peak counts the parent's memory, of which a child begins as a copy.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak) * 1024 / 1e9


def _report_recipes(given: argparse.Namespace) -> None:
    """Measure and print the steps of recipes."""
    recipes = given.recipe or STUDY_RECIPES
    forms = [*FORMS][:1] if given.quick else [*FORMS]
    lines = _form_lines(recipes, forms, given.rounds or (1 if given.quick else ROUNDS))
    report(f"CPU time of a step of {', '.join(recipes)}", lines, given.json)


def _form_lines(recipes: Sequence[str], forms: Sequence[str], rounds: int) -> Iterator[Measurement]:
    """Milliseconds per sample of each recipe in each form, then how much faster each form is."""
    pairs = list(itertools.product(recipes, forms))
    milliseconds: dict[tuple[str, str], list[float]] = {pair: [] for pair in pairs}
    for _, pair in itertools.product(range(rounds), pairs):
        milliseconds[pair].append(_of_children(*pair))
    spreads = {pair: Spread(tuple(values)) for pair, values in milliseconds.items()}
    for (recipe, form), spread in spreads.items():
        yield measurement(f"{recipe} {form}", spread, "ms a sample")
    for recipe, form in pairs:
        if form != forms[0]:
            ratio = spreads[recipe, forms[0]].over(spreads[recipe, form])
            yield measurement(f"{recipe} {forms[0]} to {form}", ratio, "x")


def _of_children(recipe: str, name: str) -> float:
    """Milliseconds a sample of a form's processes, the mean."""
    command = [sys.executable, __file__, "--recipe", recipe, "--form", name]
    kept = ENVIRONMENT if FORMS[name].as_in_study else {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **kept}
    pipes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(FORMS[name].processes)
    ]
    return sum(float(child.communicate()[0]) for child in pipes) / len(pipes)


def _seconds_of(recipe: str, form: Form) -> float:
    """Milliseconds of CPU a sample, data left out, of steps after as many that are not counted."""
    torch.set_num_threads(form.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = write_layouts(Path(folder, "s"), split=TRAIN, count=SCENES, layouts=["shards"])
        given = (f"data.shards={data}/shards/*.tar", "data.workers=0", *form.settings)
        config = override(RECIPES[recipe](), given)
        length = config.architecture["text_cfg"]["context_length"]
        batches = make_loader(config, make_tokenizer(f"scenes:{SCENES}", length))
        views = [batch.views for batch in itertools.islice(batches, STEPS)]
    training = make_training(config, World())
    if form.channels_last:
        training.model.to(memory_format=torch.channels_last)
        training.teacher.to(memory_format=torch.channels_last)
    mean = std = torch.full((3,), 0.5)
    for _ in range(2):
        start = time.process_time()
        for batch in views:
            prepared = normalise(batch, mean, std)
            precision = config.compute.precision
            train_step(training, prepared, gather_locally, momentum=MOMENTUM, precision=precision)
    return 1000 * (time.process_time() - start) / STEPS / config.optim.batch_size


if __name__ == "__main__":
    main()
