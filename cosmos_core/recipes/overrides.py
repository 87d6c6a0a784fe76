"""Replace values of a configuration, as `--set a.b=value` asks for.

Values are JSON, but strings and choices need no quotes, and tuples need no brackets. `method=slip`,
or `method=FILE.py` for a method of the user's own, replaces the recipe's method and its options.
`architecture` is an OpenCLIP name, a JSON file, or JSON.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cosmos_core.config import ImageViewConfig, OptimConfig, TrainConfig
from cosmos_core.methods import METHODS, load_method
from cosmos_core.model.build import model_config
from cosmos_core.types import Method
from cosmos_core.utils.files import file_sha256
from cosmos_core.utils.recipe import SCENES
from cosmos_core.utils.text import parse_json

# The largest fraction of a shortened run's steps that the warm-up takes.
MAX_WARMUP_FRACTION = 0.2

# Names that other training programs give to options, and the names here.
SYNONYMS = {
    "learning_rate": "lr",
    "epochs": "steps",
    "max_steps": "steps",
    "iterations": "steps",
    "wd": "weight_decay",
    "warmup": "warmup_steps",
    "num_workers": "workers",
    "image_size": "global_size",
    "grad_clip_norm": "clip_norm",
    "train_data": "shards",
}


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Return a configuration with the values that the assignments set.

    An assignment of the method is applied first, the others in their order. Another method brings
    its own image views and its own momentum, except on scenes: their captions name colours and
    sides, so the views of the recipe stay. If the number of steps is lowered and no warm-up is
    set, the warm-up is shortened too. Raises ValueError, one line, for wrong keys and values.
    """
    recipe = config
    on_scenes = recipe.data.shards.startswith(SCENES)
    warmup_is_set = False
    for assignment in sorted(assignments, key=lambda text: not text.startswith("method=")):
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value, not {assignment!r}")
        if key == "optim.warmup_steps":
            warmup_is_set = True
        try:
            _require_option(config, key)
            config = _replace_value(config, key.split("."), text)
            if key == "method" and not on_scenes:
                config = _with_method_views(config, recipe)
        except ValueError as error:
            raise ValueError(f"--set {key}: {error}") from error
    if warmup_is_set:
        return config
    return _with_shortened_warmup(config, recipe)


