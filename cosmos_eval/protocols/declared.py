"""Data sets that YAML files of this package declare: fields of the protocol by the set's name.

Names that begin with a point are for merge keys (`<<`) alone. Lists in lists are joined. In paths,
braces stand for all that they expand to, the first brace outermost.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, TypeVar

import yaml
from braceexpand import braceexpand

Kind = TypeVar("Kind")

_PATHS = ("images", "annotations")


def read_protocols(name: str, kind: Callable[..., Kind]) -> dict[str, Kind]:
    """Return the protocols of a file of this package by the name of the data set."""
    sets = {key: entry for key, entry in read_yaml(name).items() if not key.startswith(".")}
    return {dataset: kind(dataset=dataset, **fields_of(entry)) for dataset, entry in sets.items()}


@cache
def read_yaml(name: str) -> dict[str, Any]:
    """Return the content of a YAML file of this package, by its name without the suffix."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files("cosmos_eval.protocols").joinpath(f"{name}.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.load(text, loader)
    return content


def fields_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Return fields with tuples for lists, and for paths with braces."""
    found = {n: tuple(flat(v)) if isinstance(v, list) else v for n, v in entry.items()}
    for name in _PATHS:
        stated = found.get(name, "")
        parts = (stated,) if isinstance(stated, str) else stated
        if any("{" in part for part in parts):
            expanded = (path for part in parts for path in braceexpand(part))
            found[name] = tuple(str(PurePosixPath(path)) for path in expanded)
    return found


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of a list and of the lists in it."""
    for value in values:
        yield from flat(value) if isinstance(value, list) else [value]
