"""The weights that come with the package: models trained on the embedded scenes."""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class BundledModel(NamedTuple):
    """The files of a bundled model.

    The file of weights also states the architecture of the model.
    """

    name: str
    weights_path: Path
    merges_path: Path  # the vocabulary of the tokenizer: its byte pair merges
    card_path: Path  # the model card, which says how the model was trained


def bundled_models() -> dict[str, BundledModel]:
    """Return the models that come with the package by their names, such as `scenes-cosmos`."""
    models = {}
    for weights_path in sorted(FOLDER.glob("*.safetensors")):
        name = weights_path.stem
        models[name] = BundledModel(
            name=name,
            weights_path=weights_path,
            merges_path=FOLDER / "scenes_merges.txt.gz",
            card_path=weights_path.with_suffix(".md"),
        )
    return models
