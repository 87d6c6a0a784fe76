"""`cosmos-train RECIPE`: train a model."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import open_clip
import typer

from cosmos_core.config import TrainConfig
from cosmos_core.data.scenes import TRAIN, scenes_tokenizer, write_layouts
from cosmos_core.engine.distributed import join_world
from cosmos_core.engine.trainer import Trained, Trainer
from cosmos_core.model.build import model_config
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"One of: {', '.join(RECIPES)}.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value: --set optim.steps=100")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the checkpoint and the log [runs/RECIPE].")
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Train a model on the CPU; writes checkpoint.safetensors and log.jsonl."""
    try:
        config = override(_find(recipe), assignments or [])
        trained = run(config, output or Path("runs") / recipe, _command(recipe, assignments or []))
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        typer.echo(f"cosmos-train: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error
    except KeyboardInterrupt as interrupt:
        typer.echo("cosmos-train: interrupted; the last saved checkpoint is whole", err=True)
        raise typer.Exit(130) from interrupt
    typer.echo(str(trained.checkpoint))


def run(config: TrainConfig, output: Path, command: str) -> Trained:
    """Write the scenes of a recipe as shards, once, and train on them."""
    count = int(config.data.shards.removeprefix("scenes:"))
    data = output / f"scenes-{count}"
    if not data.exists():
        write_layouts(data, split=TRAIN, count=count, layouts=["shards"])
    trainer = Trainer(
        config,
        sorted((data / "shards").glob("*.tar")),
        scenes_tokenizer(model_config(config.architecture)["text_cfg"]["context_length"]),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        output=output,
        command=command,
        world=join_world(config.compute.device),
    )
    return trainer.run()


def _command(recipe: str, assignments: Sequence[str]) -> str:
    """The command as others can repeat it: the output folder is the machine's own matter."""
    pairs = (("--set", assignment) for assignment in assignments)
    return shlex.join(["cosmos-train", recipe, *itertools.chain.from_iterable(pairs)])


def _find(name: str) -> TrainConfig:
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]()


def main() -> None:
    """Entry point of `cosmos-train`."""
    app()


if __name__ == "__main__":
    main()
