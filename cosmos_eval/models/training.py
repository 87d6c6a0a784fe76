"""How a model was trained: as a published table, its checkpoint or its model card states it."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from cosmos_core.utils.recipe import IDENTITY, training_identity
from cosmos_eval.data.readers import CONFIG, FileError, Text, parse, read_yaml
from cosmos_eval.models.specs import HUB, TWO_SETS, local_weights, located, parse_model_spec
from cosmos_eval.protocols.facts import training_of
from cosmos_eval.types import ModelSpec, UsageError


def training_facts(spec: ModelSpec) -> dict[str, Any]:
    """Return training data and samples seen of a model that is loaded; None where unknown."""
    unknown = {"training_data": None, "samples_seen": None}
    return unknown | (training_of(spec.text) or _of_checkpoint(spec) or _of_card(spec))


def training_record(spec: ModelSpec) -> dict[str, Any]:
    """Return `model.training` of a result: what the metadata of its checkpoint or a file states,
    empty where neither does. Raises UsageError where one contradicts the other."""
    own, stated = training_identity(_metadata(spec)), spec.training or {}
    known = {name: value for name, value in own.items() if value is not None}
    for name in known.keys() & stated.keys():
        if known[name] != stated[name]:
            kept = f"and its checkpoint states {known[name]}"
            raise UsageError(f"{spec.text}: its {name} is said to be {stated[name]}, {kept}")
    return {**dict.fromkeys(IDENTITY), **stated, **known} if known or stated else {}


def _require_sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise PydanticCustomError("sha256", "must be 64 hexadecimal digits")
    return text


class _Stated(BaseModel):
    """How a model was trained, for one whose checkpoint does not state it."""

    model_config = CONFIG

    group: Text
    seed: Annotated[int, Field(ge=0)] | None = None
    samples: Annotated[int, Field(ge=1)] | None = None
    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    data_sha256: Annotated[str, AfterValidator(_require_sha256)] | None = None


def state_trainings(path: Path, specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """Return models with what a YAML file states of their trainings; names of files in it are
    relative to it. Raises UsageError for other content, for unknown models and those given twice,
    where none of the models is named, and where a checkpoint states otherwise."""
    try:
        content = read_yaml(path, "cosmos:a.pt: {group: my-clip, seed: 1}")
        stated: dict[str, dict[str, Any]] = {}
        for text, entry in content.items():
            name = _place(parse_model_spec(located(text, path.parent)))
            if name in stated:
                raise FileError(f"{text} is given twice")
            stated[name] = _parsed(text, entry)
        found = [replace(spec, training=stated.get(_place(spec))) for spec in specs]
        if not any(spec.training for spec in found):
            raise FileError("names none of the models that are measured")
        for spec in found:
            training_record(spec)
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None
    return found


def _parsed(text: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise FileError(f"{text}: must map names to values, such as `group: my-clip`")
    try:
        return parse(_Stated, entry).model_dump(exclude_none=True)
    except FileError as error:
        raise FileError(f"{text}: {error}") from None


def _place(spec: ModelSpec) -> str:
    """Return the file of a model's weights, so that two names of it are the same, else its name."""
    return str(next((file.resolve() for file in local_weights(spec)), spec.text))


def _metadata(spec: ModelSpec) -> Any:
    """Return what cosmos-train writes into the metadata of its checkpoints; None of others."""
    file = next(iter(local_weights(spec)), None)
    if spec.kind not in TWO_SETS or file is None or file.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    with (
        suppress(SafetensorError),
        safe_open(file, "numpy") as opened,
    ):  # loading says what is wrong
        return json.loads((opened.metadata() or {}).get("training", "null"))
    return None


def _of_checkpoint(spec: ModelSpec) -> dict[str, Any]:
    training = data = _metadata(spec)
    if training is None:
        return {}
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
