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
    short_task_name,
    yaml_fields,
)

PROTOCOL_NAME = "user"
"""The name of the protocol of users' data sets."""

_MAX_FLOAT = float(np.finfo(np.float32).max)
_NUMBER = Annotated[float, Field(ge=-_MAX_FLOAT, le=_MAX_FLOAT, allow_inf_nan=False)]

# The pydantic types by which fields of simple types are checked.
_SIMPLE_TYPES: Mapping[Any, Any] = {str: Text, int: pydantic.NonNegativeInt, float: _NUMBER}


def read_protocol(
    path: Path, kinds: Sequence[str], type_of: Callable[[str], type[Protocol]]
) -> Protocol:
    """Return the protocol that a user's YAML file describes.

    A protocol is the record of a data set and of how it is measured.

    Args:
        path: The path of the file.
        kinds: The values that the key `kind` may have, such as `seg`.
        type_of: Returns the type of protocol for a kind, such as `SegmentationProtocol`.

    Raises:
        UsageError: If the file cannot be read, or if it has a wrong key or value.
    """
    with readers.report_faults_at(f"{path}: "):
        content = readers.read_yaml(path, "kind: seg")
        return _make_protocol_of_kind(content, path, kinds, type_of)


def parse_protocol(
    content: Mapping[str, Any], kinds: Sequence[str], type_of: Callable[[str], type[Protocol]]
) -> Protocol:
    """Return the protocol that a mapping with the keys of a user's YAML file describes.

    Args:
        content: The keys and values. Paths are relative to the current folder. It must have a
            `name`, since no file names the data set.
        kinds: The values that the key `kind` may have, such as `seg`.
        type_of: Returns the type of protocol for a kind, such as `SegmentationProtocol`.

    Raises:
        UsageError: If a key is missing or wrong.
    """
    with readers.report_faults_at("the mapping of a data set: "):
        if not isinstance(content.get("name"), str):
            raise FileError("`name`, which results call the data set by, is missing")
        # Only the folder of this path is used.
        path = Path.cwd() / "mapping.yaml"
        return _make_protocol_of_kind(dict(content), path, kinds, type_of)


def _make_protocol_of_kind(
    content: dict[str, Any],
    path: Path,
    kinds: Sequence[str],
    type_of: Callable[[str], type[Protocol]],
) -> Protocol:
    """Return the protocol of the type that the key `kind` names.

    Args:
        content: The keys and values of a file. The key `kind` is removed from it.
        path: The path of the file. Paths in it are relative to its folder.
        kinds: The values that the key `kind` may have, or full words for them, such as
            `segmentation` for `seg`.
        type_of: Returns the type of protocol for a kind.

    Raises:
        FileError: If the kind is unknown, or if another key is wrong.
    """
    kind = content.pop("kind", None)
    if isinstance(kind, str):
        kind = short_task_name(kind, kinds)
    if kind not in kinds:
        message = f"give one of {', '.join(kinds)}"
        if kind is None:
            raise FileError(f"`kind` is missing: {message}")
        raise FileError(
            f"`kind` cannot be {shortened(kind)}: {message}; others are brought by packages, "
            "which must be installed"
        )
    return _parse_protocol(content, path, type_of(kind))


class _Class(pydantic.BaseModel):
    """An entry of the key `classes`: the name of a class, and its prompts."""

    model_config = CONFIG

    name: Text
    # Prompt names; None: the name of the class.
    queries: Annotated[tuple[Text, ...], Strict(False), Field(min_length=1)] | None = None


def _parse_protocol(content: dict[str, Any], path: Path, cls: type[Protocol]) -> Protocol:
    """Return the protocol with the content of a file.

    Args:
        content: The keys and values of the file, without `kind`.
        path: The path of the file. Its folder becomes the root of the data set.
        cls: The type of the protocol, such as `RetrievalProtocol`.

    Raises:
        FileError: For the first key or value that is wrong.
    """
    templates = content.get("templates")
    if isinstance(templates, dict):
        raise FileError(
            "`templates` must be the same for all classes: a list of texts with {}, not prompts "
            f"for each class such as {next(iter(templates), None)!r}"
        )

    # Check the content. Only keys of the file are taken: other fields keep their defaults.
    if issubclass(cls, LabelMapProtocol):
        content["classes"] = _read_classes(content.get("classes"), path.parent)
    parsed_content = readers.parse(_make_file_model(cls), content)
    fields = {name: getattr(parsed_content, name) for name in parsed_content.model_fields_set}

    # Turn entries `{"name": "sea", "queries": ["sea", "water"]}` into names and prompts of classes.
    if issubclass(cls, LabelMapProtocol):
        classes: list[_Class] = fields.pop("classes")
        fields["class_names"] = tuple(entry.name for entry in classes)
        fields["queries"] = tuple(entry.queries or (entry.name,) for entry in classes)
        _check_class_names(fields["class_names"], fields.get("groups", {}))

    dataset = fields.pop("name", path.stem)
    # Options that change the numbers are part of the protocol's name: `user-sentences-pairs100`.
    protocol_name = protocol_name_with_sentences(PROTOCOL_NAME, fields.get("sentences"))
    protocol_name = protocol_name_with_pairs(protocol_name, fields.get("pairs"))
    return cls(
        dataset=dataset, protocol_name=protocol_name, root=str(path.parent.absolute()), **fields
    )


