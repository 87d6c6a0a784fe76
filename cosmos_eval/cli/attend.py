"""`cosmos-eval attend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import (
    ArchOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    WeightsOption,
    writable,
)
from cosmos_eval.types import Attention


def attend(
    image: Annotated[Path | None, typer.Argument(help="An image file.", show_default=False)] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="What to look for; repeatable, a row each.", show_default=False),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Instead: columns image and text, images relative to FILE."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.png|.svg|.html", callback=writable, help="Where the picture is written."
        ),
    ] = Path("attention.png"),
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC", help="A model; repeatable, a column each. Default: scenes-cosmos."
        ),
    ] = None,
    arch: ArchOption = None,
    weights: WeightsOption = "teacher",
    kind: Annotated[
        Literal["cross-attention", "similarity", "both"] | None,
        typer.Option(help="What maps show. Default: cross-attention where a model has it."),
    ] = None,
    heads: Annotated[
        Literal["mean", "each"], typer.Option(help="Heads of cross-attention: averaged, or each.")
    ] = "mean",
    attention: Annotated[
        Attention | None,
        typer.Option(help="Last block of the image tower, for similarity. Default: csa."),
    ] = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw what a model looks at in an image, given a text, and in the text, given the image."""
    from cosmos_eval.models.specs import parse_model_spec

    names = model or ["scenes-cosmos"]
    specs = [parse_model_spec(name, arch=arch, weights=weights) for name in names]
    from cosmos_eval.report.attention import AttendOptions, draw, read_pairs

    options = AttendOptions(
        kind=kind, heads=heads, attention=attention, device=device, precision=precision
    )
    rows = draw(read_pairs(image, text or [], csv), specs, options, out)
    display.show_looks(rows, out, as_json=json)
    display.show_wrote(out)
