"""Options and arguments: all of several commands, and those of one command that fit a line."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from cosmos_eval import types


def option(metavar: str, help: str, **settings: Any) -> Any:
    """Return an option that takes a value, named as its parameter."""
    return Option(metavar=metavar, help=help, **settings)


def flag(names: str, help: str) -> Any:
    """Return an option without a value; `names` may hold a second one, of its opposite."""
    return Option(names, help=help)


def output_file(metavar: str, help: str, *names: str) -> Any:
    """Return the option of a file to write, which is refused before its content is made."""
    return Option(*names, metavar=metavar, callback=_require_writable, help=help)


def _require_writable(path: Path | None) -> Path | None:
    from cosmos_core.utils.files import require_replaceable

    if path is None:
        return None
    try:
        require_replaceable(path)
    except ValueError as error:
        raise types.UsageError(str(error)) from error
    return path


Arch = Annotated[
    str | None,
    option(
        "NAME|FILE",
        "OpenCLIP architecture or JSON file, for a checkpoint that does not state its own.",
    ),
]
Weights = Annotated[types.Weights, Option(help="Which of the two models in a COSMOS checkpoint.")]
Attention = Annotated[
    types.Attention | None,
    Option(
        help="Last block of the image tower, for segmentation and similarity maps. "
        "Default: the protocol's, or csa."
    ),
]
Auxiliary = Annotated[
    str | None,
    option(
        "SPEC",
        "Encoder that guides --attention proxy: timm:ARCH, timm:ARCH/PATH, hf:FOLDER, "
        "hf:ORG/NAME or python:FILE.py.",
    ),
]
Precision = Annotated[
    types.Precision,
    Option(
        help="Arithmetic of the model. amp, in which COSMOS's numbers were published, is float16 "
        "on CUDA and bfloat16 on a CPU."
    ),
]
Device = Annotated[str, Option(help="cpu, cuda, cuda:1...; auto: a GPU if there is one.")]
Json = Annotated[bool, flag("--json", "Print one JSON document.")]
DataRoot = Annotated[str | None, option("DIR", "Folder of downloaded data sets.")]
Download = Annotated[
    bool, flag("--download", "Fetch classification sets missing in --data-root, and wds/ sets.")
]
Stream = Annotated[bool, flag("--stream", "Measure wds/ sets on arrival; --download keeps them.")]
Limit = Annotated[int | None, Option(min=1, help="Only the first N samples; the result is marked.")]
KeepGoing = Annotated[bool, flag("--keep-going", "Continue after a failure; the status is then 1.")]
Executor = Annotated[types.Executor, Option(help="Run here, on a Ray cluster, or as SLURM jobs.")]
Strict = Annotated[bool, flag("--strict", "Refuse results of edited code or of an unknown commit.")]
Published = Annotated[bool, flag("--published", "Add numbers that others published.")]
SourceOfClasses = Annotated[str, option("NAME|FILE", "Data set that gives classes and settings.")]
Model = Annotated[str, option("SPEC", "A model, see `cosmos-eval list models`.")]
ResultFolder = Annotated[Path, Argument(metavar="[DIR]", help="A folder of results.")]
