"""`cosmos-eval convert`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Argument

from cosmos_core.utils.extras import missing_package
from cosmos_eval.cli import options
from cosmos_eval.cli.options import option
from cosmos_eval.cli.output import print_notes, print_written
from cosmos_eval.types import ModelSpec, UsageError


def convert(
    model: Annotated[
        str, Argument(metavar="MODEL", help="A COSMOS or OpenCLIP ViT, or an hf: CLIPModel.")
    ],
    output: Annotated[Path, option("DIR", "A new folder.")],
    arch: options.Arch = None,
    weights: options.Weights = ModelSpec.weights,
) -> None:
    """Write a model for another library: transformers' CLIPModel, or from hf: OpenCLIP's CLIP.

    The features are compared before the folder appears.
    """
    from cosmos_eval.models.specs import parse_model_spec

    spec = parse_model_spec(model, arch=arch, weights=weights)
    if find_spec("transformers") is None:
        raise UsageError(missing_package("cosmos-eval convert", "transformers", "hf"))
    # Imported after the name is checked, since this imports torch.
    from cosmos_eval.models.convert import convert as convert_model

    print_notes(convert_model(spec, output))
    print_written(output)
