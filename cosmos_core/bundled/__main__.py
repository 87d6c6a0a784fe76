"""`python -m cosmos_core.bundled CHECKPOINT NAME`: put trained weights into the package.

Stores student and teacher in float16 (they are loaded into float32 parameters) and writes the
card beside them from what the checkpoint says of its training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from cosmos_core.bundled import FOLDER
from cosmos_core.model.checkpoint import (
    Checkpoint,
    build_model,
    read_checkpoint,
    save_checkpoint,
)
from cosmos_core.model.export import facts_table, training_facts
from cosmos_core.utils.files import write_atomically

SIZE_LIMIT = 8_000_000  # bytes a file: the package must stay small


def bundle(
    checkpoint: Annotated[Path, typer.Argument(help="Written by cosmos-train.")],
    name: Annotated[str, typer.Argument(help="Name of the bundled model, e.g. scenes-cosmos.")],
    commit: Annotated[
        str | None, typer.Option(help="Commit of the code, where it ran outside a checkout.")
    ] = None,
) -> None:
    """Put trained weights into the package, with their card."""
    read = read_checkpoint(checkpoint)
    if read.architecture is None or read.training is None:
        typer.echo(f"{checkpoint}: not written by cosmos-train", err=True)
        raise typer.Exit(2)
    training = {**read.training, "commit": read.training["commit"] or commit}
    if training["commit"] is None:
        typer.echo(f"{checkpoint}: its commit is not known; name it with --commit", err=True)
        raise typer.Exit(2)
    models = {name: build_model(read, name, None, str(checkpoint)) for name in read.weights}
    path = FOLDER / f"{name}.safetensors"
    save_checkpoint(path, models, read.method, read.architecture, training, torch.float16)
    if path.stat().st_size > SIZE_LIMIT:
        path.unlink()
        typer.echo(f"{name}: more than {SIZE_LIMIT} bytes", err=True)
        raise typer.Exit(1)
    write_atomically(
        path.with_suffix(".md"), card_text(name, read._replace(training=training)).encode()
    )
    typer.echo(str(path))


def card_text(name: str, checkpoint: Checkpoint) -> str:
    """A model card in Markdown."""
    parameters = sum(value.numel() for value in checkpoint.weights["teacher"].values())
    facts = {**training_facts(checkpoint), "Parameters": parameters}
    return f"""# {name}

Trained on the embedded scenes (`cosmos_core/data/scenes`) and of use on nothing else. Student and
teacher (the moving average of the student) in float16; evaluation takes the teacher by default.
MIT licence, like the code.

{facts_table(facts)}
"""


if __name__ == "__main__":
    typer.run(bundle)
