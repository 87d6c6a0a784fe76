"""How a model was trained: as a published table, its checkpoint or its model card states it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos_eval.models.specs import HUB, TWO_SETS, local_weights
from cosmos_eval.protocols.facts import training_of
from cosmos_eval.types import ModelSpec


def training_facts(spec: ModelSpec) -> dict[str, Any]:
    """Return training data and samples seen of a model that is loaded; None where unknown."""
    unknown = {"training_data": None, "samples_seen": None}
    return unknown | (training_of(spec.text) or _of_checkpoint(spec) or _of_card(spec))


def _of_checkpoint(spec: ModelSpec) -> dict[str, Any]:
    """Read what cosmos-train writes into the metadata of its checkpoints."""
    file = next(iter(local_weights(spec)), None)
    if spec.kind not in TWO_SETS or file is None or file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, "numpy") as opened:
        training = json.loads((opened.metadata() or {}).get("training", "null"))
    data: Any = training
    for key in ("config", "data", "shards"):
        data = data.get(key) if isinstance(data, Mapping) else None
    seen = training.get("samples_seen") if isinstance(training, Mapping) else None
    counted = seen if type(seen) is int and seen > 0 else None
    return {"training_data": _named(data), "samples_seen": counted}


def _of_card(spec: ModelSpec) -> dict[str, Any]:
    """Read the data sets that the front matter of a model card names."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    from cosmos_eval.data.hub import quiet

    if spec.kind not in ("hf", "openclip") or spec.arch is not None:
        return {}
    card: Any = Path(spec.name, "README.md")
    if not card.parent.is_dir():
        repository, _, revision = spec.name.removeprefix(HUB).partition("@")
        card = try_to_load_from_cache(repository, card.name, revision=revision or None)
    try:
        with quiet():
            named = ModelCard.load(card, ignore_metadata_errors=True).data.datasets
    except Exception:  # no card, or one that is not as the hub wants it
        return {}
    listed = named if isinstance(named, list) else [named]
    return {"training_data": _named(", ".join(one for one in listed if isinstance(one, str)))}


def _named(data: Any) -> str | None:
    """Return a text as results can hold it, None for anything else."""
    return data.encode(errors="replace").decode() or None if isinstance(data, str) else None
