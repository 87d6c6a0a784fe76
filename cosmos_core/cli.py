"""The commands `cosmos-train RECIPE`, `cosmos-train prepare` and `cosmos-train export`."""

import json
import logging
import os
import shlex
import sys
from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from cosmos_core.config import TrainConfig
from cosmos_core.data.prepare import prepare as prepare_shards
from cosmos_core.data.scenes import TRAIN, VERSIONS, Version
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
from cosmos_core.recipes.overrides import option_sources, option_values, override
from cosmos_core.utils.command import Ending, run_command
from cosmos_core.utils.distributed import is_main_process, restarts
from cosmos_core.utils.errors import UsageError
from cosmos_core.utils.files import require_writable
from cosmos_core.utils.recipe import asks_for_scenes
from cosmos_core.utils.text import OneLineFormatter, nearest

logger = logging.getLogger(__name__)
WARMUP = "optim.warmup_steps"
COMMANDS = ("train", "show", "prepare", "export")
HELP_OPTIONS = ("--help", "-h")
_CLOSE_SPELLING = 0.7  # the similarity of a misspelled command: no recipe is as similar to one
# Exit statuses: for wrong input, such as an unknown recipe, and for a run that failed.
_USAGE_STATUS = 2
_FAILURE_STATUS = 1

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": list(HELP_OPTIONS)},
    pretty_exceptions_enable=False,
    help="Train CLIP-like models by recipes. `cosmos-train RECIPE` stands for `cosmos-train train "
    "RECIPE`.\n\n--set KEY=VALUE replaces a value of the recipe; `cosmos-train show RECIPE` prints "
    "all.\n\n--output DIR is the folder of snapshots, checkpoint and log, by default runs/RECIPE."
    "\n\n--resume goes on from the newest snapshot in the folder; --resume auto starts if there "
    f"is none.\n\nRecipes: {', '.join(RECIPES)}.",
)
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="Replace a value: --set optim.steps=100")
]
Resume = Literal["always", "auto"]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class _TrainCommand(TyperCommand):
    """The command `train`, in which `--resume` without a value means `--resume=always`.

    Typer has no options whose value may be left out.
    """

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        """Add the value to `--resume` if it is missing, and parse the words of the command.

        For example, ["debug", "--resume"] is parsed like ["debug", "--resume=always"], and
        ["debug", "--resume", "auto"] is parsed as it is.
        """
        arguments = list(words)
        for position, word in enumerate(words):
            next_word = words[position + 1] if position + 1 < len(words) else ""
            if word == "--resume" and next_word != "auto":
                arguments[position] = "--resume=always"
        return super().parse_args(context, arguments)


@app.command(cls=_TrainCommand)
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
            help="Go on from the newest snapshot in the folder; auto: start if there is none.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="SNAPSHOT",
            help="Start from a snapshot of a run with other optim.steps, before its cooldown.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe."""
    assignments = assignments or []
    config = _configure(recipe, assignments)
    output = output or Path("runs") / recipe
    # The command is stored in the checkpoint. It does not state the output folder, so it is the
    # same for runs in different folders.
    command = f"cosmos-train {shlex.quote(recipe)}"
    for assignment in assignments:
        command += f" --set {shlex.quote(assignment)}"
    if start is not None:
        command += f" --from {shlex.quote(str(start))}"
    check_config(config, world_size=int(os.environ.get("WORLD_SIZE", "1")))
    has_restarted = restarts() > 0
    if has_restarted:
        # torchrun has started the processes again after a failure.
        resume = "auto"
    with join_world(config.compute.device, config.compute.timeout) as world, ExitStack() as stack:
        try:
            # The main process locks the folder, and tells all processes whether the run resumes.
            resumes_snapshot = world.main_process_only(
                _lock_output, stack, config.save.remote, output, resume
            )
            resumes_snapshot = world.gather(resumes_snapshot)[0]
            n_steps = run(
                config, output, command, world, resume=bool(resumes_snapshot), start=start
            )
        except OSError as error:
            _add_resume_hint(error, output, config)
            raise
    if world.rank > 0:
        return
    if n_steps < config.optim.steps:
        resume_command = f"{command} --output {shlex.quote(str(output))} --resume"
        typer.echo(
            f"cosmos-train: stopped after {n_steps} of {config.optim.steps} steps; go on with: "
            f"{resume_command}",
            err=True,
        )
    typer.echo(str(output / CHECKPOINT))


