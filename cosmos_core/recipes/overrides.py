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

from cosmos_core.config import TrainConfig
from cosmos_core.methods import METHODS
from cosmos_core.model.build import model_config
from cosmos_core.utils.text import parse_json


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Apply assignments in order.

    Raises ValueError, one line, for an unknown key or choice, with the nearest, and for a value of
    the wrong type. Whether values make sense together is `engine.check`'s matter.
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
    """A copy of a dataclass with the value at `path` replaced."""
    name, *rest = path
    _require_field(record, name)
    old = getattr(record, name)
    if rest:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"{name!r} has no parts")
        new = _replace(old, rest, text)
    elif isinstance(record, TrainConfig) and name in SPECIAL:
        new = SPECIAL[name](text)
    elif dataclasses.is_dataclass(old):
        parts = ", ".join(field.name for field in dataclasses.fields(old))
        raise ValueError(f"{name!r} is not one value; its parts: {parts}")
    else:
        new = _convert(get_type_hints(type(record))[name], text, old)
    return dataclasses.replace(record, **{name: new})


def _require_field(record: Any, name: str) -> None:
    names = _names(record)
    if name in names:
        return
    deeper = [f"{outer}.{name}" for outer in names if name in _names(getattr(record, outer))]
    close = deeper or difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
    raise ValueError(f"no {name!r}; nearest: {', '.join(close)}")


def _names(record: Any) -> list[str]:
    """The fields that can be set; the name of a method goes with its kind."""
    if not dataclasses.is_dataclass(record):
        return []
    is_method = type(record) in METHODS.values()
    return [f.name for f in dataclasses.fields(record) if not (is_method and f.name == "name")]


def _convert(hint: Any, text: str, old: Any) -> Any:
    """The value that a text stands for where a field of type `hint` had the value `old`."""
    if hint is str:
        return text
    if get_origin(hint) is Literal:
        return _choose(text, get_args(hint))
    if get_origin(hint) is tuple:
        values = _parse(text if text.startswith("[") else f"[{text}]")
        if isinstance(values, list) and len(values) == len(old):
            pairs = zip(get_args(hint), values, old, strict=True)
            return tuple(_number(kind, value, before) for kind, value, before in pairs)
        raise ValueError(f"expected tuple, like {', '.join(map(str, old))}")
    return _number(hint, _parse(text), old)


def _number(kind: type, value: Any, old: Any) -> Any:
    """A bool, int or float; whole numbers are floats too, but true and false are no numbers."""
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError("the number is too large") from error
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, like {json.dumps(old)}")
    return value


def _parse(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _method(text: str) -> Any:
    return METHODS[_choose(text, tuple(METHODS))]()


def _architecture(text: str) -> Any:
    """A name as it is; a file's content, so that a checkpoint of the run says all of it."""
    value = _parse(text)
    config = model_config(value if isinstance(value, dict) else text)
    return config if isinstance(value, dict) or text.endswith(".json") else text


SPECIAL = {"method": _method, "architecture": _architecture}


def _choose(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        close = difflib.get_close_matches(text, choices, n=1)
        nearest = f"; nearest: {close[0]}" if close else ""
        raise ValueError(f"{text!r} is none of {', '.join(choices)}{nearest}")
    return text
