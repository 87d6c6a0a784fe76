"""Suites: lists of models and data sets under a name, a YAML file each. Imports no torch.

A file holds `models`, as `--model` takes them, and `datasets`, lists of them by protocol family;
every model is measured on every data set. Files that it names are relative to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_eval.data.readers import FileError, read_yaml
from cosmos_eval.data.user import FAMILY as USER
from cosmos_eval.models.specs import located, parse_model_spec
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import Protocol, UsageError, nearest

_SUFFIXES = (".yaml", ".yml")
_KEYS = ("models", "datasets")


class Suite(NamedTuple):
    """Models as `--model` takes them and the protocols that each is measured by, both distinct."""

    models: tuple[str, ...]
    protocols: tuple[Protocol, ...]


def known_suites() -> Mapping[str, Path]:
    """The suites of this package by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def read_suite(name_or_file: str) -> Suite:
    """A suite of this package by its name, or that of a YAML file.

    Raises UsageError that names the file and what in it is missing, unknown or given twice.
    """
    if Path(name_or_file).suffix in _SUFFIXES:
        return _read(Path(name_or_file))
    known = known_suites()
    if name_or_file not in known:
        raise UsageError(
            f"unknown suite {name_or_file!r}; known: {nearest(name_or_file, list(known))}; "
            "or a .yaml file of your own"
        )
    return _read(known[name_or_file])


def _read(path: Path) -> Suite:
    try:
        content = read_yaml(path, "models: [scenes-cosmos]")
        for key in content:
            if key not in _KEYS:
                raise FileError(f"unknown key `{key}`; a suite has: {', '.join(_KEYS)}")
        return Suite(
            models=_models(content.get("models"), path.parent),
            protocols=_protocols(content.get("datasets"), path.parent),
        )
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None


def _models(value: Any, folder: Path) -> tuple[str, ...]:
    models = tuple(located(text, folder) for text in _names(value, "models"))
    for text in models:
        parse_model_spec(text)
    _refuse_repeated(models, "models")
    return models


def _protocols(value: Any, folder: Path) -> tuple[Protocol, ...]:
    if not isinstance(value, dict) or not value:
        raise FileError(
            "`datasets` must list data sets by protocol, such as `cosmos: [imagenet1k, voc20]`"
        )
    protocols = []
    for family, names in value.items():
        for name in _names(names, f"datasets.{family}"):
            protocols.append(_protocol(name, str(family), folder))
    _refuse_repeated([f"{p.dataset} ({p.family})" for p in protocols], "datasets")
    return tuple(protocols)


def _protocol(name: str, family: str, folder: Path) -> Protocol:
    """A known data set, or a user's, which states its own protocol."""
    if Path(name).suffix not in _SUFFIXES:
        return find_protocol(name, family)
    if family != USER:
        raise FileError(f"{name} states its own protocol: list it under `{USER}`, not `{family}`")
    return find_protocol(str(folder / name))


def _names(value: Any, key: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise FileError(f"`{key}` must be a list of names, not {value!r}")
    return value


def _refuse_repeated(names: tuple[str, ...] | list[str], key: str) -> None:
    """The second result of a name would replace the first one."""
    for name in names:
        if names.count(name) > 1:
            raise FileError(f"`{key}` has {name} twice")
