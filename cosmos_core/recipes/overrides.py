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
from cosmos_core.utils.recipe import asks_for_scenes
from cosmos_core.utils.text import parse_json

# If a run is shortened, its warm-up takes at most this fraction of its steps.
MAX_WARMUP_FRACTION = 0.2

# The last names of options in other training programs, and the names of the same options here.
SYNONYMS = {
    "learning_rate": "lr",
    "epochs": "steps",
    "max_steps": "steps",
    "iterations": "steps",
    "wd": "weight_decay",
    "warmup": "warmup_steps",
    "num_workers": "workers",
    "image_size": "global_size",
    "ema": "momentum",
    "ema_decay": "momentum",
    "grad_clip_norm": "clip_norm",
    "train_data": "shards",
}


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Return a configuration with values that the user has assigned, such as `optim.lr=1e-3`.

    An assignment of the method is applied first, the others in their order. Another method brings
    its own image views and its own momentum, except on scenes: their captions name colours and
    sides, so the views of the recipe stay. If the number of steps is lowered and no warm-up is
    assigned, the warm-up is shortened too.

    Args:
        config: The configuration of a recipe.
        assignments: Texts of the form KEY=VALUE, as after the option --set.

    Raises:
        ValueError: If an option is unknown, or if a value does not fit. The message has one line.
    """
    recipe = config
    is_on_scenes = asks_for_scenes(recipe.data.shards)
    is_warmup_assigned = False
    # False sorts before True, so an assignment of the method comes first.
    method_first = sorted(assignments, key=lambda text: not text.startswith("method="))
    for assignment in method_first:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value, not {assignment!r}")
        if key == "optim.warmup_steps":
            is_warmup_assigned = True
        try:
            _require_option(config, key)
            config = _replace_value(config, key.split("."), text)
            if key == "method" and not is_on_scenes:
                config = _with_method_views(config, recipe)
        except ValueError as error:
            raise ValueError(f"--set {key}: {error}") from error
    if is_warmup_assigned:
        return config
    return _with_shortened_warmup(config, recipe)


def _with_shortened_warmup(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Return a configuration whose warm-up is not too long for its number of steps.

    Only a configuration with fewer steps than its recipe is changed. Its warm-up takes at most
    MAX_WARMUP_FRACTION of the steps, or the fraction that it takes in the recipe if that is larger.

    Args:
        config: The configuration, in which the user may have lowered the number of steps.
        recipe: The configuration of the recipe, without the values that the user has assigned.
    """
    if config.optim.steps >= recipe.optim.steps:
        return config
    recipe_fraction = recipe.optim.warmup_steps / recipe.optim.steps
    max_fraction = max(MAX_WARMUP_FRACTION, recipe_fraction)
    max_warmup_steps = round(config.optim.steps * max_fraction)
    if config.optim.warmup_steps <= max_warmup_steps:
        return config
    optim = dataclasses.replace(config.optim, warmup_steps=max_warmup_steps)
    return dataclasses.replace(config, optim=optim)