def _make_file_model(cls: type[Protocol]) -> type[pydantic.BaseModel]:
    """Return the pydantic model that checks the YAML files of a type of protocols.

    Its fields are `name`, `classes` for data sets with label maps, and the fields of the protocol
    that a user may set.

    Args:
        cls: The type of the protocols, such as `RetrievalProtocol`.
    """
    hint_by_name = get_type_hints(cls)
    # Pydantic takes a pair of a type and a default for each field. A default that is an ellipsis
    # (`...`) stands for a required field.
    fields: dict[str, Any] = {"name": (Text, None)}
    if issubclass(cls, LabelMapProtocol):
        fields["classes"] = (list[_Class], ...)
    for field in yaml_fields(cls):
        is_required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        default = ... if is_required else None
        fields[field.name] = (_make_strict_type(hint_by_name[field.name]), default)
    return pydantic.create_model(cls.__name__, __config__=CONFIG, **fields)


def _choose_type_tag(value: Any) -> str:
    """Return the tag of the type by which pydantic checks a value: a list, or else a text."""
    return LIST if isinstance(value, list) else TEXT


def _make_strict_type(hint: Any) -> Any:
    """Return the pydantic type that checks a field with this type hint.

    It is stricter than the hint. It refuses blank texts, empty lists, negative whole numbers, and
    numbers that float32 cannot hold. Texts in tuples, mappings and optional types are checked too.

    Args:
        hint: A type hint of a protocol, such as `int` or `tuple[str, ...] | None`.
    """
    # `tuple[str, ...]` has the origin `tuple` and the arguments `(str, ...)`.
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SIMPLE_TYPES:
        return _SIMPLE_TYPES[hint]
    if origin is tuple:
        return _make_strict_tuple(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = arguments
        return dict[_make_strict_type(key), _make_strict_type(value)]  # type: ignore[misc]

    # For `X | None`, check X, or allow null.
    if NoneType in arguments:
        alternatives = tuple(argument for argument in arguments if argument is not NoneType)
        return _make_strict_type(Union[alternatives]) | None  # noqa: UP007 for a tuple of types

    # For `str | tuple[str, ...]`, the type of the value decides which of both types it is checked
    # by, so that an error is about that type only.
    if set(arguments) == {str, tuple[str, ...]}:
        texts: Any = Annotated[_make_strict_type(tuple[str, ...]), Tag(LIST)]
        return Annotated[texts | Annotated[Text, Tag(TEXT)], Discriminator(_choose_type_tag)]
    return hint


def _make_strict_tuple(arguments: Sequence[Any]) -> Any:
    """Return the pydantic type of a tuple with these type arguments.

    YAML files write a tuple as a list. A tuple of any length must not be empty.

    Args:
        arguments: The types of the entries, such as `(float, float, float)`, or `(str, ...)` for a
            tuple of any length.
    """
    is_of_any_length = arguments[-1] is ...
    if is_of_any_length:
        repeated: Any = tuple[_make_strict_type(arguments[0]), ...]  # type: ignore[misc]
        return Annotated[repeated, Strict(False), Field(min_length=1)]
    entries: Any = tuple[tuple(_make_strict_type(argument) for argument in arguments)]  # type: ignore[misc]
    return Annotated[entries, Strict(False)]


def _read_classes(value: Any, folder: Path) -> list[Any]:
    """Return the value of the key `classes` as a list of `{"name": NAME, "queries": PROMPTS}`.

    Args:
        value: A list of names, or of such mappings, or the name of a text file. Every line of the
            file holds the prompts of a class, separated by commas. The first prompt is the name of
            the class.
        folder: The folder of the text file.

    Raises:
        FileError: If the value is anything else, if the file cannot be read, and if a prompt is
            blank.

    Example:
        `["sea", "land"]` gives `[{"name": "sea"}, {"name": "land"}]`. The line `sea, water` of a
        file gives `{"name": "sea", "queries": ["sea", "water"]}`.
    """
    # A list of classes.
    if isinstance(value, list) and value:
        mappings = []
        for entry in value:
            mappings.append(entry if isinstance(entry, dict) else {"name": entry})
        return mappings

    # A text file.
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
    for line_number, line in enumerate(lines, start=1):
        prompts = [prompt.strip() for prompt in line.split(",")]
        if not all(prompts):
            raise FileError(f"`classes`: {path}, line {line_number} is blank or has a blank prompt")
        classes.append({"name": prompts[0], "queries": prompts})
    return classes


def _check_class_names(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Raise FileError for repeated class names, and for groups that name an unknown class.

    Args:
        names: The names of the classes.
        groups: The names of the classes in each group of classes, by the name of the group.
    """
    if repeated := readers.first_repeated(names):
        raise FileError(f"`classes` names {repeated[0]!r} twice")
    for group_name, member_names in groups.items():
        for name in member_names:
            if name not in names:
                raise FileError(
                    f"`groups.{group_name}` names no class {name!r}; nearest known: "
                    f"{nearest(name, names)}"
                )
