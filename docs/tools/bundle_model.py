"""`python docs/tools/bundle_model.py CHECKPOINT NAME`: put weights in float16 and their card into
the package."""

from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer

from cosmos_core.bundled import FOLDER
from cosmos_core.model.checkpoint import build_model, read_checkpoint, save_checkpoint
from cosmos_core.model.export import facts_table, training_facts
from cosmos_core.utils.files import write_atomically

SIZE_LIMIT = 8_000_000  # bytes per file: the package must stay small
CARD = """# {name}

Trained on the embedded scenes (`cosmos_core/data/scenes`) and of use on nothing else. Student and
teacher (the moving average of the student) in float16; evaluation takes the teacher by default.
One training: another seed has other scores, and the settings of segmentation on scenes were chosen
with scenes-cosmos. docs/study.md compares the methods.
MIT licence, like the code.

{facts}
"""


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
        _fail(f"{checkpoint}: not written by cosmos-train", 2)
    training = {**read.training, "commit": read.training["commit"] or commit}
    if training["commit"] is None:
        _fail(f"{checkpoint}: its commit is not known; name it with --commit", 2)
    models = {name: build_model(read, name, None, str(checkpoint)) for name in read.weights}
    path = FOLDER / f"{name}.safetensors"
    save_checkpoint(path, models, read.method, read.architecture, training, torch.float16)
    if path.stat().st_size > SIZE_LIMIT:
        path.unlink()
        _fail(f"{name}: more than {SIZE_LIMIT} bytes", 1)
    parameters = sum(value.numel() for value in read.weights["teacher"].values())
    facts = {**training_facts(read._replace(training=training)), "Parameters": parameters}
    card = CARD.format(name=name, facts=facts_table(facts))
    write_atomically(path.with_suffix(".md"), card.encode())
    typer.echo(str(path))


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(bundle)
