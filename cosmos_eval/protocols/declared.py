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

_PATH_FIELDS = ("images", "annotations", "gallery")


def read_protocols(file: str, kind: Callable[..., Kind], **common: Any) -> dict[str, Kind]:
    """Return the protocols that a YAML file of this package declares, by the data set's name.

    Args:
        file: The name of the file without `.yaml`.
        kind: The type of the protocols, or a function that makes one. It is called with the name
            of the data set, with the `common` fields, and with the fields in the file.
        common: Fields that all protocols of the file have.

    Example:
        If `sets.yaml` holds `{pets: {folder: images}, .notes: [...]}`, then `read_protocols("sets",
        ClassificationProtocol, protocol_name="cosmos")` returns `{"pets":
        ClassificationProtocol(dataset="pets", protocol_name="cosmos", folder="images")}`.
    """
    protocols = {}
    for dataset, entry in read_yaml(file).items():
        is_dataset = not dataset.startswith(".")
        if is_dataset:
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

    Lists become flat tuples. Paths with braces become tuples of all paths that they stand for.

    Example:
        The entry `{"images": "{a,b}/val", "classes": [["cat"], "dog"]}` gives `{"images": ("a/val",
        "b/val"), "classes": ("cat", "dog")}`.
    """
    fields: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, list):
            value = tuple(flat(value))
        if name in _PATH_FIELDS:
            paths = (value,) if isinstance(value, str) else value
            if any("{" in path for path in paths):
                expanded_paths = []
                for path in paths:
                    for expanded_path in braceexpand(path):
                        expanded_paths.append(str(PurePosixPath(expanded_path)))
                value = tuple(expanded_paths)
        fields[name] = value
    return fields


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of a list and of the lists in it: `["a", ["b", ["c"]]]` yields a, b, c."""
    for value in values:
        if isinstance(value, list):
            yield from flat(value)
        else:
            yield value
