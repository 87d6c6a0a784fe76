"""Read users' YAML files: data sets of their own (docs/your-data.md has an example per kind).

Keys are the fields of the kind's protocol in cosmos_eval.types, `kind`, `name` and `classes`.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pydantic
from pydantic import Discriminator, Field, Strict, Tag

from cosmos_eval.data import readers
from cosmos_eval.data.readers import CONFIG, LIST, TEXT, FileError, Text, read_text, shortened
from cosmos_eval.types import (
    LabelMapProtocol,
    Protocol,
    family_of_pairs,
    family_of_sentences,
    nearest,
    yaml_fields,
)

FAMILY = "user"

_LARGEST = float(np.finfo(np.float32).max)
_NUMBER = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]

_BY_TAG = Discriminator(lambda value: LIST if isinstance(value, list) else TEXT)
# Types of fields and how they are read; all others are read as they are.
_SIMPLE: Mapping[Any, Any] = {str: Text, int: pydantic.NonNegativeInt, float: _NUMBER}


def read_protocol(
    path: Path, kinds: Sequence[str], type_of: Callable[[str], type[Protocol]]
) -> Protocol:
    """Read the description of a data set.

    `kinds` are the known values of `kind`; `type_of` returns the type of a kind's protocol. Raises
    UsageError for any fault.
    """
    with readers.faults_of(f"{path}: "):
        content = readers.read_yaml(path, "kind: seg")
        return _protocol_of_kind(content, path, kinds, type_of)


def parse_protocol(
    content: Mapping[str, Any], kinds: Sequence[str], type_of: Callable[[str], type[Protocol]]
) -> Protocol:
    """Return the protocol of a mapping with the keys of a YAML file.

    Paths are relative to the current folder. Raises UsageError as `read_protocol` does.
    """
    with readers.faults_of("the mapping of a data set: "):
        if not isinstance(content.get("name"), str):
            raise FileError("`name`, which results call the data set by, is missing")
        return _protocol_of_kind(dict(content), Path.cwd() / "mapping.yaml", kinds, type_of)


def _protocol_of_kind(
    content: dict[str, Any],
    path: Path,
    kinds: Sequence[str],
    type_of: Callable[[str], type[Protocol]],
) -> Protocol:
    kind = content.pop("kind", None)
    if kind not in kinds:
        fault = "is missing" if kind is None else f"cannot be {shortened(kind)}"
        raise FileError(f"`kind` {fault}: give one of {', '.join(kinds)}")
    return _protocol(content, path, type_of(kind))


class _Class(pydantic.BaseModel):
    model_config = CONFIG

    name: Text
    queries: Annotated[tuple[Text, ...], Strict(False), Field(min_length=1)] | None = None


def _protocol(content: dict[str, Any], path: Path, cls: type[Protocol]) -> Protocol:
    if isinstance(templates := content.get("templates"), dict):
        raise FileError(
            "`templates` must be the same for all classes: a list of texts with {}, not prompts "
            f"for each class such as {next(iter(templates), None)!r}"
        )
    of_classes = issubclass(cls, LabelMapProtocol)
    if of_classes:
        content["classes"] = _classes(content.get("classes"), path.parent)
    parsed = readers.parse(_model(cls), content)
    found = {name: getattr(parsed, name) for name in parsed.model_fields_set}
    if of_classes:
        classes = found.pop("classes")
        found["class_names"] = tuple(one.name for one in classes)
        found["queries"] = tuple(one.queries or (one.name,) for one in classes)
        _require_known_names(found["class_names"], found.get("groups", {}))
    name = found.pop("name", path.stem)
    family = family_of_sentences(FAMILY, found.get("sentences"))
    family = family_of_pairs(family, found.get("pairs"))
    return cls(dataset=name, family=family, root=str(path.parent.absolute()), **found)


def _model(cls: type[Protocol]) -> type[pydantic.BaseModel]:
    hints = get_type_hints(cls)
    fields: dict[str, Any] = {"name": (Text, None)}
    if issubclass(cls, LabelMapProtocol):
        fields["classes"] = (list[_Class], ...)
    for item in yaml_fields(cls):
        defaults = (item.default, item.default_factory)
        required = defaults == (dataclasses.MISSING, dataclasses.MISSING)
        fields[item.name] = (_strict(hints[item.name]), ... if required else None)
    return pydantic.create_model(cls.__name__, __config__=CONFIG, **fields)


def _strict(hint: Any) -> Any:
    """Return the type of a field, without blank texts, empty lists, negative and huge numbers."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if origin is tuple:
        inner: Any = tuple[tuple(part if part is ... else _strict(part) for part in args)]  # type: ignore[misc]
        return Annotated[inner, Strict(False), Field(min_length=1 if ... in args else None)]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[tuple(map(_strict, args))]  # type: ignore[misc]
    if NoneType in args:
        rest = functools.reduce(operator.or_, (part for part in args if part is not NoneType))
        return _strict(rest) | None
    if set(args) == {str, tuple[str, ...]}:
        texts: Any = Annotated[_strict(tuple[str, ...]), Tag(LIST)]
        return Annotated[texts | Annotated[Text, Tag(TEXT)], _BY_TAG]
    return hint


def _classes(value: Any, folder: Path) -> list[Any]:
    """Return the entries of `classes`, or of the file they name: a class's prompts on each line."""
    if isinstance(value, list) and value:
        return [one if isinstance(one, dict) else {"name": one} for one in value]
    if not isinstance(value, str):
        raise FileError(
            "`classes` must list the class names in the order of the label map's indices, "
            "or name a text file with one class per line"
        )
    path = folder / value
    try:
        lines = read_text(path).splitlines()
    except FileError as error:
        raise FileError(f"`classes`: cannot read {path}: {error}") from error
    if not lines:
        raise FileError(f"`classes`: {path} is empty")
    classes = [[prompt.strip() for prompt in line.split(",")] for line in lines]
    for number in (i for i, prompts in enumerate(classes, start=1) if not all(prompts)):
        raise FileError(f"`classes`: {path}, line {number} is blank or has a blank prompt")
    return [{"name": prompts[0], "queries": prompts} for prompts in classes]


def _require_known_names(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    if repeated := readers.first_repeated(names):
        raise FileError(f"`classes` names {repeated[0]!r} twice")
    for group, members in groups.items():
        for name in (name for name in members if name not in names):
            known = nearest(name, names)
            raise FileError(f"`groups.{group}` names no class {name!r}; nearest known: {known}")
