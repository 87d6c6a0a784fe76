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
from cosmos_eval.models.specs import (
    HUB,
    TWO_SETS,
    local_weights,
    parse_model_spec,
    with_complete_paths,
)
from cosmos_eval.protocols.facts import training_of
from cosmos_eval.types import ModelSpec, UsageError


def training_facts(spec: ModelSpec) -> dict[str, Any]:
    """Return the training data of a model, and how many samples the model saw in training.

    They are stated by a table of published models, by the model's checkpoint, or by its model card.
    The model must have been loaded, because its card is not fetched here. Unknown values are None.

    Example:
        {"training_data": "LAION-2B", "samples_seen": 34000000000}
    """
    unknown_facts = {"training_data": None, "samples_seen": None}
    published_facts = training_of(spec.text)
    if published_facts:
        return {**unknown_facts, **published_facts}
    training = _read_training_metadata(spec)
    if training is None:  # not a checkpoint of cosmos-train
        return {**unknown_facts, **_card_facts(spec)}

    # The checkpoint names the data by the pattern of their files,
    # training["config"]["data"]["shards"]. Each step may be missing or have another type.
    shards = training
    for key in ("config", "data", "shards"):
        shards = shards.get(key) if isinstance(shards, Mapping) else None
    samples_seen = training.get("samples_seen") if isinstance(training, Mapping) else None
    is_positive_int = type(samples_seen) is int and samples_seen > 0
    return {
        "training_data": _valid_text_or_none(shards),
        "samples_seen": samples_seen if is_positive_int else None,
    }


def training_record(spec: ModelSpec) -> dict[str, Any]:
    """Return what identifies the training of a model, as a result has it under `model.training`.

    The values are stated by the metadata of the checkpoint, or by a file of the user. Values that
    neither of them states are None. The record is empty if no value is stated.

    Args:
        spec: The specification of the model. `spec.training` holds the values of the user's file.

    Raises:
        UsageError: If the checkpoint and the user's file contradict each other.

    Example:
        {"group": "my-clip", "seed": 1, "samples": None, ...}
    """
    user_values = spec.training or {}
    checkpoint_values = {}
    for name, value in training_identity(_read_training_metadata(spec)).items():
        if value is not None:
            checkpoint_values[name] = value

    names_in_both = checkpoint_values.keys() & user_values.keys()
    for name in names_in_both:
        if checkpoint_values[name] != user_values[name]:
            raise UsageError(
                f"{spec.text}: its {name} is said to be {user_values[name]}, and its checkpoint "
                f"states {checkpoint_values[name]}"
            )

    if not checkpoint_values and not user_values:
        return {}
    unknown_values = dict.fromkeys(IDENTITY)
    return {**unknown_values, **user_values, **checkpoint_values}


def _require_sha256(text: str) -> str:
    """Return the text itself if it is a SHA-256. Raises PydanticCustomError for any other text."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise PydanticCustomError("sha256", "must be 64 hexadecimal digits")
    return text


class _StatedTraining(BaseModel):
    """A user's statement of how a model was trained, if its checkpoint does not state it."""

    model_config = CONFIG

    group: Text
    seed: Annotated[int, Field(ge=0)] | None = None
    samples: Annotated[int, Field(ge=1)] | None = None
    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    data_sha256: Annotated[str, AfterValidator(_require_sha256)] | None = None


