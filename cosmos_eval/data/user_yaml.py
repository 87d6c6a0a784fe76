"""Read users' YAML files, which describe their own data sets (docs/your-data.md has examples).

Keys are `kind`, `name`, `classes`, and the fields of the kind's protocol in cosmos_eval.types.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pydantic
from pydantic import Discriminator, Field, Strict, Tag

from cosmos_eval.data import readers
from cosmos_eval.data.readers import CONFIG, LIST, TEXT, FileError, Text, read_text, shortened
from cosmos_eval.types import (
    LabelMapProtocol,
    Protocol,
    nearest,
    protocol_name_with_pairs,
    protocol_name_with_sentences,
    yaml_fields,
)

PROTOCOL_NAME = "user"

_MAX_FLOAT = float(np.finfo(np.float32).max)
_NUMBER = Annotated[float, Field(ge=-_MAX_FLOAT, le=_MAX_FLOAT, allow_inf_nan=False)]

# How types of fields are read; types that are not listed are read as they are.
_SIMPLE_TYPES: Mapping[Any, Any] = {str: Text, int: pydantic.NonNegativeInt, float: _NUMBER}


def read_protocol(
    path: Path, kinds: Sequence[str], type_of: Callable[[str], type[Protocol]]
) -> Protocol:
    """Read the description of a data set.

    `kinds` are the known values of the key `kind`, which are names of tasks. `type_of` returns the
    type of a task's protocols. Raise UsageError for any fault.
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
    """Return the protocol of a file's content by its `kind`. Raise FileError for any fault."""
    kind = content.pop("kind", None)
    if kind not in kinds:
        fault = "is missing" if kind is None else f"cannot be {shortened(kind)}"
        raise FileError(f"`kind` {fault}: give one of {', '.join(kinds)}")
    return _parse_protocol(content, path, type_of(kind))


class _Class(pydantic.BaseModel):
    """An entry of `classes`."""

    model_config = CONFIG

    name: Text
    queries: Annotated[tuple[Text, ...], Strict(False), Field(min_length=1)] | None = None


def _parse_protocol(content: dict[str, Any], path: Path, cls: type[Protocol]) -> Protocol:
    """Return the protocol of a file's content. Raise FileError for the first fault."""
    templates = content.get("templates")
    if isinstance(templates, dict):
        raise FileError(
            "`templates` must be the same for all classes: a list of texts with {}, not prompts "
            f"for each class such as {next(iter(templates), None)!r}"
        )
    if issubclass(cls, LabelMapProtocol):
        content["classes"] = _read_classes(content.get("classes"), path.parent)
    parsed = readers.parse(_file_model(cls), content)
    fields = {name: getattr(parsed, name) for name in parsed.model_fields_set}
    if issubclass(cls, LabelMapProtocol):
        classes: list[_Class] = fields.pop("classes")
        fields["class_names"] = tuple(entry.name for entry in classes)
        fields["queries"] = tuple(entry.queries or (entry.name,) for entry in classes)
        _check_class_names(fields["class_names"], fields.get("groups", {}))
    dataset = fields.pop("name", path.stem)
    protocol_name = protocol_name_with_sentences(PROTOCOL_NAME, fields.get("sentences"))
    protocol_name = protocol_name_with_pairs(protocol_name, fields.get("pairs"))
    return cls(
        dataset=dataset, protocol_name=protocol_name, root=str(path.parent.absolute()), **fields
    )


def _file_model(cls: type[Protocol]) -> type[pydantic.BaseModel]:
    """Make the pydantic model of the files that describe a type of protocol."""
    types = get_type_hints(cls)
    fields: dict[str, Any] = {"name": (Text, None)}
    if issubclass(cls, LabelMapProtocol):
        fields["classes"] = (list[_Class], ...)
    for field in yaml_fields(cls):
        is_required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        # Pydantic writes a required field as one whose default is an ellipsis.
        fields[field.name] = (_strict_type(types[field.name]), ... if is_required else None)
    return pydantic.create_model(cls.__name__, __config__=CONFIG, **fields)


def _tag_of(value: Any) -> str:
    """Return the tag of the type that pydantic checks a value with: a list, or else a text."""
    return LIST if isinstance(value, list) else TEXT


def _strict_type(hint: Any) -> Any:
    """Return the pydantic type of a field's type hint.

    It refuses blank texts, empty lists, negative whole numbers, and numbers beyond float32.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SIMPLE_TYPES:
        return _SIMPLE_TYPES[hint]
    if origin is tuple:
        return _strict_tuple(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = arguments
        return dict[_strict_type(key), _strict_type(value)]  # type: ignore[misc]
    if NoneType in arguments:
        alternatives = tuple(argument for argument in arguments if argument is not NoneType)
        return _strict_type(Union[alternatives]) | None  # noqa: UP007 for a tuple of types
    if set(arguments) == {str, tuple[str, ...]}:
        texts: Any = Annotated[_strict_type(tuple[str, ...]), Tag(LIST)]
        return Annotated[texts | Annotated[Text, Tag(TEXT)], Discriminator(_tag_of)]
    return hint


def _strict_tuple(arguments: Sequence[Any]) -> Any:
    """Return the pydantic type of a tuple, which YAML files write as a list.

    A tuple of any length, whose last argument is an ellipsis, must not be empty.
    """
    if arguments[-1] is ...:
        repeated: Any = tuple[_strict_type(arguments[0]), ...]  # type: ignore[misc]
        return Annotated[repeated, Strict(False), Field(min_length=1)]
    entries: Any = tuple[tuple(_strict_type(argument) for argument in arguments)]  # type: ignore[misc]
    return Annotated[entries, Strict(False)]


def _read_classes(value: Any, folder: Path) -> list[Any]:
    """Return the value of `classes` as a list of mappings with the keys `name` and `queries`.

    `value` is a list of names or mappings, or the name of a text file in `folder`. Every line of
    the file holds the prompts of a class, separated by commas; the first one is its name. Raise
    FileError for any other value and for blank prompts.
    """
    if isinstance(value, list) and value:
        return [entry if isinstance(entry, dict) else {"name": entry} for entry in value]
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
    classes = []
    for number, line in enumerate(lines, start=1):
        prompts = [prompt.strip() for prompt in line.split(",")]
        if not all(prompts):
            raise FileError(f"`classes`: {path}, line {number} is blank or has a blank prompt")
        classes.append({"name": prompts[0], "queries": prompts})
    return classes


def _check_class_names(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Raise FileError for repeated class names, and for groups that name an unknown class."""
    if repeated := readers.first_repeated(names):
        raise FileError(f"`classes` names {repeated[0]!r} twice")
    for group, members in groups.items():
        for name in members:
            if name not in names:
                raise FileError(
                    f"`groups.{group}` names no class {name!r}; nearest known: "
                    f"{nearest(name, names)}"
                )
