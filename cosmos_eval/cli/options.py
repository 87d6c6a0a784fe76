"""Options that several commands have, each with the same name, form and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_core.utils.files import require_replaceable
from cosmos_eval.types import Attention, Precision, UsageError, Weights


def writable(path: Path) -> Path:
    """Refuse a file that cannot be written, before the work whose outcome it is to hold.

    The callback of options that name such a file. Raises UsageError.
    """
    try:
        require_replaceable(path)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return path


ArchOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="OpenCLIP architecture or JSON file, where a checkpoint does not say.",
    ),
]
WeightsOption = Annotated[Weights, typer.Option(help="Which of a COSMOS checkpoint's two models.")]
AttentionOption = Annotated[
    Attention | None,
    typer.Option(
        help="Last block of the image tower, for segmentation and similarity maps. "
        "Default: the protocol's.",
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="Arithmetic of the model. amp, in which COSMOS's numbers were published, is float16 "
        "on CUDA and bfloat16 on a CPU."
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1...; auto: a GPU if there is one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
DataRootOption = Annotated[
    str | None, typer.Option("--data-root", metavar="DIR", help="Where downloaded data sets lie.")
]