def _configure(recipe: str, assignments: list[str]) -> TrainConfig:
    """Return the configuration of a recipe with the values of `--set`.

    The warm-up becomes shorter if a shorter run was set. This is logged.

    Args:
        recipe: The name of the recipe.
        assignments: The values of `--set`, such as "optim.steps=100".
    """
    recipe_config = _find_recipe(recipe)
    config = override(recipe_config, assignments)
    warmup_source = option_sources(recipe_config, config, assignments)[WARMUP]
    if warmup_source == "optim.steps" and is_main_process():
        logger.info(
            f"{config.optim.warmup_steps} steps of warm-up for a shortened run; --set {WARMUP}=N "
            "changes it"
        )
    return config


def _add_resume_hint(error: OSError, output: Path, config: TrainConfig) -> None:
    """Add to an error's message how to resume the run, if the output folder has a snapshot."""
    has_snapshot = len(Snapshots(output, config.save.keep).steps()) > 0
    if error.strerror and has_snapshot:
        error.strerror += "; the snapshots are whole: when that is mended, go on by --resume"


@app.command()
def show(recipe: RecipeName, assignments: Assignments = None, debug: Debug = False) -> None:
    """Print every value of a recipe, and whether it comes from it, --set, a method or a default."""
    assignments = assignments or []
    recipe_config = _find_recipe(recipe)
    config = override(recipe_config, assignments)
    value_by_name = dict(option_values(config))
    value_by_name["method"] = config.method.name
    for name, source in option_sources(recipe_config, config, assignments).items():
        value = value_by_name[name]
        # Text is printed without quotes, unless it is empty.
        text = value if isinstance(value, str) and value else json.dumps(value)
        typer.echo(f"{name:28} {source:14} {text}")


def _find_recipe(name: str) -> TrainConfig:
    """Return the configuration of a recipe by its name.

    Raises:
        ValueError: If the recipe does not exist. The error suggests similar names.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; nearest: {nearest(name, RECIPES)}")
    return RECIPES[name]()


def _lock_output(stack: ExitStack, url: str, output: Path, resume: Resume | None) -> bool:
    """Lock an output folder until the stack is closed, and find out whether the run resumes.

    Args:
        stack: The stack of contexts that ends with the run.
        url: The place to which snapshots are copied, or "". The newest snapshot is fetched from
            there first, unless the folder has it.
        output: The output folder.
        resume: "always" to go on from a snapshot, "auto" to go on if there is one, or None for a
            new training.

    Returns:
        True if the run resumes a snapshot.

    Raises:
        SnapshotError: If `resume` is "always" and no snapshot exists.
    """
    require_writable(output)
    snapshots = Snapshots(output, keep=1)
    missing_error = SnapshotError(
        f"{output}: no whole snapshot to resume from; --resume auto starts from the beginning"
    )
    if resume == "always" and not url and not snapshots.steps():
        raise missing_error
    stack.enter_context(locked(output))
    if url:
        Remote(url, output).prepare(resume=resume is not None)
    if snapshots.steps():
        return resume is not None
    if resume == "always":
        raise missing_error
    if resume == "auto" and not (output / CHECKPOINT).exists():
        # The log of a run that ended before its first snapshot.
        (output / LOG).unlink(missing_ok=True)
    return False


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
    weights: Annotated[Weights, typer.Option(help="The weights that OpenCLIP loads.")] = "teacher",
    arch: Annotated[
        str | None, typer.Option(help="OpenCLIP architecture, if the file does not state it.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a folder that OpenCLIP loads and that can be pushed to the Hugging Face Hub."""
    for path in export_model(checkpoint, output, weights=weights, architecture=arch):
        typer.echo(str(path))


