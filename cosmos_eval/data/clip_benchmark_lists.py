"""Class names and prompt templates that CLIP Benchmark ships as package data. Imports no torch."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from cosmos_eval.types import UsageError, nearest


def class_names(key: str) -> tuple[str, ...]:
    """The list of a key of en_classnames.json. Raises KeyError for an unknown one."""
    return tuple(_content("en_classnames.json")[key])


def templates(key: str) -> tuple[str, ...]:
    """Templates with one `{}` each, of a key of en_zeroshot_classification_templates.json.

    Raises UsageError for an unknown key and for templates that differ from class to class.
    """
    known = _content("en_zeroshot_classification_templates.json")
    if key not in known:
        names = nearest(key, list(known))
        raise UsageError(f"CLIP Benchmark has no templates of {key!r}; nearest: {names}")
    if not isinstance(known[key], list):
        raise UsageError(f"CLIP Benchmark's templates of {key!r} differ from class to class")
    return tuple(from_clip_benchmark(template) for template in known[key])


def from_clip_benchmark(template: str) -> str:
    """A template with `{c}` for the class as one with `{}`."""
    return template.replace("{c}", "{}")


@cache
def _content(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        files("clip_benchmark").joinpath("datasets", name).read_text("utf-8")
    )
    return content
