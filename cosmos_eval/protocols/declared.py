"""Read the YAML files of this package, which declare data sets: their names and protocols' fields.

An entry whose name begins with a point is not a data set. It holds values for merge keys (`<<`) or
for other code. Lists in lists are joined. Braces in paths stand for all paths that they expand to:
`{a,b}/{1,2}` becomes `a/1`, `a/2`, `b/1` and `b/2`.
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
    """Return the protocols that a YAML file of this package declares, by the data set's name.

    `file` is the name of the file without `.yaml`. `kind` is the type of the protocols, or a
    function that makes one. It is called with the name of the data set, with the `common` fields,
    and with the fields in the file.
    """
    protocols = {}
    for dataset, entry in read_yaml(file).items():
        if not dataset.startswith("."):
            protocols[dataset] = kind(dataset=dataset, **common, **fields_of(entry))
    return protocols


@cache
def read_yaml(name: str) -> dict[str, Any]:
    """Return the content of a YAML file in cosmos_eval/protocols; `name` lacks the suffix."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files("cosmos_eval.protocols").joinpath(f"{name}.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.load(text, loader)
    return content


def fields_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a protocol that an entry of a YAML file declares.

    Lists become flat tuples, and braces in paths are expanded: the entry `{"images": "{a,b}/val",
    "classes": [["cat"], "dog"]}` gives `{"images": ("a/val", "b/val"), "classes": ("cat", "dog")}`.
    """
    fields: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, list):
            value = tuple(flat(value))
        if name in _PATH_FIELDS:
            value = _expand_braces(value)
        fields[name] = value
    return fields


def _expand_braces(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return the paths that one path or several stand for: `{a,b}/val` gives `("a/val", "b/val")`.

    A value without braces is returned unchanged.
    """
    alternatives = (paths,) if isinstance(paths, str) else paths
    if not any("{" in path for path in alternatives):
        return paths
    expanded: list[str] = []
    for path in alternatives:
        expanded.extend(str(PurePosixPath(alternative)) for alternative in braceexpand(path))
    return tuple(expanded)


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of a list and of the lists in it: `["a", ["b", ["c"]]]` yields a, b, c."""
    for value in values:
        if isinstance(value, list):
            yield from flat(value)
        else:
            yield value