def run(
    config: TrainConfig,
    output: Path,
    command: str,
    world: World,
    *,
    resume: bool,
    start: Path | None = None,
) -> int:
    """Train a model. If the data are scenes, they are first written as shards.

    Args:
        config: A configuration that `check_config` has accepted.
        output: The output folder.
        command: The command line, which is stored in the checkpoint.
        world: The processes of the training.
        resume: True to go on from the newest snapshot in the folder.
        start: The snapshot of another run from which a run starts that does not resume.

    Returns:
        The number of steps after which the training ended. It is smaller than `optim.steps` if the
        training was stopped.

    Raises:
        ValueError: Before any work, if the folder or a data set does not fit the configuration.
    """
    # Find what measures the model during the training.
    evaluator = None
    if config.watch.evaluate_every:
        evaluator = find_evaluator()
        check_datasets(evaluator, config.watch, world, config.save.best)

    # Build the trainer.
    preprocess = preprocess_config(config.architecture)
    context_length = model_config(config.architecture)["text_cfg"].get("context_length", 77)
    tokenizer = make_tokenizer(config.data.shards, context_length)
    inverse = Inverse(preprocess["mean"], preprocess["std"], tokenizer.decode)
    setting = Setting(tokenizer, inverse, output, command, world, evaluator)
    trainer = Trainer(config, setting, resume=resume, start=start)
    if not asks_for_scenes(config.data.shards):
        return trainer.run(config.data.shards)

    # Write scenes as shards: "scenes:1000" asks for 1000 of them.
    version_name, _, n_scenes = config.data.shards.partition(":")
    scenes_folder = output / f"{version_name}-{n_scenes}"
    version = VERSIONS[version_name]
    world.main_process_only(_write_scenes, scenes_folder, int(n_scenes), version)
    return trainer.run(str(scenes_folder / "shards" / "*.tar"))


def _write_scenes(folder: Path, count: int, version: Version) -> None:
    """Write scenes of the training split as shards, unless the folder exists."""
    if not folder.exists():
        write_layouts(folder, split=TRAIN, count=count, layouts=["shards"], version=version)


def main() -> None:
    """Run the command line and exit.

    `cosmos-train RECIPE` means `cosmos-train train RECIPE`. Options may stand before the recipe.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("cosmos-train: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    arguments = sys.argv[1:] or ["--help"]
    first_argument = next((word for word in arguments if word != "--debug"), "--help")
    # Typer names the command that a misspelled one resembles.
    resembles_command = bool(get_close_matches(first_argument, COMMANDS, cutoff=_CLOSE_SPELLING))
    if first_argument not in HELP_OPTIONS and not resembles_command:
        arguments = ["train", *arguments]
    run_command("cosmos-train", app, arguments, _ending_of_error)


def _ending_of_error(error: BaseException) -> Ending | None:
    """Return the message and the exit status for an error that a user can act on.

    Return None for any other error: it is a defect of the program, and ends with a traceback.
    """
    if isinstance(error, UnequalDataError | UsageError):
        # All processes raise it, and only the first one prints it.
        return Ending(str(error), _USAGE_STATUS, everywhere=True)
    if isinstance(error, ValueError):
        return Ending(str(error), _USAGE_STATUS)
    if isinstance(error, FloatingPointError | LostProcessError):
        return Ending(str(error), _FAILURE_STATUS)
    if isinstance(error, OSError) and error.filename is not None:
        return Ending(f"{error.filename}: {error.strerror}", _FAILURE_STATUS)
    return None
