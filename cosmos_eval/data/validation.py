"""Validate the content of users' files by pydantic models, with one line for the first fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import ConfigDict, StringConstraints

from cosmos_eval.data.readers import FileError, shortened
from cosmos_eval.types import nearest

CONFIG = ConfigDict(
    strict=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()
)
"""Of files whose keys are all known: nothing is converted, and other keys are faults."""

Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that is not blank."""

# Tags of the two types of a field that is a text or a list of texts; they are no part of its path.
LIST, TEXT = "<list>", "<text>"

# What replaces those of pydantic's messages that say less.
_MESSAGES = {
    "string_type": "must be text (write yes, no and numbers in quotes)",
    "string_pattern_mismatch": "must be text that is not blank",
    "float_type": "must be a finite number that float32 can hold",
    "int_type": "must be a whole number",
    "dict_type": "must map names to values",
    "too_short": "must have an entry",
}

_Model = TypeVar("_Model", bound=pydantic.BaseModel)


def parse(model: type[_Model], content: Mapping[str, Any]) -> _Model:
    """Validate the content of a file. Raises FileError, one line, for the first fault."""
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        # A wrong spelling makes a key unknown and may leave another one missing.
        faults = error.errors(include_url=False)
        fault = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    first, *rest = fault["loc"]
    inner = (part for part in rest if part not in (LIST, TEXT))
    path = str(first) + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in inner)
    if fault["type"] == "missing":
        raise FileError(f"`{path}` is missing")
    if fault["type"] == "extra_forbidden":
        known = list(model.model_fields) if path == first else ["name", "queries"]
        names = nearest(path.rpartition(".")[2], known)
        raise FileError(f"unknown key `{path}`; nearest known: {names}")
    text = fault["msg"].removeprefix("Input ").replace("should", "must", 1)
    raise FileError(
        f"`{path}` {_MESSAGES.get(fault['type'], text)}, not {shortened(fault['input'])}"
    )