def state_trainings(path: Path, specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """Return model specifications with the trainings that a user's YAML file states for them.

    Args:
        path: The path of the file. It maps names of models to trainings, such as
            `cosmos:a.pt: {group: my-clip, seed: 1}`. Paths in these names are relative to the file.
        specs: The specifications of the models that are measured.

    Raises:
        UsageError: If the file has other content, names an unknown model, names a model twice, or
            names none of the models that are measured, and if a checkpoint states another training.
    """
    try:
        # Read the training of each model in the file.
        content = read_yaml(path, "cosmos:a.pt: {group: my-clip, seed: 1}")
        training_by_model: dict[str, dict[str, Any]] = {}
        for text, entry in content.items():
            named_spec = parse_model_spec(with_complete_paths(text, path.parent))
            model = _file_or_name(named_spec)  # two names of the same file are the same model
            if model in training_by_model:
                raise FileError(f"{text} is given twice")
            training_by_model[model] = _parse_training(text, entry)

        # Assign the trainings to the models that are measured.
        specs_with_trainings = []
        for spec in specs:
            training = training_by_model.get(_file_or_name(spec))  # None if the file lacks it
            specs_with_trainings.append(replace(spec, training=training))
        if not any(spec.training for spec in specs_with_trainings):
            raise FileError("names none of the models that are measured")
        for spec in specs_with_trainings:
            training_record(spec)  # raises UsageError if the checkpoint states otherwise
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None
    return specs_with_trainings


def _parse_training(text: str, entry: Any) -> dict[str, Any]:
    """Return the values of the training that a user's file states for one model.

    Args:
        text: The name of the model in the file.
        entry: The value of that name, such as {"group": "my-clip", "seed": 1}.

    Raises:
        FileError: If the entry does not describe a training.
    """
    if not isinstance(entry, dict):
        raise FileError(f"{text}: must map names to values, such as `group: my-clip`")
    try:
        return parse(_StatedTraining, entry).model_dump(exclude_none=True)
    except FileError as error:
        raise FileError(f"{text}: {error}") from None


def _file_or_name(spec: ModelSpec) -> str:
    """Return the complete path of a model's weights, or the model's name if they are not a file.

    Two names of the same file, such as "cosmos:a.pt" and "cosmos:./a.pt", have the same path.
    """
    files = local_weights(spec)
    return str(files[0].resolve()) if files else spec.text


def _read_training_metadata(spec: ModelSpec) -> Any:
    """Return the record of the training that cosmos-train wrote into the header of a checkpoint.

    Return None for models that are not a checkpoint of cosmos-train.

    Example:
        {"config": {"data": {"shards": "cc3m/{0..331}.tar"}, ...}, "samples_seen": 96000000, ...}
    """
    files = local_weights(spec)
    is_safetensors = bool(files) and files[0].suffix == ".safetensors"
    if spec.kind not in TWO_SETS or not is_safetensors:
        return None
    from safetensors import SafetensorError, safe_open

    # A damaged file is reported when the model is loaded.
    with suppress(SafetensorError), safe_open(files[0], "numpy") as checkpoint:
        metadata = checkpoint.metadata() or {}
        return json.loads(metadata.get("training", "null"))
    return None


def _card_facts(spec: ModelSpec) -> dict[str, Any]:
    """Return the training data that a model card states: the names of its data sets.

    The card is the README.md in the model's folder, or in the cache of the hub's client. The result
    is empty without a card.

    Example:
        {"training_data": "laion/laion400m"}
    """
    from huggingface_hub import ModelCard, try_to_load_from_cache

    from cosmos_eval.data.hub import quiet

    has_card = spec.kind in ("hf", "openclip") and spec.arch is None
    if not has_card:
        return {}

    # The name of the model is a folder, or a repository such as "hf-hub:ORG/NAME@REVISION".
    card_path: Any = Path(spec.name, "README.md")
    if not card_path.parent.is_dir():
        repository, _, revision = spec.name.removeprefix(HUB).partition("@")
        card_path = try_to_load_from_cache(repository, "README.md", revision=revision or None)
    try:
        with quiet():
            datasets = ModelCard.load(card_path, ignore_metadata_errors=True).data.datasets
    except Exception:  # a missing card, or a card that does not have the hub's format
        return {}

    # The card states one name, a list of names, or none.
    if not isinstance(datasets, list):
        datasets = [datasets]
    names = [dataset for dataset in datasets if isinstance(dataset, str)]
    return {"training_data": _valid_text_or_none(", ".join(names))}


def _valid_text_or_none(value: Any) -> str | None:
    """Return a text that UTF-8 can hold, or None if the value is empty or not a text.

    Characters that UTF-8 lacks (halves of surrogate pairs) are replaced by "?".
    """
    if not isinstance(value, str):
        return None
    return value.encode(errors="replace").decode() or None
