"""Options and arguments that several commands have, each with the same name, form and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cosmos_eval import types


def output_file(metavar: str, help: str) -> Any:
    """Return the option of a file to write, which is refused before its content is made."""
    return typer.Option(metavar=metavar, callback=_require_writable, help=help)


def _require_writable(path: Path) -> Path:
    from cosmos_core.utils.files import require_replaceable

    try:
        require_replaceable(path)
    except ValueError as error:
        raise types.UsageError(str(error)) from error
    return path


Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="OpenCLIP architecture or JSON file, for a checkpoint that does not state its own.",
    ),
]
Weights = Annotated[
    types.Weights, typer.Option(help="Which of the two models in a COSMOS checkpoint.")
]
Attention = Annotated[
    types.Attention | None,
    typer.Option(
        help="Last block of the image tower, for segmentation and similarity maps. "
        "Default: the protocol's, or csa."
    ),
]
Precision = Annotated[
    types.Precision,
    typer.Option(
        help="Arithmetic of the model. amp, in which COSMOS's numbers were published, is float16 "
        "on CUDA and bfloat16 on a CPU."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1...; auto: a GPU if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DataRoot = Annotated[
    str | None, typer.Option("--data-root", metavar="DIR", help="Folder of downloaded data sets.")
]
OwnDatasets = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset", metavar="FILE", help="YAML file that describes your data set; repeatable."
    ),
]
Image = Annotated[Path, typer.Argument(help="An image file.", show_default=False)]
ResultFolder = Annotated[Path, typer.Argument(metavar="[DIR]", help="A folder of results.")]
