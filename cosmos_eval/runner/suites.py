"""Suites: YAML files of `models`, and of `datasets` by protocol family. Imports no torch.

Every model is measured on every data set. Files that a suite names are relative to it.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field

from cosmos_eval.data.readers import CONFIG, FileError, Text, parse, read_yaml
from cosmos_eval.data.user_yaml import FAMILY as USER
from cosmos_eval.models.specs import located, parse_model_spec
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import Protocol, UsageError, nearest

_SUFFIXES = (".yaml", ".yml")
_Names = Annotated[list[Text], Field(min_length=1)]


class Suite(NamedTuple):
    """Models as `--model` takes them and the protocols that each is measured by, both distinct."""

    models: tuple[str, ...]
    protocols: tuple[Protocol, ...]


class _File(BaseModel):
    model_config = CONFIG

    models: _Names
    datasets: Annotated[dict[Text, _Names], Field(min_length=1)]


def known_suites() -> Mapping[str, Path]:
    """Return the suites of this package by name."""
    folder = Path(str(files("cosmos_eval.protocols"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_suite(name_or_file: str) -> Suite:
    """Read a suite of this package by its name, or that of a YAML file.

    Raises UsageError that names the file and what in it is missing, unknown or given twice.
    """
    known = known_suites()
    path = known.get(name_or_file, Path(name_or_file))
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"unknown suite {name_or_file!r}; known: {nearest(name_or_file, list(known))}; "
            "or a .yaml file of your own"
        )
    try:
        return _read(path)
    except (FileError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from None


def _read(path: Path) -> Suite:
    content = parse(_File, read_yaml(path, "models: [scenes-cosmos]"))
    models = tuple(located(text, path.parent) for text in content.models)
    for text in models:
        parse_model_spec(text)
    named = ((name, family) for family, names in content.datasets.items() for name in names)
    protocols = tuple(_protocol(*one, path.parent) for one in named)
    refuse_repeated(models, "models: ")
    refuse_repeated([f"{p.dataset} ({p.family})" for p in protocols], "datasets: ")
    return Suite(models, protocols)


def _protocol(name: str, family: str, folder: Path) -> Protocol:
    if Path(name).suffix not in _SUFFIXES:
        return find_protocol(name, family)
    if family != USER:
        raise FileError(f"{name} states its own protocol: list it under `{USER}`, not `{family}`")
    return find_protocol(str(folder / name))


def refuse_repeated(names: Sequence[str], where: str = "") -> None:
    """Raise UsageError for repeated names: the second result would replace the first one."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}{name} is given twice")