def _with_method_views(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Return a configuration with the image views and the momentum of its method.

    The sizes of images stay as the recipe states them. If the method is the one of the recipe, its
    image views and its optimizer are restored.

    Args:
        config: The configuration, whose method the user has assigned.
        recipe: The configuration of the recipe, without the values that the user has assigned.
    """
    method = config.method
    is_method_of_recipe = method.name == recipe.method.name
    if is_method_of_recipe:
        return dataclasses.replace(config, image=recipe.image, optim=recipe.optim)

    # A method may state its image views and its momentum. Otherwise they are the defaults.
    method_views = getattr(method, "image", ImageViewConfig())
    image = dataclasses.replace(
        method_views,
        global_size=recipe.image.global_size,
        local_size=recipe.image.local_size,
        first_size=recipe.image.first_size,
        first_steps=recipe.image.first_steps,
    )
    momentum = getattr(method, "momentum", OptimConfig.momentum)
    optim = dataclasses.replace(config.optim, momentum=momentum, momentum_ramp=False)
    return dataclasses.replace(config, image=image, optim=optim)


def _replace_value(record: Any, path: Sequence[str], text: str) -> Any:
    """Return a copy of a configuration record in which one option has another value.

    Args:
        record: A whole configuration, or a section of it. The function calls itself for the section
            that has the option.
        path: The names of the option from the outside in: "optim.lr" is `["optim", "lr"]`.
        text: The new value, as the user has written it. A method and an architecture are read from
            a name or a file.

    Raises:
        ValueError: If the text is not a valid value, or if the path does not lead to a single
            value.
    """
    name = path[0]
    old_value = getattr(record, name)
    is_whole_config = isinstance(record, TrainConfig)
    new_values: dict[str, Any]
    if len(path) > 1:
        # The option is in a section of the record.
        if not dataclasses.is_dataclass(old_value):
            raise ValueError(f"{name!r} has no parts")
        new_values = {name: _replace_value(old_value, path[1:], text)}
    elif is_whole_config and name == "method":
        # The hash of the method's file is replaced with it.
        method, file_hash = _read_method(text)
        new_values = {"method": method, "method_sha256": file_hash}
    elif is_whole_config and name == "architecture":
        new_values = {"architecture": _read_architecture(text)}
    elif dataclasses.is_dataclass(old_value):
        option_names = ", ".join(_option_names(old_value))
        raise ValueError(f"{name!r} is not one value; its parts: {option_names}")
    else:
        new_values = {name: _parse_as_type_of(old_value, text)}

    # pydantic checks the new values.
    try:
        return dataclasses.replace(record, **new_values)
    except ValidationError as error:
        raise ValueError(_validation_message(error, old_value)) from error


def _require_option(config: TrainConfig, key: str) -> None:
    """Check that a key names an option of a configuration.

    Args:
        config: The configuration.
        key: The full name of the option, such as "optim.lr".

    Raises:
        ValueError: If the option does not exist. The error suggests similar ones.
    """
    # Follow the key from the whole configuration to the option.
    record: Any = config
    for name in key.split("."):
        if dataclasses.is_dataclass(record) and name not in _option_names(record):
            suggestions = _similar_options(config, key) or _option_names(record)
            raise ValueError(f"no {name!r}; nearest: {', '.join(suggestions)}")
        record = getattr(record, name, None)


def _similar_options(config: TrainConfig, key: str) -> list[str]:
    """Return the full names of options that the user may have meant by an unknown key.

    These are the options with the same last name, or with the name that other programs use. If
    there are none, they are up to three options with a similar spelling.

    Args:
        config: The configuration, which has the options.
        key: The unknown key.

    Example::

        "model.lr" -> ["optim.lr"]
        "learning_rate" -> ["optim.lr"]
    """
    last_name = key.rpartition(".")[2]
    possible_last_names = (last_name, SYNONYMS.get(last_name))
    option_names = [option_name for option_name, _ in option_values(config)]
    names_with_same_end = []
    for option_name in option_names:
        if option_name.rpartition(".")[2] in possible_last_names:
            names_with_same_end.append(option_name)
    if names_with_same_end:
        return names_with_same_end
    return difflib.get_close_matches(key, option_names, n=3, cutoff=0.5)


def option_values(record: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of every option of a configuration.

    For example, `("optim.lr", 0.001)` and `("seed", 0)`. The options of the method are among them,
    but not its name.

    Args:
        record: A whole configuration, or a section of it.
        prefix: The full name of the section with a dot at the end, such as "optim.", or "" for a
            whole configuration. The function calls itself for each section.
    """
    for name in _option_names(record):
        value = getattr(record, name)
        if dataclasses.is_dataclass(value):
            yield from option_values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def option_sources(
    recipe: TrainConfig, config: TrainConfig, assignments: Sequence[str]
) -> dict[str, str]:
    """Return where the values of a configuration come from.

    Args:
        recipe: The configuration of the recipe.
        config: The result of `override(recipe, assignments)`.
        assignments: The assignments of the user, such as "optim.lr=1e-3".

    Returns:
        The source of the method and of each option by its full name, such as {"method": "recipe",
        "optim.lr": "--set", ...}. A source is

        - "--set" if the option was assigned,
        - "method NAME" if the assigned method brought the value,
        - "optim.steps" for a warm-up that was shortened with the number of steps,
        - "default" for the default value,
        - "recipe" for any other value.
    """
    assigned_keys = {assignment.partition("=")[0] for assignment in assignments}
    is_method_assigned = "method" in assigned_keys
    recipe_values = dict(option_values(recipe))
    source_by_name = {"method": "--set" if is_method_assigned else "recipe"}
    for name, value in option_values(config):
        is_changed = name in recipe_values and recipe_values[name] != value
        is_from_method = is_method_assigned and name.startswith("method.")
        if name in assigned_keys:
            source = "--set"
        elif name == "optim.warmup_steps" and is_changed:
            source = "optim.steps"
        elif is_changed or is_from_method:
            source = f"method {config.method.name}"
        elif value == _default_value(config, name):
            source = "default"
        else:
            source = "recipe"
        source_by_name[name] = source
    return source_by_name


def _default_value(config: TrainConfig, name: str) -> Any:
    """Return the default of an option by its full name, or None if it has no default.

    For "optim.lr" it is `OptimConfig.lr`.
    """
    section, _, option = name.rpartition(".")
    record = getattr(config, section) if section else config
    return getattr(type(record), option, None)


def _option_names(record: Any) -> list[str]:
    """Return the names of the fields of a record that the user can assign.

    The name of a method and the hash of its file are left out, since they follow from the method.
    The list is empty if `record` is not a dataclass.
    """
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
    """Return a training method with default options, and the SHA-256 of its file.

    Args:
        text: The name of a built-in method, such as "slip", or the path of a Python file.

    Returns:
        The method, and the hash of its file, which is "" for a built-in method.

    Raises:
        ValueError: If the text is neither. The error suggests a similar name.
    """
    if text in METHODS:
        return METHODS[text](), ""
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        return load_method(path), file_sha256(path)
    problem = f"{text!r} is none of {', '.join(METHODS)}, and no Python file"
    raise ValueError(f"{problem}{_nearest_choice(text, [*METHODS])}")


def _read_architecture(text: str) -> Any:
    """Return an architecture: the name of an OpenCLIP model, or a mapping of its options.

    Args:
        text: A name such as "ViT-B-16", JSON, or the path of a JSON file. The file is read, so that
            a checkpoint of the run states its whole content.

    Raises:
        ValueError: If the name is unknown, or if no model can be built on the architecture.
    """
    value = _parse_json_or_text(text)
    if isinstance(value, dict):
        return model_config(value)
    architecture_config = model_config(text)
    if text.endswith(".json"):
        return architecture_config
    return text


def _parse_as_type_of(old_value: Any, text: str) -> Any:
    """Return the value that a text spells, if possible of the type that the old value has.

    Strings need no quotes, and tuples need no brackets. The type of the result is not checked here:
    pydantic does it.

    Args:
        old_value: The value of the option so far.
        text: The new value, as the user has written it.

    Example::

        (0.4, 1.0), "0.5, 1" -> (0.5, 1)
        ("a", "b"), "c d" -> ("c", "d")
        (), "c,d" -> ("c", "d")
        "red", "blue" -> "blue"
    """
    if isinstance(old_value, str):
        return text
    if not isinstance(old_value, tuple):
        return _parse_json_or_text(text)
    is_tuple_of_strings = len(old_value) > 0 and isinstance(old_value[0], str)
    if is_tuple_of_strings:
        return _words(text)
    json_list = text if text.startswith("[") else f"[{text}]"
    value = _parse_json_or_text(json_list)
    if isinstance(value, list):
        return tuple(value)
    # An empty tuple does not tell its type: a text that is not JSON is a list of words.
    return value if old_value else _words(text)


def _words(text: str) -> tuple[str, ...]:
    """Return the words between blanks, commas, brackets and quotes."""
    return tuple(re.findall(r"[^\s,\[\]\"']+", text))


def _parse_json_or_text(text: str) -> Any:
    """Return the value of a JSON text, or the text itself if it is not valid JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _validation_message(error: ValidationError, old_value: Any) -> str:
    """Return an error message for a value that pydantic has refused, in one line.

    It is pydantic's first message and the value. For an option with named choices, the most similar
    choice is added. For other options, the old value is added as an example, unless it is empty.

    Args:
        error: The error of pydantic.
        old_value: The value of the option so far.

    Example:
        "Input should be greater than 0, not -1; for example 0.001"
    """
    first_error = error.errors()[0]
    message, value = first_error["msg"], first_error["input"]
    if first_error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", message)
        return f"{message}, not {value!r}{_nearest_choice(value, choices)}"
    if old_value == ():
        return f"{message}, not {value!s:.60}"
    if isinstance(old_value, tuple):
        example = ", ".join(str(element) for element in old_value)
    else:
        example = json.dumps(old_value)
    return f"{message}, not {value!s:.60}; for example {example}"


def _nearest_choice(text: str, choices: Sequence[str]) -> str:
    """Return the end of an error message with the choice that is most similar to a text.

    Args:
        text: The text that is not one of the choices, such as "slipp".
        choices: The valid texts.

    Returns:
        A text such as "; nearest: slip", or "" if no choice is similar.
    """
    matches = difflib.get_close_matches(text, choices, n=1)
    return f"; nearest: {matches[0]}" if matches else ""
