"""Tasks that other packages bring: their entry points, found by name and loaded when asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from cosmos_eval.types import UsageError

GROUP = "cosmos_eval.tasks"

# As schema.json has it.
_NAME = re.compile("[a-z][a-z0-9_-]*")
_T = TypeVar("_T")


@cache
def entries(own: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """The entry points of installed packages by task; nothing is imported.

    Raises UsageError for a name that no task can have, that is one of our `own`, or that two
    packages give.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if not _NAME.fullmatch(entry.name) or entry.name == "all":
            raise UsageError(
                f"{described(entry)} brings a task '{entry.name}': a name is of small letters, "
                "digits, - and _, and not 'all'"
            )
        if entry.name in own:
            raise UsageError(
                f"{described(entry)} brings a task '{entry.name}', which cosmos-eval has itself"
            )
        if entry.name in found:
            both = f"{described(found[entry.name])} and {described(entry)}"
            raise UsageError(f"{both} both bring a task '{entry.name}': uninstall one of them")
        found[entry.name] = entry
    return found


def loaded(entry: EntryPoint, kind: type[_T], load: Callable[[], object]) -> _T:
    """What an entry's package gives. Raises UsageError where that fails or is of another kind."""
    where = f"task '{entry.name}' of {described(entry)}"
    try:
        found = load()
    except Exception as error:
        raise UsageError(
            f"{where} cannot be loaded: {type(error).__name__}: {error} (--debug shows where)"
        ) from error
    if not isinstance(found, kind):
        raise UsageError(f"{where}: {type(found).__name__} is no {kind.__module__}.{kind.__name__}")
    return found


def versions(entry: EntryPoint) -> dict[str, str]:
    """The package of an entry point and its version."""
    return {entry.dist.name: entry.dist.version} if entry.dist else {}


def described(entry: EntryPoint) -> str:
    """The package of an entry point for people."""
    return " ".join(*versions(entry).items()) if entry.dist else entry.value
