"""How a model was trained, as stated by a published table, its checkpoint or its model card."""

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
    """Return the training data and the samples seen of a model, None if unknown.

    The model must have been loaded, because its card is not fetched here.
    """
    unknown = {"training_data": None, "samples_seen": None}
    stated = training_of(spec.text) or _checkpoint_facts(spec) or _card_facts(spec)
    return unknown | stated


def training_record(spec: ModelSpec) -> dict[str, Any]:
    """Return the record of a training that a result has under `model.training`.

    Its values are stated by the metadata of the checkpoint or by the user's file. The record is
    empty if neither states anything. Raises UsageError if they contradict each other.
    """
    in_file = spec.training or {}
    in_checkpoint = {}
    for name, value in training_identity(_metadata(spec)).items():
        if value is not None:
            in_checkpoint[name] = value
    for name in in_checkpoint.keys() & in_file.keys():
        if in_checkpoint[name] != in_file[name]:
            raise UsageError(
                f"{spec.text}: its {name} is said to be {in_file[name]}, and its checkpoint states "
                f"{in_checkpoint[name]}"
            )
    if not in_checkpoint and not in_file:
        return {}
    return {**dict.fromkeys(IDENTITY), **in_file, **in_checkpoint}


def _require_sha256(text: str) -> str:
    """Return a text that is a SHA-256. Raises PydanticCustomError for any other text."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise PydanticCustomError("sha256", "must be 64 hexadecimal digits")
    return text


class _Stated(BaseModel):
    """A user's statement of how a model was trained, if its checkpoint does not state it."""

    model_config = CONFIG

    group: Text
    seed: Annotated[int, Field(ge=0)] | None = None
    samples: Annotated[int, Field(ge=1)] | None = None
    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    data_sha256: Annotated[str, AfterValidator(_require_sha256)] | None = None


def state_trainings(path: Path, specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """Return model specifications with the trainings that a YAML file states for them.

    The file maps names of models to trainings. Paths in these names are relative to the file.
    Raises UsageError for other content, for an unknown model, for a model that is named twice, if
    none of the models is named, and if a checkpoint states otherwise.
    """
    try:
        content = read_yaml(path, "cosmos:a.pt: {group: my-clip, seed: 1}")
        trainings: dict[str, dict[str, Any]] = {}
        for text, entry in content.items():
            name = _file_or_name(parse_model_spec(located(text, path.parent)))
            if name in trainings:
                raise FileError(f"{text} is given twice")
            trainings[name] = _parse_training(text, entry)
        specs_with_trainings = [
            replace(spec, training=trainings.get(_file_or_name(spec))) for spec in specs
        ]
        if not any(spec.training for spec in specs_with_trainings):
            raise FileError("names none of the models that are measured")
        for spec in specs_with_trainings:
            training_record(spec)
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None
    return specs_with_trainings


def _parse_training(text: str, entry: Any) -> dict[str, Any]:
    """Return the values of an entry of the file, which describes the training of model `text`."""
    if not isinstance(entry, dict):
        raise FileError(f"{text}: must map names to values, such as `group: my-clip`")
    try:
        return parse(_Stated, entry).model_dump(exclude_none=True)
    except FileError as error:
        raise FileError(f"{text}: {error}") from None


def _file_or_name(spec: ModelSpec) -> str:
    """Return the path of a model's weights, or the model's name if they are not a local file.

    Different names of a model have the same path.
    """
    files = local_weights(spec)
    return str(files[0].resolve()) if files else spec.text


def _metadata(spec: ModelSpec) -> Any:
    """Return the `training` that cosmos-train wrote into the metadata of a checkpoint.

    Return None for other models.
    """
    files = local_weights(spec)
    if spec.kind not in TWO_SETS or not files or files[0].suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    # Loading the model reports what is wrong with a damaged file.
    with suppress(SafetensorError), safe_open(files[0], "numpy") as opened:
        return json.loads((opened.metadata() or {}).get("training", "null"))
    return None


def _checkpoint_facts(spec: ModelSpec) -> dict[str, Any]:
    """Return the training facts that a checkpoint of cosmos-train states."""
    training = _metadata(spec)
    if training is None:
        return {}
    shards = training
    for key in ("config", "data", "shards"):
        shards = shards.get(key) if isinstance(shards, Mapping) else None
    samples_seen = training.get("samples_seen") if isinstance(training, Mapping) else None
    if type(samples_seen) is not int or samples_seen <= 0:
        samples_seen = None
    return {"training_data": _valid_text(shards), "samples_seen": samples_seen}


def _card_facts(spec: ModelSpec) -> dict[str, Any]:
    """Return the training facts that the front matter of a model card states: its data sets."""
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
            datasets = ModelCard.load(card, ignore_metadata_errors=True).data.datasets
    except Exception:  # a missing card, or a card that does not have the hub's format
        return {}
    if not isinstance(datasets, list):
        datasets = [datasets]
    names = [dataset for dataset in datasets if isinstance(dataset, str)]
    return {"training_data": _valid_text(", ".join(names))}


def _valid_text(value: Any) -> str | None:
    """Return a text in valid UTF-8, which results need.

    Return None if the value is empty or not a text.
    """
    if not isinstance(value, str):
        return None
    return value.encode(errors="replace").decode() or None
