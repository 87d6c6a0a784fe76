"""The commands `cosmos-train RECIPE`, `cosmos-train prepare` and `cosmos-train export`."""

import difflib
import json
import logging
import os
import shlex
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from cosmos_core.config import TrainConfig
from cosmos_core.data.prepare import prepare as prepare_shards
from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.engine.check import check_config, make_tokenizer
from cosmos_core.engine.distributed import World, join_world
from cosmos_core.engine.evaluate import check_datasets, find_evaluator
from cosmos_core.engine.lock import locked
from cosmos_core.engine.loggers import LOG
from cosmos_core.engine.presence import LostProcessError
from cosmos_core.engine.remote import Remote
from cosmos_core.engine.snapshot import SnapshotError, Snapshots, UnequalDataError
from cosmos_core.engine.trainer import Setting, Trainer
from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import CHECKPOINT, Weights
from cosmos_core.model.export import export as export_model
from cosmos_core.model.export import preprocess_config
from cosmos_core.plots.views import Inverse
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override, sources, values
from cosmos_core.utils.command import Ending, run_command
from cosmos_core.utils.distributed import is_main_process, restarts
from cosmos_core.utils.files import require_writable
from cosmos_core.utils.recipe import SCENES
from cosmos_core.utils.text import OneLineFormatter

logger = logging.getLogger(__name__)
WARMUP = "optim.warmup_steps"
COMMANDS = ("train", "show", "prepare", "export")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train CLIP-like models by recipes. `cosmos-train RECIPE` stands for `cosmos-train train "
    "RECIPE`.\n\n--set KEY=VALUE replaces a value of the recipe; `cosmos-train show RECIPE` prints "
    "all.\n\n--output DIR is the folder of snapshots, checkpoint and log, by default runs/RECIPE."
    "\n\n--resume goes on from the newest snapshot in the folder; --resume auto starts where there "
    f"is none.\n\nRecipes: {', '.join(RECIPES)}.",
)
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="Replace a value: --set optim.steps=100")
]
Resume = Literal["always", "auto"]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class _Train(TyperCommand):
    """`--resume` stands for `--resume=always`: Typer has no option whose value may be left out."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        following = [*words[1:], ""]
        pairs = zip(words, following, strict=True)
        bare = [word == "--resume" and after != "auto" for word, after in pairs]
        given = ["--resume=always" if b else word for b, word in zip(bare, words, strict=True)]
        return super().parse_args(context, given)


@app.command(cls=_Train)
def train(
    recipe: RecipeName,
    assignments: Assignments = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of snapshots, checkpoint and log; by default runs/RECIPE."),
    ] = None,
    resume: Annotated[
        Resume | None,
        typer.Option(
            metavar="[auto]",
            help="Go on from the newest snapshot in the folder; auto: start where there is none.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe."""
    base = _find(recipe)
    config = override(base, assignments or [])
    origin, steps = sources(base, config, assignments or [])[WARMUP], config.optim.warmup_steps
    if origin == "optim.steps" and is_main_process():
        logger.info(f"{steps} steps of warm-up for a shortened run; --set {WARMUP}=N changes it")
    folder = output or Path("runs") / recipe
    pairs = (f"--set {shlex.quote(assignment)}" for assignment in assignments or [])
    command = " ".join(["cosmos-train", shlex.quote(recipe), *pairs])  # others have other folders
    check_config(config, world_size=int(os.environ.get("WORLD_SIZE", "1")))
    if restarts():
        resume = "auto"
    with join_world(config.compute.device, config.compute.timeout) as world, ExitStack() as stack:
        lock = partial(_open, stack, config.save.remote, folder, resume)
        try:
            found = any(world.gather(world.main_process_only(lock)))
            steps = run(config, folder, command, world, resume=found)
        except OSError as error:
            if error.strerror and Snapshots(folder, config.save.keep).steps():
                hint = "the snapshots are whole: when that is mended, go on by --resume"
                error.strerror += f"; {hint}"
            raise
    if world.rank != 0:
        return
    if steps < config.optim.steps:
        done = f"stopped after {steps} of {config.optim.steps} steps; go on with"
        resumed = f"{command} --output {shlex.quote(str(folder))} --resume"
        typer.echo(f"cosmos-train: {done}: {resumed}", err=True)
    typer.echo(str(folder / CHECKPOINT))


