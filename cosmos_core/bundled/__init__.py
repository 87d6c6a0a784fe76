"""The weights that come with the package: models trained on the embedded scenes."""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class BundledModel(NamedTuple):
    """Files of a bundled model; the weights (our layout) state their own architecture."""

    name: str
    weights_path: Path
    merges_path: Path  # vocabulary of the tokenizer
    card_path: Path  # how it was trained


def bundled_models() -> dict[str, BundledModel]:
    """Return the bundled models by name, e.g. `scenes-cosmos`."""
    merges = FOLDER / "scenes_merges.txt.gz"
    return {
        path.stem: BundledModel(path.stem, path, merges, path.with_suffix(".md"))
        for path in sorted(FOLDER.glob("*.safetensors"))
    }