def _with_shortened_warmup(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Limit the warm-up of a run that has fewer steps than its recipe.

    The limit is MAX_WARMUP_FRACTION of the steps, or the recipe's own fraction if it is larger.
    """
    if config.optim.steps >= recipe.optim.steps:
        return config
    recipe_fraction = recipe.optim.warmup_steps / recipe.optim.steps
    max_warmup_steps = round(config.optim.steps * max(MAX_WARMUP_FRACTION, recipe_fraction))
    if config.optim.warmup_steps <= max_warmup_steps:
        return config
    optim = dataclasses.replace(config.optim, warmup_steps=max_warmup_steps)
    return dataclasses.replace(config, optim=optim)


def _with_method_views(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Take image views and momentum from the method, and image sizes from the recipe.

    If the method is the recipe's own, the views and the optimizer of the recipe are restored.
    """
    method = config.method
    if method.name == recipe.method.name:
        return dataclasses.replace(config, image=recipe.image, optim=recipe.optim)
    method_views = getattr(method, "image", ImageViewConfig())
    image = dataclasses.replace(
        method_views,
        global_size=recipe.image.global_size,
        local_size=recipe.image.local_size,
    )
    momentum = getattr(method, "momentum", OptimConfig.momentum)
    optim = dataclasses.replace(config.optim, momentum=momentum, momentum_ramp=False)
    return dataclasses.replace(config, image=image, optim=optim)


def _replace_value(record: Any, path: Sequence[str], text: str) -> Any:
    """Return a configuration record with the value at `path` parsed from `text`."""
    name = path[0]
    old_value = getattr(record, name)
    changes: dict[str, Any]
    if len(path) > 1:
        if not dataclasses.is_dataclass(old_value):
            raise ValueError(f"{name!r} has no parts")
        changes = {name: _replace_value(old_value, path[1:], text)}
    elif isinstance(record, TrainConfig) and name == "method":
        method, file_hash = _read_method(text)
        changes = {"method": method, "method_sha256": file_hash}
    elif isinstance(record, TrainConfig) and name == "architecture":
        changes = {"architecture": _read_architecture(text)}
    elif dataclasses.is_dataclass(old_value):
        option_names = ", ".join(_option_names(old_value))
        raise ValueError(f"{name!r} is not one value; its parts: {option_names}")
    else:
        changes = {name: _parse_as_type_of(old_value, text)}
    try:
        return dataclasses.replace(record, **changes)
    except ValidationError as error:
        raise ValueError(_validation_message(error, old_value)) from error


def _require_option(config: TrainConfig, key: str) -> None:
    """Raise ValueError, with the nearest option names, if `key` does not name an option."""
    record: Any = config
    for name in key.split("."):
        if dataclasses.is_dataclass(record) and name not in _option_names(record):
            suggestions = _similar_options(config, key) or _option_names(record)
            raise ValueError(f"no {name!r}; nearest: {', '.join(suggestions)}")
        record = getattr(record, name, None)


def _similar_options(config: TrainConfig, key: str) -> list[str]:
    """Return full names of options: those with the same last name or its synonym, else similar."""
    last_name = key.rpartition(".")[2]
    option_names = [name for name, _ in values(config)]
    same_last_name = [
        option_name
        for option_name in option_names
        if option_name.rpartition(".")[2] in (last_name, SYNONYMS.get(last_name))
    ]
    if same_last_name:
        return same_last_name
    return difflib.get_close_matches(key, option_names, n=3, cutoff=0.5)


def values(record: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of every option except the method itself."""
    for name in _option_names(record):
        value = getattr(record, name)
        if dataclasses.is_dataclass(value):
            yield from values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def sources(recipe: TrainConfig, config: TrainConfig, assignments: Sequence[str]) -> dict[str, str]:
    """Return where the method and each option of `values(config)` come from.

    A source is "--set", "method NAME" if the assigned method brought the value, "optim.steps" for
    a shortened warm-up, "recipe", or "default".
    """
    assigned_keys = {assignment.partition("=")[0] for assignment in assignments}
    recipe_values = dict(values(recipe))
    origins = {"method": "--set" if "method" in assigned_keys else "recipe"}
    for name, value in values(config):
        changed = name in recipe_values and recipe_values[name] != value
        option_of_assigned_method = name.startswith("method.") and "method" in assigned_keys
        if name in assigned_keys:
            origins[name] = "--set"
        elif name == "optim.warmup_steps" and changed:
            origins[name] = "optim.steps"
        elif changed or option_of_assigned_method:
            origins[name] = f"method {config.method.name}"
        elif value == _default_value(config, name):
            origins[name] = "default"
        else:
            origins[name] = "recipe"
    return origins


def _default_value(config: TrainConfig, name: str) -> Any:
    """Return the default of an option by its full name, or None if it has no default."""
    section, _, option = name.rpartition(".")
    record = getattr(config, section) if section else config
    return getattr(type(record), option, None)


def _option_names(record: Any) -> list[str]:
    """Return the fields that can be set; name and file hash of a method follow from the method."""
    if not dataclasses.is_dataclass(record):
        return []
    names = [field.name for field in dataclasses.fields(record)]
    is_method = hasattr(record, "create_student")
    if is_method:
        names.remove("name")
    if "method_sha256" in names:
        names.remove("method_sha256")
    return names


def _read_method(text: str) -> tuple[Method, str]:
    """Return a method with default options, and its file's SHA-256 or "" for a built-in method."""
    if text in METHODS:
        return METHODS[text](), ""
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        return load_method(path), file_sha256(path)
    problem = f"{text!r} is none of {', '.join(METHODS)}, and no Python file"
    raise ValueError(f"{problem}{_nearest_choice(text, [*METHODS])}")


def _read_architecture(text: str) -> Any:
    """Return an OpenCLIP name as it is, and the content of JSON or of a JSON file.

    A file is read so that a checkpoint of the run states its whole content.
    """
    value = _parse_json_or_text(text)
    if isinstance(value, dict):
        return model_config(value)
    config = model_config(text)
    return config if text.endswith(".json") else text


def _parse_as_type_of(old_value: Any, text: str) -> Any:
    """Parse a text to the type that `old_value` has; pydantic checks the result."""
    if isinstance(old_value, str):
        return text
    if not isinstance(old_value, tuple):
        return _parse_json_or_text(text)
    if old_value and isinstance(old_value[0], str):
        return tuple(re.findall(r"[^\s,\[\]\"']+", text))
    value = _parse_json_or_text(text if text.startswith("[") else f"[{text}]")
    return tuple(value) if isinstance(value, list) else value


def _parse_json_or_text(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _validation_message(error: ValidationError, old_value: Any) -> str:
    """Return pydantic's first message with the nearest choice, or with the old value as example."""
    first_error = error.errors()[0]
    message, value = first_error["msg"], first_error["input"]
    if first_error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", message)
        return f"{message}, not {value!r}{_nearest_choice(value, choices)}"
    if isinstance(old_value, tuple):
        example = ", ".join(str(element) for element in old_value)
    else:
        example = json.dumps(old_value)
    return f"{message}, not {value!s:.60}; for example {example}"


def _nearest_choice(text: str, choices: Sequence[str]) -> str:
    """Return the end of an error message that names the choice most like `text`, if any is."""
    matches = difflib.get_close_matches(text, choices, n=1)
    return f"; nearest: {matches[0]}" if matches else ""