@app.command()
def show(recipe: RecipeName, assignments: Assignments = None, debug: Debug = False) -> None:
    """Print every value of a recipe, and whether it comes from it, --set, a method or a default."""
    base = _find(recipe)
    config = override(base, assignments or [])
    origins = sources(base, config, assignments or [])
    shown = {"method": config.method.name, **dict(values(config))}
    for name, origin in origins.items():
        value = shown[name]
        text = value if isinstance(value, str) and value else json.dumps(value)
        typer.echo(f"{name:28} {origin:14} {text}")


def _find(recipe: str) -> TrainConfig:
    if recipe not in RECIPES:
        close = difflib.get_close_matches(recipe, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise ValueError(f"unknown recipe {recipe!r}; nearest: {', '.join(close)}")
    return RECIPES[recipe]()


def _open(stack: ExitStack, url: str, output: Path, resume: Resume | None) -> bool:
    """Lock an output folder; return whether the run goes on from a snapshot. One that was copied to
    `url` is fetched where it is newer than those of the folder."""
    require_writable(output)
    snapshots = Snapshots(output, keep=1)
    none = SnapshotError(f"{output}: no whole snapshot to resume from")
    if resume == "always" and not (url or snapshots.steps()):
        raise none
    stack.enter_context(locked(output))
    if url:
        Remote(url, output).prepare(resume=resume is not None)
    found = bool(snapshots.steps())
    if resume == "always" and not found:
        raise none
    if resume == "auto" and not found and not (output / CHECKPOINT).exists():
        (output / LOG).unlink(missing_ok=True)  # of a run that ended before its first snapshot
    return found and resume is not None


@app.command()
def prepare(
    images: Annotated[Path, typer.Argument(help="A folder that img2dataset wrote.")],
    captions: Annotated[Path, typer.Argument(help="DreamLIP's caption CSV.")],
    output: Annotated[Path, typer.Option(help="Folder of the shards to write.")],
    shard_size: Annotated[int, typer.Option(min=1, help="Samples per shard.")] = 10_000,
    debug: Debug = False,
) -> None:
    """Make training shards of downloaded images and their captions."""
    report = prepare_shards(images, captions, output, shard_size=shard_size)
    for name, value in report._asdict().items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A file of cosmos-train, a published one, or a run.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write, in the Hub's layout.")],
    weights: Annotated[Weights, typer.Option(help="What OpenCLIP loads.")] = "teacher",
    arch: Annotated[
        str | None, typer.Option(help="OpenCLIP architecture, where the file does not say.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a folder that OpenCLIP loads and that can be pushed to the Hugging Face Hub."""
    for path in export_model(checkpoint, output, weights=weights, architecture=arch):
        typer.echo(str(path))


def run(config: TrainConfig, output: Path, command: str, world: World, *, resume: bool) -> int:
    """Train a configuration that `check_config` has passed, with scenes written as shards first.
    Returns the steps done. Raises ValueError, before any work, for an unfit folder or data set."""
    evaluator = None
    if config.watch.evaluate_every:
        evaluator = find_evaluator()
        check_datasets(evaluator, config.watch, world, config.save.best)
    preprocess, shards = preprocess_config(config.architecture), config.data.shards
    context_length = model_config(config.architecture)["text_cfg"].get("context_length", 77)
    tokenizer = make_tokenizer(shards, context_length)
    inverse = Inverse(preprocess["mean"], preprocess["std"], tokenizer.decode)
    setting = Setting(tokenizer, inverse, output, command, world, evaluator)
    trainer = Trainer(config, setting, resume=resume)
    if shards.startswith(SCENES):
        count = int(shards.removeprefix(SCENES))
        data = output / f"scenes-{count}"
        write = partial(write_layouts, data, split=TRAIN, count=count, layouts=["shards"])
        world.main_process_only(lambda: data.exists() or write())
        shards = str(data / "shards" / "*.tar")
    return trainer.run(shards)


def main() -> None:
    """Run a command and exit; the first word is a recipe unless it names a command."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("cosmos-train: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    arguments = sys.argv[1:] or ["--help"]
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        arguments = ["train", *arguments]
    run_command("cosmos-train", app, arguments, _describe)


def _describe(error: BaseException) -> Ending | None:
    if isinstance(error, ValueError | FloatingPointError):
        status = 2 if isinstance(error, ValueError) else 1
        return Ending(str(error), status, everywhere=isinstance(error, UnequalDataError))
    if isinstance(error, LostProcessError):
        return Ending(str(error), 1)
    if isinstance(error, OSError) and error.filename is not None:
        return Ending(f"{error.filename}: {error.strerror}", 1)
    return None
