"""`cosmos-eval segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_json, print_records, print_written
from cosmos_eval.types import RunOptions


def segment(
    image: Annotated[Path, typer.Argument(help="An image file.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.png", callback=options.require_output_file, help="The picture to write."
        ),
    ] = Path("segmented.png"),
    classes: Annotated[
        str | None,
        typer.Option(help="Names separated by commas. Default: the classes of the data set."),
    ] = None,
    dataset: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Data set that gives classes and settings.")
    ] = "scenes-seg",
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="Settings of this family.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="SPEC", help="A model, see `cosmos-eval list models`.")
    ] = "scenes-cosmos",
    arch: options.Arch = None,
    weights: options.Weights = "teacher",
    attention: options.Attention = None,
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Draw the segmentation of one image: image, label map, legend."""
    from cosmos_eval.models.specs import parse_model_spec
    from cosmos_eval.tasks import find_protocol

    known = find_protocol(dataset, protocol)
    spec = parse_model_spec(model, arch=arch, weights=weights)
    # After all names are checked: this imports torch.
    from cosmos_eval.report.segment import segment as draw

    shares = draw(
        image,
        out,
        spec=spec,
        protocol=known,
        classes=tuple(name.strip() for name in classes.split(",")) if classes is not None else (),
        options=RunOptions(attention=attention),
        device=device,
        precision=precision,
    )
    if json:
        print_json(shares)
    else:
        cells = {name: f"{100 * share:.1f}" for name, share in shares.items()}
        print_records([{"class": name, "pixels (%)": cell} for name, cell in cells.items()])
    print_written(out)
