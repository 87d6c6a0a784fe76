"""A user's own data set, described by a YAML file; docs/your-data.md has an example a kind.

The keys are the fields of the kind's protocol in cosmos_eval.types with the defaults given there,
and `kind`, `name` (default: the file's name) and, for seg and loc, `classes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import numpy as np

from cosmos_eval.data.readers import FileError, read_text, read_yaml
from cosmos_eval.types import (
    Attention,
    ClassLayout,
    LabelMapProtocol,
    MapKind,
    PairAccuracy,
    Protocol,
    Refinement,
    SegmentationProtocol,
    SelectionLayout,
    UsageError,
    nearest,
)

FAMILY = "user"

_LARGEST = float(np.finfo(np.float32).max)


def read_protocol(
    path: Path, kinds: Sequence[str], type_of: Callable[[str], type[Protocol]]
) -> Protocol:
    """Read a data set's description; paths in it are relative to the file.

    `kinds` are what `kind` may be, `type_of` gives the type of its protocols. Raises UsageError
    that names the file and the key where something is missing, unknown or of the wrong type.
    """
    try:
        content = read_yaml(path, "kind: seg")
        kind = content.pop("kind", None)
        if kind not in kinds:
            raise FileError(f"`kind` must be one of {', '.join(kinds)}, not {kind!r}")
        return _protocol(content, path, kind, type_of(kind))
    except FileError as error:
        raise UsageError(f"{path}: {error}") from None


def _protocol(content: dict[str, Any], path: Path, kind: str, cls: type[Protocol]) -> Protocol:
    name = _text(content.pop("name", path.stem), "name")
    fields: dict[str, Any] = {}
    if issubclass(cls, LabelMapProtocol):
        fields = {"mmseg_type": None, **_classes(content.pop("classes", None), path.parent)}
    settable = {f.name: f for f in dataclasses.fields(cls) if f.name not in cls.NOT_IN_FILES}
    _refuse_unknown(content, [*settable, *(["classes"] if fields else [])])
    for key, item in settable.items():
        if key in content:
            fields[key] = _value(content[key], key, _annotation(item))
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise FileError(f"`{key}` is missing; data sets of kind {kind} need it")
    protocol = cls(dataset=name, family=FAMILY, root=str(path.parent.absolute()), **fields)
    _refuse_unknown_groups(protocol)
    return protocol


def _annotation(item: dataclasses.Field[Any]) -> str:
    """The type of a field as its class has it written."""
    return item.type.__name__ if isinstance(item.type, type) else str(item.type)


def _refuse_unknown(content: Mapping[str, Any], known: list[str]) -> None:
    for key in content:
        if key not in known:
            names = nearest(key, ["kind", "name", *known])
            raise FileError(f"unknown key `{key}`; nearest known: {names}")


def _refuse_unknown_groups(protocol: Protocol) -> None:
    if not isinstance(protocol, SegmentationProtocol):
        return
    for group, members in protocol.groups.items():
        for name in members:
            if name not in protocol.class_names:
                known = nearest(name, protocol.class_names)
                raise FileError(f"`groups.{group}` names no class {name!r}; nearest known: {known}")


def _classes(value: Any, folder: Path) -> dict[str, Any]:
    """`classes`: names, or {name, queries}, in the order of the label map's indices.

    Or the name of a text file with a class a line, its prompts separated by commas.
    """
    if isinstance(value, str):
        classes = _class_lines(folder / value)
    elif isinstance(value, list) and value:
        classes = [_class(item, f"classes[{index}]") for index, item in enumerate(value)]
    else:
        raise FileError(
            "`classes` must list the class names in the order of the label map's indices, "
            "or name a text file with a class a line"
        )
    names = tuple(item.name for item in classes)
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise FileError(f"`classes` names {repeated[0]!r} twice")
    return {"class_names": names, "queries": tuple(item.queries for item in classes)}


class _Class(NamedTuple):
    name: str
    queries: tuple[str, ...]


def _class_lines(path: Path) -> list[_Class]:
    """The form of SCLIP's lists: the prompts of a class on its line, the first one its name."""
    try:
        lines = read_text(path).splitlines()
    except FileError as error:
        raise FileError(f"`classes`: cannot read {path}: {error}") from error
    classes = []
    for number, line in enumerate(lines, start=1):
        prompts = tuple(prompt.strip() for prompt in line.split(","))
        if not all(prompts):
            raise FileError(f"`classes`: {path}, line {number} is blank or has a blank prompt")
        classes.append(_Class(prompts[0], prompts))
    if not classes:
        raise FileError(f"`classes`: {path} is empty")
    return classes


