"""`--set a.b=value`: a configuration with some of its values replaced.

Values are JSON; texts and choices need no quotes, tuples no brackets. Two keys are special:
`method=slip` puts another method, with its own options, in place of the recipe's;
`architecture` is an OpenCLIP name, a JSON file, or JSON.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cosmos_core.config import TrainConfig
from cosmos_core.methods import METHODS
from cosmos_core.model.build import model_config
from cosmos_core.utils.text import parse_json


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Apply assignments in order.

    Raises ValueError, one line, for an unknown key or choice, with the nearest, and for a value of
    the wrong type. `engine.check` decides whether values make sense together.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value, not {assignment!r}")
        try:
            config = _replace(config, key.split("."), text)
        except ValueError as error:
            raise ValueError(f"--set {key}: {error}") from error
    return config


def _replace(record: Any, path: Sequence[str], text: str) -> Any:
    """Return a copy of a dataclass with the value at `path` replaced."""
    name, *rest = path
    _require_field(record, name)
    old = getattr(record, name)
    new: Any
    if rest:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"{name!r} has no parts")
        new = _replace(old, rest, text)
    elif isinstance(record, TrainConfig) and name == "method":
        new = METHODS[_choose(text, tuple(METHODS))]()
    elif isinstance(record, TrainConfig) and name == "architecture":
        new = _architecture(text)
    elif dataclasses.is_dataclass(old):
        raise ValueError(f"{name!r} is not one value; its parts: {', '.join(_names(old))}")
    else:
        new = _convert(get_type_hints(type(record))[name], text, old)
    return dataclasses.replace(record, **{name: new})


def _require_field(record: Any, name: str) -> None:
    names = _names(record)
    if name not in names:
        deeper = [f"{outer}.{name}" for outer in names if name in _names(getattr(record, outer))]
        close = deeper or difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
        raise ValueError(f"no {name!r}; nearest: {', '.join(close)}")


def _names(record: Any) -> list[str]:
    """Return the fields that can be set; the name of a method goes with its kind."""
    if not dataclasses.is_dataclass(record):
        return []
    is_method = type(record) in METHODS.values()
    return [f.name for f in dataclasses.fields(record) if not (is_method and f.name == "name")]


def _architecture(text: str) -> Any:
    """Keep a name; read a file, so that a checkpoint of the run states its whole content."""
    value = _parse(text)
    config = model_config(value if isinstance(value, dict) else text)
    return config if isinstance(value, dict) or text.endswith(".json") else text


def _convert(hint: Any, text: str, old: Any) -> Any:
    """Convert a text for a field of type `hint` with the value `old`."""
    if get_origin(hint) is Literal:
        return _choose(text, get_args(hint))
    value: Any = text
    if get_origin(hint) is tuple:
        value = _parse(text if text.startswith("[") else f"[{text}]")
        value = tuple(value) if isinstance(value, list) else value
    elif hint is not str:
        value = _parse(text)
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        like = ", ".join(map(str, old)) if isinstance(old, tuple) else json.dumps(old)
        raise ValueError(f"{error.errors()[0]['msg']}, like {like}") from error


def _parse(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _choose(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        close = difflib.get_close_matches(text, choices, n=1)
        nearest = f"; nearest: {close[0]}" if close else ""
        raise ValueError(f"{text!r} is none of {', '.join(choices)}{nearest}")
    return text
