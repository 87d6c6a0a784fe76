"""`cosmos-eval segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import (
    ArchOption,
    AttentionOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    WeightsOption,
    writable,
)
from cosmos_eval.types import RunOptions


def segment(
    image: Annotated[Path, typer.Argument(help="An image file.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.png",
            callback=writable,
            help="Where the picture is written.",
        ),
    ] = Path("segmented.png"),
    classes: Annotated[
        str | None,
        typer.Option(help="What to find, separated by commas. Default: the data set's classes."),
    ] = None,
    dataset: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Whose classes and settings are used.")
    ] = "scenes-seg",
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="Settings of this family.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="SPEC", help="A model, see `cosmos-eval list models`.")
    ] = "scenes-cosmos",
    arch: ArchOption = None,
    weights: WeightsOption = "teacher",
    attention: AttentionOption = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Segment one image and draw image, label map and legend in one picture."""
    from cosmos_eval.models.specs import parse_model_spec
    from cosmos_eval.tasks import find_protocol

    known = find_protocol(dataset, protocol)
    spec = parse_model_spec(model, arch=arch, weights=weights)
    names = tuple(name.strip() for name in classes.split(",")) if classes is not None else ()
    from cosmos_eval.report.segment import segment as draw

    shares = draw(
        image,
        out,
        spec=spec,
        protocol=known,
        classes=names,
        options=RunOptions(attention=attention),
        device=device,
        precision=precision,
    )
    display.show_shares(shares, as_json=json)
    display.show_wrote(out)