def _class(item: Any, where: str) -> _Class:
    if not isinstance(item, dict):
        name = _text(item, where)
        return _Class(name, (name,))
    for key in item:
        if key not in ("name", "queries"):
            raise FileError(f"unknown key `{key}` in `{where}`; known: name, queries")
    name = _text(item.get("name"), f"{where}.name")
    queries = _texts(item.get("queries", [name]), f"{where}.queries")
    return _Class(name, queries)


def _value(value: Any, key: str, kind: str) -> Any:
    """Check a value against its field's annotation, the one place that says what it must be."""
    if value is None and kind.endswith("| None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind not in _READERS:
        known = ", ".join(_READERS)
        raise FileError(f"`{key}` cannot be read: its protocol has it of type {kind}, not {known}")
    return _READERS[kind](value, key)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        # YAML reads an unquoted yes, no, on or 12 as something else than text.
        raise FileError(f"`{key}` must be text, not {value!r}; write it in quotes")
    return value


def _texts(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise FileError(f"`{key}` must be a list of texts, not {value!r}")
    return tuple(_text(item, f"{key}[{index}]") for index, item in enumerate(value))


def _text_or_texts(value: Any, key: str) -> str | tuple[str, ...]:
    if key == "templates" and isinstance(value, dict):
        raise FileError(
            f"`{key}` must be the same for all classes: a list of texts with {{}}, not prompts "
            f"for each class such as {next(iter(value), None)!r}"
        )
    return _text(value, key) if isinstance(value, str) else _texts(value, key)


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FileError(f"`{key}` must be a number, not {value!r}")
    if not abs(value) <= _LARGEST:  # nor is NaN
        raise FileError(f"`{key}` must be a finite number that float32 can hold")
    return float(value)


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FileError(f"`{key}` must be a whole number, not {value!r}")
    return value


def _truth(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise FileError(f"`{key}` must be true or false, not {value!r}")
    return value


def _one_of(known: Any) -> Callable[[Any, str], str]:
    """A reader of the values of a Literal."""
    values = get_args(known)

    def read(value: Any, key: str) -> str:
        if value not in values:
            raise FileError(f"`{key}` must be one of {', '.join(values)}, not {value!r}")
        return str(value)

    return read


def _rgb(value: Any, key: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != 3:
        raise FileError(f"`{key}` must be a list of three numbers, not {value!r}")
    return tuple(_number(item, f"{key}[{index}]") for index, item in enumerate(value))


def _names(value: Any, key: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise FileError(f"`{key}` must map names to names, not {value!r}")
    return {_text(k, key): _text(v, f"{key}.{k}") for k, v in value.items()}


def _groups(value: Any, key: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise FileError(f"`{key}` must map group names to lists of classes, not {value!r}")
    return {_text(k, key): _texts(v, f"{key}.{k}") for k, v in value.items()}


_READERS: Mapping[str, Callable[[Any, str], Any]] = MappingProxyType(
    {
        "str": _text,
        "float": _number,
        "int": _whole,
        "bool": _truth,
        "Attention": _one_of(Attention),
        "ClassLayout": _one_of(ClassLayout),
        "Rgb": _rgb,
        "MapKind": _one_of(MapKind),
        "Refinement": _one_of(Refinement),
        "SelectionLayout": _one_of(SelectionLayout),
        "PairAccuracy": _one_of(PairAccuracy),
        "tuple[str, ...] | str": _text_or_texts,
        "Mapping[str, str]": _names,
        "Mapping[str, tuple[str, ...]]": _groups,
    }
)
