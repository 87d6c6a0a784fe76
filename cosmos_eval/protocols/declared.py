"""Read the YAML files of this package, which declare data sets: fields of a protocol by name.

Names that begin with a point hold values for merge keys (`<<`) or for other code, not data sets.
Lists in lists are joined. Braces in paths stand for all paths that they expand to, the first brace
outermost.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, TypeVar

import yaml
from braceexpand import braceexpand

Kind = TypeVar("Kind")

_PATH_FIELDS = ("images", "annotations")


def read_protocols(file: str, kind: Callable[..., Kind], **common: Any) -> dict[str, Kind]:
    """Return the protocols of a YAML file by the name of the data set.

    `kind` makes a protocol from `dataset`, the `common` fields, and the fields in the file.
    """
    protocols = {}
    for dataset, entry in read_yaml(file).items():
        if not dataset.startswith("."):
            protocols[dataset] = kind(dataset=dataset, **common, **fields_of(entry))
    return protocols


@cache
def read_yaml(name: str) -> dict[str, Any]:
    """Return the content of a YAML file of this package, by its name without the suffix."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files("cosmos_eval.protocols").joinpath(f"{name}.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.load(text, loader)
    return content


def fields_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an entry: lists become flat tuples, and braces in paths are expanded."""
    fields: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, list):
            value = tuple(flat(value))
        if name in _PATH_FIELDS:
            value = _expand_braces(value)
        fields[name] = value
    return fields


def _expand_braces(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return all paths that paths with braces stand for; return paths without braces unchanged."""
    alternatives = (paths,) if isinstance(paths, str) else paths
    if not any("{" in path for path in alternatives):
        return paths
    expanded: list[str] = []
    for path in alternatives:
        expanded.extend(str(PurePosixPath(alternative)) for alternative in braceexpand(path))
    return tuple(expanded)


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of a list and of the lists in it."""
    for value in values:
        if isinstance(value, list):
            yield from flat(value)
        else:
            yield value
