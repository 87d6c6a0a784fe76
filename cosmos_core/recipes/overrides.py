"""`--set a.b=value`: a configuration with some of its values replaced."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any

from cosmos_core.config import TrainConfig


def override(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Apply assignments in order; ValueError names an unknown key's nearest or a wrong type."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value, not {assignment!r}")
        config = _replace(config, key.split("."), _parse(text), key)
    return config


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _replace(record: Any, path: Sequence[str], value: Any, key: str) -> Any:
    names = [field.name for field in dataclasses.fields(record)]
    if path[0] not in names:
        close = difflib.get_close_matches(path[0], names, n=3, cutoff=0.3) or names
        raise ValueError(f"--set {key}: no {path[0]!r}; nearest: {', '.join(close)}")
    old = getattr(record, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"--set {key}: {path[0]!r} has no parts")
        return dataclasses.replace(record, **{path[0]: _replace(old, path[1:], value, key)})
    return dataclasses.replace(record, **{path[0]: _convert(old, value, key)})


def _convert(old: Any, value: Any, key: str) -> Any:
    if isinstance(old, tuple) and isinstance(value, list) and len(value) == len(old):
        return tuple(_convert(a, b, key) for a, b in zip(old, value, strict=True))
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(old):
        raise ValueError(f"--set {key}: expected {type(old).__name__}, like {old!r}")
    return value
